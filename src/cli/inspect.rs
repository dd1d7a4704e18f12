//! Placeholder of the subcommand.
#![forbid(unsafe_code)]

use crate::error::Result;

/// Flags of the subcommand.
#[derive(clap::Args)]
pub struct InspectArgs {}

/// Runs the subcommand.
pub fn run(args: InspectArgs) -> Result<()> {
    let _ = args;
    todo!()
}
