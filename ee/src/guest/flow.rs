//! `flow_*`: flows below this one, for flows with the privilege `flows`.

use wasmtime::Linker;
use wire::tuple::Budgets;

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
            let tuple = GuestSlice::new(ptr, len).read(memory)?;
            if give >> GIVABLE != 0 {
                return Err(Error::BadArgument);
            }
            s.room_for_effect()?;
            s.charge_effect(tuple.len())?;
            let (child, cap) = s.caps.add_child()?;
            s.effects.push_back(Effect::FlowStart { child, tuple: tuple.to_vec(), give });
            Ok(handle(cap))
        })
    })?;
    l.func_wrap(MODULE, "flow_state", |g: Guest<'_>, flow: u32| {
        plain(g, cost::CALL, |s| s.caps.child(flow, rights::READ).map(|(_, state)| state as i32))
    })?;
    l.func_wrap(MODULE, "flow_stop", |g: Guest<'_>, flow: u32, kill: u32| {
        plain(g, cost::CALL + cost::ENTRY, |s| {
            let (child, _) = s.caps.child(flow, rights::USE)?;
            s.room_for_effect()?;
            s.effects.push_back(Effect::FlowStop { child, kill: kill != 0 });
            Ok(0)
        })
    })?;
    l.func_wrap(MODULE, "flow_limit", |g: Guest<'_>, flow: u32, resource: i32, most: i64| {
        plain(g, cost::CALL + cost::ENTRY, |s| {
            let (child, state) = s.caps.child(flow, rights::USE)?;
            let most = u64::try_from(most).map_err(|_| Error::BadArgument)?;
            let lower = Resource::of(resource).and_then(|r| bound(r, most)).ok_or(Error::BadArgument)?;
            if state != ChildState::Running {
                return Err(Error::Unavailable);
            }
            s.room_for_effect()?;
            s.effects.push_back(Effect::FlowLimit { child, lower });
            Ok(0)
        })
    })?;
    Ok(())
}

/// The budgets that bound a resource; `None` where none does.
fn bound(resource: Resource, most: u64) -> Option<Budgets> {
    let few = || Some(u16::try_from(most).unwrap_or(u16::MAX));
    let none = Budgets::default();
    Some(match resource {
        Resource::Memory => Budgets { memory: Some(most), ..none },
        Resource::Processor => Budgets { event_us: Some(u32::try_from(most).unwrap_or(u32::MAX)), ..none },
        Resource::Bandwidth => Budgets { rate: Some(most), ..none },
        Resource::Timers => Budgets { timers: few(), ..none },
        Resource::Sessions => Budgets { sessions: few(), ..none },
        Resource::CacheEntries => Budgets { cache_entries: few(), ..none },
        _ => return None,
    })
}

/// Resources that can be donated: the bits of `give`.
const GIVABLE: u32 = 3;
