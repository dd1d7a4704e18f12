//! The `dynavit` command: parses, calls, and turns errors into one line and an exit code.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    match dynavit::cli::main() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            dynavit::cli::print::complain("error", &error.to_string());
            ExitCode::from(error.exit_code())
        }
    }
}
