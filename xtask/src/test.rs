//! The test command: every check in its order, a table of what passed at the end.
//!
//! What needs root or QEMU is left out, by name, where there is none; with `--ci` that is a failure.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::{boot, capsules, image, process, root, setup};

/// What to run.
#[derive(clap::Args)]
pub struct Options {
    /// Set up first, and fail where something would be left out
    #[arg(long)]
    ci: bool,
    /// Only the checks whose name contains this
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// List the checks and stop
    #[arg(long)]
    list: bool,
}

/// What a check cannot do without.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Needs {
    Nothing,
    Qemu,
    Root,
    Valgrind,
}

struct Check {
    name: &'static str,
    needs: Needs,
    /// Whether it uses the bootable node.
    image: bool,
    run: fn() -> Result<()>,
}

const CHECKS: &[Check] = &[
    Check { name: "format", needs: Needs::Nothing, image: false, run: format },
    Check { name: "lints", needs: Needs::Nothing, image: false, run: lints },
    Check { name: "capsules", needs: Needs::Nothing, image: false, run: capsules_tests },
    Check { name: "units and properties", needs: Needs::Nothing, image: false, run: units },
    Check { name: "simulator", needs: Needs::Nothing, image: false, run: simulator },
    Check { name: "instruction budget", needs: Needs::Valgrind, image: false, run: instruction_budget },
    Check { name: "image size", needs: Needs::Nothing, image: true, run: image_size },
    Check { name: "hosted labs", needs: Needs::Nothing, image: true, run: hosted_labs },
    Check { name: "namespace links", needs: Needs::Root, image: false, run: namespace_links },
    Check { name: "QEMU boots", needs: Needs::Qemu, image: true, run: boots },
    Check { name: "QEMU labs", needs: Needs::Qemu, image: true, run: qemu_labs },
];

/// The largest image that is accepted, in bytes.
const MAX_IMAGE: u64 = 8 << 20;

enum Outcome {
    Passed,
    Failed(anyhow::Error),
    Skipped(&'static str),
}

/// Runs the checks; an error if one failed.
pub fn run_command(options: &Options) -> Result<()> {
    if options.list {
        CHECKS.iter().for_each(|c| println!("{}", c.name));
        return Ok(());
    }
    if options.ci {
        setup::run_command(&setup::Options { check: false, tests: true })?;
    }
    let wanted = |c: &&Check| options.only.as_ref().is_none_or(|text| c.name.contains(text.as_str()));
    if CHECKS.iter().filter(wanted).any(|check| check.image) {
        // Much of it is one processor's work. Whoever needs the image waits for it, and hears of a failure.
        std::thread::spawn(|| image::build(false));
    }
    let mut results = Vec::new();
    for check in CHECKS.iter().filter(wanted) {
        eprintln!("\n=== {}", check.name);
        let start = Instant::now();
        let outcome = match missing(check.needs) {
            Some(why) if options.ci => Outcome::Failed(anyhow::anyhow!("{why}")),
            Some(why) => Outcome::Skipped(why),
            None => (check.run)().map_or_else(Outcome::Failed, |()| Outcome::Passed),
        };
        results.push((check.name, outcome, start.elapsed()));
    }
    report(&results)
}

fn report(results: &[(&str, Outcome, Duration)]) -> Result<()> {
    let mut counts = [0; 3];
    println!();
    for (name, outcome, time) in results {
        let (at, text) = match outcome {
            Outcome::Passed => (0, "passed".to_string()),
            Outcome::Failed(error) => (1, format!("FAILED: {error:#}")),
            Outcome::Skipped(why) => (2, format!("skipped: {why}")),
        };
        counts[at] += 1;
        println!("{name:<22} {:>5} s  {text}", time.as_secs());
    }
    let [passed, failed, skipped] = counts;
    println!("\n{passed} passed, {failed} failed, {skipped} skipped");
    if failed > 0 {
        bail!("{failed} of the checks failed");
    }
    Ok(())
}

fn missing(needs: Needs) -> Option<&'static str> {
    match needs {
        Needs::Qemu if process::find("qemu-system-x86_64").is_none() => {
            Some("there is no qemu-system-x86_64: cargo xtask setup")
        }
        Needs::Valgrind if process::find("valgrind").is_none() => {
            Some("there is no valgrind: cargo xtask setup --tests")
        }
        Needs::Root if !is_root() => Some("network namespaces need root"),
        _ => None,
    }
}

fn is_root() -> bool {
    process::output(Command::new("id").arg("-u")).is_ok_and(|id| id.trim() == "0")
}

fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root());
    command
}

