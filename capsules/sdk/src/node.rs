//! What a protocol can ask of the node that it runs on.

use crate::error::{Error, check, done};
use crate::session::parse;
use crate::sys;

/// What a budget is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Resource {
    /// Bytes.
    Memory = 0,
    /// Time of the event's deadline.
    Processor = 1,
    /// Bytes on links.
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
    /// Flows below this one.
    Flows = 9,
    /// Flows ever below this one.
    FlowsTotal = 10,
    /// Bytes ever downloaded.
    Download = 11,
    /// Microseconds ever spent on compiling.
    Compile = 12,
}

impl Resource {
    /// The resource of this number.
    pub const fn of(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::Memory),
            1 => Some(Self::Processor),
            2 => Some(Self::Bandwidth),
            3 => Some(Self::Code),
            4 => Some(Self::Timers),
            5 => Some(Self::TimersTotal),
            6 => Some(Self::EventsTotal),
            7 => Some(Self::Sessions),
            8 => Some(Self::CacheEntries),
            9 => Some(Self::Flows),
            10 => Some(Self::FlowsTotal),
            11 => Some(Self::Download),
            12 => Some(Self::Compile),
            _ => None,
        }
    }
}

/// The node's name, as much as fits `buffer`.
pub fn name(buffer: &mut [u8]) -> Result<&[u8], Error> {
    let n = check(sys::node_name(buffer))? as usize;
    let n = n.min(buffer.len());
    Ok(&buffer[..n])
}

/// The longest name of a node, in bytes.
pub const MAX_NAME: usize = 32;

/// The node's number: the short hash of its name.
pub fn id() -> u64 {
    let mut buffer = [0; MAX_NAME];
    short_hash(name(&mut buffer).unwrap_or(b"?"))
}

/// A number above 0 that is hardly ever drawn twice: at random, or from clock and name where the node has nothing
/// random.
pub fn unique() -> u64 {
    let mut bytes = [0; 8];
    match random(&mut bytes) {
        Ok(()) => u64::from_le_bytes(bytes).max(1),
        Err(_) => mix(clock() ^ id()).max(1),
    }
}

/// SHA-256 of the flow's tuple: the flow's name.
pub fn flow_hash() -> Result<[u8; 32], Error> {
    let mut hash = [0; 32];
    done(sys::flow_hash(&mut hash))?;
    Ok(hash)
}

/// A parameter's value, as much as fits `buffer`.
pub fn param<'a>(name: &str, buffer: &'a mut [u8]) -> Result<&'a [u8], Error> {
    let n = check(sys::param_get(name.as_bytes(), buffer))? as usize;
    let n = n.min(buffer.len());
    Ok(&buffer[..n])
}

/// A parameter's value as a decimal number.
pub fn param_number(name: &str) -> Option<u32> {
    let mut buffer = [0; 11];
    parse(param(name, &mut buffer).ok()?)
}

/// A parameter's value as a decimal number, or this where it is none.
pub fn param_or(name: &str, or: u32) -> u32 {
    param_number(name).unwrap_or(or)
}

/// Copies from a data part of the flow.
pub fn data<'a>(name: &str, offset: usize, buffer: &'a mut [u8]) -> Result<&'a [u8], Error> {
    let n = check(sys::data_read(name.as_bytes(), offset as u32, buffer))? as usize;
    buffer.get(..n).ok_or(Error::Unavailable)
}

/// Microseconds since the node's start.
pub fn clock() -> u64 {
    sys::clock_mono().max(0) as u64
}

/// When what the running event is about came, on the same clock: of a capsule, when the node was handed its frame.
pub fn since() -> u64 {
    sys::event_since().max(0) as u64
}

/// Seconds since 1970, where the node knows.
pub fn wall_clock() -> Option<u64> {
    u64::try_from(sys::clock_wall()).ok()
}

/// Fills `buffer` with random bytes.
pub fn random(buffer: &mut [u8]) -> Result<(), Error> {
    done(sys::random(buffer))
}

/// What is left of a budget.
pub fn budget_left(resource: Resource) -> Result<u64, Error> {
    let left = sys::budget_left(resource as i32);
    u64::try_from(left).map_err(|_| Error::of(left as i32))
}

/// SHA-256.
pub fn sha256(bytes: &[u8]) -> Result<[u8; 32], Error> {
    let mut hash = [0; 32];
    done(sys::hash_sha256(bytes, &mut hash))?;
    Ok(hash)
}

/// MD5: a name, not a proof.
pub fn md5(bytes: &[u8]) -> Result<[u8; 16], Error> {
    let mut hash = [0; 16];
    done(sys::hash_md5(bytes, &mut hash))?;
    Ok(hash)
}

/// A 64-bit name for `bytes`, made in the guest: FNV-1a, then a finalizer that spreads it over all bits.
/// Not for anything that an enemy can choose.
pub fn short_hash(bytes: &[u8]) -> u64 {
    let fnv = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |h: u64, &b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    mix(fnv)
}

/// Spreads a number over all bits (the finalizer of splitmix64).
pub fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
