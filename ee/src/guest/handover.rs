//! `handover_*`: from one version of a flow to the next.

use wasmtime::Linker;

use super::memory::{GuestSlice, copy};
use super::{Guest, moved, number, plain, touching};
use crate::abi::{MODULE, cost};
use crate::sandbox::TeamState;

pub(super) fn link(l: &mut Linker<TeamState>) -> wasmtime::Result<()> {
    l.func_wrap(MODULE, "handover_write", |g: Guest<'_>, ptr: u32, len: u32| {
        touching(g, moved(len), |s, memory| {
            let bytes = GuestSlice::new(ptr, len).read(memory)?;
            s.hand_over(bytes).map(|()| 0)
        })
    })?;
    l.func_wrap(MODULE, "handover_read", |g: Guest<'_>, offset: u32, ptr: u32, len: u32| {
        touching(g, moved(len), |s, memory| {
            let to = GuestSlice::new(ptr, len).write(memory)?;
            number(copy(s.handed().get(offset as usize..).unwrap_or(&[]), to))
        })
    })?;
    l.func_wrap(MODULE, "handover_session", |g: Guest<'_>, session: u32| {
        plain(g, cost::CALL, |s| s.session_now(session))
    })?;
    Ok(())
}
