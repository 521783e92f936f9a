//! Calls between flows (seed 004, section V: flow-independent companions, which cross flows and are reserved to
//! system flows; D5: between teams there are only queued events).
//!
//! A system flow serves interfaces to all flows of its node that have the privilege of the interface's name; so do the
//! node's own services ([`super::services`]). Whoever calls pays for the call's and its answer's place, and for the time
//! of the event that it is to whom it calls. Of those who call a flow each has its turn; when that flow ends, all who
//! wait are told. When a caller ends, its calls that were not heard yet are withdrawn, and what it had fetched and nobody else
//! wants is fetched no more.

use std::collections::{BTreeMap, VecDeque};

use authagent::agent::Reason;
use nodeos::account::Charge;
use nodeos::platform::{Instant, Now};
use nodeos::sched::Scheduler;
use nodeos::slab::{Handle, Slab};
use nodeos::team::TeamId;
use wire::grant::Grant;
use wire::system::{DOWNLOAD, TRANSLATION, UNKNOWN};
use wire::tuple::{Provider, Tuple};

use super::Node;
use super::charge::Labour;
use super::run::Queued;
use super::services::Service;
use crate::abi::Error;
use crate::cap::{OFFER, RESERVED};
use crate::counters::Count;
use crate::flow::{Flow, Source, Stage};
use crate::sandbox::{Answered, Asked, Event, MAX_ASKED, MAX_SERVED};

/// Calls in the event queue of whoever serves them: few, so that who comes later has its turn soon.
const QUEUED: usize = 4;
/// Bytes of a call beside its message, on its way there and back, at most.
const CALL_BYTES: usize = size_of::<Call>()
    + size_of::<Handle>() * 4
    + size_of::<Asked>()
    + size_of::<Answered>()
    + Scheduler::<Queued>::slot_bytes(1);

/// Who serves what, and the calls that are not answered.
pub(super) struct Crossings {
    offers: BTreeMap<String, Handle>,
    desks: BTreeMap<Handle, Desk>,
    calls: Slab<Call>,
}

/// Where the calls of one flow wait.
#[derive(Default)]
struct Desk {
    /// By caller, in the order of their turns.
    waiting: VecDeque<(Handle, VecDeque<Handle>)>,
    /// In its event queue.
    queued: usize,
    /// Those, and the ones that it has heard and not answered.
    open: usize,
}

struct Call {
    /// Who calls, and what it pays; nobody any more when that flow has ended.
    caller: Option<(Handle, Charge)>,
    /// Who serves.
    callee: Handle,
    back: Back,
    operation: u32,
    message: Vec<u8>,
    /// It is no longer at the desk.
    taken: bool,
}

/// Where an answer belongs.
#[derive(Clone, Copy)]
pub(super) struct Back {
    pub protocol: u8,
    pub companion: u8,
    pub number: u32,
}

impl Crossings {
    /// For so many flows.
    pub fn new(flows: usize) -> Self {
        let calls = Slab::new(flows.saturating_mul(MAX_ASKED.into()));
        Self { offers: BTreeMap::new(), desks: BTreeMap::new(), calls }
    }
}

impl Desk {
    /// The next call: one of each caller before the second of any.
    fn next(&mut self) -> Option<Handle> {
        let (caller, mut calls) = self.waiting.pop_front()?;
        let call = calls.pop_front();
        if !calls.is_empty() {
            self.waiting.push_back((caller, calls));
        }
        call
    }

    fn enter(&mut self, caller: Handle, call: Handle) {
        match self.waiting.iter_mut().find(|(whose, _)| *whose == caller) {
            Some((_, calls)) => calls.push_back(call),
            None => self.waiting.push_back((caller, VecDeque::from([call]))),
        }
    }
}

impl Node {
    /// Whether a flow may use and serve the interfaces that its tuple names.
    pub(super) fn may_cross(&self, flow: &Flow, tuple: &Tuple, grant: &Grant) -> Result<(), Reason> {
        may_offer(tuple, grant)?;
        for interface in tuple.body.offers() {
            let refuse = |why| Err(Reason::NoOffer { interface: interface.into(), why });
            match flow.source {
                Source::Injected { .. } | Source::Server => {}
                Source::Neighbor { .. } | Source::Flow { .. } => {
                    return refuse("only flows that the operator starts on a node do that");
                }
            }
            if interface.starts_with(RESERVED) {
                return refuse("it is the node's own");
            }
            if self.crossings.offers.get(interface).is_some_and(|whose| !self.is_next(tuple, *whose)) {
                return refuse("another flow does");
            }
        }
        for name in tuple.body.independent().filter(|name| !is_everywhere(name)) {
            let wanted = tuple.body.request.privileges.iter().find(|wanted| wanted.name == name);
            if wanted.is_some_and(|wanted| wanted.optional) {
                continue;
            }
            if Service::named(name).is_none() && !self.crossings.offers.contains_key(name) {
                return Err(Reason::NoCompanion { interface: name.into() });
            }
            if !grant.privileges.iter().any(|held| held == name) {
                return Err(Reason::Privilege { name: name.into() });
            }
        }
        Ok(())
    }

