//! The protocols of a team: the main one and its companions (seed 004, section V).
//!
//! They live in one store and share the team's budgets, its bandwidth and its time. Each has a memory of its own,
//! and capabilities, capsule objects, soft state, timers and data that no other one reaches. What the running
//! protocol has is in [`TeamState`] itself; [`TeamState::switch`] puts it aside and brings another one's.
//!
//! A call from one to another moves bytes and nothing else. No protocol is entered while it is in the middle of
//! something: calls go down the tree or up, and come back by the way they went. One call capsule is all that a
//! protocol gets from calls in one event, however often it is called, so that an event cannot set off more than
//! the limits say.

use std::sync::Arc;

use nodeos::account::Charge;
use nodeos::slab::Handle;
use wasmtime::{Memory, TypedFunc};
use wire::tuple::{Events, Provider, Tuple};

use super::handover::{KnownSession, State};
use super::state::TeamState;
use crate::abi::{self, Error, INBOX, MAX_MESSAGE};
use crate::cap::{Caps, ChildState, CompanionId, Neighbors};
use crate::capsule::{Kinds, Object, Objects};

/// `on_companion`: capsule, caller, operation, length.
pub(crate) type Entry = TypedFunc<(u32, u32, u32, u32), i32>;

/// What belongs to one protocol of the team.
pub(super) struct InstanceState {
    pub kinds: Kinds,
    pub events: Events,
    /// The protocol that it serves.
    parent: Option<u8>,
    /// The protocols that serve it, by their positions among its companions; `None` for the node's own.
    companions: Box<[Option<u8>]>,
    /// Its memory, once it is instantiated.
    pub memory: Option<Memory>,
    pub inbox: usize,
    pub entry: Option<Entry>,
    /// What it has; `None` while it runs, and for the main protocol between events.
    own: Option<Box<Own>>,
}

/// What no other protocol reaches.
pub(super) struct Own {
    pub caps: Caps,
    pub neighbors: Neighbors,
    pub objects: Objects,
    pub data: Vec<(String, Arc<[u8]>)>,
}

/// The calls that the running event is in, and what it did so far.
#[derive(Default)]
pub(super) struct Calls {
    frames: Vec<Frame>,
    /// What the last call of this protocol gave.
    answer: Option<(usize, Vec<u8>, Charge)>,
    /// Protocols that are in the middle of something, a bit each.
    active: u16,
    /// Protocols that had their turn in this event.
    entered: u16,
    /// Protocols that had their call capsule.
    given: u16,
}

struct Frame {
    /// [`ANOTHER_FLOW`], or a protocol of this one.
    caller: usize,
    input: Vec<u8>,
    reply: Vec<u8>,
    charge: Charge,
}

/// What a version of a flow takes over.
#[derive(Debug, Default)]
pub struct Given {
    /// The states of its protocols, by their positions here.
    pub states: Vec<Option<State>>,
    /// The sessions that the version before knows.
    pub sessions: Vec<KnownSession>,
}

/// The caller that is no protocol of this flow.
const ANOTHER_FLOW: usize = usize::MAX;

/// A call that is about to be made.
pub(crate) struct Call {
    pub entry: Entry,
    pub params: (u32, u32, u32, u32),
    /// Where the first bytes go.
    pub inbox: (Memory, usize),
}

impl InstanceState {
    pub fn new(tuple: &Tuple, position: usize, kinds: Kinds, own: Option<Box<Own>>) -> Self {
        let protocols = &tuple.body.protocols;
        let child = |provider: &Provider| match provider {
            Provider::Tuple(child) => Some(*child),
            Provider::System(_) => None,
        };
        let serves = |child_at: usize| {
            let is_it = |p: &Provider| child(p).map(usize::from) == Some(child_at);
            protocols.iter().position(|p| p.companions.iter().any(|c| is_it(&c.provider)))
        };
        let protocol = &protocols[position];
        Self {
            kinds,
            events: protocol.events,
            parent: serves(position).map(|at| at as u8),
            companions: protocol.companions.iter().map(|c| child(&c.provider)).collect(),
            memory: None,
            inbox: 0,
            entry: None,
            own,
        }
    }
}

impl TeamState {
    /// Which protocol runs.
    #[inline]
    pub(crate) fn owner(&self) -> u8 {
        self.current as u8
    }

