//! What capsules, and packets of the gateway's program, look like; numbers are little endian.
//!
//! ```text
//! announce: 1, hops of the sender, epoch (8), sequence (4)
//! get:      2, hops travelled, flags, nonce (4), index (2), version (8), URL
//! piece:    3, hops travelled since it was found, key (16), asked version (8), nonce (4), index (2), count (2),
//!           lifetime in s (4), left of it in s (4), digest (32), bytes
//! ```
//!
//! An object is a response: its head, an empty line, its body, cut into pieces of [`MAX_BYTES`]. Its digest is SHA-256 of all of
//! it, its version the digest's first eight bytes. The first get of an object has version 0 and a nonce, which tells apart who
//! asks: what nobody may keep is for one of them only. Gets of the other pieces have the version, and no nonce.

use bees_sdk::node;

/// Nodes this far from the gateway pass on nothing.
pub const MAX_HOPS: u8 = 64;
/// The longest URL, in bytes.
pub const MAX_URL: usize = 1024;
/// The most bytes of an object in a piece.
pub const MAX_BYTES: usize = 1024;
/// The most pieces of an object.
pub const MAX_COUNT: u16 = 16_384;
/// Flag of a get: nobody on the way may answer from what it keeps.
pub const RELOAD: u8 = 1;
/// Where the hops stand in a get and a piece.
pub const HOPS: usize = 1;

bees_sdk::packed! {
    /// The gateway is there.
    pub struct Announce: 1 {
        /// Hops from the gateway to who sends this.
        pub hops: u8,
        /// Which gateway, and which of its lives: a greater one is newer.
        pub epoch: u64,
        /// How often it has announced itself.
        pub sequence: u32,
    }
}

bees_sdk::packed! {
    /// A request for one piece; the URL follows.
    pub struct Get: 2 {
        /// Hops travelled.
        pub hops: u8,
        /// [`RELOAD`], or 0.
        pub flags: u8,
        /// Who asks, if any version will do; else 0.
        pub nonce: u32,
        /// Which piece.
        pub index: u16,
        /// Of which version; 0: of any.
        pub version: u64,
    }
}

bees_sdk::packed! {
    /// A piece of an object; its bytes follow.
    pub struct Piece: 3 {
        /// Hops travelled since it was found.
        pub hops: u8,
        /// The URL's name.
        pub key: [u8; 16],
        /// The version that was asked for.
        pub asked: u64,
        /// The nonce of the get.
        pub nonce: u32,
        /// Which piece.
        pub index: u16,
        /// Pieces of the object; at least one.
        pub count: u16,
        /// For how many seconds the object may be kept in all; 0: not at all.
        pub life: u32,
        /// For how many seconds from now.
        pub left: u32,
        /// SHA-256 of the whole object.
        pub digest: [u8; 32],
    }
}

/// The longest message, in bytes.
pub const MAX_MESSAGE: usize = Piece::LEN + MAX_BYTES;

/// What a piece is of, as it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    pub key: [u8; 16],
    pub version: u64,
    pub nonce: u32,
    pub index: u16,
}

impl Get {
    /// Reads a get, and its URL.
    pub fn read(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (get, url) = (Self::of(bytes)?, bytes.get(Self::LEN..)?);
        let sound = get.hops < MAX_HOPS
            && get.index < MAX_COUNT
            && is_url(url)
            && (get.version == 0) == (get.nonce != 0)
            // Which version a first piece is of nobody knows before.
            && (get.version != 0 || get.index == 0);
        sound.then_some((get, url))
    }

    /// What it asks for.
    pub fn asked(&self, url: &[u8]) -> Asked {
        Asked { key: key(url), version: self.version, nonce: self.nonce, index: self.index }
    }
}

impl Piece {
    /// Reads a piece, and its bytes.
    pub fn read(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (piece, rest) = (Self::of(bytes)?, bytes.get(Self::LEN..)?);
        let last = piece.index + 1 == piece.count;
        let sound = piece.hops < MAX_HOPS
            && piece.index < piece.count
            && piece.count <= MAX_COUNT
            && piece.left <= piece.life
            // All are full but the last one.
            && (rest.len() == MAX_BYTES || last && !rest.is_empty() && rest.len() < MAX_BYTES);
        sound.then_some((piece, rest))
    }

    /// What was asked for.
    pub fn asked(&self) -> Asked {
        Asked { key: self.key, version: self.asked, nonce: self.nonce, index: self.index }
    }

    /// The object's version.
    pub fn version(&self) -> u64 {
        self.digest.first_chunk().map_or(1, |head| u64::from_le_bytes(*head).max(1))
    }
}

/// A URL's name: nobody can make another URL with the same one.
pub fn key(url: &[u8]) -> [u8; 16] {
    let hash = node::sha256(url).unwrap_or([0; 32]);
    hash.first_chunk().copied().unwrap_or([0; 16])
}

/// Whether it can be a URL of a request: graphic, and not too long.
pub fn is_url(url: &[u8]) -> bool {
    (1..=MAX_URL).contains(&url.len()) && url.iter().all(u8::is_ascii_graphic)
}
