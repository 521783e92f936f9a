//! The numbers of the guest interface, version 1: one table for admission, the linker and the tests.
//!
//! `docs/abi/README.md` states the same for guests; a test here keeps the two equal. Numbers are never
//! given another meaning: a later release adds.

use std::fmt;

use nodeos::slab::{Handle, NoSlot};
use nodeos::team::Resource as Kind;

/// The version that a module's `bees_abi` must have.
pub const VERSION: i32 = 1;
/// The module that imports come from.
pub const MODULE: &str = "bees";
/// Bytes of the inbox.
pub const INBOX: usize = 64;
/// The most bytes of a message between a protocol and its companion, and of its answer.
pub const MAX_MESSAGE: usize = 16 * 1024;
/// The most bytes that one call moves.
pub const MAX_LEN: u32 = 64 * 1024;

/// Why a host function did nothing. The guest gets the number, negated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Error {
    /// The handle names nothing (any more).
    BadHandle = 1,
    /// Pointer and length lie outside the memory, or the length is over [`MAX_LEN`].
    BadPointer = 2,
    /// An argument is out of its range.
    BadArgument = 3,
    /// The capsule object's limit for this operation is used up.
    Depleted = 4,
    /// The team's memory budget, or the node's packet buffers, are used up.
    NoMemory = 5,
    /// The team's bandwidth on that link is used up for now.
    NoBandwidth = 6,
    /// A count is used up, or the bytes do not fit.
    NoRoom = 7,
    /// No such name, key or parameter.
    NotFound = 8,
    /// The capability lacks the right, or the flow lacks the privilege.
    NotPermitted = 9,
    /// The node cannot do it now.
    Unavailable = 10,
    /// The payload is over the neighbor's maximum, or the bytes are more than may be signed.
    TooLarge = 11,
    /// A signature, a tag or a proof is not what it should be.
    WrongProof = 12,
}

impl Error {
    /// All errors, in the order of their numbers.
    pub const ALL: [Self; 12] = [
        Self::BadHandle,
        Self::BadPointer,
        Self::BadArgument,
        Self::Depleted,
        Self::NoMemory,
        Self::NoBandwidth,
        Self::NoRoom,
        Self::NotFound,
        Self::NotPermitted,
        Self::Unavailable,
        Self::TooLarge,
        Self::WrongProof,
    ];

    /// What a guest gets.
    pub const fn code(self) -> i32 {
        -(self as i32)
    }

    /// The name in the documentation.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BadHandle => "BAD_HANDLE",
            Self::BadPointer => "BAD_POINTER",
            Self::BadArgument => "BAD_ARGUMENT",
            Self::Depleted => "DEPLETED",
            Self::NoMemory => "NO_MEMORY",
            Self::NoBandwidth => "NO_BANDWIDTH",
            Self::NoRoom => "NO_ROOM",
            Self::NotFound => "NOT_FOUND",
            Self::NotPermitted => "NOT_PERMITTED",
            Self::Unavailable => "UNAVAILABLE",
            Self::TooLarge => "TOO_LARGE",
            Self::WrongProof => "WRONG_PROOF",
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::error::Error for Error {}

/// A table below its limit grows unless the team's memory is used up.
impl From<NoSlot> for Error {
    fn from(why: NoSlot) -> Self {
        if why == NoSlot::Full { Self::NoRoom } else { Self::NoMemory }
    }
}

/// Flags of `capsule_send`, `capsule_return` and `capsule_multicast`.
pub mod flags {
    /// Send a copy and keep the object.
    pub const KEEP: u32 = 1;
    /// Multicast: not to where the capsule came from.
    pub const NOT_BACK: u32 = 2;
}

/// Rights of a capability.
pub mod rights {
    /// Send through it, sign, seal, open, read a value, keep and remove blobs.
    pub const USE: u32 = 1;
    /// Read its name, its members, its maximum payload, its public key, its blobs.
    pub const READ: u32 = 2;
    /// Make further capabilities and envelopes from it, and take them back.
    pub const DUPLICATE: u32 = 4;
    /// All of them.
    pub const ALL: u32 = USE | READ | DUPLICATE;
}

/// What a budget is of; the numbers of `budget_left`, `flow_limit` and `on_warning`, and (the first three) the bits
/// of what `flow_start` gives away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Resource {
    /// Bytes.
    Memory = 0,
    /// Microseconds of the event's deadline.
    Processor = 1,
    /// Bytes on the link that has the least left.
    Bandwidth = 2,
    /// Bytes of compiled code.
    Code = 3,
    /// Timers that run.
    Timers = 4,
    /// Timers ever set.
    TimersTotal = 5,
    /// Events ever handled.
    EventsTotal = 6,
    /// Open sessions.
    Sessions = 7,
    /// Soft-state entries.
    CacheEntries = 8,
    /// Flows below it.
    Flows = 9,
    /// Flows ever below it.
    FlowsTotal = 10,
    /// Bytes ever downloaded.
    Download = 11,
    /// Microseconds ever spent on compiling.
    Compile = 12,
}

