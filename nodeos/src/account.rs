//! Budgets: bytes (or whatever is counted) are charged before they are used and come back when their charge
//! is dropped.
//!
//! Accounts form a tree. A child either *shares* its parent's account, and what it uses its ancestors use
//! too; or its parent *donates* a part to it: the part is charged to the parent for as long as anything of
//! the child lives, and the child has it for itself. A charge that would pass the limit of any account on
//! its way is refused, and then nothing is charged anywhere. Some things can only be spent: what
//! [`Account::spend`] took does not come back, not even with a donation. Accounts may be used from several
//! threads: a limit is never passed, not even for a moment; while two charges compete for the last bytes
//! one may be refused that would have fitted a moment later.
//!
//! A charge walks up to the root, so the depth of the tree is the cost; [`crate::team`] bounds it.
//!
//! An account is *near* its limit when [`SOFT_PERCENT`] of it are in use. Whoever charges it past that point
//! has his [`Bell`] rung, and so has whose account it is: nobody has to look before a bell rings.

use alloc::sync::Arc;
use core::fmt;
use core::mem::size_of;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// From so many percent of its limit on an account is near it.
pub const SOFT_PERCENT: u64 = 75;

/// A budget of bytes, or of anything else that is counted. Cloning gives another name for the same account.
#[derive(Clone)]
pub struct Account(Arc<Inner>);

struct Inner {
    parent: Option<Account>,
    /// What was donated to this account, at its donor's expense.
    gift: Option<Charge>,
    limit: AtomicU64,
    used: AtomicU64,
    /// Of what is used: what does not come back.
    spent: AtomicU64,
    peak: AtomicU64,
    /// Charges that fitted here and not above, where less than half is in use by this account.
    lacked: AtomicU64,
    /// When more than this is in use something is to be [noted](Self::note): it is more than ever, or near the
    /// limit.
    watch: AtomicU64,
    /// Rung when it is, with this bit.
    bell: Option<(Bell, u8)>,
}

/// Remembers which of the accounts that it hangs at were found near their limits. Cloning gives another name for
/// the same bell.
#[derive(Debug, Clone, Default)]
pub struct Bell(Arc<AtomicU32>);

impl Bell {
    /// The bytes that a bell takes.
    pub const BYTES: usize = size_of::<AtomicU32>() + 2 * size_of::<usize>();

    /// Whether it has been rung.
    #[inline]
    pub fn is_rung(&self) -> bool {
        self.0.load(Relaxed) != 0
    }

    /// The bits with which it was rung since the last call.
    pub fn take(&self) -> u32 {
        self.0.swap(0, Relaxed)
    }

    /// Rings it.
    #[cold]
    pub fn ring(&self, bit: u8) {
        self.0.fetch_or(1 << bit, Relaxed);
    }
}

/// A charge was refused: this account or one above it has too little left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// How many bytes were asked for.
    pub wanted: u64,
    /// How many were left where it was refused.
    pub left: u64,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "memory budget: {} bytes asked for, {} left", self.wanted, self.left)
    }
}

impl core::error::Error for Refused {}

impl Account {
    /// The bytes that an account takes itself.
    pub const BYTES: usize = size_of::<Inner>() + 2 * size_of::<usize>();

    /// An account without a parent.
    pub fn root(limit: u64) -> Self {
        Self::new(None, None, limit)
    }

    /// An account with a part of this one's for itself. It is charged here until nothing of it is left,
    /// neither a name nor a charge; what was spent of it stays charged.
    pub fn donate(&self, part: u64) -> Result<Self, Refused> {
        Ok(Self::new(None, Some(self.charge(part)?), part))
    }

    /// An account whose use is this one's use too. With `None` it shares this one's limit and has none of
    /// its own.
    pub fn child(&self, limit: Option<u64>) -> Self {
        Self::new(Some(self.clone()), None, limit.unwrap_or(u64::MAX))
    }

    /// Hangs a bell at an account that has no second name yet; it is rung with this bit (below 32).
    #[must_use]
    pub fn with_bell(mut self, bell: &Bell, bit: u8) -> Self {
        if let Some(inner) = Arc::get_mut(&mut self.0) {
            inner.bell = Some((bell.clone(), bit));
        }
        self
    }

