//! Programs that talk to protocols (seed 004, section VI): over TCP ([`wire::session`]), or beside the node
//! in the same process (the simulator's programs).
//!
//! A session belongs to one flow; its packets become events of that flow's team, and the team's replies
//! go out in order. A program that reads too slowly loses its session, never the node its memory.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use nodeos::account::Charge;
use nodeos::net::StreamId;
use nodeos::platform::{Instant, Now};
use nodeos::slab::{Handle, Slab};
use wire::id::TupleHash;
use wire::session::{MAX_PACKET, Reader, frame, parse_open};

use super::Node;
use crate::counters::Count;
use crate::sandbox::{Event, SessionInput};

/// A session of this node.
pub use crate::sandbox::SessionId;

/// Sessions of a node at a time.
pub(super) const MAX_SESSIONS: usize = 256;
/// Bytes that may wait for a program to read them.
const MAX_OUTPUT: u64 = 64 * 1024;
/// Bytes in front of a packet on a stream.
const FRAMING: u64 = 2;
/// How long a program may take to say which flow it wants.
const OPEN_TIME: Duration = Duration::from_secs(10);
/// What one session is charged to its team at once: its tables and buffers at their usual size.
const SESSION_CHARGE: u64 = 1024;

/// A session was refused or is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionError {
    /// No running flow has that name, or takes sessions.
    NoSuchFlow,
    /// The flow or the node has as many as may be.
    TooMany,
    /// The session is over.
    Closed,
    /// The packet is longer than [`MAX_PACKET`].
    TooLong,
    /// The flow's queue is full: try again later.
    Busy,
}

impl fmt::Display for SessionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoSuchFlow => "no running flow of that name takes sessions",
            Self::TooMany => "there are as many sessions as may be",
            Self::Closed => "the session is over",
            Self::TooLong => "the packet is too long",
            Self::Busy => "the flow is busy",
        })
    }
}

impl std::error::Error for SessionError {}

#[derive(Debug)]
struct Session {
    flow: Handle,
    end: ProgramEnd,
    /// Its record, and the packets that the program has not read.
    charge: Charge,
}

/// Where the program is.
#[derive(Debug)]
enum ProgramEnd {
    /// Behind a TCP stream.
    Stream(StreamId),
    /// In this process.
    Local(VecDeque<Vec<u8>>),
}

/// A TCP stream that speaks the session protocol.
#[derive(Debug)]
struct Line {
    stream: StreamId,
    reader: Reader,
    output: VecDeque<u8>,
    session: Option<SessionId>,
    since: Instant,
    /// The session is over; what is left is written, then the stream is closed.
    closing: bool,
}

/// The sessions of a node.
#[derive(Debug)]
pub(super) struct Sessions {
    slab: Slab<Session>,
    lines: Vec<Line>,
}

impl Default for Sessions {
    fn default() -> Self {
        Self { slab: Slab::new(MAX_SESSIONS), lines: Vec::new() }
    }
}

impl Sessions {
    /// Sessions of one flow.
    pub(super) fn count(&self, flow: Handle) -> u32 {
        self.slab.iter().filter(|(_, s)| s.flow == flow).count() as u32
    }

    fn get(&self, id: SessionId) -> Option<&Session> {
        self.slab.get(Handle::from_raw(id.0)?)
    }

    fn get_mut(&mut self, id: SessionId) -> Option<&mut Session> {
        self.slab.get_mut(Handle::from_raw(id.0)?)
    }

    fn remove(&mut self, id: SessionId) -> Option<Session> {
        self.slab.remove(Handle::from_raw(id.0)?)
    }

    /// When a program that has not said which flow it wants is sent away.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.lines.iter().filter(|l| l.is_idle()).map(|l| l.since + OPEN_TIME).min()
    }

    fn line(&mut self, stream: StreamId) -> Option<&mut Line> {
        self.lines.iter_mut().find(|l| l.stream == stream)
    }
}

impl Line {
    fn is_idle(&self) -> bool {
        self.session.is_none() && !self.closing
    }
}

impl Node {
    /// Opens a session for a program in this process.
    pub fn session_open(&mut self, _now: Now, selector: &str) -> Result<SessionId, SessionError> {
        self.open_session(selector, ProgramEnd::Local(VecDeque::new())).map(|(id, _)| id)
    }

