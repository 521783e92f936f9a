//! `bench fairness`: teams that compete get processor time and bandwidth by their shares.
//!
//! Each team starts the next one below itself and gives it three parts of four of what it has, so that a pair is
//! 1 to 3, and a chain of four 1/4, 3/16, 9/64 and 27/64. All are kept busy by more capsules than they can handle.
//! Processor time is what the node's own meter says (cycles, on a hosted node's machine); bandwidth is what
//! arrives at the neighbor, told apart by the capsules' identifiers.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ee::abi::Resource;
use nodeos::platform::Now;
use serde::Serialize;
use wire::capsule::Capsule;
use wire::limits::{Limits, Operation};
use wire::tuple::{Body, Privilege};

use crate::flow::RelayFlow;
use crate::local::{IN, Local, OUT, Options as NodeOptions, frame};
use crate::table::{Align, Table};

/// Shares that each team gives to the next, of 1000.
const GIVEN: u64 = 750;
/// How far from its due a team may be.
pub const TOLERANCE: f64 = 0.02;
/// Bytes per second that the first team of a chain may send, or that the link carries.
const RATE: u64 = 1_000_000;
const RATE_TEXT: &str = "8mbit";
/// Payload of a capsule in the rows about bandwidth.
const PAYLOAD: usize = 400;
/// Bytes in front of a payload that count against a rate: Ethernet, ANEP, identifier.
const ETHERNET: usize = 14;
/// Capsules that wait for each team: more than are handled between two looks at the node.
const WAITING: u32 = 160;

/// What to do.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Seconds for each row about processor time
    #[arg(long, default_value_t = 3.0)]
    pub seconds: f64,
    /// Only these rows
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Row::JUDGED)]
    pub rows: Vec<Row>,
}

/// What is divided, and among whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Row {
    /// Two teams; the first one's events are a hundred times as long.
    Pair,
    /// The same, the second one's are.
    PairLong,
    /// Two teams with short and long events.
    PairMixed,
    /// Four teams, each below the one before.
    Depth4,
    /// Two teams in the background.
    Background,
    /// Four teams, of which every other one works in the background.
    Depth4Background,
    /// Bandwidth of two teams by token buckets.
    Bandwidth,
    /// Bandwidth of four.
    BandwidthDepth4,
    /// Two teams without bounds of their own on a link that carries less than they send. Where the link sends
    /// in the order of arrival it is not divided by shares.
    LinkByWeight,
}

impl Row {
    /// The rows of which each team must have its due.
    pub const JUDGED: [Self; 8] = [
        Self::Pair,
        Self::PairLong,
        Self::PairMixed,
        Self::Depth4,
        Self::Background,
        Self::Depth4Background,
        Self::Bandwidth,
        Self::BandwidthDepth4,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Pair => "processor 1:3, long beside short",
            Self::PairLong => "processor 1:3, short beside long",
            Self::PairMixed => "processor 1:3, both mixed",
            Self::Depth4 => "processor, depth 4, mixed",
            Self::Background => "processor 1:3, background",
            Self::Depth4Background => "processor, depth 4, every other in the background",
            Self::Bandwidth => "bandwidth 1:3",
            Self::BandwidthDepth4 => "bandwidth, depth 4",
            Self::LinkByWeight => "link 1:3",
        }
    }

    fn depth(self) -> usize {
        if matches!(self, Self::Depth4 | Self::Depth4Background | Self::BandwidthDepth4) { 4 } else { 2 }
    }

    fn is_in_background(self, team: usize) -> bool {
        self == Self::Background || self == Self::Depth4Background && team % 2 == 1
    }

    /// How often a team's guest goes round for its `number`th capsule.
    fn rounds(self, team: usize, number: usize) -> u64 {
        const SHORT: u64 = 3_000;
        const LONG: u64 = 300_000;
        match self {
            _ if self.is_in_background(team) => 40 * LONG,
            Self::Pair => [LONG, SHORT][team],
            Self::PairLong => [SHORT, LONG][team],
            _ if number % 8 == team => LONG,
            _ => SHORT * (1 + number as u64 % 3),
        }
    }

    fn divides(self) -> Resource {
        match self {
            Self::Bandwidth | Self::BandwidthDepth4 => Resource::Bandwidth,
            _ => Resource::Processor,
        }
    }
}

/// What one team got.
#[derive(Debug, Clone, Serialize)]
pub struct Part {
    /// The row.
    pub row: Row,
    /// The team's depth, from 0.
    pub team: usize,
    /// Microseconds of the processor, or bytes.
    pub got: u64,
    /// Its part of what all got.
    pub part: f64,
    /// What it should be.
    pub due: f64,
}

impl Part {
    /// How far it is from its due, as a part of that.
    pub fn error(&self) -> f64 {
        self.part / self.due - 1.0
    }
}

