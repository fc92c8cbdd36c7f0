//! The test suite that every store has to pass. A store's own tests call [`suite`] with a way to
//! open it; opening the same folder again must find everything that was answered.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use deputy_proto::v1;
use deputy_task::attempt::AttemptRef;
use deputy_task::document::OnAgentLoss;
use deputy_task::id::{AgentId, InstanceId, Project, TaskId};
use deputy_task::outcome::Outcome;
use deputy_task::state::TaskState;
use prost::Message;

use super::clock::StoreTime;
use super::contract::{EventQuery, ListQuery, Reads, Store};
use super::oidc_key::OidcKeyRow;
use super::op::{Change, InstanceRow, LogExtent, Missed, Op, OpResult, TrustChange, TrustRow, Verdict, Write};
use super::task::{Needs, Resolve, TaskHead, TaskKey, TaskSpec};

/// Opens the store in a folder.
pub(super) type Open = fn(&Path) -> Box<dyn Store>;

const T0: StoreTime = StoreTime::from_millis(1_000_000);
const DEADLINE: Duration = Duration::from_secs(10);

/// A store at hand, with a clock of its own.
pub(super) struct Bench {
    folder: tempfile::TempDir,
    open: Open,
    store: Option<Box<dyn Store>>,
    pub(super) now: StoreTime,
}

impl Bench {
    pub(super) fn new(open: Open) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Some(open(folder.path()));
        Self {
            folder,
            open,
            store,
            now: T0,
        }
    }

    fn reopen(&mut self) {
        self.store = None;
        self.store = Some((self.open)(self.folder.path()));
    }

    pub(super) fn apply(&mut self, batch: Vec<Op>) -> Vec<OpResult> {
        let now = self.now;
        self.store
            .as_mut()
            .expect("open")
            .apply(now, batch)
            .expect("applied")
            .results
    }

    pub(super) fn one(&mut self, op: Op) -> OpResult {
        self.apply(vec![op]).pop().expect("an answer")
    }

    pub(super) fn reads(&self) -> std::sync::Arc<dyn Reads> {
        self.store.as_ref().expect("open").reads()
    }

    pub(super) fn head(&self, key: &TaskKey) -> TaskHead {
        self.reads().task(key).expect("read").expect("a task").head
    }

    pub(super) fn write(&mut self, attempt: &AttemptRef, instance: &str, write: Write) -> Verdict {
        match self.one(Op::Write {
            attempt: attempt.clone(),
            instance: instance_id(instance),
            write,
        }) {
            OpResult::Written { verdict, .. } => verdict,
            other => panic!("not a verdict: {other:?}"),
        }
    }

    pub(super) fn change(&mut self, key: &TaskKey, change: Change) -> Result<TaskHead, Missed> {
        match self.one(Op::Manage {
            key: key.clone(),
            change,
        }) {
            OpResult::Task { head, .. } => Ok(*head),
            OpResult::Missed(missed) => Err(missed),
            other => panic!("not a task: {other:?}"),
        }
    }

    /// A task that runs on instance `i1`.
    fn running(&mut self, name: &str, change_spec: impl FnOnce(&mut TaskSpec)) -> (TaskKey, AttemptRef) {
        let mut spec = spec(name);
        change_spec(&mut spec);
        let key = spec.key.clone();
        self.apply(vec![submit(name, spec), assign(&key, 0, "i1")]);
        let attempt = self.head(&key).attempt(&key);
        assert_eq!(self.write(&attempt, "i1", Write::Start), Verdict::Ok);
        (key, attempt)
    }

    fn kinds(&self, key: &TaskKey) -> Vec<String> {
        let query = EventQuery {
            project: key.project.clone(),
            task: Some(key.task.clone()),
            after: 0,
            limit: 1000,
        };
        self.reads()
            .events(&query)
            .expect("read")
            .into_iter()
            .map(|event| event.kind)
            .collect()
    }
}

pub(super) fn instance_id(text: &str) -> InstanceId {
    text.parse().expect("an instance id")
}

fn agent_id(text: &str) -> AgentId {
    text.parse().expect("an agent id")
}

pub(crate) fn spec(name: &str) -> TaskSpec {
    TaskSpec {
        key: TaskKey {
            project: Project::default_project(),
            task: name.parse().expect("a task id"),
        },
        name: name.into(),
        labels: [("team".to_owned(), "payments".to_owned())].into(),
        submitter: "tester".into(),
        submitted_at: T0,
        exclusive_key: String::new(),
        on_agent_loss: OnAgentLoss::Auto,
        queue_timeout: Some(Duration::from_secs(60)),
        needs: Needs {
            selector: "env == 'prod'".into(),
            steps: vec!["shell".into()],
            tools: vec!["bash".into()],
        },
        bundles: Vec::new(),
        document: Bytes::from_static(b"{\"document\":true}"),
    }
}

