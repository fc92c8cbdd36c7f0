//! One session, seen from the manager: what the agent says, and whatever the test wants to answer.

use std::time::Duration;

use anyhow::{Result, bail};
use deputy_proto::v1;
use deputy_proto::v1::session_request::Frame as Said;
use deputy_proto::v1::session_response::Frame as Answer;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::{Status, Streaming};

/// Nothing in these tests takes longer, unless it is broken.
const PATIENCE: Duration = Duration::from_secs(60);

/// One session.
pub struct Session {
    inbound: Streaming<v1::SessionRequest>,
    outbound: mpsc::Sender<Result<v1::SessionResponse, Status>>,
    heard: Heard,
}

/// What the agent has said so far.
#[derive(Debug, Default)]
pub struct Heard {
    /// Attempts that it said to hold when it came.
    pub held: usize,
    /// Attempts that it asked to start, in order.
    pub started: Vec<v1::AttemptRef>,
    /// Results, in order.
    pub completed: Vec<(v1::AttemptRef, v1::Result)>,
    /// What it did not take, and why.
    pub refused: Vec<(v1::AttemptRef, v1::RefuseOp)>,
    /// Records that it wrote.
    pub records: Vec<(v1::AttemptRef, v1::Record)>,
    /// Sequence numbers of its writes.
    pub writes: Vec<u64>,
}

impl Session {
    pub(super) fn new(
        inbound: Streaming<v1::SessionRequest>,
        outbound: mpsc::Sender<Result<v1::SessionResponse, Status>>,
    ) -> Self {
        Self {
            inbound,
            outbound,
            heard: Heard::default(),
        }
    }

    /// What the agent has said so far.
    #[must_use]
    pub fn heard(&self) -> &Heard {
        &self.heard
    }

    /// A heartbeat every three seconds, a lease of a minute.
    pub async fn welcome(&mut self) -> Result<()> {
        let Some(Said::Hello(hello)) = self.next().await? else {
            bail!("the agent did not say hello");
        };
        self.heard.held = hello.inventory.len();
        let welcome = v1::Welcome {
            protocol: 1,
            generation: 1,
            heartbeat_interval_ms: 3_000,
            lease_ttl_ms: 60_000,
            guard_ms: 1_000,
            version: "hostile".into(),
            ..v1::Welcome::default()
        };
        self.say(Answer::Welcome(welcome)).await;
        Ok(())
    }

    /// Says something. An agent that has broken the session off hears nothing.
    pub async fn say(&self, answer: Answer) {
        let frame = v1::SessionResponse { frame: Some(answer) };
        let _gone = self.outbound.send(Ok(frame)).await;
    }

    /// The next frame of the agent; none when it has broken the session off.
    pub async fn next(&mut self) -> Result<Option<Said>> {
        match tokio::time::timeout(PATIENCE, self.inbound.message()).await {
            Ok(Ok(frame)) => Ok(frame.and_then(|frame| frame.frame)),
            Ok(Err(_)) => Ok(None),
            Err(_) => bail!("the agent said nothing for {PATIENCE:?}"),
        }
    }

    /// Waits until the agent has broken the session off, and answers nothing.
    pub async fn broken_off(&mut self) -> Result<()> {
        while self.next().await?.is_some() {}
        Ok(())
    }

    /// Answers as a good manager does until something has been heard.
    pub async fn behave_until(&mut self, enough: impl Fn(&Heard) -> bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !enough(&self.heard) {
            if Instant::now() > deadline {
                bail!("not within {PATIENCE:?}; heard so far: {:#?}", self.heard);
            }
            match self.next().await? {
                Some(Said::Heartbeat(beat)) => self.say(Answer::HeartbeatAck(v1::HeartbeatAck { seq: beat.seq })).await,
                Some(Said::Write(write)) => {
                    let ack = self.take(write);
                    self.say(Answer::WriteAck(ack)).await;
                }
                Some(_) => {}
                None => bail!("the agent broke the session off; heard so far: {:#?}", self.heard),
            }
        }
        Ok(())
    }

    /// Takes a write in; the answer of a good manager.
    pub fn take(&mut self, write: v1::Write) -> v1::WriteAck {
        use v1::write_op::Op;
        let results = write.ops.iter().map(|_| v1::WriteResult {
            code: v1::WriteCode::Ok.into(),
            message: String::new(),
        });
        let ack = v1::WriteAck {
            seq: write.seq,
            results: results.collect(),
        };
        self.heard.writes.push(write.seq);
        for op in write.ops {
            let attempt = op.attempt.unwrap_or_default();
            match op.op {
                Some(Op::Start(_)) => self.heard.started.push(attempt),
                Some(Op::Complete(result)) => self.heard.completed.push((attempt, result)),
                Some(Op::Refuse(refuse)) => self.heard.refused.push((attempt, refuse)),
                Some(Op::Append(record)) => self.heard.records.push((attempt, record)),
                Some(Op::Release(_)) | None => {}
            }
        }
        ack
    }
}

impl Heard {
    /// How the attempt ended, if it has.
    #[must_use]
    pub fn result_of(&self, attempt: &v1::AttemptRef) -> Option<&v1::Result> {
        self.completed
            .iter()
            .find(|(of, _)| of == attempt)
            .map(|(_, result)| result)
    }

    /// Why the attempt was not taken, if it was not.
    #[must_use]
    pub fn refusal_of(&self, attempt: &v1::AttemptRef) -> Option<&v1::RefuseOp> {
        self.refused
            .iter()
            .find(|(of, _)| of == attempt)
            .map(|(_, refuse)| refuse)
    }

    /// Has the agent said its last word about the attempt?
    #[must_use]
    pub fn has_ended(&self, attempt: &v1::AttemptRef) -> bool {
        self.result_of(attempt).is_some() || self.refusal_of(attempt).is_some()
    }
}
