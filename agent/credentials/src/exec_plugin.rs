//! A credential plugin of client-go, and running it ourselves. It sees the task's credential endpoint
//! and a region, and nothing of this process's environment: the agent's own identity cannot leak in.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use tokio::sync::Mutex;

use crate::authenticator::TokenProgram;
use crate::cluster::EksCluster;
use crate::eks_token::ExecCredential;
use crate::identity::TaskIdentity;
use crate::refresh::{Due, Now};

/// Making a token takes milliseconds; the rest is for a credential renewal behind it.
const RUN_TIMEOUT: Duration = Duration::from_secs(30);
/// A token is not used in its last minute; a short-lived one not in its last quarter.
const TOKEN_MARGIN: Duration = Duration::from_secs(60);
/// Life of a token whose plugin does not say.
const UNTOLD_LIFE: Duration = Duration::from_secs(5 * 60);
/// Bytes of a plugin's complaint that are shown.
const MAX_COMPLAINT: usize = 600;

/// A command that prints an ExecCredential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecPlugin {
    /// Absolute path.
    pub command: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its environment beside the caller's credentials; no secret.
    pub env: Vec<(String, String)>,
}

/// The plugin gave no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{command} gave no token for the cluster: {problem}")]
pub struct ExecPluginError {
    /// The program.
    pub command: String,
    /// What happened, with its own words where it said any.
    pub problem: String,
}

/// Tokens of one plugin, kept until shortly before they end.
#[derive(Debug)]
pub struct PluginTokens {
    plugin: ExecPlugin,
    credentials: Vec<(String, String)>,
    /// Whose session signs the tokens.
    signer: Option<TaskIdentity>,
    kept: Mutex<Option<(ExecCredential, Due)>>,
}

impl ExecPlugin {
    /// How `program` is asked for a token of `cluster`.
    #[must_use]
    pub fn new(program: &TokenProgram, cluster: &EksCluster) -> Self {
        let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect();
        let (command, args) = match program {
            TokenProgram::Authenticator { path, .. } => (path, words(&["token", "-i", &cluster.name])),
            TokenProgram::BuiltIn { path, .. } => (
                path,
                words(&["eks-token", "--cluster", &cluster.name, "--region", &cluster.region]),
            ),
        };
        // The token must name the public STS host, whatever endpoint the caller itself uses.
        let env = vec![
            ("AWS_REGION".to_owned(), cluster.region.clone()),
            ("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS".to_owned(), "true".to_owned()),
            ("AWS_USE_DUALSTACK_ENDPOINT".to_owned(), "false".to_owned()),
            ("AWS_USE_FIPS_ENDPOINT".to_owned(), "false".to_owned()),
            // The authenticator's SDK would sign for the global STS endpoint in us-east-1.
            ("AWS_STS_REGIONAL_ENDPOINTS".to_owned(), "regional".to_owned()),
        ];
        Self {
            command: command.clone(),
            args,
            env,
        }
    }

    /// Runs it with `credentials` (the variables of the task's credential endpoint) and nothing else.
    ///
    /// # Errors
    /// If it does not start, does not end in time, fails, or prints something else.
    pub async fn run(&self, credentials: &[(String, String)]) -> Result<ExecCredential, ExecPluginError> {
        let failed = |problem: String| ExecPluginError {
            command: self.command.display().to_string(),
            problem,
        };
        let mut command = tokio::process::Command::new(&self.command);
        command
            .args(&self.args)
            .env_clear()
            .envs(self.env.iter().chain(credentials).map(|(name, value)| (name, value)))
            // Without these an SDK would go on to the host's own identity, or to a proxy.
            .envs([
                ("AWS_EC2_METADATA_DISABLED", "true"),
                ("NO_PROXY", "127.0.0.1"),
                ("HOME", "/nonexistent"),
            ])
            .current_dir(Path::new("/"))
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = match tokio::time::timeout(RUN_TIMEOUT, command.output()).await {
            Err(_) => return Err(failed(format!("it did not end within {} s", RUN_TIMEOUT.as_secs()))),
            Ok(Err(error)) => return Err(failed(format!("it does not start: {error}"))),
            Ok(Ok(output)) => output,
        };
        if !output.status.success() {
            let said = complaint(&String::from_utf8_lossy(&output.stderr));
            return Err(failed(format!("it ended with {}: {said}", output.status)));
        }
        // What it printed may hold a token, so it is not shown.
        serde_json::from_slice(&output.stdout).map_err(|_| failed("what it printed is not an ExecCredential".into()))
    }
}

/// The first lines of it, whole: nobody would find half a secret.
fn complaint(said: &str) -> String {
    let mut told = String::new();
    for line in said.trim().lines() {
        if told.len() + line.len() > MAX_COMPLAINT {
            told.push_str("[more that is too long to be told]");
            break;
        }
        told.push_str(line);
        told.push('\n');
    }
    told.trim_end().to_owned()
}

impl PluginTokens {
    /// Tokens for one task, with the variables of its credential endpoint.
    #[must_use]
    pub fn new(plugin: ExecPlugin, credentials: Vec<(String, String)>) -> Self {
        Self {
            plugin,
            credentials,
            signer: None,
            kept: Mutex::new(None),
        }
    }

    /// The tokens are signed by sessions of this identity: none is used longer than its session, whatever the plugin
    /// says of it (aws-iam-authenticator always says 14 minutes).
    #[must_use]
    pub fn signed_by(mut self, identity: TaskIdentity) -> Self {
        self.signer = Some(identity);
        self
    }