    /// Makes `to` the protocol that runs.
    fn switch(&mut self, to: usize) {
        let Some(mut own) = self.instances.get_mut(to).and_then(|i| i.own.take()) else { return };
        std::mem::swap(&mut self.caps, &mut own.caps);
        std::mem::swap(&mut self.neighbors, &mut own.neighbors);
        std::mem::swap(&mut self.objects, &mut own.objects);
        std::mem::swap(&mut self.data, &mut own.data);
        self.instances[self.current].own = Some(own);
        self.current = to;
    }

    /// An event of the protocol at `at` begins.
    #[inline]
    pub(super) fn enter(&mut self, at: usize) {
        if at != self.current {
            self.switch(at);
        }
        self.calls.active = 1 << at;
        self.calls.entered |= 1 << at;
    }

    /// The event is over, however it ended: every capsule object dies, and the main protocol is back.
    #[inline]
    pub(super) fn leave(&mut self) {
        self.objects.clear();
        if self.calls.entered > 1 {
            self.switch(0);
            self.objects.clear();
            for own in self.instances.iter_mut().filter_map(|i| i.own.as_mut()) {
                own.objects.clear();
            }
            self.calls.frames.clear();
            self.calls.answer = None;
        }
        (self.calls.active, self.calls.entered, self.calls.given) = (0, 0, 0);
    }

    /// Does something with what each protocol has, wherever that is.
    pub(super) fn each(&mut self, mut work: impl FnMut(&mut Caps, &mut Neighbors)) {
        work(&mut self.caps, &mut self.neighbors);
        for own in self.instances.iter_mut().filter_map(|i| i.own.as_mut()) {
            work(&mut own.caps, &mut own.neighbors);
        }
    }

    /// The neighbors of the protocol at this position, wherever they are.
    pub(super) fn neighbors_of(&mut self, protocol: usize) -> Option<&mut Neighbors> {
        match self.instances.get_mut(protocol)?.own.as_mut() {
            Some(own) => Some(&mut own.neighbors),
            None => Some(&mut self.neighbors),
        }
    }

    /// The same for what does not matter to a protocol that may not know of a neighbor.
    pub(crate) fn each_neighbors(&mut self, mut work: impl FnMut(&mut Neighbors) -> Result<(), Error>) {
        self.each(|_, neighbors| {
            let _ = work(neighbors);
        });
    }

    /// A flow that the main protocol started does something else now.
    pub(super) fn child_is(&mut self, child: Handle, state: ChildState) {
        match self.instances.first_mut().and_then(|main| main.own.as_mut()) {
            Some(aside) => aside.caps.child_is(child, state),
            None => self.caps.child_is(child, state),
        }
    }

    /// A capsule object of `kind` with an empty payload, for an event that replenishes one; 0 if none.
    pub(super) fn fresh(&mut self, kind: Option<u8>) -> u32 {
        let Some((kind, left)) = kind.and_then(|k| Some((k, self.kinds().get(k)?.limits))) else { return 0 };
        let object = self.buffer().map(|payload| Object { kind, depth: 0, origin: None, left, payload });
        match object.and_then(|o| self.objects.insert(o)) {
            Ok(handle) => abi::number_of(handle),
            Err(error) => {
                self.answer(Err(error));
                0
            }
        }
    }

    /// Prepares a call of the protocol that `cap` names, with `message`; it runs from now on.
    pub(crate) fn call(&mut self, cap: u32, operation: u32, message: &[u8]) -> Result<Call, Error> {
        // Whoever hands its state over may fail and go on; its companions could not.
        self.only_looks()?;
        let (caller, down) = (self.current, self.caps.companion(cap)?);
        let here = &self.instances[caller];
        let to = match down {
            CompanionId::Parent => here.parent,
            CompanionId::Companion(step) => here.companions.get(usize::from(step)).copied().flatten(),
        };
        let to = usize::from(to.ok_or(Error::NotFound)?);
        if self.calls.active & 1 << to != 0 {
            return Err(Error::Unavailable);
        }
        let callee = &self.instances[to];
        let (Some(entry), Some(memory)) = (callee.entry.clone(), callee.memory) else {
            return Err(Error::NotFound);
        };
        let (inbox, events) = (callee.inbox, callee.events);
        let step = callee.companions.iter().position(|c| *c == Some(caller as u8));
        if message.len() > MAX_MESSAGE {
            return Err(Error::TooLarge);
        }
        let charge = self.accounts.memory().charge(message.len() as u64).map_err(|_| Error::NoMemory)?;
        self.calls.frames.push(Frame { caller, input: message.to_vec(), reply: Vec::new(), charge });
        self.switch(to);
        (self.calls.active, self.calls.entered) = (self.calls.active | 1 << to, self.calls.entered | 1 << to);
        let first = self.calls.given & 1 << to == 0;
        self.calls.given |= 1 << to;
        let capsule = match first {
            true => {
                let number = self.fresh(events.session);
                self.objects.call = number;
                number
            }
            // What is left of it: nothing, if it was sent.
            false if self.objects.get(self.objects.call).is_ok() => self.objects.call,
            false => 0,
        };
        let from = match step {
            None => self.caps.of_parent(),
            Some(step) => self.caps.of_companion(step as u8),
        };
        let from = from.map_or(0, abi::number_of);
        let params = (capsule, from, operation, message.len() as u32);
        Ok(Call { entry, params, inbox: (memory, inbox) })
    }

