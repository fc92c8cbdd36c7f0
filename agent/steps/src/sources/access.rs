//! What the agent shows a git server: a token in a header that git is told by its environment, or a private key in a
//! file that only this user can read, or nothing. No secret is ever in an argument, an address or a configuration file.
//! What the agent's user has of his own (`~/.ssh`, an ssh agent) is shown to nobody.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use deputy_task::document::origin::{GitAuth, GitSource};
use deputy_task::outcome::Failure;

use super::git_words::no_room;
use crate::context::StepContext;
use crate::failure::StepError;
use crate::secrets::Secrets;

/// Servers that take tokens do not look at the name.
const DEFAULT_USER: &str = "git";

/// How ssh is called: it asks nobody, and reads neither the user's configuration nor the machine's. It looks for both
/// where the password file says, whatever `HOME` is.
const SSH: &str = "ssh -F none -o BatchMode=yes -o PasswordAuthentication=no -o IdentityAgent=none -o StrictHostKeyChecking=yes -o UpdateHostKeys=no -o ConnectTimeout=15 -o ServerAliveInterval=15";

/// Without a key of the task's: no key at all. Hosts are those that the agent's user and the machine know.
const NO_KEY: &str =
    "-o PubkeyAuthentication=no -o IdentityFile=none -o GSSAPIAuthentication=no -o HostbasedAuthentication=no";

/// With one: that one, and the hosts that the task names.
const ONE_KEY: &str = "-o IdentitiesOnly=yes -o GlobalKnownHostsFile=/dev/null";

/// Configuration and environment for git.
pub(super) struct Access {
    /// Keys and values of git's configuration.
    pub(super) config: Vec<(String, OsString)>,
    pub(super) environment: Vec<(&'static str, OsString)>,
}

impl Access {
    /// Follows the references of the source; files go into `folder`, and with it.
    pub(super) async fn open(
        ctx: &StepContext,
        name: &str,
        source: &GitSource,
        folder: &Path,
    ) -> Result<Self, StepError> {
        let mut secrets = Secrets::new(ctx);
        let label = format!("source.{name}");
        match &source.auth {
            None => Ok(Self {
                config: Vec::new(),
                environment: vec![("GIT_SSH_COMMAND", format!("{SSH} {NO_KEY}").into())],
            }),
            Some(GitAuth::HttpsToken(auth)) => {
                let origin = origin(&source.url).filter(|_| source.url.starts_with("https://"));
                let origin = origin.ok_or_else(|| wrong_scheme(name, "httpsToken", "https"))?;
                let token = secrets.resolve(&label, &auth.token).await?;
                let user = auth.username.as_deref().unwrap_or(DEFAULT_USER);
                // A line break at the end of a file would break the header.
                let pair = [user.as_bytes(), b":", token.bytes().trim_ascii()].concat();
                let header = format!("Authorization: Basic {}", STANDARD.encode(pair));
                Ok(Self {
                    config: vec![(format!("http.{origin}/.extraHeader"), header.into())],
                    environment: Vec::new(),
                })
            }
            Some(GitAuth::SshKey(auth)) => {
                if !source.url.starts_with("ssh://") {
                    return Err(wrong_scheme(name, "sshKey", "ssh").into());
                }
                let key = secrets.resolve(&label, &auth.key).await?;
                let (file, hosts) = (folder.join("key"), folder.join("known_hosts"));
                let written = write(&file, key.bytes()).and_then(|()| write(&hosts, auth.known_hosts.as_bytes()));
                written.map_err(|error| no_room(name, &error))?;
                Ok(Self {
                    config: Vec::new(),
                    environment: vec![("GIT_SSH_COMMAND", ssh_command(&file, &hosts))],
                })
            }
        }
    }
}

/// `https://host:port`, to which alone the header goes.
fn origin(url: &str) -> Option<&str> {
    let start = url.find("://")? + 3;
    let end = url[start..].find('/').map_or(url.len(), |at| start + at);
    url.get(..end)
}

fn wrong_scheme(name: &str, auth: &str, scheme: &str) -> Failure {
    Failure::new(
        "source.refused",
        format!("source {name}: `{auth}` is for addresses that begin with {scheme}://"),
    )
    .hint("correct `url` or `auth` of the source")
}

/// OpenSSH reads no key whose last line has no end.
fn write(file: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
    file.write_all(bytes)?;
    if bytes.last() == Some(&b'\n') {
        Ok(())
    } else {
        file.write_all(b"\n")
    }
}

/// Git takes a line for a shell, so the paths are quoted.
fn ssh_command(key: &Path, hosts: &Path) -> OsString {
    let mut command = OsString::from(format!("{SSH} {ONE_KEY}"));
    for (option, path) in [(" -i ", key), (" -o UserKnownHostsFile=", hosts)] {
        command.push(option);
        command.push("'");
        command.push(path.to_string_lossy().replace('\'', r"'\''"));
        command.push("'");
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_goes_to_the_host_of_the_repository_and_no_other() {
        assert_eq!(
            origin("https://git.example.com:8443/team/app.git"),
            Some("https://git.example.com:8443")
        );
        assert_eq!(origin("https://git.example.com"), Some("https://git.example.com"));
    }

    #[test]
    fn paths_are_one_word_for_the_shell_that_git_starts() {
        let command = ssh_command(Path::new("/w/it's/key"), Path::new("/w/hosts"));
        let command = command.to_string_lossy();
        assert!(command.contains(r" -i '/w/it'\''s/key'"), "{command}");
        assert!(command.contains("StrictHostKeyChecking=yes"), "{command}");
    }
}
