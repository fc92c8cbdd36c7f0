//! The agent under test: the product, with failpoints. It dies with the test that started it.

use std::process::ExitCode;

use rustix::process::{Signal, set_parent_process_death_signal};

fn main() -> ExitCode {
    // Without it a test that is killed would leave us behind; that is no reason not to start.
    let _unsupported = set_parent_process_death_signal(Some(Signal::KILL));
    deputy_agent::main_impl()
}
