//! The flow tuple: a flow's description and the credentials of who answers for it (seed 004, section
//! II.C and figure 2; D3, D7).
//!
//! A tuple names code and data by hash and length; the bytes travel apart from it. It is encoded in
//! postcard; [`Tuple::decode`] accepts exactly the bytes that [`Tuple::encode`] would write, so that
//! the hash over the bytes names one tuple and nothing else. Every list has a bound. The protocol tree
//! is a list whose first member is the main protocol; a companion stands behind its parent, so that
//! reading a tuple never recurses.

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use crate::budget::Budgets;
use crate::budget::Kind;
use crate::id::{CapsuleId, PartHash, Path, TupleHash, md5, sha256};
use crate::limits::{Derivation, Limits};
use crate::replace::Replacement;
pub use crate::scheme::Scheme;

/// The tuple format written here.
pub const VERSION: u8 = 1;
/// The longest tuple, in bytes.
pub const MAX_LEN: usize = 16 * 1024;
/// The most protocols in one tuple.
pub const MAX_PROTOCOLS: usize = 16;
/// The most capsule types of one protocol.
pub const MAX_CAPSULE_TYPES: usize = 32;
/// The most data parts, parameters or companions of one protocol, and the most requested privileges.
pub const MAX_ITEMS: usize = 32;
/// The most interfaces that a flow serves to others.
pub const MAX_OFFERS: usize = 8;
/// The longest name, in bytes.
pub const MAX_NAME: usize = 64;
/// The longest parameter value, in bytes.
pub const MAX_PARAM: usize = 1024;
/// The largest part (module or data), in bytes. Nodes may admit less.
pub const MAX_PART: u32 = 1024 * 1024;
/// The longest signature, in bytes (RSA-4096).
pub const MAX_SIGNATURE: usize = 512;

/// A flow tuple.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tuple {
    /// What the flow is; credentials cover its encoding.
    pub body: Body,
    /// Who answers for it.
    pub credentials: Credentials,
}

/// The description of a flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body {
    /// [`VERSION`].
    pub version: u8,
    /// Tells apart two flows of the same protocols.
    pub nonce: [u8; 16],
    /// The protocol tree: the main protocol first, each companion behind its parent.
    pub protocols: Vec<Protocol>,
    /// What the flow asks of a node's Auth Agent.
    pub request: Request,
    /// When the tuple may be used.
    pub validity: Validity,
    /// The flow that this one takes over from.
    pub replaces: Option<TupleHash>,
    /// What the fields do not say, each kind once, in the order of their tags. An unknown extension refuses the tuple. The extension
    /// [`Extension::BUDGETS`] is not among them: [`Request::budgets`] has what it says.
    pub extensions: Vec<Extension>,
}

/// The budgets that a request has a place for; an extension behind all others has the rest.
type FirstBudgets =
    (Option<u64>, Option<u32>, Option<u64>, Option<u32>, Option<u16>, Option<u16>, Option<u16>);

impl Serialize for Body {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let b = &self.request.budgets;
        let first: FirstBudgets =
            (b.memory, b.event_us, b.rate, b.burst, b.timers, b.cache_entries, b.sessions);
        let more = Extension::budgets(b);
        let extensions: Vec<&Extension> = self.extensions.iter().chain(&more).collect();
        let request = (&self.request.privileges, first);
        let (version, nonce, protocols) = (self.version, &self.nonce, &self.protocols);
        (version, nonce, protocols, request, &self.validity, &self.replaces, extensions).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Body {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        type Request = (Vec<Privilege>, FirstBudgets);
        type Rest = (Request, Validity, Option<TupleHash>, Vec<Extension>);
        let (version, nonce, protocols, (request, validity, replaces, mut extensions)) =
            <(u8, [u8; 16], Vec<Protocol>, Rest)>::deserialize(deserializer)?;
        let (privileges, (memory, event_us, rate, burst, timers, cache_entries, sessions)) = request;
        // One that says nothing good stays, and refuses the tuple.
        let at = extensions.iter().position(|e| e.tag == Extension::BUDGETS);
        let more = at.and_then(|at| Some((at, extensions[at].more_budgets()?)));
        let more = more.map(|(at, more)| {
            extensions.remove(at);
            more
        });
        let rest = more.unwrap_or_default();
        let budgets = Budgets { memory, event_us, rate, burst, timers, cache_entries, sessions, ..rest };
        let request = self::Request { privileges, budgets };
        Ok(Self { version, nonce, protocols, request, validity, replaces, extensions })
    }
}

