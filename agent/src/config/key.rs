//! Every configuration key, once: its name, default and meaning.

/// One configuration key of `deputy-agent run`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Key {
    /// In the TOML file; the flag and the environment variable are made from it.
    pub(crate) name: &'static str,
    /// What stands for the value in the help.
    pub(crate) value: &'static str,
    /// None: there is none, the feature is off or the key is required.
    pub(crate) default: Option<&'static str>,
    /// One sentence or two, for help and documentation.
    pub(crate) help: &'static str,
}

impl Key {
    /// `--work-folder`, without the dashes.
    pub(crate) fn flag(&self) -> String {
        self.name.replace('_', "-")
    }

    /// `DEPUTY_WORK_FOLDER`.
    pub(crate) fn env(&self) -> String {
        format!("DEPUTY_{}", self.name.to_ascii_uppercase())
    }
}

pub(crate) const MANAGER: Key = Key {
    name: "manager",
    value: "URL",
    default: None,
    help: "The manager to dial, for example https://manager.example.com:7443. Required. Without TLS (http://) only loopback addresses are dialled.",
};
pub(crate) const CA_FILE: Key = Key {
    name: "ca_file",
    value: "FILE",
    default: None,
    help: "The authorities to check the manager with, PEM; the manager writes its own to ca.pem in its data folder. Read anew for every connection. For https this or ca_sha256 is required; the system's own list is not used.",
};
pub(crate) const CA_SHA256: Key = Key {
    name: "ca_sha256",
    value: "HEX",
    default: None,
    help: "Instead of ca_file: the SHA-256 of the authority's certificate (DER), as the manager says it at its start and `openssl x509 -noout -fingerprint -sha256 -in ca.pem` prints it.",
};
pub(crate) const TRUST_DOMAIN: Key = Key {
    name: "trust_domain",
    value: "DOMAIN",
    default: None,
    help: "The trust domain that the manager must have. Default: any; then only the authority tells managers apart.",
};
pub(crate) const JOIN_TOKEN_FILE: Key = Key {
    name: "join_token_file",
    value: "FILE",
    default: None,
    help: "A file with a join token, for the first join; made with `deputy fleet join-token create`. Read when it is needed.",
};
pub(crate) const JOIN_TOKEN: Key = Key {
    name: "join_token",
    value: "TOKEN",
    default: None,
    help: "The join token itself. Use the environment variable or join_token_file: a flag is visible to everybody on the machine.",
};
pub(crate) const JOIN: Key = Key {
    name: "join",
    value: "HOW",
    default: None,
    help: "What to join with: aws (the agent's own AWS identity signs) or kubernetes (the pod's service-account token, from join_token_file). Default: a join token, if one is given.",
};
pub(crate) const AWS_PROFILE: Key = Key {
    name: "aws_profile",
    value: "PROFILE",
    default: None,
    help: "Take the agent's own AWS identity from this profile of the shared config files (~/.aws), and look for no other. Default: profiles are not read.",
};
pub(crate) const AGENT_ID: Key = Key {
    name: "agent_id",
    value: "ID",
    default: None,
    help: "Who this agent is. Default: the host name and a random suffix, kept in the state folder if there is one. Two running agents never share an id.",
};
pub(crate) const LABELS: Key = Key {
    name: "labels",
    value: "KEY=VALUE,…",
    default: Some(""),
    help: "Labels that a task's selector can ask for. The flag may be repeated; the file has a [labels] table.",
};
pub(crate) const SLOTS: Key = Key {
    name: "slots",
    value: "N",
    default: Some("4"),
    help: "Tasks that run at the same time, 1 to 4096.",
};
pub(crate) const WORK_FOLDER: Key = Key {
    name: "work_folder",
    value: "FOLDER",
    default: None,
    help: "Workspaces and the log spool are made in it. Default: deputy-agent in $XDG_RUNTIME_DIR, or deputy-agent-<user number> in /var/tmp (in $TMPDIR if that is set). It must belong to the agent's user, and nobody else may be able to write to it; of a shared volume (a Kubernetes emptyDir), name a folder inside it. Several agents of that user may share it.",
};
pub(crate) const STATE_FOLDER: Key = Key {
    name: "state_folder",
    value: "FOLDER",
    default: None,
    help: "Keeps the generated agent id and the certificate with its key over restarts, for the agent's user alone. Without it both are in memory only, and every start joins anew.",
};
pub(crate) const POLICY_FILE: Key = Key {
    name: "policy_file",
    value: "FILE",
    default: None,
    help: "The Cedar policy that says what tasks may do here. It is read again when it has changed. Without one nothing runs; with one that is unreadable or invalid, nothing runs either.",
};
pub(crate) const ALLOW_ALL: Key = Key {
    name: "allow_all",
    value: "true|false",
    default: Some("false"),
    help: "Run whatever the manager sends, without a policy. A warning wherever the agent is shown.",
};
pub(crate) const SECRETS_FOLDER: Key = Key {
    name: "secrets_folder",
    value: "FOLDER",
    default: None,
    help: "Files below it may be given to tasks as secrets (`file:`); nothing else of the agent's files is. Default: none.",
};
pub(crate) const TRUSTED_SIGNERS: Key = Key {
    name: "trusted_signers",
    value: "FOLDER",
    default: None,
    help: "A folder of public keys, NAME.pem each (Ed25519 or ECDSA P-256), or one such file: whose signatures of tasks count here, by the names that policies use. Default: nobody's.",
};
pub(crate) const POOL_KEY_FILE: Key = Key {
    name: "pool_key_file",
    value: "FILE",
    default: None,
    help: "The keys that this agent shares with its pool and never with the manager, made with `deputy-agent pool-key new`. With them every journal record is authenticated, and values that could carry secrets are sealed. The file is this user's or root's and nobody else's to read; it is read once, at the start. Default: none.",
};
pub(crate) const SPOOL_LIMIT: Key = Key {
    name: "spool_limit",
    value: "SIZE",
    default: Some("1GiB"),
    help: "Most log bytes on disk that the manager has not acknowledged, over all tasks. Beyond it a task's log gets a gap of exactly known size.",
};
pub(crate) const SPOOL_TASK_LIMIT: Key = Key {
    name: "spool_task_limit",
    value: "SIZE",
    default: Some("256MiB"),
    help: "The same for one task.",
};
pub(crate) const GRACE: Key = Key {
    name: "grace",
    value: "DURATION",
    default: Some("10s"),
    help: "When the agent leaves, child processes are told to stop this long before results are written. Keep it at least as long as the longest `grace` of the steps it runs.",
};
pub(crate) const DRAIN_TIMEOUT: Key = Key {
    name: "drain_timeout",
    value: "DURATION",
    default: Some("25s"),
    help: "How long the agent may take to leave after SIGTERM, in all. Keep it below the platform's stop timeout (ECS: stopTimeout, 30 s by default; Kubernetes: terminationGracePeriodSeconds).",
};
pub(crate) const TOOLS_PATH: Key = Key {
    name: "tools_path",
    value: "PATH",
    default: None,
    help: "Where bash, git, kubectl and so on are looked for, in the form of PATH. Default: PATH.",
};
pub(crate) const CONFINEMENT: Key = Key {
    name: "confinement",
    value: "MODE",
    default: Some("auto"),
    help: "Keep what steps run away from the agent, its tokens and other tasks: auto (where the kernel has Landlock, with a warning where it has not), required (do not start without), or off. Unconfined, tasks of different projects or role chains do not run beside each other.",
};
pub(crate) const WRITABLE_FOLDERS: Key = Key {
    name: "writable_folders",
    value: "FOLDER,…",
    default: Some(""),
    help: "Where confined children may write besides their task's folder and /tmp, /var/tmp and /dev/shm: caches that tasks share. Whatever one task leaves there, others can take for their own.",
};
pub(crate) const HEALTH_LISTEN: Key = Key {
    name: "health_listen",
    value: "ADDRESS:PORT",
    default: None,
    help: "Serves /livez and /readyz over plain HTTP. Default: nothing listens.",
};
pub(crate) const LOG_LEVEL: Key = Key {
    name: "log_level",
    value: "FILTER",
    default: Some("info"),
    help: "The agent's own log on standard error: error, warn, info, debug, trace, or a filter such as info,deputy_session=debug.",
};
pub(crate) const LOG_FORMAT: Key = Key {
    name: "log_format",
    value: "FORMAT",
    default: Some("text"),
    help: "text or json.",
};
pub(crate) const TRANSPORT: Key = Key {
    name: "transport",
    value: "HOW",
    default: Some("auto"),
    help: "How to speak with the manager: stream (HTTP/2), exchange (long polls over HTTP/1.1), or auto: the stream, and long polls as long as HTTP/2 does not pass on the way.",
};
pub(crate) const CONNECT_TIMEOUT: Key = Key {
    name: "connect_timeout",
    value: "DURATION",
    default: Some("10s"),
    help: "For a TCP connection to the manager, and again for its welcome.",
};
pub(crate) const RECONNECT_BASE: Key = Key {
    name: "reconnect_base",
    value: "DURATION",
    default: Some("1s"),
    help: "The first reconnect waits a random time up to this; the bound doubles with every failure.",
};
pub(crate) const RECONNECT_MAX: Key = Key {
    name: "reconnect_max",
    value: "DURATION",
    default: Some("60s"),
    help: "The bound never gets longer than this.",
};

