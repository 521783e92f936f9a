//! Who is still there: pokes to watched neighbors, answers to theirs, and who is told of a death.
//!
//! The machine is [`crate::system::liveness`]. What the operator watches is told to the Auth Agent, the log and
//! programs (`bees neighbor watch`); what a flow watches, to that flow. Being dead changes nothing about what is sent
//! to a neighbor: that is for those to decide who are told.

use std::collections::VecDeque;
use std::time::Duration;

use authagent::agent::AgentEvent;
use nodeos::account::Charge;
use nodeos::config::LivenessConfig;
use nodeos::platform::{Instant, Now};
use nodeos::slab::Handle;
use nodeos::team::TeamId;
use nodeos::units::Time;
use wire::control::{Alive, NeighborEvent, NeighborNews};
use wire::system::{Poke, REQUEST, RESPONSE, decode, encode, liveness_id};

use super::Node;
use super::charge::Labour;
use crate::config::NodeConfig;
use crate::counters::Count;
use crate::neighbor::{Guard, NeighborId};
use crate::sandbox::Event;
use crate::system::liveness::{Due, USUAL, Watcher};

/// Happenings that are remembered for programs.
const MAX_EVENTS: usize = 64;

/// What happened to neighbors, for programs.
#[derive(Debug, Default)]
pub(super) struct News {
    list: VecDeque<NeighborEvent>,
    numbered: u64,
}

impl News {
    pub(super) fn enter(&mut self, now: Now, name: &str, news: NeighborNews) {
        if self.list.len() == MAX_EVENTS {
            self.list.pop_front();
        }
        let (number, at_us) = (self.numbered, now.mono.micros());
        self.list.push_back(NeighborEvent { number, at_us, name: name.into(), news });
        self.numbered += 1;
    }

    /// Those with a number of at least `from`, oldest first.
    pub(super) fn since(&self, from: u64) -> Vec<NeighborEvent> {
        self.list.iter().filter(|event| event.number >= from).cloned().collect()
    }
}

impl Node {
    /// Begins to watch the neighbors whose configuration, or whose link's, says so.
    pub(super) fn watch_neighbors(&mut self, now: Now, config: &NodeConfig) {
        for (neighbor, id) in config.neighbors.iter().zip(self.neighbors.ids()) {
            let link = config.links.iter().find(|link| link.name == neighbor.link);
            if let Some(how) = neighbor.liveness.or(link.and_then(|link| link.liveness)) {
                self.neighbors[id].liveness = Some(how);
                self.liveness.watch(now.mono, id, Watcher::Node, &how, None);
            }
        }
    }

    /// A flow's protocol wants to know whether a neighbor is there; with times of 0 as the operator does.
    pub(super) fn watch_for(
        &mut self,
        now: Now,
        neighbor: NeighborId,
        by: Watcher,
        (poke_ms, expire_ms): (u32, u32),
        charge: Charge,
    ) {
        let millis = |ms: u32| Time(Duration::from_millis(ms.into()));
        let how = match (poke_ms, expire_ms) {
            (0, 0) => self.neighbors[neighbor].liveness.unwrap_or(USUAL),
            _ => LivenessConfig { poke: millis(poke_ms), expire: millis(expire_ms) },
        };
        self.liveness.watch(now.mono, neighbor, by, &how, Some(charge));
    }

    /// Pokes whom it is time to poke, and tells of deaths and returns.
    pub(super) fn liveness_due(&mut self, now: Now) {
        let proven = |neighbors: &crate::neighbor::Neighbors, id| -> Option<Instant> {
            let neighbor = &neighbors[id];
            let proves = matches!(&neighbor.guard, Guard::Sealed(link) if link.is_up());
            neighbor.last_heard.filter(|_| proves)
        };
        while let Some(due) = self.liveness.due(now.mono, |id| proven(&self.neighbors, id)) {
            match due {
                Due::Poke(neighbor, Watcher::Flow { flow, .. }) => {
                    self.work_for(flow, Labour::Serve, |node| node.poke_for(now, flow, neighbor));
                }
                Due::Poke(neighbor, Watcher::Node) => self.poke(now, TeamId::ROOT, neighbor),
                Due::Tell(neighbor, Watcher::Node, up) => self.neighbor_is(now, neighbor, up),
                Due::Tell(neighbor, by @ Watcher::Flow { flow, protocol }, up) => {
                    let news = if up { NeighborNews::Alive } else { NeighborNews::Dead };
                    let event = Event::Neighbor { protocol, id: neighbor, news };
                    if !self.has_room(flow) || !self.push_event(flow, event) {
                        self.liveness.tell_again(now.mono, neighbor, by);
                    }
                }
            }
        }
    }

