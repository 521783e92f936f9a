//! The same functions on the node in memory that a test has made current.

use crate::testing::with_node;

/// See `docs/abi`.
pub fn capsule_len(capsule: u32) -> i32 {
    with_node(|n| n.capsule_len(capsule))
}

/// See `docs/abi`.
pub fn capsule_kind(capsule: u32) -> i32 {
    with_node(|n| n.capsule_kind(capsule))
}

/// See `docs/abi`.
pub fn capsule_read(capsule: u32, offset: u32, buffer: &mut [u8]) -> i32 {
    with_node(|n| n.capsule_read(capsule, offset, buffer))
}

/// See `docs/abi`.
pub fn capsule_write(capsule: u32, offset: u32, bytes: &[u8]) -> i32 {
    with_node(|n| n.capsule_write(capsule, offset, bytes))
}

/// See `docs/abi`.
pub fn capsule_resize(capsule: u32, len: u32) -> i32 {
    with_node(|n| n.capsule_resize(capsule, len))
}

/// See `docs/abi`.
pub fn capsule_left(capsule: u32, operation: i32) -> i32 {
    with_node(|n| n.capsule_left(capsule, operation))
}

/// See `docs/abi`.
pub fn capsule_derive(capsule: u32, kind: i32) -> i32 {
    with_node(|n| n.capsule_derive(capsule, kind))
}

/// See `docs/abi`.
pub fn capsule_send(capsule: u32, neighbor: u32, flags: i32) -> i32 {
    with_node(|n| n.capsule_send(capsule, neighbor, flags))
}

/// See `docs/abi`.
pub fn capsule_return(capsule: u32, flags: i32) -> i32 {
    with_node(|n| n.capsule_return(capsule, flags))
}

/// See `docs/abi`.
pub fn capsule_multicast(capsule: u32, neighborhood: u32, flags: i32) -> i32 {
    with_node(|n| n.capsule_multicast(capsule, neighborhood, flags))
}

/// See `docs/abi`.
pub fn capsule_drop(capsule: u32) -> i32 {
    with_node(|n| n.capsule_drop(capsule))
}

/// See `docs/abi`.
pub fn cap_lookup(name: &[u8]) -> i32 {
    with_node(|n| n.cap_lookup(name))
}

/// See `docs/abi`.
pub fn cap_name(capability: u32, buffer: &mut [u8]) -> i32 {
    with_node(|n| n.cap_name(capability, buffer))
}

/// See `docs/abi`.
pub fn cap_duplicate(capability: u32, rights: i32) -> i32 {
    with_node(|n| n.cap_duplicate(capability, rights))
}

/// See `docs/abi`.
pub fn cap_drop(capability: u32) -> i32 {
    with_node(|n| n.cap_drop(capability))
}

/// See `docs/abi`.
pub fn neighborhood_list(neighborhood: u32, list: &mut [u32]) -> i32 {
    with_node(|n| n.neighborhood_list(neighborhood, list))
}

/// See `docs/abi`.
pub fn neighbor_max_payload(neighbor: u32) -> i32 {
    with_node(|n| n.neighbor_max_payload(neighbor))
}

/// See `docs/abi`.
pub fn neighbor_serve(neighbor: u32, serve: bool) -> i32 {
    with_node(|n| n.neighbor_serve(neighbor, serve))
}

/// See `docs/abi`.
pub fn neighbor_watch(neighbor: u32, poke_us: i64, expire_us: i64) -> i32 {
    with_node(|n| n.neighbor_watch(neighbor, poke_us, expire_us))
}

/// See `docs/abi`.
pub fn neighbor_unwatch(neighbor: u32) -> i32 {
    with_node(|n| n.neighbor_unwatch(neighbor))
}

/// See `docs/abi`.
pub fn neighbor_alive(neighbor: u32) -> i32 {
    with_node(|n| n.neighbor_alive(neighbor))
}

/// See `docs/abi`; one node.
pub fn nodes_known(neighborhood: u32, from: u32, node: &mut [u8; 48]) -> i32 {
    with_node(|n| n.nodes_known(neighborhood, from, node))
}

/// See `docs/abi`.
pub fn integrity_set(neighbor: u32, key: &[u8]) -> i32 {
    with_node(|n| n.integrity_set(neighbor, key))
}

/// See `docs/abi`.
pub fn integrity_clear(neighbor: u32) -> i32 {
    with_node(|n| n.integrity_clear(neighbor))
}

/// See `docs/abi`.
pub fn cache_put(key: &[u8], value: &[u8], ttl_ms: u32) -> i32 {
    with_node(|n| n.cache_put(key, value, ttl_ms))
}

/// See `docs/abi`.
pub fn cache_get(key: &[u8], buffer: &mut [u8]) -> i32 {
    with_node(|n| n.cache_get(key, buffer))
}

/// See `docs/abi`.
pub fn cache_refresh(key: &[u8], ttl_ms: u32) -> i32 {
    with_node(|n| n.cache_refresh(key, ttl_ms))
}

