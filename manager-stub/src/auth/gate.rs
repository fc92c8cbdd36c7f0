//! The gate before every service: who calls, and may he call this? Asked once per call, answered from memory.

use std::pin::Pin;
use std::task::{Context, Poll};

use deputy_task::id::AgentId;
use http::{Request, Response};
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use super::caller::{Caller, serving};
use super::table::{Who, who};
use crate::registry::{BookError, Registry, Scope, Use};
use crate::trust::peer::{Peer, PeerCertificate, PeerName};

/// The header of an answer that says: the certificate is the reason, join again.
pub const CERTIFICATE_REFUSED: &str = "deputy-certificate-refused";

/// The header of a call that only shows a certificate: nothing is served, and it counts as no use.
const ONLY_SHOWN: &str = "deputy-only-shown";
/// The header of the answer to it, if the certificate is taken.
const CERTIFICATE_TAKEN: &str = "deputy-certificate-taken";

/// Whether callers are asked who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asking {
    /// Always.
    Everyone,
    /// Never: the manager serves this machine in the clear.
    Nobody,
}

/// Puts the gate before a service.
#[derive(Clone)]
pub struct GateLayer {
    registry: Registry,
    asking: Asking,
}

/// See the module.
#[derive(Clone)]
pub struct Gate<S> {
    inner: S,
    registry: Registry,
    asking: Asking,
}

impl GateLayer {
    /// A gate that knows whom the registry knows.
    #[must_use]
    pub const fn new(registry: Registry, asking: Asking) -> Self {
        Self { registry, asking }
    }
}

impl<S> Layer<S> for GateLayer {
    type Service = Gate<S>;

    fn layer(&self, inner: S) -> Gate<S> {
        Gate {
            inner,
            registry: self.registry.clone(),
            asking: self.asking,
        }
    }
}

impl<S> Service<Request<Body>> for Gate<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // The one that is ready is taken; its copy gets ready for the next call.
        let ready = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, ready);
        let (registry, asking) = (self.registry.clone(), self.asking);
        // A page in somebody's browser may reach what this machine serves in the clear, by HTTP/1.1.
        if request.headers().contains_key(http::header::ORIGIN) {
            let refused = Status::permission_denied("calls from web pages are not served");
            return Box::pin(async move { Ok(refused.into_http()) });
        }
        Box::pin(async move {
            let caller = match asking {
                Asking::Nobody => Caller::Unasked,
                Asking::Everyone => {
                    let shown = Shown::by(&request);
                    if request.headers().contains_key(ONLY_SHOWN) {
                        return Ok(looked_at(&registry, shown.peer.as_ref()).into_http());
                    }
                    match admitted(&registry, &shown).await {
                        Ok(caller) => caller,
                        Err(status) => return Ok(status.into_http()),
                    }
                }
            };
            serving(caller, inner.call(request)).await
        })
    }
}

/// What a call shows of its caller.
struct Shown {
    path: String,
    authorization: Option<http::HeaderValue>,
    peer: Option<Peer>,
}

impl Shown {
    fn by(request: &Request<Body>) -> Self {
        Self {
            path: request.uri().path().to_owned(),
            authorization: request.headers().get(http::header::AUTHORIZATION).cloned(),
            peer: request.extensions().get::<Peer>().cloned(),
        }
    }
}

/// Who calls, if he may call this.
async fn admitted(registry: &Registry, shown: &Shown) -> Result<Caller, Status> {
    let who = who(&shown.path);
    if who == Some(Who::Anyone) {
        return Ok(Caller::Nobody);
    }
    let caller = identified(registry, shown).await?;
    let Some(who) = who else {
        return Err(Status::unimplemented("this manager has no such method"));
    };
    match (&caller, who) {
        (Caller::Agent { .. }, Who::Agent) | (Caller::User(_), Who::AnyUser) => Ok(caller),
        // The fleet is no project's: with its rules and tokens one reaches every project.
        (Caller::User(grant), Who::User(Scope::Administer)) if !grant.projects.is_empty() => {
            Err(Status::permission_denied(format!(
                "the token {} of {} is bound to {}, and the fleet belongs to every project",
                grant.id,
                grant.name,
                grant.projects.join(", ")
            )))
        }
        (Caller::User(grant), Who::User(scope)) if grant.scopes.contains(&scope) => Ok(caller),
        (Caller::User(grant), Who::User(scope)) => Err(Status::permission_denied(format!(
            "the token {} of {} does not have the scope {scope}",
            grant.id, grant.name
        ))),
        (Caller::User(_), _) => Err(Status::permission_denied("this is for agents only")),
        _ => Err(Status::permission_denied("this is not for agents")),
    }
}

