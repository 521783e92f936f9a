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

mod session;
mod task;
#[cfg(test)]
mod tests;

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use sha2::{Digest, Sha256};
use snow::HandshakeState;
use wire::control::Erred;
use wire::link::{ANSWER_NOISE, COOKIE_LEN, Error, Frame, HELLO_NOISE, PROOF_NOISE};

use crate::keys::{Ed25519Key, NodeIdentity};
use crate::{Entropy, NoEntropy, Secret, draw};
use session::Session;
pub use task::{Finished, Task};
use task::{Outcome, Step};

/// Handshakes that a responder has open with one neighbor; the oldest gives way.
const MAX_OPEN: usize = 4;
/// How often the lower identity repeats its hello before it answers the other end's.
const INSIST: u32 = 3;
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

/// Something happened to a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkEvent {
    /// The neighbor proved this identity: packets can be sent.
    Up(Ed25519Key),
    /// The neighbor is gone, or started anew.
    Down,
    /// New keys replaced old ones.
    Renewed,
    /// There are no random bytes for a handshake.
    NoEntropy,
}

/// What a received frame was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// A packet of so many bytes, which are in the caller's buffer.
    Packet(usize),
    /// Part of a handshake, or a sign of life.
    Handled,
}

/// Why a frame was refused. The peer erred unless [`Self::erred`] says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// A frame that is not protected, on a link that is.
    Unprotected,
    /// Not a frame.
    Malformed,
    /// Not sealed by the neighbor, or changed on the way.
    Forged,
    /// Heard before, or too old to tell.
    Replayed,
    /// For keys or a handshake that this end does not have (any more).
    Stale,
    /// The neighbor proved to be somebody else, or its handshake message is wrong.
    Handshake,
    /// More handshake messages than are looked at in a second.
    Limited,
    /// There are no random bytes for a handshake.
    Entropy,
}

impl Refused {
    /// Who is to blame.
    pub fn erred(&self) -> Erred {
        if *self == Self::Entropy { Erred::Node } else { Erred::Peer }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unprotected => "sent an unprotected frame on a protected link",
            Self::Malformed => "sent a malformed frame on a protected link",
            Self::Forged => "sent a frame that the neighbor did not seal",
            Self::Replayed => "sent a frame again, or far too late",
            Self::Stale => "sent a frame under keys that are not known here",
            Self::Handshake => "did not prove that it is the neighbor",
            Self::Limited => "sends too many handshake messages",
            Self::Entropy => "no healthy source of random bytes",
        })
    }
}

impl core::error::Error for Refused {}

