//! Capsule packets between two nodes: carriers, next hops, cut-through channels, bounds.

mod common;

use common::{LINK, MAC_A, MAC_B, carry, link, ms, net};
use nodeos::buf::BufPool;
use nodeos::channel::{Address, CutKey, CutThrough, OutChannel};
use nodeos::config::LinkConfig;
use nodeos::link::{LinkId, Mac};
use nodeos::net::{MAX_CUTS, Net, SendError};
use nodeos::platform::Instant;
use nodeos::sched::Shares;
use nodeos::slab::Slab;
use nodeos::team::{Bandwidth, Budget, TeamId};
use nodeos::units::Rate;
use wire::capsule::{Capsule, HEADER_LEN};
use wire::id::CapsuleId;

fn bandwidth(rate: u64, burst: u32) -> Bandwidth {
    Bandwidth::root(2, &Budget { rate, burst, ..Budget::UNLIMITED })
}

fn to_mac(mac: Mac) -> OutChannel {
    OutChannel { link: LINK, to: Address::Ethernet(mac) }
}

fn to_udp(text: &str) -> OutChannel {
    OutChannel { link: LINK, to: Address::Udp(text.parse().unwrap()) }
}

fn pair(a: &str, b: &str, pool: &BufPool) -> (Net, Net) {
    (net(&[link("ab", MAC_A, Some(a))], pool), net(&[link("ab", MAC_B, Some(b))], pool))
}

#[test]
fn over_ethernet() {
    let pool = BufPool::new(8);
    let mut a = net(&[link("ab", MAC_A, None)], &pool);
    let mut b = net(&[link("ab", MAC_B, None)], &pool);
    a.send(ms(0), TeamId::ROOT, &to_mac(MAC_B), pool.copy_of(b"packet").unwrap()).unwrap();
    let received = carry(ms(0), &mut a, &mut b);
    assert_eq!(received.len(), 1);
    assert_eq!((received[0].link, received[0].from), (LINK, Address::Ethernet(MAC_A)));
    assert_eq!(&received[0].packet[..], b"packet");
    assert_eq!((b.counters().capsules, b.link_infos()[0].received), (1, (1, 20)));
    drop(received);
    assert_eq!(pool.lent(), 0);
}

/// The first packet waits while both nodes' ARP (or ND) does its work; the next go at once.
fn over_udp(a_ip: &str, b_ip: &str, prefix: u8) {
    let pool = BufPool::new(32);
    let (mut a, mut b) = pair(&format!("{a_ip}/{prefix}"), &format!("{b_ip}/{prefix}"), &pool);
    let bracket = |ip: &str| if ip.contains(':') { format!("[{ip}]:3322") } else { format!("{ip}:3322") };
    let channel = to_udp(&bracket(b_ip));
    for n in 0..3u8 {
        a.send(ms(0), TeamId::ROOT, &channel, pool.copy_of(&[n; 100]).unwrap()).unwrap();
        assert_eq!(a.deadline(ms(0)), Some(ms(0)));
    }
    assert!(a.transmit(ms(0), LINK).is_none());
    a.poll(ms(0));
    assert!(carry(ms(0), &mut a, &mut b).is_empty(), "the question");
    assert!(carry(ms(0), &mut b, &mut a).is_empty(), "the answer");
    let received = carry(ms(0), &mut a, &mut b);
    assert_eq!(received.len(), 1, "the newest of those that waited");
    assert_eq!(received[0].packet[..], [2; 100]);
    assert_eq!(received[0].from, Address::Udp(bracket(a_ip).parse().unwrap()));
    assert_eq!(a.counters().hops.dropped, 2);
    drop(received);
    for n in 0..4 {
        a.send(ms(n), TeamId::ROOT, &channel, pool.copy_of(b"more").unwrap()).unwrap();
        assert_eq!(carry(ms(n), &mut a, &mut b).len(), 1);
    }
    assert_eq!(pool.lent(), 0);
}

#[test]
fn over_udp_and_ipv4() {
    over_udp("10.0.0.1", "10.0.0.2", 24);
}

#[test]
fn over_udp_and_ipv6() {
    over_udp("fd00::1", "fd00::2", 64);
}

