//! Payloads of the system protocols, which carry flows from node to node (seed 004, sections II and V;
//! D12). Their formats are final: later releases add protocols.
//!
//! | protocol              | coupled with                  | capsule types             |
//! |-----------------------|-------------------------------|---------------------------|
//! | [`TRANSLATION`]       | nothing: one system flow       | 0 request, 1 response     |
//! | [`AGENT`]             | nothing: one system flow       | 0                         |
//! | [`LIVENESS`]          | nothing: one system flow       | 0 poke, 1 the same back |
//! | [`DOWNLOAD`]          | tuple hash, and the part's hash when a part is asked for | 0 request, 1 response |
//!
//! Payloads are postcard. The identifiers follow the ordinary formula, with the well-known hash of the
//! protocol's versioned name in the place of a tuple's.

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::id::{CapsuleId, PartHash, Path, TupleHash};

/// Maps an unknown capsule identifier to a flow tuple.
pub const TRANSLATION: &str = "bees/IDTranslationProtocol/1";
/// Downloads tuples, modules and data parts.
pub const DOWNLOAD: &str = "bees/DLProtocol/1";
/// Handles capsules whose identifier a node does not know. It has no capsules of its own.
pub const UNKNOWN: &str = "bees/UnknownProtocol/1";
/// Carries what the Auth Agents of neighbors say to each other (D11). What is in the capsules is theirs.
pub const AGENT: &str = "bees/AuthAgent/1";

/// Tells whether a neighbor is still there.
pub const LIVENESS: &str = "bees/LivenessProtocol/1";

/// The capsule type of every system protocol's request.
pub const REQUEST: u16 = 0;
/// The capsule type of every system protocol's response.
pub const RESPONSE: u16 = 1;

/// "Which flow does this capsule belong to?", asked of the hop that it came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TranslationRequest {
    /// Returned in the response.
    pub nonce: u32,
    /// The identifier that is not known.
    pub unknown: CapsuleId,
}

/// The answer to a [`TranslationRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TranslationResponse {
    /// From the request.
    pub nonce: u32,
    /// From the request.
    pub unknown: CapsuleId,
    /// What is known of it.
    pub answer: Translation,
}

/// What a hop knows of an identifier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Translation {
    /// It belongs to this flow. The asker downloads the tuple and recomputes the identifier from it.
    Known {
        /// The flow.
        tuple: TupleHash,
        /// The tuple's length in bytes.
        tuple_len: u32,
        /// The protocol's place in the tuple.
        path: Path,
        /// The capsule type.
        kind: u16,
        /// The coupled hashes; none where the answer would be longer than it may be: the tuple has them.
        coupled: Vec<[u8; 32]>,
    },
    /// This node does not know it (any more).
    Unknown,
    /// This node may not or will not say.
    Refused,
}

/// "Send me these bytes", of a tuple or a part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DownloadRequest {
    /// Returned in the responses.
    pub nonce: u32,
    /// First byte wanted.
    pub offset: u32,
    /// How many bytes are wanted; the answer comes in as many responses as it takes.
    pub len: u32,
}

/// The answer to a [`DownloadRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DownloadResponse<'a> {
    /// A chunk.
    Chunk {
        /// From the request.
        nonce: u32,
        /// Position of the first byte.
        offset: u32,
        /// Length of the whole object in bytes.
        total: u32,
        /// The bytes.
        #[serde(borrow)]
        bytes: &'a [u8],
    },
    /// This node does not have the object, or will not give it.
    Refused {
        /// From the request.
        nonce: u32,
    },
}

/// "Are you there?"; the answer is the same, as [`RESPONSE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Poke {
    /// The sender's choice, which nobody else can guess.
    pub nonce: [u8; 8],
}

/// Bytes of a [`DownloadResponse::Chunk`] besides its chunk, at most: variant, three varints, length.
pub const CHUNK_OVERHEAD: usize = 1 + 5 + 5 + 5 + 3;

