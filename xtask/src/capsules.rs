//! `cargo xtask capsules`: the guests, compiled to WebAssembly with the compiler that also builds the
//! image. The modules land in `target/capsules`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::c;
use crate::process::{lock, run, write_if_changed};
use crate::root;
use crate::toolchain::Toolchain;

pub const TARGET: &str = "wasm32-unknown-unknown";

/// Build the capsules to WebAssembly
#[derive(clap::Args)]
pub struct Options {
    /// Show what cargo does
    #[arg(short, long)]
    verbose: bool,
    /// Put the modules here instead of in target/capsules
    #[arg(short, long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

/// Builds and prints sizes.
pub fn run_command(options: &Options) -> Result<()> {
    let root = root();
    for module in build(options.verbose, options.out.as_deref())? {
        let size = fs::metadata(&module)?.len();
        let name = module.strip_prefix(&root).unwrap_or(&module);
        println!("{:<36} {size:>7} bytes", name.display());
    }
    Ok(())
}

/// Builds what has changed and returns the paths of all modules, sorted. They land in `place`, or in
/// `target/capsules`.
pub fn build(verbose: bool, place: Option<&Path>) -> Result<Vec<PathBuf>> {
    let root = root();
    let toolchain = Toolchain::find()?;
    let out = root.join("target/capsules");
    let _lock = lock(&out)?;
    let target_dir = out.join("build");
    let mut command = toolchain.cargo(&target_dir, &[]);
    command
        // The flags are in capsules/.cargo/config.toml, where a person who types cargo gets them too.
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", &toolchain.wasm_linker)
        .current_dir(root.join("capsules"))
        .args(["build", "--release", "--target", TARGET, "-Zbuild-std=core,alloc,panic_abort"]);
    if verbose {
        command.arg("--verbose");
    }
    run("build the capsules", &mut command)?;
    let place = place.unwrap_or(&out);
    let mut modules = install(&target_dir.join(TARGET).join("release"), place)?;
    match c::clang() {
        Ok(clang) => modules.push(c::compile(&clang, &toolchain, &root.join("capsules/c/echo.c"), place)?),
        Err(missing) => eprintln!("xtask: capsules/c is left out: {missing}"),
    }
    Ok(modules)
}

fn install(from: &Path, to: &Path) -> Result<Vec<PathBuf>> {
    let mut modules = Vec::new();
    for entry in fs::read_dir(from).with_context(|| from.display().to_string())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "wasm") {
            let place = to.join(path.file_name().expect("a file that was listed has a name"));
            write_if_changed(&place, &fs::read(&path)?)?;
            modules.push(place);
        }
    }
    modules.sort();
    Ok(modules)
}
