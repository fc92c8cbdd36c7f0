//! HTTPS_PROXY and NO_PROXY: which connections go through which proxy. Read here and nowhere else, so that they mean one
//! thing for the manager, AWS and clusters.

use std::fmt;
use std::net::IpAddr;

use base64::Engine;

use crate::url::split_authority;

/// Of an address that names no port: what AWS's SDKs, kubectl and helm take, so that one address means one proxy.
const DEFAULT_PORT: u16 = 80;

/// Which connections go through which proxy.
#[derive(Debug, Clone, Default)]
pub struct ProxyRule {
    proxy: Option<Proxy>,
    around: Vec<Around>,
}

/// An HTTP proxy that understands CONNECT.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) authorization: Option<String>,
    user: String,
}

/// The same rule for a client that has a reader of its own, which knows neither patterns nor ports.
#[derive(Clone, PartialEq, Eq)]
pub struct Told {
    /// The proxy's address, with user and password.
    pub proxy: String,
    /// What is reached directly, with commas.
    pub around: String,
}

/// The proxy's password is not shown.
impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// One entry of NO_PROXY.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Around {
    Everything,
    /// A name and everything below it, with or without a port.
    Name(String, Option<u16>),
    Network(IpAddr, u8),
}

/// HTTPS_PROXY cannot be used. The text names no password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadProxy {
    /// Write `http://HOST:PORT`, with `USER:PASSWORD@` if it wants that.
    #[error("the proxy is not of the form http://[USER:PASSWORD@]HOST:PORT")]
    Malformed,
    /// Programs read it differently.
    #[error("the proxy's user and password have an @ in them: write it as %40")]
    TwoAts,
    /// TLS to the proxy itself is not spoken.
    #[error("the proxy is named with {0}://, and only http:// proxies (with CONNECT) are supported")]
    Scheme(String),
}

impl ProxyRule {
    /// From the environment: a variable in capitals, or else in small letters; one that is empty is not set. Nothing else
    /// counts, HTTP_PROXY and ALL_PROXY neither.
    ///
    /// # Errors
    /// If the proxy cannot be used.
    pub fn of(env: &dyn Fn(&str) -> Option<String>) -> Result<Self, BadProxy> {
        let set = |name: &str| env(name).filter(|text| !text.trim().is_empty());
        let either = |name: &str| {
            set(name)
                .or_else(|| set(&name.to_ascii_lowercase()))
                .unwrap_or_default()
        };
        Self::new(&either("HTTPS_PROXY"), &either("NO_PROXY"))
    }

    /// From the values of HTTPS_PROXY and NO_PROXY; an empty value is none.
    ///
    /// # Errors
    /// If the proxy cannot be used. Entries of NO_PROXY that make no sense match nothing.
    pub fn new(https_proxy: &str, no_proxy: &str) -> Result<Self, BadProxy> {
        let https_proxy = https_proxy.trim();
        if https_proxy.is_empty() {
            return Ok(Self::default());
        }
        Ok(Self {
            proxy: Some(proxy(https_proxy)?),
            around: no_proxy
                .split(|of: char| of == ',' || of.is_whitespace())
                .filter_map(around)
                .collect(),
        })
    }

    /// The proxy for this host; none if it is reached directly.
    #[must_use]
    pub fn for_host(&self, host: &str, port: u16) -> Option<&Proxy> {
        let proxy = self.proxy.as_ref()?;
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let ip = host.parse::<IpAddr>().ok();
        let passes = self.around.iter().any(|around| match around {
            Around::Everything => true,
            Around::Name(name, of_port) => {
                of_port.is_none_or(|of_port| of_port == port)
                    && (host == *name || (ip.is_none() && host.ends_with(&format!(".{name}"))))
            }
            Around::Network(network, bits) => ip.is_some_and(|ip| is_within(ip, *network, *bits)),
        });
        // What is on this machine is never asked of another.
        let here = host == "localhost" || ip.is_some_and(|ip| ip.is_loopback());
        (!passes && (!here || proxy.is_here())).then_some(proxy)
    }

    /// The same rule in words for another reader, for connections to this port; none if all are direct.
    #[must_use]
    pub fn told(&self, port: u16) -> Option<Told> {
        let proxy = self.proxy.as_ref()?;
        let mut around: Vec<String> = self.around.iter().filter_map(|around| around.told(port)).collect();
        if !proxy.is_here() {
            around.extend(["localhost", "127.0.0.0/8", "::1"].map(Into::into));
        }
        Some(Told {
            proxy: format!("http://{}{}", proxy.user, proxy.authority()),
            around: around.join(","),
        })
    }
}

impl Around {
    fn told(&self, port: u16) -> Option<String> {
        match self {
            // To others the star stands for names only.
            Self::Everything => Some("*,0.0.0.0/0,::/0".into()),
            Self::Name(name, of_port) => of_port.is_none_or(|of_port| of_port == port).then(|| name.clone()),
            Self::Network(network, bits) => Some(format!("{network}/{bits}")),
        }
    }
}

