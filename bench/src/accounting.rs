//! `bench accounting`: what it costs to measure guests and to be able to stop them, on the two programs of seed 001's
//! table (Fib(35), bubble sort of 10,000 numbers) and on the relay.
//!
//! The programs are one module, compiled by the same compiler with the same settings but for one: nothing looks at
//! the guest; epochs (what the node uses); fuel (what the simulator uses); both. The last row is the node itself:
//! a flow that works in the background, on a fiber, in slices, charged by the meter. Rows take turns, so that the
//! machine's moods hit all of them.
//!
//! The relay cannot be built without accounting: budgets are in all of it. So the calls that account for a capsule are
//! counted by themselves, less what a plain queue costs in the place of the scheduler, and taken off.

use std::collections::VecDeque;
use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use ee::engine::settings;
use host::interrupt::Watchdog;
use host::meter::Cycles;
use nodeos::buf::BLOCK;
use nodeos::link::LinkId;
use nodeos::platform::{Interrupter, Meter};
use nodeos::sched::{Scheduler, Shares};
use nodeos::slab::Slab;
use nodeos::team::{Budget, Donated, TeamId, Teams};
use serde::Serialize;
use wasmtime::{Config, Engine, Instance, Linker, Module, Store, TypedFunc};
use wire::tuple::Privilege;

use crate::flow::RelayFlow;
use crate::instructions::{available, callgrind};
use crate::local::{Local, Options as NodeOptions};
use crate::table::{Align, Table, median};

/// The programs; each export `name` takes its size. As a flow it runs what a packet asks for: a letter, and the size.
const PROGRAMS: &str = include_str!("programs.wat");
/// Fib of this, and so many numbers to sort: as in the seed.
const SIZES: [(&str, u8, i32, i32); 2] = [("fib", b'f', 35, 20), ("sort", b's', 10_000, 300)];
/// The seed's best ratios of these.
const SEED: [f64; 2] = [1.12, 1.25];

/// What to do.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// How often each row is timed
    #[arg(long, default_value_t = 9)]
    pub runs: usize,
    /// Leave out the instruction counts, which need valgrind
    #[arg(long)]
    pub no_instructions: bool,
}

/// How guest code is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// Not at all.
    Plain,
    /// At every loop and function it compares a number in memory.
    Epochs,
    /// It counts what it does.
    Fuel,
    /// Both.
    Both,
    /// In the node, on a fiber.
    Node,
}

impl Way {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Plain, Self::Epochs, Self::Fuel, Self::Both, Self::Node];

    fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Epochs => "epochs",
            Self::Fuel => "fuel",
            Self::Both => "both",
            Self::Node => "node",
        }
    }

    fn config(self) -> Config {
        let mut config = settings(None);
        config.epoch_interruption(matches!(self, Self::Epochs | Self::Both));
        config.consume_fuel(matches!(self, Self::Fuel | Self::Both));
        config
    }
}

/// A program, looked at in one way.
#[derive(Debug, Clone, Serialize)]
pub struct Cost {
    /// Which program.
    pub program: String,
    /// How it is looked at.
    pub way: Way,
    /// Milliseconds, the median.
    pub millis: f64,
    /// The median of the ratios to the plain run of the same round.
    pub ratio: f64,
    /// Instructions of a smaller run, as a ratio to the plain one's.
    pub instructions: Option<f64>,
}

/// The relay.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Relay {
    /// Instructions of a capsule.
    pub all: f64,
    /// Of the calls that account for it.
    pub accounting: f64,
}

/// All of it.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    /// Programs, each in all ways.
    pub programs: Vec<Cost>,
    /// Instructions of the relay.
    pub relay: Option<Relay>,
}

