//! Protected links: two neighbors that know each other's identity shake hands, and seal every packet.
//!
//! ```text
//!   initiator                                              responder
//!     hello   e, padding                      -->
//!                  <--   cookie (only where asked for: UDP)
//!     hello   e, padding, cookie              -->
//!                  <--   answer  e, ee, s, es, certificate
//!     proof   s, se, certificate              -->
//!                  <--   sealed, empty: the keys are in use
//!     sealed packets                         <-->
//! ```
//!
//! [`Link`] is one end, without clock, socket or thread: [`Link::received`] takes frames, [`Link::seal`] makes
//! them, [`Link::output`] gives those of the handshake, [`Link::task`] the slow work for a thread elsewhere,
//! whose result goes to [`Link::finished`]; [`Link::poll`] is called when [`Link::wake`] has come. Frames
//! may be lost, repeated, reordered, changed and made up.
//!
//! * Only the initiator repeats itself, with growing intervals; the responder repeats its answer when it
//!   hears the hello again. Nothing that a responder sends is longer than what it answers.
//! * Both ends may begin at once: the one with the lower identity is answered, the other waits. Should two
//!   handshakes end nonetheless, both ends send under that of the lower identity.
//! * Keys last [`Timing::rekey_after`] or [`Timing::rekey_frames`], then their initiator makes new ones; the
//!   old ones are accepted for [`Timing::overlap`] longer. Keys that are not renewed end, and with them
//!   the neighbor. So does one that has not been heard for [`Timing::silence`] three times over.
//! * An open link is never disturbed by a handshake that does not end: new keys replace old ones only when the
//!   other end has proven its identity.
//! * A stranger costs: the check of a cookie for each hello where cookies are asked for; else, and behind it,
//!   at most twice [`Timing::per_second`] steps of at most four curve multiplications each second.

mod handshake;
mod session;
mod task;
#[cfg(test)]
mod tests;
mod told;

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use wire::link::{Error, Frame};

use crate::keys::{Ed25519Key, NodeIdentity};
use crate::{Entropy, NoEntropy, Secret, draw};
use handshake::{Attempt, Opened, Stage, Steps};
use session::Session;
pub use task::{Finished, Task};
pub use told::{LinkEvent, Received, Refused};

/// Handshake frames that wait to be sent.
const MAX_OUTPUT: usize = 8;
/// Events that wait to be taken.
const MAX_EVENTS: usize = 16;

/// How long things take, in microseconds unless it says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// The first repetition of a handshake frame; each further one takes twice as long.
    pub first_retry: u64,
    /// The longest interval between two repetitions.
    pub last_retry: u64,
    /// When a handshake that does not end is begun anew, and a responder forgets one.
    pub patience: u64,
    /// Age at which the initiator renews keys; the responder does it half of that later.
    pub rekey_after: u64,
    /// Frames after which either end renews keys.
    pub rekey_frames: u64,
    /// Age at which keys end.
    pub expire_after: u64,
    /// How long replaced keys are accepted.
    pub overlap: u64,
    /// An end that has heard something and has nothing to say for so long says so.
    pub keepalive: u64,
    /// Who is not heard for so long after having been sent something is greeted anew.
    pub silence: u64,
    /// Slow steps in a second that hellos may cause, and as many again for answers and proofs.
    pub per_second: u32,
}

impl Default for Timing {
    fn default() -> Self {
        const SECOND: u64 = 1_000_000;
        Self {
            first_retry: SECOND / 10,
            last_retry: 2 * SECOND,
            patience: 30 * SECOND,
            rekey_after: 120 * SECOND,
            rekey_frames: 1 << 32,
            expire_after: 240 * SECOND,
            overlap: 10 * SECOND,
            keepalive: 10 * SECOND,
            silence: 15 * SECOND,
            per_second: 16,
        }
    }
}

/// One end of a protected link.
pub struct Link {
    own: Arc<NodeIdentity>,
    peer: Ed25519Key,
    timing: Timing,
    /// Makes cookies, where they are asked for.
    cookies: Option<Secret>,
    /// Under these keys packets are sent.
    current: Option<Box<Session>>,
    /// These are accepted until then.
    previous: Option<(Box<Session>, u64)>,
    attempt: Option<Attempt>,
    open: VecDeque<Opened>,
    /// When the next handshake may begin.
    next_attempt: u64,
    /// A step is under way.
    busy: bool,
    task: Option<Task>,
    output: VecDeque<Vec<u8>>,
    events: VecDeque<LinkEvent>,
    /// Of hellos, which anybody can make up.
    hellos: Steps,
    /// Of answers and proofs, which name a handshake that is under way.
    steps: Steps,
    /// The first packet that was sent and not followed by any that was heard.
    unheard_since: Option<u64>,
    /// The first packet that was heard and not followed by any that was sent.
    unsaid_since: Option<u64>,
    wake: u64,
}

