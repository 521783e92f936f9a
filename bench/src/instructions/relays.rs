//! The relays whose instructions are counted, on links in memory.

use std::fmt;

use anyhow::{Context, Result, ensure};
use ee::config::NodeConfig;
use ee::node::Node;
use nodeos::buf::{Buf, BufPool};
use nodeos::channel::OutChannel;
use nodeos::ip::StreamLimits;
use nodeos::link::{LinkId, Mac};
use nodeos::net::Net;
use nodeos::platform::{Instant, Now};
use nodeos::team::TeamId;
use serde::{Deserialize, Serialize};
use wire::capsule::HEADER_LEN;
use wire::control::FlowState;

use super::ends::{Ends, Place, SHAKEN, key};
use crate::flow::RelayFlow;
use crate::hop::{flow_info, inject, platform};
use crate::relay::frames::{CAPSULE_PAYLOAD, capsule, payload};
use crate::relay::rows::{HOSTED_EVENT, node_configuration};

const IN: LinkId = LinkId(0);
const OUT: LinkId = LinkId(1);
const SOURCE_MAC: Mac = Mac([2, 0, 0, 0, 1, 1]);
const IN_MAC: Mac = Mac([2, 0, 0, 0, 2, 1]);
const OUT_MAC: Mac = Mac([2, 0, 0, 0, 2, 2]);
const NEXT_MAC: Mac = Mac([2, 0, 0, 0, 3, 1]);
const RELAY_KEY: u8 = 1;
const PLACES: [Place; 2] = [
    Place { key: 2, link: IN, mac: SOURCE_MAC, relay: IN_MAC },
    Place { key: 3, link: OUT, mac: NEXT_MAC, relay: OUT_MAC },
];
/// Frames that arrive together where not one at a time.
const BURST: u64 = 32;
/// Microseconds between two capsules: 100,000 a second.
const INTERVAL: u64 = 10;

/// A relay on links in memory.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// NodeOS: in-channel to out-channel, in bursts.
    Native,
    /// The full node, in bursts.
    Bees,
    /// The full node, one capsule at a time.
    BeesSingle,
    /// The full node, in bursts, on protected links: what it gets is sealed, and so is what it sends.
    BeesProtected,
    /// No relay: what the neighbors of the protected one do, sealing and opening, which is not its cost.
    #[value(hide = true)]
    Ends,
}

impl Kind {
    /// All relays.
    pub const ALL: [Self; 4] = [Self::Native, Self::Bees, Self::BeesSingle, Self::BeesProtected];

    /// What is counted with it and is not its own.
    pub fn aside(self) -> Option<Self> {
        (self == Self::BeesProtected).then_some(Self::Ends)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Bees => "bees",
            Self::BeesSingle => "bees-single",
            Self::BeesProtected => "bees-protected",
            Self::Ends => "ends",
        })
    }
}

/// Relays `capsules` capsules and checks that each came out as it should.
pub fn relay(kind: Kind, capsules: u64, payload_len: usize) -> Result<()> {
    let config = configuration(kind == Kind::BeesProtected)?;
    let flow = RelayFlow::new()?;
    let frame = capsule(&payload(payload_len, 0), &flow.id, SOURCE_MAC, IN_MAC)?;
    let wanted = payload(payload_len, u64::from(kind != Kind::Native));
    let pool = BufPool::new(usize::from(config.node.buffers));
    let burst = if kind == Kind::BeesSingle { 1 } else { BURST };
    let mut relay = match kind {
        Kind::Native => Relay::native(&config, pool.clone())?,
        Kind::Bees | Kind::BeesSingle | Kind::BeesProtected => Relay::bees(&config, pool.clone(), &flow)?,
        Kind::Ends => return ends_alone(capsules, &frame),
    };
    let mut ends = match (&mut relay, kind) {
        (Relay::Bees(node), Kind::BeesProtected) => Some(Ends::of(node, &pool, RELAY_KEY, PLACES)?),
        _ => None,
    };
    let (mut came, mut sealed, mut now) = (0, Vec::new(), SHAKEN);
    while came < capsules {
        let before = came;
        for _ in 0..burst {
            now.0 += INTERVAL;
            let frame = match &mut ends {
                None => &frame[..],
                Some(ends) => {
                    ends.seal(now, &frame, &mut sealed)?;
                    &sealed
                }
            };
            let buf = pool.copy_of(frame).context("no packet buffer is left")?;
            relay.frame(now, buf);
        }
        while relay.poll(now) {}
        while let Some(sent) = relay.transmit(now) {
            let payload = match &mut ends {
                None => sent.get(CAPSULE_PAYLOAD..),
                Some(ends) => ends.open(now, &sent)?.get(HEADER_LEN..),
            };
            ensure!(payload == Some(&wanted[..]), "a wrong capsule came out");
            came += 1;
        }
        ensure!(came == before + burst, "{burst} capsules went in, {} came out", came - before);
    }
    Ok(())
}

