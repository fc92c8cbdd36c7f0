//! Asks, beside a session by long polls, whether a stream of HTTP/2 passes again: over a connection of its own, with
//! frames that change nothing at the manager. Only who has seen frames come back both at once and after a while goes
//! back to the stream.

use std::time::Duration;

use deputy_proto::v1;
use deputy_proto::v1::agent_client::AgentClient;
use deputy_proto::v1::session_request::Frame as Sent;
use deputy_proto::v1::session_response::Frame as Answer;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tracing::debug;

use crate::channel::in_full;
use crate::config::SessionConfig;
use crate::way::Carrier;

/// Between the first question and the last: what buffers or cuts shows itself.
const PAUSE: Duration = Duration::from_secs(1);

/// Ends when the stream passes; never, where the operator wants no other way.
pub(crate) async fn until_stream_passes(config: &SessionConfig) {
    let way = config.membership.way();
    if !way.is_asking() {
        return std::future::pending().await;
    }
    loop {
        tokio::time::sleep(way.ask_in_about()).await;
        match passes(config).await {
            Ok(()) => return way.heals(),
            Err(why) => debug!(why, "HTTP/2 does not pass yet"),
        }
    }
}

async fn passes(config: &SessionConfig) -> Result<(), String> {
    let route = config.membership.route(Carrier::Stream);
    let opened = route.open(config.connect_timeout).await;
    let (channel, _) = opened.map_err(|error| error.to_string())?;
    let mut client = AgentClient::with_origin(channel, route.origin());
    let (questions, outbound) = mpsc::channel(1);
    let asked = async {
        let probe = |seq| v1::SessionRequest {
            frame: Some(Sent::Probe(v1::Probe { seq })),
        };
        let gone = |_| "the stream was closed".to_owned();
        questions.send(probe(1)).await.map_err(gone)?;
        let answer = client.session(ReceiverStream::new(outbound)).await;
        let mut answers = answer.map_err(|status| in_full(&status))?.into_inner();
        for seq in 1..=2 {
            let answer = answers.message().await.map_err(|status| in_full(&status))?;
            match answer.and_then(|answer| answer.frame) {
                Some(Answer::Probed(probed)) if probed.seq == seq => {}
                other => return Err(format!("answered with {other:?}")),
            }
            if seq == 1 {
                tokio::time::sleep(PAUSE).await;
                questions.send(probe(2)).await.map_err(gone)?;
            }
        }
        Ok(())
    };
    let asked = tokio::time::timeout(config.connect_timeout + PAUSE, asked).await;
    asked.unwrap_or_else(|_| Err("no answer in time".into()))
}
