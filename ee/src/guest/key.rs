//! `key_*`: the node's own key, for flows with the privilege `node-key`. It signs, and never shows itself.

use wasmtime::Linker;
use wire::statement;

use super::memory::GuestSlice;
use super::{Guest, hashed, moved, touching};
use crate::abi::{Error, MODULE, cost, rights};
use crate::cap::NODE_KEY;
use crate::sandbox::TeamState;

pub(super) fn link(l: &mut Linker<TeamState>) -> wasmtime::Result<()> {
    l.func_wrap(MODULE, "key_sign", |g: Guest<'_>, key: u32, ptr: u32, len: u32, out: u32| {
        touching(g, cost::SIGN + hashed(len), |s, memory| {
            s.caps.privilege(key, rights::USE, NODE_KEY)?;
            let bytes = GuestSlice::new(ptr, len).read(memory)?;
            if bytes.len() > statement::MAX_GUEST {
                return Err(Error::TooLarge);
            }
            let statement = statement::guest(&s.hash, bytes);
            // No signature is made that cannot be handed over.
            let out = GuestSlice::new(out, 64).write(memory)?;
            out.copy_from_slice(&s.shared.key.as_ref().ok_or(Error::Unavailable)?.sign(&statement));
            Ok(0)
        })
    })?;
    l.func_wrap(MODULE, "key_public", |g: Guest<'_>, key: u32, out: u32| {
        touching(g, moved(32), |s, memory| {
            s.caps.privilege(key, rights::READ, NODE_KEY)?;
            let public = s.shared.key.as_ref().ok_or(Error::Unavailable)?.public();
            GuestSlice::new(out, 32).write(memory)?.copy_from_slice(&public.to_bytes());
            Ok(0)
        })
    })?;
    Ok(())
}
