//! The imports of module `bees`, the inbox, and the protocol's one object.
#![allow(unsafe_code)]

use core::cell::{Cell, UnsafeCell};
use core::panic::PanicInfo;

use crate::INBOX;
use crate::text::{Level, log as log_line};

mod raw {
    #[link(wasm_import_module = "bees")]
    unsafe extern "C" {
        pub fn capsule_len(capsule: i32) -> i32;
        pub fn capsule_kind(capsule: i32) -> i32;
        pub fn capsule_read(capsule: i32, offset: i32, buffer: *mut u8, buffer_len: usize) -> i32;
        pub fn capsule_write(capsule: i32, offset: i32, bytes: *const u8, bytes_len: usize) -> i32;
        pub fn capsule_resize(capsule: i32, len: i32) -> i32;
        pub fn capsule_left(capsule: i32, operation: i32) -> i32;
        pub fn capsule_derive(capsule: i32, kind: i32) -> i32;
        pub fn capsule_send(capsule: i32, neighbor: i32, flags: i32) -> i32;
        pub fn capsule_return(capsule: i32, flags: i32) -> i32;
        pub fn capsule_multicast(capsule: i32, neighborhood: i32, flags: i32) -> i32;
        pub fn capsule_drop(capsule: i32) -> i32;
        pub fn cap_lookup(name: *const u8, name_len: usize) -> i32;
        pub fn cap_name(capability: i32, buffer: *mut u8, buffer_len: usize) -> i32;
        pub fn cap_duplicate(capability: i32, rights: i32) -> i32;
        pub fn cap_drop(capability: i32) -> i32;
        pub fn cap_revoke(capability: i32) -> i32;
        pub fn neighborhood_list(neighborhood: i32, list: *mut u32, list_max: usize) -> i32;
        pub fn neighborhood_make(list: *const u32, list_len: usize) -> i32;
        pub fn neighbor_max_payload(neighbor: i32) -> i32;
        pub fn neighbor_serve(neighbor: i32, serve: i32) -> i32;
        pub fn neighbor_watch(neighbor: i32, poke_us: i64, expire_us: i64) -> i32;
        pub fn neighbor_unwatch(neighbor: i32) -> i32;
        pub fn neighbor_alive(neighbor: i32) -> i32;
        pub fn nodes_known(neighborhood: i32, from: i32, nodes: *mut u8, max: usize) -> i32;
        pub fn integrity_set(neighbor: i32, key: *const u8, key_len: usize) -> i32;
        pub fn integrity_clear(neighbor: i32) -> i32;
        pub fn cache_put(
            key: *const u8,
            key_len: usize,
            value: *const u8,
            value_len: usize,
            ttl_ms: i32,
        ) -> i32;
        pub fn cache_get(key: *const u8, key_len: usize, buffer: *mut u8, buffer_len: usize) -> i32;
        pub fn cache_refresh(key: *const u8, key_len: usize, ttl_ms: i32) -> i32;
        pub fn cache_remove(key: *const u8, key_len: usize) -> i32;
        pub fn timer_set(after_us: i64, period_us: i64, token: i64) -> i32;
        pub fn timer_cancel(timer: i32) -> i32;
        pub fn session_read(session: i32, offset: i32, buffer: *mut u8, buffer_len: usize) -> i32;
        pub fn session_reply(session: i32, packet: *const u8, packet_len: usize) -> i32;
        pub fn session_close(session: i32) -> i32;
        pub fn node_name(buffer: *mut u8, buffer_len: usize) -> i32;
        pub fn flow_hash(hash: *mut u8) -> i32;
        pub fn param_get(name: *const u8, name_len: usize, buffer: *mut u8, buffer_len: usize) -> i32;
        pub fn data_read(
            name: *const u8,
            name_len: usize,
            offset: i32,
            buffer: *mut u8,
            buffer_len: usize,
        ) -> i32;
        pub fn clock_mono() -> i64;
        pub fn clock_wall() -> i64;
        pub fn random(buffer: *mut u8, buffer_len: usize) -> i32;
        pub fn log(level: i32, line: *const u8, line_len: usize) -> i32;
        pub fn budget_left(resource: i32) -> i64;
        pub fn hash_sha256(bytes: *const u8, bytes_len: usize, hash: *mut u8) -> i32;
        pub fn hash_md5(bytes: *const u8, bytes_len: usize, hash: *mut u8) -> i32;
        pub fn hmac_sha256(
            key: *const u8,
            key_len: usize,
            bytes: *const u8,
            bytes_len: usize,
            mac: *mut u8,
        ) -> i32;
        pub fn signature_check(
            scheme: i32,
            key: *const u8,
            key_len: usize,
            bytes: *const u8,
            bytes_len: usize,
            signature: *const u8,
            signature_len: usize,
        ) -> i32;
        pub fn aead_seal(
            key: *const u8,
            beside: *const u8,
            beside_len: usize,
            buffer: *const u8,
            text_len: usize,
            out: *mut u8,
        ) -> i32;
        pub fn aead_open(
            key: *const u8,
            beside: *const u8,
            beside_len: usize,
            buffer: *const u8,
            sealed_len: usize,
            out: *mut u8,
        ) -> i32;
        pub fn key_sign(key: i32, bytes: *const u8, bytes_len: usize, signature: *mut u8) -> i32;
        pub fn key_public(key: i32, public: *mut u8) -> i32;
        pub fn sensor_list(sensors: i32, buffer: *mut u8, buffer_len: usize) -> i32;
        pub fn sensor_read(sensors: i32, name: *const u8, name_len: usize, value: *mut u8) -> i32;
        pub fn blob_put(
            blobs: i32,
            name: *const u8,
            name_len: usize,
            bytes: *const u8,
            bytes_len: usize,
        ) -> i32;
        pub fn blob_get(
            blobs: i32,
            name: *const u8,
            name_len: usize,
            offset: i32,
            buffer: *mut u8,
            buffer_len: usize,
        ) -> i32;
        pub fn blob_len(blobs: i32, name: *const u8, name_len: usize) -> i32;
        pub fn blob_list(blobs: i32, index: i32, buffer: *mut u8, buffer_len: usize) -> i32;
        pub fn blob_remove(blobs: i32, name: *const u8, name_len: usize) -> i32;
        pub fn companion_call(companion: i32, operation: i32, message: *const u8, message_len: usize) -> i32;
        pub fn companion_read(offset: i32, buffer: *mut u8, buffer_len: usize) -> i32;
        pub fn companion_reply(answer: *const u8, answer_len: usize) -> i32;
        pub fn companion_answer(offset: i32, buffer: *mut u8, buffer_len: usize) -> i32;
        pub fn companion_deny(companion: i32, neighbor: i32) -> i32;
        pub fn handover_write(bytes: *const u8, bytes_len: usize) -> i32;
        pub fn handover_read(offset: i32, buffer: *mut u8, buffer_len: usize) -> i32;
        pub fn handover_session(session: i32) -> i32;
        pub fn companion_ask(companion: i32, operation: i32, message: *const u8, message_len: usize) -> i32;
        pub fn companion_settle(call: i32, result: i32, answer: *const u8, answer_len: usize) -> i32;
        pub fn companion_caller(call: i32, hash: *mut u8) -> i32;
        pub fn event_since() -> i64;
        pub fn link_waiting(queues: i32, neighbor: i32) -> i32;
        pub fn flow_start(flows: i32, tuple: *const u8, tuple_len: usize, give: i32) -> i32;
        pub fn flow_state(flow: i32) -> i32;
        pub fn flow_stop(flow: i32, kill: i32) -> i32;
        pub fn flow_limit(flow: i32, resource: i32, most: i64) -> i32;
        pub fn flow_end() -> i32;
        pub fn seal_make(pair: *mut u32) -> i32;
        pub fn envelope_make(capability: i32, flow: *const u8, flow_len: usize, id: *mut u8) -> i32;
        pub fn envelope_seal(id: *const u8, sealer: i32) -> i32;
        pub fn envelope_lock(id: *const u8, scheme: i32, key: *const u8, key_len: usize) -> i32;
        pub fn envelope_open(id: *const u8, unsealer: i32, proof: *const u8, proof_len: usize) -> i32;
        pub fn envelope_void(id: *const u8) -> i32;
    }
}