impl Link {
    /// An end with this identity, for a neighbor with that one. `cookies`: a hello is looked at only if it comes
    /// from where the neighbor is, which is right where others may write its address on their frames from
    /// afar (UDP).
    pub fn new(
        own: Arc<NodeIdentity>,
        peer: Ed25519Key,
        cookies: bool,
        timing: Timing,
        entropy: &dyn Entropy,
    ) -> Result<Self, NoEntropy> {
        let cookies = if cookies { Some(draw(entropy)?) } else { None };
        Ok(Self {
            own,
            peer,
            timing,
            cookies,
            current: None,
            previous: None,
            attempt: None,
            open: VecDeque::new(),
            next_attempt: 0,
            busy: false,
            task: None,
            output: VecDeque::new(),
            events: VecDeque::new(),
            hellos: Steps::default(),
            steps: Steps::default(),
            unheard_since: None,
            unsaid_since: None,
            wake: 0,
        })
    }

    /// The identity that the neighbor must prove.
    pub fn peer(&self) -> Ed25519Key {
        self.peer
    }

    /// Whether packets can be sent.
    pub fn is_up(&self) -> bool {
        self.current.is_some()
    }

    /// When the keys that are in use were made, in microseconds.
    pub fn since(&self) -> Option<u64> {
        self.current.as_ref().map(|s| s.since)
    }

    /// When [`poll`](Self::poll) must be called at the latest.
    pub fn wake(&self) -> u64 {
        self.wake
    }

    /// Nothing waits in [`output`](Self::output), [`event`](Self::event) and [`task`](Self::task).
    pub fn is_quiet(&self) -> bool {
        self.output.is_empty() && self.events.is_empty() && self.task.is_none()
    }

    /// The next handshake frame to send.
    pub fn output(&mut self) -> Option<Vec<u8>> {
        self.output.pop_front()
    }

    /// The next thing that happened.
    pub fn event(&mut self) -> Option<LinkEvent> {
        self.events.pop_front()
    }

    /// Work to be done elsewhere; there is at most one at a time.
    pub fn task(&mut self) -> Option<Task> {
        self.task.take()
    }

    /// Writes the frame that carries `packet` to `out`; its length. `None` if the link is not up, or the frame does
    /// not fit.
    pub fn seal(&mut self, now: u64, packet: &[u8], out: &mut [u8]) -> Option<usize> {
        let session = self.current.as_mut()?;
        let len = session.seal(packet, out)?;
        if session.sent() == self.timing.rekey_frames {
            self.wake = now;
        }
        self.unsaid_since = None;
        self.unheard_since.get_or_insert(now);
        Some(len)
    }

    /// Takes an ANEP packet that came from the neighbor's address. What is sealed in it goes to `out`, which has
    /// room for as much.
    pub fn received(
        &mut self,
        now: u64,
        packet: &[u8],
        entropy: &dyn Entropy,
        out: &mut [u8],
    ) -> Result<Received, Refused> {
        let frame = Frame::parse(packet).map_err(|error| match error {
            Error::Type(_) => Refused::Unprotected,
            Error::Anep(_) | Error::Form => Refused::Malformed,
        })?;
        match frame {
            Frame::Sealed { receiver, counter, sealed } => self.sealed(now, receiver, counter, sealed, out),
            Frame::Hello { sender, cookie, noise } => self.hello(now, sender, &cookie, noise, entropy),
            Frame::Answer { receiver, sender, noise } => self.answer(now, receiver, sender, noise),
            Frame::Proof { receiver, noise } => self.proof(now, receiver, noise),
            Frame::Cookie { receiver, cookie } => self.cookie(receiver, cookie),
        }
    }

    /// Does what is due.
    pub fn poll(&mut self, now: u64, entropy: &dyn Entropy) {
        let timing = self.timing;
        self.open.retain(|o| now < o.since + timing.patience);
        self.previous.take_if(|(_, until)| now >= *until);
        let expired = self.current.as_ref().is_some_and(|s| now >= s.since + timing.expire_after);
        let silent = self.unheard_since.map_or(0, |since| now.saturating_sub(since) / timing.silence);
        if expired || silent >= 3 {
            self.down();
        }
        if self.unsaid_since.is_some_and(|since| now >= since + timing.keepalive) {
            self.say_hello_back();
        }
        if self.attempt.as_ref().is_some_and(|a| now >= a.since + timing.patience && !a.is_working()) {
            self.attempt = None;
        }
        let wanted = match &self.current {
            None => true,
            Some(session) => {
                let half = if session.initiator { 0 } else { timing.rekey_after / 2 };
                let old = now >= session.since + timing.rekey_after + half;
                old || session.sent() >= timing.rekey_frames || silent >= 1
            }
        };
        if wanted && self.attempt.is_none() && !self.busy && now >= self.next_attempt {
            self.begin(now, entropy);
        }
        self.repeat(now);
        self.plan(now);
    }