/// All of them, in the order of help and documentation.
pub(crate) const KEYS: [&Key; 32] = [
    &MANAGER,
    &CA_FILE,
    &CA_SHA256,
    &TRUST_DOMAIN,
    &JOIN_TOKEN_FILE,
    &JOIN_TOKEN,
    &JOIN,
    &AWS_PROFILE,
    &AGENT_ID,
    &LABELS,
    &SLOTS,
    &WORK_FOLDER,
    &STATE_FOLDER,
    &POLICY_FILE,
    &ALLOW_ALL,
    &SECRETS_FOLDER,
    &TRUSTED_SIGNERS,
    &POOL_KEY_FILE,
    &SPOOL_LIMIT,
    &SPOOL_TASK_LIMIT,
    &GRACE,
    &DRAIN_TIMEOUT,
    &TOOLS_PATH,
    &CONFINEMENT,
    &WRITABLE_FOLDERS,
    &HEALTH_LISTEN,
    &LOG_LEVEL,
    &LOG_FORMAT,
    &TRANSPORT,
    &CONNECT_TIMEOUT,
    &RECONNECT_BASE,
    &RECONNECT_MAX,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_documented_with_its_names_and_its_default() {
        let document = include_str!("../../../docs/configuration.md");
        for key in KEYS {
            let row = format!(
                "| `{}` | `--{}` | `{}` | {} | {} |",
                key.name,
                key.flag(),
                key.env(),
                key.default
                    .filter(|text| !text.is_empty())
                    .map_or("–".into(), |text| format!("`{text}`")),
                key.help
            );
            assert!(document.contains(&row), "docs/configuration.md needs this row:\n{row}");
        }
    }
}
