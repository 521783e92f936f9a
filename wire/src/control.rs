//! Requests of the `bees` command and a node's answers.
//!
//! Inside the Noise session (`authagent::channel`) every message is one postcard value of at most
//! [`MAX_MESSAGE`] bytes. The client first sends [`Login`] and reads a [`LoginAnswer`]; then each
//! [`Request`] is followed by one [`Answer`], in order. Long lists come in pages: the answer says from
//! where to ask on.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use serde::{Deserialize, Serialize};

use crate::budget::{Budgets, Kind};
use crate::grant::Grant;
use crate::id::{CapsuleId, PartHash, TupleHash};
use crate::tuple::Scheme;

/// The control protocol written here.
pub const VERSION: u16 = 4;
/// The longest message, in bytes: what fits one Noise message.
pub const MAX_MESSAGE: usize = 60_000;
/// The longest piece of a part in one [`Request::PartPut`], in bytes.
pub const MAX_PIECE: usize = 48 * 1024;
/// The longest policy, in bytes.
pub const MAX_POLICY: usize = 48 * 1024;

/// A client says who it is, after the handshake.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    /// [`VERSION`].
    pub version: u16,
    /// The principal's name.
    pub principal: String,
    /// How the proof is made.
    pub scheme: Scheme,
    /// The principal's signature over `bees control 1` and the handshake hash.
    pub proof: Vec<u8>,
}

/// What a principal's signature covers in front of the handshake hash.
pub const LOGIN_CONTEXT: &[u8] = b"bees control 1";

/// The node's answer to a [`Login`]. A refusal does not say why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LoginAnswer {
    /// Requests are welcome.
    Welcome {
        /// The node's name.
        node: String,
        /// The node's [`VERSION`].
        version: u16,
    },
    /// Unknown principal, wrong proof or unknown version.
    Refused,
}

/// What a client asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// The node itself.
    NodeShow,
    /// Its links.
    LinkShow,
    /// Its neighbors.
    NeighborShow,
    /// Its teams, from this position.
    TeamShow {
        /// Position of the first one wanted.
        from: u32,
    },
    /// Its flows, from this position.
    FlowShow {
        /// Position of the first one wanted.
        from: u32,
    },
    /// The bytes of a flow's tuple.
    FlowTuple {
        /// The flow.
        flow: TupleHash,
    },
    /// The code cache.
    ProtocolShow,
    /// Lines of the log with a number of at least this.
    Log {
        /// Number of the first line wanted.
        from: u64,
    },
    /// A piece of a module or data part, ahead of the tuple that names it.
    PartPut {
        /// The part.
        part: PartHash,
        /// Its length in bytes.
        total: u32,
        /// Position of the piece.
        offset: u32,
        /// The piece.
        bytes: Vec<u8>,
    },
    /// Start a flow here; its parts were put before.
    FlowInject {
        /// The tuple's bytes.
        tuple: Vec<u8>,
    },
    /// End a flow here.
    FlowStop {
        /// The flow.
        flow: TupleHash,
        /// At once, without the flow's own clean-up.
        kill: bool,
    },
    /// Lower a flow's budgets here; nothing is raised.
    FlowLimit {
        /// The flow.
        flow: TupleHash,
        /// What is named is bounded.
        budgets: Budgets,
    },
    /// The Auth Agent's policy.
    PolicyShow,
    /// Gives the Auth Agent another policy, which is checked first and then holds for running flows, too.
    PolicyLoad {
        /// At most [`MAX_POLICY`] bytes, in the agent's own format.
        text: String,
    },
    /// Hands a [`crate::revoke::Revocation`] to the Auth Agent.
    FlowRevoke {
        /// Its encoding.
        revocation: Vec<u8>,
    },
    /// The areas of the blob store, from this position.
    BlobShow {
        /// Position of the first one wanted.
        from: u32,
    },
    /// Removes a blob, or a whole area.
    BlobRemove {
        /// The area: the flow whose it is, or zeros for the node's own.
        area: TupleHash,
        /// The blob's name; without one all of the area's.
        name: Option<Vec<u8>>,
    },
    /// The channels, from this position.
    ChannelShow {
        /// Position of the first one wanted.
        from: u32,
    },
    /// Opens a cut-through channel.
    ChannelAdd {
        /// Capsules from this neighbor.
        from: String,
        /// Of this identifier.
        capsule: CapsuleId,
        /// Go to this neighbor.
        to: String,
        /// At the expense of this flow; without one at that of the operator's own team.
        flow: Option<TupleHash>,
    },
    /// Closes a cut-through channel.
    ChannelRemove {
        /// That of capsules from this neighbor.
        from: String,
        /// Of this identifier.
        capsule: CapsuleId,
    },
    /// What happened to neighbors that are watched or discovered, with a number of at least this.
    NeighborEvents {
        /// Number of the first one wanted.
        from: u64,
    },
    /// The nodes that are known by adverts, from this position.
    KnownShow {
        /// Position of the first one wanted.
        from: u32,
    },
    /// Has the node watch its neighbors with these times, for as long as this is asked again and again; what happened to
    /// them as seen so, with a number of at least this.
    NeighborWatch {
        /// Number of the first one wanted.
        from: u64,
        /// Microseconds between two pokes.
        poke_us: u64,
        /// Microseconds of silence after which a neighbor is dead.
        expire_us: u64,
    },
}

