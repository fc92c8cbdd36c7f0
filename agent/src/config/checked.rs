//! Configuration as types. Every mistake is found in one go; a value that is here is good.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use deputy_dial::authority::Authority;
use deputy_dial::proxy::ProxyRule;
use deputy_dial::url::{ManagerUrl, Transport};
use deputy_policy::signers::TrustedSigners;
use deputy_policy::source::PolicySource;
use deputy_session::backoff::Backoff;
use deputy_session::way::Transport as Carrying;
use deputy_task::document::duration;
use deputy_task::id::AgentId;
use zeroize::Zeroizing;

use super::key::{self, Key};
use super::raw::{Mistake, RawConfig, Source};
use super::size;

/// Most tasks at the same time.
const MAX_SLOTS: u32 = 4096;

/// What `deputy-agent run` needs to know.
#[derive(Debug)]
pub(crate) struct Config {
    /// Where some of it stands.
    pub(crate) file: Option<PathBuf>,
    pub(crate) manager: ManagerUrl,
    /// Of HTTPS_PROXY and NO_PROXY.
    pub(crate) proxy: ProxyRule,
    /// Whom to take for the manager; some with TLS.
    pub(crate) believed: Option<Believed>,
    pub(crate) trust_domain: Option<String>,
    pub(crate) join: JoinBy,
    /// None: profiles are not read.
    pub(crate) aws_profile: Option<String>,
    /// None: generated.
    pub(crate) agent_id: Option<AgentId>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) slots: u32,
    /// None: the user's own.
    pub(crate) work_folder: Option<PathBuf>,
    pub(crate) state_folder: Option<PathBuf>,
    pub(crate) policy: PolicySource,
    pub(crate) secrets_folder: Option<PathBuf>,
    pub(crate) signers: TrustedSigners,
    /// Where the pool's keys are; none: the pool has none.
    pub(crate) pool_key_file: Option<PathBuf>,
    pub(crate) spool_limit_bytes: u64,
    pub(crate) spool_task_limit_bytes: u64,
    pub(crate) grace: Duration,
    pub(crate) drain_timeout: Duration,
    /// None: `PATH`.
    pub(crate) tools_path: Option<OsString>,
    pub(crate) confinement: Mode,
    pub(crate) writable_folders: Vec<PathBuf>,
    pub(crate) health_listen: Option<SocketAddr>,
    pub(crate) log: LogConfig,
    pub(crate) transport: Carrying,
    pub(crate) connect_timeout: Duration,
    pub(crate) backoff: Backoff,
}

/// Are children kept inside Landlock domains?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Where the kernel can.
    Auto,
    /// Or the agent does not start.
    Required,
    /// The operator trusts every task with everything the agent has.
    Off,
}

/// Whom to take for the manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Believed {
    /// Who was signed by an authority in this file.
    File(PathBuf),
    /// Who was signed by the authority with this hash.
    Pin(String),
}

impl std::fmt::Display for Believed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::File(_) => "ca_file",
            Self::Pin(_) => "ca_sha256",
        })
    }
}

/// What is shown to the manager at the first join.
#[derive(Clone)]
pub(crate) enum JoinBy {
    /// Nothing: an identity is kept from before.
    Nothing,
    /// This join token.
    Token(Zeroizing<String>),
    /// The join token in this file.
    TokenFile(PathBuf),
    /// The agent's own AWS identity.
    Aws,
    /// The service-account token in this file.
    Kubernetes(PathBuf),
}

/// Where a pod's token for its manager is, if nobody says otherwise: docs/configuration.md shows its volume.
const SERVICE_ACCOUNT_TOKEN: &str = "/var/run/secrets/deputy/token";

impl std::fmt::Debug for JoinBy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Nothing => f.write_str("Nothing"),
            Self::Token(_) => f.write_str("Token"),
            Self::TokenFile(path) => write!(f, "TokenFile({})", path.display()),
            Self::Aws => f.write_str("Aws"),
            Self::Kubernetes(path) => write!(f, "Kubernetes({})", path.display()),
        }
    }
}