    /// Whether it is near its own limit.
    pub fn is_near(&self) -> bool {
        self.0.is_near(self.used())
    }

    /// Whether this account is well below where it would be near its limit: below half of that; and its ancestors, on
    /// which others live, too, are an eighth below.
    pub fn is_relieved(&self) -> bool {
        let used = |inner: &Inner| (inner.used.load(Relaxed), soft(inner.limit.load(Relaxed)));
        let (own, soft) = used(&self.0);
        own < soft.div_ceil(2) && self.chain().skip(1).map(used).all(|(used, soft)| used < soft - soft / 8)
    }

    /// Charges `bytes`, here and in all ancestors, or nowhere.
    #[inline]
    pub fn charge(&self, bytes: u64) -> Result<Charge, Refused> {
        self.add(bytes)?;
        Ok(Charge { account: self.clone(), bytes })
    }

    /// Takes `amount`, here and in all ancestors, or nowhere; it does not come back.
    pub fn spend(&self, amount: u64) -> Result<(), Refused> {
        self.add(amount)?;
        self.chain().for_each(|inner| inner.keep(amount));
        Ok(())
    }

    /// Whether this account was donated: it has its limit for itself.
    pub fn is_donated(&self) -> bool {
        self.0.gift.is_some()
    }

    /// Bytes charged at the moment.
    pub fn used(&self) -> u64 {
        self.0.used.load(Relaxed)
    }

    /// The most bytes that were ever charged at once.
    pub fn peak(&self) -> u64 {
        self.0.peak.load(Relaxed)
    }

    /// This account's own limit; `u64::MAX` when it has none.
    pub fn limit(&self) -> u64 {
        self.0.limit.load(Relaxed)
    }

    /// How many charges have fitted here since the last call, and were refused for want above: what others used up, as
    /// long as this account does not have half of it.
    pub fn take_lacked(&self) -> u64 {
        self.0.lacked.swap(0, Relaxed)
    }

    /// Bytes that could be charged now: the least of what is left here and in the ancestors.
    pub fn left(&self) -> u64 {
        let own = self.own_left();
        self.0.parent.as_ref().map_or(own, |p| own.min(p.left()))
    }

    /// Bytes that are left here, whatever is left in the ancestors.
    pub fn own_left(&self) -> u64 {
        self.limit().saturating_sub(self.used())
    }

    /// Changes the limit. A limit below what is used takes nothing away, but all charges are refused
    /// until enough has come back.
    pub fn set_limit(&self, limit: u64) {
        self.0.limit.store(limit, Relaxed);
        self.0.watch();
    }

    /// Whether both names stand for one account.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    fn new(parent: Option<Self>, gift: Option<Charge>, limit: u64) -> Self {
        let zero = || AtomicU64::new(0);
        Self(Arc::new(Inner {
            parent,
            gift,
            limit: AtomicU64::new(limit),
            used: zero(),
            spent: zero(),
            peak: zero(),
            lacked: zero(),
            watch: zero(),
            bell: None,
        }))
    }

    fn chain(&self) -> impl Iterator<Item = &Inner> {
        core::iter::successors(Some(&*self.0), |inner| inner.parent.as_ref().map(|p| &*p.0))
    }

    fn add(&self, bytes: u64) -> Result<(), Refused> {
        // Nothing always fits, also where a limit was lowered below what is in use.
        if bytes == 0 {
            return Ok(());
        }
        let (mut at, mut notable) = (&*self.0, false);
        loop {
            match at.add(bytes) {
                Ok(of_note) => notable |= of_note,
                Err(used) => return Err(self.refuse(at, bytes, used)),
            }
            let Some(above) = &at.parent else { break };
            at = &above.0;
        }
        if notable {
            self.note();
        }
        Ok(())
    }

    /// A charge that had been made below `at` did not fit there, where so much is in use.
    #[cold]
    fn refuse(&self, at: &Inner, bytes: u64, used: u64) -> Refused {
        self.chain().take_while(|below| !core::ptr::eq(*below, at)).for_each(|below| below.sub(bytes));
        if !core::ptr::eq(at, &*self.0) && !self.has_half(at) {
            self.0.lacked.fetch_add(1, Relaxed);
        }
        Refused { wanted: bytes, left: at.limit.load(Relaxed).saturating_sub(used) }
    }

    /// Whether half of what `above` may have, or more, is in use here: then it is not others who used it up.
    #[cold]
    fn has_half(&self, above: &Inner) -> bool {
        self.used() >= above.limit.load(Relaxed).div_ceil(2)
    }

    /// After a charge: some account has more in use than ever, or is near its limit.
    #[cold]
    fn note(&self) {
        let mut near = false;
        self.chain().for_each(|inner| near |= inner.note());
        if near {
            self.0.ring();
        }
    }

    #[inline]
    fn sub(&self, bytes: u64) {
        let mut at = &*self.0;
        loop {
            at.sub(bytes);
            let Some(above) = &at.parent else { return };
            at = &above.0;
        }
    }
}

