//! What is measured on whole labs: memory, and how a flow's code comes to each hop. The labs are the
//! demonstration of `bees lab demo` with `emulab/line3.toml`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use serde_json::Value;

use super::machine::Scratch;
use super::{Options, project};
use crate::relay::rows::node_configuration;
use crate::table::{Align, Table, bytes, median};

/// A machine with less than this (MiB) is not tried.
const LEAST: u32 = 16;
/// The demonstration's own memory (MiB): known to suffice.
const ENOUGH: u32 = 64;
/// How exactly the smallest memory is searched for, in MiB.
const STEP: u32 = 2;

/// The programs, and where their files are.
#[derive(Debug)]
pub struct Tools {
    bees: PathBuf,
    node: PathBuf,
    image: PathBuf,
}

impl Tools {
    /// The programs beside this one, unless the options name others.
    pub fn find(options: &Options) -> Result<Self> {
        let here = std::env::current_exe()?;
        let beside = |name: &str| here.with_file_name(name);
        let program = |given: &Option<PathBuf>, name: &str| {
            let file = given.clone().unwrap_or_else(|| beside(name));
            let hint = || format!("{}: `cargo build --release -p client -p host` makes it", file.display());
            std::fs::canonicalize(&file).with_context(hint)
        };
        let image = options.image.clone().unwrap_or_else(|| project().join("target/image"));
        Ok(Self { bees: program(&options.bees, "bees")?, node: program(&options.node, "bees-node")?, image })
    }

    /// Plays the demonstration; returns what `bees -j lab demo` prints.
    fn demo(&self, place: &str, memory: Option<u32>, in_folder: &Path) -> Result<Value> {
        let mut command = Command::new(&self.bees);
        command.args(["-j", "lab", "demo"]).arg(project().join("emulab/line3.toml"));
        command.args(["--on", place]).arg("--image").arg(&self.image).arg("--program").arg(&self.node);
        if place == "qemu" {
            command.args(["--accel", "tcg"]);
        }
        if let Some(memory) = memory {
            command.arg("--memory").arg(format!("{memory}M"));
        }
        let output = command.current_dir(in_folder).stdin(Stdio::null()).output();
        let output = output.with_context(|| self.bees.display().to_string())?;
        if !output.status.success() {
            bail!("bees lab demo: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(serde_json::from_slice(&output.stdout)?)
    }
}

/// Memory of a node.
#[derive(Debug, Clone, Serialize)]
pub struct Memory {
    /// What an idle node keeps as a Linux process (resident set), in bytes: the median.
    pub hosted: u64,
    /// The smallest machine in which the demonstration runs, in MiB.
    pub machine: u32,
}

/// Measures memory.
pub fn memory(tools: &Tools, runs: usize) -> Result<Memory> {
    let idle = (0..runs.max(1)).map(|_| idle(tools)).collect::<Result<Vec<_>>>()?;
    let hosted = median(idle.into_iter().map(|bytes| bytes as f64).collect()) as u64;
    let folder = Scratch::new("memory")?;
    std::fs::create_dir_all(folder.file("run"))?;
    let works = |memory| {
        let result = tools.demo("qemu", Some(memory), &folder.file("run"));
        eprintln!("demonstration in {memory} MiB: {}", if result.is_ok() { "runs" } else { "does not run" });
        result
    };
    works(ENOUGH)?;
    let (mut good, mut bad) = (ENOUGH, LEAST);
    while good - bad > STEP {
        let middle = (good + bad) / 2 / STEP * STEP;
        if works(middle).is_ok() { good = middle } else { bad = middle }
    }
    Ok(Memory { hosted, machine: good })
}

/// The resident set of a fresh node with one link.
fn idle(tools: &Tools) -> Result<u64> {
    let folder = Scratch::new("idle")?;
    let (config, own, other) = (folder.file("node.toml"), folder.file("n"), folder.file("w"));
    let text = node_configuration("idle", &[("link", nodeos::link::Mac([2, 0, 0, 0, 1, 1]))], &[]);
    std::fs::write(&config, text)?;
    let mut child = Command::new(&tools.node)
        .arg("--config")
        .arg(&config)
        .arg("--link")
        .arg(format!("unix:{},{}", own.display(), other.display()))
        .stdout(Stdio::null())
        .spawn()?;
    std::thread::sleep(Duration::from_millis(500));
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id()));
    // It has nothing to save.
    child.kill()?;
    child.wait()?;
    let status = status?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("the node ended")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib * 1024)
}