pub(crate) fn submit(request: &str, spec: TaskSpec) -> Op {
    Op::Submit {
        request: request.into(),
        content: [1; 32],
        spec: Box::new(spec),
    }
}

pub(crate) fn assign(key: &TaskKey, epoch: u64, instance: &str) -> Op {
    Op::Assign {
        key: key.clone(),
        epoch,
        agent: agent_id("a1"),
        instance: instance_id(instance),
        start_deadline: DEADLINE,
    }
}

pub(super) fn record(key: &str, kind: v1::RecordKind, payload: &'static str) -> Write {
    Write::Append(Box::new(v1::Record {
        key: key.into(),
        kind: kind.into(),
        payload: Bytes::from_static(payload.as_bytes()),
        program_version: 1,
        step_kind: "shell".into(),
        effect_class: v1::EffectClass::Bounded.into(),
        budget_ms: 5_000,
        ..v1::Record::default()
    }))
}

pub(super) fn complete(state: v1::TaskState) -> Write {
    Write::Complete(Box::new(v1::Result {
        state: state.into(),
        world: v1::World::Changed.into(),
        ..v1::Result::default()
    }))
}

fn give_away(attempt: &AttemptRef, lease_until: StoreTime) -> Change {
    Change::GiveAway {
        epoch: attempt.epoch,
        lease_until,
        guard: Duration::from_secs(5),
        kill_grace: Duration::from_secs(10),
    }
}

type Test = fn(&mut Bench);

/// Every test of the suite.
pub(super) const SUITE: [(&str, Test); 22] = [
    ("a submission is idempotent by its request id", submissions),
    (
        "a task that ended moves to history with everything it had",
        a_whole_life,
    ),
    ("submission and assignment share a batch", fused_assignment),
    ("it is known whose an attempt was", whose_attempts),
    (
        "a write with another run, epoch or instance is stale and changes nothing",
        the_fence,
    ),
    ("a late result is kept as evidence", evidence),
    (
        "what nobody waits for, or what came before, is no evidence",
        evidence_is_bounded,
    ),
    (
        "an exclusive key is held from the assignment to the end",
        exclusive_keys,
    ),
    (
        "a half-done task keeps its exclusive key in the queue",
        keys_of_half_done_tasks,
    ),
    (
        "a task released with a request in flight is not assigned before its deadline",
        released_in_flight,
    ),
    ("events have revisions without gaps and a growing sequence", event_order),
    ("a lost task is given away when nothing can be in flight", giving_away),
    (
        "a task that costs one agent after the other and gets no further waits for an operator",
        losing_one_agent_after_the_other,
    ),
    ("an operator's decision is carried out by the same rule", resolving),
    ("a retry begins an empty journal", retrying),
    ("leases are never shortened, and a wished drain is kept", leases),
    ("a log grows only at its committed end", logs),
    ("an intent written again is granted anew", renewed_intents),
    ("a journal is not filled by repetition", repetitions_count),
    (
        "signing keys of the OIDC issuer are kept in order",
        oidc_keys_are_kept_in_the_order_in_which_they_sign,
    ),
    ("everything answered is there after opening again", reopening),
    (
        "trust is changed whole and only as it was seen",
        trust_is_changed_whole_and_only_as_it_was_seen,
    ),
];

fn whose_attempts(bench: &mut Bench) {
    let (key, attempt) = bench.running("t1", |_| {});
    let (project, agent) = (key.project.clone(), agent_id("a1"));
    let other: Project = "other".parse().expect("a project");
    let held = |bench: &Bench, project: &Project, agent: &AgentId| {
        let rows = bench.reads().held_by(project, agent).expect("read");
        rows.into_iter().map(|row| row.spec.key).collect::<Vec<_>>()
    };
    assert_eq!(held(bench, &project, &agent), std::slice::from_ref(&key));
    assert!(held(bench, &other, &agent).is_empty());
    assert!(held(bench, &project, &agent_id("a2")).is_empty());
    assert_eq!(
        bench.write(&attempt, "i1", complete(v1::TaskState::Failed)),
        Verdict::Ok
    );
    bench.change(&key, Change::Retry { seen_run: 1 }).expect("retried");
    let assignee = |bench: &Bench, epoch| bench.reads().assignee(&key, epoch).expect("read");
    assert!(held(bench, &project, &agent).is_empty(), "queued again");
    assert_eq!(assignee(bench, attempt.epoch), Some((1, agent.clone())), "it has ended");
    assert_eq!(assignee(bench, attempt.epoch + 1), None);
    bench.one(assign(&key, attempt.epoch, "i2"));
    assert_eq!(assignee(bench, attempt.epoch + 1), Some((2, agent)));
}

