//! The node's own services, as flows use them by name (Bees' system protocols as companions, seed 004, section V):
//! they are called as another flow is ([`super::cross`]), and answer at once. `docs/abi/companion.md` has their
//! operations.

use nodeos::platform::Now;
use nodeos::slab::Handle;
use wire::control::FlowState;
use wire::grant::Neighbors;
use wire::id::{CapsuleId, TupleHash};
use wire::tuple::MAX_LEN;

use super::alive::alive;
use super::{End, Node};
use crate::abi::{Error, MAX_MESSAGE};
use crate::flow::{Flow, Source, Stage, tuple_bytes};
use crate::guest::cap::{NODE_LEN, WATCH_BYTES, record, watch_times};
use crate::neighbor::NeighborId;
use crate::registry::Target;
use crate::system::liveness::Watcher;

/// Tuples that one flow may have on their way here at a time.
const FETCHES: usize = 2;
/// Flows that are known to want the same one.
const MAX_WANTING: usize = 8;

/// A service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Service {
    /// Has flows fetched from neighbors, ahead of their first capsules.
    Download,
    /// Knows which flow an identifier is of.
    Translate,
    /// Knows whether neighbors are there.
    Liveness,
    /// Knows who is there at all.
    Discovery,
}

/// What a call gives: a result and an answer.
type Given = Result<(i32, Vec<u8>), Error>;

impl Service {
    /// The service that serves this interface.
    pub fn named(interface: &str) -> Option<Self> {
        match interface {
            "bees.download" => Some(Self::Download),
            "bees.translate" => Some(Self::Translate),
            "bees.liveness" => Some(Self::Liveness),
            "bees.discovery" => Some(Self::Discovery),
            _ => None,
        }
    }
}

impl Node {
    /// Does what a flow wants of a service.
    pub(super) fn serve_call(
        &mut self,
        now: Now,
        (caller, protocol): (Handle, u8),
        service: Service,
        operation: u32,
        message: &[u8],
    ) -> Given {
        match (service, operation) {
            (Service::Liveness, 0) => self.is_there(now, caller, protocol, message),
            (Service::Liveness, 1) => self.watch_by_call(now, caller, protocol, message),
            (Service::Liveness, 2) => {
                let neighbor = self.neighbor_for(caller, protocol, message, Some(false))?;
                self.liveness.unwatch(neighbor, Watcher::Flow { flow: caller, protocol });
                Ok((0, Vec::new()))
            }
            (Service::Discovery, 0) => self.known_to(now, caller, message),
            (Service::Download, 0) => self.progress(message),
            (Service::Download, 1) => self.fetch_for(now, caller, message),
            (Service::Translate, 0) => self.translate_for(caller, message),
            _ => Err(Error::BadArgument),
        }
    }

    /// The neighbor of this name, if the protocol may know of it; it is watched from now on, or not any more.
    fn neighbor_for(
        &mut self,
        caller: Handle,
        protocol: u8,
        name: &[u8],
        watched: Option<bool>,
    ) -> Result<NeighborId, Error> {
        let name = str::from_utf8(name).map_err(|_| Error::BadArgument)?;
        let id = self.neighbors.by_name(name).ok_or(Error::NotFound)?;
        // What was taken from it, or from this protocol of it, it does not reach this way either.
        let sandbox = self.flows.get_mut(caller).and_then(Flow::started).ok_or(Error::Unavailable)?;
        if sandbox.watches(protocol, id, watched) { Ok(id) } else { Err(Error::NotFound) }
    }

    /// Whether the neighbor of this name is alive, as this protocol sees it, else as the node does; for how many
    /// milliseconds, and how many microseconds a poke takes.
    fn is_there(&mut self, now: Now, caller: Handle, protocol: u8, name: &[u8]) -> Given {
        let neighbor = self.neighbor_for(caller, protocol, name, None)?;
        let by = Watcher::Flow { flow: caller, protocol };
        let state = self.liveness.state_for(neighbor, by).ok_or(Error::NotFound)?;
        let known = alive(now, &state);
        let short = |n: u64| u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes();
        let numbers = [known.since_us / 1000, known.rtt_us.unwrap_or(0)];
        Ok((known.up.into(), numbers.into_iter().flat_map(short).collect()))
    }

