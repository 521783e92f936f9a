//! What the gateway's program has fetched: it gives pieces of it until nobody asks for them any more. Time is an argument.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use wire::id::PartHash;

use super::message::{self, Get, MAX_BYTES, Piece};
use super::origin::Object;

/// Bytes of all objects.
const MAX_BYTES_KEPT: usize = 64 << 20;
/// An object whose pieces were not asked for for so long is dropped, also if it may be kept no longer.
const IDLE: Duration = Duration::from_secs(120);
/// Requests that one object was fetched for, or answered.
const MAX_NONCES: usize = 256;

/// The objects, and who waits for which URL.
#[derive(Debug, Default)]
pub struct Shelf {
    objects: HashMap<String, Vec<Kept>>,
    /// Gets of URLs that are being fetched.
    waiting: HashMap<String, Vec<Get>>,
}

#[derive(Debug)]
struct Kept {
    object: Object,
    digest: [u8; 32],
    fetched: Instant,
    asked: Instant,
    /// Who got it: the same request again gets the same, also of what nobody else may have.
    nonces: HashSet<u32>,
}

/// What to do about a get.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Send this.
    Send(Vec<u8>),
    /// Fetch the URL, and say so with [`Shelf::put`].
    Fetch,
    /// Nothing: it is being fetched, or there is no such piece.
    Wait,
}

impl Kept {
    fn left(&self, now: Instant) -> u32 {
        u64::from(self.object.life).saturating_sub(now.duration_since(self.fetched).as_secs()) as u32
    }

    fn piece(&mut self, get: &Get, now: Instant) -> Option<Vec<u8>> {
        self.asked = now;
        let bytes = self.object.bytes.chunks(MAX_BYTES).nth(get.index.into())?;
        let piece = Piece {
            hops: 0,
            key: message::key(&get.url),
            asked: get.version,
            nonce: get.nonce,
            index: get.index,
            count: u16::try_from(self.object.bytes.len().div_ceil(MAX_BYTES)).ok()?,
            life: self.object.life,
            left: self.left(now),
            digest: self.digest,
        };
        Some(piece.message(bytes))
    }
}

impl Shelf {
    /// A get came.
    pub fn get(&mut self, get: &Get, now: Instant) -> Step {
        let kept = self.objects.get_mut(&get.url).map(Vec::as_mut_slice).unwrap_or_default();
        let found = match get.version {
            0 => kept.iter_mut().rev().find(|k| {
                k.nonces.contains(&get.nonce) || !get.reload && k.left(now) > 0 && k.nonces.len() < MAX_NONCES
            }),
            version => match kept.iter().position(|k| message::version(&k.digest) == version) {
                Some(at) => kept.get_mut(at),
                // Whoever asked finds that it is another object now.
                None => kept.last_mut(),
            },
        };
        if let Some(kept) = found {
            if get.version == 0 {
                kept.nonces.insert(get.nonce);
            }
            return kept.piece(get, now).map_or(Step::Wait, Step::Send);
        }
        let waiting = self.waiting.entry(get.url.clone()).or_default();
        let first = waiting.is_empty();
        if !waiting.contains(get) && waiting.len() < MAX_NONCES {
            waiting.push(get.clone());
        }
        if first { Step::Fetch } else { Step::Wait }
    }

    /// A URL was fetched. What is to be sent now, and whether it is to be fetched again: for somebody who waits and may not
    /// have what was fetched for somebody else.
    pub fn put(&mut self, url: &str, object: Object, now: Instant) -> (Vec<Vec<u8>>, bool) {
        let digest = PartHash::of(&object.bytes).0;
        let waiting = self.waiting.remove(url).unwrap_or_default();
        let first = waiting.first().map_or(0, |get| get.nonce);
        let mut nonces = HashSet::from([first]);
        let all = self.objects.entry(url.to_string()).or_default();
        all.iter().filter(|k| k.digest == digest).for_each(|k| nonces.extend(&k.nonces));
        all.retain(|k| k.digest != digest);
        all.push(Kept { object, digest, fetched: now, asked: now, nonces });
        let (mut packets, mut again) = (vec![], false);
        for get in waiting {
            match self.get(&Get { reload: get.reload && get.nonce != first, ..get }, now) {
                Step::Send(packet) => packets.push(packet),
                Step::Fetch => again = true,
                Step::Wait => {}
            }
        }
        self.tidy(now);
        (packets, again)
    }

