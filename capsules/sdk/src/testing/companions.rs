//! The node in memory, continued: a main protocol with its companions. As on a real node each has capsules, soft
//! state, timers and parameters of its own, nobody is entered in the middle of something, and one event brings
//! each protocol one capsule for calls.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};

use super::{Node, Object, copy, result, with_node};
use crate::companion::{self, MAX_MESSAGE};
use crate::describe::{Coupling, Description};
use crate::{Call, Capsule, Companion, Error, INBOX, Protocol};

const FIRST_COMPANION: u32 = 6000;
const PARENT: u32 = 6999;
/// The caller that is no protocol of the flow.
const ANOTHER_FLOW: usize = usize::MAX;

/// A companion, for [`Network::team`](super::Network::team).
pub struct Member {
    interface: String,
    description: &'static Description,
    protocol: Box<dyn Runs>,
    companions: Vec<Member>,
}

impl Member {
    /// Serves `interface`.
    pub fn new(
        interface: &str,
        description: &'static Description,
        protocol: impl Protocol + 'static,
    ) -> Self {
        Self { interface: interface.into(), description, protocol: Box::new(protocol), companions: vec![] }
    }

    /// Adds one that serves this one.
    pub fn with(mut self, companion: Self) -> Self {
        self.companions.push(companion);
        self
    }
}

/// A protocol that a test can look at.
pub(super) trait Runs: Protocol + Any {}

impl<P: Protocol + Any> Runs for P {}

/// The protocols of a node's flow, the main one first.
#[derive(Default)]
pub(super) struct Team {
    pub seats: Vec<Seat>,
    /// Which of them runs; the main one between events.
    pub current: usize,
    frames: Vec<Frame>,
    /// Who called last, and what that gave.
    answer: Option<(usize, Vec<u8>)>,
}

pub(super) struct Seat {
    /// Not there while it is in the middle of something.
    pub protocol: Option<Box<dyn Runs>>,
    parent: Option<usize>,
    /// Interfaces, and who serves them.
    companions: Vec<(String, usize)>,
    /// What it has, while another one runs.
    own: Own,
    /// The capsule that calls brought in this event.
    call: Option<u32>,
}

/// What no other protocol reaches.
struct Own {
    description: &'static Description,
    capsules: Vec<Option<Object>>,
    cache: BTreeMap<Vec<u8>, (Vec<u8>, u64)>,
    timers: BTreeMap<u32, (u64, u64)>,
    params: BTreeMap<String, Vec<u8>>,
    denied: BTreeSet<usize>,
}

struct Frame {
    caller: usize,
    input: Vec<u8>,
    reply: Vec<u8>,
}

impl Own {
    fn of(description: &'static Description) -> Self {
        let params = description.params.iter();
        Self {
            description,
            capsules: vec![],
            cache: BTreeMap::new(),
            timers: BTreeMap::new(),
            params: params.map(|(k, v)| ((*k).into(), v.as_bytes().to_vec())).collect(),
            denied: BTreeSet::new(),
        }
    }
}

impl Team {
    pub fn new(description: &'static Description, protocol: Box<dyn Runs>, companions: Vec<Member>) -> Self {
        let mut team = Self::default();
        team.seat(None, Member { interface: String::new(), description, protocol, companions });
        team
    }

    /// Adds a protocol and those that serve it; its position.
    fn seat(&mut self, parent: Option<usize>, member: Member) -> usize {
        let Member { description, protocol, companions, .. } = member;
        let at = self.seats.len();
        let own = Own::of(description);
        self.seats.push(Seat { protocol: Some(protocol), parent, companions: vec![], own, call: None });
        let ours = |c: &&(&str, Coupling)| c.1 != Coupling::Independent;
        let needed: Vec<_> = description.companions.iter().filter(ours).collect();
        assert_eq!(needed.len(), companions.len(), "{} needs {needed:?}", description.name);
        // In the order of the description, as in a tuple.
        let mut companions: BTreeMap<_, _> =
            companions.into_iter().map(|c| (c.interface.clone(), c)).collect();
        for (interface, _) in needed {
            let companion = companions.remove(*interface);
            let companion = companion.unwrap_or_else(|| panic!("nobody serves {interface}"));
            let child = self.seat(Some(at), companion);
            self.seats[at].companions.push(((*interface).into(), child));
        }
        at
    }

