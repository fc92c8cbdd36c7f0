//! Everything a script needs before it runs: a folder, files, an environment, an identity.
//! Called by the shell program before the intent where it can, so that what is missing is told
//! before anything has begun.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};
use std::time::SystemTime;

use deputy_credentials::TaskIdentity;
use deputy_credentials::authenticator::ToolLookup;
use deputy_credentials::cluster::describe_cluster;
use deputy_credentials::endpoint::EndpointHandle;
use deputy_credentials::exec_plugin::ExecPlugin;
use deputy_credentials::kubeconfig::Kubeconfig;
use deputy_folder::Folder;
use deputy_process::{ChildCommand, Domain};
use deputy_task::document::secret::Delivery;
use deputy_task::document::step::{Shell, ShellProgram as Interpreter};
use deputy_task::outcome::Failure;
use tempfile::TempDir;

use super::environment::{self, Environment};
use super::outputs::{self, OutputFile, OutputProblem, Quoting, Written};
use crate::context::StepContext;
use crate::failure::StepError;
use crate::proxies;
use crate::secrets::Secrets;

/// How the executor says that a task has no AWS identity.
const NO_IDENTITY: &str = "aws.notConfigured";
/// How it says that there is no source to take by default.
const NO_SOURCE: &str = "source.unknown";

/// What is in a step's folder.
const SCRIPT: &str = "script";
const OUTPUT: &str = "output";
const SECRETS: &str = "secrets";
/// To work in, where there is no source.
const EMPTY: &str = "empty";

/// What a script needs. Dropping it removes the kubeconfig and the endpoint; the folder goes with the task's.
pub(super) struct Prepared {
    interpreter: PathBuf,
    folder: StepFolder,
    working_folder: PathBuf,
    environment: Environment,
    domain: Option<Domain>,
    endpoint: Option<EndpointHandle>,
    _kubeconfig: Option<Kubeconfig>,
}

/// The step's own folder, where only its own programs come. They may change what is in it.
struct StepFolder {
    place: TempDir,
    held: Folder,
}

impl StepFolder {
    /// With the script and an empty folder to work in.
    fn make(aside: &Path, step: &str, script: &str) -> io::Result<Self> {
        let place = tempfile::Builder::new()
            .prefix(&format!("step-{}-", file_name(step)?))
            // A script may make it deeper than the standard library removes.
            .disable_cleanup(true)
            .tempdir_in(aside)?;
        let held = Folder::open(place.path())?;
        held.folder(&[EMPTY.as_ref()])?;
        held.new_file(&[], SCRIPT.as_ref(), 0o700)?
            .write_all(script.as_bytes())?;
        Ok(Self { place, held })
    }

    fn path(&self) -> &Path {
        self.place.path()
    }

    /// Byte for byte; goes with the folder, after a crash with the next start's sweep.
    fn secret_file(&self, name: &str, value: &[u8]) -> io::Result<PathBuf> {
        let name = file_name(name)?;
        self.held
            .new_file(&[SECRETS.as_ref()], name.as_ref(), 0o600)?
            .write_all(value)?;
        Ok(self.path().join(SECRETS).join(name))
    }
}

impl Prepared {
    pub(super) async fn make(ctx: &StepContext, shell: &Shell) -> Result<Self, StepError> {
        environment::check_step_variables(shell)?;
        let mut environment = environment::allowed(std::env::vars_os());
        proxies::hide(ctx, |name| environment.get(OsStr::new(name)).cloned())?;
        let interpreter = find(shell.shell, &environment)?;
        let source = source_folder(ctx, shell).await?;
        let workspace = ctx.workspace().await?;
        let folder = StepFolder::make(&ctx.aside().await?, &ctx.step, &shell.run);
        let folder = folder.map_err(|error| no_folder(&ctx.step, &error))?;
        let domain = ctx.host().domain().await?.map(|domain| domain.with(folder.path()));
        let identity = identity(ctx).await?;
        let endpoint = match &identity {
            Some(identity) => Some(open_endpoint(ctx, identity, &mut environment).await?),
            None => None,
        };
        let kubeconfig = match &shell.cluster {
            Some(cluster) => Some(kubeconfig(ctx, cluster, folder.path()).await?),
            None => None,
        };
        if let Some(kubeconfig) = &kubeconfig {
            environment.insert("KUBECONFIG".into(), kubeconfig.path().into());
        }
        // The agent's own role, where a machine has one, is nothing for scripts. It keeps honest programs only.
        environment.insert("AWS_EC2_METADATA_DISABLED".into(), "true".into());
        environment.insert("HOME".into(), workspace.clone().into());
        environment.insert("TMPDIR".into(), workspace.into());
        give_secrets(ctx, shell, &folder, &mut environment).await?;
        environment.extend(shell.env.iter().map(|(name, value)| (name.into(), value.into())));
        environment.insert("DEPUTY_TASK_ID".into(), ctx.attempt.task.as_str().into());
        environment.insert("DEPUTY_STEP".into(), (&*ctx.step).into());
        environment.insert("DEPUTY_ATTEMPT".into(), ctx.attempt.epoch.to_string().into());
        environment.insert("DEPUTY_OUTPUT".into(), folder.path().join(OUTPUT).into());
        let working_folder = source.unwrap_or_else(|| folder.path().join(EMPTY));
        Ok(Self {
            interpreter,
            folder,
            working_folder,
            environment,
            domain,
            endpoint,
            _kubeconfig: kubeconfig,
        })
    }

