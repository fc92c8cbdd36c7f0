//! What stands in hostile networks and looks at connections: it knows HTTP/2 by what a TLS client offers (ALPN), or by
//! the preface where there is no TLS, and resets, refuses, answers or swallows it; or it opens TLS with a certificate
//! of its own. It can be told otherwise while it runs.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use deputy_dial::authority::Authority;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::{TlsAcceptor, TlsConnector};

const CHUNK_BYTES: usize = 16 * 1024;
/// The first record of a TLS client, or the preface of HTTP/2, is looked at when this much has come.
const LOOKED_AT: usize = 24;
/// A fatal alert, unencrypted as all before the keys: no application protocol.
const NO_PROTOCOL: &[u8] = &[21, 3, 3, 0, 2, 2, 120];
const LOOK_AGAIN: Duration = Duration::from_millis(2);
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n";
const BAD_REQUEST: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/html\r\nConnection: close\r\n\r\n\
    <html><body><h1>400 Bad Request</h1></body></html>";

/// How it treats what comes through.
#[derive(Debug, Clone, Default)]
pub enum Treatment {
    /// Everything passes.
    #[default]
    Pass,
    /// Connections of HTTP/2 are cut as soon as they are known.
    ResetHttp2,
    /// They are refused in words: by an alert in TLS, by HTML in the clear.
    RefuseHttp2,
    /// They stay, and nothing that the manager says comes through.
    SwallowHttp2,
    /// They stay, and are never answered at all.
    IgnoreHttp2,
    /// As [`Self::ResetHttp2`]; of the others every so many-th piece that the manager says is lost with its connection.
    LoseAnswers(u32),
    /// TLS is opened with another authority's certificate, and only HTTP/1.1 is spoken.
    Inspect(Arc<Inspector>),
}

/// See the module.
#[derive(Debug)]
pub struct Middlebox {
    treatment: watch::Sender<Treatment>,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    http2: AtomicU32,
    others: AtomicU32,
    lost: AtomicU32,
    answers: AtomicU32,
}

/// A certificate for 127.0.0.1 by an authority of its own.
#[derive(Debug)]
pub struct Inspector {
    authority_pem: String,
    accept: Arc<rustls::ServerConfig>,
    dial: Arc<rustls::ClientConfig>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spoken {
    Http2InTls,
    Http2InTheClear,
    Other,
}

impl Spoken {
    fn is_http2(self) -> bool {
        self != Self::Other
    }
}

impl Default for Middlebox {
    fn default() -> Self {
        Self {
            treatment: watch::Sender::new(Treatment::Pass),
            counts: Counts::default(),
        }
    }
}

impl Middlebox {
    /// From now on, for connections that are open too.
    pub fn set(&self, treatment: Treatment) {
        self.treatment.send_replace(treatment);
    }

    /// Connections that were HTTP/2.
    #[must_use]
    pub fn http2(&self) -> u32 {
        self.counts.http2.load(Ordering::Relaxed)
    }

    /// Connections that were something else.
    #[must_use]
    pub fn others(&self) -> u32 {
        self.counts.others.load(Ordering::Relaxed)
    }

    /// Answers that were lost.
    #[must_use]
    pub fn lost(&self) -> u32 {
        self.counts.lost.load(Ordering::Relaxed)
    }

    /// Carries one connection; true if it was cut because it was silent for `idle`.
    pub async fn carry(&self, mut near: TcpStream, far: TcpStream, idle: Duration) -> bool {
        let Some(first) = first_of(&near).await else {
            return false;
        };
        let spoken = spoken(&first);
        let counter = if spoken.is_http2() {
            &self.counts.http2
        } else {
            &self.counts.others
        };
        counter.fetch_add(1, Ordering::Relaxed);
        let treatment = self.treatment.borrow().clone();
        match treatment {
            Treatment::RefuseHttp2 if spoken.is_http2() => {
                let said = match spoken {
                    Spoken::Http2InTheClear => BAD_REQUEST,
                    Spoken::Http2InTls | Spoken::Other => NO_PROTOCOL,
                };
                // What was sent is read, or the answer would be lost in a reset.
                let mut read = vec![0; CHUNK_BYTES];
                let _ = near.read(&mut read).await;
                let _ = near.write_all(said).await;
                let _ = near.shutdown().await;
                false
            }
            Treatment::IgnoreHttp2 if spoken.is_http2() => {
                while matches!(near.read(&mut vec![0; CHUNK_BYTES]).await, Ok(1..)) {}
                false
            }
            Treatment::Inspect(inspector) => {
                // Whoever does not believe it breaks off.
                let _ = inspector.open(near, far).await;
                false
            }
            _ => self.pass((near, far), (spoken, first.len()), idle).await,
        }
    }

