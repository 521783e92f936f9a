//! What the agent remembers of revocations, and those whose signature is being checked. Both are bounded,
//! whatever neighbors say.

use alloc::borrow::ToOwned;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::String;
use alloc::vec::Vec;

use wire::id::TupleHash;
use wire::revoke::Revocation;

use crate::agent::{AgentAction, AgentTime, Reason};
use crate::keys::PublicKey;

/// Revocations remembered.
pub(super) const MAX_REVOKED: usize = 256;
/// Revocations of one principal remembered.
pub(super) const MAX_OF_ONE: usize = 32;
/// Checks at a time.
pub(super) const MAX_CHECKS: usize = 16;
/// Checks that one neighbor can cause in a second.
pub(super) const CHECKS_PER_SECOND: u32 = 8;
/// A check that took longer was left out by the node.
const CHECK_US: u64 = 60_000_000;
const SECOND_US: u64 = 1_000_000;

/// Revocations that were believed.
#[derive(Debug, Default)]
pub(super) struct Revoked {
    list: VecDeque<Revocation>,
}

impl Revoked {
    /// Refuses a flow of this principal that is revoked now.
    pub fn check(&self, now: AgentTime, flow: &TupleHash, principal: Option<&str>) -> Result<(), Reason> {
        let holds = |r: &&Revocation| {
            let may = r.by.is_none() || r.by.as_deref() == principal;
            r.flow == *flow && may && current(r, now)
        };
        match self.list.iter().find(holds) {
            Some(r) => Err(Reason::Revoked { by: r.by.clone() }),
            None => Ok(()),
        }
    }

    /// Whether this was believed before, for as long.
    pub fn knows(&self, new: &Revocation) -> bool {
        self.list.iter().any(|r| (r.flow, &r.by) == (new.flow, &new.by) && r.until >= new.until)
    }

    /// Remembers one that is believed; `false` if it was known. What lapses first makes room: among the
    /// same principal's if it has its share, else among all.
    pub fn remember(&mut self, now: AgentTime, new: Revocation) -> bool {
        if self.knows(&new) {
            return false;
        }
        self.list.retain(|r| current(r, now) && (r.flow, &r.by) != (new.flow, &new.by));
        let same = self.list.iter().filter(|r| r.by == new.by).count();
        if new.by.is_some() && same >= MAX_OF_ONE {
            self.forget(|r| r.by == new.by);
        } else if self.list.len() >= MAX_REVOKED {
            self.forget(|_| true);
        }
        self.list.push_back(new);
        true
    }

    /// The encodings of those that hold, the newest first.
    pub fn latest(&self, now: AgentTime, most: usize) -> impl Iterator<Item = Vec<u8>> + '_ {
        self.list.iter().rev().filter(move |r| current(r, now)).take(most).map(Revocation::encode)
    }

    fn forget(&mut self, among: impl Fn(&Revocation) -> bool) {
        let candidates = self.list.iter().enumerate().filter(|(_, r)| among(r));
        if let Some((at, _)) = candidates.min_by_key(|(_, r)| r.until) {
            self.list.remove(at);
        }
    }
}

fn current(r: &Revocation, now: AgentTime) -> bool {
    now.wall.is_none_or(|wall| wall <= r.until)
}

/// Revocations whose signature is being checked.
#[derive(Debug, Default)]
pub(super) struct Checks {
    next: u32,
    list: BTreeMap<u32, Pending>,
    /// When each neighbor's present second began, and how many it had in it.
    had: BTreeMap<String, (u64, u32)>,
}

#[derive(Debug)]
struct Pending {
    since_us: u64,
    key: PublicKey,
    from: Option<String>,
    revocation: Revocation,
}

