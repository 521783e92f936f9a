//! A new version of a running flow takes over from it (`docs/architecture.md`, "Live replacement").
//!
//! The new version arrives as any flow does, in a team of its own beside the old one's. When its code is instantiated it
//! stands by; at the next boundary between two events of the old version [`Node::swaps_due`] asks that one for its state,
//! gives it to the new one, and only when both have come to a good end the old one goes: what waited for it, its
//! sessions, its strikes and its identifiers are the new one's. Whatever fails before, the old one goes on.
//!
//! Versions may come in any order. One that comes after the next one does not start, but where an earlier one is here: then
//! it takes over from that one, and the next one, which ran beside it, starts once more with its state.

use std::time::Duration;

use nodeos::buf::Buf;
use nodeos::platform::{Instant, Now};
use nodeos::slab::Handle;
use nodeos::team::TeamId;
use wire::control::{Erred, Replaced};
use wire::id::{CapsuleId, TupleHash};
use wire::integrity::Mark;
use wire::replace::{Place, Replacement};

use super::authority::signer;
use super::charge::Labour;
use super::run::Queued;
use super::{End, Node, label};
use crate::counters::Count;
use crate::flow::{Flow, Predecessor, Source, Stage, ids_bytes};
use crate::neighbor::NeighborId;
use crate::registry::Target;
use crate::sandbox::{Event, Given, KnownSession, Outcome, Refused, Sandbox, SessionInput, State};

/// How long the identifiers of a version that was replaced are taken for the new one's, unless it expires before.
const DRAIN: Duration = Duration::from_secs(600);
/// Earlier versions that a flow knows of, so that they do not come back beside it; the oldest is forgotten first.
const MAX_TOOK: usize = 16;

/// Why a version does not take over.
struct Failed {
    erred: Erred,
    why: String,
    /// It would fail again: it is kept away for a while.
    again: bool,
}

/// A replacement that does not happen yet.
enum Pending {
    /// The old version arrives itself, or is in the middle of an event.
    Later,
    Failed(Failed),
}

impl Failed {
    fn new(erred: Erred, why: impl ToString) -> Self {
        Self { erred, why: why.to_string(), again: false }
    }
}

impl Node {
    /// Whether a flow that was granted may take over from the one that it names: it has the same signer, or is injected by
    /// somebody who might stop that one; and both stand in the same place. One that is not here binds nobody.
    pub(super) fn may_replace(&self, now: Now, new: Handle) -> Result<(), (Erred, String)> {
        let Some(flow) = self.flows.get(new) else { return Ok(()) };
        let Some((hash, _)) = flow.replacement() else { return Ok(()) };
        let no = |why: &str| Err((Erred::Principal, why.to_string()));
        let injected = match &flow.source {
            Source::Injected { principal } => Some(principal),
            _ => None,
        };
        if injected.is_none() && self.bans.holds(now.mono, &hash) {
            return no("the flow that it takes over from is kept away here");
        }
        if self.successor_of(&hash).is_some() {
            return no("another version has taken the place of the flow that it takes over from");
        }
        let old = self.flows.by_hash(&hash).and_then(|old| self.flows.get(old));
        // Before a judgement nobody knows who signed it. It is looked at again when this one starts.
        let Some(old) = old.filter(|old| old.team.is_some()) else { return Ok(()) };
        if self.parent_of(flow) != self.parent_of(old) {
            return no("the flow that it takes over from was started by another flow, or none");
        }
        let may = signer(flow) == signer(old)
            || injected.is_some_and(|principal| self.may_stop(now, principal, &hash));
        if may { Ok(()) } else { no("the flow that it takes over from is not its principal's") }
    }

