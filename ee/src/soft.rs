//! Soft state: what a protocol remembers about the network until it is too old or room is needed, and
//! timers.
//!
//! [`Soft`] is a bounded map from short keys to bytes. As in ANTS' node cache the least recently used
//! entry gives way to a new one when all are taken; beyond that every entry has a time after which it is
//! gone. Keys and values lie in the team's pool. The index is a hash table with a secret seed, so that
//! nobody who chooses keys can make it slow.

use std::time::Duration;

use nodeos::account::{Account, Charge, Refused};
use nodeos::platform::Instant;
use nodeos::pool::{Pool, PoolLimits};
use nodeos::slab::{Handle, Slab};
use nodeos::team::Accounts;
use nodeos::timer::Timers;

use crate::abi::{self, Error};
use crate::hash;

/// Which of the team's protocols an entry or a timer belongs to; another one cannot reach it.
pub(crate) type Owner = u8;

/// The longest key, in bytes: it must fit into the inbox.
pub const MAX_KEY: usize = abi::INBOX;

/// Entries of a bucket when all are taken: its head is there from the first entry on.
const PER_BUCKET: usize = 4;

struct Entry {
    hash: u32,
    key_len: u8,
    owner: Owner,
    /// Key, then value.
    chunk: Handle,
    expires: Instant,
    /// Its place in the order of expiry, until its time is over.
    wake: Option<Handle>,
    /// The next entry of the same bucket.
    chain: Option<Handle>,
    older: Option<Handle>,
    newer: Option<Handle>,
}

/// A team's soft state.
pub(crate) struct Soft {
    entries: Slab<Entry>,
    buckets: Box<[Option<Handle>]>,
    order: Timers<Handle>,
    oldest: Option<Handle>,
    newest: Option<Handle>,
    pool: Pool,
    seed: u64,
    limit: usize,
    /// One for each entry.
    held: Charge,
    _charge: Charge,
}

impl Soft {
    /// Room for `limit` entries. The record and the heads of their index are charged now, all else as it comes, and each
    /// entry to `entries`.
    pub fn new(account: &Account, entries: &Account, limit: usize, seed: u64) -> Result<Self, Error> {
        let limit = limit.min(abi::MAX_NAMED);
        let buckets = limit.div_ceil(PER_BUCKET).next_power_of_two();
        let heads = buckets * size_of::<Option<Handle>>();
        let charge = account.charge((size_of::<Self>() + heads) as u64).map_err(|_| Error::NoMemory)?;
        // One chunk for each entry, and one while an entry is replaced.
        let limits = PoolLimits { first_segment: 1 << 10, chunks: limit + 1, ..PoolLimits::default() };
        let pool = Pool::new(account, limits).map_err(|_| Error::NoMemory)?;
        Ok(Self {
            entries: Slab::charged(limit, account).map_err(|_| Error::NoMemory)?,
            buckets: vec![None; buckets].into(),
            order: Timers::charged(limit, account).map_err(|_| Error::NoMemory)?,
            oldest: None,
            newest: None,
            pool,
            seed,
            limit,
            held: entries.charge(0).map_err(|_| Error::NoRoom)?,
            _charge: charge,
        })
    }

