//! The agent's membership in a manager's fleet: joined by a proof, renewed while it lasts, asked for again when it has
//! ended or was taken away. Shared by all connections of the agent; the session joins and renews, the others only use.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use deputy_dial::authority::{Authority, ClientIdentity};
use deputy_dial::dialer::Dialer;
use deputy_dial::proxy::ProxyRule;
use deputy_dial::url::{ManagerUrl, Transport as Security};
use deputy_proto::v1::agent_client::AgentClient;
use deputy_task::id::AgentId;
use rand::Rng;
use tonic::Status;
use tracing::{info, warn};

use crate::channel::{Dialers, ManagerChannel, Route};
use crate::enrollment::{self, CERTIFICATE_REFUSED, Enrollment, JoinError, Who};
pub use crate::enrollment::{ClockDifference, Greeting};
use crate::held::{By, Held, Keeping};
use crate::identity::{Identity, unix_now};
use crate::join_proof::ProofSource;
use crate::way::{Carrier, Transport, Way};

/// A renewal that failed is tried again after this part of what is left of the certificate's life.
const TRY_AGAIN_AFTER: f64 = 0.1;
/// But not sooner, and not later, than this.
const TRY_AGAIN: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(300));

/// Where the authority to believe comes from: asked before every connection, so that a file that was replaced counts.
pub type AuthoritySource = Arc<dyn Fn() -> Result<Authority, String> + Send + Sync>;

/// What it takes to be a member over TLS.
pub struct Joining {
    /// Whom to believe.
    pub authority: AuthoritySource,
    /// The trust domain that the manager must have; none: any.
    pub trust_domain: Option<String>,
    /// Where the proof comes from; none: there has to be an identity already.
    pub proof: Option<Arc<dyn ProofSource>>,
    /// What was kept from before, and where what comes is kept.
    pub keeping: Keeping,
}

/// A manager's answer to who asks only whether he would be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotTaken {
    /// He would not.
    Refused(String),
    /// Another key has his id, and was heard of lately.
    InUse,
    /// It was not said.
    Unasked(String),
}

impl NotTaken {
    /// Only what the manager itself said is a refusal.
    fn of(error: &JoinError) -> Self {
        match error {
            JoinError::Refused(_) | JoinError::Certificate(_) | JoinError::NoProof => Self::Refused(error.to_string()),
            JoinError::InUse { .. } => Self::InUse,
            error => Self::Unasked(error.to_string()),
        }
    }
}

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Membership {
    shared: Arc<Shared>,
}

struct Shared {
    url: ManagerUrl,
    proxy: Arc<ProxyRule>,
    within: Duration,
    agent_id: AgentId,
    joining: Option<Joining>,
    held: Held,
    way: Way,
    enrollment: tokio::sync::Mutex<Enrollment>,
}

impl fmt::Debug for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Membership")
            .field("manager", &self.shared.url)
            .field("identity", &self.shared.held.in_use())
            .finish_non_exhaustive()
    }
}

impl Membership {
    /// A membership. Without `joining` the manager is on this machine and asks nobody who he is.
    #[must_use]
    pub fn new(
        url: ManagerUrl,
        agent_id: AgentId,
        (proxy, within, transport): (ProxyRule, Duration, Transport),
        joining: Option<Joining>,
    ) -> Self {
        let mut joining = joining.filter(|_| url.transport() == Security::Tls);
        let keeping = joining.as_mut().map(|joining| std::mem::take(&mut joining.keeping));
        let Keeping {
            identity,
            joining_key,
            keeper,
        } = keeping.unwrap_or_default();
        Self {
            shared: Arc::new(Shared {
                url,
                proxy: Arc::new(proxy),
                within,
                agent_id,
                joining,
                held: Held::new(identity, keeper),
                way: Way::new(transport),
                enrollment: tokio::sync::Mutex::new(Enrollment::going_on(joining_key)),
            }),
        }
    }

    /// Tries again to write what could not be kept, for as long as the agent lives. Runs as a part of the supervisor's.
    pub async fn keep_up(self) {
        self.shared.held.keep_up().await;
    }

    /// Tries for the last time to write what could not be kept.
    ///
    /// # Errors
    /// Why it is not there.
    pub async fn keep_at_last(&self) -> Result<(), String> {
        self.shared.held.write().await
    }