/// The agent's own log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogConfig {
    pub(crate) filter: String,
    pub(crate) format: LogFormat,
}

/// How the agent's own log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// Collects mistakes while values are read.
struct Reader<'a> {
    raw: &'a RawConfig,
    mistakes: Vec<Mistake>,
}

impl Reader<'_> {
    /// None if the key is not set, or is wrong, which is noted.
    fn read<T>(&mut self, key: &Key, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let value = self.raw.get(key)?;
        match parse(&value.text) {
            Ok(parsed) => Some(parsed),
            Err(problem) => {
                self.mistakes.push(Mistake {
                    place: place(key, &value.source),
                    problem,
                });
                None
            }
        }
    }

    fn blame(&mut self, key: &Key, problem: impl Into<String>) {
        let source = self.raw.get(key).map_or(Source::Default, |value| value.source.clone());
        self.mistakes.push(Mistake {
            place: place(key, &source),
            problem: problem.into(),
        });
    }

    fn duration(&mut self, key: &Key) -> Option<Duration> {
        self.read(key, |text| duration::parse(text).map_err(|bad| bad.to_string()))
    }

    fn size(&mut self, key: &Key) -> Option<u64> {
        self.read(key, |text| size::parse(text).map_err(|bad| bad.to_string()))
    }
}

fn place(key: &Key, source: &Source) -> String {
    match source {
        Source::File { .. } | Source::Default => format!("{source} ({})", key.name),
        Source::Flag(_) | Source::Env(_) => source.to_string(),
    }
}

impl Config {
    /// Checks everything.
    ///
    /// # Errors
    /// All mistakes, in the order of the keys.
    pub(crate) fn check(raw: &RawConfig) -> Result<Self, Vec<Mistake>> {
        let mut reader = Reader {
            raw,
            mistakes: raw.mistakes.clone(),
        };
        let config = Self::read(&mut reader);
        match config {
            Some(config) if reader.mistakes.is_empty() => Ok(config),
            _ => Err(reader.mistakes),
        }
    }

    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        if reader.raw.get(&key::MANAGER).is_none() {
            let problem = "is required, for example --manager https://manager.example.com:7443".into();
            reader.mistakes.push(Mistake {
                place: "manager".into(),
                problem,
            });
        }
        let manager = reader.read(&key::MANAGER, |text| text.parse().map_err(|bad| format!("{bad}")));
        let believed = believed(reader, manager.as_ref());
        let trust_domain = reader.read(&key::TRUST_DOMAIN, |text| Ok(text.to_owned()));
        let join = join_by(reader);
        let agent_id = reader.read(&key::AGENT_ID, |text| text.parse().map_err(|bad| format!("{bad}")));
        let labels = reader.read(&key::LABELS, labels);
        let slots = reader.read(&key::SLOTS, slots);
        let work_folder = reader.read(&key::WORK_FOLDER, folder);
        let state_folder = reader.read(&key::STATE_FOLDER, folder);
        let policy = policy(reader);
        let secrets_folder = reader.read(&key::SECRETS_FOLDER, folder);
        let signers = reader.read(&key::TRUSTED_SIGNERS, folder);
        let pool_key_file = reader.read(&key::POOL_KEY_FILE, folder);
        let spool_limit_bytes = reader.size(&key::SPOOL_LIMIT);
        let spool_task_limit_bytes = reader.size(&key::SPOOL_TASK_LIMIT);
        if let (Some(all), Some(one)) = (spool_limit_bytes, spool_task_limit_bytes)
            && one > all
        {
            reader.blame(&key::SPOOL_TASK_LIMIT, "is more than spool_limit");
        }
        let grace = reader.duration(&key::GRACE);
        let drain_timeout = reader.duration(&key::DRAIN_TIMEOUT);
        if let Some(drain) = drain_timeout
            && drain < Duration::from_secs(2)
        {
            reader.blame(
                &key::DRAIN_TIMEOUT,
                "is less than 2s, which is too short to report anything",
            );
        }
        let tools_path = reader.read(&key::TOOLS_PATH, |text| Ok(OsString::from(text)));
        let confinement = reader.read(&key::CONFINEMENT, confinement);
        let writable_folders = reader.read(&key::WRITABLE_FOLDERS, folders);
        let health_listen = reader.read(&key::HEALTH_LISTEN, |text| {
            text.parse()
                .map_err(|_| format!("{text:?} is not an address and a port; write for example 127.0.0.1:8080"))
        });
        let aws_profile = reader.read(&key::AWS_PROFILE, |text| Ok(text.to_owned()));
        let log = log(reader);
        let transport = reader.read(&key::TRANSPORT, transport);
        let connect_timeout = reader.duration(&key::CONNECT_TIMEOUT);
        if connect_timeout.is_some_and(|within| within.is_zero()) {
            reader.blame(
                &key::CONNECT_TIMEOUT,
                "is nothing: no connection is ever made within it; write for example 10s",
            );
        }
        let backoff = backoff(reader);
        Some(Self {
            file: None,
            manager: manager?,
            proxy: ProxyRule::default(),
            believed,
            trust_domain,
            join,
            aws_profile,
            agent_id,
            labels: labels?,
            slots: slots?,
            work_folder,
            state_folder,
            policy: policy?,
            secrets_folder,
            signers: signers.map_or_else(TrustedSigners::default, TrustedSigners::at),
            pool_key_file,
            spool_limit_bytes: spool_limit_bytes?,
            spool_task_limit_bytes: spool_task_limit_bytes?,
            grace: grace?,
            drain_timeout: drain_timeout?,
            tools_path,
            confinement: confinement?,
            writable_folders: writable_folders?,
            health_listen,
            log: log?,
            transport: transport?,
            connect_timeout: connect_timeout?,
            backoff: backoff?,
        })
    }
}

