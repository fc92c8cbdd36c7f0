//! A corporate HTTP proxy: CONNECT only, perhaps with a password, and cutting what is silent for too long.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::Result;
use base64::Engine;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::background::{self, Background};

const MAX_HEAD_BYTES: usize = 8 * 1024;

/// How a proxy behaves.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// `user:password`; none: everybody may.
    pub login: Option<String>,
    /// A connection without a byte in either direction for so long is cut.
    pub cut_idle: Option<Duration>,
}

/// See the module. It ends when it is dropped.
#[derive(Debug)]
pub struct ConnectProxy {
    address: SocketAddr,
    counts: Arc<Counts>,
    _server: Background,
}

#[derive(Debug, Default)]
struct Counts {
    made: AtomicU32,
    refused: AtomicU32,
    cut: AtomicU32,
}

impl ConnectProxy {
    /// Starts one on loopback.
    pub async fn start(rules: Rules) -> Result<Self> {
        let listener = background::run(TcpListener::bind(("127.0.0.1", 0))).await??;
        let address = listener.local_addr()?;
        let counts = Arc::new(Counts::default());
        let server = background::spawn(accept(listener, rules, Arc::clone(&counts)));
        Ok(Self {
            address,
            counts,
            _server: server,
        })
    }

    /// For HTTPS_PROXY, with this login.
    #[must_use]
    pub fn url(&self, login: &str) -> String {
        if login.is_empty() {
            format!("http://{}", self.address)
        } else {
            format!("http://{login}@{}", self.address)
        }
    }

    /// Ways that were made.
    #[must_use]
    pub fn made(&self) -> u32 {
        self.counts.made.load(Ordering::Relaxed)
    }

    /// Requests that were refused.
    #[must_use]
    pub fn refused(&self) -> u32 {
        self.counts.refused.load(Ordering::Relaxed)
    }

    /// Connections that were cut because they were silent.
    #[must_use]
    pub fn cut(&self) -> u32 {
        self.counts.cut.load(Ordering::Relaxed)
    }
}

async fn accept(listener: TcpListener, rules: Rules, counts: Arc<Counts>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Ok((stream, _)) = listener.accept() => {
                connections.spawn(serve(stream, rules.clone(), Arc::clone(&counts)));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(mut near: TcpStream, rules: Rules, counts: Arc<Counts>) {
    let Some(head) = head(&mut near).await else { return };
    let Some(target) = head.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next()) else {
        counts.refused.fetch_add(1, Ordering::Relaxed);
        let _ = near.write_all(b"HTTP/1.1 405 Method Not Allowed\r\n\r\n").await;
        return;
    };
    if let Some(login) = &rules.login {
        let expected = base64::engine::general_purpose::STANDARD.encode(login);
        if !head.contains(&format!("Proxy-Authorization: Basic {expected}\r\n")) {
            counts.refused.fetch_add(1, Ordering::Relaxed);
            let answer = b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\n\r\n";
            let _ = near.write_all(answer).await;
            return;
        }
    }
    let Ok(far) = TcpStream::connect(target).await else {
        counts.refused.fetch_add(1, Ordering::Relaxed);
        let _ = near.write_all(b"HTTP/1.1 502 Bad Gateway\r\n\r\n").await;
        return;
    };
    if near
        .write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
        .await
        .is_err()
    {
        return;
    }
    counts.made.fetch_add(1, Ordering::Relaxed);
    carry(near, far, rules.cut_idle, &counts).await;
}

async fn head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
        if head.len() > MAX_HEAD_BYTES {
            return None;
        }
    }
    String::from_utf8(head).ok()
}

async fn carry(mut near: TcpStream, mut far: TcpStream, cut_idle: Option<Duration>, counts: &Counts) {
    let (mut up, mut down) = (vec![0; 16 * 1024], vec![0; 16 * 1024]);
    // A year is as good as never.
    let idle = cut_idle.unwrap_or(Duration::from_secs(365 * 24 * 3600));
    loop {
        let moved = tokio::select! {
            read = near.read(&mut up) => match read {
                Ok(n @ 1..) => far.write_all(&up[..n]).await,
                _ => return,
            },
            read = far.read(&mut down) => match read {
                Ok(n @ 1..) => near.write_all(&down[..n]).await,
                _ => return,
            },
            () = tokio::time::sleep(idle) => {
                counts.cut.fetch_add(1, Ordering::Relaxed);
                return;
            }
        };
        if moved.is_err() {
            return;
        }
    }
}
