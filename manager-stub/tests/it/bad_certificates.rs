//! Servers that show certificates which must not be believed: what an agent or the command says of each.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use deputy_dial::authority::Authority;
use deputy_dial::dialer::Dialer;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

const SOON: Duration = Duration::from_secs(5);

/// An operator's authority.
struct Operator {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Operator {
    fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).expect("signed").pem();
        Self {
            issuer: Issuer::new(params, key),
            pem,
        }
    }

    /// What a server of this name shows, from this year to that.
    fn signs(&self, name: &str, years: (i32, i32)) -> Shown {
        let key = KeyPair::generate().expect("a key");
        let made = parameters(name, years).signed_by(&key, &self.issuer).expect("signed");
        (made.der().clone(), key)
    }
}

type Shown = (CertificateDer<'static>, KeyPair);

fn parameters(name: &str, (from, to): (i32, i32)) -> CertificateParams {
    let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
    params.not_before = date_time_ymd(from, 1, 1);
    params.not_after = date_time_ymd(to, 1, 1);
    params
}

/// A server that shows this certificate to one client.
#[expect(clippy::disallowed_methods, reason = "a server of the test ends with its runtime")]
async fn shows((certificate, key): Shown) -> SocketAddr {
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("a configuration");
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("listens");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("a client");
        // The client breaks it off, if it is right.
        drop(TlsAcceptor::from(Arc::new(config)).accept(stream).await);
    });
    address
}

async fn dialled(operator: &Operator, shown: Shown) -> Result<(), String> {
    let address = shows(shown).await;
    let tls = Authority::from_pem(operator.pem.as_bytes())
        .expect("an authority")
        .client_config(None)
        .expect("good");
    let url = format!("https://localhost:{}", address.port())
        .parse()
        .expect("an address");
    let dialer = Dialer::new(url, Arc::default(), Some(Arc::new(tls)), SOON);
    dialer.dial().await.map(drop).map_err(|error| error.to_string())
}

#[tokio::test]
async fn each_certificate_that_must_not_be_believed_has_its_own_words() {
    const GOOD: (i32, i32) = (2020, 2100);
    let (operator, other) = (Operator::new(), Operator::new());
    let good = operator.signs("localhost", GOOD);
    dialled(&operator, good).await.expect("a good one is believed");

    let key = KeyPair::generate().expect("a key");
    let own = parameters("localhost", GOOD).self_signed(&key).expect("signed");
    for (what, shown, words) in [
        ("expired", operator.signs("localhost", (2020, 2021)), "has expired"),
        (
            "not yet valid",
            operator.signs("localhost", (2090, 2100)),
            "is not valid yet",
        ),
        (
            "for another name",
            operator.signs("manager.example.com", GOOD),
            "is not for the name localhost",
        ),
        (
            "of another authority",
            other.signs("localhost", GOOD),
            "is not from the authority that was configured",
        ),
        (
            "self-signed",
            (own.der().clone(), key),
            "is not from the authority that was configured",
        ),
    ] {
        let refused = dialled(&operator, shown).await.expect_err(what);
        assert!(refused.contains(words), "{what}: {refused}");
    }
}
