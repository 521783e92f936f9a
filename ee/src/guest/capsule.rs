//! `capsule_*`: the capsules that a handler holds.

use nodeos::buf::Buf;
use wasmtime::Linker;
use wire::limits::Operation;

use super::memory::{GuestSlice, copy};
use super::{Guest, handle, moved, number, plain, touching};
use crate::abi::{Error, MODULE, cost, flags, rights};
use crate::cap::Members;
use crate::capsule::Object;
use crate::sandbox::{Effect, TeamState};

const SEND: u64 = cost::CALL + cost::FRAME;

pub(super) fn link(l: &mut Linker<TeamState>) -> wasmtime::Result<()> {
    l.func_wrap(MODULE, "capsule_len", |g: Guest<'_>, capsule: u32| {
        plain(g, cost::CALL, |s| number(s.objects.get(capsule)?.payload.len()))
    })?;
    l.func_wrap(MODULE, "capsule_kind", |g: Guest<'_>, capsule: u32| {
        plain(g, cost::CALL, |s| Ok(s.objects.get(capsule)?.kind.into()))
    })?;
    l.func_wrap(MODULE, "capsule_read", |g: Guest<'_>, capsule: u32, at: u32, ptr: u32, len: u32| {
        touching(g, moved(len), |s, memory| {
            let object = s.objects.get(capsule)?;
            let to = GuestSlice::new(ptr, len).write(memory)?;
            number(copy(object.payload.get(at as usize..).unwrap_or(&[]), to))
        })
    })?;
    l.func_wrap(MODULE, "capsule_write", |g: Guest<'_>, capsule: u32, at: u32, ptr: u32, len: u32| {
        touching(g, moved(len), |s, memory| {
            let object = s.objects.get_mut(capsule)?;
            let from = GuestSlice::new(ptr, len).read(memory)?;
            let end = (at as usize).checked_add(from.len()).ok_or(Error::NoRoom)?;
            object.payload.get_mut(at as usize..end).ok_or(Error::NoRoom)?.copy_from_slice(from);
            Ok(0)
        })
    })?;
    l.func_wrap(MODULE, "capsule_resize", |g: Guest<'_>, capsule: u32, len: u32| {
        plain(g, moved(len), |s| {
            let payload = &mut s.objects.get_mut(capsule)?.payload;
            let old = payload.len();
            let len = len as usize;
            if len > old + payload.tailroom() {
                return Err(Error::NoRoom);
            }
            payload.set_len(len).map_err(|_| Error::NoRoom)?;
            // What a buffer held before belongs to somebody else.
            if let Some(fresh) = payload.get_mut(old..) {
                fresh.fill(0);
            }
            Ok(0)
        })
    })?;
    l.func_wrap(MODULE, "capsule_left", |g: Guest<'_>, capsule: u32, operation: u32| {
        plain(g, cost::CALL, |s| {
            let object = s.objects.get(capsule)?;
            let op = Operation::ALL.get(operation as usize).ok_or(Error::BadArgument)?;
            Ok(object.left.get(*op).into())
        })
    })?;
    l.func_wrap(MODULE, "capsule_derive", |g: Guest<'_>, capsule: u32, kind: u32| {
        plain(g, cost::CALL + cost::ENTRY, |s| derive(s, capsule, kind))
    })?;
    l.func_wrap(MODULE, "capsule_send", |g: Guest<'_>, capsule: u32, neighbor: u32, flags: u32| {
        plain(g, SEND, |s| {
            s.objects.get(capsule)?;
            let to = s.caps.neighbor(neighbor, rights::USE)?;
            send(s, capsule, to, flags, Operation::Sends)
        })
    })?;
    l.func_wrap(MODULE, "capsule_return", |g: Guest<'_>, capsule: u32, flags: u32| {
        plain(g, SEND, |s| {
            let to = s.objects.get(capsule)?.origin.ok_or(Error::NotFound)?;
            send(s, capsule, to, flags, Operation::Returns)
        })
    })?;
    l.func_wrap(MODULE, "capsule_multicast", |mut g: Guest<'_>, capsule: u32, to: u32, flags: u32| {
        // Each frame is charged, so the members are counted before any of them is served.
        let state = g.data_mut();
        let members = state.caps.size(to, &state.neighbors);
        plain(g, cost::CALL + members * cost::FRAME, |s| {
            s.objects.get(capsule)?;
            let members = s.caps.neighborhood(to, rights::USE)?;
            multicast(s, capsule, members, flags)
        })
    })?;
    l.func_wrap(MODULE, "capsule_drop", |g: Guest<'_>, capsule: u32| {
        plain(g, cost::CALL, |s| s.objects.remove(capsule).map(|_| 0))
    })?;
    Ok(())
}

