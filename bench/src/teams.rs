//! `bench teams`: a thousand teams on one node. What an idle one takes and is charged, how long it takes to make
//! and to kill one, and what an event costs as their number grows.

use std::fmt::Write;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nodeos::sched::{Scheduler, Shares};
use nodeos::slab::Slab;
use nodeos::team::{Budget, Donated, TeamId, Teams};
use serde::Serialize;

use crate::HEAP;
use crate::accounting::of_wasm;
use crate::flow::RelayFlow;
use crate::instructions::{available, callgrind};
use crate::local::{IN, Local, OUT, Options as NodeOptions, frame};
use crate::table::{Align, Table, bytes};

/// Linear memory of the guests.
const PAGE: u64 = 1 << 16;
/// Flows that are made and killed first, so that logs and other rings are full.
const FIRST: u32 = 400;
/// Events of the short run and of the long one, for each number of teams.
const RUNS: [u64; 2] = [4_000, 12_000];

/// The smallest guest that can be sent a capsule.
const SMALL: &str = r#"(module (memory (export "memory") 1 1)
    (global (export "bees_abi") i32 (i32.const 1)) (global (export "bees_inbox") i32 (i32.const 0))
    (func (export "on_capsule") (param i32 i32 i32 i32)))"#;

/// What to do.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// How many teams at most
    #[arg(long, default_value_t = 1000)]
    pub teams: u16,
    /// Leave out the instruction counts, which need valgrind
    #[arg(long)]
    pub no_instructions: bool,
}

/// What is counted under callgrind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Load {
    /// The scheduler alone: every team always has an event waiting.
    Scheduler,
    /// The scheduler of a full link: one more comes, and whoever has the most waiting loses one.
    Full,
    /// A node that relays capsules of all flows in turn.
    Node,
}

/// What one team takes.
#[derive(Debug, Clone, Serialize)]
pub struct Memory {
    /// Which guest.
    pub guest: String,
    /// Bytes from the heap beside the linear memory.
    pub heap: u64,
    /// Of these: wasmtime's store and instance, measured by themselves.
    pub wasmtime: u64,
    /// Of these: the team's record with its accounts and buckets.
    pub team: u64,
    /// Bytes that it is charged, beside the linear memory and its code.
    pub charged: u64,
    /// Bytes of compiled code: every team is charged them, all share them.
    pub code: u64,
}

/// Microseconds: half of them, and 99 in a hundred, take no longer.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Times {
    /// The median.
    pub p50: f64,
    /// The 99th percentile.
    pub p99: f64,
}

/// Instructions for an event with so many teams.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Step {
    /// How many.
    pub teams: u16,
    /// Of the scheduler alone.
    pub scheduler: f64,
    /// Of the scheduler of a full link.
    pub full: f64,
    /// Of a node, from frame to frame.
    pub node: f64,
}

/// All of it.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    /// How many teams there were.
    pub teams: u16,
    /// By guest.
    pub memory: Vec<Memory>,
    /// From injection to running.
    pub create: Times,
    /// From the request to the last byte's return.
    pub kill: Times,
    /// As teams grow.
    pub steps: Vec<Step>,
}

/// Measures everything.
pub fn run(options: &Options) -> Result<Figures> {
    let teams = options.teams;
    let everything = everything();
    let all = format!("all {} imports", ee::abi::IMPORTS.len());
    let guests = [("no imports", SMALL), ("relay, 5 imports", RELAY), (&*all, &*everything)];
    let mut memory = Vec::new();
    let mut times = None;
    for (name, text) in guests {
        eprintln!("{teams} teams: {name}");
        let (of_it, made, killed) = measure(name, text, teams)?;
        memory.push(of_it);
        times.get_or_insert((made, killed));
    }
    let (create, kill) = times.unwrap_or((Times::of(vec![]), Times::of(vec![])));
    let mut steps = Vec::new();
    if !options.no_instructions {
        ensure!(available(), "valgrind is not installed: --no-instructions leaves out what needs it");
        for teams in [1, 10, 100, 1000].into_iter().filter(|n| *n <= teams) {
            eprintln!("counting: events of {teams} teams");
            let [scheduler, full, node] =
                [Load::Scheduler, Load::Full, Load::Node].map(|load| instructions(load, teams));
            steps.push(Step { teams, scheduler: scheduler?, full: full?, node: node? });
        }
    }
    Ok(Figures { teams, memory, create, kill, steps })
}

const RELAY: &str = include_str!("relay.wat");

/// A guest that imports all there is, as the largest protocols do.
fn everything() -> String {
    SMALL.replacen("(module", &format!("(module {}", ee::abi::imports()), 1)
}

fn node(flows: u16) -> Result<Local> {
    // What a team may have does not change what it takes.
    Local::new(NodeOptions { flows, team: "", out: "" })
}

fn flow(name: &str, text: &str, number: u32) -> Result<RelayFlow> {
    RelayFlow::of(name, text, |body| body.nonce[..4].copy_from_slice(&number.to_le_bytes()))
}

