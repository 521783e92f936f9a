//! The host functions, one file per object of the guest interface.
//!
//! Every one is charged before it works, with the cost that `docs/abi/` states, and answers with a number:
//! an [`Error`] negated, or a value. Only exhaustion of the event's budget ends the guest.

mod blob;
pub(crate) mod cap;
mod capsule;
mod clock;
mod companion;
mod crypto;
mod envelope;
mod flow;
mod handover;
mod integrity;
mod key;
pub(crate) mod memory;
mod node;
pub(crate) mod random;
mod sensor;
mod session;
mod soft;

pub(crate) use self::companion::{CALL, Calls};
use wasmtime::{Caller, Linker, Trap};

use crate::abi::{self, Error, cost};
use crate::engine::Metering;
use crate::sandbox::{TeamState, charge_on_fiber};

/// What a host function answers, or the trap that ends the guest.
type Answer<T> = wasmtime::Result<T>;
/// The guest's side of a call.
type Guest<'a> = Caller<'a, TeamState>;

/// Defines all of [`abi::IMPORTS`].
pub(crate) fn link(linker: &mut Linker<TeamState>, calls: Calls) -> wasmtime::Result<()> {
    companion::link(linker, calls)?;
    capsule::link(linker)?;
    cap::link(linker)?;
    soft::link(linker)?;
    clock::link(linker)?;
    session::link(linker)?;
    node::link(linker)?;
    random::link(linker)?;
    crypto::link(linker)?;
    integrity::link(linker)?;
    key::link(linker)?;
    sensor::link(linker)?;
    blob::link(linker)?;
    envelope::link(linker)?;
    flow::link(linker)?;
    handover::link(linker)
}

/// Charges `units`, or ends the guest: its event has used its budget up.
fn charge(guest: &mut Guest<'_>, units: u64) -> wasmtime::Result<()> {
    let state = guest.data_mut();
    if state.mailbox.is_some() && !state.at_once {
        return charge_on_fiber(guest, units);
    }
    state.charged += units;
    match state.metering {
        Metering::Epoch if state.charged > state.allowance => Err(Trap::Interrupt.into()),
        Metering::Epoch => Ok(()),
        Metering::Fuel => match guest.get_fuel()?.checked_sub(units) {
            Some(left) => guest.set_fuel(left),
            None => Err(Trap::OutOfFuel.into()),
        },
    }
}

/// A call that does not touch the guest's memory.
fn plain(
    mut guest: Guest<'_>,
    units: u64,
    work: impl FnOnce(&mut TeamState) -> Result<i32, Error>,
) -> Answer<i32> {
    charge(&mut guest, units)?;
    let state = guest.data_mut();
    let result = work(state);
    Ok(state.answer(result))
}

/// A call that reads or writes the guest's memory, by way of [`memory::GuestSlice`].
fn touching(
    mut guest: Guest<'_>,
    units: u64,
    work: impl FnOnce(&mut TeamState, &mut [u8]) -> Result<i32, Error>,
) -> Answer<i32> {
    charge(&mut guest, units)?;
    let Some(memory) = guest.data().memory() else { return Ok(Error::Unavailable.code()) };
    let (bytes, state) = memory.data_and_store_mut(&mut guest);
    let result = work(state, bytes);
    Ok(state.answer(result))
}

/// The charge for moving what the guest alleges to be `len` bytes; too many are refused unmoved.
fn moved(len: u32) -> u64 {
    cost::moved(if len > abi::MAX_LEN { 0 } else { len })
}

/// The charge for hashing `len` bytes, or making them at random.
fn hashed(len: u32) -> u64 {
    let len = if len > abi::MAX_LEN { 0 } else { len };
    cost::CALL + (1 + u64::from(len).div_ceil(64)) * cost::HASH_64
}

/// A length or handle as the guest gets it.
fn number(n: impl TryInto<i32>) -> Result<i32, Error> {
    n.try_into().map_err(|_| Error::BadArgument)
}

/// A handle as the guest gets it: above 0.
fn handle(h: nodeos::slab::Handle) -> i32 {
    abi::number_of(h) as i32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::Ty;
    use crate::engine::Engine;
    use wasmtime::{Store, ValType};

    #[test]
    fn the_linker_has_exactly_the_interface() {
        let engine = Engine::new(Metering::Epoch).unwrap();
        // The linker is asked with a store of its own state type; none of it is called.
        let mut store: Store<TeamState> = crate::sandbox::tests::store(&engine);
        let mut names: Vec<String> = Vec::new();
        let defined: Vec<_> = engine.linker().iter(&mut store).map(|(_, n, f)| (n.to_string(), f)).collect();
        for (name, item) in defined {
            let signature = abi::IMPORTS.iter().find(|s| s.name == name).expect("in the table");
            let ty = item.into_func().expect("a function").ty(&store);
            let types = |list: &[Ty]| -> Vec<bool> { list.iter().map(|t| *t == Ty::I64).collect() };
            let wide = |t: ValType| matches!(t, ValType::I64);
            assert_eq!(ty.params().map(wide).collect::<Vec<_>>(), types(signature.params), "{name}");
            assert_eq!(ty.results().map(wide).collect::<Vec<_>>(), types(signature.results), "{name}");
            names.push(name);
        }
        names.sort();
        let mut all: Vec<_> = abi::IMPORTS.iter().map(|s| s.name).collect();
        all.sort();
        assert_eq!(names, all);
    }
}
