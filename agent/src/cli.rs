//! The command line of `deputy-agent`: which subcommand, with what, and its exit code.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command};

use deputy_dial::proxy::ProxyRule;

use crate::config::checked::{self, Config, Mode};
use crate::config::key::{self, ALLOW_ALL, KEYS, Key, LABELS};
use crate::config::raw::{File, Mistake, RawConfig};
use crate::doctor::{self, Questions};
use crate::exit::{Exit, StartupError, explain};
use crate::form::Form;
use crate::local::LocalRun;
use crate::policy_command::{Explain, Given};
use crate::pool_key_command::{Put, Wrap};
use crate::{eks_token, local, policy_command, pool_key_command, run};

/// Everything the binary does. The binary itself, and the one of the tests, only call this.
#[must_use]
pub fn main_impl() -> ExitCode {
    let matches = match command().try_get_matches() {
        Ok(matches) => matches,
        Err(error) => {
            // Help and version are no mistakes.
            let exit = if error.use_stderr() {
                Exit::BadInput
            } else {
                Exit::Success
            };
            let _ = error.print();
            return exit.into();
        }
    };
    let done = match matches.subcommand() {
        Some(("run", matches)) => config(matches).and_then(run::run),
        Some(("doctor", matches)) => config(matches).and_then(|config| doctor::examine(&config, &questions(matches))),
        Some(("task", matches)) => local::run(local_run(matches)),
        Some(("policy", matches)) => policy(matches),
        Some(("pool-key", matches)) => pool_key(matches),
        Some(("eks-token", matches)) => eks_token::print(text(matches, "cluster"), text(matches, "region")),
        _ => Ok(Exit::BadInput),
    };
    done.unwrap_or_else(|error| explain(&error)).into()
}

fn command() -> Command {
    Command::new("deputy-agent")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Pulls deployment tasks from a manager and runs them here, with local AWS identities")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(run_command())
        .subcommand(task_command())
        .subcommand(doctor_command())
        .subcommand(policy_command())
        .subcommand(pool_key_command())
        .subcommand(eks_token_command())
}

/// Every key of the configuration, and the file.
fn config_args() -> impl Iterator<Item = Arg> {
    let file = Arg::new("config")
        .long("config")
        .value_name("FILE")
        .env("DEPUTY_CONFIG")
        .value_parser(clap::value_parser!(PathBuf))
        .help("A TOML file with the keys below, as in docs/configuration.md");
    let keys = KEYS.iter().map(|key| {
        let arg = Arg::new(key.name).value_name(key.value).help(help(key));
        if **key == LABELS {
            arg.long("label").visible_alias("labels").action(ArgAction::Append)
        } else if **key == ALLOW_ALL {
            // `--allow-all` alone, or `--allow-all=false`.
            arg.long(key.flag())
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true")
        } else {
            arg.long(key.flag())
        }
    });
    std::iter::once(file).chain(keys)
}

fn run_command() -> Command {
    Command::new("run")
        .about("Serve a manager until SIGTERM")
        .args(config_args())
        .after_help("Flags win over the environment, which wins over the file. Exit codes: 0 left in order, 2 bad configuration, 8 another process has this agent id, 9 left with work unfinished, 10 cannot start.")
}

fn help(key: &Key) -> String {
    match key.default.filter(|text| !text.is_empty()) {
        Some(default) => format!("{} [default: {default}] [env: {}]", key.help, key.env()),
        None => format!("{} [env: {}]", key.help, key.env()),
    }
}