/// See `docs/abi`.
pub fn capsule_len(capsule: u32) -> i32 {
    // Safety: the node checks every handle; pointers and lengths are those of live slices.
    unsafe { raw::capsule_len(capsule as i32) }
}

/// See `docs/abi`.
pub fn capsule_kind(capsule: u32) -> i32 {
    // Safety: the node checks every handle; pointers and lengths are those of live slices.
    unsafe { raw::capsule_kind(capsule as i32) }
}

/// See `docs/abi`.
pub fn capsule_read(capsule: u32, offset: u32, buffer: &mut [u8]) -> i32 {
    // Safety: the node checks every handle; pointers and lengths are those of live slices.
    unsafe { raw::capsule_read(capsule as i32, offset as i32, buffer.as_mut_ptr(), buffer.len()) }
}

/// See `docs/abi`.
pub fn capsule_write(capsule: u32, offset: u32, bytes: &[u8]) -> i32 {
    // Safety: the node checks every handle; pointers and lengths are those of live slices.
    unsafe { raw::capsule_write(capsule as i32, offset as i32, bytes.as_ptr(), bytes.len()) }
}

/// See `docs/abi`.
pub fn capsule_resize(capsule: u32, len: u32) -> i32 {
    // Safety: the node checks every handle; pointers and lengths are those of live slices.
    unsafe { raw::capsule_resize(capsule as i32, len as i32) }
}

