//! Soft state: entries that the node keeps for this flow until they expire. Keys are 1 to 64 bytes.

use crate::error::{Error, check, done};
use crate::sys;

/// Keeps `value` under `key` for `ttl_ms` milliseconds, in place of what was there.
pub fn put(key: &[u8], value: &[u8], ttl_ms: u32) -> Result<(), Error> {
    done(sys::cache_put(key, value, ttl_ms))
}

/// The value of `key`, as much as fits `buffer`.
pub fn get<'a>(key: &[u8], buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    let n = check(sys::cache_get(key, buffer)).ok()? as usize;
    let n = n.min(buffer.len());
    Some(&buffer[..n])
}

/// The value of `key` if it has exactly `N` bytes.
pub fn get_array<const N: usize>(key: &[u8]) -> Option<[u8; N]> {
    let mut value = [0; N];
    (sys::cache_get(key, &mut value) == N as i32).then_some(value)
}

/// Keeps the entry of `key` for `ttl_ms` milliseconds from now.
pub fn refresh(key: &[u8], ttl_ms: u32) -> Result<(), Error> {
    done(sys::cache_refresh(key, ttl_ms))
}

/// Forgets `key`.
pub fn remove(key: &[u8]) -> Result<(), Error> {
    done(sys::cache_remove(key))
}
