//! What proves an agent's identity to a manager: identities that the emulated STS vouches for, and tokens of a real
//! Kubernetes.

use std::time::{Duration, SystemTime};

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use deputy_credentials::env::Env;
use deputy_credentials::join_proof::{self, ProofBinding, SignedIdentity as Proof};
use deputy_credentials::{Identities, TaskIdentity};
use deputy_manager::fetch::Endpoint;
use deputy_manager::join::aws_identity::AwsVerifier;
use deputy_manager::join::key_sets::KeySource;
use deputy_manager::join::kubernetes::KubernetesVerifier;
use deputy_manager::join::service_account_rule::KubernetesRule;
use deputy_manager::join::signed_identity::SignedIdentity;
use deputy_manager::join::sts_host::StsHosts;
use deputy_manager::join::unproven::{Unproven, UnprovenKind};
use deputy_manager::join::{Binding, JoinRule, Proven, RuleProof};
use deputy_task::document::RoleHop;
use deputy_tests::cloud::{Cloud, HOME};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount as Account;
use kube::Api;
use kube::api::PostParams;
use serde_json::{Value, json};

const DOMAIN: &str = "deputy.example.com";
const NONCE: [u8; 32] = [7; 32];
const CSR: [u8; 32] = [9; 32];

fn binding() -> ProofBinding<'static> {
    ProofBinding {
        nonce: &NONCE,
        trust_domain: DOMAIN,
        csr_sha256: CSR,
    }
}

/// The identity of an agent that has `hops` behind the root of [`HOME`].
fn identity(cloud: &Cloud, hops: &[&str]) -> TaskIdentity {
    let env: Env = [
        ("AWS_ACCESS_KEY_ID", HOME),
        ("AWS_SECRET_ACCESS_KEY", "test"),
        ("AWS_ENDPOINT_URL", cloud.scenery().endpoint.as_str()),
    ]
    .into_iter()
    .collect();
    let hops: Vec<RoleHop> = hops
        .iter()
        .map(|role| serde_json::from_value(json!({"roleArn": role})).expect("a hop"))
        .collect();
    let identity = Identities::new(env).for_task(&cloud.scenery().region, &hops, "agent-1");
    identity.expect("an identity")
}

fn verifier(cloud: &Cloud) -> AwsVerifier {
    let endpoint = Endpoint::of_url(&cloud.scenery().endpoint.parse().expect("a URL"));
    AwsVerifier::new(StsHosts::default(), Some(endpoint.expect("loopback")))
}

fn rule(name: &str, proof: RuleProof) -> JoinRule {
    JoinRule {
        name: name.into(),
        pool: "eu".into(),
        projects: Vec::new(),
        proof,
        created_at_ms: 0,
        created_by: String::new(),
    }
}

fn aws_rule(account: &str, role: &str) -> JoinRule {
    let (account, role) = (account.into(), role.into());
    rule("aws", RuleProof::AwsIdentity { account, role })
}

async fn verified(cloud: &Cloud, proof: &Proof, binding: ProofBinding<'_>) -> Result<Proven, Unproven> {
    proven(&verifier(cloud), proof, binding, &aws_rule(HOME, "deputy-agent")).await
}

async fn proven(
    verifier: &AwsVerifier,
    proof: &Proof,
    binding: ProofBinding<'_>,
    rule: &JoinRule,
) -> Result<Proven, Unproven> {
    let proof = SignedIdentity {
        host: &proof.host,
        authorization: &proof.authorization,
        amz_date: &proof.amz_date,
        security_token: &proof.security_token,
    };
    let binding = Binding {
        nonce: binding.nonce.to_vec(),
        trust_domain: binding.trust_domain.into(),
        csr_sha256: binding.csr_sha256,
    };
    let rules = [aws_rule(HOME, "somebody-else"), rule.clone()];
    verifier.prove(&proof, &binding, &rules, SystemTime::now()).await
}

/// Guards joining by AWS identity: the account and the role are AWS's word, whatever the session is called.
#[tokio::test]
async fn a_signed_identity_proves_account_and_role() {
    let cloud = Cloud::shared().await.expect("a cloud");
    let role = cloud.scenery().agent_role.clone();
    let proof = join_proof::aws_identity(&identity(&cloud, &[&role]), &binding()).await;
    let proof = proof.expect("signed");
    let proved = verified(&cloud, &proof, binding()).await.expect("believed");
    assert_eq!(
        (proved.subject.as_str(), proved.rule.pool.as_str()),
        ("aws:000000000000:role/deputy-agent", "eu")
    );
    for (account, role) in [
        ("222222222222", "deputy-agent"),
        (HOME, "deputy-agent-2"),
        (HOME, "agent-1"),
    ] {
        let refused = proven(&verifier(&cloud), &proof, binding(), &aws_rule(account, role)).await;
        assert_eq!(
            refused.expect_err(role).what,
            "no join rule lets in role deputy-agent of account 000000000000"
        );
    }

    let root = identity(&cloud, &[]);
    let proof = join_proof::aws_identity(&root, &binding()).await.expect("signed");
    assert_eq!(proof.security_token, "", "keys that do not end have no token");
    let refused = verified(&cloud, &proof, binding()).await.expect_err("no role");
    assert_eq!(
        refused.what,
        "no join rule lets in the root user of account 000000000000"
    );
}

