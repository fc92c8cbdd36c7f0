//! An OpenSSH server on loopback for one user and one key, as whoever runs the tests.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::child::{Child, Output};
use crate::ports;

const READY_WITHIN: Duration = Duration::from_secs(10);

/// A server. It ends when it is dropped.
#[derive(Debug)]
pub struct SshServer {
    port: u16,
    user: String,
    host_key: String,
    key: PathBuf,
    _child: Child,
}

impl SshServer {
    /// What of OpenSSH is missing here.
    #[must_use]
    pub fn missing() -> Option<String> {
        sshd().is_none().then(|| "sshd is not installed".to_owned())
    }

    /// A server whose files are in `folder`.
    pub fn start(folder: &Path) -> Result<Self> {
        let sshd = sshd().context("sshd is not installed")?;
        std::fs::create_dir_all(folder)?;
        if rustix::process::geteuid().is_root() {
            // Of root it wants the folder that its service would have made.
            std::fs::create_dir_all("/run/sshd")?;
        }
        let host_key = new_key(&folder.join("host-key"))?;
        let key = folder.join("user-key");
        std::fs::write(folder.join("authorized-keys"), new_key(&key)?)?;
        let port = ports::free()?.port();
        let path = |name: &str| folder.join(name).display().to_string();
        let configuration = format!(
            "ListenAddress 127.0.0.1\nPort {port}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\nUsePAM no\nStrictModes no\n",
            path("host-key"),
            path("authorized-keys")
        );
        std::fs::write(folder.join("sshd.conf"), configuration)?;
        let mut command = Command::new(sshd);
        command.args(["-D", "-e", "-f", &path("sshd.conf")]);
        let mut child = Child::spawn("sshd", command, &folder.join("sshd.log"), Output::ToLog)?;
        let deadline = Instant::now() + READY_WITHIN;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            ensure!(
                child.is_running() && Instant::now() < deadline,
                "sshd does not listen\n{}",
                child.tail()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        let user = Command::new("id").arg("-un").output().context("id")?;
        Ok(Self {
            port,
            user: String::from_utf8(user.stdout)?.trim().to_owned(),
            host_key,
            key,
            _child: child,
        })
    }

    /// The address of a repository in this folder.
    #[must_use]
    pub fn url(&self, repository: &Path) -> String {
        format!("ssh://{}@localhost:{}{}", self.user, self.port, repository.display())
    }

    /// Its line in a file of known hosts.
    #[must_use]
    pub fn known_host(&self) -> String {
        format!("[localhost]:{} {}", self.port, self.host_key.trim())
    }

    /// The same line with this key for the host.
    #[must_use]
    pub fn known_host_with(&self, key: &str) -> String {
        format!("[localhost]:{} {}", self.port, key.trim())
    }

    /// The private key that it lets in.
    pub fn key(&self) -> Result<String> {
        Ok(std::fs::read_to_string(&self.key)?)
    }
}

fn sshd() -> Option<PathBuf> {
    let found = ["/usr/sbin/sshd", "/usr/local/sbin/sshd"].map(PathBuf::from);
    found.into_iter().find(|path| path.is_file())
}

/// Makes a key pair; type and value of the public one.
pub fn new_key(file: &Path) -> Result<String> {
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"])
        .arg(file)
        .output()
        .context("ssh-keygen")?;
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    Ok(std::fs::read_to_string(file.with_extension("pub"))?.trim().to_owned())
}
