//! The manager's address, checked: what is not loopback is not dialled without TLS.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// `http://127.0.0.1:PORT`. Agents have no certificates yet, so anything but loopback is refused
/// before a byte is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManagerUrl {
    host: IpAddr,
    port: u16,
}

/// The address cannot be dialled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadManagerUrl {
    /// Write `http://127.0.0.1:7443`.
    #[error("{0:?} is not of the form http://HOST:PORT")]
    Malformed(String),
    /// The manager is elsewhere: run a tunnel to it that ends on loopback.
    #[error("{0} is not a loopback address, and without TLS nothing else is dialled")]
    NotLoopback(String),
    /// This version has no TLS: run a tunnel to the manager that ends on loopback.
    #[error("{0:?} asks for TLS, which this version does not speak yet")]
    TlsNotSupported(String),
}

impl FromStr for ManagerUrl {
    type Err = BadManagerUrl;

    fn from_str(text: &str) -> Result<Self, BadManagerUrl> {
        let malformed = || BadManagerUrl::Malformed(text.into());
        if text.starts_with("https://") {
            return Err(BadManagerUrl::TlsNotSupported(text.into()));
        }
        let rest = text.strip_prefix("http://").ok_or_else(malformed)?;
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains(['/', '@', '?', '#']) {
            return Err(malformed());
        }
        let (host, port) = authority.rsplit_once(':').ok_or_else(malformed)?;
        let port = port
            .parse::<u16>()
            .ok()
            .filter(|port| *port != 0)
            .ok_or_else(malformed)?;
        let bare = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        // The name is not asked of a resolver, which could answer anything.
        let host = if bare == "localhost" { "127.0.0.1" } else { bare };
        match host.parse::<IpAddr>() {
            Ok(host) if host.is_loopback() => Ok(Self { host, port }),
            Ok(_) => Err(BadManagerUrl::NotLoopback(authority.into())),
            Err(_) if bare.is_empty() => Err(malformed()),
            Err(_) => Err(BadManagerUrl::NotLoopback(authority.into())),
        }
    }
}

impl fmt::Display for ManagerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", std::net::SocketAddr::new(self.host, self.port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_without_tls_is_accepted() {
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
            ("https://127.0.0.1:7443", None),
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
            "10.0.0.1:7443 is not a loopback address, and without TLS nothing else is dialled"
        );
        assert_eq!(
            error("https://manager:7443"),
            "\"https://manager:7443\" asks for TLS, which this version does not speak yet"
        );
    }
}
