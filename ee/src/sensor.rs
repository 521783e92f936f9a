//! What guests with the privilege `sensors` may read: a snapshot that the node renews once a second
//! (`node::sense`), so that reading a sensor touches no device.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use nodeos::link::{Link, LinkId};
use nodeos::net::Net;
use nodeos::platform::Reading;

/// Readings in a snapshot; further ones are left out.
pub const MAX_SENSORS: usize = 128;
/// The longest name, in bytes: graphic ASCII.
pub const MAX_NAME: usize = 64;

/// The newest snapshot, shared by the node and its teams.
#[derive(Debug)]
pub struct Sensed(Mutex<Arc<[Reading]>>);

impl Default for Sensed {
    fn default() -> Self {
        Self(Mutex::new(Arc::new([])))
    }
}

impl Sensed {
    /// Puts new readings in the place of the old ones. Of two with one name the first counts.
    pub fn set(&self, readings: impl IntoIterator<Item = Reading>) {
        let mut list: Vec<Reading> = Vec::new();
        for reading in readings {
            if list.len() < MAX_SENSORS
                && is_name(&reading.name)
                && list.iter().all(|r| r.name != reading.name)
            {
                list.push(reading);
            }
        }
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = list.into();
    }

    /// The newest readings.
    pub fn get(&self) -> Arc<[Reading]> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// How many frames wait for each link: for guests with the privilege `queues`, put down before each of their events.
#[derive(Debug, Default)]
pub struct Waiting(Box<[AtomicU32]>);

impl Waiting {
    /// For so many links.
    pub fn new(links: usize) -> Self {
        Self((0..links).map(|_| AtomicU32::new(0)).collect())
    }

    /// Looks at all links.
    pub fn look(&self, net: &Net) {
        for (at, waiting) in (0u16..).zip(&self.0) {
            let frames = net.link(LinkId(at)).map_or(0, Link::waiting);
            waiting.store(u32::try_from(frames).unwrap_or(u32::MAX), Relaxed);
        }
    }

    /// Frames that waited for a link.
    pub fn on(&self, link: LinkId) -> u32 {
        self.0.get(usize::from(link.0)).map_or(0, |waiting| waiting.load(Relaxed))
    }
}

/// Whether a sensor may have this name.
pub fn is_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(name: &str, value: i64) -> Reading {
        Reading { name: name.into(), value }
    }

    #[test]
    fn a_snapshot_is_bounded_and_has_each_name_once() {
        let sensed = Sensed::default();
        assert!(sensed.get().is_empty());
        let odd = ["", "a b", "ä", &"x".repeat(MAX_NAME + 1)].map(|n| reading(n, 1));
        let many = (0..1000).map(|n| reading(&format!("s{}", n % 500), n));
        sensed.set(odd.into_iter().chain(many));
        let seen = sensed.get();
        assert_eq!(
            (seen.len(), &seen[0], &seen[127]),
            (MAX_SENSORS, &reading("s0", 0), &reading("s127", 127))
        );
    }
}