/// See `docs/abi`.
pub fn cache_remove(key: &[u8]) -> i32 {
    with_node(|n| n.cache_remove(key))
}

/// See `docs/abi`.
pub fn timer_set(after_us: i64, period_us: i64, token: i64) -> i32 {
    with_node(|n| n.timer_set(after_us, period_us, token))
}

/// See `docs/abi`.
pub fn timer_cancel(timer: u32) -> i32 {
    with_node(|n| n.timer_cancel(timer))
}

/// See `docs/abi`.
pub fn session_read(session: u32, offset: u32, buffer: &mut [u8]) -> i32 {
    with_node(|n| n.session_read(session, offset, buffer))
}

/// See `docs/abi`.
pub fn session_reply(session: u32, packet: &[u8]) -> i32 {
    with_node(|n| n.session_reply(session, packet))
}

/// See `docs/abi`.
pub fn session_close(session: u32) -> i32 {
    with_node(|n| n.session_close(session))
}

/// See `docs/abi`.
pub fn node_name(buffer: &mut [u8]) -> i32 {
    with_node(|n| n.node_name(buffer))
}

/// See `docs/abi`.
pub fn flow_hash(hash: &mut [u8; 32]) -> i32 {
    with_node(|n| n.flow_hash(hash))
}

/// See `docs/abi`.
pub fn param_get(name: &[u8], buffer: &mut [u8]) -> i32 {
    with_node(|n| n.param_get(name, buffer))
}

/// See `docs/abi`.
pub fn data_read(name: &[u8], offset: u32, buffer: &mut [u8]) -> i32 {
    with_node(|n| n.data_read(name, offset, buffer))
}

/// See `docs/abi`.
pub fn clock_mono() -> i64 {
    with_node(|n| n.clock_mono())
}

/// See `docs/abi`.
pub fn clock_wall() -> i64 {
    with_node(|n| n.clock_wall())
}

/// See `docs/abi`.
pub fn random(buffer: &mut [u8]) -> i32 {
    with_node(|n| n.random(buffer))
}

/// See `docs/abi`.
pub fn log(level: i32, line: &[u8]) -> i32 {
    with_node(|n| n.log(level, line))
}

/// See `docs/abi`.
pub fn budget_left(resource: i32) -> i64 {
    with_node(|n| n.budget_left(resource))
}

/// See `docs/abi`.
pub fn hash_sha256(bytes: &[u8], hash: &mut [u8; 32]) -> i32 {
    with_node(|n| n.hash_sha256(bytes, hash))
}

/// See `docs/abi`.
pub fn hash_md5(bytes: &[u8], hash: &mut [u8; 16]) -> i32 {
    with_node(|n| n.hash_md5(bytes, hash))
}

/// See `docs/abi`.
pub fn cap_revoke(capability: u32) -> i32 {
    with_node(|n| n.cap_revoke(capability))
}

/// See `docs/abi`.
pub fn neighborhood_make(list: &[u32]) -> i32 {
    with_node(|n| n.neighborhood_make(list))
}

/// See `docs/abi`.
pub fn hmac_sha256(key: &[u8], bytes: &[u8], mac: &mut [u8; 32]) -> i32 {
    with_node(|n| n.hmac_sha256(key, bytes, mac))
}

/// See `docs/abi`.
pub fn signature_check(scheme: i32, key: &[u8], bytes: &[u8], signature: &[u8]) -> i32 {
    with_node(|n| n.signature_check(scheme, key, bytes, signature))
}

/// See `docs/abi`.
pub fn aead_seal(key: &[u8; 44], beside: &[u8], buffer: &mut [u8]) -> i32 {
    with_node(|n| n.aead_seal(key, beside, buffer))
}

/// See `docs/abi`.
pub fn aead_open(key: &[u8; 44], beside: &[u8], buffer: &mut [u8]) -> i32 {
    with_node(|n| n.aead_open(key, beside, buffer))
}

/// See `docs/abi`.
pub fn key_sign(key: u32, bytes: &[u8], signature: &mut [u8; 64]) -> i32 {
    with_node(|n| n.key_sign(key, bytes, signature))
}

/// See `docs/abi`.
pub fn key_public(key: u32, public: &mut [u8; 32]) -> i32 {
    with_node(|n| n.key_public(key, public))
}

/// See `docs/abi`.
pub fn sensor_list(sensors: u32, buffer: &mut [u8]) -> i32 {
    with_node(|n| n.sensor_list(sensors, buffer))
}

/// See `docs/abi`.
pub fn sensor_read(sensors: u32, name: &[u8], value: &mut [u8; 8]) -> i32 {
    with_node(|n| n.sensor_read(sensors, name, value))
}

/// See `docs/abi`.
pub fn blob_put(blobs: u32, name: &[u8], bytes: &[u8]) -> i32 {
    with_node(|n| n.blob_put(blobs, name, bytes))
}