/// What a node answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Done.
    Done,
    /// Not done.
    Error(ControlError),
    /// To [`Request::NodeShow`].
    Node(NodeInfo),
    /// To [`Request::LinkShow`].
    Links(Vec<LinkInfo>),
    /// To [`Request::NeighborShow`].
    Neighbors(Vec<NeighborInfo>),
    /// To [`Request::TeamShow`].
    Teams(Page<TeamInfo>),
    /// To [`Request::FlowShow`].
    Flows(Page<FlowInfo>),
    /// To [`Request::FlowTuple`].
    Tuple(Vec<u8>),
    /// To [`Request::ProtocolShow`].
    Protocols(Vec<ProtocolInfo>),
    /// To [`Request::Log`].
    Log(Vec<LogEntry>),
    /// To [`Request::FlowInject`]: accepted for judgement; [`FlowInfo::state`] tells what became of it.
    Injected(TupleHash),
    /// To [`Request::PolicyShow`].
    Policy {
        /// The Auth Agent's name.
        agent: String,
        /// The policy in force, as it was given; empty if there is none.
        text: String,
    },
    /// To [`Request::BlobShow`].
    Blobs {
        /// The areas.
        areas: Page<AreaInfo>,
        /// Bytes that they take on the device, and how many they may, if there is one.
        device: Option<(u64, u64)>,
    },
    /// To [`Request::ChannelShow`].
    Channels(Page<ChannelInfo>),
    /// To [`Request::NeighborEvents`] and [`Request::NeighborWatch`].
    NeighborEvents(Vec<NeighborEvent>),
    /// To [`Request::KnownShow`].
    Known(Page<KnownNode>),
}

/// Who is to blame for an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Erred {
    /// A neighbor or another node.
    Peer,
    /// Code that runs in a team.
    Guest,
    /// Whoever answers for a flow, or made it.
    Principal,
    /// Whoever runs the node, or asked through the control protocol.
    Operator,
    /// This node.
    Node,
}

impl fmt::Display for Erred {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Peer => "peer",
            Self::Guest => "guest",
            Self::Principal => "principal",
            Self::Operator => "operator",
            Self::Node => "node",
        })
    }
}

/// A request that was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlError {
    /// Who is to blame.
    pub erred: Erred,
    /// What is wrong and what to do about it.
    pub text: String,
}

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (blame: {})", self.text, self.erred)
    }
}

impl core::error::Error for ControlError {}

/// A part of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page<T> {
    /// The members.
    pub items: Vec<T>,
    /// Where to ask on, if there is more.
    pub next: Option<u32>,
}

/// A named count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counter {
    /// Its name, as in `docs/counters.md`.
    pub name: String,
    /// Its value.
    pub value: u64,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Its name.
    pub name: String,
    /// The release.
    pub release: String,
    /// Where it runs: `hermit`, `linux` or `sim`.
    pub platform: String,
    /// Its Ed25519 identity key.
    pub identity: [u8; 32],
    /// The Auth Agent's name.
    pub agent: String,
    /// Microseconds since start.
    pub uptime_us: u64,
    /// Seconds since 1970, if the node knows.
    pub wall: Option<u64>,
    /// Bytes charged to teams, and how many there may be.
    pub memory: (u64, u64),
    /// Packet buffers lent, and how many there are.
    pub buffers: (u32, u32),
    /// Flows that run, and how many may.
    pub flows: (u32, u32),
    /// Bytes of compiled code that are here, and bytes that running flows are charged for code beyond what it
    /// takes, because they share it.
    pub code: (u64, u64),
    /// Everything that the node counts.
    pub counters: Vec<Counter>,
}