fn measure(name: &str, text: &str, teams: u16) -> Result<(Memory, Times, Times)> {
    let mut local = node(teams + 1)?;
    let flows: Vec<_> = (0..u32::from(teams)).map(|n| flow("idle", text, n)).collect::<Result<_>>()?;
    local.start(&flow("idle", text, u32::MAX)?)?;
    let used = local.used()?;
    for n in 0..FIRST {
        let first = flow("idle", text, u32::from(teams) + n)?;
        local.inject(&first)?;
        local.settle();
        local.kill(&first)?;
    }
    ensure!(local.used()? == used, "flows that ended still hold something");
    let mut made = Vec::with_capacity(flows.len());
    let heap = HEAP.current_usage();
    for flow in &flows {
        let start = Instant::now();
        local.inject(flow)?;
        local.settle();
        made.push(start.elapsed());
    }
    for flow in &flows {
        local.runs(flow)?;
    }
    let taken = since(heap);
    let charged = local.used()? - used;
    let code = code_bytes(&mut local)?;
    let each = |all: u64| all / u64::from(teams);
    let mut killed = Vec::with_capacity(flows.len());
    // Not in the order in which they were made.
    for at in 0..flows.len() {
        let start = Instant::now();
        local.kill(&flows[at * 7 % flows.len()])?;
        killed.push(start.elapsed());
    }
    ensure!(local.used()? == used, "killed flows still hold something");
    let memory = Memory {
        guest: name.into(),
        heap: each(taken).saturating_sub(PAGE),
        wasmtime: bare(text)?.saturating_sub(PAGE),
        team: record()?,
        charged: each(charged) - PAGE - code,
        code,
    };
    Ok((memory, Times::of(made), Times::of(killed)))
}

fn code_bytes(local: &mut Local) -> Result<u64> {
    use wire::control::{Answer, Request};
    let now = local.now();
    match local.node.control(now, ee::config::ADMIN, Request::ProtocolShow) {
        Answer::Protocols(list) => Ok(list.iter().map(|p| p.compiled).sum()),
        other => anyhow::bail!("{other:?}"),
    }
}

/// What a store and an instance of this guest take without anything of ours.
fn bare(text: &str) -> Result<u64> {
    let engine = of_wasm(wasmtime::Engine::new(&ee::engine::settings(Some(ee::Metering::Epoch))))?;
    let module = of_wasm(wasmtime::Module::new(&engine, wat::parse_str(text)?))?;
    let mut linker = wasmtime::Linker::new(&engine);
    of_wasm(linker.define_unknown_imports_as_traps(&module))?;
    let pre = of_wasm(linker.instantiate_pre(&module))?;
    let start = || {
        let mut store = wasmtime::Store::new(&engine, ());
        store.set_epoch_deadline(u64::MAX / 2);
        anyhow::Ok((of_wasm(pre.instantiate(&mut store))?, store))
    };
    drop(start()?);
    let before = HEAP.current_usage();
    let _made = start()?;
    Ok(since(before))
}

/// Bytes from the heap since there were so many.
fn since(before: usize) -> u64 {
    HEAP.current_usage().saturating_sub(before) as u64
}

/// What a team's record takes, with what belongs to it.
fn record() -> Result<u64> {
    const COUNT: u64 = 256;
    let mut teams = Teams::new(Budget { memory: 1 << 30, ..Budget::UNLIMITED }, COUNT as usize, 2)?;
    let (root, now) = (teams.root(), nodeos::platform::Instant::ZERO);
    let budget = Budget { memory: 1 << 20, rate: 1 << 30, burst: 32 << 10, ..Budget::UNLIMITED };
    let before = HEAP.current_usage();
    for _ in 0..COUNT {
        teams.create(now, root, "idle", budget, Donated::NOTHING)?;
    }
    Ok(since(before) / COUNT)
}

impl Times {
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort();
        let micros = |part: f64| {
            let at = (times.len().saturating_sub(1)) as f64 * part;
            times.get(at.round() as usize).map_or(0.0, |t| t.as_nanos() as f64 / 1000.0)
        };
        Self { p50: micros(0.5), p99: micros(0.99) }
    }
}

fn instructions(load: Load, teams: u16) -> Result<f64> {
    let program = std::env::current_exe()?;
    let name = match load {
        Load::Scheduler => "scheduler",
        Load::Full => "full",
        Load::Node => "node",
    };
    let [short, long] = RUNS
        .map(|events| callgrind(&program, &["count-teams", name, &teams.to_string(), &events.to_string()]));
    Ok(long?.less(&short?).total() as f64 / (RUNS[1] - RUNS[0]) as f64)
}

/// What is counted: so many events among so many teams.
pub fn load(load: Load, teams: u16, events: u64) -> Result<()> {
    match load {
        Load::Scheduler => scheduler(teams, events),
        Load::Full => full(teams, events),
        Load::Node => relay(teams, events),
    }
}