fn submissions(bench: &mut Bench) {
    let first = bench.one(submit("r1", spec("t1")));
    assert_eq!(
        first,
        OpResult::Submitted {
            task: spec("t1").key.task,
            existed: false
        }
    );
    assert_eq!(
        bench.one(submit("r1", spec("t2"))),
        OpResult::Submitted {
            task: spec("t1").key.task,
            existed: true
        }
    );
    let other = Op::Submit {
        request: "r1".into(),
        content: [2; 32],
        spec: Box::new(spec("t3")),
    };
    assert_eq!(
        bench.one(other),
        OpResult::OtherContent {
            task: spec("t1").key.task
        }
    );
    let mut elsewhere = spec("t4");
    elsewhere.key.project = "other".parse().expect("a project");
    assert!(
        matches!(
            bench.one(submit("r1", elsewhere)),
            OpResult::Submitted { existed: false, .. }
        ),
        "request ids belong to a project"
    );
    assert_eq!(bench.reads().live().expect("read").len(), 2);
    assert!(bench.reads().task(&spec("t2").key).expect("read").is_none());
}

fn a_whole_life(bench: &mut Bench) {
    let (key, attempt) = bench.running("t1", |_| {});
    assert_eq!(
        bench.write(&attempt, "i1", record("s/a", v1::RecordKind::Intent, "")),
        Verdict::Ok
    );
    assert_eq!(
        bench.write(&attempt, "i1", record("s/a", v1::RecordKind::Done, "1")),
        Verdict::Ok
    );
    assert_eq!(
        bench.write(&attempt, "i1", complete(v1::TaskState::Succeeded)),
        Verdict::Ok
    );
    assert!(bench.reads().live().expect("read").is_empty());
    let row = bench.reads().task(&key).expect("read").expect("a task");
    assert_eq!(row.head.state, TaskState::Ended(Outcome::Succeeded));
    assert_eq!((row.head.started_at, row.head.finished_at), (T0, T0));
    assert_eq!(
        row.spec,
        TaskSpec {
            document: Bytes::new(),
            ..spec("t1")
        }
    );
    assert_eq!(
        bench.reads().document(&key).expect("read").expect("a document"),
        spec("t1").document
    );
    assert_eq!(bench.reads().journal(&key, 1).expect("read").len(), 2);
    assert_eq!(
        bench.write(&attempt, "i1", complete(v1::TaskState::Succeeded)),
        Verdict::Ok,
        "the same end again"
    );
    assert_eq!(
        bench.write(&attempt, "i1", complete(v1::TaskState::Failed)),
        Verdict::StaleEpoch,
        "another end"
    );
    assert_eq!(
        bench.kinds(&key),
        ["submitted", "assigned", "started", "intent", "done", "succeeded"]
    );
}

fn fused_assignment(bench: &mut Bench) {
    let spec = spec("t1");
    let key = spec.key.clone();
    let results = bench.apply(vec![submit("r1", spec), assign(&key, 0, "i1")]);
    assert!(matches!(&results[1], OpResult::Task { head, .. } if head.state == TaskState::Assigned && head.epoch == 1));
    assert!(matches!(
        bench.one(assign(&key, 0, "i2")),
        OpResult::Missed(Missed::NotNow(_))
    ));
    assert_eq!(bench.head(&key).deadline_at, T0.after(DEADLINE));
    let nobody = TaskKey {
        project: Project::default_project(),
        task: "nobody".parse().expect("a task id"),
    };
    assert_eq!(
        bench.one(assign(&nobody, 0, "i1")),
        OpResult::Missed(Missed::NoSuchTask)
    );
}

fn the_fence(bench: &mut Bench) {
    let (key, attempt) = bench.running("t1", |_| {});
    let before = bench.head(&key);
    let wrong = [
        (
            AttemptRef {
                run: 2,
                ..attempt.clone()
            },
            "i1",
        ),
        (
            AttemptRef {
                epoch: 2,
                ..attempt.clone()
            },
            "i1",
        ),
        (
            AttemptRef {
                task: "nobody".parse().expect("a task id"),
                ..attempt.clone()
            },
            "i1",
        ),
        (
            AttemptRef {
                project: "other".parse().expect("a project"),
                ..attempt.clone()
            },
            "i1",
        ),
        (attempt.clone(), "i2"),
    ];
    let writes = [
        Write::Start,
        record("s/a", v1::RecordKind::Intent, ""),
        record("s/f", v1::RecordKind::Fact, "1"),
        complete(v1::TaskState::Succeeded),
        Write::Release { reason: "x".into() },
        Write::Refuse {
            reason: "x".into(),
            permanent: None,
        },
    ];
    for (attempt, instance) in &wrong {
        for write in &writes {
            assert_eq!(
                bench.write(attempt, instance, write.clone()),
                Verdict::StaleEpoch,
                "{attempt} {instance} {write:?}"
            );
        }
    }
    assert_eq!(bench.head(&key), before);
    assert_eq!(bench.write(&attempt, "i1", Write::Start), Verdict::Ok);
}

