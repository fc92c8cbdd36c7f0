//! Signed tokens (JWT in JWS compact form) and key sets, as far as Deputy needs them: RS256 and ES256, verified
//! and made with aws-lc-rs. A key knows its one algorithm, so a token cannot choose how it is verified.

pub(crate) mod token;
pub(crate) mod key_set;
