//! `clock_*`: the time, as the platform gave it with the event; it stands still while a handler runs
//! (while a slice of it runs, of a team with the privilege `background`); `event_since`, `link_waiting`: what waited.

use wasmtime::Linker;

use super::{Answer, Guest, charge, number, plain};
use crate::abi::{Error, MODULE, cost, rights};
use crate::cap::QUEUES;
use crate::sandbox::TeamState;

pub(super) fn link(l: &mut Linker<TeamState>) -> wasmtime::Result<()> {
    l.func_wrap(MODULE, "clock_mono", |mut g: Guest<'_>| -> Answer<i64> {
        charge(&mut g, cost::CALL)?;
        Ok(g.data().now.mono.micros().try_into().unwrap_or(i64::MAX))
    })?;
    l.func_wrap(MODULE, "clock_wall", |mut g: Guest<'_>| -> Answer<i64> {
        charge(&mut g, cost::CALL)?;
        let wall = g.data().now.wall.and_then(|t| i64::try_from(t).ok());
        Ok(wall.unwrap_or(Error::Unavailable.code().into()))
    })?;
    l.func_wrap(MODULE, "event_since", |mut g: Guest<'_>| -> Answer<i64> {
        charge(&mut g, cost::CALL)?;
        let state = g.data();
        Ok(state.since.min(state.now.mono).micros().try_into().unwrap_or(i64::MAX))
    })?;
    l.func_wrap(MODULE, "link_waiting", |g: Guest<'_>, queues: u32, neighbor: u32| {
        plain(g, cost::CALL, |s| {
            s.caps.privilege(queues, rights::USE, QUEUES)?;
            let at = s.caps.neighbor(neighbor, rights::READ)?;
            let link = s.neighbors.get(at).map_err(|_| Error::BadHandle)?.is.link;
            number(s.shared.waiting.on(link))
        })
    })?;
    Ok(())
}
