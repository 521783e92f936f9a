//! From QEMU's start to a node that is ready.

use std::time::Duration;

use anyhow::{Context, Result};
use nodeos::link::Mac;
use serde::Serialize;

use super::Image;
use super::machine::Machine;
use crate::relay::rows::node_configuration;
use crate::table::{Align, Table, median};

const MAC: Mac = Mac([2, 0, 0, 0, 1, 1]);
/// MiB of the machine.
const MEMORY: u32 = 64;
const PATIENCE: Duration = Duration::from_secs(60);

/// Median times, in milliseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Stages {
    /// QEMU until its machine is switched on.
    pub qemu: f64,
    /// Firmware: from reset to the loader's first instruction.
    pub firmware: f64,
    /// The loader.
    pub loader: f64,
    /// The kernel, to the node's first instruction.
    pub kernel: f64,
    /// The node: its configuration, devices, entropy, engine.
    pub node: f64,
    /// All of it: from the start of the process to "ready" on the console.
    pub total: f64,
}

/// Boots several times.
pub fn run(image: &Image, runs: usize) -> Result<Stages> {
    let configuration = node_configuration("boot", &[("link", MAC)], &[]);
    let boots = (0..runs.max(1)).map(|_| boot(image, &configuration)).collect::<Result<Vec<_>>>()?;
    let middle = |stage: fn(&Stages) -> f64| median(boots.iter().map(stage).collect());
    let stages = Stages {
        qemu: middle(|s| s.qemu),
        firmware: middle(|s| s.firmware),
        loader: middle(|s| s.loader),
        kernel: middle(|s| s.kernel),
        node: middle(|s| s.node),
        total: middle(|s| s.total),
    };
    eprintln!("boot: {:.0} ms", stages.total);
    Ok(stages)
}

fn boot(image: &Image, configuration: &str) -> Result<Stages> {
    let mut machine = Machine::start(image, configuration, MEMORY, &[MAC])?;
    let (_, loaded) = machine.wait_for("] loader ", PATIENCE)?;
    let (total, ready) = machine.wait_for("] ready", PATIENCE)?;
    let [loader, kernel, node] =
        parse_loaded(&loaded).with_context(|| format!("not understood: {loaded}"))?;
    let since_node = parse_time(&ready).with_context(|| format!("not understood: {ready}"))?;
    let total = total.as_secs_f64() * 1e3;
    Ok(Stages {
        qemu: total - node - since_node,
        firmware: loader,
        loader: kernel - loader,
        kernel: node - kernel,
        node: since_node,
        total,
    })
}

/// Reads `[ seconds] ...`: milliseconds since the node's start.
fn parse_time(line: &str) -> Option<f64> {
    let (seconds, _) = line.trim_start().strip_prefix('[')?.split_once(']')?;
    Some(seconds.trim().parse::<f64>().ok()? * 1e3)
}

/// Reads `[...] loader A us, kernel B us, node C us after reset`: when each began, in milliseconds.
fn parse_loaded(line: &str) -> Option<[f64; 3]> {
    let (_, text) = line.split_once(']')?;
    let mut begins = text.trim().split(", ").zip(["loader ", "kernel ", "node "]).map(|(part, name)| {
        let number = part.strip_prefix(name)?.split(' ').next()?;
        Some(number.parse::<f64>().ok()? / 1e3)
    });
    Some([begins.next()??, begins.next()??, begins.next()??])
}

/// The stages as text.
pub fn table(stages: &Stages) -> Table {
    let mut table = Table::new(&[("stage", Align::Left), ("ms", Align::Right)]);
    let rows = [
        ("QEMU, until the machine is on", stages.qemu),
        ("firmware", stages.firmware),
        ("loader", stages.loader),
        ("kernel", stages.kernel),
        ("node, until it is ready", stages.node),
        ("all", stages.total),
    ];
    for (stage, ms) in rows {
        table.row([stage.into(), format!("{ms:.0}")]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_consoles_lines_are_read() {
        let line = "[    0.031500] loader 92000 us, kernel 101500 us, node 140000 us after reset";
        assert_eq!(parse_loaded(line), Some([92.0, 101.5, 140.0]));
        assert_eq!(parse_time(line), Some(31.5));
        assert_eq!(parse_loaded("[    0.031500] node a on hermit"), None);
        assert_eq!(parse_time("ready"), None);
    }
}
