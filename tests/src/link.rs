//! The wire between agent and manager, for cutting: a TCP proxy that can refuse, cut, and stall one way.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::background::{self, Background};

const CHUNK_BYTES: usize = 64 * 1024;

/// How the wire is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    /// Everything passes.
    Open,
    /// Connections are reset, new ones too.
    Cut,
    /// Connections stay, nothing passes from the agent to the manager.
    StalledUp,
    /// Connections stay, nothing passes from the manager to the agent.
    StalledDown,
    /// Connections stay, nothing passes: what a lost network looks like.
    Stalled,
}

/// A TCP proxy on a port of 127.0.0.1. It ends when it is dropped.
#[derive(Debug)]
pub struct Link {
    address: SocketAddr,
    wire: watch::Sender<Wire>,
    upstream: Arc<Mutex<SocketAddr>>,
    _server: Background,
}

#[derive(Clone, Copy)]
enum Way {
    Up,
    Down,
}

impl Link {
    /// A wire to `upstream`.
    pub async fn to(upstream: SocketAddr) -> Result<Self> {
        let listener = background::run(TcpListener::bind(("127.0.0.1", 0)))
            .await?
            .context("listening for the link")?;
        let address = listener.local_addr()?;
        let wire = watch::Sender::new(Wire::Open);
        let upstream = Arc::new(Mutex::new(upstream));
        let server = background::spawn(accept(listener, wire.subscribe(), Arc::clone(&upstream)));
        Ok(Self {
            address,
            wire,
            upstream,
            _server: server,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes how the wire is.
    pub fn set(&self, wire: Wire) {
        self.wire.send_replace(wire);
    }

    /// Resets every connection and refuses new ones.
    pub fn cut(&self) {
        self.set(Wire::Cut);
    }

    /// Everything passes again.
    pub fn resume(&self) {
        self.set(Wire::Open);
    }

    /// New connections go there.
    pub fn retarget(&self, upstream: SocketAddr) {
        *self.upstream.lock().unwrap_or_else(PoisonError::into_inner) = upstream;
    }
}

async fn accept(listener: TcpListener, wire: watch::Receiver<Wire>, upstream: Arc<Mutex<SocketAddr>>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            Ok((stream, _)) = listener.accept() => {
                if *wire.borrow() == Wire::Cut {
                    continue; // dropped: the caller sees a connection that closes at once
                }
                let upstream = *upstream.lock().unwrap_or_else(PoisonError::into_inner);
                connections.spawn(carry(stream, upstream, wire.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn carry(near: TcpStream, upstream: SocketAddr, mut wire: watch::Receiver<Wire>) {
    let Ok(far) = TcpStream::connect(upstream).await else {
        return;
    };
    let (_, _) = (near.set_nodelay(true), far.set_nodelay(true));
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    tokio::select! {
        () = pump(near_read, far_write, wire.clone(), Way::Up) => {}
        () = pump(far_read, near_write, wire.clone(), Way::Down) => {}
        _ = wire.wait_for(|wire| *wire == Wire::Cut) => {}
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut wire: watch::Receiver<Wire>, way: Way) {
    let mut chunk = vec![0; CHUNK_BYTES];
    let passes = |wire: &Wire| match way {
        Way::Up => !matches!(wire, Wire::StalledUp | Wire::Stalled),
        Way::Down => !matches!(wire, Wire::StalledDown | Wire::Stalled),
    };
    loop {
        // Nothing is read while it is stalled, so that the sender's window fills as on a real wire.
        if wire.wait_for(passes).await.is_err() {
            return;
        }
        let Ok(n @ 1..) = from.read(&mut chunk).await else {
            return;
        };
        if wire.wait_for(passes).await.is_err() || to.write_all(&chunk[..n]).await.is_err() {
            return;
        }
    }
}
