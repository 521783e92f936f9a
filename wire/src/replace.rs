//! How a flow takes over from an earlier version of itself: the extension [`REPLACE`] of its tuple.
//!
//! [`REPLACE`]: crate::tuple::Extension::REPLACE

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::tuple::{Body, Error, Extension, MAX_CAPSULE_TYPES, MAX_PROTOCOLS, bound, encode, reference};

/// The most capsule types that live on.
pub const MAX_LIVE_ON: usize = 64;

/// A capsule type: the position of the protocol in its tuple, and that of the type in the protocol's list.
pub type Place = (u8, u8);

/// What becomes of the earlier version.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Replacement {
    /// Its state is handed over: it has `on_handover`, and this flow `on_takeover`.
    pub handover: bool,
    /// Its capsule types that live on, in their order, and what each is here. Capsules of others are dropped.
    pub types: Vec<(Place, Place)>,
}

impl Replacement {
    /// What a capsule type of the earlier version is here.
    pub fn now(&self, old: Place) -> Option<Place> {
        let at = self.types.binary_search_by_key(&old, |(old, _)| *old).ok()?;
        Some(self.types[at].1)
    }

    /// This, and then what becomes of that: what capsule types of the earlier version are after the next replacement.
    pub fn then(&self, next: &Self) -> Self {
        let types = self.types.iter().filter_map(|(old, now)| Some((*old, next.now(*now)?)));
        Self { handover: self.handover && next.handover, types: types.collect() }
    }

    /// The extension that says so.
    pub fn extension(&self) -> Extension {
        Extension { tag: Extension::REPLACE, value: encode(self) }
    }

    /// Reads the extension's value. An error if it is not one, or not in its shortest encoding.
    pub(crate) fn of(value: &[u8]) -> Result<Self, Error> {
        let read: Self = crate::system::decode(value).ok_or(Error::Malformed)?;
        if encode(&read) != value {
            return Err(Error::NotCanonical);
        }
        bound("capsule types that live on", read.types.len() <= MAX_LIVE_ON)?;
        bound("capsule types that live on", read.types.is_sorted_by(|(a, _), (b, _)| a < b))?;
        let is_one = |(protocol, kind): Place| {
            usize::from(protocol) < MAX_PROTOCOLS && usize::from(kind) < MAX_CAPSULE_TYPES
        };
        reference("capsule type that lives on", read.types.iter().all(|(old, _)| is_one(*old)))?;
        Ok(read)
    }

    /// Whether the tuple names a flow that it replaces, and has the types that it says.
    pub(crate) fn check(&self, body: &Body) -> Result<(), Error> {
        reference("replaced flow", body.replaces.is_some())?;
        let is_here = |(protocol, kind): Place| {
            let protocol = body.protocols.get(usize::from(protocol));
            protocol.is_some_and(|p| usize::from(kind) < p.capsules.len())
        };
        reference("successor of a capsule type", self.types.iter().all(|(_, new)| is_here(*new)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::TupleHash;
    use crate::limits::Limits;
    use crate::tuple::{CapsuleType, Credentials, Part, Protocol, Tuple};
    use alloc::string::ToString;
    use alloc::vec;
    use proptest::prelude::*;

    fn tuple(replaces: Option<TupleHash>, extensions: Vec<Extension>) -> Tuple {
        let kind = |name: &str| CapsuleType { name: name.to_string(), limits: Limits::NONE, derives: vec![] };
        let capsules = vec![kind("a"), kind("b")];
        let main = Protocol { capsules, ..Protocol::new("p", Part::of(b"-").unwrap()) };
        let body = Body { replaces, extensions, ..Body::new([0; 16], vec![main]) };
        Tuple { body, credentials: Credentials::None }
    }

    const OLD: TupleHash = TupleHash([7; 32]);

    #[test]
    fn a_tuple_says_what_lives_on() {
        let how = Replacement { handover: true, types: vec![((0, 0), (0, 1)), ((1, 4), (0, 0))] };
        let named = Extension::nodes(&["a"]);
        let t = tuple(Some(OLD), vec![named.clone(), how.extension()]);
        let read = Tuple::decode(&t.encode()).unwrap();
        let (hash, read) = read.body.replacement().unwrap();
        assert_eq!((hash, &read), (OLD, &how));
        assert_eq!([(0, 0), (0, 1), (1, 4)].map(|old| read.now(old)), [Some((0, 1)), None, Some((0, 0))]);
        // The order of extensions is that of their tags.
        let t = tuple(Some(OLD), vec![how.extension(), named]);
        assert_eq!(Tuple::decode(&t.encode()), Err(Error::Bound("extensions")));
        let t = tuple(Some(OLD), vec![]);
        assert_eq!(t.body.replacement(), Some((OLD, Replacement::default())));
        assert_eq!(tuple(None, vec![]).body.replacement(), None);
    }

    #[test]
    fn tables_are_chained() {
        let table = |types: &[(Place, Place)]| Replacement { handover: true, types: types.to_vec() };
        let one = table(&[((0, 0), (0, 2)), ((0, 1), (0, 1)), ((1, 0), (0, 2))]);
        let both = one.then(&table(&[((0, 2), (1, 1))]));
        assert_eq!(both, table(&[((0, 0), (1, 1)), ((1, 0), (1, 1))]));
        assert!(!one.then(&Replacement::default()).handover);
    }

    #[test]
    fn what_is_not_there_is_refused() {
        let types = |types: Vec<(Place, Place)>| Replacement { handover: false, types }.extension();
        let first = ((0, 0), (0, 0));
        let many = (0..3u8).flat_map(|p| (0..32u8).map(move |k| ((p, k), (0, 0)))).collect::<Vec<_>>();
        let long = Extension { tag: Extension::REPLACE, value: vec![0, 0x81, 0, 0, 0, 0, 0] };
        for (replaces, extension) in [
            (None, types(vec![first])),
            (Some(OLD), types(vec![first, first])),
            (Some(OLD), types(vec![((0, 1), (0, 0)), first])),
            (Some(OLD), types(vec![((0, 0), (0, 2))])),
            (Some(OLD), types(vec![((0, 0), (1, 0))])),
            (Some(OLD), types(vec![((16, 0), (0, 0))])),
            (Some(OLD), types(vec![((0, 32), (0, 0))])),
            (Some(OLD), types(many[..65].to_vec())),
            (Some(OLD), Extension { tag: Extension::REPLACE, value: vec![] }),
            (Some(OLD), long),
        ] {
            assert!(
                Tuple::decode(&tuple(replaces, vec![extension.clone()]).encode()).is_err(),
                "{extension:?}"
            );
        }
        assert!(Tuple::decode(&tuple(Some(OLD), vec![types(many[..64].to_vec())]).encode()).is_ok());
    }

    proptest! {
        #[test]
        fn no_table_has_two_encodings(value in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(read) = Replacement::of(&value) {
                prop_assert_eq!(read.extension().value, value);
            }
        }
    }
}