fn evidence(bench: &mut Bench) {
    let (key, attempt) = bench.running("t1", |_| {});
    assert_eq!(
        bench.write(&attempt, "i1", record("s/a", v1::RecordKind::Intent, "")),
        Verdict::Ok
    );
    assert_eq!(
        bench.write(&attempt, "i1", Write::Release { reason: "drain".into() }),
        Verdict::Ok
    );
    bench.now = T0.after(Duration::from_secs(5));
    bench.one(assign(&key, 1, "i2"));
    assert_eq!(
        bench.write(&attempt, "i1", record("s/a", v1::RecordKind::Done, "1")),
        Verdict::StaleEpoch
    );
    assert_eq!(bench.kinds(&key).last().map(String::as_str), Some("evidence"));
    assert_eq!(
        bench.reads().journal(&key, 1).expect("read").len(),
        1,
        "evidence is not part of the journal"
    );
}

/// Any agent can name any attempt of any task; what it writes must not fill the store.
fn evidence_is_bounded(bench: &mut Bench) {
    let (key, attempt) = bench.running("t1", |_| {});
    bench.write(&attempt, "i1", record("s/a", v1::RecordKind::Intent, ""));
    let told = |bench: &Bench| bench.kinds(&key).iter().filter(|kind| *kind == "evidence").count();
    let late = |bench: &mut Bench, attempt: &AttemptRef, instance: &str, key: &str| {
        let verdict = bench.write(attempt, instance, record(key, v1::RecordKind::Done, "1"));
        assert_eq!(verdict, Verdict::StaleEpoch);
    };
    late(bench, &attempt, "i2", "s/a");
    late(
        bench,
        &AttemptRef {
            epoch: 7,
            ..attempt.clone()
        },
        "i1",
        "s/a",
    );
    late(
        bench,
        &AttemptRef {
            run: 2,
            ..attempt.clone()
        },
        "i1",
        "s/a",
    );
    assert_eq!(
        told(bench),
        0,
        "these never were attempts of this run before the present one"
    );
    bench.write(&attempt, "i1", Write::Release { reason: "drain".into() });
    bench.now = T0.after(Duration::from_secs(5));
    bench.one(assign(&key, 1, "i2"));
    for _ in 0..3 {
        late(bench, &attempt, "i1", "s/b");
        late(bench, &attempt, "i1", "s/a");
    }
    assert_eq!(told(bench), 1, "once for an intent that is open");
}

fn exclusive_keys(bench: &mut Bench) {
    let (first, attempt) = bench.running("t1", |spec| spec.exclusive_key = "k".into());
    let mut second = spec("t2");
    second.exclusive_key = "k".into();
    let key = second.key.clone();
    bench.one(submit("t2", second));
    let held = OpResult::Missed(Missed::KeyHeld(first.task.clone()));
    assert_eq!(bench.one(assign(&key, 0, "i2")), held);
    bench
        .change(
            &first,
            Change::Lose {
                epoch: 1,
                reason: "silent".into(),
            },
        )
        .expect("lost");
    assert_eq!(bench.one(assign(&key, 0, "i2")), held, "LOST keeps the key");
    let results = bench.apply(vec![
        Op::Write {
            attempt,
            instance: instance_id("i1"),
            write: complete(v1::TaskState::Succeeded),
        },
        assign(&key, 0, "i2"),
    ]);
    assert!(
        matches!(&results[1], OpResult::Task { .. }),
        "the next task takes the key in the same batch"
    );
}

fn keys_of_half_done_tasks(bench: &mut Bench) {
    for (name, waiting) in [("released", "w1"), ("given-away", "w2")] {
        let (first, attempt) = bench.running(name, |spec| spec.exclusive_key = name.into());
        let mut second = spec(waiting);
        second.exclusive_key = name.into();
        let key = second.key.clone();
        bench.one(submit(waiting, second));
        if name == "released" {
            bench.write(&attempt, "i1", Write::Release { reason: "drain".into() });
        } else {
            let lose = Change::Lose {
                epoch: 1,
                reason: "silent".into(),
            };
            bench.change(&first, lose).expect("lost");
            bench.now = bench.now.after(Duration::from_secs(60));
            bench.change(&first, give_away(&attempt, T0)).expect("given away");
        }
        let held = OpResult::Missed(Missed::KeyHeld(first.task.clone()));
        assert_eq!(bench.head(&first).state, TaskState::Queued);
        assert_eq!(bench.one(assign(&key, 0, "i2")), held, "{name}");
        bench.reopen();
        assert_eq!(bench.one(assign(&key, 0, "i2")), held, "{name}, opened again");
        assert!(
            matches!(bench.one(assign(&first, 1, "i2")), OpResult::Task { .. }),
            "the holder itself goes on"
        );
        let attempt = bench.head(&first).attempt(&first);
        bench.write(&attempt, "i2", Write::Start);
        bench.write(&attempt, "i2", complete(v1::TaskState::Failed));
        bench
            .change(&first, Change::Retry { seen_run: 1 })
            .expect("a run that has done nothing yet");
        assert!(
            matches!(bench.one(assign(&key, 0, "i2")), OpResult::Task { .. }),
            "{name}"
        );
    }
}

