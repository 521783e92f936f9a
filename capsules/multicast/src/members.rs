//! The programs on this node that want something of a group.

use bees_sdk::node::{self, Resource};
use bees_sdk::{Error, Session};

use crate::filter::{Filter, Gate, Verdict};

/// Memberships on a node: programs, each with one for every group.
const MAX_MEMBERS: usize = 16;
/// A program that does not read for so long is a member no more, in microseconds.
const DEAF: u64 = 30_000_000;
/// Memory that is left to what must be had, in bytes.
const RESERVE: u64 = 128 * 1024;

/// The members.
pub struct Members([Member; MAX_MEMBERS]);

#[derive(Debug, Clone, Copy)]
struct Member {
    session: Option<Session>,
    group: u64,
    gate: Gate,
    /// Since when it does not read; 0: it does.
    deaf: u64,
}

/// What came of a payload.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Delivered {
    /// Members that got it.
    pub told: u32,
    /// Members that would have, but had more than their rate.
    pub thinned: u32,
    /// Members that do not read, or that there was no memory for.
    pub unread: u32,
}

const FREE: Member = Member { session: None, group: 0, gate: Gate::CLOSED, deaf: 0 };

impl Members {
    pub const fn new() -> Self {
        Self([FREE; MAX_MEMBERS])
    }

    /// A program wants this of a group, in place of what it wanted before; whether there is room.
    pub fn join(&mut self, session: Session, group: u64, filter: &Filter) -> bool {
        let known = self.0.iter().position(|m| m.session == Some(session) && m.group == group);
        let Some(at) = known.or_else(|| self.0.iter().position(|m| m.session.is_none())) else {
            return false;
        };
        let member = &mut self.0[at];
        (member.session, member.group) = (Some(session), group);
        member.gate.set(filter);
        true
    }

    /// A program wants nothing of a group any more; whether it did before.
    pub fn leave(&mut self, session: Session, group: u64) -> bool {
        let is_it = |m: &&mut Member| m.session == Some(session) && m.group == group;
        self.0.iter_mut().find(is_it).map(|member| *member = FREE).is_some()
    }

    /// A program is gone.
    pub fn closed(&mut self, session: Session) {
        self.0.iter_mut().filter(|m| m.session == Some(session)).for_each(|m| *m = FREE);
    }

    /// A program reads again.
    pub fn hears(&mut self, session: Session) {
        self.0.iter_mut().filter(|m| m.session == Some(session)).for_each(|m| m.deaf = 0);
    }

    /// Ends the membership, and the session, of programs that have not read for too long.
    pub fn expire(&mut self, now: u64) {
        for at in 0..MAX_MEMBERS {
            let member = self.0[at];
            if member.deaf != 0
                && now.saturating_sub(member.deaf) > DEAF
                && let Some(session) = member.session
            {
                self.closed(session);
                let _ = session.close();
            }
        }
    }

    /// How many want something of a group.
    pub fn count(&self, group: u64) -> usize {
        self.of(group).count()
    }

    /// Adds to a filter what members want; `true`: there was no room for it.
    pub fn merge(&self, group: u64, into: &mut Filter) -> bool {
        self.of(group).fold(false, |widened, m| into.merge(m.gate.filter()) | widened)
    }

    /// Tells the members of a group something that is no payload.
    pub fn tell(&self, group: u64, line: &[u8]) {
        self.of(group).filter(|m| m.deaf == 0).flat_map(|m| m.session).for_each(|session| {
            let _ = session.reply(line);
        });
    }

    /// Gives a payload to those who want it: `packet` is what they get of it.
    pub fn deliver(&mut self, group: u64, payload: &[u8], packet: &[u8], now: u64) -> Delivered {
        let mut delivered = Delivered::default();
        for member in self.0.iter_mut().filter(|m| m.group == group) {
            let Some(session) = member.session else { continue };
            match member.gate.pass(payload, now) {
                Verdict::Unwanted => continue,
                Verdict::Thinned => {
                    delivered.thinned += 1;
                    continue;
                }
                Verdict::Pass => {}
            }
            // Asking for more memory than there is would be held against the flow.
            let room = node::budget_left(Resource::Memory).is_ok_and(|left| left > RESERVE);
            let told = if room && member.deaf == 0 { session.reply(packet) } else { Err(Error::NoMemory) };
            match told {
                Ok(()) => delivered.told += 1,
                Err(Error::BadHandle) => *member = FREE,
                Err(why) => {
                    delivered.unread += 1;
                    if why == Error::NoRoom {
                        member.deaf = now.max(1);
                    }
                }
            }
        }
        delivered
    }

    fn of(&self, group: u64) -> impl Iterator<Item = &Member> {
        self.0.iter().filter(move |m| m.session.is_some() && m.group == group)
    }
}
