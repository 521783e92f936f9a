//! What a sandbox is told, and what comes of it.

use std::fmt;

use nodeos::account::Charge;
use nodeos::buf::Buf;
use nodeos::slab::Handle;
use wasmtime::{Trap, WasmBacktrace};
use wire::budget::Kind;
use wire::control::NeighborNews;
use wire::tuple::Tuple;

#[cfg(doc)]
use super::Sandbox;
use super::{Answered, Asked, Given, NeighborId, Outlet, SessionId};
use crate::abi;
use crate::cap::ChildState;
use crate::soft::Fired;

/// What a sandbox is told.
#[derive(Debug)]
pub enum Event {
    /// The flow has started on this node.
    Boot,
    /// A capsule arrived.
    Capsule {
        /// The protocol that it is for: position in the tuple.
        protocol: u8,
        /// Its type: position in the protocol's list.
        kind: u8,
        /// Where it came from.
        from: Option<NeighborId>,
        /// Its payload; its headers have become headroom, at least 64 bytes.
        packet: Buf,
    },
    /// A timer fired: from [`Sandbox::due`].
    Timer(Fired),
    /// A program did something.
    Session {
        /// Its session.
        session: SessionId,
        /// What it did.
        what: SessionInput,
    },
    /// An entry's time is over: from [`Sandbox::due`].
    Expiry {
        /// The entry.
        entry: Handle,
    },
    /// A soft threshold is passed.
    Warning(abi::Resource),
    /// A flow that this one started does something else now.
    Flow {
        /// What the guest knows it by.
        child: Handle,
        /// What it does.
        state: ChildState,
    },
    /// Something happened to a neighbor.
    Neighbor {
        /// The protocol that is told: position in the tuple.
        protocol: u8,
        /// The neighbor.
        id: NeighborId,
        /// What happened to it.
        news: NeighborNews,
    },
    /// Another flow calls this one.
    Call(Box<Asked>),
    /// A call of this flow's was answered.
    Answer(Box<Answered>),
    /// The flow ends. Nothing runs after it.
    Stop,
    /// The next version of the flow takes over: from [`Sandbox::hand_over`].
    HandOver,
    /// The flow takes over from the version before: from [`Sandbox::take_over`].
    TakeOver(Box<Given>),
}

/// What a guest is doing, for a report about how it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doing {
    Boot,
    Capsule { protocol: u8, kind: u8 },
    Timer,
    Session,
    Expiry,
    Warning,
    Flow,
    Neighbor,
    Call,
    Answer { protocol: u8 },
    Stop,
    HandOver,
    TakeOver,
}

impl Doing {
    pub fn of(event: &Event) -> Self {
        match event {
            Event::Boot => Self::Boot,
            Event::Capsule { protocol, kind, .. } => Self::Capsule { protocol: *protocol, kind: *kind },
            Event::Timer(_) => Self::Timer,
            Event::Session { .. } => Self::Session,
            Event::Expiry { .. } => Self::Expiry,
            Event::Warning(_) => Self::Warning,
            Event::Flow { .. } => Self::Flow,
            Event::Neighbor { .. } => Self::Neighbor,
            Event::Call(_) => Self::Call,
            Event::Answer(answered) => Self::Answer { protocol: answered.protocol },
            Event::Stop => Self::Stop,
            Event::HandOver => Self::HandOver,
            Event::TakeOver(_) => Self::TakeOver,
        }
    }

    /// The event, a capsule's with its type's name, and its protocol's if that is a companion.
    pub fn name(self, tuple: &Tuple) -> String {
        let name = match self {
            Self::Capsule { protocol: at, kind } => {
                let protocol = tuple.body.protocols.get(usize::from(at));
                let found = protocol.and_then(|p| Some((p, p.capsules.get(usize::from(kind))?)));
                return match found {
                    Some((protocol, kind)) if at > 0 => format!("capsule {} of {}", kind.name, protocol.name),
                    Some((_, kind)) => format!("capsule {}", kind.name),
                    None => "capsule".into(),
                };
            }
            Self::Answer { protocol: at } if at > 0 => {
                let protocol = tuple.body.protocols.get(usize::from(at));
                return protocol.map_or("answer".into(), |p| format!("answer to {}", p.name));
            }
            Self::Answer { .. } => "answer",
            Self::Call => "call",
            Self::Boot => "boot",
            Self::Timer => "timer",
            Self::Session => "session",
            Self::Expiry => "expiry",
            Self::Warning => "warning",
            Self::Flow => "flow",
            Self::Neighbor => "neighbor",
            Self::Stop => "stop",
            Self::HandOver => "handover",
            Self::TakeOver => "takeover",
        };
        name.into()
    }
}

/// What a program did with its session.
#[derive(Debug)]
pub enum SessionInput {
    /// It opened it; replies go out here.
    Open(Outlet),
    /// It sent a packet.
    Packet(Vec<u8>),
    /// It closed it, or is gone.
    Close,
    /// It has read so much that a guest that was refused may reply again.
    Room,
}

/// What became of an event.
#[derive(Debug)]
pub struct Outcome {
    /// Units of work: measured by the meter (or counted, with fuel), and with the meter what host
    /// functions were charged on top, for what they set off later.
    pub units: u64,
    /// Whether the handler ended well.
    pub end: Result<(), GuestFault>,
    /// What the guest was refused during the event.
    pub refused: Refused,
    /// It took three quarters of what an event may take, or more.
    pub near: bool,
    /// The event is not over: the guest waits for [`Sandbox::resume`], and there is nothing to carry out yet.
    pub more: bool,
}

