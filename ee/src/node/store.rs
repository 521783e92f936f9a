//! The blob store of a node: read at start, written by jobs, shown to its operator; and the identity in it.

use std::sync::PoisonError;

use authagent::keys::SigningKey;
use nodeos::account::Account;
use nodeos::platform::Now;
use nodeos::slab::Handle;
use nodeos::store::{self, DiskError, Opened, Store, StoreError};
use wire::control::{Answer, AreaInfo, BlobInfo, Erred, Request};
use wire::id::TupleHash;

use super::manage::{entropy_of, failed, page};
use super::{Node, label};
use crate::blob::{Blobs, Device, StoreConfig};
use crate::cap::BLOBS;
use crate::counters::Count;
use crate::flow::Stage;
use crate::job::Work;

/// The name of the node's secret seed in its own area.
const IDENTITY: &[u8] = b"identity";

/// What the node itself needs of its store.
pub(super) struct Storage {
    /// Pays for the node's own area.
    account: Account,
    device: Option<Device>,
}

impl Storage {
    pub(super) fn new(memory: &Account, config: &StoreConfig) -> Self {
        Self { account: memory.child(Some(config.memory.0)), device: None }
    }
}

impl Node {
    /// Reads the device, if there is one. Whatever is on it, the node starts.
    pub(super) fn open_store(&mut self, now: Now, config: &StoreConfig) -> Blobs {
        let mut store = Store::new(self.storage.account.clone(), config.bounds());
        if let Some(disk) = self.platform.disk.clone() {
            let opened = store.open(&mut *disk.lock().unwrap_or_else(PoisonError::into_inner));
            let line = match opened {
                Ok((writer, opened)) => {
                    self.storage.device = Some(Device::new(disk, writer));
                    self.told(&opened)
                }
                Err(why) => {
                    self.counters.add(Count::StoreErrors);
                    format!("store: the disk is not used: {why}")
                }
            };
            self.log.line(now.mono, line);
        }
        Blobs::new(store)
    }

    /// What reading the device gave, counted and in words.
    fn told(&mut self, opened: &Opened) -> String {
        let Opened { areas, blobs, dropped, damage } = *opened;
        (0..damage.records).for_each(|_| self.counters.add(Count::StoreDamaged));
        (0..dropped).for_each(|_| self.counters.add(Count::StoreDropped));
        let mut text = format!("store: the disk has {blobs} blobs in {areas} areas");
        if damage.torn {
            text += ", the last change was cut off";
        }
        if damage.records > 0 {
            text += &format!(", {} changes are damaged: their blobs are missing", damage.records);
        }
        if damage.unknown > 0 {
            text += &format!(" (of {} of them older content may be back)", damage.unknown);
        }
        if dropped > 0 {
            text += &format!(", {dropped} had no room");
        }
        text
    }

    /// The identity in the store; or a new one, kept there, where there is healthy entropy.
    pub(super) fn stored_identity(&mut self, now: Now, blobs: &Blobs, healthy: bool) -> Option<SigningKey> {
        let mut store = blobs.store();
        let seed = store.get(&store::NODE, IDENTITY).map(|seed| <[u8; 32]>::try_from(&**seed));
        if let Some(Ok(seed)) = seed {
            let key = SigningKey::from_seed(&seed);
            self.log.line(now.mono, format!("identity {} is the store's", key.public()));
            return Some(key);
        }
        if !healthy {
            return None;
        }
        let key = SigningKey::generate(&entropy_of(&self.platform.entropy)).ok()?;
        let kept = match store.has_device() {
            true => match store.put(&store::NODE, &self.storage.account, IDENTITY, &*key.to_seed()) {
                Ok(()) => "is new, and kept in the store".to_string(),
                Err(why) => format!("is new, and not kept: {why}"),
            },
            false => "is new, and not kept: there is no disk".to_string(),
        };
        self.log.line(now.mono, format!("identity {} {kept}", key.public()));
        Some(key)
    }

