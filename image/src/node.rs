//! The node itself on this platform: the loop between the cards, the clock and the core's state machine
//! (`docs/architecture.md`, "Platform and core").

use std::sync::{Arc, Mutex};

use ee::blob::SharedDisk;
use ee::config::NodeConfig;
use ee::{Engine, JobDone, Metering, Node, Platform};
use nodeos::buf::Buf;
use nodeos::link::{LinkId, Mac};
use nodeos::platform::NoSensors;

use crate::Machine;
use crate::boot;
use crate::interrupt::Watchdog;
use crate::jobs::Worker;
use crate::meter::Cycles;
use crate::nic::Nic;
use crate::stacks::Stacks;

/// Frames taken from one card before the others have their turn.
const BURST: usize = 32;

/// Runs the node; returns only when it cannot start.
pub fn run(machine: Machine, mut config: NodeConfig) -> Result<std::convert::Infallible, String> {
    let Machine { clock, console, random, pool, nics, disk, mut idle } = machine;
    let mut nics = assign(&mut config, nics)?;
    let mut refused: Vec<Option<Buf>> = nics.iter().map(|_| None).collect();
    let engine = Engine::with_stacks(Metering::Epoch, Arc::new(Stacks)).map_err(|e| e.to_string())?;
    let ticks = engine.interrupter_handle();
    let watchdog = Watchdog::start(clock, move || ticks.interrupt()).map_err(|e| e.to_string())?;
    let mut worker: Worker<JobDone> = Worker::start().map_err(|e| e.to_string())?;
    let platform = Platform {
        name: "hermit",
        meter: Arc::new(Cycles::new(clock)),
        interrupter: Arc::new(watchdog),
        entropy: Arc::new(random),
        sensors: Arc::new(NoSensors),
        engine,
        buffers: pool,
        disk: disk.map(|disk| Arc::new(Mutex::new(disk)) as SharedDisk),
    };
    let mut node = Node::new(&config, platform, clock.now()).map_err(|e| e.to_string())?;
    if let Some((entered, done)) = boot::loader_times() {
        let (entered, done, node) = (clock.micros(entered), clock.micros(done), clock.since_reset());
        console.line(format_args!("loader {entered} us, kernel {done} us, node {node} us after reset"));
    }
    console.line(format_args!("ready, {} ms after reset", clock.since_reset() / 1000));
    loop {
        for (link, nic) in (0..).map(LinkId).zip(&mut nics) {
            for frame in std::iter::from_fn(|| nic.receive()).take(BURST) {
                node.frame(clock.now(), link, frame);
            }
        }
        while let Some(done) = worker.finished() {
            node.job_done(clock.now(), done);
        }
        let before = clock.now();
        let more = node.poll(before);
        for ((link, nic), refused) in (0..).map(LinkId).zip(&mut nics).zip(&mut refused) {
            send(nic, refused, || node.transmit(clock.now(), link));
        }
        while let Some(job) = node.job() {
            worker.submit(move || job.run());
        }
        while let Some(line) = node.log_line() {
            console.line(format_args!("{}", line.text));
        }
        let now = clock.now();
        if !more {
            idle.wait(&mut nics, &clock, node.deadline(now), worker.busy());
        } else if worker.busy() && node.only_long_work() {
            // Jobs and long work share the processor, a slice for each.
            let deadline = now.mono + now.mono.since(before.mono);
            idle.wait(&mut nics, &clock, Some(deadline), true);
        }
    }
}

/// Sends what `next` gives until the card's ring is full; the frame that had no room is the first next time.
pub fn send(nic: &mut Nic, refused: &mut Option<Buf>, mut next: impl FnMut() -> Option<Buf>) {
    nic.reap();
    while let Some(frame) = refused.take().or_else(&mut next) {
        if let Err(frame) = nic.transmit(frame) {
            *refused = Some(frame);
            return;
        }
    }
}

/// Gives each configured link its card: the one with the link's MAC address, else the next that no link
/// names.
fn assign(config: &mut NodeConfig, nics: Vec<Nic>) -> Result<Vec<Nic>, String> {
    let mut nics: Vec<Option<Nic>> = nics.into_iter().map(Some).collect();
    let named: Vec<Mac> = config.links.iter().filter_map(|link| link.mac).collect();
    let mut cards = Vec::new();
    for link in &mut config.links {
        let fits = |nic: &Nic| match link.mac {
            Some(mac) => nic.mac() == mac.0,
            None => !named.contains(&Mac(nic.mac())),
        };
        let found = nics.iter_mut().find(|slot| slot.as_ref().is_some_and(fits)).and_then(Option::take);
        let nic = found.ok_or_else(|| match link.mac {
            Some(mac) => format!("link {}: there is no card with the address {mac}", link.name),
            None => format!("link {}: there is no further card", link.name),
        })?;
        link.mac = Some(Mac(nic.mac()));
        cards.push(nic);
    }
    Ok(cards)
}
