//! One NIC as the core sees it: a bounded queue of outgoing frames, a rate, and counters.
//!
//! The platform owns the device. Everything that a node sends on a link, capsules and IP alike, goes
//! through [`Link::send`] and leaves by [`Link::transmit`]. Teams that compete share the link by weight; when it
//! has no room for a frame, whoever has most waiting loses one ([`crate::queue`]), which is counted. [`Link`] is also a [`smoltcp::phy::Device`], the device of the link's IP
//! interface: one received frame waits in it until the interface takes it.

use crate::bucket::TokenBucket;
use crate::buf::{Buf, BufPool};
use crate::platform::Instant;
use crate::queue::{Pushed, Queue};
use crate::sched::Shares;
use crate::team::TeamId;
use alloc::borrow::Cow;
use alloc::string::String;
use alloc::vec;
use core::fmt;
use core::str::FromStr;
use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize, Serializer};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::wire::ETHERNET_HEADER_LEN;

/// Names a link: its position in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u16);

impl LinkId {
    /// The position.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// An Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The address of all stations.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Whether this can be the address of one station.
    pub fn is_unicast(self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// The text is not six pairs of hexadecimal digits with colons between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MacError;

impl fmt::Display for MacError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected a MAC address such as \"02:00:00:00:01:00\"")
    }
}

impl core::error::Error for MacError {}

impl FromStr for Mac {
    type Err = MacError;
    fn from_str(text: &str) -> Result<Self, MacError> {
        let mut mac = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut mac {
            let part = parts.next().filter(|p| p.len() == 2 && !p.starts_with('+')).ok_or(MacError)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| MacError)?;
        }
        if parts.next().is_some() { Err(MacError) } else { Ok(Self(mac)) }
    }
}

impl Serialize for Mac {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Mac {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<str>::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// What passed a link.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames received.
    pub rx_frames: u64,
    /// Bytes received, without checksum and preamble.
    pub rx_bytes: u64,
    /// Frames sent.
    pub tx_frames: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Frames dropped on the way out: there was no room, their team was killed, or they were longer than a buffer.
    pub tx_dropped: u64,
    /// Frames for the IP interface dropped because no packet buffer was left.
    pub no_buffer: u64,
}

/// A frame was dropped: the link's queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueFull;

impl fmt::Display for QueueFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the link's queue is full")
    }
}

impl core::error::Error for QueueFull {}

/// One NIC.
#[derive(Debug)]
pub struct Link {
    /// What passed.
    pub counters: Counters,
    name: String,
    mac: Mac,
    mtu: u16,
    bucket: Option<TokenBucket>,
    queue: Queue,
    pool: BufPool,
    /// The frame that waits for the IP interface.
    received: Option<Buf>,
}

impl Link {
    /// A link with room for `queue` frames. `mtu` bounds a frame's payload; `rate` is in bytes per second
    /// of whole frames.
    pub fn new(name: &str, mac: Mac, mtu: u16, rate: Option<u64>, queue: u16, pool: BufPool) -> Self {
        // Two frames, or what the rate makes in 10 ms: a platform that looks that often loses no rate.
        let burst = |rate: u64| (rate / 100).max(2 * (u64::from(mtu) + ETHERNET_HEADER_LEN as u64));
        Self {
            counters: Counters::default(),
            name: name.into(),
            mac,
            mtu,
            bucket: rate.map(|rate| TokenBucket::new(rate, burst(rate))),
            queue: Queue::new(usize::from(queue.max(1))),
            pool,
            received: None,
        }
    }

    /// Queues a team's frame; the node's own are [`TeamId::ROOT`]'s. Without room for it one is dropped, this or
    /// another.
    #[inline]
    pub fn send(&mut self, team: TeamId, frame: Buf) -> Result<(), QueueFull> {
        let pushed = self.queue.push(team, frame);
        if pushed != Pushed::Kept {
            self.counters.tx_dropped += 1;
        }
        if pushed == Pushed::Lost { Err(QueueFull) } else { Ok(()) }
    }

    /// Admits a team, below `parent` or, without one, below the root.
    pub fn add_team(&mut self, team: TeamId, parent: Option<TeamId>, shares: Shares) {
        self.queue.add(team, parent, shares);
    }

    /// Gives a team other shares.
    pub fn set_shares(&mut self, team: TeamId, shares: Shares) {
        self.queue.set_shares(team, shares);
    }

    /// A team has ended, after those below it: its frames are `heir`'s, or without one dropped.
    pub fn remove_team(&mut self, team: TeamId, heir: Option<TeamId>) {
        self.counters.tx_dropped += self.queue.remove(team, heir) as u64;
    }

    /// Frames of a team that were dropped for want of room.
    pub fn dropped_of(&self, team: TeamId) -> u64 {
        self.queue.lost(team).unwrap_or(0)
    }

    /// The next frame to send, if there is one and the rate permits it now.
    #[inline]
    pub fn transmit(&mut self, now: Instant) -> Option<Buf> {
        let bytes = self.queue.front()?.len();
        if self.bucket.as_mut().is_some_and(|bucket| !bucket.take(now, bytes)) {
            return None;
        }
        self.counters.tx_frames += 1;
        self.counters.tx_bytes += bytes as u64;
        self.queue.pop()
    }