fn derive(s: &mut TeamState, capsule: u32, kind: u32) -> Result<i32, Error> {
    let parent = s.objects.get(capsule)?;
    let kinds = s.kinds();
    let child = u8::try_from(kind).ok().and_then(|k| Some((k, kinds.get(k)?)));
    let (kind, granted) = child.ok_or(Error::BadArgument)?;
    if kinds.get(parent.kind).is_none_or(|k| k.derives & (1 << kind) == 0) {
        return Err(Error::NotPermitted);
    }
    if parent.depth >= kinds.depth || parent.left.get(Operation::Derives) == 0 {
        return Err(Error::Depleted);
    }
    if s.objects.is_full() {
        return Err(Error::NoRoom);
    }
    let (depth, origin, left) = (parent.depth + 1, parent.origin, granted.limits);
    let payload = s.buffer()?;
    let made = s.objects.insert(Object { kind, depth, origin, left, payload })?;
    s.objects.get_mut(capsule)?.left.deplete(Operation::Derives);
    Ok(handle(made))
}

/// What is refused costs nothing: the limit is used up last.
fn send(s: &mut TeamState, capsule: u32, to: u16, flags: u32, op: Operation) -> Result<i32, Error> {
    if flags & !flags::KEEP != 0 {
        return Err(Error::BadArgument);
    }
    let object = s.objects.get(capsule)?;
    let (kind, len) = (object.kind, object.payload.len());
    if object.left.get(op) == 0 {
        return Err(Error::Depleted);
    }
    s.neighbors.fits(to, len)?;
    s.effects.make_room(1)?;
    let copied = if flags & flags::KEEP != 0 { Some(s.copy_of(capsule)?) } else { None };
    s.neighbors.take(s.now.mono, to, len)?;
    let payload = match copied {
        Some(copy) => {
            s.objects.get_mut(capsule)?.left.deplete(op);
            copy
        }
        None => s.objects.remove(capsule)?.payload,
    };
    emit(s, to, kind, payload)?;
    Ok(0)
}

/// All members but the last get copies; the last gets the buffer, unless it is kept.
fn multicast(s: &mut TeamState, capsule: u32, members: Members, flags: u32) -> Result<i32, Error> {
    if flags & !(flags::KEEP | flags::NOT_BACK) != 0 {
        return Err(Error::BadArgument);
    }
    let object = s.objects.get(capsule)?;
    let (kind, len, origin) = (object.kind, object.payload.len(), object.origin);
    if object.left.get(Operation::Multicasts) == 0 {
        return Err(Error::Depleted);
    }
    let keep = flags & flags::KEEP != 0;
    let (mut reached, mut last, mut refused) = (0, None, None);
    for at in 0..s.neighbors.len() {
        if flags & flags::NOT_BACK != 0 && origin == Some(at) || !s.caps.has(members, at) {
            continue;
        }
        let fits = match s.neighbors.fits(at, len) {
            Err(Error::BadHandle) => continue,
            other => other.and_then(|()| s.effects.make_room(1 + usize::from(last.is_some()))),
        };
        // The copy for the one before is made only once it is known that it is not the last.
        let ready = fits.and_then(|()| match last {
            Some(_) => s.copy_of(capsule).map(Some),
            None => Ok(None),
        });
        let taken = ready.and_then(|copy| s.neighbors.take(s.now.mono, at, len).map(|()| copy));
        match taken {
            Ok(copy) => {
                if let (Some(before), Some(copy)) = (last.replace(at), copy) {
                    emit(s, before, kind, copy)?;
                }
                reached += 1;
            }
            Err(e) => refused = Some(e),
        }
    }
    if let (0, Some(e)) = (reached, refused) {
        return Err(e);
    }
    // The last frame takes the buffer; a kept object's is copied, and where no copy can be made the object
    // goes with the frame: the limit is used up either way.
    let copy = if keep && last.is_some() { s.copy_of(capsule).ok() } else { None };
    let payload = match copy {
        Some(copy) => {
            s.objects.get_mut(capsule)?.left.deplete(Operation::Multicasts);
            copy
        }
        None if keep && last.is_none() => {
            s.objects.get_mut(capsule)?.left.deplete(Operation::Multicasts);
            return Ok(reached);
        }
        None => s.objects.remove(capsule)?.payload,
    };
    if let Some(last) = last {
        emit(s, last, kind, payload)?;
    }
    Ok(reached)
}

fn emit(s: &mut TeamState, to: u16, kind: u8, payload: Buf) -> Result<(), Error> {
    let to = s.neighbors.get(to)?.is.id;
    s.effects.push(Effect::Send { to, protocol: s.owner(), kind, payload });
    Ok(())
}
