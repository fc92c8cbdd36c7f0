//! A manager in this process and a scripted agent: says exactly what a test wants, nothing by itself.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use deputy_manager::dispatcher::timing::Timing;
use deputy_manager::server::{Manager, OidcSettings, Settings};
use deputy_proto::v1;
use deputy_proto::v1::agent_client::AgentClient;
use deputy_proto::v1::fleet_client::FleetClient;
use deputy_proto::v1::session_request::Frame as Request;
use deputy_proto::v1::session_response::Frame;
use deputy_proto::v1::tasks_client::TasksClient;
use deputy_proto::v1::write_op::Op;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

/// Nothing in these tests takes longer.
pub(crate) const SOON: Duration = Duration::from_secs(10);

pub(crate) struct World {
    pub(crate) manager: Option<Manager>,
    pub(crate) folder: tempfile::TempDir,
    timing: Timing,
    oidc: Option<OidcSettings>,
    requests: AtomicU32,
}

/// Short times where something is waited for; those that something has to come in are long.
pub(crate) fn quick() -> Timing {
    Timing {
        heartbeat: Duration::from_millis(100),
        lease_ttl: Duration::from_secs(60),
        guard: Duration::from_millis(100),
        start_deadline: SOON,
        kill_grace: Duration::from_millis(100),
    }
}

impl World {
    pub(crate) async fn start(timing: Timing) -> Self {
        Self::start_with(timing, None).await
    }

    /// With a manager that vouches for attempts.
    pub(crate) async fn start_with(timing: Timing, oidc: Option<OidcSettings>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut world = Self {
            manager: None,
            folder,
            timing,
            oidc,
            requests: AtomicU32::new(0),
        };
        world.boot().await;
        world
    }

    pub(crate) async fn boot(&mut self) {
        let mut settings = Settings::on_loopback(self.folder.path().to_owned());
        settings.timing = self.timing.clone();
        settings.oidc = self.oidc.clone();
        self.manager = Some(Manager::start(settings).await.expect("the manager starts"));
    }

    pub(crate) async fn restart(&mut self) {
        self.manager.take().expect("up").shutdown().await;
        self.boot().await;
    }

    pub(crate) async fn channel(&self) -> Channel {
        let address = self.manager.as_ref().expect("up").address();
        Channel::from_shared(format!("http://{address}"))
            .expect("an address")
            .connect()
            .await
            .expect("connects")
    }

    pub(crate) async fn tasks(&self) -> TasksClient<Channel> {
        TasksClient::new(self.channel().await)
    }

    /// Why a task is where it is.
    pub(crate) async fn explain(&self, task: &str) -> v1::ExplainResponse {
        let request = v1::ExplainRequest {
            task_id: task.into(),
            ..v1::ExplainRequest::default()
        };
        let answer = self.tasks().await.explain(request).await;
        answer.expect("explained").into_inner()
    }

    pub(crate) async fn fleet(&self) -> FleetClient<Channel> {
        FleetClient::new(self.channel().await)
    }

    /// Submits a task of one hidden step with these lines in its spec.
    pub(crate) async fn submit(&self, spec: &str) -> String {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        let request = submit_request(&format!("r{number}"), spec);
        self.tasks()
            .await
            .submit(request)
            .await
            .expect("submitted")
            .into_inner()
            .task_id
    }

    pub(crate) async fn task(&self, id: &str) -> v1::Task {
        let request = v1::GetRequest {
            task_id: id.into(),
            ..v1::GetRequest::default()
        };
        self.tasks()
            .await
            .get(request)
            .await
            .expect("found")
            .into_inner()
            .task
            .expect("a task")
    }

    pub(crate) async fn journal(&self, id: &str) -> Vec<v1::Record> {
        let request = v1::GetRequest {
            task_id: id.into(),
            with_journal: true,
            ..v1::GetRequest::default()
        };
        self.tasks()
            .await
            .get(request)
            .await
            .expect("found")
            .into_inner()
            .journal
    }

