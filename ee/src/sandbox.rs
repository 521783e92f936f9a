//! A team's sandbox: one store with the instance of its protocol and everything that it may touch.
//!
//! [`Sandbox::start`] makes it, [`Sandbox::deliver`] hands it one event at a time, [`Sandbox::effects`]
//! takes out what the guest wants done. A guest that traps or runs past its deadline is not trusted
//! again: what its last event wanted is dropped, and no instruction of it runs from then on. What it did
//! to its own state before, it did; other teams have their own stores and see nothing of it.

mod clamp;
mod state;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use nodeos::account::{self, Account, Charge};
use nodeos::buf::{Buf, BufPool};
use nodeos::link::LinkId;
use nodeos::platform::{Instant, Interrupter, Meter, Now};
use nodeos::slab::{Handle, Slab};
use nodeos::team::{Budget, Resource};
use wasmtime::{
    Instance, Memory, Store, Trap, TypedFunc, UpdateDeadline, WasmBacktrace, WasmParams, WasmResults,
};
use wire::describe;
use wire::grant::Grant;
use wire::id::{CapsuleId, TupleHash};
use wire::integrity::Mark;
use wire::tuple::Tuple;

use self::state::{InstanceState, Limiter};
pub use self::state::{MAX_EFFECTS, Shared, TeamState};
use crate::abi::{self, INBOX};
use crate::cap::{Caps, Neighbors};
use crate::capsule::{Kinds, Object, Objects};
use crate::engine::{Code, Engine, FUNCTION_BYTES, Metering, STORE_BYTES};
use crate::envelope::Maker;
use crate::guest::random::Random;
use crate::integrity::{Integrity, Unsound};
pub use crate::soft::Fired;
use crate::soft::TimerTable;

/// Names a neighbor: its position in the node's configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NeighborId(pub u16);

/// Names a session: the node's own number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u32);

/// A neighbor that a team may know of.
#[derive(Debug, Clone)]
pub struct NeighborRef {
    /// Its number in the node.
    pub id: NeighborId,
    /// Its name, as guests see it.
    pub name: Arc<str>,
    /// The link that leads there.
    pub link: LinkId,
    /// The longest payload, in bytes.
    pub max_payload: u16,
    /// Bytes of headers around a payload: charged with it.
    pub overhead: u16,
    /// The shortest frame, in bytes: a shorter one is padded, and charged as that.
    pub shortest: u16,
}

/// What a sandbox is made of.
pub struct Setup {
    /// The flow.
    pub tuple: Arc<Tuple>,
    /// The tuple's name.
    pub hash: TupleHash,
    /// The terms.
    pub grant: Grant,
    /// The budgets: the grant's, within the node's own.
    pub budget: Budget,
    /// The team's memory account.
    pub account: Account,
    /// This node's name, as guests see it.
    pub node_name: Arc<str>,
    /// Where packet buffers come from.
    pub buffers: BufPool,
    /// The neighbors that the team may know of.
    pub neighbors: Vec<NeighborRef>,
    /// How many links the node has.
    pub links: usize,
    /// The main protocol's data parts by name.
    pub data: Vec<(String, Arc<[u8]>)>,
    /// Measures guest code where the engine does not count.
    pub meter: Arc<dyn Meter>,
    /// Stops guest code where the engine does not count.
    pub interrupter: Arc<dyn Interrupter>,
    /// The seed of the team's random numbers; `None` where the node has no entropy.
    pub seed: Option<[u8; 32]>,
    /// What all teams of the node have in common.
    pub shared: Shared,
}

/// Why a sandbox does not start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartError {
    /// The team's memory budget is too small.
    Memory(account::Refused),
    /// The module declares otherwise than the tuple.
    Description(describe::Error),
    /// Derivations in a circle, which the grant does not allow.
    Cycle {
        /// Position of a capsule type in the circle.
        kind: usize,
    },
    /// One event could set off more send operations than granted.
    Emissions {
        /// How many it could.
        worst: u64,
        /// How many it may.
        granted: u64,
    },
    /// The module could not be instantiated: a data or element segment lies outside, or its memory
    /// is larger than the budget.
    Instantiate(String),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory(r) => write!(f, "the flow does not fit into its {r}"),
            Self::Description(e) => e.fmt(f),
            Self::Cycle { kind } => {
                write!(f, "capsule type {kind} derives itself by a circle, which was not granted")
            }
            Self::Emissions { worst, granted } => {
                write!(f, "one event could set off {worst} send operations, {granted} were granted")
            }
            Self::Instantiate(text) => write!(f, "the module could not be started: {text}"),
        }
    }
}