    /// Whether a flow of this tuple takes over from the one of this handle.
    fn is_next(&self, tuple: &Tuple, old: Handle) -> bool {
        tuple.body.replaces.is_some() && self.flows.get(old).map(|flow| flow.hash) == tuple.body.replaces
    }

    /// A flow was let in, or is about to start: what it serves is its from now on, but for what the flow that it takes
    /// over from still serves. An error names what somebody else serves.
    pub(super) fn enter_offers(&mut self, handle: Handle) -> Result<(), Reason> {
        let Some(data) = self.flows.get(handle).and_then(|flow| flow.tuple.as_ref()) else { return Ok(()) };
        let tuple = data.tuple.clone();
        for interface in tuple.body.offers() {
            let whose = *self.crossings.offers.entry(interface.into()).or_insert(handle);
            if whose != handle && !self.is_next(&tuple, whose) {
                return Err(Reason::NoOffer { interface: interface.into(), why: "another flow does" });
            }
            self.crossings.desks.entry(handle).or_default();
        }
        Ok(())
    }

    /// A flow takes over from another: what both serve is its, with the calls that the other one has not been given yet.
    /// What that one has heard it answers, or nobody.
    pub(super) fn take_offers(&mut self, old: Handle, new: Handle) {
        let Some(data) = self.flows.get(new).and_then(|flow| flow.tuple.as_ref()) else { return };
        for interface in data.tuple.body.offers() {
            if let Some(whose) = self.crossings.offers.get_mut(interface).filter(|whose| **whose == old) {
                *whose = new;
            }
        }
        let waiting = self.crossings.desks.get_mut(&old).map(|desk| std::mem::take(&mut desk.waiting));
        for (caller, calls) in waiting.into_iter().flatten() {
            for number in calls {
                // Others are answered with the end of the old one.
                if self.move_call(number, new) {
                    desk_of(&mut self.crossings, new, |desk| desk.enter(caller, number));
                }
            }
        }
    }

    /// A call that is in the queue of a flow that another one takes over from.
    pub(super) fn forward_call(&mut self, asked: Box<Asked>, since: Instant, new: Handle) {
        let number = asked.call;
        if !Handle::from_raw(number).is_some_and(|number| self.move_call(number, new)) {
            return;
        }
        desk_of(&mut self.crossings, new, |desk| (desk.queued, desk.open) = (desk.queued + 1, desk.open + 1));
        if !self.push_moved(new, Event::Call(asked), since) {
            self.call_heard(new);
            self.settle_call(new, number, Err(Error::Unavailable));
        }
    }

    /// A call is for another flow, if that one serves what it is about; whether it is.
    fn move_call(&mut self, number: Handle, new: Handle) -> bool {
        let of = |call: &Call| {
            let (caller, _) = call.caller.as_ref()?;
            provider(&self.flows.get(*caller)?.tuple.as_ref()?.tuple, call.back)
        };
        let interface = self.crossings.calls.get(number).and_then(of);
        let serves = interface.is_some_and(|name| self.crossings.offers.get(&name) == Some(&new));
        match self.crossings.calls.get_mut(number).filter(|_| serves) {
            Some(call) => call.callee = new,
            None => return false,
        }
        true
    }

    /// A flow calls what its tuple names there.
    pub(super) fn cross_call(
        &mut self,
        now: Now,
        caller: Handle,
        back: Back,
        operation: u32,
        message: Vec<u8>,
    ) {
        let Some((flow, team)) = self.flow_and_team(caller) else { return };
        let Some(name) = flow.tuple.as_ref().and_then(|data| provider(&data.tuple, back)) else { return };
        let Some(member) = self.teams.get(team) else { return };
        let Ok(charge) = member.account().charge((CALL_BYTES + message.len()) as u64) else {
            return self.answer_call(caller, back, Err(Error::NoMemory), None);
        };
        if let Some(service) = Service::named(&name) {
            let mut result = Err(Error::Unavailable);
            self.work_for(caller, Labour::Serve, |node| {
                result = node.serve_call(now, (caller, back.protocol), service, operation, &message);
            });
            return self.answer_call(caller, back, result, Some(charge));
        }
        let Some(&callee) = self.crossings.offers.get(&name) else {
            return self.answer_call(caller, back, Err(Error::Unavailable), Some(charge));
        };
        let call = Call { caller: Some((caller, charge)), callee, back, operation, message, taken: false };
        let Ok(call) = self.crossings.calls.insert(call) else {
            return self.answer_call(caller, back, Err(Error::NoRoom), None);
        };
        self.crossings.desks.entry(callee).or_default().enter(caller, call);
        self.attend(callee);
    }

