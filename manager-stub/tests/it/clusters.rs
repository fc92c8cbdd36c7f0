//! Clusters that call themselves alike: the key set of the rule tells them apart, and an agent id of the one is nothing to
//! the other.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use deputy_proto::v1;
use serde_json::json;
use tonic::{Code, Status};

use crate::joining::renew_expired;
use crate::secured::{Member, Secured, key};

/// What kubeadm gives to every cluster.
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// A cluster's keys, as its API server has them.
struct Cluster {
    key: EcdsaKeyPair,
    id: String,
}

impl Cluster {
    fn new(id: &str) -> Self {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
        Self { key, id: id.into() }
    }

    /// A rule for the account that the chart makes.
    fn rule(&self) -> v1::join_rule::Proof {
        let point = self.key.public_key().as_ref();
        let jwks = json!({"keys": [{"kty": "EC", "crv": "P-256", "kid": self.id,
            "x": URL_SAFE_NO_PAD.encode(&point[1..33]), "y": URL_SAFE_NO_PAD.encode(&point[33..])}]});
        v1::join_rule::Proof::Kubernetes(v1::KubernetesRule {
            issuer: ISSUER.into(),
            jwks: jwks.to_string(),
            namespace: "deputy".into(),
            service_account: "deputy-agent".into(),
            ..v1::KubernetesRule::default()
        })
    }

    fn proof(&self) -> v1::join_request::Proof {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("after 1970")
            .as_secs();
        let header = json!({"alg": "ES256", "kid": self.id});
        let claims = json!({"iss": ISSUER, "sub": "system:serviceaccount:deputy:deputy-agent", "aud": ["deputy/test"],
            "iat": now - 5, "exp": now + 600,
            "kubernetes.io": {"namespace": "deputy", "serviceaccount": {"name": "deputy-agent", "uid": "u"}}});
        let signed = [header, claims]
            .map(|part| URL_SAFE_NO_PAD.encode(part.to_string()))
            .join(".");
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes()).expect("signed");
        let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature));
        v1::join_request::Proof::Kubernetes(v1::KubernetesProof { token })
    }
}

async fn joins(secured: &Secured, cluster: &Cluster, agent_id: &str) -> Result<Member, Status> {
    let key = key();
    let certificate = secured.join_by(cluster.proof(), Vec::new(), &key, agent_id).await?;
    Ok(Member { key, certificate })
}

/// A manager that takes whoever was silent for a third of a second for gone.
async fn started() -> Secured {
    Secured::with(|settings| settings.timing.heartbeat = Duration::from_millis(100)).await
}

/// Longer than that.
async fn silence() {
    tokio::time::sleep(Duration::from_millis(600)).await;
}

#[tokio::test]
async fn two_clusters_of_one_issuer_are_two_subjects() {
    let secured = started().await;
    let (prod, dev) = (Cluster::new("p"), Cluster::new("d"));
    secured.make_rule("prod", "prod", &["shop"], prod.rule()).await;
    secured.make_rule("dev", "dev", &[], dev.rule()).await;
    let member = joins(&secured, &prod, "a1").await.expect("joined");
    assert_eq!(
        (&*member.certificate.join_rule, &*member.certificate.pool),
        ("prod", "prod")
    );
    silence().await;
    let refused = joins(&secured, &dev, "a1").await.expect_err("another cluster");
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
    for said in [
        "the agent id a1 belongs to kubernetes:prod:",
        "this is kubernetes:dev:",
        "deputy fleet forget a1",
    ] {
        assert!(refused.message().contains(said), "{said}: {refused:?}");
    }
    assert_eq!(secured.listed("a1").await.join_rule, "prod");
    joins(&secured, &prod, "a1")
        .await
        .expect("the same cluster, another pod");
    joins(&secured, &dev, "a2").await.expect("an id of its own");
}

