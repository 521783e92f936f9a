//! `integrity_*`: marks on capsules, hop by hop, under the protocol's own keys.

use wasmtime::Linker;
use wire::integrity::OPTION_LEN;

use super::memory::GuestSlice;
use super::{Guest, hashed, plain, touching};
use crate::abi::{Error, MODULE, cost, rights};
use crate::sandbox::TeamState;

pub(super) fn link(l: &mut Linker<TeamState>) -> wasmtime::Result<()> {
    l.func_wrap(MODULE, "integrity_set", |g: Guest<'_>, cap: u32, ptr: u32, len: u32| {
        touching(g, hashed(len) + cost::ENTRY, |s, memory| {
            let at = s.caps.neighbor(cap, rights::USE)?;
            let neighbor = s.neighbors.get(at)?.is.id;
            let key = GuestSlice::new(ptr, len).read(memory)?;
            let mut sender = [0; 4];
            s.random.as_mut().ok_or(Error::Unavailable)?.fill(&mut sender);
            let (sender, wall) = (u32::from_le_bytes(sender), s.now.wall);
            if s.with_integrity(|i| i.set(neighbor, key, sender, wall))? {
                s.each_neighbors(|neighbors| neighbors.reserve(at, OPTION_LEN as u16));
            }
            Ok(0)
        })
    })?;
    l.func_wrap(MODULE, "integrity_clear", |g: Guest<'_>, cap: u32| {
        plain(g, cost::CALL + cost::ENTRY, |s| {
            let at = s.caps.neighbor(cap, rights::USE)?;
            let neighbor = s.neighbors.get(at)?.is.id;
            if !s.with_integrity(|i| i.clear(neighbor)) {
                return Err(Error::NotFound);
            }
            s.each_neighbors(|neighbors| neighbors.release(at, OPTION_LEN as u16));
            Ok(0)
        })
    })?;
    Ok(())
}