fn released_in_flight(bench: &mut Bench) {
    let (key, attempt) = bench.running("t1", |_| {});
    bench.write(&attempt, "i1", record("s/a", v1::RecordKind::Intent, ""));
    bench.write(&attempt, "i1", Write::Release { reason: "drain".into() });
    let clear = T0.after(Duration::from_secs(5));
    let early = OpResult::Missed(Missed::NotBefore(clear));
    assert_eq!(bench.one(assign(&key, 1, "i2")), early);
    bench.reopen();
    assert_eq!(bench.one(assign(&key, 1, "i2")), early);
    bench.now = clear;
    assert!(matches!(bench.one(assign(&key, 1, "i2")), OpResult::Task { .. }));
}

fn event_order(bench: &mut Bench) {
    for name in ["t1", "t2", "t3"] {
        bench.running(name, |_| {});
    }
    let query = EventQuery {
        project: Project::default_project(),
        task: None,
        after: 0,
        limit: 100,
    };
    let events = bench.reads().events(&query).expect("read");
    assert!(events.windows(2).all(|pair| pair[0].sequence < pair[1].sequence));
    for name in ["t1", "t2", "t3"] {
        let revisions: Vec<u64> = events
            .iter()
            .filter(|event| event.key.task.as_str() == name)
            .map(|event| event.revision)
            .collect();
        assert_eq!(revisions, [1, 2, 3]);
    }
    let later = EventQuery {
        after: events[4].sequence,
        limit: 2,
        ..query
    };
    assert_eq!(bench.reads().events(&later).expect("read"), events[5..7]);
    assert_eq!(
        bench.reads().newest_event().expect("read"),
        events.last().expect("events").sequence
    );
}

fn giving_away(bench: &mut Bench) {
    let (key, attempt) = bench.running("t1", |_| {});
    assert_eq!(
        bench.write(&attempt, "i1", record("s/a", v1::RecordKind::Intent, "")),
        Verdict::Ok
    );
    let lease_until = bench.now.after(Duration::from_secs(2));
    assert!(
        bench.change(&key, give_away(&attempt, lease_until)).is_err(),
        "not while it runs"
    );
    bench
        .change(
            &key,
            Change::Lose {
                epoch: 1,
                reason: "silent".into(),
            },
        )
        .expect("lost");
    // The open intent may be transmitted for 5 s, then the guard.
    let clear = T0.after(Duration::from_secs(10));
    assert_eq!(
        bench.change(&key, give_away(&attempt, lease_until)),
        Err(Missed::NotBefore(clear))
    );
    bench.now = clear;
    let head = bench
        .change(&key, give_away(&attempt, lease_until))
        .expect("given away");
    assert_eq!((head.state, head.epoch), (TaskState::Queued, 1));
    assert_eq!(bench.write(&attempt, "i1", Write::Start), Verdict::StaleEpoch);
    bench.one(assign(&key, 1, "i2"));
    assert_eq!(bench.head(&key).epoch, 2);
}

