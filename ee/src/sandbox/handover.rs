//! A flow's state on its way to the next version of it (`docs/abi/replace.md`).
//!
//! [`Sandbox::hand_over`] asks the version that runs for it, [`Sandbox::take_over`] gives it to the next one. Whatever
//! goes wrong in the first one's handler, it goes on as it was: its stack is where it was before, and its handler is not
//! called again.

use nodeos::account::{Account, Charge, Refused};
use nodeos::platform::Now;
use wasmtime::{Global, Mutability, Store, Val, ValType};

use super::protocols::Given;
use super::run::{Program, Protocol};
use super::{Event, GuestFault, Outcome, Outlet, Sandbox, SessionId, TeamState};
use crate::abi::{self, Error};

/// The most bytes that one protocol hands over.
pub const MAX_STATE: usize = 256 * 1024;
/// What compilers call the global that says where a module's stack ends.
const STACK_POINTER: &str = "__stack_pointer";

/// What one protocol hands over, at somebody's expense.
#[derive(Debug)]
pub struct State {
    bytes: Vec<u8>,
    charge: Charge,
}

/// A session as the guest knows it: its number there, the node's, and where replies go.
pub type KnownSession = (u32, SessionId, Outlet);

/// What passes in the handlers that are about it.
pub(crate) struct Handover {
    /// Of the protocol that runs.
    state: State,
    /// It is written, not read.
    giving: bool,
    /// What came of the protocols before, by their positions.
    given: Vec<(u8, State)>,
    /// The numbers of sessions in the version before, and here.
    sessions: Vec<(u32, u32)>,
}

impl State {
    fn new(memory: &Account) -> Result<Self, Refused> {
        Ok(Self { bytes: Vec::new(), charge: memory.charge(0)? })
    }

    fn write(&mut self, more: &[u8]) -> Result<(), Error> {
        let (there, needed) = (self.bytes.capacity(), self.bytes.len() + more.len());
        if needed > MAX_STATE {
            return Err(Error::TooLarge);
        }
        if needed > there {
            let room = needed.max(2 * there).min(MAX_STATE);
            // While the bytes move the old ones are there beside the new ones.
            self.charge.grow(room as u64).map_err(|_| Error::NoMemory)?;
            self.bytes.reserve_exact(room - self.bytes.len());
            self.charge.shrink(there as u64);
        }
        self.bytes.extend_from_slice(more);
        Ok(())
    }

    /// The same at the expense of another team.
    pub fn paid_by(self, memory: &Account) -> Result<Self, Refused> {
        Ok(Self { charge: memory.charge(self.charge.bytes())?, bytes: self.bytes })
    }
}

impl TeamState {
    /// Adds to what the protocol that runs hands over.
    pub(crate) fn hand_over(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let passing = self.handover.as_mut().filter(|passing| passing.giving).ok_or(Error::Unavailable)?;
        passing.state.write(bytes)
    }

    /// Refuses what a flow that is asked for its state may not do: it may fail and go on, and then what it wanted never
    /// happens, and what it waits for never comes.
    pub(crate) fn only_looks(&self) -> Result<(), Error> {
        match &self.handover {
            Some(passing) if passing.giving => Err(Error::Unavailable),
            _ => Ok(()),
        }
    }

    /// What the protocol that runs takes over.
    pub(crate) fn handed(&self) -> &[u8] {
        self.handover.as_ref().filter(|passing| !passing.giving).map_or(&[], |passing| &passing.state.bytes)
    }

    /// The number here of a session that had this one in the version before.
    pub(crate) fn session_now(&self, before: u32) -> Result<i32, Error> {
        let passing = self.handover.as_ref().filter(|_| self.owner() == 0).ok_or(Error::NotFound)?;
        let known = passing.sessions.iter().find(|(number, _)| *number == before);
        known.map(|(_, now)| *now as i32).ok_or(Error::NotFound)
    }

    /// One of the handlers is called; `state` is what it reads, or without any what it writes.
    fn passes(&mut self, state: Option<State>) -> Result<(), GuestFault> {
        let giving = state.is_none();
        let state = match state {
            Some(state) => state,
            None => {
                State::new(self.accounts.memory()).map_err(|_| GuestFault::Refused(Error::NoMemory.code()))?
            }
        };
        match &mut self.handover {
            Some(passing) => (passing.state, passing.giving) = (state, giving),
            None => {
                let (given, sessions) = (Vec::new(), Vec::new());
                self.handover = Some(Box::new(Handover { state, giving, given, sessions }));
            }
        }
        Ok(())
    }

    /// What the handler of the protocol at `at` wrote is kept.
    fn gave(&mut self, at: usize) -> Result<(), GuestFault> {
        let next =
            State::new(self.accounts.memory()).map_err(|_| GuestFault::Refused(Error::NoMemory.code()))?;
        if let Some(passing) = &mut self.handover {
            passing.given.push((at as u8, std::mem::replace(&mut passing.state, next)));
        }
        Ok(())
    }
}