    /// Sets `key` to `value` for `ttl_ms`.
    pub fn put(
        &mut self,
        now: Instant,
        owner: Owner,
        key: &[u8],
        value: &[u8],
        ttl_ms: u32,
    ) -> Result<(), Error> {
        let expires = after(now, ttl_ms)?;
        if self.limit == 0 {
            return Err(Error::NoRoom);
        }
        if self.entries.len() < self.limit {
            self.entries.reserve()?;
            self.order.reserve()?;
        }
        let chunk = self.pool.alloc(key.len() + value.len()).map_err(|_| Error::NoMemory)?;
        if let Some(bytes) = self.pool.get_mut(chunk) {
            let (k, v) = bytes.split_at_mut(key.len());
            k.copy_from_slice(key);
            v.copy_from_slice(value);
        }
        let gives_way = match self.find(owner, key) {
            None if self.entries.len() < self.limit && self.held.grow(1).is_ok() => None,
            None if self.oldest.is_none() => {
                self.pool.free(chunk);
                return Err(Error::NoRoom);
            }
            known => known.or(self.oldest),
        };
        if let Some(entry) = gives_way {
            self.take_out(entry);
        }
        let hash = self.hash(owner, key);
        let bucket = self.bucket(hash);
        let (order, chain) = (&mut self.order, self.buckets[bucket]);
        let entry = |handle| Entry {
            hash,
            key_len: key.len() as u8,
            owner,
            chunk,
            expires,
            wake: order.set(expires, handle).ok(),
            chain,
            older: None,
            newer: None,
        };
        let Ok(handle) = self.entries.insert_with(entry) else {
            self.held.shrink(1);
            self.pool.free(chunk);
            return Err(Error::NoRoom);
        };
        self.buckets[bucket] = Some(handle);
        self.link_newest(handle);
        Ok(())
    }

    /// Lowers the number of entries; the least recently used beyond it go.
    pub fn lower(&mut self, limit: usize) {
        self.limit = self.limit.min(limit);
        while self.entries.len() > self.limit
            && let Some(oldest) = self.oldest
        {
            self.remove(oldest);
        }
    }

    /// The entry of `key`, which is now the most recently used.
    pub fn touch(&mut self, now: Instant, owner: Owner, key: &[u8]) -> Result<Handle, Error> {
        let handle = self.find(owner, key).ok_or(Error::NotFound)?;
        if self.entries.get(handle).is_none_or(|e| e.expires <= now) {
            return Err(Error::NotFound);
        }
        if self.newest != Some(handle) {
            self.unlink(handle);
            self.link_newest(handle);
        }
        Ok(handle)
    }

    /// An entry's value.
    pub fn value(&self, handle: Handle) -> Result<&[u8], Error> {
        let entry = self.entries.get(handle).ok_or(Error::NotFound)?;
        let bytes = self.pool.get(entry.chunk).ok_or(Error::NotFound)?;
        bytes.get(usize::from(entry.key_len)..).ok_or(Error::NotFound)
    }

    /// An entry's key.
    pub fn key(&self, handle: Handle) -> Option<&[u8]> {
        let entry = self.entries.get(handle)?;
        self.pool.get(entry.chunk)?.get(..usize::from(entry.key_len))
    }

    /// Whose an entry is.
    pub fn owner(&self, handle: Handle) -> Option<Owner> {
        self.entries.get(handle).map(|entry| entry.owner)
    }

    /// Keeps an entry for `ttl_ms` from now.
    pub fn refresh(&mut self, now: Instant, handle: Handle, ttl_ms: u32) -> Result<(), Error> {
        let expires = after(now, ttl_ms)?;
        let entry = self.entries.get_mut(handle).ok_or(Error::NotFound)?;
        if let Some(wake) = entry.wake {
            self.order.cancel(wake);
        }
        entry.wake = self.order.set(expires, handle).ok();
        entry.expires = expires;
        Ok(())
    }

    /// Takes an entry out.
    pub fn remove(&mut self, handle: Handle) {
        if self.entries.contains(handle) {
            self.take_out(handle);
            self.held.shrink(1);
        }
    }

    /// Takes an entry out, and leaves its charge to the next.
    fn take_out(&mut self, handle: Handle) {
        self.unlink(handle);
        let Some(entry) = self.entries.remove(handle) else { return };
        if let Some(wake) = entry.wake {
            self.order.cancel(wake);
        }
        self.pool.free(entry.chunk);
        // Unhang it from its bucket.
        let bucket = self.bucket(entry.hash);
        let mut at = self.buckets[bucket];
        if at == Some(handle) {
            self.buckets[bucket] = entry.chain;
            return;
        }
        while let Some(before) = at {
            let Some(e) = self.entries.get_mut(before) else { return };
            if e.chain == Some(handle) {
                e.chain = entry.chain;
                return;
            }
            at = e.chain;
        }
    }

