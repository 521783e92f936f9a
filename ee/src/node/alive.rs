//! Who is still there: pokes to watched neighbors, answers to theirs, and who is told of a death.
//!
//! The machine is [`crate::system::liveness`]. What the operator watches is told to the Auth Agent, the log and
//! programs (`bees neighbor watch`); what a flow watches, to that flow; and what a program watches with times of its own,
//! to that program, for as long as it goes on asking. Being dead changes nothing about what is sent to a neighbor: that is
//! for those to decide who are told.

use std::collections::VecDeque;
use std::time::Duration;

use authagent::agent::AgentEvent;
use nodeos::account::Charge;
use nodeos::config::LivenessConfig;
use nodeos::platform::{Instant, Now};
use nodeos::slab::Handle;
use nodeos::team::TeamId;
use nodeos::units::Time;
use wire::control::{Alive, Answer, Erred, NeighborEvent, NeighborNews};
use wire::system::{Poke, REQUEST, RESPONSE, decode, encode, liveness_id};

use super::Node;
use super::charge::Labour;
use super::discover::MAX_FOUND;
use super::manage::failed;
use crate::config::NodeConfig;
use crate::counters::Count;
use crate::guest::cap::WATCH_BYTES;
use crate::neighbor::{Guard, NeighborId};
use crate::sandbox::Event;
use crate::system::liveness::{Due, State, USUAL, Watcher};

/// Happenings that are remembered for programs.
const MAX_EVENTS: usize = 64;
/// Programs that watch with times of their own.
const MAX_PROGRAMS: usize = 8;
/// What each of them takes beside its watches.
const PROGRAM_BYTES: u64 = (size_of::<Program>() + MAX_EVENTS * (size_of::<NeighborEvent>() + 64)) as u64;
/// How long one is waited for that asks nothing.
const LEASE: Duration = Duration::from_secs(10);

/// What happened to neighbors, for programs.
#[derive(Debug, Default)]
pub(super) struct News {
    list: VecDeque<NeighborEvent>,
    numbered: u64,
}

/// The programs that watch with times of their own.
#[derive(Debug)]
pub(super) struct Programs {
    list: [Option<Box<Program>>; MAX_PROGRAMS],
    /// When the first of them may have gone.
    ends: Option<Instant>,
    /// Numbers of what they were told; none comes again when one of them does.
    numbered: u64,
    /// The shortest time between pokes that flows and programs may have.
    least: Duration,
}

#[derive(Debug)]
struct Program {
    principal: Box<str>,
    how: LivenessConfig,
    until: Instant,
    news: News,
    _charge: Charge,
}

impl Programs {
    /// None; `least`: the shortest time between pokes.
    pub(super) fn new(least: Duration) -> Self {
        Self { list: [const { None }; MAX_PROGRAMS], ends: None, numbered: 0, least }
    }

    fn enter(&mut self, now: Now, at: u8, name: &str, news: NeighborNews) {
        if let Some(Some(program)) = self.list.get_mut(usize::from(at)) {
            program.news.numbered = self.numbered;
            program.news.enter(now, name, news);
            self.numbered += 1;
        }
    }

    fn plan(&mut self) {
        self.ends = self.list.iter().flatten().map(|program| program.until).min();
    }
}