impl Resource {
    /// All of them in the order of their numbers, and what the node calls them.
    const ALL: [(Self, Kind); 13] = [
        (Self::Memory, Kind::Memory),
        (Self::Processor, Kind::Processor),
        (Self::Bandwidth, Kind::Rate),
        (Self::Code, Kind::Code),
        (Self::Timers, Kind::Timers),
        (Self::TimersTotal, Kind::TimersTotal),
        (Self::EventsTotal, Kind::EventsTotal),
        (Self::Sessions, Kind::Sessions),
        (Self::CacheEntries, Kind::CacheEntries),
        (Self::Flows, Kind::Teams),
        (Self::FlowsTotal, Kind::TeamsTotal),
        (Self::Download, Kind::Download),
        (Self::Compile, Kind::Compile),
    ];

    /// The resource of this number.
    pub fn of(number: i32) -> Option<Self> {
        Self::ALL.get(usize::try_from(number).ok()?).map(|(resource, _)| *resource)
    }

    /// The resource that the node calls so, if guests are told of it.
    pub fn of_kind(kind: Kind) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| *known == kind).map(|(resource, _)| *resource)
    }

    /// What the node calls it.
    pub fn kind(self) -> Kind {
        Self::ALL[self as usize].1
    }
}

/// How urgent a log line is; the numbers of `log`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(i32)]
pub enum Level {
    /// The protocol cannot do what it is for.
    Error = 0,
    /// Something is not as it should be.
    Warn = 1,
    /// Worth a line.
    Info = 2,
    /// For whoever writes the protocol.
    Debug = 3,
}

impl Level {
    /// Its name in the log.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warning",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }

    /// The level of this number.
    pub const fn of(number: i32) -> Option<Self> {
        match number {
            0 => Some(Self::Error),
            1 => Some(Self::Warn),
            2 => Some(Self::Info),
            3 => Some(Self::Debug),
            _ => None,
        }
    }
}

/// What happened to a session; the numbers of `on_session`'s `what`.
pub mod session {
    /// A program opened it.
    pub const OPEN: i32 = 0;
    /// The program sent a packet.
    pub const PACKET: i32 = 1;
    /// The program is gone.
    pub const CLOSE: i32 = 2;
    /// The program has read so much that a reply is taken again; only after one was refused for want of room.
    pub const ROOM: i32 = 3;
}

/// Work units that host functions are charged, before they work. A unit is about one WebAssembly
/// instruction.
pub mod cost {
    /// Every call.
    pub const CALL: u64 = 40;
    /// Every 64 bytes (or part of it) that are moved or compared.
    pub const PER_64: u64 = 4;
    /// Every frame that is queued: its way out of the node.
    pub const FRAME: u64 = 400;
    /// An entry of soft state, a timer, a session's packet, a log line.
    pub const ENTRY: u64 = 200;
    /// Every 64 bytes that are hashed, encrypted or made at random.
    pub const HASH_64: u64 = 500;
    /// A signature by the node.
    pub const SIGN: u64 = 100_000;
    /// The check of an Ed25519 signature.
    pub const VERIFY: u64 = 200_000;
    /// The check of an RSA signature.
    pub const VERIFY_RSA: u64 = 800_000;

    /// The charge for moving `len` bytes.
    pub const fn moved(len: u32) -> u64 {
        CALL + (len as u64).div_ceil(64) * PER_64
    }
}

/// The number by which a guest knows `handle`: 16 bits of generation over 15 of index, so that it is
/// above 0 and never mistaken for an error. Tables that guests see have at most [`MAX_NAMED`] members.
pub(crate) fn number_of(handle: Handle) -> u32 {
    u32::from(handle.generation()) << 15 | (handle.index() as u32 & 0x7fff)
}

/// The handle of which a guest says the number.
pub(crate) fn named(number: u32) -> Option<Handle> {
    if number >> 31 != 0 {
        return None;
    }
    Handle::from_raw((number >> 15) << 16 | (number & 0x7fff))
}

/// The most members of a table whose handles guests see.
pub(crate) const MAX_NAMED: usize = 1 << 15;

/// A value's type: all that the interface uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ty {
    /// 32 bits.
    I32,
    /// 64 bits.
    I64,
}

/// A function that crosses the boundary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signature {
    /// Its name.
    pub name: &'static str,
    /// Its parameters.
    pub params: &'static [Ty],
    /// Its results.
    pub results: &'static [Ty],
}

