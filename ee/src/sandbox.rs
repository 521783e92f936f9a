//! A team's sandbox: one store with the instance of its protocol and everything that it may touch.
//!
//! [`Sandbox::start`] makes it, [`Sandbox::deliver`] hands it one event at a time, [`Sandbox::effects`]
//! takes out what the guest wants done. A guest that traps or runs past its deadline is not trusted
//! again: what its last event wanted is dropped, and no instruction of it runs from then on. What it did
//! to its own state before, it did; other teams have their own stores and see nothing of it.

mod clamp;
mod event;
mod run;
mod setup;
mod state;
#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;

use nodeos::account::Charge;
use nodeos::link::LinkId;
use nodeos::platform::{Instant, Now};
use nodeos::slab::Handle;
use nodeos::team::{Budget, Resource};
use wasmtime::{Store, UpdateDeadline};
use wire::id::CapsuleId;
use wire::integrity::Mark;

use self::event::brief;
pub use self::event::{Effect, Event, GuestFault, Outcome, Refused, SessionInput};
use self::run::{Handlers, LOOKS, Program, Protocol, Running};
pub use self::setup::{Setup, StartError};
use self::setup::{footprint, state};
pub use self::state::{MAX_EFFECTS, Shared, TeamState};
use crate::cap::ChildState;
use crate::capsule::Kinds;
use crate::engine::{Code, Engine, Metering};
use crate::integrity::Unsound;
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
    program: Program,
    budget: Budget,
    ended: bool,
    /// The compiled module may go only after the store.
    _code: Arc<Code>,
    _charges: [Charge; 2],
}

impl Sandbox {
    /// Charges what the team needs, checks the module against the tuple and the declared limits against
    /// the grant, and makes the instance. No guest code runs; deliver [`Event::Boot`] next.
    pub fn start(engine: &Engine, code: &Arc<Code>, setup: Setup, now: Now) -> Result<Self, StartError> {
        let protocol = setup.tuple.main();
        if let Some(description) = &code.admitted().description {
            description.agrees(protocol).map_err(StartError::Description)?;
        }
        let kinds = Kinds::new(protocol, 0, &setup.grant)?;
        let compiled = setup.accounts.code().charge(code.size())?;
        let charge = setup.accounts.memory().charge(footprint(code, &setup))?;
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
            program: Program {
                run: Running { store, interrupter, event: budget.event, calls: 0 },
                instances: vec![Protocol { memory, inbox, handlers, events }],
            },
            budget,
            ended: false,
            _code: code.clone(),
            _charges: [charge, compiled],
        })
    }

    /// Runs the handler for one event, for no longer than the event's deadline.
    pub fn deliver(&mut self, now: Now, event: Event) -> Outcome {
        if self.ended {
            return Outcome { units: 0, end: Err(GuestFault::Ended), refused: Refused::default() };
        }
        let state = self.program.run.store.data_mut();
        state.now = now;
        state.refused = Refused::default();
        if state.effects.is_empty() {
            state.lent.shrink(u64::MAX);
        }
        let before = state.effects.len();
        self.ended = matches!(event, Event::Stop);
        let result = self.program.handle(event);
        let state = self.program.run.store.data_mut();
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
        let state = self.program.run.store.data_mut();
        state.lent.shrink(u64::MAX);
        state.effects.drain(..)
    }

    /// The next timer or expiry that is due; call it until it gives `None`.
    pub fn due(&mut self, now: Now) -> Option<Event> {
        if self.ended {
            return None;
        }
        let asked = self.program.instances[0].handlers.expiry.is_some();
        let state = self.program.run.store.data_mut();
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
        let state = self.program.run.store.data();
        let expiry = state.soft.as_ref().and_then(|s| s.deadline());
        [expiry, state.timers.deadline()].into_iter().flatten().min()
    }

    /// Revokes every capability for a neighbor.
    pub fn neighbor_gone(&mut self, id: NeighborId) {
        let state = self.program.run.store.data_mut();
        if let Some(at) = state.neighbors.position(id) {
            state.neighbors.gone(id);
            state.caps.neighbor_gone(at);
        }
    }

    /// A flow that this one started does something else now.
    pub fn child_is(&mut self, child: Handle, state: ChildState) {
        self.program.run.store.data_mut().caps.child_is(child, state);
    }

    /// The mark for a capsule to a neighbor that the team has a key for.
    pub fn mark(&mut self, to: NeighborId, id: &CapsuleId, payload: &[u8]) -> Option<Mark> {
        self.program.run.store.data_mut().integrity.mark(to, id, payload)
    }

    /// Whether a capsule from a neighbor has the mark that the team asks for, if it does.
    pub fn check(
        &mut self,
        from: NeighborId,
        id: &CapsuleId,
        payload: &[u8],
        mark: Option<&Mark>,
    ) -> Result<(), Unsound> {
        self.program.run.store.data_mut().integrity.check(from, id, payload, mark)
    }

    /// What the team holds.
    pub fn stats(&self) -> SandboxStats {
        let state = self.program.run.store.data();
        SandboxStats {
            linear: self
                .program
                .instances
                .iter()
                .map(|i| i.memory.data_size(&self.program.run.store) as u64)
                .sum(),
            timers: state.timers.len() as u32,
            cache_entries: state.soft.as_ref().map_or(0, |s| s.len() as u32),
            sessions: state.sessions.len() as u32,
            calls: self.program.run.calls,
        }
    }

    /// How much of each bounded resource is in use, and the bound: for the team policy.
    pub fn usage(&self) -> [(Resource, u64, u64); 4] {
        let (state, stats) = (self.program.run.store.data(), self.stats());
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
}
