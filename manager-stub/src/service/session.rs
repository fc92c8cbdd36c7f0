//! One session from its Hello to its end, whatever carries its frames: a stream of HTTP/2, or long polls. The carrier
//! stands beside it with a queue each way.

use std::time::Duration;

use deputy_proto::v1;
use deputy_proto::v1::session_request::Frame;
use futures::{Stream, StreamExt};
use tonic::Status;

use super::context::Context;
use crate::auth::caller::Caller;
use crate::dispatcher::Outbound;
use crate::dispatcher::inbound::{Carrier, Inbound, SessionId};
use crate::scheduler::Vouched;

/// An agent says hello within this time or is cut off.
const HELLO_WITHIN: Duration = Duration::from_secs(10);
/// Who says another name than its certificate does stays away for so long.
const STAY_AWAY_MS: u32 = 60_000;
/// A way that is only probed is probed for so long, and so often.
const PROBING: Duration = Duration::from_secs(60);
const PROBES: usize = 8;

/// Who speaks in a session, and how.
pub(super) struct Speaker {
    pub(super) caller: Caller,
    pub(super) session: SessionId,
    pub(super) carrier: Carrier,
}

/// Why this caller may not speak for that agent; `None` if he may.
fn another(caller: &Caller, agent: &str) -> Option<String> {
    match caller {
        Caller::Unasked => None,
        Caller::Agent { agent_id, .. } if agent_id.as_str() == agent => None,
        Caller::Agent { agent_id, .. } => Some(format!(
            "the certificate is the agent {agent_id}'s, and the hello says {agent}"
        )),
        Caller::Nobody | Caller::User(_) => Some("only an agent has a session".into()),
    }
}

/// What is known of an agent by the join that its certificate is of.
fn vouched(caller: &Caller) -> Vouched {
    let Caller::Agent { line, admission, .. } = caller else {
        return Vouched::default();
    };
    Vouched {
        pool: Some(admission.pool.clone()),
        projects: admission.projects.clone(),
        line: line.clone(),
    }
}

/// Carries the frames of one session to the dispatcher until there are no more.
pub(super) async fn talk(
    context: Context,
    speaker: Speaker,
    mut frames: impl Stream<Item = Result<v1::SessionRequest, Status>> + Unpin,
    outbound: Outbound,
) {
    let first = tokio::time::timeout(HELLO_WITHIN, frames.next()).await;
    let hello = match first.map(|first| first.map(|frame| frame.map(|frame| frame.frame))) {
        Ok(Some(Ok(Some(Frame::Hello(hello))))) => hello,
        Ok(Some(Ok(Some(Frame::Probe(probe))))) => {
            let probed = tokio::time::timeout(PROBING, answer_probes(probe, frames, outbound));
            tokio::select! {
                _ = probed => {}
                () = context.ending.cancelled() => {}
            }
            return;
        }
        Ok(Some(Ok(_))) => return outbound.disconnect("protocol", "the first frame of a session is Hello", 0),
        Ok(None | Some(Err(_))) => return,
        Err(_) => return outbound.disconnect("protocol", "no Hello came within 10 s", 0),
    };
    if let Some(why) = another(&speaker.caller, &hello.agent_id) {
        tracing::warn!(agent = hello.agent_id, why, "a session was refused");
        return outbound.disconnect("identity", &why, STAY_AWAY_MS);
    }
    let (session, carrier) = (speaker.session, speaker.carrier);
    if let Some(why) = ended(&context, &speaker.caller) {
        return tracing::warn!(session, why, "a session was ended before it began");
    }
    let hello = Inbound::Hello {
        session,
        carrier,
        vouched: vouched(&speaker.caller),
        hello: Box::new(hello),
        outbound,
    };
    if context.dispatcher.send(hello).await.is_err() {
        return;
    }
    // A revoke ends the sessions that the dispatcher has. This one may have come to it between the two.
    if let Some(why) = ended(&context, &speaker.caller) {
        tracing::warn!(session, why, "a session was ended as it began");
        if context.dispatcher.send(Inbound::Closed { session }).await.is_err() {
            tracing::debug!(session, "the dispatcher ended first");
        }
        return;
    }
    carry(context, session, frames).await;
}

/// Why an agent that was let in may not go on.
fn ended(context: &Context, caller: &Caller) -> Option<String> {
    let Caller::Agent { agent_id, serial, .. } = caller else {
        return None;
    };
    match context.registry.agent(agent_id.as_str()) {
        Some(agent) => agent.unended(serial).err(),
        None => Some(format!("this manager knows no agent {agent_id}")),
    }
}

async fn answer_probes(
    first: v1::Probe,
    mut frames: impl Stream<Item = Result<v1::SessionRequest, Status>> + Unpin,
    outbound: Outbound,
) {
    let mut probe = first;
    for _ in 0..PROBES {
        if !outbound.send(v1::session_response::Frame::Probed(v1::Probed { seq: probe.seq })) {
            return;
        }
        match frames.next().await {
            Some(Ok(v1::SessionRequest {
                frame: Some(Frame::Probe(next)),
            })) => probe = next,
            _ => return,
        }
    }
}

async fn carry(
    context: Context,
    session: SessionId,
    mut frames: impl Stream<Item = Result<v1::SessionRequest, Status>> + Unpin,
) {
    loop {
        let next = tokio::select! {
            next = frames.next() => next,
            () = context.ending.cancelled() => break,
        };
        match next {
            // A frame of a kind that this build does not know is ignored.
            Some(Ok(v1::SessionRequest { frame: None })) => {}
            Some(Ok(v1::SessionRequest { frame: Some(frame) })) => {
                let inbound = Inbound::Frame {
                    session,
                    frame: Box::new(frame),
                };
                if context.dispatcher.send(inbound).await.is_err() {
                    break;
                }
            }
            None => break,
            Some(Err(status)) => {
                tracing::debug!(session, code = ?status.code(), "a session broke");
                break;
            }
        }
    }
    if context.dispatcher.send(Inbound::Closed { session }).await.is_err() {
        tracing::debug!(session, "the dispatcher ended first");
    }
}
