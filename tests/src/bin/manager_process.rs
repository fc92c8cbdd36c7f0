//! The manager under test: the product. It dies with the test that started it.

use std::process::ExitCode;
use std::sync::Arc;

use deputy_tests::leaks::witness::FolderWitness;
use rustix::process::{Signal, set_parent_process_death_signal};

fn main() -> ExitCode {
    // Without it a test that is killed would leave us behind; that is no reason not to start.
    let _unsupported = set_parent_process_death_signal(Some(Signal::KILL));
    deputy_manager::main_with(FolderWitness::asked_for().map(|witness| Arc::new(witness) as _))
}
