//! `dynavit completions SHELL`: completion scripts on stdout.
#![forbid(unsafe_code)]

use super::{command, print};
use crate::error::Result;
use clap::Args;
use clap_complete::Shell;

/// Flags of `completions`.
#[derive(Args)]
#[command(after_help = "Example:\n  dynavit completions bash > ~/.local/share/bash-completion/completions/dynavit")]
pub struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// Writes the script.
pub fn run(args: CompletionsArgs) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command(), "dynavit", &mut script);
    print::line(String::from_utf8_lossy(&script).trim_end())
}