fn task_command() -> Command {
    Command::new("task")
        .about("Run a task file here, without a manager")
        .arg(
            Arg::new("file")
                .value_name("FILE")
                .required(true)
                .value_parser(clap::value_parser!(PathBuf))
                .help("The task document, YAML or JSON; bundles are folders beside it"),
        )
        .arg(input())
        .arg(
            Arg::new("journal")
                .long("journal")
                .value_name("FILE")
                .value_parser(clap::value_parser!(PathBuf))
                .help("Keep the journal in this file: a run that was killed goes on when it is started again"),
        )
        .arg(
            Arg::new("redo")
                .long("redo")
                .value_name("STEP")
                .requires("journal")
                .help("Run the script of this step again: it was begun, its end is not in the journal, and it is not retrySafe"),
        )
        .arg(
            Arg::new("work-folder")
                .long("work-folder")
                .value_name("FOLDER")
                .value_parser(clap::value_parser!(PathBuf))
                .env("DEPUTY_WORK_FOLDER")
                .help("Workspaces are made in it [default: deputy-agent in $XDG_RUNTIME_DIR, or deputy-agent-<user number> in /var/tmp (in $TMPDIR if that is set)]"),
        )
        .arg(
            Arg::new("confinement")
                .long("confinement")
                .value_name("MODE")
                .env(key::CONFINEMENT.env())
                .default_value("auto")
                .value_parser(checked::confinement)
                .help("Keep what steps run away from this process, its credentials and other runs: auto, required or off"),
        )
        .arg(
            Arg::new("writable-folders")
                .long("writable-folders")
                .value_name("FOLDER,…")
                .env(key::WRITABLE_FOLDERS.env())
                .default_value("")
                .value_parser(|text: &str| checked::folders(text).map(Folders))
                .help("Where confined steps may write besides the task's folder and temporary folders"),
        )
        .arg(
            Arg::new("policy")
                .long("policy")
                .value_name("FILE")
                .value_parser(clap::value_parser!(PathBuf))
                .help("Ask this policy as an agent would [default: whoever runs the task may run it]"),
        )
        .arg(
            Arg::new("pool-key-file")
                .long("pool-key-file")
                .value_name("FILE")
                .value_parser(clap::value_parser!(PathBuf))
                .env(key::POOL_KEY_FILE.env())
                .help("Authenticate the journal, and seal what could carry secrets, with these keys [default: neither]"),
        )
        .arg(
            Arg::new("log-level")
                .long("log-level")
                .value_name("FILTER")
                .default_value("warn")
                .help("The agent's own log on standard error"),
        )
        .after_help("Exit codes: 0 succeeded, 1 failed, 2 bad input, 4 cancelled or timed out, 5 rejected, 7 rollback failed or world unknown, 10 cannot start.")
}

fn doctor_command() -> Command {
    let repeated = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name)
            .long(name)
            .value_name(value)
            .action(ArgAction::Append)
            .help(help)
    };
    Command::new("doctor")
        .about("Look at everything that must be right for this agent to work, and say what to do about the rest")
        .arg(repeated(
            "role",
            "ARN[#EXTERNAL-ID][,ARN…]",
            "A role, or a chain of roles, that the agent should be able to assume; may be repeated",
        ))
        .arg(repeated(
            "cluster",
            "NAME",
            "An EKS cluster that must be reachable and know the first --role, or the agent itself; may be repeated",
        ))
        .arg(
            Arg::new("region")
                .long("region")
                .value_name("REGION")
                .help("Where roles and clusters are looked at [default: AWS_REGION, or us-east-1]"),
        )
        .arg(
            Arg::new("output")
                .long("output")
                .short('o')
                .value_name("FORM")
                .value_parser(["text", "json"])
                .default_value("text")
                .help("Text for people, or JSON for programs"),
        )
        .next_help_heading("What the agent is run with")
        .args(config_args())
        .after_help("Run it where the agent runs, with the agent's own environment and arguments: inside its container.\nNothing is changed, and no task is taken.\nExit codes: 0 the agent can work, 1 it cannot, 2 bad configuration.")
}

fn input() -> Arg {
    Arg::new("input")
        .long("input")
        .value_name("NAME=VALUE")
        .action(ArgAction::Append)
        .help("A value for one of spec.inputs; may be repeated")
}