fn losing_one_agent_after_the_other(bench: &mut Bench) {
    let (key, mut attempt) = bench.running("t1", |_| {});
    let intent = || record("s/a", v1::RecordKind::Intent, "");
    let fact = |key: &str| record(key, v1::RecordKind::Fact, "1");
    // What the attempt does before its agent is lost, and whether another agent gets the task afterwards.
    let lives = [
        (vec![], true),
        // Something new counts from nothing again.
        (vec![fact("s/f"), intent()], true),
        (vec![], true),
        // An intent that is written again, and a fact that is known, are nothing new.
        (vec![fact("s/f"), intent()], true),
        (vec![intent()], false),
    ];
    for (writes, goes_on) in lives {
        for write in writes {
            assert_eq!(bench.write(&attempt, "i1", write), Verdict::Ok);
        }
        lose(bench, &key, &attempt);
        bench.reopen();
        let lost = bench.head(&key);
        let given = bench.change(&key, give_away(&attempt, T0));
        if goes_on {
            assert_eq!(given.expect("given away").state, TaskState::Queued);
            attempt = start_again(bench, &key);
        } else {
            assert_eq!(given, Err(Missed::Held));
            assert!(
                lost.condition
                    .starts_with("held: 3 agents were lost one after the other while they had this task"),
                "{}",
                lost.condition
            );
            assert!(
                lost.condition.contains("`deputy resolve t1 resume|"),
                "{}",
                lost.condition
            );
        }
    }
    // Its process is back after all, and is lost once more: that is the same loss.
    assert_eq!(bench.write(&attempt, "i1", intent()), Verdict::Ok);
    assert_eq!(bench.head(&key).state, TaskState::Running);
    lose(bench, &key, &attempt);
    assert_eq!(bench.change(&key, give_away(&attempt, T0)), Err(Missed::Held));
    assert!(bench.head(&key).condition.starts_with("held: 3 agents"));
    // After an operator's decision it counts anew, and so it does after an agent that could hand it back.
    let resume = Change::Resolve {
        resolve: Resolve::Resume,
        reason: "looked".into(),
    };
    bench.change(&key, resume).expect("resolved");
    bench.change(&key, give_away(&attempt, T0)).expect("given away");
    for hands_back in [false, false, true, false, false] {
        attempt = start_again(bench, &key);
        if hands_back {
            let reason = "drains".into();
            assert_eq!(bench.write(&attempt, "i1", Write::Release { reason }), Verdict::Ok);
            bench.now = bench.now.after(Duration::from_secs(60));
        } else {
            lose(bench, &key, &attempt);
            bench.change(&key, give_away(&attempt, T0)).expect("given away");
        }
    }
    attempt = start_again(bench, &key);
    lose(bench, &key, &attempt);
    assert_eq!(bench.change(&key, give_away(&attempt, T0)), Err(Missed::Held));
}

/// The agent of the attempt is lost, and a minute later nothing of it can be in flight.
fn lose(bench: &mut Bench, key: &TaskKey, attempt: &AttemptRef) {
    let lose = Change::Lose {
        epoch: attempt.epoch,
        reason: "silent".into(),
    };
    bench.change(key, lose).expect("lost");
    bench.now = bench.now.after(Duration::from_secs(60));
}

/// The next attempt, which runs on `i1`.
fn start_again(bench: &mut Bench, key: &TaskKey) -> AttemptRef {
    let epoch = bench.head(key).epoch;
    bench.one(assign(key, epoch, "i1"));
    let attempt = bench.head(key).attempt(key);
    assert_eq!(bench.write(&attempt, "i1", Write::Start), Verdict::Ok);
    attempt
}

fn resolving(bench: &mut Bench) {
    let (key, attempt) = bench.running("t1", |spec| spec.on_agent_loss = OnAgentLoss::Hold);
    bench
        .change(
            &key,
            Change::Lose {
                epoch: 1,
                reason: "silent".into(),
            },
        )
        .expect("lost");
    bench.now = T0.after(Duration::from_secs(60));
    assert_eq!(bench.change(&key, give_away(&attempt, T0)), Err(Missed::Held));
    bench.reopen();
    bench
        .change(
            &key,
            Change::Resolve {
                resolve: Resolve::Rollback,
                reason: "looked".into(),
            },
        )
        .expect("resolved");
    bench.reopen();
    assert_eq!(
        bench.change(&key, give_away(&attempt, T0)).expect("given away").state,
        TaskState::Queued
    );
    let journal = bench.reads().journal(&key, 1).expect("read");
    let decision = v1::Record::decode(journal[0].clone()).expect("a record");
    assert_eq!(
        (decision.kind(), decision.payload.starts_with(b"{\"undo\"")),
        (v1::RecordKind::Decision, true)
    );
    bench.one(assign(&key, 1, "i2"));
    let second = bench.head(&key).attempt(&key);
    assert_eq!(bench.write(&second, "i2", Write::Start), Verdict::Ok);
    assert_eq!(
        bench.write(&second, "i2", record("s/b", v1::RecordKind::Intent, "")),
        Verdict::UndoDecided
    );
}

fn retrying(bench: &mut Bench) {
    let (key, attempt) = bench.running("t1", |_| {});
    bench.write(&attempt, "i1", record("s/a", v1::RecordKind::Intent, ""));
    assert!(
        bench.change(&key, Change::Retry { seen_run: 0 }).is_err(),
        "not while it lives"
    );
    bench.write(&attempt, "i1", complete(v1::TaskState::Failed));
    assert!(bench.change(&key, Change::Retry { seen_run: 9 }).is_err());
    let head = bench.change(&key, Change::Retry { seen_run: 1 }).expect("retried");
    assert_eq!(
        (head.state, head.run, head.epoch, head.result.len()),
        (TaskState::Queued, 2, 1, 0)
    );
    assert_eq!(bench.reads().live().expect("read").len(), 1);
    bench.one(assign(&key, 1, "i1"));
    let second = bench.head(&key).attempt(&key);
    assert_eq!((second.run, second.epoch), (2, 2));
    bench.write(&second, "i1", Write::Start);
    bench.write(&second, "i1", record("s/a", v1::RecordKind::Intent, ""));
    assert_eq!(bench.reads().journal(&key, 1).expect("read").len(), 1);
    assert_eq!(bench.reads().journal(&key, 2).expect("read").len(), 1);
}