/// See `docs/abi`.
pub fn capsule_left(capsule: u32, operation: i32) -> i32 {
    // Safety: the node checks every handle; pointers and lengths are those of live slices.
    unsafe { raw::capsule_left(capsule as i32, operation) }
}

/// See `docs/abi`.
pub fn capsule_derive(capsule: u32, kind: i32) -> i32 {
    // Safety: the node checks every handle; pointers and lengths are those of live slices.
    unsafe { raw::capsule_derive(capsule as i32, kind) }
}

/// See `docs/abi`.
pub fn capsule_send(capsule: u32, neighbor: u32, flags: i32) -> i32 {
    // Safety: the node checks every handle; pointers and lengths are those of live slices.
    unsafe { raw::capsule_send(capsule as i32, neighbor as i32, flags) }
}

/// See `docs/abi`.
pub fn capsule_return(capsule: u32, flags: i32) -> i32 {
    // Safety: the node checks every handle; pointers and lengths are those of live slices.
    unsafe { raw::capsule_return(capsule as i32, flags) }
}

/// See `docs/abi`.
pub fn capsule_multicast(capsule: u32, neighborhood: u32, flags: i32) -> i32 {
    // Safety: the node checks every handle; pointers and lengths are those of live slices.
    unsafe { raw::capsule_multicast(capsule as i32, neighborhood as i32, flags) }
}

/// See `docs/abi`.
pub fn capsule_drop(capsule: u32) -> i32 {
    // Safety: the node checks every handle; pointers and lengths are those of live slices.
    unsafe { raw::capsule_drop(capsule as i32) }
}

/// See `docs/abi`.
pub fn cap_lookup(name: &[u8]) -> i32 {
    // Safety: the node checks every handle; pointers and lengths are those of live slices.
    unsafe { raw::cap_lookup(name.as_ptr(), name.len()) }
}

/// See `docs/abi`.
pub fn cap_name(capability: u32, buffer: &mut [u8]) -> i32 {
    // Safety: the node checks every handle; pointers and lengths are those of live slices.
    unsafe { raw::cap_name(capability as i32, buffer.as_mut_ptr(), buffer.len()) }
}

/// See `docs/abi`.
pub fn cap_duplicate(capability: u32, rights: i32) -> i32 {
    // Safety: the node checks every handle; pointers and lengths are those of live slices.
    unsafe { raw::cap_duplicate(capability as i32, rights) }
}

/// See `docs/abi`.
pub fn cap_drop(capability: u32) -> i32 {
    // Safety: the node checks every handle; pointers and lengths are those of live slices.
    unsafe { raw::cap_drop(capability as i32) }
}

/// See `docs/abi`.
pub fn neighborhood_list(neighborhood: u32, list: &mut [u32]) -> i32 {
    // Safety: the node checks every handle; pointers and lengths are those of live slices.
    unsafe { raw::neighborhood_list(neighborhood as i32, list.as_mut_ptr(), list.len()) }
}

/// See `docs/abi`.
pub fn neighbor_max_payload(neighbor: u32) -> i32 {
    // Safety: the node checks every handle; pointers and lengths are those of live slices.
    unsafe { raw::neighbor_max_payload(neighbor as i32) }
}

