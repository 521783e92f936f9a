//! Programs that talk to protocols (seed 004, section VI): over TCP ([`wire::session`]), by datagrams
//! ([`wire::datagram`], in `datagrams`), or beside the node in the same process (the simulator's programs).
//!
//! A session belongs to one flow; its packets become events of that flow's team, and the team's replies go out in
//! order. Both ways wait for who is slow: a stream is read only where the flow's queue has room, a few packets of each
//! program in its turn; and a guest whose program does not read is refused further replies, and told when there is
//! room again ([`Outlet`]).

use std::collections::VecDeque;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use nodeos::account::Charge;
use nodeos::link::LinkId;
use nodeos::net::StreamId;
use nodeos::platform::{Instant, Now};
use nodeos::slab::{Handle, Slab};
use nodeos::team::{Resource, TeamId};
use wire::datagram::Token;
use wire::id::TupleHash;
use wire::session::{MAX_PACKET, Reader, frame, parse_open};

use super::Node;
use crate::attempts::origin;
use crate::counters::Count;
use crate::flow::Selected;
use crate::sandbox::{Event, Outlet, SessionInput};

/// A session of this node.
pub use crate::sandbox::SessionId;

/// Sessions of a node at a time.
pub(super) const MAX_SESSIONS: usize = 256;
/// Programs of one address that are connected and have not said which flow they want.
const MAX_STRANGERS: usize = 208;
/// Packets of one program before others have their turn.
const PACKETS_PER_TURN: usize = 8;
/// Bytes that are written to a stream at a time, and what is charged beside them as their frame's headers: Ethernet, IPv4
/// or IPv6, and TCP.
const SEGMENT: usize = 1024;
const TCP_HEADS: (usize, usize) = (54, 74);
/// How long a program may take to say which flow it wants; and to read anything of what it is owed after its session's
/// end, for which nobody pays.
const OPEN_TIME: Duration = Duration::from_secs(10);
/// What one session is charged to its team at once: its tables and buffers at their usual size.
const SESSION_CHARGE: u64 = 1024;

/// A session was refused or is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionError {
    /// No running flow has that name, or hash.
    NoSuchFlow,
    /// The hashes of several flows begin so.
    Ambiguous,
    /// The flow's protocol has no sessions.
    NoSessions,
    /// The flow has as many as its budget allows.
    TooMany,
    /// The node has as many as may be, or the program's address has.
    NodeFull,
    /// The session is over.
    Closed,
    /// The packet is longer than [`MAX_PACKET`].
    TooLong,
    /// The flow's queue is full: try again later.
    Busy,
    /// Not a byte of a reply would ever pass the flow's bandwidth.
    NoBandwidth,
}

impl fmt::Display for SessionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoSuchFlow => "no flow of that name or hash runs here",
            Self::Ambiguous => "several flows' hashes begin so",
            Self::NoSessions => "the flow's protocol has no sessions",
            Self::TooMany => "the flow has as many sessions as its budget allows",
            Self::NodeFull => "the node has as many sessions as may be",
            Self::Closed => "the session is over",
            Self::TooLong => "the packet is too long",
            Self::Busy => "the flow is busy",
            Self::NoBandwidth => "the flow's bandwidth lets no reply pass",
        })
    }
}

impl std::error::Error for SessionError {}

#[derive(Debug)]
struct Session {
    flow: Handle,
    end: ProgramEnd,
    outlet: Outlet,
    /// Its record, and the packets that the program has not read.
    charge: Charge,
    /// What has come of packets that are not complete.
    input: Charge,
}

/// Where the program is.
#[derive(Debug)]
pub(super) enum ProgramEnd {
    /// Behind a TCP stream.
    Stream(StreamId),
    /// In this process.
    Local(VecDeque<Vec<u8>>),
    /// Behind datagrams with this token.
    Datagrams(Token),
}

/// A TCP stream that speaks the session protocol.
#[derive(Debug)]
struct Line {
    stream: StreamId,
    from: IpAddr,
    reader: Reader,
    /// There may be more to read than was read.
    unread: bool,
    /// What it asked for while the flow was busy.
    wanted: Option<String>,
    output: VecDeque<u8>,
    /// Of its first bytes: so many are the node's own words.
    own: usize,
    /// Whose flow's session it has, or had: that team pays for what is sent.
    team: Option<TeamId>,
    /// Before that its rate lets nothing pass.
    later: Option<Instant>,
    session: Option<SessionId>,
    /// When it connected; after its session's end, when something was last written.
    since: Instant,
    /// The session is over; what is left is written, then the stream is closed.
    closing: bool,
}