impl Inner {
    /// Whether there is something to note, or what is in use where it does not fit.
    #[inline]
    fn add(&self, bytes: u64) -> Result<bool, u64> {
        let limit = self.limit.load(Relaxed);
        let mut used = self.used.load(Relaxed);
        loop {
            if limit.checked_sub(used).is_none_or(|left| bytes > left) {
                return Err(used);
            }
            match self.used.compare_exchange_weak(used, used + bytes, Relaxed, Relaxed) {
                Ok(_) => return Ok(used + bytes > self.watch.load(Relaxed)),
                Err(now) => used = now,
            }
        }
    }

    fn sub(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Relaxed);
    }

    /// Notes what is in use after a charge; whether that is near the limit.
    #[cold]
    fn note(&self) -> bool {
        let used = self.used.load(Relaxed);
        if used > self.peak.load(Relaxed) {
            self.peak.fetch_max(used, Relaxed);
            self.watch();
        }
        let near = self.is_near(used);
        if near {
            self.ring();
        }
        near
    }

    /// Peak or limit are others now.
    fn watch(&self) {
        let near = soft(self.limit.load(Relaxed)) - 1;
        self.watch.store(near.min(self.peak.load(Relaxed)), Relaxed);
    }

    fn is_near(&self, used: u64) -> bool {
        used >= soft(self.limit.load(Relaxed))
    }

    #[cold]
    fn ring(&self) {
        if let Some((bell, bit)) = &self.bell {
            bell.ring(*bit);
        }
    }

    /// `amount` of what is used will not come back.
    fn keep(&self, amount: u64) {
        self.spent.fetch_add(amount, Relaxed);
    }
}

/// Where an account comes near its limit: never at 0; and never at all without a limit.
const fn soft(limit: u64) -> u64 {
    if limit == u64::MAX {
        return u64::MAX;
    }
    let part = (limit as u128 * SOFT_PERCENT as u128).div_ceil(100) as u64;
    if part == 0 { 1 } else { part }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // What was spent of a gift is spent for the donor, too; the rest of it goes back.
        if let Some(gift) = &mut self.gift {
            let spent = self.spent.load(Relaxed).min(gift.bytes);
            gift.account.chain().for_each(|inner| inner.keep(spent));
            gift.bytes -= spent;
        }
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Account({} used, {} at most, limit {})", self.used(), self.peak(), self.limit())
    }
}

/// Bytes that are charged to an account for as long as this lives.
#[must_use = "a charge that is dropped is refunded at once"]
pub struct Charge {
    account: Account,
    bytes: u64,
}

impl Charge {
    /// How many bytes are charged.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The account that is charged.
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// Charges `more` bytes on top.
    pub fn grow(&mut self, more: u64) -> Result<(), Refused> {
        self.account.add(more)?;
        self.bytes += more;
        Ok(())
    }

    /// Refunds `less` bytes; all of them when there are fewer.
    #[inline]
    pub fn shrink(&mut self, less: u64) {
        let less = less.min(self.bytes);
        if less > 0 {
            self.account.sub(less);
            self.bytes -= less;
        }
    }

    /// Changes the charge to `bytes`.
    pub fn resize(&mut self, bytes: u64) -> Result<(), Refused> {
        match bytes.checked_sub(self.bytes) {
            Some(more) => self.grow(more),
            None => {
                self.shrink(self.bytes - bytes);
                Ok(())
            }
        }
    }