fn policy_command() -> Command {
    let file = |id: &'static str, name: &'static str, help: &'static str| {
        Arg::new(id)
            .value_name(name)
            .required(true)
            .value_parser(clap::value_parser!(PathBuf))
            .help(help)
    };
    let option = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).help(help)
    };
    let output = || {
        Arg::new("output")
            .long("output")
            .short('o')
            .value_parser(["text", "json"])
            .default_value("text")
            .help("How to print")
    };
    let check = Command::new("check")
        .about("Say whether a file is a valid policy, and every mistake in it")
        .arg(file("policy", "POLICY", "The policy file"))
        .arg(output())
        .after_help("Exit codes: 0 valid, 2 not.");
    let explain = Command::new("explain")
        .about("Print what a policy says of a task: every question, its answer, and the rules that gave it")
        .arg(file("policy", "POLICY", "The policy file"))
        .arg(file("file", "TASK", "The task document"))
        .arg(input())
        .arg(option("agent-id", "ID", "The agent that would run it").default_value("this-agent"))
        .arg(option("pool", "NAME", "The agent's label `pool`").default_value(""))
        .arg(option("signer", "NAME", "As if the task were signed by this signer"))
        .arg(option("project", "NAME", "What the manager would say").default_value("default"))
        .arg(option("submitter", "NAME", "What the manager would say").default_value(""))
        .arg(output())
        .after_help("Exit codes: 0 everything is permitted, 2 bad input, 5 something is denied.");
    Command::new("policy")
        .about("Check and explain the policy that says what tasks may do here")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(check)
        .subcommand(explain)
}

fn policy(matches: &ArgMatches) -> Result<Exit, StartupError> {
    let Some((verb, matches)) = matches.subcommand() else {
        return Ok(Exit::BadInput);
    };
    let path = matches.get_one::<PathBuf>("policy").cloned().unwrap_or_default();
    let form = form(matches);
    if verb == "check" {
        return policy_command::check(&path, form);
    }
    let file = matches.get_one::<PathBuf>("file").cloned().unwrap_or_default();
    let task = local::document(&file, &inputs(matches))?;
    let given = Given {
        agent: text(matches, "agent-id").to_owned(),
        pool: text(matches, "pool").to_owned(),
        signer: matches.get_one::<String>("signer").cloned(),
        project: text(matches, "project").to_owned(),
        submitter: text(matches, "submitter").to_owned(),
    };
    let asking = policy_command::asking(&task, &given);
    policy_command::explain(&Explain {
        policy: path,
        task,
        asking,
        form,
    })
}

fn pool_key_command() -> Command {
    let file = || {
        Arg::new("file")
            .value_name("FILE")
            .required(true)
            .value_parser(clap::value_parser!(PathBuf))
    };
    let new = Command::new("new")
        .about("Make a pool key in a new file, for this user alone")
        .arg(file().help("The file to make"))
        .arg(Arg::new("add").long("add").action(ArgAction::SetTrue).help(
            "Add the key to the end of an existing file: it opens, and seals when its line is moved to the front",
        ))
        .arg(
            Arg::new("kms-key")
                .long("kms-key")
                .value_name("ARN")
                .requires("pool")
                .help("Have AWS KMS make the key and wrap it with this symmetric key: the file then holds nothing secret, and agents unwrap it at their start (kms:Decrypt)"),
        )
        .arg(
            Arg::new("pool")
                .long("pool")
                .value_name("NAME")
                .requires("kms-key")
                .help("The pool it is for: the encryption context deputy:pool, which a role's policy can ask for"),
        );
    let list = Command::new("list")
        .about("Print the ids of the keys in a file, never the keys")
        .arg(file().help("The file"));
    Command::new("pool-key")
        .about("Make and list the keys that the agents of a pool share and their manager never has")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(new)
        .subcommand(list)
}

fn pool_key(matches: &ArgMatches) -> Result<Exit, StartupError> {
    let Some((verb, matches)) = matches.subcommand() else {
        return Ok(Exit::BadInput);
    };
    let path = matches.get_one::<PathBuf>("file").cloned().unwrap_or_default();
    if verb == "list" {
        return pool_key_command::list(&path);
    }
    let put = if matches.get_flag("add") {
        Put::Behind
    } else {
        Put::Alone
    };
    let wrap = matches.get_one::<String>("kms-key").map(|key_arn| Wrap {
        key_arn: key_arn.clone(),
        pool: text(matches, "pool").to_owned(),
    });
    pool_key_command::new(&path, put, wrap.as_ref())
}