    /// A flow that is about to start has a version of its own here that took its place, or will when it is asked: the
    /// new one is given what is sent to the old one, which does not start.
    pub(super) fn is_succeeded(&mut self, now: Now, old: Handle) -> bool {
        let Some(flow) = self.flows.get(old) else { return false };
        // It is what hands an earlier version's state on.
        if self.stands_by(old) {
            return false;
        }
        let in_its_place = |f: &Flow| {
            let names = f.replacement().filter(|(hash, _)| *hash == flow.hash);
            let mut earlier = f.took.iter().filter_map(|took| took.before.as_ref());
            names.or_else(|| earlier.find(|(hash, _)| *hash == flow.hash).cloned()).map(|(_, how)| how)
        };
        let found = |(new, f)| self.is_kin(f, flow).then(|| Some((new, in_its_place(f)?))).flatten();
        let Some((new, how)) = self.flows.iter().find_map(found) else { return false };
        let (hash, name) = (flow.hash, self.flows.get(new).map(label).unwrap_or_default());
        let ids = self.successors(old, &how);
        let waiting = self.flows.get_mut(old).map(|f| std::mem::take(&mut f.waiting)).unwrap_or_default();
        let paid = self.take_ids(now, (old, hash), new, ids, &how);
        let why = format!("flow {name} has taken its place here");
        self.end_flow(now, old, End::killed(why));
        if paid {
            for capsule in waiting {
                drop(capsule.charge);
                self.capsule(now, capsule.from, capsule.id, None, capsule.payload, 0);
            }
        }
        true
    }

    /// Whether a flow runs that may be another version of this one: of the same signer, in the same place.
    fn is_kin(&self, running: &Flow, flow: &Flow) -> bool {
        matches!(running.stage, Stage::Running { .. })
            && signer(running) == signer(flow)
            && self.parent_of(running) == self.parent_of(flow)
    }

    /// The flow that runs here in the place of an earlier version of this name.
    pub(super) fn successor_of(&self, old: &TupleHash) -> Option<TupleHash> {
        let took = |f: &Flow| f.took.iter().any(|before| before.hash == *old);
        self.flows.iter().find(|(_, f)| took(f)).map(|(_, f)| f.hash)
    }

    /// Whether a flow that is ready to start waits for the one that it takes over from.
    pub(super) fn stands_by(&self, new: Handle) -> bool {
        let before = self.flows.get(new).and_then(Flow::replacement);
        before.is_some_and(|(hash, _)| self.flows.by_hash(&hash).is_some())
    }

    /// Lets those take over that stand by, where the old version is between two events. Whether one did, or failed.
    pub(super) fn swaps_due(&mut self, now: Now) -> bool {
        let mut settled = false;
        for new in std::mem::take(&mut self.swaps) {
            let Some(flow) = self.flows.get(new) else { continue };
            let renews = match flow.stage {
                Stage::Standby { .. } => false,
                Stage::Running { .. } => true,
                _ => continue,
            };
            let Some((hash, how)) = flow.replacement() else { continue };
            let done = match self.flows.by_hash(&hash) {
                Some(old) if renews => self.renew(now, old, new, &how),
                Some(old) => self.swap(now, old, new, &how),
                // It has ended meanwhile: there is nothing to take over.
                None if renews => Ok(()),
                None => {
                    match self.may_replace(now, new) {
                        Ok(()) if self.is_succeeded(now, new) => {}
                        Ok(()) => self.starts_anew(now, new),
                        Err((erred, why)) => self.end_flow(now, new, End::failed(erred, why)),
                    }
                    Ok(())
                }
            };
            match done {
                Err(Pending::Later) => {
                    self.swaps.push(new);
                    continue;
                }
                Ok(()) => {}
                Err(Pending::Failed(failed)) if renews => self.renewal_failed(now, new, &failed),
                Err(Pending::Failed(failed)) => self.swap_failed(now, new, failed),
            }
            settled = true;
        }
        settled
    }

    fn swap_failed(&mut self, now: Now, new: Handle, failed: Failed) {
        // The old version's sessions go on.
        self.sandbox_of(new).into_iter().for_each(Sandbox::take_back);
        self.counters.add(Count::ReplacementsFailed);
        if failed.again {
            self.keep_away(now, new);
        }
        self.end_flow(now, new, End::failed(failed.erred, failed.why));
    }

    /// The version that ran already goes on as it was, beside the one that it names.
    fn renewal_failed(&mut self, now: Now, new: Handle, failed: &Failed) {
        self.counters.add(Count::ReplacementsFailed);
        let name = self.flows.get(new).map(label).unwrap_or_default();
        let Failed { erred, why, .. } = failed;
        self.log_limited(now, || {
            format!(
                "flow {name} goes on without the state of the flow that it takes over from: {erred}: {why}"
            )
        });
    }

    /// Everything of a replacement.
    fn swap(&mut self, now: Now, old: Handle, new: Handle, how: &Replacement) -> Result<(), Pending> {
        if !self.is_between_events(old) {
            return Err(Pending::Later);
        }
        let (unknown, refused) = self.agree(now, old, new, how)?;
        self.switch(now, old, new, how, unknown);
        self.conduct(now, new, &refused);
        self.renewals_due(new);
        Ok(())
    }