    /// An empty file for outputs, also when the script is run again.
    pub(super) fn clear_outputs(&self) -> Result<(), StepError> {
        let held = &self.folder.held;
        let cleared = held.remove_file(OUTPUT.as_ref());
        let cleared = cleared.and_then(|()| held.new_file(&[], OUTPUT.as_ref(), 0o600));
        cleared.map(drop).map_err(|error| {
            Failure::new(
                "agent.workspace",
                "the file for the script's outputs cannot be made on the agent",
            )
            .caused_by(&error)
            .into()
        })
    }

    pub(super) fn command(&self, shell: &Shell) -> ChildCommand {
        let options: &[&str] = match shell.shell {
            Interpreter::Bash => &["--noprofile", "--norc", "-eo", "pipefail"],
            Interpreter::Sh => &["-e"],
        };
        ChildCommand::new(&self.interpreter)
            .args(options)
            .arg(self.folder.path().join(SCRIPT))
            .envs(self.environment.clone())
            .current_dir(&self.working_folder)
            .confined(self.domain.clone())
    }

    /// What the script wrote. `redact` takes secrets out of what a problem quotes.
    pub(super) fn outputs(&self, shell: &Shell, redact: &dyn Fn(&str) -> String) -> Result<Written, OutputProblem> {
        let quoting = if shell.secret_outputs.is_empty() {
            Quoting::Lines(redact)
        } else {
            Quoting::Nothing
        };
        outputs::read(self.output_file(), quoting)
    }

    /// Where the script writes its outputs.
    pub(super) fn output_file(&self) -> OutputFile<'_> {
        OutputFile::of(&self.folder.held, OUTPUT)
    }

    /// Ends the endpoint and removes the files.
    pub(super) async fn remove(self) {
        if let Some(endpoint) = self.endpoint {
            endpoint.close().await;
        }
        // What the script made unremovable goes with the workspace.
        let place = self.folder.place.keep();
        let removed = tokio::task::spawn_blocking(move || deputy_folder::remove_all(&place)).await;
        if let Err(error) = removed.unwrap_or_else(|error| Err(io::Error::other(error))) {
            tracing::debug!(%error, "the folder of a shell step stays until its task ends");
        }
    }
}

fn find(interpreter: Interpreter, environment: &Environment) -> Result<PathBuf, Failure> {
    let name = match interpreter {
        Interpreter::Bash => "bash",
        Interpreter::Sh => "sh",
    };
    let path = environment
        .iter()
        .find(|(variable, _)| *variable == "PATH")
        .map(|(_, path)| path);
    which::which_in(name, path, "/").map_err(|_| {
        let hint = match interpreter {
            Interpreter::Bash => "install bash on the agent, or write the script for sh and say `shell: sh`",
            Interpreter::Sh => "install a shell on the agent",
        };
        Failure::new("shell.noShell", format!("there is no {name} in the agent's PATH")).hint(hint)
    })
}

/// The folder of the source, or none if the task has no source that is meant.
async fn source_folder(ctx: &StepContext, shell: &Shell) -> Result<Option<PathBuf>, StepError> {
    match ctx.source(shell.source.as_deref()).await {
        Ok(folder) => Ok(Some(folder)),
        Err(StepError::Failed(failure)) if shell.source.is_none() && failure.class == NO_SOURCE => Ok(None),
        Err(error) => Err(error),
    }
}

/// The task's identity, or none if the task asks for none.
async fn identity(ctx: &StepContext) -> Result<Option<TaskIdentity>, StepError> {
    match ctx.identity().await {
        Ok(identity) => Ok(Some(identity)),
        Err(StepError::Failed(failure)) if failure.class == NO_IDENTITY => Ok(None),
        Err(error) => Err(error),
    }
}

