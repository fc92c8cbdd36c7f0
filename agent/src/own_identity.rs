//! The agent's own AWS identity: what its surroundings give it, or the profile that the operator named.

use deputy_credentials::Identities;
use deputy_credentials::env::Env;

use crate::config::checked::Config;

/// Touches no network.
pub(crate) fn own_identity(config: &Config, env: Env) -> Identities {
    match &config.aws_profile {
        Some(profile) => Identities::with_profile(env, profile),
        None => Identities::new(env),
    }
}