fn scheduler(teams: u16, events: u64) -> Result<()> {
    let mut slab = Slab::new(teams.into());
    let mut scheduler = Scheduler::new();
    for n in 0..u64::from(teams) {
        let team = TeamId(slab.insert(())?);
        scheduler.add(team, None, Shares { among: 100, own: 1000 }, 4);
        scheduler.push(team, n)?;
    }
    for n in 0..events {
        let Some((team, event)) = scheduler.next() else { anyhow::bail!("nobody is next") };
        scheduler.push(team, event)?;
        // All different, so that teams do not simply take turns.
        scheduler.used(team, 1000 + n * 7919 % 9000);
    }
    Ok(())
}

fn full(teams: u16, events: u64) -> Result<()> {
    const EACH: u64 = 4;
    let (mut slab, mut scheduler) = (Slab::new(teams.into()), Scheduler::new());
    let ids = (0..teams).map(|_| Ok(TeamId(slab.insert(())?))).collect::<Result<Vec<_>>>()?;
    for team in &ids {
        scheduler.add(*team, None, Shares { among: 100, own: 1000 }, usize::MAX);
        (0..EACH).try_for_each(|n| scheduler.push(*team, n))?;
    }
    for n in 0..events {
        let team = ids[(n * 7919 % u64::from(teams)) as usize];
        scheduler.push(team, n)?;
        ensure!(scheduler.push_out().is_some(), "nobody has anything waiting");
    }
    Ok(())
}

fn relay(teams: u16, events: u64) -> Result<()> {
    const BURST: u64 = 32;
    // Under valgrind everything takes fifty times as long.
    let team = "event = \"1s\"\nrate = \"100gbit\"\nburst = \"16M\"\nqueue = 64";
    let mut local = Local::new(NodeOptions { flows: teams, team, out: "queue = 1024" })?;
    let mut frames = Vec::new();
    for n in 0..u32::from(teams) {
        let flow = flow("relay", RELAY, n)?;
        // The first one brings the module; whether the others run, their capsules will tell.
        if n == 0 {
            local.start(&flow)?
        } else {
            local.inject(&flow)?
        }
        local.settle();
        frames.push(frame(&flow.id, 64, 0)?);
    }
    let mut frames = frames.iter().cycle();
    for _ in 0..events / BURST {
        let now = local.now();
        for frame in frames.by_ref().take(BURST as usize) {
            let Some(frame) = local.pool.copy_of(frame) else { anyhow::bail!("no packet buffer is left") };
            local.node.frame(now, IN, frame);
        }
        while local.node.poll(now) {}
        let came = std::iter::from_fn(|| local.node.transmit(now, OUT)).count();
        ensure!(came as u64 == BURST, "{BURST} capsules went in, {came} came out");
    }
    Ok(())
}

/// The figures as text.
pub fn report(figures: &Figures) -> String {
    let left = |name| (name, Align::Left);
    let right = |name| (name, Align::Right);
    let mut text = format!("{} teams, each beside its page of linear memory\n\n", figures.teams);
    let mut memory = Table::new(&[
        left("guest"),
        right("heap"),
        right("of it wasmtime"),
        right("team's record"),
        right("the rest"),
        right("charged"),
        right("code, shared"),
    ]);
    for m in &figures.memory {
        let rest = m.heap.saturating_sub(m.wasmtime + m.team);
        let cells = [m.heap, m.wasmtime, m.team, rest, m.charged, m.code].map(bytes);
        let mut row = vec![m.guest.clone()];
        row.extend(cells);
        memory.row(row);
    }
    memory.row([
        "seed 000's agents".into(),
        "10 KiB".into(),
        "-".into(),
        "-".into(),
        "-".into(),
        "-".into(),
        "50 KiB each".into(),
    ]);
    let _ = writeln!(text, "{memory}");
    let mut times = Table::new(&[left(""), right("p50"), right("p99")]);
    for (name, t) in [("create", figures.create), ("kill", figures.kill)] {
        times.row([name.to_string(), format!("{:.0} us", t.p50), format!("{:.0} us", t.p99)]);
    }
    let _ = writeln!(text, "{times}");
    let columns = ["teams", "scheduler alone", "full link", "node, frame to frame"];
    let mut steps = Table::new(&columns.map(right));
    for s in &figures.steps {
        let figures = [s.scheduler, s.full, s.node].map(|figure| format!("{figure:.0}"));
        steps.row([s.teams.to_string()].into_iter().chain(figures).collect::<Vec<_>>());
    }
    let _ = write!(text, "instructions for an event\n{steps}");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Other tests use the heap at the same time: that what is charged bounds it, `ee/tests/heap.rs` shows.
    #[test]
    fn an_idle_team_is_charged_little() {
        for text in [SMALL, RELAY, &everything()] {
            let (memory, made, killed) = measure("some", text, 16).unwrap();
            // Who imports every function that there is pays for that.
            let most = if text == everything() { 24 << 10 } else { 19 << 10 };
            assert!(memory.charged <= most, "{memory:?}");
            assert!(made.p50 > 0.0 && killed.p99 >= killed.p50);
        }
    }

    #[test]
    fn events_are_handled_however_many_teams_there_are() {
        for teams in [1, 50] {
            load(Load::Scheduler, teams, 1000).unwrap();
            load(Load::Full, teams, 1000).unwrap();
            load(Load::Node, teams, 320).unwrap();
        }
    }
}
