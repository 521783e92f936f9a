//! Events to teams, and their effects.
//!
//! An event waits in its team's queue until the scheduler picks the team; the guest runs on the spot, with
//! a deadline, and what it wants done is carried out when it has returned. A guest that trapped or ran
//! out of time has done nothing, and its team gets a strike.

use std::fmt;

use nodeos::account::Charge;
use nodeos::buf::{BLOCK, Buf};
use nodeos::platform::Now;
use nodeos::slab::Handle;
use nodeos::team::{Fault, Resource, Team, Verdict};
use wire::control::Erred;
use wire::id::CapsuleId;
use wire::integrity::Mark;

use super::charge::Labour;
use super::{End, Node, label};
use crate::abi;
use crate::counters::Count;
use crate::flow::{Flow, Stage};
use crate::integrity::Unsound;
use crate::neighbor::NeighborId;
use crate::sandbox::{Effect, Event, GuestFault, Refused, SessionInput};

/// Guest calls between two looks at the links, at most.
const EVENTS_PER_POLL: usize = 32;
/// Microseconds of guests' work after which the links are looked at again.
const WORK_PER_POLL: u64 = 200;
/// Capsules of a flow between two looks at how near its limits it is.
const EVENTS_PER_LOOK: u64 = 64;
/// Timers and expiries of one team that are turned into events at a time.
const DUE_PER_TEAM: usize = 16;

/// An event in a team's queue, with what is paid for its buffer.
#[derive(Debug)]
pub(super) struct Queued {
    /// `None`: the next slice of the one that the team is in the middle of.
    event: Option<Event>,
    charge: Option<Charge>,
}

impl Node {
    /// A capsule of a flow that this node knows.
    pub(super) fn for_flow(
        &mut self,
        now: Now,
        (handle, kind): (Handle, u8),
        from: NeighborId,
        id: CapsuleId,
        mark: Option<&Mark>,
        payload: Buf,
    ) {
        let Some(flow) = self.flows.get(handle) else { return };
        if !self.flow_knows(flow, from) {
            self.neighbors[from].refused += 1;
            return self.counters.add(Count::NeighborDenied);
        }
        if !matches!(flow.stage, Stage::Running { .. }) {
            return self.wait_for_flow(handle, from, id, payload);
        }
        let sandbox = self.flows.get_mut(handle).and_then(|f| f.sandbox());
        if let Some(Err(why)) = sandbox.map(|s| s.check(from, &id, &payload, mark)) {
            return self.unsound(now, from, why);
        }
        self.counters.add(Count::CapsulesReceived);
        self.push_event(handle, Event::Capsule { kind, from: Some(from), packet: payload });
    }

    /// A capsule is not as its protocol's own neighbor would have sent it.
    fn unsound(&mut self, now: Now, from: NeighborId, why: Unsound) {
        self.neighbors[from].refused += 1;
        let (count, what) = match why {
            Unsound::Mark => (Count::IntegrityRefused, "without the mark that its protocol asks for"),
            Unsound::Replayed => (Count::IntegrityReplayed, "a second time, or far too late"),
        };
        self.counters.add(count);
        let name = self.neighbors[from].name.clone();
        self.log_limited(now, || format!("peer {name} sent a capsule {what}"));
    }

    /// Queues an event for a flow's team, and charges the team for what it holds. What does not fit is
    /// dropped and counted.
    pub(super) fn push_event(&mut self, handle: Handle, event: Event) -> bool {
        let Some((_, team)) = self.flow_and_team(handle) else { return false };
        let Some(member) = self.teams.get_mut(team) else { return false };
        let bytes = match &event {
            Event::Capsule { .. } => BLOCK,
            Event::Session { what: SessionInput::Packet(packet), .. } => packet.len(),
            _ => 0,
        };
        let charge = match bytes {
            0 => None,
            bytes => match member.account().charge(bytes as u64) {
                Ok(charge) => Some(charge),
                Err(_) => {
                    member.counters.refused += 1;
                    return false;
                }
            },
        };
        // The end of a session must not be lost: the guest would hold it for ever.
        let must = matches!(event, Event::Session { what: SessionInput::Close, .. });
        let queued = Queued { event: Some(event), charge };
        let queued = if must {
            self.sched.push_always(team, queued).is_ok()
        } else {
            let room = self.sched.queued(team) < usize::from(member.budget.queue);
            room && self.sched.push(team, queued).is_ok()
        };
        if !queued {
            member.counters.dropped += 1;
            self.counters.add(Count::QueueFull);
        }
        queued
    }