fn eks_token_command() -> Command {
    Command::new("eks-token")
        .about("Print a Kubernetes credential for an EKS cluster, as a client-go exec plugin")
        .arg(
            Arg::new("cluster")
                .long("cluster")
                .value_name("NAME")
                .required(true)
                .help("The EKS cluster"),
        )
        .arg(
            Arg::new("region")
                .long("region")
                .value_name("REGION")
                .required(true)
                .help("Its AWS region"),
        )
}

fn text<'a>(matches: &'a ArgMatches, name: &str) -> &'a str {
    matches.get_one::<String>(name).map_or("", String::as_str)
}

fn config(matches: &ArgMatches) -> Result<Config, StartupError> {
    let path = matches.get_one::<PathBuf>("config");
    let content = path.map(|path| read(path)).transpose()?;
    let file = path.zip(content.as_deref()).map(|(path, text)| File { path, text });
    let flags = |key: &Key| {
        let mut given = matches.get_many::<String>(key.name)?;
        let first = given.next()?.clone();
        Some(given.fold(first, |all, more| format!("{all},{more}")))
    };
    // A value that is not UTF-8 is no value of any key; its replacement characters fail the check.
    let env = |name: &str| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
    let mut config = Config::check(&RawConfig::collect(&flags, &env, file.as_ref())).map_err(StartupError::Config)?;
    config.proxy = proxy(&env)?;
    config.file = path.cloned();
    Ok(config)
}

/// What container platforms and people set for every program.
fn proxy(env: &dyn Fn(&str) -> Option<String>) -> Result<ProxyRule, StartupError> {
    ProxyRule::of(env).map_err(|bad| {
        StartupError::Config(vec![Mistake {
            place: "HTTPS_PROXY".into(),
            problem: bad.to_string(),
        }])
    })
}

fn read(path: &Path) -> Result<String, StartupError> {
    std::fs::read_to_string(path).map_err(|source| StartupError::Unreadable {
        path: path.into(),
        source,
    })
}

fn local_run(matches: &ArgMatches) -> LocalRun {
    LocalRun {
        file: matches.get_one::<PathBuf>("file").cloned().unwrap_or_default(),
        inputs: inputs(matches),
        journal: matches.get_one::<PathBuf>("journal").cloned(),
        redo: matches.get_one::<String>("redo").cloned(),
        work_folder: matches.get_one::<PathBuf>("work-folder").cloned(),
        confinement: matches.get_one::<Mode>("confinement").copied().unwrap_or(Mode::Auto),
        writable_folders: matches
            .get_one::<Folders>("writable-folders")
            .map(|Folders(all)| all.clone())
            .unwrap_or_default(),
        policy: matches.get_one::<PathBuf>("policy").cloned(),
        pool_key_file: matches.get_one::<PathBuf>("pool-key-file").cloned(),
        log_filter: text(matches, "log-level").to_owned(),
    }
}

/// For whom the answer is.
fn form(matches: &ArgMatches) -> Form {
    if text(matches, "output") == "json" {
        Form::Json
    } else {
        Form::Text
    }
}

fn questions(matches: &ArgMatches) -> Questions {
    let all = |name: &str| {
        let given = matches.get_many::<String>(name).unwrap_or_default();
        given.cloned().collect()
    };
    Questions {
        form: form(matches),
        roles: all("role"),
        clusters: all("cluster"),
        region: matches.get_one::<String>("region").cloned(),
    }
}

/// One argument that is a list.
#[derive(Debug, Clone)]
struct Folders(Vec<PathBuf>);

fn inputs(matches: &ArgMatches) -> BTreeMap<String, String> {
    let pairs = matches.get_many::<String>("input").unwrap_or_default();
    pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(own)
        .collect()
}

fn own((name, value): (&str, &str)) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }
}
