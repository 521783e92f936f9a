//! The attacks. Each begins, does a bit in every turn of the measuring loop, and ends; it begins again later.
//!
//! | who attacks | how it gets there |
//! |---|---|
//! | a flow | a principal injects it over the control channel |
//! | a principal | injects flow after flow, each under another name, as fast as the node answers |
//! | a neighbor | raw frames on a link of its own, as fast as the node takes them |
//! | a program | TCP connections to the session server |

use std::collections::VecDeque;

use anyhow::Result;
use client::lab::wire::gateway::Connection;
use wire::control::Request;
use wire::id::{CapsuleId, TupleHash};
use wire::system::{DownloadRequest, REQUEST, download_id, encode};

use super::flows::{self, Guest, Series, THERE};
use super::world::{D, World};

/// Something that is done to the node.
pub trait Attack {
    /// It begins.
    fn begin(&mut self, world: &mut World) -> Result<()>;
    /// A bit of it.
    fn step(&mut self, world: &mut World) -> Result<()>;
    /// It ends, and what it left on the node is removed.
    fn end(&mut self, world: &mut World) -> Result<()>;
}

/// The attacks by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Name {
    /// Flows that never return from their first event, one after the other
    Loop,
    /// A flow whose events take half of their time, and always wait
    Busy,
    /// Flows that take all memory that they get, touch it, and go on
    Memory,
    /// 64 timers that are always due
    Timers,
    /// Capsules of a flow from a link, as fast as the node takes them
    LinkFlood,
    /// Capsules that no flow knows, from a link
    Strangers,
    /// A flow that sends long capsules to everybody without end
    TeamFlood,
    /// A flow that fills its soft state without end
    SoftState,
    /// More protocols than fit, one after the other: each is compiled anew
    Protocols,
    /// Modules that are as much work for the compiler as admission lets pass, one after the other
    Bomb,
    /// Modules that are too long or too deep
    BadModules,
    /// A neighbor that downloads a victim's code without end
    Download,
    /// Programs that open sessions, say something, and go
    Sessions,
    /// A flow that starts flows below itself and kills them
    Respawn,
    /// A flow that traps at once, injected again and again
    Crash,
}

impl Name {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::Loop,
        Self::Busy,
        Self::Memory,
        Self::Timers,
        Self::LinkFlood,
        Self::Strangers,
        Self::TeamFlood,
        Self::SoftState,
        Self::Protocols,
        Self::Bomb,
        Self::BadModules,
        Self::Download,
        Self::Sessions,
        Self::Respawn,
        Self::Crash,
    ];

    /// What tables call it.
    pub fn text(self) -> &'static str {
        match self {
            Self::Loop => "infinite loop",
            Self::Busy => "long events",
            Self::Memory => "allocation bomb",
            Self::Timers => "timer storm",
            Self::LinkFlood => "flood from a link",
            Self::Strangers => "unknown capsules",
            Self::TeamFlood => "flood from a team",
            Self::SoftState => "soft-state thrash",
            Self::Protocols => "protocol thrash",
            Self::Bomb => "module bomb",
            Self::BadModules => "refused modules",
            Self::Download => "download storm",
            Self::Sessions => "session flood",
            Self::Respawn => "kill and respawn",
            Self::Crash => "crash loop",
        }
    }

    /// Gets it ready, against a node whose events may take `event` microseconds.
    pub fn attack(self, event: u64) -> Result<Box<dyn Attack>> {
        let one = |name: &str, module: Vec<u8>| -> Result<Box<dyn Attack>> {
            Ok(Box::new(Resident(Guest::new(name, &module, 0)?)))
        };
        let same = |name: &'static str, module: Vec<u8>| -> Box<dyn Attack> {
            Box::new(Flows::new(move |number| Guest::new(name, &module, number)))
        };
        Ok(match self {
            Self::Loop => same("loop", flows::endless()?),
            Self::Busy => one("busy", flows::busy(event / 2)?)?,
            Self::Memory => same("memory", flows::memory()?),
            Self::Timers => one("timers", flows::timers()?)?,
            Self::LinkFlood => {
                let sink = Guest::new("sink", &flows::sink()?, 0)?;
                Box::new(Link {
                    id: sink.id(THERE),
                    resident: Some(sink),
                    other: false,
                    payload: vec![1; 64],
                })
            }
            Self::Strangers => {
                let id = CapsuleId([0xee; 16]);
                Box::new(Link { id, resident: None, other: true, payload: vec![1; 1200] })
            }
            Self::TeamFlood => one("sender", flows::sender()?)?,
            Self::SoftState => one("soft", flows::soft_state()?)?,
            Self::Protocols => series(vec![Series::small()?]),
            Self::Bomb => series(vec![Series::bomb()?]),
            Self::BadModules => series(vec![Series::too_long()?, Series::too_deep()?]),
            Self::Download => {
                let victim = flows::victim("ping")?;
                let id = download_id(REQUEST, &victim.hash, Some(&victim.parts[0].0));
                let payload = encode(&DownloadRequest { nonce: 1, offset: 0, len: u32::MAX });
                Box::new(Link { id, resident: None, other: false, payload })
            }
            Self::Sessions => {
                Box::new(Sessions { sink: Guest::new("sink", &flows::sink()?, 0)?, open: Vec::new() })
            }
            Self::Respawn => Box::new(Resident(flows::family()?)),
            Self::Crash => {
                let crash = Guest::new("crash", &flows::crash()?, 0)?;
                Box::new(Flows::new(move |_| Ok(crash.clone())))
            }
        })
    }
}