    /// A version that ran before the one that it names came takes over from it all the same: it starts once more, with the
    /// state of that one, and what it had gathered by itself is gone. Its sessions are opened anew, its capsules that
    /// wait are kept; all else that was its own ends.
    fn renew(&mut self, now: Now, old: Handle, new: Handle, how: &Replacement) -> Result<(), Pending> {
        if !self.is_between_events(old) || !self.is_between_events(new) {
            return Err(Pending::Later);
        }
        let sandbox = self.start_again(now, new)?;
        let Some(flow) = self.flows.get_mut(new) else { return Err(Pending::Later) };
        let before = std::mem::replace(&mut flow.stage, Stage::Standby { sandbox });
        if let Stage::Running { wake: Some(at), .. } = before {
            self.wakes.remove(&(at, new));
        }
        match (self.agree(now, old, new, how), before) {
            (Ok((unknown, refused)), mut before) => {
                let known = match &mut before {
                    Stage::Running { sandbox, .. } => sandbox.sessions(),
                    _ => Vec::new(),
                };
                self.leave_behind(now, new, known);
                drop(before);
                self.switch(now, old, new, how, unknown);
                self.conduct(now, new, &refused);
                self.renewals_due(new);
                Ok(())
            }
            (Err(pending), before) => {
                self.sandbox_of(new).into_iter().for_each(Sandbox::take_back);
                if let (Some(flow), Stage::Running { sandbox, .. }) = (self.flows.get_mut(new), before) {
                    flow.stage = Stage::Running { sandbox, wake: None };
                }
                self.plan_wake(new);
                Err(pending)
            }
        }
    }

    /// A running flow's code, instantiated once more at its expense.
    fn start_again(&mut self, now: Now, new: Handle) -> Result<Box<Sandbox>, Pending> {
        let (Some(setup), Some((flow, team))) = (self.setup(new), self.flow_and_team(new)) else {
            return Err(Pending::Later);
        };
        let before = self.platform.meter.count();
        let started = Sandbox::start(&self.platform.engine, &flow.code, setup, now);
        let units = self.platform.meter.count().saturating_sub(before);
        self.charge_units(team, self.own_part(units), Labour::Start);
        match started {
            Ok(sandbox) => Ok(Box::new(sandbox)),
            Err(error) => Err(Pending::Failed(Failed::new(Erred::Principal, error))),
        }
    }

    /// What a flow that has started once more had of its own: what waits for it and means something to it is kept.
    fn leave_behind(&mut self, now: Now, new: Handle, sessions: Vec<KnownSession>) {
        self.end_children(now, new);
        self.liveness.forget_flow(new);
        let Some((_, team)) = self.flow_and_team(new) else { return };
        let waiting = self.sched.withdraw(team, |_| true);
        let calls: Vec<Handle> = waiting.iter().filter_map(Queued::call).collect();
        self.leave_crossings(new, &calls);
        for (_, session, outlet) in sessions {
            if self.sessions.flow(session) == Some(new) {
                let what = SessionInput::Open(outlet);
                self.push_moved(new, Event::Session { session, what }, now.mono);
            }
        }
        for queued in waiting {
            let Queued { event, since, held } = queued;
            self.teams.get_mut(team).into_iter().for_each(|member| member.let_go(held.into()));
            if let Some(event @ (Event::Capsule { .. } | Event::Session { .. } | Event::Call(_))) = event {
                self.push_moved(new, event, since);
            }
        }
    }

    /// Versions that ran here before the one that they name take over from it, now that it runs.
    fn renewals_due(&mut self, old: Handle) {
        let Some(flow) = self.flows.get(old) else { return };
        let names = |f: &Flow| f.replacement().is_some_and(|(hash, _)| hash == flow.hash);
        let next = self.flows.iter().find(|(_, f)| names(f) && self.is_kin(f, flow)).map(|(next, _)| next);
        if let Some(next) = next.filter(|next| !self.swaps.contains(next)) {
            self.swaps.push(next);
        }
    }

    /// Whether a running flow is in the middle of nothing, and not about to end.
    fn is_between_events(&mut self, handle: Handle) -> bool {
        let free = |s: &mut Sandbox| !s.is_suspended() && !s.has_ended();
        !self.endings.contains_key(&handle) && self.sandbox_of(handle).is_some_and(free)
    }

