//! How agents and users reach a manager: an address that is checked, a proxy if one is configured, TLS with the
//! authority that was pinned. Knows nothing of what is said over the connection, reads no files and no environment:
//! who uses it gives it bytes and text.
//!
//! Modules in reading order; a module names only modules below it.

pub mod dialer;
mod handshake;
pub mod proxy;
pub mod authority;
pub mod url;