/// As a module's text imports it, under its own name.
impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name;
        write!(f, "(import \"{MODULE}\" \"{name}\" (func ${name}")?;
        for (kind, types) in [("param", self.params), ("result", self.results)] {
            write!(f, " ({kind}")?;
            for ty in types {
                f.write_str(if *ty == Ty::I64 { " i64" } else { " i32" })?;
            }
            f.write_str(")")?;
        }
        f.write_str("))")
    }
}

/// All imports, for the guests of tests and measurements that are written as text.
pub fn imports() -> String {
    IMPORTS.iter().map(|import| format!("{import}\n")).collect()
}

macro_rules! signatures {
    ($($name:ident($($param:ident),*) $(-> $result:ident)?;)*) => {
        &[$(Signature {
            name: stringify!($name),
            params: &[$(Ty::$param),*],
            results: &[$(Ty::$result)?],
        }),*]
    };
}

/// What a module may import.
pub const IMPORTS: &[Signature] = signatures! {
    capsule_len(I32) -> I32;
    capsule_kind(I32) -> I32;
    capsule_read(I32, I32, I32, I32) -> I32;
    capsule_write(I32, I32, I32, I32) -> I32;
    capsule_resize(I32, I32) -> I32;
    capsule_left(I32, I32) -> I32;
    capsule_derive(I32, I32) -> I32;
    capsule_send(I32, I32, I32) -> I32;
    capsule_return(I32, I32) -> I32;
    capsule_multicast(I32, I32, I32) -> I32;
    capsule_drop(I32) -> I32;
    cap_lookup(I32, I32) -> I32;
    cap_name(I32, I32, I32) -> I32;
    cap_duplicate(I32, I32) -> I32;
    cap_drop(I32) -> I32;
    cap_revoke(I32) -> I32;
    neighborhood_list(I32, I32, I32) -> I32;
    neighborhood_make(I32, I32) -> I32;
    neighbor_max_payload(I32) -> I32;
    neighbor_serve(I32, I32) -> I32;
    integrity_set(I32, I32, I32) -> I32;
    integrity_clear(I32) -> I32;
    cache_put(I32, I32, I32, I32, I32) -> I32;
    cache_get(I32, I32, I32, I32) -> I32;
    cache_refresh(I32, I32, I32) -> I32;
    cache_remove(I32, I32) -> I32;
    timer_set(I64, I64, I64) -> I32;
    timer_cancel(I32) -> I32;
    session_read(I32, I32, I32, I32) -> I32;
    session_reply(I32, I32, I32) -> I32;
    session_close(I32) -> I32;
    node_name(I32, I32) -> I32;
    flow_hash(I32) -> I32;
    param_get(I32, I32, I32, I32) -> I32;
    data_read(I32, I32, I32, I32, I32) -> I32;
    clock_mono() -> I64;
    clock_wall() -> I64;
    random(I32, I32) -> I32;
    log(I32, I32, I32) -> I32;
    budget_left(I32) -> I64;
    hash_sha256(I32, I32, I32) -> I32;
    hash_md5(I32, I32, I32) -> I32;
    hmac_sha256(I32, I32, I32, I32, I32) -> I32;
    signature_check(I32, I32, I32, I32, I32, I32, I32) -> I32;
    aead_seal(I32, I32, I32, I32, I32, I32) -> I32;
    aead_open(I32, I32, I32, I32, I32, I32) -> I32;
    key_sign(I32, I32, I32, I32) -> I32;
    key_public(I32, I32) -> I32;
    sensor_list(I32, I32, I32) -> I32;
    sensor_read(I32, I32, I32, I32) -> I32;
    blob_put(I32, I32, I32, I32, I32) -> I32;
    blob_get(I32, I32, I32, I32, I32, I32) -> I32;
    blob_len(I32, I32, I32) -> I32;
    blob_list(I32, I32, I32, I32) -> I32;
    blob_remove(I32, I32, I32) -> I32;
    seal_make(I32) -> I32;
    envelope_make(I32, I32, I32, I32) -> I32;
    envelope_seal(I32, I32) -> I32;
    envelope_lock(I32, I32, I32, I32) -> I32;
    envelope_open(I32, I32, I32, I32) -> I32;
    envelope_void(I32) -> I32;
    flow_start(I32, I32, I32, I32) -> I32;
    flow_state(I32) -> I32;
    flow_stop(I32, I32) -> I32;
    flow_limit(I32, I32, I64) -> I32;
    flow_end() -> I32;
    companion_call(I32, I32, I32, I32) -> I32;
    companion_read(I32, I32, I32) -> I32;
    companion_reply(I32, I32) -> I32;
    companion_answer(I32, I32, I32) -> I32;
    companion_deny(I32, I32) -> I32;
    handover_write(I32, I32) -> I32;
    handover_read(I32, I32, I32) -> I32;
    handover_session(I32) -> I32;
    neighbor_watch(I32, I64, I64) -> I32;
    neighbor_unwatch(I32) -> I32;
    neighbor_alive(I32) -> I32;
    nodes_known(I32, I32, I32, I32) -> I32;
    companion_ask(I32, I32, I32, I32) -> I32;
    companion_settle(I32, I32, I32, I32) -> I32;
    companion_caller(I32, I32) -> I32;
    event_since() -> I64;
    link_waiting(I32, I32) -> I32;
};