/// The figures as text.
pub fn memory_table(memory: &Memory) -> Table {
    let mut table = Table::new(&[("node", Align::Left), ("memory", Align::Right)]);
    table.row(["idle, as a Linux process (resident)".into(), bytes(memory.hosted)]);
    table.row(["smallest machine that runs the demonstration".into(), format!("{} MiB", memory.machine)]);
    table
}

/// How the code of the demonstration's first protocol came to the nodes of a line.
#[derive(Debug, Clone, Serialize)]
pub struct Hops {
    /// `qemu` or `hosted`.
    pub place: &'static str,
    /// A node in the line.
    pub node: String,
    /// Bytes of tuple and parts that were downloaded.
    pub bytes: u64,
    /// Median milliseconds by stage.
    pub stages: Vec<(&'static str, f64)>,
}

const STAGES: [(&str, &str); 6] = [
    ("translate", "translate_us"),
    ("tuple", "tuple_us"),
    ("judge", "judge_us"),
    ("download", "download_us"),
    ("compile", "compile_us"),
    ("start", "start_us"),
];

/// Plays the demonstration several times and asks each node what the flow's arrival took.
pub fn download(tools: &Tools, runs: usize) -> Result<Vec<Hops>> {
    let mut hops = Vec::new();
    for place in ["hosted", "qemu"] {
        let folder = Scratch::new("download")?;
        let reports = (0..runs.max(1)).map(|_| tools.demo(place, None, &folder.file("")));
        let reports = reports.collect::<Result<Vec<_>>>()?;
        let first =
            reports.first().and_then(|r| r["flows"].as_object()).context("the report has no flows")?;
        for node in first.keys() {
            let arrivals: Vec<&Value> = reports.iter().filter_map(|r| arrival(&r["flows"][node])).collect();
            ensure!(arrivals.len() == reports.len(), "{node} did not have the flow every time");
            let middle = |key: &str| median(arrivals.iter().filter_map(|a| a[key].as_f64()).collect()) / 1e3;
            let bytes = arrivals[0]["bytes"].as_u64().unwrap_or(0);
            let stages = STAGES.iter().map(|(name, key)| (*name, middle(key))).collect();
            hops.push(Hops { place, node: node.clone(), bytes, stages });
        }
    }
    Ok(hops)
}

/// What a node says of the arrival of `hello`.
fn arrival(flows: &Value) -> Option<&Value> {
    flows.as_array()?.iter().find(|flow| flow["name"] == "hello").map(|flow| &flow["arrival"])
}

/// The hops as text.
pub fn download_table(hops: &[Hops]) -> Table {
    let mut columns = vec![("place", Align::Left), ("node", Align::Left), ("bytes", Align::Right)];
    columns.extend(STAGES.map(|(name, _)| (name, Align::Right)));
    columns.push(("ms in all", Align::Right));
    let mut table = Table::new(&columns);
    for hop in hops {
        let mut cells = vec![hop.place.to_string(), hop.node.clone(), hop.bytes.to_string()];
        cells.extend(hop.stages.iter().map(|(_, ms)| format!("{ms:.1}")));
        cells.push(format!("{:.1}", hop.stages.iter().map(|(_, ms)| ms).sum::<f64>()));
        table.row(cells);
    }
    table
}