    /// When the rate lets the next frame go. `None`: nothing waits, or it can go at once.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        let bytes = self.queue.front()?.len();
        self.bucket.as_ref()?.when(now, bytes).filter(|&at| at > now)
    }

    /// Counts a frame that arrived.
    pub(crate) fn count_received(&mut self, bytes: usize) {
        self.counters.rx_frames += 1;
        self.counters.rx_bytes += bytes as u64;
    }

    /// Puts a frame where the IP interface finds it.
    pub(crate) fn put_received(&mut self, frame: Buf) {
        self.received = Some(frame);
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its own address.
    pub fn mac(&self) -> Mac {
        self.mac
    }

    /// The longest frame payload, in bytes.
    pub fn mtu(&self) -> u16 {
        self.mtu
    }

    /// Bytes per second, if bounded.
    pub fn rate(&self) -> Option<u64> {
        self.bucket.as_ref().map(TokenBucket::rate)
    }

    /// How many frames wait to be sent.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Where its buffers come from.
    pub fn pool(&self) -> &BufPool {
        &self.pool
    }
}

impl Device for Link {
    type RxToken<'a> = Arrived;
    type TxToken<'a> = Departing<'a>;

    fn receive(&mut self, _now: smoltcp::time::Instant) -> Option<(Arrived, Departing<'_>)> {
        let frame = self.received.take()?;
        let Some(buf) = self.pool.take() else {
            self.counters.no_buffer += 1;
            return None;
        };
        Some((Arrived(frame), Departing { link: self, buf }))
    }

    fn transmit(&mut self, _now: smoltcp::time::Instant) -> Option<Departing<'_>> {
        if !self.queue.takes(TeamId::ROOT) {
            return None;
        }
        let buf = self.pool.take()?;
        Some(Departing { link: self, buf })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = usize::from(self.mtu) + ETHERNET_HEADER_LEN;
        capabilities
    }
}

/// A frame on its way to the IP interface.
pub struct Arrived(Buf);

impl RxToken for Arrived {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

/// A frame that the IP interface is about to write.
pub struct Departing<'a> {
    link: &'a mut Link,
    buf: Buf,
}

impl TxToken for Departing<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(mut self, len: usize, f: F) -> R {
        if self.buf.set_len(len).is_err() {
            // Longer than any MTU that the configuration admits: let the interface write, and drop it.
            self.link.counters.tx_dropped += 1;
            return f(&mut vec![0; len]);
        }
        // The interface need not write every byte; what an earlier packet left must not leak.
        self.buf.fill(0);
        let result = f(&mut self.buf);
        // A full queue has counted the drop.
        let _ = self.link.send(TeamId::ROOT, self.buf);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);

    fn link(rate: Option<u64>, queue: u16, buffers: usize) -> Link {
        Link::new("ab", MAC, 1500, rate, queue, BufPool::new(buffers))
    }

    #[test]
    fn mac_addresses_are_text_and_back() {
        assert_eq!("02:00:00:00:00:01".parse(), Ok(MAC));
        assert_eq!(std::format!("{MAC}").parse(), Ok(MAC));
        for wrong in
            ["", "02", "02:00:00:00:00", "02:00:00:00:00:01:02", "0g:00:00:00:00:01", "+2:00:00:00:00:01"]
        {
            assert_eq!(wrong.parse::<Mac>(), Err(MacError), "{wrong}");
        }
    }

    #[test]
    fn the_tail_is_dropped_and_counted() {
        let mut link = link(None, 2, 4);
        let pool = link.pool().clone();
        for n in 0..3u8 {
            let sent = link.send(TeamId::ROOT, pool.copy_of(&[n; 60]).unwrap());
            assert_eq!(sent.is_err(), n == 2);
        }
        assert_eq!(pool.lent(), 2, "the dropped frame's buffer came back");
        assert_eq!(link.transmit(Instant(0)).unwrap()[0], 0);
        assert_eq!(link.transmit(Instant(0)).unwrap()[0], 1);
        assert!(link.transmit(Instant(0)).is_none());
        let c = link.counters;
        assert_eq!((c.tx_frames, c.tx_bytes, c.tx_dropped), (2, 120, 1));
        assert_eq!(link.dropped_of(TeamId::ROOT), 1);
    }

    #[test]
    fn the_rate_holds_and_the_deadline_is_exact() {
        let mut link = link(Some(125_000), 200, 200);
        let pool = link.pool().clone();
        for _ in 0..200 {
            link.send(TeamId::ROOT, pool.copy_of(&[0; 1000]).unwrap()).unwrap();
        }
        let (mut now, mut times) = (Instant(0), Vec::new());
        while link.waiting() > 0 {
            while link.transmit(now).is_some() {
                times.push(now);
            }
            if let Some(at) = link.deadline(now) {
                assert!(link.transmit(Instant(at.0 - 1)).is_none());
                now = at;
            }
        }
        // 200 kB at 125 kB/s take 1.6 s less the burst of 3028 bytes.
        assert_eq!(times.len(), 200);
        assert_eq!(now, Instant((200_000 - 3028) * 8));
        assert_eq!(link.deadline(now), None);
    }

    #[test]
    fn exhausted_buffers_stop_the_ip_side_without_a_panic() {
        let mut link = link(None, 4, 1);
        let frame = link.pool().copy_of(&[1; 60]).unwrap();
        link.put_received(frame);
        let t = smoltcp::time::Instant::ZERO;
        assert!(Device::receive(&mut link, t).is_none());
        assert_eq!(link.counters.no_buffer, 1);
        let held = link.pool().take().unwrap();
        assert!(Device::transmit(&mut link, t).is_none());
        drop(held);
        let token = Device::transmit(&mut link, t).unwrap();
        token.consume(100_000, |bytes| assert_eq!(bytes.len(), 100_000));
        assert_eq!(link.counters.tx_dropped, 1);
        let token = Device::transmit(&mut link, t).unwrap();
        token.consume(60, |bytes| bytes.fill(7));
        assert_eq!(&link.transmit(Instant(0)).unwrap()[..], &[7; 60]);
    }
}
