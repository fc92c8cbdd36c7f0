//! The `deputy` binary.

fn main() -> std::process::ExitCode {
    deputy_cli::main_impl()
}