#[tokio::test]
async fn a_rule_that_is_made_again_under_its_name_goes_on_and_another_name_is_somebody_else() {
    let secured = started().await;
    let (before, after) = (Cluster::new("1"), Cluster::new("2"));
    secured.make_rule("prod", "prod", &[], before.rule()).await;
    joins(&secured, &before, "a1").await.expect("joined");
    // The cluster has new keys: a rule is made again to be changed.
    secured.remove_rule("prod").await;
    secured.make_rule("prod", "prod", &[], after.rule()).await;
    silence().await;
    joins(&secured, &after, "a1").await.expect("the same subject");
    secured.remove_rule("prod").await;
    secured.make_rule("eu-prod", "prod", &[], after.rule()).await;
    silence().await;
    let refused = joins(&secured, &after, "a1").await.expect_err("another rule");
    assert!(refused.message().contains("this is kubernetes:eu-prod:"), "{refused:?}");
    secured.revoke("a1", "its rule was renamed").await;
    let request = v1::ForgetRequest { agent_id: "a1".into() };
    secured
        .fleet()
        .await
        .forget(secured.admin(request))
        .await
        .expect("forgotten");
    joins(&secured, &after, "a1").await.expect("as it was told");
}

#[tokio::test]
async fn of_two_rules_for_one_account_the_one_that_let_the_agent_in_counts() {
    let secured = started().await;
    let cluster = Cluster::new("1");
    secured.make_rule("m", "one", &[], cluster.rule()).await;
    joins(&secured, &cluster, "a1").await.expect("joined");
    // One comes before it by its name, the other has other keys.
    secured.make_rule("a", "two", &[], cluster.rule()).await;
    secured.make_rule("z", "three", &[], Cluster::new("9").rule()).await;
    silence().await;
    let again = joins(&secured, &cluster, "a1").await.expect("joined again");
    assert_eq!((&*again.certificate.join_rule, &*again.certificate.pool), ("m", "one"));
    let other = joins(&secured, &cluster, "a2").await.expect("joined");
    assert_eq!(other.certificate.join_rule, "a", "whoever is new comes by the first");
}

/// The manager before this one wrote `kubernetes:ISSUER:NAMESPACE/ACCOUNT`.
#[tokio::test]
async fn an_agent_that_joined_before_subjects_had_rules_goes_on_by_its_rule() {
    let mut secured = started().await;
    let (prod, dev) = (Cluster::new("p"), Cluster::new("d"));
    secured.make_rule("prod", "prod", &[], prod.rule()).await;
    secured.make_rule("dev", "dev", &[], dev.rule()).await;
    let member = joins(&secured, &prod, "a1").await.expect("joined");
    let written = |folder: &std::path::Path| {
        let store = rusqlite::Connection::open(folder.join("deputy.db")).expect("the store");
        let changed = store.execute(
            "UPDATE trust SET body = CAST(replace(CAST(body AS TEXT), 'kubernetes:prod:https', 'kubernetes:https') AS BLOB) \
             WHERE kind = 'agent' AND name = 'a1'",
            [],
        );
        assert_eq!(changed, Ok(1));
    };
    secured.restart_after(written).await;
    let csr = crate::secured::csr(&key()).into();
    let renewed = secured
        .agent(&member)
        .await
        .renew_certificate(v1::RenewCertificateRequest { csr })
        .await;
    renewed.expect("its certificate is good");
    silence().await;
    joins(&secured, &dev, "a1").await.expect_err("another cluster");
    joins(&secured, &prod, "a1").await.expect("by its rule");
    secured.restart().await;
    joins(&secured, &dev, "a1").await.expect_err("another cluster still");
}

#[tokio::test]
async fn an_account_proves_itself_anew_when_its_certificate_has_expired() {
    let life = Duration::from_secs(1);
    let secured = Secured::with(|settings| settings.security.certificate_life = life).await;
    let prod = Cluster::new("p");
    secured.make_rule("prod", "prod", &[], prod.rule()).await;
    let member = joins(&secured, &prod, "a1").await.expect("joined");
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let refused = renew_expired(&secured, &member, &member.key).await.err();
    let refused = refused.expect("its key is no proof");
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
    assert!(
        refused.message().contains("it joins again by the same proof"),
        "{refused:?}"
    );
    joins(&secured, &prod, "a1").await.expect("by its proof");
}