    /// The next entry whose time is over. It is still there, but only [`Soft::refresh`] makes it found
    /// again.
    pub fn due(&mut self, now: Instant) -> Option<Handle> {
        self.order.due(now).map(|(_, handle)| handle)
    }

    /// Whether an entry's time is over.
    pub fn is_over(&self, now: Instant, handle: Handle) -> bool {
        self.entries.get(handle).is_some_and(|e| e.expires <= now)
    }

    /// When the next entry's time is over.
    pub fn deadline(&self) -> Option<Instant> {
        self.order.deadline()
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    fn find(&self, owner: Owner, key: &[u8]) -> Option<Handle> {
        let hash = self.hash(owner, key);
        let mut at = self.buckets[self.bucket(hash)];
        while let Some(handle) = at {
            let entry = self.entries.get(handle)?;
            if entry.hash == hash && entry.owner == owner && self.key(handle) == Some(key) {
                return Some(handle);
            }
            at = entry.chain;
        }
        None
    }

    fn hash(&self, owner: Owner, key: &[u8]) -> u32 {
        // The seed is not known to whoever chooses keys.
        hash::of_bytes(self.seed ^ u64::from(owner), key) as u32
    }

    #[inline]
    fn bucket(&self, hash: u32) -> usize {
        hash as usize & (self.buckets.len() - 1)
    }

    fn link_newest(&mut self, handle: Handle) {
        let before = self.newest.replace(handle);
        if let Some(entry) = self.entries.get_mut(handle) {
            (entry.older, entry.newer) = (before, None);
        }
        match before.and_then(|b| self.entries.get_mut(b)) {
            Some(before) => before.newer = Some(handle),
            None => self.oldest = Some(handle),
        }
    }

    fn unlink(&mut self, handle: Handle) {
        let Some((older, newer)) = self.entries.get(handle).map(|e| (e.older, e.newer)) else { return };
        match older.and_then(|h| self.entries.get_mut(h)) {
            Some(older) => older.newer = newer,
            None => self.oldest = newer,
        }
        match newer.and_then(|h| self.entries.get_mut(h)) {
            Some(newer) => newer.older = older,
            None => self.newest = older,
        }
    }
}

/// A timer of the team.
#[derive(Debug, Clone, Copy)]
struct Timer {
    owner: Owner,
    token: i64,
    /// Microseconds; 0: fires once.
    period: u64,
    wake: Option<Handle>,
}

/// A timer that has fired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fired {
    pub(crate) owner: Owner,
    pub(crate) timer: Handle,
    pub(crate) token: i64,
    pub(crate) periodic: bool,
}

/// A team's timers.
pub(crate) struct TimerTable {
    timers: Slab<Timer>,
    order: Timers<Handle>,
    /// How many may run at once.
    limit: usize,
    /// The shortest and the longest interval, in microseconds.
    min: u64,
    max: u64,
    /// One for each that runs.
    held: Charge,
    /// What is spent on each that is set.
    total: Account,
}

/// The longest interval, in microseconds: a year.
const MAX_INTERVAL: u64 = 366 * 24 * 3600 * 1_000_000;

impl TimerTable {
    /// At most `limit` timers at once, each charged to the team's timers, each that is set to those it may have in
    /// all, and what the table takes to its memory; intervals within the bounds.
    pub fn new(
        limit: usize,
        accounts: &Accounts,
        min_us: Option<u32>,
        max_us: Option<u64>,
    ) -> Result<Self, Refused> {
        let limit = limit.min(abi::MAX_NAMED);
        Ok(Self {
            timers: Slab::charged(limit, accounts.memory())?,
            order: Timers::charged(limit, accounts.memory())?,
            limit,
            min: u64::from(min_us.unwrap_or(0)),
            max: max_us.unwrap_or(u64::MAX).min(MAX_INTERVAL),
            held: accounts.timers().charge(0)?,
            total: accounts.timers_total().clone(),
        })
    }

