//! `session_*`: programs that talk to the protocol.

use nodeos::slab::Handle;
use wasmtime::Linker;

use super::memory::{GuestSlice, copy};
use super::{Guest, moved, number, plain, touching};
use crate::abi::{self, Error, MODULE, cost};
use crate::sandbox::{Effect, OpenSession, Outlet, TeamState};

pub(super) fn link(l: &mut Linker<TeamState>) -> wasmtime::Result<()> {
    l.func_wrap(MODULE, "session_read", |g: Guest<'_>, session: u32, at: u32, ptr: u32, len: u32| {
        touching(g, moved(len), |s, memory| {
            let session = session_of(s, session)?.0;
            let to = GuestSlice::new(ptr, len).write(memory)?;
            let packet = if s.speaking == Some(session) { &s.packet[..] } else { &[] };
            number(copy(packet.get(at as usize..).unwrap_or(&[]), to))
        })
    })?;
    l.func_wrap(MODULE, "session_reply", |g: Guest<'_>, session: u32, ptr: u32, len: u32| {
        touching(g, moved(len) + cost::ENTRY, |s, memory| {
            let known = session_of(s, session)?.1;
            let (session, outlet) = (known.id, known.outlet.clone());
            let packet = GuestSlice::new(ptr, len).read(memory)?;
            if packet.len() > outlet.most() {
                return Err(Error::TooLarge);
            }
            s.effects.make_room(1)?;
            if !outlet.take(packet.len()) {
                return Err(Error::NoRoom);
            }
            let bytes = packet.len() + Outlet::FRAMING;
            s.charge_effect(bytes).inspect_err(|_| outlet.packet_gone(packet.len()))?;
            s.effects.push(Effect::Reply { session, packet: packet.to_vec() });
            Ok(0)
        })
    })?;
    l.func_wrap(MODULE, "session_close", |g: Guest<'_>, session: u32| {
        plain(g, cost::CALL + cost::ENTRY, |s| {
            let handle = session_of(s, session)?.0;
            s.only_looks()?;
            s.effects.make_room(1)?;
            let session = s.shut(handle).ok_or(Error::BadHandle)?;
            s.effects.push(Effect::CloseSession { session });
            Ok(0)
        })
    })?;
    Ok(())
}

/// The session that `raw` names. Programs talk to the main protocol; its companions do not reach its sessions.
fn session_of(s: &TeamState, raw: u32) -> Result<(Handle, &OpenSession), Error> {
    let handle = abi::named(raw).filter(|_| s.owner() == 0).ok_or(Error::BadHandle)?;
    s.sessions.get(handle).map(|session| (handle, session)).ok_or(Error::BadHandle)
}