impl News {
    fn enter(&mut self, now: Now, name: &str, news: NeighborNews) {
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

    /// Something happened to a neighbor that programs are told of, whatever they watch.
    pub(super) fn tell_programs(&mut self, now: Now, name: &str, news: NeighborNews) {
        self.news.enter(now, name, news);
        (0..MAX_PROGRAMS as u8).for_each(|at| self.programs.enter(now, at, name, news));
    }

    /// A neighbor was discovered: whoever watches all of them watches it, too.
    pub(super) fn watch_found(&mut self, now: Now, id: NeighborId) {
        if let Some(how) = self.neighbors[id].liveness {
            self.liveness.watch(now.mono, id, Watcher::Node, &how, None);
        }
        for (at, program) in (0..).zip(&self.programs.list) {
            if let Some(program) = program {
                self.liveness.watch(now.mono, id, Watcher::Program(at), &program.how, None);
            }
        }
    }

    /// A principal's program watches all neighbors with times of its own, and asks what it has not been told yet.
    pub(super) fn program_watches(
        &mut self,
        now: Now,
        principal: &str,
        from: u64,
        (poke_us, expire_us): (u64, u64),
    ) -> Answer {
        self.programs_due(now);
        let micros = |us: u64| Time(Duration::from_micros(us));
        let how = LivenessConfig { poke: micros(poke_us), expire: micros(expire_us) };
        if !how.is_within(self.programs.least) {
            let (least, most) = (Time(self.programs.least), Time(LivenessConfig::MOST));
            let why =
                format!("here pokes are {least} apart at least, and the expiry is two of them to {most}");
            return failed(Erred::Operator, why);
        }
        let list = &self.programs.list;
        let its = |program: &Program| *program.principal == *principal && program.how == how;
        let known = list.iter().position(|program| program.as_ref().is_some_and(|program| its(program)));
        let Some(at) = known.or_else(|| list.iter().position(Option::is_none)) else {
            return failed(Erred::Node, "as many programs watch with times of their own as may");
        };
        let watched = if known.is_none() { self.neighbors.iter().count() + MAX_FOUND } else { 0 };
        let Ok(charge) = self.memory.charge(PROGRAM_BYTES + watched as u64 * WATCH_BYTES) else {
            return failed(Erred::Node, "there is no memory for it");
        };
        if known.is_none() {
            let by = Watcher::Program(at as u8);
            self.neighbors.iter().for_each(|(id, _)| self.liveness.watch(now.mono, id, by, &how, None));
        }
        let until = now.mono + LEASE;
        let news = match &mut self.programs.list[at] {
            Some(program) => {
                program.until = until;
                program.news.since(from)
            }
            free => {
                let (principal, news) = (principal.into(), News::default());
                *free = Some(Box::new(Program { principal, how, until, news, _charge: charge }));
                Vec::new()
            }
        };
        self.programs.plan();
        Answer::NeighborEvents(news)
    }

    /// Forgets programs that have asked nothing for long.
    fn programs_due(&mut self, now: Now) {
        if self.programs.ends.is_none_or(|at| now.mono < at) {
            return;
        }
        for (at, program) in (0..).zip(&mut self.programs.list) {
            if program.take_if(|program| program.until <= now.mono).is_some() {
                self.liveness.forget_program(at);
            }
        }
        self.programs.plan();
    }

    /// How often a flow has neighbors poked at most.
    fn least_poke(&self, flow: Handle) -> Duration {
        let grant = self.flows.get(flow).and_then(|flow| flow.team.as_ref()).map(|(_, grant)| grant);
        let timer = grant.and_then(|grant| grant.min_timer_us).unwrap_or(0);
        self.programs.least.max(Duration::from_micros(timer.into()))
    }

    /// A flow's terms are lower now: so are its watches.
    pub(super) fn slow_watches(&mut self, flow: Handle) {
        let least = self.least_poke(flow);
        self.liveness.slow(flow, least);
    }

    /// A flow's protocol wants to know whether a neighbor is there; with times of 0 as the operator does. Pokes are as
    /// often as the flow may have timers and the operator allows, at most.
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
        let least = match by {
            Watcher::Flow { flow, .. } => self.least_poke(flow),
            Watcher::Node | Watcher::Program(_) => self.programs.least,
        };
        self.liveness.watch(now.mono, neighbor, by, &how.no_more_often(least), Some(charge));
    }

    /// Pokes whom it is time to poke, and tells of deaths and returns.
    pub(super) fn liveness_due(&mut self, now: Now) {
        self.programs_due(now);
        let proven = |neighbors: &crate::neighbor::Neighbors, id| -> Option<Instant> {
            let neighbor = &neighbors[id];
            neighbor.last_heard.filter(|_| neighbor.is_proven())
        };
        while let Some(due) = self.liveness.due(now.mono, |id| proven(&self.neighbors, id)) {
            match due {
                Due::Poke(neighbor, Watcher::Flow { flow, .. }) => {
                    self.work_for(flow, Labour::Serve, |node| node.poke_for(now, flow, neighbor));
                }
                Due::Poke(neighbor, Watcher::Node | Watcher::Program(_)) => {
                    self.poke(now, TeamId::ROOT, neighbor);
                }
                Due::Tell(neighbor, Watcher::Node, up) => self.neighbor_is(now, neighbor, up),
                Due::Tell(neighbor, Watcher::Program(at), up) => {
                    self.programs.enter(now, at, &self.neighbors[neighbor].name, news_of(up));
                }
                Due::Tell(neighbor, by @ Watcher::Flow { flow, protocol }, up) => {
                    let news = news_of(up);
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
        self.news.enter(now, &name, news_of(up));
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
        self.liveness.state(id).map(|state| alive(now, &state))
    }
}

/// What others are told of a neighbor's state.
pub(super) fn alive(now: Now, state: &State) -> Alive {
    let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    Alive { up: state.up, since_us: micros(now.mono.since(state.since)), rtt_us: state.rtt.map(micros) }
}

fn news_of(up: bool) -> NeighborNews {
    if up { NeighborNews::Alive } else { NeighborNews::Dead }
}

/// Bytes of a poke's payload.
const POKE: usize = size_of::<Poke>();
