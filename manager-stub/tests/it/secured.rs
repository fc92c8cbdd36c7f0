//! A manager with TLS in this process, and clients with tokens and certificates.

use std::sync::Arc;
use std::time::Duration;

use deputy_dial::authority::{Authority, ClientIdentity};
use deputy_dial::dialer::Dialer;
use deputy_manager::server::{Manager, Settings, Transport};
use deputy_manager::trust::server_tls::CertificateSource;
use deputy_proto::v1;
use deputy_proto::v1::agent_client::AgentClient;
use deputy_proto::v1::enrollment_client::EnrollmentClient;
use deputy_proto::v1::fleet_client::FleetClient;
use tonic::transport::{Channel, Endpoint};

/// The same as a process would have it.
pub(crate) struct Secured {
    pub(crate) manager: Option<Manager>,
    pub(crate) folder: tempfile::TempDir,
    settings: Settings,
}

/// An agent's key and what its certificate is.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) key: rcgen::KeyPair,
    pub(crate) certificate: v1::IssuedCertificate,
}

pub(crate) fn key() -> rcgen::KeyPair {
    rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key")
}

/// A signing request, DER.
pub(crate) fn csr(key: &rcgen::KeyPair) -> Vec<u8> {
    let params = rcgen::CertificateParams::new(Vec::new()).expect("no names");
    params.serialize_request(key).expect("a request").der().to_vec()
}

impl Member {
    pub(crate) fn identity(&self) -> ClientIdentity {
        let chain: Vec<Vec<u8>> = self.certificate.chain.iter().map(|one| one.to_vec()).collect();
        ClientIdentity::new(&chain, &self.key.serialize_der()).expect("an identity")
    }
}