async fn identified(registry: &Registry, shown: &Shown) -> Result<Caller, Status> {
    if let Some(header) = &shown.authorization {
        let token = header.to_str().ok().and_then(bearer);
        let token = token.ok_or_else(|| Status::unauthenticated("the authorization header is no bearer token"))?;
        return registry
            .grant_of(token)
            .map(Caller::User)
            .map_err(Status::unauthenticated);
    }
    let Some((peer, certificate)) = shown
        .peer
        .as_ref()
        .and_then(|peer| Some((peer, peer.certificate.as_ref()?)))
    else {
        return Err(Status::unauthenticated(
            "credentials are needed: a bearer token for people and pipelines, a client certificate for agents",
        ));
    };
    match &certificate.name {
        PeerName::Agent { agent, .. } => {
            let agent_id: AgentId = agent
                .parse()
                .map_err(|_| refused("the certificate names no agent id".into()))?;
            let mut may_use = registry.may_use(agent, &certificate.serial, peer.since_ms);
            if matches!(may_use, Use::Refused(_)) && regained(registry, agent, certificate).await? {
                may_use = registry.may_use(agent, &certificate.serial, peer.since_ms);
            }
            match may_use {
                Use::Good => {}
                Use::First => {
                    let taken = registry.first_use(&agent_id, &certificate.serial, peer.since_ms).await;
                    taken.map_err(|error| match error {
                        BookError::Denied(why) | BookError::InUse { why, .. } => refused(why),
                        error => Status::unavailable(format!("the certificate is not taken: {error}")),
                    })?;
                }
                Use::Refused(why) => return Err(refused(why)),
            }
            let shown = registry.shown(agent, &certificate.serial);
            let (line, admission) = shown.ok_or_else(|| {
                refused(format!(
                    "the certificate {} of the agent {agent} is not known any more",
                    certificate.serial
                ))
            })?;
            registry.attach(agent, peer).map_err(refused)?;
            Ok(Caller::Agent {
                agent_id,
                serial: certificate.serial.clone(),
                line,
                admission,
            })
        }
        PeerName::User { grant } => {
            let grant = registry.grant(grant).ok_or_else(|| {
                refused(format!(
                    "the certificate {} stands for no token of this manager",
                    certificate.serial
                ))
            })?;
            match grant.refusal(crate::trust::authority::millis(crate::trust::authority::unix_now())) {
                None => Ok(Caller::User(grant)),
                Some(why) => Err(refused(why)),
            }
        }
        PeerName::Nobody(name) => Err(refused(format!(
            "the certificate {} names nobody of this trust domain ({name})",
            certificate.serial
        ))),
    }
}

/// Was it a certificate that the store has lost? It is remembered again then.
async fn regained(registry: &Registry, agent: &str, certificate: &PeerCertificate) -> Result<bool, Status> {
    let regained = registry.regain(agent, certificate).await;
    let regained = regained.map_err(|error| Status::unavailable(format!("the certificate is not taken: {error}")))?;
    if regained {
        tracing::warn!(
            agent.id = agent,
            serial = certificate.serial,
            "the store did not remember this certificate, which is newer than all that it remembers of the agent: it is an \
             older copy; the certificate is taken"
        );
    }
    Ok(regained)
}

/// Would this certificate be taken? The first use of one ends those before it, and this is none.
fn looked_at(registry: &Registry, peer: Option<&Peer>) -> Status {
    let shown = peer.and_then(|peer| Some((peer, peer.certificate.as_ref()?)));
    let Some((peer, certificate)) = shown else {
        return Status::unauthenticated("no certificate was shown");
    };
    let PeerName::Agent { agent, .. } = &certificate.name else {
        return Status::permission_denied("this is for agents only");
    };
    match registry.may_use(agent, &certificate.serial, peer.since_ms) {
        Use::Good | Use::First => {
            let status = Status::failed_precondition("the certificate is taken, and was only shown");
            marked(status, CERTIFICATE_TAKEN)
        }
        Use::Refused(why) => refused(why),
    }
}

/// UNAUTHENTICATED because of the certificate.
fn refused(why: String) -> Status {
    marked(Status::unauthenticated(why), CERTIFICATE_REFUSED)
}

/// With the header by which an agent knows that it is this manager that says so.
pub(crate) fn marked(mut status: Status, mark: &'static str) -> Status {
    status
        .metadata_mut()
        .insert(mark, tonic::metadata::MetadataValue::from_static("1"));
    status
}

/// The token of `Bearer TOKEN`.
fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}