    /// Gives a flow that serves others the next of their calls, as far as it takes them; whether it took one.
    pub(super) fn attend(&mut self, callee: Handle) -> bool {
        let mut given = false;
        let runs = |flow: &Flow| matches!(flow.stage, Stage::Running { .. });
        while self.flows.get(callee).is_some_and(runs)
            && self.has_room(callee)
            && let Some(desk) = self.crossings.desks.get_mut(&callee)
            && desk.queued < QUEUED
            && desk.open < MAX_SERVED
            && let Some(number) = desk.next()
        {
            let Some(call) = self.crossings.calls.get_mut(number) else { continue };
            let hash = call.caller.as_ref().and_then(|(caller, _)| self.flows.get(*caller)).map(|f| f.hash);
            let Some(caller) = hash else { continue };
            call.taken = true;
            let message = std::mem::take(&mut call.message);
            (desk.queued, desk.open) = (desk.queued + 1, desk.open + 1);
            let asked = Asked { call: number.raw(), caller, operation: call.operation, message };
            given = self.push_event(callee, Event::Call(Box::new(asked)));
            if !given {
                desk_of(&mut self.crossings, callee, |desk| desk.queued -= 1);
                self.settle_call(callee, number.raw(), Err(Error::Unavailable));
            }
        }
        given
    }

    /// The same for all; whether anybody took one.
    pub(super) fn attend_all(&mut self) -> bool {
        if self.crossings.desks.values().all(|desk| desk.waiting.is_empty()) {
            return false;
        }
        let all: Vec<Handle> = self.crossings.desks.keys().copied().collect();
        all.into_iter().fold(false, |given, callee| self.attend(callee) | given)
    }

    /// The team that pays for the event that is a call.
    pub(super) fn payer_of(&self, call: Handle) -> Option<TeamId> {
        let (caller, _) = self.crossings.calls.get(call)?.caller.as_ref()?;
        self.flow_and_team(*caller).map(|(_, team)| team)
    }

    /// A flow has heard a call, and may have the next one.
    pub(super) fn call_heard(&mut self, callee: Handle) {
        desk_of(&mut self.crossings, callee, |desk| desk.queued = desk.queued.saturating_sub(1));
    }

    /// A flow answers a call. One that was not its to answer, or that nobody waits for, it cannot.
    pub(super) fn settle_call(&mut self, callee: Handle, call: u32, result: Result<(i32, Vec<u8>), Error>) {
        let its = |call: &Call| call.callee == callee && call.taken;
        let Some(number) = Handle::from_raw(call) else { return };
        if !self.crossings.calls.get(number).is_some_and(its) {
            return;
        }
        desk_of(&mut self.crossings, callee, |desk| desk.open = desk.open.saturating_sub(1));
        if let Some(Call { caller: Some((caller, charge)), back, .. }) = self.crossings.calls.remove(number) {
            self.answer_call(caller, back, result, Some(charge));
        }
    }

    /// A flow has ended: who waits for it is told, and what it waits for is nobody's business any more.
    pub(super) fn end_crossings(&mut self, ended: Handle) {
        let crossings = &mut self.crossings;
        crossings.offers.retain(|_, flow| *flow != ended);
        crossings.desks.remove(&ended);
        let told = |(number, call): (Handle, &Call)| (call.callee == ended).then_some(number);
        let told: Vec<Handle> = crossings.calls.iter().filter_map(told).collect();
        self.forget_caller(ended);
        for number in told {
            let call = self.crossings.calls.remove(number);
            if let Some((caller, charge, back)) = call.and_then(|c| c.caller.map(|(f, ch)| (f, ch, c.back)))
                && caller != ended
            {
                self.answer_call(caller, back, Err(Error::Unavailable), Some(charge));
            }
        }
    }

    /// A flow starts once more: what it asked others for is nobody's business any more, and what it was given and has not
    /// answered it never will. `queued` has not been heard.
    pub(super) fn leave_crossings(&mut self, flow: Handle, queued: &[Handle]) {
        self.forget_caller(flow);
        let its = |number, call: &Call| call.callee == flow && call.taken && !queued.contains(&number);
        let heard = self.crossings.calls.iter().filter(|(number, call)| its(*number, call));
        let heard: Vec<Handle> = heard.map(|(number, _)| number).collect();
        heard.into_iter().for_each(|call| self.settle_call(flow, call.raw(), Err(Error::Unavailable)));
    }

