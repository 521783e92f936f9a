//! A team's sandbox: one store with the instance of its protocol and everything that it may touch.
//!
//! [`Sandbox::start`] makes it, [`Sandbox::deliver`] hands it one event at a time, [`Sandbox::effects`]
//! takes out what the guest wants done. A guest that traps or runs past its deadline is not trusted
//! again: what its last event wanted is dropped, and no instruction of it runs from then on. What it did
//! to its own state before, it did; other teams have their own stores and see nothing of it.

mod clamp;
mod cross;
mod effects;
mod event;
mod fiber;
mod handover;
mod mailbox;
mod outlet;
mod protocols;
mod run;
mod setup;
mod state;
#[cfg(test)]
pub(crate) mod tests;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use nodeos::account::Charge;
use nodeos::link::LinkId;
use nodeos::platform::{Instant, Now};
use nodeos::slab::Handle;
use wasmtime::{Store, UpdateDeadline};
use wire::control::Crash;
use wire::id::CapsuleId;
use wire::integrity::Mark;
use wire::tuple::Tuple;

pub use self::cross::{Answered, Asked, MAX_ASKED, MAX_SERVED};
use self::event::{Doing, brief};
pub use self::event::{Effect, Event, GuestFault, Outcome, Refused, SessionInput};
use self::fiber::{Background, Fiber};
pub use self::handover::{KnownSession, MAX_STATE, State};
pub(crate) use self::mailbox::charge as charge_on_fiber;
pub use self::outlet::Outlet;
pub use self::protocols::Given;
pub(crate) use self::protocols::{Call, head};
use self::run::{Program, Protocol, Running};
pub use self::setup::{Setup, StartError};
use self::setup::{footprint, state};
pub(crate) use self::state::OpenSession;
pub use self::state::{MAX_EFFECTS, Shared, TeamState};
use crate::cap::ChildState;
use crate::capsule::Kinds;
use crate::engine::{Code, Engine, Metering};
use crate::integrity::{Integrity, Unsound};
pub use crate::soft::Fired;

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
    guest: Guest,
    /// Of a team that has, or had, the privilege.
    background: Option<Background>,
    /// What it held when its running event began.
    held: SandboxStats,
    tuple: Arc<Tuple>,
    /// What an event has, and one in the background in all its slices.
    time: [Duration; 2],
    warned: bool,
    listeners: u16,
    ended: bool,
    /// It is not asked for its state again.
    failed_to_hand_over: bool,
    /// The event that it was given last.
    doing: Doing,
    /// What it said last before it failed.
    said: Option<String>,
    /// The compiled modules may go only after the store.
    _code: Vec<Arc<Code>>,
    charge: Charge,
    _compiled: Charge,
}

/// Where the guest is.
enum Guest {
    /// Between two events.
    Idle(Program),
    /// Between two slices of one.
    Suspended(Fiber),
    /// Nowhere: it was ended in the middle of an event.
    Gone,
}

impl Sandbox {
    /// Charges what the team needs, checks the modules, one for each of the tuple's protocols, against the tuple
    /// and the declared limits against the grant, and makes the instances. No guest code runs; deliver
    /// [`Event::Boot`] next.
    pub fn start(engine: &Engine, code: &[Arc<Code>], setup: Setup, now: Now) -> Result<Self, StartError> {
        for (protocol, code) in setup.tuple.body.protocols.iter().zip(code) {
            if let Some(description) = &code.admitted().description {
                description.agrees(protocol).map_err(StartError::Description)?;
            }
        }
        let kinds = Kinds::all(&setup.tuple, &setup.grant)?;
        let compiled = setup.accounts.code().charge(code.iter().map(|code| code.size()).sum())?;
        let charge = setup.accounts.memory().charge(footprint(code, &setup))?;
        let (interrupter, budget, tuple) = (setup.interrupter.clone(), setup.budget, setup.tuple.clone());
        let (state, background) = state(engine, setup, kinds, now)?;
        let mut store = Store::new(engine.raw(), state);
        store.limiter(|s| &mut s.limiter);
        if engine.metering() == Metering::Epoch {
            store.set_epoch_deadline(1);
            // A tick may have been meant for another team, or come late. Host functions use the time up, too.
            store.epoch_deadline_callback(|mut s| {
                let state = s.data_mut();
                state.read_mail();
                let over = state.charged > state.allowance || state.is_late();
                Ok(match over {
                    true if state.mailbox.is_some() && !state.at_once => UpdateDeadline::Yield(1),
                    true => UpdateDeadline::Interrupt,
                    false => UpdateDeadline::Continue(1),
                })
            });
        }
        let failed = |e: wasmtime::Error| StartError::Instantiate(brief(&format!("{e:#}")));
        if engine.metering() == Metering::Fuel {
            // Filling memory and table is counted, too; admission has bounded it.
            store.set_fuel(u64::MAX).map_err(failed)?;
        }
        let mut instances = Vec::with_capacity(code.len());
        for (at, code) in code.iter().enumerate() {
            let instance = code.instantiate(&mut store, background.is_some()).map_err(failed)?;
            instances.push(Protocol::found(&instance, code, at, &mut store)?);
        }
        let warned = instances.first().is_some_and(|main| main.handlers.warning.is_some());
        let hears = |(at, protocol): (u32, &Protocol)| u16::from(protocol.handlers.neighbor.is_some()) << at;
        let listeners = (0..).zip(&instances).map(hears).sum();
        Ok(Self {
            guest: Guest::Idle(Program { run: Running::new(store, interrupter, budget.event), instances }),
            background,
            held: SandboxStats::default(),
            tuple,
            time: [budget.event, budget.background],
            warned,
            listeners,
            ended: false,
            failed_to_hand_over: false,
            doing: Doing::Boot,
            said: None,
            _code: code.to_vec(),
            charge,
            _compiled: compiled,
        })
    }

