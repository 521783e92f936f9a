//! What of a session's replies waits for its program: known to the guest, which is refused more while it is too much,
//! and to the node, which tells it when there is room again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// Bytes that may wait for a program to read them.
const MAX_WAITING: u32 = 64 * 1024;
/// One session's replies, for both sides.
#[derive(Debug, Clone)]
pub struct Outlet(Arc<State>);

#[derive(Debug)]
struct State {
    /// The longest packet.
    most: u32,
    /// Whether packets may be lost on their way.
    datagrams: bool,
    /// Bytes that the guest has given and the program has not taken.
    waiting: AtomicU32,
    /// The guest was refused, and has not been told that there is room.
    refused: AtomicBool,
}

impl Outlet {
    /// Bytes in front of a packet, which are charged with it.
    pub const FRAMING: usize = 2;

    /// Of a session by a stream of bytes, or beside the node.
    pub fn stream() -> Self {
        Self::new(wire::session::MAX_PACKET as u32, false)
    }

    /// Of a session by datagrams, where packets of at most `most` bytes pass.
    pub fn datagrams(most: usize) -> Self {
        Self::new(most.min(wire::datagram::MAX_PACKET) as u32, true)
    }

    fn new(most: u32, datagrams: bool) -> Self {
        let (waiting, refused) = (AtomicU32::new(0), AtomicBool::new(false));
        Self(Arc::new(State { most, datagrams, waiting, refused }))
    }

    /// The longest packet that goes out, in bytes.
    pub fn most(&self) -> usize {
        self.0.most as usize
    }

    /// What the guest is told with the opening: the longest packet by datagrams, 0 by a stream.
    pub fn told(&self) -> u32 {
        if self.0.datagrams { self.0.most } else { 0 }
    }

    /// Room for a packet of `len` bytes is taken, if there is any.
    pub fn take(&self, len: usize) -> bool {
        let bytes = u32::try_from(len.saturating_add(Self::FRAMING)).unwrap_or(u32::MAX);
        let waiting = self.0.waiting.load(Ordering::Relaxed).saturating_add(bytes);
        let fits = waiting <= MAX_WAITING;
        match fits {
            true => self.0.waiting.store(waiting, Ordering::Relaxed),
            false => self.0.refused.store(true, Ordering::Relaxed),
        }
        fits
    }

    /// A packet of `len` bytes has gone out, or never will.
    pub fn packet_gone(&self, len: usize) {
        self.gone(len.saturating_add(Self::FRAMING));
    }

    /// So many bytes, those in front of packets included, have gone out.
    pub fn gone(&self, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let waiting = self.0.waiting.load(Ordering::Relaxed);
        self.0.waiting.store(waiting.saturating_sub(bytes), Ordering::Relaxed);
    }

    /// Whether the guest is to be told that there is room: it was refused, and half of it is free.
    pub fn must_tell(&self) -> bool {
        self.0.refused.load(Ordering::Relaxed) && self.0.waiting.load(Ordering::Relaxed) <= MAX_WAITING / 2
    }

    /// The guest is told.
    pub fn tell(&self) {
        self.0.refused.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_taken_and_comes_back() {
        let outlet = Outlet::stream();
        let taken = (0..100).take_while(|_| outlet.take(1022)).count();
        assert_eq!(taken, 64);
        assert!(!outlet.must_tell(), "nothing is free yet");
        (0..31).for_each(|_| outlet.packet_gone(1022));
        assert!(!outlet.must_tell());
        outlet.packet_gone(1022);
        assert!(outlet.must_tell());
        outlet.tell();
        assert!(!outlet.must_tell());
        assert!(!outlet.take(usize::MAX / 2) && outlet.must_tell());
        outlet.gone(usize::MAX);
        assert_eq!(
            (outlet.told(), Outlet::datagrams(5000).told(), Outlet::datagrams(7).told()),
            (0, 1200, 7)
        );
    }
}
