//! `cargo xtask setup`: finds what the build and the emulator need, and installs what is missing.
//! It says what it does; where all is there it does nothing.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process::{find, output, run};
use crate::toolchain::{Missing, Toolchain};

/// Find or install what the build and the emulator need
#[derive(clap::Args)]
pub struct Options {
    /// Only say what is there and what is missing
    #[arg(long)]
    pub check: bool,
    /// Also what only the tests need
    #[arg(long)]
    pub tests: bool,
}

/// Programs that only tests use, and their packages.
const FOR_TESTS: [(&str, &str); 4] =
    [("valgrind", "valgrind"), ("ip", "iproute2"), ("clang", "clang"), ("curl", "curl")];
const QEMU: &str = "qemu-system-x86_64";

/// Looks, installs, and looks again.
pub fn run_command(options: &Options) -> Result<()> {
    let look = || look(options.tests);
    let mut missing = look();
    if missing.what.is_empty() {
        return report();
    }
    if options.check {
        bail!("missing: {}", missing.what.join(", "));
    }
    if missing.packages.contains(&"rust-web-src") && add_source_to_rustup() {
        missing = look();
        if missing.what.is_empty() {
            return report();
        }
    }
    install(&missing)?;
    let still = look();
    if !still.what.is_empty() {
        bail!("still missing after the installation: {}", still.what.join(", "));
    }
    report()
}

/// What is missing now.
fn look(tests: bool) -> Missing {
    let mut missing = Toolchain::search().err().unwrap_or_default();
    for (program, package) in FOR_TESTS.into_iter().filter(|(program, _)| tests && find(program).is_none()) {
        missing.what.push(program.into());
        missing.packages.push(package);
    }
    if find(QEMU).is_none() {
        missing.what.push("the emulator QEMU".into());
        missing.packages.push("qemu-system-x86");
    }
    missing
}

/// The sources from rustup, if there is a rustup that can get them.
fn add_source_to_rustup() -> bool {
    if find("rustup").is_none() {
        return false;
    }
    let mut add = Command::new("rustup");
    // Elsewhere a rust-toolchain.toml could choose another toolchain than the build uses.
    add.args(["component", "add", "rust-src"]).current_dir("/");
    match run("ask rustup for the standard library's sources", &mut add) {
        Ok(()) => true,
        Err(error) => {
            eprintln!("xtask: rustup cannot get them ({error:#}); trying the system's packages");
            false
        }
    }
}

fn install(missing: &Missing) -> Result<()> {
    let what = missing.what.join(", ");
    let mut words = vec!["apt-get", "install", "--yes", "--no-install-recommends"];
    words.extend(&missing.packages);
    if find("apt-get").is_none() {
        bail!("missing: {what}; this system has no apt-get, so install them in its own way");
    }
    let root = output(Command::new("id").arg("-u"))?.trim() == "0";
    if !root {
        bail!("missing: {what}; installing needs root, so run:\n\n    sudo {}\n", words.join(" "));
    }
    let install = || {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).env("DEBIAN_FRONTEND", "noninteractive");
        run(&format!("install {}", missing.packages.join(" ")), &mut command)
    };
    if install().is_err() {
        // Perhaps the lists of packages are old or not there.
        run("update the lists of packages", Command::new("apt-get").arg("update"))?;
        install().context("the system's packages do not have it")?;
    }
    Ok(())
}

/// Shows what will be used.
fn report() -> Result<()> {
    let toolchain = Toolchain::find()?;
    let qemu = output(Command::new(QEMU).arg("--version"))?;
    println!("compiler  {}  {}", toolchain.rustc.display(), toolchain.version);
    println!("linker    {}", toolchain.linker.display());
    println!("objcopy   {}", toolchain.objcopy.display());
    println!("emulator  {}", qemu.lines().next().unwrap_or_default());
    Ok(())
}
