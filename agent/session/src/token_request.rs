//! Asks the manager to vouch for an attempt, over a connection that carries nothing else. A role's session waits for
//! the answer, so it is short of time: a few tries, then an answer in words.

use std::time::Duration;

use deputy_proto::v1;
use deputy_task::attempt::AttemptRef;
use deputy_task::message::{MintedToken, RequestId};
use tokio::time::timeout;
use tonic::{Code, Status};

use crate::config::SessionConfig;
use crate::{dial, to_wire};

/// From the request to its answer; shorter than whoever renews credentials waits.
const WITHIN: Duration = Duration::from_secs(15);
const BETWEEN_TRIES: Duration = Duration::from_millis(500);

/// A token that the executor wants.
#[derive(Debug)]
pub struct TokenRequest {
    pub(crate) id: RequestId,
    pub(crate) attempt: AttemptRef,
    pub(crate) audience: String,
}

enum Failed {
    /// Tried again.
    Connection(String),
    /// The manager's word.
    Refused(Status),
}

/// The token, or why there is none.
pub(crate) async fn mint(config: &SessionConfig, request: &TokenRequest) -> Result<MintedToken, String> {
    let mut last = String::new();
    let tries = async {
        loop {
            match mint_once(config, request).await {
                Ok(token) => return Ok(token),
                Err(Failed::Refused(status)) => return Err(status.message().to_owned()),
                Err(Failed::Connection(why)) => last = why,
            }
            tokio::time::sleep(BETWEEN_TRIES).await;
        }
    };
    match timeout(WITHIN, tries).await {
        Ok(answer) => answer,
        Err(_) if last.is_empty() => Err(format!("the manager did not answer within {} s", WITHIN.as_secs())),
        Err(_) => Err(format!(
            "the manager could not be asked within {} s: {last}",
            WITHIN.as_secs()
        )),
    }
}

async fn mint_once(config: &SessionConfig, request: &TokenRequest) -> Result<MintedToken, Failed> {
    let mut client = dial::connect(config)
        .await
        .map_err(|error| Failed::Connection(error.to_string()))?;
    let ask = v1::MintTokenRequest {
        attempt: Some(to_wire::attempt(&request.attempt)),
        audience: request.audience.clone(),
        agent_id: config.agent_id.to_string(),
        instance_id: config.instance_id.to_string(),
    };
    let answer = client.mint_token(ask).await;
    let answer = answer.map_err(|status| match status.code() {
        Code::InvalidArgument
        | Code::FailedPrecondition
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::NotFound => Failed::Refused(status),
        Code::Unimplemented => Failed::Refused(Status::unimplemented("the manager is too old to make OIDC tokens")),
        // A proxy can fake any of these.
        _ => Failed::Connection(status.message().to_owned()),
    })?;
    Ok(MintedToken(answer.into_inner().token))
}
