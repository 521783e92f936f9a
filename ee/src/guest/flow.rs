//! `flow_*`: flows below this one, for flows with the privilege `flows`; and the end of this one.

use wasmtime::Linker;
use wire::budget::Kind;

use super::memory::GuestSlice;
use super::{Guest, handle, hashed, moved, plain, touching};
use crate::abi::{Error, MODULE, Resource, cost, rights};
use crate::cap::{ChildState, FLOWS};
use crate::sandbox::{Effect, TeamState};

pub(super) fn link(l: &mut Linker<TeamState>) -> wasmtime::Result<()> {
    l.func_wrap(MODULE, "flow_start", |g: Guest<'_>, flows: u32, ptr: u32, len: u32, give: u32| {
        // The tuple is hashed and read once more.
        touching(g, moved(len) + 2 * hashed(len) + cost::ENTRY, |s, memory| {
            s.caps.privilege(flows, rights::USE, FLOWS)?;
            // What becomes of the flows is told to the main protocol.
            if s.owner() != 0 {
                return Err(Error::NotPermitted);
            }
            let tuple = GuestSlice::new(ptr, len).read(memory)?;
            if give >> GIVABLE != 0 {
                return Err(Error::BadArgument);
            }
            s.only_looks()?;
            s.effects.make_room(1)?;
            s.charge_effect(tuple.len())?;
            let (child, cap) = s.caps.add_child()?;
            s.effects.push(Effect::FlowStart { child, tuple: tuple.to_vec(), give });
            Ok(handle(cap))
        })
    })?;
    l.func_wrap(MODULE, "flow_state", |g: Guest<'_>, flow: u32| {
        plain(g, cost::CALL, |s| s.caps.child(flow, rights::READ).map(|(_, state)| state as i32))
    })?;
    l.func_wrap(MODULE, "flow_stop", |g: Guest<'_>, flow: u32, kill: u32| {
        plain(g, cost::CALL + cost::ENTRY, |s| {
            let (child, _) = s.caps.child(flow, rights::USE)?;
            s.effects.make_room(1)?;
            s.effects.push(Effect::FlowStop { child, kill: kill != 0 });
            Ok(0)
        })
    })?;
    l.func_wrap(MODULE, "flow_limit", |g: Guest<'_>, flow: u32, resource: i32, most: i64| {
        plain(g, cost::CALL + cost::ENTRY, |s| {
            let (child, state) = s.caps.child(flow, rights::USE)?;
            let most = u64::try_from(most).map_err(|_| Error::BadArgument)?;
            let kind = Resource::of(resource).and_then(bound).ok_or(Error::BadArgument)?;
            if state != ChildState::Running {
                return Err(Error::Unavailable);
            }
            s.effects.make_room(1)?;
            s.effects.push(Effect::FlowLimit { child, kind, most });
            Ok(0)
        })
    })?;
    l.func_wrap(MODULE, "flow_end", |g: Guest<'_>| {
        plain(g, cost::CALL + cost::ENTRY, |s| {
            s.effects.make_room(1)?;
            s.effects.push(Effect::End);
            Ok(0)
        })
    })?;
    Ok(())
}

/// The budget that bounds a resource; `None` where none does.
fn bound(resource: Resource) -> Option<Kind> {
    Some(match resource {
        Resource::Memory => Kind::Memory,
        Resource::Processor => Kind::Event,
        Resource::Bandwidth => Kind::Rate,
        Resource::Timers => Kind::Timers,
        Resource::Sessions => Kind::Sessions,
        Resource::CacheEntries => Kind::CacheEntries,
        _ => return None,
    })
}

/// Resources that can be donated: the bits of `give`.
const GIVABLE: u32 = 3;
