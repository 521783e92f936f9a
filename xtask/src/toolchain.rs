//! Finds a compiler that has the sources of `core` and `std`: loader, kernel and node are built for
//! targets without a ready-made standard library.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::process::{find, output};

/// The oldest compiler that builds the project (`rust-version` in Cargo.toml).
const OLDEST: (u32, u32) = (1, 95);

/// A compiler with the standard library's sources, and the tools that go with it.
#[derive(Debug, Clone)]
pub struct Toolchain {
    /// The cargo that belongs to `rustc`.
    pub cargo: PathBuf,
    /// The compiler.
    pub rustc: PathBuf,
    /// What `rustc --version` says.
    pub version: String,
    /// LLVM's linker for ELF, `ld.lld`.
    pub linker: PathBuf,
    /// LLVM's linker for WebAssembly, `wasm-ld`.
    pub wasm_linker: PathBuf,
    /// GNU's or LLVM's objcopy.
    pub objcopy: PathBuf,
}

/// What is missing, in words and as Debian packages.
#[derive(Debug, Default)]
pub struct Missing {
    /// For people.
    pub what: Vec<String>,
    /// For apt-get.
    pub packages: Vec<&'static str>,
}

impl Toolchain {
    /// The first complete toolchain: rustup's, then Debian's.
    pub fn find() -> Result<Self> {
        match Self::search() {
            Ok(toolchain) => Ok(toolchain),
            Err(missing) => bail!("missing: {}; run: cargo xtask setup", missing.what.join(", ")),
        }
    }

    /// Like [`find`](Self::find), but says what is missing.
    pub fn search() -> Result<Self, Missing> {
        let mut missing = Missing::default();
        let compiler = candidates().into_iter().find_map(|(cargo, rustc)| {
            let (version, sysroot) = usable(&rustc)?;
            Some((cargo, rustc, version, sysroot))
        });
        if compiler.is_none() {
            missing.what.push("a Rust compiler with the standard library's sources".into());
            missing.packages.extend(["rustc-web", "cargo-web", "rust-web-src"]);
        }
        let sysroot = compiler.as_ref().map(|found| found.3.as_path());
        let linkers = linker("ld.lld", sysroot).zip(linker("wasm-ld", sysroot));
        if linkers.is_none() {
            missing.what.push("the linkers ld.lld and wasm-ld".into());
            missing.packages.push("lld");
        }
        let objcopy = find("objcopy").or_else(|| find("llvm-objcopy"));
        if objcopy.is_none() {
            missing.what.push("objcopy".into());
            missing.packages.push("binutils");
        }
        match (compiler, linkers, objcopy) {
            (Some((cargo, rustc, version, _)), Some((linker, wasm_linker)), Some(objcopy)) => {
                Ok(Self { cargo, rustc, version, linker, wasm_linker, objcopy })
            }
            _ => Err(missing),
        }
    }

    /// A cargo command that compiles `std` from source for a bare target, with `flags` for rustc.
    pub fn cargo(&self, target_dir: &Path, flags: &[&str]) -> Command {
        let mut command = Command::new(&self.cargo);
        // The variables that `cargo run` sets for us would change fingerprints and choose the wrong tools.
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            if name.starts_with("CARGO_PKG_") || name.starts_with("RUSTUP_") || name == "CARGO" {
                command.env_remove(&*name);
            }
        }
        command
            .env_remove("RUSTFLAGS")
            .env_remove("CARGO_MANIFEST_DIR")
            .env_remove("CARGO_MANIFEST_PATH")
            .env_remove("LD_LIBRARY_PATH")
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
            .env("CARGO_TARGET_DIR", target_dir)
            .env("RUSTC", &self.rustc)
            .env("RUSTC_BOOTSTRAP", "1");
        command
    }
}

/// One of LLVM's linkers: the system's, or the one that comes with a compiler from rustup.
fn linker(name: &str, sysroot: Option<&Path>) -> Option<PathBuf> {
    let own = || {
        let path = sysroot?.join("lib/rustlib/x86_64-unknown-linux-gnu/bin/gcc-ld").join(name);
        path.is_file().then_some(path)
    };
    find(name).or_else(own)
}

/// Pairs of cargo and rustc, the preferred one first.
fn candidates() -> Vec<(PathBuf, PathBuf)> {
    let mut pairs = Vec::new();
    // rustup puts proxies first in PATH; ask it for the real compiler.
    if let Ok(rustc) = output(Command::new("rustup").args(["which", "rustc"]).current_dir("/")) {
        let rustc = PathBuf::from(rustc.trim());
        pairs.push((rustc.with_file_name("cargo"), rustc));
    }
    for folder in ["/usr/bin", "/usr/local/bin"] {
        pairs.push((Path::new(folder).join("cargo"), Path::new(folder).join("rustc")));
    }
    pairs.retain(|(cargo, rustc)| cargo.is_file() && rustc.is_file());
    pairs
}

/// The version and the system root of `rustc`, if it is new enough and has the sources.
fn usable(rustc: &Path) -> Option<(String, PathBuf)> {
    let version = output(Command::new(rustc).arg("--version")).ok()?;
    if parse(&version)? < OLDEST {
        return None;
    }
    let sysroot = output(Command::new(rustc).args(["--print", "sysroot"])).ok()?;
    let sysroot = PathBuf::from(sysroot.trim());
    let sources = sysroot.join("lib/rustlib/src/rust/library/std/Cargo.toml");
    sources.is_file().then(|| (version.trim().to_owned(), sysroot))
}

/// Major and minor number out of `rustc 1.96.0 (...)`.
fn parse(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split_whitespace().nth(1)?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        assert_eq!(parse("rustc 1.96.0 (ac68faa20 2026-05-25)"), Some((1, 96)));
        assert_eq!(parse("rustc 1.95.0-nightly (0 2026-01-01)"), Some((1, 95)));
        assert_eq!(parse("clang version 14"), None);
    }
}
