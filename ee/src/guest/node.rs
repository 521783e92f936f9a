//! The node, the flow and its budget: `node_name`, `flow_hash`, `param_get`, `data_read`, `log`, `budget_left`.

use nodeos::account::Account;
use wasmtime::Linker;

use super::memory::{GuestSlice, copy};
use super::{Answer, Guest, charge, moved, number, touching};
use crate::abi::{Error, Level, MODULE, Resource, cost};
use crate::sandbox::{Effect, TeamState};

/// The longest log line, in bytes; the rest is cut off.
const MAX_LINE: usize = 256;

pub(super) fn link(l: &mut Linker<TeamState>) -> wasmtime::Result<()> {
    l.func_wrap(MODULE, "node_name", |g: Guest<'_>, ptr: u32, max: u32| {
        touching(g, moved(max), |s, memory| {
            copy(s.node_name.as_bytes(), GuestSlice::new(ptr, max).write(memory)?);
            number(s.node_name.len())
        })
    })?;
    l.func_wrap(MODULE, "flow_hash", |g: Guest<'_>, ptr: u32| {
        touching(g, moved(32), |s, memory| {
            GuestSlice::new(ptr, 32).write(memory)?.copy_from_slice(&s.hash.0);
            Ok(0)
        })
    })?;
    l.func_wrap(MODULE, "param_get", |g: Guest<'_>, name: u32, name_len: u32, ptr: u32, max: u32| {
        touching(g, moved(name_len) + moved(max) + cost::ENTRY, |s, memory| {
            let name = GuestSlice::new(name, name_len).read(memory)?;
            let params = &s.protocol().params;
            let param = params.iter().find(|p| p.name.as_bytes() == name).ok_or(Error::NotFound)?;
            copy(&param.value, GuestSlice::new(ptr, max).write(memory)?);
            number(param.value.len())
        })
    })?;
    l.func_wrap(
        MODULE,
        "data_read",
        |g: Guest<'_>, name: u32, name_len: u32, at: u32, ptr: u32, len: u32| {
            touching(g, moved(name_len) + moved(len) + cost::ENTRY, |s, memory| {
                let name = GuestSlice::new(name, name_len).read(memory)?;
                let (_, data) = s.data.iter().find(|(n, _)| n.as_bytes() == name).ok_or(Error::NotFound)?;
                let to = GuestSlice::new(ptr, len).write(memory)?;
                number(copy(data.get(at as usize..).unwrap_or(&[]), to))
            })
        },
    )?;
    l.func_wrap(MODULE, "log", |g: Guest<'_>, level: i32, ptr: u32, len: u32| {
        touching(g, moved(len) + cost::ENTRY, |s, memory| {
            let line = GuestSlice::new(ptr, len).read(memory)?;
            let level = Level::of(level).ok_or(Error::BadArgument)?;
            s.effects.make_room(1)?;
            // What is not text takes more bytes as text.
            let text = printable(line);
            s.charge_effect(text.capacity())?;
            s.effects.push(Effect::Log { level, text });
            Ok(0)
        })
    })?;
    l.func_wrap(MODULE, "budget_left", |mut g: Guest<'_>, resource: i32| -> Answer<i64> {
        charge(&mut g, cost::CALL)?;
        let fuel = g.get_fuel().ok();
        let s = g.data();
        let left = match Resource::of(resource) {
            Some(Resource::Processor) => Some(s.units_left(fuel) / s.per_micro),
            Some(Resource::Bandwidth) => Some(s.neighbors.bandwidth(s.now.mono)),
            counted => counted.and_then(|r| s.accounts.of(r.kind())).map(Account::left),
        };
        Ok(match left {
            Some(left) => left.try_into().unwrap_or(i64::MAX),
            None => Error::BadArgument.code().into(),
        })
    })?;
    Ok(())
}

/// One line that does no harm to a console.
fn printable(bytes: &[u8]) -> String {
    let bytes = &bytes[..bytes.len().min(MAX_LINE)];
    let text = String::from_utf8_lossy(bytes);
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_short_and_printable() {
        assert_eq!(printable(b"a\x1b[2Jb\n"), "a [2Jb ");
        assert_eq!(printable(&[b'x'; 1000]).len(), MAX_LINE);
        assert_eq!(printable(&[0xff, b'y']), "\u{fffd}y");
    }
}
