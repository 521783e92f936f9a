//! Flows that a flow starts below itself, with the privilege `flows`: they are judged as any other, live in a
//! team below its team and within its budget, and end with it at the latest.

use nodeos::platform::Now;
use nodeos::slab::Handle;
use nodeos::team::{Budget, CreateError, Donated, Resource, TeamId};
use wire::grant::Grant;
use wire::id::TupleHash;
use wire::tuple::{Budgets, Tuple};

use super::{End, Node, label};
use crate::abi;
use crate::cap::ChildState;
use crate::flow::{Flow, Source, Stage, tuple_bytes};
use crate::sandbox::Event;

impl Node {
    /// A flow wants another one to run below it.
    pub(super) fn child_start(&mut self, now: Now, parent: Handle, child: Handle, bytes: Vec<u8>, give: u32) {
        if let Err(why) = self.try_start(now, parent, child, bytes, give) {
            let name = self.flows.get(parent).map(label).unwrap_or_default();
            self.log_limited(now, || format!("flow {name} could not start another: {why}"));
            self.child_is(parent, child, ChildState::Ended);
        }
    }

    fn try_start(
        &mut self,
        now: Now,
        parent: Handle,
        child: Handle,
        bytes: Vec<u8>,
        give: u32,
    ) -> Result<(), String> {
        let tuple = Tuple::decode(&bytes).map_err(|e| e.to_string())?;
        let hash = TupleHash::of(&bytes);
        if self.bans.holds(now.mono, &hash) {
            return Err("it is kept away for a while".into());
        }
        if self.flows.by_hash(&hash).is_some() {
            return Err("it is here already".into());
        }
        if self.successor_of(&hash).is_some() {
            return Err("a later version of it took its place".into());
        }
        // What its clean-up starts would outlive it.
        let lives = self.flows.get_mut(parent).and_then(|f| f.sandbox()).is_some_and(|s| !s.has_ended());
        let (_, team) = self.flow_and_team(parent).filter(|_| lives).ok_or("it has ended itself")?;
        let paid = self.teams.get(team).map(|t| t.account().charge(tuple_bytes(bytes.len())));
        let charge = paid.ok_or("its team has ended")?.map_err(|e| e.to_string())?;
        self.flows.forget(&hash);
        let source = Source::Flow { parent, child, give };
        let flow = Flow::new(hash, source, Stage::Judging, now.mono);
        let handle = self.flows.add(flow).ok_or("there are as many flows as may be")?;
        self.judge(now, handle, bytes.into(), tuple, charge);
        Ok(())
    }

    /// Where a flow's team belongs: below that of the flow that started it, else below that of its principal or the
    /// root; what the one above donates; and the budget that is left of `budget` there. `None`: the flow that
    /// started it has ended.
    pub(super) fn place_of(
        &mut self,
        now: Now,
        flow: Handle,
        budget: Budget,
    ) -> Option<Result<(TeamId, Donated, Budget), CreateError>> {
        let Source::Flow { parent, give, .. } = self.flows.get(flow)?.source else {
            let above = self.team_above(now, flow);
            return Some(above.map(|above| {
                let most = self.teams.get(above).map_or(budget, |team| budget.within(&team.budget));
                (above, Donated::NOTHING, most)
            }));
        };
        let (_, team) = self.flow_and_team(parent)?;
        let given = (0..).map_while(abi::Resource::of).filter(|resource| give & 1 << *resource as u32 != 0);
        let donated = given.fold(Donated::NOTHING, |donated, resource| donated.and(resource.kind()));
        Some(Ok((team, donated, budget.within(&self.teams.get(team)?.budget))))
    }

    /// A flow could not have a team: that counts against the one that started it, if one did, and if not others have
    /// used up what was wanted.
    pub(super) fn started_too_much(&mut self, now: Now, source: Option<Source>, error: CreateError) {
        let Some(Source::Flow { parent, .. }) = source else { return };
        let Some((_, team)) = self.flow_and_team(parent) else { return };
        let Some(member) = self.teams.get_mut(team) else { return };
        member.counters.refused += 1;
        if error.is_others(member) {
            return;
        }
        let verdict = member.conduct.refused(now.mono, Resource::Teams);
        self.judged(now, parent, verdict, "it kept starting more than it may have");
    }

    /// A flow that another one started runs, or has ended.
    pub(super) fn tell_parent(&mut self, flow: &Source, state: ChildState) {
        if let Source::Flow { parent, child, .. } = *flow {
            self.child_is(parent, child, state);
        }
    }

    fn child_is(&mut self, parent: Handle, child: Handle, state: ChildState) {
        if let Some(sandbox) = self.flows.get_mut(parent).and_then(|f| f.sandbox()) {
            sandbox.child_is(child, state);
            // Should the queue be full: the guest can ask at any time.
            self.push_event(parent, Event::Flow { child, state });
        }
    }

    /// A flow ends one that it started.
    pub(super) fn child_stop(&mut self, now: Now, parent: Handle, child: Handle, kill: bool) {
        if let Some(handle) = self.child_of(parent, child) {
            self.end_flow(now, handle, End::by("the flow that started it", kill));
        }
    }

    /// A flow lowers the budget of one that it started.
    pub(super) fn child_limit(&mut self, now: Now, parent: Handle, child: Handle, lower: &Budgets) {
        if let Some(handle) = self.child_of(parent, child) {
            self.limit_flow(now, handle, lower);
        }
    }

    /// Lowers a flow's budgets.
    pub(super) fn limit_flow(&mut self, now: Now, handle: Handle, lower: &Budgets) {
        let Some((_, granted)) = self.flows.get(handle).and_then(|f| f.team.as_ref()) else { return };
        let terms = Grant { budgets: granted.budgets.meet(lower), ..granted.clone() };
        self.clamp(now, handle, &terms);
    }

    /// Ends all that a flow started: it ends itself.
    pub(super) fn end_children(&mut self, now: Now, of: Handle) {
        let its = |f: &Flow| matches!(f.source, Source::Flow { parent, .. } if parent == of);
        let children: Vec<Handle> = self.flows.iter().filter(|(_, f)| its(f)).map(|(h, _)| h).collect();
        for child in children {
            self.end_flow(now, child, End::killed("the flow that started it ended"));
        }
    }

    fn child_of(&self, of: Handle, number: Handle) -> Option<Handle> {
        let its = |f: &Flow| matches!(f.source, Source::Flow { parent, child, .. } if parent == of && child == number);
        self.flows.iter().find(|(_, f)| its(f)).map(|(handle, _)| handle)
    }
}
