//! The manager as an OIDC issuer: what it shows to everybody, and for whom it makes a token.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rsa::PublicKeyComponents;
use aws_lc_rs::signature::RSA_PKCS1_2048_8192_SHA256;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use deputy_manager::dispatcher::timing::Timing;
use deputy_manager::oidc::config::OidcConfig;
use deputy_manager::oidc::listener::TlsFiles;
use deputy_manager::server::OidcSettings;
use deputy_proto::v1;
use deputy_proto::v1::agent_client::AgentClient;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::{Code, Status};

use crate::agent::{Agent, SOON, World, complete, hello, start};
use crate::secured::key;

const ISSUER: &str = "https://deputy.example.com/issuer";

pub(crate) fn issuing() -> OidcSettings {
    let (life, rotation) = (Duration::from_secs(600), Duration::from_secs(30 * 86_400));
    OidcSettings {
        config: OidcConfig::new(ISSUER, &[], life, rotation).expect("good"),
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        tls: None,
    }
}

async fn mint(world: &World, request: v1::MintTokenRequest) -> Result<String, Status> {
    let answer = AgentClient::new(world.channel().await).mint_token(request).await;
    answer.map(|answer| answer.into_inner().token)
}

fn asked(attempt: &v1::AttemptRef) -> v1::MintTokenRequest {
    v1::MintTokenRequest {
        attempt: Some(attempt.clone()),
        audience: String::new(),
        agent_id: "a1".into(),
        instance_id: "i1".into(),
    }
}

async fn get(world: &World, path: &str) -> (String, Value) {
    asked_for(connected(world).await, path).await
}

async fn connected(world: &World) -> TcpStream {
    let address = world.manager.as_ref().expect("up").oidc_address().expect("an issuer");
    TcpStream::connect(address).await.expect("connects")
}

async fn asked_for(mut stream: impl AsyncRead + AsyncWrite + Unpin, path: &str) -> (String, Value) {
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("asked");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answered");
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
    let status = head.lines().next().unwrap_or_default().to_owned();
    (status, serde_json::from_str(body).unwrap_or_default())
}

/// The claims of a token, verified as a relying party would: with the key set that it finds by the discovery document.
async fn verified(world: &World, token: &str) -> Value {
    let (_, discovery) = get(world, "/issuer/.well-known/openid-configuration").await;
    let path = discovery["jwks_uri"].as_str().expect("a place");
    let (_, keys) = get(world, path.strip_prefix("https://deputy.example.com").expect("below")).await;
    let (message, signature) = token.rsplit_once('.').expect("three parts");
    let (header, claims) = message.split_once('.').expect("three parts");
    let bytes = |part: &str| URL_SAFE_NO_PAD.decode(part).expect("base64url");
    let header: Value = serde_json::from_slice(&bytes(header)).expect("JSON");
    let key = keys["keys"]
        .as_array()
        .expect("keys")
        .iter()
        .find(|key| key["kid"] == header["kid"]);
    let key = key.expect("its key is shown");
    let part = |name: &str| bytes(key[name].as_str().expect("base64url"));
    let key = PublicKeyComponents {
        n: part("n"),
        e: part("e"),
    };
    key.verify(&RSA_PKCS1_2048_8192_SHA256, message.as_bytes(), &bytes(signature))
        .expect("signed by it");
    serde_json::from_slice(&bytes(claims)).expect("JSON")
}

/// A certificate of its own for this key, in this file.
fn certify(key: &rcgen::KeyPair, file: &Path) -> CertificateDer<'static> {
    let params = rcgen::CertificateParams::new(vec!["deputy.example.com".to_owned()]).expect("a name");
    let made = params.self_signed(key).expect("made");
    std::fs::write(file, made.pem()).expect("written");
    made.der().clone()
}

/// The certificate that the issuer shows now, and its discovery document.
async fn get_over_tls(world: &World, believed: &CertificateDer<'static>) -> (CertificateDer<'static>, Value) {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(believed.clone()).expect("a root");
    // Made for each connection: a resumed session shows no certificate.
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("deputy.example.com").expect("a name");
    let stream = TlsConnector::from(Arc::new(config)).connect(name, connected(world).await);
    let stream = stream.await.expect("a handshake");
    let shown = stream.get_ref().1.peer_certificates().expect("shown")[0].clone();
    let (_, discovery) = asked_for(stream, "/issuer/.well-known/openid-configuration").await;
    (shown, discovery)
}