/// The sessions of a node.
#[derive(Debug)]
pub(super) struct Sessions {
    slab: Slab<Session>,
    lines: Vec<Line>,
    /// Which line has the first turn.
    turn: usize,
}

impl Default for Sessions {
    fn default() -> Self {
        Self { slab: Slab::new(MAX_SESSIONS), lines: Vec::new(), turn: 0 }
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

    /// When a program that has not said which flow it wants, or does not read the last of it, is sent away.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let ends = |l: &Line| l.session.is_none().then(|| l.since + OPEN_TIME);
        let writes = |l: &Line| l.later.filter(|_| !l.output.is_empty());
        self.lines.iter().flat_map(|l| [ends(l), writes(l)]).flatten().min()
    }

    /// The flow that a session is of.
    pub(super) fn flow(&self, id: SessionId) -> Option<Handle> {
        self.get(id).map(|session| session.flow)
    }

    fn line(&mut self, stream: StreamId) -> Option<&mut Line> {
        self.lines.iter_mut().find(|l| l.stream == stream)
    }
}

impl Line {
    /// Its session is over, or it never has one.
    fn end(&mut self, now: Now) {
        (self.session, self.closing, self.since) = (None, true, now.mono);
    }

    /// What is charged beside each segment.
    fn heads(&self) -> usize {
        if self.from.is_ipv6() { TCP_HEADS.1 } else { TCP_HEADS.0 }
    }

    fn is_idle(&self) -> bool {
        self.session.is_none() && !self.closing
    }

    /// Whether it has bytes that were not read, or a whole packet in what was.
    fn has_more(&self) -> bool {
        !self.closing && (self.unread || self.reader.has_packet())
    }
}

/// The team of a session's flow, which pays for what is sent; the node's own if it is gone.
pub(super) fn session_team(node: &Node, id: SessionId) -> TeamId {
    let flow = node.sessions.flow(id).and_then(|flow| node.flow_and_team(flow));
    flow.map_or(TeamId::ROOT, |(_, team)| team)
}

