//! Sessions by datagrams ([`wire::datagram`]): for programs that would rather lose a packet than wait for it.
//!
//! Whoever only claims an address costs one hash and gets nothing that is longer than what he sent; nothing is kept of
//! him. Whoever has shown, by a cookie, that he reads what is sent there has a session as over TCP, on the same terms:
//! the team's budget, and the node's. Of one address there are few, of all of them no more than half of the node's
//! sessions, so that streams have the rest. Replies are sent in the team's share of the link, and only so many bytes
//! until the program is heard of again: one that is gone is not flooded.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use nodeos::net::{Correspondent, Datagram};
use nodeos::platform::{Instant, Now};
use nodeos::team::TeamId;
use wire::datagram::{CREDIT, FromProgram, HEADER, IDLE_SECONDS, Said, Token, answer};
use wire::id::sha256;

use super::Node;
use super::sessions::{MAX_SESSIONS, ProgramEnd, SessionError, SessionId};
use crate::counters::Count;

/// Sessions by datagrams at a time.
const MAX_DIALOGS: usize = MAX_SESSIONS / 2;
/// Those of one address.
const MAX_PER_ADDRESS: usize = 32;
/// A program that says nothing for so long has lost its session.
const IDLE: Duration = Duration::from_secs(IDLE_SECONDS);
/// A cookie holds for this and the next such period.
const PERIOD: Duration = Duration::from_secs(10);
/// Cookies of sessions that are over, which open no others.
const MAX_SPENT: usize = 256;

/// A program that has a session by datagrams.
#[derive(Debug)]
struct Dialog {
    token: Token,
    session: SessionId,
    program: Correspondent,
    /// What it was opened with.
    cookie: Token,
    /// What it was told.
    opened: Vec<u8>,
    heard: Instant,
    /// Bytes that it may still be sent until it is heard again.
    credit: usize,
}

/// The sessions by datagrams of a node.
#[derive(Debug)]
pub(super) struct Dialogs {
    /// Makes cookies and tokens; without it, which needs entropy, there are no such sessions.
    secret: Option<[u8; 32]>,
    tokens: u64,
    list: Vec<Dialog>,
    spent: VecDeque<(Token, Instant)>,
}

impl Dialogs {
    /// `seed` is random, and known to nobody else.
    pub(super) fn new(seed: Option<&[u8; 16]>) -> Self {
        let secret = seed.map(|seed| sha256(&[&seed[..], b"session datagrams"].concat()));
        Self { secret, tokens: 0, list: Vec::new(), spent: VecDeque::new() }
    }

    /// When the next silent program loses its session.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.list.iter().map(|d| d.heard + IDLE).min()
    }

    /// Whether half of what a program may be sent until it is heard again is left.
    pub(super) fn has_credit(&self, token: Token) -> bool {
        self.list.iter().any(|d| d.token == token && d.credit >= CREDIT / 2)
    }

    /// What shows that whoever sends it reads what is sent to this address. Secret and message have a fixed length, so
    /// that the hash is as good as a keyed one.
    fn cookie(&self, period: u64, address: &SocketAddr) -> Option<Token> {
        let ip = match address.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        self.hashed(b'c', &[&period.to_be_bytes()[..], &ip.octets(), &address.port().to_be_bytes()].concat())
    }

    /// Nobody guesses it, and no two are the same but by chance.
    fn token(&mut self) -> Option<Token> {
        self.tokens += 1;
        self.hashed(b't', &self.tokens.to_be_bytes())
    }

    fn hashed(&self, what: u8, message: &[u8]) -> Option<Token> {
        let hash = sha256(&[&self.secret?[..], &[what], message].concat());
        Some(Token(*hash.first_chunk().expect("a hash is longer than a token")))
    }

    fn find(&mut self, token: Token) -> Option<&mut Dialog> {
        self.list.iter_mut().find(|d| d.token == token)
    }
}

impl Node {
    /// Serves what has arrived, and sends away who has been silent for long.
    pub(super) fn dialogs_due(&mut self, now: Now) {
        while let Some(datagram) = self.net.datagram() {
            self.datagram(now, datagram);
        }
        let silent = |d: &&Dialog| now.mono >= d.heard + IDLE;
        while let Some(session) = self.dialogs.list.iter().find(silent).map(|d| d.session) {
            self.session_close(now, session);
        }
    }

    fn datagram(&mut self, now: Now, Datagram { from, payload }: Datagram) {
        match FromProgram::parse(&payload) {
            Ok(FromProgram::Open { flow, cookie }) => self.dialog_open(now, &from, flow, cookie),
            Ok(FromProgram::Said(said)) => self.dialog_said(now, &from, &said),
            Err(_) => self.counters.add(Count::DatagramsRefused),
        }
    }