    /// What people should see: a certificate could not be kept.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        self.shared.held.warning()
    }

    /// Asks the manager who it is, and nothing else: the way to it, its certificate, its clock and its trust domain
    /// are looked at. Nothing is joined.
    ///
    /// # Errors
    /// What is in the way, in words.
    pub async fn greet(&self, carrier: Carrier) -> Result<Greeting, String> {
        let greeted = enrollment::greet(&self.route_as(None, carrier), &self.who()).await;
        greeted.map_err(|error| error.to_string())
    }

    /// Shows the kept certificate to the manager, and changes nothing by it.
    ///
    /// # Errors
    /// That it is not taken and why, or what is in the way.
    pub async fn show(&self, carrier: Carrier) -> Result<(), NotTaken> {
        let identity = self.shared.held.in_use();
        let shown = enrollment::show(&self.route_as(identity, carrier), self.shared.within).await;
        shown.map_err(|error| match error {
            JoinError::Certificate(why) => NotTaken::Refused(why),
            error => NotTaken::Unasked(error.to_string()),
        })
    }

    /// Asks whether a join by the proof would be let in, with the kept key if there is one; takes nothing. Answers the
    /// pool and the rule.
    ///
    /// # Errors
    /// That it would not and why, or what is in the way.
    pub async fn check_join(&self, carrier: Carrier) -> Result<(String, String), NotTaken> {
        let proof = self.shared.joining.as_ref().and_then(|joining| joining.proof.as_ref());
        let proof = proof.ok_or_else(|| NotTaken::of(&JoinError::NoProof))?;
        let before = self.shared.held.in_use();
        let route = self.route_as(None, carrier);
        let enrollment = self.shared.enrollment.lock().await;
        let key = (proof.as_ref(), before.as_deref());
        let checked = enrollment.check_join(&route, &self.who(), key).await;
        checked.map_err(|error| NotTaken::of(&error))
    }

    /// Asks whether the kept certificate, which has ended, would be exchanged; takes nothing. Answers the pool and the
    /// rule.
    ///
    /// # Errors
    /// That it would not and why, or what is in the way.
    pub async fn check_renewal(&self, carrier: Carrier) -> Result<(String, String), NotTaken> {
        let kept = self.shared.held.in_use();
        let kept = kept.ok_or_else(|| NotTaken::Unasked(JoinError::NotYet.to_string()))?;
        let checked = enrollment::check_renewal(&self.route_as(None, carrier), &self.who(), &kept).await;
        checked.map_err(|error| NotTaken::of(&error))
    }

    /// By which way the manager is reached.
    pub(crate) fn way(&self) -> &Way {
        &self.shared.way
    }

    /// Who wants to join, and whose fleet.
    fn who(&self) -> Who<'_> {
        let shared = &self.shared;
        let joining = shared.joining.as_ref();
        Who {
            agent_id: &shared.agent_id,
            trust_domain: joining.and_then(|joining| joining.trust_domain.as_deref()),
            within: shared.within,
        }
    }

    /// Makes connections as the member that the agent is now.
    pub(crate) fn dialer(&self, carrier: Carrier) -> Result<Dialer, JoinError> {
        match (&self.shared.joining, self.shared.held.in_use()) {
            (Some(_), None) => Err(JoinError::NotYet),
            (_, identity) => self.dialer_as(identity.as_deref(), carrier),
        }
    }

    /// The way to the manager as the member that the agent is at every moment.
    pub(crate) fn route(&self, carrier: Carrier) -> Route {
        let member = self.clone();
        self.routed(carrier, Arc::new(move || member.dialer(carrier).map_err(Into::into)))
    }

    fn route_as(&self, identity: Option<Arc<Identity>>, carrier: Carrier) -> Route {
        let member = self.clone();
        let dialers = move || member.dialer_as(identity.as_deref(), carrier).map_err(Into::into);
        self.routed(carrier, Arc::new(dialers))
    }

    fn routed(&self, carrier: Carrier, dialers: Dialers) -> Route {
        Route {
            manager: self.shared.url.clone(),
            carrier,
            dialers,
        }
    }

    fn dialer_as(&self, identity: Option<&Identity>, carrier: Carrier) -> Result<Dialer, JoinError> {
        let shared = &self.shared;
        let tls = match &shared.joining {
            None => None,
            Some(joining) => {
                let authority = (joining.authority)().map_err(JoinError::Authority)?;
                let client = identity.map(|identity| ClientIdentity::new(&identity.chain, &identity.key));
                let client = client
                    .transpose()
                    .map_err(|error| JoinError::Malformed(error.to_string()))?;
                let config = authority.client_config(client.as_ref());
                let mut config = config.map_err(|error| JoinError::Malformed(error.to_string()))?;
                if carrier == Carrier::Exchange {
                    config.alpn_protocols = vec![b"http/1.1".to_vec()];
                }
                Some(Arc::new(config))
            }
        };
        Ok(Dialer::new(
            shared.url.clone(),
            Arc::clone(&shared.proxy),
            tls,
            shared.within,
        ))
    }

    /// Sees that there is an identity that can be used: joins, or exchanges what has ended. Called before the session
    /// dials; bounded by the timeouts of its calls and of the disk.
    pub(crate) async fn ensure(&self) -> Result<(), JoinError> {
        let Some(joining) = &self.shared.joining else {
            return Ok(());
        };
        let held = &self.shared.held;
        if held.is_good() || held.make_do().map_err(JoinError::NotKept)? {
            return Ok(());
        }
        let before = held.in_use();
        let mut enrollment = self.shared.enrollment.lock().await;
        let route = self.route_as(None, self.shared.way.next());
        let who = self.who();
        let proof = joining.proof.as_ref();
        let renewed = match &before {
            // What lasts is shown again; a token is used up, but the old key says who we are.
            Some(old) if !proof.is_some_and(|proof| proof.lasts()) => {
                Some(enrollment.renew_expired(&route, &who, old).await)
            }
            _ => None,
        };
        let (identity, by) = match (renewed, proof) {
            // What is on disk is exchanged again, but not once this is used.
            (Some(Ok(identity)), _) => (identity, By::WhatIsUsedUp),
            // The way to the manager is what failed.
            (Some(Err(error)), _) if !error.is_refusal() => return Err(error),
            (Some(Err(error)), Some(proof)) => {
                warn!(%error, "the certificate cannot be renewed; joining again");
                let key = (proof.as_ref(), before.as_deref());
                let joined = enrollment.join(&route, &who, (key, held.keeper())).await?;
                (joined, By::of(proof.as_ref()))
            }
            (None, Some(proof)) => {
                let key = (proof.as_ref(), before.as_deref());
                let joined = enrollment.join(&route, &who, (key, held.keeper())).await?;
                (joined, By::of(proof.as_ref()))
            }
            (Some(Err(error)), None) => return Err(error),
            (None, None) => return Err(JoinError::NoProof),
        };
        info!(
            agent.id = identity.agent_id,
            pool = identity.pool,
            join.rule = identity.join_rule,
            "joined the manager"
        );
        held.put(identity, by).await.map_err(JoinError::NotKept)
    }

    /// The manager answered that our certificate is the reason: it is exchanged before the next connection. True if it is the reason.
    pub(crate) fn heard(&self, status: &Status) -> bool {
        let refused = status.metadata().contains_key(CERTIFICATE_REFUSED);
        if refused {
            self.doubt();
        }
        refused
    }

    /// Is a certificate shown to the manager?
    pub(crate) fn is_shown(&self) -> bool {
        self.shared.joining.is_some()
    }

    /// The certificate is not taken any more.
    pub(crate) fn doubt(&self) {
        self.shared.held.doubt();
    }

    /// Renews the certificate over a live connection whenever it is due. Ends only if the connection's own certificate
    /// is not taken any more.
    pub(crate) async fn keep_renewed(self, mut client: AgentClient<ManagerChannel>) {
        let mut failed = false;
        loop {
            let held = &self.shared.held;
            // What could not be written yet is the next one: no other is asked for.
            held.settled().await;
            let Some(identity) = held.in_use() else {
                return std::future::pending().await;
            };
            let now = unix_now();
            let due = if failed {
                let left = u64::try_from(identity.not_after_ms).unwrap_or(0);
                let left = Duration::from_millis(left).saturating_sub(now);
                left.mul_f64(TRY_AGAIN_AFTER).clamp(TRY_AGAIN.0, TRY_AGAIN.1)
            } else {
                identity.renew_in(now, rand::rng().random_range(0.0..1.0))
            };
            tokio::time::sleep(due).await;
            let renewed = tokio::time::timeout(self.shared.within, enrollment::renew(&mut client)).await;
            match renewed.unwrap_or(Err(JoinError::Silent(self.shared.within))) {
                Ok(identity) => {
                    info!(not_after_ms = identity.not_after_ms, "the certificate was renewed");
                    failed = false;
                    if let Err(why) = held.put(identity, By::WhatLasts).await {
                        warn!(%why, "the old certificate is used until the new one is on disk");
                    }
                }
                // This connection is as old as its certificate; a new one is made with the newest.
                Err(error @ JoinError::Certificate(_)) => {
                    warn!(%error, "connecting again with the newest certificate");
                    return;
                }
                Err(error) => {
                    warn!(%error, "the certificate was not renewed yet");
                    failed = true;
                }
            }
        }
    }
}
