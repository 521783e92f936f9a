//! What host functions touch: everything of a team but its code.

use std::sync::Arc;

use authagent::keys::SigningKey;
use nodeos::account::Charge;
use nodeos::buf::{BLOCK, Buf, BufPool};
use nodeos::platform::{Instant, Meter, Now};
use nodeos::slab::{Full, Handle, Slab};
use nodeos::team::{Accounts, Budget};
use wasmtime::{Memory, ResourceLimiter};
use wire::control::NeighborNews;
use wire::grant::Grant;
use wire::id::TupleHash;
use wire::tuple::{Protocol, Tuple};

use super::cross::Cross;
use super::effects::Effects;
use super::handover::Handover;
use super::mailbox::Mailbox;
use super::protocols::{Calls, InstanceState};
use super::run::{LOOKS, OWN_EIGHTHS};
use super::{Effect, NeighborId, NeighborRef, Outlet, Refused, SessionId, StartError};
use crate::abi::{self, Error};
use crate::blob::Blobs;
use crate::cap::{Caps, Neighbors};
use crate::capsule::{Kinds, Objects};
use crate::engine::Metering;
use crate::envelope::{Envelopes, Maker};
use crate::guest::random::Random;
use crate::integrity::Integrity;
use crate::sensor::{Sensed, Waiting};
use crate::soft::{Soft, TimerTable};
use crate::system::discovery::Nodes;

/// Effects that one event may have.
pub const MAX_EFFECTS: usize = 512;

/// What all teams of a node have in common; who may use it, their capabilities say.
#[derive(Clone, Default)]
pub struct Shared {
    /// The node's identity, if it has one.
    pub key: Option<Arc<SigningKey>>,
    /// What it measures.
    pub sensors: Arc<Sensed>,
    /// What waits for its links.
    pub waiting: Arc<Waiting>,
    /// Capabilities on their way from team to team.
    pub envelopes: Envelopes,
    /// What flows keep on the node.
    pub blobs: Blobs,
    /// The nodes that are known by adverts.
    pub nodes: Nodes,
}

/// The data of a team's store.
pub struct TeamState {
    pub(crate) tuple: Arc<Tuple>,
    pub(crate) hash: TupleHash,
    pub(crate) node_name: Arc<str>,
    pub(crate) data: Vec<(String, Arc<[u8]>)>,
    pub(crate) accounts: Accounts,
    pub(crate) buffers: BufPool,

    /// One for each protocol of the team, as the tuple lists them.
    pub(super) instances: Vec<InstanceState>,
    /// Which of them runs; the main one between events.
    pub(super) current: usize,
    pub(super) calls: Calls,

    pub(crate) metering: Metering,
    pub(crate) meter: Arc<dyn Meter>,
    /// Units that make one microsecond.
    pub(crate) per_micro: u64,
    /// Units of one event.
    pub(crate) allowance: u64,
    /// When the running event's time is over, on the meter.
    pub(crate) deadline: u64,
    /// How often the present handler was seen running when it was looked at.
    pub(crate) seen: u64,
    /// What the thread had had of the processor when that was for the first time.
    pub(crate) seen_at: u64,
    /// Units that host functions were charged in the running event.
    pub(crate) charged: u64,
    pub(crate) now: Now,
    /// When what the running event is about came.
    pub(crate) since: Instant,

    pub(crate) objects: Objects,
    pub(crate) caps: Caps,
    pub(crate) neighbors: Neighbors,
    /// For neighbors that were found since the start.
    pub(super) found: Charge,
    /// It may know of every neighbor, and so of every node.
    pub(crate) sees_all: bool,
    /// Made on first use.
    pub(super) soft: Option<Box<Soft>>,
    pub(super) soft_limit: usize,
    pub(super) soft_seed: u64,
    pub(crate) timers: TimerTable,
    pub(crate) sessions: Slab<OpenSession>,
    /// How many there may be; the slab has room for as many as at the start.
    pub(super) session_limit: usize,
    /// One for each.
    pub(super) sessions_held: Charge,
    /// The packet that is being handled, and whose it is.
    pub(crate) packet: Vec<u8>,
    pub(crate) speaking: Option<Handle>,
    pub(crate) random: Option<Random>,
    pub(crate) shared: Shared,
    pub(crate) maker: Maker,
    pub(super) cross: Cross,

    /// Of a team that may run in the background; what is told to it in the middle of an event.
    pub(crate) mailbox: Option<Arc<Mailbox>>,
    /// Which slice that brought last.
    pub(super) slice: u64,
    /// Units of the slices after that.
    pub(super) later: u64,
    /// After how much fuel it yields.
    pub(super) interval: u64,
    /// The running event does not yield: it is over within one slice, or fails.
    pub(crate) at_once: bool,
    /// In the handlers that are about it, and until what they gave is taken.
    pub(super) handover: Option<Box<Handover>>,