fn format() -> Result<()> {
    process::run("format of the workspace", &mut cargo(&["fmt", "--all", "--check"]))?;
    let capsules = [
        "bees-sdk",
        "template",
        "hello",
        "ping",
        "probe",
        "pathfinder",
        "health",
        "multicast",
        "http",
        "benchmark",
        "telemetry",
        "checks",
    ]
    .map(|p| format!("-p{p}"));
    process::run(
        "format of capsules",
        cargo(&["fmt", "--check"]).args(capsules).current_dir(root().join("capsules")),
    )?;
    for alone in ["image/boot", "fuzz"] {
        let mut command = cargo(&["fmt", "--check"]);
        process::run(&format!("format of {alone}"), command.current_dir(root().join(alone)))?;
    }
    Ok(())
}

fn lints() -> Result<()> {
    let arguments = ["clippy", "--quiet", "--all-targets", "--", "-D", "warnings"];
    process::run("lints of the workspace", &mut cargo(&arguments))?;
    process::run("lints of the capsules", cargo(&arguments).current_dir(root().join("capsules")))?;
    // They are only checked, so that they follow the parsers. Nothing is linked: without a path the build would ask
    // for a compiler of C++.
    let fuzz = ["clippy", "--quiet", "--locked", "--", "-D", "warnings"];
    process::run(
        "lints of the fuzz targets",
        cargo(&fuzz)
            .env("CARGO_TARGET_DIR", root().join("target"))
            .env("CUSTOM_LIBFUZZER_PATH", root().join("target/none"))
            .current_dir(root().join("fuzz")),
    )
}

fn capsules_tests() -> Result<()> {
    capsules::build(false, None)?;
    process::run(
        "tests of the capsules",
        cargo(&["test", "--quiet", "--workspace"])
            .env("BEES_CAPSULES", root().join("target/capsules"))
            .current_dir(root().join("capsules")),
    )
}

fn units() -> Result<()> {
    process::run("build of the tests", &mut cargo(&["test", "--quiet", "--no-run"]))?;
    process::run("unit and property tests", &mut cargo(&["test", "--quiet", "--lib", "--bins"]))?;
    process::run("examples in the documentation", &mut cargo(&["test", "--quiet", "--doc"]))?;
    process::run("keys beside openssl", &mut cargo(&["test", "--quiet", "--test", "openssl"]))?;
    process::run("integration tests", &mut integration(&["nodeos", "authagent", "ee", "host"])?)
}

fn simulator() -> Result<()> {
    process::run("simulator", &mut integration(&["sim"])?)
}

/// The tests in the `tests` folders of these packages.
///
/// Packages are never selected with `-p`: cargo would choose the features of their dependencies anew, and build the
/// compiler of WebAssembly once more.
fn integration(packages: &[&str]) -> Result<Command> {
    let mut command = cargo(&["test", "--quiet"]);
    for package in packages {
        for file in std::fs::read_dir(root().join(package).join("tests"))? {
            let path = file?.path();
            if path.extension().is_some_and(|e| e == "rs") {
                command.arg("--test").arg(path.file_stem().unwrap_or_default());
            }
        }
    }
    Ok(command)
}

fn instruction_budget() -> Result<()> {
    process::run("instructions per capsule", &mut cargo(&["test", "--quiet", "--test", "instructions"]))
}

fn image_size() -> Result<()> {
    let image = image::build(false)?;
    let size = std::fs::metadata(&image.node)?.len();
    if size > MAX_IMAGE {
        bail!("the image has {size} bytes, {MAX_IMAGE} are allowed");
    }
    println!("image: {size} bytes of at most {MAX_IMAGE}");
    Ok(())
}

fn hosted_labs() -> Result<()> {
    lab_tests("hosted_")
}

fn namespace_links() -> Result<()> {
    let arguments = ["test", "--quiet", "--test", "veth", "--", "--ignored"];
    process::run("links over network namespaces", &mut cargo(&arguments))
}

fn qemu_labs() -> Result<()> {
    lab_tests("qemu_")
}

fn boots() -> Result<()> {
    boot::run_all()
}

/// What takes longer than the test command may.
pub fn soak() -> Result<()> {
    image::build(false)?;
    capsules::build(false, None)?;
    let arguments = ["test", "--", "--include-ignored", "--test-threads=1"];
    process::run("the tests that take long", &mut cargo(&arguments))?;
    let mut capsules = cargo(&["test", "--workspace", "--", "--include-ignored"]);
    process::run("those of the capsules", capsules.current_dir(root().join("capsules")))
}

/// Labs need the image, the capsules and the hosted node. Each kind's tests are named by their first
/// word; they run one after the other, since each uses the whole machine.
fn lab_tests(kind: &str) -> Result<()> {
    image::build(false)?;
    capsules::build(false, None)?;
    // With the tests of all packages come their programs.
    process::run("hosted node and client", &mut cargo(&["test", "--quiet", "--no-run"]))?;
    let mut tests = integration(&["client"])?;
    process::run(&format!("tests {kind}*"), tests.args(["--", "--test-threads=1", kind]))
}
