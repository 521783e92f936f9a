//! `cargo xtask capsules`: the guests, compiled to WebAssembly.

use anyhow::Result;

/// Build the capsules to WebAssembly
#[derive(clap::Args)]
pub struct Options {}

/// Builds all capsules.
pub fn run(_: &Options) -> Result<()> {
    Ok(())
}