    /// Makes one charge of two. A charge to another account comes back unchanged.
    pub fn merge(&mut self, mut other: Self) -> Result<(), Self> {
        if !self.account.is(&other.account) {
            return Err(other);
        }
        self.bytes += core::mem::take(&mut other.bytes);
        Ok(())
    }
}

impl Drop for Charge {
    #[inline]
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.account.sub(self.bytes);
        }
    }
}

impl fmt::Debug for Charge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Charge({})", self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    #[test]
    fn what_is_refused_for_want_above_is_told_apart() {
        let root = Account::root(100);
        let (greedy, modest) = (root.child(None), root.child(Some(60)));
        let _all = greedy.charge(70).unwrap();
        assert!(modest.charge(61).is_err(), "its own bound");
        assert_eq!((modest.take_lacked(), modest.own_left(), modest.left()), (0, 60, 30));
        for _ in 0..3 {
            assert!(modest.charge(40).is_err() && modest.spend(31).is_err());
        }
        assert_eq!((modest.take_lacked(), modest.take_lacked(), root.take_lacked()), (6, 0, 0));
        assert_eq!((modest.used(), root.used()), (0, 70));
        // Who has half of all used it up himself.
        assert!(greedy.charge(40).is_err());
        assert_eq!(greedy.take_lacked(), 0);
        let (_mine, few) = (modest.charge(30).unwrap(), root.child(None));
        assert!(modest.charge(1).is_err() && few.charge(1).is_err());
        assert_eq!((modest.take_lacked(), few.take_lacked()), (1, 1));
    }

    #[test]
    fn the_last_byte_fits_and_the_next_is_refused() {
        let account = Account::root(100);
        let mut a = account.charge(99).unwrap();
        a.grow(1).unwrap();
        assert_eq!(account.charge(1).unwrap_err(), Refused { wanted: 1, left: 0 });
        assert_eq!(account.charge(u64::MAX).unwrap_err(), Refused { wanted: u64::MAX, left: 0 });
        assert!(account.charge(0).is_ok());
        a.shrink(40);
        assert_eq!((account.used(), account.peak(), account.take_lacked()), (60, 100, 0));
        drop(a);
        assert_eq!((account.used(), account.left()), (0, 100));
    }

    #[test]
    fn a_childs_use_is_its_parents_use() {
        let root = Account::root(100);
        let (a, b) = (root.child(Some(80)), root.child(None));
        let held = a.charge(70).unwrap();
        assert_eq!(b.charge(31).unwrap_err(), Refused { wanted: 31, left: 30 });
        assert_eq!((b.used(), root.used(), b.left()), (0, 70, 30));
        let other = b.charge(30).unwrap();
        drop(held);
        assert_eq!(root.used(), 30);
        // The account outlives its name as long as a charge stands.
        drop(b);
        drop(other);
        assert_eq!(root.used(), 0);
    }

    #[test]
    fn a_gift_is_the_donors_until_all_of_it_is_back() {
        let root = Account::root(100);
        let parent = root.child(Some(80));
        let child = parent.donate(50).unwrap();
        assert_eq!((parent.used(), root.used(), child.left()), (50, 50, 50));
        assert_eq!(parent.donate(31).unwrap_err(), Refused { wanted: 31, left: 30 });
        let held = child.charge(20).unwrap();
        // The child's use is its own.
        assert_eq!(parent.used(), 50);
        assert!(child.charge(31).is_err());
        drop(child);
        assert_eq!(parent.used(), 50, "a charge to it stands");
        drop(held);
        assert_eq!((parent.used(), root.used()), (0, 0));
    }

    #[test]
    fn what_is_spent_stays_spent() {
        let root = Account::root(100);
        let child = root.child(Some(60));
        child.spend(10).unwrap();
        let grand = child.donate(40).unwrap();
        grand.spend(15).unwrap();
        assert_eq!(grand.spend(26).unwrap_err(), Refused { wanted: 26, left: 25 });
        assert_eq!((child.used(), root.used()), (50, 50));
        drop(grand);
        assert_eq!((child.used(), root.used()), (25, 25));
        assert!(child.spend(36).is_err());
        drop(child);
        assert_eq!(root.used(), 25);
    }

    #[test]
    fn whoever_takes_hears_and_whose_it_is() {
        let (taker, owner) = (Bell::default(), Bell::default());
        let root = Account::root(1000);
        let above = root.child(Some(100)).with_bell(&owner, 3);
        let below = above.child(None).with_bell(&taker, 5);
        let brother = above.child(None);
        let held = brother.charge(74).unwrap();
        assert!(!owner.is_rung() && !taker.is_rung());
        // A refused charge rings nothing.
        assert!(below.charge(27).is_err() && !owner.is_rung() && !taker.is_rung());
        let last = below.charge(1).unwrap();
        assert_eq!((owner.take(), taker.take(), owner.take()), (1 << 3, 1 << 5, 0));
        assert!(!below.is_relieved());
        drop(held);
        assert!(below.is_relieved());
        let again = above.charge(37).unwrap();
        assert!(!owner.is_rung() && !above.is_relieved());
        above.set_limit(40);
        drop(last);
        assert!(!owner.is_rung(), "nothing was taken");
        drop((above.charge(1).unwrap(), again));
        assert_eq!(owner.take(), 1 << 3);
        // Of one the first is near the limit, of nothing is nothing, and without a limit there is none.
        for (limit, rung) in [(1, true), (0, false), (u64::MAX, false)] {
            let account = Account::root(limit).with_bell(&owner, 0);
            drop(account.charge(limit.min(1)).unwrap());
            assert_eq!(owner.take() == 1, rung, "{limit}");
        }
    }

    #[test]
    fn a_limit_below_use_refuses_until_enough_came_back() {
        let account = Account::root(100);
        let mut charge = account.charge(80).unwrap();
        account.set_limit(50);
        assert!(charge.grow(1).is_err());
        charge.resize(49).unwrap();
        charge.grow(1).unwrap();
        assert!(charge.resize(51).is_err());
        assert_eq!(charge.bytes(), 50);
    }

    #[test]
    fn only_charges_to_one_account_merge() {
        let (x, y) = (Account::root(10), Account::root(10));
        let mut a = x.charge(1).unwrap();
        a.merge(x.charge(2).unwrap()).unwrap();
        let back = a.merge(y.charge(3).unwrap()).unwrap_err();
        assert_eq!((a.bytes(), back.bytes(), x.used(), y.used()), (3, 3, 3, 3));
    }

    #[test]
    fn threads_never_pass_the_limit() {
        let root = Account::root(1000);
        std::thread::scope(|scope| {
            for n in 0..4u64 {
                let account = root.child(Some(700));
                let root = &root;
                scope.spawn(move || {
                    for i in 0..20_000u64 {
                        let charge = account.charge((i * 7 + n) % 500);
                        assert!(root.used() <= 1000);
                        assert!(account.used() <= 700);
                        drop(charge);
                    }
                });
            }
        });
        assert_eq!(root.used(), 0);
        assert!(root.peak() <= 1000);
    }

    proptest! {
        #[test]
        fn the_books_balance(ops in proptest::collection::vec((0usize..4, 0u8..4, 0u64..60), 1..300)) {
            let root = Account::root(150);
            let mid = root.child(Some(100));
            let accounts = [root.clone(), mid.clone(), mid.child(Some(50)), mid.child(None)];
            let mut held: Vec<(usize, Charge)> = Vec::new();
            for (at, op, n) in ops {
                match op {
                    0 => if let Ok(c) = accounts[at].charge(n) { held.push((at, c)) },
                    1 if !held.is_empty() => drop(held.swap_remove(n as usize % held.len())),
                    2 => if let Some((_, c)) = held.last_mut() { let _ = c.grow(n); },
                    _ => if let Some((_, c)) = held.last_mut() { c.shrink(n) },
                }
                let sum = |which: &[usize]| -> u64 {
                    held.iter().filter(|(a, _)| which.contains(a)).map(|(_, c)| c.bytes()).sum()
                };
                prop_assert_eq!(accounts[2].used(), sum(&[2]));
                prop_assert_eq!(accounts[3].used(), sum(&[3]));
                prop_assert_eq!(mid.used(), sum(&[1, 2, 3]));
                prop_assert_eq!(root.used(), sum(&[0, 1, 2, 3]));
                for account in &accounts {
                    prop_assert!(account.used() <= account.limit());
                }
            }
            drop(held);
            prop_assert_eq!(root.used(), 0);
        }
    }
}
