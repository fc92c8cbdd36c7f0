//! Ports for programs that must be told one. They are not among those that the kernel gives to whoever asks for any, so
//! that no test beside takes one between the choice and the program's start.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

/// Below Linux' own range, which begins at 32768 (`net.ipv4.ip_local_port_range`).
const FIRST: u16 = 12_000;
const MANY: u16 = 20_000;

/// An address of this machine at which nobody listens. Each call of a process answers another one.
///
/// # Errors
/// If none is free.
pub fn free() -> io::Result<SocketAddr> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Processes of tests begin at places of their own.
    let begin = u16::try_from(std::process::id().wrapping_mul(251) % u32::from(MANY)).unwrap_or_default();
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..MANY {
        let number = NEXT.fetch_add(1, Ordering::Relaxed) % MANY;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, FIRST + (begin + number) % MANY));
        match TcpListener::bind(address) {
            Ok(_) => return Ok(address),
            Err(error) => last = error,
        }
    }
    Err(last)
}
