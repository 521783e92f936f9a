//! `sensor_*`: what the node measures of itself, for flows with the privilege `sensors`.

use wasmtime::Linker;

use super::memory::{GuestSlice, copy};
use super::{Guest, moved, number, touching};
use crate::abi::{Error, MODULE, cost, rights};
use crate::cap::SENSORS;
use crate::sandbox::TeamState;

pub(super) fn link(l: &mut Linker<TeamState>) -> wasmtime::Result<()> {
    l.func_wrap(MODULE, "sensor_list", |g: Guest<'_>, sensors: u32, ptr: u32, max: u32| {
        touching(g, moved(max) + 2 * cost::ENTRY, |s, memory| {
            s.caps.privilege(sensors, rights::READ, SENSORS)?;
            let to = GuestSlice::new(ptr, max).write(memory)?;
            let mut len = 0;
            for reading in s.shared.sensors.get().iter() {
                for piece in [reading.name.as_bytes(), b"\n"] {
                    copy(piece, to.get_mut(len..).unwrap_or(&mut []));
                    len += piece.len();
                }
            }
            number(len)
        })
    })?;
    l.func_wrap(MODULE, "sensor_read", |g: Guest<'_>, sensors: u32, name: u32, name_len: u32, out: u32| {
        touching(g, moved(name_len) + 2 * cost::ENTRY, |s, memory| {
            s.caps.privilege(sensors, rights::USE, SENSORS)?;
            let name = GuestSlice::new(name, name_len).read(memory)?;
            let readings = s.shared.sensors.get();
            let reading = readings.iter().find(|r| r.name.as_bytes() == name).ok_or(Error::NotFound)?;
            GuestSlice::new(out, 8).write(memory)?.copy_from_slice(&reading.value.to_le_bytes());
            Ok(0)
        })
    })?;
    Ok(())
}
