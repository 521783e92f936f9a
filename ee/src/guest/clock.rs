//! `clock_*`: the time, as the platform gave it with the event; it stands still while a handler runs
//! (while a slice of it runs, of a team with the privilege `background`).

use wasmtime::Linker;

use super::{Answer, Guest, charge};
use crate::abi::{Error, MODULE, cost};
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
    Ok(())
}
