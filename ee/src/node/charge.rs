//! Work for a team outside its own events, and who pays for it: compiling and starting its code goes to the
//! flow that brought it, answering other nodes' questions about a flow to the flow asked about (seed 004,
//! section V). What cannot be charged to anybody is the root's; it is measured, too.

use std::time::Duration;

use nodeos::account::Account;
use nodeos::platform::Now;
use nodeos::slab::Handle;
use nodeos::team::{Team, TeamId};
use wire::control::Erred;
use wire::id::PartHash;

use super::{End, Node};
use crate::engine::Metering;
use crate::job::JobId;

/// Units that compiling a byte of a module counts as where work is counted, not measured: what a machine of
/// a thousand instructions in a microsecond needs.
const COMPILE_BYTE: u64 = 6000;
/// Units that answering another node counts as there.
const ANSWER: u64 = 20_000;
/// Why a module is not compiled.
pub(super) const COMPILED_ENOUGH: &str = "the time for compiling that its budget has is used up";

/// What a team is charged for beside its events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Labour {
    /// Compiling its code and making its sandbox.
    Start,
    /// Answering other nodes.
    Serve,
}

/// A module that is compiled.
pub(super) struct Compilation {
    pub job: JobId,
    pub module: PartHash,
    len: usize,
    /// The budget of the flow that brought it. It stands as long as anybody holds it, and what a team shares
    /// with those above is theirs.
    pub account: Account,
    /// That flow's team and those above it.
    pub teams: Vec<TeamId>,
}

/// A compilation was more than may be had.
#[derive(Debug, Clone, Copy)]
pub(super) struct Overdrawn {
    /// The team of the flow that brought the module.
    pub payer: TeamId,
    /// How long it took.
    pub took: Duration,
    /// Whether it was more than the flow itself may have, and not what others have left of what they share.
    pub own: bool,
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

    /// Tells the scheduler and the links what a team weighs after it donated processor time, or got it back.
    pub(super) fn weigh(&mut self, team: Option<TeamId>) {
        if let Some((id, member)) = team.and_then(|id| Some((id, self.teams.get(id)?))) {
            self.sched.set_shares(id, member.shares());
            self.net.set_shares(id, member.shares());
        }
    }

    /// Does something for a flow, at its team's expense, but for what others are charged for on the way.
    pub(super) fn work_for(&mut self, flow: Handle, labour: Labour, work: impl FnOnce(&mut Self)) {
        let team = self.flow_and_team(flow).map(|(_, team)| team);
        let (before, charged) = (self.platform.meter.count(), self.charged);
        work(self);
        let units = match self.platform.engine.metering() {
            Metering::Epoch => {
                let took = self.platform.meter.count().saturating_sub(before);
                self.own_part(took.saturating_sub(self.charged - charged))
            }
            Metering::Fuel => ANSWER,
        };
        if let Some(team) = team {
            self.charge_units(team, units, labour);
        }
    }

    /// What work that is done at once for a team is charged if the meter says that it took so much: no more than two
    /// events. What is above that was somebody else's, who had the processor meanwhile.
    pub(super) fn own_part(&self, took: u64) -> u64 {
        let micros = u64::try_from(self.budget.event.as_micros()).unwrap_or(u64::MAX);
        took.min(micros.saturating_mul(2 * self.platform.meter.per_micro()))
    }

    /// Notes who pays for a compilation that begins: the flow's team, or when it has ended by then the nearest
    /// one above it that lives.
    pub(super) fn begin_compilation(&mut self, job: JobId, module: PartHash, len: usize, team: TeamId) {
        let Some(account) = self.teams.get(team).map(|t| t.accounts().compile().clone()) else { return };
        let teams = self.payers(team);
        self.compiling.push(Compilation { job, module, len, account, teams });
    }

    /// Compilations that have not begun and that nobody can pay for any more are forgotten, and so are the flows
    /// that wait for them; where another flow waits that can pay, it does.
    pub(super) fn forget_unpaid(&mut self, now: Now) {
        let unpaid = |c: &&Compilation| self.compiler != Some(c.job) && c.account.left() == 0;
        let jobs: Vec<JobId> = self.compiling.iter().filter(unpaid).map(|c| c.job).collect();
        for job in jobs {
            for handle in self.waiting_for(job) {
                let Some((_, team)) = self.flow_and_team(handle) else { continue };
                let account = self.teams.get(team).map(|t| t.accounts().compile().clone());
                match account.filter(|account| account.left() > 0) {
                    Some(account) => {
                        let payers = self.payers(team);
                        for waits in self.compiling.iter_mut().filter(|c| c.job == job) {
                            (waits.account, waits.teams) = (account.clone(), payers.clone());
                        }
                    }
                    None => self.end_flow(now, handle, End::failed(Erred::Principal, COMPILED_ENOUGH)),
                }
            }
        }
    }

    /// A team and those above it, but for the root.
    pub(super) fn payers(&self, team: TeamId) -> Vec<TeamId> {
        let above = |id: &TeamId| self.teams.get(*id).and_then(Team::parent);
        std::iter::successors(Some(team), above).filter(|id| *id != self.teams.root()).collect()
    }

    /// A compilation is done: it is paid, whoever still waits for it, or was more than may be had.
    pub(super) fn end_compilation(&mut self, job: JobId, measured: u64) -> Option<Overdrawn> {
        let at = self.compiling.iter().position(|c| c.job == job)?;
        let Compilation { len, account, teams, .. } = self.compiling.swap_remove(at);
        let units = self.compile_units(len, measured);
        let took = self.time_of(units);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let own = account.own_left() < micros;
        let paid = account.spend(micros).is_ok();
        if !paid {
            // All that there is; another one does not begin.
            let _ = account.spend(account.left());
        }
        if let Some(team) = teams.iter().find(|id| self.teams.get(**id).is_some()) {
            self.charge_units(*team, units, Labour::Start);
        }
        (!paid).then_some(Overdrawn { payer: *teams.first()?, took, own })
    }

    /// What compiling a module of `len` bytes cost that took so many measured units.
    fn compile_units(&self, len: usize, measured: u64) -> u64 {
        match self.platform.engine.metering() {
            Metering::Epoch => measured,
            Metering::Fuel => len as u64 * COMPILE_BYTE,
        }
    }

    /// Units as time.
    pub(super) fn time_of(&self, units: u64) -> Duration {
        Duration::from_micros(units / self.platform.meter.per_micro().max(1))
    }

    /// From here on the node is at work, until the end of the next poll: looking at the meter with every frame would
    /// cost more than some of them do.
    #[inline]
    pub(super) fn begin(&mut self) {
        if self.since.is_none() {
            self.since = Some(self.platform.meter.count());
        }
    }

    /// The end of a poll.
    pub(super) fn pause(&mut self) {
        if let Some(since) = self.since.take() {
            self.busy += self.platform.meter.count().saturating_sub(since);
        }
    }

    /// Units of work that nobody could be charged for.
    pub(super) fn unchargeable(&self) -> u64 {
        self.busy.saturating_sub(self.charged)
    }
}
