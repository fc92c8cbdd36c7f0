//! Leases and timers with a clock that the test moves.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use deputy_proto::v1;
use deputy_proto::v1::session_request::Frame as Request;
use deputy_proto::v1::session_response::Frame;
use deputy_task::id::{InstanceId, Project};
use deputy_task::outcome::Outcome;
use deputy_task::state::TaskState;
use tokio::sync::{mpsc, oneshot};
use tonic::Status;

use super::board::Board;
use super::core::Core;
use super::hub::Hub;
use super::inbound::{Carrier, Inbound, Submission};
use super::outbound::Outbound;
use super::timing::Timing;
use crate::scheduler::{Entry, Requirement, Vouched};
use crate::store::clock::{BootClock, StoreClock, StoreTime};
use crate::store::contract::Store;
use crate::store::op::Change;
use crate::store::sqlite::SqliteStore;
use crate::store::task::{Needs, TaskKey, TaskSpec};

#[derive(Default)]
struct Hand(AtomicU64);

impl BootClock for Hand {
    fn nanos(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

struct Bench {
    folder: tempfile::TempDir,
    hand: Arc<Hand>,
    core: Option<Core>,
    answers: mpsc::Receiver<Result<v1::SessionResponse, Status>>,
}

fn key() -> TaskKey {
    key_of("t1")
}

fn key_of(name: &str) -> TaskKey {
    TaskKey {
        project: Project::default_project(),
        task: name.parse().expect("a task id"),
    }
}

fn core(folder: &std::path::Path, hand: &Arc<Hand>) -> Core {
    let store = SqliteStore::open(&folder.join("deputy.db")).expect("open");
    let high_water = store.reads().meta().expect("read").high_water;
    let clock = StoreClock::starting_at(high_water.max(StoreTime::from_millis(1_000_000)), hand.clone());
    Core::new(
        Box::new(store),
        clock,
        Timing::default(),
        (Hub::default(), Board::default()),
    )
    .expect("a core")
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let hand = Arc::new(Hand::default());
        let core = Some(core(folder.path(), &hand));
        let mut bench = Self {
            folder,
            hand,
            core,
            answers: mpsc::channel(1).1,
        };
        // The grace after a start is not what these tests are about.
        bench.pass(Duration::from_secs(120));
        bench
    }

    fn take(&mut self, message: Inbound) {
        let core = self.core.as_mut().expect("up");
        core.take(message);
        core.commit();
    }

    fn pass(&mut self, time: Duration) {
        self.hand
            .0
            .fetch_add(u64::try_from(time.as_nanos()).expect("short"), Ordering::Relaxed);
        for _ in 0..3 {
            self.take(Inbound::Tick);
        }
    }

    fn restart(&mut self) {
        self.core = None;
        self.core = Some(core(self.folder.path(), &self.hand));
    }

    fn hello(&mut self, inventory: Vec<v1::HeldAttempt>) {
        let (outbound, answers) = Outbound::channel();
        self.answers = answers;
        let capabilities = v1::Capabilities {
            slots: 1,
            steps: vec![v1::StepSupport {
                kind: "shell".into(),
                min_version: 1,
                max_version: 1,
            }],
            ..v1::Capabilities::default()
        };
        let hello = v1::Hello {
            protocol_min: 1,
            protocol_max: 1,
            agent_id: "a1".into(),
            instance_id: "i1".into(),
            capabilities: Some(capabilities),
            inventory,
            ..v1::Hello::default()
        };
        self.take(Inbound::Hello {
            session: 1,
            carrier: Carrier::Stream,
            hello: Box::new(hello),
            vouched: Vouched::default(),
            outbound,
        });
    }

    fn frame(&mut self, frame: Request) {
        self.take(Inbound::Frame {
            session: 1,
            frame: Box::new(frame),
        });
    }

    fn heartbeat(&mut self) {
        self.frame(Request::Heartbeat(v1::Heartbeat {
            seq: 1,
            free_slots: 1,
            spool_bytes: 0,
        }));
    }

    fn attempt(&self) -> v1::AttemptRef {
        v1::AttemptRef {
            project: "default".into(),
            task_id: "t1".into(),
            run: 1,
            epoch: self.state().1,
        }
    }

    fn write(&mut self, op: v1::write_op::Op) {
        let ops = vec![v1::WriteOp {
            attempt: Some(self.attempt()),
            op: Some(op),
        }];
        self.frame(Request::Write(v1::Write { seq: 1, ops }));
    }

    fn submit(&mut self, name: &str, exclusive: &str, queue_timeout: Option<Duration>) {
        let needs = Needs {
            steps: vec!["shell".into()],
            ..Needs::default()
        };
        let spec = TaskSpec {
            key: key_of(name),
            name: "t".into(),
            labels: std::collections::BTreeMap::new(),
            submitter: String::new(),
            submitted_at: StoreTime::ZERO,
            exclusive_key: exclusive.into(),
            on_agent_loss: deputy_task::document::OnAgentLoss::Auto,
            queue_timeout,
            needs: needs.clone(),
            bundles: Vec::new(),
            document: "{}".into(),
        };
        let entry = Entry::new(Requirement::new(spec.key.project.clone(), needs, &[]), "", exclusive);
        let submission = Submission {
            request: name.into(),
            content: [0; 32],
            spec,
            entry,
        };
        let (reply, _) = oneshot::channel();
        self.take(Inbound::Submit {
            submission: Box::new(submission),
            reply,
        });
    }

    /// Submits the task and starts it on the agent.
    fn running() -> Self {
        Self::running_with("", None)
    }

    fn running_with(exclusive: &str, queue_timeout: Option<Duration>) -> Self {
        let mut bench = Self::new();
        bench.hello(Vec::new());
        bench.submit("t1", exclusive, queue_timeout);
        bench.write(v1::write_op::Op::Start(v1::StartOp {}));
        assert_eq!(bench.state(), (TaskState::Running, 1));
        bench
    }

    fn goodbye(&mut self) {
        self.frame(Request::Goodbye(v1::Goodbye { reason: "done".into() }));
    }

    fn intend(&mut self, budget: Duration) {
        self.write(v1::write_op::Op::Append(v1::Record {
            key: "s/a".into(),
            kind: v1::RecordKind::Intent.into(),
            effect_class: v1::EffectClass::Bounded.into(),
            budget_ms: u32::try_from(budget.as_millis()).expect("short"),
            ..v1::Record::default()
        }));
    }

    fn release(&mut self) {
        self.write(v1::write_op::Op::Release(v1::ReleaseOp { reason: "drain".into() }));
    }

    fn state_of(&self, name: &str) -> TaskState {
        let reads = &self.core.as_ref().expect("up").reads;
        reads.task(&key_of(name)).expect("read").expect("a task").head.state
    }

    fn state(&self) -> (TaskState, u64) {
        let head = self
            .core
            .as_ref()
            .expect("up")
            .reads
            .task(&key())
            .expect("read")
            .expect("a task")
            .head;
        (head.state, head.epoch)
    }

    fn frames(&mut self) -> Vec<Frame> {
        std::iter::from_fn(|| self.answers.try_recv().ok())
            .filter_map(|answer| answer.ok().and_then(|answer| answer.frame))
            .collect()
    }
}

#[test]
fn a_lease_lasts_its_time_and_not_longer() {
    let mut bench = Bench::running();
    bench.heartbeat();
    bench.pass(Duration::from_millis(59_999));
    assert_eq!(bench.state().0, TaskState::Running);
    bench.pass(Duration::from_millis(1));
    assert_eq!(bench.state().0, TaskState::Lost);
}

#[test]
fn an_acknowledged_intent_renews_the_lease() {
    let mut bench = Bench::running();
    bench.pass(Duration::from_secs(50));
    bench.write(v1::write_op::Op::Append(v1::Record {
        key: "s/a".into(),
        kind: v1::RecordKind::Intent.into(),
        effect_class: v1::EffectClass::Bounded.into(),
        budget_ms: 20_000,
        ..v1::Record::default()
    }));
    bench.pass(Duration::from_secs(59));
    assert_eq!(bench.state().0, TaskState::Running);
    bench.pass(Duration::from_secs(1));
    assert_eq!(bench.state().0, TaskState::Lost);
    bench.pass(Duration::from_millis(4_999));
    assert_eq!(bench.state().0, TaskState::Lost, "not before the guard is over");
    bench.pass(Duration::from_millis(1));
    assert_eq!(bench.state().0, TaskState::Queued);
}

#[test]
fn a_heartbeat_of_the_lost_instance_takes_its_task_up_again() {
    let mut bench = Bench::running();
    bench.pass(Duration::from_secs(61));
    assert_eq!(bench.state().0, TaskState::Lost);
    bench.heartbeat();
    assert_eq!(bench.state(), (TaskState::Running, 1));
    assert!(
        bench
            .frames()
            .iter()
            .any(|frame| matches!(frame, Frame::HeartbeatAck(_)))
    );
}

#[test]
fn after_a_start_no_lease_ends_for_the_longest_lease_ever_given() {
    let mut bench = Bench::running();
    bench.pass(Duration::from_secs(59));
    bench.restart();
    bench.pass(Duration::from_millis(59_999));
    assert_eq!(bench.state().0, TaskState::Running);
    bench.pass(Duration::from_millis(2));
    assert_eq!(bench.state().0, TaskState::Lost);
    bench.hello(vec![v1::HeldAttempt {
        attempt: Some(bench.attempt()),
        started: true,
    }]);
    assert_eq!(bench.state(), (TaskState::Running, 1));
}

#[test]
fn a_goodbye_ends_the_lease_at_once() {
    let mut bench = Bench::running();
    bench.frame(Request::Goodbye(v1::Goodbye { reason: "done".into() }));
    bench.pass(Duration::from_millis(1));
    assert_eq!(bench.state().0, TaskState::Lost);
    bench.pass(Duration::from_secs(5));
    assert_eq!(bench.state().0, TaskState::Queued);
}

#[test]
fn a_task_that_costs_three_agents_in_a_row_waits_for_an_operator_before_it_costs_a_fourth() {
    let mut bench = Bench::running();
    for epoch in 1..3 {
        assert_eq!(bench.state(), (TaskState::Running, epoch));
        bench.goodbye();
        bench.pass(Duration::from_secs(10));
        assert_eq!(bench.state(), (TaskState::Queued, epoch));
        bench.hello(Vec::new());
        bench.write(v1::write_op::Op::Start(v1::StartOp {}));
    }
    // A restart of the manager is no loss, and forgets none.
    bench.restart();
    bench.pass(Duration::from_secs(120));
    assert_eq!(bench.state(), (TaskState::Lost, 3));
    bench.restart();
    bench.hello(Vec::new());
    for _ in 0..10 {
        bench.pass(Duration::from_secs(60));
        bench.heartbeat();
    }
    assert_eq!(bench.state(), (TaskState::Lost, 3), "nobody gets it by a timer");
    let (reply, _) = oneshot::channel();
    let resume = Change::Resolve {
        resolve: crate::store::task::Resolve::Resume,
        reason: "looked".into(),
    };
    bench.take(Inbound::Manage {
        key: key(),
        change: resume,
        reply,
    });
    bench.pass(Duration::from_secs(10));
    assert_eq!(bench.state(), (TaskState::Assigned, 4));
}

#[test]
fn a_session_that_does_not_read_is_ended_and_its_lease_goes_on() {
    let mut bench = Bench::running();
    for _ in 0..2_000 {
        bench.heartbeat();
    }
    let frames = bench.frames();
    assert!(
        matches!(frames.last(), Some(Frame::Disconnect(last)) if last.code == "slow"),
        "{:?}",
        frames.last()
    );
    let instance: InstanceId = "i1".parse().expect("an instance id");
    assert!(
        !bench
            .core
            .as_ref()
            .expect("up")
            .fleet
            .get(&instance)
            .expect("a member")
            .connected
    );
    assert_eq!(bench.state().0, TaskState::Running);
}

#[test]
fn a_half_done_task_keeps_its_key_when_it_is_given_away_and_after_a_restart() {
    for restarts in [0, 1] {
        let mut bench = Bench::running_with("k", None);
        // Read before the other one by name, and still not first.
        bench.submit("t0", "k", None);
        bench.goodbye();
        bench.pass(Duration::from_secs(6));
        assert_eq!(bench.state().0, TaskState::Queued);
        for _ in 0..restarts {
            bench.restart();
        }
        bench.hello(Vec::new());
        assert_eq!(
            (bench.state(), bench.state_of("t0")),
            ((TaskState::Assigned, 2), TaskState::Queued),
            "{restarts}"
        );
    }
}

#[test]
fn a_released_task_keeps_its_key() {
    let mut bench = Bench::running_with("k", None);
    bench.submit("t0", "k", None);
    bench.frame(Request::DrainNotice(v1::DrainNotice {
        reason: "upgrade".into(),
    }));
    bench.release();
    assert_eq!(bench.state().0, TaskState::Queued);
    bench.hello(Vec::new());
    assert_eq!(
        (bench.state(), bench.state_of("t0")),
        ((TaskState::Assigned, 2), TaskState::Queued)
    );
}

#[test]
fn a_heartbeat_does_not_take_up_what_the_hello_disowned() {
    let mut bench = Bench::running();
    bench.hello(Vec::new());
    assert_eq!(bench.state().0, TaskState::Lost);
    bench.heartbeat();
    assert_eq!(bench.state().0, TaskState::Lost);
    bench.pass(Duration::from_millis(4_999));
    bench.heartbeat();
    assert_eq!(bench.state().0, TaskState::Lost, "not before the guard is over");
    bench.pass(Duration::from_millis(1));
    assert_eq!(
        bench.state(),
        (TaskState::Assigned, 2),
        "offered again, although its agent never fell silent"
    );
    bench.write(v1::write_op::Op::Start(v1::StartOp {}));
    bench.pass(Duration::from_secs(61));
    assert_eq!(bench.state().0, TaskState::Lost);
    bench.heartbeat();
    assert_eq!(bench.state(), (TaskState::Running, 2), "the new attempt is its own");
}

/// Guards that a session begins with its welcome, also when what its hello changes is told to the agent: one that hears
/// something else first hangs up, and would find the same each time it comes back.
#[test]
fn the_welcome_is_the_first_word_of_a_session_whatever_its_hello_disowns() {
    let mut bench = Bench::new();
    bench.hello(Vec::new());
    bench.submit("t1", "", None);
    assert_eq!(bench.state(), (TaskState::Assigned, 1));
    for epoch in 2..5 {
        bench.hello(Vec::new());
        let frames = bench.frames();
        assert!(matches!(frames.first(), Some(Frame::Welcome(_))), "{frames:?}");
        bench.pass(Duration::from_secs(5));
        assert_eq!(bench.state(), (TaskState::Assigned, epoch));
    }
}

#[test]
fn an_agent_that_is_connected_is_told_that_its_lost_task_was_given_away() {
    let mut bench = Bench::running();
    bench.pass(Duration::from_secs(61));
    assert_eq!(bench.state().0, TaskState::Lost);
    bench.frames();
    bench.pass(Duration::from_secs(5));
    assert_eq!(bench.state().0, TaskState::Queued);
    let revoked: Vec<u64> = bench
        .frames()
        .into_iter()
        .filter_map(|frame| match frame {
            Frame::Revoked(revoked) => revoked.attempt.map(|attempt| attempt.epoch),
            _ => None,
        })
        .collect();
    assert_eq!(revoked, [1]);
}

#[test]
fn the_queue_timeout_of_a_retried_task_counts_from_the_retry() {
    for restarts in [0, 1] {
        let mut bench = Bench::running_with("", Some(Duration::from_secs(30)));
        bench.write(v1::write_op::Op::Complete(v1::Result {
            state: v1::TaskState::Failed.into(),
            ..v1::Result::default()
        }));
        bench.goodbye();
        bench.pass(Duration::from_secs(100));
        let (reply, _) = oneshot::channel();
        bench.take(Inbound::Manage {
            key: key(),
            change: Change::Retry { seen_run: 1 },
            reply,
        });
        for _ in 0..restarts {
            bench.restart();
        }
        bench.pass(Duration::from_millis(29_900));
        assert_eq!(bench.state().0, TaskState::Queued, "{restarts}");
        bench.pass(Duration::from_millis(100));
        assert_eq!(bench.state().0, TaskState::Ended(Outcome::Expired), "{restarts}");
    }
}

#[test]
fn a_wished_drain_survives_a_restart_of_the_manager() {
    let mut bench = Bench::new();
    bench.hello(Vec::new());
    let (reply, mut answer) = oneshot::channel();
    bench.take(Inbound::Drain {
        agent: "a1".parse().expect("an agent id"),
        reason: "upgrade".into(),
        reply,
    });
    assert!(matches!(answer.try_recv(), Ok(Ok(()))));
    bench.restart();
    bench.hello(Vec::new());
    bench.submit("t1", "", None);
    assert_eq!(bench.state().0, TaskState::Queued);
    bench.frames();
    bench.heartbeat();
    assert!(
        bench
            .frames()
            .iter()
            .any(|frame| matches!(frame, Frame::Drain(wish) if wish.reason == "upgrade"))
    );
}

#[test]
fn a_task_released_with_a_request_in_flight_waits_until_it_cannot_be_sent_any_more() {
    let mut bench = Bench::running();
    bench.intend(Duration::from_secs(20));
    bench.release();
    bench.pass(Duration::from_millis(24_999));
    assert_eq!(bench.state().0, TaskState::Queued);
    let why = bench.core.as_ref().expect("up").explain(&key());
    assert!(
        why.agents[0].reasons.iter().any(|reason| reason.contains("in flight")),
        "{why:?}"
    );
    bench.pass(Duration::from_millis(1));
    assert_eq!(bench.state(), (TaskState::Assigned, 2));
}