/// Guards the issuer without a proxy before it: a certificate that is replaced while it runs.
#[tokio::test]
async fn the_issuer_shows_a_replaced_certificate_without_a_restart() {
    let (folder, key) = (tempfile::tempdir().expect("a folder"), key());
    let files = TlsFiles {
        certificate: folder.path().join("oidc.pem"),
        key: folder.path().join("oidc-key.pem"),
    };
    std::fs::write(&files.key, key.serialize_pem()).expect("written");
    let first = certify(&key, &files.certificate);
    let mut settings = issuing();
    settings.tls = Some(files.clone());
    let world = World::start_with(Timing::default(), Some(settings)).await;
    let (shown, discovery) = get_over_tls(&world, &first).await;
    assert_eq!((shown, discovery["issuer"].as_str()), (first, Some(ISSUER)));

    let second = certify(&key, &files.certificate);
    let replaced = async {
        while get_over_tls(&world, &second).await.0 != second {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(SOON, replaced).await.expect("shown soon");
}

/// Guards what a relying party reads: documents below the issuer, and nothing else.
#[tokio::test]
async fn the_discovery_document_and_the_keys_are_shown_below_the_issuer() {
    let world = World::start_with(Timing::default(), Some(issuing())).await;
    let (status, discovery) = get(&world, "/issuer/.well-known/openid-configuration").await;
    assert_eq!(
        (status.as_str(), discovery["issuer"].as_str()),
        ("HTTP/1.1 200 OK", Some(ISSUER))
    );
    let signs = serde_json::json!(["RS256"]);
    assert_eq!(discovery["id_token_signing_alg_values_supported"], signs);
    let (_, keys) = get(&world, "/issuer/.well-known/jwks.json").await;
    let key = &keys["keys"][0];
    assert_eq!(
        (key["kty"].as_str(), key["alg"].as_str(), key["use"].as_str()),
        (Some("RSA"), Some("RS256"), Some("sig"))
    );
    assert_eq!(key.get("d"), None, "nothing private");
    for path in [
        "/",
        "/.well-known/openid-configuration",
        "/issuer/",
        "/issuer/.well-known/jwks.json/..",
    ] {
        assert_eq!(get(&world, path).await.0, "HTTP/1.1 404 Not Found", "{path}");
    }
}

/// Guards who gets a token: the instance that runs the attempt now, and about what the store says of it.
#[tokio::test]
async fn a_token_is_made_for_the_instance_that_runs_the_attempt_and_for_nobody_else() {
    let mut world = World::start_with(Timing::default(), Some(issuing())).await;
    let mut agent = Agent::connect(&world, "a1", "i1").await;
    let id = world.submit("").await;
    let attempt = agent.assignment().await.attempt.expect("an attempt");
    let early = mint(&world, asked(&attempt)).await.expect_err("not started");
    assert_eq!(early.code(), Code::FailedPrecondition);
    agent.write(&attempt, vec![start()]).await;

    let token = mint(&world, asked(&attempt)).await.expect("made");
    let claims = verified(&world, &token).await;
    assert_eq!(
        (claims["iss"].as_str(), claims["aud"].as_str()),
        (Some(ISSUER), Some("sts.amazonaws.com"))
    );
    assert_eq!(
        claims["sub"], "project:default:pool::submitter:",
        "nobody vouches for pool and submitter here"
    );
    let lives = claims["exp"].as_u64().expect("an end") - claims["iat"].as_u64().expect("a beginning");
    assert_eq!(lives, 600);
    let tags = &claims["https://aws.amazon.com/tags"]["principal_tags"];
    assert_eq!(
        (tags["deputy:task"][0].as_str(), tags["deputy:attempt"][0].as_str()),
        (Some(id.as_str()), Some("1"))
    );

    let wrong = |change: fn(&mut v1::MintTokenRequest)| {
        let mut request = asked(&attempt);
        change(&mut request);
        request
    };
    for (request, code) in [
        (
            wrong(|request| request.instance_id = "i2".into()),
            Code::FailedPrecondition,
        ),
        (
            wrong(|request| request.agent_id = "a2".into()),
            Code::FailedPrecondition,
        ),
        (
            wrong(|request| request.attempt.as_mut().expect("one").epoch = 2),
            Code::FailedPrecondition,
        ),
        (
            wrong(|request| request.attempt.as_mut().expect("one").run = 2),
            Code::FailedPrecondition,
        ),
        (
            wrong(|request| request.attempt.as_mut().expect("one").task_id = "nobody".into()),
            Code::NotFound,
        ),
        (wrong(|request| request.attempt = None), Code::InvalidArgument),
        (
            wrong(|request| request.audience = "vault".into()),
            Code::InvalidArgument,
        ),
    ] {
        let refused = mint(&world, request.clone()).await.expect_err("refused");
        assert_eq!(refused.code(), code, "{request:?}: {refused}");
    }

    drop(agent);
    world.restart().await;
    verified(&world, &token).await;
    let mut back = hello("a1", "i1", 1);
    back.inventory = vec![v1::HeldAttempt {
        attempt: Some(attempt.clone()),
        started: true,
    }];
    let mut agent = Agent::connect_with(&world, back).await;
    let again = mint(&world, asked(&attempt)).await.expect("made");
    verified(&world, &again).await;
    agent.write(&attempt, vec![complete(v1::TaskState::Succeeded)]).await;
    let late = mint(&world, asked(&attempt)).await.expect_err("it has ended");
    assert!(late.message().contains("is not running on this agent"), "{late}");
}

/// Guards the words where a task wants what this manager does not do.
#[tokio::test]
async fn a_manager_that_is_no_issuer_says_so() {
    let world = World::start(Timing::default()).await;
    let refused = mint(&world, asked(&v1::AttemptRef::default())).await.expect_err("none");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("--oidc-issuer"), "{refused}");
}
