//! Who waits for which piece: neighbors that asked for it, and requests of programs here.

use crate::format::Asked;

/// Pieces that are waited for at once.
const MAX_PENDING: usize = 128;
/// Neighbors that wait for the same piece.
pub const MAX_ASKERS: usize = 4;
/// A get is not waited for longer than this, in microseconds: who wants the piece asks again.
const LASTS: u64 = 30_000_000;
/// What somebody asked for so lately is not asked for again for somebody else, in microseconds.
const FRESH: u64 = 500_000;

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    /// A program here.
    Here,
    /// A neighbor.
    Neighbor(u32),
}

/// Who waits, for one piece.
#[derive(Debug, Clone, Copy)]
pub struct Waiting {
    asked: Asked,
    /// When it was asked for last; 0: nobody waits.
    at: u64,
    /// The neighbor that was asked; 0: the program of this gateway.
    via: u32,
    here: bool,
    neighbors: [u32; MAX_ASKERS],
}

/// All of them.
pub struct Pending([Waiting; MAX_PENDING]);

const NOBODY: Waiting = Waiting {
    asked: Asked { key: [0; 16], version: 0, nonce: 0, index: 0 },
    at: 0,
    via: 0,
    here: false,
    neighbors: [0; MAX_ASKERS],
};

impl Waiting {
    /// Whether a program here waits.
    pub fn here(&self) -> bool {
        self.here
    }

    /// The neighbors that wait.
    pub fn neighbors(&self) -> impl Iterator<Item = u32> {
        self.neighbors.into_iter().filter(|n| *n != 0)
    }

    /// Notes who asks; whether it did before.
    fn add(&mut self, asker: Asker) -> Option<bool> {
        match asker {
            Asker::Here => Some(core::mem::replace(&mut self.here, true)),
            Asker::Neighbor(n) if self.neighbors.contains(&n) => Some(true),
            Asker::Neighbor(n) => {
                *self.neighbors.iter_mut().find(|free| **free == 0)? = n;
                Some(false)
            }
        }
    }
}

impl Pending {
    pub const fn new() -> Self {
        Self([NOBODY; MAX_PENDING])
    }

    /// Somebody asks for a piece that this node lacks; whether `via` is to be asked: yes, unless it was just now for somebody
    /// else.
    pub fn ask(&mut self, asked: Asked, asker: Asker, via: u32, now: u64) -> bool {
        let now = now.max(1);
        let known = self.0.iter().position(|w| w.at != 0 && w.asked == asked);
        let at = known.or_else(|| self.0.iter().position(|w| w.at == 0 || w.at + LASTS < now));
        // Who was waited for longest without an answer gives way.
        let oldest = || (0..MAX_PENDING).min_by_key(|at| self.0[*at].at).unwrap_or(0);
        let waiting = match at.unwrap_or_else(oldest) {
            at if known.is_some() && self.0[at].at + LASTS >= now => &mut self.0[at],
            at => {
                self.0[at] = Waiting { asked, ..NOBODY };
                &mut self.0[at]
            }
        };
        let Some(again) = waiting.add(asker) else { return false };
        let ask = again || waiting.via != via || waiting.at + FRESH < now;
        if ask {
            (waiting.at, waiting.via) = (now, via);
        }
        ask
    }

    /// A piece has come from `via`: who waits for it, if anybody does. They wait no more.
    pub fn answered(&mut self, asked: &Asked, via: u32, now: u64) -> Option<Waiting> {
        let wanted = |w: &&mut Waiting| w.at != 0 && w.asked == *asked && w.via == via && w.at + LASTS >= now;
        self.0.iter_mut().find(wanted).map(|waiting| core::mem::replace(waiting, NOBODY))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(index: u16) -> Asked {
        Asked { key: [1; 16], version: 7, nonce: 0, index }
    }

    #[test]
    fn one_get_is_sent_for_all_who_ask_at_once() {
        let mut pending = Pending::new();
        assert!(pending.ask(piece(0), Asker::Neighbor(1), 9, 0));
        assert!(!pending.ask(piece(0), Asker::Neighbor(2), 9, 1000));
        assert!(!pending.ask(piece(0), Asker::Here, 9, 1000));
        assert!(pending.ask(piece(0), Asker::Neighbor(2), 9, 2000), "it asks again: something was lost");
        assert!(pending.ask(piece(0), Asker::Neighbor(3), 9, 600_000), "a while later");
        assert!(pending.ask(piece(0), Asker::Neighbor(4), 8, 600_001), "another way");
        assert!(!pending.ask(piece(0), Asker::Neighbor(5), 8, 600_002), "there is no room for a fifth");
        assert!(pending.answered(&piece(0), 9, 600_003).is_none(), "nobody asked there");
        assert!(pending.answered(&piece(1), 8, 600_003).is_none());
        let waiting = pending.answered(&piece(0), 8, 600_003).unwrap();
        assert_eq!((waiting.here(), waiting.neighbors().collect::<Vec<_>>()), (true, vec![1, 2, 3, 4]));
        assert!(pending.answered(&piece(0), 8, 600_004).is_none(), "once");
    }

    #[test]
    fn the_oldest_gives_way() {
        let mut pending = Pending::new();
        for index in 0..200 {
            assert!(pending.ask(piece(index), Asker::Here, 9, u64::from(index)));
        }
        let left = (0..200).filter(|i| pending.answered(&piece(*i), 9, 200).is_some()).count();
        assert_eq!(left, MAX_PENDING);
        pending.ask(piece(0), Asker::Here, 9, 300);
        assert!(pending.answered(&piece(0), 9, 301 + LASTS).is_none(), "nobody waits so long");
    }
}