/// Measures everything.
pub fn run(options: &Options) -> Result<Figures> {
    let count = !options.no_instructions;
    ensure!(!count || available(), "valgrind is not installed: --no-instructions leaves out what needs it");
    let mut runners = Way::ALL.map(Runner::new).into_iter().collect::<Result<Vec<_>>>()?;
    let mut programs = Vec::new();
    for (name, letter, size, small) in SIZES {
        eprintln!("{name} of {size}");
        let mut times: Vec<Vec<f64>> = vec![Vec::new(); Way::ALL.len()];
        for _ in 0..options.runs {
            for (runner, times) in runners.iter_mut().zip(&mut times) {
                times.push(runner.time(name, letter, size)?.as_secs_f64() * 1000.0);
            }
        }
        let plain = if count { Some(instructions(Way::Plain, name, small)?) } else { None };
        for (way, measured) in Way::ALL.into_iter().zip(&times) {
            let ratios = measured.iter().zip(&times[0]).map(|(time, plain)| time / plain).collect();
            let instructions = match plain {
                Some(plain) if way != Way::Node => Some(instructions(way, name, small)? / plain),
                _ => None,
            };
            let (millis, ratio) = (median(measured.clone()), median(ratios));
            programs.push(Cost { program: name.into(), way, millis, ratio, instructions });
        }
    }
    let relay = if count { Some(relay()?) } else { None };
    Ok(Figures { programs, relay })
}

/// wasmtime's errors are no `std::error::Error`.
pub(crate) fn of_wasm<T>(result: wasmtime::Result<T>) -> Result<T> {
    result.map_err(|error| anyhow::anyhow!("{error:#}"))
}

/// Runs programs in one way.
enum Runner {
    Bare(Box<Bare>),
    Node(Box<Local>, RelayFlow),
}

struct Bare {
    store: Store<()>,
    instance: Instance,
}

impl Bare {
    fn new(way: Way) -> Result<Self> {
        let engine = of_wasm(Engine::new(&way.config()))?;
        let module = of_wasm(Module::new(&engine, wat::parse_str(PROGRAMS)?))?;
        let mut linker = Linker::new(&engine);
        of_wasm(linker.define_unknown_imports_as_traps(&module))?;
        let mut store = Store::new(&engine, ());
        if matches!(way, Way::Epochs | Way::Both) {
            store.set_epoch_deadline(u64::MAX / 2);
        }
        if matches!(way, Way::Fuel | Way::Both) {
            of_wasm(store.set_fuel(u64::MAX))?;
        }
        let instance = of_wasm(linker.instantiate(&mut store, &module))?;
        Ok(Self { store, instance })
    }

    fn call(&mut self, program: &str, size: i32) -> Result<i32> {
        let f: TypedFunc<i32, i32> = of_wasm(self.instance.get_typed_func(&mut self.store, program))?;
        of_wasm(f.call(&mut self.store, size))
    }
}

impl Runner {
    fn new(way: Way) -> Result<Self> {
        if way != Way::Node {
            return Ok(Self::Bare(Box::new(Bare::new(way)?)));
        }
        let team = "memory = \"1M\"\nevent = \"2ms\"\nbackground = \"60s\"";
        let mut local = Local::new(NodeOptions { flows: 2, team, out: "" })?;
        let flow = RelayFlow::of("programs", PROGRAMS, |body| {
            body.protocols[0].session = true;
            body.request.privileges = vec![Privilege { name: "background".into(), optional: false }];
        })?;
        local.start(&flow)?;
        Ok(Self::Node(Box::new(local), flow))
    }

    /// How long a program takes; its result is checked.
    fn time(&mut self, program: &str, letter: u8, size: i32) -> Result<Duration> {
        let (took, result) = match self {
            Self::Bare(bare) => {
                let start = Instant::now();
                let result = bare.call(program, size)?;
                (start.elapsed(), result)
            }
            Self::Node(local, flow) => in_node(local, flow, [letter, 0], size)?,
        };
        ensure!(result == expected(letter, size), "{program} of {size} gave {result}");
        Ok(took)
    }
}

