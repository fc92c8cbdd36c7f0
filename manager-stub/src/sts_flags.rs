//! The flags of joining by AWS identity: which STS hosts may be signed for, and where it is asked.

use clap::Args;
use http::Uri;

use crate::fetch::Endpoint;
use crate::join::aws_identity::AwsVerifier;
use crate::join::sts_host::StsHosts;

/// As they were given.
#[derive(Debug, Clone, Args)]
pub(crate) struct StsFlags {
    /// An STS host that agents may sign for, or HOST=REGION; may be given several times. Given, it replaces the list of
    /// the public hosts
    #[arg(
        long = "sts-host",
        env = "DEPUTY_MANAGER_STS_HOSTS",
        value_delimiter = ',',
        value_name = "HOST"
    )]
    sts_hosts: Vec<String>,
    /// Send signed identities here and not to the host that they are signed for: for a test cloud, or a way out of your own
    #[arg(long, env = "DEPUTY_MANAGER_STS_ENDPOINT", value_name = "URL")]
    sts_endpoint: Option<String>,
}

impl StsFlags {
    /// Checks them.
    pub(crate) fn check(self) -> Result<AwsVerifier, String> {
        let hosts = if self.sts_hosts.is_empty() {
            StsHosts::default()
        } else {
            StsHosts::only(&self.sts_hosts).map_err(|why| format!("--sts-host {why}"))?
        };
        let endpoint = self.sts_endpoint.map(|text| {
            let uri: Uri = text
                .parse()
                .map_err(|error| format!("--sts-endpoint {text:?} is no URL: {error}"))?;
            Endpoint::of_url(&uri).map_err(|why| format!("--sts-endpoint {why}"))
        });
        Ok(AwsVerifier::new(hosts, endpoint.transpose()?))
    }
}
