//! Placeholder of the subcommand.
#![forbid(unsafe_code)]

use crate::error::Result;

/// Flags of the subcommand.
#[derive(clap::Args)]
pub struct FlopsArgs {}

/// Runs the subcommand.
pub fn run(args: FlopsArgs) -> Result<()> {
    let _ = args;
    todo!()
}
