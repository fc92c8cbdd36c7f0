//! Each EKS cluster that was named: known, reachable from here, and does it know the identity?

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use deputy_credentials::TaskIdentity;
use deputy_credentials::authenticator::{TokenProgram, ToolLookup};
use deputy_credentials::cluster::{EksCluster, describe_cluster};
use deputy_dial::proxy::ProxyRule;
use deputy_steps::kubernetes::introduction::who_am_i;
use deputy_task::outcome::Failure;
use tokio::net::{TcpStream, lookup_host};

use super::identity::Asked;
use super::report::{Finding, Verdict};

const AREA: &str = "clusters";

/// A connection within a network, or to the next AWS region, takes far less.
const CONNECT: Duration = Duration::from_secs(5);

/// Looks at each cluster with that identity. A kubeconfig without any secret lies in `folder` meanwhile.
pub(crate) async fn findings(
    identity: Asked,
    names: &[String],
    (tools, proxy): (&ToolLookup, &ProxyRule),
    folder: &Path,
) -> Vec<Finding> {
    if names.is_empty() {
        return vec![Finding::skipped(
            AREA,
            "none named",
            "give --cluster NAME to look at one",
        )];
    }
    let identity = match identity {
        Ok(identity) => identity,
        Err(error) => return vec![Finding::failed(AREA, &names.join(", "), error.failure())],
    };
    let program = tools.token_program().await;
    let mut findings = vec![token_program(&program)];
    for name in names {
        findings.extend(cluster(&identity, name, (&program, proxy), folder).await);
    }
    findings
}

fn token_program(program: &TokenProgram) -> Finding {
    match program {
        TokenProgram::Authenticator { path, version } => Finding::good(
            AREA,
            "tokens",
            format!("aws-iam-authenticator {version}, {}", path.display()),
        ),
        TokenProgram::BuiltIn { because, .. } => {
            Finding::good(AREA, "tokens", format!("by the agent itself: {because}"))
        }
    }
}

async fn cluster(
    identity: &TaskIdentity,
    name: &str,
    (program, proxy): (&TokenProgram, &ProxyRule),
    folder: &Path,
) -> Vec<Finding> {
    let found = match describe_cluster(identity, name).await {
        Ok(found) => found,
        Err(failure) => return vec![Finding::failed(AREA, name, failure)],
    };
    let described = Finding::good(
        AREA,
        name,
        format!("Kubernetes {} at {}", found.version, found.endpoint),
    );
    let reached = match reach(&found, proxy).await {
        Ok(how) => Finding::good(AREA, &format!("{name} network"), how),
        Err(failure) => return vec![described, Finding::failed(AREA, &format!("{name} network"), failure)],
    };
    let check = format!("{name} access");
    let known = match who_am_i(identity.clone(), &found, program, folder).await {
        Ok(who) => Finding::good(AREA, &check, format!("knows this identity as {who}")),
        Err(failure) => Finding::failed(AREA, &check, failure),
    };
    vec![described, reached, known]
}

/// Opens a TCP connection to the API server and says where it went.
async fn reach(cluster: &EksCluster, proxy: &ProxyRule) -> Result<String, Failure> {
    let name = &cluster.name;
    let (host, port) = authority(&cluster.endpoint);
    if let Some(proxy) = proxy.for_host(&host, port) {
        // Whether that leads anywhere, the question about access says.
        return Ok(format!("is asked through the proxy {proxy} (HTTPS_PROXY)"));
    }
    let unreachable = |what: String, hint: &str| {
        Failure::new("eks.unreachable", format!("the API server of {name} {what}")).hint(hint)
    };
    let looked_up = tokio::time::timeout(CONNECT, lookup_host((host.as_str(), port))).await;
    let address = match looked_up {
        Ok(Ok(mut addresses)) => addresses.next(),
        Ok(Err(_)) | Err(_) => None,
    };
    let address = address.ok_or_else(|| {
        unreachable(
            format!("has a name that does not resolve here: {host}"),
            "a private endpoint resolves inside its VPC only: run the agent there, or peer the networks and share the DNS zone",
        )
    })?;
    match tokio::time::timeout(CONNECT, TcpStream::connect(address)).await {
        Ok(Ok(_)) => Ok(format!("answers at {address}")),
        Ok(Err(error)) => Err(unreachable(
            format!("cannot be reached at {address}: {error}"),
            "check routes and security groups: the cluster's must let this agent in on that port",
        )),
        Err(_) => Err(unreachable(
            format!("does not answer at {address} within {} s", CONNECT.as_secs()),
            if is_private(address.ip()) {
                "the address is private: check routes, and that the cluster's security group lets this agent in on that port"
            } else {
                "the address is public: check the way out of this network, and the cluster's list of public access CIDRs"
            },
        )),
    }
}

fn authority(endpoint: &str) -> (String, u16) {
    let rest = endpoint.strip_prefix("https://").unwrap_or(endpoint);
    let authority = rest.split('/').next().unwrap_or(rest);
    match authority.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() => {
            (host.trim_matches(['[', ']']).to_owned(), port.parse().unwrap_or(443))
        }
        _ => (authority.to_owned(), 443),
    }
}

fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_private() || address.is_loopback(),
        IpAddr::V6(address) => address.is_unique_local() || address.is_loopback(),
    }
}

/// No folder for the kubeconfig.
pub(crate) fn no_folder(error: &std::io::Error) -> Finding {
    Finding::new(
        AREA,
        "not looked at",
        Verdict::Bad,
        format!("no temporary folder for a kubeconfig: {error}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoints_host_and_port_are_found() {
        for (endpoint, host, port) in [
            (
                "https://ABC.gr7.eu-west-1.eks.amazonaws.com",
                "ABC.gr7.eu-west-1.eks.amazonaws.com",
                443,
            ),
            ("https://127.0.0.1:6443", "127.0.0.1", 6443),
            ("https://[::1]:6443/", "::1", 6443),
        ] {
            assert_eq!(authority(endpoint), (host.to_owned(), port));
        }
    }
}