    fn sealed(
        &mut self,
        now: u64,
        receiver: u32,
        counter: u64,
        sealed: &[u8],
        out: &mut [u8],
    ) -> Result<Received, Refused> {
        let proving = match &mut self.attempt {
            Some(Attempt { stage: Stage::Proving(session, ..), .. }) => Some(session),
            _ => None,
        };
        let sessions = self.current.iter_mut().chain(self.previous.iter_mut().map(|(s, _)| s)).chain(proving);
        let session = sessions.into_iter().find(|s| s.own == receiver).ok_or(Refused::Stale)?;
        let len = session.open(counter, sealed, out)?;
        self.unheard_since = None;
        if self.attempt.as_ref().is_some_and(|a| a.index == receiver) {
            // The other end has the new keys.
            if let Some(Attempt { stage: Stage::Proving(session, ..), .. }) = self.attempt.take() {
                self.install(now, session);
            }
        }
        if len == 0 {
            return Ok(Received::Handled);
        }
        self.unsaid_since.get_or_insert(now);
        Ok(Received::Packet(len))
    }

    /// New keys: both ends have them.
    fn install(&mut self, now: u64, mut session: Box<Session>) {
        session.since = now;
        let Some(old) = self.current.take() else {
            self.tell(LinkEvent::Up(self.peer));
            self.unsaid_since = None;
            self.current = Some(session);
            self.wake = now;
            return;
        };
        let until = now + self.timing.overlap;
        if old.peer_key != session.peer_key {
            self.tell(LinkEvent::Down);
            self.tell(LinkEvent::Up(self.peer));
        } else {
            self.tell(LinkEvent::Renewed);
        }
        // Two handshakes at once: both ends keep to that which the lower identity began.
        let ours_first = self.own.public() < self.peer;
        let together = now < old.since + self.timing.overlap && old.peer_key == session.peer_key;
        let (keep, retire) = if together && old.initiator == ours_first && session.initiator != ours_first {
            (old, session)
        } else {
            (session, old)
        };
        self.current = Some(keep);
        self.previous = Some((retire, until));
        self.unheard_since = None;
        self.wake = now;
    }

    fn down(&mut self) {
        if self.current.take().is_some() {
            self.tell(LinkEvent::Down);
        }
        self.previous = None;
        self.unheard_since = None;
        self.unsaid_since = None;
    }

    /// An empty frame under the keys in use.
    fn say_hello_back(&mut self) {
        let Some(session) = &mut self.current else { return };
        let mut frame = vec![0; wire::link::OVERHEAD];
        if session.seal(&[], &mut frame).is_some() && self.output.len() < MAX_OUTPUT {
            self.unsaid_since = None;
            self.output.push_back(frame);
        }
    }

    fn tell(&mut self, event: LinkEvent) {
        if self.events.len() < MAX_EVENTS {
            self.events.push_back(event);
        }
    }

    /// Finds out when [`poll`](Self::poll) is wanted next.
    fn plan(&mut self, now: u64) {
        let timing = &self.timing;
        let attempt = match &self.attempt {
            Some(attempt) if attempt.is_working() => None,
            Some(attempt) => Some(attempt.next.min(attempt.since + timing.patience)),
            None if self.current.is_none() && !self.busy => Some(self.next_attempt),
            None => None,
        };
        // A link that is up is looked at every so often; what a packet changes needs no planning then.
        let up = self.current.as_ref().map(|_| now + timing.keepalive / 2);
        let previous = self.previous.as_ref().map(|(_, until)| *until);
        let open = self.open.front().map(|o| o.since + timing.patience);
        let next = [attempt, up, previous, open].into_iter().flatten().min();
        self.wake = next.map_or(u64::MAX, |at| at.max(now + 1));
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link(with {}, {})", self.peer, if self.is_up() { "up" } else { "down" })
    }
}

fn push(output: &mut VecDeque<Vec<u8>>, frame: &Frame<'_>) {
    if output.len() < MAX_OUTPUT {
        let mut bytes = vec![0; frame.len()];
        frame.emit(&mut bytes);
        output.push_back(bytes);
    }
}
