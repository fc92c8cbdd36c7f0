//! Runs attempts of a scripted task against a journal in memory, with crashes where they are wanted.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use deputy_credentials::Identities;
use deputy_credentials::env::Env;
use deputy_logs::Logs;
use deputy_policy::signers::TrustedSigners;
use deputy_policy::source::PolicySource;
use deputy_process::Confinement;
use deputy_seal::KeyRing;
use deputy_steps::permit;
use deputy_task::attempt::AttemptRef;
use deputy_task::boot_time::BootTime;
use deputy_task::document::{Document, Inputs};
use deputy_task::id::Project;
use deputy_task::message::{Assignment, BlobRef, Command, Event, WriteOp, WriteVerdict};
use deputy_task::outcome::Completion;
use deputy_task::progress::StepProgress;
use deputy_task::record::{Record, RecordBody};
use deputy_task::repair::Steering;
use deputy_task::signed::Signed;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::script::{Script, Scripted, World};
use crate::environment::{AgentFacts, Environment, ExecutorConfig};
use crate::executor::Executor;
use crate::local::MemoryJournal;
use crate::workspace::WorkFolder;

/// Where the agent dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Crash {
    /// At the n-th write, which is not recorded.
    WriteLost(usize),
    /// At the n-th write, which is recorded and never acknowledged.
    WriteUnacknowledged(usize),
    /// When the world says so.
    InTheWorld,
}