/// Has a flow do what a packet asks: two bytes say what, then comes a size. How long it took, and what it answered.
pub(crate) fn in_node(
    local: &mut Local,
    flow: &RelayFlow,
    what: [u8; 2],
    size: i32,
) -> Result<(Duration, i32)> {
    let now = local.now();
    let session =
        local.node.session_open(now, &flow.hash.to_string()).map_err(|e| anyhow::anyhow!("{e:?}"))?;
    local.settle();
    let mut packet = vec![what[0], what[1], 0, 0];
    packet.extend(size.to_le_bytes());
    let start = Instant::now();
    let now = local.now();
    local.node.session_send(now, session, &packet).map_err(|e| anyhow::anyhow!("{e:?}"))?;
    local.settle();
    let took = start.elapsed();
    let answer = local.node.session_packet(session).ok().flatten().context("the flow did not answer")?;
    let now = local.now();
    local.node.session_close(now, session);
    local.settle();
    let answer = answer.first_chunk().context("a short answer")?;
    Ok((took, i32::from_le_bytes(*answer)))
}

/// What the programs give: the number; after sorting, how many neighbors are in order.
fn expected(letter: u8, size: i32) -> i32 {
    if letter == b's' {
        return size - 1;
    }
    (0..size).fold((0, 1), |(a, b), _| (b, a + b)).0
}

/// Instructions of a program of this size.
fn instructions(way: Way, program: &str, size: i32) -> Result<f64> {
    let path = std::env::current_exe()?;
    let [short, long] = [1, 3].map(|times| {
        callgrind(&path, &["count-program", way.name(), program, &size.to_string(), &times.to_string()])
    });
    Ok(long?.less(&short?).total() as f64 / 2.0)
}

/// What is counted: a program, some times.
pub fn program(way: Way, program: &str, size: i32, times: u32) -> Result<()> {
    let mut bare = Bare::new(way)?;
    for _ in 0..times {
        bare.call(program, size)?;
    }
    Ok(())
}

fn relay() -> Result<Relay> {
    const RUNS: [u64; 2] = [2_000, 10_000];
    eprintln!("counting: the relay");
    let path = std::env::current_exe()?;
    let per_capsule = |name: &[&str]| {
        let [short, long] = RUNS.map(|capsules| {
            let (capsules, payload) = (capsules.to_string(), "64".to_string());
            let mut arguments = name.to_vec();
            arguments.push(&capsules);
            if name.len() > 1 {
                arguments.push(&payload);
            }
            callgrind(&path, &arguments)
        });
        anyhow::Ok(long?.less(&short?).total() as f64 / (RUNS[1] - RUNS[0]) as f64)
    };
    let accounting = per_capsule(&["count-accounting"])? - per_capsule(&["count-queue"])?;
    Ok(Relay { all: per_capsule(&["count", "bees"])?, accounting })
}

/// What a relay that accounts for nothing has in the place of the scheduler: one queue for all.
pub fn plain_queue(count: u64) -> Result<()> {
    let mut teams = Slab::new(1);
    let team = TeamId(teams.insert(()).context("no room")?);
    let (mut queue, mut left) = (VecDeque::new(), count);
    while left > 0 {
        let burst = left.min(BURST as u64);
        (0..burst).for_each(|at| queue.push_back((team, [at; EVENT])));
        while let Some((team, event)) = std::hint::black_box(&mut queue).pop_front() {
            ensure!(teams.get(team.0).is_some(), "no team");
            left -= u64::from(event[0] < count);
        }
    }
    Ok(())
}