/// Guards the binding: a proof that was made for something else has no good signature.
#[tokio::test]
async fn an_identity_that_was_signed_for_something_else_is_refused() {
    let cloud = Cloud::shared().await.expect("a cloud");
    let role = cloud.scenery().agent_role.clone();
    let proof = join_proof::aws_identity(&identity(&cloud, &[&role]), &binding()).await;
    let proof = proof.expect("signed");
    let others = [
        ProofBinding {
            nonce: &[8; 32],
            ..binding()
        },
        ProofBinding {
            trust_domain: "deputy.evil.com",
            ..binding()
        },
        ProofBinding {
            csr_sha256: [10; 32],
            ..binding()
        },
    ];
    for other in others {
        let refused = verified(&cloud, &proof, other).await.expect_err("another binding");
        assert_eq!(refused.kind, UnprovenKind::Denied, "{refused}");
        assert!(refused.to_string().contains("SignatureDoesNotMatch"), "{refused}");
        assert!(refused.hint.contains("another challenge"), "{refused}");
    }
    let tampered = Proof {
        security_token: format!("{}x", proof.security_token),
        ..proof.clone()
    };
    let refused = verified(&cloud, &tampered, binding()).await.expect_err("another token");
    assert_eq!(refused.kind, UnprovenKind::Denied, "{refused}");
    let elsewhere = Proof {
        host: "sts.eu-west-2.amazonaws.com".into(),
        ..proof.clone()
    };
    let refused = verified(&cloud, &elsewhere, binding())
        .await
        .expect_err("another region");
    assert!(refused.what.contains("sts in eu-west-2"), "{refused}");
    let evil = Proof {
        host: "sts.evil.com".into(),
        ..proof.clone()
    };
    let refused = verified(&cloud, &evil, binding()).await.expect_err("another host");
    assert!(refused.what.contains("no STS host of this manager"), "{refused}");
    let more = Proof {
        authorization: proof.authorization.replace("host;", "host;x-admin;"),
        ..proof.clone()
    };
    let refused = verified(&cloud, &more, binding()).await.expect_err("another header");
    assert!(refused.what.contains("signs more than it may"), "{refused}");
    verified(&cloud, &proof, binding())
        .await
        .expect("the proof itself was good");
}

/// Guards the way to STS: that it cannot be asked is no verdict.
#[tokio::test]
async fn an_sts_that_is_down_is_no_verdict() {
    let cloud = Cloud::shared().await.expect("a cloud");
    let proof = join_proof::aws_identity(&identity(&cloud, &[]), &binding()).await;
    let proof = proof.expect("signed");
    let nobody = Endpoint::of_url(&"http://127.0.0.1:1".parse().expect("a URL")).expect("loopback");
    let verifier = AwsVerifier::new(StsHosts::default(), Some(nobody));
    let refused = proven(&verifier, &proof, binding(), &aws_rule(HOME, "deputy-agent")).await;
    let refused = refused.expect_err("nobody there");
    assert_eq!(refused.kind, UnprovenKind::Later);
    assert!(
        refused.what.contains("sts.eu-west-1.amazonaws.com did not say"),
        "{refused}"
    );
    assert!(refused.hint.contains("sign for another region"), "{refused}");
}

/// A service account of a real cluster, and the rule that lets it in.
struct Kubernetes {
    accounts: Api<Account>,
    rule: KubernetesRule,
    keys: Value,
}

impl Kubernetes {
    async fn new() -> Self {
        let cloud = Cloud::shared().await.expect("a cloud");
        let client = cloud
            .kubernetes()
            .await
            .expect("a cluster")
            .admin()
            .await
            .expect("its administrator");
        let accounts = Api::namespaced(client.clone(), "shop");
        for name in ["joins", "other"] {
            let account: Account = serde_json::from_value(json!({"metadata": {"name": name}})).expect("an account");
            match accounts.create(&PostParams::default(), &account).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(error) => panic!("{error}"),
            }
        }
        let keys = client.request_text(
            http::Request::get("/openid/v1/jwks")
                .body(Vec::new())
                .expect("a request"),
        );
        let keys = keys.await.expect("the cluster's keys");
        let rule = KubernetesRule {
            issuer: "https://kubernetes.default.svc".into(),
            keys: KeySource::Given(keys.clone()),
            namespace: "shop".into(),
            service_account: "joins".into(),
        };
        rule.check().expect("a good rule");
        Self {
            accounts,
            rule,
            keys: serde_json::from_str(&keys).expect("JSON"),
        }
    }

    async fn token(&self, account: &str, audience: &str) -> String {
        let wish = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: Some(vec![audience.into()]),
                expiration_seconds: Some(600),
                ..TokenRequestSpec::default()
            }),
            ..TokenRequest::default()
        };
        let made = self
            .accounts
            .create_token_request(account, &PostParams::default(), &wish)
            .await;
        made.expect("made")
            .status
            .and_then(|status| status.token)
            .expect("a token")
    }

    async fn verdict(&self, token: &str, at: SystemTime) -> Result<Proven, Unproven> {
        let rules = [
            aws_rule(HOME, "deputy-agent"),
            rule("prod", RuleProof::Kubernetes(self.rule.clone())),
        ];
        KubernetesVerifier::default().prove(token, DOMAIN, &rules, at).await
    }

    async fn refused(&self, token: &str) -> String {
        self.verdict(token, SystemTime::now())
            .await
            .expect_err("refused")
            .to_string()
    }
}