impl std::error::Error for StartError {}

impl From<account::Refused> for StartError {
    fn from(r: account::Refused) -> Self {
        Self::Memory(r)
    }
}

/// What a sandbox is told.
#[derive(Debug)]
pub enum Event {
    /// The flow has started on this node.
    Boot,
    /// A capsule arrived.
    Capsule {
        /// Its type: position in the protocol's list.
        kind: u8,
        /// Where it came from.
        from: Option<NeighborId>,
        /// Its payload; its headers have become headroom, at least 64 bytes.
        packet: Buf,
    },
    /// A timer fired: from [`Sandbox::due`].
    Timer(Fired),
    /// A program did something.
    Session {
        /// Its session.
        session: SessionId,
        /// What it did.
        what: SessionInput,
    },
    /// An entry's time is over: from [`Sandbox::due`].
    Expiry {
        /// The entry.
        entry: Handle,
    },
    /// A soft threshold is passed.
    Warning(abi::Resource),
    /// The flow ends. Nothing runs after it.
    Stop,
}

/// What a program did with its session.
#[derive(Debug)]
pub enum SessionInput {
    /// It opened it.
    Open,
    /// It sent a packet.
    Packet(Vec<u8>),
    /// It closed it, or is gone.
    Close,
}

/// What became of an event.
#[derive(Debug)]
pub struct Outcome {
    /// Units of work: measured by the meter (or counted, with fuel), and with the meter what host
    /// functions were charged on top, for what they set off later.
    pub units: u64,
    /// Whether the handler ended well.
    pub end: Result<(), GuestFault>,
    /// What the guest was refused during the event.
    pub refused: Refused,
}

/// How often a guest was refused what, during one event: what the team policy asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Refused {
    /// Pointers or lengths outside its memory.
    pub pointers: u16,
    /// Memory, linear memory included, and packet buffers.
    pub memory: u16,
    /// Bandwidth.
    pub rate: u16,
    /// Timers.
    pub timers: u16,
    /// Sessions.
    pub sessions: u16,
    /// Anything else.
    pub others: u16,
}

/// The guest did not end well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuestFault {
    /// It trapped.
    Trap(String),
    /// It ran past its deadline.
    Deadline,
    /// It has ended before; nothing ran.
    Ended,
}

impl fmt::Display for GuestFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Trap(text) => write!(f, "guest trapped: {text}"),
            Self::Deadline => f.write_str("guest ran past the deadline of its event"),
            Self::Ended => f.write_str("guest has ended"),
        }
    }
}

impl std::error::Error for GuestFault {}

/// What a guest wants done.
#[derive(Debug)]
pub enum Effect {
    /// Send a capsule. Its bandwidth has been charged.
    Send {
        /// Where to.
        to: NeighborId,
        /// Its type.
        kind: u8,
        /// Its payload, with at least 64 bytes of room in front.
        payload: Buf,
    },
    /// Send a packet to a program.
    Reply {
        /// Its session.
        session: SessionId,
        /// The packet.
        packet: Vec<u8>,
    },
    /// End a session.
    CloseSession {
        /// Which.
        session: SessionId,
    },
    /// A log line.
    Log {
        /// How urgent it is.
        level: abi::Level,
        /// The line: printable and short.
        text: String,
    },
}

/// What a sandbox holds at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SandboxStats {
    /// Bytes of linear memory.
    pub linear: u64,
    /// Timers that run.
    pub timers: u32,
    /// Soft-state entries.
    pub cache_entries: u32,
    /// Open sessions.
    pub sessions: u32,
    /// Guest calls so far.
    pub calls: u64,
}

