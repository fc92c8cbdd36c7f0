//! The manager as an OIDC issuer: it vouches to others (AWS above all) for which task an agent works on, with a token
//! of a few minutes. Its discovery document and keys are public; its tokens are minted for live attempts only.

pub mod issuer;
pub mod listener;
mod key_ring;
mod signing_key;
pub mod claims;
pub mod config;
