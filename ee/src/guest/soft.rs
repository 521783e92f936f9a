//! `cache_*` and `timer_*`: soft state with expiry, and timers.

use wasmtime::Linker;

use super::memory::{GuestSlice, copy};
use super::{Guest, handle, moved, number, plain, touching};
use crate::abi::{self, Error, MODULE, cost};
use crate::sandbox::TeamState;
use crate::soft::MAX_KEY;

pub(super) fn link(l: &mut Linker<TeamState>) -> wasmtime::Result<()> {
    l.func_wrap(
        MODULE,
        "cache_put",
        |g: Guest<'_>, key: u32, key_len: u32, ptr: u32, len: u32, ttl_ms: u32| {
            touching(g, moved(key_len) + moved(len) + cost::ENTRY, |s, memory| {
                let key = key_of(memory, key, key_len)?;
                let value = GuestSlice::new(ptr, len).read(memory)?;
                let (now, owner) = (s.now.mono, s.owner());
                s.soft()?.put(now, owner, key, value, ttl_ms).map(|()| 0)
            })
        },
    )?;
    l.func_wrap(MODULE, "cache_get", |g: Guest<'_>, key: u32, key_len: u32, ptr: u32, max: u32| {
        touching(g, moved(key_len) + moved(max), |s, memory| {
            // The value is looked for before the guest's memory is borrowed to be written.
            let entry = s.soft_entry(key_of(memory, key, key_len)?)?;
            let to = GuestSlice::new(ptr, max).write(memory)?;
            let value = s.soft_value(entry)?;
            copy(value, to);
            number(value.len())
        })
    })?;
    l.func_wrap(MODULE, "cache_refresh", |g: Guest<'_>, key: u32, key_len: u32, ttl_ms: u32| {
        touching(g, moved(key_len) + cost::ENTRY, |s, memory| {
            let entry = s.soft_entry(key_of(memory, key, key_len)?)?;
            let now = s.now.mono;
            s.soft()?.refresh(now, entry, ttl_ms).map(|()| 0)
        })
    })?;
    l.func_wrap(MODULE, "cache_remove", |g: Guest<'_>, key: u32, key_len: u32| {
        touching(g, moved(key_len) + cost::ENTRY, |s, memory| {
            let entry = s.soft_entry(key_of(memory, key, key_len)?)?;
            s.soft()?.remove(entry);
            Ok(0)
        })
    })?;
    l.func_wrap(MODULE, "timer_set", |g: Guest<'_>, after_us: i64, period_us: i64, token: i64| {
        plain(g, cost::CALL + cost::ENTRY, |s| {
            let (now, owner) = (s.now.mono, s.owner());
            match s.timers.set(now, owner, after_us, period_us, token) {
                Err(Error::NoRoom) => {
                    s.refused.timers = s.refused.timers.saturating_add(1);
                    Err(Error::NoRoom)
                }
                other => other.map(handle),
            }
        })
    })?;
    l.func_wrap(MODULE, "timer_cancel", |g: Guest<'_>, timer: u32| {
        plain(g, cost::CALL + cost::ENTRY, |s| {
            let timer = abi::named(timer).ok_or(Error::BadHandle)?;
            let owner = s.owner();
            s.timers.cancel(owner, timer).map(|()| 0)
        })
    })?;
    Ok(())
}

fn key_of(memory: &[u8], ptr: u32, len: u32) -> Result<&[u8], Error> {
    let key = GuestSlice::new(ptr, len).read(memory)?;
    if (1..=MAX_KEY).contains(&key.len()) { Ok(key) } else { Err(Error::BadArgument) }
}
