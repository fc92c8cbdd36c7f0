//! A corporate HTTP proxy: CONNECT only, perhaps with a password, cutting what is silent for too long, and with a
//! middlebox behind it that may not like HTTP/2.

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
use crate::middlebox::Middlebox;

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
    middlebox: Arc<Middlebox>,
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
        let middlebox = Arc::new(Middlebox::default());
        let server = background::spawn(accept(listener, rules, Arc::clone(&counts), Arc::clone(&middlebox)));
        Ok(Self {
            address,
            counts,
            middlebox,
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

    /// What its connections go through.
    #[must_use]
    pub fn middlebox(&self) -> &Middlebox {
        &self.middlebox
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

async fn accept(listener: TcpListener, rules: Rules, counts: Arc<Counts>, middlebox: Arc<Middlebox>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Ok((stream, _)) = listener.accept() => {
                connections.spawn(serve(stream, rules.clone(), Arc::clone(&counts), Arc::clone(&middlebox)));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(mut near: TcpStream, rules: Rules, counts: Arc<Counts>, middlebox: Arc<Middlebox>) {
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
    // A year is as good as never.
    let idle = rules.cut_idle.unwrap_or(Duration::from_secs(365 * 24 * 3600));
    if middlebox.carry(near, far, idle).await {
        counts.cut.fetch_add(1, Ordering::Relaxed);
    }
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
