//! The keys of one handshake: sealing, opening, and what was heard before.

use alloc::boxed::Box;

use snow::{Error, StatelessTransportState};
use wire::link::{OVERHEAD, SEALED_HEADER, TAG_LEN, emit_sealed_header};

use super::Refused;

/// Frames that one end may seal with one key; far below what ChaCha20-Poly1305 bears (RFC 9001, B.1).
const MAX_FRAMES: u64 = 1 << 36;

/// The keys of one handshake, for both directions.
pub(super) struct Session {
    /// The index that this end chose.
    pub own: u32,
    peer: u32,
    /// This end began the handshake.
    pub initiator: bool,
    /// The other end's X25519 key, which it made when it started.
    pub peer_key: [u8; 32],
    /// When the handshake ended, in microseconds.
    pub since: u64,
    transport: StatelessTransportState,
    sent: u64,
    heard: Window,
}

impl Session {
    pub fn new(
        own: u32,
        peer: u32,
        transport: StatelessTransportState,
        peer_key: [u8; 32],
        initiator: bool,
    ) -> Self {
        Self { own, peer, initiator, peer_key, since: 0, transport, sent: 0, heard: Window::default() }
    }

    /// The index that the other end chose.
    pub fn peer(&self) -> u32 {
        self.peer
    }

    /// Frames sealed so far.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Writes the frame that carries `packet` to `out`; its length. `None` if it does not fit, or the key is
    /// used up.
    pub fn seal(&mut self, packet: &[u8], out: &mut [u8]) -> Option<usize> {
        let len = packet.len() + OVERHEAD;
        let out = out.get_mut(..len).filter(|_| self.sent < MAX_FRAMES && len <= usize::from(u16::MAX))?;
        emit_sealed_header(out, self.peer, self.sent, packet.len() + TAG_LEN);
        self.transport.write_message(self.sent, packet, &mut out[SEALED_HEADER..]).ok()?;
        self.sent += 1;
        Some(len)
    }

    /// Opens what the other end sealed, once; the length of the packet that is in `out` then.
    pub fn open(&mut self, counter: u64, sealed: &[u8], out: &mut [u8]) -> Result<usize, Refused> {
        if counter >= MAX_FRAMES || !self.heard.is_new(counter) {
            return Err(Refused::Replayed);
        }
        let opened = self.transport.read_message(counter, sealed, out);
        let len = opened.map_err(|_: Error| Refused::Forged)?;
        self.heard.enter(counter);
        Ok(len)
    }
}

/// Words of a [`Window`].
const WORDS: u64 = 32;

/// Which counters were heard: of the last 1984 each by itself (one word of 64 is always being filled), all
/// that are older count as heard (after RFC 6479).
struct Window {
    /// One more than the highest counter that was heard.
    next: u64,
    bits: Box<[u64; WORDS as usize]>,
}

impl Default for Window {
    fn default() -> Self {
        Self { next: 0, bits: Box::new([0; WORDS as usize]) }
    }
}

impl Window {
    /// How far back counters are told apart.
    const REACH: u64 = (WORDS - 1) * 64;

    fn is_new(&self, counter: u64) -> bool {
        let (word, bit) = Self::place(counter);
        counter >= self.next || (counter + Self::REACH >= self.next && self.bits[word] & bit == 0)
    }

    /// Marks a counter that is new.
    fn enter(&mut self, counter: u64) {
        if counter >= self.next {
            let (old, new) = (self.next.div_ceil(64), counter / 64);
            for word in old..=new.min(old + WORDS - 1) {
                self.bits[(word % WORDS) as usize] = 0;
            }
            self.next = counter + 1;
        }
        let (word, bit) = Self::place(counter);
        self.bits[word] |= bit;
    }

    fn place(counter: u64) -> (usize, u64) {
        ((counter / 64 % WORDS) as usize, 1 << (counter % 64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_window_reaches_back_more_than_a_thousand_frames() {
        const { assert!(Window::REACH >= 1024) };
        let mut window = Window::default();
        window.enter(5000);
        assert!(!window.is_new(5000) && window.is_new(4999) && window.is_new(5001));
        let oldest = 5001 - Window::REACH;
        assert!(window.is_new(oldest) && !window.is_new(oldest - 1) && !window.is_new(0));
        window.enter(oldest);
        assert!(!window.is_new(oldest));
        window.enter(1 << 40);
        assert!(!window.is_new(5000) && window.is_new((1 << 40) - 1));
    }

    proptest! {
        /// Against a set: what was entered is never new again, what was not and is within reach is new.
        #[test]
        fn as_a_set_does_it(steps in proptest::collection::vec((0u64..3000, any::<bool>()), 1..400)) {
            let (mut window, mut set, mut top) = (Window::default(), BTreeSet::new(), 0u64);
            for (step, forward) in steps {
                let counter = if forward { top + step } else { top.saturating_sub(step) };
                let new = window.is_new(counter);
                let within = counter + Window::REACH >= window.next;
                prop_assert_eq!(new, within && !set.contains(&counter), "{}", counter);
                if new {
                    window.enter(counter);
                    set.insert(counter);
                    top = top.max(counter);
                }
            }
        }
    }
}