impl Node {
    /// Opens a session for a program in this process.
    pub fn session_open(&mut self, _now: Now, selector: &str) -> Result<SessionId, SessionError> {
        self.open_session(selector, ProgramEnd::Local(VecDeque::new()), None).map(|(id, _)| id)
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
            Some(Session { end: ProgramEnd::Local(packets), charge, outlet, .. }) => {
                let packet = packets.pop_front();
                if let Some(packet) = &packet {
                    charge.shrink(packet.len() as u64 + Outlet::FRAMING as u64);
                    outlet.packet_gone(packet.len());
                }
                self.tell_room(id);
                Ok(packet)
            }
            _ => Err(SessionError::Closed),
        }
    }

    /// Ends a session; the flow is told.
    pub fn session_close(&mut self, now: Now, id: SessionId) {
        let Some(session) = self.sessions.remove(id) else { return };
        self.push_event(session.flow, Event::Session { session: id, what: SessionInput::Close });
        match session.end {
            ProgramEnd::Stream(stream) => {
                let Some(line) = self.sessions.line(stream) else { return };
                line.end(now);
                self.flush_line(now, stream);
            }
            ProgramEnd::Datagrams(token) => self.dialog_over(now, token),
            ProgramEnd::Local(_) => {}
        }
    }

    /// Opens a session with the flow that is named so; `way`: the link by which replies go, and what is charged beside each.
    pub(super) fn open_session(
        &mut self,
        selector: &str,
        end: ProgramEnd,
        way: Option<(LinkId, usize)>,
    ) -> Result<(SessionId, TupleHash), SessionError> {
        let flow = match self.flows.by_selector(selector) {
            Selected::Flow(flow) => flow,
            Selected::None => return Err(SessionError::NoSuchFlow),
            Selected::Several => return Err(SessionError::Ambiguous),
        };
        let (data, team) = self.flow_and_team(flow).ok_or(SessionError::NoSuchFlow)?;
        let hash = data.hash;
        let takes = data.tuple.as_ref().is_some_and(|t| t.tuple.main().session);
        if !takes {
            return Err(SessionError::NoSessions);
        }
        let team = self.teams.get(team).ok_or(SessionError::NoSuchFlow)?;
        if !self.has_room(flow) {
            return Err(SessionError::Busy);
        }
        if self.sessions.count(flow) >= u32::from(team.budget.sessions) {
            return Err(SessionError::TooMany);
        }
        let passes = |(link, heads)| team.bandwidth().most(link).saturating_sub(heads);
        let most = way.map_or(usize::MAX, passes);
        if most == 0 {
            return Err(SessionError::NoBandwidth);
        }
        let charge = team.account().charge(SESSION_CHARGE).map_err(|_| SessionError::TooMany)?;
        let input = team.account().charge(0).map_err(|_| SessionError::TooMany)?;
        let outlet = match end {
            ProgramEnd::Datagrams(_) => Outlet::datagrams(most),
            ProgramEnd::Stream(_) | ProgramEnd::Local(_) => Outlet::stream(),
        };
        let session = Session { flow, end, outlet: outlet.clone(), charge, input };
        let id = SessionId(self.sessions.slab.insert(session).map_err(|_| SessionError::NodeFull)?.raw());
        if !self.push_event(flow, Event::Session { session: id, what: SessionInput::Open(outlet) }) {
            // There is room in its queue; what it cannot pay is the event.
            self.sessions.remove(id);
            return Err(SessionError::TooMany);
        }
        self.counters.add(Count::SessionsOpened);
        Ok((id, hash))
    }

    /// The guest answers a program. What the program has not read is the team's to pay for; a team that cannot loses
    /// the session.
    pub(super) fn session_reply(&mut self, now: Now, id: SessionId, packet: Vec<u8>) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let paid = session.charge.grow(packet.len() as u64 + Outlet::FRAMING as u64).is_ok();
        if let ProgramEnd::Datagrams(token) = session.end {
            if paid {
                return self.dialog_reply(now, token, packet);
            }
            session.outlet.packet_gone(packet.len());
            return self.counters.add(Count::DatagramsDropped);
        }
        if !paid {
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
            ProgramEnd::Datagrams(_) => {}
        }
    }

    /// A packet for a program behind datagrams has gone out, or never will.
    pub(super) fn packet_gone(&mut self, id: SessionId, len: usize) {
        if let Some(session) = self.sessions.get_mut(id) {
            session.charge.shrink(len as u64 + Outlet::FRAMING as u64);
            session.outlet.packet_gone(len);
        }
    }

    /// A guest that was refused is told that there is room, once there is, and room in its queue.
    fn tell_room(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get(id).filter(|s| self.may_tell_room(s)) else { return };
        let (flow, outlet) = (session.flow, session.outlet.clone());
        if self.push_event(flow, Event::Session { session: id, what: SessionInput::Room }) {
            outlet.tell();
        }
    }

    /// Whether the guest was refused, and there is room. A program behind datagrams has some when it was heard again:
    /// what is sent before is lost.
    fn may_tell_room(&self, session: &Session) -> bool {
        let takes = match session.end {
            ProgramEnd::Datagrams(token) => self.dialogs.has_credit(token),
            ProgramEnd::Stream(_) | ProgramEnd::Local(_) => true,
        };
        takes && session.outlet.must_tell() && self.has_room(session.flow)
    }

    /// A flow's sessions go on with the one that takes over from it, if that one has sessions and can pay for them; the
    /// others end with the old one.
    pub(super) fn move_sessions(&mut self, from: Handle, to: Handle) {
        let before = self.flow_and_team(from).map(|(_, team)| team);
        let Some((flow, team)) = self.flow_and_team(to) else { return };
        let takes = flow.tuple.as_ref().is_some_and(|t| t.tuple.main().session);
        // What waits to be written is sent at the new one's expense, like its frames that wait for a link.
        let lines = self.sessions.lines.iter_mut().filter(|l| l.team.is_some() && l.team == before);
        lines.for_each(|line| line.team = Some(team));
        let Some(team) = self.teams.get(team).filter(|_| takes) else { return };
        // One that ran beside the old one has some of its own.
        let own = u16::try_from(self.sessions.count(to)).unwrap_or(u16::MAX);
        let (account, mut room) = (team.account().clone(), team.budget.sessions.saturating_sub(own));
        let its: Vec<Handle> =
            self.sessions.slab.iter().filter(|(_, s)| s.flow == from).map(|(handle, _)| handle).collect();
        for handle in its {
            let Some(session) = self.sessions.slab.get_mut(handle).filter(|_| room > 0) else { break };
            let [charge, input] = [&session.charge, &session.input].map(|paid| account.charge(paid.bytes()));
            if let (Ok(charge), Ok(input)) = (charge, input) {
                (session.flow, session.charge, session.input) = (to, charge, input);
                room -= 1;
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
    pub(super) fn line_opened(&mut self, now: Now, stream: StreamId, from: IpAddr) {
        let theirs = |l: &&Line| l.is_idle() && origin(l.from) == origin(from);
        let strangers = self.sessions.lines.iter().filter(theirs).count();
        if strangers >= MAX_STRANGERS {
            self.counters.add(Count::SessionsRefused);
            return self.net.abort(now.mono, stream);
        }
        let line = Line {
            stream,
            from,
            reader: Reader::default(),
            unread: false,
            wanted: None,
            output: VecDeque::new(),
            own: 0,
            team: None,
            later: None,
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
        if let Some(line) = self.sessions.line(stream) {
            line.unread = true;
        }
        if let Err(error) = self.read_line(now, stream) {
            let refused = error.is::<SessionError>();
            self.counters.add(if refused { Count::SessionsRefused } else { Count::StreamErrors });
            if let Some(line) = self.sessions.line(stream) {
                line.output.extend(format!("error {error}\n").into_bytes());
                let session = line.session;
                line.end(now);
                if let Some(id) = session {
                    self.session_close(now, id);
                }
            }
        }
        self.flush_line(now, stream);
    }

    /// Reads on, for as long as the flow takes packets and it is the line's turn.
    fn read_line(&mut self, now: Now, stream: StreamId) -> Result<(), Box<dyn std::error::Error>> {
        let mut packets = 0;
        while packets < PACKETS_PER_TURN {
            let Some(line) = self.sessions.line(stream).filter(|l| !l.closing) else { return Ok(()) };
            let Some(id) = line.session else {
                let wanted = line.wanted.take();
                if let Some(text) = wanted.map_or_else(|| line.reader.line(), |text| Ok(Some(text)))? {
                    let way = Some((stream.link(), line.heads()));
                    let opened = self.open_session(parse_open(&text)?, ProgramEnd::Stream(stream), way);
                    if opened == Err(SessionError::Busy) {
                        let Some(line) = self.sessions.line(stream) else { return Ok(()) };
                        line.wanted = Some(text);
                        return Ok(());
                    }
                    let (id, hash) = opened?;
                    let team = session_team(self, id);
                    if let Some(line) = self.sessions.line(stream) {
                        (line.session, line.team) = (Some(id), Some(team));
                        line.output.extend(format!("ok {hash}\n").into_bytes());
                        line.own = line.output.len();
                    }
                    continue;
                }
                if !self.fill_line(now, stream)? {
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
                Some(packet) => {
                    let left = line.reader.buffered() as u64;
                    if let Some(session) = self.sessions.get_mut(id) {
                        session.input.shrink(session.input.bytes().saturating_sub(left));
                    }
                    self.session_send(now, id, &packet)?;
                    packets += 1;
                }
                None if self.fill_line(now, stream)? => {}
                None => return Ok(()),
            }
        }
        Ok(())
    }

    pub(super) fn team_has_room(&self, id: SessionId) -> bool {
        let Some(flow) = self.sessions.get(id).map(|s| s.flow).filter(|flow| self.has_room(*flow)) else {
            return false;
        };
        let team = self.flow_and_team(flow).and_then(|(_, team)| self.teams.get(team));
        team.is_some_and(|team| team.account().left() >= MAX_PACKET as u64)
    }

    /// Takes what has arrived; `false` when there is nothing.
    fn fill_line(&mut self, now: Now, stream: StreamId) -> Result<bool, SessionError> {
        let mut bytes = [0; 2048];
        let n = self.net.read(now.mono, stream, &mut bytes);
        let Some(line) = self.sessions.line(stream) else { return Ok(false) };
        line.reader.push(&bytes[..n]);
        line.unread = n > 0;
        let session = line.session;
        if let Some(session) = session.and_then(|id| self.sessions.get_mut(id)) {
            // There was room for a whole packet a moment ago.
            session.input.grow(n as u64).map_err(|_| SessionError::Busy)?;
        }
        Ok(n > 0)
    }

    /// Writes what a stream takes and the team's rate on the link lets pass, in segments that are no longer than its burst.
    /// What can never pass, since the team's bandwidth was lowered, ends the session.
    fn flush_line(&mut self, now: Now, stream: StreamId) {
        let Some(line) = self.sessions.lines.iter_mut().find(|l| l.stream == stream) else { return };
        let (before, mut short) = (line.output.len(), None);
        let bandwidth = line.team.and_then(|team| self.teams.get(team)).map(|member| member.bandwidth());
        let passes = bandwidth.map_or(SEGMENT, |b| b.most(stream.link()).saturating_sub(line.heads()));
        let mute = passes == 0 && line.output.len() > line.own;
        if mute {
            line.output.truncate(line.own);
        }
        line.later = line.later.filter(|at| now.mono < *at);
        while line.later.is_none() {
            let (front, _) = line.output.as_slices();
            let most = if line.own > 0 { line.own } else { SEGMENT.min(passes) };
            let len = front.len().min(most).min(self.net.room(stream));
            if len == 0 {
                break;
            }
            if line.own == 0
                && let Some((team, member)) = line.team.and_then(|t| Some((t, self.teams.get_mut(t)?)))
            {
                let bytes = len + line.heads();
                if !member.bandwidth().take(now.mono, stream.link(), bytes) {
                    let when = member.bandwidth().when(now.mono, stream.link(), bytes);
                    // A rate that was given away may come back.
                    (line.later, short) = (Some(when.unwrap_or(now.mono + OPEN_TIME)), Some(team));
                    break;
                }
                member.counters.sent += bytes as u64;
            }
            let n = self.net.write(now.mono, stream, &front[..len]);
            line.own = line.own.saturating_sub(n);
            line.output.drain(..n);
            if n == 0 {
                break;
            }
        }
        if line.closing && line.output.len() < before {
            line.since = now.mono;
        }
        let (owed, session, closing) = (line.output.len(), line.session, line.closing);
        if let Some(id) = session
            && let Some(session) = self.sessions.get_mut(id)
        {
            session.charge.shrink(session.charge.bytes().saturating_sub(SESSION_CHARGE + owed as u64));
            session.outlet.gone(before - owed);
            self.tell_room(id);
        }
        if let Some(team) = short {
            self.short_of(now, team, Resource::Rate);
        }
        if mute && let Some(id) = session {
            self.counters.add(Count::SessionsRefused);
            self.log_limited(now, || format!("a session ends: {}", SessionError::NoBandwidth));
            return self.session_close(now, id);
        }
        if owed == 0 && closing {
            self.net.close(now.mono, stream);
            // No event tells of the end of a stream that was closed here.
            self.line_closed(now, stream);
        }
    }

    /// Programs whose packets wait for room in a team's queue are read on, and what did not fit before is
    /// written. Who asks for nothing is sent away, and who does not read after the end.
    pub(super) fn lines_due(&mut self, now: Now) {
        let late = |l: &&Line| l.session.is_none() && now.mono >= l.since + OPEN_TIME;
        while let Some(stream) = self.sessions.lines.iter().find(late).map(|l| l.stream) {
            self.sessions.lines.retain(|l| l.stream != stream);
            self.net.abort(now.mono, stream);
        }
        // In turn, so that whoever is first in the list does not fill the queue of a flow that many talk to.
        let lines = self.sessions.lines.len();
        self.sessions.turn = self.sessions.turn.wrapping_add(1);
        for n in 0..lines {
            let at = self.sessions.turn.wrapping_add(n) % lines;
            let Some(line) = self.sessions.lines.get(at) else { continue };
            let (stream, session) = (line.stream, line.session);
            let owed = !line.output.is_empty() || line.closing;
            let asks = line.wanted.is_some();
            if asks || line.has_more() && session.is_some_and(|id| self.team_has_room(id)) {
                self.line_ready(now, stream);
            } else if owed {
                self.flush_line(now, stream);
            }
        }
        let waiting = self.sessions.slab.iter().filter(|(_, s)| self.may_tell_room(s));
        let waiting: Vec<Handle> = waiting.map(|(handle, _)| handle).collect();
        waiting.into_iter().for_each(|handle| self.tell_room(SessionId(handle.raw())));
    }

    /// Whether a program, or a guest that is to be told that there is room, waits for its turn only.
    pub(super) fn lines_wait(&self) -> bool {
        let turn = |l: &Line| {
            let asked = l.wanted.as_deref().is_some_and(|text| self.is_free(text));
            asked || l.has_more() && l.session.is_some_and(|id| self.team_has_room(id))
        };
        let mut sessions = self.sessions.slab.iter();
        self.sessions.lines.iter().any(turn) || sessions.any(|(_, s)| self.may_tell_room(s))
    }

    /// Whether the flow that a program asked for is no longer busy, or no longer there.
    fn is_free(&self, text: &str) -> bool {
        match parse_open(text).map(|selector| self.flows.by_selector(selector)) {
            Ok(Selected::Flow(flow)) => self.has_room(flow),
            _ => true,
        }
    }

    /// A program will say no more. It may still read; its session goes on until the flow or it closes.
    pub(super) fn line_finished(&mut self, now: Now, stream: StreamId) {
        let Some(line) = self.sessions.line(stream) else { return };
        if line.session.is_none() {
            line.end(now);
            self.flush_line(now, stream);
        }
    }
}
