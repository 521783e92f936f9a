//! `hash_*`, `hmac_*`, `signature_*`, `aead_*`: cryptography over what lies in the guest's memory.
//!
//! The keys here are the guest's own bytes; the node's key is `guest::key`'s.

use authagent::keys::{Ed25519Key, PublicKey};
use chacha20poly1305::aead::{AeadInOut, KeyInit as _, inout::InOutBuf};
use chacha20poly1305::{ChaCha20Poly1305, Nonce, Tag};
use hmac::{Hmac, Mac};
use md5::{Digest, Md5};
use sha2::Sha256;
use wasmtime::Linker;
use wire::tuple::Scheme;

use super::memory::GuestSlice;
use super::{Guest, hashed, moved, number, touching};
use crate::abi::{Error, MAX_LEN, MODULE, cost};
use crate::sandbox::TeamState;

/// The most bytes that are authenticated beside what is encrypted.
const MAX_BESIDE: usize = 256;
/// Bytes that encryption adds.
const TAG: u32 = 16;
/// Key, then nonce, as `aead_*` take them.
const KEY_AND_NONCE: usize = 32 + 12;

pub(super) fn link(l: &mut Linker<TeamState>) -> wasmtime::Result<()> {
    l.func_wrap(MODULE, "hash_sha256", |g: Guest<'_>, ptr: u32, len: u32, out: u32| {
        touching(g, hashed(len), |_, memory| digest::<Sha256, 32>(memory, ptr, len, out))
    })?;
    l.func_wrap(MODULE, "hash_md5", |g: Guest<'_>, ptr: u32, len: u32, out: u32| {
        touching(g, hashed(len), |_, memory| digest::<Md5, 16>(memory, ptr, len, out))
    })?;
    l.func_wrap(
        MODULE,
        "hmac_sha256",
        |g: Guest<'_>, key: u32, key_len: u32, ptr: u32, len: u32, out: u32| {
            touching(g, hashed(key_len) + hashed(len) + 2 * cost::HASH_64, |_, memory| {
                let key = GuestSlice::new(key, key_len).read(memory)?;
                let mut mac = Hmac::<Sha256>::new_from_slice(key).map_err(|_| Error::BadArgument)?;
                mac.update(GuestSlice::new(ptr, len).read(memory)?);
                GuestSlice::new(out, 32).write(memory)?.copy_from_slice(&mac.finalize().into_bytes());
                Ok(0)
            })
        },
    )?;
    l.func_wrap(
        MODULE,
        "signature_check",
        |g: Guest<'_>, scheme: u32, key: u32, key_len: u32, ptr: u32, len: u32, sig: u32, sig_len: u32| {
            let scheme = u8::try_from(scheme).ok().and_then(Scheme::of);
            touching(g, checking(scheme) + moved(key_len) + hashed(len) + moved(sig_len), |_, memory| {
                let scheme = scheme.ok_or(Error::BadArgument)?;
                let key = public_key(scheme, GuestSlice::new(key, key_len).read(memory)?)?;
                let bytes = GuestSlice::new(ptr, len).read(memory)?;
                let signature = GuestSlice::new(sig, sig_len).read(memory)?;
                key.verify(scheme, bytes, signature).map(|()| 0).map_err(|_| Error::WrongProof)
            })
        },
    )?;
    l.func_wrap(
        MODULE,
        "aead_seal",
        |g: Guest<'_>, key: u32, beside: u32, beside_len: u32, ptr: u32, len: u32, out: u32| {
            touching(g, 2 * hashed(len) + hashed(beside_len), |_, memory| {
                let (cipher, nonce) = cipher(memory, key)?;
                let (beside, beside_len) = aside(memory, beside, beside_len)?;
                let total = len.checked_add(TAG).filter(|n| *n <= MAX_LEN).ok_or(Error::BadPointer)?;
                // The output is checked before anything is moved there.
                GuestSlice::new(out, total).write(memory)?;
                relocate(memory, ptr, len, out)?;
                let text = GuestSlice::new(out, len).write(memory)?;
                let tag = cipher.encrypt_inout_detached(&nonce, &beside[..beside_len], InOutBuf::from(text));
                let tag = tag.map_err(|_| Error::BadArgument)?;
                GuestSlice::new(out, total).write(memory)?[len as usize..].copy_from_slice(&tag);
                number(total)
            })
        },
    )?;
    l.func_wrap(
        MODULE,
        "aead_open",
        |g: Guest<'_>, key: u32, beside: u32, beside_len: u32, ptr: u32, len: u32, out: u32| {
            touching(g, 2 * hashed(len) + hashed(beside_len), |_, memory| {
                let (cipher, nonce) = cipher(memory, key)?;
                let (beside, beside_len) = aside(memory, beside, beside_len)?;
                let sealed = GuestSlice::new(ptr, len).read(memory)?;
                let (_, tag) = sealed.split_last_chunk::<16>().ok_or(Error::WrongProof)?;
                let (tag, text_len) = (Tag::from(*tag), len - TAG);
                relocate(memory, ptr, text_len, out)?;
                let text = GuestSlice::new(out, text_len).write(memory)?;
                let opened = cipher.decrypt_inout_detached(
                    &nonce,
                    &beside[..beside_len],
                    InOutBuf::from(&mut *text),
                    &tag,
                );
                if opened.is_err() {
                    // Nothing that was not authenticated may be mistaken for a text.
                    text.fill(0);
                    return Err(Error::WrongProof);
                }
                number(text_len)
            })
        },
    )?;
    Ok(())
}

