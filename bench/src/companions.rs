//! `bench companions`: what a call from one protocol of a flow to another costs, beside a call within the module and
//! a call of the node. A program asks the flow to call so often within one event; rows take turns, and the difference
//! of two events of different length leaves out what an event costs.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde::Serialize;
use wire::tuple::{Companion, Coupling, Provider, Tuple};

pub use crate::accounting::Options;
use crate::accounting::in_node;
use crate::flow::RelayFlow;
use crate::instructions::{available, callgrind};
use crate::local::{Local, Options as NodeOptions};
use crate::table::{Align, Table, median};

/// Calls as a packet asks: what, and how often.
const CALLER: &str = r#"(module
  (import "bees" "session_reply" (func $session_reply (param i32 i32 i32) (result i32)))
  (import "bees" "cap_lookup" (func $cap_lookup (param i32 i32) (result i32)))
  (import "bees" "clock_mono" (func $clock_mono (result i64)))
  (import "bees" "companion_call" (func $companion_call (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1 1)
  (global (export "bees_abi") i32 (i32.const 1))
  (global (export "bees_inbox") i32 (i32.const 0))
  (data (i32.const 128) "companion/callee")
  (func $same (param $n i32) (result i32) (local.get $n))
  (func (export "on_session") (param $c i32) (param $s i32) (param $what i32) (param $len i32)
    (local $i i32) (local $n i32) (local $letter i32) (local $callee i32) (local $bytes i32)
    (if (i32.ne (local.get $what) (i32.const 1)) (then (return)))
    (local.set $letter (i32.load8_u (i32.const 0)))
    (local.set $bytes (i32.shl (i32.load8_u (i32.const 1)) (i32.const 6)))
    (local.set $n (i32.load (i32.const 4)))
    (local.set $callee (call $cap_lookup (i32.const 128) (i32.const 16)))
    (loop $more
      (if (i32.eq (local.get $letter) (i32.const 103))
        (then (drop (call $same (local.get $i)))))
      (if (i32.eq (local.get $letter) (i32.const 104))
        (then (drop (call $clock_mono))))
      (if (i32.eq (local.get $letter) (i32.const 99))
        (then (if (i32.ne (local.get $bytes) (call $companion_call (local.get $callee) (i32.const 1)
            (i32.const 1024) (local.get $bytes))) (then unreachable))))
      (br_if $more (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (local.get $n))))
    (i32.store (i32.const 512) (local.get $i))
    (drop (call $session_reply (local.get $s) (i32.const 512) (i32.const 4)))))"#;

/// Reads the message and gives its length.
const CALLEE: &str = r#"(module
  (import "bees" "companion_read" (func $companion_read (param i32 i32 i32) (result i32)))
  (memory (export "memory") 1 1)
  (global (export "bees_abi") i32 (i32.const 1))
  (global (export "bees_inbox") i32 (i32.const 0))
  (func (export "on_companion") (param $c i32) (param $from i32) (param $op i32) (param $len i32) (result i32)
    (if (result i32) (local.get $len)
      (then (call $companion_read (i32.const 0) (i32.const 1024) (local.get $len)))
      (else (i32.const 0)))))"#;

/// What is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Callee {
    /// Another function of the module.
    Guest,
    /// The node: its clock.
    Host,
    /// A companion, without a message.
    Companion,
    /// A companion, which reads a message of 64 bytes.
    Companion64,
    /// A companion, which reads a message of 1024 bytes.
    Companion1024,
}

/// One row.
#[derive(Debug, Clone, Serialize)]
pub struct Cost {
    /// What is called.
    pub callee: Callee,
    /// Nanoseconds of a call, the median.
    pub nanos: f64,
    /// Instructions of a call.
    pub instructions: Option<f64>,
}

/// Calls in the short event and in the long one.
const CALLS: [i32; 2] = [1_000, 11_000];
/// The same where they are counted.
const COUNTED: [i32; 2] = [200, 1_200];

