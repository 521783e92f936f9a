//! The node in the middle, and the ends of its links: all that the measurement sends and receives, in one
//! thread that has a processor of its own.
//!
//! Victims are two flows on the node. A ping goes from a to c, and what comes to c goes back after the time that
//! two links would have it: how long the node took in each direction is what counts. The relayed flow goes from a to c: at a steady rate
//! beside the pings, or as fast as the node takes it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use authagent::keys::SigningKey;
use client::lab::wire::gateway::Ends;
use host::link::{Batch, Link, Received};
use nodeos::buf::BufPool;
use nodeos::link::Mac;
use wire::capsule::Capsule;
use wire::control::{Answer, FlowState, Request};
use wire::id::{CapsuleId, TupleHash};

use super::attack::Attack;
use super::desk::Desk;
use super::flows::{BACK, Guest, THERE, TIME, victim};
use super::node::{ADDRESS, ADMIN_SEED, CARDS, Node, PEERS, Place};
use crate::relay::frames::capsule;

/// Ends of links, by position.
pub const A: usize = 0;
/// The other end of the victims.
pub const C: usize = 1;
/// Where attacks from a link come from.
pub const D: usize = 2;
const ETHERNET: usize = 14;
/// Bytes of the victims' payloads.
const PAYLOAD: usize = 64;
/// Relayed capsules on their way at a time when the node is to take as many as it can.
const WINDOW: u64 = 56;
/// Between a ping's coming to c and its going back: two milliseconds, and a part of one that varies, so that
/// the answer does not keep step with what the node does.
const AWAY: (Duration, f64) = (Duration::from_millis(2), 1000.0);
/// Without an answer for so long the window opens again.
const STUCK: Duration = Duration::from_millis(200);
/// How long a capsule may take before it counts as lost.
const LATE: Duration = Duration::from_millis(1500);
/// How long the node may take for what is not measured.
const PATIENCE: Duration = Duration::from_secs(60);

/// Everything.
pub struct World {
    node: Node,
    ends: [Link; 3],
    /// The node's operator, and whoever else comes over the management link.
    pub desk: Desk,
    /// Packet buffers of the ends.
    pub pool: BufPool,
    batch: Batch,
    ping: [CapsuleId; 2],
    relay: CapsuleId,
    time: CapsuleId,
    phase: u32,
    pings: Vec<Ping>,
    /// Those that are at c, and when they go back.
    away: VecDeque<(Instant, u32)>,
    relayed: u64,
    longest: Option<Duration>,
    random: u64,
}

#[derive(Debug, Clone, Copy)]
struct Ping {
    sent: Instant,
    there: Option<Instant>,
    /// When it went back.
    again: Option<Instant>,
    back: Option<Instant>,
}

/// What a phase showed.
#[derive(Debug, Clone, Default)]
pub struct Phase {
    /// Victims' capsules that were sent: pings, those in return, and relayed ones.
    pub sent: u64,
    /// Of them lost.
    pub lost: u64,
    /// How long the node had each ping, in microseconds, in order of size.
    pub transits: Vec<f64>,
    /// Relayed capsules per second, when it took all that it could.
    pub rate: f64,
    /// How long a turn of the measuring loop took, in microseconds, in order of size: no time is known better.
    pub turns: Vec<f64>,
}

/// How long the phases are, and what is sent in them.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Length of a phase.
    pub phase: Duration,
    /// Pings, and relayed capsules, per second.
    pub rate: f64,
}