/// One team's code and state.
pub struct Sandbox {
    run: Running,
    /// In the order of [`TeamState::instances`].
    instances: Vec<Protocol>,
    budget: Budget,
    ended: bool,
    /// The compiled module may go only after the store.
    _code: Arc<Code>,
    _charge: Charge,
}

/// The store, and what bounds a call into it; apart from the handlers, so that calling one copies nothing.
struct Running {
    store: Store<TeamState>,
    interrupter: Arc<dyn Interrupter>,
    event: Duration,
    calls: u64,
}

/// One protocol's instance.
struct Protocol {
    memory: Memory,
    inbox: usize,
    handlers: Handlers,
    events: wire::tuple::Events,
}

/// The handlers that a module has, found once.
struct Handlers {
    boot: Option<TypedFunc<u32, ()>>,
    capsule: Option<TypedFunc<(u32, u32, u32, u32), ()>>,
    timer: Option<TypedFunc<(u32, u32, i64), ()>>,
    session: Option<TypedFunc<(u32, u32, i32, u32), ()>>,
    expiry: Option<TypedFunc<u32, i32>>,
    warning: Option<TypedFunc<i32, ()>>,
    stop: Option<TypedFunc<(), ()>>,
}

/// How often a guest is looked at within its event's time.
const LOOKS: u32 = 4;
/// The part of an event's time that `on_stop` gets.
const STOP_PART: u32 = 4;

impl Sandbox {
    /// Charges what the team needs, checks the module against the tuple and the declared limits against
    /// the grant, and makes the instance. No guest code runs; deliver [`Event::Boot`] next.
    pub fn start(engine: &Engine, code: &Arc<Code>, setup: Setup, now: Now) -> Result<Self, StartError> {
        let protocol = setup.tuple.main();
        if let Some(description) = &code.admitted().description {
            description.agrees(protocol).map_err(StartError::Description)?;
        }
        let kinds = Kinds::new(protocol, 0, &setup.grant)?;
        let charge = setup.account.charge(footprint(code, &setup))?;
        let events = protocol.events;
        let (interrupter, budget) = (setup.interrupter.clone(), setup.budget);
        let mut store = Store::new(engine.raw(), state(engine, setup, kinds, now)?);
        store.limiter(|s| &mut s.limiter);
        if engine.metering() == Metering::Epoch {
            store.set_epoch_deadline(1);
            // A tick may have been meant for another team, or come late, and the processor may have been
            // taken from the whole node for a while: the time must be up, and the guest must have been
            // seen running in each part of it.
            store.epoch_deadline_callback(|mut s| {
                let state = s.data_mut();
                state.seen += 1;
                let over = state.seen >= LOOKS && state.meter.count() >= state.deadline;
                Ok(if over { UpdateDeadline::Interrupt } else { UpdateDeadline::Continue(1) })
            });
        }
        let failed = |e: wasmtime::Error| StartError::Instantiate(brief(&format!("{e:#}")));
        if engine.metering() == Metering::Fuel {
            // Filling memory and table is counted, too; admission has bounded it.
            store.set_fuel(u64::MAX).map_err(failed)?;
        }
        let instance = code.pre().instantiate(&mut store).map_err(failed)?;
        let memory = instance.get_memory(&mut store, "memory");
        let memory = memory.ok_or_else(|| StartError::Instantiate("the module has no memory".into()))?;
        let handlers = Handlers::find(&instance, &mut store).map_err(failed)?;
        store.data_mut().instances[0].memory = Some(memory);
        let inbox = code.admitted().inbox as usize;
        Ok(Self {
            run: Running { store, interrupter, event: budget.event, calls: 0 },
            instances: vec![Protocol { memory, inbox, handlers, events }],
            budget,
            ended: false,
            _code: code.clone(),
            _charge: charge,
        })
    }

