//! CONNECT through a proxy: one request, one answer, bounded.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::proxy::Proxy;

/// Longest answer of a proxy before the bytes of the other end begin.
const MAX_ANSWER_BYTES: usize = 16 * 1024;

/// The proxy did not make a way.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// It said no; the status line is for people.
    #[error("it answered {0:?}")]
    Refused(String),
    /// It wants a user name and password, or others.
    #[error("it wants a user name and password (407): write them into the proxy's URL")]
    Unauthorized,
    /// It spoke no HTTP.
    #[error("it answered something that is not HTTP")]
    NotHttp,
    /// The connection broke.
    #[error("the connection to it broke: {0}")]
    Io(#[from] std::io::Error),
}

/// Asks the proxy for a way to `target` (`host:port`).
pub(crate) async fn connect(stream: &mut TcpStream, proxy: &Proxy, target: &str) -> Result<(), ProxyError> {
    let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
    if let Some(authorization) = &proxy.authorization {
        request.push_str(&format!("Proxy-Authorization: {authorization}\r\n"));
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    // Byte by byte, so that nothing of what follows is taken away from who reads next. Once per connection.
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() == MAX_ANSWER_BYTES {
            return Err(ProxyError::NotHttp);
        }
        match stream.read_u8().await {
            Ok(byte) => answer.push(byte),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof && !answer.is_empty() => break,
            Err(error) => return Err(error.into()),
        }
    }
    let text = String::from_utf8_lossy(&answer);
    let line = text.lines().next().unwrap_or_default();
    let mut words = line.split(' ');
    let (version, status) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    if !version.starts_with("HTTP/1.") {
        return Err(ProxyError::NotHttp);
    }
    match status {
        "200" => Ok(()),
        "407" => Err(ProxyError::Unauthorized),
        _ => Err(ProxyError::Refused(line.chars().take(120).collect())),
    }
}
