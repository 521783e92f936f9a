//! Who may use a node's control protocol, and for what.
//!
//! The [`Operators`] of a node come from its Auth Agent's policy. The channel asks them for a principal's
//! keys when it logs in ([`Operators::login_keys`]), the node for its rights with each request.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use serde::Deserialize;
use wire::tuple::{Scheme, Validity};

use crate::keys::PublicKey;

/// Something that the control protocol can be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Right {
    /// Look at the node, its flows, its log and its policy.
    See,
    /// Put parts and inject flows.
    Inject,
    /// End flows that the principal signed or injected; hand in revocations.
    Stop,
    /// End any flow.
    StopAny,
    /// Load another policy.
    Reconfigure,
}

/// A set of [`Right`]s.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rights(u8);

impl Rights {
    /// The administrator's.
    pub const ALL: Self = Self(0x1f);

    /// Whether `right` is among them.
    pub fn has(self, right: Right) -> bool {
        self.0 & (1 << right as u8) != 0
    }
}

impl FromIterator<Right> for Rights {
    fn from_iter<I: IntoIterator<Item = Right>>(rights: I) -> Self {
        Self(rights.into_iter().fold(0, |set, right| set | 1 << right as u8))
    }
}

/// A principal that may use the control protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operator {
    /// Any of these may prove who it is.
    pub keys: Vec<PublicKey>,
    /// When it may do anything.
    pub validity: Validity,
    /// What it may do then.
    pub rights: Rights,
}

/// The principals that may use the control protocol, by name.
#[derive(Debug, Clone, Default)]
pub struct Operators {
    list: BTreeMap<String, Operator>,
}

/// The keys to try when somebody logs in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LoginKeys {
    /// Any of these is the principal's.
    pub good: Vec<PublicKey>,
    /// These are tried beside them and prove nothing: a login takes as many checks whoever it is.
    pub decoys: Vec<PublicKey>,
}

impl Operators {
    /// Adds a principal.
    pub fn insert(&mut self, name: String, operator: Operator) {
        self.list.insert(name, operator);
    }

    /// Whether nobody may.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The principal of this name.
    pub fn get(&self, name: &str) -> Option<&Operator> {
        self.list.get(name)
    }

    /// The keys under which a login as `name` is tried: as many for a name that is not known as for the one
    /// that has most, so that time tells nobody who is known.
    pub fn login_keys(&self, name: &str, scheme: Scheme) -> LoginKeys {
        let of = |o: &Operator| -> Vec<PublicKey> {
            o.keys.iter().filter(|k| k.scheme() == scheme).cloned().collect()
        };
        let good = self.list.get(name).map(of).unwrap_or_default();
        let most = self.list.values().map(|o| of(o).len()).max().unwrap_or(0);
        let others = self.list.values().flat_map(of);
        let decoys = others.take(most - good.len()).collect();
        LoginKeys { good, decoys }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::SigningKey;

    #[test]
    fn a_login_takes_as_many_checks_for_everybody() {
        let key = |n: u8| PublicKey::from(SigningKey::from_seed(&[n; 32]).public());
        let mut all = Operators::default();
        let operator = |keys| Operator { keys, validity: Validity::default(), rights: Rights::ALL };
        all.insert("joe".into(), operator([1, 2, 3].map(key).to_vec()));
        all.insert("eve".into(), operator([4].map(key).to_vec()));
        for (name, good) in [("joe", 3), ("eve", 1), ("mallory", 0)] {
            let keys = all.login_keys(name, Scheme::Ed25519);
            assert_eq!((keys.good.len(), keys.good.len() + keys.decoys.len()), (good, 3), "{name}");
            assert_eq!(all.login_keys(name, Scheme::RsaPssSha256), LoginKeys::default());
        }
        assert_eq!(Operators::default().login_keys("joe", Scheme::Ed25519), LoginKeys::default());
    }

    #[test]
    fn rights_are_apart() {
        let rights: Rights = [Right::See, Right::Stop].into_iter().collect();
        assert!(rights.has(Right::See) && rights.has(Right::Stop));
        assert!(!rights.has(Right::StopAny) && !rights.has(Right::Inject) && !rights.has(Right::Reconfigure));
        assert!(Rights::ALL.has(Right::Reconfigure) && !Rights::default().has(Right::See));
    }
}