    fn dialog_open(&mut self, now: Now, from: &Correspondent, flow: &str, cookie: Option<Token>) {
        let period = now.mono.micros() / PERIOD.as_micros() as u64;
        let Some(fresh) = self.dialogs.cookie(period, &from.address) else {
            return self.counters.add(Count::DatagramsRefused);
        };
        let before = period.checked_sub(1).and_then(|period| self.dialogs.cookie(period, &from.address));
        let Some(cookie) = cookie.filter(|cookie| *cookie == fresh || Some(*cookie) == before) else {
            return self.dialog_answer(from, &answer(&format!("cookie {fresh}")));
        };
        // The same datagram again, or one of its answers was lost.
        if let Some(dialog) = self.dialogs.list.iter().find(|d| d.cookie == cookie && d.program == *from) {
            let opened = dialog.opened.clone();
            return self.dialog_answer(from, &opened);
        }
        self.dialogs.spent.retain(|(_, until)| *until > now.mono);
        if self.dialogs.spent.iter().any(|(spent, _)| *spent == cookie) {
            return self.counters.add(Count::DatagramsRefused);
        }
        match self.new_dialog(now, from, flow, cookie) {
            Ok(opened) => self.dialog_answer(from, &opened),
            Err(error) => {
                self.counters.add(Count::SessionsRefused);
                self.dialog_answer(from, &answer(&format!("error {error}")));
            }
        }
    }

    fn new_dialog(
        &mut self,
        now: Now,
        from: &Correspondent,
        flow: &str,
        cookie: Token,
    ) -> Result<Vec<u8>, SessionError> {
        let mine = self.dialogs.list.iter().filter(|d| d.program.address.ip() == from.address.ip()).count();
        if self.dialogs.list.len() >= MAX_DIALOGS || mine >= MAX_PER_ADDRESS {
            return Err(SessionError::NodeFull);
        }
        let token = self.dialogs.token().ok_or(SessionError::NodeFull)?;
        let (session, hash) = self.open_session(flow, ProgramEnd::Datagrams(token))?;
        let opened = answer(&format!("ok {token} {hash}"));
        let (program, heard, credit) = (*from, now.mono, CREDIT);
        let dialog = Dialog { token, session, program, cookie, opened: opened.clone(), heard, credit };
        self.dialogs.list.push(dialog);
        Ok(opened)
    }

    fn dialog_said(&mut self, now: Now, from: &Correspondent, said: &Said<'_>) {
        let (Said::Packet(token, _) | Said::Close(token) | Said::Alive(token)) = *said;
        let Some(dialog) = self.dialogs.find(token) else {
            // As short as anything that is said in a session. Two nodes never go on answering each other.
            if !matches!(said, Said::Close(_)) {
                self.dialog_answer(from, &Said::Close(token).encode());
            }
            return self.counters.add(Count::DatagramsRefused);
        };
        if dialog.program.address != from.address || dialog.program.link != from.link {
            return self.counters.add(Count::DatagramsRefused);
        }
        // The way there may have changed.
        (dialog.program, dialog.heard, dialog.credit) = (*from, now.mono, CREDIT);
        let session = dialog.session;
        match said {
            Said::Packet(_, packet) => {
                let sent = self.team_has_room(session) && self.session_send(now, session, packet).is_ok();
                if !sent {
                    self.counters.add(Count::DatagramsDropped);
                }
            }
            Said::Alive(_) => self.dialog_answer(from, &said.encode()),
            Said::Close(_) => self.session_close(now, session),
        }
    }

    /// Sends a reply of the guest; what the program has no credit for is lost, as any datagram may be.
    pub(super) fn dialog_reply(&mut self, team: TeamId, token: Token, packet: &[u8]) {
        let len = HEADER + packet.len();
        let dialog = self.dialogs.find(token).filter(|d| d.credit >= len);
        let program = dialog.map(|dialog| {
            dialog.credit -= len;
            dialog.program
        });
        let bytes = Said::Packet(token, packet).encode();
        if !program.is_some_and(|program| self.send_dialog(team, &program, &bytes)) {
            self.counters.add(Count::DatagramsDropped);
        }
    }

    /// A session is over: its program is told, and its cookie opens no other.
    pub(super) fn dialog_over(&mut self, now: Now, token: Token) {
        let Some(at) = self.dialogs.list.iter().position(|d| d.token == token) else { return };
        let dialog = self.dialogs.list.swap_remove(at);
        if self.dialogs.spent.len() >= MAX_SPENT {
            self.dialogs.spent.pop_front();
        }
        self.dialogs.spent.push_back((dialog.cookie, now.mono + 2 * PERIOD));
        self.dialog_answer(&dialog.program, &Said::Close(token).encode());
    }

    fn dialog_answer(&mut self, to: &Correspondent, bytes: &[u8]) {
        if !self.send_dialog(TeamId::ROOT, to, bytes) {
            self.counters.add(Count::DatagramsDropped);
        }
    }

    fn send_dialog(&mut self, team: TeamId, to: &Correspondent, bytes: &[u8]) -> bool {
        let payload = self.platform.buffers.copy_of(bytes);
        payload.is_some_and(|payload| self.net.send_datagram(team, to, payload).is_ok())
    }
}
