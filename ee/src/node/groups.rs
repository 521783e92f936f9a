//! Teams in which no flow runs itself, above those of flows: one for each principal whose flows the policy bounds
//! together (`[principal.total]`), and one for the flows that the operator trusts as he does the node (`[system]`).
//! Such a team is made for its first flow and ends with its last. Its accounts are kept for the next one, for as long
//! as the policy in force has a total for the principal: what was spent "ever" stays spent.

use std::collections::BTreeMap;
use std::time::Duration;

use nodeos::platform::Now;
use nodeos::slab::Handle;
use nodeos::team::{Accounts, Budget, Conduct, Counters, CreateError, Donated, MAX_STRIKES, Team, TeamId};
use wire::budget::Budgets;
use wire::id::TupleHash;

use super::Node;
use super::authority::signer;
use crate::config::SystemSection;
use crate::flow::{Flow, Source};

/// Whose flows are together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Group {
    System,
    Principal(String),
}

/// The teams above flows, and what the operator says about his own.
#[derive(Default)]
pub(super) struct Groups {
    system: SystemSection,
    teams: BTreeMap<Group, TeamId>,
    /// Of those that have ended: no more than the policy has principals, and the system's.
    ended: BTreeMap<Group, Accounts>,
}

impl Groups {
    pub fn new(system: &SystemSection) -> Self {
        Self { system: system.clone(), teams: BTreeMap::new(), ended: BTreeMap::new() }
    }
}

impl Node {
    /// Whether the operator trusts a granted flow, by the principal that signed it.
    fn is_system(&self, flow: Handle) -> bool {
        let by = self.flows.get(flow).and_then(signer);
        by.is_some_and(|name| self.groups.system.principals.iter().any(|known| known == name))
    }

    /// Whether it is trusted without an account.
    fn is_unaccounted(&self, flow: Handle) -> bool {
        !self.groups.system.accounted && self.is_system(flow)
    }

    /// The default and the upper bound of a flow's budget. What is unaccounted has what the root has, but for its
    /// tables and the time of an event, which are bounded on every node.
    pub(super) fn most_for(&self, flow: Handle) -> Budget {
        if !self.is_unaccounted(flow) {
            return self.budget;
        }
        let Budget { event, background, timers, cache_entries, sessions, queue, shares, .. } = self.budget;
        Budget { event, background, timers, cache_entries, sessions, queue, shares, ..Budget::UNLIMITED }
    }

    /// How a flow's team begins: as it went on when it was here a moment ago, in the same place.
    pub(super) fn conduct_of(&mut self, now: Now, handle: Handle) -> Conduct {
        if self.is_unaccounted(handle) {
            return Conduct::trusted();
        }
        let Some(flow) = self.flows.get(handle) else { return Conduct::default() };
        let (hash, parent) = (flow.hash, self.parent_of(flow));
        self.bans.resume(now.mono, hash, parent).unwrap_or_default()
    }

    /// A flow's team ends: how it went on is remembered, and what it did is its group's.
    pub(super) fn bequeath(&mut self, now: Now, handle: Handle) {
        let Some((flow, team)) = self.flow_and_team(handle) else { return };
        let (hash, parent, group) = (flow.hash, self.parent_of(flow), self.group_of(team));
        let sent = self.sent_by(team);
        let Some(member) = self.teams.get(team) else { return };
        let did = Counters { sent, ..member.counters };
        // The last strike has its own consequence.
        let conduct = Some(&member.conduct).filter(|conduct| conduct.strikes() < MAX_STRIKES).cloned();
        if let Some(conduct) = conduct.and_then(|conduct| conduct.resumed(now.mono)) {
            self.bans.remember(hash, parent, conduct);
        }
        if let Some(group) = group.and_then(|group| self.teams.get_mut(group)) {
            group.counters = group.counters.and(did);
        }
    }

    /// The flow that started another.
    pub(super) fn parent_of(&self, flow: &Flow) -> Option<TupleHash> {
        let Source::Flow { parent, .. } = flow.source else { return None };
        self.flows.get(parent).map(|parent| parent.hash)
    }

    /// The team without a flow below which a team is.
    fn group_of(&self, team: TeamId) -> Option<TeamId> {
        let above = |id: &TeamId| self.teams.get(*id).and_then(Team::parent);
        let path = std::iter::successors(Some(team), above);
        let top = path.take_while(|id| *id != self.teams.root()).last()?;
        (top != team && self.flows.by_team(top).is_none()).then_some(top)
    }

    /// Whether what `team` does is shown as done by `by`: by itself, or the team without a flow above it.
    pub(super) fn counts_for(&self, team: TeamId, by: TeamId) -> bool {
        team == by || self.group_of(team) == Some(by)
    }

    /// What a team did. Where no flow runs in it: what all did that are below it, or were.
    pub(super) fn did(&self, id: TeamId) -> Option<Counters> {
        let team = self.teams.get(id)?;
        if !self.groups.teams.values().any(|group| *group == id) {
            return Some(team.counters);
        }
        let below = self.teams.iter().filter(|(of, _)| self.counts_for(*of, id));
        Some(below.fold(Counters::default(), |sum, (_, team)| sum.and(team.counters)))
    }