    /// A program in this process sends a packet.
    pub fn session_send(&mut self, _now: Now, id: SessionId, packet: &[u8]) -> Result<(), SessionError> {
        if packet.len() > MAX_PACKET {
            return Err(SessionError::TooLong);
        }
        let flow = self.sessions.get(id).ok_or(SessionError::Closed)?.flow;
        let what = SessionInput::Packet(packet.to_vec());
        let queued = self.push_event(flow, Event::Session { session: id, what });
        if queued { Ok(()) } else { Err(SessionError::Busy) }
    }

    /// The next packet for a program in this process.
    pub fn session_packet(&mut self, id: SessionId) -> Result<Option<Vec<u8>>, SessionError> {
        match self.sessions.get_mut(id) {
            Some(Session { end: ProgramEnd::Local(packets), charge, .. }) => {
                let packet = packets.pop_front();
                charge.shrink(packet.as_ref().map_or(0, |p| p.len() as u64 + FRAMING));
                Ok(packet)
            }
            _ => Err(SessionError::Closed),
        }
    }

    /// Ends a session; the flow is told.
    pub fn session_close(&mut self, now: Now, id: SessionId) {
        let Some(session) = self.sessions.remove(id) else { return };
        self.push_event(session.flow, Event::Session { session: id, what: SessionInput::Close });
        if let ProgramEnd::Stream(stream) = session.end
            && let Some(line) = self.sessions.line(stream)
        {
            line.session = None;
            line.closing = true;
            self.flush_line(now, stream);
        }
    }

    fn open_session(
        &mut self,
        selector: &str,
        end: ProgramEnd,
    ) -> Result<(SessionId, TupleHash), SessionError> {
        let flow = self.flows.by_selector(selector).ok_or(SessionError::NoSuchFlow)?;
        let (data, team) = self.flow_and_team(flow).ok_or(SessionError::NoSuchFlow)?;
        let hash = data.hash;
        let takes = data.tuple.as_ref().is_some_and(|t| t.tuple.main().session);
        if !takes {
            return Err(SessionError::NoSuchFlow);
        }
        let team = self.teams.get(team).ok_or(SessionError::NoSuchFlow)?;
        if self.sessions.count(flow) >= u32::from(team.budget.sessions) {
            return Err(SessionError::TooMany);
        }
        let charge = team.account().charge(SESSION_CHARGE).map_err(|_| SessionError::TooMany)?;
        let session = Session { flow, end, charge };
        let id = SessionId(self.sessions.slab.insert(session).map_err(|_| SessionError::TooMany)?.raw());
        if !self.push_event(flow, Event::Session { session: id, what: SessionInput::Open }) {
            self.sessions.remove(id);
            return Err(SessionError::Busy);
        }
        self.counters.add(Count::SessionsOpened);
        Ok((id, hash))
    }

