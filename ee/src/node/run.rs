//! Events to teams, and their effects.
//!
//! An event waits in its team's queue until the scheduler picks the team; the guest runs on the spot, with
//! a deadline, and what it wants done is carried out when it has returned. A guest that trapped or ran
//! out of time has done nothing, and its team ends.

use std::fmt;
use std::time::Duration;

use nodeos::buf::{BLOCK, Buf};
use nodeos::platform::{Instant, Now};
use nodeos::sched::Scheduler;
use nodeos::slab::Handle;
use nodeos::team::{Fault, Resource, Team, TeamId, Verdict};
use wire::control::{Crash, Erred};
use wire::id::CapsuleId;
use wire::integrity::Mark;
use wire::tuple::Budgets;

use super::charge::Labour;
use super::cross::Back;
use super::sessions::MAX_SESSIONS;
use super::throttle::held_until;
use super::{End, Node, label};
use crate::abi;
use crate::counters::Count;
use crate::flow::Stage;
use crate::integrity::Unsound;
use crate::neighbor::NeighborId;
use crate::sandbox::{Answered, Effect, Event, GuestFault, Refused, SessionInput};
use crate::system::liveness::Watcher;

/// Guest calls between two looks at the links, at most: as many as the frames that a platform hands in between two polls
/// (64 of a link) may make of two links, so that what piled up while the processor was away finds room in the queues.
const EVENTS_PER_POLL: usize = 128;
/// Microseconds of guests' work after which the links are looked at again.
const WORK_PER_POLL: u64 = 200;
/// Timers and expiries of one team that are turned into events at a time.
const DUE_PER_TEAM: usize = 16;
/// Teams whose timers and expiries are looked at between two looks at the links.
const TEAMS_PER_POLL: usize = 32;
/// When what is due and finds no room is looked at again, unless the team has had an event before.
const NO_ROOM: Duration = Duration::from_millis(1);

/// An event in a team's queue, with what is paid for its buffer.
#[derive(Debug)]
pub(super) struct Queued {
    /// `None`: the next slice of the one that the team is in the middle of.
    pub event: Option<Event>,
    /// When it came.
    pub since: Instant,
    /// Bytes that its team [holds](Team::hold) for it.
    pub held: u32,
}

impl Queued {
    /// The call that it is, by the node's number.
    pub(super) fn call(&self) -> Option<Handle> {
        match &self.event {
            Some(Event::Call(asked)) => Handle::from_raw(asked.call),
            _ => None,
        }
    }

    /// What nobody pays for.
    pub(super) const fn free(event: Event, since: Instant) -> Self {
        Self { event: Some(event), since, held: 0 }
    }
}

/// What a team is charged from the start for queueing the ends of so many sessions, which must not be lost.
pub(super) fn ends_of_sessions(sessions: u16) -> u64 {
    Scheduler::<Queued>::slot_bytes(usize::from(sessions).min(MAX_SESSIONS)) as u64
}

