//! Who a cluster says an identity is, asked outside any task. Called by `deputy-agent doctor`.

use std::path::Path;
use std::sync::Arc;

use deputy_credentials::TaskIdentity;
use deputy_credentials::authenticator::TokenProgram;
use deputy_credentials::cluster::EksCluster;
use deputy_logs::Redactor;
use deputy_task::outcome::Failure;

use super::connection::{Connection, Dial};
use super::explain::{Doing, explain};

/// Makes a token for the cluster and asks its API server whose it is. A kubeconfig lies in `folder` meanwhile.
///
/// # Errors
/// Why there is no token, or why the API server does not take it, in words.
pub async fn who_am_i(
    identity: TaskIdentity,
    cluster: &EksCluster,
    program: &TokenProgram,
    folder: &Path,
) -> Result<String, Failure> {
    let connection = Connection::dial(Dial {
        identity,
        cluster,
        program,
        folder,
        namespace: None,
        // Nothing that is secret is in an error, and nobody's output is shown.
        hide: Arc::new(|_, _| Ok(())),
        secrets: Redactor::new(),
    })
    .await?;
    match connection.api.who_am_i().await {
        Ok(who) => Ok(who),
        Err(error) => Err(explain(&connection.api, &error, &Doing::new("say", "who this is")).await),
    }
}