    /// The protocol at the end of the path `OUTER/INNER` of interfaces.
    pub fn at(&self, path: &str) -> Option<&Seat> {
        path.split('/').try_fold(&self.seats[0], |seat, interface| {
            let (_, at) = seat.companions.iter().find(|(name, _)| name == interface)?;
            self.seats.get(*at)
        })
    }

    /// The protocol that a capability of the running one names.
    fn reached(&self, capability: u32) -> Result<usize, Error> {
        let here = &self.seats[self.current];
        if capability == PARENT {
            return here.parent.ok_or(Error::NotFound);
        }
        let step = capability.checked_sub(FIRST_COMPANION).ok_or(Error::BadHandle)?;
        here.companions.get(step as usize).map(|(_, at)| *at).ok_or(Error::BadHandle)
    }
}

impl Node {
    /// Exchanges what the node has in hand with what lies at a protocol's seat.
    fn exchange(&mut self, at: usize) {
        let own = &mut self.team.seats[at].own;
        std::mem::swap(&mut self.description, &mut own.description);
        std::mem::swap(&mut self.capsules, &mut own.capsules);
        std::mem::swap(&mut self.cache, &mut own.cache);
        std::mem::swap(&mut self.timers, &mut own.timers);
        std::mem::swap(&mut self.params, &mut own.params);
        std::mem::swap(&mut self.denied, &mut own.denied);
    }

    /// Another team in the place of what there was.
    pub(super) fn seat(&mut self, team: Team) {
        self.team = team;
        self.exchange(0);
        self.team.seats[0].own = Own::of(self.description);
    }

    /// The same, and what there was, for [`go_back`](Self::go_back).
    pub(super) fn put_aside(&mut self, team: Team) -> Team {
        let mut before = std::mem::replace(&mut self.team, team);
        self.exchange(0);
        std::mem::swap(&mut before.seats[0].own, &mut self.team.seats[0].own);
        self.team.seats[0].own = Own::of(self.description);
        before
    }

    /// What was put aside is there again.
    pub(super) fn go_back(&mut self, before: Team) {
        self.team = before;
        self.exchange(0);
        self.team.seats[0].own = Own::of(self.description);
    }

    fn switch(&mut self, to: usize) {
        if to != self.team.current {
            self.exchange(self.team.current);
            self.exchange(to);
            self.team.current = to;
        }
    }

    /// An event of a protocol begins.
    pub(super) fn enter(&mut self, at: usize) -> Box<dyn Runs> {
        self.switch(at);
        self.team.seats[at].protocol.take().expect("one event at a time")
    }

    /// The event is over: every capsule object dies.
    pub(super) fn leave(&mut self, at: usize, protocol: Box<dyn Runs>) {
        self.team.seats[at].protocol = Some(protocol);
        self.switch(0);
        self.capsules.clear();
        self.team.answer = None;
        self.team.frames.clear();
        for seat in &mut self.team.seats {
            seat.own.capsules.clear();
            seat.call = None;
        }
    }

    /// A timer of a protocol is due: what it was set with, if it still runs.
    pub(super) fn fires(&mut self, owner: usize, timer: u32) -> Option<u64> {
        self.switch(owner);
        let known = self.timers.get(&timer).copied();
        match known {
            Some((0, _)) => {
                self.timers.remove(&timer);
            }
            Some((period, _)) => self.set.push((owner, timer, self.now + period)),
            None => {}
        }
        self.switch(0);
        known.map(|(_, token)| token)
    }

    pub(super) fn companion_named(&self, name: &[u8]) -> Option<i32> {
        let here = &self.team.seats[self.team.current];
        if name == b"parent" {
            return Some(PARENT as i32);
        }
        let interface = name.strip_prefix(b"companion/")?;
        if let Some(independent) = self.independent_named(interface) {
            return Some(independent as i32);
        }
        let step = here.companions.iter().position(|(known, _)| known.as_bytes() == interface)?;
        Some(FIRST_COMPANION as i32 + step as i32)
    }

    /// The name of a capability for another protocol.
    pub(super) fn name_of_companion(&self, capability: u32) -> Option<String> {
        if capability == PARENT {
            return Some("parent".into());
        }
        if let Some(interface) = self.independent(capability) {
            return Some(format!("companion/{interface}"));
        }
        let step = capability.checked_sub(FIRST_COMPANION)?;
        let (interface, _) = self.team.seats[self.team.current].companions.get(step as usize)?;
        Some(format!("companion/{interface}"))
    }

