//! microburst as a child: a proxy in front of the emulated AWS that throttles, or refuses in AWS's own words, in the
//! wire format of each service. What it did can be asked for. It has no way to say which port it took, and is told one.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::child::{Child, Output};
use crate::ports;
use crate::programs::{Tools, workspace};

/// It answers within two seconds on a machine with nothing else to do.
const STARTED_WITHIN: Duration = Duration::from_secs(60);

/// A running microburst. It ends when it is dropped.
#[derive(Debug)]
pub struct Microburst {
    child: Child,
    address: SocketAddr,
}

impl Microburst {
    /// In front of `upstream`, with these rules (microburst's own words). Its log and configuration are in `folder`.
    pub async fn before(upstream: SocketAddr, rules: &Value, folder: &Path) -> Result<Self> {
        let address = ports::free()?;
        let config = folder.join("microburst.yaml");
        // JSON is YAML.
        let text = json!({ "upstream": format!("http://{upstream}"), "port": address.port(), "rules": rules });
        std::fs::write(&config, text.to_string())?;
        let tools = Tools::load()?;
        let mut command = Command::new(tools.get("microburst")?.with_file_name("python"));
        command
            .arg(workspace().join("tests/testbed/faults.py"))
            .env("PYTHONDONTWRITEBYTECODE", "1");
        command.arg("--host").arg("127.0.0.1").arg("--config").arg(&config);
        command.current_dir(folder).env_remove("AWS_ENDPOINT_URL");
        let child = Child::spawn("microburst", command, &folder.join("microburst.log"), Output::ToLog)?;
        let mut started = Self { child, address };
        started.wait_until_served().await?;
        Ok(started)
    }

    async fn wait_until_served(&mut self) -> Result<()> {
        let deadline = tokio::time::Instant::now() + STARTED_WITHIN;
        while self.ask("/_microburst/fired").await.is_err() {
            if !self.child.is_running() || tokio::time::Instant::now() > deadline {
                bail!(
                    "microburst did not answer within {STARTED_WITHIN:?}\n{}",
                    self.child.tail()
                );
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        // The first request makes it read its models of AWS, for many seconds where nothing is in the disk's cache.
        let address = self.address;
        let warm = format!(
            "POST / HTTP/1.0\r\nhost: {address}\r\nauthorization: AWS4-HMAC-SHA256 Credential=warm/20260101/eu-west-1/ecs/aws4_request\r\n\
             x-amz-target: AmazonEC2ContainerServiceV20141113.Warm\r\ncontent-length: 2\r\n\r\n{{}}"
        );
        tokio::task::spawn_blocking(move || exchange(address, &warm)).await??;
        Ok(())
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it injected: one object each, with `service` and `operation`.
    pub async fn fired(&self) -> Result<Vec<Value>> {
        let fired = self.ask("/_microburst/fired").await?;
        let fired = fired.as_array().context("a list of what was fired")?;
        Ok(fired.iter().filter(|one| one["operation"] != "Warm").cloned().collect())
    }

    async fn ask(&self, path: &str) -> Result<Value> {
        let (address, path) = (self.address, path.to_owned());
        tokio::task::spawn_blocking(move || get(address, &path)).await?
    }
}

fn get(address: SocketAddr, path: &str) -> Result<Value> {
    let answer = exchange(address, &format!("GET {path} HTTP/1.0\r\nhost: {address}\r\n\r\n"))?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no end of the head")?;
    if !head.contains(" 200 ") {
        bail!("{head}");
    }
    serde_json::from_str(body).with_context(|| body.to_owned())
}

fn exchange(address: SocketAddr, request: &str) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(STARTED_WITHIN))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