/// Measures the rows.
pub fn run(options: &Options) -> Result<Vec<Part>> {
    let mut parts = Vec::new();
    for &row in &options.rows {
        eprintln!("{}", row.name());
        let got = match row {
            Row::Bandwidth | Row::BandwidthDepth4 | Row::LinkByWeight => bandwidth(row)?,
            _ => processor(row, Duration::from_secs_f64(options.seconds))?,
        };
        let (sum, last) = (got.iter().sum::<u64>(), got.len() - 1);
        let given = GIVEN as f64 / 1000.0;
        parts.extend(got.into_iter().enumerate().map(|(team, got)| {
            let due = given.powi(team as i32) * if team == last { 1.0 } else { 1.0 - given };
            Part { row, team, got, part: got as f64 / sum as f64, due }
        }));
    }
    Ok(parts)
}

/// A guest that goes round as often as its capsule says, or sends it as often as it may; on its start it starts the
/// flow below.
fn guest(below: Option<&RelayFlow>, gives: Resource) -> String {
    let tuple = below.map_or(&[][..], |flow| &flow.tuple);
    let text: String = tuple.iter().map(|byte| format!("\\{byte:02x}")).collect();
    let start = match below {
        None => String::new(),
        Some(_) => format!(
            "(drop (call $flow_start (call $cap_lookup (i32.const 64) (i32.const 5)) (i32.const 1024)
                (i32.const {}) (i32.const {})))",
            tuple.len(),
            1 << gives as u32
        ),
    };
    format!(
        r#"(module
        (import "bees" "cap_lookup" (func $cap_lookup (param i32 i32) (result i32)))
        (import "bees" "flow_start" (func $flow_start (param i32 i32 i32 i32) (result i32)))
        (import "bees" "capsule_send" (func $capsule_send (param i32 i32 i32) (result i32)))
        (memory (export "memory") 1 1)
        (global (export "bees_abi") i32 (i32.const 1))
        (global (export "bees_inbox") i32 (i32.const 0))
        (data (i32.const 64) "flows") (data (i32.const 80) "neighbor/next") (data (i32.const 1024) "{text}")
        (global $next (mut i32) (i32.const 0))
        (func (export "on_flow") (param i32 i32))
        (func (export "on_boot") (param i32)
            (global.set $next (call $cap_lookup (i32.const 80) (i32.const 13)))
            {start})
        (func (export "on_capsule") (param $capsule i32) (param i32 i32 i32)
            (local $rounds i64)
            (local.set $rounds (i64.load (i32.const 0)))
            (if (i64.eqz (local.get $rounds))
                (then
                    (loop $again (br_if $again
                        (i32.eqz (call $capsule_send (local.get $capsule) (global.get $next) (i32.const 1))))))
                (else
                    (loop $round
                        (local.set $rounds (i64.sub (local.get $rounds) (i64.const 1)))
                        (br_if $round (i64.ne (local.get $rounds) (i64.const 0))))))))"#
    )
}

/// The flows, the first one on top.
fn chain(row: Row) -> Result<Vec<RelayFlow>> {
    let depth = row.depth();
    let mut flows: Vec<RelayFlow> = Vec::new();
    for team in (0..depth).rev() {
        let text = guest(flows.last(), row.divides());
        flows.push(RelayFlow::of(&format!("t{team}"), &text, |body| request(row, team, depth, body))?);
    }
    flows.reverse();
    Ok(flows)
}

fn request(row: Row, team: usize, depth: usize, body: &mut Body) {
    // As often as its bandwidth lets it.
    body.protocols[0].capsules[0].limits = Limits::NONE.with(Operation::Sends, u16::MAX);
    let names = [(row.is_in_background(team), "background"), (team + 1 < depth, "flows")];
    let wanted = names.into_iter().filter(|(wanted, _)| *wanted);
    body.request.privileges =
        wanted.map(|(_, name)| Privilege { name: name.into(), optional: false }).collect();
    if row.divides() == Resource::Bandwidth {
        let rate = (0..team).fold(RATE, |rate, _| rate * GIVEN / 1000);
        (body.request.budgets.rate, body.request.budgets.burst) = (Some(rate), Some(3000));
    }
}

/// The node with the flows of a row.
fn start(row: Row, out: &str) -> Result<(Local, Vec<RelayFlow>)> {
    let rate = if row.divides() == Resource::Bandwidth { RATE_TEXT } else { "100gbit" };
    let team = format!(
        "memory = \"16M\"\nevent = \"2ms\"\nbackground = \"10s\"\nqueue = 1024\nshares = {GIVEN}\nrate = \"{rate}\"\n\
         burst = \"32k\""
    );
    let mut local = Local::new(NodeOptions { flows: 8, team: &team, out })?;
    let flows = chain(row)?;
    flows.iter().skip(1).try_for_each(|flow| local.put(flow))?;
    local.start(&flows[0])?;
    flows.iter().try_for_each(|flow| local.runs(flow))?;
    Ok((local, flows))
}