    /// Watches the neighbor of this name for the protocol, as `neighbor_watch` does: times, then the name.
    fn watch_by_call(&mut self, now: Now, caller: Handle, protocol: u8, message: &[u8]) -> Given {
        let (poke, rest) = message.split_first_chunk().ok_or(Error::BadArgument)?;
        let (expire, name) = rest.split_first_chunk().ok_or(Error::BadArgument)?;
        let [poke, expire] = [poke, expire].map(|us| i64::from_le_bytes(*us));
        let times = watch_times(poke, expire).ok_or(Error::BadArgument)?;
        let (_, team) = self.flow_and_team(caller).ok_or(Error::Unavailable)?;
        let account = self.teams.get(team).ok_or(Error::Unavailable)?.account();
        let charge = account.charge(WATCH_BYTES).map_err(|_| Error::NoMemory)?;
        let neighbor = self.neighbor_for(caller, protocol, name, Some(true))?;
        self.watch_for(now, neighbor, Watcher::Flow { flow: caller, protocol }, times, charge);
        Ok((0, Vec::new()))
    }

    /// The nodes that are known by adverts from a position on, as `nodes_known` gives them, and how many there are.
    fn known_to(&self, now: Now, caller: Handle, message: &[u8]) -> Given {
        let from = u32::from_le_bytes(message.try_into().map_err(|_| Error::BadArgument)?);
        let grant = self.flows.get(caller).and_then(|flow| flow.team.as_ref()).map(|(_, grant)| grant);
        if grant.is_none_or(|grant| grant.neighbors != Neighbors::All) {
            return Err(Error::NotPermitted);
        }
        self.shared.nodes.with(|list| {
            let wanted = list.iter().skip(from as usize).take(MAX_MESSAGE / NODE_LEN);
            Ok((list.len() as i32, wanted.flat_map(|node| record(now.mono, node)).collect()))
        })
    }

    /// Of the flow of this hash: what it does, how many bytes have come, and how many there are.
    fn progress(&self, message: &[u8]) -> Given {
        let hash = TupleHash(message.try_into().map_err(|_| Error::BadArgument)?);
        let flow =
            self.flows.by_hash(&hash).and_then(|handle| self.flows.get(handle)).ok_or(Error::NotFound)?;
        let state = match flow.state() {
            FlowState::Tuple => 0,
            FlowState::Judging => 1,
            FlowState::Download => 2,
            FlowState::Compile => 3,
            _ => 4,
        };
        let parts = flow.tuple.iter().flat_map(|data| data.parts.iter().map(|part| u64::from(part.len)));
        let tuple = flow.tuple.as_ref().map_or(0, |data| data.bytes.len() as u64);
        let numbers = [flow.arrival.bytes, tuple + parts.sum::<u64>()];
        let short = |n: u64| u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes();
        Ok((state, numbers.into_iter().flat_map(short).collect()))
    }

    /// Fetches the flow of this hash, whose tuple is so long, from the neighbor of this name; 1: it is here, or on its way.
    fn fetch_for(&mut self, now: Now, caller: Handle, message: &[u8]) -> Given {
        let (hash, rest) = message.split_first_chunk::<32>().ok_or(Error::BadArgument)?;
        let (len, name) = rest.split_first_chunk::<4>().ok_or(Error::BadArgument)?;
        let (hash, len) = (TupleHash(*hash), u32::from_le_bytes(*len));
        let name = str::from_utf8(name).map_err(|_| Error::BadArgument)?;
        if len == 0 || len as usize > MAX_LEN {
            return Err(Error::BadArgument);
        }
        let (flow, team) = self.flow_and_team(caller).ok_or(Error::Unavailable)?;
        // It learns nothing of neighbors that it may not know of.
        let known = self.neighbors.by_name(name).filter(|id| self.flow_knows(flow, *id));
        let from = known.ok_or(Error::NotFound)?;
        if let Some(known) = self.flows.by_hash(&hash) {
            let flow = self.flows.get_mut(known);
            let fetched = |f: &&mut Flow| (1..MAX_WANTING).contains(&f.fetched_for.len());
            if let Some(flow) = flow.filter(fetched).filter(|f| !f.fetched_for.contains(&caller)) {
                flow.fetched_for.push(caller);
            }
            return Ok((1, Vec::new()));
        }
        if self.bans.holds(now.mono, &hash) {
            return Err(Error::Unavailable);
        }
        let fetches = |f: &Flow| f.fetched_for.first() == Some(&caller) && f.team.is_none();
        if self.flows.iter().filter(|(_, f)| fetches(f)).count() >= FETCHES {
            return Err(Error::NoRoom);
        }
        let account = self.teams.get(team).ok_or(Error::Unavailable)?.account();
        let charge = account.charge(tuple_bytes(len as usize)).map_err(|_| Error::NoMemory)?;
        if !self.fetch_tuple(now, from, (hash, len), charge, None, Some(caller)) {
            return Err(Error::NoRoom);
        }
        Ok((0, Vec::new()))
    }

