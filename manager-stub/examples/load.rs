//! Load on a manager in this process, over real sockets: `load tasks [N]`, `load logs [MB]`.
//! One scripted agent; every task is submitted, started with an intent, and completed with its
//! result, each acknowledged after its sync. Ends by itself.

use std::collections::HashMap;
use std::io::Write as _;
use std::sync::Arc;

use deputy_manager::server::{Manager, Settings};
use deputy_proto::v1;
use deputy_proto::v1::agent_client::AgentClient;
use deputy_proto::v1::session_request::Frame as Request;
use deputy_proto::v1::session_response::Frame;
use deputy_proto::v1::tasks_client::TasksClient;
use deputy_proto::v1::write_op::Op;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

const SLOTS: u32 = 256;
const IN_FLIGHT: usize = 256;
const DOCUMENT: &str = r#"{"apiVersion":"deputy.dev/v1","kind":"Task","metadata":{"name":"load"},"spec":{"steps":[{"name":"one","noopEffect":{}}]}}"#;

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(run())
}

async fn run() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let what = arguments.next().unwrap_or_default();
    let amount: usize = arguments.next().map_or(Ok(20_000), |text| text.parse())?;
    let folder = tempfile::tempdir_in(".")?;
    let manager = Manager::start(Settings::on_loopback(folder.path().to_owned())).await?;
    let address = format!("http://{}", manager.address());
    let line = match what.as_str() {
        "tasks" => tasks(&address, amount).await?,
        "logs" => logs(&address, amount).await?,
        other => return Err(format!("{other:?} is no load; there are tasks and logs").into()),
    };
    manager.shutdown().await;
    writeln!(std::io::stdout().lock(), "{line}")?;
    Ok(())
}

async fn channel(address: &str) -> Result<Channel, Failure> {
    Ok(Channel::from_shared(address.to_owned())?
        .tcp_nodelay(true)
        .connect()
        .await?)
}

async fn tasks(address: &str, count: usize) -> Result<String, Failure> {
    let agent = Scripted::connect(address).await?;
    let started = Instant::now();
    let submitting = submit_all(channel(address).await?, count);
    let (submitted, ended) = tokio::join!(submitting, agent.run(count));
    submitted?;
    ended?;
    let seconds = started.elapsed().as_secs_f64();
    Ok(format!(
        "{count} tasks in {seconds:.2} s: {:.0} tasks/s",
        f64::from(u32::try_from(count)?) / seconds
    ))
}

async fn submit_all(channel: Channel, count: usize) -> Result<(), Failure> {
    let permits = Arc::new(Semaphore::new(IN_FLIGHT));
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..count {
        let permit = permits.clone().acquire_owned().await?;
        let mut client = TasksClient::new(channel.clone());
        calls.spawn(async move {
            let request = v1::SubmitRequest {
                client_request_id: format!("load-{number}"),
                document: DOCUMENT.into(),
                ..v1::SubmitRequest::default()
            };
            let answer = client.submit(request).await;
            drop(permit);
            answer.map(drop)
        });
        while let Some(ended) = calls.try_join_next() {
            ended??;
        }
    }
    while let Some(ended) = calls.join_next().await {
        ended??;
    }
    Ok(())
}

struct Scripted {
    frames: mpsc::Sender<v1::SessionRequest>,
    answers: tonic::Streaming<v1::SessionResponse>,
}

impl Scripted {
    async fn connect(address: &str) -> Result<Self, Failure> {
        let (frames, receiver) = mpsc::channel(1024);
        let capabilities = v1::Capabilities {
            slots: SLOTS,
            steps: vec![v1::StepSupport {
                kind: "noopEffect".into(),
                min_version: 1,
                max_version: 1,
            }],
            ..v1::Capabilities::default()
        };
        let hello = v1::Hello {
            protocol_min: 1,
            protocol_max: 1,
            agent_id: "load".into(),
            instance_id: "load-1".into(),
            capabilities: Some(capabilities),
            ..v1::Hello::default()
        };
        frames
            .send(v1::SessionRequest {
                frame: Some(Request::Hello(hello)),
            })
            .await?;
        let mut client = AgentClient::new(channel(address).await?);
        let answers = client.session(ReceiverStream::new(receiver)).await?.into_inner();
        Ok(Self { frames, answers })
    }

