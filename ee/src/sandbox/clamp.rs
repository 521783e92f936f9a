//! Lowering the terms of a team that runs.

use nodeos::team::Budget;
use wire::grant::Grant;

use super::{Sandbox, StartError};
use crate::capsule::Kinds;

impl Sandbox {
    /// Goes on under lower terms. Where the team holds more than a budget allows now it keeps that, and
    /// gets nothing more until it has given back enough; soft state beyond it goes, the least recently used
    /// first. Memory and bandwidth are the team's to bound. An error if what the flow declares does not fit the
    /// new terms at all: it cannot go on.
    pub fn clamp(&mut self, grant: &Grant, budget: &Budget) -> Result<(), StartError> {
        let state = self.program.run.store.data_mut();
        let tuple = state.tuple.clone();
        for instance in &mut state.instances {
            let protocol = &tuple.body.protocols[usize::from(instance.position)];
            instance.kinds = Kinds::new(protocol, instance.position, grant)?;
        }
        state.timers.lower(budget.timers.into(), grant.min_timer_us, grant.max_timer_us);
        state.session_limit = budget.sessions.into();
        state.soft_limit = state.soft_limit.min(budget.cache_entries.into());
        if let Some(soft) = &mut state.soft {
            soft.lower(budget.cache_entries.into());
        }
        self.program.run.event = self.program.run.event.min(budget.event);
        self.budget = *budget;
        self.withhold(&grant.privileges);
        Ok(())
    }

    /// Revokes every capability for privileges that are not among `kept`, and what other teams got of them
    /// by envelopes.
    pub fn withhold(&mut self, kept: &[String]) {
        self.program.run.store.data_mut().caps.withhold(kept);
    }
}