    /// What the next event is about came at this time.
    #[inline]
    pub fn came(&mut self, at: Instant) {
        if let Guest::Idle(program) = &mut self.guest {
            program.run.store.data_mut().since = at;
        }
    }

    /// Runs the handler for one event, for no longer than the event's deadline; in the background, until
    /// its first slice is over. A guest in the middle of an event takes nothing but its end.
    pub fn deliver(&mut self, now: Now, event: Event) -> Outcome {
        let last = matches!(event, Event::Stop);
        let Guest::Idle(program) = &mut self.guest else {
            if last && !self.ended {
                (self.guest, self.ended) = (Guest::Gone, true);
                return Outcome { end: Ok(()), ..Outcome::ended() };
            }
            return Outcome::ended();
        };
        if self.ended {
            return Outcome::ended();
        }
        let state = program.run.store.data_mut();
        state.now = now;
        state.refused = Refused::default();
        if state.effects.is_empty() {
            state.lent.shrink(u64::MAX);
        }
        state.done = state.effects.len();
        self.ended = last;
        self.doing = Doing::of(&event);
        if self.background.is_some() {
            return self.begin(now, event);
        }
        if let Event::Capsule { protocol, kind, from, packet } = event {
            let result = program.handle_capsule((protocol, kind), from, packet);
            return self.settle(result);
        }
        let polled = pin!(program.handle(event)).poll(&mut Context::from_waker(Waker::noop()));
        match polled {
            Poll::Ready(result) => self.settle(result),
            // Only a fiber yields.
            Poll::Pending => Outcome::ended(),
        }
    }

    /// The event is over.
    fn settle(&mut self, result: Result<u64, (u64, GuestFault)>) -> Outcome {
        let Guest::Idle(program) = &mut self.guest else { return Outcome::ended() };
        let state = program.run.store.data_mut();
        state.read_mail();
        state.leave();
        state.refused.memory =
            state.refused.memory.saturating_add(std::mem::take(&mut state.limiter.refused));
        let refused = state.refused;
        let (units, end) = match result {
            Ok(units) => (units, Ok(())),
            Err((units, fault)) => {
                self.said = state.effects.last_words(state.done);
                state.take_back(state.done);
                // Whoever fails to give its state away has it still.
                self.ended = self.doing != Doing::HandOver;
                (units, Err(fault))
            }
        };
        // Of the whole event: the last of several calls had only what those before it left.
        let most = program.run.allowance();
        let near = units > 0 && units >= most - most / 4;
        Outcome { units, end, refused, near, more: false }
    }

    /// What is known of how the guest failed.
    #[cold]
    pub fn crash(&mut self, now: Instant, fault: &GuestFault) -> Crash {
        let said = self.said.take();
        let why = match (fault, &said) {
            // A panic: the function that trapped is the one that said so.
            (GuestFault::Trap(_), Some(_)) => "guest trapped".into(),
            _ => fault.to_string(),
        };
        Crash { at_us: now.micros(), during: self.doing.name(&self.tuple), why, said }
    }