#[test]
fn other_networks_are_reached_through_the_gateway() {
    let pool = BufPool::new(8);
    let gateway = Some("10.0.0.2".parse().unwrap());
    let mut a = net(&[LinkConfig { gateway, ..link("ab", MAC_A, Some("10.0.0.1/24")) }], &pool);
    let mut router = net(&[link("ab", MAC_B, Some("10.0.0.2/24"))], &pool);
    a.send(ms(0), TeamId::ROOT, &to_udp("10.9.9.9:3322"), pool.copy_of(b"far").unwrap()).unwrap();
    a.poll(ms(0));
    carry(ms(0), &mut a, &mut router);
    carry(ms(0), &mut router, &mut a);
    let frame = a.transmit(ms(0), LINK).unwrap();
    assert_eq!(frame[..6], MAC_B.0);
    assert_eq!(frame[30..34], [10, 9, 9, 9]);
    let mut alone = net(&[link("ab", MAC_A, Some("10.0.0.1/24"))], &pool);
    let refused = alone.send(ms(0), TeamId::ROOT, &to_udp("10.9.9.9:3322"), pool.copy_of(b"far").unwrap());
    assert_eq!(refused, Err(SendError::NoAddress));
}

#[test]
fn silence_is_reported_and_bounded() {
    let pool = BufPool::new(64);
    let mut a = net(&[link("ab", MAC_A, Some("10.0.0.1/24"))], &pool);
    let (mut questions, mut unreachable) = (0, 0);
    for n in 0..10_000 {
        let now = ms(n);
        let sent = a.send(now, TeamId::ROOT, &to_udp("10.0.0.2:3322"), pool.copy_of(b"packet").unwrap());
        unreachable += u32::from(sent == Err(SendError::Unreachable));
        a.poll(now);
        questions += std::iter::from_fn(|| a.transmit(now, LINK)).count();
        assert!(pool.lent() <= 1);
    }
    assert_eq!(questions, 8);
    assert!(unreachable > 1000);
}

#[test]
fn what_cannot_be_sent_is_an_error() {
    let pool = BufPool::new(8);
    let mut a = net(&[LinkConfig { queue: 1, mtu: 600, ..link("ab", MAC_A, None) }], &pool);
    let packet = |len: usize| pool.copy_of(&vec![1; len]).unwrap();
    let ethernet = to_mac(MAC_B);
    assert_eq!(a.max_packet(&ethernet), Some(600));
    assert_eq!(a.send(ms(0), TeamId::ROOT, &ethernet, packet(601)), Err(SendError::TooLong(600)));
    let udp = to_udp("10.0.0.2:3322");
    assert_eq!(a.max_packet(&udp), Some(572));
    assert_eq!(a.send(ms(0), TeamId::ROOT, &udp, packet(573)), Err(SendError::TooLong(572)));
    assert_eq!(a.send(ms(0), TeamId::ROOT, &udp, packet(10)), Err(SendError::NoAddress));
    let nowhere = OutChannel { link: LinkId(1), ..ethernet };
    assert_eq!(a.send(ms(0), TeamId::ROOT, &nowhere, packet(10)), Err(SendError::NoLink));
    let mut full = packet(10);
    full.push_front(full.headroom() - 8).unwrap();
    assert_eq!(a.send(ms(0), TeamId::ROOT, &ethernet, full), Err(SendError::NoHeadroom));
    a.send(ms(0), TeamId::ROOT, &ethernet, packet(600)).unwrap();
    assert_eq!(a.send(ms(0), TeamId::ROOT, &ethernet, packet(1)), Err(SendError::QueueFull));
    assert_eq!(a.link_infos()[0].dropped, 1);
    assert_eq!(pool.lent(), 1);
}

#[test]
fn a_flood_gets_the_links_rate_and_no_more() {
    let pool = BufPool::new(400);
    let rate = Some(Rate(1_000_000));
    let mut a = net(&[LinkConfig { rate, queue: 64, ..link("ab", MAC_A, None) }], &pool);
    let mut bytes = 0;
    for micros in (0..2_000_000).step_by(100) {
        let now = Instant(micros);
        let _ = a.send(now, TeamId::ROOT, &to_mac(MAC_B), pool.copy_of(&[0; 1000]).unwrap());
        while let Some(frame) = a.transmit(now, LINK) {
            bytes += frame.len();
        }
        assert!(pool.lent() <= 64);
    }
    assert!((1_990_000..2_000_000 + 10_000).contains(&bytes), "{bytes}");
}