    /// Runs the handler for one event, for no longer than the event's deadline.
    pub fn deliver(&mut self, now: Now, event: Event) -> Outcome {
        if self.ended {
            return Outcome { units: 0, end: Err(GuestFault::Ended), refused: Refused::default() };
        }
        let state = self.run.store.data_mut();
        state.now = now;
        state.refused = Refused::default();
        if state.effects.is_empty() {
            state.lent.shrink(u64::MAX);
        }
        let before = state.effects.len();
        let result = self.handle(event);
        let state = self.run.store.data_mut();
        state.objects.clear();
        state.refused.memory =
            state.refused.memory.saturating_add(std::mem::take(&mut state.limiter.refused));
        let refused = state.refused;
        let (units, end) = match result {
            Ok(units) => (units, Ok(())),
            Err((units, fault)) => {
                state.effects.truncate(before);
                self.ended = true;
                (units, Err(fault))
            }
        };
        Outcome { units, end, refused }
    }

    /// Takes out what the guest wants done, in order.
    pub fn effects(&mut self) -> impl Iterator<Item = Effect> + '_ {
        let state = self.run.store.data_mut();
        state.lent.shrink(u64::MAX);
        state.effects.drain(..)
    }

    /// The next timer or expiry that is due; call it until it gives `None`.
    pub fn due(&mut self, now: Now) -> Option<Event> {
        if self.ended {
            return None;
        }
        let asked = self.instances[0].handlers.expiry.is_some();
        let state = self.run.store.data_mut();
        while let Some(soft) = &mut state.soft
            && let Some(entry) = soft.due(now.mono)
        {
            if asked {
                return Some(Event::Expiry { entry });
            }
            soft.remove(entry);
        }
        state.timers.due(now.mono).map(Event::Timer)
    }

    /// When [`Sandbox::due`] has something next.
    pub fn deadline(&self) -> Option<Instant> {
        if self.ended {
            return None;
        }
        let state = self.run.store.data();
        let expiry = state.soft.as_ref().and_then(|s| s.deadline());
        [expiry, state.timers.deadline()].into_iter().flatten().min()
    }

    /// Revokes every capability for a neighbor.
    pub fn neighbor_gone(&mut self, id: NeighborId) {
        let state = self.run.store.data_mut();
        if let Some(at) = state.neighbors.position(id) {
            state.neighbors.gone(id);
            state.caps.neighbor_gone(at);
        }
    }

    /// The mark for a capsule to a neighbor that the team has a key for.
    pub fn mark(&mut self, to: NeighborId, id: &CapsuleId, payload: &[u8]) -> Option<Mark> {
        self.run.store.data_mut().integrity.mark(to, id, payload)
    }

    /// Whether a capsule from a neighbor has the mark that the team asks for, if it does.
    pub fn check(
        &mut self,
        from: NeighborId,
        id: &CapsuleId,
        payload: &[u8],
        mark: Option<&Mark>,
    ) -> Result<(), Unsound> {
        self.run.store.data_mut().integrity.check(from, id, payload, mark)
    }

    /// What the team holds.
    pub fn stats(&self) -> SandboxStats {
        let state = self.run.store.data();
        SandboxStats {
            linear: self.instances.iter().map(|i| i.memory.data_size(&self.run.store) as u64).sum(),
            timers: state.timers.len() as u32,
            cache_entries: state.soft.as_ref().map_or(0, |s| s.len() as u32),
            sessions: state.sessions.len() as u32,
            calls: self.run.calls,
        }
    }

    /// How much of each bounded resource is in use, and the bound: for the team policy.
    pub fn usage(&self) -> [(Resource, u64, u64); 4] {
        let (state, stats) = (self.run.store.data(), self.stats());
        [
            (Resource::Memory, state.account.used(), state.account.limit()),
            (Resource::Timers, stats.timers.into(), self.budget.timers.into()),
            (Resource::Sessions, stats.sessions.into(), self.budget.sessions.into()),
            (Resource::CacheEntries, stats.cache_entries.into(), self.budget.cache_entries.into()),
        ]
    }

    /// Whether the guest has ended: trapped, overran, or was stopped.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    fn handle(&mut self, event: Event) -> Result<u64, (u64, GuestFault)> {
        match event {
            Event::Boot => {
                let main = &self.instances[0];
                let Some(f) = &main.handlers.boot else { return Ok(0) };
                let capsule = self.run.fresh(main.events.boot);
                self.run.call(f, capsule).map(|(units, ())| units)
            }
            Event::Capsule { kind, from, packet } => self.capsule(kind, from, packet),
            Event::Timer(fired) => {
                let main = &self.instances[0];
                let Some(f) = &main.handlers.timer else { return Ok(0) };
                if !self.run.store.data().timers.is_wanted(&fired) {
                    return Ok(0);
                }
                let capsule = self.run.fresh(main.events.timer);
                let params = (capsule, abi::number_of(fired.timer), fired.token);
                self.run.call(f, params).map(|(units, ())| units)
            }
            Event::Session { session, what } => self.session(session, what),
            Event::Expiry { entry } => self.expiry(entry),
            Event::Warning(resource) => {
                let Some(f) = &self.instances[0].handlers.warning else { return Ok(0) };
                self.run.call(f, resource as i32).map(|(units, ())| units)
            }
            Event::Stop => {
                self.ended = true;
                self.run.event /= STOP_PART;
                let Some(f) = &self.instances[0].handlers.stop else { return Ok(0) };
                self.run.call(f, ()).map(|(units, ())| units)
            }
        }
    }

    fn capsule(&mut self, kind: u8, from: Option<NeighborId>, packet: Buf) -> Result<u64, (u64, GuestFault)> {
        let main = &self.instances[0];
        let Some(f) = &main.handlers.capsule else { return Ok(0) };
        let state = self.run.store.data_mut();
        let Some(left) = state.kinds().get(kind).map(|k| k.limits) else { return Ok(0) };
        let origin = from.and_then(|id| state.neighbors.position(id));
        let cap = origin.and_then(|at| state.caps.of_neighbor(at, &mut state.neighbors).ok());
        let len = packet.len() as u32;
        main.fill_inbox(&mut self.run.store, |inbox, _| {
            let n = packet.len().min(INBOX);
            inbox[..n].copy_from_slice(&packet[..n]);
        });
        let object = Object { kind, depth: 0, origin, left, payload: packet };
        let Ok(capsule) = self.run.store.data_mut().objects.insert(object) else { return Ok(0) };
        let from = cap.map_or(0, abi::number_of);
        self.run.call(f, (abi::number_of(capsule), kind.into(), len, from)).map(|(units, ())| units)
    }

    fn session(&mut self, session: SessionId, what: SessionInput) -> Result<u64, (u64, GuestFault)> {
        let main = &self.instances[0];
        let handler = main.handlers.session.as_ref();
        let state = self.run.store.data_mut();
        let known = state.sessions.iter().find(|(_, s)| **s == session).map(|(h, _)| h);
        let (number, packet, handle) = match (what, known) {
            (SessionInput::Open, None) => match handler.map(|_| state.open(session)) {
                Some(Ok(handle)) => (abi::session::OPEN, Vec::new(), handle),
                other => {
                    state.refused.sessions += u16::from(other.is_some());
                    state.effects.push_back(Effect::CloseSession { session });
                    return Ok(0);
                }
            },
            (SessionInput::Packet(packet), Some(handle)) => (abi::session::PACKET, packet, handle),
            (SessionInput::Close, Some(handle)) => (abi::session::CLOSE, Vec::new(), handle),
            // Opened twice, or closed by the guest in the meantime.
            _ => return Ok(0),
        };
        let Some(f) = handler else { return Ok(0) };
        let len = packet.len() as u32;
        (state.packet, state.speaking) = (packet, Some(handle));
        let closing = number == abi::session::CLOSE;
        let capsule = if closing { 0 } else { self.run.fresh(main.events.session) };
        main.fill_inbox(&mut self.run.store, |inbox, state| {
            let n = state.packet.len().min(INBOX);
            inbox[..n].copy_from_slice(&state.packet[..n]);
        });
        let result = self.run.call(f, (capsule, abi::number_of(handle), number, len));
        let state = self.run.store.data_mut();
        (state.packet, state.speaking) = (Vec::new(), None);
        if closing {
            state.sessions.remove(handle);
        }
        result.map(|(units, ())| units)
    }

    /// The guest may keep the entry; else it goes.
    fn expiry(&mut self, entry: Handle) -> Result<u64, (u64, GuestFault)> {
        let main = &self.instances[0];
        let Some(f) = &main.handlers.expiry else { return Ok(0) };
        let state = self.run.store.data_mut();
        let now = state.now.mono;
        // It may have been set again, kept or taken out since it was due.
        let Some(key_len) =
            state.soft.as_ref().filter(|s| s.is_over(now, entry)).and_then(|s| Some(s.key(entry)?.len()))
        else {
            return Ok(0);
        };
        main.fill_inbox(&mut self.run.store, |inbox, state| {
            if let Some(key) = state.soft.as_ref().and_then(|s| s.key(entry)) {
                inbox[..key.len()].copy_from_slice(key);
            }
        });
        let result = self.run.call(f, key_len as u32);
        let Some(soft) = &mut self.run.store.data_mut().soft else { return result.map(|(units, _)| units) };
        let ttl = result.as_ref().map_or(0, |(_, ttl)| (*ttl).max(0) as u32);
        if soft.is_over(now, entry) && soft.refresh(now, entry, ttl).is_err() {
            soft.remove(entry);
        }
        result.map(|(units, _)| units)
    }
}