fn part(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

/// Guards joining by service account: a token of a real API server, for this manager and now.
#[tokio::test]
async fn a_clusters_token_proves_a_service_account() {
    let kubernetes = Kubernetes::new().await;
    let audience = format!("deputy/{DOMAIN}");
    let token = kubernetes.token("joins", &audience).await;
    let proved = kubernetes.verdict(&token, SystemTime::now()).await.expect("believed");
    assert_eq!(
        proved.subject,
        "kubernetes:prod:https://kubernetes.default.svc:shop/joins"
    );
    assert_eq!(proved.rule.name, "prod");

    let told = kubernetes.refused(&kubernetes.token("other", &audience).await).await;
    assert!(
        told.contains("no join rule lets in the service account other of namespace shop"),
        "{told}"
    );
    let told = kubernetes
        .refused(&kubernetes.token("joins", "deputy/deputy.evil.com").await)
        .await;
    assert!(
        told.contains("is for deputy/deputy.evil.com, and not for deputy/deputy.example.com"),
        "{told}"
    );
    let apart = Duration::from_secs(700);
    let late = kubernetes
        .verdict(&token, SystemTime::now() + apart)
        .await
        .expect_err("over");
    assert!(late.what.contains("the token ended"), "{late}");
    let early = kubernetes
        .verdict(&token, SystemTime::now() - apart)
        .await
        .expect_err("not yet");
    assert!(early.what.contains("the token is good only in"), "{early}");
}

/// Guards against forged tokens: nothing but the cluster's key makes one.
#[tokio::test]
async fn a_forged_token_proves_nobody() {
    let mut kubernetes = Kubernetes::new().await;
    let token = kubernetes.token("other", &format!("deputy/{DOMAIN}")).await;
    let parts: Vec<&str> = token.split('.').collect();
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(parts[1]).expect("base64")).expect("JSON");
    let header: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(parts[0]).expect("base64")).expect("JSON");
    let mut wanted = claims.clone();
    wanted["sub"] = "system:serviceaccount:shop:joins".into();
    wanted["kubernetes.io"]["serviceaccount"]["name"] = "joins".into();

    let told = kubernetes
        .refused(&format!("{}.{}.{}", parts[0], part(&wanted), parts[2]))
        .await;
    assert!(told.contains("its signature is not that of the issuer's key"), "{told}");
    let told = kubernetes
        .refused(&format!("{}.{}.", part(&json!({"alg": "none"})), part(&wanted)))
        .await;
    assert!(told.contains(r#"it is signed with "none""#), "{told}");
    // What a verifier that asks the token how to verify it would accept: the public key as the secret of an HMAC.
    let confused = json!({"alg": "HS256", "kid": header["kid"]});
    let message = format!("{}.{}", part(&confused), part(&wanted));
    let key = &kubernetes.keys["keys"][0];
    let part_of_key = key["n"].as_str().or(key["x"].as_str()).expect("RSA or EC");
    let public = URL_SAFE_NO_PAD.decode(part_of_key).expect("base64");
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &public), message.as_bytes());
    let told = kubernetes
        .refused(&format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag)))
        .await;
    assert!(told.contains(r#"it is signed with "HS256""#), "{told}");

    let mut foreign = claims.clone();
    foreign["iss"] = "https://another.cluster".into();
    let told = kubernetes
        .refused(&format!("{}.{}.{}", parts[0], part(&foreign), parts[2]))
        .await;
    assert!(told.contains("no join rule names the token's issuer"), "{told}");
    let told = kubernetes.refused(&token[..token.len() / 2]).await;
    assert!(told.contains("it is no signed token"), "{told}");

    kubernetes.rule.keys = KeySource::Url {
        url: "http://127.0.0.1:1/openid/v1/jwks".into(),
        ca_pem: String::new(),
    };
    let refused = kubernetes
        .verdict(&token, SystemTime::now())
        .await
        .expect_err("no keys");
    assert_eq!(refused.kind, UnprovenKind::Later);
    assert!(
        refused
            .what
            .contains("cannot be had from http://127.0.0.1:1/openid/v1/jwks: cannot connect"),
        "{refused}"
    );
}
