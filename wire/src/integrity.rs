//! Hop-by-hop integrity that a protocol asks for: an ANEP option of a capsule (seed 004, section III).
//!
//! ```text
//!  flags 0, type 0x0BEE, length 9 words | key id(4) | sender(4) | sequence(8) | MAC(16)
//! ```
//!
//! The MAC is the first half of HMAC-SHA-256 over key id, sender, sequence, capsule identifier and payload,
//! under a key that the protocol gave both ends. The key id tells keys apart, the sender's number tells
//! the two directions apart, the sequence grows with each capsule.

use crate::anep::{self, OPTION_INTEGRITY, OptionRef, Packet};

/// Length of the option in bytes.
pub const OPTION_LEN: usize = 4 + VALUE_LEN;
/// Length of what the MAC covers in front of identifier and payload, in bytes.
pub const COVERED_LEN: usize = 16;
/// Length of the MAC in bytes.
pub const MAC_LEN: usize = 16;
const VALUE_LEN: usize = COVERED_LEN + MAC_LEN;

/// The option's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Which key.
    pub key: u32,
    /// The number that the sender chose for itself.
    pub sender: u32,
    /// Higher for each capsule.
    pub sequence: u64,
    /// The MAC.
    pub mac: [u8; MAC_LEN],
}

impl Mark {
    /// The mark of a packet, if it has one. Of several the first counts. `Err`: it has another length; the peer
    /// erred.
    pub fn of<T: AsRef<[u8]>>(packet: &Packet<T>) -> Result<Option<Self>, anep::Error> {
        if packet.header_len() == anep::HEADER_LEN {
            return Ok(None);
        }
        let is_mark = |o: &Result<OptionRef<'_>, anep::Error>| {
            o.as_ref().map_or(true, |option| option.kind == OPTION_INTEGRITY)
        };
        match packet.options().find(is_mark) {
            None => Ok(None),
            Some(option) => Self::read(option?.value).map(Some).ok_or(anep::Error::Option),
        }
    }

    /// What the MAC covers in front of identifier and payload.
    pub fn covered(&self) -> [u8; COVERED_LEN] {
        let mut bytes = [0; COVERED_LEN];
        bytes[..4].copy_from_slice(&self.key.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.sender.to_be_bytes());
        bytes[8..].copy_from_slice(&self.sequence.to_be_bytes());
        bytes
    }

    /// Writes the option into `out[..OPTION_LEN]`.
    ///
    /// # Panics
    /// When `out` is shorter: the caller erred.
    pub fn emit(&self, out: &mut [u8]) {
        let (head, value) = out[..OPTION_LEN].split_at_mut(4);
        head[..2].copy_from_slice(&OPTION_INTEGRITY.to_be_bytes());
        head[2..].copy_from_slice(&((OPTION_LEN / 4) as u16).to_be_bytes());
        value[..COVERED_LEN].copy_from_slice(&self.covered());
        value[COVERED_LEN..].copy_from_slice(&self.mac);
    }

    fn read(value: &[u8]) -> Option<Self> {
        let value: &[u8; VALUE_LEN] = value.try_into().ok()?;
        let (covered, mac) = value.split_first_chunk::<COVERED_LEN>()?;
        let (key, rest) = covered.split_first_chunk()?;
        let (sender, sequence) = rest.split_first_chunk()?;
        Some(Self {
            key: u32::from_be_bytes(*key),
            sender: u32::from_be_bytes(*sender),
            sequence: u64::from_be_bytes(sequence.try_into().ok()?),
            mac: mac.try_into().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capsule::{Capsule, HEADER_LEN};
    use crate::id::CapsuleId;
    use proptest::prelude::*;

    fn mark() -> Mark {
        Mark { key: 0x0102_0304, sender: 5, sequence: 0x0607_0809_0a0b_0c0d, mac: [0xee; MAC_LEN] }
    }

    #[test]
    fn a_mark_comes_back_with_its_capsule() {
        let mut bytes = [0; HEADER_LEN + OPTION_LEN + 3];
        let id = CapsuleId([9; 16]);
        Capsule::emit_marked(&mut bytes, &id, &mark(), 3);
        assert_eq!(&bytes[..12], [1, 0, 0xbe, 0xe5, 0, 11, 0, 63, 0x0b, 0xee, 0, 9]);
        let capsule = Capsule::parse(&bytes).unwrap();
        assert_eq!((capsule.id, capsule.mark, capsule.payload_len), (id, Some(mark()), 3));
        assert_eq!(capsule.payload_at, HEADER_LEN + OPTION_LEN);
        let mut plain = [0; HEADER_LEN];
        Capsule::emit_header(&mut plain, &id, 0);
        assert_eq!(Capsule::parse(&plain).unwrap().mark, None);
    }

    #[test]
    fn a_mark_of_another_length_is_refused() {
        let mut bytes = [0; HEADER_LEN + OPTION_LEN];
        Capsule::emit_marked(&mut bytes, &CapsuleId([9; 16]), &mark(), 0);
        // Eight words, and an option of one word behind it.
        bytes[11] = 8;
        bytes[40..44].copy_from_slice(&[0, 1, 0, 1]);
        assert_eq!(Capsule::parse(&bytes), Err(crate::capsule::Error::Anep(anep::Error::Option)));
        // Of another type it is nobody's mark.
        bytes[9] = 0xed;
        assert_eq!(Capsule::parse(&bytes).unwrap().mark, None);
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_was_written(
            key in any::<u32>(), sender in any::<u32>(), sequence in any::<u64>(), mac in any::<[u8; MAC_LEN]>(),
        ) {
            let mark = Mark { key, sender, sequence, mac };
            let mut bytes = [0; OPTION_LEN];
            mark.emit(&mut bytes);
            prop_assert_eq!(Mark::read(&bytes[4..]), Some(mark));
        }
    }
}