impl Secured {
    pub(crate) async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut settings = Settings::on_loopback(folder.path().to_owned());
        settings.security.transport = Transport::Tls(CertificateSource::Own(Vec::new()));
        settings.security.trust_domain = Some("test".into());
        settings.timing = crate::agent::quick();
        change(&mut settings);
        let manager = Manager::start(settings.clone()).await.expect("the manager starts");
        Self {
            manager: Some(manager),
            folder,
            settings,
        }
    }

    pub(crate) async fn restart(&mut self) {
        self.manager.take().expect("up").shutdown().await;
        self.manager = Some(Manager::start(self.settings.clone()).await.expect("starts again"));
    }

    /// Starts again after something was done to the data folder.
    pub(crate) async fn restart_after(&mut self, change: impl FnOnce(&std::path::Path)) {
        self.manager.take().expect("up").shutdown().await;
        change(self.folder.path());
        self.manager = Some(Manager::start(self.settings.clone()).await.expect("starts again"));
    }

    pub(crate) fn admin_token(&self) -> String {
        let text = std::fs::read_to_string(self.folder.path().join("admin-token")).expect("written");
        text.trim().to_owned()
    }

    pub(crate) fn dialer(&self, identity: Option<&ClientIdentity>) -> Dialer {
        let pem = std::fs::read(self.folder.path().join("ca.pem")).expect("written");
        let authority = Authority::from_pem(&pem).expect("an authority");
        let address = self.manager.as_ref().expect("up").address();
        let url = format!("https://{address}").parse().expect("an address");
        let tls = authority.client_config(identity).expect("a configuration");
        Dialer::new(url, Arc::default(), Some(Arc::new(tls)), Duration::from_secs(5))
    }

    pub(crate) async fn try_channel(&self, identity: Option<&ClientIdentity>) -> Result<Channel, String> {
        let dialer = self.dialer(identity);
        let connector = move |_| dialer.clone().dial_for_hyper();
        let endpoint = Endpoint::from_static("https://manager");
        let channel = endpoint.connect_with_connector(tower::service_fn(connector)).await;
        channel.map_err(|error| {
            deputy_dial::dialer::explain_chain(&error, "manager").unwrap_or_else(|| format!("{error:?}"))
        })
    }

    pub(crate) async fn channel(&self, identity: Option<&ClientIdentity>) -> Channel {
        self.try_channel(identity).await.expect("connects")
    }

    pub(crate) async fn enrollment(&self) -> EnrollmentClient<Channel> {
        EnrollmentClient::new(self.channel(None).await)
    }

    pub(crate) async fn agent(&self, member: &Member) -> AgentClient<Channel> {
        AgentClient::new(self.channel(Some(&member.identity())).await)
    }

    pub(crate) async fn fleet(&self) -> FleetClient<Channel> {
        FleetClient::new(self.channel(None).await)
    }

    /// A request with the administrator's token.
    pub(crate) fn admin<T>(&self, message: T) -> tonic::Request<T> {
        bearer(message, &self.admin_token())
    }

    /// Revokes an agent's certificates.
    pub(crate) async fn revoke(&self, agent_id: &str, reason: &str) -> v1::RevokeResponse {
        let request = v1::RevokeRequest {
            agent_id: agent_id.into(),
            reason: reason.into(),
        };
        let revoked = self.fleet().await.revoke(self.admin(request)).await;
        revoked.expect("revoked").into_inner()
    }

    /// A token rule and a join token for it.
    pub(crate) async fn join_token(&self, rule: &str, uses: u32) -> String {
        self.join_token_for(rule, uses, &[]).await
    }

    /// The same, for agents of these projects.
    pub(crate) async fn join_token_for(&self, rule: &str, uses: u32, projects: &[&str]) -> String {
        let made = v1::JoinRule {
            name: rule.into(),
            pool: "eu".into(),
            projects: projects.iter().map(|project| (*project).to_owned()).collect(),
            proof: Some(v1::join_rule::Proof::Token(v1::TokenRule {})),
            ..v1::JoinRule::default()
        };
        let request = v1::CreateJoinRuleRequest { rule: Some(made) };
        let made = self.fleet().await.create_join_rule(self.admin(request)).await;
        if let Err(status) = made {
            assert_eq!(status.code(), tonic::Code::AlreadyExists, "{status:?}");
        }
        let request = v1::CreateJoinTokenRequest {
            rule: rule.into(),
            uses,
            life_ms: 0,
        };
        let made = self.fleet().await.create_join_token(self.admin(request)).await;
        made.expect("made").into_inner().token
    }

    /// A challenge, and the client that asked for it.
    pub(crate) async fn challenge(&self) -> Result<(EnrollmentClient<Channel>, v1::ChallengeResponse), tonic::Status> {
        let mut enrollment = self.enrollment().await;
        let challenge = enrollment.challenge(v1::ChallengeRequest {}).await?.into_inner();
        Ok((enrollment, challenge))
    }

    /// Joins with this key.
    pub(crate) async fn join_with(
        &self,
        key: &rcgen::KeyPair,
        agent_id: &str,
        token: &str,
    ) -> Result<v1::IssuedCertificate, tonic::Status> {
        self.join_after(Vec::new(), key, agent_id, token).await
    }

    /// The same, and shows the last certificate of the key.
    pub(crate) async fn join_after(
        &self,
        before: Vec<u8>,
        key: &rcgen::KeyPair,
        agent_id: &str,
        token: &str,
    ) -> Result<v1::IssuedCertificate, tonic::Status> {
        let proof = v1::join_request::Proof::Token(v1::TokenProof { token: token.into() });
        self.join_by(proof, before, key, agent_id).await
    }

    /// Joins by this proof.
    pub(crate) async fn join_by(
        &self,
        proof: v1::join_request::Proof,
        before: Vec<u8>,
        key: &rcgen::KeyPair,
        agent_id: &str,
    ) -> Result<v1::IssuedCertificate, tonic::Status> {
        let (mut enrollment, challenge) = self.challenge().await?;
        let request = v1::JoinRequest {
            csr: csr(key).into(),
            agent_id: agent_id.into(),
            nonce: challenge.nonce,
            proof: Some(proof),
            before: before.into(),
        };
        let joined = enrollment.join(request).await?.into_inner();
        Ok(joined.certificate.expect("a certificate"))
    }

    /// Makes a join rule.
    pub(crate) async fn make_rule(&self, name: &str, pool: &str, projects: &[&str], proof: v1::join_rule::Proof) {
        let rule = v1::JoinRule {
            name: name.into(),
            pool: pool.into(),
            projects: projects.iter().map(|project| (*project).to_owned()).collect(),
            proof: Some(proof),
            ..v1::JoinRule::default()
        };
        let request = v1::CreateJoinRuleRequest { rule: Some(rule) };
        let made = self.fleet().await.create_join_rule(self.admin(request)).await;
        made.expect("made");
    }

    /// Removes a join rule.
    pub(crate) async fn remove_rule(&self, name: &str) {
        let request = v1::RemoveJoinRuleRequest { name: name.into() };
        let removed = self.fleet().await.remove_join_rule(self.admin(request)).await;
        removed.expect("removed");
    }

    /// What the fleet list says of an agent.
    pub(crate) async fn listed(&self, agent_id: &str) -> v1::AgentInfo {
        let request = v1::FleetListRequest { include_gone: true };
        let listed = self.fleet().await.list(self.admin(request)).await;
        let mut all = listed.expect("listed").into_inner().agents.into_iter();
        all.find(|agent| agent.agent_id == agent_id).expect("there")
    }

    pub(crate) async fn join(&self, agent_id: &str, token: &str) -> Result<Member, tonic::Status> {
        let key = key();
        let certificate = self.join_with(&key, agent_id, token).await?;
        Ok(Member { key, certificate })
    }
}

/// A request with this bearer token.
pub(crate) fn bearer<T>(message: T, token: &str) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    let value = format!("Bearer {token}").parse().expect("a header");
    request.metadata_mut().insert("authorization", value);
    request
}
