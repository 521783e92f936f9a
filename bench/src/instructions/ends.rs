//! Both neighbors of a relay whose links are protected: one seals what the relay gets, the other opens what it
//! sends. What they cost themselves is counted apart, and taken off.

use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use authagent::NoEntropy;
use authagent::keys::{NodeIdentity, SigningKey};
use authagent::link::{Link, Received, Timing};
use ee::node::Node;
use nodeos::buf::{BLOCK, BufPool};
use nodeos::link::{LinkId, Mac};
use nodeos::platform::{Entropy, Instant, Now};
use wire::ETHERTYPE;

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;
/// Rounds of a handshake, microseconds between them, and how often frames go to and fro in each.
const ROUNDS: u64 = 20;
const ROUND: u64 = 100_000;
const FLIGHTS: usize = 4;

/// When the handshakes are over.
pub const SHAKEN: Instant = Instant(ROUNDS * ROUND);

/// A signing key for each number.
pub fn key(number: u8) -> SigningKey {
    SigningKey::from_seed(&[number; 32])
}

/// A neighbor of the relay.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// Which key it has.
    pub key: u8,
    /// The relay's link that leads there.
    pub link: LinkId,
    /// Its address.
    pub mac: Mac,
    /// The relay's address on that link.
    pub relay: Mac,
}

/// The end that sends and the end that receives.
pub struct Ends {
    source: End,
    next: End,
}

impl Ends {
    /// The neighbors of a node with the key `relay`, each of which has proven to the other who it is.
    pub fn of(node: &mut Node, pool: &BufPool, relay: u8, [source, next]: [Place; 2]) -> Result<Self> {
        let mut ends = [(source, End::new(source, relay)?), (next, End::new(next, relay)?)];
        for now in (0..ROUNDS).map(|round| Instant(round * ROUND)) {
            let mut came = [Vec::new(), Vec::new()];
            for _ in 0..FLIGHTS {
                for ((place, end), came) in ends.iter_mut().zip(&mut came) {
                    for frame in end.step(now, std::mem::take(came))? {
                        let frame = pool.copy_of(&frame).context("no packet buffer is left")?;
                        node.frame(Now::mono(now), place.link, frame);
                    }
                }
                node.poll(Now::mono(now));
                while let Some(job) = node.job() {
                    node.job_done(Now::mono(now), job.run());
                }
                node.poll(Now::mono(now));
                for ((place, _), came) in ends.iter().zip(&mut came) {
                    let sent = || node.transmit(Now::mono(now), place.link).map(|frame| frame.to_vec());
                    came.extend(std::iter::from_fn(sent));
                }
            }
        }
        Self::ready(ends.map(|(_, end)| end))
    }

    /// Two that are each other's neighbor: what they cost without a relay between them.
    pub fn alone([source, next]: [Place; 2]) -> Result<Self> {
        let mut ends = [End::new(source, next.key)?, End::new(next, source.key)?];
        for now in (0..ROUNDS).map(|round| Instant(round * ROUND)) {
            let mut frames = Vec::new();
            for _ in 0..FLIGHTS {
                for end in &mut ends {
                    frames = end.step(now, frames)?;
                }
            }
        }
        Self::ready(ends)
    }

    fn ready([source, next]: [End; 2]) -> Result<Self> {
        ensure!(source.link.is_up() && next.link.is_up(), "a handshake does not end");
        Ok(Self { source, next })
    }

    /// Puts the source's frame with the packet of `frame` sealed in it into `out`.
    pub fn seal(&mut self, now: Instant, frame: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let (header, packet) = frame.split_at(ETHERNET);
        let len =
            self.source.link.seal(now.micros(), packet, &mut self.source.scratch).context("not sealed")?;
        out.clear();
        out.extend_from_slice(header);
        out.extend_from_slice(&self.source.scratch[..len]);
        Ok(())
    }

    /// The packet in a sealed frame that arrives at the other end.
    pub fn open(&mut self, now: Instant, frame: &[u8]) -> Result<&[u8]> {
        let Some(sealed) = frame.get(ETHERNET..) else { bail!("a frame without a header") };
        match self.next.link.received(now.micros(), sealed, &random, &mut self.next.scratch) {
            Ok(Received::Packet(len)) => Ok(&self.next.scratch[..len]),
            other => bail!("no packet came: {other:?}"),
        }
    }
}

/// One neighbor.
struct End {
    link: Link,
    header: [u8; ETHERNET],
    scratch: Vec<u8>,
}

impl End {
    fn new(own: Place, peer: u8) -> Result<Self> {
        let fail = |NoEntropy| anyhow::anyhow!("there are no random bytes");
        let identity = NodeIdentity::new(key(own.key), &random).map_err(fail)?;
        let peer = key(peer).public();
        let link = Link::new(Arc::new(identity), peer, false, Timing::default(), &random).map_err(fail)?;
        let mut header = [0; ETHERNET];
        header[..6].copy_from_slice(&own.relay.0);
        header[6..12].copy_from_slice(&own.mac.0);
        header[12..].copy_from_slice(&ETHERTYPE.to_be_bytes());
        Ok(Self { link, header, scratch: vec![0; BLOCK] })
    }

    /// Takes handshake frames, gives those that come of them.
    fn step(&mut self, now: Instant, came: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>> {
        for frame in came {
            let packet = frame.get(ETHERNET..).context("a frame without a header")?;
            // What comes out of turn is refused, and comes again.
            let _ = self.link.received(now.micros(), packet, &random, &mut self.scratch);
            self.work(now);
        }
        self.work(now);
        let frames = std::iter::from_fn(|| self.link.output());
        Ok(frames.map(|packet| [&self.header[..], &packet].concat()).collect())
    }

    fn work(&mut self, now: Instant) {
        self.link.poll(now.micros(), &random);
        while let Some(task) = self.link.task() {
            let _ = self.link.finished(now.micros(), task.run());
            self.link.poll(now.micros(), &random);
        }
    }
}

fn random(out: &mut [u8]) -> Result<(), NoEntropy> {
    host::entropy::Kernel.fill(out).map_err(|_| NoEntropy)
}