    /// The call is over; the caller runs again.
    pub(crate) fn returned(&mut self) {
        let Some(frame) = self.calls.frames.pop() else { return };
        self.calls.active &= !(1 << self.current);
        self.switch(frame.caller);
        let Frame { caller, reply, mut charge, input } = frame;
        charge.shrink(input.len() as u64);
        self.calls.answer = Some((caller, reply, charge));
    }

    /// The next event is about another flow's message, which that one pays for.
    pub(super) fn hear(&mut self, message: Vec<u8>) -> Result<(), Error> {
        let charge = self.accounts.memory().charge(0).map_err(|_| Error::NoMemory)?;
        let frame = Frame { caller: ANOTHER_FLOW, input: message, reply: Vec::new(), charge };
        self.calls.frames.push(frame);
        Ok(())
    }

    /// That event is over.
    pub(super) fn heard(&mut self) {
        self.calls.frames.clear();
    }

    /// The next event of the protocol that runs is about what another flow answered, which is paid for already.
    pub(super) fn set_answer(&mut self, answer: Vec<u8>) {
        let charge = self.accounts.memory().charge(0);
        self.calls.answer = charge.ok().map(|charge| (self.current, answer, charge));
    }

    /// That event is over.
    pub(super) fn forget_answer(&mut self) {
        self.calls.answer = None;
    }

    /// What the protocol that runs was called with.
    pub(crate) fn message(&self) -> &[u8] {
        self.calls.frames.last().map_or(&[], |frame| &frame.input)
    }

    /// Sets what the caller gets.
    pub(crate) fn reply(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let frame = self.calls.frames.last_mut().filter(|frame| frame.caller != ANOTHER_FLOW);
        let frame = frame.ok_or(Error::NotFound)?;
        if bytes.len() > MAX_MESSAGE {
            return Err(Error::TooLarge);
        }
        frame.charge.shrink(frame.reply.len() as u64);
        frame.reply.clear();
        frame.charge.grow(bytes.len() as u64).map_err(|_| Error::NoMemory)?;
        frame.reply.extend_from_slice(bytes);
        Ok(())
    }

    /// What the last call of the protocol that runs gave.
    pub(crate) fn answered(&self) -> &[u8] {
        match &self.calls.answer {
            Some((caller, bytes, _)) if *caller == self.current => bytes,
            _ => &[],
        }
    }

    /// Takes a neighbor away from a companion, and from those that serve it.
    pub(crate) fn deny(&mut self, cap: u32, neighbor: u32) -> Result<(), Error> {
        let CompanionId::Companion(step) = self.caps.companion(cap)? else { return Err(Error::BadArgument) };
        let at = self.caps.neighbor(neighbor, 0)?;
        let id = self.neighbors.get(at)?.is.id;
        let first = self.instances[self.current].companions.get(usize::from(step)).copied().flatten();
        let first = first.ok_or(Error::NotFound)?;
        // A companion stands behind its parent in the tuple.
        let mut below = 1u16 << first;
        for to in usize::from(first)..self.instances.len() {
            let instance = &mut self.instances[to];
            if instance.parent.is_some_and(|parent| below & 1 << parent != 0) {
                below |= 1 << to;
            }
            if below & 1 << to != 0
                && let Some(own) = &mut instance.own
                && let Some(at) = own.neighbors.position(id)
            {
                own.neighbors.deny(id);
                own.caps.neighbor_gone(at);
            }
        }
        Ok(())
    }
}

/// The first bytes of a message, as they come to the inbox.
pub(crate) fn head(message: &[u8]) -> &[u8] {
    &message[..message.len().min(INBOX)]
}
