//! Next hops in soft state, learned from the capsules that pass: where one came from is the way to who
//! sent it. Nodes are numbered by their names' [`short_hash`](crate::node::short_hash).

use crate::{Error, Neighbor, cache};

/// Learns that `via` is the way to `node`, for so long.
pub fn learn(node: u64, via: Neighbor, ttl_ms: u32) -> Result<(), Error> {
    cache::put(&key(node), &via.to_bits().to_le_bytes(), ttl_ms)
}

/// The way to `node`, if one was learned.
pub fn next(node: u64) -> Option<Neighbor> {
    Neighbor::from_bits(u32::from_le_bytes(cache::get_array(&key(node))?))
}

/// Forgets the way to `node`.
pub fn forget(node: u64) {
    let _ = cache::remove(&key(node));
}

/// Whether the flood `number` of `origin` is seen here for the first time. What cannot be remembered
/// counts as seen, so that a full cache ends floods.
pub fn first_seen(origin: u64, number: u64, ttl_ms: u32) -> bool {
    let mut key = [b's'; 17];
    key[1..9].copy_from_slice(&origin.to_le_bytes());
    key[9..].copy_from_slice(&number.to_le_bytes());
    cache::get_array::<0>(&key).is_none() && cache::put(&key, &[], ttl_ms).is_ok()
}

fn key(node: u64) -> [u8; 9] {
    let mut key = [b'r'; 9];
    key[1..].copy_from_slice(&node.to_le_bytes());
    key
}