/// See `docs/abi`.
pub fn neighbor_serve(neighbor: u32, serve: bool) -> i32 {
    // Safety: the node checks every handle.
    unsafe { raw::neighbor_serve(neighbor as i32, serve.into()) }
}

/// See `docs/abi`.
pub fn neighbor_watch(neighbor: u32, poke_us: i64, expire_us: i64) -> i32 {
    // Safety: the node checks every handle and number.
    unsafe { raw::neighbor_watch(neighbor as i32, poke_us, expire_us) }
}

/// See `docs/abi`.
pub fn neighbor_unwatch(neighbor: u32) -> i32 {
    // Safety: the node checks every handle.
    unsafe { raw::neighbor_unwatch(neighbor as i32) }
}

/// See `docs/abi`.
pub fn neighbor_alive(neighbor: u32) -> i32 {
    // Safety: the node checks every handle.
    unsafe { raw::neighbor_alive(neighbor as i32) }
}

/// See `docs/abi`; one node.
pub fn nodes_known(neighborhood: u32, from: u32, node: &mut [u8; 48]) -> i32 {
    // Safety: the node checks every handle; there is room for one node.
    unsafe { raw::nodes_known(neighborhood as i32, from as i32, node.as_mut_ptr(), 1) }
}

/// See `docs/abi`.
pub fn integrity_set(neighbor: u32, key: &[u8]) -> i32 {
    // Safety: the node checks every handle; pointers and lengths are those of live slices.
    unsafe { raw::integrity_set(neighbor as i32, key.as_ptr(), key.len()) }
}

/// See `docs/abi`.
pub fn integrity_clear(neighbor: u32) -> i32 {
    // Safety: the node checks every handle; pointers and lengths are those of live slices.
    unsafe { raw::integrity_clear(neighbor as i32) }
}

/// See `docs/abi`.
pub fn cache_put(key: &[u8], value: &[u8], ttl_ms: u32) -> i32 {
    // Safety: the node checks every handle; pointers and lengths are those of live slices.
    unsafe { raw::cache_put(key.as_ptr(), key.len(), value.as_ptr(), value.len(), ttl_ms as i32) }
}

/// See `docs/abi`.
pub fn cache_get(key: &[u8], buffer: &mut [u8]) -> i32 {
    // Safety: the node checks every handle; pointers and lengths are those of live slices.
    unsafe { raw::cache_get(key.as_ptr(), key.len(), buffer.as_mut_ptr(), buffer.len()) }
}

/// See `docs/abi`.
pub fn cache_refresh(key: &[u8], ttl_ms: u32) -> i32 {
    // Safety: the node checks every handle; pointers and lengths are those of live slices.
    unsafe { raw::cache_refresh(key.as_ptr(), key.len(), ttl_ms as i32) }
}

/// See `docs/abi`.
pub fn cache_remove(key: &[u8]) -> i32 {
    // Safety: the node checks every handle; pointers and lengths are those of live slices.
    unsafe { raw::cache_remove(key.as_ptr(), key.len()) }
}

/// See `docs/abi`.
pub fn timer_set(after_us: i64, period_us: i64, token: i64) -> i32 {
    // Safety: the node checks every handle; pointers and lengths are those of live slices.
    unsafe { raw::timer_set(after_us, period_us, token) }
}

/// See `docs/abi`.
pub fn timer_cancel(timer: u32) -> i32 {
    // Safety: the node checks every handle; pointers and lengths are those of live slices.
    unsafe { raw::timer_cancel(timer as i32) }
}

/// See `docs/abi`.
pub fn session_read(session: u32, offset: u32, buffer: &mut [u8]) -> i32 {
    // Safety: the node checks every handle; pointers and lengths are those of live slices.
    unsafe { raw::session_read(session as i32, offset as i32, buffer.as_mut_ptr(), buffer.len()) }
}

/// See `docs/abi`.
pub fn session_reply(session: u32, packet: &[u8]) -> i32 {
    // Safety: the node checks every handle; pointers and lengths are those of live slices.
    unsafe { raw::session_reply(session as i32, packet.as_ptr(), packet.len()) }
}

