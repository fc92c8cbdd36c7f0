//! Who is at the other end of a connection, as its certificate says. Made once per connection; every request on it
//! carries a copy.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use super::authority::{millis, unix_now};

/// The other end of a connection.
#[derive(Debug, Clone)]
pub struct Peer {
    /// What its certificate says; none without one. The TLS layer has checked that our authority signed it and
    /// that it was valid when the connection was made.
    pub certificate: Option<Arc<PeerCertificate>>,
    /// When the connection was made, Unix milliseconds.
    pub since_ms: i64,
    wire: Arc<Wire>,
}

/// The connection itself, as far as it can be ended from elsewhere.
#[derive(Debug, Default)]
struct Wire {
    cut: CancellationToken,
    attached: AtomicBool,
    gone: AtomicBool,
}

impl Peer {
    /// The other end of a new connection.
    #[must_use]
    pub fn new(certificate: Option<Arc<PeerCertificate>>) -> Self {
        Self {
            certificate,
            since_ms: millis(unix_now()),
            wire: Arc::default(),
        }
    }

    /// Cancelled when the connection is to be cut.
    #[must_use]
    pub fn cut_token(&self) -> CancellationToken {
        self.wire.cut.clone()
    }

    /// Cuts the connection.
    pub fn cut(&self) {
        self.wire.cut.cancel();
    }

    /// True from the second call on; called by who keeps the list, while it is locked.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        self.wire.attached.swap(true, Ordering::Relaxed)
    }

    /// Has the connection ended?
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.wire.gone.load(Ordering::Relaxed)
    }

    /// The connection has ended.
    pub fn ended(&self) {
        self.wire.gone.store(true, Ordering::Relaxed);
    }
}

/// What a client certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerCertificate {
    /// Lower-case hex.
    pub serial: String,
    /// Whom it names.
    pub name: PeerName,
    /// SHA-256 of its public key's bits, hex.
    pub key: String,
    /// The line of keys that it is of; empty for users.
    pub line: String,
    /// Unix milliseconds.
    pub not_before_ms: i64,
    /// Unix milliseconds.
    pub not_after_ms: i64,
}

/// Whom a certificate names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerName {
    /// `spiffe://<trust domain>/pool/<pool>/agent/<agent>`.
    Agent {
        /// The pool.
        pool: String,
        /// The agent.
        agent: String,
    },
    /// `spiffe://<trust domain>/user/<grant>`.
    User {
        /// The id of what it was granted.
        grant: String,
    },
    /// Nobody of this trust domain; what it says instead.
    Nobody(String),
}

/// What a certificate of our authority says.
#[must_use]
pub fn read(leaf: &[u8], trust_domain: &str) -> Option<PeerCertificate> {
    let (_, parsed) = x509_parser::parse_x509_certificate(leaf).ok()?;
    let names = parsed.subject_alternative_name().ok().flatten();
    let uris: Vec<&str> =
        names
            .iter()
            .flat_map(|names| &names.value.general_names)
            .fold(Vec::new(), |mut uris, name| {
                if let x509_parser::extensions::GeneralName::URI(uri) = name {
                    uris.push(uri);
                }
                uris
            });
    let name = match uris.as_slice() {
        [uri] => named(uri, trust_domain),
        [] => PeerName::Nobody("no URI".into()),
        _ => PeerName::Nobody("more than one URI".into()),
    };
    let mut units = parsed.subject().iter_organizational_unit();
    let line = units.next().and_then(|unit| unit.as_str().ok()).unwrap_or_default();
    Some(PeerCertificate {
        serial: hex::encode(parsed.raw_serial()),
        name,
        key: hex::encode(Sha256::digest(&parsed.public_key().subject_public_key.data)),
        line: line.to_owned(),
        not_before_ms: parsed.validity().not_before.timestamp().saturating_mul(1000),
        not_after_ms: parsed.validity().not_after.timestamp().saturating_mul(1000),
    })
}

fn named(uri: &str, trust_domain: &str) -> PeerName {
    let nobody = || PeerName::Nobody(uri.chars().take(200).collect());
    let Some(path) = uri
        .strip_prefix("spiffe://")
        .and_then(|rest| rest.strip_prefix(trust_domain))
        .and_then(|rest| rest.strip_prefix('/'))
    else {
        return nobody();
    };
    match path.split('/').collect::<Vec<_>>().as_slice() {
        ["pool", pool, "agent", agent] if !pool.is_empty() && !agent.is_empty() => PeerName::Agent {
            pool: (*pool).into(),
            agent: (*agent).into(),
        },
        ["user", grant] if !grant.is_empty() => PeerName::User { grant: (*grant).into() },
        _ => nobody(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_name_of_this_trust_domain_is_somebody() {
        let agent = PeerName::Agent {
            pool: "eu".into(),
            agent: "a1".into(),
        };
        assert_eq!(named("spiffe://td/pool/eu/agent/a1", "td"), agent);
        let user = PeerName::User { grant: "x".into() };
        assert_eq!(named("spiffe://td/user/x", "td"), user);
        for nobody in [
            "spiffe://other/pool/eu/agent/a1",
            "spiffe://td.evil/pool/eu/agent/a1",
            "spiffe://td/pool/eu/agent/a1/x",
            "spiffe://td/pool//agent/a1",
            "spiffe://td/agent/a1",
            "https://td/pool/eu/agent/a1",
            "",
        ] {
            assert_eq!(named(nobody, "td"), PeerName::Nobody(nobody.into()), "{nobody}");
        }
    }
}