    /// Lowers how many may run at once, and narrows the intervals. Timers that run go on; periodic ones
    /// keep to the new bounds from their next firing on.
    pub fn lower(&mut self, limit: usize, min_us: Option<u32>, max_us: Option<u64>) {
        self.limit = self.limit.min(limit);
        self.min = self.min.max(min_us.unwrap_or(0).into());
        self.max = self.max.min(max_us.unwrap_or(u64::MAX));
    }

    /// A timer that fires `after_us` from now and, unless `period_us` is 0, every `period_us` from then on.
    pub fn set(
        &mut self,
        now: Instant,
        owner: Owner,
        after_us: i64,
        period_us: i64,
        token: i64,
    ) -> Result<Handle, Error> {
        let interval = |us: i64| u64::try_from(us).ok().filter(|us| *us <= self.max);
        let after = interval(after_us).ok_or(Error::BadArgument)?.max(self.min);
        let period = match interval(period_us).ok_or(Error::BadArgument)? {
            0 => 0,
            us => us.max(self.min).max(1),
        };
        if self.timers.len() >= self.limit {
            return Err(Error::NoRoom);
        }
        self.timers.reserve()?;
        self.order.reserve()?;
        if self.held.grow(1).is_err() {
            return Err(Error::NoRoom);
        }
        if self.total.spend(1).is_err() {
            self.held.shrink(1);
            return Err(Error::NoRoom);
        }
        let (order, at) = (&mut self.order, now + Duration::from_micros(after));
        let timer = |handle| Timer { owner, token, period, wake: order.set(at, handle).ok() };
        self.timers.insert_with(timer).map_err(|_| Error::NoRoom)
    }

    pub fn cancel(&mut self, owner: Owner, timer: Handle) -> Result<(), Error> {
        self.timers.get(timer).filter(|t| t.owner == owner).ok_or(Error::BadHandle)?;
        let timer = self.timers.remove(timer).ok_or(Error::BadHandle)?;
        self.held.shrink(1);
        if let Some(wake) = timer.wake {
            self.order.cancel(wake);
        }
        Ok(())
    }

    /// Whether a fired timer is still wanted: a periodic one may have been cancelled since.
    pub fn is_wanted(&self, fired: &Fired) -> bool {
        !fired.periodic || self.timers.contains(fired.timer)
    }

    /// The next timer that is due. One that is late by several periods fires once.
    pub fn due(&mut self, now: Instant) -> Option<Fired> {
        let at = self.order.deadline()?;
        let (_, handle) = self.order.due(now)?;
        let timer = self.timers.get_mut(handle)?;
        let periodic = timer.period > 0;
        let fired = Fired { owner: timer.owner, timer: handle, token: timer.token, periodic };
        if timer.period == 0 {
            self.timers.remove(handle);
            self.held.shrink(1);
            return Some(fired);
        }
        timer.period = timer.period.min(self.max).max(self.min).max(1);
        let periods = now.micros().saturating_sub(at.micros()) / timer.period + 1;
        let next = at + Duration::from_micros(timer.period.saturating_mul(periods));
        timer.wake = self.order.set(next, handle).ok();
        Some(fired)
    }

    pub fn deadline(&self) -> Option<Instant> {
        self.order.deadline()
    }

    pub fn len(&self) -> usize {
        self.timers.len()
    }
}

