//! Work for a team outside its own events, and who pays for it: compiling and starting its code goes to the
//! flow that brought it, answering other nodes' questions about a flow to the flow asked about (seed 004,
//! section V). What cannot be charged to anybody is the root's; it is measured, too.

use std::time::Duration;

use nodeos::slab::Handle;
use nodeos::team::TeamId;

use super::Node;
use crate::engine::Metering;

/// Units that compiling a byte of a module counts as where work is counted, not measured: what a machine of
/// a thousand instructions in a microsecond needs.
const COMPILE_BYTE: u64 = 6000;
/// Units that answering another node counts as there.
const ANSWER: u64 = 20_000;

/// What a team is charged for beside its events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Labour {
    /// Compiling its code and making its sandbox.
    Start,
    /// Answering other nodes.
    Serve,
}

impl Node {
    /// Charges a team for work that was done for it: it comes later in its turn, and the figures show it.
    pub(super) fn charge_units(&mut self, team: TeamId, units: u64, labour: Labour) {
        let Some(member) = self.teams.get_mut(team) else { return };
        let counters = &mut member.counters;
        counters.units += units;
        match labour {
            Labour::Start => counters.start_units += units,
            Labour::Serve => counters.serve_units += units,
        }
        self.sched.used(team, units);
        self.charged += units;
    }

    /// Tells the scheduler what a team weighs after it donated processor time, or got it back.
    pub(super) fn weigh(&mut self, team: Option<TeamId>) {
        if let Some((id, member)) = team.and_then(|id| Some((id, self.teams.get(id)?))) {
            self.sched.set_shares(id, member.shares());
        }
    }

    /// Does something for a flow, at its team's expense.
    pub(super) fn serve_for(&mut self, flow: Handle, work: impl FnOnce(&mut Self)) {
        let team = self.flow_and_team(flow).map(|(_, team)| team);
        let before = self.platform.meter.count();
        work(self);
        let units = match self.platform.engine.metering() {
            Metering::Epoch => self.platform.meter.count().saturating_sub(before),
            Metering::Fuel => ANSWER,
        };
        if let Some(team) = team {
            self.charge_units(team, units, Labour::Serve);
        }
    }

    /// What compiling a module of `len` bytes cost that took so many measured units.
    pub(super) fn compile_units(&self, len: usize, measured: u64) -> u64 {
        match self.platform.engine.metering() {
            Metering::Epoch => measured,
            Metering::Fuel => len as u64 * COMPILE_BYTE,
        }
    }

    /// Units as time.
    pub(super) fn time_of(&self, units: u64) -> Duration {
        Duration::from_micros(units / self.platform.meter.per_micro().max(1))
    }

    /// Measures what the node itself does, all in all.
    pub(super) fn busy<T>(&mut self, work: impl FnOnce(&mut Self) -> T) -> T {
        let before = self.platform.meter.count();
        let result = work(self);
        self.busy += self.platform.meter.count().saturating_sub(before);
        result
    }

    /// Units of work that nobody could be charged for.
    pub(super) fn unchargeable(&self) -> u64 {
        self.busy.saturating_sub(self.charged)
    }
}
