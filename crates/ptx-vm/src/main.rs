//! `ptx-vm`: runs or checks a PTX file on the virtual GPU and reports what it found.
#![forbid(unsafe_code)]

mod command;

use std::process::ExitCode;

use clap::Parser;
use command::{Command, Trouble};

/// Executes PTX on the CPU with checks that no card makes.
#[derive(Parser)]
#[command(
    name = "ptx-vm",
    version,
    about,
    after_help = "Exit codes: 0 all is well, 1 a finding in the PTX or its \
    run, 2 the command line or a file is wrong."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    match command::execute(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Trouble::Finding) => ExitCode::from(1),
        Err(Trouble::Usage(why)) => {
            eprintln!("ptx-vm: {why}");
            ExitCode::from(2)
        }
    }
}