/// What the neighbors of a protected relay do.
fn ends_alone(capsules: u64, frame: &[u8]) -> Result<()> {
    let (mut ends, mut sealed, mut now) = (Ends::alone(PLACES)?, Vec::new(), SHAKEN);
    for _ in 0..capsules {
        now.0 += INTERVAL;
        ends.seal(now, frame, &mut sealed)?;
        ensure!(
            ends.open(now, &sealed)? == &frame[CAPSULE_PAYLOAD - HEADER_LEN..],
            "a wrong packet came out"
        );
    }
    Ok(())
}

fn configuration(protected: bool) -> Result<NodeConfig> {
    let mut text = node_configuration(
        "relay",
        &[("in", IN_MAC), ("out", OUT_MAC)],
        &[("source", "in", SOURCE_MAC), ("next", "out", NEXT_MAC)],
    );
    if protected {
        let own = format!("[node]\nidentity = \"{}\"", *key(RELAY_KEY).to_hex());
        text = text.replace("[node]", &own);
        for place in PLACES {
            let mac = format!("mac = \"{}\"", place.mac);
            text = text.replace(&mac, &format!("{mac}\nkey = \"{}\"", key(place.key).public()));
        }
    }
    // Under valgrind everything takes fifty times as long.
    Ok(NodeConfig::parse(&text.replace(HOSTED_EVENT, "1s"))?)
}

/// What is counted.
enum Relay {
    Native(Box<Net>, OutChannel),
    Bees(Box<Node>),
}

impl Relay {
    fn native(config: &NodeConfig, pool: BufPool) -> Result<Self> {
        let net = Net::new(&config.links, pool, 0, StreamLimits::default())?;
        let next = config.neighbors.iter().find(|n| n.name == "next").context("no neighbor \"next\"")?;
        Ok(Self::Native(Box::new(net), OutChannel { link: OUT, to: next.address }))
    }

    fn bees(config: &NodeConfig, pool: BufPool, flow: &RelayFlow) -> Result<Self> {
        let now = Now::mono(Instant::ZERO);
        let mut node = Node::new(config, platform(pool)?, now)?;
        inject(&mut node, now, flow)?;
        while let Some(job) = node.job() {
            node.job_done(now, job.run());
        }
        while node.poll(now) {}
        let state = flow_info(&mut node, now, flow)?.state;
        ensure!(state == FlowState::Running, "the flow does not run: {state:?}");
        while node.log_line().is_some() {}
        Ok(Self::Bees(Box::new(node)))
    }

    #[inline]
    fn frame(&mut self, now: Instant, frame: Buf) {
        match self {
            Self::Native(net, next) => {
                if let Some(received) = net.frame(now, IN, frame) {
                    // What is not sent is missed at the end.
                    let _ = net.send(now, TeamId::ROOT, next, received.packet);
                }
            }
            Self::Bees(node) => node.frame(Now::mono(now), IN, frame),
        }
    }

    #[inline]
    fn poll(&mut self, now: Instant) -> bool {
        match self {
            Self::Native(net, _) => {
                net.poll(now);
                false
            }
            Self::Bees(node) => node.poll(Now::mono(now)),
        }
    }

    #[inline]
    fn transmit(&mut self, now: Instant) -> Option<Buf> {
        match self {
            Self::Native(net, _) => net.transmit(now, OUT),
            Self::Bees(node) => node.transmit(Now::mono(now), OUT),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_relay_relays() {
        for kind in Kind::ALL.into_iter().chain([Kind::Ends]) {
            for len in [0, 64, 1400] {
                relay(kind, 100, len).unwrap();
            }
        }
    }
}
