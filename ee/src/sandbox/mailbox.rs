//! What the node leaves for a guest that may be in the middle of an event, and what it learns of it.
//!
//! While an event of a team with the privilege [`BACKGROUND`](crate::cap::BACKGROUND) is suspended, the team's
//! store belongs to its fiber and nobody else reaches its [`TeamState`]. What changes meanwhile waits here and
//! is applied before the guest gets anything more from the node: every host function and every look at the
//! guest begins with [`TeamState::read_mail`]. What it lent to other teams is void without it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use nodeos::account::Charge;
use nodeos::platform::Now;
use nodeos::slab::Handle;
use nodeos::team::Budget;
use wasmtime::{AsContextMut, Caller, Trap};
use wire::grant::Grant;

use super::setup::Setup;
use super::state::TeamState;
use super::{NeighborId, NeighborRef};
use crate::cap::{ChildState, Lines, Target};
use crate::engine::Metering;
use crate::integrity::Integrity;

/// Shared by a sandbox and the state of its guest.
pub(crate) struct Mailbox {
    mail: Mutex<Mail>,
    /// What other teams hold of this one's capabilities, for each of its protocols.
    lines: Vec<Lines>,
    /// The privileges that were granted at the start, by position.
    privileges: Vec<String>,
}

pub(super) struct Mail {
    /// Which slice runs; the guest's side compares it with its own.
    pub slice: u64,
    /// The time at its start.
    pub now: Now,
    /// When its time is over, on the meter.
    pub deadline: u64,
    /// The same in units.
    pub allowance: u64,
    /// Units of the slices after it.
    pub later: u64,
    /// Units that host functions were charged in it.
    pub charged: u64,
    /// After how much fuel the guest yields.
    pub interval: u64,
    /// All the fuel that the event's calls took that are over.
    pub fuel: u64,
    /// The neighbors, by position.
    neighbors: Vec<NeighborId>,
    /// What happened to neighbors, in order; of each no more than one thing.
    changes: Vec<(NeighborId, Change)>,
    /// The privileges that it keeps.
    kept: Option<Vec<String>>,
    /// The terms on which it goes on.
    terms: Option<(Grant, Budget)>,
    /// Flows that it started, and what they do now.
    children: Vec<(Handle, ChildState)>,
    /// Arriving capsules are checked while the guest is away, so the keys are here.
    pub integrity: Integrity,
}

/// What happened to a neighbor of a team.
enum Change {
    /// The team may not know of it any more.
    Denied,
    /// It is none any more.
    Left,
    /// The team may know of it, in the place of whom it knew by that number.
    Found(Box<NeighborRef>, Option<Charge>),
}

impl Mailbox {
    pub fn new(setup: &Setup, lines: Vec<Lines>, integrity: Integrity, now: Now) -> Self {
        let mail = Mail {
            slice: 0,
            now,
            deadline: u64::MAX,
            allowance: u64::MAX,
            later: 0,
            charged: 0,
            interval: 1,
            fuel: 0,
            neighbors: setup.neighbors.iter().map(|n| n.id).collect(),
            changes: Vec::new(),
            kept: None,
            terms: None,
            children: Vec::new(),
            integrity,
        };
        Self { mail: Mutex::new(mail), lines, privileges: setup.grant.privileges.clone() }
    }

    pub(super) fn open(&self) -> MutexGuard<'_, Mail> {
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The guest may not know of this neighbor any more.
    pub(super) fn neighbor_gone(&self, id: NeighborId) {
        self.lost(id, Change::Denied);
    }

    /// A neighbor is none any more; whether the guest knew it.
    pub(super) fn neighbor_left(&self, id: NeighborId) -> bool {
        self.lost(id, Change::Left)
    }

    fn lost(&self, id: NeighborId, how: Change) -> bool {
        let mut mail = self.open();
        let Some(at) = mail.neighbors.iter().position(|known| *known == id) else { return false };
        self.cut(Target::Neighbor(at as u16));
        mail.enter(id, how);
        true
    }

    /// Whether a neighbor has a position in the guest's table.
    pub(super) fn has_place(&self, id: NeighborId) -> bool {
        self.open().neighbors.contains(&id)
    }

    /// The guest knows of this neighbor now.
    pub(super) fn knows(&self, id: NeighborId) {
        let mut mail = self.open();
        if !mail.neighbors.contains(&id) {
            mail.neighbors.push(id);
        }
    }

