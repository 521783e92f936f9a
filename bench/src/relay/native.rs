//! The NodeOS row: capsules from the in-channel of one link to an out-channel of the other, in native code.

use std::io::Write;

use anyhow::{Context, Result};
use ee::config::NodeConfig;
use host::clock::Clock;
use host::link::{Batch, Link, Received};
use host::wait::{Set, exact_timers};
use nodeos::buf::BufPool;
use nodeos::channel::OutChannel;
use nodeos::link::LinkId;
use nodeos::net::Net;
use nodeos::team::TeamId;

/// How long to wait before a device that had no room is tried again.
const RETRY: std::time::Duration = std::time::Duration::from_micros(100);

/// Relays what arrives on `links` to the second neighbor of the configuration, until killed.
pub fn run(config: &NodeConfig, mut links: Vec<Link>) -> Result<()> {
    exact_timers();
    let pool = BufPool::new(usize::from(config.node.buffers));
    let mut net = Net::new(&config.links, pool.clone(), 0, nodeos::ip::StreamLimits::default())?;
    let next = config.neighbors.iter().find(|n| n.name == "next").context("there is no neighbor \"next\"")?;
    let link = net.link_named(&next.link).context("there is no link to the neighbor")?;
    let next = OutChannel { link, to: next.address };
    let (clock, mut batch, mut set) = (Clock::start(), Batch::default(), Set::default());
    links.iter().for_each(|link| set.add(link));
    println!("ready");
    std::io::stdout().flush()?;
    let mut more = vec![false; links.len()];
    loop {
        let now = clock.mono();
        for (at, link) in links.iter_mut().enumerate() {
            if set.is_ready(at) || more[at] {
                let received = link.receive(&mut batch, &pool, |frame| {
                    if let Some(received) = net.frame(now, LinkId(at as u16), frame) {
                        // A full queue has counted the drop.
                        let _ = net.send(now, TeamId::ROOT, &next, received.packet);
                    }
                });
                more[at] = received != Received::All;
            }
        }
        net.poll(now);
        let mut all_sent = true;
        for (at, link) in links.iter_mut().enumerate() {
            let mut waiting = true;
            while waiting {
                waiting = false;
                while link.has_room()
                    && let Some(frame) = net.transmit(now, LinkId(at as u16))
                {
                    link.queue(frame);
                    waiting = true;
                }
                let flushed = link.flush(&mut batch);
                all_sent &= flushed;
                waiting &= flushed;
            }
        }
        let timeout = match (more.contains(&true), all_sent) {
            (true, _) => Some(std::time::Duration::ZERO),
            (false, false) => Some(RETRY),
            (false, true) => net.deadline(now).map(|at| at.since(now)),
        };
        set.wait(timeout)?;
    }
}
