//! One HTTP exchange with a server that is not ours: an endpoint of STS, a cluster's key set. HTTP/1.1, one
//! connection per request, bounded in time and size. Called by `join`. It never follows a redirect and
//! never connects to anything that an answer names. TLS goes through the proxy that the environment names.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use deputy_dial::dialer::{DialError, way};
use deputy_dial::proxy::{Proxy, ProxyRule};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;

/// From the first packet to the last byte of the answer. Shorter than an agent waits for its own (10 s), so that it hears
/// why there is none.
const WITHIN: Duration = Duration::from_secs(8);
/// Longest answer that is read.
pub(crate) const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// Where a request is sent: scheme, host and port, nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    transport: Transport,
    host: String,
    port: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    Tls,
    Plain,
}

/// Whose certificates are believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Roots {
    /// The machine's, or `SSL_CERT_FILE`'s.
    Native,
    /// Those of this PEM text and no others.
    Pem(String),
}

impl Roots {
    /// Is there a certificate that can be used?
    pub(crate) fn check(&self) -> Result<(), String> {
        client_config(self).map(drop).map_err(|error| error.to_string())
    }
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
}

/// There was no whole answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    #[error("no whole answer within {} s", WITHIN.as_secs())]
    TimedOut,
    #[error(transparent)]
    Connect(DialError),
    #[error("the TLS handshake failed: {0}")]
    Tls(#[source] io::Error),
    #[error("{whose} certificates cannot be used: {why}")]
    Roots { whose: &'static str, why: String },
    #[error("the connection broke: {0}")]
    Broken(#[source] hyper::Error),
    #[error("the answer is longer than {MAX_ANSWER_BYTES} bytes, or broke off")]
    Body,
}

impl Endpoint {
    /// The TLS port of a host by name.
    pub(crate) fn tls(host: &str) -> Self {
        Self {
            transport: Transport::Tls,
            host: host.to_owned(),
            port: 443,
        }
    }

    /// Scheme, host and port of `url`. Without TLS only this machine is asked: anybody on the way could answer else.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn of_url(url: &Uri) -> Result<Self, String> {
        let transport = match url.scheme_str() {
            Some("https") => Transport::Tls,
            Some("http") => Transport::Plain,
            _ => return Err(format!("{url} is no https:// address")),
        };
        let authority = url.authority().ok_or_else(|| format!("{url} names no host"))?;
        if authority.as_str().contains('@') {
            return Err(format!("{} has a user or password in it", authority.host()));
        }
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let is_here = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
        let (default_port, allowed) = match transport {
            Transport::Tls => (443, true),
            Transport::Plain => (80, is_here),
        };
        if !allowed {
            return Err(format!("{url} is not https://, which only a loopback address may be"));
        }
        Ok(Self {
            transport,
            port: authority.port_u16().unwrap_or(default_port),
            host,
        })
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Makes exchanges. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Fetcher {
    proxy: Arc<ProxyRule>,
}

impl Fetcher {
    /// Through this proxy, where it is to be used.
    #[must_use]
    pub fn through(proxy: ProxyRule) -> Self {
        Self { proxy: Arc::new(proxy) }
    }

    /// Sends `request` to `endpoint`, whatever its own headers say, and reads the whole answer.
    ///
    /// # Errors
    /// If there was none. An answer with any status is one.
    pub(crate) async fn exchange(
        &self,
        endpoint: &Endpoint,
        roots: &Roots,
        request: Request<Full<Bytes>>,
    ) -> Result<Answer, FetchError> {
        let proxy = match endpoint.transport {
            Transport::Tls => self.proxy.for_host(&endpoint.host, endpoint.port),
            // What is asked in the clear is on this machine.
            Transport::Plain => None,
        };
        let exchanged = tokio::time::timeout(WITHIN, unbounded((endpoint, proxy), roots, request)).await;
        exchanged.unwrap_or(Err(FetchError::TimedOut))
    }
}

async fn unbounded(
    (endpoint, proxy): (&Endpoint, Option<&Proxy>),
    roots: &Roots,
    request: Request<Full<Bytes>>,
) -> Result<Answer, FetchError> {
    let stream = way(&endpoint.host, endpoint.port, proxy).await;
    let stream = stream.map_err(FetchError::Connect)?;
    match endpoint.transport {
        Transport::Plain => over(stream, request).await,
        Transport::Tls => {
            let name = ServerName::try_from(endpoint.host.clone())
                .map_err(|error| FetchError::Tls(io::Error::other(error)))?;
            let connector = TlsConnector::from(client_config(roots)?);
            let stream = connector.connect(name, stream).await.map_err(FetchError::Tls)?;
            over(stream, request).await
        }
    }
}

async fn over<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Answer, FetchError>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(FetchError::Broken)?;
    let answered = async {
        let response = sender.send_request(request).await.map_err(FetchError::Broken)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
        let body = body.map_err(|_| FetchError::Body)?.to_bytes();
        Ok(Answer { status, body })
    };
    tokio::pin!(answered, connection);
    tokio::select! {
        answer = &mut answered => answer,
        ended = &mut connection => {
            ended.map_err(FetchError::Broken)?;
            answered.await
        }
    }
}

fn client_config(roots: &Roots) -> Result<Arc<ClientConfig>, FetchError> {
    let bad = |why: String| FetchError::Roots {
        whose: match roots {
            Roots::Native => "this machine's",
            Roots::Pem(_) => "the given",
        },
        why,
    };
    let certificates = match roots {
        Roots::Native => rustls_native_certs::load_native_certs().certs,
        Roots::Pem(pem) => certificates(pem).map_err(bad)?,
    };
    let mut store = RootCertStore::empty();
    let (good, _) = store.add_parsable_certificates(certificates);
    if good == 0 {
        return Err(bad("there are none".into()));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| bad(error.to_string()))?
        .with_root_certificates(store)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| format!("not PEM: {error}"))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    fn endpoint(url: &str) -> Result<Endpoint, String> {
        Endpoint::of_url(&url.parse().expect("a URL"))
    }

    /// A server that answers one connection with these bytes.
    #[expect(clippy::disallowed_methods, reason = "a server of the test ends with its runtime")]
    async fn answering(bytes: Vec<u8>) -> Endpoint {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("listens");
        let port = listener.local_addr().expect("bound").port();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a caller");
            let mut asked = [0; 1024];
            let _read = stream.read(&mut asked).await.expect("a request");
            // A caller that has read enough may be gone before the end.
            drop(stream.write_all(&bytes).await);
        });
        endpoint(&format!("http://127.0.0.1:{port}")).expect("good")
    }

    async fn exchange(endpoint: &Endpoint, roots: &Roots, request: Request<Full<Bytes>>) -> Result<Answer, FetchError> {
        Fetcher::default().exchange(endpoint, roots, request).await
    }

    fn request() -> Request<Full<Bytes>> {
        let request = Request::get("/").header("host", "x").body(Full::default());
        request.expect("a request")
    }

    #[tokio::test]
    async fn tls_goes_through_the_proxy_and_what_is_here_does_not() {
        let refusal = b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n".to_vec();
        let proxy = answering(refusal).await;
        let rule = |no_proxy: &str| ProxyRule::new(&format!("http://{proxy}"), no_proxy).expect("good");
        let far = endpoint("https://sts.deputy.invalid/").expect("good");
        let told = async |no_proxy: &str| {
            let fetcher = Fetcher::through(rule(no_proxy));
            let asked = fetcher.exchange(&far, &Roots::Native, request()).await;
            asked.expect_err("no way").to_string()
        };
        let around = told("deputy.invalid").await;
        assert!(!around.contains("proxy"), "{around}");
        let through = told("").await;
        assert!(
            through.contains(&format!("the proxy {proxy} made no way to sts.deputy.invalid:443")),
            "{through}"
        );
        let here = answering(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_vec()).await;
        let answer = Fetcher::through(rule(""))
            .exchange(&here, &Roots::Native, request())
            .await;
        assert_eq!(&answer.expect("directly").body[..], b"ok");
    }

    #[test]
    fn only_this_machine_is_asked_without_tls() {
        let told = ["http://sts.example.com/", "ftp://x/", "https://user@x/", "/path"]
            .map(|url| endpoint(url).expect_err(url));
        insta::assert_snapshot!(told.join("\n"), @r"
        http://sts.example.com/ is not https://, which only a loopback address may be
        ftp://x/ is no https:// address
        x has a user or password in it
        /path is no https:// address
        ");
        for (url, shown) in [
            ("https://sts.example.com/x", "sts.example.com:443"),
            ("http://[::1]:81", "::1:81"),
            ("http://localhost", "localhost:80"),
        ] {
            assert_eq!(endpoint(url).expect(url).to_string(), shown);
        }
    }

    #[tokio::test]
    async fn an_answer_is_read_whole_and_a_redirect_is_one() {
        let moved = b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 2\r\n\r\nno".to_vec();
        let answer = exchange(&answering(moved).await, &Roots::Native, request()).await;
        let answer = answer.expect("an answer");
        assert_eq!((answer.status.as_u16(), &answer.body[..]), (302, &b"no"[..]));
    }

    #[tokio::test]
    async fn an_endless_answer_is_given_up() {
        let mut endless = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
        endless.resize(MAX_ANSWER_BYTES + 100, b'x');
        let refused = exchange(&answering(endless).await, &Roots::Native, request()).await;
        assert_eq!(
            refused.expect_err("too long").to_string(),
            "the answer is longer than 65536 bytes, or broke off"
        );
    }

    #[tokio::test]
    async fn nobody_there_is_told() {
        let nobody = endpoint("http://127.0.0.1:1").expect("good");
        let refused = exchange(&nobody, &Roots::Native, request()).await.expect_err("nobody");
        assert!(refused.to_string().contains("Connection refused"), "{refused}");
    }
}
