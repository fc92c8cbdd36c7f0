//! Flags and environment of the program: raw text first, then checked values.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use deputy_task::document::duration;

use crate::dispatcher::timing::Timing;
use crate::fetch::Fetcher;
use crate::oidc_flags::OidcFlags;
use crate::server::{SecuritySettings, Settings, Transport};
use crate::service::UploadLimits;
use crate::store::clock::KernelBootClock;
use crate::sts_flags::StsFlags;
use crate::trust::authority::is_trust_domain;
use crate::trust::doors::ConnectionLimits;
use crate::trust::server_tls::CertificateSource;

/// Queues deployment tasks, gives them to agents, and keeps their journals.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "deputy-manager",
    version,
    after_help = "Flags win over the environment. Exit codes: 0 ended in order, 2 bad arguments, 10 cannot start, 11 a fault of Deputy."
)]
pub(crate) struct RawConfig {
    /// Where to listen. Port 0 takes any free one
    #[arg(
        long,
        env = "DEPUTY_MANAGER_LISTEN",
        default_value = "127.0.0.1:7443",
        value_name = "ADDRESS"
    )]
    listen: SocketAddr,
    /// The folder that holds everything the manager keeps; this user's alone, closed to others if it is not
    #[arg(long, env = "DEPUTY_MANAGER_DATA", default_value = "deputy-data", value_name = "DIR")]
    data: PathBuf,
    /// How often agents send heartbeats
    #[arg(long, env = "DEPUTY_MANAGER_HEARTBEAT", default_value = "10s", value_parser = positive, value_name = "DURATION")]
    heartbeat: Duration,
    /// How long a lease lasts; at least four heartbeats
    #[arg(long, env = "DEPUTY_MANAGER_LEASE_TTL", default_value = "60s", value_parser = positive, value_name = "DURATION")]
    lease_ttl: Duration,
    /// Kept between the end of what could be in flight and the next assignment
    #[arg(long, env = "DEPUTY_MANAGER_GUARD", default_value = "5s", value_parser = any, value_name = "DURATION")]
    guard: Duration,
    /// How long an agent may take to start what it was offered
    #[arg(long, env = "DEPUTY_MANAGER_START_DEADLINE", default_value = "10s", value_parser = positive, value_name = "DURATION")]
    start_deadline: Duration,
    /// How long a killed child may take to be gone
    #[arg(long, env = "DEPUTY_MANAGER_KILL_GRACE", default_value = "10s", value_parser = any, value_name = "DURATION")]
    kill_grace: Duration,
    /// A name or address that the manager is dialled by, for its certificate; may be given several times. localhost,
    /// 127.0.0.1 and ::1 are always in it
    #[arg(
        long = "tls-name",
        env = "DEPUTY_MANAGER_TLS_NAME",
        value_delimiter = ',',
        value_name = "NAME"
    )]
    tls_names: Vec<String>,
    /// A certificate of your own instead, PEM, with what signed it; may be replaced while the manager runs
    #[arg(long, env = "DEPUTY_MANAGER_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its key, PEM
    #[arg(long, env = "DEPUTY_MANAGER_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// What agents' certificates speak of: spiffe://DOMAIN/…; no two managers should have the same. Default: the one that
    /// the authority was made with, which is of this manager alone: deputy- and 12 hex digits of its key
    #[arg(long, env = "DEPUTY_MANAGER_TRUST_DOMAIN", value_name = "DOMAIN")]
    trust_domain: Option<String>,
    /// How long an agent's certificate lives; it is renewed at two thirds of that
    #[arg(long, env = "DEPUTY_MANAGER_CERTIFICATE_LIFE", default_value = "24h", value_parser = positive, value_name = "DURATION")]
    certificate_life: Duration,
    /// Connections that may be open at the same time
    #[arg(long, env = "DEPUTY_MANAGER_MAX_CONNECTIONS", default_value_t = ConnectionLimits::default().total, value_name = "COUNT")]
    max_connections: usize,
    /// Connections that one address may have open (of IPv6: one /64). Raise it where all agents come through one load
    /// balancer or NAT; an agent has two or three
    #[arg(long, env = "DEPUTY_MANAGER_MAX_CONNECTIONS_PER_ADDRESS", default_value_t = ConnectionLimits::default().per_source, value_name = "COUNT")]
    max_connections_per_address: usize,
    /// No TLS, and nobody is asked who he is. Only for a manager that only this machine can reach
    #[arg(long, env = "DEPUTY_MANAGER_INSECURE_LOOPBACK", conflicts_with_all = ["tls_names", "tls_cert"])]
    insecure_loopback: bool,
    #[command(flatten)]
    oidc: OidcFlags,
    #[command(flatten)]
    sts: StsFlags,
    /// How log lines are written
    #[arg(
        long,
        env = "DEPUTY_MANAGER_LOG_FORMAT",
        default_value = "text",
        value_name = "FORMAT"
    )]
    log_format: LogFormat,
    /// Written with the real address when the manager accepts connections
    #[arg(long, env = "DEPUTY_MANAGER_READY_FILE", value_name = "PATH")]
    ready_file: Option<PathBuf>,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// Checked values.