    /// The events that wait for a team. Where no flow runs in it: for all that are below it.
    pub(super) fn waiting(&self, id: TeamId) -> usize {
        if self.flows.by_team(id).is_some() { self.sched.queued(id) } else { self.sched.pending(id) }
    }

    /// The team above a flow that no other flow started. It ends again with [`Node::leave`].
    pub(super) fn team_above(&mut self, now: Now, flow: Handle) -> Result<TeamId, CreateError> {
        let root = self.teams.root();
        let usual = Budget { shares: self.budget.shares, ..Budget::UNLIMITED };
        let (group, name, budget) = if self.is_system(flow) {
            let named = &self.groups.system.budget.0;
            (Group::System, "system".to_string(), usual.with(named))
        } else {
            let Some(principal) = self.flows.get(flow).and_then(signer) else { return Ok(root) };
            let Some(total) = self.agent.agent.total(principal) else { return Ok(root) };
            let name = format!("principal {principal}");
            (Group::Principal(principal.to_string()), name, usual.with(&total))
        };
        if let Some(team) = self.groups.teams.get(&group) {
            return Ok(*team);
        }
        let team = match self.groups.ended.get(&group) {
            Some(before) => self.teams.create_again(now.mono, root, &name, budget, before),
            None => self.teams.create(now.mono, root, &name, budget, Donated::NOTHING),
        }?;
        self.groups.ended.remove(&group);
        let shares = self.teams.get(team).map(Team::shares).unwrap_or_default();
        self.sched.add(team, None, shares, most_waiting_below(&budget));
        self.net.add_team(team, None, shares);
        self.groups.teams.insert(group, team);
        Ok(team)
    }

    /// Ends a team above flows if there is none left below it.
    pub(super) fn leave(&mut self, now: Now, above: TeamId) {
        let Some(group) = self.groups.teams.iter().find(|(_, team)| **team == above).map(|(g, _)| g.clone())
        else {
            return;
        };
        if self.teams.iter().all(|(_, team)| team.parent() != Some(above)) {
            self.sched.remove(above);
            // What the last flow still had to say when it was stopped has come to it.
            let heir = Some(self.teams.root());
            self.net.remove_team(above, heir);
            self.leave_waiting(above, heir);
            let accounts = self.teams.get(above).map(|team| team.accounts().clone());
            if let Some(accounts) = accounts.filter(|_| self.is_bounded(&group)) {
                self.groups.ended.insert(group.clone(), accounts);
            }
            self.teams.end(now.mono, above);
            self.groups.teams.remove(&group);
        }
    }

    /// Whether something is said about these flows together.
    fn is_bounded(&self, group: &Group) -> bool {
        match group {
            Group::System => self.groups.system.accounted,
            Group::Principal(name) => self.agent.agent.total(name).is_some(),
        }
    }

    /// Another policy is in force: what it says of principals holds for their teams. Nothing is raised.
    pub(super) fn lower_totals(&mut self, now: Now) {
        let mut ended = std::mem::take(&mut self.groups.ended);
        ended.retain(|group, _| self.is_bounded(group));
        self.groups.ended = ended;
        let agent = &self.agent.agent;
        let total = |(group, team): (&Group, &TeamId)| match group {
            Group::System => None,
            Group::Principal(name) => Some((*team, agent.total(name)?)),
        };
        let totals: Vec<_> = self.groups.teams.iter().filter_map(total).collect();
        for (team, total) in totals {
            self.teams.lower(now.mono, team, &total);
            self.weigh(Some(team));
            if let Some(budget) = self.teams.get(team).map(|group| group.budget) {
                self.sched.lower_queue(team, most_waiting_below(&budget));
                self.lower_each(now, team, &budget);
            }
        }
        self.tell_idle_totals(now);
    }

    /// What cannot be added up holds for each flow below a team.
    fn lower_each(&mut self, now: Now, group: TeamId, total: &Budget) {
        let above =
            |team: &Team| team.budget.event > total.event || team.budget.background > total.background;
        let longer = |id: &TeamId| *id != group && self.teams.get(*id).is_some_and(above);
        let flows =
            self.teams.below(group).into_iter().filter(longer).filter_map(|id| self.flows.by_team(id));
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let lower = Budgets {
            event_us: Some(u32::try_from(micros(total.event)).unwrap_or(u32::MAX)),
            background_us: Some(micros(total.background)),
            ..Budgets::default()
        };
        for flow in flows.collect::<Vec<_>>() {
            self.limit_flow(now, flow, &lower);
        }
    }

    /// A principal whose flows are the system's has no team of its own: whoever wrote a total for it is told.
    pub(super) fn tell_idle_totals(&mut self, now: Now) {
        let idle = |name: &&String| self.agent.agent.total(name).is_some();
        let idle: Vec<String> = self.groups.system.principals.iter().filter(idle).cloned().collect();
        for name in idle {
            let text = format!(
                "node: [system] names {name:?}, so its [principal.total] in the policy bounds nothing"
            );
            self.log.line(now.mono, text);
        }
    }
}

/// The events that may wait for all flows below a team together; the ends of their sessions are told in any case.
fn most_waiting_below(total: &Budget) -> usize {
    if total.queue == u16::MAX { usize::MAX } else { total.queue.into() }
}
