//! The manager's address, checked: what is not loopback is not dialled without TLS.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// `https://HOST:PORT`, or `http://127.0.0.1:PORT` for a manager without TLS on the same machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManagerUrl {
    transport: Transport,
    host: String,
    port: u16,
}

/// What is spoken below HTTP/2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TLS.
    Tls,
    /// Nothing; on loopback only.
    Clear,
}

/// The port of a manager if the address names none.
pub const DEFAULT_PORT: u16 = 7443;

/// The address cannot be dialled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadManagerUrl {
    /// Write `https://manager.example.com:7443`.
    #[error("{0:?} is not of the form https://HOST:PORT")]
    Malformed(String),
    /// The manager is elsewhere: use `https://`.
    #[error("{0} is not a loopback address, and without TLS nothing else is dialled: begin it with https://")]
    NotLoopback(String),
}

impl ManagerUrl {
    /// What is spoken below HTTP/2.
    #[must_use]
    pub const fn transport(&self) -> Transport {
        self.transport
    }

    /// A name or an address; an IPv6 address without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for ManagerUrl {
    type Err = BadManagerUrl;

    fn from_str(text: &str) -> Result<Self, BadManagerUrl> {
        let malformed = || BadManagerUrl::Malformed(text.into());
        let (transport, rest) = match text.split_once("://") {
            Some(("https", rest)) => (Transport::Tls, rest),
            Some(("http", rest)) => (Transport::Clear, rest),
            _ => return Err(malformed()),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = split_authority(authority).ok_or_else(malformed)?;
        let port = match (port, transport) {
            (Some(port), _) => port,
            (None, Transport::Tls) => DEFAULT_PORT,
            (None, Transport::Clear) => return Err(malformed()),
        };
        if transport == Transport::Clear {
            // The name is not asked of a resolver, which could answer anything.
            let address = if host == "localhost" { "127.0.0.1" } else { host };
            return match address.parse::<IpAddr>() {
                Ok(ip) if ip.is_loopback() => Ok(Self {
                    transport,
                    host: ip.to_string(),
                    port,
                }),
                _ => Err(BadManagerUrl::NotLoopback(authority.into())),
            };
        }
        Ok(Self {
            transport,
            host: host.to_ascii_lowercase(),
            port,
        })
    }
}

/// Host and port of `HOST`, `HOST:PORT`, `[V6]` or `[V6]:PORT`.
pub(crate) fn split_authority(authority: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        host.parse::<std::net::Ipv6Addr>().ok()?;
        match rest.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None if rest.is_empty() => (host, None),
            None => return None,
        }
    } else {
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        };
        let good = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        if host.is_empty() || !host.bytes().all(good) {
            return None;
        }
        (host, port)
    };
    match port {
        None => Some((host, None)),
        Some(port) => Some((host, Some(port.parse::<u16>().ok().filter(|port| *port != 0)?))),
    }
}

impl fmt::Display for ManagerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.transport {
            Transport::Tls => "https",
            Transport::Clear => "http",
        };
        if self.host.contains(':') {
            write!(f, "{scheme}://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{scheme}://{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_tls_only_loopback_is_accepted() {
        for (text, good) in [
            ("http://127.0.0.1:7443", Some("http://127.0.0.1:7443")),
            ("http://localhost:7443/", Some("http://127.0.0.1:7443")),
            ("http://[::1]:7443", Some("http://[::1]:7443")),
            ("http://127.0.0.1", None),
            ("http://127.0.0.1:0", None),
            ("http://:7443", None),
            ("127.0.0.1:7443", None),
            ("http://127.0.0.1:7443/x", None),
            ("http://10.0.0.1:7443", None),
            ("http://manager.example.com:7443", None),
            ("http://localhost.example.com:7443", None),
            ("http://localhost@10.0.0.1:7443", None),
            ("https://127.0.0.1:7443", Some("https://127.0.0.1:7443")),
            ("https://Manager.example.com", Some("https://manager.example.com:7443")),
            ("https://[2001:db8::1]:443/", Some("https://[2001:db8::1]:443")),
            ("https://user@manager:7443", None),
            ("https://manager:7443/path", None),
            ("https://manager:7443?x", None),
            ("https://manager:port", None),
            ("https://[zz]:1", None),
            ("unix:///x", None),
            ("", None),
        ] {
            let parsed = text.parse::<ManagerUrl>().map(|url| url.to_string());
            assert_eq!(parsed.as_deref().ok(), good, "{text}");
        }
    }

    #[test]
    fn the_refusal_says_what_and_why() {
        let error = |text: &str| text.parse::<ManagerUrl>().expect_err("refused").to_string();
        assert_eq!(
            error("http://10.0.0.1:7443"),
            "10.0.0.1:7443 is not a loopback address, and without TLS nothing else is dialled: begin it with https://"
        );
    }
}