    /// Runs some of the queued events; `true` when there are more. A frame that arrives meanwhile waits for as
    /// long as one event takes, not for one of each team.
    pub(super) fn run_teams(&mut self, now: Now) -> bool {
        let until = self.charged.saturating_add(WORK_PER_POLL * self.platform.meter.per_micro());
        for _ in 0..EVENTS_PER_POLL {
            if self.charged >= until {
                return true;
            }
            let Some((team, queued)) = self.sched.next() else { return false };
            let Some(handle) = self.flows.by_team(team) else { continue };
            // The guest holds the buffer while it runs; its queue slot is free.
            let Queued { event, charge } = queued;
            if self.deliver(now, handle, event) {
                // Others' turn, and the links', before the next slice.
                let _ = self.sched.put_back(team, Queued { event: None, charge });
                return true;
            }
        }
        true
    }

    /// Whether whoever has something to do is in the middle of an event in the background. A platform whose jobs
    /// run only while the node waits gives them their turn then: long work has no end that could be waited for.
    pub fn only_long_work(&self) -> bool {
        let suspended =
            |f: &Flow| matches!(&f.stage, Stage::Running { sandbox, .. } if sandbox.is_suspended());
        let count = self.flows.iter().filter(|(_, f)| suspended(f)).count();
        count > 0 && count == self.sched.busy()
    }

    /// Gives one event to a flow's guest, or the next slice of the one that it is in the middle of, and carries
    /// out what it wants. Whether it is in the middle of it now.
    pub(super) fn deliver(&mut self, now: Now, handle: Handle, event: Option<Event>) -> bool {
        let Some(flow) = self.flows.get_mut(handle) else { return false };
        let Some((team, _)) = flow.team else { return false };
        let Stage::Running { sandbox, .. } = &mut flow.stage else { return false };
        let Some(member) = self.teams.get_mut(team) else { return false };
        if event.is_some() && member.count_event().is_err() {
            let why = "it has had all the events that it may have";
            self.end_flow(now, handle, End::failed(Erred::Guest, why));
            return false;
        }
        let is_capsule = matches!(event, Some(Event::Capsule { .. }));
        let outcome = match event {
            Some(event) => sandbox.deliver(now, event),
            None => sandbox.resume(now),
        };
        flow.capsules.0 += u64::from(is_capsule);
        let look = flow.capsules.0 % EVENTS_PER_LOOK == 0;
        self.sched.used(team, outcome.units);
        if let Some(member) = self.teams.get_mut(team) {
            member.counters.units += outcome.units;
        }
        self.charged += outcome.units;
        self.plan_wake(handle);
        if outcome.more {
            self.counters.add(Count::Slices);
            return true;
        }
        match outcome.end {
            Ok(()) => self.effects(now, handle),
            Err(fault) => {
                self.fault(now, handle, &fault);
                return false;
            }
        }
        if look || outcome.refused.memory > 0 {
            self.warn(handle);
        }
        if outcome.refused != Refused::default() {
            self.conduct(now, handle, &outcome.refused);
        }
        false
    }

    /// What a guest was refused counts against it; near a limit it is warned (the policy is
    /// [`nodeos::team`]'s).
    fn conduct(&mut self, now: Now, handle: Handle, refused: &Refused) {
        let Some((_, team)) = self.flow_and_team(handle) else { return };
        let Some(member) = self.teams.get_mut(team) else { return };
        let kinds = [
            (Resource::Memory, refused.memory),
            (Resource::Rate, refused.rate),
            (Resource::Timers, refused.timers),
            (Resource::Sessions, refused.sessions),
        ];
        let mut verdict = Verdict::Go;
        for (resource, count) in kinds {
            for _ in 0..count {
                member.counters.refused += 1;
                verdict = verdict.worse(member.conduct.refused(now.mono, resource));
            }
        }
        for _ in 0..refused.pointers {
            verdict = verdict.worse(member.conduct.fault(now.mono, Fault::Pointer));
        }
        if verdict == Verdict::End {
            self.struck_out(now, handle, "it kept asking for what it may not have");
        }
    }

    /// Warns a team that passed the soft threshold of a budget.
    fn warn(&mut self, handle: Handle) {
        let Some(flow) = self.flows.get_mut(handle) else { return };
        let Some((team, _)) = flow.team else { return };
        let Some(usage) = flow.sandbox().map(|s| s.usage()) else { return };
        let Some(member) = self.teams.get_mut(team) else { return };
        let mut memory = false;
        for (resource, used, limit) in usage {
            let first = member.conduct.used(resource, used, limit);
            memory |= first && resource == Resource::Memory;
        }
        if memory {
            self.push_event(handle, Event::Warning(abi::Resource::Memory));
        }
    }

    /// Enters the flow's next deadline.
    fn plan_wake(&mut self, handle: Handle) {
        let Some(flow) = self.flows.get_mut(handle) else { return };
        let Stage::Running { sandbox, wake, .. } = &mut flow.stage else { return };
        let due = sandbox.deadline();
        if due == *wake {
            return;
        }
        if let Some(planned) = std::mem::replace(wake, due) {
            self.wakes.remove(&(planned, handle));
        }
        self.wakes.extend(due.map(|at| (at, handle)));
    }