    async fn pass(
        &self,
        (mut near, mut far): (TcpStream, TcpStream),
        (spoken, hello_bytes): (Spoken, usize),
        idle: Duration,
    ) -> bool {
        let (mut up, mut down) = (vec![0; CHUNK_BYTES], vec![0; CHUNK_BYTES]);
        let mut treatment = self.treatment.subscribe();
        // What is swallowed or lost comes after the handshake.
        let mut sent = 0;
        loop {
            let now = treatment.borrow_and_update().clone();
            let resets = matches!(
                now,
                Treatment::ResetHttp2 | Treatment::RefuseHttp2 | Treatment::LoseAnswers(_)
            );
            if spoken.is_http2() && resets {
                return false;
            }
            let swallows = matches!(now, Treatment::SwallowHttp2) && spoken.is_http2();
            let greeted = sent > hello_bytes || spoken == Spoken::Http2InTheClear;
            let moved = tokio::select! {
                read = near.read(&mut up) => match read {
                    Ok(n @ 1..) => {
                        sent += n;
                        far.write_all(&up[..n]).await
                    }
                    _ => return false,
                },
                read = far.read(&mut down) => match read {
                    Ok(1..) if swallows && greeted => Ok(()),
                    Ok(1..) if greeted && self.loses(&now) => return false,
                    Ok(n @ 1..) => near.write_all(&down[..n]).await,
                    _ => return false,
                },
                changed = treatment.changed() => changed.map_err(|_| io::ErrorKind::Interrupted.into()),
                () = tokio::time::sleep(idle) => return true,
            };
            if moved.is_err() {
                return false;
            }
        }
    }

    fn loses(&self, treatment: &Treatment) -> bool {
        let Treatment::LoseAnswers(every) = treatment else {
            return false;
        };
        let number = self.counts.answers.fetch_add(1, Ordering::Relaxed) + 1;
        let lost = number.is_multiple_of(*every);
        self.counts.lost.fetch_add(u32::from(lost), Ordering::Relaxed);
        lost
    }
}

/// What a client says first, which stays to be read.
async fn first_of(near: &TcpStream) -> Option<Vec<u8>> {
    let mut first = vec![0; CHUNK_BYTES];
    loop {
        let seen = near.peek(&mut first).await.ok().filter(|seen| *seen > 0)?;
        if seen >= LOOKED_AT && !is_part_of_hello(&first[..seen]) {
            first.truncate(seen);
            return Some(first);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Does the rest of a ClientHello have to come yet?
fn is_part_of_hello(first: &[u8]) -> bool {
    matches!(first, [22, 3, _, high, low, rest @ ..] if rest.len() < usize::from(u16::from_be_bytes([*high, *low])))
}

fn spoken(first: &[u8]) -> Spoken {
    if first.starts_with(PREFACE) {
        return Spoken::Http2InTheClear;
    }
    // The extension 16 with its two lengths, and the name among the first.
    let offers = |window: &[u8]| window[..2] == [0, 16] && window[6..] == *b"\x02h2";
    if first.first() == Some(&22) && first.windows(9).any(offers) {
        Spoken::Http2InTls
    } else {
        Spoken::Other
    }
}

impl Inspector {
    /// A new one, before a manager with this authority.
    pub fn before(manager_pem: &[u8]) -> Result<Arc<Self>> {
        let mut dial = Authority::from_pem(manager_pem)?.client_config(None)?;
        dial.alpn_protocols = vec![b"http/1.1".to_vec()];

        let provider = || Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let key = rcgen::KeyPair::generate()?;
        let mut params = rcgen::CertificateParams::new(Vec::new())?;
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, "Inspection of everything");
        let authority = params.self_signed(&key)?;
        let authority_pem = authority.pem();
        let issuer = rcgen::Issuer::new(params, key);
        let leaf_key = rcgen::KeyPair::generate()?;
        let leaf = rcgen::CertificateParams::new(vec!["127.0.0.1".into()])?.signed_by(&leaf_key, &issuer)?;
        let leaf_key = rustls::pki_types::PrivatePkcs8KeyDer::from(leaf_key.serialize_der());
        let mut accept = rustls::ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], leaf_key.into())?;
        accept.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(Self {
            authority_pem,
            accept: Arc::new(accept),
            dial: Arc::new(dial),
        }))
    }

    /// What whoever trusts it is given.
    #[must_use]
    pub fn authority_pem(&self) -> &str {
        &self.authority_pem
    }

    async fn open(&self, near: TcpStream, far: TcpStream) -> Result<()> {
        let mut near = TlsAcceptor::from(Arc::clone(&self.accept)).accept(near).await?;
        let name = ServerName::try_from("127.0.0.1").context("an address")?;
        let mut far = TlsConnector::from(Arc::clone(&self.dial)).connect(name, far).await?;
        tokio::io::copy_bidirectional(&mut near, &mut far).await?;
        Ok(())
    }
}
