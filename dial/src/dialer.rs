//! One connection to a manager: TCP, perhaps CONNECT, TLS. Every failure says which of them failed and why.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{AlertDescription, CertificateError, ClientConfig};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

use crate::handshake;
use crate::proxy::{Proxy, ProxyRule};
use crate::url::{ManagerUrl, Transport};

pub use crate::handshake::ProxyError;

/// Makes connections to one manager. Cheap to clone; clones share their TLS sessions.
#[derive(Debug, Clone)]
pub struct Dialer {
    url: ManagerUrl,
    proxy: Arc<ProxyRule>,
    tls: Option<Arc<ClientConfig>>,
    within: Duration,
}

/// What a dialer gives: TLS, or in the clear, on loopback.
pub type Connection = Either<Box<TlsStream<TcpStream>>, TcpStream>;

/// There is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Nothing listens there, or the name is not known.
    #[error("cannot connect to {to}: {source}")]
    Tcp {
        /// The address.
        to: String,
        /// Why not.
        source: io::Error,
    },
    /// The proxy is there and did not make a way.
    #[error("the proxy {proxy} made no way to {to}: {source}")]
    Proxy {
        /// The proxy, without its password.
        proxy: String,
        /// The address that was asked for.
        to: String,
        /// Why not.
        source: ProxyError,
    },
    /// The manager's certificate is not believed, or ours is not.
    #[error("TLS with {to} failed: {why}")]
    Tls {
        /// The address.
        to: String,
        /// What it means, for people.
        why: String,
    },
    /// The connection ended in the middle of the TLS handshake: a manager that ends, or something in between that does
    /// not like what it sees of it.
    #[error("TLS with {to} failed: {why}")]
    Handshake {
        /// The address.
        to: String,
        /// What it means, for people.
        why: String,
    },
    /// TLS is spoken there, and what was offered over it (ALPN) was not taken.
    #[error("TLS with {to} failed: what answers there does not speak {offered}")]
    Protocol {
        /// The address.
        to: String,
        /// What was offered.
        offered: String,
    },
    /// An address with `https://` needs to know whom to believe.
    #[error(
        "there is no authority to check the manager {0} with: give its CA file or the SHA-256 of its CA certificate"
    )]
    NoAuthority(String),
    /// It took too long.
    #[error("no connection to {to} within {within:?}")]
    Slow {
        /// The address.
        to: String,
        /// How long was waited.
        within: Duration,
    },
}

impl Dialer {
    /// Connections to this manager. `tls` is needed for `https://`.
    #[must_use]
    pub fn new(url: ManagerUrl, proxy: Arc<ProxyRule>, tls: Option<Arc<ClientConfig>>, within: Duration) -> Self {
        Self {
            url,
            proxy,
            tls,
            within,
        }
    }

    /// Connects.
    ///
    /// # Errors
    /// Which part of it failed, and why.
    pub async fn dial(&self) -> Result<Connection, DialError> {
        let slow = || DialError::Slow {
            to: self.url.to_string(),
            within: self.within,
        };
        tokio::time::timeout(self.within, self.connect())
            .await
            .map_err(|_| slow())?
    }

    /// The same for hyper.
    ///
    /// # Errors
    /// As [`Self::dial`].
    pub async fn dial_for_hyper(self) -> Result<TokioIo<Connection>, DialError> {
        self.dial().await.map(TokioIo::new)
    }

    async fn connect(&self) -> Result<Connection, DialError> {
        let stream = self.tcp().await?;
        let tls = match (self.url.transport(), &self.tls) {
            (Transport::Clear, _) => return Ok(Either::Right(stream)),
            (Transport::Tls, Some(tls)) => Arc::clone(tls),
            (Transport::Tls, None) => return Err(DialError::NoAuthority(self.url.to_string())),
        };
        let failed = |why: String| DialError::Tls {
            to: self.url.to_string(),
            why,
        };
        let name = ServerName::try_from(self.url.host().to_owned()).map_err(|error| failed(error.to_string()))?;
        let stream = TlsConnector::from(Arc::clone(&tls)).connect(name, stream).await;
        let stream = stream.map_err(|error| self.handshake_failed(&error, &tls))?;
        Ok(Either::Left(Box::new(stream)))
    }

    fn handshake_failed(&self, error: &io::Error, tls: &ClientConfig) -> DialError {
        let (to, why) = (self.url.to_string(), self.meaning(error));
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(
                rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol)
                | rustls::Error::NoApplicationProtocol
                | rustls::Error::PeerMisbehaved(rustls::PeerMisbehaved::SelectedUnofferedApplicationProtocol),
            ) => DialError::Protocol {
                to,
                offered: offered(tls),
            },
            Some(_) => DialError::Tls { to, why },
            None => DialError::Handshake { to, why },
        }
    }

    async fn tcp(&self) -> Result<TcpStream, DialError> {
        let proxy = match self.url.transport() {
            Transport::Tls => self.proxy.for_host(self.url.host(), self.url.port()),
            // What is dialled in the clear is on this machine.
            Transport::Clear => None,
        };
        way(self.url.host(), self.url.port(), proxy).await
    }

    fn meaning(&self, error: &io::Error) -> String {
        let rustls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match rustls {
            Some(rustls) => explain(rustls, self.url.host()),
            None if error.kind() == io::ErrorKind::UnexpectedEof => {
                "the other end closed the connection in the middle of it; is there a manager with TLS?".into()
            }
            None => error.to_string(),
        }
    }
}

