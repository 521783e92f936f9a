//! Questions to a previous hop about capsule identifiers that nobody here knows, the capsules that wait for
//! an answer, and what was refused a short while ago.
//!
//! Everything that waits is charged to the account of the neighbor it came from (D9), and the number
//! of open questions and of remembered refusals is bounded.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use nodeos::account::Charge;
use nodeos::buf::Buf;
use nodeos::platform::Instant;
use wire::id::CapsuleId;

use crate::neighbor::NeighborId;

/// Open questions at a time.
pub const MAX_OPEN: usize = 256;
/// Open questions at a time because of one neighbor: its inventions leave the others room.
pub const MAX_OPEN_EACH: usize = 16;
/// Capsules that wait for one identifier or flow.
pub const MAX_WAITING: usize = 32;
/// Questions sent before the previous hop is given up, which is after some three seconds: so many that
/// a link which loses every fifth question or answer does not make a node look gone.
pub const MAX_TRIES: u32 = 10;
/// How long a refusal is remembered.
pub const REFUSED_FOR: Duration = Duration::from_secs(2);
/// Refusals remembered at a time.
pub const MAX_REFUSED: usize = 256;
/// Questions to the first neighbor before others that sent such capsules have their turns.
const PATIENCE: u32 = 3;
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_millis(400);

/// A capsule that waits for its flow, with the charge for its buffer.
#[derive(Debug)]
pub struct Waiting {
    /// Where it came from.
    pub from: NeighborId,
    /// Its identifier.
    pub id: CapsuleId,
    /// The payload; the headers are headroom.
    pub payload: Buf,
    /// What the neighbor's account pays for it.
    pub charge: Charge,
}

/// A question to a previous hop.
#[derive(Debug)]
pub struct Question {
    /// Whom it is asked: the neighbors that sent such capsules, one after the other.
    pub neighbor: NeighborId,
    /// Marks the answer.
    pub nonce: u32,
    /// When it was first asked.
    pub since: Instant,
    /// Capsules that wait for it, in the order of their arrival.
    pub waiting: Vec<Waiting>,
    tries: u32,
    /// Questions that may still be sent: what came pays for them.
    paid: u32,
    again: Instant,
}

/// The open questions and the refusals.
#[derive(Debug, Default)]
pub struct Questions {
    open: HashMap<CapsuleId, Question>,
    refused: VecDeque<(Instant, CapsuleId)>,
}

/// What to do with an unknown capsule.
#[derive(Debug, PartialEq, Eq)]
pub enum Asked {
    /// Ask this neighbor, with this nonce.
    Ask(NeighborId, u32),
    /// The question is open already; the capsule waits.
    Waits,
    /// The identifier was refused a short while ago.
    Refused,
    /// There is no room for it.
    NoRoom,
}

impl Questions {
    /// Takes an unknown capsule that pays for so many questions, the first of them at least.
    pub fn unknown(&mut self, now: Instant, capsule: Waiting, nonce: u32, paid: u32) -> Asked {
        if self.is_refused(now, &capsule.id) {
            return Asked::Refused;
        }
        if let Some(question) = self.open.get_mut(&capsule.id) {
            if question.waiting.len() >= MAX_WAITING {
                return Asked::NoRoom;
            }
            question.waiting.push(capsule);
            question.paid = question.paid.saturating_add(paid);
            return Asked::Waits;
        }
        let each = self.open.values().filter(|q| q.neighbor == capsule.from).count();
        if self.open.len() >= MAX_OPEN || each >= MAX_OPEN_EACH {
            return Asked::NoRoom;
        }
        let (id, neighbor) = (capsule.id, capsule.from);
        let question = Question {
            neighbor,
            nonce,
            since: now,
            waiting: vec![capsule],
            tries: 1,
            paid: paid.saturating_sub(1),
            again: now + FIRST_WAIT,
        };
        self.open.insert(id, question);
        Asked::Ask(neighbor, nonce)
    }

    /// Whether the identifier was refused a short while ago.
    pub fn is_refused(&mut self, now: Instant, id: &CapsuleId) -> bool {
        while self.refused.front().is_some_and(|(until, _)| *until <= now) {
            self.refused.pop_front();
        }
        self.refused.iter().any(|(until, refused)| now < *until && refused == id)
    }

    /// Remembers that the identifier is not wanted for a while.
    pub fn refuse(&mut self, now: Instant, id: CapsuleId) {
        self.refuse_until(now + REFUSED_FOR, id);
    }

    /// Remembers that the identifier is not wanted until then, or until [`MAX_REFUSED`] others are not either.
    pub fn refuse_until(&mut self, until: Instant, id: CapsuleId) {
        if self.refused.len() == MAX_REFUSED {
            self.refused.pop_front();
        }
        self.refused.push_back((until, id));
    }

    /// An answer arrived: takes the question out if it was asked of this neighbor.
    pub fn answered(&mut self, from: NeighborId, id: &CapsuleId, nonce: u32) -> Option<Question> {
        let asked = |q: &Question| q.nonce == nonce && q.waiting.iter().any(|w| w.from == from);
        if self.open.get(id).is_some_and(asked) { self.open.remove(id) } else { None }
    }

    /// The next question that must be asked again, or has been given up (`Err`, with what waited).
    pub fn due(&mut self, now: Instant) -> Option<Result<(CapsuleId, NeighborId, u32), Question>> {
        loop {
            // Ordered by time and identifier, so that two runs of the simulator agree.
            let (&id, _) =
                self.open.iter().filter(|(_, q)| q.again <= now).min_by_key(|(id, q)| (q.again, **id))?;
            let question = self.open.get_mut(&id)?;
            if question.tries >= MAX_TRIES {
                return self.open.remove(&id).map(Err);
            }
            question.again = now + (FIRST_WAIT * 2u32.pow(question.tries)).min(LONGEST_WAIT);
            question.tries += 1;
            if question.tries > PATIENCE {
                question.ask_another();
            }
            if let Some(left) = question.paid.checked_sub(1) {
                question.paid = left;
                return Some(Ok((id, question.neighbor, question.nonce)));
            }
        }
    }

