//! Who tries to log in, and how often: whoever fails waits, longer each time, so that nobody tries keys by
//! the thousand. The table is bounded; all strangers together cannot begin more than a few handshakes in a
//! second, because each costs the node some arithmetic.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use nodeos::platform::Instant;

/// Failures that cost no wait: mistakes.
pub const FREE: u32 = 3;
/// The wait after the first failure that costs one; doubles with each.
pub const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The longest wait.
pub const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Failures are forgotten so long after the last.
pub const FORGET: Duration = Duration::from_secs(600);
/// Addresses remembered; the one that failed longest ago gives way.
pub const ADDRESSES: usize = 64;
/// Handshakes that may begin in a second, from anywhere, without ending in a login.
pub const PER_SECOND: u32 = 8;

#[derive(Debug)]
struct Failed {
    from: IpAddr,
    times: u32,
    last: Instant,
}

/// Who counts as one, of those who come from `ip`: whoever has one address of an IPv6 network of 64 bits has all of them
/// (RFC 4291, section 2.5.1).
pub fn origin(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into(),
        v4 => v4,
    }
}

/// Failed logins of late.
#[derive(Debug, Default)]
pub struct Attempts {
    /// The last that failed is at the end.
    list: VecDeque<Failed>,
    second: Instant,
    begun: u32,
}

impl Attempts {
    /// Whether somebody at this address may begin a handshake now. Counts it if so.
    pub fn begin(&mut self, now: Instant, from: IpAddr) -> bool {
        let from = origin(from);
        self.list.retain(|f| now.since(f.last) < FORGET);
        if now.since(self.second) >= Duration::from_secs(1) {
            (self.second, self.begun) = (now, 0);
        }
        let waits = self.list.iter().any(|f| f.from == from && now < f.last + f.wait());
        if waits || self.begun == PER_SECOND {
            return false;
        }
        self.begun += 1;
        true
    }

    /// A login from there failed.
    pub fn failed(&mut self, now: Instant, from: IpAddr) {
        let from = origin(from);
        let before = self.list.iter().position(|f| f.from == from).and_then(|at| self.list.remove(at));
        let times = before.map_or(0, |f| f.times).saturating_add(1);
        if self.list.len() == ADDRESSES {
            self.list.pop_front();
        }
        self.list.push_back(Failed { from, times, last: now });
    }

    /// Somebody there proved who it is: such handshakes do not count.
    pub fn succeeded(&mut self, from: IpAddr) {
        self.list.retain(|f| f.from != origin(from));
        self.begun = self.begun.saturating_sub(1);
    }
}

impl Failed {
    fn wait(&self) -> Duration {
        match self.times.checked_sub(FREE) {
            None | Some(0) => Duration::ZERO,
            Some(n) => FIRST_WAIT.saturating_mul(1 << (n - 1).min(16)).min(LONGEST_WAIT),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn address(n: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from_bits(n))
    }

    #[test]
    fn a_network_of_64_bits_is_one_origin() {
        let of = |text: &str| origin(text.parse().unwrap()).to_string();
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(of("2001:db8:1:3::1"), "2001:db8:1:3::");
        assert_eq!((of("192.0.2.7"), of("::ffff:192.0.2.7")), ("192.0.2.7".into(), "192.0.2.7".into()));
        // So nobody has as many tries as addresses.
        let mut attempts = Attempts::default();
        for host in 0..=FREE {
            attempts.failed(Instant::ZERO, format!("2001:db8::{host:x}").parse().unwrap());
        }
        assert!(!attempts.begin(Instant::ZERO, "2001:db8::99".parse().unwrap()));
        assert!(attempts.begin(Instant::ZERO, "2001:db8:0:1::99".parse().unwrap()));
    }

    #[test]
    fn whoever_fails_waits_longer_each_time() {
        let (mut attempts, eve) = (Attempts::default(), address(1));
        let mut now = Instant::ZERO;
        let mut tries = 0;
        let hour = now + Duration::from_secs(3600);
        while now < hour {
            if attempts.begin(now, eve) {
                attempts.failed(now, eve);
                tries += 1;
            }
            assert!(attempts.begin(now, address(2)) || attempts.begun == PER_SECOND, "others need not wait");
            now = now + Duration::from_millis(100);
        }
        assert!(tries < 80, "{tries} keys tried in an hour");
        attempts.succeeded(eve);
        assert!(attempts.begin(now + Duration::from_secs(1), eve));
    }

    #[test]
    fn many_addresses_begin_few_handshakes() {
        let mut attempts = Attempts::default();
        let begun = (0..10_000).filter(|&n| attempts.begin(Instant::ZERO, address(n))).count();
        assert_eq!(begun, PER_SECOND as usize);
        attempts.succeeded(address(1));
        assert!(attempts.begin(Instant::ZERO, address(1)), "who is known is no stranger");
        (0..10_000).for_each(|n| attempts.failed(Instant::ZERO, address(n)));
        assert_eq!(attempts.list.len(), ADDRESSES);
        assert!(attempts.begin(Instant::ZERO + FORGET, address(9_999)));
        assert!(attempts.list.is_empty());
    }
}
