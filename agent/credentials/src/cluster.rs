//! Which cluster a name means: its endpoint and its certificate authority, from `eks:DescribeCluster`.

use aws_sdk_eks::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_eks::operation::RequestId;
use aws_sdk_eks::operation::describe_cluster::DescribeClusterError;
use aws_sdk_eks::types::{Cluster, ClusterStatus};
use deputy_task::outcome::Failure;

use crate::error::{CredentialsError, chain_of};
use crate::identity::TaskIdentity;
use crate::refusal::{Refusal, denied, is_denial};

/// An EKS cluster that can be talked to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EksCluster {
    /// Its name.
    pub name: String,
    /// Its ARN.
    pub arn: String,
    /// Where it is.
    pub region: String,
    /// `https://…`.
    pub endpoint: String,
    /// Its certificate authority: PEM in base64, as a kubeconfig has it.
    pub ca_data: String,
    /// For example `1.33`.
    pub version: String,
}

/// Looks `name` up in the task's region.
///
/// # Errors
/// The failure that the task reports: no such cluster, no permission, not active, not reachable.
pub async fn describe_cluster(identity: &TaskIdentity, name: &str) -> Result<EksCluster, Failure> {
    let region = identity.region().to_owned();
    // Asked first, so that a missing identity is told as one.
    identity.credentials().await.map_err(|error| error.failure())?;
    let config = identity
        .sdk_config()
        .map_err(|error: CredentialsError| error.failure())?;
    let config = aws_sdk_eks::config::Builder::from(&config).interceptor(identity.pace());
    let answer = aws_sdk_eks::Client::from_conf(config.build())
        .describe_cluster()
        .name(name)
        .send()
        .await;
    let cluster = answer.map_err(|error| refused(identity, name, &error))?.cluster;
    checked(name, &region, cluster)
}

fn checked(name: &str, region: &str, cluster: Option<Cluster>) -> Result<EksCluster, Failure> {
    let Some(cluster) = cluster else {
        return Err(unknown(name, region));
    };
    let status = cluster
        .status()
        .map_or("in an unknown state", ClusterStatus::as_str)
        .to_owned();
    // An updating cluster serves; one that is made, fails or goes does not.
    if !matches!(status.as_str(), "ACTIVE" | "UPDATING") {
        let failure = Failure::new(
            "eks.clusterNotActive",
            format!("the EKS cluster {name} in {region} is {status}, not ACTIVE"),
        );
        return Err(failure.hint("wait until the cluster is ACTIVE, then retry the task"));
    }
    let ca_data = cluster
        .certificate_authority()
        .and_then(|ca| ca.data())
        .unwrap_or_default()
        .to_owned();
    let endpoint = cluster.endpoint().unwrap_or_default().to_owned();
    if !endpoint.starts_with("https://") || ca_data.is_empty() {
        return Err(Failure::new(
            "eks.clusterNotReady",
            format!("the EKS cluster {name} in {region} has no endpoint or certificate authority yet"),
        ));
    }
    Ok(EksCluster {
        name: name.to_owned(),
        arn: cluster.arn().unwrap_or_default().to_owned(),
        region: region.to_owned(),
        endpoint,
        ca_data,
        version: cluster.version().unwrap_or_default().to_owned(),
    })
}

fn refused(identity: &TaskIdentity, name: &str, error: &SdkError<DescribeClusterError>) -> Failure {
    let region = identity.region();
    let who = identity.role_arn().unwrap_or("the agent's own identity");
    let SdkError::ServiceError(answer) = error else {
        let mut failure = Failure::new(
            "eks.unreachable",
            format!("EKS in {region} did not answer when asked for the cluster {name}"),
        )
        .hint("check spec.aws.region, and the way from the agent to the EKS API (VPC endpoint, proxy, DNS)");
        failure.detail = chain_of(error);
        return failure;
    };
    let code = answer.err().code().unwrap_or("Unknown");
    let message = answer.err().message().unwrap_or("no message");
    let mut failure = match code {
        "ResourceNotFoundException" => unknown(name, region),
        code if is_denial(code) => {
            let asked = ("eks:DescribeCluster", &*format!("the EKS cluster {name} in {region}"));
            let told = denied(&Refusal::read(message), who, &identity.lineage(), asked);
            Failure::new("eks.accessDenied", told.summary).hint(told.hint)
        }
        _ => Failure::new(
            "eks.describeCluster",
            format!("the EKS cluster {name} in {region} could not be looked up: {message}"),
        ),
    };
    failure.detail = format!(
        "{code}: {message} (request {})",
        answer.err().request_id().unwrap_or("unknown")
    );
    failure
}

fn unknown(name: &str, region: &str) -> Failure {
    Failure::new(
        "eks.unknownCluster",
        format!("there is no EKS cluster {name} in {region} in the account of the task's identity"),
    )
    .hint("check the cluster's name, spec.aws.region, and the account of the last role in spec.aws.assumeRole")
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_sdk_eks::types::Certificate;

    #[test]
    fn a_cluster_that_cannot_be_talked_to_is_a_failure_in_words() {
        let creating = Cluster::builder().name("prod").status(ClusterStatus::Creating).build();
        let bare = Cluster::builder().name("prod").status(ClusterStatus::Active).build();
        let told: Vec<String> = [None, Some(creating), Some(bare)]
            .into_iter()
            .map(|cluster| checked("prod", "eu-west-1", cluster).expect_err("unusable").summary)
            .collect();
        insta::assert_snapshot!(told.join("\n"), @r"
        there is no EKS cluster prod in eu-west-1 in the account of the task's identity
        the EKS cluster prod in eu-west-1 is CREATING, not ACTIVE
        the EKS cluster prod in eu-west-1 has no endpoint or certificate authority yet
        ");
    }

    #[test]
    fn an_updating_cluster_serves() {
        let cluster = Cluster::builder()
            .status(ClusterStatus::Updating)
            .endpoint("https://127.0.0.1:6443")
            .certificate_authority(Certificate::builder().data("TFM=").build())
            .build();
        assert_eq!(
            checked("prod", "eu-west-1", Some(cluster)).expect("usable").endpoint,
            "https://127.0.0.1:6443"
        );
    }
}