impl Callee {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Guest, Self::Host, Self::Companion, Self::Companion64, Self::Companion1024];

    /// The packet's letter, and the message's length in pieces of 64 bytes.
    fn asks(self) -> [u8; 2] {
        match self {
            Self::Guest => [b'g', 0],
            Self::Host => [b'h', 0],
            Self::Companion => [b'c', 0],
            Self::Companion64 => [b'c', 1],
            Self::Companion1024 => [b'c', 16],
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Guest => "guest",
            Self::Host => "host",
            Self::Companion => "companion",
            Self::Companion64 => "companion64",
            Self::Companion1024 => "companion1024",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Guest => "a function of the module",
            Self::Host => "the node (clock_mono)",
            Self::Companion => "a companion",
            Self::Companion64 => "a companion, 64 bytes",
            Self::Companion1024 => "a companion, 1024 bytes",
        }
    }
}

/// Measures everything.
pub fn run(options: &Options) -> Result<Vec<Cost>> {
    let count = !options.no_instructions;
    ensure!(!count || available(), "valgrind is not installed: --no-instructions leaves out what needs it");
    let (mut local, flow) = node()?;
    let mut times = vec![Vec::new(); Callee::ALL.len()];
    for _ in 0..options.runs {
        for (callee, times) in Callee::ALL.into_iter().zip(&mut times) {
            let [short, long] = CALLS.map(|calls| time(&mut local, &flow, callee, calls));
            let took = long?.saturating_sub(short?);
            times.push(took.as_secs_f64() * 1e9 / f64::from(CALLS[1] - CALLS[0]));
        }
    }
    let costs = Callee::ALL.into_iter().zip(times).map(|(callee, times)| {
        let instructions = if count { Some(instructions(callee)?) } else { None };
        Ok(Cost { callee, nanos: median(times), instructions })
    });
    costs.collect()
}

/// A node whose flow calls.
fn node() -> Result<(Local, RelayFlow)> {
    let team = "memory = \"1M\"\nevent = \"10s\"";
    let mut local = Local::new(NodeOptions { flows: 2, team, out: "" })?;
    let callee = RelayFlow::of("callee", CALLEE, |_| ())?;
    let companion = Tuple::decode(&callee.tuple)?.body.protocols.swap_remove(0);
    let flow = RelayFlow::of("caller", CALLER, |body| {
        let (interface, provider) = ("callee".into(), Provider::Tuple(1));
        body.protocols[0].session = true;
        body.protocols[0].companions.push(Companion { interface, coupling: Coupling::Tuple, provider });
        body.protocols.push(companion);
    })?;
    local.put(&callee)?;
    local.start(&flow)?;
    Ok((local, flow))
}

fn time(local: &mut Local, flow: &RelayFlow, callee: Callee, calls: i32) -> Result<Duration> {
    let (took, done) = in_node(local, flow, callee.asks(), calls)?;
    ensure!(done == calls, "{done} calls instead of {calls}");
    Ok(took)
}

fn instructions(callee: Callee) -> Result<f64> {
    eprintln!("counting: {}", callee.text());
    let path = std::env::current_exe()?;
    let [short, long] =
        COUNTED.map(|calls| callgrind(&path, &["count-calls", callee.name(), &calls.to_string()]));
    Ok(long?.less(&short?).total() as f64 / f64::from(COUNTED[1] - COUNTED[0]))
}

/// What is counted: so many calls.
pub fn calls(callee: Callee, calls: i32) -> Result<()> {
    let (mut local, flow) = node()?;
    time(&mut local, &flow, callee, calls).map(drop)
}

/// The figures as text.
pub fn report(costs: &[Cost]) -> String {
    let mut table =
        Table::new(&[("a call of", Align::Left), ("ns", Align::Right), ("instructions", Align::Right)]);
    for cost in costs {
        let counted = cost.instructions.map_or("-".into(), |n| format!("{n:.0}"));
        table.row([cost.callee.text().to_string(), format!("{:.0}", cost.nanos), counted]);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_called() {
        let costs = run(&Options { runs: 1, no_instructions: true }).unwrap();
        assert_eq!(costs.len(), Callee::ALL.len());
        calls(Callee::Companion1024, 10).unwrap();
    }
}
