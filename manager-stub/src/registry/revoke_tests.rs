//! What comes to its turn after a revoke, or between the revoke and the end of the connections.

use std::sync::Arc;
use std::time::Duration;

use deputy_task::id::AgentId;
use tokio_util::task::TaskTracker;

use super::{BookError, Joining, Registry, Standing, Use};
use crate::dispatcher::timing::Timing;
use crate::dispatcher::{Dispatcher, DispatcherHandle};
use crate::join::{JoinRule, RuleProof};
use crate::store::clock::KernelBootClock;
use crate::store::contract::{Reads, Store};
use crate::store::sqlite::SqliteStore;
use crate::trust::authority::{Issued, millis, unix_now};
use crate::trust::peer::{Peer, PeerCertificate, PeerName};
use crate::vital::Vitals;

/// Whoever was not heard of for so long has lost his id to another key.
const SILENCE: Duration = Duration::from_millis(30);

/// The agent a1 and its manager's registry.
struct Bench {
    registry: Registry,
    _folder: tempfile::TempDir,
}

fn a1() -> AgentId {
    "a1".parse().expect("an id")
}

fn started(folder: &std::path::Path) -> (Arc<dyn Reads>, DispatcherHandle) {
    let store = SqliteStore::open(&folder.join("deputy.db")).expect("open");
    let (reads, pulse) = (store.reads(), Vitals::watched().0.pulse("dispatcher"));
    let timing = Timing {
        heartbeat: SILENCE / 3,
        ..Timing::default()
    };
    let started = Dispatcher::start(Box::new(store), Arc::new(KernelBootClock), timing, pulse);
    (reads, started.expect("started").1)
}

/// A certificate of this serial number, of this line of keys, for an hour.
fn issued(serial: &str, line: &str) -> Issued {
    let now_ms = millis(unix_now());
    Issued {
        leaf: Vec::new(),
        serial: serial.into(),
        key: line.into(),
        line: line.into(),
        not_before_ms: now_ms,
        not_after_ms: now_ms + 3_600_000,
    }
}

/// A connection that was made with this certificate.
fn peer(serial: &str) -> Peer {
    let name = PeerName::Agent {
        pool: "eu".into(),
        agent: "a1".into(),
    };
    Peer::new(Some(Arc::new(PeerCertificate {
        serial: serial.into(),
        name,
        key: "k".into(),
        line: "k".into(),
        not_before_ms: 0,
        not_after_ms: i64::MAX,
    })))
}

fn is_cut(peer: &Peer) -> bool {
    peer.cut_token().is_cancelled()
}

impl Bench {
    /// With the certificate "1" in use, and "2" that nobody has used.
    async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (reads, dispatcher) = started(folder.path());
        let registry = Registry::load(reads.as_ref(), dispatcher, TaskTracker::new()).expect("loaded");
        let bench = Self {
            registry,
            _folder: folder,
        };
        bench.registry.create_rule(rule()).await.expect("a rule");
        bench.join("1", "k").await;
        bench.first_use("1").await.expect("used");
        let renewed = bench.registry.renew("a1", "1", &issued("2", "k")).await;
        renewed.expect("renewed");
        bench
    }

    async fn join(&self, serial: &str, line: &str) {
        self.registry
            .join(joining(rule()), &issued(serial, line))
            .await
            .expect("joined");
    }

    async fn first_use(&self, serial: &str) -> Result<(), BookError> {
        self.registry.first_use(&a1(), serial, peer(serial).since_ms).await
    }

    async fn revoke(&self) {
        let revoked = Standing::Revoked {
            reason: "copied".into(),
        };
        self.registry.end(&a1(), revoked).await.expect("revoked");
    }

    /// What is asked for while a revoke waits for its turn, with its answer; its turn comes after the revoke's.
    async fn behind_a_revoke<T>(&self, asked: impl Future<Output = T>) -> T {
        let turn = Arc::clone(&self.registry.shared.changing).lock_owned().await;
        let (revoke, asked) = (self.revoke(), asked);
        tokio::pin!(revoke, asked);
        // Whoever waits first is first: one look at each puts it into the queue.
        assert!(futures::poll!(&mut revoke).is_pending());
        tokio::task::yield_now().await;
        assert!(futures::poll!(&mut asked).is_pending());
        drop(turn);
        tokio::join!(revoke, asked).1
    }
}

fn rule() -> JoinRule {
    JoinRule {
        name: "rule".into(),
        pool: "eu".into(),
        projects: Vec::new(),
        proof: RuleProof::Token,
        created_at_ms: 0,
        created_by: String::new(),
    }
}

fn joining(rule: JoinRule) -> Joining {
    Joining {
        agent_id: a1(),
        subject: "token:rule".into(),
        rule,
        token: None,
        line: None,
    }
}

fn why<T>(answer: Result<T, BookError>) -> String {
    match answer {
        Err(BookError::Denied(why)) => why,
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("it was let in"),
    }
}

