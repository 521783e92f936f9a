//! A node's part in a search: where the flood came from, in which round, and which neighbors it has heard.

use bees_sdk::{Neighbor, Neighborhood, node};

use crate::format::{Entry, Flood, MAX_NAME};

/// Searches that a node takes part in at once; a new one takes the place of the one longest silent.
pub const MAX_RUNS: usize = 4;
/// Neighbors that a node keeps apart.
pub const MAX_NEIGHBORS: usize = 64;

/// The searches that this node knows.
pub struct Runs {
    runs: [Run; MAX_RUNS],
    clock: u32,
}

/// One search.
#[derive(Clone, Copy)]
pub struct Run {
    /// Its number; 0: none.
    pub id: u64,
    /// The newest round seen here.
    pub round: u16,
    /// This node's hops from the origin, in that round.
    pub hops: u8,
    limit: u8,
    parent: u32,
    used: u32,
    heard: [(u32, u64); MAX_NEIGHBORS],
    heard_len: u8,
}

/// A node's own answer: its number, what it counts, and its bytes.
pub struct Own<'a> {
    pub id: u64,
    pub heard: u8,
    pub bytes: &'a [u8],
}

impl Runs {
    pub const fn new() -> Self {
        Self { runs: [Run::NONE; MAX_RUNS], clock: 0 }
    }

    /// The search of this number.
    pub fn get(&self, id: u64) -> Option<&Run> {
        self.runs.iter().find(|r| r.id == id && id != 0)
    }

    fn get_or_add(&mut self, id: u64) -> &mut Run {
        self.clock += 1;
        let at = self.runs.iter().position(|r| r.id == id).unwrap_or_else(|| {
            let oldest = (0..MAX_RUNS).min_by_key(|i| self.runs[*i].used).unwrap_or(0);
            self.runs[oldest] = Run { id, ..Run::NONE };
            oldest
        });
        self.runs[at].used = self.clock;
        &mut self.runs[at]
    }

    /// This node begins a round of its own search.
    pub fn begin(&mut self, flood: &Flood) {
        let run = self.get_or_add(flood.run);
        (run.round, run.hops, run.limit) = (flood.round, 0, flood.limit);
    }

    /// A flood came from a neighbor; whether its round is new here.
    pub fn enter(&mut self, flood: &Flood, from: Neighbor) -> bool {
        // From a node at the limit it is only a sign of life.
        if flood.hops >= flood.limit && self.get(flood.run).is_none() {
            return false;
        }
        let run = self.get_or_add(flood.run);
        run.hear(from, flood.sender);
        let new = flood.hops < flood.limit && flood.round > run.round;
        if new {
            (run.round, run.hops, run.limit) = (flood.round, flood.hops + 1, flood.limit);
            run.parent = from.to_bits();
        }
        new
    }

    /// A neighbor was heard in a search; whether that is new.
    pub fn heard(&mut self, id: u64, from: Neighbor, sender: u64) -> bool {
        self.get(id).is_some() && self.get_or_add(id).hear(from, sender)
    }
}

impl Run {
    const NONE: Self = Self {
        id: 0,
        round: 0,
        hops: 0,
        limit: 0,
        parent: 0,
        used: 0,
        heard: [(0, 0); MAX_NEIGHBORS],
        heard_len: 0,
    };

    /// The neighbor on the way to the origin.
    pub fn parent(&self) -> Option<Neighbor> {
        Neighbor::from_bits(self.parent)
    }

    fn hear(&mut self, from: Neighbor, sender: u64) -> bool {
        let len = usize::from(self.heard_len);
        let known = self.heard[..len].iter_mut().find(|(handle, _)| *handle == from.to_bits());
        match known {
            Some((_, id)) => {
                let new = *id != sender;
                *id = sender;
                new
            }
            None if len < MAX_NEIGHBORS => {
                self.heard[len] = (from.to_bits(), sender);
                self.heard_len += 1;
                true
            }
            None => false,
        }
    }

    /// This node's answer.
    pub fn own_entry<'a>(
        &self,
        neighborhood: Option<Neighborhood>,
        tag: &str,
        buffer: &'a mut [u8; Entry::MAX],
    ) -> Own<'a> {
        let (mut name, mut via) = ([0; MAX_NAME], [0; MAX_NAME]);
        let name = node::name(&mut name).unwrap_or(b"?");
        let via = self.parent().and_then(|p| p.name(&mut via).ok()).unwrap_or(b"-");
        let heard = &self.heard[..usize::from(self.heard_len)];
        // At the limit the neighbors beyond are none of ours: what is heard is all there is to hear.
        let neighbors = match neighborhood.and_then(|n| n.members().ok()) {
            _ if self.hops >= self.limit => self.heard_len,
            Some(m) if m.len() < MAX_NEIGHBORS => m.len() as u8,
            Some(_) => u8::MAX,
            None => 0,
        };
        let entry = Entry {
            name,
            via,
            tag: tag.as_bytes(),
            hops: self.hops,
            heard: self.heard_len,
            neighbors,
            round: self.round,
            sum: heard.iter().fold(0, |sum, (_, id)| sum.wrapping_add(*id)),
        };
        Own { id: entry.id(), heard: entry.heard, bytes: entry.pack(buffer) }
    }
}