    /// Without a mailbox; else it is there.
    pub(super) integrity: Integrity,
    pub(crate) effects: Effects,
    /// Those of them that are not the running event's.
    pub(super) done: usize,
    /// Packet buffers that the event took, and the bytes of its other effects.
    pub(super) lent: Charge,
    pub(crate) refused: Refused,
    pub(super) limiter: Limiter,
}

/// A session that the guest knows.
pub(crate) struct OpenSession {
    pub id: SessionId,
    /// Where replies go out.
    pub outlet: Outlet,
}

impl TeamState {
    #[inline]
    pub(crate) fn memory(&self) -> Option<Memory> {
        self.instances.get(self.current)?.memory
    }

    #[inline]
    pub(crate) fn kinds(&self) -> &Kinds {
        &self.instances[self.current].kinds
    }

    /// What the tuple says about the protocol that runs.
    pub(crate) fn protocol(&self) -> &Protocol {
        &self.tuple.body.protocols[self.current]
    }

    /// Turns a result into what the guest gets, and counts refusals.
    pub(crate) fn answer(&mut self, result: Result<i32, Error>) -> i32 {
        let error = match result {
            Ok(value) => return value,
            Err(error) => error,
        };
        let count = match error {
            Error::BadPointer => &mut self.refused.pointers,
            Error::NoMemory => &mut self.refused.memory,
            Error::NoBandwidth => &mut self.refused.rate,
            _ => &mut self.refused.others,
        };
        *count = count.saturating_add(1);
        error.code()
    }

    /// A tick found the guest running: whether its time is up. The processor may have been taken from the whole node
    /// for a while, or again and again: the guest must have been seen in each part of its time, and since the first of
    /// them have had most of that for itself.
    pub(super) fn is_late(&mut self) -> bool {
        self.seen += 1;
        if self.seen == 1 {
            self.seen_at = self.meter.own();
        }
        self.seen >= LOOKS
            && self.meter.count() >= self.deadline
            && self.meter.own().saturating_sub(self.seen_at) >= self.allowance / 8 * OWN_EIGHTHS
    }

    /// What is left of the event's time, in units; `fuel` where that is counted.
    pub(crate) fn units_left(&self, fuel: Option<u64>) -> u64 {
        match (fuel, &self.mailbox) {
            (Some(fuel), None) => fuel,
            (Some(_), Some(_)) => self.later + self.allowance.saturating_sub(self.charged),
            (None, _) => self.later + self.deadline.saturating_sub(self.meter.count()),
        }
    }

    /// Works with the keys for marks on capsules.
    pub(crate) fn with_integrity<R>(&mut self, work: impl FnOnce(&mut Integrity) -> R) -> R {
        match &self.mailbox {
            Some(mailbox) => work(&mut mailbox.open().integrity),
            None => work(&mut self.integrity),
        }
    }

    /// Something happened to a neighbor of the protocol that runs: the number by which it knows it, if it does.
    pub(super) fn heard_of(&mut self, id: NeighborId, news: NeighborNews) -> Option<u32> {
        if news == NeighborNews::Gone {
            return self.neighbors.left(id).map(abi::number_of);
        }
        let at = self.neighbors.position(id)?;
        match news {
            NeighborNews::Dead => self.neighbors.get_mut(at).ok()?.seems(false),
            NeighborNews::Alive => self.neighbors.get_mut(at).ok()?.seems(true),
            NeighborNews::Found | NeighborNews::Gone => {}
        }
        self.caps.of_neighbor(at, &mut self.neighbors).ok().map(abi::number_of)
    }

    /// Revokes every capability for a neighbor. What the running event was to send there is not sent.
    pub(super) fn neighbor_gone(&mut self, id: NeighborId) {
        self.each(|caps, neighbors| {
            if let Some(at) = neighbors.position(id) {
                neighbors.gone(id);
                caps.neighbor_gone(at);
            }
        });
        self.effects.retain(
            |e| !matches!(e, Effect::Send { to: of, .. } | Effect::Watch { neighbor: of, .. } if *of == id),
        );
    }

    /// The team may know of a further neighbor, or of one again.
    pub(super) fn neighbor_found(&mut self, is: &NeighborRef, charge: Option<Charge>) {
        if let Some(charge) = charge {
            // Of the same account.
            let _ = self.found.merge(charge);
        }
        // Who had the place may have left while the guest was away.
        self.neighbor_left(is.id);
        self.each(|_, neighbors| neighbors.add(is.clone()));
    }

    /// A neighbor is none any more: every capability for it is void, and nothing of it stands for whoever comes in its
    /// place.
    pub(super) fn neighbor_left(&mut self, id: NeighborId) {
        self.each(|caps, neighbors| {
            // Also of one that was taken from the protocol before.
            if let Some(at) = neighbors.place(id) {
                neighbors.gone(id);
                caps.neighbor_left(at);
            }
        });
        self.effects.retain(|e| !e.concerns(id));
    }