/// What else the manager says, once a write with this text in its key (or `start`) was answered.
pub(super) type Say = (&'static str, Box<dyn Fn(&AttemptRef) -> Command + Send>);

pub(super) struct Bench {
    pub(super) world: World,
    pub(super) journal: MemoryJournal,
    pub(super) document: Arc<Document>,
    pub(super) inputs: Arc<Inputs>,
    pub(super) config: ExecutorConfig,
    pub(super) progress: Vec<StepProgress>,
    pub(super) writes: usize,
    /// How often it was told that an attempt's last message is given up.
    pub(super) given_up: usize,
    pub(super) says: Vec<Say>,
    /// What the manager answers to a write with this text in its key (or `complete`, or `release`).
    pub(super) refuses: Option<(&'static str, WriteVerdict)>,
    pub(super) cancel: Option<String>,
    /// The packed bundle of the only source.
    pub(super) bundle: Vec<u8>,
    pub(super) log: Arc<Mutex<String>>,
    script: Arc<Script>,
    /// Around children; none of the tests' own makes a difference.
    pub(super) confinement: Option<Confinement>,
    pub(super) root: tempfile::TempDir,
    pub(super) policy: PolicySource,
    pub(super) signers: TrustedSigners,
    pub(super) signed: Option<Arc<Signed>>,
    /// The keys of the pool that the next attempt's agent has.
    pub(super) pool_keys: Option<Arc<KeyRing>>,
    /// The agent's own labels.
    pub(super) labels: BTreeMap<String, String>,
}

impl Bench {
    /// A task whose steps are those of the script; `spec` adds to its spec.
    pub(super) fn new(script: Script, spec: serde_json::Value) -> Self {
        let steps: Vec<_> = script
            .keys()
            .map(|name| json!({ "name": name, "noopEffect": {} }))
            .collect();
        let mut document = json!({
            "apiVersion": "deputy.dev/v1", "kind": "Task", "metadata": { "name": "scripted" }, "spec": { "steps": steps }
        });
        for (key, value) in spec.as_object().into_iter().flatten() {
            document["spec"][key] = value.clone();
        }
        Self {
            world: World::default(),
            journal: MemoryJournal::default(),
            document: Arc::new(serde_json::from_value(document).expect("document")),
            inputs: Arc::default(),
            config: ExecutorConfig::with_slots(2),
            progress: Vec::new(),
            writes: 0,
            given_up: 0,
            says: Vec::new(),
            refuses: None,
            cancel: None,
            bundle: Vec::new(),
            log: Arc::default(),
            script: Arc::new(script),
            confinement: Some(Confinement::new(Vec::new(), Vec::new())),
            root: tempfile::tempdir().expect("root"),
            policy: PolicySource::by_hand(),
            signers: TrustedSigners::default(),
            signed: None,
            pool_keys: None,
            labels: BTreeMap::new(),
        }
    }

    /// Says `command` once a record whose key contains `key` (or Start: `start`) is acknowledged.
    pub(super) fn say(mut self, key: &'static str, command: impl Fn(&AttemptRef) -> Command + Send + 'static) -> Self {
        self.says.push((key, Box::new(command)));
        self
    }

    pub(super) fn executor(&self) -> Executor {
        let log = Arc::clone(&self.log);
        let environment = Environment {
            confinement: self.confinement.clone(),
            policy: self.policy.clone(),
            signers: self.signers.clone(),
            pool_keys: self.pool_keys.clone(),
            work: WorkFolder::open(self.root.path()).expect("work folder"),
            logs: Logs::local(move |_, _, _, bytes| log.lock().expect("log").push_str(&String::from_utf8_lossy(bytes))),
            identities: Identities::new(Env::default()),
            agent: AgentFacts {
                id: "agent-1".into(),
                labels: self.labels.clone(),
                ..AgentFacts::default()
            },
            steering: Steering::Manager,
            secrets_folder: None,
        };
        let (world, script) = (self.world.clone(), Arc::clone(&self.script));
        Executor::new(self.config.clone(), environment).with_programs(Arc::new(move |_| {
            Box::new(Scripted {
                world: world.clone(),
                script: Arc::clone(&script),
            })
        }))
    }

    pub(super) fn assignment(&self, epoch: u64) -> Assignment {
        Assignment {
            attempt: attempt(epoch),
            document: Arc::clone(&self.document),
            inputs: Arc::clone(&self.inputs),
            digest: hex::encode(Sha256::digest(serde_json::to_vec(&*self.document).expect("json"))),
            signed: self.signed.clone(),
            submitter: "tests".into(),
            journal: self.journal.records().to_vec(),
            start_deadline: permit::now().after(Duration::from_secs(3600)),
            cancel: self.cancel.clone(),
            bundles: [(
                "bundle".to_owned(),
                BlobRef {
                    sha256: hex::encode(Sha256::digest(&self.bundle)),
                    size_bytes: 0,
                },
            )]
            .into(),
            run_age: Duration::ZERO,
        }
    }

    /// One attempt, to its last message.
    pub(super) async fn run(&mut self) -> Option<Completion> {
        self.attempt(None).await;
        self.journal.completion().cloned()
    }

    /// One attempt, to its last message or to its crash. Answers whether it crashed.
    pub(super) async fn attempt(&mut self, crash: Option<Crash>) -> bool {
        let epoch = self.journal.next_epoch();
        let (commands, inbox) = mpsc::channel(64);
        let (outbox, mut events) = mpsc::channel(64);
        let mut running = tokio::task::JoinSet::new();
        running.spawn(self.executor().run(inbox, outbox));
        commands
            .send(Command::Assign(Box::new(self.assignment(epoch))))
            .await
            .expect("executor lives");
        self.writes = 0;
        let reached = Arc::clone(&self.world.reached);
        let mut drained = false;
        loop {
            let event = tokio::select! {
                biased;
                () = reached.notified(), if crash == Some(Crash::InTheWorld) => return true,
                event = events.recv() => event,
                ended = running.join_next(), if !running.is_empty() => {
                    ended.expect("one").expect("the executor does not panic");
                    continue;
                }
            };
            let Some(event) = event else { return false };
            match &event {
                Event::Progress { steps, .. } => self.progress.extend(steps.iter().cloned()),
                Event::Write { .. } => self.writes += 1,
                Event::GivenUp { .. } => self.given_up += 1,
                Event::FetchBlob { .. } | Event::MintToken { .. } | Event::FreeSlots(_) => {}
            }
            if crash == Some(Crash::WriteLost(self.writes)) {
                return true;
            }
            let (topic, last) = topic(&event);
            let refused = self
                .refuses
                .as_ref()
                .filter(|(key, _)| topic.as_deref().is_some_and(|topic| topic.contains(key)));
            let answer = match event {
                Event::Write { id, .. } if refused.is_some() => refused.map(|(_, verdict)| Command::Written {
                    id,
                    verdict: verdict.clone(),
                }),
                Event::FetchBlob { id, path, .. } => Some(Command::BlobFetched {
                    id,
                    result: std::fs::write(path, &self.bundle).map_err(|error| error.to_string()),
                }),
                event => self.journal.answer(event),
            };
            if crash == Some(Crash::WriteUnacknowledged(self.writes)) {
                return true;
            }
            let stale = matches!(
                answer,
                Some(Command::Written {
                    verdict: WriteVerdict::StaleEpoch,
                    ..
                })
            );
            if let Some(answer) = answer {
                commands.send(answer).await.expect("executor lives");
            }
            for (key, command) in &self.says {
                if topic.as_deref().is_some_and(|topic| topic.contains(key)) {
                    commands.send(command(&attempt(epoch))).await.expect("executor lives");
                }
            }
            if (last || stale) && !drained {
                // Nothing more will come: the executor ends when it has nothing left.
                drained = true;
                let drain = Command::Drain {
                    deadline: BootTime::NEVER,
                    reason: "the test ends".into(),
                };
                commands.send(drain).await.expect("executor lives");
            }
        }
    }
}

/// The key of what was written, and whether it is an attempt's last message.
fn topic(event: &Event) -> (Option<String>, bool) {
    match event {
        Event::Write { op: WriteOp::Start, .. } => (Some("start".into()), false),
        Event::Write {
            op: WriteOp::Append(record),
            ..
        } => (Some(label(record)), false),
        Event::Write {
            op: WriteOp::Complete(_),
            ..
        } => (Some("complete".into()), true),
        Event::Write { .. } => (Some("release".into()), true),
        Event::Progress { .. }
        | Event::FetchBlob { .. }
        | Event::MintToken { .. }
        | Event::GivenUp { .. }
        | Event::FreeSlots(_) => (None, false),
    }
}

/// `intent a/put/x`
pub(super) fn label(record: &Record) -> String {
    let kind = match record.body {
        RecordBody::Intent(_) => "intent",
        RecordBody::Done(_) => "done",
        RecordBody::Fact(_) => "fact",
        RecordBody::Decision(_) => "decision",
    };
    format!("{kind} {}", record.key)
}

pub(super) fn attempt(epoch: u64) -> AttemptRef {
    AttemptRef {
        project: Project::default_project(),
        task: "task-1".parse().expect("id"),
        run: 1,
        epoch,
    }
}
