//! The Active Network Encapsulation Protocol header (ANEP, Active Networks Group draft of July 1997).
//!
//! ```text
//!  0               1               2               3
//! | version = 1   | flags         | type id                       |
//! | header length, 32-bit words   | packet length, bytes          |
//! | options: FLG(2) type(14), length in 32-bit words(16), value   |
//! ```
//!
//! [`Packet`] reads and writes fields in a byte slice; [`Packet::new_checked`] must come before any
//! accessor when the bytes are a peer's. The packet length counts header and payload; bytes behind it
//! are link padding.

use core::fmt;

/// ANEP's version number.
pub const VERSION: u8 = 1;
/// Length of the header without options, in bytes.
pub const HEADER_LEN: usize = 8;
/// Options are read up to this header length, in bytes; a longer header is refused.
pub const MAX_HEADER_LEN: usize = 128;
/// The type identifier of capsules of this system.
pub const TYPE_CAPSULE: u16 = 0xbee5;
/// The type identifier of frames of a protected link (see [`crate::link`]).
pub const TYPE_LINK: u16 = 0xbee6;
/// Option type of protocol-requested hop-by-hop integrity (key id, sequence, HMAC-SHA-256-128).
pub const OPTION_INTEGRITY: u16 = 0x0bee;

mod field {
    use core::ops::Range;
    pub const VERSION: usize = 0;
    pub const FLAGS: usize = 1;
    pub const TYPE: Range<usize> = 2..4;
    pub const HEADER_WORDS: Range<usize> = 4..6;
    pub const PACKET_LEN: Range<usize> = 6..8;
}

/// Why a header was refused. The peer erred.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// Fewer bytes than the header says.
    Truncated,
    /// Not version 1.
    Version(u8),
    /// The header is shorter than eight bytes, longer than the packet or than [`MAX_HEADER_LEN`].
    HeaderLength(u16),
    /// An option runs over the end of the header.
    Option,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => f.write_str("peer sent a truncated ANEP packet"),
            Self::Version(v) => write!(f, "peer sent ANEP version {v}"),
            Self::HeaderLength(n) => write!(f, "peer sent an ANEP header length of {n} words"),
            Self::Option => f.write_str("peer sent a malformed ANEP option"),
        }
    }
}

impl core::error::Error for Error {}

/// An ANEP packet in a byte slice.
#[derive(Debug, Clone, Copy)]
pub struct Packet<T> {
    bytes: T,
}

/// One ANEP option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OptionRef<'a> {
    /// What a node does that does not know the option (0 skip .. 3 discard).
    pub flags: u8,
    /// Option type, 14 bits.
    pub kind: u16,
    /// The value, a multiple of four bytes.
    pub value: &'a [u8],
}

impl<T: AsRef<[u8]>> Packet<T> {
    /// Wraps `bytes` after checking every length in the header.
    pub fn new_checked(bytes: T) -> Result<Self, Error> {
        let b = bytes.as_ref();
        if b.len() < HEADER_LEN {
            return Err(Error::Truncated);
        }
        if b[field::VERSION] != VERSION {
            return Err(Error::Version(b[field::VERSION]));
        }
        let packet = Self { bytes };
        let (header, total) = (packet.header_len(), packet.packet_len());
        if !(HEADER_LEN..=MAX_HEADER_LEN).contains(&header) || header > total {
            return Err(Error::HeaderLength((header / 4) as u16));
        }
        if total > packet.bytes.as_ref().len() {
            return Err(Error::Truncated);
        }
        packet.options().try_for_each(|o| o.map(|_| ()))?;
        Ok(packet)
    }

    /// The flags octet; its highest bit asks for discard of packets of an unknown type.
    pub fn flags(&self) -> u8 {
        self.bytes.as_ref()[field::FLAGS]
    }

    /// The type identifier.
    pub fn type_id(&self) -> u16 {
        self.word(field::TYPE)
    }

    /// Length of the header with its options, in bytes.
    pub fn header_len(&self) -> usize {
        usize::from(self.word(field::HEADER_WORDS)) * 4
    }

    /// Length of header and payload, in bytes.
    pub fn packet_len(&self) -> usize {
        usize::from(self.word(field::PACKET_LEN))
    }

    /// What follows the header.
    pub fn payload(&self) -> &[u8] {
        &self.bytes.as_ref()[self.header_len()..self.packet_len()]
    }