    /// Lets both versions agree: what of the old one's sessions the new one has not been told of, and what it was refused.
    /// Until they have agreed nothing has changed that cannot go back.
    fn agree(
        &mut self,
        now: Now,
        old: Handle,
        new: Handle,
        how: &Replacement,
    ) -> Result<(Vec<KnownSession>, Refused), Pending> {
        let no = |(erred, why)| Pending::Failed(Failed::new(erred, why));
        self.may_replace(now, new).map_err(no)?;
        let hash = self.flows.get(old).map(|f| f.hash).ok_or(Pending::Later)?;
        let states = match how.handover {
            true => self.hand_over(now, old, new)?,
            false => None,
        };
        let sessions = self.sandbox_of(old).map(|s| s.sessions()).unwrap_or_default();
        self.leave_standby(new);
        self.claim_area(now, new);
        // The guest hears of the sessions with the state, or else as if they were opened after that.
        let (given, unknown) = match states {
            Some(states) => (Given { states, sessions }, Vec::new()),
            None => (Given::default(), sessions),
        };
        let refused = self.take_over(now, new, given).map_err(Pending::Failed)?;
        let ids = self.successors(old, how);
        if !self.take_ids(now, (old, hash), new, ids, how) {
            let why = "the identifiers of the flow that it takes over from do not fit its memory budget";
            return Err(Pending::Failed(Failed::new(Erred::Principal, why)));
        }
        Ok((unknown, refused))
    }

    fn sandbox_of(&mut self, handle: Handle) -> Option<&mut Sandbox> {
        self.flows.get_mut(handle)?.sandbox()
    }

    /// Asks the old version for its state; what of it each protocol of the new one is given, at that one's expense.
    fn hand_over(
        &mut self,
        now: Now,
        old: Handle,
        new: Handle,
    ) -> Result<Option<Vec<Option<State>>>, Pending> {
        let fail = |erred, why: &str| Pending::Failed(Failed::new(erred, why));
        let takes = self.flows.get_mut(new).and_then(Flow::started).is_some_and(|s| s.hands_over().1);
        let gives = self.sandbox_of(old).is_some_and(|s| s.hands_over().0);
        if !takes || !gives {
            let why = "the tuple announces a handover, and one of both has no handler for it";
            return Err(fail(Erred::Principal, why));
        }
        let Some((_, team)) = self.flow_and_team(old) else { return Err(Pending::Later) };
        if self.teams.get_mut(team).is_none_or(|member| member.count_event().is_err()) {
            return Err(fail(Erred::Principal, "the flow that it takes over from has no event left"));
        }
        let Some(sandbox) = self.sandbox_of(old) else { return Err(Pending::Later) };
        let (outcome, given) = sandbox.hand_over(now);
        self.charge_event(team, &outcome);
        self.plan_wake(old);
        if let Err(fault) = &outcome.end {
            let crash = self.crashed(now, old, fault).map(|crash| crash.to_string()).unwrap_or_default();
            let why = format!("the flow that it takes over from did not hand over: {crash}");
            return Err(Pending::Failed(Failed { again: true, ..Failed::new(Erred::Guest, why) }));
        }
        self.conduct(now, old, &outcome.refused);
        // What it said on the way is said. If it has ended itself the new version starts as a new flow.
        if self.effects(now, old) {
            self.end_flow(now, old, End::by("itself", false));
        }
        if self.sandbox_of(old).is_none() {
            return Err(Pending::Later);
        }
        let Some(account) =
            self.flow_and_team(new).and_then(|(_, team)| Some(self.teams.get(team)?.account().clone()))
        else {
            return Err(Pending::Later);
        };
        let places = self.same_places(old, new);
        let mut states: Vec<Option<State>> = places.iter().map(|_| None).collect();
        for (from, state) in given {
            // What no protocol of the new version stands for is lost; what does not fit it refuses.
            if let Some(to) = places.iter().position(|place| *place == Some(from)) {
                let state = state.paid_by(&account);
                let why = "the state that was handed over does not fit the flow's memory budget";
                states[to] = Some(state.map_err(|_| fail(Erred::Principal, why))?);
            }
        }
        Ok(Some(states))
    }

    /// For each protocol of the new version the one of the old version that has the same place in the tree.
    fn same_places(&self, old: Handle, new: Handle) -> Vec<Option<u8>> {
        let paths = |flow: Handle| {
            let data = self.flows.get(flow).and_then(|f| f.tuple.as_ref());
            data.map(|data| data.tuple.paths()).unwrap_or_default()
        };
        let before = paths(old);
        let place = |path| before.iter().position(|known| known == path).map(|at| at as u8);
        paths(new).iter().map(place).collect()
    }