fn offered(tls: &ClientConfig) -> String {
    let names = tls.alpn_protocols.iter().map(|name| match name.as_slice() {
        b"h2" => "HTTP/2".into(),
        other => String::from_utf8_lossy(other).to_uppercase(),
    });
    names.collect::<Vec<String>>().join(" or ")
}

/// A way to any host: TCP, through the proxy if one is named. What speaks over it is the caller's matter.
///
/// # Errors
/// Which part of it failed, and why.
pub async fn way(host: &str, port: u16, proxy: Option<&Proxy>) -> Result<TcpStream, DialError> {
    let target = if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    };
    let first = proxy.map_or((host, port), |proxy| (&*proxy.host, proxy.port));
    let stream = TcpStream::connect(first).await;
    let mut stream = stream.map_err(|source| DialError::Tcp {
        to: proxy.map_or_else(|| target.clone(), |proxy| format!("the proxy {proxy}")),
        source,
    })?;
    stream.set_nodelay(true).map_err(|source| DialError::Tcp {
        to: target.clone(),
        source,
    })?;
    if let Some(proxy) = proxy {
        let made = handshake::connect(&mut stream, proxy, &target).await;
        made.map_err(|source| DialError::Proxy {
            proxy: proxy.to_string(),
            to: target,
            source,
        })?;
    }
    Ok(stream)
}

/// What a failure of TLS means, for people.
#[must_use]
pub fn explain(error: &rustls::Error, host: &str) -> String {
    match error {
        rustls::Error::InvalidCertificate(certificate) => match certificate {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "the manager's certificate is not from the authority that was configured; either the CA file or hash is \
                 another manager's, or somebody is in between"
                    .into()
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                format!(
                    "the manager's certificate is not for the name {host}: dial it by a name that it has, or start it \
                     with --tls-name {host}"
                )
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "the manager's certificate has expired; or this machine's clock is ahead".into()
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "the manager's certificate is not valid yet; this machine's clock is behind".into()
            }
            other => format!("the manager's certificate cannot be used: {other}"),
        },
        rustls::Error::AlertReceived(alert) => alert_meaning(*alert),
        rustls::Error::InvalidMessage(_) => "what answers there speaks no TLS".into(),
        other => other.to_string(),
    }
}

fn alert_meaning(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::CertificateExpired => "the manager says that our certificate has expired".into(),
        AlertDescription::UnknownCA => {
            "the manager says that our certificate is from another authority than its own".into()
        }
        AlertDescription::BadCertificate | AlertDescription::CertificateUnknown => {
            "the manager does not take our certificate".into()
        }
        AlertDescription::DecryptError => "the manager says that our certificate's key is another one".into(),
        other => format!("the manager broke it off ({other:?})"),
    }
}

/// Is the client's own certificate what was refused?
#[must_use]
pub fn is_about_our_certificate(error: &(dyn std::error::Error + 'static)) -> bool {
    matches!(
        alert(error),
        Some(
            AlertDescription::CertificateExpired
                | AlertDescription::UnknownCA
                | AlertDescription::BadCertificate
                | AlertDescription::CertificateUnknown
                | AlertDescription::CertificateRevoked
        )
    )
}

/// The words for a TLS failure somewhere in a chain of errors: a client's certificate is refused after the handshake,
/// in the first read, deep inside HTTP/2.
#[must_use]
pub fn explain_chain(error: &(dyn std::error::Error + 'static), host: &str) -> Option<String> {
    match rustls_error(error) {
        Some(error) => Some(explain(error, host)),
        None => alert(error).map(alert_meaning),
    }
}

/// The alert that ended the connection.
fn alert(error: &(dyn std::error::Error + 'static)) -> Option<AlertDescription> {
    if let Some(rustls::Error::AlertReceived(alert)) = rustls_error(error) {
        return Some(*alert);
    }
    // HTTP/2 keeps only the text of what broke its connection.
    let known = [
        AlertDescription::CertificateExpired,
        AlertDescription::UnknownCA,
        AlertDescription::BadCertificate,
        AlertDescription::CertificateUnknown,
        AlertDescription::CertificateRevoked,
        AlertDescription::DecryptError,
    ];
    let texts = known.map(|alert| (alert, rustls::Error::AlertReceived(alert).to_string()));
    chain(error).find_map(|error| {
        let said = error.to_string();
        let found = texts.iter().find(|(_, text)| said.contains(text.as_str()));
        found.map(|(alert, _)| *alert)
    })
}

fn rustls_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    chain(error).find_map(|error| {
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let inner = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>());
        inner.or_else(|| error.downcast_ref::<rustls::Error>())
    })
}

fn chain<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |error| error.source())
}
