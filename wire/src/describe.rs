//! What a module says about itself: the custom section [`SECTION`] of a WebAssembly module (D3).
//!
//! A protocol's module declares its capsule types, limits, parameters and companions, so that a builder
//! makes the flow tuple without being told twice. It is a tuple's [`Protocol`] less the hashes. On a node
//! the tuple rules: a module that declares otherwise than the tuple is refused. Parameters are
//! defaults: a tuple may give other values and leave none out that the module declares.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use serde::{Deserialize, Serialize};

use crate::tuple::{CapsuleType, Companion, Events, Param, Protocol, Provider};

/// Name of the custom section.
pub const SECTION: &str = "bees";
/// The format written here: the first byte of the section.
pub const VERSION: u8 = 1;
/// The longest section, in bytes.
pub const MAX_LEN: usize = 8 * 1024;

/// A protocol as its module declares it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// The protocol's name.
    pub name: String,
    /// The capsule types.
    pub capsules: Vec<CapsuleType>,
    /// The capsule types that events bring.
    pub events: Events,
    /// Whether programs can open a session.
    pub session: bool,
    /// Parameters with their default values.
    pub params: Vec<Param>,
    /// Companions.
    pub companions: Vec<Companion>,
}

/// Why a description was refused. Whoever built the module or the tuple erred.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// Not a description, or longer than [`MAX_LEN`].
    Malformed,
    /// A format of another release.
    Version(u8),
    /// The tuple says otherwise; what of it.
    Differs(&'static str),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => f.write_str("the module's description cannot be read"),
            Self::Version(v) => {
                write!(f, "the module's description has format {v}, this release knows {VERSION}")
            }
            Self::Differs(what) => write!(f, "the module declares another {what} than the flow tuple"),
        }
    }
}

impl core::error::Error for Error {}

impl Description {
    /// The section's bytes.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_extend(self, Vec::from([VERSION])).expect("plain data in memory can always be encoded")
    }

    /// Reads a section.
    pub fn decode(section: &[u8]) -> Result<Self, Error> {
        let (&version, body) = section.split_first().ok_or(Error::Malformed)?;
        if version != VERSION {
            return Err(Error::Version(version));
        }
        if section.len() > MAX_LEN {
            return Err(Error::Malformed);
        }
        match postcard::take_from_bytes(body) {
            Ok((description, [])) => Ok(description),
            _ => Err(Error::Malformed),
        }
    }

    /// Checks that `protocol` is what this module declares.
    pub fn agrees(&self, protocol: &Protocol) -> Result<(), Error> {
        let same = |what, holds| if holds { Ok(()) } else { Err(Error::Differs(what)) };
        same("name", self.name == protocol.name)?;
        same("list of capsule types", self.capsules == protocol.capsules)?;
        same("event", self.events == protocol.events)?;
        same("session", self.session == protocol.session)?;
        // Where in the tuple a companion stands, whoever builds the tuple decides.
        let alike = |(a, b): (&Companion, &Companion)| {
            let provider = match (&a.provider, &b.provider) {
                (Provider::Tuple(_), Provider::Tuple(_)) => true,
                (a, b) => a == b,
            };
            provider && a.interface == b.interface && a.coupling == b.coupling
        };
        let companions = self.companions.len() == protocol.companions.len()
            && self.companions.iter().zip(&protocol.companions).all(alike);
        same("list of companions", companions)?;
        let given = |p: &Param| protocol.params.iter().any(|q| q.name == p.name);
        same("list of parameters", self.params.iter().all(given))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{Limits, Operation};
    use crate::tuple::Part;
    use alloc::vec;
    use proptest::prelude::*;

    fn description() -> Description {
        Description {
            name: "hello".into(),
            capsules: vec![CapsuleType {
                name: "Hello".into(),
                limits: Limits::NONE.with(Operation::Multicasts, 1),
                derives: vec![],
            }],
            events: Events { boot: Some(0), ..Events::default() },
            session: true,
            params: vec![Param { name: "hops".into(), value: vec![8] }],
            companions: vec![],
        }
    }

    fn protocol() -> Protocol {
        let d = description();
        Protocol {
            capsules: d.capsules,
            events: d.events,
            session: d.session,
            params: vec![Param { name: "hops".into(), value: vec![16] }],
            companions: d.companions,
            ..Protocol::new(&d.name, Part::of(b"module").unwrap())
        }
    }

    #[test]
    fn round_trip() {
        assert_eq!(Description::decode(&description().encode()), Ok(description()));
        assert_eq!(Description::decode(&[9, 0]), Err(Error::Version(9)));
        let mut long = description().encode();
        long.push(0);
        assert_eq!(Description::decode(&long), Err(Error::Malformed));
    }

    #[test]
    fn a_difference_is_named() {
        let d = description();
        assert_eq!(d.agrees(&protocol()), Ok(()));
        let mut p = protocol();
        p.capsules[0].limits = Limits::NONE.with(Operation::Multicasts, 2);
        assert_eq!(d.agrees(&p), Err(Error::Differs("list of capsule types")));
        let mut p = protocol();
        p.params.clear();
        assert_eq!(d.agrees(&p), Err(Error::Differs("list of parameters")));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Description::decode(&bytes);
            if let Some(first) = bytes.first_mut() { *first = VERSION; }
            let _ = Description::decode(&bytes);
        }
    }
}