fn believed(reader: &mut Reader<'_>, manager: Option<&ManagerUrl>) -> Option<Believed> {
    let file = reader.read(&key::CA_FILE, folder).map(Believed::File);
    let pin = reader.read(&key::CA_SHA256, |text| {
        Authority::from_pin(text)
            .map(|_| Believed::Pin(text.to_owned()))
            .map_err(|bad| bad.to_string())
    });
    match (file, pin) {
        (Some(_), Some(_)) => {
            reader.blame(&key::CA_SHA256, "is given together with ca_file; one of them is enough");
            None
        }
        (None, None) => {
            let is_set = [key::CA_FILE, key::CA_SHA256]
                .iter()
                .any(|key| reader.raw.get(key).is_some());
            if manager.is_some_and(|manager| manager.transport() == Transport::Tls) && !is_set {
                reader.mistakes.push(Mistake {
                    place: "ca_file".into(),
                    problem: "or ca_sha256 is required with https: whom to take for the manager, before anything is said to it".into(),
                });
            }
            None
        }
        (one, other) => one.or(other),
    }
}

fn join_by(reader: &mut Reader<'_>) -> JoinBy {
    let file = reader.read(&key::JOIN_TOKEN_FILE, folder);
    let token = reader.read(&key::JOIN_TOKEN, |text| Ok(Zeroizing::new(text.to_owned())));
    let how = reader.read(&key::JOIN, |text| match text {
        "aws" | "kubernetes" | "token" => Ok(text.to_owned()),
        other => Err(format!(
            "{other:?} is no way to join; there are aws, kubernetes and token"
        )),
    });
    match (how.as_deref(), &token) {
        (Some("aws"), None) if file.is_none() => return JoinBy::Aws,
        (Some("kubernetes"), None) => {
            return JoinBy::Kubernetes(file.unwrap_or_else(|| SERVICE_ACCOUNT_TOKEN.into()));
        }
        (Some("aws" | "kubernetes"), _) => {
            reader.blame(
                &key::JOIN,
                "needs no join token; leave out join_token and, with aws, join_token_file",
            );
            return JoinBy::Nothing;
        }
        (Some(_) | None, _) => {}
    }
    match (file, token) {
        (Some(_), Some(_)) => {
            reader.blame(
                &key::JOIN_TOKEN,
                "is given together with join_token_file; one of them is enough",
            );
            JoinBy::Nothing
        }
        (Some(file), None) => JoinBy::TokenFile(file),
        (None, Some(token)) => JoinBy::Token(token),
        (None, None) => JoinBy::Nothing,
    }
}