    /// Takes out what the guest wants done, in order; nothing in the middle of an event.
    pub fn effects(&mut self) -> impl Iterator<Item = Effect> + '_ {
        std::iter::from_fn(move || self.next_effect())
    }

    /// Takes out the next thing that the guest wants done; call it until it gives `None`.
    #[inline]
    pub fn next_effect(&mut self) -> Option<Effect> {
        let state = self.program()?.run.store.data_mut();
        state.lent.shrink(u64::MAX);
        state.effects.pop()
    }

    /// Whether [`next_effect`](Self::next_effect) has another one.
    #[inline]
    pub fn has_effects(&self) -> bool {
        matches!(&self.guest, Guest::Idle(program) if !program.run.store.data().effects.is_empty())
    }

    /// Nothing of what the guest wants is done.
    pub fn take_back(&mut self) {
        if let Some(program) = self.program() {
            program.run.store.data_mut().take_back(0);
        }
    }

    /// The next timer or expiry that is due; call it until it gives `None`. Those that come in the middle of an
    /// event are due when it is over.
    pub fn due(&mut self, now: Now) -> Option<Event> {
        if self.ended {
            return None;
        }
        let program = self.program()?;
        let instances = &program.instances;
        let state = program.run.store.data_mut();
        while let Some(soft) = &mut state.soft
            && let Some(entry) = soft.due(now.mono)
        {
            let asked = |owner| {
                instances.get(usize::from(owner)).is_some_and(|i: &Protocol| i.handlers.expiry.is_some())
            };
            if soft.owner(entry).is_some_and(asked) {
                return Some(Event::Expiry { entry });
            }
            soft.remove(entry);
        }
        state.timers.due(now.mono).map(Event::Timer)
    }

    /// When [`Sandbox::due`] has something next.
    #[inline]
    pub fn deadline(&self) -> Option<Instant> {
        let Guest::Idle(program) = &self.guest else { return None };
        if self.ended {
            return None;
        }
        let state = program.run.store.data();
        let expiry = state.soft.as_ref().and_then(|s| s.deadline());
        match (expiry, state.timers.deadline()) {
            (Some(expiry), Some(timer)) => Some(expiry.min(timer)),
            (expiry, timer) => expiry.or(timer),
        }
    }

    /// A flow that this one started does something else now.
    pub fn child_is(&mut self, child: Handle, state: ChildState) {
        match (&mut self.guest, &self.background) {
            (Guest::Idle(program), _) => program.run.store.data_mut().child_is(child, state),
            (_, Some(background)) => background.mailbox.child_is(child, state),
            (_, None) => {}
        }
    }

    /// The mark for a capsule to a neighbor that the team has a key for.
    #[inline]
    pub fn mark(&mut self, to: NeighborId, id: &CapsuleId, payload: &[u8]) -> Option<Mark> {
        self.with_integrity(|keys| keys.mark(to, id, payload)).flatten()
    }

    /// Whether a capsule from a neighbor has the mark that the team asks for, if it does.
    #[inline]
    pub fn check(
        &mut self,
        from: NeighborId,
        id: &CapsuleId,
        payload: &[u8],
        mark: Option<&Mark>,
    ) -> Result<(), Unsound> {
        self.with_integrity(|keys| keys.check(from, id, payload, mark)).unwrap_or(Ok(()))
    }

    /// What the team holds; in the middle of an event, what it held at its start.
    pub fn stats(&self) -> SandboxStats {
        let Guest::Idle(program) = &self.guest else { return self.held };
        let (state, store) = (program.run.store.data(), &program.run.store);
        SandboxStats {
            linear: program.instances.iter().map(|i| i.memory.data_size(store) as u64).sum(),
            timers: state.timers.len() as u32,
            cache_entries: state.soft.as_ref().map_or(0, |s| s.len() as u32),
            sessions: state.sessions.len() as u32,
            calls: program.run.calls,
        }
    }

    /// Whether the guest has a handler for warnings.
    pub fn hears_warnings(&self) -> bool {
        self.warned
    }

    /// Which protocols have a handler for what happens to neighbors: a bit for each position in the tuple.
    pub fn listeners(&self) -> u16 {
        self.listeners
    }

    /// Whether the guest has ended: trapped, overran, or was stopped.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    #[inline]
    fn program(&mut self) -> Option<&mut Program> {
        match &mut self.guest {
            Guest::Idle(program) => Some(program),
            _ => None,
        }
    }

    #[inline]
    fn with_integrity<R>(&mut self, work: impl FnOnce(&mut Integrity) -> R) -> Option<R> {
        match (&self.background, &mut self.guest) {
            (Some(background), _) => Some(work(&mut background.mailbox.open().integrity)),
            (None, Guest::Idle(program)) => Some(work(&mut program.run.store.data_mut().integrity)),
            (None, _) => None,
        }
    }
}
