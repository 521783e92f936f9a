//! Calls between flows (flow-independent companions, seed 004, section V), as a team sees them: those that it made
//! of others, and those that others made of it. Between teams there are only queued events (D5); `node::cross`
//! carries them.
//!
//! A call is an [`Effect::Ask`] of the caller's, becomes an [`Asked`] event of whoever serves the interface, whose
//! [`Effect::Settle`], in that event or in a later one, becomes an [`Answered`] event of the caller's.

use nodeos::account::{Account, Charge, Refused};
use nodeos::slab::Slab;
use wire::id::TupleHash;
use wire::tuple::Provider;

use super::run::Program;
use super::{Effect, GuestFault, TeamState};
use crate::abi::{self, Error, MAX_MESSAGE};
use crate::cap::CompanionId;

/// Calls that one team may have made and not got the answers of.
pub const MAX_ASKED: u8 = 8;
/// Calls that a team may have been given and not answered.
pub const MAX_SERVED: usize = 64;

/// Another flow calls.
#[derive(Debug)]
pub struct Asked {
    /// The node's own number of the call.
    pub call: u32,
    /// Who calls.
    pub caller: TupleHash,
    /// What it wants: a number that the two agree on.
    pub operation: u32,
    /// What it says.
    pub message: Vec<u8>,
}

/// A call of this flow's was answered.
#[derive(Debug)]
pub struct Answered {
    /// The protocol that called: position in the tuple.
    pub protocol: u8,
    /// What it called: position among the protocol's companions.
    pub companion: u8,
    /// The number that the call had.
    pub number: u32,
    /// What came of it; an error's code if nobody could answer.
    pub result: i32,
    /// The answer.
    pub answer: Vec<u8>,
    /// What is paid for it until it is heard.
    pub charge: Option<Charge>,
}

/// A team's calls in both directions.
pub(crate) struct Cross {
    /// Calls that it made and waits for.
    asked: u8,
    /// The number of the last of them.
    last: u32,
    /// Calls that it has not answered, under the numbers that it knows them by.
    served: Slab<Served>,
}

struct Served {
    call: u32,
    caller: TupleHash,
}

impl Cross {
    pub fn new(memory: &Account) -> Result<Self, Refused> {
        Ok(Self { asked: 0, last: 0, served: Slab::charged(MAX_SERVED, memory)? })
    }
}

impl TeamState {
    /// Calls what `cap` names with `message`; the number that its answer will have.
    pub(crate) fn ask(&mut self, cap: u32, operation: u32, message: &[u8]) -> Result<i32, Error> {
        self.only_looks()?;
        let CompanionId::Companion(companion) = self.caps.companion(cap)? else {
            return Err(Error::BadArgument);
        };
        let named = self.protocol().companions.get(usize::from(companion)).ok_or(Error::NotFound)?;
        let Provider::System(interface) = &named.provider else { return Err(Error::BadArgument) };
        if !self.caps.holds(interface) {
            return Err(Error::NotPermitted);
        }
        if message.len() > MAX_MESSAGE {
            return Err(Error::TooLarge);
        }
        if self.cross.asked >= MAX_ASKED {
            return Err(Error::NoRoom);
        }
        self.effects.make_room(1)?;
        self.charge_effect(message.len())?;
        let number = self.cross.last % i32::MAX as u32 + 1;
        (self.cross.last, self.cross.asked) = (number, self.cross.asked + 1);
        let (protocol, message) = (self.owner(), message.to_vec());
        self.effects.push(Effect::Ask { protocol, companion, number, operation, message });
        Ok(number as i32)
    }

    /// Answers a call that this team was given.
    pub(crate) fn settle(&mut self, call: u32, result: i32, answer: &[u8]) -> Result<(), Error> {
        self.only_looks()?;
        let served = self.served(call)?.call;
        if answer.len() > MAX_MESSAGE {
            return Err(Error::TooLarge);
        }
        self.effects.make_room(1)?;
        self.charge_effect(answer.len())?;
        abi::named(call).and_then(|handle| self.cross.served.remove(handle));
        self.effects.push(Effect::Settle { call: served, result, answer: answer.to_vec() });
        Ok(())
    }

    /// Who made a call that this team was given.
    pub(crate) fn caller(&self, call: u32) -> Result<TupleHash, Error> {
        self.served(call).map(|served| served.caller)
    }

    /// Others call the main protocol; its companions do not reach that.
    fn served(&self, call: u32) -> Result<&Served, Error> {
        let handle = abi::named(call).filter(|_| self.owner() == 0).ok_or(Error::BadHandle)?;
        self.cross.served.get(handle).ok_or(Error::BadHandle)
    }

    /// Enters a call; the number by which the guest knows it.
    fn take_on(&mut self, call: u32, caller: TupleHash) -> Result<u32, Error> {
        self.cross.served.reserve()?;
        let served = self.cross.served.insert(Served { call, caller }).map_err(|_| Error::NoRoom)?;
        Ok(abi::number_of(served))
    }
}

impl Program {
    /// Lets the main protocol work on another flow's call. One that it cannot take is answered for it.
    pub(super) async fn asked(&mut self, asked: Asked) -> Result<u64, (u64, GuestFault)> {
        let Asked { call, caller, operation, message } = asked;
        let (main, len) = (&self.instances[0], message.len() as u32);
        let state = self.run.store.data_mut();
        let taken = match &main.handlers.call {
            Some(f) => state.hear(message).and_then(|()| Ok((f, state.take_on(call, caller)?))),
            None => Err(Error::NotFound),
        };
        let (f, number) = match taken {
            Ok(taken) => taken,
            Err(error) => {
                state.heard();
                state.effects.push(Effect::Settle { call, result: error.code(), answer: Vec::new() });
                return Ok(0);
            }
        };
        state.enter(0);
        let capsule = state.fresh(main.events.session);
        main.fill_inbox(&mut self.run.store, |inbox, state| {
            let head = super::head(state.message());
            inbox[..head.len()].copy_from_slice(head);
        });
        let result = self.run.call(f, (capsule, number, operation, len)).await;
        self.run.store.data_mut().heard();
        result.map(|(units, ())| units)
    }

    /// Lets a protocol know what came of a call that it made.
    pub(super) async fn answered(&mut self, answered: Answered) -> Result<u64, (u64, GuestFault)> {
        let Answered { protocol: at, companion, number, result, answer, charge: _until_heard } = answered;
        let Some(protocol) = self.instances.get(usize::from(at)) else { return Ok(0) };
        let state = self.run.store.data_mut();
        state.cross.asked = state.cross.asked.saturating_sub(1);
        let Some(f) = &protocol.handlers.answer else { return Ok(0) };
        state.enter(at.into());
        let cap = state.caps.of_companion(companion).map_or(0, abi::number_of);
        let len = answer.len() as u32;
        state.set_answer(answer);
        protocol.fill_inbox(&mut self.run.store, |inbox, state| {
            let head = super::head(state.answered());
            inbox[..head.len()].copy_from_slice(head);
        });
        let result = self.run.call(f, (cap, number, result, len)).await;
        self.run.store.data_mut().forget_answer();
        result.map(|(units, ())| units)
    }
}
