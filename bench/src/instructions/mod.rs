//! `bench instructions`: how many instructions a capsule costs on its way from a received frame to a frame
//! to be sent, and where they go.
//!
//! The links are in memory, so that nothing but the node is counted. valgrind's callgrind counts; the same
//! program gives the same count again and again but for a few instructions. What happens once (start,
//! compilation) is taken out by counting two runs of different length and dividing the difference.

pub mod budget;
mod callgrind;
mod ends;
pub mod relays;

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::table::{Align, Table};
pub(crate) use callgrind::Profile;
use relays::Kind;

/// Capsules of the short run and of the long one.
const RUNS: [u64; 2] = [2_000, 10_000];
/// Functions that are listed.
const LISTED: usize = 30;

/// What to do.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Payload size in bytes
    #[arg(long, default_value_t = 64)]
    pub payload: usize,
    /// Only these relays
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Kind::ALL)]
    pub rows: Vec<Kind>,
    /// Write the totals to bench/instructions.toml: what is allowed from now on
    #[arg(long)]
    pub update: bool,
}

/// The cost of one capsule.
#[derive(Debug, Clone, Serialize)]
pub struct Cost {
    /// The relay.
    pub relay: Kind,
    /// Instructions per capsule.
    pub total: f64,
    /// By crate or library, most first.
    pub by_crate: Vec<(String, f64)>,
    /// By function, most first.
    pub by_function: Vec<(String, f64)>,
}

/// Whether valgrind is there.
pub fn available() -> bool {
    let probe =
        Command::new("valgrind").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    probe.is_ok_and(|status| status.success())
}

/// Counts with this very program. The budget is of the tests' build, so that only that may update it.
pub fn run(options: &Options) -> Result<Vec<Cost>> {
    if options.update && cfg!(not(debug_assertions)) {
        bail!("the budget is of the tests' build: cargo run -p bench -- instructions --update");
    }
    let program = std::env::current_exe()?;
    options.rows.iter().map(|&kind| count(&program, kind, options.payload)).collect()
}

/// Counts the instructions of `program`'s relay of this kind.
pub fn count(program: &Path, kind: Kind, payload: usize) -> Result<Cost> {
    let counted = |kind| {
        let [short, long] = RUNS.map(|capsules| profile(program, kind, capsules, payload));
        anyhow::Ok(long?.less(&short?))
    };
    let mut difference = counted(kind)?;
    if let Some(aside) = kind.aside() {
        difference = difference.less(&counted(aside)?);
    }
    let per_capsule = |instructions: i64| instructions as f64 / (RUNS[1] - RUNS[0]) as f64;
    let list = |costs: Vec<(String, i64)>, most: usize| {
        let costs = costs.into_iter().map(|(name, cost)| (name, per_capsule(cost)));
        costs.filter(|(_, cost)| *cost >= 0.5).take(most).collect()
    };
    Ok(Cost {
        relay: kind,
        total: per_capsule(difference.total()),
        by_crate: list(difference.by_crate(), usize::MAX),
        by_function: list(difference.by_function(), LISTED),
    })
}

fn profile(program: &Path, kind: Kind, capsules: u64, payload: usize) -> Result<Profile> {
    eprintln!("counting: {kind}, {capsules} capsules of {payload} bytes");
    callgrind(program, &["count", &kind.to_string(), &capsules.to_string(), &payload.to_string()])
}

/// What callgrind counts in `program` with these arguments.
pub(crate) fn callgrind(program: &Path, arguments: &[&str]) -> Result<Profile> {
    let file =
        std::env::temp_dir().join(format!("bees-bench-{}-{}", std::process::id(), arguments.join("-")));
    let output = Command::new("valgrind")
        // Compiled guest code is written into memory before it runs.
        .args(["--tool=callgrind", "--smc-check=all-non-file"])
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(program)
        .args(arguments)
        .output()
        .context("cannot run valgrind")?;
    if !output.status.success() {
        bail!("valgrind: {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string());
    std::fs::remove_file(&file)?;
    Profile::parse(&text?)
}

/// The costs as text: totals, crates, functions.
pub fn report(costs: &[Cost]) -> String {
    let mut totals = Table::new(&[("relay", Align::Left), ("instructions per capsule", Align::Right)]);
    for cost in costs {
        totals.row([cost.relay.to_string(), format!("{:.0}", cost.total)]);
    }
    let mut text = totals.to_string();
    for cost in costs {
        for (what, list) in [("crate", &cost.by_crate), ("function", &cost.by_function)] {
            let mut table =
                Table::new(&[("instructions", Align::Right), ("share", Align::Right), (what, Align::Left)]);
            for (name, instructions) in list {
                let share = 100.0 * instructions / cost.total;
                table.row([format!("{instructions:.0}"), format!("{share:.1} %"), name.clone()]);
            }
            text += &format!("\n{} by {what}\n{table}", cost.relay);
        }
    }
    text
}