/// One protocol of the tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Protocol {
    /// The protocol's name, for people and for opening its session.
    pub name: String,
    /// The WebAssembly module.
    pub code: Part,
    /// Further bytes that the protocol can read.
    pub data: Vec<DataPart>,
    /// The capsule types; a type is named by its position.
    pub capsules: Vec<CapsuleType>,
    /// The capsule type that each event other than a received capsule replenishes.
    pub events: Events,
    /// Whether programs can open a session.
    pub session: bool,
    /// Named settings that the protocol can read.
    pub params: Vec<Param>,
    /// The protocols that serve this one.
    pub companions: Vec<Companion>,
}

/// A module or a data part: its length and its hashes. The bytes must match both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Length in bytes.
    pub len: u32,
    /// SHA-256 of the bytes: the part's name.
    pub sha256: PartHash,
    /// MD5 of the bytes, the paper's form.
    pub md5: [u8; 16],
}

/// A named data part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataPart {
    /// The name by which the protocol asks for it.
    pub name: String,
    /// The bytes.
    pub part: Part,
}

/// A named setting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Param {
    /// Its name.
    pub name: String,
    /// Its value, of any form.
    pub value: Vec<u8>,
}

/// A capsule type and what may be done with its objects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapsuleType {
    /// The type's name, for people.
    pub name: String,
    /// How often each operation may be done after an event.
    pub limits: Limits,
    /// Positions of the types that may be derived from this one.
    pub derives: Vec<u8>,
}

/// The capsule types that events bring; an event without one brings no capsule object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Events {
    /// When the flow starts.
    pub boot: Option<u8>,
    /// When a timer fires.
    pub timer: Option<u8>,
    /// When a program makes a request.
    pub session: Option<u8>,
}

/// A protocol that serves another, and how their capsules are coupled (seed 004, section V).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Companion {
    /// The interface name by which the parent finds it.
    pub interface: String,
    /// What enters the companion's capsule identifiers.
    pub coupling: Coupling,
    /// Which protocol it is.
    pub provider: Provider,
}

/// What a companion's capsule identifiers are coupled with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Coupling {
    /// The parent's capsule types.
    Capsules,
    /// The parent's byte arrays (module and data parts).
    Parts,
    /// The tuple's hash.
    Tuple,
}

/// Where a companion comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Provider {
    /// Another protocol of this tuple, by its position; behind the parent's.
    Tuple(u8),
    /// Something of the node's, whatever flow uses it: a service of the node itself or an interface that a system flow
    /// serves there ([`Extension::OFFERS`]), by its name.
    System(String),
}

/// What the flow asks for. The Auth Agent decides.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Request {
    /// Privileges by name.
    pub privileges: Vec<Privilege>,
    /// Budgets; what is not named gets the node's default.
    pub budgets: Budgets,
}

/// A privilege that is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Privilege {
    /// Its name, for instance `sensors`.
    pub name: String,
    /// Whether the flow wants to run without it.
    pub optional: bool,
}

/// When a tuple may be used; seconds since 1970 (UTC).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Validity {
    /// Not before this time.
    pub from: Option<u64>,
    /// Not after this time.
    pub until: Option<u64>,
}

/// A tagged piece; the tags are those of [`Extension`]'s constants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extension {
    /// What it is.
    pub tag: u16,
    /// Its contents.
    pub value: Vec<u8>,
}

