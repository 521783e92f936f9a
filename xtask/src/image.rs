//! `cargo xtask image`
use anyhow::Result;
#[derive(clap::Args)]
pub struct Options {
    #[arg(long)]
    kernel: bool,
}
pub fn run(_: &Options) -> Result<()> {
    let root = crate::root();
    let t = crate::toolchain::Toolchain::find()?;
    crate::kernel::build(&root, &t, false)?;
    Ok(())
}
