"""What AWS does with the token of an OIDC provider and MiniStack does not.

Only for issuers that a test names with where their keys are (`Scenery.wish_oidc_provider`); those of the scenery have
tokens without signatures.

- The token is verified with the key set that the issuer's discovery document names, its audience must be one of the
  provider's and its time must not be over by more than five minutes
  (https://docs.aws.amazon.com/IAM/latest/UserGuide/id_roles_providers_oidc.html).
- Claims under `https://aws.amazon.com/tags` are session tags: conditions see them as `aws:RequestTag` and `aws:TagKeys`,
  the trust policy must allow `sts:TagSession` too, and the session has them
  (https://docs.aws.amazon.com/IAM/latest/UserGuide/id_session-tags.html).
"""

import base64
import contextvars
import dataclasses
import json
import time
import urllib.request

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

TAGS = "https://aws.amazon.com/tags"
ISSUERS = {}  # issuer: (where it is really asked, audiences)
FIVE_MINUTES = 300
REQUESTED = contextvars.ContextVar("session tags of this request", default=None)


class Refused(Exception):
    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


def decode(part):
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def fetch(address, issuer, url):
    """What AWS would read from the internet; here the issuer's own listener answers for its name."""
    assert url.startswith(issuer), f"{url} is not below {issuer}"
    path = "/" + url.split("/", 3)[3]
    with urllib.request.urlopen(f"http://{address}{path}", timeout=5) as answer:
        return json.load(answer)


def verified(token, issuer):
    address, audiences = ISSUERS[issuer]
    head, claims, signature = token.split(".")
    header, body = json.loads(decode(head)), json.loads(decode(claims))
    discovery = fetch(address, issuer, f"{issuer}/.well-known/openid-configuration")
    if discovery["issuer"] != issuer or header["alg"] not in discovery["id_token_signing_alg_values_supported"]:
        raise Refused("InvalidIdentityToken", "The discovery document does not fit the token")
    keys = {key["kid"]: key for key in fetch(address, issuer, discovery["jwks_uri"])["keys"]}
    key = keys.get(header["kid"])
    if key is None:
        raise Refused("InvalidIdentityToken", "Couldn't retrieve verification key from your identity provider")
    numbers = rsa.RSAPublicNumbers(int.from_bytes(decode(key["e"])), int.from_bytes(decode(key["n"])))
    try:
        numbers.public_key().verify(decode(signature), f"{head}.{claims}".encode(), padding.PKCS1v15(), hashes.SHA256())
    except InvalidSignature:
        raise Refused("InvalidIdentityToken", "The web identity token's signature could not be verified") from None
    if body["aud"] not in audiences:
        raise Refused("InvalidIdentityToken", "Incorrect token audience")
    if body["exp"] + FIVE_MINUTES < time.time():
        raise Refused("ExpiredTokenException", "Token expired: current date/time must be before the expiration date/time")
    return body


def session_tags(body):
    tags = {}
    for key, values in body.get(TAGS, {}).get("principal_tags", {}).items():
        if len(values) != 1 or len(key) > 128 or len(values[0]) > 256:
            raise Refused("InvalidIdentityToken", f"The session tag {key} must have one value of at most 256 characters")
        tags[key] = values[0]
    return tags


def only(document, action, name):
    """The statements of a trust policy that allow `action`, as if they allowed `name`."""
    statements = document["Statement"] if isinstance(document["Statement"], list) else [document["Statement"]]

    def listed(statement):
        return [statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"]

    return {**document, "Statement": [{**s, "Action": name} for s in statements if action in listed(s)]}


def install():
    from ministack.core.iam_evaluator import EvalContext, evaluate_trust_policy
    from ministack.services import iam, sts

    denied_before, register_before = sts._web_identity_trust_denied, sts.register_session
    exchange = "sts:AssumeRoleWithWebIdentity"

    def denied(role_arn, params, use_json):
        token = sts._p(params, "WebIdentityToken")
        try:
            issuer = json.loads(decode(token.split(".")[1])).get("iss")
        except (ValueError, IndexError, AttributeError):
            issuer = None
        if issuer not in ISSUERS:
            return denied_before(role_arn, params, use_json)
        try:
            tags = session_tags(verified(token, issuer))
        except Refused as refused:
            return sts._error(400, refused.code, str(refused), ns="sts")
        account, name = role_arn.split(":")[4], role_arn.rsplit("/", 1)[-1]
        role = iam._roles.get_scoped(account, None, name)
        provider, keys = sts._web_identity_principal(token, "", role_arn)
        context = EvalContext(
            principal_arn=provider, principal_type="WebIdentityUser", principal_account=account, action=exchange,
            resource_arn=role_arn, region="eu-west-1", service_context=keys, request_tags=tags, tag_keys=[*tags])
        document = role and role.get("AssumeRolePolicyDocument", "{}")
        document = json.loads(document) if isinstance(document, str) else document
        needed = [exchange] + (["sts:TagSession"] if tags else [])
        allowed = document and all(
            evaluate_trust_policy(only(document, action, exchange), provider, dataclasses.replace(context))
            for action in needed)
        if not allowed:
            return sts._error(403, "AccessDenied", f"Not authorized to perform {exchange}", ns="sts")
        REQUESTED.set(tags)
        return None

    def register(access_key, session):
        tags = REQUESTED.get()
        REQUESTED.set(None)
        if tags:
            session["SessionTags"] = [{"Key": key, "Value": value} for key, value in tags.items()]
        return register_before(access_key, session)

    sts._web_identity_trust_denied, sts.register_session = denied, register
