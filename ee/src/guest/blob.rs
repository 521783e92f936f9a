//! `blob_*`: what a flow keeps on the node beyond soft state, for flows with the privilege `blobs`.

use wasmtime::Linker;

use super::memory::{GuestSlice, copy};
use super::{Guest, hashed, moved, number, touching};
use crate::abi::{Error, MODULE, cost, rights};
use crate::cap::BLOBS;
use crate::sandbox::TeamState;

pub(super) fn link(l: &mut Linker<TeamState>) -> wasmtime::Result<()> {
    l.func_wrap(
        MODULE,
        "blob_put",
        |g: Guest<'_>, blobs: u32, name: u32, name_len: u32, ptr: u32, len: u32| {
            // Its hash is made when it is written to a device.
            touching(g, moved(name_len) + hashed(len) + cost::ENTRY, |s, memory| {
                allowed(s, blobs, rights::USE)?;
                let name = GuestSlice::new(name, name_len).read(memory)?;
                let data = GuestSlice::new(ptr, len).read(memory)?;
                s.shared.blobs.store().put(&s.hash.0, s.accounts.memory(), name, data)?;
                Ok(0)
            })
        },
    )?;
    l.func_wrap(
        MODULE,
        "blob_get",
        |g: Guest<'_>, blobs: u32, name: u32, name_len: u32, offset: u32, ptr: u32, len: u32| {
            touching(g, moved(name_len) + moved(len) + cost::ENTRY, |s, memory| {
                allowed(s, blobs, rights::READ)?;
                let name = GuestSlice::new(name, name_len).read(memory)?;
                let data = s.shared.blobs.store().get(&s.hash.0, name).cloned().ok_or(Error::NotFound)?;
                let from = data.get(offset as usize..).ok_or(Error::BadArgument)?;
                number(copy(from, GuestSlice::new(ptr, len).write(memory)?))
            })
        },
    )?;
    l.func_wrap(MODULE, "blob_len", |g: Guest<'_>, blobs: u32, name: u32, name_len: u32| {
        touching(g, moved(name_len) + cost::ENTRY, |s, memory| {
            allowed(s, blobs, rights::READ)?;
            let name = GuestSlice::new(name, name_len).read(memory)?;
            number(s.shared.blobs.store().get(&s.hash.0, name).ok_or(Error::NotFound)?.len())
        })
    })?;
    l.func_wrap(MODULE, "blob_list", |g: Guest<'_>, blobs: u32, index: u32, ptr: u32, len: u32| {
        touching(g, moved(len) + 2 * cost::ENTRY, |s, memory| {
            allowed(s, blobs, rights::READ)?;
            let to = GuestSlice::new(ptr, len).write(memory)?;
            let store = s.shared.blobs.store();
            let name = store.name(&s.hash.0, index as usize).ok_or(Error::NotFound)?;
            copy(name, to);
            number(name.len())
        })
    })?;
    l.func_wrap(MODULE, "blob_remove", |g: Guest<'_>, blobs: u32, name: u32, name_len: u32| {
        touching(g, moved(name_len) + 2 * cost::ENTRY, |s, memory| {
            allowed(s, blobs, rights::USE)?;
            let name = GuestSlice::new(name, name_len).read(memory)?;
            s.shared.blobs.store().remove(&s.hash.0, name)?;
            Ok(0)
        })
    })?;
    Ok(())
}

/// Checks the capability, and that the team pays for what the flow left here in an earlier life of the node.
#[inline(never)]
fn allowed(s: &TeamState, blobs: u32, right: u32) -> Result<(), Error> {
    s.caps.privilege(blobs, right, BLOBS)?;
    Ok(s.shared.blobs.store().claim(&s.hash.0, s.accounts.memory())?)
}