impl Node {
    /// A capsule of a flow that this node knows.
    pub(super) fn for_flow(
        &mut self,
        now: Now,
        (handle, protocol, kind): (Handle, u8, u8),
        from: NeighborId,
        id: CapsuleId,
        mark: Option<&Mark>,
        payload: Buf,
    ) {
        let Some(flow) = self.flows.get_mut(handle) else { return };
        if !flow.knows(&self.neighbors[from].name) {
            self.neighbors[from].refused += 1;
            return self.counters.add(Count::NeighborDenied);
        }
        let team = flow.team.as_ref().map(|(team, _)| *team);
        let (Some(sandbox), Some(team)) = (flow.sandbox(), team) else {
            return self.wait_for_flow(now, handle, from, id, payload);
        };
        if let Err(why) = sandbox.check(from, &id, &payload, mark) {
            return self.unsound(now, from, why);
        }
        self.counters.add(Count::CapsulesReceived);
        let event = Event::Capsule { protocol, kind, from: Some(from), packet: payload };
        self.push_to((handle, team), event, false, self.clock);
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

    /// A new team pays for the slots of its queue.
    pub(super) fn charge_queue(&mut self, team: TeamId) {
        if let Some(member) = self.teams.get(team) {
            // An empty queue costs nothing.
            let _ = self.sched.charge_queue(team, member.account());
        }
    }

    /// Queues an event for a flow's team, and charges the team for what it holds. What does not fit is
    /// dropped and counted.
    pub(super) fn push_event(&mut self, handle: Handle, event: Event) -> bool {
        // The end of a session must not be lost: the guest would hold it for ever. Nor must what was due: there is room.
        let closes = matches!(event, Event::Session { what: SessionInput::Close, .. });
        let must = closes || matches!(event, Event::Timer(_) | Event::Expiry { .. });
        self.push(handle, event, must, self.clock)
    }

    /// The same for what came then, and waited for an earlier version of the flow: it is no more than had room there.
    pub(super) fn push_moved(&mut self, handle: Handle, event: Event, since: Instant) -> bool {
        self.push(handle, event, true, since)
    }

    fn push(&mut self, handle: Handle, event: Event, must: bool, since: Instant) -> bool {
        let Some((_, team)) = self.flow_and_team(handle) else { return false };
        self.push_to((handle, team), event, must, since)
    }

    #[inline]
    fn push_to(
        &mut self,
        (handle, team): (Handle, TeamId),
        event: Event,
        must: bool,
        since: Instant,
    ) -> bool {
        let Some(member) = self.teams.get_mut(team) else { return false };
        if !self.endings.is_empty() && self.endings.contains_key(&handle) {
            member.counters.dropped += 1;
            return false;
        }
        let bytes = match &event {
            Event::Capsule { .. } => BLOCK,
            Event::Session { what: SessionInput::Packet(packet), .. } => packet.len(),
            // Its end may have to be queued behind it.
            Event::Session { what: SessionInput::Open(_), .. } => Scheduler::<Queued>::slot_bytes(1),
            _ => 0,
        };
        // Nothing is longer than a message of a client.
        let held = u32::try_from(bytes).unwrap_or(u32::MAX);
        if held > 0 && member.hold(held.into()).is_err() {
            member.counters.refused += 1;
            return false;
        }
        let queued = Queued { event: Some(event), since, held };
        let pushed = match must {
            true => self.sched.push_always(team, queued),
            false => self.sched.push_within(team, member.budget.queue.into(), queued),
        };
        if pushed.is_err() {
            member.let_go(held.into());
            member.counters.dropped += 1;
            self.counters.add(Count::QueueFull);
            return false;
        }
        true
    }

    /// Queues what came of a flow's call, of which there are few. The place is paid for with the call: a flow learns what
    /// became of each, or ends.
    pub(super) fn push_answer(&mut self, handle: Handle, answered: Answered) {
        let Some((_, team)) = self.flow_and_team(handle) else { return };
        if !self.endings.contains_key(&handle) {
            let event = Event::Answer(Box::new(answered));
            let _ = self.sched.push_always(team, Queued::free(event, self.clock));
        }
    }

    /// Runs some of the queued events; `true` when there are more. A frame that arrives meanwhile waits for as
    /// long as one event takes, not for one of each team; and what short events want sent does not wait for a long one.
    pub(super) fn run_teams(&mut self, now: Now) -> bool {
        let until = self.charged.saturating_add(self.work_per_poll());
        for already in 0..EVENTS_PER_POLL {
            if self.charged >= until {
                return true;
            }
            let Some((team, queued)) = self.sched.next() else { return false };
            let Some(handle) = self.flows.by_team(team) else { continue };
            let left = until.saturating_sub(self.charged);
            if self.flows.get(handle).is_some_and(|flow| flow.usual > left) {
                // Once: it is not put off again for short events that came meanwhile.
                self.postponed = already > 0 && !self.postponed;
                if self.postponed {
                    let _ = self.sched.put_back(team, queued);
                    return true;
                }
            }
            if queued.event.is_some() && self.throttles.any() && self.hold_back(now, team) {
                let _ = self.sched.put_back(team, queued);
                self.sched.hold(team);
                self.plan_wake(handle);
                continue;
            }
            let rest = Queued { event: None, ..queued };
            if self.deliver(now, handle, queued) {
                // Others' turn, and the links', before the next slice.
                let _ = self.sched.put_back(team, rest);
                return true;
            }
        }
        true
    }

    /// Units of work after which the links are looked at again.
    pub(super) fn work_per_poll(&self) -> u64 {
        WORK_PER_POLL * self.platform.meter.per_micro()
    }

    /// Whether whoever has something to do is in the middle of an event in the background. A platform whose jobs
    /// run only while the node waits gives them their turn then: long work has no end that could be waited for.
    pub fn only_long_work(&self) -> bool {
        // Each of these has its next slice in front of its queue, and is not held back.
        self.suspended > 0 && self.suspended == self.sched.busy()
    }

    /// Gives one event to a flow's guest, or the next slice of the one that it is in the middle of, and carries out what it
    /// wants. Whether it is in the middle of it now: then what is held for it stays held.
    pub(super) fn deliver(&mut self, now: Now, handle: Handle, queued: Queued) -> bool {
        let Queued { event, since, held } = queued;
        let Some(flow) = self.flows.get_mut(handle) else { return false };
        let Some((team, _)) = flow.team else { return false };
        let Stage::Running { sandbox, wake, .. } = &mut flow.stage else { return false };
        let Some(member) = self.teams.get_mut(team) else { return false };
        // The clean-up of a flow that is stopped is always had.
        let counts = event.as_ref().is_some_and(|event| !matches!(event, Event::Stop));
        if counts && member.count_event().is_err() {
            // What others have used up above it is no reason to keep it away.
            if member.accounts().events_total().own_left() == 0 {
                self.keep_away(now, handle);
            }
            let why = "it has had all the events that it may have";
            self.end_flow(now, handle, End::failed(Erred::Guest, why));
            return false;
        }
        let is_capsule = matches!(event, Some(Event::Capsule { .. }));
        sandbox.came(since);
        if flow.sees_queues {
            self.shared.waiting.look(&self.net);
        }
        if let Some(Event::Call(asked)) = &event {
            flow.serving = Handle::from_raw(asked.call);
        }
        let before = usize::from(sandbox.is_suspended());
        let outcome = match event {
            Some(event) => sandbox.deliver(now, event),
            None => sandbox.resume(now),
        };
        self.suspended = self.suspended + usize::from(outcome.more) - before;
        flow.capsules.0 += u64::from(is_capsule);
        flow.usual = match flow.usual {
            u64::MAX => outcome.units,
            usual => outcome.units.max(usual - usual / 8),
        };
        if !outcome.more {
            // What the guest did not keep goes now, or is about to be sent.
            member.let_go(held.into());
        }
        let (serving, replan) = (flow.serving, self.throttles.any() || sandbox.deadline() != *wake);
        match serving {
            None => {
                self.sched.used(team, outcome.units);
                member.counters.units += outcome.units;
                self.charged += outcome.units;
            }
            Some(call) => self.charge_call(call, team, outcome.units),
        }
        if replan {
            self.plan_wake(handle);
        }
        if outcome.more {
            self.counters.add(Count::Slices);
            return true;
        }
        if serving.is_some() {
            self.flows.get_mut(handle).into_iter().for_each(|flow| flow.serving = None);
            self.call_heard(handle);
        }
        let ending = if self.endings.is_empty() { None } else { self.endings.remove(&handle) };
        let ends = match (outcome.end, ending) {
            (Ok(()), None) => self.effects(now, handle),
            // The event that the flow was in when it was to be stopped: its own clean-up is next.
            (Ok(()), Some(end)) => {
                self.effects(now, handle);
                self.end_flow(now, handle, end);
                return false;
            }
            (Err(fault), None) => {
                self.fault(now, handle, &fault);
                return false;
            }
            (Err(fault), Some(end)) => {
                let why = match self.crashed(now, handle, &fault) {
                    Some(crash) => format!("{}: {crash}", end.why),
                    None => end.why,
                };
                self.end_flow(now, handle, End::killed(why));
                return false;
            }
        };
        if serving.is_some() {
            self.attend(handle);
        }
        if outcome.refused != Refused::default() {
            self.conduct(now, handle, &outcome.refused);
        }
        if outcome.near {
            self.short_of(now, team, Resource::Processor);
        }
        if self.teams.get(team).is_some_and(Team::may_warn) {
            self.warn(team);
        }
        // Last: what it was refused counts. Whose clean-up this was ends as whoever ended it said.
        let lives = |node: &mut Self| node.flows.get_mut(handle)?.sandbox().map(|s| !s.has_ended());
        if ends && lives(self) == Some(true) {
            self.end_flow(now, handle, End::by("itself", false));
        }
        false
    }

    /// An event of `team` was another flow's call. Whoever called pays for it, while that one is there.
    fn charge_call(&mut self, call: Handle, team: TeamId, units: u64) {
        let payer = self.payer_of(call);
        self.sched.used(team, if payer.is_some() { 0 } else { units });
        match payer {
            Some(payer) => self.charge_units(payer, units, Labour::Serve),
            None => {
                self.teams.get_mut(team).into_iter().for_each(|member| member.counters.units += units);
                self.charged += units;
            }
        }
    }

    /// What a guest was refused counts against it (the policy is [`nodeos::team`]'s); not in its clean-up, which
    /// is the end anyway.
    pub(super) fn conduct(&mut self, now: Now, handle: Handle, refused: &Refused) {
        let Some((_, team)) = self.flow_and_team(handle) else { return };
        let lives = self.flows.get_mut(handle).and_then(|f| f.sandbox()).is_some_and(|s| !s.has_ended());
        let Some(member) = self.teams.get_mut(team).filter(|_| lives) else { return };
        let kinds = [
            (Resource::Memory, refused.memory),
            (Resource::Rate, refused.rate),
            (Resource::Timers, refused.timers),
            (Resource::Sessions, refused.sessions),
        ];
        let mut verdict = Verdict::Go;
        for (resource, count) in kinds.into_iter().filter(|(_, count)| *count > 0) {
            verdict = verdict.max(member.refused(now.mono, resource, count));
        }
        for _ in 0..refused.pointers {
            verdict = verdict.max(member.conduct.fault(now.mono, Fault::Pointer));
        }
        if refused.rate > 0 {
            self.short_of(now, team, Resource::Rate);
        }
        self.judged(now, handle, verdict, "it kept asking for what it may not have");
    }

    /// Warns a team that came near a limit, and those above it whose limit it is. Where there is no room for the
    /// event now, a later event of the team finds it again.
    #[cold]
    pub(super) fn warn(&mut self, team: TeamId) {
        let mut at = Some(team);
        while let Some(team) = at {
            let Some(member) = self.teams.get_mut(team) else { return };
            at = member.parent();
            for resource in member.warnings() {
                self.tell_now_or_later(team, resource);
            }
        }
    }

    /// Warns a team that had less of its rate, or of the processor's time, than it wanted.
    pub(super) fn short_of(&mut self, now: Now, team: TeamId, resource: Resource) {
        let Some(member) = self.teams.get_mut(team) else { return };
        if member.conduct.short_of(now.mono, resource) {
            self.tell_now_or_later(team, resource);
        }
    }

    fn tell_now_or_later(&mut self, team: TeamId, resource: Resource) {
        if !self.tell(team, resource)
            && let Some(member) = self.teams.get_mut(team)
        {
            member.warn_later(resource);
        }
    }

    /// Queues a warning for whoever has a handler for it; `false`: it does not run yet, or there is no room.
    fn tell(&mut self, team: TeamId, resource: Resource) -> bool {
        let Some(handle) = self.flows.by_team(team) else { return true };
        let Some(sandbox) = self.flows.get_mut(handle).and_then(|f| f.sandbox()) else { return false };
        match abi::Resource::of_kind(resource).filter(|_| sandbox.hears_warnings()) {
            Some(number) => self.has_room(handle) && self.push_event(handle, Event::Warning(number)),
            None => true,
        }
    }

    /// Enters the flow's next deadline.
    pub(super) fn plan_wake(&mut self, handle: Handle) {
        let Some(flow) = self.flows.get_mut(handle) else { return };
        let Stage::Running { sandbox, wake, .. } = &mut flow.stage else { return };
        let mut due = sandbox.deadline();
        // A team that is held back, its queue full, is not looked at over and over.
        if self.throttles.any()
            && let Some((team, _)) = &flow.team
            && let Some(until) = self.teams.get(*team).and_then(held_until)
        {
            due = due.map(|at| at.max(until));
        }
        if due != *wake {
            self.wake_at(handle, due);
        }
    }

    fn wake_at(&mut self, handle: Handle, due: Option<Instant>) {
        let Some(Stage::Running { wake, .. }) = self.flows.get_mut(handle).map(|flow| &mut flow.stage) else {
            return;
        };
        if let Some(planned) = std::mem::replace(wake, due) {
            self.wakes.remove(&(planned, handle));
        }
        self.wakes.extend(due.map(|at| (at, handle)));
    }

    /// Turns what is due in sandboxes into events, as many as their queues take: a timer that fires into a
    /// full queue fires later. `true` when there is more.
    pub(super) fn timers_due(&mut self, now: Now) -> bool {
        for _ in 0..TEAMS_PER_POLL {
            let Some(&(_, handle)) = self.wakes.first().filter(|(at, _)| *at <= now.mono) else {
                return false;
            };
            let mut room = true;
            for _ in 0..DUE_PER_TEAM {
                room = self.has_room(handle) && self.has_slot(handle);
                if !room {
                    break;
                }
                let Some(sandbox) = self.flows.get_mut(handle).and_then(|f| f.sandbox()) else { break };
                let Some(event) = sandbox.due(now) else { break };
                self.push_event(handle, event);
            }
            if room {
                self.plan_wake(handle);
            } else {
                // Its next event plans it anew; until then others need not wait while it is looked at.
                self.wake_at(handle, Some(now.mono + NO_ROOM));
            }
        }
        self.wakes.first().is_some_and(|(at, _)| *at <= now.mono)
    }

    /// Whether a flow's queue takes one more event.
    pub(super) fn has_room(&self, handle: Handle) -> bool {
        let Some((_, team)) = self.flow_and_team(handle) else { return false };
        let own = |t: &Team| self.sched.queued(team) < usize::from(t.budget.queue);
        let ends = self.endings.contains_key(&handle);
        !ends && self.teams.get(team).is_some_and(own) && self.sched.has_room(team)
    }

    /// Whether what is due finds a slot in a flow's queue, which has room.
    fn has_slot(&mut self, handle: Handle) -> bool {
        let team = self.flow_and_team(handle).map(|(_, team)| team);
        team.is_some_and(|team| self.sched.has_slot(team))
    }

    /// Carries out what an event wanted; whether that was the flow's end, too.
    pub(super) fn effects(&mut self, now: Now, handle: Handle) -> bool {
        let (mut ends, mut more) = (false, true);
        // What is carried out may end the flow.
        while more
            && let Some(sandbox) = self.flows.get_mut(handle).and_then(|f| f.sandbox())
            && let Some(effect) = sandbox.next_effect()
        {
            more = sandbox.has_effects();
            match effect {
                Effect::Send { to, protocol, kind, payload } => {
                    self.send_for(now, handle, to, (protocol, kind), payload);
                }
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
                Effect::FlowLimit { child, kind, most } => {
                    let mut lower = Budgets::default();
                    lower.set(kind, Some(most));
                    self.child_limit(now, handle, child, &lower);
                }
                Effect::Serve { neighbor, serve } => {
                    if let Some(flow) = self.flows.get_mut(handle) {
                        flow.unserved.set(neighbor, !serve);
                    }
                }
                Effect::Watch { neighbor, protocol, poke_ms, expire_ms, charge } => {
                    let by = Watcher::Flow { flow: handle, protocol };
                    self.watch_for(now, neighbor, by, (poke_ms, expire_ms), charge);
                }
                Effect::Unwatch { neighbor, protocol } => {
                    self.liveness.unwatch(neighbor, Watcher::Flow { flow: handle, protocol });
                }
                Effect::Ask { protocol, companion, number, operation, message } => {
                    self.cross_call(now, handle, Back { protocol, companion, number }, operation, message);
                }
                Effect::Settle { call, result, answer } => {
                    self.settle_call(handle, call, Ok((result, answer)));
                    self.attend(handle);
                }
                Effect::End => ends = true,
                Effect::Log { level, text } => {
                    let Some(flow) = self.flows.get(handle) else { continue };
                    let name = label(flow);
                    if !self.log.guest(now.mono, || format!("flow {name} {}: {text}", level.name())) {
                        self.counters.add(Count::LogSuppressed);
                    }
                }
            }
        }
        ends
    }

    fn send_for(
        &mut self,
        now: Now,
        handle: Handle,
        to: NeighborId,
        (protocol, kind): (u8, u8),
        payload: Buf,
    ) {
        let Some(flow) = self.flows.get_mut(handle) else { return };
        let Some((team, _)) = flow.team else { return };
        let ids = flow.kind_ids.get(usize::from(protocol));
        let Some(&id) = ids.and_then(|ids| ids.get(usize::from(kind))) else { return };
        let len = payload.len() as u64;
        let mark = flow.sandbox().and_then(|s| s.mark(to, &id, &payload));
        let sent = self.send_padded(now, team, to, &id, mark.as_ref(), payload, 0);
        self.counters.add(if sent { Count::CapsulesSent } else { Count::SendDropped });
        let Some(flow) = self.flows.get_mut(handle) else { return };
        if sent {
            flow.capsules.1 += 1;
        } else {
            flow.capsules.2 += 1;
        }
        if let Some(member) = self.teams.get_mut(team) {
            member.counters.sent += if sent { len } else { 0 };
        }
    }

    /// The guest erred in a way that ends it.
    fn fault(&mut self, now: Now, handle: Handle, fault: &GuestFault) {
        let Some(crash) = self.crashed(now, handle, fault) else { return };
        let Some((_, team)) = self.flow_and_team(handle) else { return };
        let (kind, count) = match fault {
            GuestFault::Deadline => (Fault::Deadline, Count::Overruns),
            _ => (Fault::Trap, Count::Traps),
        };
        self.counters.add(count);
        let Some(member) = self.teams.get_mut(team) else { return };
        let verdict = member.conduct.fault(now.mono, kind);
        self.judged(now, handle, verdict, crash);
    }

    /// Logs and remembers how a guest failed.
    #[cold]
    pub(super) fn crashed(&mut self, now: Now, handle: Handle, fault: &GuestFault) -> Option<Crash> {
        let flow = self.flows.get_mut(handle)?;
        let (name, hash) = (label(flow), flow.hash);
        let sandbox = flow.sandbox()?;
        // What a guest wanted before it failed does not happen.
        sandbox.effects().for_each(drop);
        let crash = sandbox.crash(now.mono, fault);
        self.log_limited(now, || format!("guest {name}: {crash}"));
        self.crashes.enter(hash, crash.clone());
        Some(crash)
    }

    /// Carries out what the policy says about a flow's team.
    pub(super) fn judged(&mut self, now: Now, handle: Handle, verdict: Verdict, why: impl fmt::Display) {
        let Some((flow, team)) = self.flow_and_team(handle) else { return };
        match verdict {
            Verdict::Go | Verdict::Strike(_) => {}
            Verdict::Throttle(time) => {
                let name = label(flow);
                self.counters.add(Count::Throttled);
                self.log_limited(now, || format!("flow {name} goes on with less for {time:?}: {why}"));
                self.throttle(now, team, time);
            }
            Verdict::Stop | Verdict::Kill => {
                let end = End { graceful: verdict == Verdict::Stop, ..End::failed(Erred::Guest, why) };
                self.counters.add(Count::StruckOut);
                self.keep_away(now, handle);
                self.end_flow(now, handle, end);
            }
        }
    }
}

#[cfg(test)]
mod tests;
