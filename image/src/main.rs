//! The bootable node: the platform on the Hermit unikernel. `docs/boot.md` describes how it starts.

mod boot;
mod clock;
mod code;
mod console;
mod entropy;
mod exit;
mod hal;
mod idle;
mod interrupt;
mod jobs;
mod kernel;
mod nic;
mod pages;
mod pci;
mod selftest;

use log::LevelFilter;
use nodeos::buf::BufPool;

use clock::Clock;
use console::Console;
use entropy::Random;
use idle::Idle;
use nic::Nic;

/// Packet buffers when nothing else is configured: 4 MiB.
const BUFFERS: usize = 2048;

/// Everything the platform has.
struct Machine {
    clock: Clock,
    console: Console,
    random: Random,
    pool: BufPool,
    nics: Vec<Nic>,
    idle: Idle,
}

impl Machine {
    fn start(clock: Clock, console: Console) -> Result<Self, String> {
        boot::seal_loader()?;
        let mut devices = pci::devices();
        let random = Random::start(&mut devices, None, &clock);
        let pool = BufPool::new(BUFFERS);
        let nics = nic::open_all(devices, &pool)?;
        Ok(Self {
            clock,
            console,
            random,
            pool,
            nics,
            idle: Idle::default(),
        })
    }
}

fn main() {
    exit::install();
    let clock = Clock::start();
    let console = Console::start(clock, LevelFilter::Info);
    let started = boot::configuration().and_then(|text| Ok((text, Machine::start(clock, console)?)));
    match started {
        Ok((configuration, mut machine)) => {
            selftest::run(&mut machine, configuration);
            exit::failure("the configuration names no self-test");
        }
        Err(error) => exit::failure(error),
    }
}