    /// Starts the new version, with the old one's state if it is handed over.
    fn take_over(&mut self, now: Now, new: Handle, given: Given) -> Result<Refused, Failed> {
        let gone = || Failed::new(Erred::Node, "its team has ended");
        let Some((_, team)) = self.flow_and_team(new) else { return Err(gone()) };
        if self.teams.get_mut(team).is_none_or(|member| member.count_event().is_err()) {
            return Err(Failed::new(Erred::Principal, "it has no event left"));
        }
        let Some(sandbox) = self.sandbox_of(new) else { return Err(gone()) };
        let outcome = sandbox.take_over(now, given);
        self.charge_event(team, &outcome);
        let Err(fault) = &outcome.end else { return Ok(outcome.refused) };
        let crash = self.crashed(now, new, fault).map(|crash| crash.to_string()).unwrap_or_default();
        Err(Failed { again: true, ..Failed::new(Erred::Guest, crash) })
    }

    fn charge_event(&mut self, team: TeamId, outcome: &Outcome) {
        self.charge_units(team, outcome.units, Labour::Start);
    }

    /// What a version's identifiers mean to the new one.
    fn successors(&self, old: Handle, how: &Replacement) -> Vec<(CapsuleId, Option<Place>)> {
        let flow_and_data = self.flows.get(old).and_then(|f| Some((f, f.tuple.as_ref()?)));
        let Some((flow, data)) = flow_and_data else { return Vec::new() };
        let tuple = &data.tuple;
        let kinds = |(at, path): (usize, wire::id::Path)| {
            let kinds = 0..tuple.body.protocols[at].capsules.len() as u8;
            let coupled = tuple.coupled(at);
            let id = |kind: u8| CapsuleId::compute(&flow.hash, &path, kind.into(), &coupled);
            kinds.map(|kind| (id(kind), how.now((at as u8, kind)))).collect::<Vec<_>>()
        };
        tuple.paths().into_iter().enumerate().flat_map(kinds).collect()
    }

    /// Capsules with a version's identifiers are the new one's from now on, and so are those that it took over from
    /// others. `false`: the new one cannot pay for that, and nothing has changed.
    fn take_ids(
        &mut self,
        now: Now,
        (old, hash): (Handle, TupleHash),
        new: Handle,
        ids: Vec<(CapsuleId, Option<Place>)>,
        how: &Replacement,
    ) -> bool {
        let Some((_, team)) = self.flow_and_team(new) else { return false };
        let Some(account) = self.teams.get(team).map(|team| team.account().clone()) else { return false };
        let Some(before) = self.flows.get_mut(old) else { return false };
        let named = before.replacement().map(|(hash, was)| (hash, was.then(how)));
        let size = |ids: usize, named: &Option<(TupleHash, Replacement)>| {
            ids + named.as_ref().map_or(0, |(_, how)| how.types.len())
        };
        let earlier = before.took.iter().map(|took| size(took.ids.len(), &took.before));
        let wanted = std::iter::once(size(ids.len(), &named)).chain(earlier);
        let charges: Result<Vec<_>, _> = wanted.map(|ids| account.charge(ids_bytes(ids))).collect();
        let Ok(mut charges) = charges.map(Vec::into_iter) else { return false };
        before.ids.retain(|id| !ids.iter().any(|(its, _)| its == id));
        let earlier = std::mem::take(&mut before.took);
        let until = before.tuple.as_ref().and_then(|data| data.tuple.body.validity.until);
        let left = until.and_then(|until| Some(Duration::from_secs(until.saturating_sub(now.wall?))));
        let until = now.mono + left.map_or(DRAIN, |left| left.min(DRAIN));
        let to_new = |to| Target::Replaced { flow: new, to };
        // What others have stays theirs: identifiers of two flows that are the same can be made.
        let mut take = |(id, to): (CapsuleId, Option<Place>)| {
            if matches!(self.registry.find(&id), Some(Target::Flow { flow, .. }) if flow == old) {
                self.registry.remove(&id);
            }
            self.registry.insert(id, to_new(to)).then_some(id)
        };
        let ids = ids.into_iter().filter_map(&mut take).collect();
        let first = charges.next().map(|charge| Predecessor { hash, until, ids, charge, before: named });
        let mut took: Vec<Predecessor> = first.into_iter().collect();
        for (Predecessor { hash, until, ids, before, .. }, charge) in earlier.into_iter().zip(charges) {
            for id in &ids {
                let to = match self.registry.find(id) {
                    Some(Target::Replaced { to, .. }) => to.and_then(|to| how.now(to)),
                    _ => None,
                };
                self.registry.remove(id);
                self.registry.insert(*id, to_new(to));
            }
            self.drains.remove(&(until, old));
            let before = before.map(|(hash, was)| (hash, was.then(how)));
            took.push(Predecessor { hash, until, ids, charge, before });
        }
        let Some(flow) = self.flows.get_mut(new) else { return false };
        self.drains.extend(took.iter().map(|took| (took.until, new)));
        flow.took.splice(0..0, took);
        let forgotten = flow.took.split_off(flow.took.len().min(MAX_TOOK));
        forgotten.iter().flat_map(|took| &took.ids).for_each(|id| self.registry.remove(id));
        true
    }

