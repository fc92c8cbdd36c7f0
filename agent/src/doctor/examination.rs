//! The order of the examination: what everything else stands on comes first.

use std::time::Duration;

use deputy_credentials::authenticator::ToolLookup;
use deputy_credentials::env::Env;

use super::identity::{self, Chain};
use super::report::{Finding, Report, Verdict};
use super::{cluster, machine, policy, pool, standing, tools};
use crate::config::checked::Config;
use crate::exit::{Exit, StartupError};
use crate::form::Form;
use crate::own_identity::own_identity;

/// A network that swallows everything still lets the examination end.
const LONGEST: Duration = Duration::from_secs(180);

/// What to look at beside the agent itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Questions {
    /// How the answer is shown.
    pub(crate) form: Form,
    /// Role chains, each as `ARN[#EXTERNAL-ID][,ARN…]`.
    pub(crate) roles: Vec<String>,
    /// Names of EKS clusters; looked at as the first role, or as the agent itself.
    pub(crate) clusters: Vec<String>,
    /// Where roles and clusters are looked at; default: the agent's own region.
    pub(crate) region: Option<String>,
}

/// Looks at everything. 0: the agent can work.
pub(crate) fn examine(config: &Config, questions: &Questions) -> Result<Exit, StartupError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(StartupError::Threads)?;
    let mut report = Report::new(questions.form);
    runtime.block_on(async {
        if tokio::time::timeout(LONGEST, all(config, questions, &mut report))
            .await
            .is_err()
        {
            report.add(unfinished());
        }
    });
    report.close();
    Ok(if report.can_work() { Exit::Success } else { Exit::Unfit })
}

fn unfinished() -> Finding {
    let what = format!(
        "was given up after {} s; what is not listed was not looked at",
        LONGEST.as_secs()
    );
    Finding::new("examination", "time", Verdict::Bad, what)
        .hint("something on the network swallows connections: look at the last line before this one")
}

async fn all(config: &Config, questions: &Questions, report: &mut Report) {
    report.extend(machine::findings(config));
    let path = config
        .tools_path
        .clone()
        .or_else(|| std::env::var_os("PATH"))
        .unwrap_or_default();
    report.extend(tools::findings(&path).await);

    let env = Env::from_process();
    let identities = own_identity(config, env.clone());
    report.extend(standing::findings(config, &identities).await);
    let (findings, permitted) = policy::findings(&config.policy);
    report.extend(findings);
    report.extend(policy::signers(&config.signers, config.pool_key_file.as_deref()));
    report.add(pool::finding(config.pool_key_file.as_deref(), &identities).await);
    let region = questions.region.as_deref().unwrap_or(identities.own_region());
    report.extend(identity::ambient(&identities, region).await);
    report.add(identity::metadata(&env, identities.ambient().kind).await);
    // A role that was asked about brings its external id; the policy has only its name.
    let asked: Vec<Chain> = questions.roles.iter().map(|role| Chain::parse(role)).collect();
    let named = permitted.iter().map(|role| Chain::parse(role));
    let named: Vec<Chain> = named
        .filter(|chain| !asked.iter().any(|asked| asked.ends_as(chain)))
        .collect();
    report.extend(identity::roles(&identities, region, (&asked, &named)).await);
    let entering = identity::identity_of(&identities, region, asked.first());
    match tempfile::tempdir() {
        Ok(folder) => {
            let tools = ToolLookup::of_path(path);
            report
                .extend(cluster::findings(entering, &questions.clusters, (&tools, &config.proxy), folder.path()).await)
        }
        Err(error) => report.add(cluster::no_folder(&error)),
    }
}
