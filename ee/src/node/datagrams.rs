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
use nodeos::team::{Resource, TeamId};
use wire::datagram::{CREDIT, FromProgram, HEADER, IDLE_SECONDS, Said, Token, answer};
use wire::id::sha256;

use super::Node;
use super::sessions::{MAX_SESSIONS, ProgramEnd, SessionError, SessionId, session_team};
use crate::attempts::origin;
use crate::counters::Count;

/// Sessions by datagrams at a time.
const MAX_DIALOGS: usize = MAX_SESSIONS / 2;
/// Those of one address, or of one IPv6 network of 64 bits.
const MAX_PER_ORIGIN: usize = 32;
/// Bytes of a frame in front of what is said in it: Ethernet, IPv4 or IPv6, and UDP.
const UDP_HEADS: (usize, usize) = (42, 62);
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
    /// What the team's rate has not let pass yet, and when it lets the first pass.
    waiting: VecDeque<Vec<u8>>,
    later: Option<Instant>,
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

    /// When the next silent program loses its session, or the next packet may be sent.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.list.iter().flat_map(|d| [Some(d.heard + IDLE), d.later]).flatten().min()
    }

    /// Whether one more program from there may have a session.
    fn has_place(&self, from: IpAddr) -> bool {
        let theirs = |d: &&Dialog| origin(d.program.address.ip()) == origin(from);
        self.list.len() < MAX_DIALOGS && self.list.iter().filter(theirs).count() < MAX_PER_ORIGIN
    }

    /// Whether half of what a program may be sent until it is heard again is left, without what waits for it already.
    pub(super) fn has_credit(&self, token: Token) -> bool {
        let owed = |d: &Dialog| d.waiting.iter().map(|packet| HEADER + packet.len()).sum::<usize>();
        self.list.iter().any(|d| d.token == token && d.credit >= CREDIT / 2 + owed(d))
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
        let due = |d: &&Dialog| d.later.is_some_and(|at| at <= now.mono);
        let due: Vec<Token> = self.dialogs.list.iter().filter(due).map(|d| d.token).collect();
        due.into_iter().for_each(|token| self.flush_dialog(now, token));
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
        if !self.dialogs.has_place(from.address.ip()) {
            return Err(SessionError::NodeFull);
        }
        let token = self.dialogs.token().ok_or(SessionError::NodeFull)?;
        let (session, hash) =
            self.open_session(flow, ProgramEnd::Datagrams(token), Some((from.link, heads(from) + HEADER)))?;
        let opened = answer(&format!("ok {token} {hash}"));
        let (program, heard, credit) = (*from, now.mono, CREDIT);
        let (waiting, later) = (VecDeque::new(), None);
        let opened_with = opened.clone();
        let dialog =
            Dialog { token, session, program, cookie, opened: opened_with, heard, credit, waiting, later };
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

    /// Sends a reply of the guest, which its session has been charged for.
    pub(super) fn dialog_reply(&mut self, now: Now, token: Token, packet: Vec<u8>) {
        if let Some(dialog) = self.dialogs.find(token) {
            dialog.waiting.push_back(packet);
            self.flush_dialog(now, token);
        }
    }

    /// Sends what the team's rate on the link lets pass; what the program has no credit for is lost, as any datagram
    /// may be, and so is what can never pass.
    fn flush_dialog(&mut self, now: Now, token: Token) {
        while let Some(dialog) = self.dialogs.find(token) {
            dialog.later = dialog.later.filter(|at| now.mono < *at);
            let Some(packet) = dialog.waiting.front().filter(|_| dialog.later.is_none()) else { return };
            let (session, program, len) = (dialog.session, dialog.program, HEADER + packet.len());
            let bytes = Said::Packet(token, packet).encode();
            let (team, mut sent) = (session_team(self, session), false);
            if self.dialogs.find(token).is_some_and(|d| d.credit >= len) {
                match self.takes_rate(now, team, &program, len) {
                    Err(Some(later)) => {
                        self.dialogs.find(token).into_iter().for_each(|d| d.later = Some(later));
                        return self.short_of(now, team, Resource::Rate);
                    }
                    Err(None) => {}
                    Ok(()) => sent = self.send_dialog(team, &program, &bytes),
                }
            }
            if !sent {
                self.counters.add(Count::DatagramsDropped);
            }
            if let Some(dialog) = self.dialogs.find(token) {
                dialog.credit -= if sent { len } else { 0 };
                dialog.waiting.pop_front();
            }
            self.packet_gone(session, len - HEADER);
        }
    }

    /// Takes a datagram of so many bytes out of the team's rate; else, when it may pass, if ever.
    fn takes_rate(
        &mut self,
        now: Now,
        team: TeamId,
        to: &Correspondent,
        len: usize,
    ) -> Result<(), Option<Instant>> {
        let Some(member) = self.teams.get_mut(team) else { return Ok(()) };
        let bytes = len + heads(to);
        if !member.bandwidth().take(now.mono, to.link, bytes) {
            return Err(member.bandwidth().when(now.mono, to.link, bytes));
        }
        member.counters.sent += bytes as u64;
        Ok(())
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

/// Bytes of a frame in front of what is said to a program.
fn heads(to: &Correspondent) -> usize {
    if to.address.is_ipv6() { UDP_HEADS.1 } else { UDP_HEADS.0 }
}

#[cfg(test)]
mod tests {
    use nodeos::link::{LinkId, Mac};

    use super::*;

    fn dialog(n: u64, from: IpAddr) -> Dialog {
        let address = SocketAddr::new(from, 5000);
        Dialog {
            token: Token(n.to_be_bytes()),
            session: SessionId(1),
            program: Correspondent { link: LinkId(0), address, station: Mac([0; 6]) },
            cookie: Token([0; 8]),
            opened: vec![],
            heard: Instant::ZERO,
            credit: 0,
            waiting: VecDeque::new(),
            later: None,
        }
    }

    #[test]
    fn one_network_of_ipv6_has_as_many_places_as_one_address() {
        let mut dialogs = Dialogs::new(None);
        let host = |net: u64, host: u64| {
            IpAddr::from(std::net::Ipv6Addr::from_bits(u128::from(net) << 64 | u128::from(host)))
        };
        for n in 0..MAX_PER_ORIGIN as u64 {
            assert!(dialogs.has_place(host(7, n)));
            dialogs.list.push(dialog(n, host(7, n)));
        }
        assert!(!dialogs.has_place(host(7, 1 << 63)) && dialogs.has_place(host(8, 0)));
        // Networks that are many have half of the node's sessions together.
        let taken = (8..).take_while(|net| {
            let place = dialogs.has_place(host(*net, 0));
            dialogs.list.push(dialog(*net, host(*net, 0)));
            place
        });
        assert_eq!(taken.count(), MAX_DIALOGS - MAX_PER_ORIGIN);
    }
}