    /// The new version has agreed: what was the old one's is its, and the old one ends.
    fn switch(&mut self, now: Now, old: Handle, new: Handle, how: &Replacement, unknown: Vec<KnownSession>) {
        let teams = self.flow_and_team(old).zip(self.flow_and_team(new));
        let Some(((before, old_team), (flow, new_team))) =
            teams.map(|((a, b), (c, d))| ((a.hash, b), (c.hash, d)))
        else {
            return;
        };
        // Those cannot change their place.
        self.end_children(now, old);
        self.move_sessions(old, new);
        let left = self.sessions.count(old);
        if left > 0 {
            let name = self.flows.get(new).map(label).unwrap_or_default();
            self.log_limited(now, || {
                format!("{left} sessions end: flow {name} takes over, and has none or no room")
            });
        }
        self.move_conduct(now, old_team, new_team);
        // Frames on their way out are the new version's.
        self.net.remove_team(old_team, Some(new_team));
        self.leave_waiting(old_team, Some(new_team));
        self.take_offers(old, new);
        let mut known = self.sandbox_of(new).map(|s| s.sessions()).unwrap_or_default();
        for (number, session, outlet) in unknown {
            let open = Event::Session { session, what: SessionInput::Open(outlet.clone()) };
            if self.sessions.flow(session) == Some(new) && self.push_moved(new, open, now.mono) {
                known.push((number, session, outlet));
            }
        }
        for queued in self.sched.remove(old_team) {
            self.forward(queued, (old_team, new), how);
        }
        // What only one side knows is over.
        for (_, session, _) in known {
            if self.sessions.flow(session) != Some(new) {
                self.push_event(new, Event::Session { session, what: SessionInput::Close });
            }
        }
        let [name, name_before] = [new, old].map(|of| self.flows.get(of).map(label).unwrap_or_default());
        self.audit(now, || format!("replace {name_before} by {name}"));
        self.end_flow(now, old, End::killed(format!("flow {name} took over from it")));
        self.flows.note_successor(&before, flow);
        self.counters.add(Count::FlowsReplaced);
        self.runs(now, new);
        self.plan_wake(new);
        let waiting = self.flows.get_mut(new).map(|flow| std::mem::take(&mut flow.waiting));
        for capsule in waiting.into_iter().flatten() {
            drop(capsule.charge);
            self.waited(now, new, (capsule.from, capsule.id), capsule.payload);
        }
        if self.effects(now, new) {
            self.end_flow(now, new, End::by("itself", false));
        }
    }

    /// An event that waited for the old version, which pays for it no more.
    fn forward(&mut self, queued: Queued, (old_team, new): (TeamId, Handle), how: &Replacement) {
        let Queued { event, since, held } = queued;
        self.teams.get_mut(old_team).into_iter().for_each(|member| member.let_go(held.into()));
        match event {
            Some(Event::Capsule { protocol, kind, from, packet }) => {
                let knows = |node: &Self, id: NeighborId| {
                    node.flows.get(new).is_some_and(|flow| flow.knows(&node.neighbors[id].name))
                };
                if from.is_some_and(|id| !knows(self, id)) {
                    return self.counters.add(Count::NeighborDenied);
                }
                let to = how.now((protocol, kind));
                self.count_taken(new, to.is_some());
                if let Some((protocol, kind)) = to {
                    self.push_moved(new, Event::Capsule { protocol, kind, from, packet }, since);
                }
            }
            Some(Event::Session { session, what }) if self.sessions.flow(session) == Some(new) => {
                self.push_moved(new, Event::Session { session, what }, since);
            }
            Some(Event::Call(asked)) => self.forward_call(asked, since, new),
            // Timers, soft state, warnings, watches, calls of others and flows below it were the old version's own.
            _ => {}
        }
    }

