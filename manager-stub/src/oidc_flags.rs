//! The flags of the OIDC issuer: all or nothing.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use deputy_task::document::duration;

use crate::oidc::config::OidcConfig;
use crate::oidc::listener::TlsFiles;
use crate::server::OidcSettings;

/// As they were given.
#[derive(Debug, Clone, Args)]
pub(crate) struct OidcFlags {
    /// Vouch for attempts as this OIDC issuer: https://, without a port; what an IAM OIDC provider names
    #[arg(
        long,
        env = "DEPUTY_MANAGER_OIDC_ISSUER",
        value_name = "URL",
        requires = "oidc_listen"
    )]
    oidc_issuer: Option<String>,
    /// Where the issuer's discovery document and keys are served, over plain HTTP for a proxy with the issuer's
    /// certificate, or over TLS with --oidc-certificate
    #[arg(
        long,
        env = "DEPUTY_MANAGER_OIDC_LISTEN",
        value_name = "ADDRESS",
        requires = "oidc_issuer"
    )]
    oidc_listen: Option<SocketAddr>,
    /// Certificate chain (PEM) of --oidc-listen; read again when it changes
    #[arg(
        long,
        env = "DEPUTY_MANAGER_OIDC_CERTIFICATE",
        value_name = "FILE",
        requires = "oidc_key"
    )]
    oidc_certificate: Option<PathBuf>,
    /// Private key (PEM) of --oidc-certificate
    #[arg(
        long,
        env = "DEPUTY_MANAGER_OIDC_KEY",
        value_name = "FILE",
        requires = "oidc_certificate"
    )]
    oidc_key: Option<PathBuf>,
    /// Whom tokens may be for; the first is meant where a task names none
    #[arg(
        long = "oidc-audience",
        env = "DEPUTY_MANAGER_OIDC_AUDIENCES",
        value_name = "AUDIENCE",
        value_delimiter = ',',
        default_value = "sts.amazonaws.com"
    )]
    oidc_audiences: Vec<String>,
    /// How long a token lives, 5m to 15m
    #[arg(long, env = "DEPUTY_MANAGER_OIDC_TOKEN_LIFE", default_value = "10m", value_parser = parse, value_name = "DURATION")]
    oidc_token_life: Duration,
    /// How long a key signs before the next one does
    #[arg(long, env = "DEPUTY_MANAGER_OIDC_KEY_ROTATION", default_value = "30d", value_parser = parse, value_name = "DURATION")]
    oidc_key_rotation: Duration,
}

fn parse(text: &str) -> Result<Duration, String> {
    duration::parse(text).map_err(|error| error.to_string())
}

impl OidcFlags {
    /// Checks them; none without an issuer.
    pub(crate) fn check(self) -> Result<Option<OidcSettings>, String> {
        let (Some(issuer), Some(listen)) = (self.oidc_issuer, self.oidc_listen) else {
            return Ok(None);
        };
        let config = OidcConfig::new(
            &issuer,
            &self.oidc_audiences,
            self.oidc_token_life,
            self.oidc_key_rotation,
        )?;
        let tls = self
            .oidc_certificate
            .zip(self.oidc_key)
            .map(|(certificate, key)| TlsFiles { certificate, key });
        Ok(Some(OidcSettings { config, listen, tls }))
    }
}