impl Running {
    /// A capsule object of `kind` with an empty payload, for an event that replenishes one; 0 if none.
    fn fresh(&mut self, kind: Option<u8>) -> u32 {
        let state = self.store.data_mut();
        let Some((kind, left)) = kind.and_then(|k| Some((k, state.kinds().get(k)?.limits))) else { return 0 };
        let object = state.buffer().map(|payload| Object { kind, depth: 0, origin: None, left, payload });
        match object.and_then(|o| state.objects.insert(o)) {
            Ok(handle) => abi::number_of(handle),
            Err(error) => {
                state.answer(Err(error));
                0
            }
        }
    }

    /// One guest call, measured and bounded.
    fn call<P: WasmParams, R: WasmResults>(
        &mut self,
        f: &TypedFunc<P, R>,
        params: P,
    ) -> Result<(u64, R), (u64, GuestFault)> {
        self.calls += 1;
        let state = self.store.data_mut();
        state.charged = 0;
        state.allowance =
            u64::try_from(self.event.as_micros()).unwrap_or(u64::MAX).saturating_mul(state.per_micro);
        let (result, units) = match state.metering {
            Metering::Epoch => {
                let start = state.meter.count();
                state.deadline = start.saturating_add(state.allowance);
                state.seen = 0;
                self.interrupter.arm(self.event / LOOKS);
                let result = f.call(&mut self.store, params);
                self.interrupter.disarm();
                let state = self.store.data();
                (result, state.meter.count().saturating_sub(start).saturating_add(state.charged))
            }
            Metering::Fuel => {
                let allowance = state.allowance;
                let result = self.store.set_fuel(allowance).and_then(|()| f.call(&mut self.store, params));
                (result, allowance - self.store.get_fuel().unwrap_or(0).min(allowance))
            }
        };
        result.map(|r| (units, r)).map_err(|e| (units, fault(&e)))
    }
}

