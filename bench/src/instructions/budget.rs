//! What is allowed: `bench/instructions.toml`. A relay that costs more fails the test; one that costs
//! less should have its new cost entered, so that it does not creep up again.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::Cost;
use super::relays::Kind;

/// How much more than allowed still passes: layout and libraries differ a little from build to build.
pub const TOLERANCE: f64 = 0.03;
/// The same with another compiler than the one that the budget was made with.
pub const OTHER_COMPILER: f64 = 0.15;

/// The file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// The compiler that the figures are of.
    pub compiler: String,
    /// Payload size in bytes.
    pub payload: usize,
    /// Instructions per capsule.
    pub relays: BTreeMap<Kind, u64>,
}

const HEADING: &str = "\
# Instructions that a capsule may cost from received frame to frame to be sent, on links in memory, as
# callgrind counts them in the tests' build (with overflow checks; a release has fewer). `cargo test -p bench`
# fails when a relay costs over 3 % more. If that is intended: cargo run -p bench -- instructions --update
";

impl Budget {
    /// Where it is.
    pub fn file() -> PathBuf {
        PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/instructions.toml"))
    }

    /// Reads it.
    pub fn read() -> Result<Self> {
        let file = Self::file();
        let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        toml::from_str(&text).with_context(|| file.display().to_string())
    }

    /// A budget that allows just this.
    pub fn of(costs: &[Cost], payload: usize) -> Self {
        let relays = costs.iter().map(|cost| (cost.relay, cost.total.round() as u64)).collect();
        Self { compiler: compiler().into(), payload, relays }
    }

    /// Writes it.
    pub fn write(&self) -> Result<()> {
        Ok(std::fs::write(Self::file(), format!("{HEADING}{}", toml::to_string(self)?))?)
    }

    /// What is over budget, a line for each relay.
    pub fn judge(&self, costs: &[Cost], compiler: &str) -> Result<(), String> {
        let tolerance = if compiler == self.compiler { TOLERANCE } else { OTHER_COMPILER };
        let verdict = |cost: &Cost| {
            let (kind, total) = (cost.relay, cost.total);
            let Some(&allowed) = self.relays.get(&kind) else {
                return Some(format!("{kind}: has no budget"));
            };
            let over = total / allowed as f64 - 1.0;
            (over > tolerance).then(|| {
                format!(
                    "{kind}: {total:.0} instructions per capsule, {allowed} are allowed (+{:.1} %)",
                    100.0 * over
                )
            })
        };
        let lines: Vec<String> = costs.iter().filter_map(verdict).collect();
        if lines.is_empty() {
            return Ok(());
        }
        let advice = "If that is intended: cargo run -p bench -- instructions --update";
        Err(format!("{}\n{advice}", lines.join("\n")))
    }
}

/// The compiler that this program was made with.
pub fn compiler() -> &'static str {
    env!("BENCH_COMPILER")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(total: f64) -> Vec<Cost> {
        vec![Cost { relay: Kind::Bees, total, by_crate: Vec::new(), by_function: Vec::new() }]
    }

    #[test]
    fn more_than_three_percent_over_fails() {
        let budget = Budget { compiler: "rustc 1".into(), ..Budget::of(&cost(1000.0), 64) };
        assert!(budget.judge(&cost(900.0), "rustc 1").is_ok());
        assert!(budget.judge(&cost(1029.0), "rustc 1").is_ok());
        let why = budget.judge(&cost(1031.0), "rustc 1").unwrap_err();
        assert!(why.contains("1031") && why.contains("1000") && why.contains("--update"), "{why}");
        assert!(budget.judge(&cost(1031.0), "rustc 2").is_ok());
        assert!(budget.judge(&cost(1200.0), "rustc 2").is_err());
        let other = vec![Cost { relay: Kind::Native, ..cost(1.0).remove(0) }];
        assert!(budget.judge(&other, "rustc 1").is_err());
    }

    #[test]
    fn the_file_can_be_read() {
        let budget = Budget::read().unwrap();
        assert!(Kind::ALL.iter().all(|kind| budget.relays.contains_key(kind)));
    }
}