impl Extension {
    /// The tuple is meant for some nodes only: a list of their names, 1 to [`MAX_ITEMS`].
    pub const NODES: u16 = 1;
    /// Budgets that the request has no place for: those from [`Kind::Code`] on, in the encoding of [`Budgets`].
    pub const BUDGETS: u16 = 2;
    /// How the flow takes over from the one that [`Body::replaces`] names: a [`Replacement`].
    pub const REPLACE: u16 = 4;
    /// The main protocol serves these interfaces to other flows of its node: a list of names, 1 to [`MAX_OFFERS`].
    pub const OFFERS: u16 = 5;

    /// The tuple is meant for the nodes of these names and no other.
    pub fn nodes(names: &[impl AsRef<str>]) -> Self {
        let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
        Self { tag: Self::NODES, value: encode(&names) }
    }

    /// The main protocol serves these interfaces to other flows.
    pub fn offers(names: &[impl AsRef<str>]) -> Self {
        Self { tag: Self::OFFERS, ..Self::nodes(names) }
    }

    /// What of `budgets` the request has no place for; `None`: nothing.
    fn budgets(budgets: &Budgets) -> Option<Self> {
        let mut more = Budgets::default();
        budgets.named().filter(|(kind, _)| *kind >= Kind::Code).for_each(|(kind, n)| more.set(kind, Some(n)));
        (more != Budgets::default()).then(|| Self { tag: Self::BUDGETS, value: encode(&more) })
    }

    fn more_budgets(&self) -> Option<Budgets> {
        let more = crate::system::decode(&self.value)?;
        let whole = Self::budgets(&more)?;
        (whole.value == self.value).then_some(more)
    }

    fn check(&self) -> Result<(), Error> {
        let (list, each, most) = match self.tag {
            Self::NODES => ("nodes", "node name", MAX_ITEMS),
            Self::OFFERS => ("offers", "interface", MAX_OFFERS),
            Self::REPLACE => return Replacement::of(&self.value).map(drop),
            // What it could say has been taken out of it.
            Self::BUDGETS => return Err(Error::Malformed),
            other => return Err(Error::Extension(other)),
        };
        let names = self.names().ok_or(Error::Malformed)?;
        bound(list, (1..=most).contains(&names.len()))?;
        names.iter().try_for_each(|n| name(each, n))
    }

    fn names(&self) -> Option<Vec<&str>> {
        let names: Vec<&str> = crate::system::decode(&self.value)?;
        (encode(&names) == self.value).then_some(names)
    }
}

/// Who answers for a flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Credentials {
    /// Nobody.
    None,
    /// A principal, by a signature over the body's encoding.
    Signed {
        /// The principal's name.
        principal: String,
        /// How the signature is made.
        scheme: Scheme,
        /// The signature.
        signature: Vec<u8>,
    },
}

/// Why a tuple was refused. Whoever made the tuple erred.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// Longer than [`MAX_LEN`].
    TooLong(usize),
    /// Not the encoding of a tuple.
    Malformed,
    /// Another encoding of the same tuple than [`Tuple::encode`] writes.
    NotCanonical,
    /// A format of another release.
    Version(u8),
    /// An extension that this release does not know.
    Extension(u16),
    /// A list, name or value is over its bound, or a needed one is empty.
    Bound(&'static str),
    /// A position names nothing, or the protocols do not form a tree.
    Reference(&'static str),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong(n) => write!(f, "tuple of {n} bytes, {MAX_LEN} are allowed"),
            Self::Malformed => f.write_str("not a flow tuple"),
            Self::NotCanonical => f.write_str("tuple is not in its canonical encoding"),
            Self::Version(v) => write!(f, "tuple format {v}, this release knows {VERSION}"),
            Self::Extension(t) => write!(f, "tuple needs extension {t}, which this release does not know"),
            Self::Bound(what) => write!(f, "tuple is out of bounds: {what}"),
            Self::Reference(what) => write!(f, "tuple refers to what it does not have: {what}"),
        }
    }
}