/// See `docs/abi`.
pub fn blob_get(blobs: u32, name: &[u8], offset: u32, buffer: &mut [u8]) -> i32 {
    with_node(|n| n.blob_get(blobs, name, offset, buffer))
}

/// See `docs/abi`.
pub fn blob_len(blobs: u32, name: &[u8]) -> i32 {
    with_node(|n| n.blob_len(blobs, name))
}

/// See `docs/abi`.
pub fn blob_list(blobs: u32, index: u32, buffer: &mut [u8]) -> i32 {
    with_node(|n| n.blob_list(blobs, index, buffer))
}

/// See `docs/abi`.
pub fn blob_remove(blobs: u32, name: &[u8]) -> i32 {
    with_node(|n| n.blob_remove(blobs, name))
}

/// See `docs/abi`.
pub fn handover_write(bytes: &[u8]) -> i32 {
    with_node(|n| n.handover_write(bytes))
}

/// See `docs/abi`.
pub fn handover_read(offset: u32, buffer: &mut [u8]) -> i32 {
    with_node(|n| n.handover_read(offset, buffer))
}

/// See `docs/abi`.
pub fn handover_session(session: u32) -> i32 {
    with_node(|n| n.handover_session(session))
}

/// See `docs/abi`.
pub fn event_since() -> i64 {
    with_node(|n| n.clock_mono())
}

/// See `docs/abi`.
pub fn link_waiting(queues: u32, neighbor: u32) -> i32 {
    with_node(|n| n.link_waiting(queues, neighbor))
}

/// See `docs/abi`.
pub fn companion_ask(companion: u32, operation: u32, message: &[u8]) -> i32 {
    with_node(|n| n.companion_ask(companion, operation, message))
}

/// See `docs/abi`.
pub fn companion_settle(call: u32, result: i32, answer: &[u8]) -> i32 {
    with_node(|n| n.companion_settle(call, result, answer))
}

/// See `docs/abi`.
pub fn companion_caller(call: u32, hash: &mut [u8; 32]) -> i32 {
    with_node(|n| n.companion_caller(call, hash))
}

/// See `docs/abi`.
pub fn flow_start(flows: u32, tuple: &[u8], give: u32) -> i32 {
    with_node(|n| n.flow_start(flows, tuple, give))
}

/// See `docs/abi`.
pub fn flow_state(flow: u32) -> i32 {
    with_node(|n| n.flow_state(flow))
}

/// See `docs/abi`.
pub fn flow_stop(flow: u32, kill: u32) -> i32 {
    with_node(|n| n.flow_stop(flow, kill))
}

/// See `docs/abi`.
pub fn flow_limit(flow: u32, resource: i32, most: i64) -> i32 {
    with_node(|n| n.flow_limit(flow, resource, most))
}

/// See `docs/abi`.
pub fn flow_end() -> i32 {
    with_node(|n| n.flow_end())
}

/// See `docs/abi`.
pub fn seal_make(pair: &mut [u32; 2]) -> i32 {
    with_node(|n| n.seal_make(pair))
}

/// See `docs/abi`.
pub fn envelope_make(capability: u32, flow: &[u8], id: &mut [u8; 16]) -> i32 {
    with_node(|n| n.envelope_make(capability, flow, id))
}

/// See `docs/abi`.
pub fn envelope_seal(id: &[u8; 16], sealer: u32) -> i32 {
    with_node(|n| n.envelope_seal(id, sealer))
}

/// See `docs/abi`.
pub fn envelope_lock(id: &[u8; 16], scheme: i32, key: &[u8]) -> i32 {
    with_node(|n| n.envelope_lock(id, scheme, key))
}

/// See `docs/abi`.
pub fn envelope_open(id: &[u8; 16], unsealer: u32, proof: &[u8]) -> i32 {
    with_node(|n| n.envelope_open(id, unsealer, proof))
}

/// See `docs/abi`.
pub fn envelope_void(id: &[u8; 16]) -> i32 {
    with_node(|n| n.envelope_void(id))
}

/// See `docs/abi`.
pub fn companion_call(companion: u32, operation: u32, message: &[u8]) -> i32 {
    // The other protocol runs meanwhile, so the node is not held.
    crate::testing::companion_call(companion, operation, message)
}

/// See `docs/abi`.
pub fn companion_read(offset: u32, buffer: &mut [u8]) -> i32 {
    with_node(|n| n.companion_read(offset, buffer))
}

/// See `docs/abi`.
pub fn companion_reply(answer: &[u8]) -> i32 {
    with_node(|n| n.companion_reply(answer))
}

/// See `docs/abi`.
pub fn companion_answer(offset: u32, buffer: &mut [u8]) -> i32 {
    with_node(|n| n.companion_answer(offset, buffer))
}

/// See `docs/abi`.
pub fn companion_deny(companion: u32, neighbor: u32) -> i32 {
    with_node(|n| n.companion_deny(companion, neighbor))
}
