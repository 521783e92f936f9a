//! The bootable node: the platform on the Hermit unikernel. `docs/boot.md` describes how it starts.

mod boot;
mod clock;
mod code;
mod console;
mod disk;
mod entropy;
mod exit;
mod hal;
mod idle;
mod interrupt;
mod jobs;
mod kernel;
mod meter;
mod nic;
mod node;
mod pages;
mod pci;
mod selftest;
mod stacks;

use std::convert::Infallible;

use ee::config::NodeConfig;
use log::LevelFilter;
use nodeos::buf::BufPool;

use clock::Clock;
use console::Console;
use disk::BlockDevice;
use entropy::Random;
use idle::Idle;
use nic::Nic;

/// Packet buffers of a self-test: 4 MiB.
const SELFTEST_BUFFERS: usize = 2048;

/// Everything the platform has.
struct Machine {
    clock: Clock,
    console: Console,
    random: Random,
    pool: BufPool,
    nics: Vec<Nic>,
    disk: Option<BlockDevice>,
    idle: Idle,
}

impl Machine {
    fn start(clock: Clock, console: Console, seed: Option<&[u8]>, buffers: usize) -> Result<Self, String> {
        boot::seal_loader()?;
        let mut devices = pci::devices();
        let random = Random::start(&mut devices, seed, &clock);
        let pool = BufPool::new(buffers);
        // A node whose disk fails runs without.
        let disk = disk::open(&mut devices)
            .and_then(|opened| opened.map_err(|error| console.line(format_args!("{error}"))).ok());
        let nics = nic::open_all(devices, &pool)?;
        Ok(Self { clock, console, random, pool, nics, disk, idle: Idle::default() })
    }
}

fn main() {
    exit::install();
    let clock = Clock::start();
    let console = Console::start(clock, LevelFilter::Warn);
    match run(clock, console) {
        Ok(never) => match never {},
        Err(error) => exit::failure(error),
    }
}

fn run(clock: Clock, console: Console) -> Result<Infallible, String> {
    let text = boot::configuration()?;
    // A self-test's configuration is another one.
    let config = NodeConfig::parse(text);
    let node = config.as_ref().map(|config| &config.node).ok();
    let seed = node.and_then(|node| node.entropy.as_ref());
    let buffers = node.map_or(SELFTEST_BUFFERS, |node| usize::from(node.buffers));
    let mut machine = Machine::start(clock, console, seed.map(String::as_bytes), buffers)?;
    selftest::run(&mut machine, text);
    node::run(machine, config.map_err(|error| error.to_string())?)
}
