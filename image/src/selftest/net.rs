//! Network cards: relaying frames, and doing nothing.

use std::time::Duration;

use nodeos::buf::Buf;
use nodeos::channel::{Address, OutChannel};
use nodeos::config::LinkConfig;
use nodeos::ip::StreamLimits;
use nodeos::link::{LinkId, Mac};
use nodeos::net::Net;
use nodeos::platform::Instant;
use nodeos::team::TeamId;

use super::wasm::{BIG, engine};
use super::{Options, check};
use crate::Machine;
use crate::jobs::Worker;
use crate::nic::Nic;

/// A frame with this EtherType (local experimental 2) ends the test.
const STOP: [u8; 2] = [0x88, 0xb6];
/// Frames taken from one card before the next one's turn.
const BURST: usize = 64;

/// Waits; the host looks at how much processor time that takes.
pub fn idle(machine: &mut Machine, options: &Options) -> Result<(), String> {
    machine.console.line(format_args!("ready"));
    let end = machine.clock.mono() + Duration::from_secs(options.seconds.unwrap_or(5));
    while machine.clock.mono() < end {
        machine.idle.wait(&mut machine.nics, &machine.clock, Some(end), false);
        for nic in &mut machine.nics {
            while nic.receive().is_some() {}
        }
    }
    machine.console.line(format_args!("slept {} times", machine.idle.sleeps()));
    check(machine.idle.sleeps() > 0, "did not sleep")
}

/// Hands each frame on to the other card of a pair (0 and 1, 2 and 3, ...).
pub fn relay(machine: &mut Machine, options: &Options) -> Result<(), String> {
    relay_until_stopped(machine, options, &mut None)
}

/// The same while a job compiles one big module after the other.
pub fn relay_busy(machine: &mut Machine, options: &Options) -> Result<(), String> {
    let mut worker = Some(Worker::start().map_err(|error| error.to_string())?);
    relay_until_stopped(machine, options, &mut worker)
}

type Compiler = Worker<Result<usize, String>>;

/// Hands capsules on with NodeOS alone: from the in-channel of each card to one out-channel, the neighbor
/// `next` of the configuration on the last card. The measure for what the execution environment adds.
pub fn relay_nodeos(machine: &mut Machine, options: &Options) -> Result<(), String> {
    let next = options.next.ok_or("the configuration does not say who is next")?;
    let end: Option<Instant> = options.seconds.map(|s| machine.clock.mono() + Duration::from_secs(s));
    let link = |(number, nic): (usize, &Nic)| LinkConfig {
        queue: 1024,
        ..LinkConfig::new(&number.to_string(), Mac(nic.mac()))
    };
    let links: Vec<LinkConfig> = machine.nics.iter().enumerate().map(link).collect();
    let net = Net::new(&links, machine.pool.clone(), 0, StreamLimits::default());
    let mut net = net.map_err(|error| error.to_string())?;
    let last =
        u16::try_from(links.len()).ok().and_then(|n| n.checked_sub(1)).ok_or("there is no network card")?;
    let out = OutChannel { link: LinkId(last), to: Address::Ethernet(next) };
    let mut refused: Vec<Option<Buf>> = links.iter().map(|_| None).collect();
    machine.console.line(format_args!("ready"));
    while end.is_none_or(|end| machine.clock.mono() < end) {
        let mut moved = 0;
        for (link, nic) in (0..).map(LinkId).zip(&mut machine.nics) {
            for frame in std::iter::from_fn(|| nic.receive()).take(BURST) {
                moved += 1;
                let now = machine.clock.mono();
                if let Some(received) = net.frame(now, link, frame) {
                    // A full queue has counted the drop.
                    let _ = net.send(now, TeamId::ROOT, &out, received.packet);
                }
            }
        }
        let now = machine.clock.mono();
        net.poll(now);
        for ((link, nic), refused) in (0..).map(LinkId).zip(&mut machine.nics).zip(&mut refused) {
            crate::node::send(nic, refused, || net.transmit(now, link));
        }
        if moved == 0 {
            machine.idle.wait(&mut machine.nics, &machine.clock, end, false);
        }
    }
    Ok(())
}

fn relay_until_stopped(
    machine: &mut Machine,
    options: &Options,
    worker: &mut Option<Compiler>,
) -> Result<(), String> {
    let pairs = machine.nics.len() / 2;
    check(pairs > 0, "needs two network cards")?;
    let end: Option<Instant> = options.seconds.map(|s| machine.clock.mono() + Duration::from_secs(s));
    let engine = engine()?;
    let mut compiled = 0;
    let mut stop = false;
    machine.console.line(format_args!("ready"));
    while !stop && end.is_none_or(|end| machine.clock.mono() < end) {
        let mut moved = 0;
        for pair in 0..pairs {
            let (left, right) = machine.nics.split_at_mut(2 * pair + 1);
            let (left, right) = (&mut left[2 * pair], &mut right[0]);
            moved += pump(left, right, &mut stop) + pump(right, left, &mut stop);
        }
        let mut busy = false;
        if let Some(worker) = worker {
            while let Some(result) = worker.finished() {
                compiled += usize::from(result? > 0);
            }
            if !worker.busy() {
                let engine = engine.clone();
                worker.submit(move || {
                    let module = wasmtime::Module::new(&engine, BIG).map_err(|e| format!("{e:#}"))?;
                    Ok(module.image_range().end as usize - module.image_range().start as usize)
                });
            }
            busy = true;
        }
        if moved == 0 {
            machine.idle.wait(&mut machine.nics, &machine.clock, end, busy);
        }
    }
    for nic in &mut machine.nics {
        nic.reap();
        machine.console.line(format_args!("{} {:?}", nic.place(), nic.statistics()));
    }
    machine.console.line(format_args!("slept {} times, compiled {compiled} modules", machine.idle.sleeps()));
    let lent = machine.pool.lent();
    machine.console.line(format_args!("{lent} of {} buffers lent", machine.pool.limit()));
    check(machine.nics.iter().all(|nic| nic.statistics().device_errors == 0), "device errors")
}

fn pump(from: &mut Nic, to: &mut Nic, stop: &mut bool) -> usize {
    to.reap();
    for count in 0..BURST {
        let Some(frame) = from.receive() else {
            return count;
        };
        *stop |= frame.get(12..14) == Some(&STOP);
        // A full ring loses the frame, as a wire would.
        let _ = to.transmit(frame);
    }
    BURST
}