/// The charge for the check of one signature.
pub(super) fn checking(scheme: Option<Scheme>) -> u64 {
    match scheme {
        Some(Scheme::Ed25519) => cost::VERIFY,
        Some(Scheme::RsaPssSha256) => cost::VERIFY_RSA,
        None => 0,
    }
}

/// The public key that a guest wrote down.
/// An Ed25519 key as its 32 bytes, an RSA key as SubjectPublicKeyInfo (DER).
pub(super) fn public_key(scheme: Scheme, bytes: &[u8]) -> Result<PublicKey, Error> {
    let key = match scheme {
        Scheme::Ed25519 => bytes.try_into().ok().and_then(|b| Ed25519Key::from_bytes(b).ok()).map(Into::into),
        Scheme::RsaPssSha256 => PublicKey::from_spki(bytes).ok().filter(|key| key.scheme() == scheme),
    };
    key.ok_or(Error::BadArgument)
}

fn digest<D: Digest, const N: usize>(memory: &mut [u8], ptr: u32, len: u32, out: u32) -> Result<i32, Error> {
    let digest = D::digest(GuestSlice::new(ptr, len).read(memory)?);
    GuestSlice::new(out, N as u32).write(memory)?.copy_from_slice(&digest);
    Ok(0)
}

fn cipher(memory: &[u8], at: u32) -> Result<(ChaCha20Poly1305, Nonce), Error> {
    let both = GuestSlice::new(at, KEY_AND_NONCE as u32).read(memory)?;
    let (key, nonce) = both.split_first_chunk::<32>().ok_or(Error::BadPointer)?;
    let nonce: [u8; 12] = nonce.try_into().map_err(|_| Error::BadPointer)?;
    Ok((ChaCha20Poly1305::new(&(*key).into()), nonce.into()))
}

/// A copy of what is authenticated beside the text, which may lie where the output goes.
fn aside(memory: &[u8], ptr: u32, len: u32) -> Result<([u8; MAX_BESIDE], usize), Error> {
    let from = GuestSlice::new(ptr, len).read(memory)?;
    let mut copy = [0; MAX_BESIDE];
    copy.get_mut(..from.len()).ok_or(Error::BadArgument)?.copy_from_slice(from);
    Ok((copy, from.len()))
}

/// Moves a text to where it is worked on; both stretches may overlap.
fn relocate(memory: &mut [u8], ptr: u32, len: u32, out: u32) -> Result<(), Error> {
    GuestSlice::new(ptr, len).read(memory)?;
    GuestSlice::new(out, len).write(memory)?;
    let start = ptr as usize;
    memory.copy_within(start..start + len as usize, out as usize);
    Ok(())
}