    async fn run(mut self, count: usize) -> Result<(), Failure> {
        let mut begun: HashMap<u64, v1::AttemptRef> = HashMap::new();
        let (mut seq, mut ended, mut frames) = (0_u64, 0, 0_usize);
        let started = Instant::now();
        while ended < count {
            match self.answers.message().await?.and_then(|answer| answer.frame) {
                Some(Frame::Assignment(assignment)) => {
                    let attempt = assignment.attempt.ok_or("an assignment without an attempt")?;
                    seq += 1;
                    let ops = vec![Op::Start(v1::StartOp {}), Op::Append(intent())];
                    self.write(seq, &attempt, ops).await?;
                    begun.insert(seq, attempt);
                }
                Some(Frame::WriteAck(ack)) => {
                    if let Some(bad) = ack.results.iter().find(|result| result.code() != v1::WriteCode::Ok) {
                        return Err(format!("{bad:?}").into());
                    }
                    match begun.remove(&ack.seq) {
                        Some(attempt) => {
                            seq += 1;
                            let result = v1::Result {
                                state: v1::TaskState::Succeeded.into(),
                                ..v1::Result::default()
                            };
                            self.write(seq, &attempt, vec![Op::Append(done()), Op::Complete(result)])
                                .await?;
                        }
                        None => ended += 1,
                    }
                }
                Some(_) => {}
                None => return Err(format!("the session ended after {ended} tasks, {:?}", started.elapsed()).into()),
            }
            frames += 1;
            if frames.is_multiple_of(10_000) {
                self.frames
                    .send(v1::SessionRequest {
                        frame: Some(Request::Heartbeat(v1::Heartbeat {
                            free_slots: 1,
                            ..v1::Heartbeat::default()
                        })),
                    })
                    .await?;
            }
        }
        Ok(())
    }

    async fn write(&self, seq: u64, attempt: &v1::AttemptRef, ops: Vec<Op>) -> Result<(), Failure> {
        let ops = ops
            .into_iter()
            .map(|op| v1::WriteOp {
                attempt: Some(attempt.clone()),
                op: Some(op),
            })
            .collect();
        self.frames
            .send(v1::SessionRequest {
                frame: Some(Request::Write(v1::Write { seq, ops })),
            })
            .await?;
        Ok(())
    }
}

fn intent() -> v1::Record {
    v1::Record {
        key: "one/act".into(),
        kind: v1::RecordKind::Intent.into(),
        program_version: 1,
        step_kind: "noopEffect".into(),
        effect_class: v1::EffectClass::Bounded.into(),
        plan_digest: bytes::Bytes::from_static(&[7; 32]),
        budget_ms: 20_000,
        summary: "do nothing".into(),
        ..v1::Record::default()
    }
}

fn done() -> v1::Record {
    v1::Record {
        key: "one/act".into(),
        kind: v1::RecordKind::Done.into(),
        payload: "{}".into(),
        program_version: 1,
        ..v1::Record::default()
    }
}

async fn logs(address: &str, megabytes: usize) -> Result<String, Failure> {
    let Scripted { frames, mut answers } = Scripted::connect(address).await?;
    let request = v1::SubmitRequest {
        client_request_id: "log".into(),
        document: DOCUMENT.into(),
        ..v1::SubmitRequest::default()
    };
    TasksClient::new(channel(address).await?).submit(request).await?;
    let attempt = loop {
        if let Some(Frame::Assignment(assignment)) = answers.message().await?.and_then(|answer| answer.frame) {
            break assignment.attempt.ok_or("an assignment without an attempt")?;
        }
    };
    let piece = bytes::Bytes::from(vec![b'x'; 512 * 1024]);
    let (crc32, count) = (crc32fast::hash(&piece), megabytes * 2);
    let (pieces, receiver) = mpsc::channel(16);
    let started = Instant::now();
    let mut acknowledged = AgentClient::new(channel(address).await?)
        .push_logs(ReceiverStream::new(receiver))
        .await?
        .into_inner();
    let sending = async move {
        for number in 0..count {
            let offset = u64::try_from(number * piece.len())?;
            let frame = v1::PushLogsRequest {
                attempt: Some(attempt.clone()),
                offset,
                data: piece.clone(),
                crc32,
                ..v1::PushLogsRequest::default()
            };
            pieces.send(frame).await?;
        }
        Ok::<_, Failure>(pieces)
    };
    let total = u64::try_from(count * 512 * 1024)?;
    let receiving = async move {
        while let Some(answer) = acknowledged.message().await? {
            if answer.committed_offset == total {
                return Ok(());
            }
        }
        Err::<(), Failure>("the upload ended early".into())
    };
    let (sent, received) = tokio::join!(sending, receiving);
    drop((sent?, frames));
    received?;
    let seconds = started.elapsed().as_secs_f64();
    Ok(format!(
        "{megabytes} MB in {seconds:.2} s: {:.0} MB/s",
        f64::from(u32::try_from(megabytes)?) / seconds
    ))
}
