//! Set-up, build, test and measurement of the active node: `cargo xtask help`.
//!
//! This program is compiled before everything else, so it is kept light.

mod boot;
mod c;
mod capsules;
mod image;
mod kernel;
mod process;
mod protocol;
mod setup;
mod test;
mod toolchain;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Set-up, build, test and measurement of the active node.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Find or install what the build and the emulator need
    Setup(setup::Options),
    /// Build the bootable node: loader, kernel, program
    Image(image::Options),
    /// Boot the image under QEMU and run its self-tests
    Boot(boot::Options),
    /// Build the capsules to WebAssembly
    Capsules(capsules::Options),
    /// Begin a protocol of your own, and build, test and sign it
    #[command(subcommand)]
    Protocol(protocol::Verb),
    /// Run every check: format, lints, tests, simulator, labs, boots
    Test(test::Options),
    /// Run what takes too long for the test command
    Soak,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Setup(options) => setup::run_command(&options),
        Command::Image(options) => image::run_command(&options),
        Command::Boot(options) => boot::run_command(&options),
        Command::Capsules(options) => capsules::run_command(&options),
        Command::Protocol(verb) => protocol::run_command(&verb),
        Command::Test(options) => test::run_command(&options),
        Command::Soak => test::soak(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The project's folder.
fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .canonicalize()
        .expect("xtask lies in the project's folder")
}