    /// The guest answers a program. What the program has not read is the team's to pay for.
    pub(super) fn session_reply(&mut self, now: Now, id: SessionId, packet: Vec<u8>) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let waiting = session.charge.bytes().saturating_sub(SESSION_CHARGE);
        let len = packet.len() as u64 + FRAMING;
        if waiting + len > MAX_OUTPUT || session.charge.grow(len).is_err() {
            return self.session_close(now, id);
        }
        match &mut session.end {
            ProgramEnd::Local(packets) => packets.push_back(packet),
            ProgramEnd::Stream(stream) => {
                let stream = *stream;
                let Some(line) = self.sessions.line(stream) else { return };
                line.output.extend(frame(&packet).unwrap_or_default());
                self.flush_line(now, stream);
            }
        }
    }

    /// A flow ended: so do its sessions.
    pub(super) fn close_sessions(&mut self, now: Now, flow: Handle) {
        let gone: Vec<Handle> =
            self.sessions.slab.iter().filter(|(_, s)| s.flow == flow).map(|(h, _)| h).collect();
        gone.into_iter().for_each(|h| self.session_close(now, SessionId(h.raw())));
    }

    /// A program connected.
    pub(super) fn line_opened(&mut self, now: Now, stream: StreamId) {
        let line = Line {
            stream,
            reader: Reader::default(),
            output: VecDeque::new(),
            session: None,
            since: now.mono,
            closing: false,
        };
        self.sessions.lines.push(line);
    }

    /// A program's connection is gone.
    pub(super) fn line_closed(&mut self, now: Now, stream: StreamId) {
        let Some(at) = self.sessions.lines.iter().position(|l| l.stream == stream) else { return };
        let line = self.sessions.lines.swap_remove(at);
        if let Some(id) = line.session {
            self.session_close(now, id);
        }
    }

    /// A program's connection has bytes for us, or room for ours.
    pub(super) fn line_ready(&mut self, now: Now, stream: StreamId) {
        if let Err(error) = self.read_line(now, stream) {
            self.counters.add(Count::StreamErrors);
            if let Some(line) = self.sessions.line(stream) {
                line.output.extend(format!("error {error}\n").into_bytes());
                line.closing = true;
                if let Some(id) = line.session.take() {
                    self.session_close(now, id);
                }
            }
        }
        self.flush_line(now, stream);
    }

    fn read_line(&mut self, now: Now, stream: StreamId) -> Result<(), Box<dyn std::error::Error>> {
        loop {
            let Some(line) = self.sessions.line(stream).filter(|l| !l.closing) else { return Ok(()) };
            let Some(id) = line.session else {
                if let Some(text) = line.reader.line()? {
                    let opened = self.open_session(parse_open(&text)?, ProgramEnd::Stream(stream));
                    let (id, hash) = opened?;
                    if let Some(line) = self.sessions.line(stream) {
                        line.session = Some(id);
                        line.output.extend(format!("ok {hash}\n").into_bytes());
                    }
                    continue;
                }
                if !self.fill_line(now, stream) {
                    return Ok(());
                }
                continue;
            };
            // Back-pressure: a packet is read only when the flow's queue takes it.
            if !self.team_has_room(id) {
                return Ok(());
            }
            let Some(line) = self.sessions.line(stream) else { return Ok(()) };
            match line.reader.packet()? {
                Some(packet) => self.session_send(now, id, &packet)?,
                None if self.fill_line(now, stream) => {}
                None => return Ok(()),
            }
        }
    }

    fn team_has_room(&self, id: SessionId) -> bool {
        let Some(flow) = self.sessions.get(id).map(|s| s.flow).filter(|flow| self.has_room(*flow)) else {
            return false;
        };
        let team = self.flow_and_team(flow).and_then(|(_, team)| self.teams.get(team));
        team.is_some_and(|team| team.account().left() >= MAX_PACKET as u64)
    }

    /// Takes what has arrived; `false` when there is nothing.
    fn fill_line(&mut self, now: Now, stream: StreamId) -> bool {
        let mut bytes = [0; 2048];
        let n = self.net.read(now.mono, stream, &mut bytes);
        if let Some(line) = self.sessions.line(stream) {
            line.reader.push(&bytes[..n]);
        }
        n > 0
    }

    fn flush_line(&mut self, now: Now, stream: StreamId) {
        let Some(line) = self.sessions.lines.iter_mut().find(|l| l.stream == stream) else { return };
        loop {
            let (front, _) = line.output.as_slices();
            if front.is_empty() {
                break;
            }
            let n = self.net.write(now.mono, stream, front);
            line.output.drain(..n);
            if n == 0 {
                break;
            }
        }
        let (owed, session, closing) = (line.output.len(), line.session, line.closing);
        if let Some(session) = session.and_then(|id| self.sessions.get_mut(id)) {
            session.charge.shrink(session.charge.bytes().saturating_sub(SESSION_CHARGE + owed as u64));
        }
        if owed == 0 && closing {
            self.net.close(now.mono, stream);
            // No event tells of the end of a stream that was closed here.
            self.line_closed(now, stream);
        }
    }

    /// Programs whose packets wait for room in a team's queue are read on, and what did not fit before is
    /// written. Who asks for nothing is sent away.
    pub(super) fn lines_due(&mut self, now: Now) {
        let late = |l: &&Line| l.is_idle() && now.mono >= l.since + OPEN_TIME;
        while let Some(stream) = self.sessions.lines.iter().find(late).map(|l| l.stream) {
            self.sessions.lines.retain(|l| l.stream != stream);
            self.net.abort(now.mono, stream);
        }
        for at in 0..self.sessions.lines.len() {
            let Some(line) = self.sessions.lines.get(at) else { return };
            let stream = line.stream;
            let owed = !line.output.is_empty() || line.closing;
            if line.reader.buffered() > 0 && line.session.is_some_and(|id| self.team_has_room(id)) {
                self.line_ready(now, stream);
            } else if owed {
                self.flush_line(now, stream);
            }
        }
    }

    /// A program will say no more. It may still read; its session goes on until the flow or it closes.
    pub(super) fn line_finished(&mut self, now: Now, stream: StreamId) {
        let Some(line) = self.sessions.line(stream) else { return };
        if line.session.is_none() {
            line.closing = true;
            self.flush_line(now, stream);
        }
    }
}