fn leases(bench: &mut Bench) {
    let row = InstanceRow {
        line: "line".into(),
        agent: agent_id("a1"),
        instance: instance_id("i1"),
        lease_until: T0.after(Duration::from_secs(60)),
        seen_at: T0,
        version: "1".into(),
        capabilities: Bytes::from_static(b"caps"),
        drain_wish: String::new(),
    };
    bench.one(Op::RegisterInstance(Box::new(row.clone())));
    let renew = |seconds| Op::RenewLease {
        agent: agent_id("a1"),
        instance: instance_id("i1"),
        until: T0.after(Duration::from_secs(seconds)),
    };
    bench.apply(vec![renew(90), renew(70)]);
    let wish = |instance| Op::WishDrain {
        agent: agent_id("a1"),
        instance: instance_id(instance),
        reason: "upgrade".into(),
    };
    assert_eq!(bench.one(wish("i1")), OpResult::Done);
    assert!(
        matches!(bench.one(wish("i9")), OpResult::Missed(_)),
        "nobody to wish it of"
    );
    bench.one(Op::RegisterInstance(Box::new(row.clone())));
    bench.reopen();
    let stored = bench.reads().instances().expect("read");
    assert_eq!(
        stored,
        [InstanceRow {
            lease_until: T0.after(Duration::from_secs(90)),
            drain_wish: "upgrade".into(),
            ..row
        }]
    );
    assert_eq!(
        bench.reads().meta().expect("read").longest_lease,
        Duration::from_secs(60)
    );
    bench.one(Op::ForgetInstances {
        before: T0.after(Duration::from_secs(89)),
    });
    assert_eq!(bench.reads().instances().expect("read").len(), 1);
    bench.one(Op::ForgetInstances {
        before: T0.after(Duration::from_secs(91)),
    });
    assert!(bench.reads().instances().expect("read").is_empty());
}

fn logs(bench: &mut Bench) {
    let (key, attempt) = bench.running("t1", |_| {});
    let extent = |offset, length, position, complete| {
        Op::AppendLog(Box::new(LogExtent {
            attempt: attempt.clone(),
            offset,
            length,
            segment: 1,
            position,
            crc32: 7,
            complete,
        }))
    };
    assert_eq!(bench.one(extent(0, 10, 0, false)), OpResult::Done);
    assert!(
        matches!(bench.one(extent(20, 5, 10, false)), OpResult::Missed(_)),
        "a gap"
    );
    assert!(
        matches!(bench.one(extent(0, 10, 10, false)), OpResult::Missed(_)),
        "a repetition"
    );
    assert_eq!(bench.one(extent(10, 5, 10, true)), OpResult::Done);
    let stream = bench.reads().log_streams(&key).expect("read").pop().expect("a stream");
    assert_eq!(
        (
            stream.run,
            stream.epoch,
            stream.committed,
            stream.crc32,
            stream.complete
        ),
        (1, 1, 15, 7, true)
    );
    assert_eq!(bench.reads().log_extents(&key, 1, 10).expect("read").len(), 1);
    assert_eq!(bench.reads().log_end().expect("read"), Some((1, 15)));
}

fn renewed_intents(bench: &mut Bench) {
    let (key, attempt) = bench.running("t1", |_| {});
    assert_eq!(
        bench.write(&attempt, "i1", record("s/a", v1::RecordKind::Intent, "")),
        Verdict::Ok
    );
    bench.now = T0.after(Duration::from_secs(4));
    assert_eq!(
        bench.write(&attempt, "i1", record("s/a", v1::RecordKind::Intent, "")),
        Verdict::Ok
    );
    assert_eq!(bench.reads().journal(&key, 1).expect("read").len(), 1);
    bench.reopen();
    bench
        .change(
            &key,
            Change::Lose {
                epoch: 1,
                reason: "silent".into(),
            },
        )
        .expect("lost");
    let clear = T0.after(Duration::from_secs(4 + 5 + 5));
    assert_eq!(
        bench.change(&key, give_away(&attempt, T0)),
        Err(Missed::NotBefore(clear)),
        "the deadline counts from the last grant"
    );
}