    /// Nobody waits for the answers to a flow's calls any more. Those that were not heard are withdrawn.
    fn forget_caller(&mut self, caller: Handle) {
        let crossings = &mut self.crossings;
        let (mut gone, mut given) = (Vec::new(), Vec::new());
        for (number, call) in crossings.calls.iter_mut() {
            if call.caller.as_ref().is_none_or(|(whose, _)| *whose != caller) {
                continue;
            }
            if call.taken {
                // Who has heard it may answer it, to nobody.
                call.caller = None;
                given.push((call.callee, number));
            } else {
                gone.push(number);
            }
        }
        for desk in crossings.desks.values_mut() {
            desk.waiting.retain(|(whose, _)| *whose != caller);
        }
        for number in gone {
            crossings.calls.remove(number);
        }
        given.sort_unstable();
        for its in given.chunk_by(|(one, _), (other, _)| one == other) {
            self.withdraw_calls(its);
        }
    }

    /// Takes out of a flow's event queue those of these calls that it has not heard.
    fn withdraw_calls(&mut self, calls: &[(Handle, Handle)]) {
        let Some(&(callee, _)) = calls.first() else { return };
        let Some((_, team)) = self.flow_and_team(callee) else { return };
        let its = |call: Handle| calls.iter().any(|(_, number)| *number == call);
        let unheard = self.sched.withdraw(team, |queued| queued.call().is_some_and(its));
        for number in unheard.iter().filter_map(Queued::call) {
            self.crossings.calls.remove(number);
            desk_of(&mut self.crossings, callee, |desk| {
                (desk.queued, desk.open) = (desk.queued.saturating_sub(1), desk.open.saturating_sub(1));
            });
        }
        let held: u64 = unheard.iter().map(|queued| u64::from(queued.held)).sum();
        self.teams.get_mut(team).into_iter().for_each(|member| member.let_go(held));
        if !unheard.is_empty() {
            self.attend(callee);
        }
    }

    /// Tells a caller what came of its call. The answer takes the call's place at the caller's expense.
    fn answer_call(
        &mut self,
        caller: Handle,
        back: Back,
        result: Result<(i32, Vec<u8>), Error>,
        mut charge: Option<Charge>,
    ) {
        let mut result = result;
        if let Some(charge) = &mut charge {
            charge.shrink(charge.bytes().saturating_sub(CALL_BYTES as u64));
            if let Ok((_, answer)) = &result
                && charge.grow(answer.len() as u64).is_err()
            {
                result = Err(Error::NoMemory);
            }
        }
        let failed = matches!(result, Err(Error::Unavailable));
        self.counters.add(if failed { Count::CallsFailed } else { Count::CallsAnswered });
        let (result, answer) = result.unwrap_or_else(|error| (error.code(), Vec::new()));
        let Back { protocol, companion, number } = back;
        self.push_answer(caller, Answered { protocol, companion, number, result, answer, charge });
    }
}

fn desk_of(crossings: &mut Crossings, callee: Handle, change: impl FnOnce(&mut Desk)) {
    crossings.desks.get_mut(&callee).map(change);
}

/// Whether the flow may serve others at all, by its grant.
pub(super) fn may_offer(tuple: &Tuple, grant: &Grant) -> Result<(), Reason> {
    match tuple.body.offers().first() {
        Some(first) if !grant.privileges.iter().any(|held| held == OFFER) => {
            Err(Reason::NoOffer { interface: (*first).into(), why: "it lacks the privilege offer" })
        }
        _ => Ok(()),
    }
}

/// Every flow has these of old; naming them is harmless, and nothing is served under these names.
fn is_everywhere(name: &str) -> bool {
    [DOWNLOAD, TRANSLATION, UNKNOWN].contains(&name)
}

/// The interface that a companion of a protocol stands for, if it is no protocol of the flow.
fn provider(tuple: &Tuple, back: Back) -> Option<String> {
    let protocol = tuple.body.protocols.get(usize::from(back.protocol))?;
    match &protocol.companions.get(usize::from(back.companion))?.provider {
        Provider::System(name) => Some(name.clone()),
        Provider::Tuple(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_have_their_turns() {
        let mut flows = Slab::new(8);
        let [flood, calm]: [Handle; 2] = [(), ()].map(|()| flows.insert(()).unwrap());
        let mut numbers = Slab::new(16);
        let calls: Vec<Handle> = (0..10).map(|n| numbers.insert(n).unwrap()).collect();
        let mut desk = Desk::default();
        calls[..8].iter().for_each(|call| desk.enter(flood, *call));
        calls[8..].iter().for_each(|call| desk.enter(calm, *call));
        let order: Vec<usize> =
            std::iter::from_fn(|| desk.next()).map(|call| *numbers.get(call).unwrap()).collect();
        assert_eq!(order, [0, 8, 1, 9, 2, 3, 4, 5, 6, 7]);
    }
}