/// A link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkInfo {
    /// Its name.
    pub name: String,
    /// The MAC address.
    pub mac: [u8; 6],
    /// The IP address with its prefix length, if it has one.
    pub address: Option<String>,
    /// Largest frame payload, in bytes.
    pub mtu: u16,
    /// Bytes per second, if bounded.
    pub rate: Option<u64>,
    /// Frames and bytes received.
    pub received: (u64, u64),
    /// Frames and bytes sent.
    pub sent: (u64, u64),
    /// Frames dropped on the way out.
    pub dropped: u64,
    /// Frames that wait to be sent.
    pub waiting: u32,
}

/// A channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChannelInfo {
    /// Where capsules arrive.
    In {
        /// The link.
        link: String,
        /// The node's own address there: a MAC address, or an IP address and port.
        address: String,
    },
    /// The way to a neighbor.
    Out {
        /// The link.
        link: String,
        /// The neighbor's name.
        neighbor: String,
        /// Its address: a MAC address, or an IP address and port.
        address: String,
        /// Whether what passes is sealed.
        protection: Protection,
    },
    /// The way from one neighbor to another without the execution environment.
    CutThrough(CutInfo),
}

/// A cut-through channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutInfo {
    /// The link that capsules come on, and the neighbor that they come from.
    pub from: (String, String),
    /// Their identifier.
    pub capsule: CapsuleId,
    /// The link that they go on, and the neighbor that they go to.
    pub to: (String, String),
    /// That neighbor's address.
    pub address: String,
    /// The number and name of the team that pays.
    pub team: (u32, String),
    /// The flow that this team runs.
    pub flow: Option<TupleHash>,
    /// Capsules that passed, and their bytes without the carrier's headers.
    pub passed: (u64, u64),
    /// Capsules that were dropped: beyond the team's rate, too long, or without room on the link.
    pub dropped: u64,
}

/// A neighbor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeighborInfo {
    /// Its name.
    pub name: String,
    /// The link it is on.
    pub link: String,
    /// Its address: a MAC address, or an IP address and port.
    pub address: String,
    /// Longest capsule payload, in bytes.
    pub max_payload: u16,
    /// Capsules received from it.
    pub received: u64,
    /// Capsules sent to it.
    pub sent: u64,
    /// Capsules from it that were refused.
    pub refused: u64,
    /// Microseconds since the last one, if any came.
    pub last_heard_us: Option<u64>,
    /// Whether the link to it is protected.
    pub protection: Protection,
    /// Whether it is there, if it is watched.
    pub alive: Option<Alive>,
    /// It was discovered, and is not in the configuration.
    pub discovered: bool,
}

/// A node that is known by adverts. Nobody proves what is in them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownNode {
    /// What it calls itself.
    pub name: String,
    /// How far it is; 1 is a neighbor.
    pub hops: u8,
    /// Microseconds since it said anything itself.
    pub heard_us: u64,
    /// Microseconds for which it is still believed to be there.
    pub left_us: u64,
    /// The link from which that was heard.
    pub link: String,
    /// What it is called as a neighbor, if it is one.
    pub neighbor: Option<String>,
}

/// What is known of a neighbor that is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alive {
    /// It returns pokes.
    pub up: bool,
    /// Microseconds since it began to, or stopped.
    pub since_us: u64,
    /// Microseconds that a poke takes there and back, if one came back since.
    pub rtt_us: Option<u64>,
}

/// Something happened to a neighbor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeighborEvent {
    /// Its number, from 0.
    pub number: u64,
    /// When, in microseconds since the node's start of time.
    pub at_us: u64,
    /// The neighbor.
    pub name: String,
    /// What happened to it.
    pub news: NeighborNews,
}

/// What may happen to a neighbor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NeighborNews {
    /// It does not answer any more.
    Dead,
    /// It answers again.
    Alive,
    /// It was discovered.
    Found,
    /// It was discovered once, and nothing has been heard of it for too long.
    Gone,
}

impl NeighborNews {
    /// A word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dead => "dead",
            Self::Alive => "alive",
            Self::Found => "found",
            Self::Gone => "gone",
        }
    }
}

