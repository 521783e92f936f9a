//! What protocol and programs say to each other: `capsules/http/src/format.rs` has the layout. Numbers are little endian.

use wire::id::PartHash;

/// The most bytes of an object in a piece.
pub const MAX_BYTES: usize = 1024;
/// The longest URL.
pub const MAX_URL: usize = 1024;
const GET: usize = 17;
const PIECE: usize = 74;
/// What a piece for the program that asked begins with.
const FOR_PROGRAM: u8 = 4;

/// A get for the gateway's program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Get {
    /// Whether it is to be fetched anew.
    pub reload: bool,
    /// Who asks, if any version will do; else 0.
    pub nonce: u32,
    pub index: u16,
    /// 0: any.
    pub version: u64,
    pub url: String,
}

/// A piece, without its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    pub hops: u8,
    pub key: [u8; 16],
    pub asked: u64,
    pub nonce: u32,
    pub index: u16,
    pub count: u16,
    /// Seconds that it may be kept, in all and from now on.
    pub life: u32,
    pub left: u32,
    pub digest: [u8; 32],
}

/// What the protocol tells a program that asked for an object.
#[derive(Debug, PartialEq, Eq)]
pub enum Told<'a> {
    /// A piece of it.
    Piece(u32, Piece, &'a [u8]),
    /// It has changed: what came is of another one.
    Again(u32),
    /// All pieces were sent.
    End(u32),
    /// It does not come.
    Failed(u32, &'a str),
}

/// Takes fields from the front.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*head)
    }
}

impl Get {
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let mut f = Fields(bytes);
        let [kind, _hops, flags] = f.take()?;
        let (nonce, index) = (u32::from_le_bytes(f.take()?), u16::from_le_bytes(f.take()?));
        let version = u64::from_le_bytes(f.take()?);
        let url = std::str::from_utf8(f.0).ok().filter(|u| (1..=MAX_URL).contains(&u.len()))?;
        debug_assert_eq!(bytes.len() - url.len(), GET);
        (kind == 2).then(|| Self { reload: flags & 1 != 0, nonce, index, version, url: url.into() })
    }
}

impl Piece {
    /// The message with these bytes.
    pub fn message(&self, bytes: &[u8]) -> Vec<u8> {
        let mut message = Vec::with_capacity(PIECE + bytes.len());
        message.extend([3, self.hops]);
        message.extend(self.key);
        message.extend(self.asked.to_le_bytes());
        message.extend(self.nonce.to_le_bytes());
        message.extend(self.index.to_le_bytes());
        message.extend(self.count.to_le_bytes());
        message.extend(self.life.to_le_bytes());
        message.extend(self.left.to_le_bytes());
        message.extend(self.digest);
        message.extend(bytes);
        message
    }

    /// Reads a message: the piece and its bytes.
    pub fn read(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let mut f = Fields(bytes);
        let [kind, hops] = f.take()?;
        let piece = Self {
            hops,
            key: f.take()?,
            asked: u64::from_le_bytes(f.take()?),
            nonce: u32::from_le_bytes(f.take()?),
            index: u16::from_le_bytes(f.take()?),
            count: u16::from_le_bytes(f.take()?),
            life: u32::from_le_bytes(f.take()?),
            left: u32::from_le_bytes(f.take()?),
            digest: f.take()?,
        };
        let sound = kind == 3 && piece.index < piece.count && f.0.len() <= MAX_BYTES;
        sound.then_some((piece, f.0))
    }
}

impl<'a> Told<'a> {
    pub fn read(packet: &'a [u8]) -> Option<Self> {
        if let Some((&FOR_PROGRAM, rest)) = packet.split_first() {
            let (id, message) = rest.split_first_chunk()?;
            let (piece, bytes) = Piece::read(message)?;
            return Some(Self::Piece(u32::from_le_bytes(*id), piece, bytes));
        }
        let text = std::str::from_utf8(packet).ok()?;
        let (verb, rest) = text.split_once(' ')?;
        let (id, why) = rest.split_once(' ').unwrap_or((rest, ""));
        let id = id.parse().ok()?;
        match verb {
            "again" => Some(Self::Again(id)),
            "end" => Some(Self::End(id)),
            "error" => Some(Self::Failed(id, why)),
            _ => None,
        }
    }
}

/// A URL's name.
pub fn key(url: &str) -> [u8; 16] {
    *PartHash::of(url.as_bytes()).0.first_chunk().expect("a hash is longer")
}

/// The version that a digest stands for.
pub fn version(digest: &[u8; 32]) -> u64 {
    u64::from_le_bytes(*digest.first_chunk().expect("a digest is longer")).max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn piece() -> Piece {
        let (key, digest) = ([1; 16], [7; 32]);
        Piece { hops: 2, key, asked: 9, nonce: 0, index: 3, count: 5, life: 60, left: 50, digest }
    }

    #[test]
    fn messages_are_read_as_they_were_written() {
        let message = piece().message(b"bytes");
        assert_eq!(message.len(), PIECE + 5);
        assert_eq!(Piece::read(&message), Some((piece(), &b"bytes"[..])));
        let told = [&[4, 6, 0, 0, 0][..], &message].concat();
        assert_eq!(Told::read(&told), Some(Told::Piece(6, piece(), b"bytes")));
        assert_eq!(Told::read(b"end 6"), Some(Told::End(6)));
        assert_eq!(Told::read(b"error 6 no gateway"), Some(Told::Failed(6, "no gateway")));
        let mut get = vec![2, 1, 1];
        get.extend(5u32.to_le_bytes());
        get.extend([0; 10]);
        get.extend(b"http://a/");
        let read = Get { reload: true, nonce: 5, index: 0, version: 0, url: "http://a/".into() };
        assert_eq!(Get::read(&get), Some(read));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_not(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 2u8..5) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() {
                *first = kind;
            }
            let _ = (Get::read(&bytes), Piece::read(&bytes), Told::read(&bytes));
        }
    }
}