/// Every repetition is a row, and goes out with the next assignment.
fn repetitions_count(bench: &mut Bench) {
    let (key, attempt) = bench.running("t1", |_| {});
    let long = || {
        let Write::Append(mut intent) = record("s/a", v1::RecordKind::Intent, "") else {
            unreachable!()
        };
        intent.summary = "x".repeat(200 * 1024);
        Write::Append(intent)
    };
    let verdicts: Vec<Verdict> = (0..20).map(|_| bench.write(&attempt, "i1", long())).collect();
    assert_eq!(verdicts[0], Verdict::Ok);
    assert!(
        matches!(&verdicts[19], Verdict::Invalid(why) if why.contains("would exceed")),
        "{:?}",
        verdicts[19]
    );
    let kept: usize = bench
        .reads()
        .journal(&key, 1)
        .expect("read")
        .iter()
        .map(bytes::Bytes::len)
        .sum();
    assert!(kept <= super::journal::MAX_JOURNAL_BYTES, "{kept}");
}

fn trust_is_changed_whole_and_only_as_it_was_seen(bench: &mut Bench) {
    let change = |name: &str, before: Option<&'static str>, after: Option<&'static str>| TrustChange {
        kind: "agent",
        name: name.into(),
        before: before.map(|body| Bytes::from_static(body.as_bytes())),
        after: after.map(|body| Bytes::from_static(body.as_bytes())),
    };
    let done = |bench: &mut Bench, changes: Vec<TrustChange>| bench.apply(vec![Op::Trust(changes)]) == [OpResult::Done];
    assert!(done(
        bench,
        vec![change("a", None, Some("1")), change("b", None, Some("1"))]
    ));
    assert!(!done(bench, vec![change("a", None, Some("2"))]), "it is there already");
    assert!(
        !done(
            bench,
            vec![change("b", Some("1"), Some("2")), change("a", Some("0"), Some("2"))]
        ),
        "one of them was another"
    );
    assert!(done(bench, vec![change("a", Some("1"), None)]));
    bench.reopen();
    let row = TrustRow {
        kind: "agent".into(),
        name: "b".into(),
        body: Bytes::from_static(b"1"),
    };
    assert_eq!(bench.reads().trust().expect("read"), [row]);
}

fn oidc_key(kid: &str, signs_from_ms: i64) -> OidcKeyRow {
    OidcKeyRow {
        kid: kid.into(),
        pkcs8: vec![1, 2, 3],
        created_ms: 1,
        signs_from_ms,
    }
}

fn oidc_keys_are_kept_in_the_order_in_which_they_sign(bench: &mut Bench) {
    for (kid, signs_from_ms) in [("b", 20), ("a", 10), ("b", 30)] {
        bench.one(Op::PutOidcKey(Box::new(oidc_key(kid, signs_from_ms))));
    }
    bench.reopen();
    let kept = bench.reads().oidc_keys().expect("read");
    assert_eq!(
        kept,
        [oidc_key("a", 10), oidc_key("b", 20)],
        "a key that is there is not changed"
    );
    bench.one(Op::ForgetOidcKey { kid: "a".into() });
    assert_eq!(bench.reads().oidc_keys().expect("read"), [oidc_key("b", 20)]);
}

fn reopening(bench: &mut Bench) {
    let (key, attempt) = bench.running("t1", |_| {});
    bench.write(&attempt, "i1", record("s/a", v1::RecordKind::Fact, "1"));
    bench.one(Op::PutBlob {
        project: Project::default_project(),
        sha256: "ab".into(),
        size_bytes: 3,
    });
    let (head, meta, newest) = (
        bench.head(&key),
        bench.reads().meta().expect("read"),
        bench.reads().newest_event().expect("read"),
    );
    bench.reopen();
    assert_eq!((bench.head(&key), bench.reads().meta().expect("read")), (head, meta));
    assert_eq!(bench.reads().newest_event().expect("read"), newest);
    assert_eq!(bench.reads().blob(&key.project, "ab").expect("read"), Some(3));
    assert_eq!(
        bench.reads().find(&key.project, "t").expect("read"),
        std::slice::from_ref(&key.task)
    );
    assert_eq!(
        bench.write(&attempt, "i1", record("s/a", v1::RecordKind::Fact, "1")),
        Verdict::Ok
    );
    assert_eq!(
        bench.write(&attempt, "i1", record("s/a", v1::RecordKind::Fact, "2")),
        Verdict::Nondeterministic("s/a was recorded with another value before".into())
    );
    let query = ListQuery {
        project: key.project.clone(),
        states: vec![TaskState::Running],
        before: None,
        limit: 10,
    };
    assert_eq!(bench.reads().list(&query).expect("read").len(), 1);
    let query = ListQuery {
        before: Some("a".parse::<TaskId>().expect("a task id")),
        ..query
    };
    assert!(bench.reads().list(&query).expect("read").is_empty());
}
