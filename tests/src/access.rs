//! What a client of a manager has: the address, the file of the manager's authority, a token.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use deputy_dial::authority::Authority;
use deputy_dial::dialer::Dialer;
use deputy_proto::v1;
use deputy_proto::v1::fleet_client::FleetClient;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

pub(crate) const CALL_DEADLINE: Duration = Duration::from_secs(10);

/// The rule by which the agents of a test join.
pub const JOIN_RULE: &str = "agents";
/// The pool that they are in.
pub const POOL: &str = "test";

/// A connection with a token on every call.
pub type Client = InterceptedService<Channel, Bearer>;

/// See the module.
#[derive(Debug, Clone)]
pub struct Access {
    /// Where the manager listens.
    pub address: SocketAddr,
    /// Its authority's certificate.
    pub ca_file: PathBuf,
    /// An administrator's token.
    pub token: String,
}

/// Puts a token on every call.
#[derive(Debug, Clone)]
pub struct Bearer(MetadataValue<Ascii>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

impl Access {
    /// As the first administrator of the manager with this data folder.
    pub fn of(address: SocketAddr, data: &Path) -> Result<Self> {
        let token = data.join("admin-token");
        let token = std::fs::read_to_string(&token).with_context(|| format!("reading {}", token.display()))?;
        Ok(Self {
            address,
            ca_file: data.join("ca.pem"),
            token: token.trim().to_owned(),
        })
    }

    /// The manager's address for `--manager`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Makes connections over TLS as nobody.
    pub fn dialer(&self) -> Result<Dialer> {
        let pem = std::fs::read(&self.ca_file).with_context(|| format!("reading {}", self.ca_file.display()))?;
        let tls = Authority::from_pem(&pem)?.client_config(None)?;
        Ok(Dialer::new(
            self.url().parse()?,
            Arc::default(),
            Some(Arc::new(tls)),
            CALL_DEADLINE,
        ))
    }

    /// A connection that is made with the first call, and again after a break.
    pub fn client(&self) -> Result<Client> {
        let dialer = self.dialer()?;
        let connector = tower::service_fn(move |_: http::Uri| dialer.clone().dial_for_hyper());
        let endpoint = Endpoint::from_static("https://manager").connect_timeout(CALL_DEADLINE);
        let bearer = Bearer(format!("Bearer {}", self.token).parse()?);
        Ok(InterceptedService::new(
            endpoint.connect_with_connector_lazy(connector),
            bearer,
        ))
    }

    /// A join token of [`JOIN_RULE`], which is made if it is not there.
    pub async fn join_token(&self, uses: u32) -> Result<String> {
        let mut fleet = FleetClient::new(self.client()?);
        let rule = v1::JoinRule {
            name: JOIN_RULE.into(),
            pool: POOL.into(),
            proof: Some(v1::join_rule::Proof::Token(v1::TokenRule {})),
            ..v1::JoinRule::default()
        };
        let made = fleet
            .create_join_rule(v1::CreateJoinRuleRequest { rule: Some(rule) })
            .await;
        if let Err(status) = made
            && status.code() != tonic::Code::AlreadyExists
        {
            return Err(anyhow::anyhow!("making the join rule: {status:?}"));
        }
        let request = v1::CreateJoinTokenRequest {
            rule: JOIN_RULE.into(),
            uses,
            life_ms: 0,
        };
        let made = fleet.create_join_token(request).await.context("making a join token")?;
        Ok(made.into_inner().token)
    }
}