    /// A flow has ended: what is on its way here because of it, and is wanted by no other flow and no capsule, ends, too. What
    /// goes on is paid by somebody else who wants it, or by the neighbor that it comes from.
    pub(super) fn end_fetches(&mut self, now: Now, ended: Handle) {
        let its = self.flows.iter().filter(|(_, f)| f.fetched_for.contains(&ended));
        let its: Vec<Handle> = its.map(|(handle, _)| handle).collect();
        for handle in its {
            let Some(flow) = self.flows.get_mut(handle) else { continue };
            flow.fetched_for.retain(|wants| *wants != ended);
            if flow.fetched_for.is_empty() && flow.waiting.is_empty() {
                self.end_flow(now, handle, End::killed("the flow that wanted it here ended"));
            } else if flow.team.is_none() && !self.pays_instead(handle) {
                self.end_flow(
                    now,
                    handle,
                    End::killed("nobody can pay for it since the flow that wanted it ended"),
                );
            }
        }
    }

    /// Somebody else pays for a tuple that is on its way or judged; whether that is so.
    fn pays_instead(&mut self, handle: Handle) -> bool {
        let Some(flow) = self.flows.get(handle) else { return true };
        let wants = flow.fetched_for.first().and_then(|wants| self.flow_and_team(*wants));
        let account = match (wants.and_then(|(_, team)| self.teams.get(team)), &flow.source) {
            (Some(team), _) => team.account().clone(),
            (None, Source::Neighbor { id, .. }) => self.neighbors[*id].account.clone(),
            _ => return false,
        };
        let Some(flow) = self.flows.get_mut(handle) else { return true };
        let paid = match (&mut flow.stage, &mut flow.tuple) {
            (Stage::Tuple { charge, .. }, _) => charge,
            (_, Some(data)) => &mut data.charge,
            _ => return true,
        };
        match account.charge(paid.bytes()) {
            Ok(charge) => *paid = charge,
            Err(_) => return false,
        }
        true
    }

    /// Which flow's capsules have this identifier: its hash, its tuple's length, the protocol, the type, and the neighbor
    /// that the flow came from (nothing: it was started here).
    fn translate_for(&self, caller: Handle, message: &[u8]) -> Given {
        let id = CapsuleId(message.try_into().map_err(|_| Error::BadArgument)?);
        let Some(Target::Flow { flow, protocol, kind }) = self.registry.find(&id) else {
            return Err(Error::NotFound);
        };
        let flow = self.flows.get(flow).ok_or(Error::NotFound)?;
        let data = flow.tuple.as_ref().ok_or(Error::NotFound)?;
        let mut answer = flow.hash.0.to_vec();
        answer.extend((data.bytes.len() as u32).to_le_bytes());
        answer.extend([protocol, kind]);
        let asker = self.flows.get(caller);
        if let Source::Neighbor { name, .. } = &flow.source
            && asker.is_some_and(|asker| asker.knows(name))
        {
            answer.extend(name.bytes());
        }
        Ok((i32::from(matches!(flow.stage, Stage::Running { .. })), answer))
    }
}