    /// A capsule of the new version's own that waited for it: behind what waited for the old one, and not dropped because
    /// of that.
    fn waited(&mut self, now: Now, new: Handle, (from, id): (NeighborId, CapsuleId), packet: Buf) {
        match self.registry.find(&id) {
            Some(Target::Flow { flow, protocol, kind }) if flow == new => {
                let sound = |node: &mut Self| node.sandbox_of(new)?.check(from, &id, &packet, None).ok();
                if sound(self).is_some() {
                    self.counters.add(Count::CapsulesReceived);
                    let event = Event::Capsule { protocol, kind, from: Some(from), packet };
                    self.push_moved(new, event, now.mono);
                }
            }
            _ => self.capsule(now, from, id, None, packet, 0),
        }
    }

    /// A capsule with an identifier of an earlier version.
    pub(super) fn for_successor(
        &mut self,
        now: Now,
        (flow, to): (Handle, Option<Place>),
        from: NeighborId,
        id: CapsuleId,
        mark: Option<&Mark>,
        payload: Buf,
    ) {
        self.count_taken(flow, to.is_some());
        if let Some((protocol, kind)) = to {
            self.for_flow(now, (flow, protocol, kind), from, id, mark, payload);
        }
    }

    fn count_taken(&mut self, flow: Handle, lives_on: bool) {
        self.counters.add(if lives_on { Count::CapsulesTaken } else { Count::CapsulesWithoutSuccessor });
        if let Some(flow) = self.flows.get_mut(flow) {
            let (taken, dropped) = &mut flow.drained;
            *(if lives_on { taken } else { dropped }) += 1;
        }
    }

    /// Strikes outlive the version that they were for.
    fn move_conduct(&mut self, now: Now, old: TeamId, new: TeamId) {
        let conduct = self.teams.get(old).and_then(|team| team.conduct.clone().resumed(now.mono));
        let (Some(conduct), Some(member)) = (conduct, self.teams.get_mut(new)) else { return };
        if conduct.strikes() > member.conduct.strikes() {
            let until = conduct.throttled_until(now.mono);
            member.conduct = conduct;
            if let Some(until) = until {
                self.throttle(now, new, until.since(now.mono));
            }
        }
    }

    /// Earlier versions whose time is over are forgotten, but for their names.
    pub(super) fn drains_due(&mut self, now: Now) {
        while let Some(&(at, handle)) = self.drains.first().filter(|(at, _)| *at <= now.mono) {
            self.drains.remove(&(at, handle));
            let Some(flow) = self.flows.get_mut(handle) else { continue };
            for took in flow.took.iter_mut().filter(|took| took.until <= now.mono) {
                took.charge.shrink(u64::MAX);
                took.before.iter_mut().for_each(|(_, how)| *how = Replacement::default());
                std::mem::take(&mut took.ids).iter().for_each(|id| self.registry.remove(id));
            }
        }
    }

    /// When [`drains_due`](Self::drains_due) must be called at the latest.
    pub(super) fn drains_deadline(&self) -> Option<Instant> {
        self.drains.first().map(|(at, _)| *at)
    }

    /// A flow ends: so do the identifiers that it took over.
    pub(super) fn forget_taken(&mut self, handle: Handle, flow: &Flow) {
        for took in &flow.took {
            took.ids.iter().for_each(|id| self.registry.remove(id));
            self.drains.remove(&(took.until, handle));
        }
    }
}

impl Flow {
    /// The flow that it takes over from, and how.
    pub fn replacement(&self) -> Option<(TupleHash, Replacement)> {
        self.tuple.as_ref()?.tuple.body.replacement()
    }

    /// What came of that here.
    pub fn replaced(&self) -> Option<Replaced> {
        let flow = self.tuple.as_ref()?.tuple.body.replaces?;
        let identifiers = self.took.iter().map(|took| took.ids.len() as u32).sum();
        Some(Replaced { flow, here: !self.took.is_empty(), identifiers, capsules: self.drained })
    }
}
