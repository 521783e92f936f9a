//! `cap_*`, `neighborhood_*`, `neighbor_*`: what the team may reach.

use std::time::Duration;

use nodeos::config::LivenessConfig;
use nodeos::platform::Instant;
use nodeos::units::Time;
use wasmtime::Linker;
use wire::advert::MAX_NAME;

use super::memory::{GuestSlice, copy};
use super::{Guest, handle, moved, number, plain, touching};
use crate::abi::{Error, MAX_LEN, MODULE, cost, rights};
use crate::cap::Members;
use crate::sandbox::{Effect, TeamState};
use crate::system::discovery::Known;

pub(super) fn link(l: &mut Linker<TeamState>) -> wasmtime::Result<()> {
    l.func_wrap(MODULE, "cap_lookup", |mut g: Guest<'_>, ptr: u32, len: u32| {
        // Names are compared one by one.
        let names = u64::from(g.data_mut().neighbors.len());
        touching(g, moved(len) + cost::ENTRY + names * cost::PER_64, |s, memory| {
            let name = GuestSlice::new(ptr, len).read(memory)?;
            s.caps.lookup(name, &mut s.neighbors).map(handle)
        })
    })?;
    l.func_wrap(MODULE, "cap_name", |g: Guest<'_>, cap: u32, ptr: u32, len: u32| {
        touching(g, moved(len), |s, memory| {
            let (kind, name) = s.caps.name(cap, &s.neighbors)?;
            let to = GuestSlice::new(ptr, len).write(memory)?;
            let n = copy(kind.as_bytes(), to);
            copy(name.as_bytes(), &mut to[n..]);
            number(kind.len() + name.len())
        })
    })?;
    l.func_wrap(MODULE, "cap_duplicate", |g: Guest<'_>, cap: u32, keep: u32| {
        plain(g, cost::CALL + cost::ENTRY, |s| s.caps.duplicate(cap, keep).map(handle))
    })?;
    l.func_wrap(MODULE, "cap_drop", |g: Guest<'_>, cap: u32| {
        plain(g, cost::CALL, |s| s.caps.remove(cap).map(|()| 0))
    })?;
    l.func_wrap(MODULE, "cap_revoke", |mut g: Guest<'_>, cap: u32| {
        // The whole table is looked through.
        let names = u64::from(g.data_mut().neighbors.len());
        plain(g, cost::CALL + 2 * cost::ENTRY + names * cost::PER_64, |s| s.caps.revoke(cap).map(|()| 0))
    })?;
    l.func_wrap(MODULE, "neighborhood_list", |mut g: Guest<'_>, cap: u32, ptr: u32, max: u32| {
        let members = u32::from(g.data_mut().neighbors.len());
        touching(g, moved(members * 4) + cost::ENTRY, |s, memory| {
            let members_of = s.caps.neighborhood(cap, rights::READ)?;
            // Of what the guest offers no more than there are members is looked at.
            let room = max.min(members);
            let to = GuestSlice::new(ptr, room * 4).write(memory)?;
            let mut slots = to.chunks_exact_mut(4);
            let mut count = 0;
            for at in 0..s.neighbors.len() {
                if s.neighbors.get(at).is_err() || !s.caps.has(members_of, at) {
                    continue;
                }
                count += 1;
                if let Some(slot) = slots.next() {
                    let member = s.caps.of_neighbor(at, &mut s.neighbors)?;
                    slot.copy_from_slice(&handle(member).to_le_bytes());
                }
            }
            Ok(count)
        })
    })?;
    l.func_wrap(MODULE, "neighborhood_make", |g: Guest<'_>, ptr: u32, count: u32| {
        let bytes = count.saturating_mul(4);
        let members = if bytes > MAX_LEN { 0 } else { count };
        touching(g, moved(bytes) + cost::ENTRY + u64::from(members) * cost::PER_64, |s, memory| {
            let list = GuestSlice::new(ptr, bytes).read(memory)?.as_chunks::<4>().0;
            let list = list.iter().map(|raw| u32::from_le_bytes(*raw));
            s.caps.make_group(list, &s.neighbors).map(handle)
        })
    })?;
    l.func_wrap(MODULE, "neighbor_max_payload", |g: Guest<'_>, cap: u32| {
        plain(g, cost::CALL, |s| {
            let at = s.caps.neighbor(cap, rights::READ)?;
            Ok(s.neighbors.get(at).map_err(|_| Error::BadHandle)?.is.max_payload.into())
        })
    })?;
    l.func_wrap(MODULE, "neighbor_serve", |g: Guest<'_>, cap: u32, serve: u32| {
        plain(g, cost::CALL + cost::ENTRY, |s| {
            let at = s.caps.neighbor(cap, rights::USE)?;
            let neighbor = s.neighbors.get(at)?.is.id;
            s.effects.make_room(1)?;
            s.effects.push(Effect::Serve { neighbor, serve: serve != 0 });
            Ok(0)
        })
    })?;
    l.func_wrap(MODULE, "neighbor_watch", |g: Guest<'_>, cap: u32, poke_us: i64, expire_us: i64| {
        plain(g, cost::CALL + cost::ENTRY, |s| {
            let at = s.caps.neighbor(cap, rights::READ)?;
            let (poke_ms, expire_ms) = watch_times(poke_us, expire_us).ok_or(Error::BadArgument)?;
            s.only_looks()?;
            s.effects.make_room(1)?;
            let charge = s.accounts.memory().charge(WATCH_BYTES).map_err(|_| Error::NoMemory)?;
            let protocol = s.owner();
            let known = s.neighbors.get_mut(at)?;
            known.watch(true);
            let neighbor = known.is.id;
            s.effects.push(Effect::Watch { neighbor, protocol, poke_ms, expire_ms, charge });
            Ok(0)
        })
    })?;
    l.func_wrap(MODULE, "neighbor_unwatch", |g: Guest<'_>, cap: u32| {
        plain(g, cost::CALL + cost::ENTRY, |s| {
            let at = s.caps.neighbor(cap, rights::READ)?;
            s.effects.make_room(1)?;
            let protocol = s.owner();
            let known = s.neighbors.get_mut(at)?;
            known.watch(false);
            let neighbor = known.is.id;
            s.effects.push(Effect::Unwatch { neighbor, protocol });
            Ok(0)
        })
    })?;
    l.func_wrap(MODULE, "nodes_known", |g: Guest<'_>, cap: u32, from: u32, ptr: u32, max: u32| {
        let bytes = max.saturating_mul(NODE_LEN as u32);
        touching(g, moved(bytes) + cost::ENTRY, |s, memory| {
            let all = s.caps.neighborhood(cap, rights::READ)?;
            if all != Members::All || !s.sees_all {
                return Err(Error::NotPermitted);
            }
            let to = GuestSlice::new(ptr, bytes).write(memory)?;
            let now = s.now.mono;
            s.shared.nodes.with(|list| {
                let wanted = list.get(from as usize..).unwrap_or_default();
                for (node, to) in wanted.iter().zip(to.as_chunks_mut::<NODE_LEN>().0) {
                    *to = record(now, node);
                }
                number(list.len())
            })
        })
    })?;
    l.func_wrap(MODULE, "neighbor_alive", |g: Guest<'_>, cap: u32| {
        plain(g, cost::CALL, |s| {
            let at = s.caps.neighbor(cap, rights::READ)?;
            s.neighbors.get(at)?.alive().map(i32::from).ok_or(Error::NotFound)
        })
    })?;
    Ok(())
}

