//! The command line: every command with its arguments and the text that teaches it.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

const EXIT_CODES: &str = r#"Exit codes:
  0  succeeded                          4  cancelled, or out of time
  1  the deployment failed              5  rejected by policy, or by every agent
  2  a document or argument is wrong    6  expired in the queue
  3  the manager cannot be reached,     7  rollback failed, or the world is unknown
     or cannot do it: its disk is full  130 interrupted; the task goes on

Commands that follow a task end with its code; other commands end with 0, 2 or 3.

With --output json, a command that cannot do its work prints one JSON object on one line of standard
error: {"class", "message", "causes", "hint", "exitCode", "diagnostics"}. The class is usage, document,
input, notFound, refused, unreachable, manager, local or interrupted. Each of the diagnostics of a
document is {"severity", "file", "line", "column", "key", "message", "suggestion"}. A deployment that
failed is a result and no error: it is on standard output, and the exit code tells it.

First steps:
  deputy validate examples/shell.yaml
  deputy submit examples/shell.yaml --follow
  deputy list
  deputy explain TASK          why is it waiting?"#;

/// Submit deployment tasks to a Deputy manager and follow them.
#[derive(Debug, Parser)]
#[command(name = "deputy", version, max_term_width = 100, after_help = EXIT_CODES, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Where the manager listens
    #[arg(
        long,
        env = "DEPUTY_MANAGER",
        default_value = "https://127.0.0.1:7443",
        global = true,
        help_heading = "Everywhere",
        value_name = "URL",
        hide_env_values = true
    )]
    pub(crate) manager: String,
    /// The authorities to check the manager with, PEM: ca.pem of its data folder
    #[arg(
        long,
        env = "DEPUTY_CA_FILE",
        global = true,
        help_heading = "Everywhere",
        value_name = "FILE",
        hide_env_values = true
    )]
    pub(crate) ca_file: Option<PathBuf>,
    /// Instead of --ca-file: the SHA-256 of the authority's certificate, as the manager says it at its start
    #[arg(
        long,
        env = "DEPUTY_CA_SHA256",
        global = true,
        help_heading = "Everywhere",
        value_name = "HEX",
        hide_env_values = true
    )]
    pub(crate) ca_sha256: Option<String>,
    /// A file with the token that says who you are; DEPUTY_TOKEN has the token itself
    #[arg(
        long,
        env = "DEPUTY_TOKEN_FILE",
        global = true,
        help_heading = "Everywhere",
        value_name = "FILE",
        hide_env_values = true
    )]
    pub(crate) token_file: Option<PathBuf>,
    /// A file with a client certificate and its key, PEM, instead of a token
    #[arg(
        long,
        env = "DEPUTY_CLIENT_CERTIFICATE",
        global = true,
        help_heading = "Everywhere",
        value_name = "FILE",
        hide_env_values = true
    )]
    pub(crate) client_certificate: Option<PathBuf>,
    /// The project (tenant) to work in
    #[arg(
        long,
        env = "DEPUTY_PROJECT",
        default_value = "default",
        global = true,
        help_heading = "Everywhere",
        value_name = "NAME",
        hide_env_values = true
    )]
    pub(crate) project: String,
    /// Text for people, or JSON for programs
    #[arg(
        long,
        short,
        default_value = "text",
        global = true,
        help_heading = "Everywhere",
        value_name = "FORM"
    )]
    pub(crate) output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Check a task document, pack its bundles, and queue it
    Submit(Submit),
    /// Check task documents without a manager
    Validate(Validate),
    /// Show one task: steps, result, journal, document
    Get(Get),
    /// List tasks, newest first
    List(List),
    /// Print the log of a task
    Logs(Logs),
    /// Watch a task until it ends, or everything that happens in the project
    Watch(Watch),
    /// Wish a task to be cancelled
    Cancel(Cancel),
    /// Run an ended task again, from an empty journal
    Retry(Retry),
    /// Decide what becomes of a lost task
    Resolve(Resolve),
    /// Say why a task is where it is, per agent
    Explain(Explain),
    /// Look at agents, say who may join and who may call, drain and revoke
    #[command(subcommand)]
    Fleet(Fleet),
    /// Print the JSON Schema of task documents
    #[command(
        after_help = "Examples:\n  deputy schema > task.schema.json\n  # in an editor: # yaml-language-server: $schema=./task.schema.json"
    )]
    Schema,
    /// Print a completion script for a shell
    #[command(
        after_help = "Examples:\n  deputy completion bash > ~/.local/share/bash-completion/completions/deputy\n  deputy completion zsh > \"${fpath[1]}/_deputy\"\n  deputy completion fish > ~/.config/fish/completions/deputy.fish"
    )]
    Completion {
        /// Which shell
        #[arg(value_parser = clap::value_parser!(Shell))]
        shell: Shell,
    },
}