/// See `docs/abi`.
pub fn session_close(session: u32) -> i32 {
    // Safety: the node checks every handle; pointers and lengths are those of live slices.
    unsafe { raw::session_close(session as i32) }
}

/// See `docs/abi`.
pub fn node_name(buffer: &mut [u8]) -> i32 {
    // Safety: the node checks every handle; pointers and lengths are those of live slices.
    unsafe { raw::node_name(buffer.as_mut_ptr(), buffer.len()) }
}

/// See `docs/abi`.
pub fn flow_hash(hash: &mut [u8; 32]) -> i32 {
    // Safety: the node checks every handle; pointers and lengths are those of live slices.
    unsafe { raw::flow_hash(hash.as_mut_ptr()) }
}

/// See `docs/abi`.
pub fn param_get(name: &[u8], buffer: &mut [u8]) -> i32 {
    // Safety: the node checks every handle; pointers and lengths are those of live slices.
    unsafe { raw::param_get(name.as_ptr(), name.len(), buffer.as_mut_ptr(), buffer.len()) }
}

/// See `docs/abi`.
pub fn data_read(name: &[u8], offset: u32, buffer: &mut [u8]) -> i32 {
    // Safety: the node checks every handle; pointers and lengths are those of live slices.
    unsafe { raw::data_read(name.as_ptr(), name.len(), offset as i32, buffer.as_mut_ptr(), buffer.len()) }
}

/// See `docs/abi`.
pub fn clock_mono() -> i64 {
    // Safety: the node checks every handle; pointers and lengths are those of live slices.
    unsafe { raw::clock_mono() }
}

/// See `docs/abi`.
pub fn clock_wall() -> i64 {
    // Safety: the node checks every handle; pointers and lengths are those of live slices.
    unsafe { raw::clock_wall() }
}

/// See `docs/abi`.
pub fn random(buffer: &mut [u8]) -> i32 {
    // Safety: the node checks every handle; pointers and lengths are those of live slices.
    unsafe { raw::random(buffer.as_mut_ptr(), buffer.len()) }
}

/// See `docs/abi`.
pub fn log(level: i32, line: &[u8]) -> i32 {
    // Safety: the node checks every handle; pointers and lengths are those of live slices.
    unsafe { raw::log(level, line.as_ptr(), line.len()) }
}

/// See `docs/abi`.
pub fn budget_left(resource: i32) -> i64 {
    // Safety: the node checks every handle; pointers and lengths are those of live slices.
    unsafe { raw::budget_left(resource) }
}

/// See `docs/abi`.
pub fn hash_sha256(bytes: &[u8], hash: &mut [u8; 32]) -> i32 {
    // Safety: the node checks every handle; pointers and lengths are those of live slices.
    unsafe { raw::hash_sha256(bytes.as_ptr(), bytes.len(), hash.as_mut_ptr()) }
}

/// See `docs/abi`.
pub fn hash_md5(bytes: &[u8], hash: &mut [u8; 16]) -> i32 {
    // Safety: the node checks every handle; pointers and lengths are those of live slices.
    unsafe { raw::hash_md5(bytes.as_ptr(), bytes.len(), hash.as_mut_ptr()) }
}

/// See `docs/abi`.
pub fn cap_revoke(capability: u32) -> i32 {
    // Safety: the node checks every handle; pointers and lengths are those of live slices.
    unsafe { raw::cap_revoke(capability as i32) }
}

/// See `docs/abi`.
pub fn neighborhood_make(list: &[u32]) -> i32 {
    // Safety: the node checks every handle; pointers and lengths are those of live slices.
    unsafe { raw::neighborhood_make(list.as_ptr(), list.len()) }
}

/// See `docs/abi`.
pub fn hmac_sha256(key: &[u8], bytes: &[u8], mac: &mut [u8; 32]) -> i32 {
    // Safety: the node checks every handle; pointers and lengths are those of live slices.
    unsafe { raw::hmac_sha256(key.as_ptr(), key.len(), bytes.as_ptr(), bytes.len(), mac.as_mut_ptr()) }
}

/// See `docs/abi`.
pub fn signature_check(scheme: i32, key: &[u8], bytes: &[u8], signature: &[u8]) -> i32 {
    // Safety: the node checks every handle; pointers and lengths are those of live slices.
    unsafe {
        raw::signature_check(
            scheme,
            key.as_ptr(),
            key.len(),
            bytes.as_ptr(),
            bytes.len(),
            signature.as_ptr(),
            signature.len(),
        )
    }
}