fn labels(text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut labels = BTreeMap::new();
    for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let pair = pair.split_once('=').filter(|(name, _)| !name.trim().is_empty());
        let (name, value) =
            pair.ok_or_else(|| format!("{text:?} is not a list of labels; write for example env=prod,pool=eu"))?;
        if labels.insert(name.trim().to_owned(), value.trim().to_owned()).is_some() {
            return Err(format!("the label `{}` is given twice", name.trim()));
        }
    }
    Ok(labels)
}

fn slots(text: &str) -> Result<u32, String> {
    let slots = text.parse().ok().filter(|slots| (1..=MAX_SLOTS).contains(slots));
    slots.ok_or_else(|| format!("{text:?} is not a whole number from 1 to {MAX_SLOTS}"))
}

fn folder(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() {
        return Err("is empty".into());
    }
    std::path::absolute(text).map_err(|error| format!("{text:?} is not a folder: {error}"))
}

fn transport(text: &str) -> Result<Carrying, String> {
    match text {
        "auto" => Ok(Carrying::Auto),
        "stream" => Ok(Carrying::Stream),
        "exchange" => Ok(Carrying::Exchange),
        other => Err(format!("{other:?} is none of auto, stream and exchange")),
    }
}

/// Also of `deputy-agent task`.
pub(crate) fn confinement(text: &str) -> Result<Mode, String> {
    match text {
        "auto" => Ok(Mode::Auto),
        "required" => Ok(Mode::Required),
        "off" => Ok(Mode::Off),
        other => Err(format!("{other:?} is none of auto, required and off")),
    }
}

/// Also of `deputy-agent task`.
pub(crate) fn folders(text: &str) -> Result<Vec<PathBuf>, String> {
    let all = text.split(',').map(str::trim).filter(|folder| !folder.is_empty());
    all.map(|folder| {
        let path = PathBuf::from(folder);
        let problem = || format!("{folder:?} is not an absolute path");
        path.is_absolute().then_some(path).ok_or_else(problem)
    })
    .collect()
}

/// A file or everything: to ask for both is a mistake, because one of them would not be meant.
fn policy(reader: &mut Reader<'_>) -> Option<PolicySource> {
    let file = reader.read(&key::POLICY_FILE, folder);
    let allow_all = reader.read(&key::ALLOW_ALL, |text| match text {
        "true" => Ok(true),
        "false" => Ok(false),
        other => Err(format!("{other:?} is neither true nor false")),
    })?;
    match (file, allow_all) {
        (Some(_), true) => {
            reader.blame(&key::ALLOW_ALL, "is set, and so is policy_file; leave one of them away");
            None
        }
        (Some(file), false) => Some(PolicySource::file(file)),
        (None, true) => Some(PolicySource::allow_all()),
        (None, false) => Some(PolicySource::nothing()),
    }
}

fn log(reader: &mut Reader<'_>) -> Option<LogConfig> {
    let filter = reader.read(&key::LOG_LEVEL, |text| {
        let parsed = tracing_subscriber::EnvFilter::builder().parse(text);
        parsed
            .map(|_| text.to_owned())
            .map_err(|bad| format!("{text:?} is not a log filter: {bad}"))
    });
    let format = reader.read(&key::LOG_FORMAT, |text| match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        other => Err(format!("{other:?} is neither text nor json")),
    });
    Some(LogConfig {
        filter: filter?,
        format: format?,
    })
}

fn backoff(reader: &mut Reader<'_>) -> Option<Backoff> {
    let base = reader.duration(&key::RECONNECT_BASE)?;
    let max = reader.duration(&key::RECONNECT_MAX)?;
    match Backoff::new(base, max) {
        Ok(backoff) => Some(backoff),
        Err(bad) => {
            reader.blame(&key::RECONNECT_BASE, bad.to_string());
            None
        }
    }
}

#[cfg(test)]
#[path = "checked_tests.rs"]
mod tests;