async fn open_endpoint(
    ctx: &StepContext,
    identity: &TaskIdentity,
    environment: &mut Environment,
) -> Result<EndpointHandle, StepError> {
    let host = Arc::clone(ctx.host());
    let told = Once::new();
    let hide = move |secret: &[u8], end: Option<SystemTime>| {
        host.add_secret(secret, end).map_err(|refused| {
            told.call_once(|| {
                host.log()
                    .narrate(&format!("the script gets no AWS credentials: {refused}"))
            });
            refused.to_string()
        })
    };
    let endpoint = EndpointHandle::open(identity.clone(), hide).await.map_err(|error| {
        Failure::new("aws.endpoint", "the script cannot be given AWS credentials").caused_by(&error)
    })?;
    for secret in endpoint.secrets() {
        ctx.hide("what the script is given", secret.as_bytes())?;
    }
    environment.extend(
        endpoint
            .env()
            .into_iter()
            .map(|(name, value)| (name.into(), value.into())),
    );
    for name in ["AWS_REGION", "AWS_DEFAULT_REGION"] {
        environment.insert(name.into(), identity.region().into());
    }
    let retries = identity.pace().environment();
    environment.extend(retries.map(|(name, value)| (name.into(), value.into())));
    environment::bypass_proxies_for_loopback(environment);
    Ok(endpoint)
}

async fn kubeconfig(ctx: &StepContext, cluster: &str, folder: &Path) -> Result<Kubeconfig, StepError> {
    // Asked again for its error, which says what is missing.
    let identity = ctx.identity().await?;
    let cluster = describe_cluster(&identity, cluster).await?;
    let program = ToolLookup::from_process().token_program().await;
    ctx.narrate(program.narration());
    let plugin = ExecPlugin::new(&program, &cluster);
    Kubeconfig::create(folder, &cluster, &plugin, None).map_err(|error| {
        Failure::new(
            "agent.workspace",
            format!(
                "the kubeconfig of cluster {} cannot be written on the agent",
                cluster.name
            ),
        )
        .caused_by(&error)
        .into()
    })
}

/// The step's secrets, each in its variable, or in a file whose path the variable has.
async fn give_secrets(
    ctx: &StepContext,
    shell: &Shell,
    folder: &StepFolder,
    environment: &mut Environment,
) -> Result<(), StepError> {
    let mut secrets = Secrets::new(ctx);
    for (name, secret) in &shell.secrets {
        let value = secrets.resolve(name, &secret.from).await?;
        let given = match secret.delivery {
            Delivery::Env => environment::secret_variable(name, value.bytes())?,
            Delivery::File => folder
                .secret_file(name, value.bytes())
                .map_err(|error| no_folder(&ctx.step, &error))?
                .into(),
        };
        environment.insert(name.into(), given);
    }
    Ok(())
}

/// A name of the document, if it leads nowhere else.
fn file_name(name: &str) -> io::Result<&str> {
    if Path::new(name).file_name() == Some(OsStr::new(name)) {
        Ok(name)
    } else {
        let shown: String = name.chars().take(60).collect();
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("`{shown}` is no name of a file"),
        ))
    }
}

fn no_folder(step: &str, error: &io::Error) -> Failure {
    Failure::new(
        "agent.workspace",
        format!("the files of step {step} cannot be made on the agent"),
    )
    .hint("see that the agent's work folder is writable and its disk not full")
    .caused_by(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards that neither a secret nor a script is written anywhere else, even if a document got past its checks.
    #[test]
    fn names_of_the_document_lead_nowhere_else() {
        let root = tempfile::tempdir().expect("a folder");
        let aside = root.path().join("aside");
        std::fs::create_dir(&aside).expect("made");
        let folder = StepFolder::make(&aside, "build", "true").expect("made");
        let outside = root.path().join("escaped");
        for name in [
            "../../../escaped",
            outside.to_str().expect("text"),
            "a/b",
            "..",
            ".",
            "",
            "a/",
        ] {
            assert!(folder.secret_file(name, b"value").is_err(), "{name}");
            assert!(StepFolder::make(&aside, name, "true").is_err(), "{name}");
        }
        assert!(!outside.exists());
        let file = folder.secret_file("TOKEN", b"value").expect("written");
        assert_eq!(file, folder.path().join("secrets/TOKEN"));
        assert_eq!(std::fs::read(file).expect("read"), b"value");
    }
}