    /// When the session ends that a token of now would be signed with.
    fn session_end(&self) -> Pin<Box<dyn Future<Output = Option<SystemTime>> + Send + '_>> {
        // Without credentials the plugin says so itself.
        Box::pin(async { self.signer.as_ref()?.credentials().await.ok()?.expiry() })
    }

    /// A token that is good for a moment at least. Concurrent callers wait for one run.
    ///
    /// # Errors
    /// As [`ExecPlugin::run`].
    pub async fn token(&self) -> Result<String, ExecPluginError> {
        let mut kept = self.kept.lock().await;
        if let Some((credential, until)) = kept.as_ref()
            && !until.has_come(Now::read())
        {
            return Ok(credential.status.token.clone());
        }
        let session_end = self.session_end().await;
        let fresh = self.plugin.run(&self.credentials).await?;
        let now = Now::read();
        let told = fresh.expires().unwrap_or(now.wall + UNTOLD_LIFE);
        let until = use_until(session_end.map_or(told, |end| end.min(told)), now.wall);
        let token = fresh.status.token.clone();
        *kept = Some((fresh, Due::at(until, now)));
        Ok(token)
    }

    /// Forgets the kept token: the cluster did not accept it.
    pub async fn forget(&self) {
        *self.kept.lock().await = None;
    }
}

/// A token that ends at `end` is used until then.
fn use_until(end: SystemTime, now: SystemTime) -> SystemTime {
    let left = end.duration_since(now).unwrap_or(Duration::ZERO);
    end.checked_sub((left / 4).min(TOKEN_MARGIN)).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(text: &str) -> ExecPlugin {
        ExecPlugin {
            command: "/bin/sh".into(),
            args: vec!["-c".into(), text.into()],
            env: vec![("AWS_REGION".into(), "eu-west-1".into())],
        }
    }

    #[test]
    fn of_a_long_complaint_whole_lines_are_told() {
        assert_eq!(complaint("\nno identity\nat all\n"), "no identity\nat all");
        let long = format!("no identity\n{}", "s".repeat(MAX_COMPLAINT));
        assert_eq!(complaint(&long), "no identity\n[more that is too long to be told]");
    }

    #[tokio::test]
    async fn the_plugin_sees_the_tasks_endpoint_and_nothing_of_ours() {
        let plugin = script(
            r#"printf '{"apiVersion":"client.authentication.k8s.io/v1beta1","kind":"ExecCredential","status":{"token":"%s"}}' "$(/usr/bin/env | sort | cut -d= -f1 | tr '\n' ' ')""#,
        );
        let got = plugin
            .run(&[(
                "AWS_CONTAINER_CREDENTIALS_FULL_URI".into(),
                "http://127.0.0.1:1/x".into(),
            )])
            .await
            .expect("runs");
        let names: Vec<&str> = got
            .status
            .token
            .split_whitespace()
            .filter(|name| !matches!(*name, "PWD" | "SHLVL" | "_" | "OLDPWD"))
            .collect();
        assert_eq!(
            names,
            [
                "AWS_CONTAINER_CREDENTIALS_FULL_URI",
                "AWS_EC2_METADATA_DISABLED",
                "AWS_REGION",
                "HOME",
                "NO_PROXY"
            ]
        );
    }

    #[tokio::test]
    async fn a_plugin_that_fails_is_quoted_and_one_that_babbles_is_not() {
        let refused = script("echo 'no credentials' >&2; exit 1")
            .run(&[])
            .await
            .expect_err("fails")
            .to_string();
        assert_eq!(
            refused,
            "/bin/sh gave no token for the cluster: it ended with exit status: 1: no credentials"
        );
        let babble = script("echo k8s-aws-v1.abc")
            .run(&[])
            .await
            .expect_err("no JSON")
            .to_string();
        assert_eq!(
            babble,
            "/bin/sh gave no token for the cluster: what it printed is not an ExecCredential"
        );
    }

    #[test]
    fn a_short_lived_token_is_used_for_most_of_its_life() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let used = |life: u64| use_until(now + Duration::from_secs(life), now).duration_since(now).ok();
        assert_eq!(used(14 * 60), Some(Duration::from_secs(13 * 60)));
        assert_eq!(used(60), Some(Duration::from_secs(45)));
        assert_eq!(used(0), Some(Duration::ZERO));
    }

    #[tokio::test]
    async fn a_session_that_ends_before_its_token_ends_the_token() {
        let folder = tempfile::tempdir().expect("folder");
        let count = folder.path().join("runs");
        let print = format!(
            r#"echo x >> {}; printf '{{"apiVersion":"a","kind":"b","status":{{"token":"t","expirationTimestamp":"2099-01-01T00:00:00Z"}}}}'"#,
            count.display()
        );
        let over = TaskIdentity::of_session_that_ends(SystemTime::now() - Duration::from_secs(1));
        let tokens = PluginTokens::new(script(&print), vec![]).signed_by(over);
        tokens.token().await.expect("first");
        tokens.token().await.expect("second");
        assert_eq!(std::fs::read_to_string(&count).expect("runs").lines().count(), 2);
    }

    #[tokio::test]
    async fn a_token_is_kept_until_shortly_before_its_end() {
        let folder = tempfile::tempdir().expect("folder");
        let count = folder.path().join("runs");
        let print = |end: &str| {
            format!(
                r#"echo x >> {}; printf '{{"apiVersion":"a","kind":"b","status":{{"token":"t","expirationTimestamp":"{end}"}}}}'"#,
                count.display()
            )
        };
        for (end, runs) in [("2099-01-01T00:00:00Z", 1), ("2001-01-01T00:00:00Z", 3)] {
            let tokens = PluginTokens::new(script(&print(end)), vec![]);
            tokens.token().await.expect("first");
            tokens.token().await.expect("second");
            assert_eq!(
                std::fs::read_to_string(&count).expect("runs").lines().count(),
                runs,
                "{end}"
            );
        }
    }
}