    /// The guest may know of this neighbor.
    pub(super) fn neighbor_found(&self, is: &NeighborRef, charge: Option<Charge>) {
        self.knows(is.id);
        self.open().enter(is.id, Change::Found(Box::new(is.clone()), charge));
    }

    /// The guest keeps no other privileges than these.
    pub(super) fn withhold(&self, kept: &[String]) {
        for (at, name) in self.privileges.iter().enumerate() {
            if !kept.contains(name) {
                self.cut(Target::Privilege(at as u16));
            }
        }
        self.open().kept = Some(kept.to_vec());
    }

    fn cut(&self, target: Target) {
        self.lines.iter().for_each(|lines| lines.cut_target(target));
    }

    /// A flow that the guest started does something else now. It knows of few, and each does little.
    pub(super) fn child_is(&self, child: Handle, state: ChildState) {
        self.open().children.push((child, state));
    }

    /// The guest goes on under these terms, which are lower than all before.
    pub(super) fn lower(&self, grant: &Grant, budget: &Budget) {
        self.open().terms = Some((grant.clone(), *budget));
    }
}

impl Mail {
    /// What happened before to the same neighbor does not matter any more, but for what it was charged.
    fn enter(&mut self, id: NeighborId, mut change: Change) {
        let before = self.changes.iter().position(|(of, _)| *of == id).map(|at| self.changes.remove(at).1);
        match (before, &mut change) {
            (Some(Change::Found(_, charge)), Change::Found(_, new)) => *new = new.take().or(charge),
            // Its place stays, and has to be paid for: the guest gets it first.
            (Some(found @ Change::Found(..)), _) => self.changes.push((id, found)),
            _ => {}
        }
        self.changes.push((id, change));
    }
}

impl TeamState {
    /// Takes over what the node left since the last time.
    #[inline]
    pub(super) fn read_mail(&mut self) {
        if self.mailbox.is_some() {
            self.open_mail();
        }
    }

    fn open_mail(&mut self) {
        let Some(mailbox) = self.mailbox.clone() else { return };
        let mut mail = mailbox.open();
        if mail.slice != self.slice {
            self.slice = mail.slice;
            (self.now, self.deadline, self.allowance) = (mail.now, mail.deadline, mail.allowance);
            (self.later, self.seen, self.charged) = (mail.later, 0, 0);
        }
        let (changes, kept, terms) = (std::mem::take(&mut mail.changes), mail.kept.take(), mail.terms.take());
        let children = std::mem::take(&mut mail.children);
        drop(mail);
        children.into_iter().for_each(|(child, state)| self.child_is(child, state));
        for (id, change) in changes {
            match change {
                Change::Denied => self.neighbor_gone(id),
                Change::Left => self.neighbor_left(id),
                Change::Found(is, charge) => self.neighbor_found(&is, charge),
            }
        }
        if let Some(kept) = kept {
            self.each(|caps, _| caps.withhold(&kept));
        }
        if let Some((grant, budget)) = terms {
            // That what the flow declares fits the terms was seen when they came.
            let _ = self.lower(&grant, &budget);
        }
    }
}

/// Charges a guest on a fiber. Past its slice it yields at its next loop or function entry; a host function
/// cannot yield, so a straight line of them may take as much again, and no more.
#[cold]
pub(crate) fn charge(guest: &mut Caller<'_, TeamState>, units: u64) -> wasmtime::Result<()> {
    let state = guest.data_mut();
    state.read_mail();
    state.charged = state.charged.saturating_add(units);
    let (charged, allowance) = (state.charged, state.allowance.max(1));
    if charged > allowance.saturating_mul(2) {
        return Err(Trap::Interrupt.into());
    }
    let over = charged > allowance;
    let interval = if over { 1 } else { allowance };
    let before = std::mem::replace(&mut state.interval, interval);
    let metering = state.metering;
    if let Some(mailbox) = &state.mailbox {
        let mut mail = mailbox.open();
        (mail.charged, mail.interval) = (charged, interval);
    }
    match metering {
        Metering::Epoch if over => guest.engine().increment_epoch(),
        Metering::Fuel if interval != before => {
            guest.as_context_mut().fuel_async_yield_interval(Some(interval))?;
        }
        _ => {}
    }
    Ok(())
}