impl Outcome {
    /// Nothing ran.
    pub(super) fn ended() -> Self {
        Self { units: 0, end: Err(GuestFault::Ended), refused: Refused::default(), near: false, more: false }
    }
}

/// How often a guest was refused what, during one event: what the team policy asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Refused {
    /// Pointers or lengths outside its memory.
    pub pointers: u16,
    /// Memory, linear memory included, and packet buffers.
    pub memory: u16,
    /// Bandwidth.
    pub rate: u16,
    /// Timers.
    pub timers: u16,
    /// Sessions.
    pub sessions: u16,
    /// Anything else.
    pub others: u16,
}

/// The guest did not end well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuestFault {
    /// It trapped.
    Trap(String),
    /// It ran past its deadline.
    Deadline,
    /// It has ended before; nothing ran.
    Ended,
    /// It does not hand its state over, or does not take over what it was given: the number that its handler gave.
    Refused(i32),
}

impl fmt::Display for GuestFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Trap(text) => write!(f, "guest trapped: {text}"),
            Self::Deadline => f.write_str("guest ran past the deadline of its event"),
            Self::Ended => f.write_str("guest has ended"),
            Self::Refused(code) => match abi::Error::ALL.iter().find(|error| error.code() == *code) {
                Some(error) => write!(f, "guest refused ({error})"),
                None => write!(f, "guest refused ({code})"),
            },
        }
    }
}

impl std::error::Error for GuestFault {}

/// What a guest wants done.
#[derive(Debug)]
pub enum Effect {
    /// Send a capsule. Its bandwidth has been charged.
    Send {
        /// Where to.
        to: NeighborId,
        /// The protocol that sends it: position in the tuple.
        protocol: u8,
        /// Its type.
        kind: u8,
        /// Its payload, with at least 64 bytes of room in front.
        payload: Buf,
    },
    /// Send a packet to a program.
    Reply {
        /// Its session.
        session: SessionId,
        /// The packet.
        packet: Vec<u8>,
    },
    /// End a session.
    CloseSession {
        /// Which.
        session: SessionId,
    },
    /// Start a flow below this one.
    FlowStart {
        /// What the guest knows it by.
        child: Handle,
        /// Its tuple.
        tuple: Vec<u8>,
        /// Which resources it is given for itself: bits of [`abi::Resource`].
        give: u32,
    },
    /// End a flow below this one.
    FlowStop {
        /// Which.
        child: Handle,
        /// Without its clean-up.
        kill: bool,
    },
    /// Lower the budget of a flow below this one.
    FlowLimit {
        /// Which.
        child: Handle,
        /// What of it.
        kind: Kind,
        /// The new bound.
        most: u64,
    },
    /// Whether a neighbor that asks for the flow's description and code gets them.
    Serve {
        /// Who asks.
        neighbor: NeighborId,
        /// Whether it gets them.
        serve: bool,
    },
    /// Tell this flow when a neighbor dies, or returns.
    Watch {
        /// Which.
        neighbor: NeighborId,
        /// The protocol that is told: position in the tuple.
        protocol: u8,
        /// Milliseconds between two pokes; 0 like the next: as the operator says.
        poke_ms: u32,
        /// Milliseconds of silence after which it is dead.
        expire_ms: u32,
        /// What the node remembers of it.
        charge: Charge,
    },
    /// That is not wanted any more.
    Unwatch {
        /// Which.
        neighbor: NeighborId,
        /// The protocol that was told.
        protocol: u8,
    },
    /// Call another flow, or a service of the node.
    Ask {
        /// The protocol that calls: position in the tuple.
        protocol: u8,
        /// What it calls: position among the protocol's companions.
        companion: u8,
        /// The number that the answer is to have.
        number: u32,
        /// What is wanted.
        operation: u32,
        /// What is said.
        message: Vec<u8>,
    },
    /// Answer another flow's call.
    Settle {
        /// The node's own number of the call.
        call: u32,
        /// What came of it.
        result: i32,
        /// The answer.
        answer: Vec<u8>,
    },
    /// End this flow.
    End,
    /// A log line.
    Log {
        /// How urgent it is.
        level: abi::Level,
        /// The line: printable and short.
        text: String,
    },
}

impl Effect {
    /// Whether it is about this neighbor: who comes in its place has nothing to do with it.
    pub(super) fn concerns(&self, id: NeighborId) -> bool {
        match self {
            Self::Send { to: of, .. }
            | Self::Serve { neighbor: of, .. }
            | Self::Watch { neighbor: of, .. }
            | Self::Unwatch { neighbor: of, .. } => *of == id,
            _ => false,
        }
    }
}

/// Why a call did not come back.
pub(super) fn fault(e: &wasmtime::Error) -> GuestFault {
    let trap = e.downcast_ref::<Trap>();
    if let Some(Trap::OutOfFuel | Trap::Interrupt) = trap {
        return GuestFault::Deadline;
    }
    let reason = trap.map_or_else(|| e.root_cause().to_string(), Trap::to_string);
    let frames = e.downcast_ref::<WasmBacktrace>().map_or(&[][..], WasmBacktrace::frames);
    let text = match frames.first() {
        Some(f) => match f.func_name() {
            Some(name) => format!("{reason}, in {name}"),
            None => format!("{reason}, in function {}", f.func_index()),
        },
        None => reason,
    };
    GuestFault::Trap(brief(&text))
}

/// A guest's text, short and printable.
pub(super) fn brief(text: &str) -> String {
    text.chars().take(160).map(|c| if c.is_control() { ' ' } else { c }).collect()
}