impl Protocol {
    /// Lets `fill` write what a handler is about; the inbox lies in the memory, as admission saw.
    fn fill_inbox(&self, store: &mut Store<TeamState>, fill: impl FnOnce(&mut [u8; INBOX], &TeamState)) {
        let (memory, state) = self.memory.data_and_store_mut(store);
        if let Some(inbox) = memory.get_mut(self.inbox..).and_then(|m| m.first_chunk_mut()) {
            fill(inbox, state);
        }
    }
}

impl Handlers {
    fn find(instance: &Instance, store: &mut Store<TeamState>) -> wasmtime::Result<Self> {
        fn get<P: WasmParams, R: WasmResults>(
            instance: &Instance,
            store: &mut Store<TeamState>,
            name: &str,
        ) -> wasmtime::Result<Option<TypedFunc<P, R>>> {
            instance.get_func(&mut *store, name).map(|f| f.typed(&*store)).transpose()
        }
        Ok(Self {
            boot: get(instance, store, "on_boot")?,
            capsule: get(instance, store, "on_capsule")?,
            timer: get(instance, store, "on_timer")?,
            session: get(instance, store, "on_session")?,
            expiry: get(instance, store, "on_expiry")?,
            warning: get(instance, store, "on_warning")?,
            stop: get(instance, store, "on_stop")?,
        })
    }
}