fn series(series: Vec<Series>) -> Box<dyn Attack> {
    Box::new(Flows::new(move |number| {
        let kind = number as usize % series.len();
        Guest::new("module", &series[kind].number(number), number)
    }))
}

/// One flow, as long as the attack lasts.
struct Resident(Guest);

impl Attack for Resident {
    fn begin(&mut self, world: &mut World) -> Result<()> {
        world.desk.inject(&self.0).map(drop)
    }

    fn step(&mut self, world: &mut World) -> Result<()> {
        // What the node says of it is of no interest.
        while world.desk.answer().is_some() {}
        Ok(())
    }

    fn end(&mut self, world: &mut World) -> Result<()> {
        stop(world, self.0.hash)
    }
}

/// Requests of [`Flows`] that may wait for their answers.
const AHEAD: usize = 8;
/// Flows of [`Flows`] that may be there: fewer than the node has room for.
const THERE_AT_ONCE: usize = 40;

/// Flow after flow.
struct Flows<F> {
    make: F,
    number: u64,
    there: VecDeque<TupleHash>,
}

impl<F: Fn(u64) -> Result<Guest>> Flows<F> {
    fn new(make: F) -> Self {
        Self { make, number: 0, there: VecDeque::new() }
    }
}

impl<F: Fn(u64) -> Result<Guest>> Attack for Flows<F> {
    fn begin(&mut self, _: &mut World) -> Result<()> {
        Ok(())
    }

    fn step(&mut self, world: &mut World) -> Result<()> {
        while world.desk.answer().is_some() {}
        if world.desk.waiting() >= AHEAD {
            return Ok(());
        }
        let guest = (self.make)(self.number)?;
        self.number += 1;
        world.desk.inject(&guest)?;
        if self.there.back() != Some(&guest.hash) {
            self.there.push_back(guest.hash);
        }
        if self.there.len() > THERE_AT_ONCE
            && let Some(oldest) = self.there.pop_front()
        {
            stop(world, oldest)?;
        }
        Ok(())
    }

    fn end(&mut self, world: &mut World) -> Result<()> {
        while let Some(oldest) = self.there.pop_front() {
            stop(world, oldest)?;
        }
        Ok(())
    }
}

fn stop(world: &mut World, flow: TupleHash) -> Result<()> {
    world.desk.ask(&Request::FlowStop { flow, kill: true })
}

/// Frames that are sent in one turn of the measuring loop: more of them would make it late.
const BURST: usize = 8;

/// The same capsule from a link, again and again.
struct Link {
    id: CapsuleId,
    /// Each with another identifier.
    other: bool,
    /// Whose capsules they are, if the attacker has a flow on the node.
    resident: Option<Guest>,
    payload: Vec<u8>,
}

impl Attack for Link {
    fn begin(&mut self, world: &mut World) -> Result<()> {
        match &self.resident {
            Some(guest) => world.desk.inject(guest).map(drop),
            None => Ok(()),
        }
    }

    fn step(&mut self, world: &mut World) -> Result<()> {
        while world.desk.answer().is_some() {}
        let mut frames = Vec::new();
        for _ in 0..BURST {
            if self.other {
                let number = u64::from_le_bytes(*self.id.0.first_chunk().unwrap_or(&[0; 8])) + 1;
                self.id.0[..8].copy_from_slice(&number.to_le_bytes());
            }
            frames.push(world.frame(D, &self.id, &self.payload)?);
        }
        world.flood(D, &frames, BURST).map(drop)
    }

    fn end(&mut self, world: &mut World) -> Result<()> {
        match &self.resident {
            Some(guest) => stop(world, guest.hash),
            None => Ok(()),
        }
    }
}

const SESSION: u16 = 3323;
/// Connections that are open at a time.
const CONNECTIONS: usize = 32;

/// Connection after connection to the session server.
struct Sessions {
    sink: Guest,
    open: Vec<(Connection, bool)>,
}

impl Attack for Sessions {
    fn begin(&mut self, world: &mut World) -> Result<()> {
        world.desk.inject(&self.sink).map(drop)
    }

    fn step(&mut self, world: &mut World) -> Result<()> {
        while world.desk.answer().is_some() {}
        if self.open.len() < CONNECTIONS {
            self.open.push((world.desk.open(SESSION), false));
        }
        let (gateway, now) = world.desk.gateway();
        let mut over = Vec::new();
        for (at, (connection, said)) in self.open.iter_mut().enumerate() {
            let there = gateway.look_after(connection, now);
            let socket = gateway.socket(connection);
            if !*said && socket.can_send() {
                // What does not fit is of no interest.
                let _ = socket.send_slice(b"open sink\n\x00\x04AAAA\x00\x04BBBB");
                *said = true;
            } else if *said && socket.can_recv() {
                socket.abort();
                over.push(at);
            } else if !there {
                over.push(at);
            }
        }
        for at in over.into_iter().rev() {
            let (mut connection, _) = self.open.swap_remove(at);
            // The stack says good-bye before it forgets the connection.
            gateway.poll(now);
            gateway.look_after(&mut connection, now);
            gateway.remove(connection);
        }
        Ok(())
    }

    fn end(&mut self, world: &mut World) -> Result<()> {
        let (gateway, now) = world.desk.gateway();
        for (connection, _) in &self.open {
            gateway.socket(connection).abort();
        }
        gateway.poll(now);
        self.open.drain(..).for_each(|(connection, _)| gateway.remove(connection));
        stop(world, self.sink.hash)
    }
}