/// The identifier of capsules between Auth Agents.
pub fn agent_id() -> CapsuleId {
    CapsuleId::compute(&TupleHash::well_known(AGENT), &Path::default(), 0, &[])
}

/// The identifier of a poke, or of one that comes back.
pub fn liveness_id(kind: u16) -> CapsuleId {
    CapsuleId::compute(&TupleHash::well_known(LIVENESS), &Path::default(), kind, &[])
}

/// The identifier of a translation capsule.
pub fn translation_id(kind: u16) -> CapsuleId {
    CapsuleId::compute(&TupleHash::well_known(TRANSLATION), &Path::default(), kind, &[])
}

/// The identifier of a capsule that moves the tuple itself (`part` is `None`) or one part of it.
pub fn download_id(kind: u16, tuple: &TupleHash, part: Option<&PartHash>) -> CapsuleId {
    let well_known = TupleHash::well_known(DOWNLOAD);
    match part {
        None => CapsuleId::compute(&well_known, &Path::default(), kind, &[tuple.0]),
        Some(part) => CapsuleId::compute(&well_known, &Path::default(), kind, &[tuple.0, part.0]),
    }
}

/// The payload of a system capsule. `None`: the peer sent something else.
pub fn decode<'a, T: Deserialize<'a>>(payload: &'a [u8]) -> Option<T> {
    postcard::take_from_bytes(payload).ok().filter(|(_, rest)| rest.is_empty()).map(|(value, _)| value)
}

/// The bytes of a system capsule's payload.
pub fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    postcard::to_allocvec(message).expect("plain data in memory can always be encoded")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capsule::HEADER_LEN;
    use alloc::vec;
    use proptest::prelude::*;

    #[test]
    fn chunks_fit_their_overhead() {
        let bytes = [0; 1400];
        let chunk =
            DownloadResponse::Chunk { nonce: u32::MAX, offset: u32::MAX, total: u32::MAX, bytes: &bytes };
        assert!(encode(&chunk).len() <= bytes.len() + CHUNK_OVERHEAD);
        assert_eq!(decode::<DownloadResponse<'_>>(&encode(&chunk)), Some(chunk));
    }

    /// So a question of that length is answered with no more bytes over UDP.
    #[test]
    fn questions_and_their_answers_fit_the_shortest_datagram() {
        let answer = Translation::Known {
            tuple: TupleHash([9; 32]),
            tuple_len: crate::tuple::MAX_LEN as u32,
            path: Path(vec![9; 15]),
            kind: u16::MAX,
            coupled: Vec::new(),
        };
        let unknown = CapsuleId([9; 16]);
        for len in [
            encode(&TranslationRequest { nonce: u32::MAX, unknown }).len(),
            encode(&TranslationResponse { nonce: u32::MAX, unknown, answer }).len(),
            encode(&DownloadResponse::Refused { nonce: u32::MAX }).len(),
        ] {
            assert!(HEADER_LEN + len <= crate::MIN_DATAGRAM, "{len}");
        }
    }

    #[test]
    fn identifiers_differ() {
        let (t, p) = (TupleHash([1; 32]), PartHash([2; 32]));
        let ids = [
            translation_id(REQUEST),
            translation_id(RESPONSE),
            liveness_id(REQUEST),
            liveness_id(RESPONSE),
            download_id(REQUEST, &t, None),
            download_id(RESPONSE, &t, None),
            download_id(REQUEST, &t, Some(&p)),
        ];
        for (i, a) in ids.iter().enumerate() {
            assert!(ids[..i].iter().all(|b| a != b));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode::<TranslationRequest>(&bytes);
            let _ = decode::<TranslationResponse>(&bytes);
            let _ = decode::<DownloadRequest>(&bytes);
            let _ = decode::<Poke>(&bytes);
            if let Some(DownloadResponse::Chunk { bytes: chunk, .. }) = decode(&bytes) {
                prop_assert!(chunk.len() <= bytes.len());
            }
        }
    }
}