    /// Whom the capability reaches, what it gets, and who calls.
    fn begin_call(&mut self, capability: u32, message: &[u8]) -> Result<(Box<dyn Runs>, u32, u32), Error> {
        if self.independent(capability).is_some() {
            return Err(Error::NotFound);
        }
        let (caller, to) = (self.team.current, self.team.reached(capability)?);
        if self.team.seats[to].protocol.is_some() && message.len() > MAX_MESSAGE {
            return Err(Error::TooLarge);
        }
        let callee = self.team.seats[to].protocol.take().ok_or(Error::Unavailable)?;
        self.team.frames.push(Frame { caller, input: message.to_vec(), reply: vec![] });
        self.switch(to);
        let capsule = match self.team.seats[to].call {
            Some(known) => {
                if self.slot(known).is_ok() {
                    known
                } else {
                    0
                }
            }
            None => self.event_capsule(self.description.events.session),
        };
        let seat = &mut self.team.seats[to];
        seat.call = Some(capsule);
        let step = seat.companions.iter().position(|(_, at)| *at == caller);
        Ok((callee, capsule, step.map_or(PARENT, |step| FIRST_COMPANION + step as u32)))
    }

    fn end_call(&mut self, callee: Box<dyn Runs>) {
        self.team.seats[self.team.current].protocol = Some(callee);
        let Frame { caller, reply, .. } = self.team.frames.pop().expect("a call began");
        self.switch(caller);
        self.team.answer = Some((caller, reply));
    }

    /// Which protocol runs.
    pub(super) fn running(&self) -> usize {
        self.team.current
    }

    /// The event is about another flow's message.
    pub(super) fn hear(&mut self, message: &[u8]) {
        self.team.frames.push(Frame { caller: ANOTHER_FLOW, input: message.to_vec(), reply: vec![] });
    }

    /// The event is about what another flow answered.
    pub(super) fn set_answer(&mut self, answer: Vec<u8>) {
        self.team.answer = Some((self.team.current, answer));
    }

    pub(crate) fn companion_read(&mut self, offset: u32, buffer: &mut [u8]) -> i32 {
        let input = self.team.frames.last().map_or(&[][..], |frame| &frame.input[..]);
        result(Ok(copy(input, offset, buffer).unwrap_or(0)))
    }

    pub(crate) fn companion_reply(&mut self, answer: &[u8]) -> i32 {
        result(match self.team.frames.last_mut().filter(|frame| frame.caller != ANOTHER_FLOW) {
            None => Err(Error::NotFound),
            Some(_) if answer.len() > MAX_MESSAGE => Err(Error::TooLarge),
            Some(frame) => {
                frame.reply = answer.to_vec();
                Ok(0)
            }
        })
    }

    pub(crate) fn companion_answer(&mut self, offset: u32, buffer: &mut [u8]) -> i32 {
        let answer = self.team.answer.as_ref().filter(|(whose, _)| *whose == self.team.current);
        result(Ok(answer.map_or(0, |(_, answer)| copy(answer, offset, buffer).unwrap_or(0))))
    }

    pub(crate) fn companion_deny(&mut self, capability: u32, neighbor: u32) -> i32 {
        if capability == PARENT {
            return result(Err(Error::BadArgument));
        }
        let (first, port) = match (self.team.reached(capability), self.port(neighbor)) {
            (Ok(first), Ok(port)) => (first, port),
            (Err(error), _) | (_, Err(error)) => return result(Err(error)),
        };
        let mut below = BTreeSet::from([first]);
        for (at, seat) in self.team.seats.iter_mut().enumerate().skip(first) {
            if seat.parent.is_some_and(|parent| below.contains(&parent)) {
                below.insert(at);
            }
            if below.contains(&at) {
                seat.own.denied.insert(port);
            }
        }
        0
    }
}

/// Runs another protocol of the flow in the middle of an event.
pub(crate) fn companion_call(capability: u32, operation: u32, message: &[u8]) -> i32 {
    let (mut callee, capsule, from) = match with_node(|n| n.begin_call(capability, message)) {
        Ok(begun) => begun,
        Err(error) => return result(Err(error)),
    };
    let (from, head) = (Companion::from_bits(from), &message[..message.len().min(INBOX)]);
    let call = Call { from, operation, head, len: message.len() };
    let answer = companion::result(callee.companion(Capsule::of_call(capsule), call));
    with_node(|n| n.end_call(callee));
    answer
}