impl core::error::Error for Error {}

impl Tuple {
    /// The bytes of the tuple; their SHA-256 is its name.
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// Reads a tuple and checks every bound and reference in it.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() > MAX_LEN {
            return Err(Error::TooLong(bytes.len()));
        }
        let (tuple, rest) = postcard::take_from_bytes::<Self>(bytes).map_err(|_| Error::Malformed)?;
        if !rest.is_empty() || tuple.encode() != bytes {
            return Err(Error::NotCanonical);
        }
        tuple.check()?;
        Ok(tuple)
    }

    /// Checks every bound and reference; [`Tuple::decode`] has done so.
    pub fn check(&self) -> Result<(), Error> {
        self.body.check()?;
        if let Credentials::Signed { principal, signature, .. } = &self.credentials {
            name("principal", principal)?;
            bound("signature", signature.len() <= MAX_SIGNATURE)?;
        }
        Ok(())
    }

    /// The main protocol.
    pub fn main(&self) -> &Protocol {
        &self.body.protocols[0]
    }

    /// Every protocol with its path, in the order of the list.
    pub fn paths(&self) -> Vec<Path> {
        let mut paths = vec![Path::default(); self.body.protocols.len()];
        for (at, protocol) in self.body.protocols.iter().enumerate() {
            for (step, companion) in protocol.companions.iter().enumerate() {
                if let Provider::Tuple(child) = companion.provider
                    && let Some(path) = paths.get(at).cloned()
                    && let Some(slot) = paths.get_mut(usize::from(child))
                {
                    slot.0 = path.0;
                    slot.0.push(step as u8);
                }
            }
        }
        paths
    }

    /// What enters the identifiers of the capsules of the protocol at `at`: SHA-256 of what its coupling names,
    /// of each of the parent's capsule types (their encodings) or of its parts (module first). Nothing for the
    /// main protocol and for coupling with the tuple, whose hash every identifier has.
    pub fn coupled(&self, at: usize) -> Vec<[u8; 32]> {
        let is_it = |c: &Companion| matches!(c.provider, Provider::Tuple(child) if usize::from(child) == at);
        let Some((parent, companion)) = self.body.companions().find(|(_, c)| is_it(c)) else { return vec![] };
        let parent = &self.body.protocols[parent];
        match companion.coupling {
            Coupling::Capsules => parent.capsules.iter().map(|kind| sha256(&encode(kind))).collect(),
            Coupling::Parts => parent.parts().map(|part| part.sha256.0).collect(),
            Coupling::Tuple => vec![],
        }
    }

    /// The identifier of the capsule type `kind` of the protocol at `at`, whose path is `path`, in this tuple of
    /// that hash.
    pub fn capsule_id(&self, hash: &TupleHash, at: usize, path: &Path, kind: u8) -> CapsuleId {
        CapsuleId::compute(hash, path, kind.into(), &self.coupled(at))
    }

    /// Every part that the flow needs, each once.
    pub fn parts(&self) -> Vec<Part> {
        let mut parts: Vec<Part> = Vec::new();
        for part in self.body.protocols.iter().flat_map(Protocol::parts) {
            if !parts.iter().any(|p| p.sha256 == part.sha256) {
                parts.push(part);
            }
        }
        parts
    }
}

impl Body {
    /// Flows of these protocols that ask for nothing and may run at any time.
    pub fn new(nonce: [u8; 16], protocols: Vec<Protocol>) -> Self {
        Self {
            version: VERSION,
            nonce,
            protocols,
            request: Request::default(),
            validity: Validity::default(),
            replaces: None,
            extensions: vec![],
        }
    }

