//! The manager's own certificate authority, what it signs, and TLS on the listening side. Knows keys and certificates,
//! not who may do what.

pub mod acceptor;
pub mod doors;
pub mod server_tls;
pub mod certificate_files;
pub mod peer;
pub mod authority;
pub mod nonces;
