//! `cargo xtask image`: the bootable node.
//!
//! Three builds follow each other, each only as far as something has changed: the loader (a flat
//! binary), the kernel (one relocatable object, see `kernel.rs`), and the node, which links the
//! kernel in. Everything lands in `target/image`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::process::{lock, run, write_if_changed};
use crate::toolchain::Toolchain;
use crate::{kernel, root};

// Its tests run here: what it is part of, the loader, is for a bare machine.
#[cfg(test)]
#[path = "../../image/boot/src/relocate.rs"]
mod relocate;

/// Build the bootable node: loader, kernel, program
#[derive(clap::Args)]
pub struct Options {
    /// Show what cargo says
    #[arg(short, long)]
    verbose: bool,
}

/// What a build leaves behind.
#[derive(Debug)]
pub struct Image {
    /// For QEMU's `-kernel`.
    pub loader: PathBuf,
    /// The first module, for `-initrd`.
    pub node: PathBuf,
}

impl Image {
    /// What the last build left.
    pub fn existing() -> Result<Self> {
        let out = root().join("target/image");
        let [loader, node] = ["loader.bin", "node"].map(|name| out.join(name));
        ensure!(loader.is_file() && node.is_file(), "no image; run: cargo xtask image");
        Ok(Self { loader, node })
    }
}

const LOADER_TARGET: &str = "x86_64-unknown-none";
const NODE_TARGET: &str = "x86_64-unknown-hermit";
const BUILTINS: &str = "-Zbuild-std-features=compiler-builtins-mem,optimize_for_size";

/// Builds and prints sizes.
pub fn run_command(options: &Options) -> Result<()> {
    let image = build(options.verbose)?;
    for path in [&image.loader, &image.node] {
        let size = fs::metadata(path)?.len();
        let name = path.strip_prefix(root()).unwrap_or(path);
        println!("{:<28} {:>9} bytes  {:>6.2} MB", name.display(), size, size as f64 / 1e6);
    }
    Ok(())
}

/// Builds what has changed.
pub fn build(verbose: bool) -> Result<Image> {
    let root = root();
    let toolchain = Toolchain::find()?;
    let out = root.join("target/image");
    let _lock = lock(&out)?;
    let loader = loader(&root, &toolchain, &out, verbose)?;
    let object = kernel::build(&root, &toolchain, verbose)?;
    let node = node(&root, &toolchain, &out, &object, verbose)?;
    Ok(Image { loader, node })
}

fn loader(root: &Path, toolchain: &Toolchain, out: &Path, verbose: bool) -> Result<PathBuf> {
    let target_dir = out.join("boot");
    let linker = format!("-Clinker={}", toolchain.linker.display());
    let mut command = toolchain.cargo(&target_dir, &[&linker, "-Crelocation-model=static"]);
    command
        .current_dir(root.join("image/boot"))
        .args(["build", "--release", "--target", LOADER_TARGET])
        .args(["-Zbuild-std=core,alloc", BUILTINS]);
    show_commands(&mut command, verbose);
    run("build the loader", &mut command)?;
    install(&target_dir.join(LOADER_TARGET).join("release/boot"), &out.join("loader.bin"))
}

fn node(root: &Path, toolchain: &Toolchain, out: &Path, object: &Path, verbose: bool) -> Result<PathBuf> {
    let target_dir = out.join("build");
    let linker = format!("-Clinker={}", toolchain.linker.display());
    let mut command = toolchain.cargo(&target_dir, &[&linker]);
    command
        .current_dir(root)
        .env("HERMIT_OBJECT", object)
        .env("RUSTC_WRAPPER", root.join("image/rustc.sh"))
        .args(["build", "--package", "image", "--profile", "image", "--target", NODE_TARGET])
        .args(["-Zbuild-std=std,panic_abort", BUILTINS]);
    show_commands(&mut command, verbose);
    run("build the node (some minutes the first time)", &mut command)?;
    install(&target_dir.join(NODE_TARGET).join("image/image"), &out.join("node"))
}

fn show_commands(command: &mut std::process::Command, verbose: bool) {
    if verbose {
        command.arg("--verbose");
    }
}

/// Copies a result to its place, unless it is the same as before.
fn install(from: &Path, to: &Path) -> Result<PathBuf> {
    let contents = fs::read(from).with_context(|| from.display().to_string())?;
    write_if_changed(to, &contents)?;
    Ok(to.to_owned())
}