    /// Turns what is due in sandboxes into events, as many as their queues take: a timer that fires into a
    /// full queue fires later.
    pub(super) fn timers_due(&mut self, now: Now) {
        let due = self.wakes.iter().take_while(|(at, _)| *at <= now.mono);
        let due: Vec<Handle> = due.map(|(_, flow)| *flow).collect();
        for handle in due {
            for _ in 0..DUE_PER_TEAM {
                if !self.has_room(handle) {
                    break;
                }
                let Some(sandbox) = self.flows.get_mut(handle).and_then(|f| f.sandbox()) else { break };
                let Some(event) = sandbox.due(now) else { break };
                self.push_event(handle, event);
            }
            self.plan_wake(handle);
        }
    }

    /// Whether a flow's queue takes one more event.
    pub(super) fn has_room(&self, handle: Handle) -> bool {
        let Some((_, team)) = self.flow_and_team(handle) else { return false };
        let own = |t: &Team| self.sched.queued(team) < usize::from(t.budget.queue);
        self.teams.get(team).is_some_and(own) && self.sched.has_room(team)
    }

    fn effects(&mut self, now: Now, handle: Handle) {
        let mut effects = std::mem::take(&mut self.effects);
        if let Some(sandbox) = self.flows.get_mut(handle).and_then(|f| f.sandbox()) {
            effects.extend(sandbox.effects());
        }
        for effect in effects.drain(..) {
            match effect {
                Effect::Send { to, kind, payload } => self.send_for(now, handle, to, kind, payload),
                Effect::Reply { session, packet } => self.session_reply(now, session, packet),
                Effect::CloseSession { session } => self.session_close(now, session),
                Effect::FlowStart { child, tuple, give } => {
                    self.work_for(handle, Labour::Start, |node| {
                        node.child_start(now, handle, child, tuple, give)
                    });
                }
                Effect::FlowStop { child, kill } => {
                    self.work_for(handle, Labour::Start, |node| node.child_stop(now, handle, child, kill));
                }
                Effect::FlowLimit { child, resource, most } => {
                    self.child_limit(now, handle, child, resource, most);
                }
                Effect::Log { level, text } => {
                    let Some(flow) = self.flows.get(handle) else { continue };
                    let name = label(flow);
                    if !self.log.guest(now.mono, || format!("flow {name} {}: {text}", level.name())) {
                        self.counters.add(Count::LogSuppressed);
                    }
                }
            }
        }
        self.effects = effects;
    }

    fn send_for(&mut self, now: Now, handle: Handle, to: NeighborId, kind: u8, payload: Buf) {
        let Some(flow) = self.flows.get(handle) else { return };
        let Some(&id) = flow.kind_ids.get(usize::from(kind)) else { return };
        let len = payload.len() as u64;
        let sandbox = self.flows.get_mut(handle).and_then(|f| f.sandbox());
        let mark = sandbox.and_then(|s| s.mark(to, &id, &payload));
        let sent = self.send(now, to, &id, mark.as_ref(), payload);
        self.counters.add(if sent { Count::CapsulesSent } else { Count::SendDropped });
        let Some(flow) = self.flows.get_mut(handle) else { return };
        if sent {
            flow.capsules.1 += 1;
        } else {
            flow.capsules.2 += 1;
        }
        if let Some((team, _)) = flow.team
            && let Some(member) = self.teams.get_mut(team)
        {
            member.counters.sent += if sent { len } else { 0 };
        }
    }

    /// The guest erred: a strike, and the end after too many.
    fn fault(&mut self, now: Now, handle: Handle, fault: &GuestFault) {
        let Some(flow) = self.flows.get_mut(handle) else { return };
        let name = label(flow);
        // What a guest wanted before it failed does not happen.
        if let Some(sandbox) = flow.sandbox() {
            sandbox.effects().for_each(drop);
        }
        let overrun = matches!(fault, GuestFault::Deadline);
        self.counters.add(if overrun { Count::Overruns } else { Count::Traps });
        self.log_limited(now, || format!("guest {name}: {fault}"));
        let Some((_, team)) = self.flow_and_team(handle) else { return };
        let kind = if overrun { Fault::Deadline } else { Fault::Trap };
        let verdict = self.teams.get_mut(team).map(|member| member.conduct.fault(now.mono, kind));
        if verdict == Some(Verdict::End) {
            self.struck_out(now, handle, fault);
        }
    }

    pub(super) fn struck_out(&mut self, now: Now, handle: Handle, why: impl fmt::Display) {
        let Some(flow) = self.flows.get(handle) else { return };
        self.counters.add(Count::StruckOut);
        self.bans.for_a_while(now.mono, flow.hash);
        self.end_flow(now, handle, End::failed(Erred::Guest, why));
    }
}