    /// The bytes that credentials cover.
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    fn check(&self) -> Result<(), Error> {
        if self.version != VERSION {
            return Err(Error::Version(self.version));
        }
        self.extensions.iter().try_for_each(Extension::check)?;
        bound("extensions", self.extensions.is_sorted_by(|a, b| a.tag < b.tag))?;
        bound("protocols", (1..=MAX_PROTOCOLS).contains(&self.protocols.len()))?;
        bound("privileges", self.request.privileges.len() <= MAX_ITEMS)?;
        self.request.privileges.iter().try_for_each(|p| name("privilege", &p.name))?;
        self.protocols.iter().try_for_each(Protocol::check)?;
        self.check_tree()?;
        self.extension(Extension::REPLACE).map_or(Ok(()), |value| Replacement::of(value)?.check(self))
    }

    fn extension(&self, tag: u16) -> Option<&[u8]> {
        self.extensions.iter().find(|e| e.tag == tag).map(|e| &*e.value)
    }

    /// The flow that this one takes over from, and how. Without the extension it hands nothing over, and no capsule type
    /// of the other one lives on.
    pub fn replacement(&self) -> Option<(TupleHash, Replacement)> {
        let how = self.extension(Extension::REPLACE).and_then(|value| Replacement::of(value).ok());
        self.replaces.map(|hash| (hash, how.unwrap_or_default()))
    }

    /// The names of the nodes that the tuple is meant for; `None`: any node.
    pub fn nodes(&self) -> Option<Vec<&str>> {
        self.extensions.iter().find(|e| e.tag == Extension::NODES).and_then(Extension::names)
    }

    /// The interfaces that the main protocol serves to other flows.
    pub fn offers(&self) -> Vec<&str> {
        let offers = self.extensions.iter().find(|e| e.tag == Extension::OFFERS);
        offers.and_then(Extension::names).unwrap_or_default()
    }

    /// The names of what the protocols use that is the node's own or another flow's there.
    pub fn independent(&self) -> impl Iterator<Item = &str> {
        self.companions().filter_map(|(_, companion)| match &companion.provider {
            Provider::System(name) => Some(name.as_str()),
            Provider::Tuple(_) => None,
        })
    }

    /// Every protocol but the first is the companion of exactly one that stands before it.
    fn check_tree(&self) -> Result<(), Error> {
        let mut parents = vec![0u8; self.protocols.len()];
        for (at, companion) in self.companions() {
            if let Provider::Tuple(child) = companion.provider {
                let child = usize::from(child);
                reference("companion", child > at && child < self.protocols.len())?;
                parents[child] = parents[child].saturating_add(1);
            }
        }
        reference("a companion has one parent", parents[1..].iter().all(|&n| n == 1))
    }

    /// Every companion, with the position of the protocol that it serves.
    pub fn companions(&self) -> impl Iterator<Item = (usize, &Companion)> {
        self.protocols.iter().enumerate().flat_map(|(at, p)| p.companions.iter().map(move |c| (at, c)))
    }
}

impl Protocol {
    /// A module and nothing else: no capsule types, no session.
    pub fn new(name: &str, code: Part) -> Self {
        Self {
            name: name.into(),
            code,
            data: vec![],
            capsules: vec![],
            events: Events::default(),
            session: false,
            params: vec![],
            companions: vec![],
        }
    }

    /// The module and the data parts.
    pub fn parts(&self) -> impl Iterator<Item = Part> + '_ {
        core::iter::once(self.code).chain(self.data.iter().map(|d| d.part))
    }

    /// What [`crate::limits::worst_case`] reads.
    pub fn derivations(&self) -> Vec<Derivation<'_>> {
        self.capsules.iter().map(|c| Derivation { limits: c.limits, into: &c.derives }).collect()
    }

    fn check(&self) -> Result<(), Error> {
        name("protocol name", &self.name)?;
        bound("capsule types", self.capsules.len() <= MAX_CAPSULE_TYPES)?;
        bound("data parts", self.data.len() <= MAX_ITEMS)?;
        bound("parameters", self.params.len() <= MAX_ITEMS)?;
        bound("companions", self.companions.len() <= MAX_ITEMS)?;
        bound("module is empty", self.code.len > 0)?;
        self.parts().try_for_each(|p| bound("part length", p.len <= MAX_PART))?;
        self.data.iter().try_for_each(|d| name("data part name", &d.name))?;
        for p in &self.params {
            name("parameter name", &p.name)?;
            bound("parameter value", p.value.len() <= MAX_PARAM)?;
        }
        let known = |kind: u8| usize::from(kind) < self.capsules.len();
        for c in &self.capsules {
            name("capsule type name", &c.name)?;
            bound("derivations", c.derives.len() <= MAX_CAPSULE_TYPES)?;
            reference("derived capsule type", c.derives.iter().all(|&d| known(d)))?;
        }
        let Events { boot, timer, session } = self.events;
        reference("event's capsule type", [boot, timer, session].into_iter().flatten().all(known))?;
        for c in &self.companions {
            name("interface", &c.interface)?;
            if let Provider::System(system) = &c.provider {
                name("system protocol", system)?;
            }
        }
        Ok(())
    }
}

