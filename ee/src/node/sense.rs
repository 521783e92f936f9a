//! What a node lends to all its teams: its key, its sensors, and the operator's envelopes. Which team
//! gets at what, capabilities say.

use std::sync::Arc;
use std::time::Duration;

use nodeos::platform::{Now, Reading};

use super::Node;
use crate::config::{ConfigError, NodeConfig};
use crate::sandbox::Shared;
use crate::sensor::Waiting;

/// How old readings become.
const FRESH: Duration = Duration::from_secs(1);

impl Node {
    /// Opens the store, finds the identity, or makes one where there is entropy, and puts the operator's
    /// envelopes on the table.
    pub(super) fn share(&mut self, now: Now, config: &NodeConfig, healthy: bool) -> Result<(), ConfigError> {
        let blobs = self.open_store(now, &config.store);
        let key = match config.identity()? {
            Some(key) => Some(key),
            None => self.stored_identity(now, &blobs, healthy),
        };
        let waiting = Arc::new(Waiting::new(config.links.len()));
        self.shared = Shared { key: key.map(Arc::new), blobs, waiting, ..Shared::default() };
        self.given = config.sensors.iter().map(|(name, &value)| reading(name.as_str(), value)).collect();
        for envelope in &config.envelopes {
            let sealed = envelope.sealed()?;
            let kept = self.shared.envelopes.keep(sealed.id, &envelope.privilege, sealed.key, sealed.flow);
            kept.map_err(|e| ConfigError(format!("envelope {}: {e}", envelope.id)))?;
        }
        Ok(())
    }

    /// Renews what guests may read of the machine, once a second.
    pub(super) fn sense(&mut self, now: Now) {
        if now.mono < self.sense_at {
            return;
        }
        self.sense_at = now.mono + FRESH;
        let whole = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let own = [
            ("uptime-microseconds", whole(now.mono.since(self.started).as_micros() as u64)),
            ("memory-used-bytes", whole(self.memory.used())),
            ("memory-limit-bytes", whole(self.memory.limit())),
            ("packet-buffers-lent", self.platform.buffers.lent() as i64),
        ];
        let links = self.net.link_infos().into_iter().flat_map(|link| {
            let count = |what, n| reading(format!("link/{}/{what}-frames", link.name), whole(n));
            [count("received", link.received.0), count("sent", link.sent.0)]
        });
        let readings = self.given.iter().cloned().chain(own.map(|(name, value)| reading(name, value)));
        self.shared.sensors.set(readings.chain(self.platform.sensors.readings()).chain(links));
    }
}

fn reading(name: impl Into<Box<str>>, value: i64) -> Reading {
    Reading { name: name.into(), value }
}