    /// Pokes a neighbor if the flow that wants it can pay for the frame.
    fn poke_for(&mut self, now: Now, flow: Handle, to: NeighborId) {
        let Some((_, team)) = self.flow_and_team(flow) else { return };
        let neighbor = &self.neighbors[to];
        let bytes = POKE + usize::from(neighbor.overhead);
        let (link, bytes) = (neighbor.out.link, bytes.max(neighbor.shortest_frame().into()));
        if self.teams.get(team).is_some_and(|member| member.bandwidth().take(now.mono, link, bytes)) {
            self.poke(now, team, to);
        }
    }

    fn poke(&mut self, now: Now, team: TeamId, to: NeighborId) {
        let nonce = self.next_long_nonce();
        let buf = self.platform.buffers.copy_of(&encode(&Poke { nonce }));
        let sent =
            buf.is_some_and(|buf| self.send_padded(now, team, to, &liveness_id(REQUEST), None, buf, 0));
        self.counters.add(if sent { Count::SystemSent } else { Count::SendDropped });
        // Where nothing passes nobody is heard.
        if sent || matches!(self.neighbors[to].guard, Guard::Closed) {
            self.liveness.poked(now.mono, to, nonce);
        }
    }

    /// A neighbor wants to know whether this node is there: the poke goes back as it came.
    pub(super) fn poked(&mut self, now: Now, from: NeighborId, payload: &[u8]) {
        if decode::<Poke>(payload).is_none() {
            return self.system_malformed(from);
        }
        let neighbor = &mut self.neighbors[from];
        if neighbor.pokes.take(now.mono, 1) {
            self.send_system(now, from, &liveness_id(RESPONSE), payload);
        } else {
            neighbor.refused += 1;
            self.counters.add(Count::PokesLimited);
        }
    }

    /// A poke of this node came back.
    pub(super) fn poke_returned(&mut self, now: Now, from: NeighborId, payload: &[u8]) {
        let Some(poke) = decode::<Poke>(payload) else { return self.system_malformed(from) };
        if !self.liveness.returned(now.mono, from, poke.nonce) {
            self.counters.add(Count::Unasked);
        }
    }

    /// A neighbor that the operator watches died, or returned.
    fn neighbor_is(&mut self, now: Now, id: NeighborId, up: bool) {
        let name = self.neighbors[id].name.clone();
        let news = if up { NeighborNews::Alive } else { NeighborNews::Dead };
        self.news.enter(now, &name, news);
        self.log_limited(now, || {
            format!("{name} {}", if up { "answers again" } else { "does not answer any more" })
        });
        if !up {
            self.counters.add(Count::NeighborsDown);
            return self.tell_agent(now, AgentEvent::NeighborDown { name: &name });
        }
        let identity = match &self.neighbors[id].guard {
            Guard::Sealed(link) if link.is_up() => Some(link.peer()),
            Guard::None => None,
            // The agent learns of it when it has proven who it is.
            _ => return,
        };
        self.tell_agent(now, AgentEvent::NeighborUp { name: &name, identity });
    }

    /// What clients are told of a neighbor that is watched.
    pub(super) fn alive(&self, now: Now, id: NeighborId) -> Option<Alive> {
        let state = self.liveness.state(id)?;
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        Some(Alive {
            up: state.up,
            since_us: micros(now.mono.since(state.since)),
            rtt_us: state.rtt.map(micros),
        })
    }
}

/// Bytes of a poke's payload.
const POKE: usize = size_of::<Poke>();
