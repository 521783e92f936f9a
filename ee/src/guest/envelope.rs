//! `seal_make` and `envelope_*`: capabilities for other teams.

use wasmtime::Linker;
use wire::id::TupleHash;
use wire::statement::{EnvelopeId, MAX_PROOF, Proof};

use super::crypto::{checking, public_key};
use super::memory::GuestSlice;
use super::{Guest, handle, moved, touching};
use crate::abi::{Error, MODULE, cost};
use crate::envelope::{MAX_ENVELOPES, Opener};
use crate::sandbox::TeamState;
use wire::tuple::Scheme;

/// The table is looked through.
const TABLE: u64 = 2 * cost::ENTRY + MAX_ENVELOPES as u64;

pub(super) fn link(l: &mut Linker<TeamState>) -> wasmtime::Result<()> {
    l.func_wrap(MODULE, "seal_make", |g: Guest<'_>, out: u32| {
        touching(g, moved(8) + 2 * cost::ENTRY, |s, memory| {
            let out = GuestSlice::new(out, 8).write(memory)?;
            let (sealer, unsealer) = s.caps.make_pair(s.shared.envelopes.number())?;
            out[..4].copy_from_slice(&handle(sealer).to_le_bytes());
            out[4..].copy_from_slice(&handle(unsealer).to_le_bytes());
            Ok(0)
        })
    })?;
    l.func_wrap(MODULE, "envelope_make", |g: Guest<'_>, cap: u32, to: u32, to_len: u32, out: u32| {
        touching(g, moved(48) + TABLE, |s, memory| {
            let to = match GuestSlice::new(to, to_len).read(memory)? {
                [] => None,
                hash => Some(TupleHash(hash.try_into().map_err(|_| Error::BadArgument)?)),
            };
            let out = GuestSlice::new(out, 16).write(memory)?;
            let mut id: EnvelopeId = [0; 16];
            s.random.as_mut().ok_or(Error::Unavailable)?.fill(&mut id);
            let content = s.caps.lend(cap, &s.neighbors)?;
            s.shared.envelopes.make(s.maker.number(), s.accounts.memory(), id, content, to)?;
            out.copy_from_slice(&id);
            Ok(0)
        })
    })?;
    l.func_wrap(MODULE, "envelope_seal", |g: Guest<'_>, id: u32, sealer: u32| {
        touching(g, moved(16) + TABLE, |s, memory| {
            let number = s.caps.sealer(sealer)?;
            s.shared.envelopes.seal(s.maker.number(), &id_at(memory, id)?, number).map(|()| 0)
        })
    })?;
    l.func_wrap(MODULE, "envelope_lock", |g: Guest<'_>, id: u32, scheme: u32, key: u32, key_len: u32| {
        touching(g, moved(16) + moved(key_len) + cost::VERIFY / 2 + TABLE, |s, memory| {
            let scheme = u8::try_from(scheme).ok().and_then(Scheme::of).ok_or(Error::BadArgument)?;
            let key = public_key(scheme, GuestSlice::new(key, key_len).read(memory)?)?;
            s.shared.envelopes.lock(s.maker.number(), &id_at(memory, id)?, key).map(|()| 0)
        })
    })?;
    l.func_wrap(
        MODULE,
        "envelope_open",
        |g: Guest<'_>, id: u32, unsealer: u32, proof: u32, proof_len: u32| {
            // How a proof must be checked is the envelope's affair: the dearest is charged, by its length.
            let scheme = match proof_len {
                0 => None,
                n if n > 9 + 64 => Some(Scheme::RsaPssSha256),
                _ => Some(Scheme::Ed25519),
            };
            touching(g, moved(16) + moved(proof_len) + checking(scheme) + TABLE, |s, memory| {
                let id = id_at(memory, id)?;
                let proof = GuestSlice::new(proof, proof_len).read(memory)?;
                if proof.len() > MAX_PROOF || !proof.is_empty() && Proof::decode(proof).is_none() {
                    return Err(Error::WrongProof);
                }
                let unsealer = match unsealer {
                    0 => None,
                    shown => Some(s.caps.unsealer(shown)?),
                };
                let node = s.shared.key.as_ref().map(|k| k.public());
                let opener = Opener { flow: s.hash, unsealer, proof, node, wall: s.now.wall };
                let content = s.shared.envelopes.look(&id, &opener)?;
                let cap = s.caps.accept(&content, &s.neighbors)?;
                s.shared.envelopes.spend(&id, &opener);
                Ok(handle(cap))
            })
        },
    )?;
    l.func_wrap(MODULE, "envelope_void", |g: Guest<'_>, id: u32| {
        touching(g, moved(16) + TABLE, |s, memory| {
            s.shared.envelopes.void(s.maker.number(), &id_at(memory, id)?).map(|()| 0)
        })
    })?;
    Ok(())
}

fn id_at(memory: &[u8], ptr: u32) -> Result<EnvelopeId, Error> {
    GuestSlice::new(ptr, 16).read(memory)?.try_into().map_err(|_| Error::BadPointer)
}