/// The bytes that a team takes from the start, beside its linear memory and table.
fn footprint(code: &Code, setup: &Setup) -> u64 {
    let tables = Objects::BYTES
        + Caps::bytes(setup.neighbors.len(), setup.grant.privileges.len())
        + Neighbors::bytes(&setup.neighbors, setup.links)
        + TimerTable::bytes(setup.budget.timers.into())
        + Slab::<SessionId>::bytes(setup.budget.sessions.into());
    let data: usize = setup.data.iter().map(|(_, bytes)| bytes.len()).sum();
    let instance = STORE_BYTES + u64::from(code.admitted().functions) * FUNCTION_BYTES;
    code.size() + instance + (tables + data) as u64
}

fn state(engine: &Engine, setup: Setup, kinds: Kinds, now: Now) -> Result<TeamState, StartError> {
    let Setup {
        tuple,
        hash,
        grant,
        budget,
        account,
        node_name,
        buffers,
        neighbors,
        links,
        data,
        meter,
        shared,
        ..
    } = setup;
    let mut random = setup.seed.map(Random::new);
    // Without entropy the cache's seed is known, and only the team's own chosen keys can make it slow.
    let mut soft_seed = [0; 8];
    if let Some(random) = &mut random {
        random.fill(&mut soft_seed);
    }
    let main = InstanceState { position: 0, kinds, memory: None };
    Ok(TeamState {
        tuple,
        hash,
        node_name,
        data,
        buffers,
        instances: vec![main],
        current: 0,
        metering: engine.metering(),
        per_micro: meter.per_micro().max(1),
        meter,
        allowance: 0,
        deadline: 0,
        seen: 0,
        charged: 0,
        now,
        objects: Objects::new(),
        caps: Caps::new(neighbors.len(), &grant.privileges),
        neighbors: Neighbors::new(neighbors, links, budget.rate, budget.burst),
        soft: None,
        soft_limit: budget.cache_entries.into(),
        soft_seed: u64::from_le_bytes(soft_seed),
        timers: TimerTable::new(budget.timers.into(), grant.min_timer_us, grant.max_timer_us),
        sessions: Slab::new(usize::from(budget.sessions).min(abi::MAX_NAMED)),
        maker: Maker::new(shared.envelopes.clone()),
        shared,
        session_limit: budget.sessions.into(),
        packet: Vec::new(),
        speaking: None,
        random,
        integrity: Integrity::new(account.charge(0)?),
        effects: VecDeque::new(),
        lent: account.charge(0)?,
        refused: Refused::default(),
        limiter: Limiter { charge: account.charge(0)?, refused: 0 },
        account,
    })
}

/// Why a call did not come back.
fn fault(e: &wasmtime::Error) -> GuestFault {
    let trap = e.downcast_ref::<Trap>();
    if let Some(Trap::OutOfFuel | Trap::Interrupt) = trap {
        return GuestFault::Deadline;
    }
    let reason = trap.map_or_else(|| e.root_cause().to_string(), Trap::to_string);
    let frames = e.downcast_ref::<WasmBacktrace>().map_or(&[][..], WasmBacktrace::frames);
    let text = match frames.first() {
        Some(f) => match f.func_name() {
            Some(name) => format!("{reason}, in {name}"),
            None => format!("{reason}, in function {}", f.func_index()),
        },
        None => reason,
    };
    GuestFault::Trap(brief(&text))
}

/// A guest's text, short and printable.
fn brief(text: &str) -> String {
    text.chars().take(160).map(|c| if c.is_control() { ' ' } else { c }).collect()
}