impl World {
    /// Starts the node on processor `cpu`, with the victims; the caller runs on `home`.
    pub fn start(place: &Place, event: Duration, cpu: usize, home: usize) -> Result<Self> {
        let mut node = Node::start(place, event, cpu, home)?;
        let ends = [node.link(1)?, node.link(2)?, node.link(3)?];
        let gateway = Ends {
            gateway_mac: sim::lab::GATEWAY_MAC,
            gateway: sim::lab::GATEWAY,
            node_mac: CARDS[0].0,
            node: ADDRESS.into(),
        };
        let link = node.link(0)?;
        node.wait()?;
        let desk = Desk::new(link, gateway, SigningKey::from_seed(&ADMIN_SEED))?;
        let (ping, relay) = (victim("ping")?, victim("relay")?);
        let mut world = Self {
            node,
            ends,
            desk,
            pool: BufPool::new(4096),
            batch: Batch::default(),
            ping: [ping.id(THERE), ping.id(BACK)],
            relay: relay.id(THERE),
            time: ping.id(TIME),
            phase: 0,
            pings: Vec::new(),
            away: VecDeque::new(),
            relayed: 0,
            longest: None,
            random: 0x9e37_79b9_7f4a_7c15,
        };
        world.until("the node lets nobody in", |world| world.desk.entered())?;
        for guest in [ping, relay] {
            world.run_flow(&guest)?;
        }
        Ok(world)
    }

    /// What the node said last.
    pub fn last_words(&mut self) -> String {
        self.node.last_words()
    }

    /// Injects a flow and waits until it runs.
    pub fn run_flow(&mut self, guest: &Guest) -> Result<()> {
        self.desk.inject(guest)?;
        let start = Instant::now();
        loop {
            match self.state(&guest.hash)? {
                Some(FlowState::Running) => return Ok(()),
                Some(FlowState::Ended(why)) => bail!("the flow ended: {why}"),
                _ => ensure!(start.elapsed() < PATIENCE, "the flow does not start"),
            }
        }
    }

    fn state(&mut self, flow: &TupleHash) -> Result<Option<FlowState>> {
        match self.asked(&Request::FlowShow { from: 0 })? {
            Answer::Flows(page) => {
                Ok(page.items.into_iter().find(|f| f.hash == *flow).map(|info| info.state))
            }
            other => bail!("unexpected answer: {other:?}"),
        }
    }

    /// Everything that the node counts, and its flows.
    pub fn counters(&mut self) -> Result<Vec<(String, u64)>> {
        match self.asked(&Request::NodeShow)? {
            Answer::Node(info) => Ok(info.counters.into_iter().map(|c| (c.name, c.value)).collect()),
            other => bail!("unexpected answer: {other:?}"),
        }
    }

    /// Asks, and waits for the answer behind those to what was asked before.
    pub fn asked(&mut self, request: &Request) -> Result<Answer> {
        self.desk.ask(request)?;
        self.until("the node does not answer", |world| world.desk.waiting() == 0)?;
        let mut last = None;
        while let Some(answer) = self.desk.answer() {
            if let Answer::Error(error) = &answer {
                bail!("the node refuses: {error}");
            }
            last = Some(answer);
        }
        last.context("there is no answer")
    }

    /// Waits until everything that was asked is answered.
    pub fn calm(&mut self) -> Result<()> {
        self.until("the node does not answer", |world| {
            while world.desk.answer().is_some() {}
            world.desk.waiting() == 0
        })
    }

    /// How long a guest needs for the longest host call on this node: the median of several.
    pub fn longest_call(&mut self) -> Result<Duration> {
        let mut times = Vec::new();
        for _ in 0..9 {
            self.longest = None;
            self.send(A, &capsule(&[0; PAYLOAD], &self.time, PEERS[A], CARDS[1])?)?;
            self.until("the node does not say how long a call takes", |world| world.longest.is_some())?;
            times.extend(self.longest);
        }
        times.sort_unstable();
        // The guest asks for an eighth of the longest.
        Ok(times[times.len() / 2] * 8)
    }

    fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) -> Result<()> {
        let start = Instant::now();
        while !done(self) {
            ensure!(start.elapsed() < PATIENCE, "{what}:\n{}", self.last_words());
            self.turn()?;
        }
        Ok(())
    }

    /// Lets time pass, with or without an attack.
    pub fn pass(&mut self, time: Duration, mut attack: Option<&mut (dyn Attack + '_)>) -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < time {
            self.step(&mut attack)?;
        }
        Ok(())
    }

    /// Measures, with or without an attack.
    pub fn measure(&mut self, pace: &Pace, mut attack: Option<&mut (dyn Attack + '_)>) -> Result<Phase> {
        let mut phase = Phase::default();
        self.steady(pace, &mut attack, &mut phase)?;
        phase.rate = self.saturate(pace.phase.mul_f64(0.4), &mut attack)?;
        Ok(phase)
    }

    /// Pings and a steady stream.
    fn steady(
        &mut self,
        pace: &Pace,
        attack: &mut Option<&mut (dyn Attack + '_)>,
        phase: &mut Phase,
    ) -> Result<()> {
        self.begin();
        let (start, time) = (Instant::now(), pace.phase.mul_f64(0.6));
        let (mut next_ping, mut next_relay) = (start, start);
        let mut offered = 0;
        let mut turn = start;
        while start.elapsed() < time {
            let now = Instant::now();
            phase.turns.push((now - turn).as_secs_f64() * 1e6);
            turn = now;
            if now >= next_ping {
                let number = self.pings.len() as u32;
                self.pings.push(Ping { sent: now, there: None, again: None, back: None });
                self.victim(A, self.ping[0], number)?;
                next_ping = now + self.interval(pace.rate);
            }
            if now >= next_relay {
                self.victim(A, self.relay, offered as u32)?;
                offered += 1;
                next_relay = now + self.interval(pace.rate);
            }
            self.step(attack)?;
        }
        let last = Instant::now();
        let complete = |world: &Self| {
            world.relayed == offered && world.pings.iter().all(|p| p.there.is_some() && p.back.is_some())
        };
        while !complete(self) && last.elapsed() < LATE {
            self.step(attack)?;
        }
        let (there, back) = self.pings.iter().fold((0, 0), |(there, back), ping| {
            (there + u64::from(ping.there.is_some()), back + u64::from(ping.back.is_some()))
        });
        let pings = self.pings.len() as u64;
        // What did not come to c was never sent back.
        phase.sent += pings + there + offered;
        phase.lost += pings - there + (there - back) + offered.saturating_sub(self.relayed);
        for ping in &self.pings {
            let micros = |from: Instant, to: Instant| (to - from).as_secs_f64() * 1e6;
            if let Some(there) = ping.there {
                phase.transits.push(micros(ping.sent, there));
                phase.transits.extend(ping.again.zip(ping.back).map(|(again, back)| micros(again, back)));
            }
        }
        phase.transits.sort_unstable_by(f64::total_cmp);
        phase.turns.sort_unstable_by(f64::total_cmp);
        Ok(())
    }

    /// As many relayed capsules as the node takes; how many came out in a second.
    fn saturate(&mut self, time: Duration, attack: &mut Option<&mut (dyn Attack + '_)>) -> Result<f64> {
        self.begin();
        let start = Instant::now();
        let (mut sent, mut seen, mut at) = (0, 0, start);
        while start.elapsed() < time {
            if self.relayed != seen {
                (seen, at) = (self.relayed, Instant::now());
            } else if at.elapsed() > STUCK {
                (sent, at) = (self.relayed, Instant::now());
            }
            while sent < self.relayed + WINDOW && self.ends[A].has_room() {
                self.victim(A, self.relay, sent as u32)?;
                sent += 1;
            }
            self.step(attack)?;
        }
        let rate = self.relayed as f64 / start.elapsed().as_secs_f64();
        while self.relayed < sent && at.elapsed() < STUCK {
            self.step(attack)?;
        }
        Ok(rate)
    }

    fn begin(&mut self) {
        self.phase += 1;
        self.pings.clear();
        self.away.clear();
        self.relayed = 0;
    }

    /// Times between two of a victim's capsules vary, so that they do not keep step with an attack.
    fn interval(&mut self, rate: f64) -> Duration {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let part = (self.random >> 11) as f64 / (1u64 << 53) as f64;
        Duration::from_secs_f64((0.5 + part) / rate)
    }

    fn step(&mut self, attack: &mut Option<&mut (dyn Attack + '_)>) -> Result<()> {
        self.turn()?;
        if let Some(attack) = attack {
            attack.step(self)?;
        }
        Ok(())
    }

    /// Takes everything that came, and sends what waits.
    pub fn turn(&mut self) -> Result<()> {
        let mut came = Vec::new();
        for at in [A, C, D] {
            let (pings, relayed, longest) = (&mut self.pings, &mut self.relayed, &mut self.longest);
            let (ping, relay, time, phase) = (&self.ping, &self.relay, &self.time, self.phase);
            let mut take = |frame: nodeos::buf::Buf| {
                let Some(packet) = frame.get(ETHERNET..) else { return };
                let Ok(capsule) = Capsule::parse(packet) else { return };
                let payload = packet.get(capsule.payload_at..).and_then(<[u8]>::first_chunk::<8>);
                let Some(number) = payload.map(|bytes| u64::from_le_bytes(*bytes)) else { return };
                if at == A && capsule.id == *time {
                    *longest = Some(Duration::from_micros(number));
                    return;
                }
                let (of, number) = ((number >> 32) as u32, number as u32);
                if of != phase {
                    return;
                }
                let entry = pings.get_mut(number as usize);
                if at == C && capsule.id == *relay {
                    *relayed += 1;
                } else if at == C && capsule.id == ping[0] {
                    if let Some(entry) = entry.filter(|p| p.there.is_none()) {
                        entry.there = Some(Instant::now());
                        came.push(number);
                    }
                } else if at == A
                    && capsule.id == ping[1]
                    && let Some(entry) = entry
                {
                    entry.back.get_or_insert_with(Instant::now);
                }
            };
            while self.ends[at].receive(&mut self.batch, &self.pool, &mut take) == Received::More {}
        }
        for number in came {
            let (least, more) = AWAY;
            let due = Instant::now() + least + self.interval(more);
            self.away.push_back((due, number));
        }
        // Not quite in order of their times, but each after its own.
        while let Some((_, number)) = self.away.pop_front_if(|(due, _)| *due <= Instant::now()) {
            if let Some(ping) = self.pings.get_mut(number as usize) {
                ping.again = Some(Instant::now());
            }
            self.victim(C, self.ping[1], number)?;
        }
        for link in &mut self.ends {
            link.flush(&mut self.batch);
        }
        self.desk.serve(&self.pool, &mut self.batch)
    }

    fn victim(&mut self, from: usize, id: CapsuleId, number: u32) -> Result<()> {
        let mut payload = [0x5a; PAYLOAD];
        let tag = u64::from(self.phase) << 32 | u64::from(number);
        payload[..8].copy_from_slice(&tag.to_le_bytes());
        let frame = self.frame(from, &id, &payload)?;
        self.send(from, &frame)
    }

    /// A capsule from an end to the node.
    pub fn frame(&self, from: usize, id: &CapsuleId, payload: &[u8]) -> Result<Vec<u8>> {
        let (from, to): (Mac, Mac) = (PEERS[from], CARDS[from + 1]);
        capsule(payload, id, from, to)
    }

    /// Queues a frame at an end and sends what its socket takes.
    fn send(&mut self, from: usize, frame: &[u8]) -> Result<()> {
        self.ends[from].queue(self.pool.copy_of(frame).context("no packet buffer")?);
        self.ends[from].flush(&mut self.batch);
        Ok(())
    }

    /// Sends frames from an end until its socket has no room, up to `most`; how many were sent.
    pub fn flood(&mut self, from: usize, frames: &[Vec<u8>], most: usize) -> Result<usize> {
        let mut sent = 0;
        // What a full socket left over goes first.
        if !self.ends[from].flush(&mut self.batch) {
            return Ok(0);
        }
        while sent < most {
            let frame = &frames[sent % frames.len()];
            self.send(from, frame)?;
            sent += 1;
            if !self.ends[from].flush(&mut self.batch) {
                break;
            }
        }
        Ok(sent)
    }
}
