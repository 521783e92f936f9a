//! A capsule on the wire: an ANEP packet whose payload starts with the 16-byte capsule identifier.

use crate::anep;
use crate::id::CapsuleId;
use crate::integrity::{Mark, OPTION_LEN};
use core::fmt;

/// Bytes in front of a capsule's payload: ANEP header without options, and identifier.
pub const HEADER_LEN: usize = anep::HEADER_LEN + ID_LEN;
const ID_LEN: usize = 16;

/// Why a packet is not a capsule. The peer erred.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// The ANEP header is malformed.
    Anep(anep::Error),
    /// An ANEP packet of another type.
    Type(u16),
    /// The packet ends inside the identifier.
    NoIdentifier,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anep(e) => e.fmt(f),
            Self::Type(t) => write!(f, "peer sent ANEP type {t:#06x}, which is not a capsule"),
            Self::NoIdentifier => f.write_str("peer sent a capsule that ends inside its identifier"),
        }
    }
}

impl core::error::Error for Error {}

impl From<anep::Error> for Error {
    fn from(e: anep::Error) -> Self {
        Self::Anep(e)
    }
}

/// Where the parts of a capsule lie in the packet that was parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capsule {
    /// The identifier.
    pub id: CapsuleId,
    /// Offset of the payload from the start of the ANEP packet.
    pub payload_at: usize,
    /// Length of the payload in bytes.
    pub payload_len: usize,
    /// The mark, if it has one.
    pub mark: Option<Mark>,
}

impl Capsule {
    /// Finds the capsule in `packet` (an ANEP packet, possibly with link padding behind it).
    pub fn parse(packet: &[u8]) -> Result<Self, Error> {
        let anep = anep::Packet::new_checked(packet)?;
        if anep.type_id() != anep::TYPE_CAPSULE {
            return Err(Error::Type(anep.type_id()));
        }
        let (id, payload) = anep.payload().split_first_chunk::<ID_LEN>().ok_or(Error::NoIdentifier)?;
        let payload_at = anep.header_len() + ID_LEN;
        Ok(Self { id: CapsuleId(*id), payload_at, payload_len: payload.len(), mark: Mark::of(&anep)? })
    }

    /// Writes the header of a capsule with a mark and `payload_len` bytes of payload into
    /// `out[..HEADER_LEN + OPTION_LEN]`.
    ///
    /// # Panics
    /// As [`anep::emit_header`].
    pub fn emit_marked(out: &mut [u8], id: &CapsuleId, mark: &Mark, payload_len: usize) {
        anep::emit_header_with(out, anep::TYPE_CAPSULE, OPTION_LEN, ID_LEN + payload_len);
        mark.emit(&mut out[anep::HEADER_LEN..]);
        out[anep::HEADER_LEN + OPTION_LEN..][..ID_LEN].copy_from_slice(&id.0);
    }

    /// Writes the header of a capsule with `payload_len` bytes of payload into `out[..HEADER_LEN]`.
    ///
    /// # Panics
    /// As [`anep::emit_header`].
    #[inline]
    pub fn emit_header(out: &mut [u8], id: &CapsuleId, payload_len: usize) {
        let out = &mut out[..HEADER_LEN];
        anep::emit_header(out, anep::TYPE_CAPSULE, ID_LEN + payload_len);
        out[anep::HEADER_LEN..HEADER_LEN].copy_from_slice(&id.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn round_trip_with_padding() {
        let mut bytes = [0xee; HEADER_LEN + 20];
        let id = CapsuleId([9; 16]);
        Capsule::emit_header(&mut bytes, &id, 3);
        assert_eq!(
            Capsule::parse(&bytes),
            Ok(Capsule { id, payload_at: HEADER_LEN, payload_len: 3, mark: None })
        );
        bytes[2] = 0;
        assert_eq!(Capsule::parse(&bytes), Err(Error::Type(0x00e5)));
    }

    #[test]
    fn an_identifier_is_needed() {
        let mut bytes = [0; 12];
        anep::emit_header(&mut bytes, anep::TYPE_CAPSULE, 4);
        assert_eq!(Capsule::parse(&bytes), Err(Error::NoIdentifier));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(c) = Capsule::parse(&bytes) {
                prop_assert!(bytes.get(c.payload_at..c.payload_at + c.payload_len).is_some());
            }
        }
    }
}