/// What accounts for a capsule that is relayed, and nothing else: its buffer, its place in the queue, its turn, its
/// event, its time and the watchdog, its bandwidth, what its event took beside it (nothing), the node's own time. In
/// bursts, as the relay that it is taken off.
pub fn capsules(count: u64) -> Result<()> {
    let meter = Cycles::new();
    let watchdog: Arc<dyn Interrupter> = Arc::new(Watchdog::start(meter, || ())?);
    let meter: Arc<dyn Meter> = Arc::new(meter);
    let now = nodeos::platform::Instant::ZERO;
    let budget = Budget { memory: 1 << 24, rate: 1 << 40, burst: 1 << 30, ..Budget::UNLIMITED };
    let mut teams = Teams::new(Budget { memory: 1 << 26, ..Budget::UNLIMITED }, 2, 2)?;
    let id = teams.create(now, teams.root(), "relay", budget, Donated::NOTHING)?;
    let account = teams.get(id).context("no team")?.account().clone();
    let bandwidth = teams.get(id).context("no team")?.bandwidth().clone();
    let mut scheduler = Scheduler::new();
    scheduler.add(id, None, Shares::default(), BURST);
    scheduler.charge_queue(id, &account)?;
    let queue = teams.get(id).context("no team")?.budget.queue.into();
    let mut lent = account.charge(0)?;
    let per_micro = meter.per_micro();
    let (mut units, mut busy) = (0, 0);
    for n in (0..count).step_by(BURST) {
        let burst = BURST.min(usize::try_from(count - n)?);
        // The node looks at its own time with the first frame, and after all work.
        let began = meter.count();
        let now = nodeos::platform::Instant(n * 10);
        for _ in 0..burst {
            let Some(member) = teams.get_mut(id) else { bail!("no team") };
            member.hold(BLOCK as u64)?;
            scheduler.push_within(id, queue, Waits { held: BLOCK as u32, _event: [0; EVENT] })?;
        }
        for _ in 0..burst {
            let Some((team, waited)) = scheduler.next() else { bail!("nobody is next") };
            let Some(member) = teams.get_mut(team) else { bail!("no team") };
            member.count_event()?;
            lent.shrink(u64::MAX);
            let start = meter.count();
            watchdog.arm(500 * per_micro);
            // The guest's call is here.
            ensure!(bandwidth.take(now, LinkId(1), 102), "no bandwidth");
            watchdog.disarm();
            let took = meter.count() - start;
            member.let_go(waited.held.into());
            scheduler.used(team, took);
            member.counters.units += took;
            units += took;
            // Before its effects are looked for.
            lent.shrink(u64::MAX);
        }
        busy += meter.count() - began;
    }
    ensure!(account.peak() > 0 && units + busy > 0, "nothing was measured");
    Ok(())
}

/// Frames that arrive together, as in `count bees`.
const BURST: usize = 32;
/// Words of an event in a team's queue.
const EVENT: usize = 5;

/// What waits in a team's queue: an event, of which only the size matters here, and what is paid for it.
#[derive(Debug)]
struct Waits {
    _event: [u64; EVENT],
    held: u32,
}

/// The figures as text.
pub fn report(figures: &Figures) -> String {
    let mut table = Table::new(&[
        ("program", Align::Left),
        ("looked at", Align::Left),
        ("time", Align::Right),
        ("to plain", Align::Right),
        ("instructions to plain", Align::Right),
        ("seed 001's best", Align::Right),
    ]);
    for cost in &figures.programs {
        let seed = SIZES.iter().position(|(name, ..)| *name == cost.program).map_or(0.0, |at| SEED[at]);
        table.row([
            if cost.way == Way::Plain { cost.program.clone() } else { String::new() },
            cost.way.name().to_string(),
            format!("{:.1} ms", cost.millis),
            format!("{:.3}", cost.ratio),
            cost.instructions.map_or("-".into(), |ratio| format!("{ratio:.3}")),
            if cost.way == Way::Node { format!("{seed:.2}") } else { String::new() },
        ]);
    }
    let mut text = table.to_string();
    if let Some(Relay { all, accounting }) = figures.relay {
        let _ = write!(
            text,
            "\nrelay: {all:.0} instructions for a capsule, {accounting:.0} of them account for it: {:.3} times what \
             is left without them\n",
            all / (all - accounting)
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_gives_the_same() {
        for way in Way::ALL {
            let mut runner = Runner::new(way).unwrap();
            for (name, letter, _, size) in SIZES {
                runner.time(name, letter, size).unwrap();
            }
        }
    }

    #[test]
    fn capsules_are_accounted_for() {
        capsules(1000).unwrap();
    }
}
