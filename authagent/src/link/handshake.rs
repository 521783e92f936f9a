//! The handshake of a protected link: what its frames and the results of its slow steps do.

use alloc::boxed::Box;

use sha2::{Digest, Sha256};
use snow::HandshakeState;
use wire::link::{ANSWER_NOISE, COOKIE_LEN, Frame, HELLO_NOISE, PROOF_NOISE};

use super::session::Session;
use super::task::{Finished, Outcome, Step, Task};
use super::{Link, LinkEvent, Received, Refused, push};
use crate::{Entropy, NoEntropy, Secret, draw};

/// Handshakes that a responder has open with one neighbor; the oldest gives way.
pub(super) const MAX_OPEN: usize = 4;
/// How often the lower identity repeats its hello before it answers the other end's.
const INSIST: u32 = 3;

/// A handshake that this end began.
pub(super) struct Attempt {
    pub(super) index: u32,
    pub(super) since: u64,
    pub(super) next: u64,
    pub(super) interval: u64,
    pub(super) sent: u32,
    pub(super) cookie: [u8; COOKIE_LEN],
    /// A cookie came since the hello was last sent on time.
    pub(super) hurried: bool,
    pub(super) hello: [u8; HELLO_NOISE],
    pub(super) stage: Stage,
}

pub(super) enum Stage {
    /// A step is under way.
    Working,
    /// The hello is out.
    Greeting(Box<HandshakeState>),
    /// The proof is out; the first sealed frame shows that it has arrived.
    Proving(Box<Session>, Box<[u8; PROOF_NOISE]>, u32),
}

/// A handshake that the other end began.
pub(super) struct Opened {
    pub(super) index: u32,
    pub(super) sender: u32,
    pub(super) since: u64,
    pub(super) hello: [u8; HELLO_NOISE],
    pub(super) answer: Option<Box<[u8; ANSWER_NOISE]>>,
    /// Nothing while a step is under way.
    pub(super) state: Option<Box<HandshakeState>>,
}

/// Counts steps that frames from outside caused in one second.
#[derive(Default)]
pub(super) struct Steps {
    second: u64,
    taken: u32,
}

impl Link {
    /// Takes the result of a [`Task`]. What was begun for another neighbor, who had this one's place before, is nothing
    /// to this link.
    pub fn finished(&mut self, now: u64, finished: Finished) -> Result<(), Refused> {
        let Finished { peer, index, outcome } = finished;
        if peer != self.peer.to_bytes() {
            return Ok(());
        }
        self.busy = false;
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

    pub(super) fn hello(
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

    pub(super) fn answer(
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

    pub(super) fn proof(
        &mut self,
        now: u64,
        receiver: u32,
        proof: &[u8; PROOF_NOISE],
    ) -> Result<Received, Refused> {
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

    pub(super) fn cookie(&mut self, receiver: u32, cookie: [u8; COOKIE_LEN]) -> Result<Received, Refused> {
        let attempt = self.attempt.as_mut().filter(|a| a.index == receiver).ok_or(Refused::Stale)?;
        attempt.cookie = cookie;
        // Once in each interval: nobody makes this end send more than it would anyway, but for one.
        if !core::mem::replace(&mut attempt.hurried, true) && matches!(attempt.stage, Stage::Greeting(_)) {
            let hello = attempt.hello_frame();
            push(&mut self.output, &hello);
        }
        Ok(Received::Handled)
    }

    pub(super) fn begin(&mut self, now: u64, entropy: &dyn Entropy) {
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
    pub(super) fn repeat(&mut self, now: u64) {
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
}

impl Attempt {
    pub(super) fn is_working(&self) -> bool {
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

/// What a hello with this index must have in it, to show that its sender reads what is sent to the neighbor.
/// Secret and message have a fixed length, so that the hash is as good as a keyed one.
fn cookie_of(secret: &Secret, period: u64, sender: u32) -> [u8; COOKIE_LEN] {
    let hash = Sha256::new().chain_update(secret).chain_update(period.to_be_bytes());
    let hash: [u8; 32] = hash.chain_update(sender.to_be_bytes()).finalize().into();
    *hash.first_chunk().expect("a hash is longer than a cookie")
}
