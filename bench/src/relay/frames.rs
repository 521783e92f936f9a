//! The frames of the rows: the same payload in what each relay understands.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};
use nodeos::buf::{Buf, BufPool};
use nodeos::channel::{emit_ethernet, emit_udp};
use nodeos::link::Mac;
use wire::capsule::{Capsule, HEADER_LEN};
use wire::id::CapsuleId;

use super::world::{RELAY_IN_MAC, RELAY_IP, SOURCE_IP, SOURCE_MAC};

/// Bytes in front of a capsule's payload: Ethernet, ANEP, identifier.
pub const CAPSULE_PAYLOAD: usize = ETHERNET + HEADER_LEN;
/// Bytes in front of a UDP packet's payload: Ethernet, IPv4, UDP.
pub const UDP_PAYLOAD: usize = ETHERNET + 20 + 8;
const ETHERNET: usize = 14;

/// A payload of `len` bytes that starts with a counter, as far as there is room for it.
pub fn payload(len: usize, counter: u64) -> Vec<u8> {
    let mut payload = vec![0x5a; len];
    if let Some(front) = payload.first_chunk_mut() {
        *front = counter.to_le_bytes();
    }
    payload
}

/// A capsule from `from` to `to`.
pub fn capsule(payload: &[u8], id: &CapsuleId, from: Mac, to: Mac) -> Result<Vec<u8>> {
    let mut buf = buffer(payload)?;
    let header = buf.push_front(HEADER_LEN)?;
    Capsule::emit_header(header, id, payload.len());
    emit_ethernet(&mut buf, from, to)?;
    Ok(buf.to_vec())
}

/// A UDP packet from the source to `port` of the relay. It has no checksum, so that the receiver's kernel
/// has none to verify: a sender on the same machine that used a UDP socket would spare it that, too.
pub fn udp(payload: &[u8], port: u16) -> Result<Vec<u8>> {
    const CHECKSUM: std::ops::Range<usize> = UDP_PAYLOAD - 2..UDP_PAYLOAD;
    let mut buf = buffer(payload)?;
    let to = SocketAddr::from((RELAY_IP, port));
    emit_udp(&mut buf, SOURCE_MAC, IpAddr::from(SOURCE_IP), to, RELAY_IN_MAC)?;
    buf[CHECKSUM].fill(0);
    Ok(buf.to_vec())
}

fn buffer(payload: &[u8]) -> Result<Buf> {
    BufPool::new(1).copy_of(payload).context("the payload fits no packet buffer")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_where_they_are_said_to_be() {
        for len in [0, 7, 8, 64, 1400] {
            let payload = payload(len, 0x0102);
            let frame = capsule(&payload, &CapsuleId([7; 16]), SOURCE_MAC, RELAY_IN_MAC).unwrap();
            assert_eq!(frame[CAPSULE_PAYLOAD..], payload);
            assert_eq!(Capsule::parse(&frame[ETHERNET..]).unwrap().payload_len, len);
            assert_eq!(udp(&payload, 9).unwrap()[UDP_PAYLOAD..], payload);
        }
    }
}