impl Checks {
    /// Whether another check may begin. Clients are not limited: they were asked for their rights.
    pub fn allows(&mut self, now: AgentTime, from: Option<&str>) -> bool {
        self.list.retain(|_, p| now.mono_us.saturating_sub(p.since_us) < CHECK_US);
        let Some(from) = from else { return true };
        let (since, count) = self.had.entry(from.to_owned()).or_default();
        if now.mono_us.saturating_sub(*since) >= SECOND_US {
            (*since, *count) = (now.mono_us, 0);
        }
        *count += 1;
        *count <= CHECKS_PER_SECOND && self.list.len() < MAX_CHECKS
    }

    /// Begins a check.
    pub fn start(
        &mut self,
        now: AgentTime,
        key: PublicKey,
        from: Option<&str>,
        revocation: Revocation,
    ) -> Option<AgentAction> {
        let in_progress = |p: &Pending| p.revocation == revocation && p.key == key;
        if self.list.values().any(in_progress) {
            return None;
        }
        let check = self.next;
        self.next = check.wrapping_add(1);
        let action = AgentAction::Check {
            check,
            key: key.clone(),
            scheme: revocation.scheme,
            message: revocation.signed(),
            signature: revocation.signature.clone(),
        };
        let from = from.map(ToOwned::to_owned);
        self.list.insert(check, Pending { since_us: now.mono_us, key, from, revocation });
        Some(action)
    }

    /// A check ended.
    pub fn end(&mut self, check: u32) -> Option<(PublicKey, Option<String>, Revocation)> {
        self.list.remove(&check).map(|p| (p.key, p.from, p.revocation))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString as _;
    use alloc::vec;
    use wire::tuple::Scheme;

    fn revocation(flow: u16, until: u64, by: Option<&str>) -> Revocation {
        let mut hash = [0; 32];
        hash[..2].copy_from_slice(&flow.to_be_bytes());
        let by = by.map(|b| b.to_string());
        Revocation { flow: TupleHash(hash), until, by, scheme: Scheme::Ed25519, signature: vec![] }
    }

    const NOW: AgentTime = AgentTime { mono_us: 0, wall: Some(100) };

    #[test]
    fn memory_is_bounded_and_nobody_takes_it_all() {
        let mut revoked = Revoked::default();
        assert!(revoked.remember(NOW, revocation(0, 500, None)));
        for flow in 0..1000 {
            revoked.remember(NOW, revocation(flow, 1000 + u64::from(flow), Some("eve")));
        }
        assert_eq!(revoked.list.len(), 1 + MAX_OF_ONE);
        assert!(revoked.check(NOW, &revocation(0, 0, None).flow, Some("joe")).is_err());
        assert!(revoked.check(NOW, &revocation(999, 0, None).flow, Some("eve")).is_err());
        assert!(
            revoked.check(NOW, &revocation(999, 0, None).flow, Some("joe")).is_ok(),
            "not eve's to revoke"
        );
        assert!(revoked.check(NOW, &revocation(0, 0, None).flow, None).is_err());
        for flow in 0..1000 {
            revoked.remember(NOW, revocation(flow, 2000 + u64::from(flow), None));
        }
        assert_eq!(revoked.list.len(), MAX_REVOKED);
        assert!(revoked.check(NOW, &revocation(999, 0, None).flow, None).is_err());
    }

    #[test]
    fn a_revocation_lapses() {
        let mut revoked = Revoked::default();
        let r = revocation(1, 150, None);
        assert!(revoked.remember(NOW, r.clone()));
        assert!(!revoked.remember(NOW, r.clone()), "known");
        assert!(revoked.knows(&revocation(1, 140, None)) && !revoked.knows(&revocation(1, 151, None)));
        let later = AgentTime { wall: Some(151), ..NOW };
        assert!(revoked.check(later, &r.flow, None).is_ok());
        assert_eq!(revoked.latest(NOW, 9).count(), 1);
        assert_eq!(revoked.latest(later, 9).count(), 0);
        let lost = AgentTime { wall: None, ..NOW };
        assert!(revoked.check(lost, &r.flow, None).is_err(), "without a clock it holds");
    }
}
