//! The deputy-agent binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    deputy_agent::main_impl()
}
