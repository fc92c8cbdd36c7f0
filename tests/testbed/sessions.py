"""Sessions that end sooner than was asked for, so that tests see them end without waiting for an hour.

The emulator gives a session the duration that the caller asks for, and forgets it some time after its end, so that
its key would then be unknown. Here each session ends after a fixed time, the answer says so, and a key of the past is
told `ExpiredToken` or `ExpiredTokenException` for good
(https://docs.aws.amazon.com/STS/latest/APIReference/CommonErrors.html). An EKS token ends after the same time, or with
the session that signed it, whichever is sooner: AWS lets it live for 15 minutes
(https://docs.aws.amazon.com/eks/latest/best-practices/identity-and-access-management.html).
"""

import datetime

ASSUMING = ("AssumeRole", "AssumeRoleWithWebIdentity", "AssumeRoleWithSAML")


def cut_short(seconds):
    """To be called once, before the emulator serves."""
    from ministack.services import eks, sts

    parameter = sts._p

    def short_duration(params, key, *default):
        value = parameter(params, key, *default)
        if key == "DurationSeconds" and parameter(params, "Action") in ASSUMING:
            return str(min(int(value or seconds), seconds))
        return value

    sts._p = short_duration
    sts._evict_expired_sessions = lambda: None

    verify = eks._verify_eks_token

    def verify_while_young(token, cluster_name):
        return verify(token, cluster_name) if _age(eks, token) <= seconds else None

    eks._verify_eks_token = verify_while_young


def _age(eks, token):
    decoded = eks._decode_aws_iam_token(token)
    if not decoded:
        return 0  # refused by the emulator itself
    try:
        signed = datetime.datetime.strptime(eks._qp(decoded[1], "X-Amz-Date"), "%Y%m%dT%H%M%SZ")
    except ValueError:
        return 0
    return (datetime.datetime.now(datetime.timezone.utc) - signed.replace(tzinfo=datetime.timezone.utc)).total_seconds()
