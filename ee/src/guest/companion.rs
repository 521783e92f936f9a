//! `companion_*`: from one protocol of a flow to another, and from flow to flow (seed 004, section V).
//!
//! Between flows a call and its answer are events, in [`crate::sandbox`]'s `cross`. In a flow a call runs the other protocol within the caller's event, on the caller's time. Nothing of the team's state is
//! borrowed while it runs, and what goes wrong in it ends both, however deep.

use wasmtime::{AsContextMut, Linker};

use super::memory::{GuestSlice, copy};
use super::{Answer, Guest, charge, moved, number, plain, touching};
use crate::abi::{Error, MODULE, cost};
use crate::sandbox::{Call, TeamState, head};

/// The name of the function that calls.
pub(crate) const CALL: &str = "companion_call";

/// How a guest's calls are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Calls {
    /// On the spot.
    Direct,
    /// From a fiber, which may yield in the middle of them.
    OnFiber,
}

pub(super) fn link(l: &mut Linker<TeamState>, calls: Calls) -> wasmtime::Result<()> {
    match calls {
        Calls::Direct => {
            l.func_wrap(MODULE, CALL, |mut g: Guest<'_>, cap: u32, operation: u32, ptr: u32, len: u32| {
                let call = match begin(&mut g, cap, operation, ptr, len)? {
                    Ok(call) => call,
                    Err(refused) => return Ok(refused),
                };
                let result = call.entry.call(&mut g, call.params)?;
                g.data_mut().returned();
                Ok(result)
            })?;
        }
        Calls::OnFiber => {
            l.func_wrap_async(
                MODULE,
                CALL,
                |mut g: Guest<'_>, (cap, operation, ptr, len): (u32, u32, u32, u32)| {
                    Box::new(async move {
                        let call = match begin(&mut g, cap, operation, ptr, len)? {
                            Ok(call) => call,
                            Err(refused) => return Ok(refused),
                        };
                        let result = call.entry.call_async(&mut g, call.params).await?;
                        g.data_mut().returned();
                        Ok(result)
                    })
                },
            )?;
        }
    }
    l.func_wrap(MODULE, "companion_read", |g: Guest<'_>, offset: u32, ptr: u32, len: u32| {
        touching(g, moved(len), |s, memory| {
            let to = GuestSlice::new(ptr, len).write(memory)?;
            number(copy(s.message().get(offset as usize..).unwrap_or(&[]), to))
        })
    })?;
    l.func_wrap(MODULE, "companion_reply", |g: Guest<'_>, ptr: u32, len: u32| {
        touching(g, moved(len), |s, memory| {
            let bytes = GuestSlice::new(ptr, len).read(memory)?;
            s.reply(bytes).map(|()| 0)
        })
    })?;
    l.func_wrap(MODULE, "companion_answer", |g: Guest<'_>, offset: u32, ptr: u32, len: u32| {
        touching(g, moved(len), |s, memory| {
            let to = GuestSlice::new(ptr, len).write(memory)?;
            number(copy(s.answered().get(offset as usize..).unwrap_or(&[]), to))
        })
    })?;
    l.func_wrap(MODULE, "companion_deny", |g: Guest<'_>, companion: u32, neighbor: u32| {
        plain(g, cost::CALL + cost::ENTRY, |s| s.deny(companion, neighbor).map(|()| 0))
    })?;
    l.func_wrap(
        MODULE,
        "companion_ask",
        |g: Guest<'_>, companion: u32, operation: u32, ptr: u32, len: u32| {
            touching(g, 2 * moved(len) + cost::FRAME, |s, memory| {
                let message = GuestSlice::new(ptr, len).read(memory)?;
                s.ask(companion, operation, message)
            })
        },
    )?;
    l.func_wrap(MODULE, "companion_settle", |g: Guest<'_>, call: u32, result: i32, ptr: u32, len: u32| {
        touching(g, 2 * moved(len) + cost::FRAME, |s, memory| {
            let answer = GuestSlice::new(ptr, len).read(memory)?;
            s.settle(call, result, answer).map(|()| 0)
        })
    })?;
    l.func_wrap(MODULE, "companion_caller", |g: Guest<'_>, call: u32, out: u32| {
        touching(g, moved(32), |s, memory| {
            let to = GuestSlice::new(out, 32).write(memory)?;
            copy(&s.caller(call)?.0, to);
            Ok(0)
        })
    })?;
    Ok(())
}

/// Everything of a call but the other protocol's work; or what the guest gets instead.
fn begin(g: &mut Guest<'_>, cap: u32, operation: u32, ptr: u32, len: u32) -> Answer<Result<Call, i32>> {
    // The message is copied, and its head once more.
    charge(g, cost::ENTRY + 2 * moved(len))?;
    let Some(memory) = g.data().memory() else { return Ok(Err(Error::Unavailable.code())) };
    let (bytes, state) = memory.data_and_store_mut(g.as_context_mut());
    let prepared = GuestSlice::new(ptr, len).read(bytes).and_then(|bytes| state.call(cap, operation, bytes));
    let call = match prepared {
        Ok(call) => call,
        Err(error) => return Ok(Err(state.answer(Err(error)))),
    };
    let (memory, inbox) = call.inbox;
    let (bytes, state) = memory.data_and_store_mut(g.as_context_mut());
    let message = head(state.message());
    if let Some(to) = bytes.get_mut(inbox..).and_then(|b| b.get_mut(..message.len())) {
        to.copy_from_slice(message);
    }
    Ok(Ok(call))
}