/// Two teams that always have something to send get bytes of the link's rate by their shares, whatever the length of
/// their frames and whoever sends first or more.
#[test]
fn competing_teams_divide_a_links_rate() {
    let pool = BufPool::new(400);
    let rate = Some(Rate(1_000_000));
    let mut a = net(&[LinkConfig { rate, queue: 64, ..link("ab", MAC_A, None) }], &pool);
    let mut slab = Slab::new(3);
    let [_, light, heavy] = [(); 3].map(|()| TeamId(slab.insert(()).unwrap()));
    a.add_team(light, None, Shares { among: 100, own: 1000 });
    a.add_team(heavy, None, Shares { among: 300, own: 1000 });
    let channel = to_mac(MAC_B);
    let mut bytes = [0; 2];
    for micros in (0..4_000_000).step_by(200) {
        let now = Instant(micros);
        // The light one floods with long frames: ten times what the link carries.
        for (team, mark, len, times) in [(light, 1, 1000, 2), (heavy, 2, 150, 2)] {
            for _ in 0..times {
                let mut packet = pool.take().unwrap();
                packet.set_len(len).unwrap();
                packet.fill(mark);
                let _ = a.send(now, team, &channel, packet);
            }
        }
        while let Some(frame) = a.transmit(now, LINK) {
            bytes[usize::from(frame[14]) - 1] += frame.len();
        }
    }
    let ratio = bytes[1] as f64 / bytes[0] as f64;
    assert!((2.94..3.06).contains(&ratio), "{bytes:?}");
    let sum: usize = bytes.iter().sum();
    assert!((3_990_000..4_010_000).contains(&sum), "{sum}");
    let link = a.link(LINK).unwrap();
    assert!(link.dropped_of(light) > 0 && link.dropped_of(heavy) > 0);
    for team in [light, heavy] {
        a.remove_team(team, None);
    }
    assert_eq!(pool.lent(), 0);
}

fn capsule(pool: &BufPool, id: u8, len: usize) -> nodeos::buf::Buf {
    let mut packet = pool.take().unwrap();
    packet.set_len(HEADER_LEN + len).unwrap();
    Capsule::emit_header(&mut packet, &CapsuleId([id; 16]), len);
    packet
}

#[test]
fn a_cut_through_channel_forwards_its_capsules_and_no_others() {
    let pool = BufPool::new(16);
    let mac = |n| Mac([2, 0, 0, 0, 1, n]);
    let mut left = net(&[link("l", MAC_A, None)], &pool);
    let mut middle = net(&[link("l", mac(0), None), link("r", mac(1), None)], &pool);
    let mut teams = Slab::new(2);
    let [team, other] = [(); 2].map(|()| TeamId(teams.insert(()).unwrap()));
    let key = |id, from| CutKey { link: LINK, from: Address::Ethernet(from), id: CapsuleId([id; 16]) };
    let out = OutChannel { link: LinkId(1), to: Address::Ethernet(MAC_B) };
    middle.cut(key(1, MAC_A), CutThrough::new(out, team, bandwidth(1000, 342))).unwrap();

    let mut send = |middle: &mut Net, id| {
        left.send(ms(0), TeamId::ROOT, &to_mac(mac(0)), capsule(&pool, id, 76)).unwrap();
        carry(ms(0), &mut left, middle).len()
    };
    assert_eq!(send(&mut middle, 1), 0);
    let frame = middle.transmit(ms(0), LinkId(1)).unwrap();
    assert_eq!((&frame[..6], &frame[6..12], frame.len()), (&MAC_B.0[..], &mac(1).0[..], 114));
    assert_eq!(Capsule::parse(&frame[14..]).unwrap().id, CapsuleId([1; 16]));
    assert_eq!(send(&mut middle, 2), 1, "another identifier is the execution environment's");
    for _ in 0..4 {
        assert_eq!(send(&mut middle, 1), 0);
    }
    let (_, cut) = middle.cuts().next().unwrap();
    assert_eq!((cut.forwarded, cut.bytes, cut.dropped), (3, 300, 2), "the bucket bounds it");

    middle.cut(key(2, MAC_B), CutThrough::new(out, other, bandwidth(1, 1))).unwrap();
    assert_eq!(send(&mut middle, 2), 1, "another sender's");
    middle.remove_team(team, None);
    assert_eq!(send(&mut middle, 1), 1);
    assert!(middle.uncut(&key(2, MAC_B)).is_some());
    for n in 0..MAX_CUTS as u8 {
        middle.cut(key(n, MAC_A), CutThrough::new(out, team, bandwidth(1, 1))).unwrap();
    }
    assert!(middle.cut(key(200, MAC_A), CutThrough::new(out, team, bandwidth(1, 1))).is_err());
}

#[test]
fn configurations_are_checked() {
    let pool = BufPool::new(1);
    let make = |configs: &[LinkConfig]| Net::new(configs, pool.clone(), 0, common::limits()).map(|_| ());
    let no_nic = LinkConfig { mac: None, ..link("a", MAC_A, None) };
    assert!(make(&[no_nic]).unwrap_err().to_string().contains("no NIC"));
    assert!(make(&[link("a", MAC_A, None), link("a", MAC_B, None)]).is_err());
    let named = net(&[link("a", MAC_A, None), link("b", MAC_B, Some("10.0.0.1/8"))], &pool);
    assert_eq!((named.link_named("b"), named.link_named("c"), named.links()), (Some(LinkId(1)), None, 2));
    assert_eq!(named.link_infos()[1].address.as_deref(), Some("10.0.0.1/8"));
}
