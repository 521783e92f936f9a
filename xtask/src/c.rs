//! Protocols in C: clang for WebAssembly, with what a node admits and no more.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::process::{find, run};
use crate::root;
use crate::toolchain::Toolchain;

/// As `capsules/c/bees.h` says, and what `capsules/.cargo/config.toml` says to rustc.
const FLAGS: [&str; 18] = [
    "--target=wasm32",
    "-mcpu=mvp",
    "-mbulk-memory",
    "-mmutable-globals",
    "-O2",
    "-ffreestanding",
    "-fno-builtin",
    "-Wall",
    // Older ones find the linker by themselves, and say that they were told.
    "-Qunused-arguments",
    "-nostdlib",
    "-Wl,--no-entry",
    "-Wl,--export=bees_inbox",
    "-Wl,--strip-all",
    "-Wl,--stack-first",
    "-Wl,-zstack-size=8192",
    "-Wl,--export=__stack_pointer",
    "-Wl,--initial-memory=65536",
    "-Wl,--max-memory=65536",
];

/// The compiler, or how to get it.
pub fn clang() -> Result<PathBuf> {
    match find("clang") {
        Some(clang) => Ok(clang),
        None => bail!("protocols in C need clang: apt-get install clang lld"),
    }
}

/// Compiles one file to a module of the same name in `place`.
pub fn compile(clang: &Path, toolchain: &Toolchain, source: &Path, place: &Path) -> Result<PathBuf> {
    let module = place.join(source.with_extension("wasm").file_name().unwrap_or_default());
    let mut command = Command::new(clang);
    command
        .args(FLAGS)
        .arg(format!("--ld-path={}", toolchain.wasm_linker.display()))
        .arg("-I")
        .arg(root().join("capsules/c"))
        .arg("-o")
        .args([&module, source]);
    run(&format!("compile {}", source.display()), &mut command)?;
    Ok(module)
}
