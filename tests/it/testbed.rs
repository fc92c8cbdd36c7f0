//! The test bed itself: the emulated cloud enforces what the product's tests rely on.

use std::collections::BTreeMap;
use std::path::PathBuf;

use aws_credential_types::Credentials;
use deputy_tests::cloud::{AWAY, Cloud};
use deputy_tests::container_credentials::{config, keys, root_config};
use deputy_tests::programs::Tools;

async fn deployer(cloud: &Cloud, external_id: Option<&str>) -> Result<Credentials, aws_sdk_sts::Error> {
    let scenery = cloud.scenery();
    let root = aws_sdk_sts::Client::new(&root_config(cloud, deputy_tests::cloud::HOME));
    let agent = root
        .assume_role()
        .role_arn(&scenery.agent_role)
        .role_session_name("test")
        .send()
        .await?;
    let agent = session(agent.credentials().expect("credentials"));
    let sts = aws_sdk_sts::Client::new(&config(cloud, &scenery.endpoint, agent));
    let hop = sts
        .assume_role()
        .role_arn(&scenery.deployer_role)
        .role_session_name("test");
    let hop = hop.set_external_id(external_id.map(str::to_owned)).send().await?;
    Ok(session(hop.credentials().expect("credentials")))
}

fn session(credentials: &aws_sdk_sts::types::Credentials) -> Credentials {
    let token = Some(credentials.session_token().to_owned());
    keys(credentials.access_key_id(), credentials.secret_access_key(), token)
}

#[tokio::test]
async fn a_role_is_assumed_across_accounts_only_with_its_external_id() {
    let cloud = Cloud::shared().await.expect("a cloud");
    let right = deployer(&cloud, Some("deputy-demo"))
        .await
        .expect("the right external id");
    let sts = aws_sdk_sts::Client::new(&config(&cloud, &cloud.scenery().endpoint, right));
    let who = sts.get_caller_identity().send().await.expect("who");
    assert_eq!(who.arn(), Some("arn:aws:sts::222222222222:assumed-role/deployer/test"));
    for wrong in [None, Some("wrong")] {
        let refused = deployer(&cloud, wrong).await.expect_err("a wrong external id");
        assert!(
            format!("{refused:?}").contains("not authorized to perform: sts:AssumeRole"),
            "{refused:?}"
        );
    }
}

#[tokio::test]
async fn a_cluster_of_eks_is_a_real_kubernetes() {
    let cloud = Cloud::shared().await.expect("a cloud");
    let cluster = cloud.kubernetes().await.expect("a cluster");
    let eks = aws_sdk_eks::Client::new(&root_config(&cloud, AWAY));
    let described = eks.describe_cluster().name("prod").send().await.expect("described");
    assert_eq!(
        described.cluster().and_then(|c| c.endpoint()),
        Some(cluster.endpoint.as_str())
    );
}

/// The demonstration on a bare machine starts the cloud while the programs of Kubernetes are still being built.
#[tokio::test]
async fn a_cluster_is_made_of_programs_that_were_built_after_the_cloud_began() {
    let built = std::fs::read(Tools::load().expect("tools").manifest()).expect("the manifest");
    let mut before: BTreeMap<String, PathBuf> = serde_json::from_slice(&built).expect("programs");
    before.retain(|program, _| program == "python");
    assert_eq!(before.len(), 1, "nothing that the cloud itself begins with");
    let folder = tempfile::tempdir().expect("a folder");
    let manifest = folder.path().join("manifest.json");
    std::fs::write(&manifest, serde_json::to_vec(&before).expect("JSON")).expect("the manifest before");
    let tools = Tools::of_manifest(manifest.clone()).expect("tools");
    let cloud = Cloud::of_tools(&tools).await.expect("a cloud");
    std::fs::write(&manifest, built).expect("the manifest after");
    cloud.kubernetes().await.expect("a cluster");
}