/// What a module may export for the node to call.
pub const HANDLERS: &[Signature] = signatures! {
    on_boot(I32);
    on_capsule(I32, I32, I32, I32);
    on_timer(I32, I32, I64);
    on_session(I32, I32, I32, I32);
    on_expiry(I32) -> I32;
    on_warning(I32);
    on_companion(I32, I32, I32, I32) -> I32;
    on_flow(I32, I32);
    on_call(I32, I32, I32, I32);
    on_answer(I32, I32, I32, I32);
    on_stop();
    on_handover() -> I32;
    on_takeover(I32, I32) -> I32;
    on_neighbor(I32, I32);
};

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = include_str!("../../docs/abi/README.md");

    fn rows(heading: &str) -> impl Iterator<Item = Vec<&'static str>> {
        let section = PAGE.split(heading).nth(1).unwrap().split("\n## ").next().unwrap();
        section
            .lines()
            .filter(|l| l.starts_with('|'))
            .skip(2)
            .map(|l| l.trim_matches('|').split('|').map(|c| c.trim().trim_matches('`')).collect())
    }

    #[test]
    fn resources_have_their_numbers_and_names() {
        let list = PAGE.split("| `on_warning` |").nth(1).unwrap().lines().next().unwrap();
        for (number, (resource, kind)) in (0..).zip(Resource::ALL) {
            assert_eq!(
                (resource as i32, Resource::of(number), resource.kind()),
                (number, Some(resource), kind)
            );
            assert_eq!(Resource::of_kind(kind), Some(resource));
            assert!(list.contains(&format!(" {number} ")), "docs/abi/README.md lacks {number}");
        }
        assert_eq!((Resource::of(-1), Resource::of(13), Resource::of_kind(Kind::Queue)), (None, None, None));
    }

    #[test]
    fn handles_are_positive_and_come_back() {
        for raw in [0x1_0000, 0x8000_0000, 0xffff_7fff, 0x1234_0042] {
            let handle = Handle::from_raw(raw).unwrap();
            assert!(number_of(handle) as i32 > 0);
            assert_eq!(named(number_of(handle)), Some(handle));
        }
        for lie in [0, 1, 0x7fff, 0x8000_0000, u32::MAX] {
            assert_eq!(named(lie), None);
        }
    }

    #[test]
    fn the_page_has_these_errors() {
        let page: Vec<_> = rows("## Results").map(|r| (r[0].parse::<i32>().unwrap(), r[1])).collect();
        let here: Vec<_> = Error::ALL.iter().map(|e| (-e.code(), e.name())).collect();
        assert_eq!(page, here);
    }

    #[test]
    fn the_page_has_these_functions() {
        // Parameters of a row: split at commas, and "ptr, len (name)" or "after_us: i64" are one each.
        let page: Vec<(String, usize)> = rows("## Functions")
            .map(|r| {
                let count = r[1].split(',').filter(|p| *p != "-").count();
                (r[0].to_string(), count)
            })
            .collect();
        let here: Vec<_> = IMPORTS.iter().map(|s| (s.name.to_string(), s.params.len())).collect();
        assert_eq!(page, here);
        for r in rows("## Functions") {
            let here = IMPORTS.iter().find(|s| s.name == r[0]).unwrap();
            assert_eq!(here.results == [Ty::I64], r[2].starts_with("i64"), "{}", r[0]);
            let page: Vec<bool> = r[1].split(',').filter(|p| *p != "-").map(|p| p.contains("i64")).collect();
            let mine: Vec<bool> = here.params.iter().map(|t| *t == Ty::I64).collect();
            assert_eq!(page, mine, "{}", r[0]);
        }
    }

    #[test]
    fn the_page_has_these_handlers() {
        let page: Vec<(&str, usize)> = rows("## Exports")
            .filter(|r| r[0].starts_with("on_"))
            .map(|r| {
                let params = r[1].split(')').next().unwrap().trim_matches(['`', '(']);
                (r[0], params.split(',').filter(|p| !p.is_empty()).count())
            })
            .collect();
        let here: Vec<_> = HANDLERS.iter().map(|s| (s.name, s.params.len())).collect();
        assert_eq!(page, here);
    }
}