fn after(now: Instant, ttl_ms: u32) -> Result<Instant, Error> {
    if ttl_ms == 0 { Err(Error::BadArgument) } else { Ok(now + Duration::from_millis(ttl_ms.into())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nodeos::team::Budget;
    use proptest::prelude::*;

    fn soft(limit: usize) -> (Account, Soft) {
        let account = Account::root(1 << 20);
        let soft = Soft::new(&account, &Account::root(64), limit, 7).unwrap();
        (account, soft)
    }

    fn table(limit: usize, min: Option<u32>, max: Option<u64>) -> TimerTable {
        let accounts = Accounts::new(Account::root(1 << 20), &Budget::UNLIMITED);
        TimerTable::new(limit, &accounts, min, max).unwrap()
    }

    #[test]
    fn what_teams_share_is_shared() {
        let (memory, shared) = (Account::root(1 << 20), Account::root(3));
        let [mut a, mut b] = [(); 2].map(|()| Soft::new(&memory, &shared, 4, 7).unwrap());
        for key in [b"1", b"2", b"3"] {
            a.put(Instant(0), 0, key, b"", 10).unwrap();
        }
        assert_eq!(b.put(Instant(0), 0, b"1", b"", 10), Err(Error::NoRoom));
        // Who has entries loses its own, nobody else's.
        a.put(Instant(0), 0, b"4", b"", 10).unwrap();
        assert_eq!((a.len(), b.len(), shared.used()), (3, 0, 3));
        drop(a);
        b.put(Instant(0), 0, b"1", b"", 10).unwrap();
        drop(b);
        assert_eq!((shared.used(), memory.used()), (0, 0));
    }

    #[test]
    fn over_the_limit_one_entry_gives_way_to_one() {
        let (memory, shared) = (Account::root(1 << 20), Account::root(8));
        let [mut a, mut b] = [(); 2].map(|()| Soft::new(&memory, &shared, 8, 7).unwrap());
        for key in 0..6u8 {
            a.put(Instant(0), 0, &[key], b"", 10).unwrap();
        }
        shared.set_limit(3);
        let before = memory.used();
        assert_eq!(b.put(Instant(0), 0, b"x", b"", 10), Err(Error::NoRoom));
        a.put(Instant(0), 0, b"new", b"", 10).unwrap();
        a.put(Instant(0), 0, &[5], b"again", 10).unwrap();
        assert_eq!((a.len(), b.len(), shared.used()), (6, 0, 6));
        assert!(get(&mut a, 0, &[0]).is_none() && (1..6).all(|key| get(&mut a, 0, &[key]).is_some()));
        drop((a, b));
        assert_eq!((shared.used(), memory.used()), (0, 0));
        assert!(before > 0);
    }

    #[test]
    fn timers_are_bounded_at_once_and_in_all() {
        let budget = Budget { timers: 2, timers_total: 4, ..Budget::UNLIMITED };
        let accounts = Accounts::new(Account::root(1 << 20), &budget);
        let mut t = TimerTable::new(9, &accounts, None, None).unwrap();
        let first = t.set(Instant(0), 0, 10, 0, 1).unwrap();
        t.set(Instant(0), 0, 20, 0, 2).unwrap();
        assert_eq!(t.set(Instant(0), 0, 30, 0, 3), Err(Error::NoRoom));
        t.cancel(0, first).unwrap();
        t.set(Instant(0), 0, 30, 0, 3).unwrap();
        assert!(t.due(Instant(20)).is_some());
        t.set(Instant(20), 0, 30, 0, 4).unwrap();
        assert!(t.due(Instant(30)).is_some());
        assert_eq!(t.set(Instant(30), 0, 30, 0, 5), Err(Error::NoRoom), "four in all");
        assert_eq!((accounts.timers().used(), accounts.timers_total().used()), (1, 4));
        drop(t);
        assert_eq!((accounts.timers().used(), accounts.timers_total().used()), (0, 4));
        assert_eq!(accounts.memory().used(), 0);
    }

    fn get(soft: &mut Soft, now: u64, key: &[u8]) -> Option<Vec<u8>> {
        let handle = soft.touch(Instant(now), 0, key).ok()?;
        soft.value(handle).ok().map(<[u8]>::to_vec)
    }

    #[test]
    fn the_least_recently_used_gives_way() {
        let (_, mut s) = soft(2);
        s.put(Instant(0), 0, b"a", b"1", 10).unwrap();
        s.put(Instant(0), 0, b"b", b"2", 10).unwrap();
        assert_eq!(get(&mut s, 0, b"a").as_deref(), Some(&b"1"[..]));
        s.put(Instant(0), 0, b"c", b"3", 10).unwrap();
        assert_eq!(get(&mut s, 0, b"b"), None);
        assert_eq!(get(&mut s, 0, b"a").as_deref(), Some(&b"1"[..]));
        assert_eq!(s.len(), 2);
    }

    #[test]
    fn entries_expire_and_can_be_kept() {
        let (account, mut s) = soft(4);
        s.put(Instant(0), 0, b"a", b"1", 1).unwrap();
        assert_eq!(s.put(Instant(0), 0, b"a", b"1", 0), Err(Error::BadArgument));
        assert_eq!(s.deadline(), Some(Instant(1000)));
        assert_eq!(get(&mut s, 1000, b"a"), None);
        let over = s.due(Instant(1000)).unwrap();
        assert_eq!(s.key(over), Some(&b"a"[..]));
        assert!(s.is_over(Instant(1000), over));
        s.refresh(Instant(1000), over, 5).unwrap();
        assert!(!s.is_over(Instant(1000), over));
        assert!(get(&mut s, 5999, b"a").is_some());
        let over = s.due(Instant(6000)).unwrap();
        s.remove(over);
        assert_eq!((s.len(), s.deadline()), (0, None));
        drop(s);
        assert_eq!(account.used(), 0);
    }

    #[test]
    fn a_full_account_changes_nothing() {
        let account = Account::root(48 * 1024);
        let mut s = Soft::new(&account, &Account::root(64), 64, 7).unwrap();
        s.put(Instant(0), 0, b"a", b"old", 1000).unwrap();
        assert_eq!(s.put(Instant(0), 0, b"a", &[0; 65_000], 1000), Err(Error::NoMemory));
        assert_eq!(get(&mut s, 0, b"a").as_deref(), Some(&b"old"[..]));
    }

    /// A table that cannot grow loses nothing: neither an entry nor a timer that would never fire.
    #[test]
    fn tables_that_cannot_grow_refuse() {
        let accounts = Accounts::new(Account::root(1000), &Budget::UNLIMITED);
        let mut t = TimerTable::new(64, &accounts, None, None).unwrap();
        let set = (1..).take_while(|us| t.set(Instant(0), 0, *us, 0, 0) != Err(Error::NoMemory)).count();
        assert!((4..32).contains(&set) && accounts.timers().used() == set as u64, "{set}");
        let fired = (0..).map_while(|_| t.due(Instant(100))).count();
        assert_eq!((fired, t.len(), accounts.timers().used()), (set, 0, 0));

        let account = Account::root(14_000);
        let mut s = Soft::new(&account, &Account::root(2000), 1000, 7).unwrap();
        let kept = (0..1000u16)
            .take_while(|k| match s.put(Instant(0), 0, &k.to_le_bytes(), b"", 10) {
                Ok(()) => true,
                Err(error) => error != Error::NoMemory,
            })
            .count();
        assert!((4..500).contains(&kept), "{kept}");
        assert_eq!(s.len(), kept);
        assert!((0..kept as u16).all(|k| get(&mut s, 1, &k.to_le_bytes()).is_some()));
        assert_eq!((0..).map_while(|_| s.due(Instant(1 << 40)).map(|e| s.remove(e))).count(), kept);
    }

    #[test]
    fn periodic_timers_keep_their_handle() {
        let mut t = table(2, Some(100), None);
        let once = t.set(Instant(0), 0, 5, 0, 1).unwrap();
        let often = t.set(Instant(0), 0, 150, 200, 2).unwrap();
        assert_eq!(t.set(Instant(0), 0, 5, 0, 3), Err(Error::NoRoom));
        assert_eq!(t.set(Instant(0), 0, -5, 0, 3), Err(Error::BadArgument));
        assert_eq!(t.deadline(), Some(Instant(100)));
        assert_eq!(t.due(Instant(100)), Some(Fired { owner: 0, timer: once, token: 1, periodic: false }));
        assert_eq!(t.cancel(0, once), Err(Error::BadHandle));
        // Late by two periods: once, then in step again.
        let fired = t.due(Instant(600)).unwrap();
        assert_eq!(fired, Fired { owner: 0, timer: often, token: 2, periodic: true });
        assert_eq!(t.due(Instant(600)), None);
        assert_eq!(t.deadline(), Some(Instant(750)));
        assert!(t.is_wanted(&fired));
        t.cancel(0, often).unwrap();
        assert!(!t.is_wanted(&fired));
        assert_eq!(t.deadline(), None);
    }

    #[test]
    fn intervals_have_bounds_that_can_be_narrowed() {
        let mut t = table(4, None, Some(1000));
        assert_eq!(t.set(Instant(0), 0, 1001, 0, 1), Err(Error::BadArgument));
        assert_eq!(t.set(Instant(0), 0, 1, 1001, 1), Err(Error::BadArgument));
        t.set(Instant(0), 0, 10, 10, 1).unwrap();
        t.set(Instant(0), 0, 1000, 0, 2).unwrap();
        t.lower(2, Some(100), Some(500));
        assert_eq!(t.set(Instant(0), 0, 100, 0, 3), Err(Error::NoRoom), "two run");
        assert!(t.due(Instant(10)).is_some());
        assert_eq!(t.deadline(), Some(Instant(110)), "the period is the new shortest");
        t.lower(9, Some(1), None);
        assert_eq!(t.set(Instant(0), 0, 100, 0, 3), Err(Error::NoRoom), "nothing is raised");
    }

    #[test]
    fn fewer_entries_leave_the_most_recent() {
        let (_, mut s) = soft(8);
        for k in 0..8u8 {
            s.put(Instant(0), 0, &[k], &[k], 10).unwrap();
        }
        s.lower(3);
        assert_eq!(s.len(), 3);
        assert!(get(&mut s, 0, &[4]).is_none() && get(&mut s, 0, &[5]).is_some());
        s.put(Instant(0), 0, b"new", b"", 10).unwrap();
        assert_eq!(s.len(), 3);
        s.lower(0);
        assert_eq!(s.put(Instant(0), 0, b"x", b"", 10), Err(Error::NoRoom));
    }

    proptest! {
        /// Against a list in order of use.
        #[test]
        fn behaves_like_a_list(ops in proptest::collection::vec((0u8..4, 0u8..12, 1u32..20), 1..300), limit in 1usize..6) {
            let (account, mut s) = soft(limit);
            let mut model: Vec<(u8, Vec<u8>, u64)> = Vec::new();
            let mut now = 0u64;
            for (op, k, n) in ops {
                let key = [k; 3];
                now += u64::from(n) * 100;
                while let Some(over) = s.due(Instant(now)) { s.remove(over); }
                model.retain(|m| m.2 > now);
                let at = model.iter().position(|m| m.0 == k);
                match op {
                    0 | 1 => {
                        let value = vec![k ^ n as u8; n as usize];
                        s.put(Instant(now), 0, &key, &value, n).unwrap();
                        if let Some(at) = at { model.remove(at); } else if model.len() == limit { model.remove(0); }
                        model.push((k, value, now + u64::from(n) * 1000));
                    }
                    2 => {
                        prop_assert_eq!(get(&mut s, now, &key), at.map(|at| model[at].1.clone()));
                        if let Some(at) = at { let m = model.remove(at); model.push(m); }
                    }
                    _ => if let Ok(h) = s.touch(Instant(now), 0, &key) {
                        s.remove(h);
                        model.remove(at.unwrap());
                    } else { prop_assert!(at.is_none()) },
                }
                prop_assert_eq!(s.len(), model.len());
                prop_assert_eq!(s.deadline().map(|d| d.0), model.iter().map(|m| m.2).min());
            }
            drop(s);
            prop_assert_eq!(account.used(), 0);
        }
    }
}