#[derive(Debug, Args)]
pub(crate) struct InputValues {
    /// A value for one of `spec.inputs`; may be given several times
    #[arg(long = "input", value_name = "NAME=VALUE")]
    pub(crate) input: Vec<String>,
    /// A YAML or JSON file with values for `spec.inputs`; `--input` wins
    #[arg(long, value_name = "FILE")]
    pub(crate) inputs: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  deputy submit task.yaml                             queue it and print its id
  deputy submit task.yaml --follow                    show its steps and its log until it ends
  deputy submit task.yaml --wait --output json        for CI: the result as JSON, its exit code
  deputy submit task.yaml --input image=api:1.4.2 --inputs prod.yaml
  deputy submit task.yaml --request-id \"$CI_JOB_ID\"   submitting twice gives the same task

Folders named under `spec.sources` are packed relative to the document: at most 10,000 files and
64 MiB packed, no symbolic links. Everything in the folder is packed; nothing is left out.

Interrupting a followed task (Ctrl-C) leaves it running; the exit code is 130.")]
pub(crate) struct Submit {
    /// The task document; `-` reads standard input
    pub(crate) file: PathBuf,
    /// Show steps and log until the task ends
    #[arg(long, short, conflicts_with = "wait")]
    pub(crate) follow: bool,
    /// Show steps until the task ends
    #[arg(long, short)]
    pub(crate) wait: bool,
    #[command(flatten)]
    pub(crate) values: InputValues,
    /// Makes submitting idempotent: the same id with the same content gives the same task
    #[arg(long, value_name = "ID")]
    pub(crate) request_id: Option<String>,
    /// Signs task, inputs and bundles with this private key: a file (PKCS#8 PEM, Ed25519 or ECDSA P-256), or a key of
    /// AWS KMS by ARN or alias/NAME
    #[arg(long, value_name = "KEY", env = "DEPUTY_SIGN_KEY", hide_env_values = true)]
    pub(crate) sign: Option<String>,
    /// How long the signature may begin a run, for example 45m
    #[arg(long, value_name = "DURATION", default_value = "24h", requires = "sign")]
    pub(crate) sign_for: String,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  deputy validate task.yaml
  deputy validate deploy/*.yaml --output json
  deputy validate task.yaml --input image=api:1.4.2   also checks the values

Without --input and --inputs, what depends on the values of inputs is not checked.
Ends with 2 if any document has errors.")]
pub(crate) struct Validate {
    /// Task documents; `-` reads standard input
    #[arg(required = true)]
    pub(crate) files: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) values: InputValues,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  deputy get 0199f1c2\n  deputy get 0199f1c2 --journal\n  deputy get 0199f1c2 --document --output json"
)]
pub(crate) struct Get {
    /// The task id, or a unique beginning of it
    pub(crate) task: String,
    /// Also the journal of its newest run: every intent, result, fact and decision
    #[arg(long)]
    pub(crate) journal: bool,
    /// Also the checked document, with its inputs
    #[arg(long)]
    pub(crate) document: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  deputy list --state running --state lost\n  deputy list --label team=payments --limit 200"
)]
pub(crate) struct List {
    /// Only tasks in this state; may be given several times
    #[arg(long, value_name = "STATE")]
    pub(crate) state: Vec<String>,
    /// Only tasks with this label; may be given several times
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) label: Vec<String>,
    /// At most this many tasks
    #[arg(long, default_value_t = 50, value_name = "COUNT")]
    pub(crate) limit: u32,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  deputy logs 0199f1c2 --follow\n  deputy logs 0199f1c2 --raw > build.log")]
pub(crate) struct Logs {
    /// The task id, or a unique beginning of it
    pub(crate) task: String,
    /// Go on until the task has ended and its log is complete
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// Only what the steps wrote, byte for byte, without names and narration
    #[arg(long, conflicts_with = "output")]
    pub(crate) raw: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  deputy watch 0199f1c2        one task; ends with its exit code\n  deputy watch                 everything in the project, until interrupted\n  deputy watch 0199f1c2 -o json   one JSON object per event and line; the last one has the result\n\nIf the manager goes away, the command waits for it for five minutes and goes on where it was."
)]
pub(crate) struct Watch {
    /// The task id, or a unique beginning of it; none: the whole project
    pub(crate) task: Option<String>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  deputy cancel 0199f1c2 --reason 'wrong image'\n\nA cancel is a wish: a running step stops at its next safe point, and what the agent then reports wins."
)]
pub(crate) struct Cancel {
    /// The task id, or a unique beginning of it
    pub(crate) task: String,
    /// Why; shown to everybody who looks at the task
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub(crate) reason: String,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  deputy retry 0199f1c2 --follow")]
pub(crate) struct Retry {
    /// The task id, or a unique beginning of it
    pub(crate) task: String,
    /// Show steps and log until the task ends
    #[arg(long, short, conflicts_with = "wait")]
    pub(crate) follow: bool,
    /// Show steps until the task ends
    #[arg(long, short)]
    pub(crate) wait: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Decision {
    /// Go on with another agent; an interrupted script runs again from its beginning
    Resume,
    /// Undo, with another agent, what the task changed
    Rollback,
    /// Give the task up: it fails, and what it left behind is unknown
    Fail,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  deputy resolve 0199f1c2 resume --reason 'host is gone for good'\n\nOnly for tasks that are lost: their agent is silent and its lease is over. Make sure that the agent\nis really gone before an interrupted script is run again."
)]
pub(crate) struct Resolve {
    /// The task id, or a unique beginning of it
    pub(crate) task: String,
    /// What becomes of it
    pub(crate) decision: Decision,
    /// Why; kept with the decision
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub(crate) reason: String,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  deputy explain 0199f1c2")]
pub(crate) struct Explain {
    /// The task id, or a unique beginning of it
    pub(crate) task: String,
}

#[derive(Debug, Subcommand)]
#[command(
    disable_help_subcommand = true,
    after_help = "Examples:\n  deputy fleet list\n  deputy fleet explain agent-1\n  deputy fleet drain agent-1 --reason 'host maintenance'\n  deputy fleet join-rule create eu --pool eu --token\n  deputy fleet join-token create eu --uses 3 > token\n  deputy fleet token create ci --scope submit --scope read --for-project shop > token"
)]
pub(crate) enum Fleet {
    /// List agents
    List {
        /// Also agents that are gone
        #[arg(long)]
        all: bool,
    },
    /// Show one agent: what it offers, what it holds
    Explain {
        /// The agent id
        agent: String,
    },
    /// Wish an agent to finish and take nothing new
    Drain {
        /// The agent id
        agent: String,
        /// Why
        #[arg(long, default_value = "", value_name = "TEXT")]
        reason: String,
    },
    /// End an agent's session and certificates now; it may join again
    Revoke {
        /// The agent id
        agent: String,
        /// Why; the agent is told
        #[arg(long, default_value = "", value_name = "TEXT")]
        reason: String,
    },
    /// The same, and it may not join again
    Ban {
        /// The agent id
        agent: String,
        /// Why; the agent is told
        #[arg(long, default_value = "", value_name = "TEXT")]
        reason: String,
    },
    /// Let a banned agent join again
    Unban {
        /// The agent id
        agent: String,
    },
    /// Forget an agent whose certificates have ended; its id is free then
    Forget {
        /// The agent id
        agent: String,
    },
    /// Who may join, by which proof, into which pool
    #[command(subcommand)]
    JoinRule(JoinRule),
    /// Secrets that agents join with
    #[command(subcommand)]
    JoinToken(JoinToken),
    /// Tokens of people and pipelines
    #[command(subcommand)]
    Token(Token),
}

#[derive(Debug, Subcommand)]
#[command(
    disable_help_subcommand = true,
    after_help = "Examples:\n  deputy fleet join-rule create eu --pool eu --token\n  deputy fleet join-rule create prod --pool prod --aws-account 222222222222 --aws-role deputy-agent\n  deputy fleet join-rule create eks --pool eks --issuer https://oidc.example.com/1 --jwks keys.json --namespace deputy --service-account agent"
)]
pub(crate) enum JoinRule {
    /// Let agents join by one kind of proof
    Create(Box<NewJoinRule>),
    /// List the rules
    List,
    /// Remove a rule and its join tokens; agents that joined by it stay
    Remove {
        /// The rule
        name: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct NewJoinRule {
    /// A name for it
    pub(crate) name: String,
    /// The pool that its agents are in
    #[arg(long, value_name = "POOL")]
    pub(crate) pool: String,
    /// Give its agents tasks of this project only; may be given several times
    #[arg(long = "for-project", value_name = "PROJECT")]
    pub(crate) projects: Vec<String>,
    /// By join tokens
    #[arg(long, conflicts_with_all = ["aws_account", "issuer"], required_unless_present_any = ["aws_account", "issuer"])]
    pub(crate) token: bool,
    /// By AWS identity: the account
    #[arg(long, value_name = "ACCOUNT", requires = "aws_role", conflicts_with = "issuer")]
    pub(crate) aws_account: Option<String>,
    /// The role's name, without its path
    #[arg(long, value_name = "ROLE", requires = "aws_account")]
    pub(crate) aws_role: Option<String>,
    /// By Kubernetes service account: the issuer of its tokens
    #[arg(long, value_name = "URL", requires_all = ["keys", "namespace", "service_account"])]
    pub(crate) issuer: Option<String>,
    /// The issuer's keys, a JSON Web Key Set
    #[arg(long, value_name = "FILE", requires = "issuer", group = "keys")]
    pub(crate) jwks: Option<PathBuf>,
    /// Where the manager finds the issuer's keys instead, for clusters that show them to everybody
    #[arg(long, value_name = "URL", requires = "issuer", group = "keys")]
    pub(crate) jwks_url: Option<String>,
    /// Whose certificates to believe there, PEM; default: what the manager's machine believes
    #[arg(long, value_name = "FILE", requires = "jwks_url")]
    pub(crate) jwks_ca: Option<PathBuf>,
    /// The service account's namespace
    #[arg(long, value_name = "NAMESPACE", requires = "issuer")]
    pub(crate) namespace: Option<String>,
    /// The service account's name
    #[arg(long, value_name = "NAME", requires = "issuer")]
    pub(crate) service_account: Option<String>,
}

#[derive(Debug, Subcommand)]
#[command(
    disable_help_subcommand = true,
    after_help = "Examples:\n  deputy fleet join-token create eu > token            one agent, within an hour\n  deputy fleet join-token create eu --uses 20 --life 24h > token\n  deputy fleet join-token revoke 0123456789abcdef"
)]
pub(crate) enum JoinToken {
    /// Make a join token and print it, this once
    Create {
        /// A rule for tokens
        rule: String,
        /// Joins that it is good for
        #[arg(long, default_value_t = 1, value_name = "COUNT")]
        uses: u32,
        /// How long it is good
        #[arg(long, default_value = "1h", value_parser = life, value_name = "DURATION")]
        life: Duration,
    },
    /// List the join tokens, without their secrets
    List,
    /// End a join token
    Revoke {
        /// Its id, as in the list
        id: String,
    },
}

#[derive(Debug, Subcommand)]
#[command(
    disable_help_subcommand = true,
    after_help = "Examples:\n  deputy fleet token create ci --scope submit --scope read --for-project shop --life 2160h > token\n  deputy fleet token list\n  deputy fleet token revoke 0123456789abcdef"
)]
pub(crate) enum Token {
    /// Make a token for a person or a pipeline and print it, this once
    Create {
        /// Whom it stands for: the submitter of what it submits
        name: String,
        /// What it is good for; may be given several times
        #[arg(long, required = true, value_name = "SCOPE")]
        scope: Vec<Scope>,
        /// Only for this project; may be given several times. None: for every project
        #[arg(long = "for-project", value_name = "NAME")]
        for_project: Vec<String>,
        /// How long it is good; none: until it is revoked, a certificate 90 days
        #[arg(long, value_parser = life, value_name = "DURATION")]
        life: Option<Duration>,
        /// Make a client certificate instead, and write it with its key to this new file
        #[arg(long, value_name = "FILE")]
        certificate: Option<PathBuf>,
    },
    /// List the tokens, without their secrets
    List,
    /// End a token
    Revoke {
        /// Its id, as in the list
        id: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scope {
    /// Look at tasks, their logs and events
    Read,
    /// Submit, cancel, retry and resolve tasks
    Submit,
    /// Everything of `deputy fleet`
    Administer,
}

fn life(text: &str) -> Result<Duration, String> {
    match deputy_task::document::duration::parse(text).map_err(|error| error.to_string())? {
        Duration::ZERO => Err(format!("{text:?} must be longer than nothing")),
        life => Ok(life),
    }
}
