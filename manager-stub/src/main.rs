//! The deputy-manager binary.

fn main() -> std::process::ExitCode {
    deputy_manager::main_impl()
}
