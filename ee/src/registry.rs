//! Capsule identifier -> who handles it. One lookup per arriving capsule.

use std::collections::HashMap;

use nodeos::slab::Handle;
use wire::id::CapsuleId;
use wire::replace::Place;

use crate::hash::Keyed;

/// Who handles capsules of one identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// A capsule type of a flow's protocol.
    Flow {
        /// The flow.
        flow: Handle,
        /// Position of the protocol in the tuple.
        protocol: u8,
        /// The capsule type.
        kind: u8,
    },
    /// A capsule type of a flow that another one took over from.
    Replaced {
        /// That other one.
        flow: Handle,
        /// What it is there, by protocol and type; `None`: nothing any more.
        to: Option<Place>,
    },
    /// "Which flow does this identifier belong to?"
    TranslationRequest,
    /// The answer to a question of ours.
    TranslationResponse,
    /// "Are you there?"
    Poke,
    /// A poke of ours that comes back.
    PokeReturned,
    /// A neighbor says who it is, and whom it knows.
    Advert,
    /// Our Auth Agent, from a neighbor's.
    Agent,
    /// Somebody downloads an object of a flow from us.
    DownloadRequest {
        /// The flow.
        flow: Handle,
        /// Which of its objects.
        object: Object,
    },
    /// An object of a flow that we download.
    DownloadResponse {
        /// The flow.
        flow: Handle,
        /// Which of its objects.
        object: Object,
    },
}

/// What can be downloaded of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Object {
    /// The tuple itself.
    Tuple,
    /// The part at this position in [`wire::tuple::Tuple::parts`].
    Part(u16),
}

/// The table.
#[derive(Debug)]
pub struct Registry {
    targets: HashMap<CapsuleId, Target, Keyed>,
}

impl Registry {
    /// An empty table. `key` is secret, so that nobody can choose identifiers that fall together.
    pub fn new(key: u64) -> Self {
        Self { targets: HashMap::with_hasher(Keyed(key)) }
    }

    /// Who handles `id`.
    #[inline]
    pub fn find(&self, id: &CapsuleId) -> Option<Target> {
        self.targets.get(id).copied()
    }

    /// Enters a handler. `false`: the identifier is taken, and stays with whom it was.
    pub fn insert(&mut self, id: CapsuleId, target: Target) -> bool {
        match self.targets.entry(id) {
            std::collections::hash_map::Entry::Occupied(_) => false,
            std::collections::hash_map::Entry::Vacant(slot) => {
                slot.insert(target);
                true
            }
        }
    }

    /// Removes an identifier.
    pub fn remove(&mut self, id: &CapsuleId) {
        self.targets.remove(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identifier_stays_with_its_first_handler() {
        let mut r = Registry::new(7);
        let id = CapsuleId([1; 16]);
        assert!(r.insert(id, Target::TranslationRequest));
        assert!(!r.insert(id, Target::TranslationResponse));
        assert_eq!(r.find(&id), Some(Target::TranslationRequest));
        r.remove(&id);
        assert_eq!(r.find(&id), None);
    }
}