impl Part {
    /// The description of `bytes`; `None` beyond [`MAX_PART`].
    pub fn of(bytes: &[u8]) -> Option<Self> {
        let len = u32::try_from(bytes.len()).ok().filter(|&n| n <= MAX_PART)?;
        Some(Self { len, sha256: PartHash::of(bytes), md5: md5(bytes) })
    }

    /// Whether `bytes` are this part: length, SHA-256 and MD5.
    pub fn matches(&self, bytes: &[u8]) -> bool {
        Self::of(bytes).is_some_and(|p| p == *self)
    }
}

pub(crate) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_allocvec(value).expect("plain data in memory can always be encoded")
}

fn name(what: &'static str, text: &str) -> Result<(), Error> {
    let printable = text.bytes().all(|b| b.is_ascii_graphic());
    bound(what, !text.is_empty() && text.len() <= MAX_NAME && printable)
}

pub(crate) fn bound(what: &'static str, holds: bool) -> Result<(), Error> {
    if holds { Ok(()) } else { Err(Error::Bound(what)) }
}

pub(crate) fn reference(what: &'static str, holds: bool) -> Result<(), Error> {
    if holds { Ok(()) } else { Err(Error::Reference(what)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Operation;
    use proptest::prelude::*;

    fn protocol(name: &str) -> Protocol {
        Protocol {
            capsules: vec![CapsuleType {
                name: "Hello".into(),
                limits: Limits::NONE.with(Operation::Returns, 1),
                derives: vec![0],
            }],
            events: Events { boot: Some(0), timer: None, session: None },
            session: true,
            params: vec![Param { name: "hops".into(), value: vec![16] }],
            ..Protocol::new(name, Part::of(b"module").unwrap())
        }
    }

    fn tuple() -> Tuple {
        Tuple { body: Body::new([3; 16], vec![protocol("hello")]), credentials: Credentials::None }
    }

    const GOLDEN: &str = "0103030303030303030303030303030303010568656c6c6f06120970d812836f19888625587a4606a5ad23cef31c8684\
         e601771552548fc6b922884db148f0ffb0d830ba431102b0b500010548656c6c6f01000000010001000000010104686f\
         7073011000000180804001d00f01d0a54c01808001010801ac02010200000001010301016200";

    #[test]
    fn round_trip() {
        let t = tuple();
        assert_eq!(Tuple::decode(&t.encode()), Ok(t));
    }

    #[test]
    fn companions_get_paths() {
        let mut t = tuple();
        let companion = |i| Companion {
            interface: "x".into(),
            coupling: Coupling::Capsules,
            provider: Provider::Tuple(i),
        };
        t.body.protocols = vec![protocol("a"), protocol("b"), protocol("c")];
        t.body.protocols[0].companions = vec![
            Companion {
                interface: "dl".into(),
                coupling: Coupling::Parts,
                provider: Provider::System("x/1".into()),
            },
            companion(1),
        ];
        t.body.protocols[1].companions = vec![companion(2)];
        t.check().unwrap();
        assert_eq!(t.paths(), [Path(vec![]), Path(vec![1]), Path(vec![1, 0])]);
        t.body.protocols[2].companions = vec![companion(1)];
        assert!(matches!(t.check(), Err(Error::Reference(_))));
        t.body.protocols[2].companions.clear();
        t.body.protocols[0].companions.push(companion(2));
        assert!(matches!(t.check(), Err(Error::Reference(_))));
    }

    #[test]
    fn only_the_canonical_encoding_counts() {
        let mut bytes = tuple().encode();
        bytes.push(0);
        assert_eq!(Tuple::decode(&bytes), Err(Error::NotCanonical));
        // The version as a two-byte varint would be another encoding of the same number; a u8 has none,
        // but a length has: the protocol count 1 as 0x81 0x00.
        let mut bytes = tuple().encode();
        assert_eq!(bytes[17], 1);
        bytes.splice(17..18, [0x81, 0x00]);
        assert_eq!(Tuple::decode(&bytes), Err(Error::NotCanonical));
    }

    #[test]
    fn bounds_are_kept() {
        type Edit = fn(&mut Tuple);
        let edits: [Edit; 22] = [
            |t| t.body.protocols.clear(),
            |t| t.body.protocols[0].name = String::new(),
            |t| t.body.protocols[0].name = "a\nb".into(),
            |t| t.body.protocols[0].code.len = MAX_PART + 1,
            |t| t.body.protocols[0].capsules[0].derives = vec![1],
            |t| t.body.protocols[0].events.timer = Some(9),
            |t| t.body.protocols[0].params[0].value = vec![0; MAX_PARAM + 1],
            |t| t.body.extensions.push(Extension { tag: 3, value: vec![] }),
            |t| t.body.extensions.push(Extension { tag: Extension::BUDGETS, value: vec![] }),
            // No budget; one that has its place in the request; an unknown one; one that is too large; a number
            // that is longer than it need be; and one extension that is there twice.
            |t| t.body.extensions.push(Extension { tag: Extension::BUDGETS, value: vec![0] }),
            |t| t.body.extensions.push(Extension { tag: Extension::BUDGETS, value: vec![1, 0, 5] }),
            |t| t.body.extensions.push(Extension { tag: Extension::BUDGETS, value: vec![1, 19, 5] }),
            |t| {
                let value = vec![1, Kind::Flows as u8, 0x80, 0x80, 4];
                t.body.extensions.push(Extension { tag: Extension::BUDGETS, value });
            },
            |t| t.body.extensions = vec![Extension { tag: Extension::BUDGETS, value: vec![1, 7, 5] }; 2],
            |t| t.body.extensions.push(Extension { tag: Extension::NODES, value: vec![] }),
            |t| t.body.extensions.push(Extension { tag: Extension::NODES, value: vec![0x81, 0, 1, b'a'] }),
            |t| t.body.extensions.push(Extension::nodes(&[""; 0])),
            |t| t.body.extensions.push(Extension::nodes(&["a b"])),
            |t| t.body.extensions = vec![Extension::nodes(&["a"]); 2],
            |t| t.body.extensions.push(Extension::offers(&[""; 0])),
            |t| t.body.extensions.push(Extension::offers(&["x"; MAX_OFFERS + 1])),
            |t| t.body.extensions = ["a", "b"].map(|x| Extension::offers(&[x])).into(),
        ];
        for (i, edit) in edits.iter().enumerate() {
            let mut t = tuple();
            edit(&mut t);
            assert!(Tuple::decode(&t.encode()).is_err(), "edit {i}");
        }
    }

    #[test]
    fn a_tuple_names_the_nodes_it_is_for() {
        let mut t = tuple();
        assert_eq!(t.body.nodes(), None);
        t.body.extensions.push(Extension::nodes(&["a", "b"]));
        let t = Tuple::decode(&t.encode()).unwrap();
        assert_eq!(t.body.nodes(), Some(vec!["a", "b"]));
    }

    #[test]
    fn a_tuple_names_what_it_serves_to_others() {
        let mut t = tuple();
        assert_eq!(t.body.offers(), [""; 0]);
        t.body.extensions = vec![Extension::nodes(&["a"]), Extension::offers(&["clock", "map"])];
        let t = Tuple::decode(&t.encode()).unwrap();
        assert_eq!((t.body.offers(), t.body.nodes()), (vec!["clock", "map"], Some(vec!["a"])));
    }

    #[test]
    fn budgets_without_a_place_in_the_request_are_an_extension() {
        let mut t = tuple();
        t.body.request.budgets.flows = Some(3);
        t.body.request.budgets.code = Some(300);
        let long = Extension { tag: Extension::BUDGETS, value: vec![1, 7, 0x85, 0] };
        assert_eq!(long.more_budgets(), None);
        let mut same = tuple();
        same.body.extensions.push(Extension { tag: Extension::BUDGETS, value: vec![2, 7, 0xac, 2, 14, 3] });
        assert_eq!(t.encode(), same.encode());
        // Behind the others, and nowhere else.
        t.body.extensions.push(Extension::nodes(&["a"]));
        let bytes = t.encode();
        assert_eq!(Tuple::decode(&bytes), Ok(t));
        same.body.extensions.push(Extension::nodes(&["a"]));
        assert_eq!(Tuple::decode(&same.encode()), Err(Error::NotCanonical));
        let mut out_of_order = tuple();
        let value = vec![2, 14, 3, 7, 0xac, 2];
        out_of_order.body.extensions.push(Extension { tag: Extension::BUDGETS, value });
        assert!(Tuple::decode(&out_of_order.encode()).is_err());
    }

    /// Written by hand from `docs/wire.md`: what a tuple was before there were more budgets, it is.
    #[test]
    fn a_tuple_keeps_its_bytes() {
        let mut t = tuple();
        t.body.request.budgets = Budgets {
            memory: Some(1 << 20),
            event_us: Some(2000),
            rate: Some(1_250_000),
            burst: Some(16384),
            timers: Some(8),
            cache_entries: Some(300),
            sessions: Some(2),
            ..Budgets::default()
        };
        t.body.extensions.push(Extension::nodes(&["b"]));
        let hex: String = t.encode().iter().map(|byte| alloc::format!("{byte:02x}")).collect();
        assert_eq!(hex, GOLDEN);
    }

    #[test]
    fn a_part_must_match_both_hashes() {
        let mut p = Part::of(b"abc").unwrap();
        assert!(p.matches(b"abc") && !p.matches(b"abd"));
        p.md5[0] ^= 1;
        assert!(!p.matches(b"abc"));
    }

    proptest! {
        #[test]
        fn every_budget_comes_back(bounds in proptest::collection::vec(proptest::option::of(0u64..70_000), Kind::ALL.len())) {
            let mut t = tuple();
            let first = t.encode().len();
            Kind::ALL.into_iter().zip(bounds).for_each(|(kind, n)| t.body.request.budgets.set(kind, n));
            let bytes = t.encode();
            prop_assert!(bytes.len() >= first);
            prop_assert_eq!(Tuple::decode(&bytes), Ok(t));
        }

        #[test]
        fn no_extension_has_two_encodings(value in proptest::collection::vec(any::<u8>(), 0..24)) {
            let mut t = tuple();
            t.body.extensions.push(Extension { tag: Extension::BUDGETS, value });
            let bytes = t.encode();
            if let Ok(t) = Tuple::decode(&bytes) {
                prop_assert_eq!((t.encode(), t.body.extensions.len()), (bytes, 0));
            }
        }

        #[test]
        fn mutated_tuples_are_read_or_refused(at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let mut bytes = tuple().encode();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            if let Ok(t) = Tuple::decode(&bytes) {
                prop_assert_eq!(t.encode(), bytes);
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            if let Ok(t) = Tuple::decode(&bytes) {
                prop_assert_eq!(t.encode(), bytes);
            }
        }
    }
}