/// See `docs/abi`. The last 16 bytes of `buffer` are the tag's place.
pub fn aead_seal(key: &[u8; 44], beside: &[u8], buffer: &mut [u8]) -> i32 {
    let Some(text_len) = buffer.len().checked_sub(16) else { return -(crate::Error::BadArgument as i32) };
    let at = buffer.as_mut_ptr();
    // Safety: the node checks every handle; pointers and lengths are those of live slices.
    unsafe { raw::aead_seal(key.as_ptr(), beside.as_ptr(), beside.len(), at, text_len, at) }
}

/// See `docs/abi`. The text takes the place of what was sealed.
pub fn aead_open(key: &[u8; 44], beside: &[u8], buffer: &mut [u8]) -> i32 {
    let (at, len) = (buffer.as_mut_ptr(), buffer.len());
    // Safety: the node checks every handle; pointers and lengths are those of live slices.
    unsafe { raw::aead_open(key.as_ptr(), beside.as_ptr(), beside.len(), at, len, at) }
}

/// See `docs/abi`.
pub fn key_sign(key: u32, bytes: &[u8], signature: &mut [u8; 64]) -> i32 {
    // Safety: the node checks every handle; pointers and lengths are those of live slices.
    unsafe { raw::key_sign(key as i32, bytes.as_ptr(), bytes.len(), signature.as_mut_ptr()) }
}

/// See `docs/abi`.
pub fn key_public(key: u32, public: &mut [u8; 32]) -> i32 {
    // Safety: the node checks every handle; pointers and lengths are those of live slices.
    unsafe { raw::key_public(key as i32, public.as_mut_ptr()) }
}

/// See `docs/abi`.
pub fn sensor_list(sensors: u32, buffer: &mut [u8]) -> i32 {
    // Safety: the node checks every handle; pointers and lengths are those of live slices.
    unsafe { raw::sensor_list(sensors as i32, buffer.as_mut_ptr(), buffer.len()) }
}

/// See `docs/abi`.
pub fn sensor_read(sensors: u32, name: &[u8], value: &mut [u8; 8]) -> i32 {
    // Safety: the node checks every handle; pointers and lengths are those of live slices.
    unsafe { raw::sensor_read(sensors as i32, name.as_ptr(), name.len(), value.as_mut_ptr()) }
}

/// See `docs/abi`.
pub fn blob_put(blobs: u32, name: &[u8], bytes: &[u8]) -> i32 {
    // Safety: the node checks every handle; pointers and lengths are those of live slices.
    unsafe { raw::blob_put(blobs as i32, name.as_ptr(), name.len(), bytes.as_ptr(), bytes.len()) }
}

/// See `docs/abi`.
pub fn blob_get(blobs: u32, name: &[u8], offset: u32, buffer: &mut [u8]) -> i32 {
    let (at, len) = (buffer.as_mut_ptr(), buffer.len());
    // Safety: the node checks every handle; pointers and lengths are those of live slices.
    unsafe { raw::blob_get(blobs as i32, name.as_ptr(), name.len(), offset as i32, at, len) }
}

/// See `docs/abi`.
pub fn blob_len(blobs: u32, name: &[u8]) -> i32 {
    // Safety: the node checks every handle; pointers and lengths are those of live slices.
    unsafe { raw::blob_len(blobs as i32, name.as_ptr(), name.len()) }
}

/// See `docs/abi`.
pub fn blob_list(blobs: u32, index: u32, buffer: &mut [u8]) -> i32 {
    // Safety: the node checks every handle; pointers and lengths are those of live slices.
    unsafe { raw::blob_list(blobs as i32, index as i32, buffer.as_mut_ptr(), buffer.len()) }
}

/// See `docs/abi`.
pub fn blob_remove(blobs: u32, name: &[u8]) -> i32 {
    // Safety: the node checks every handle; pointers and lengths are those of live slices.
    unsafe { raw::blob_remove(blobs as i32, name.as_ptr(), name.len()) }
}

/// See `docs/abi`.
pub fn companion_call(companion: u32, operation: u32, message: &[u8]) -> i32 {
    // Safety: the node checks every handle; pointers and lengths are those of live slices. What runs meanwhile has
    // another memory, and nobody enters this module in the middle of it.
    unsafe { raw::companion_call(companion as i32, operation as i32, message.as_ptr(), message.len()) }
}

