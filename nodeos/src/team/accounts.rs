//! A team's accounts: one for each resource that is counted.

use super::{Budget, CreateError, Donated, Resource};
use crate::account::{Account, Bell, Charge};
use crate::queue::Queue;
use crate::team::Bandwidth;

/// The accounts of one team. Cloning gives another name for the same.
#[derive(Debug, Clone)]
pub struct Accounts {
    list: [Account; Resource::ACCOUNTS],
    bell: Bell,
}

impl Accounts {
    /// Those of a team that shares with nobody, but for its memory.
    pub fn new(memory: Account, budget: &Budget) -> Self {
        let mut list = core::array::from_fn(|at| Account::root(budget.limit(Resource::ALL[at])));
        list[Resource::Memory as usize] = memory;
        Self { list, bell: Bell::default() }
    }

    /// Those of a child, each shared or donated. Unlimited is shared, always.
    pub(super) fn below(&self, budget: &Budget, donated: Donated) -> Result<Self, CreateError> {
        let mut accounts = Self { list: self.list.clone(), bell: Bell::default() };
        for (resource, account) in Resource::accounts().zip(&mut accounts.list) {
            let limit = Some(budget.limit(resource)).filter(|limit| *limit != u64::MAX);
            let own = match limit.filter(|_| donated.has(resource)) {
                Some(part) => account.donate(part).map_err(|why| CreateError::Poor(resource, why))?,
                None => account.child(limit),
            };
            *account = own.with_bell(&accounts.bell, resource as u8);
        }
        Ok(accounts)
    }

    /// These again, for a team that takes the place of the one whose they were: what that has spent is spent, and
    /// what still lives of it is charged. The limits are new.
    pub(super) fn again(&self, budget: &Budget) -> Self {
        for (resource, account) in Resource::accounts().zip(&self.list) {
            account.set_limit(budget.limit(resource));
        }
        self.clone()
    }

    /// Lowers limits; nothing is raised. The bell rings for what is near its limit then.
    pub(super) fn lower(&self, budget: &Budget) {
        for (resource, account) in Resource::accounts().zip(&self.list) {
            account.set_limit(account.limit().min(budget.limit(resource)));
            if account.is_near() {
                self.bell.ring(resource as u8);
            }
        }
    }

    /// Charges a team's record to its own memory.
    pub(super) fn record(&self, bytes: usize, links: usize) -> Result<Charge, CreateError> {
        let on_links = Bandwidth::bytes(links) + links * Queue::TEAM_BYTES;
        let bytes = bytes + Account::BYTES * self.list.len() + Bell::BYTES + on_links;
        self.memory().charge(bytes as u64).map_err(|why| CreateError::Poor(Resource::Memory, why))
    }

    /// The account of a resource; `None` for what is not kept in accounts.
    pub fn of(&self, resource: Resource) -> Option<&Account> {
        self.list.get(resource as usize)
    }

    /// Rung with the number of each resource that a charge found near its limit.
    pub fn bell(&self) -> &Bell {
        &self.bell
    }

    /// Bytes of memory.
    pub fn memory(&self) -> &Account {
        self.at(Resource::Memory)
    }

    /// Bytes of compiled code.
    pub fn code(&self) -> &Account {
        self.at(Resource::Code)
    }

    /// Timers that run.
    pub fn timers(&self) -> &Account {
        self.at(Resource::Timers)
    }

    /// Timers ever.
    pub fn timers_total(&self) -> &Account {
        self.at(Resource::TimersTotal)
    }

    /// Events ever.
    pub fn events_total(&self) -> &Account {
        self.at(Resource::EventsTotal)
    }

    /// Open sessions.
    pub fn sessions(&self) -> &Account {
        self.at(Resource::Sessions)
    }

    /// Soft-state entries.
    pub fn cache_entries(&self) -> &Account {
        self.at(Resource::CacheEntries)
    }

    /// Teams below.
    pub fn teams(&self) -> &Account {
        self.at(Resource::Teams)
    }

    /// Teams ever below.
    pub fn teams_total(&self) -> &Account {
        self.at(Resource::TeamsTotal)
    }

    /// Bytes ever downloaded.
    pub fn download(&self) -> &Account {
        self.at(Resource::Download)
    }

    /// Microseconds of compiling.
    pub fn compile(&self) -> &Account {
        self.at(Resource::Compile)
    }

    fn at(&self, resource: Resource) -> &Account {
        &self.list[resource as usize]
    }
}