    /// The options in their order.
    pub fn options(&self) -> impl Iterator<Item = Result<OptionRef<'_>, Error>> {
        let mut rest = &self.bytes.as_ref()[HEADER_LEN..self.header_len()];
        core::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let parsed = parse_option(rest);
            rest = match &parsed {
                Ok((_, tail)) => tail,
                Err(_) => &[],
            };
            Some(parsed.map(|(option, _)| option))
        })
    }

    fn word(&self, at: core::ops::Range<usize>) -> u16 {
        let b = &self.bytes.as_ref()[at];
        u16::from_be_bytes([b[0], b[1]])
    }
}

fn parse_option(bytes: &[u8]) -> Result<(OptionRef<'_>, &[u8]), Error> {
    let [a, b, c, d, rest @ ..] = bytes else { return Err(Error::Option) };
    let len = usize::from(u16::from_be_bytes([*c, *d])) * 4;
    // The length counts the option's own header, as in the draft's figure.
    let value = len.checked_sub(4).and_then(|n| rest.get(..n)).ok_or(Error::Option)?;
    let kind = u16::from_be_bytes([*a & 0x3f, *b]);
    Ok((OptionRef { flags: a >> 6, kind, value }, &rest[value.len()..]))
}

/// Writes a header without options for `payload_len` bytes of payload into `out[..8]`.
///
/// # Panics
/// When `out` is shorter than [`HEADER_LEN`] or the packet would pass 65,535 bytes: the caller erred.
#[inline]
pub fn emit_header(out: &mut [u8], type_id: u16, payload_len: usize) {
    emit_header_with(out, type_id, 0, payload_len);
}

/// The same for a header that `options_len` bytes of options follow, a multiple of four.
///
/// # Panics
/// As [`emit_header`].
#[inline]
pub fn emit_header_with(out: &mut [u8], type_id: u16, options_len: usize, payload_len: usize) {
    let header = HEADER_LEN + options_len;
    let total = u16::try_from(header + payload_len).expect("an ANEP packet has at most 65,535 bytes");
    let mut fields = [0; HEADER_LEN];
    fields[field::VERSION] = VERSION;
    fields[field::TYPE].copy_from_slice(&type_id.to_be_bytes());
    fields[field::HEADER_WORDS].copy_from_slice(&((header / 4) as u16).to_be_bytes());
    fields[field::PACKET_LEN].copy_from_slice(&total.to_be_bytes());
    out[..HEADER_LEN].copy_from_slice(&fields);
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    #[test]
    fn header_round_trip() {
        let mut bytes = [0; 12];
        emit_header(&mut bytes, TYPE_CAPSULE, 3);
        let p = Packet::new_checked(&bytes[..]).unwrap();
        assert_eq!((p.type_id(), p.header_len(), p.packet_len()), (TYPE_CAPSULE, 8, 11));
        assert_eq!(p.payload(), &bytes[8..11]);
        assert_eq!(p.options().count(), 0);
    }

    #[test]
    fn options_are_walked() {
        let bytes = [1, 0, 0xbe, 0xe5, 0, 5, 0, 20, 0x4b, 0xee, 0, 2, 1, 2, 3, 4, 0, 1, 0, 1];
        let p = Packet::new_checked(&bytes[..]).unwrap();
        let options: Vec<_> = p.options().map(Result::unwrap).collect();
        assert_eq!(options[0], OptionRef { flags: 1, kind: OPTION_INTEGRITY, value: &[1, 2, 3, 4] });
        assert_eq!(options[1], OptionRef { flags: 0, kind: 1, value: &[] });
    }

    #[test]
    fn lies_about_lengths_are_refused() {
        let good = [1, 0, 0xbe, 0xe5, 0, 2, 0, 8];
        let broken = |at: usize, v: u8| {
            let mut b = good;
            b[at] = v;
            Packet::new_checked(b).map(|_| ()).unwrap_err()
        };
        assert_eq!(broken(0, 2), Error::Version(2));
        assert_eq!(broken(5, 1), Error::HeaderLength(1));
        assert_eq!(broken(5, 3), Error::HeaderLength(3));
        assert_eq!(broken(7, 9), Error::Truncated);
        assert_eq!(Packet::new_checked(&good[..7]).map(|_| ()).unwrap_err(), Error::Truncated);
        let endless = [1, 0, 0, 0, 0, 3, 0, 12, 0, 1, 0, 0];
        assert_eq!(Packet::new_checked(endless).map(|_| ()).unwrap_err(), Error::Option);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(p) = Packet::new_checked(&bytes[..]) {
                prop_assert!(p.payload().len() <= bytes.len());
                for o in p.options() { prop_assert!(o.is_ok()); }
            }
        }
    }
}