/// See `docs/abi`.
pub fn companion_read(offset: u32, buffer: &mut [u8]) -> i32 {
    // Safety: the pointer and the length are those of a live slice.
    unsafe { raw::companion_read(offset as i32, buffer.as_mut_ptr(), buffer.len()) }
}

/// See `docs/abi`.
pub fn companion_reply(answer: &[u8]) -> i32 {
    // Safety: the pointer and the length are those of a live slice.
    unsafe { raw::companion_reply(answer.as_ptr(), answer.len()) }
}

/// See `docs/abi`.
pub fn companion_answer(offset: u32, buffer: &mut [u8]) -> i32 {
    // Safety: the pointer and the length are those of a live slice.
    unsafe { raw::companion_answer(offset as i32, buffer.as_mut_ptr(), buffer.len()) }
}

/// See `docs/abi`.
pub fn companion_deny(companion: u32, neighbor: u32) -> i32 {
    // Safety: the node checks every handle.
    unsafe { raw::companion_deny(companion as i32, neighbor as i32) }
}

/// See `docs/abi`.
pub fn handover_write(bytes: &[u8]) -> i32 {
    // Safety: pointer and length are those of a live slice.
    unsafe { raw::handover_write(bytes.as_ptr(), bytes.len()) }
}

/// See `docs/abi`.
pub fn handover_read(offset: u32, buffer: &mut [u8]) -> i32 {
    // Safety: pointer and length are those of a live slice.
    unsafe { raw::handover_read(offset as i32, buffer.as_mut_ptr(), buffer.len()) }
}

/// See `docs/abi`.
pub fn handover_session(session: u32) -> i32 {
    // Safety: the node checks every handle.
    unsafe { raw::handover_session(session as i32) }
}

/// See `docs/abi`.
pub fn event_since() -> i64 {
    // Safety: it has no arguments.
    unsafe { raw::event_since() }
}

/// See `docs/abi`.
pub fn link_waiting(queues: u32, neighbor: u32) -> i32 {
    // Safety: the node checks every handle.
    unsafe { raw::link_waiting(queues as i32, neighbor as i32) }
}

/// See `docs/abi`.
pub fn companion_ask(companion: u32, operation: u32, message: &[u8]) -> i32 {
    // Safety: the node checks every handle; pointers and lengths are those of live slices.
    unsafe { raw::companion_ask(companion as i32, operation as i32, message.as_ptr(), message.len()) }
}

/// See `docs/abi`.
pub fn companion_settle(call: u32, result: i32, answer: &[u8]) -> i32 {
    // Safety: the node checks every handle; pointers and lengths are those of live slices.
    unsafe { raw::companion_settle(call as i32, result, answer.as_ptr(), answer.len()) }
}

/// See `docs/abi`.
pub fn companion_caller(call: u32, hash: &mut [u8; 32]) -> i32 {
    // Safety: the node checks every handle; the pointer is that of a live array of the length that it writes.
    unsafe { raw::companion_caller(call as i32, hash.as_mut_ptr()) }
}

/// See `docs/abi`.
pub fn flow_start(flows: u32, tuple: &[u8], give: u32) -> i32 {
    // Safety: the node checks every handle; pointers and lengths are those of live slices.
    unsafe { raw::flow_start(flows as i32, tuple.as_ptr(), tuple.len(), give as i32) }
}

/// See `docs/abi`.
pub fn flow_state(flow: u32) -> i32 {
    // Safety: the node checks every handle.
    unsafe { raw::flow_state(flow as i32) }
}

/// See `docs/abi`.
pub fn flow_stop(flow: u32, kill: u32) -> i32 {
    // Safety: the node checks every handle.
    unsafe { raw::flow_stop(flow as i32, kill as i32) }
}

/// See `docs/abi`.
pub fn flow_limit(flow: u32, resource: i32, most: i64) -> i32 {
    // Safety: the node checks every handle.
    unsafe { raw::flow_limit(flow as i32, resource, most) }
}

/// See `docs/abi`.
pub fn flow_end() -> i32 {
    // Safety: there is nothing to pass.
    unsafe { raw::flow_end() }
}