#[tokio::test]
async fn a_first_use_that_waits_behind_a_revoke_is_refused() {
    let bench = Bench::new().await;
    assert_eq!(
        bench.registry.may_use("a1", "2", i64::MAX),
        Use::First,
        "the gate lets it wait"
    );
    let refused = why(bench.behind_a_revoke(bench.first_use("2")).await);
    assert_eq!(refused, "the agent a1 was revoked: copied");
    bench.join("3", "k").await;
    let refused = why(bench.first_use("2").await);
    assert_eq!(refused, "the certificate 2 of the agent a1 was revoked");
    bench
        .first_use("3")
        .await
        .expect("what joined after the revoke is good");
}

#[tokio::test]
async fn a_renewal_that_waits_behind_a_revoke_is_refused() {
    let bench = Bench::new().await;
    let next = issued("3", "k");
    let refused = why(bench.behind_a_revoke(bench.registry.renew("a1", "1", &next)).await);
    assert_eq!(refused, "the agent a1 was revoked: copied");
    // The agent itself is back before its turn comes.
    bench.join("4", "k").await;
    let refused = why(bench.registry.renew("a1", "1", &next).await);
    assert_eq!(refused, "the certificate 1 of the agent a1 was revoked");
    let refused = why(bench.registry.renew_expired("a1", "1", &next).await);
    assert!(refused.contains("was revoked, or a newer one was used"), "{refused}");
}

#[tokio::test]
async fn a_connection_is_cut_by_a_revoke_or_hears_of_it() {
    let bench = Bench::new().await;
    let (before, after) = (peer("1"), peer("1"));
    bench.registry.attach("a1", &before).expect("good");
    bench.revoke().await;
    assert!(is_cut(&before));
    // The gate let it in before the revoke, and it comes to its place when the connections have ended.
    let refused = bench.registry.attach("a1", &after).expect_err("revoked");
    assert_eq!(refused, "the agent a1 was revoked: copied");
    bench.join("3", "k").await;
    let refused = bench.registry.attach("a1", &peer("2")).expect_err("revoked");
    assert_eq!(refused, "the certificate 2 of the agent a1 was revoked");
}

#[tokio::test]
async fn what_was_revoked_is_cut_although_the_agent_has_joined_again() {
    let bench = Bench::new().await;
    bench.revoke().await;
    let stolen = peer("1");
    bench.registry.attach("a1", &stolen).expect_err("revoked");
    bench.join("3", "k").await;
    bench.first_use("3").await.expect("used");
    let own = peer("3");
    bench.registry.attach("a1", &own).expect("good");
    assert_eq!(bench.registry.lapsed(), [], "the agent has one that is good");
    bench.registry.cut_refused();
    assert_eq!((is_cut(&stolen), is_cut(&own)), (true, false));
    // Times are of milliseconds, and a connection is older than what takes its place.
    tokio::time::sleep(Duration::from_millis(5)).await;
    let renewed = bench.registry.renew("a1", "3", &issued("4", "k")).await;
    renewed.expect("renewed");
    bench.first_use("4").await.expect("used");
    bench.registry.cut_refused();
    assert!(!is_cut(&own), "a connection outlives a renewal");
}

#[tokio::test]
async fn a_revoke_cuts_what_another_key_was_spared() {
    let bench = Bench::new().await;
    tokio::time::sleep(2 * SILENCE).await;
    bench.join("3", "other").await;
    let (old, new) = (peer("1"), peer("3"));
    bench.registry.attach("a1", &old).expect("good");
    bench.registry.attach("a1", &new).expect("good");
    bench.first_use("3").await.expect("it takes over");
    assert_eq!((is_cut(&old), is_cut(&new)), (true, false));
    bench.revoke().await;
    assert!(is_cut(&new));
}

/// Guards a revoke that comes with the end of a rule: AWS or a cluster is asked for seconds, and what it answers then counts
/// for the rule that was looked at.
#[tokio::test]
async fn a_rule_that_has_gone_or_changed_while_the_proof_was_looked_at_lets_nobody_in() {
    let bench = Bench::new().await;
    let looked_at = joining(rule());
    bench.revoke().await;
    bench.registry.remove_rule("rule").await.expect("removed");
    let gone = bench.registry.join(looked_at.clone(), &issued("3", "k")).await;
    assert!(why(gone).contains("the join rule rule was changed or removed"));
    let narrower = JoinRule {
        projects: vec!["shop".parse().expect("a project")],
        ..rule()
    };
    bench.registry.create_rule(narrower.clone()).await.expect("made again");
    let changed = bench.registry.join(looked_at, &issued("3", "k")).await;
    assert!(why(changed).contains("join again"));
    let again = bench.registry.join(joining(narrower), &issued("3", "k")).await;
    again.expect("by the rule that there is");
}