    /// Has written what waits, one job at a time.
    pub(super) fn store_due(&mut self, now: Now) {
        // Without a device nothing is ever unclaimed, so that nothing makes room either.
        if self.storage.device.is_none() {
            return;
        }
        let (batch, dropped) = {
            let mut store = self.shared.blobs.store();
            (store.batch(), store.take_dropped())
        };
        if let (Some(batch), Some(device)) = (batch, self.storage.device.clone()) {
            self.add_job(Work::Store { device, batch });
        }
        (0..dropped).for_each(|_| self.counters.add(Count::StoreDropped));
        if dropped > 0 {
            self.log_limited(now, || format!("store: {dropped} areas that no flow uses made room"));
        }
    }

    /// A job wrote, or did not.
    pub(super) fn stored(&mut self, now: Now, result: &Result<(), DiskError>) {
        let goes_on = self.shared.blobs.store().written(result);
        if let Err(error) = result {
            self.counters.add(Count::StoreErrors);
            self.log_limited(now, || format!("store: {error}"));
        }
        if !goes_on {
            self.storage.device = None;
            self.log.line(now.mono, "store: the disk failed too often; blobs are in memory only from now on");
        }
    }

    /// A flow that may use blobs starts: what it left here before the node was started is its team's again.
    pub(super) fn claim_area(&mut self, now: Now, handle: Handle) {
        let Some(flow) = self.flows.get(handle) else { return };
        let Some((team, grant)) = &flow.team else { return };
        let Some(member) = self.teams.get(*team) else { return };
        if !grant.privileges.iter().any(|p| p == BLOBS) {
            return;
        }
        let claimed = self.shared.blobs.store().claim(&flow.hash.0, member.account());
        if claimed.is_err() {
            let name = label(flow);
            self.log_limited(now, || format!("flow {name} has no memory for the blobs it left here"));
        }
    }

    /// A flow that ran has ended: its area goes with it.
    pub(super) fn forget_area(&mut self, flow: &TupleHash) {
        self.shared.blobs.store().remove_area(&flow.0);
    }

    /// What `bees blob show` prints.
    pub(super) fn blob_show(&self, from: u32) -> Answer {
        let store = self.shared.blobs.store();
        let info = |area: store::AreaInfo| {
            let owner = TupleHash(area.owner);
            let running = self.flows.by_hash(&owner).and_then(|h| self.flows.get(h));
            let running = running.filter(|flow| matches!(flow.stage, Stage::Running { .. }));
            let blob = |(name, len): (Box<[u8]>, usize)| BlobInfo { name: name.into(), len: len as u32 };
            AreaInfo {
                owner,
                flow: running.map(|flow| flow.name().to_string()),
                blobs: area.blobs.into_iter().map(blob).collect(),
                charged: area.charged,
                claimed: area.claimed,
                damaged: area.damaged,
            }
        };
        Answer::Blobs { areas: page(store.areas(), from, info), device: store.device_use() }
    }

    /// Removes an area or one of its blobs for an operator.
    pub(super) fn blob_remove(
        &mut self,
        now: Now,
        principal: &str,
        area: TupleHash,
        name: Option<&[u8]>,
    ) -> Answer {
        let removed = {
            let mut store = self.shared.blobs.store();
            match name {
                Some(name) => store.remove(&area.0, name),
                None if store.remove_area(&area.0) => Ok(()),
                None => Err(StoreError::Missing),
            }
        };
        match removed {
            Ok(()) => {
                self.audit(now, || format!("blobs of {area:.8} removed by {principal}"));
                Answer::Done
            }
            Err(StoreError::Missing) => failed(Erred::Operator, "there is no such blob, or no such area"),
            Err(why) => failed(Erred::Node, why),
        }
    }

    /// Whether a request is about the node's own area.
    pub(super) fn is_own_area(request: &Request) -> bool {
        matches!(request, Request::BlobRemove { area, .. } if area.0 == store::NODE)
    }
}