/// Whether and how the link to a neighbor is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Protection {
    /// It is not.
    None,
    /// It is to be, and the node has no random bytes for keys: nothing is sent or accepted.
    Closed,
    /// The neighbor has not proven who it is (any more): nothing is sent or accepted.
    Handshake,
    /// The neighbor proved that it is this Ed25519 identity.
    Protected {
        /// The identity.
        identity: [u8; 32],
        /// Microseconds since the keys were made.
        age_us: u64,
    },
}

impl Protection {
    /// In a word.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Closed => "closed",
            Self::Handshake => "handshake",
            Self::Protected { .. } => "protected",
        }
    }
}

/// A team.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TeamInfo {
    /// Its number.
    pub id: u32,
    /// Its parent's.
    pub parent: Option<u32>,
    /// Its name.
    pub name: String,
    /// The flow that it runs.
    pub flow: Option<TupleHash>,
    /// Bytes used, the highest ever, and the limit.
    pub memory: (u64, u64, u64),
    /// Microseconds of processor time used in all. Of the root: what nobody could be charged for.
    pub cpu_us: u64,
    /// Of these: for compiling and starting its code, and for answering other nodes about it.
    pub work_us: (u64, u64),
    /// Shares of processor time: beside the other teams below its parent, and of its own events beside the
    /// teams below it.
    pub shares: (u32, u32),
    /// What it may use, of each kind.
    pub budgets: Vec<BudgetInfo>,
    /// The deadline of one event, in microseconds.
    pub event_us: u32,
    /// Events handled, waiting, and dropped.
    pub events: (u64, u32, u64),
    /// Bytes sent, and bytes per second allowed on each link.
    pub sent: (u64, Option<u64>),
    /// Operations refused for want of budget.
    pub refused: u64,
    /// Microseconds in which its own budgets held it back: events that waited while it was throttled, and frames that
    /// were refused, from then until they would have passed.
    pub throttled_us: u64,
    /// Strikes against it.
    pub strikes: u32,
}

/// One of a team's budgets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetInfo {
    /// Of what.
    pub kind: Kind,
    /// How much of it is in use, or was spent, by the team and those below it; none: that is not counted.
    pub used: Option<u64>,
    /// How much may be; none: as much as the parent has.
    pub limit: Option<u64>,
    /// The team has it for itself: its parent donated it.
    pub donated: bool,
}

/// A flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowInfo {
    /// Its name on the wire.
    pub hash: TupleHash,
    /// The main protocol's name.
    pub name: String,
    /// What it is doing.
    pub state: FlowState,
    /// Who answers for it.
    pub principal: Option<String>,
    /// The principal that injected it here, if it did not come from a neighbor.
    pub injected_by: Option<String>,
    /// Its team, once there is one.
    pub team: Option<u32>,
    /// The neighbor that the tuple came from; none where it was injected.
    pub source: Option<String>,
    /// What it was granted, once judged.
    pub grant: Option<Grant>,
    /// What the way here cost.
    pub arrival: Arrival,
    /// Capsules processed, sent, and refused.
    pub capsules: (u64, u64, u64),
    /// Sessions open.
    pub sessions: u32,
    /// How it failed here lately, in this life and in earlier ones, oldest first; few are kept.
    pub crashes: Vec<Crash>,
    /// The flow that it takes over from, and what came of that here.
    pub replaces: Option<Replaced>,
    /// The flow that took over from it here.
    pub replaced_by: Option<TupleHash>,
}

/// What a flow has from the one that it takes over from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replaced {
    /// The other flow.
    pub flow: TupleHash,
    /// That one was here, and this one runs in its place.
    pub here: bool,
    /// Identifiers that it still takes for the other one, and for those before that.
    pub identifiers: u32,
    /// Capsules with these that it got, and that were dropped because their type has no successor.
    pub capsules: (u64, u64),
}

/// How a guest failed: it trapped (a panic is a trap), or ran past the deadline of its event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Crash {
    /// When, in microseconds since the node's start.
    pub at_us: u64,
    /// What it was doing: a capsule and its type, or another event.
    pub during: String,
    /// What the node saw, with the function's name or number.
    pub why: String,
    /// What it said last: the last line that it logged as an error in that event. The SDK's panics say where.
    pub said: Option<String>,
}

impl fmt::Display for Crash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { during, why, said, .. } = self;
        write!(f, "{why}, in {during}")?;
        said.as_ref().map_or(Ok(()), |said| write!(f, ": {said}"))
    }
}