/// See `docs/abi`.
pub fn seal_make(pair: &mut [u32; 2]) -> i32 {
    // Safety: the node checks every handle; pointers and lengths are those of live slices.
    unsafe { raw::seal_make(pair.as_mut_ptr()) }
}

/// See `docs/abi`.
pub fn envelope_make(capability: u32, flow: &[u8], id: &mut [u8; 16]) -> i32 {
    // Safety: the node checks every handle; pointers and lengths are those of live slices.
    unsafe { raw::envelope_make(capability as i32, flow.as_ptr(), flow.len(), id.as_mut_ptr()) }
}

/// See `docs/abi`.
pub fn envelope_seal(id: &[u8; 16], sealer: u32) -> i32 {
    // Safety: the node checks every handle; pointers and lengths are those of live slices.
    unsafe { raw::envelope_seal(id.as_ptr(), sealer as i32) }
}

/// See `docs/abi`.
pub fn envelope_lock(id: &[u8; 16], scheme: i32, key: &[u8]) -> i32 {
    // Safety: the node checks every handle; pointers and lengths are those of live slices.
    unsafe { raw::envelope_lock(id.as_ptr(), scheme, key.as_ptr(), key.len()) }
}

/// See `docs/abi`.
pub fn envelope_open(id: &[u8; 16], unsealer: u32, proof: &[u8]) -> i32 {
    // Safety: the node checks every handle; pointers and lengths are those of live slices.
    unsafe { raw::envelope_open(id.as_ptr(), unsealer as i32, proof.as_ptr(), proof.len()) }
}

/// See `docs/abi`.
pub fn envelope_void(id: &[u8; 16]) -> i32 {
    // Safety: the node checks every handle; pointers and lengths are those of live slices.
    unsafe { raw::envelope_void(id.as_ptr()) }
}

/// Where the node puts the first bytes of what a handler is about.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals)]
static bees_inbox: Inbox = Inbox(UnsafeCell::new([0; INBOX]));

struct Inbox(UnsafeCell<[u8; INBOX]>);

// Safety: a module has one thread.
unsafe impl Sync for Inbox {}

/// What the node put into the inbox for this event.
pub fn inbox() -> [u8; INBOX] {
    // Safety: the node writes before it calls a handler, never during it.
    unsafe { bees_inbox.0.get().read_volatile() }
}

/// The protocol's object: made at compile time, used by one handler at a time.
pub struct Global<T> {
    value: UnsafeCell<T>,
    busy: Cell<bool>,
}

// Safety: a module has one thread.
unsafe impl<T> Sync for Global<T> {}

impl<T> Global<T> {
    /// Holds `value`.
    pub const fn new(value: T) -> Self {
        Self { value: UnsafeCell::new(value), busy: Cell::new(false) }
    }

    /// Uses the value. A handler inside a handler is an error of the node's and traps.
    pub fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        if self.busy.replace(true) {
            core::arch::wasm32::unreachable();
        }
        // Safety: `busy` was false, so nobody else has a reference, and there is one thread. A panic does
        // not unwind, so `busy` is set back whenever anything runs again.
        let result = f(unsafe { &mut *self.value.get() });
        self.busy.set(false);
        result
    }

    /// Looks at the value. Nothing is left of it if that does not come to its end: other handlers run all the same.
    pub fn look<R>(&self, f: impl FnOnce(&T) -> R) -> R {
        if self.busy.get() {
            core::arch::wasm32::unreachable();
        }
        // Safety: `busy` is false, so nobody has the value to change it; the node enters no handler inside another one,
        // and the one that looks can call no companion that would.
        f(unsafe { &*self.value.get() })
    }
}

/// Says that and where `protocol` panicked, and why where that needs no formatting, then traps. The node keeps
/// the line with its report of the trap.
pub fn panicked(protocol: &str, info: &PanicInfo<'_>) -> ! {
    let mut line = crate::Text::<160>::new();
    line.push(protocol);
    line.push(" panicked");
    if let Some(at) = info.location() {
        line.push(" at ");
        line.push(at.file());
        line.push(":");
        line.push(at.line());
    }
    if let Some(why) = info.message().as_str() {
        line.push(": ");
        line.push(why);
    }
    log_line(Level::Error, line.as_bytes());
    core::arch::wasm32::unreachable()
}