    /// Goes on under lower terms; the memory account and an event's time are not this state's.
    pub(super) fn lower(&mut self, grant: &Grant, budget: &Budget) -> Result<(), StartError> {
        let tuple = self.tuple.clone();
        for (at, kinds) in Kinds::all(&tuple, grant)?.into_iter().enumerate() {
            self.instances[at].kinds = kinds;
        }
        self.timers.lower(budget.timers.into(), grant.min_timer_us, grant.max_timer_us);
        self.session_limit = budget.sessions.into();
        self.soft_limit = self.soft_limit.min(budget.cache_entries.into());
        if let Some(soft) = &mut self.soft {
            soft.lower(budget.cache_entries.into());
        }
        self.sees_all &= grant.neighbors == wire::grant::Neighbors::All;
        self.each(|caps, _| caps.withhold(&grant.privileges));
        Ok(())
    }

    /// Enters a session.
    pub(super) fn open(&mut self, id: SessionId, outlet: &Outlet) -> Result<Handle, Full> {
        if self.sessions.len() >= self.session_limit || self.sessions_held.grow(1).is_err() {
            return Err(Full);
        }
        let session = OpenSession { id, outlet: outlet.clone() };
        self.sessions.insert(session).inspect_err(|_| self.sessions_held.shrink(1))
    }

    /// Forgets a session.
    pub(crate) fn shut(&mut self, session: Handle) -> Option<SessionId> {
        let closed = self.sessions.remove(session)?;
        self.sessions_held.shrink(1);
        Some(closed.id)
    }

    /// Forgets what the guest wants, from the effect at `from` on. Its sessions may go on without it: what it was about to
    /// say takes no room there any more.
    pub(super) fn take_back(&mut self, from: usize) {
        for effect in self.effects.since(from) {
            if let Effect::Reply { session, packet } = effect
                && let Some((_, known)) = self.sessions.iter().find(|(_, known)| known.id == *session)
            {
                known.outlet.packet_gone(packet.len());
            }
        }
        self.effects.truncate(from);
    }

    /// A fresh packet buffer at the team's expense.
    pub(crate) fn buffer(&mut self) -> Result<Buf, Error> {
        self.lent.grow(BLOCK as u64).map_err(|_| Error::NoMemory)?;
        match self.buffers.take() {
            Some(buf) => Ok(buf),
            None => {
                self.lent.shrink(BLOCK as u64);
                Err(Error::NoMemory)
            }
        }
    }

    /// A copy of a capsule's payload.
    pub(crate) fn copy_of(&mut self, capsule: u32) -> Result<Buf, Error> {
        let mut copy = self.buffer()?;
        let payload = &self.objects.get(capsule)?.payload;
        copy.extend_from_slice(payload).map_err(|_| Error::NoRoom)?;
        Ok(copy)
    }

    /// Charges the bytes of an effect, beside its place, for as long as it waits.
    pub(crate) fn charge_effect(&mut self, bytes: usize) -> Result<(), Error> {
        self.lent.grow(bytes as u64).map_err(|_| Error::NoMemory)
    }

    /// The soft state, made on first use.
    pub(crate) fn soft(&mut self) -> Result<&mut Soft, Error> {
        if self.soft.is_none() {
            let (memory, entries) = (self.accounts.memory(), self.accounts.cache_entries());
            self.soft = Some(Box::new(Soft::new(memory, entries, self.soft_limit, self.soft_seed)?));
        }
        self.soft.as_deref_mut().ok_or(Error::NoMemory)
    }

    /// The soft-state entry of `key`.
    #[inline]
    pub(crate) fn soft_entry(&mut self, key: &[u8]) -> Result<Handle, Error> {
        let (now, owner) = (self.now.mono, self.owner());
        self.soft.as_deref_mut().ok_or(Error::NotFound)?.touch(now, owner, key)
    }

    /// Its value.
    #[inline]
    pub(crate) fn soft_value(&self, entry: Handle) -> Result<&[u8], Error> {
        self.soft.as_ref().ok_or(Error::NotFound)?.value(entry)
    }
}

/// Charges linear memory and tables before they grow.
pub(super) struct Limiter {
    /// Holds what the instances have.
    pub charge: Charge,
    /// How often a guest was refused memory.
    pub refused: u16,
}

impl ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|m| desired > m) {
            return Ok(false);
        }
        // While the memory moves the old one is there beside the new one.
        let peak = self.charge.account().charge(desired as u64);
        let granted = peak.map(drop).and_then(|()| self.charge.grow((desired - current) as u64)).is_ok();
        self.refused = self.refused.saturating_add(u16::from(!granted));
        Ok(granted)
    }

    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        // The charge stays too high by what was not had. Nothing a guest can do makes this happen, short
        // of the node's running out of memory; the team then ends.
        Err(error)
    }

    fn table_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let bytes = (desired - current) * size_of::<usize>();
        Ok(self.charge.grow(bytes as u64).is_ok())
    }

    fn instances(&self) -> usize {
        wire::tuple::MAX_PROTOCOLS
    }

    fn tables(&self) -> usize {
        wire::tuple::MAX_PROTOCOLS
    }

    fn memories(&self) -> usize {
        wire::tuple::MAX_PROTOCOLS
    }
}
