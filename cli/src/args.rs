//! The command line: every command with its arguments and the text that teaches it.

use std::path::PathBuf;

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
        default_value = "http://127.0.0.1:7443",
        global = true,
        help_heading = "Everywhere",
        value_name = "URL",
        hide_env_values = true
    )]
    pub(crate) manager: String,
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
    /// Look at agents, and drain them
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
    after_help = "Examples:\n  deputy fleet list\n  deputy fleet explain agent-1\n  deputy fleet drain agent-1 --reason 'host maintenance'"
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
}
