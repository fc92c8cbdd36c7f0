//! `deputy-agent eks-token`: the built-in credential plugin that a kubeconfig names where
//! aws-iam-authenticator is missing or does not run. Prints an ExecCredential and nothing else.

use std::io::Write;

use deputy_credentials::env::Env;
use deputy_credentials::{Identities, eks_token};

use crate::exit::{Exit, StartupError};

/// Signs with the identity of the environment (in a step: the per-task endpoint) and prints.
pub(crate) fn print(cluster: &str, region: &str) -> Result<Exit, StartupError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(StartupError::Threads)?;
    let credential = runtime.block_on(async {
        let identities = Identities::new(Env::from_process());
        let identity = identities
            .for_task(region, &[], "deputy")
            .map_err(|error| error.failure())?;
        eks_token::token_for(&identity, cluster).await
    });
    let credential = credential.map_err(|failure| StartupError::Credentials(Box::new(failure)))?;
    let json = serde_json::to_string(&credential)
        .map_err(|error| StartupError::BadTask(format!("error: the credential cannot be written: {error}")))?;
    let mut stdout = std::io::stdout().lock();
    // A caller that does not read its plugin's answer needs none.
    let _ = writeln!(stdout, "{json}");
    Ok(Exit::Success)
}
