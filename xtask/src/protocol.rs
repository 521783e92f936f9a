//! `cargo xtask protocol new|build`: a protocol of one's own, in a folder of its own, from the template to a signed
//! flow tuple that can be injected.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::process::{lock, run, write_if_changed};
use crate::toolchain::Toolchain;
use crate::{c, capsules, root};

/// Verbs of a protocol of one's own.
#[derive(clap::Subcommand)]
pub enum Verb {
    /// Make a folder with a protocol that works, to go on from
    New {
        /// The folder; its name is the protocol's: small letters, digits and underscores
        folder: PathBuf,
        /// The language
        #[arg(long, value_enum, default_value = "rust")]
        lang: Language,
    },
    /// Compile it, run its tests, hold it against docs/abi, try it on simulated nodes, sign it
    Build {
        /// The folder
        #[arg(default_value = ".")]
        folder: PathBuf,
        /// The key that signs, from `bees key new --principal NAME`; one is made without it
        #[arg(long, value_name = "FILE")]
        sign: Option<PathBuf>,
    },
}

/// What a protocol is written in.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Language {
    /// With the crate bees-sdk
    Rust,
    /// With clang and bees.h
    C,
}

/// Does what a command line says.
pub fn run_command(verb: &Verb) -> Result<()> {
    match verb {
        Verb::New { folder, lang } => new(folder, *lang),
        Verb::Build { folder, sign } => build(folder, sign.as_deref()),
    }
}

fn new(folder: &Path, lang: Language) -> Result<()> {
    let name = folder.file_name().and_then(|n| n.to_str()).unwrap_or("");
    ensure!(
        is_name(name),
        "\"{name}\" is no name for a protocol: a small letter, then small letters, digits, _; at most 32"
    );
    ensure!(!folder.exists(), "{} is there already", folder.display());
    let capsules = root().join("capsules");
    let read = |path: &str| fs::read_to_string(capsules.join(path)).with_context(|| path.to_string());
    let files = match lang {
        Language::Rust => {
            let source =
                read("template/src/lib.rs")?.replace("Template", &camel(name)).replace("template", name);
            let manifest =
                MANIFEST.replace("NAME", name).replace("SDK", &capsules.join("sdk").display().to_string());
            vec![
                ("src/lib.rs", source),
                ("Cargo.toml", manifest),
                // The versions that the shipped protocols are tested with.
                ("Cargo.lock", read("Cargo.lock")?),
                (".cargo/config.toml", read(".cargo/config.toml")?),
                ("lab.txt", read("template/lab.txt")?),
            ]
        }
        Language::C => vec![
            ("main.c", read("c/echo.c")?.replace("echo", name)),
            ("bees.h", read("c/bees.h")?),
            ("lab.txt", read("c/lab.txt")?),
        ],
    };
    for (path, contents) in
        files.iter().map(|(path, text)| (*path, text.as_str())).chain([(".gitignore", IGNORE)])
    {
        write_if_changed(&folder.join(path), contents.as_bytes())
            .with_context(|| folder.display().to_string())?;
    }
    println!("{0}: the protocol {name}; next: cargo xtask protocol build {0}", folder.display());
    Ok(())
}

const IGNORE: &str = "/target\n/*.wasm\n/*.tuple\n/*.tuple.parts\n/author.key\n";

const MANIFEST: &str = r#"[package]
name = "NAME"
version = "0.1.0"
edition = "2024"
publish = false

[lib]
crate-type = ["cdylib"]

[dependencies]
bees-sdk = { path = "SDK" }

[workspace]

# Small, and a panic is a trap.
[profile.release]
opt-level = "s"
lto = "fat"
codegen-units = 1
panic = "abort"
strip = true
"#;

fn build(folder: &Path, sign: Option<&Path>) -> Result<()> {
    let folder = folder.canonicalize().with_context(|| {
        format!(
            "{0} cannot be read; `cargo xtask protocol new {0}` makes a protocol's folder",
            folder.display()
        )
    })?;
    let name = folder.file_name().and_then(|n| n.to_str()).unwrap_or_default().to_string();
    ensure!(is_name(&name), "{}: the folder's name is no name of a protocol", folder.display());
    let module = compile(&folder, &name)?;
    let mut checks = cargo(&["test", "--quiet", "-p", "checks", "--test", "modules"]);
    checks.env("BEES_CAPSULES", &folder).env("BEES_MODULE", &name).current_dir(root().join("capsules"));
    run("hold the module against docs/abi (some minutes the first time)", &mut checks)?;
    let program = bees_program()?;
    let bees = || {
        let mut command = Command::new(&program);
        command.current_dir(&folder);
        command
    };
    if folder.join("lab.txt").is_file() {
        run("try it on simulated nodes", bees().args(["protocol", "test"]).arg(&module))?;
    }
    let key = match sign {
        Some(key) => key.canonicalize().with_context(|| key.display().to_string())?,
        None => folder.join("author.key"),
    };
    if !key.exists() {
        let user = std::env::var("USER").unwrap_or_default();
        let principal = if is_name(&user) { user.as_str() } else { "author" };
        run("make a key to sign with", bees().args(["key", "new", "--principal", principal]).arg(&key))?;
    }
    run("build and sign the flow", bees().args(["flow", "build"]).arg(&module).arg("--sign").arg(&key))?;
    println!("bees -n NODE flow inject {}", module.with_extension("tuple").display());
    Ok(())
}