/// Hands in capsules, so that no team is ever without one. What waits below a team waits for it, too, so that
/// more would be refused to those further down.
fn offer(local: &mut Local, now: Now, flows: &[RelayFlow], row: Row, numbers: &mut [usize]) -> Result<()> {
    let teams = local.teams()?;
    for (team, flow) in flows.iter().enumerate() {
        let waiting = teams.iter().find(|t| t.flow == Some(flow.hash)).context("a team is gone")?.events.1;
        for _ in waiting..WAITING {
            let frame = local.pool.copy_of(&frame(&flow.id, 8, row.rounds(team, numbers[team]))?);
            local.node.frame(now, IN, frame.context("no packet buffer is left")?);
            numbers[team] += 1;
        }
    }
    Ok(())
}

/// Microseconds that each team used.
fn used(local: &mut Local, flows: &[RelayFlow]) -> Result<Vec<u64>> {
    let teams = local.teams()?;
    let of = |flow: &RelayFlow| {
        let team = teams.iter().find(|team| team.flow == Some(flow.hash));
        team.map(|team| team.cpu_us).context("a team is gone")
    };
    flows.iter().map(of).collect()
}

fn processor(row: Row, time: Duration) -> Result<Vec<u64>> {
    let (mut local, flows) = start(row, "")?;
    let mut numbers = vec![0; flows.len()];
    let mut run = |local: &mut Local, time: Duration| {
        let start = Instant::now();
        while start.elapsed() < time {
            let now = local.now();
            offer(local, now, &flows, row, &mut numbers)?;
            local.node.poll(now);
        }
        used(local, &flows)
    };
    let before = run(&mut local, time / 10)?;
    let start = Instant::now();
    let after = run(&mut local, time)?;
    let got: Vec<u64> = after.iter().zip(before).map(|(after, before)| after - before).collect();
    let all = start.elapsed().as_micros() as u64;
    let sum = got.iter().sum::<u64>();
    ensure!(sum * 2 > all, "the teams were not busy: {sum} of {all} us");
    Ok(got)
}

/// Bytes of each team that arrived at the neighbor in ten seconds of the node's time.
fn bandwidth(row: Row) -> Result<Vec<u64>> {
    const STEP: u64 = 1000;
    const SECONDS: u64 = 10;
    let limited = row == Row::LinkByWeight;
    let out = if limited { format!("rate = \"{RATE_TEXT}\"\nqueue = 64") } else { "queue = 1024".into() };
    let (mut local, flows) = start(row, &out)?;
    let frames: Vec<_> = flows.iter().map(|flow| frame(&flow.id, PAYLOAD, 0)).collect::<Result<_>>()?;
    let mut now = local.now();
    let mut got = vec![0; flows.len()];
    // The first second empties the bursts.
    for step in 0..(SECONDS + 1) * 1_000_000 / STEP {
        now.mono.0 += STEP;
        // Both are offered first as often.
        for n in 0..frames.len() {
            let frame = local.pool.copy_of(&frames[(n + step as usize) % frames.len()]);
            local.node.frame(now, IN, frame.context("no packet buffer is left")?);
        }
        while local.node.poll(now) {}
        while let Some(sent) = local.node.transmit(now, OUT) {
            let capsule = Capsule::parse(&sent[ETHERNET..]).ok().context("no capsule came out")?;
            let team = flows.iter().position(|flow| flow.id == capsule.id).context("a stranger's capsule")?;
            got[team] += if step * STEP >= 1_000_000 { sent.len() as u64 } else { 0 };
        }
    }
    Ok(got)
}

/// The parts as text.
pub fn report(parts: &[Part]) -> String {
    let mut table = Table::new(&[
        ("divided", Align::Left),
        ("team", Align::Right),
        ("got", Align::Right),
        ("part", Align::Right),
        ("due", Align::Right),
        ("off by", Align::Right),
    ]);
    for part in parts {
        table.row([
            if part.team == 0 { part.row.name().to_string() } else { String::new() },
            part.team.to_string(),
            part.got.to_string(),
            format!("{:.2} %", 100.0 * part.part),
            format!("{:.2} %", 100.0 * part.due),
            format!("{:+.2} %", 100.0 * part.error()),
        ]);
    }
    table.to_string()
}

/// An error if a team is further from its due than [`TOLERANCE`].
pub fn judge(parts: &[Part]) -> Result<()> {
    let worst = parts.iter().map(|part| part.error().abs()).fold(0.0, f64::max);
    ensure!(worst <= TOLERANCE, "a team is {:.1} % off its due", 100.0 * worst);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bandwidth is in the node's own time, so that the machine makes no difference.
    #[test]
    fn bandwidth_is_divided_by_shares() {
        let options = Options { seconds: 0.0, rows: vec![Row::Bandwidth, Row::BandwidthDepth4] };
        let parts = run(&options).unwrap();
        judge(&parts).unwrap_or_else(|error| panic!("{error}\n{}", report(&parts)));
    }

    #[test]
    fn who_is_off_is_found_out() {
        let part = |part| vec![Part { row: Row::Pair, team: 0, got: 1, part, due: 0.25 }];
        assert!(judge(&part(0.2549)).is_ok());
        assert!(judge(&part(0.2551)).is_err() && judge(&part(0.2449)).is_err());
    }
}