pub(crate) struct Config {
    pub(crate) settings: Settings,
    pub(crate) log_format: LogFormat,
    pub(crate) ready_file: Option<PathBuf>,
}

impl std::str::FromStr for LogFormat {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => Err(format!("{other:?} is no log format; there are text and json")),
        }
    }
}

fn any(text: &str) -> Result<Duration, String> {
    duration::parse(text).map_err(|error| error.to_string())
}

fn positive(text: &str) -> Result<Duration, String> {
    match any(text)? {
        Duration::ZERO => Err(format!("{text:?} must be longer than nothing")),
        duration => Ok(duration),
    }
}

impl RawConfig {
    /// Checks what single values cannot tell.
    pub(crate) fn check(self) -> Result<Config, String> {
        if self.lease_ttl < self.heartbeat * 4 {
            return Err(format!(
                "--lease-ttl {:?} is shorter than four heartbeats of {:?}: one lost heartbeat must not end a lease",
                self.lease_ttl, self.heartbeat
            ));
        }
        let timing = Timing {
            heartbeat: self.heartbeat,
            lease_ttl: self.lease_ttl,
            guard: self.guard,
            start_deadline: self.start_deadline,
            kill_grace: self.kill_grace,
        };
        if let Some(domain) = self.trust_domain.as_deref().filter(|text| !is_trust_domain(text)) {
            return Err(format!(
                "--trust-domain {domain:?} is none: 1 to 255 of a-z, 0-9, '.' and '-'"
            ));
        }
        let transport = match (self.insecure_loopback, self.tls_cert, self.tls_key) {
            (true, ..) => Transport::InsecureLoopback,
            (false, Some(chain), Some(key)) => Transport::Tls(CertificateSource::Files { chain, key }),
            (false, ..) => Transport::Tls(CertificateSource::Own(self.tls_names)),
        };
        let settings = Settings {
            listen: self.listen,
            data: self.data,
            timing,
            uploads: UploadLimits::default(),
            oidc: self.oidc.check()?,
            boot: Arc::new(KernelBootClock),
            witness: None,
            security: SecuritySettings {
                transport,
                trust_domain: self.trust_domain,
                certificate_life: self.certificate_life,
                aws: self.sts.check()?,
                fetcher: Fetcher::default(),
                connections: ConnectionLimits {
                    total: self.max_connections.max(1),
                    per_source: self.max_connections_per_address.max(1),
                },
            },
        };
        Ok(Config {
            settings,
            log_format: self.log_format,
            ready_file: self.ready_file,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Config, String> {
        let all = std::iter::once("deputy-manager").chain(arguments.iter().copied());
        RawConfig::try_parse_from(all)
            .map_err(|error| error.to_string())?
            .check()
    }

    #[test]
    fn the_defaults_are_those_of_the_design() {
        let config = parse(&[]).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(config.settings.timing, Timing::default());
        assert_eq!(config.settings.listen, SocketAddr::from(([127, 0, 0, 1], 7443)));
    }

    #[test]
    fn a_lease_lasts_at_least_four_heartbeats() {
        let error = parse(&["--heartbeat", "10s", "--lease-ttl", "39s"])
            .err()
            .unwrap_or_default();
        assert!(error.contains("shorter than four heartbeats"), "{error}");
        assert!(parse(&["--heartbeat", "250ms", "--lease-ttl", "1s"]).is_ok());
    }

    #[test]
    fn signed_identities_are_sent_to_sts_or_to_this_machine() {
        let error = |arguments: &[&str]| parse(arguments).err().unwrap_or_default();
        assert!(error(&["--sts-host", "sts.example.com"]).contains("names no region"));
        assert!(error(&["--sts-endpoint", "http://example.com"]).contains("only a loopback address"));
        assert!(error(&["--sts-endpoint", "not a url"]).contains("--sts-endpoint"));
        assert_eq!(
            error(&[
                "--sts-host",
                "sts.eu-west-1.amazonaws.com",
                "--sts-endpoint",
                "http://127.0.0.1:4566"
            ]),
            ""
        );
    }

    #[test]
    fn an_issuer_needs_a_place_to_show_its_keys() {
        let error = parse(&["--oidc-issuer", "https://deputy.example.com"])
            .err()
            .unwrap_or_default();
        assert!(error.contains("--oidc-listen <ADDRESS>"), "{error}");
        let both = [
            "--oidc-issuer",
            "https://deputy.example.com",
            "--oidc-listen",
            "127.0.0.1:0",
        ];
        let oidc = parse(&both)
            .unwrap_or_else(|error| panic!("{error}"))
            .settings
            .oidc
            .expect("an issuer");
        assert_eq!(oidc.config.issuer(), "https://deputy.example.com");
        let error = parse(&["--oidc-issuer", "http://x", "--oidc-listen", "127.0.0.1:0"])
            .err()
            .unwrap_or_default();
        assert!(error.contains("does not begin with https://"), "{error}");
        assert!(
            parse(&[])
                .unwrap_or_else(|error| panic!("{error}"))
                .settings
                .oidc
                .is_none()
        );
    }

    #[test]
    fn a_duration_needs_a_unit() {
        let error = parse(&["--guard", "5"]).err().unwrap_or_default();
        assert!(error.contains("has no unit"), "{error}");
    }
}