/// The `bees` command: the one that `BEES` names (tests have one already), or as it is built now.
fn bees_program() -> Result<PathBuf> {
    if let Some(program) = std::env::var_os("BEES") {
        return Ok(program.into());
    }
    // Not selected with -p, as in the test command: the compiler of WebAssembly would be built anew.
    run(
        "build bees (some minutes the first time)",
        cargo(&["build", "--quiet", "--bin", "bees"]).current_dir(root()),
    )?;
    Ok(root().join("target/debug/bees"))
}

/// Compiles the protocol and runs its own tests; the module, in its folder.
fn compile(folder: &Path, name: &str) -> Result<PathBuf> {
    let toolchain = Toolchain::find()?;
    let target = root().join("target/protocols");
    let _lock = lock(&target)?;
    let module = folder.join(name).with_extension("wasm");
    if folder.join("main.c").is_file() {
        let made = c::compile(&c::clang()?, &toolchain, &folder.join("main.c"), folder)?;
        fs::rename(made, &module)?;
        return Ok(module);
    }
    if !folder.join("Cargo.toml").is_file() {
        bail!(
            "{} has neither Cargo.toml nor main.c; `cargo xtask protocol new NAME` makes a folder with them",
            folder.display()
        );
    }
    let mut tests = cargo(&["test", "--quiet"]);
    run("its own tests", tests.env("CARGO_TARGET_DIR", &target).current_dir(folder))?;
    let mut command = toolchain.cargo(&target, &[]);
    command
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", &toolchain.wasm_linker)
        .current_dir(folder)
        .args(["build", "--quiet", "--release", "--target", capsules::TARGET])
        .arg("-Zbuild-std=core,alloc,panic_abort");
    run("compile it to WebAssembly", &mut command)?;
    let built = target.join(capsules::TARGET).join("release").join(name).with_extension("wasm");
    fs::copy(&built, &module)
        .with_context(|| format!("the package in {} is not named {name}", folder.display()))?;
    Ok(module)
}

fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments);
    command
}

/// What is a name for a package, a C file and a protocol.
fn is_name(name: &str) -> bool {
    let small = |c: char| c.is_ascii_lowercase();
    let rest = |c: char| small(c) || c.is_ascii_digit() || c == '_';
    name.len() <= 32 && name.starts_with(small) && name.chars().all(rest)
}

/// `my_first` as a type's name.
fn camel(name: &str) -> String {
    let word = |word: &str| {
        let mut letters = word.chars();
        let first = letters.next().map(|c| c.to_ascii_uppercase());
        first.into_iter().chain(letters).collect::<String>()
    };
    name.split('_').map(word).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_and_made_into_types() {
        assert!(is_name("my_first2") && is_name("a"));
        for wrong in ["", "2nd", "My", "a-b", "a b", "../a", &"a".repeat(33)] {
            assert!(!is_name(wrong), "{wrong}");
        }
        assert_eq!((camel("my_first2"), camel("echo")), ("MyFirst2".into(), "Echo".into()));
    }

    #[test]
    fn a_new_folder_names_its_protocol_and_is_not_written_over() {
        let place = std::env::temp_dir().join(format!("xtask-protocol-{}", std::process::id()));
        let (rust, c) = (place.join("my_first"), place.join("second"));
        new(&rust, Language::Rust).unwrap();
        let source = fs::read_to_string(rust.join("src/lib.rs")).unwrap();
        assert!(source.contains("name: \"my_first\"") && source.contains("pub struct MyFirst"));
        assert!(!source.to_lowercase().contains("template"));
        new(&c, Language::C).unwrap();
        assert!(fs::read_to_string(c.join("main.c")).unwrap().contains("BEES_DESCRIPTION(\"second\","));
        assert!(new(&c, Language::C).unwrap_err().to_string().contains("is there already"));
        assert!(new(&place.join("No"), Language::C).is_err());
        let nothing = build(&place.join("third"), None).unwrap_err();
        assert!(nothing.to_string().contains("cargo xtask protocol new"), "{nothing}");
        fs::remove_dir_all(&place).unwrap();
    }
}