impl Program {
    /// Asks each protocol for its state, the main one first: whoever uses a companion still has it.
    pub async fn hand_over(&mut self) -> Result<u64, (u64, GuestFault)> {
        let mut all = 0;
        for (at, protocol) in self.instances.iter().enumerate() {
            let Some(f) = &protocol.handlers.handover else { continue };
            let state = self.run.store.data_mut();
            state.enter(at);
            state.passes(None).map_err(|fault| (all, fault))?;
            let stack = protocol.stack_top(&mut self.run.store);
            let result = self.run.part(f, (), all).await;
            match result {
                Ok((units, 0)) => all += units,
                Ok((units, code)) => return Err((all + units, GuestFault::Refused(code))),
                Err(failed) => {
                    if let Some((pointer, top)) = stack {
                        // It was an `i32` that could be written a moment ago.
                        let _ = pointer.set(&mut self.run.store, Val::I32(top));
                    }
                    return Err(failed);
                }
            }
            let state = self.run.store.data_mut();
            state.leave();
            state.gave(at).map_err(|fault| (all, fault))?;
        }
        Ok(all)
    }

    /// Starts the protocols, companions first, each with what it is given or else as in a flow that is new.
    pub async fn take_over(&mut self, mut given: Given) -> Result<u64, (u64, GuestFault)> {
        let mut sessions = Vec::with_capacity(given.sessions.len());
        if self.instances[0].handlers.hears_programs() {
            let state = self.run.store.data_mut();
            for (before, id, outlet) in &given.sessions {
                // For what there is no room the node closes.
                sessions.extend(state.open(*id, outlet).map(|now| (*before, abi::number_of(now))));
            }
        }
        let mut all = 0;
        for (at, protocol) in self.instances.iter().enumerate().rev() {
            let handed = given.states.get_mut(at).and_then(Option::take);
            let handlers = &protocol.handlers;
            let state = self.run.store.data_mut();
            match (handed, &handlers.takeover) {
                (Some(handed), Some(f)) => {
                    state.enter(at);
                    let len = handed.bytes.len() as u32;
                    state.passes(Some(handed)).map_err(|fault| (all, fault))?;
                    if let Some(passing) = state.handover.as_mut().filter(|_| at == 0) {
                        passing.sessions = std::mem::take(&mut sessions);
                    }
                    let capsule = state.fresh(protocol.events.boot);
                    let (units, code) = self.run.part(f, (capsule, len), all).await?;
                    all += units;
                    if code != 0 {
                        return Err((all, GuestFault::Refused(code)));
                    }
                }
                _ => all += self.run.boot(at, protocol, all).await?,
            }
            self.run.store.data_mut().leave();
        }
        Ok(all)
    }
}

impl Protocol {
    /// Where the guest's stack ends, if the module says.
    fn stack_top(&self, store: &mut Store<TeamState>) -> Option<(Global, i32)> {
        let pointer = self.stack?;
        Some((pointer, pointer.get(&mut *store).i32()?))
    }

    /// The global that says so.
    pub(super) fn stack_pointer(
        instance: &wasmtime::Instance,
        store: &mut Store<TeamState>,
    ) -> Option<Global> {
        let global = instance.get_global(&mut *store, STACK_POINTER)?;
        let ty = global.ty(&*store);
        (matches!(ty.content(), ValType::I32) && ty.mutability() == Mutability::Var).then_some(global)
    }
}

impl Sandbox {
    /// Asks the guest for its state, within one event's deadline, in the background, too. However that ends, it goes on.
    pub fn hand_over(&mut self, now: Now) -> (Outcome, Vec<(u8, State)>) {
        if self.failed_to_hand_over {
            let before = GuestFault::Trap("its on_handover has failed before".into());
            return (Outcome { end: Err(before), ..Outcome::ended() }, Vec::new());
        }
        let outcome = self.deliver(now, Event::HandOver);
        self.failed_to_hand_over = matches!(outcome.end, Err(GuestFault::Trap(_) | GuestFault::Deadline));
        let passed = self.program().and_then(|program| program.run.store.data_mut().handover.take());
        (outcome, passed.map(|passed| passed.given).unwrap_or_default())
    }

    /// Starts the guest with what the version before handed over, instead of with [`Event::Boot`].
    pub fn take_over(&mut self, now: Now, given: Given) -> Outcome {
        let outcome = self.deliver(now, Event::TakeOver(Box::new(given)));
        if let Some(program) = self.program() {
            program.run.store.data_mut().handover = None;
        }
        outcome
    }

    /// Whether the main protocol can hand its state over, and take one over.
    pub fn hands_over(&mut self) -> (bool, bool) {
        let main = self.program().and_then(|program| program.instances.first());
        main.map_or((false, false), |main| {
            (main.handlers.handover.is_some(), main.handlers.takeover.is_some())
        })
    }

    /// The sessions that the guest knows.
    pub fn sessions(&mut self) -> Vec<KnownSession> {
        let Some(program) = self.program() else { return Vec::new() };
        let sessions = program.run.store.data().sessions.iter();
        sessions.map(|(handle, s)| (abi::number_of(handle), s.id, s.outlet.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_is_paid_for_and_bounded() {
        let [account, other] = [Account::root(2 * MAX_STATE as u64), Account::root(100)];
        let mut state = State::new(&account).unwrap();
        let mut written = 0;
        while state.write(&[7; 1000]).is_ok() {
            written += 1000;
            assert!(account.used() >= state.bytes.capacity() as u64);
        }
        assert!(written > MAX_STATE - 1000 && state.write(&[7; 1000]) == Err(Error::TooLarge));
        assert!(state.paid_by(&other).is_err());
        assert_eq!((account.used(), other.used()), (0, 0));
        let mut small = State::new(&other).unwrap();
        assert_eq!(small.write(&[0; 101]), Err(Error::NoMemory));
        small.write(&[0; 60]).unwrap();
        assert_eq!(small.write(&[0; 10]), Err(Error::NoMemory), "it has no room to move");
    }
}
