//! What a node says of itself, and of the nodes that it knows, to whoever is on a link (seed 004, section II.C).
//!
//! An advert is the one capsule type of the protocol [`DISCOVERY`]: it is sent to all stations of a link. Times are
//! relative, so that nobody needs a clock that is right. Nothing in it is proven.

use alloc::vec::Vec;
use core::time::Duration;

use serde::{Deserialize, Serialize};

use crate::id::{CapsuleId, Path, TupleHash};
use crate::system;

/// Nodes tell each other who is there.
pub const DISCOVERY: &str = "bees/DiscoveryProtocol/1";

/// The longest name of a node, in bytes.
pub const MAX_NAME: usize = 32;
/// The longest advert, in bytes: it fits the smallest MTU.
pub const MAX_LEN: usize = 480;
/// The farthest node that is told of, in hops.
pub const MAX_HOPS: u8 = 16;
/// The shortest time between two adverts.
pub const LEAST: Duration = Duration::from_millis(100);
/// The longest time for which an advert is good.
pub const MOST: Duration = Duration::from_secs(3600);

/// What a node says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Advert<'a> {
    /// Its name.
    #[serde(borrow)]
    pub name: &'a str,
    /// Its Ed25519 identity, if it has one. A handshake can prove it; the advert does not.
    pub identity: Option<[u8; 32]>,
    /// Milliseconds until the next advert.
    pub interval_ms: u32,
    /// Milliseconds after which this one is good for nothing.
    pub expire_ms: u32,
    /// Nodes that it knows, or has heard of.
    #[serde(borrow)]
    pub known: Vec<Hearsay<'a>>,
}

/// What a node knows of another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hearsay<'a> {
    /// That one's name.
    #[serde(borrow)]
    pub name: &'a str,
    /// How far it is from who says so: 1 is a neighbor.
    pub hops: u8,
    /// Milliseconds since it said anything itself.
    pub age_ms: u32,
    /// Milliseconds for which it is still believed to be there.
    pub left_ms: u32,
}

/// The identifier of an advert.
pub fn advert_id() -> CapsuleId {
    CapsuleId::compute(&TupleHash::well_known(DISCOVERY), &Path::default(), 0, &[])
}

/// Whether a text can be a node's name: 1 to [`MAX_NAME`] printable characters of ASCII without blanks, the first
/// none that marks names.
pub fn is_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_graphic())
        && !name.starts_with('~')
}

impl<'a> Advert<'a> {
    /// Reads one. `None`: the peer sent something else, or what cannot be.
    pub fn decode(payload: &'a [u8]) -> Option<Self> {
        if payload.len() > MAX_LEN {
            return None;
        }
        let advert: Self = system::decode(payload)?;
        let [interval, expire] = [advert.interval(), advert.expire()];
        let times = interval >= LEAST && expire <= MOST && interval.saturating_mul(2) <= expire;
        let known = |k: &Hearsay<'_>| {
            let (age, left) = (millis(k.age_ms), millis(k.left_ms));
            is_name(k.name) && (1..=MAX_HOPS).contains(&k.hops) && age <= MOST && left <= MOST
        };
        (is_name(advert.name) && times && advert.known.iter().all(known)).then_some(advert)
    }

    /// Its bytes, with as many of `known`, the first ones first, as there is room for; and how many those are.
    pub fn encode(mut self, known: impl Iterator<Item = Hearsay<'a>>) -> (Vec<u8>, usize) {
        self.known.clear();
        let mut len = system::encode(&self).len();
        for hearsay in known {
            len += system::encode(&hearsay).len();
            if len > MAX_LEN || self.known.len() == 127 {
                break;
            }
            self.known.push(hearsay);
        }
        (system::encode(&self), self.known.len())
    }

    /// Time until the next advert.
    pub fn interval(&self) -> Duration {
        millis(self.interval_ms)
    }

    /// Time for which this one is good.
    pub fn expire(&self) -> Duration {
        millis(self.expire_ms)
    }
}

fn millis(ms: u32) -> Duration {
    Duration::from_millis(ms.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use alloc::string::String;
    use proptest::prelude::*;

    fn advert(name: &str) -> Advert<'_> {
        Advert { name, identity: Some([7; 32]), interval_ms: 1000, expire_ms: 5000, known: Vec::new() }
    }

    fn hearsay(name: &str) -> Hearsay<'_> {
        Hearsay { name, hops: 1, age_ms: 10, left_ms: 4990 }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let read = |edit: &dyn Fn(&mut Advert<'_>)| {
            let mut advert = advert("a");
            advert.known.push(hearsay("b"));
            edit(&mut advert);
            Advert::decode(&system::encode(&advert)).is_some()
        };
        assert!(read(&|_| {}));
        assert!(!read(&|a| a.name = ""));
        assert!(!read(&|a| a.name = "a b"));
        assert!(!read(&|a| a.name = "~a"));
        assert!(!read(&|a| a.name = "\u{e4}"));
        assert!(!read(&|a| a.name = "123456789012345678901234567890123"));
        assert!(!read(&|a| a.interval_ms = 99));
        assert!(!read(&|a| a.interval_ms = 2501));
        assert!(!read(&|a| a.expire_ms = 3_600_001));
        assert!(!read(&|a| a.known[0].name = "\n"));
        assert!(!read(&|a| a.known[0].hops = 0));
        assert!(!read(&|a| a.known[0].hops = MAX_HOPS + 1));
        assert!(!read(&|a| a.known[0].left_ms = u32::MAX));
        let mut long = system::encode(&advert("a"));
        long.push(0);
        assert_eq!(Advert::decode(&long), None);
    }

    #[test]
    fn an_advert_has_as_much_as_there_is_room_for() {
        let names: Vec<String> = (0..200).map(|n| format!("{n:032}")).collect();
        for count in [0, 1, 9, 200] {
            let (bytes, told) = advert("a").encode(names[..count].iter().map(|name| hearsay(name)));
            let read = Advert::decode(&bytes).unwrap();
            assert!(bytes.len() <= MAX_LEN && read.known.len() == told && told == count.min(told));
            assert_eq!(told, count.min(11), "{}", bytes.len());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            if let Some(advert) = Advert::decode(&bytes) {
                prop_assert!(is_name(advert.name) && advert.known.iter().all(|k| is_name(k.name)));
                prop_assert!(advert.clone().encode(advert.known.into_iter()).0.len() <= bytes.len());
            }
        }

        #[test]
        fn what_is_written_is_read(name in "[!-}]{1,32}", ms in 100u32..1_800_000, hops in 1u8..=16, age in 0u32..3_600_000) {
            let advert = Advert { name: &name, identity: None, interval_ms: ms, expire_ms: 2 * ms, known: Vec::new() };
            let known = [Hearsay { name: &name, hops, age_ms: age, left_ms: age }];
            let (bytes, _) = advert.clone().encode(known.into_iter());
            prop_assert_eq!(Advert::decode(&bytes), Some(Advert { known: known.to_vec(), ..advert }));
        }
    }
}