impl Proxy {
    /// `HOST:PORT`, as addresses have it.
    #[must_use]
    pub fn authority(&self) -> String {
        let (host, port) = (&self.host, self.port);
        if host.contains(':') {
            format!("[{host}]:{port}")
        } else {
            format!("{host}:{port}")
        }
    }

    /// What it is told of user and password.
    #[must_use]
    pub fn authorization(&self) -> Option<&str> {
        self.authorization.as_deref()
    }

    /// A proxy on this machine may be asked for what is on this machine.
    fn is_here(&self) -> bool {
        self.host == "localhost" || self.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }
}

fn proxy(text: &str) -> Result<Proxy, BadProxy> {
    let rest = match text.split_once("://") {
        Some(("http", rest)) => rest,
        Some((scheme, _)) => return Err(BadProxy::Scheme(scheme.into())),
        None => text,
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (user, authority) = match rest.rsplit_once('@') {
        // Where the password ends, others see at the first of two.
        Some((user, _)) if user.contains('@') => return Err(BadProxy::TwoAts),
        Some((user, authority)) => (Some(user), authority),
        None => (None, rest),
    };
    let (host, port) = split_authority(authority).ok_or(BadProxy::Malformed)?;
    let (authorization, user) = match user {
        None => (None, String::new()),
        Some(user) => {
            let mut decoded = percent_decoded(user).ok_or(BadProxy::Malformed)?;
            if !user.contains(':') {
                decoded.push(b':');
            }
            let encoded = base64::engine::general_purpose::STANDARD.encode(&decoded);
            (
                Some(format!("Basic {encoded}")),
                format!("{}@", percent_encoded(&decoded)),
            )
        }
    };
    Ok(Proxy {
        host: host.into(),
        port: port.unwrap_or(DEFAULT_PORT),
        authorization,
        user,
    })
}

/// What is secret in the address of a proxy, of any scheme, in the ways in which programs show it: the password, and user
/// and password together as they are sent, both as they are written and as they are meant. Nothing if it names no password.
#[must_use]
pub fn secrets(address: &str) -> Vec<Vec<u8>> {
    let after_scheme = address.split_once("://").map_or(address, |(_, rest)| rest);
    let Some((user, _)) = after_scheme.rsplit_once('@') else {
        return Vec::new();
    };
    let Some((_, password)) = user.split_once(':').filter(|(_, password)| !password.is_empty()) else {
        return Vec::new();
    };
    let mut secrets = Vec::new();
    for written in [password, user] {
        secrets.push(written.as_bytes().to_vec());
        secrets.extend(percent_decoded(written).filter(|meant| meant != written.as_bytes()));
    }
    // Where a program believes that the host ends, if the password should have been written with escapes. The beginning
    // of a password alone may be any word.
    if let Some(at) = password.find(['/', '?', '#']).filter(|at| *at > 0) {
        secrets.push(user.as_bytes()[..user.len() - password.len() + at].to_vec());
    }
    secrets
}

/// `%40` is `@`: passwords with special characters are written so in URLs.
fn percent_decoded(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digits = [bytes.next()?, bytes.next()?];
            decoded.extend(hex::decode(digits).ok()?);
        } else {
            decoded.push(byte);
        }
    }
    // What would end the header early is no user name and no password.
    decoded.iter().all(|byte| !byte.is_ascii_control()).then_some(decoded)
}

/// User and password as every URL may have them; the colon is between them.
fn percent_encoded(bytes: &[u8]) -> String {
    let encoded = bytes.iter().map(|byte| match byte {
        b':' | b'-' | b'.' | b'_' | b'~' => char::from(*byte).to_string(),
        byte if byte.is_ascii_alphanumeric() => char::from(*byte).to_string(),
        byte => format!("%{byte:02X}"),
    });
    encoded.collect()
}

fn around(entry: &str) -> Option<Around> {
    let entry = entry.trim().trim_start_matches("*.").trim_start_matches('.');
    if entry.is_empty() {
        return None;
    }
    if entry == "*" {
        return Some(Around::Everything);
    }
    if let Some((network, bits)) = entry.split_once('/') {
        return Some(Around::Network(network.parse().ok()?, bits.parse().ok()?));
    }
    if let Ok(ip) = entry.parse::<IpAddr>() {
        return Some(Around::Name(ip.to_string(), None));
    }
    let (host, port) = split_authority(entry)?;
    Some(Around::Name(host.to_ascii_lowercase(), port))
}

