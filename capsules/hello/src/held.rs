//! Answers of other nodes that went through this one. They are kept until the origin has them: each new
//! round's filter tells, and what it lacks goes again, from every node on the way that holds it. So an answer
//! comes closer with each round, whatever is lost.

use crate::format::Entry;

/// Answers that a node holds; more than that, and the nodes farther down must send again.
pub const MAX_HELD: usize = 144;

/// The answers.
pub struct Held {
    slots: [Slot; MAX_HELD],
    next: u8,
}

/// One answer.
#[derive(Clone, Copy)]
pub struct Slot {
    run: u64,
    /// The node that answered.
    pub id: u64,
    /// The round in which it was last passed on.
    pub round: u16,
    /// How many neighbors that node had heard.
    pub heard: u8,
    /// Whether the origin has it, as far as the last filter said.
    pub acknowledged: bool,
    len: u8,
    bytes: [u8; Entry::MAX],
}

impl Held {
    pub const fn new() -> Self {
        let empty =
            Slot { run: 0, id: 0, round: 0, heard: 0, acknowledged: false, len: 0, bytes: [0; Entry::MAX] };
        Self { slots: [empty; MAX_HELD], next: 0 }
    }

    /// The answers of one search.
    pub fn of(&mut self, run: u64) -> impl Iterator<Item = &mut Slot> {
        self.slots.iter_mut().filter(move |s| s.run == run)
    }

    /// Keeps an answer; `false` if it, or a newer one of that node, was already passed on in this round.
    pub fn keep(&mut self, run: u64, round: u16, entry: &Entry<'_>) -> bool {
        let id = entry.id();
        let known = self.slots.iter().position(|s| s.run == run && s.id == id);
        if let Some(at) = known {
            let s = &self.slots[at];
            if s.round == round && s.heard >= entry.heard {
                return false;
            }
        }
        let at = known.unwrap_or_else(|| self.room());
        let slot = &mut self.slots[at];
        if known.is_none() || entry.heard >= slot.heard {
            let mut buffer = [0; Entry::MAX];
            let bytes = entry.pack(&mut buffer);
            slot.bytes[..bytes.len()].copy_from_slice(bytes);
            slot.len = bytes.len() as u8;
            slot.heard = entry.heard;
            slot.acknowledged = false;
        }
        (slot.run, slot.id, slot.round) = (run, id, round);
        true
    }

    /// A slot that is free, else one that the origin has, else the next in turn.
    fn room(&mut self) -> usize {
        let slots = &self.slots;
        let free = slots.iter().position(|s| s.run == 0);
        free.or_else(|| slots.iter().position(|s| s.acknowledged)).unwrap_or_else(|| {
            let at = usize::from(self.next) % MAX_HELD;
            self.next = (at + 1) as u8;
            at
        })
    }
}

impl Slot {
    /// The answer as it is sent.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}