    /// When [`due`](Self::due) must be called at the latest.
    pub fn deadline(&self) -> Option<Instant> {
        self.open.values().map(|q| q.again).min()
    }
}

impl Question {
    /// Goes on to the next neighbor that sent such a capsule.
    fn ask_another(&mut self) {
        let after = self.waiting.iter().rposition(|w| w.from == self.neighbor).map_or(0, |at| at + 1);
        let next = self.waiting[after..].iter().chain(&self.waiting).find(|w| w.from != self.neighbor);
        self.neighbor = next.map_or(self.neighbor, |w| w.from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nodeos::account::Account;
    use nodeos::buf::BufPool;

    fn capsule(pool: &BufPool, account: &Account, id: u8) -> Waiting {
        Waiting {
            from: NeighborId(1),
            id: CapsuleId([id; 16]),
            payload: pool.take().unwrap(),
            charge: account.charge(2048).unwrap(),
        }
    }

    #[test]
    fn one_question_for_many_capsules() {
        let (pool, account) = (BufPool::new(100), Account::root(1 << 20));
        let mut q = Questions::default();
        assert_eq!(
            q.unknown(Instant::ZERO, capsule(&pool, &account, 1), 5, u32::MAX),
            Asked::Ask(NeighborId(1), 5)
        );
        for _ in 1..MAX_WAITING {
            assert_eq!(q.unknown(Instant::ZERO, capsule(&pool, &account, 1), 6, u32::MAX), Asked::Waits);
        }
        assert_eq!(q.unknown(Instant::ZERO, capsule(&pool, &account, 1), 7, u32::MAX), Asked::NoRoom);
        let id = CapsuleId([1; 16]);
        assert!(q.answered(NeighborId(2), &id, 5).is_none());
        assert!(q.answered(NeighborId(1), &id, 6).is_none());
        assert_eq!(q.answered(NeighborId(1), &id, 5).unwrap().waiting.len(), MAX_WAITING);
        assert_eq!((pool.lent(), account.used()), (0, 0));
    }

    #[test]
    fn a_silent_hop_is_given_up_and_nothing_is_kept() {
        let (pool, account) = (BufPool::new(10), Account::root(1 << 20));
        let mut q = Questions::default();
        q.unknown(Instant::ZERO, capsule(&pool, &account, 1), 5, u32::MAX);
        let mut asked = 1;
        let gave_up = loop {
            let now = q.deadline().unwrap();
            match q.due(now).unwrap() {
                Ok(_) => asked += 1,
                Err(question) => break question,
            }
        };
        assert_eq!(asked, MAX_TRIES);
        assert_eq!(gave_up.waiting.len(), 1);
        assert_eq!(q.deadline(), None);
        drop(gave_up);
        assert_eq!((pool.lent(), account.used()), (0, 0));
    }

    #[test]
    fn a_silent_hop_is_not_the_only_one_that_is_asked() {
        let (pool, account) = (BufPool::new(10), Account::root(1 << 20));
        let mut q = Questions::default();
        for from in [1, 1, 2, 3] {
            let capsule = Waiting { from: NeighborId(from), ..capsule(&pool, &account, 1) };
            q.unknown(Instant::ZERO, capsule, 5, u32::MAX);
        }
        let mut asked = vec![];
        let gave_up = loop {
            let now = q.deadline().unwrap();
            match q.due(now).unwrap() {
                Ok((_, neighbor, nonce)) => asked.push((neighbor.0, nonce)),
                Err(question) => break question,
            }
        };
        assert_eq!(asked, [1, 1, 2, 3, 1, 2, 3, 1, 2].map(|n| (n, 5)));
        assert_eq!(gave_up.waiting.len(), 4);
    }

    #[test]
    fn no_more_is_asked_than_was_paid_for() {
        let (pool, account) = (BufPool::new(10), Account::root(1 << 20));
        let mut q = Questions::default();
        let mut now = Instant::ZERO;
        q.unknown(now, capsule(&pool, &account, 1), 5, 1);
        while now < Instant(1_000_000) {
            now = q.deadline().unwrap();
            assert!(q.due(now).is_none());
        }
        // Another capsule pays for another question.
        assert_eq!(q.unknown(now, capsule(&pool, &account, 1), 6, 1), Asked::Waits);
        let mut asked = 0;
        let gave_up = loop {
            now = q.deadline().unwrap();
            match q.due(now) {
                Some(Ok(again)) => asked += usize::from(again == (CapsuleId([1; 16]), NeighborId(1), 5)),
                Some(Err(question)) => break question,
                None => {}
            }
        };
        assert_eq!((asked, gave_up.waiting.len()), (1, 2));
    }

    #[test]
    fn refusals_lapse_and_are_bounded() {
        let mut q = Questions::default();
        for i in 0..=MAX_REFUSED {
            q.refuse(Instant::ZERO, CapsuleId((i as u128).to_be_bytes()));
        }
        assert!(!q.is_refused(Instant::ZERO, &CapsuleId([0; 16])));
        assert!(q.is_refused(Instant::ZERO, &CapsuleId(1u128.to_be_bytes())));
        assert!(!q.is_refused(Instant::ZERO + REFUSED_FOR, &CapsuleId(1u128.to_be_bytes())));
    }
}
