//! From the command line to the exit code.

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::args::{Cli, Command, Output};
use crate::command::{self, Context};
use crate::error::{Class, CliError, Exit};
use crate::screen::{Screen, stderr_colour, to_stderr};
use crate::usage;

/// Runs the command that the process's arguments name.
#[must_use]
pub fn main_impl() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return not_understood(&error),
    };
    let output = cli.global.output;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(run(cli)),
        Err(error) => Err(CliError::new(Exit::Unreachable, "cannot start")
            .class(Class::Local)
            .caused_by(&error)),
    };
    let exit = outcome.unwrap_or_else(|error| {
        tell(&error, output);
        error.exit
    });
    ExitCode::from(exit as u8)
}

/// Help, the version, or a command line that is wrong.
fn not_understood(error: &clap::Error) -> ExitCode {
    if error.use_stderr() && usage::wants_json(std::env::args_os()) {
        let error = usage::explain(error);
        tell(&error, Output::Json);
        return ExitCode::from(error.exit as u8);
    }
    // Nobody is left to tell if this fails.
    let _ = error.print();
    ExitCode::from(if error.use_stderr() {
        Exit::BadInput as u8
    } else {
        Exit::Succeeded as u8
    })
}

fn tell(error: &CliError, output: Output) {
    if !error.is_told() {
        return;
    }
    match output {
        Output::Text => to_stderr(&error.rendered(stderr_colour())),
        Output::Json => to_stderr(&format!("{}\n", error.json())),
    }
}

async fn run(cli: Cli) -> Result<Exit, CliError> {
    let mut context = Context {
        global: cli.global,
        screen: Screen::of_stdout(),
    };
    match cli.command {
        Command::Submit(args) => command::submit(&mut context, args).await,
        Command::Validate(args) => command::validate(&mut context, args),
        Command::Get(args) => command::get(&mut context, args).await,
        Command::List(args) => command::list(&mut context, args).await,
        Command::Logs(args) => command::logs(&mut context, args).await,
        Command::Watch(args) => command::watch(&mut context, args).await,
        Command::Cancel(args) => command::cancel(&mut context, args).await,
        Command::Retry(args) => command::retry(&mut context, args).await,
        Command::Resolve(args) => command::resolve(&mut context, args).await,
        Command::Explain(args) => command::explain(&mut context, args).await,
        Command::Fleet(args) => command::fleet(&mut context, args).await,
        Command::Schema => {
            context.screen.raw(deputy_task::document::schema_text().as_bytes())?;
            Ok(Exit::Succeeded)
        }
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "deputy", &mut script);
            context.screen.raw(&script)?;
            Ok(Exit::Succeeded)
        }
    }
}