fn is_within(ip: IpAddr, network: IpAddr, bits: u8) -> bool {
    match (ip, network) {
        (IpAddr::V4(ip), IpAddr::V4(network)) if bits <= 32 => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            u32::from(ip) & mask == u32::from(network) & mask
        }
        (IpAddr::V6(ip), IpAddr::V6(network)) if bits <= 128 => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            u128::from(ip) & mask == u128::from(network) & mask
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_proxy_names_what_is_reached_directly() {
        let no_proxy = "internal.example.com,.corp,10.0.0.0/8, 192.0.2.7,manager:7443,[::1]:1";
        let rule = ProxyRule::new("http://proxy:8080", no_proxy).expect("good");
        for (host, port, direct) in [
            ("internal.example.com", 1, true),
            ("a.internal.example.com", 1, true),
            ("xinternal.example.com", 1, false),
            ("a.corp", 1, true),
            ("corp", 1, true),
            ("10.1.2.3", 1, true),
            ("11.1.2.3", 1, false),
            ("192.0.2.7", 1, true),
            ("192.0.2.8", 1, false),
            ("manager", 7443, true),
            ("manager", 443, false),
            ("MANAGER.", 7443, true),
            ("localhost", 1, true),
            ("127.0.0.1", 1, true),
            ("elsewhere.example.com", 443, false),
        ] {
            assert_eq!(rule.for_host(host, port).is_none(), direct, "{host}:{port}");
        }
        let nothing = ProxyRule::new("http://proxy:8080", "*").expect("good");
        assert!(nothing.for_host("elsewhere", 1).is_none());
    }

    /// Guards that the manager is reached through the proxy that AWS is reached through: `hyper-util` reads the address for
    /// the SDK, and takes the port of the scheme where there is none.
    #[test]
    fn an_address_means_the_proxy_that_it_means_to_the_sdk() {
        for (text, told) in [
            ("http://proxy", "proxy:80"),
            ("http://proxy/", "proxy:80"),
            ("proxy", "proxy:80"),
            ("proxy:3128", "proxy:3128"),
            ("http://me:secret@proxy", "proxy:80"),
            ("http://[::1]", "::1:80"),
        ] {
            let rule = ProxyRule::new(text, "").expect("good");
            let proxy = rule.for_host("localhost", 7443).or(rule.for_host("manager", 7443));
            assert_eq!(proxy.map(ToString::to_string).as_deref(), Some(told), "{text}");
        }
        let refused = ProxyRule::new("http://me:p@ss@proxy:8080", "").expect_err("two ways to read it");
        assert_eq!(refused, BadProxy::TwoAts);
        assert!(!refused.to_string().contains("p@ss"), "{refused}");
    }

    #[test]
    fn a_variable_counts_in_capitals_or_else_in_small_letters_and_no_other_does() {
        let by = |set: &[(&str, &str)]| {
            let env = |name: &str| {
                set.iter()
                    .find(|(of, _)| *of == name)
                    .map(|(_, value)| (*value).to_owned())
            };
            let rule = ProxyRule::of(&env).expect("good");
            rule.for_host("manager", 443).map(ToString::to_string)
        };
        let (one, two) = ("http://one:1", "http://two:2");
        for (set, through) in [
            (&[("HTTPS_PROXY", one), ("https_proxy", two)][..], Some("one:1")),
            (&[("HTTPS_PROXY", ""), ("https_proxy", two)], Some("two:2")),
            (&[("HTTPS_PROXY", " "), ("https_proxy", two)], Some("two:2")),
            (&[("https_proxy", two), ("NO_PROXY", ""), ("no_proxy", "manager")], None),
            (&[("ALL_PROXY", one), ("HTTP_PROXY", one), ("http_proxy", one)], None),
        ] {
            assert_eq!(by(set).as_deref(), through, "{set:?}");
        }
    }

    #[test]
    fn entries_are_separated_by_commas_or_blanks_and_patterns_are_names() {
        let rule = ProxyRule::new(
            "http://me:p$ %40@proxy:8080",
            "*.a.example\tb.example:443  c.example:1,10.0.0.0/8",
        )
        .expect("good");
        for (host, port, direct) in [
            ("x.a.example", 1, true),
            ("b.example", 443, true),
            ("b.example", 1, false),
            ("c.example", 443, false),
        ] {
            assert_eq!(rule.for_host(host, port).is_none(), direct, "{host}:{port}");
        }
        let told = rule.told(443).expect("a proxy");
        assert_eq!(told.proxy, "http://me:p%24%20%40@proxy:8080");
        assert_eq!(told.around, "a.example,b.example,10.0.0.0/8,localhost,127.0.0.0/8,::1");
        let here = ProxyRule::new("[::1]:8080", "").expect("good").told(443);
        assert_eq!(
            here.map(|told| (told.proxy, told.around)),
            Some(("http://[::1]:8080".into(), String::new()))
        );
    }

    #[test]
    fn a_proxy_with_a_password_is_shown_without_it() {
        let rule = ProxyRule::new("http://me:p%40ss@proxy:8080/", "").expect("good");
        let proxy = rule.for_host("manager", 7443).expect("used");
        assert_eq!(format!("{proxy:?}"), "proxy:8080");
        let expected = base64::engine::general_purpose::STANDARD.encode("me:p@ss");
        assert_eq!(proxy.authorization, Some(format!("Basic {expected}")));
        assert_eq!(
            ProxyRule::new("http://me:%0d%0aX@proxy:8080", "").err(),
            Some(BadProxy::Malformed)
        );
        assert_eq!(
            ProxyRule::new("socks5://proxy:1080", "").err(),
            Some(BadProxy::Scheme("socks5".into()))
        );
    }
}
