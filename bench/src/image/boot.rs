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
    /// Firmware, loader and kernel: from reset to the node's first instruction.
    pub until_node: f64,
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
        until_node: middle(|s| s.until_node),
        node: middle(|s| s.node),
        total: middle(|s| s.total),
    };
    eprintln!("boot: {:.0} ms", stages.total);
    Ok(stages)
}

fn boot(image: &Image, configuration: &str) -> Result<Stages> {
    let mut machine = Machine::start(image, configuration, MEMORY, &[MAC])?;
    let (total, line) = machine.wait_for("] ready", PATIENCE)?;
    let (node, until_node) = parse(&line).with_context(|| format!("not understood: {line}"))?;
    let total = total.as_secs_f64() * 1e3;
    Ok(Stages { qemu: total - until_node - node, until_node, node, total })
}

/// Reads `[ seconds] ready, N ms after reset`: milliseconds since the node's start, and from reset to it.
fn parse(line: &str) -> Option<(f64, f64)> {
    let (seconds, text) = line.trim_start().strip_prefix('[')?.split_once(']')?;
    let after = text.trim().strip_prefix("ready, ")?.split_whitespace().next()?;
    Some((seconds.trim().parse::<f64>().ok()? * 1e3, after.parse().ok()?))
}

/// The stages as text.
pub fn table(stages: &Stages) -> Table {
    let mut table = Table::new(&[("stage", Align::Left), ("ms", Align::Right)]);
    let rows = [
        ("QEMU, until the machine is on", stages.qemu),
        ("firmware, loader, kernel", stages.until_node),
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
    fn the_ready_line_is_read() {
        assert_eq!(parse("[    0.031500] ready, 120 ms after reset"), Some((31.5, 120.0)));
        assert_eq!(parse("[    0.031500] node a on hermit"), None);
        assert_eq!(parse("ready"), None);
    }
}
