//! What the fuzz targets share.

use std::sync::atomic::{AtomicU64, Ordering};

use nodeos::platform::{Entropy, EntropyError};

/// Cuts a fuzzer's input into pieces, each with a number: one byte, then a length of two bytes, then so many
/// bytes or as many as there are.
pub fn pieces(mut input: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let [number, a, b, rest @ ..] = input else { return None };
        let len = usize::from(u16::from_le_bytes([*a, *b])).min(rest.len());
        let (piece, rest) = rest.split_at(len);
        input = rest;
        Some((*number, piece))
    })
}

/// Bytes that differ each time and are the same in each run.
#[derive(Debug, Default)]
pub struct Sequence(AtomicU64);

impl Entropy for Sequence {
    fn fill(&self, out: &mut [u8]) -> Result<(), EntropyError> {
        for byte in out {
            let n = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
            *byte = (n >> 32) as u8;
        }
        Ok(())
    }
}

/// A management link, a link with a neighbor, and two more behind UDP: one that is to prove who it is, one that is not.
pub const CONFIG: &str = r#"
    [node]
    name = "b"
    identity = "0101010101010101010101010101010101010101010101010101010101010101"
    [control]
    admin = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    [[link]]
    name = "mgmt"
    mac = "02:00:00:00:10:00"
    address = "10.255.0.2/16"
    management = true
    [[link]]
    name = "w0"
    mac = "02:00:00:00:00:01"
    [[link]]
    name = "udp"
    mac = "02:00:00:00:11:00"
    address = "fd00::2/64"
    [[neighbor]]
    name = "a"
    link = "w0"
    mac = "02:00:00:00:00:00"
    [[neighbor]]
    name = "far"
    link = "udp"
    udp = "[fd00::9]:3322"
    key = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    [[neighbor]]
    name = "open"
    link = "udp"
    udp = "[fd00::8]:3322"
"#;