/// Bytes of a node in `nodes_known`.
pub(crate) const NODE_LEN: usize = 48;

/// A node as guests see it: its name, zeros up to 32 bytes; the name's length, the hops, two zeros; the milliseconds
/// since it said something itself, those for which it is believed to be there, and four zeros.
pub(crate) fn record(now: Instant, node: &Known) -> [u8; NODE_LEN] {
    let millis = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX).to_le_bytes();
    let mut record = [0; NODE_LEN];
    let len = copy(node.name.as_bytes(), &mut record[..MAX_NAME]);
    (record[32], record[33]) = (len as u8, node.hops);
    record[36..40].copy_from_slice(&millis(now.since(node.heard)));
    record[40..44].copy_from_slice(&millis(node.until.since(now)));
    record
}

/// How often a guest may have a neighbor poked, at most.
const LEAST_POKE: Duration = Duration::from_millis(100);
/// What the node remembers of a watch, and what the neighbor takes that nobody else watches.
pub(crate) const WATCH_BYTES: u64 = 384;

/// The times of a watch in milliseconds: both 0 as the operator says, or within bounds.
pub(crate) fn watch_times(poke_us: i64, expire_us: i64) -> Option<(u32, u32)> {
    if (poke_us, expire_us) == (0, 0) {
        return Some((0, 0));
    }
    let time = |us: i64| Some(Time(Duration::from_micros(u64::try_from(us).ok()?)));
    let how = LivenessConfig { poke: time(poke_us)?, expire: time(expire_us)? };
    let millis = |time: Time| u32::try_from(time.0.as_millis()).ok();
    how.is_within(LEAST_POKE).then_some((millis(how.poke)?, millis(how.expire)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_does_not_poke_often_nor_wait_for_ever() {
        assert_eq!(watch_times(0, 0), Some((0, 0)));
        assert_eq!(watch_times(100_000, 200_000), Some((100, 200)));
        assert_eq!(watch_times(1_000_999, 3_600_000_000), Some((1000, 3_600_000)));
        for (poke, expire) in [
            (99_999, 1_000_000),
            (100_000, 199_999),
            (0, 1_000_000),
            (1_000_000, 0),
            (-1, -1),
            (i64::MIN, i64::MAX),
            (1_000_000, 3_600_000_001),
            (i64::MAX, i64::MAX),
        ] {
            assert_eq!(watch_times(poke, expire), None, "{poke} {expire}");
        }
    }
}