impl From<NoEntropy> for Refused {
    fn from(_: NoEntropy) -> Self {
        Self::Entropy
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

/// A handshake that this end began.
struct Attempt {
    index: u32,
    since: u64,
    next: u64,
    interval: u64,
    sent: u32,
    cookie: [u8; COOKIE_LEN],
    /// A cookie came since the hello was last sent on time.
    hurried: bool,
    hello: [u8; HELLO_NOISE],
    stage: Stage,
}

enum Stage {
    /// A step is under way.
    Working,
    /// The hello is out.
    Greeting(Box<HandshakeState>),
    /// The proof is out; the first sealed frame shows that it has arrived.
    Proving(Box<Session>, Box<[u8; PROOF_NOISE]>, u32),
}

/// A handshake that the other end began.
struct Opened {
    index: u32,
    sender: u32,
    since: u64,
    hello: [u8; HELLO_NOISE],
    answer: Option<Box<[u8; ANSWER_NOISE]>>,
    /// Nothing while a step is under way.
    state: Option<Box<HandshakeState>>,
}

/// Counts steps that frames from outside caused in one second.
#[derive(Default)]
struct Steps {
    second: u64,
    taken: u32,
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

    /// Takes the result of a [`Task`].
    pub fn finished(&mut self, now: u64, finished: Finished) -> Result<(), Refused> {
        self.busy = false;
        let Finished { index, outcome } = finished;
        let result = match outcome {
            Outcome::Begun(state, hello) => {
                if let Some(attempt) = self.attempt.as_mut().filter(|a| a.index == index) {
                    attempt.hello = hello;
                    attempt.stage = Stage::Greeting(state);
                    attempt.next = now;
                }
                Ok(())
            }
            Outcome::Answered(state, answer) => {
                if let Some(open) = self.open.iter_mut().find(|o| o.index == index) {
                    let frame = Frame::Answer { receiver: open.sender, sender: index, noise: &answer };
                    push(&mut self.output, &frame);
                    open.answer = Some(Box::new(answer));
                    open.state = Some(state);
                }
                Ok(())
            }
            Outcome::Concluded(session, proof) => {
                if let Some(attempt) = self.attempt.as_mut().filter(|a| a.index == index) {
                    let peer = session.peer();
                    attempt.stage = Stage::Proving(session, Box::new(proof), peer);
                    attempt.interval = self.timing.first_retry;
                    attempt.next = now;
                }
                Ok(())
            }
            Outcome::Accepted(session) => {
                self.open.retain(|o| o.index != index);
                self.install(now, session);
                // The other end began, so what this end still wants to begin is not needed.
                if self.attempt.as_ref().is_some_and(|a| !matches!(a.stage, Stage::Proving(..))) {
                    self.attempt = None;
                }
                self.say_hello_back();
                Ok(())
            }
            Outcome::Again(state) => {
                self.put_back(index, state);
                Err(Refused::Handshake)
            }
            Outcome::WrongPeer | Outcome::Failed => {
                self.open.retain(|o| o.index != index);
                if self.attempt.as_ref().is_some_and(|a| a.index == index) {
                    self.attempt = None;
                    self.next_attempt = now + self.timing.last_retry;
                }
                Err(Refused::Handshake)
            }
        };
        self.wake = now;
        result
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

    fn hello(
        &mut self,
        now: u64,
        sender: u32,
        cookie: &[u8; COOKIE_LEN],
        hello: &[u8; HELLO_NOISE],
        entropy: &dyn Entropy,
    ) -> Result<Received, Refused> {
        if let Some(secret) = &self.cookies {
            let period = now / self.timing.patience;
            let right = |period| cookie_of(secret, period, sender) == *cookie;
            if !right(period) && !period.checked_sub(1).is_some_and(right) {
                let cookie = cookie_of(secret, period, sender);
                push(&mut self.output, &Frame::Cookie { receiver: sender, cookie });
                return Ok(Received::Handled);
            }
        }
        if let Some(open) = self.open.iter().find(|o| o.sender == sender && o.hello == *hello) {
            if let Some(answer) = &open.answer {
                push(
                    &mut self.output,
                    &Frame::Answer { receiver: sender, sender: open.index, noise: answer },
                );
            }
            return Ok(Received::Handled);
        }
        if let Some(attempt) = self.attempt.as_mut().filter(|a| !matches!(a.stage, Stage::Proving(..))) {
            if self.own.public() > self.peer {
                attempt.next = attempt.next.max(now + self.timing.first_retry * 10);
            } else if attempt.sent <= INSIST {
                return Ok(Received::Handled);
            }
        }
        if self.busy {
            // It comes again.
            return Ok(Received::Handled);
        }
        self.hellos.take(now, self.timing.per_second)?;
        let (index, ephemeral) = (self.new_index(entropy)?, draw(entropy)?);
        if self.open.len() == MAX_OPEN {
            self.open.pop_front();
        }
        self.open.push_back(Opened { index, sender, since: now, hello: *hello, answer: None, state: None });
        self.work(index, Step::Answer { ephemeral, hello: *hello });
        self.wake = self.wake.min(now + self.timing.patience);
        Ok(Received::Handled)
    }

    fn answer(
        &mut self,
        now: u64,
        receiver: u32,
        sender: u32,
        answer: &[u8; ANSWER_NOISE],
    ) -> Result<Received, Refused> {
        let attempt = self.attempt.as_mut().filter(|a| a.index == receiver).ok_or(Refused::Stale)?;
        if !matches!(attempt.stage, Stage::Greeting(_)) || self.busy {
            // A repetition, or it will come again.
            return Ok(Received::Handled);
        }
        self.steps.take(now, self.timing.per_second)?;
        if let Stage::Greeting(state) = core::mem::replace(&mut attempt.stage, Stage::Working) {
            self.work(receiver, Step::Conclude { state, answer: *answer, sender });
        }
        Ok(Received::Handled)
    }

    fn proof(&mut self, now: u64, receiver: u32, proof: &[u8; PROOF_NOISE]) -> Result<Received, Refused> {
        if self.current.as_ref().is_some_and(|s| s.own == receiver && !s.initiator) {
            // The other end does not know yet that its proof has arrived.
            self.say_hello_back();
            return Ok(Received::Handled);
        }
        let open = self.open.iter_mut().find(|o| o.index == receiver).ok_or(Refused::Stale)?;
        if self.busy || open.state.is_none() {
            return Ok(Received::Handled);
        }
        self.steps.take(now, self.timing.per_second)?;
        let sender = open.sender;
        if let Some(state) = open.state.take() {
            self.work(receiver, Step::Accept { state, proof: *proof, sender });
        }
        Ok(Received::Handled)
    }

    fn cookie(&mut self, receiver: u32, cookie: [u8; COOKIE_LEN]) -> Result<Received, Refused> {
        let attempt = self.attempt.as_mut().filter(|a| a.index == receiver).ok_or(Refused::Stale)?;
        attempt.cookie = cookie;
        // Once in each interval: nobody makes this end send more than it would anyway, but for one.
        if !core::mem::replace(&mut attempt.hurried, true) && matches!(attempt.stage, Stage::Greeting(_)) {
            let hello = attempt.hello_frame();
            push(&mut self.output, &hello);
        }
        Ok(Received::Handled)
    }

    fn begin(&mut self, now: u64, entropy: &dyn Entropy) {
        let drawn = self.new_index(entropy).and_then(|index| Ok((index, draw(entropy)?)));
        let Ok((index, ephemeral)) = drawn else {
            self.next_attempt = now + self.timing.last_retry;
            return self.tell(LinkEvent::NoEntropy);
        };
        self.attempt = Some(Attempt {
            index,
            since: now,
            next: u64::MAX,
            interval: self.timing.first_retry,
            sent: 0,
            cookie: [0; COOKIE_LEN],
            hurried: false,
            hello: [0; HELLO_NOISE],
            stage: Stage::Working,
        });
        self.work(index, Step::Begin { ephemeral });
    }

    /// Sends again what was not answered.
    fn repeat(&mut self, now: u64) {
        let Some(attempt) = self.attempt.as_mut().filter(|a| now >= a.next) else { return };
        match &attempt.stage {
            Stage::Working => return,
            Stage::Greeting(_) => push(&mut self.output, &attempt.hello_frame()),
            Stage::Proving(_, proof, peer) => {
                push(&mut self.output, &Frame::Proof { receiver: *peer, noise: proof });
            }
        }
        attempt.sent += 1;
        attempt.hurried = false;
        // A little different each time, so that two ends do not keep step.
        let spread = attempt.interval / 1024 * u64::from(attempt.index >> attempt.sent.min(24) & 0xff);
        attempt.next = now + attempt.interval + spread;
        attempt.interval = (2 * attempt.interval).min(self.timing.last_retry);
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

    /// A handshake goes on waiting.
    fn put_back(&mut self, index: u32, state: Box<HandshakeState>) {
        if let Some(attempt) = self.attempt.as_mut().filter(|a| a.index == index) {
            attempt.stage = Stage::Greeting(state);
        } else if let Some(open) = self.open.iter_mut().find(|o| o.index == index) {
            open.state = Some(state);
        }
    }

    fn work(&mut self, index: u32, step: Step) {
        self.busy = true;
        self.task = Some(Task { own: self.own.clone(), peer: self.peer, index, step });
    }

    fn new_index(&self, entropy: &dyn Entropy) -> Result<u32, NoEntropy> {
        let mut bytes = [0; 4];
        entropy.fill(&mut bytes)?;
        let mut index = u32::from_be_bytes(bytes);
        while self.knows(index) {
            index = index.wrapping_add(1);
        }
        Ok(index)
    }

    fn knows(&self, index: u32) -> bool {
        self.current.as_ref().is_some_and(|s| s.own == index)
            || self.previous.as_ref().is_some_and(|(s, _)| s.own == index)
            || self.attempt.as_ref().is_some_and(|a| a.index == index)
            || self.open.iter().any(|o| o.index == index)
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

impl Attempt {
    fn is_working(&self) -> bool {
        matches!(self.stage, Stage::Working)
    }

    fn hello_frame(&self) -> Frame<'_> {
        Frame::Hello { sender: self.index, cookie: self.cookie, noise: &self.hello }
    }
}

impl Steps {
    fn take(&mut self, now: u64, most: u32) -> Result<(), Refused> {
        let second = now / 1_000_000;
        if second != self.second {
            *self = Self { second, taken: 0 };
        }
        if self.taken >= most {
            return Err(Refused::Limited);
        }
        self.taken += 1;
        Ok(())
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link(with {}, {})", self.peer, if self.is_up() { "up" } else { "down" })
    }
}

/// What a hello with this index must have in it, to show that its sender reads what is sent to the neighbor.
/// Secret and message have a fixed length, so that the hash is as good as a keyed one.
fn cookie_of(secret: &Secret, period: u64, sender: u32) -> [u8; COOKIE_LEN] {
    let hash = Sha256::new().chain_update(secret).chain_update(period.to_be_bytes());
    let hash: [u8; 32] = hash.chain_update(sender.to_be_bytes()).finalize().into();
    *hash.first_chunk().expect("a hash is longer than a cookie")
}

fn push(output: &mut VecDeque<Vec<u8>>, frame: &Frame<'_>) {
    if output.len() < MAX_OUTPUT {
        let mut bytes = vec![0; frame.len()];
        frame.emit(&mut bytes);
        output.push_back(bytes);
    }
}