    /// Waits until the task is in this state.
    pub(crate) async fn until(&self, id: &str, state: v1::TaskState) -> v1::Task {
        let deadline = tokio::time::Instant::now() + SOON;
        loop {
            let task = self.task(id).await;
            if task.state() == state {
                return task;
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "{id} is {:?} ({}), not {state:?}",
                task.state(),
                task.condition
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

pub(crate) fn submit_request(request: &str, spec: &str) -> v1::SubmitRequest {
    let document = format!(
        "apiVersion: deputy.dev/v1\nkind: Task\nmetadata: {{ name: t }}\nspec:\n{spec}  steps:\n    - name: one\n      noopEffect: {{}}\n"
    );
    v1::SubmitRequest {
        client_request_id: request.into(),
        document: document.into(),
        submitter: "tester".into(),
        ..v1::SubmitRequest::default()
    }
}

pub(crate) struct Agent {
    pub(crate) frames: Option<mpsc::Sender<v1::SessionRequest>>,
    answers: Streaming<v1::SessionResponse>,
    pub(crate) welcome: Option<v1::Welcome>,
    seq: u64,
}

pub(crate) fn offers(slots: u32) -> v1::Capabilities {
    v1::Capabilities {
        slots,
        steps: vec![v1::StepSupport {
            kind: "noopEffect".into(),
            min_version: 1,
            max_version: 1,
        }],
        platform: "linux/amd64".into(),
        ..v1::Capabilities::default()
    }
}

pub(crate) fn hello(agent: &str, instance: &str, slots: u32) -> v1::Hello {
    v1::Hello {
        protocol_min: 1,
        protocol_max: 1,
        agent_id: agent.into(),
        instance_id: instance.into(),
        version: "0.1.0".into(),
        capabilities: Some(offers(slots)),
        ..v1::Hello::default()
    }
}

impl Agent {
    /// Opens a session and waits for its first answer.
    pub(crate) async fn dial(world: &World, hello: v1::Hello) -> (Self, Frame) {
        Self::dial_over(world.channel().await, hello).await
    }

    /// The same, over this connection.
    pub(crate) async fn dial_over(channel: Channel, hello: v1::Hello) -> (Self, Frame) {
        let (frames, receiver) = mpsc::channel(256);
        frames
            .send(v1::SessionRequest {
                frame: Some(Request::Hello(hello)),
            })
            .await
            .expect("open");
        let mut client = AgentClient::new(channel).max_decoding_message_size(16 << 20);
        let answers = client
            .session(ReceiverStream::new(receiver))
            .await
            .expect("a session")
            .into_inner();
        let mut agent = Self {
            frames: Some(frames),
            answers,
            welcome: None,
            seq: 0,
        };
        let first = agent.next().await.expect("a first answer");
        (agent, first)
    }

    pub(crate) async fn connect(world: &World, agent: &str, instance: &str) -> Self {
        Self::connect_with(world, hello(agent, instance, 2)).await
    }

    pub(crate) async fn connect_with(world: &World, hello: v1::Hello) -> Self {
        let (mut agent, first) = Self::dial(world, hello).await;
        match first {
            Frame::Welcome(welcome) => agent.welcome = Some(welcome),
            other => panic!("not welcome: {other:?}"),
        }
        agent
    }

    /// The next frame; `None` when the session has ended.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        let next = tokio::time::timeout(SOON, self.answers.message())
            .await
            .expect("an answer in time");
        next.ok().flatten().and_then(|answer| answer.frame)
    }

    /// The next assignment; heartbeat answers and wishes before it are dropped.
    pub(crate) async fn assignment(&mut self) -> v1::Assignment {
        loop {
            if let Frame::Assignment(assignment) = self.next().await.expect("an assignment") {
                return assignment;
            }
        }
    }

    pub(crate) async fn send(&mut self, frame: Request) {
        self.frames
            .as_ref()
            .expect("open")
            .send(v1::SessionRequest { frame: Some(frame) })
            .await
            .expect("sent");
    }

    pub(crate) async fn heartbeat(&mut self) {
        self.seq += 1;
        self.send(Request::Heartbeat(v1::Heartbeat {
            seq: self.seq,
            free_slots: 1,
            spool_bytes: 0,
        }))
        .await;
        loop {
            if let Frame::HeartbeatAck(ack) = self.next().await.expect("an answer")
                && ack.seq == self.seq
            {
                return;
            }
        }
    }

    /// Writes operations of one attempt in one frame; answers the codes.
    pub(crate) async fn write(&mut self, attempt: &v1::AttemptRef, ops: Vec<Op>) -> Vec<v1::WriteCode> {
        self.seq += 1;
        let ops = ops
            .into_iter()
            .map(|op| v1::WriteOp {
                attempt: Some(attempt.clone()),
                op: Some(op),
            })
            .collect();
        self.send(Request::Write(v1::Write { seq: self.seq, ops })).await;
        loop {
            if let Frame::WriteAck(ack) = self.next().await.expect("an acknowledgement")
                && ack.seq == self.seq
            {
                return ack.results.iter().map(v1::WriteResult::code).collect();
            }
        }
    }

    pub(crate) async fn start(&mut self, attempt: &v1::AttemptRef) {
        assert_eq!(self.write(attempt, vec![start()]).await, [v1::WriteCode::Ok]);
    }
}

pub(crate) fn start() -> Op {
    Op::Start(v1::StartOp {})
}

pub(crate) fn intent(key: &str) -> v1::Record {
    v1::Record {
        key: key.into(),
        kind: v1::RecordKind::Intent.into(),
        program_version: 1,
        step_kind: "noopEffect".into(),
        effect_class: v1::EffectClass::Bounded.into(),
        plan_digest: bytes::Bytes::from_static(&[7; 32]),
        budget_ms: 200,
        summary: format!("do {key}"),
        ..v1::Record::default()
    }
}

pub(crate) fn held(key: &str) -> v1::Record {
    v1::Record {
        effect_class: v1::EffectClass::Held.into(),
        budget_ms: 0,
        ..intent(key)
    }
}

pub(crate) fn done(key: &str, payload: &'static str) -> v1::Record {
    v1::Record {
        key: key.into(),
        kind: v1::RecordKind::Done.into(),
        payload: payload.into(),
        program_version: 1,
        step_kind: "noopEffect".into(),
        ..v1::Record::default()
    }
}

pub(crate) fn complete(state: v1::TaskState) -> Op {
    Op::Complete(v1::Result {
        state: state.into(),
        world: v1::World::Changed.into(),
        ..v1::Result::default()
    })
}
