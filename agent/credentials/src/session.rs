//! A role's session, as STS answers it. Used by every call that makes one.

use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_sdk_sts::types::Credentials as Answered;

/// The credentials of a session of `role_arn`.
pub(crate) fn session(role_arn: &str, answered: Answered) -> Credentials {
    let mut made = Credentials::builder()
        .access_key_id(answered.access_key_id)
        .secret_access_key(answered.secret_access_key)
        .session_token(answered.session_token)
        .account_id(account_of(role_arn))
        .provider_name("deputy");
    made.set_expiry(SystemTime::try_from(answered.expiration).ok());
    made.build()
}

/// The account that an ARN names.
pub(crate) fn account_of(arn: &str) -> &str {
    arn.split(':').nth(4).unwrap_or_default()
}