/// The states of a flow on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FlowState {
    /// Its tuple is being downloaded.
    Tuple,
    /// The Auth Agent is judging it.
    Judging,
    /// Its parts are being downloaded.
    Download,
    /// Its modules are being compiled.
    Compile,
    /// It runs.
    Running,
    /// It ended, and why.
    Ended(String),
    /// It could run, and waits for the flow that it takes over from.
    Standby,
}

/// How long each stage of a flow's arrival took, and what crossed the link for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Arrival {
    /// Bytes of tuple and parts that were downloaded.
    pub bytes: u64,
    /// Requests that had to be repeated.
    pub retries: u32,
    /// From the first unknown capsule to the translation, in microseconds.
    pub translate_us: u64,
    /// Download of the tuple.
    pub tuple_us: u64,
    /// The Auth Agent's judgement.
    pub judge_us: u64,
    /// Download of the parts.
    pub download_us: u64,
    /// Static checks and compilation, including the wait for the compiler.
    pub compile_us: u64,
    /// Instantiation.
    pub start_us: u64,
}

/// A module in the code cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProtocolInfo {
    /// The module.
    pub code: PartHash,
    /// Its length in bytes.
    pub len: u32,
    /// Bytes of machine code and metadata.
    pub compiled: u64,
    /// Teams that use it.
    pub users: u32,
}

/// What a flow, or the node itself, keeps in the blob store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AreaInfo {
    /// The flow; zeros for the node itself.
    pub owner: TupleHash,
    /// Its name, if it runs.
    pub flow: Option<String>,
    /// The blobs, in the order of their names.
    pub blobs: Vec<BlobInfo>,
    /// Bytes that it is charged.
    pub charged: u64,
    /// Whether somebody who runs pays for it.
    pub claimed: bool,
    /// Blobs that were damaged on the device.
    pub damaged: u64,
}

/// A blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobInfo {
    /// Its name: any 1 to 64 bytes.
    pub name: Vec<u8>,
    /// Its length in bytes.
    pub len: u32,
}

/// A line of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEntry {
    /// Its number; numbers never repeat.
    pub number: u64,
    /// Microseconds since the node's start.
    pub at_us: u64,
    /// The text.
    pub text: String,
    /// What it is about.
    pub class: LogClass,
}

/// What a line of the log is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum LogClass {
    /// The node itself.
    Node,
    /// What flows do.
    Flow,
    /// A guest's own words.
    Guest,
    /// Something from outside that was refused.
    Refused,
    /// Who was allowed what: every grant, denial, revocation, clamp, login and policy.
    Audit,
}

impl fmt::Display for LogClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Node => "node",
            Self::Flow => "flow",
            Self::Guest => "guest",
            Self::Refused => "refused",
            Self::Audit => "audit",
        })
    }
}

/// Reads a message. `None`: the other side sent something else.
pub fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Option<T> {
    crate::system::decode(bytes)
}

/// The bytes of a message.
pub fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    crate::system::encode(message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn requests_round_trip() {
        let all = [
            Request::NodeShow,
            Request::TeamShow { from: 7 },
            Request::PartPut { part: PartHash([1; 32]), total: 9, offset: 4, bytes: alloc::vec![1, 2] },
            Request::FlowStop { flow: TupleHash([2; 32]), kill: true },
            Request::PolicyShow,
            Request::PolicyLoad { text: "min_rsa_bits = 3072".into() },
            Request::FlowRevoke { revocation: alloc::vec![1] },
            Request::BlobShow { from: 3 },
            Request::ChannelShow { from: 0 },
            Request::ChannelAdd {
                from: "a".into(),
                capsule: CapsuleId([4; 16]),
                to: "c".into(),
                flow: Some(TupleHash([3; 32])),
            },
            Request::ChannelRemove { from: "a".into(), capsule: CapsuleId([4; 16]) },
            Request::BlobRemove { area: TupleHash([3; 32]), name: Some(alloc::vec![0xff]) },
            Request::NeighborEvents { from: 7 },
            Request::KnownShow { from: 8 },
            Request::NeighborWatch { from: 9, poke_us: 200_000, expire_us: 1_000_000 },
        ];
        for r in all {
            assert_eq!(decode::<Request>(&encode(&r)), Some(r));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode::<Login>(&bytes);
            let _ = decode::<LoginAnswer>(&bytes);
            let _ = decode::<Answer>(&bytes);
            if let Some(r) = decode::<Request>(&bytes) {
                prop_assert_eq!(decode::<Request>(&encode(&r)), Some(r));
            }
        }
    }
}
