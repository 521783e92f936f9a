//! Teams in which no flow runs itself, above those of flows: one for each principal whose flows the policy bounds
//! together (`[principal.total]`), and one for the flows that the operator trusts as he does the node (`[system]`).
//! Such a team is made for its first flow and ends with its last.

use std::collections::BTreeMap;

use nodeos::platform::Now;
use nodeos::slab::Handle;
use nodeos::team::{Budget, Conduct, CreateError, Donated, Team, TeamId};

use super::Node;
use super::authority::signer;
use super::judge::most_waiting;
use crate::config::SystemSection;

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
}

impl Groups {
    pub fn new(system: &SystemSection) -> Self {
        Self { system: system.clone(), teams: BTreeMap::new() }
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
        let Budget { event, background, timers, cache_entries, sessions, queue, .. } = self.budget;
        Budget { event, background, timers, cache_entries, sessions, queue, ..Budget::UNLIMITED }
    }

    /// How a flow's team begins.
    pub(super) fn conduct_of(&self, flow: Handle) -> Conduct {
        if self.is_unaccounted(flow) { Conduct::trusted() } else { Conduct::default() }
    }

    /// The team above a flow that no other flow started. It ends again with [`Node::leave`].
    pub(super) fn team_above(&mut self, now: Now, flow: Handle) -> Result<TeamId, CreateError> {
        let root = self.teams.root();
        let (group, name, budget) = if self.is_system(flow) {
            let named = &self.groups.system.budget.0;
            (Group::System, "system".to_string(), Budget::UNLIMITED.with(named))
        } else {
            let Some(principal) = self.flows.get(flow).and_then(signer) else { return Ok(root) };
            let Some(total) = self.agent.agent.total(principal) else { return Ok(root) };
            let usual = Budget { shares: self.budget.shares, ..Budget::UNLIMITED };
            let name = format!("principal {principal}");
            (Group::Principal(principal.to_string()), name, usual.with(&total))
        };
        if let Some(team) = self.groups.teams.get(&group) {
            return Ok(*team);
        }
        let team = self.teams.create(now.mono, root, &name, budget, Donated::NOTHING)?;
        let shares = self.teams.get(team).map(Team::shares).unwrap_or_default();
        self.sched.add(team, None, shares, most_waiting(&budget));
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
            self.teams.end(now.mono, above);
            self.groups.teams.remove(&group);
        }
    }

    /// Another policy is in force: what it says of principals holds for their teams. Nothing is raised.
    pub(super) fn lower_totals(&mut self, now: Now) {
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
                self.sched.lower_queue(team, most_waiting(&budget));
            }
        }
    }
}