    /// Drops what nobody asks for any more, and as much as there is too much of.
    fn tidy(&mut self, now: Instant) {
        let idle = |k: &Kept| now.duration_since(k.asked) > IDLE && k.left(now) == 0;
        self.objects.values_mut().for_each(|all| all.retain(|k| !idle(k)));
        let size = |objects: &HashMap<String, Vec<Kept>>| -> usize {
            objects.values().flatten().map(|k| k.object.bytes.len()).sum()
        };
        while size(&self.objects) > MAX_BYTES_KEPT {
            let oldest = self.objects.values().flatten().map(|k| k.asked).min();
            self.objects.values_mut().for_each(|all| all.retain(|k| Some(k.asked) != oldest));
        }
        self.objects.retain(|_, all| !all.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(nonce: u32, version: u64, index: u16, reload: bool) -> Get {
        Get { reload, nonce, index, version, url: "http://a/".into() }
    }

    fn object(life: u32, text: &str) -> Object {
        Object { life, bytes: text.as_bytes().to_vec() }
    }

    fn text(step: Step) -> String {
        let Step::Send(packet) = step else { panic!("{step:?}") };
        String::from_utf8(Piece::read(&packet).unwrap().1.to_vec()).unwrap()
    }

    #[test]
    fn an_object_is_fetched_once_while_it_may_be_kept() {
        let (mut shelf, now) = (Shelf::default(), Instant::now());
        assert_eq!(shelf.get(&get(1, 0, 0, false), now), Step::Fetch);
        assert_eq!(shelf.get(&get(1, 0, 0, false), now), Step::Wait);
        assert_eq!(shelf.get(&get(2, 0, 0, false), now), Step::Wait);
        let (packets, again) = shelf.put("http://a/", object(10, "one"), now);
        assert_eq!((packets.len(), again), (2, false));
        let (piece, _) = Piece::read(&packets[0]).unwrap();
        assert_eq!((piece.nonce, piece.life, piece.left, piece.count), (1, 10, 10, 1));
        let later = now + Duration::from_secs(4);
        let Step::Send(packet) = shelf.get(&get(3, 0, 0, false), later) else { panic!("it is there") };
        assert_eq!(Piece::read(&packet).unwrap().0.left, 6);
        assert_eq!(shelf.get(&get(4, 0, 0, true), later), Step::Fetch, "it is to be fetched anew");
        shelf.put("http://a/", object(10, "two"), later);
        assert_eq!(text(shelf.get(&get(5, 0, 0, false), later)), "two");
        assert_eq!(text(shelf.get(&get(0, message::version(&piece.digest), 0, false), later)), "one");
        assert_eq!(text(shelf.get(&get(0, 77, 0, false), later)), "two", "of a version that is gone");
        let end = later + Duration::from_secs(11);
        assert_eq!(shelf.get(&get(6, 0, 0, false), end), Step::Fetch);
    }

    #[test]
    fn what_nobody_may_keep_is_for_one_request() {
        let (mut shelf, now) = (Shelf::default(), Instant::now());
        assert_eq!(shelf.get(&get(1, 0, 0, false), now), Step::Fetch);
        assert_eq!(shelf.get(&get(2, 0, 0, false), now), Step::Wait);
        let (packets, again) = shelf.put("http://a/", object(0, "one"), now);
        assert_eq!((packets.len(), again), (1, true));
        let (packets, again) = shelf.put("http://a/", object(0, "two"), now);
        assert_eq!((packets.len(), again), (1, false));
        // The same request again, because the answer was lost, gets the same.
        assert_eq!(text(shelf.get(&get(1, 0, 0, false), now)), "one");
        assert_eq!(text(shelf.get(&get(2, 0, 0, false), now)), "two");
        assert_eq!(shelf.get(&get(3, 0, 0, false), now), Step::Fetch);
        assert_eq!(shelf.get(&get(0, 0, 9, false), now), Step::Wait);
    }

    #[test]
    fn there_is_a_bound() {
        let (mut shelf, mut now) = (Shelf::default(), Instant::now());
        for number in 0..40 {
            let url = format!("http://a/{number}");
            let bytes = vec![number; 2 << 20];
            shelf.put(&url, Object { life: 1000, bytes }, now);
            now += Duration::from_secs(1);
        }
        let kept: usize = shelf.objects.values().flatten().map(|k| k.object.bytes.len()).sum();
        assert_eq!(kept, MAX_BYTES_KEPT);
        assert!(!shelf.objects.contains_key("http://a/0") && shelf.objects.contains_key("http://a/39"));
        now += Duration::from_secs(1200);
        shelf.put("http://a/", object(0, "x"), now);
        assert_eq!(shelf.objects.len(), 1);
    }
}
