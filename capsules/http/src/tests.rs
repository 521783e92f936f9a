//! Objects on nodes in memory: whole and equal under loss, from the nearest node that keeps them, and from nobody after their
//! time.

use std::collections::BTreeMap;

use bees_sdk::node::mix;
use bees_sdk::testing::{Link, Network, TestSession};

use super::*;
use crate::format::MAX_BYTES;

const SECOND: u64 = 1_000_000;

/// A network with a gateway's program and its objects.
struct Net {
    net: Network<Http>,
    gateway: TestSession,
    read: usize,
    /// Life and bytes of each object.
    objects: BTreeMap<String, (u32, Vec<u8>)>,
    /// Gets that came to the program: URL, index, nonce.
    fetched: Vec<(String, u16, u32)>,
    digests: BTreeMap<String, [u8; 32]>,
}

/// What a program got of a request.
#[derive(Debug, Default, PartialEq, Eq)]
struct Got {
    bytes: Vec<u8>,
    hops: Vec<u8>,
    end: Option<String>,
}

fn object(seed: u64, len: usize) -> Vec<u8> {
    let mut random = mix(seed);
    let mut bytes = vec![];
    while bytes.len() < len {
        random = mix(random);
        bytes.extend(random.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// What a program has got so far for a request.
fn got(packets: &[Vec<u8>], id: u32) -> Got {
    let (mut got, mut pieces) = (Got::default(), BTreeMap::new());
    for packet in packets {
        if packet[0] == FOR_PROGRAM {
            if packet[1..5] == id.to_le_bytes() {
                let (piece, bytes) = Piece::read(&packet[5..]).unwrap();
                pieces.insert(piece.index, (piece.hops, bytes.to_vec()));
            }
            continue;
        }
        let text = String::from_utf8_lossy(packet).into_owned();
        let mut words = text.split(' ');
        let verb = words.next().unwrap();
        if words.next() != Some(&id.to_string()) {
            continue;
        }
        match verb {
            "again" => pieces.clear(),
            _ => got.end = Some(text),
        }
    }
    got.hops = pieces.values().map(|(hops, _)| *hops).collect();
    got.bytes = pieces.into_values().flat_map(|(_, bytes)| bytes).collect();
    got
}

impl Net {
    fn line(nodes: usize, loss: f64, seed: u64) -> Self {
        let mut net = Network::new(&DESCRIPTION, seed);
        (0..nodes).for_each(|at| _ = net.node(&format!("n{at}"), Http::new()));
        (1..nodes).for_each(|at| _ = net.link(at - 1, at, Link { delay_us: 2000, loss }));
        let gateway = net.open(0);
        net.send(gateway, b"serve");
        assert_eq!(net.received(gateway), ["ok"]);
        let empty = (BTreeMap::new(), vec![], BTreeMap::new());
        let mut net = Self { net, gateway, read: 1, objects: empty.0, fetched: empty.1, digests: empty.2 };
        net.pass(4 * SECOND);
        net
    }

    fn put(&mut self, url: &str, life: u32, bytes: Vec<u8>) {
        let digest = digest(&bytes);
        self.digests.insert(url.into(), digest);
        self.objects.insert(url.into(), (life, bytes));
    }

    /// Time passes, in which the gateway's program answers.
    fn pass(&mut self, time: u64) {
        let end = self.net.now() + time;
        while self.net.now() < end {
            self.net.run_until((self.net.now() + 5000).min(end));
            let packets = self.net.packets(self.gateway)[self.read..].to_vec();
            self.read += packets.len();
            for packet in packets {
                let (get, url) = Get::read(&packet).unwrap();
                let url = String::from_utf8(url.to_vec()).unwrap();
                self.fetched.push((url.clone(), get.index, get.nonce));
                let (life, bytes) = &self.objects[&url];
                let pieces: Vec<&[u8]> = bytes.chunks(MAX_BYTES).collect();
                let piece = Piece {
                    hops: 0,
                    key: key(url.as_bytes()),
                    asked: get.version,
                    nonce: get.nonce,
                    index: get.index,
                    count: pieces.len() as u16,
                    life: *life,
                    left: *life,
                    digest: self.digests[&url],
                };
                let bytes = pieces[usize::from(get.index)];
                let packet = [&piece.bytes()[..], bytes].concat();
                let gateway = self.gateway;
                self.net.send(gateway, &packet);
            }
        }
    }

    fn fetch(&mut self, at: usize, id: u32, url: &str) -> Got {
        let session = self.net.open(at);
        self.net.send(session, format!("get {id} {url}").as_bytes());
        for _ in 0..600 {
            self.pass(SECOND / 10);
            let got = got(self.net.packets(session), id);
            if got.end.is_some() {
                return got;
            }
        }
        panic!("no end: {:?}", self.net.received(session));
    }

    fn sum(&self, nodes: usize, count: impl Fn(&Http) -> u32) -> u32 {
        (0..nodes).map(|at| count(self.net.protocol(at))).sum()
    }
}

/// SHA-256, and a URL's name, outside a protocol's event.
fn digest(bytes: &[u8]) -> [u8; 32] {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).into()
}

fn key(url: &[u8]) -> [u8; 16] {
    digest(url)[..16].try_into().unwrap()
}

#[test]
fn an_object_comes_whole_and_the_second_time_from_nearby() {
    for loss in [0.0, 0.1] {
        let mut g = Net::line(5, loss, 3);
        let bytes = object(1, 200_000);
        let pieces = bytes.len().div_ceil(MAX_BYTES);
        g.put("http://a/b", 600, bytes.clone());
        let first = g.fetch(4, 7, "http://a/b");
        assert_eq!((first.end.as_deref(), first.bytes == bytes), (Some("end 7"), true), "loss {loss}");
        let fetched = g.fetched.len();
        assert!(fetched == pieces || loss > 0.0 && fetched < 2 * pieces, "{fetched} of {pieces}");
        assert!(first.hops.iter().all(|hops| *hops <= 4));
        // Another program at the same node, then at another one: no get reaches the gateway's program any more.
        let second = g.fetch(4, 8, "http://a/b");
        assert!(second.bytes == bytes && second.hops.iter().all(|hops| *hops == 0), "loss {loss}");
        let third = g.fetch(2, 9, "http://a/b");
        assert!(third.bytes == bytes && third.hops.iter().all(|hops| *hops == 0), "loss {loss}");
        assert_eq!(g.fetched.len(), fetched, "loss {loss}");
        let hits = g.sum(5, |n| n.store.counts.hits) as usize;
        assert!(hits >= 2 * pieces, "{hits}");
        assert_eq!(g.net.counters().depleted, 0);
        assert_eq!(g.sum(5, |n| n.counts.malformed), 0);
    }
}

#[test]
fn after_its_time_an_object_is_fetched_again() {
    let mut g = Net::line(3, 0.0, 1);
    g.put("http://a/x", 5, object(1, 3000));
    assert_eq!(g.fetch(2, 1, "http://a/x").bytes, object(1, 3000));
    g.put("http://a/x", 5, object(2, 3000));
    assert_eq!(g.fetch(2, 2, "http://a/x").bytes, object(1, 3000), "it is kept");
    assert_eq!(g.fetched.len(), 3);
    g.pass(5 * SECOND);
    assert_eq!(g.fetch(2, 3, "http://a/x").bytes, object(2, 3000), "it has expired");
    assert_eq!(g.fetched.len(), 6);
    // What is asked for anew comes from the gateway, and is what others get from then on.
    g.put("http://a/x", 5, object(3, 2000));
    let session = g.net.open(2);
    g.net.send(session, b"get 4 http://a/x reload");
    g.pass(SECOND);
    assert_eq!(got(g.net.packets(session), 4).bytes, object(3, 2000));
    assert_eq!(g.fetch(2, 5, "http://a/x").bytes, object(3, 2000));
    assert_eq!(g.fetched.len(), 8);
}

#[test]
fn what_may_not_be_kept_is_asked_for_by_everybody() {
    let mut g = Net::line(3, 0.0, 1);
    g.put("http://a/x", 0, object(1, 5000));
    for id in 1..=3 {
        assert_eq!(g.fetch(2, id, "http://a/x").bytes, object(1, 5000));
    }
    assert_eq!(g.fetched.len(), 15);
    assert_eq!(g.sum(3, |n| n.store.counts.stored), 0);
    let nonces: std::collections::BTreeSet<u32> = g.fetched.iter().map(|f| f.2).collect();
    assert_eq!(nonces.len(), 4, "each request has one, and later pieces have none");
}

#[test]
fn objects_of_different_urls_are_different() {
    let mut g = Net::line(3, 0.05, 1);
    g.put("http://a/x", 60, object(1, 30_000));
    g.put("http://b/x", 60, object(2, 30_000));
    let sessions = [(1, "http://a/x"), (2, "http://b/x"), (2, "http://a/x")].map(|(at, url)| {
        let session = g.net.open(at);
        g.net.send(session, format!("get 1 {url}").as_bytes());
        session
    });
    g.pass(20 * SECOND);
    for (session, seed) in sessions.into_iter().zip([1, 2, 1]) {
        let got = got(g.net.packets(session), 1);
        assert!(got.bytes == object(seed, 30_000) && got.end.as_deref() == Some("end 1"), "{:?}", got.end);
    }
}

#[test]
fn an_object_that_changes_on_the_way_comes_whole() {
    let mut g = Net::line(3, 0.0, 1);
    g.put("http://a/x", 60, object(1, 100_000));
    let session = g.net.open(2);
    g.net.send(session, b"get 1 http://a/x");
    g.pass(60_000);
    let before = g.fetched.len();
    assert!((2..90).contains(&before), "{before}");
    g.put("http://a/x", 60, object(2, 100_000));
    g.pass(20 * SECOND);
    let got = got(g.net.packets(session), 1);
    assert!(got.bytes == object(2, 100_000) && got.end.as_deref() == Some("end 1"), "{:?}", got.end);
    assert!(g.net.received(session).contains(&"again 1".into()));
}

/// Only what was asked for is believed, from whom it was asked; nothing of it is kept otherwise.
#[test]
fn nobody_puts_objects_where_they_were_not_asked_for() {
    let mut g = Net::line(3, 0.0, 1);
    let piece = Piece {
        hops: 0,
        key: key(b"http://a/x"),
        asked: 0,
        nonce: 7,
        index: 0,
        count: 1,
        life: 60,
        left: 60,
        digest: [7; 32],
    };
    let forged = [&piece.bytes()[..], b"evil"].concat();
    g.net.inject(2, 0, Kind::Message as u8, &forged);
    g.net.inject(1, 1, Kind::Message as u8, &forged);
    let stranger = g.net.open(0);
    g.net.send(stranger, &forged);
    assert_eq!((g.sum(3, |n| n.counts.unasked), g.sum(3, |n| n.store.counts.stored)), (2, 0));
    g.put("http://a/x", 60, object(1, 100));
    assert_eq!(g.fetch(2, 1, "http://a/x").bytes, object(1, 100));
    // From another neighbor than the one that was asked, at the right moment.
    let session = g.net.open(1);
    g.put("http://a/y", 60, object(2, 100));
    g.net.send(session, b"get 1 http://a/y");
    let asked = g.net.protocol(1).counts.forwarded;
    assert!(asked > 0);
    g.net.inject(
        1,
        1,
        Kind::Message as u8,
        &[&Piece { key: key(b"http://a/y"), ..piece }.bytes()[..], b"evil"].concat(),
    );
    g.pass(SECOND);
    assert_eq!(got(g.net.packets(session), 1).bytes, object(2, 100));
}

#[test]
fn a_gateway_that_goes_is_missed_and_another_is_found() {
    let mut g = Net::line(3, 0.0, 1);
    let gateway = g.gateway;
    let other = g.net.open(2);
    g.net.send(other, b"serve");
    assert_eq!(g.net.received(other), ["error there is a gateway"]);
    g.net.close(gateway);
    g.net.run_until(g.net.now() + 7 * SECOND);
    let session = g.net.open(1);
    g.net.send(session, b"get 1 http://a/x");
    g.net.run_until(g.net.now() + 31 * SECOND);
    assert_eq!(g.net.received(session), ["error 1 nothing came for 30 s"]);
    g.net.send(other, b"serve");
    g.net.run_until(g.net.now() + 2 * SECOND);
    g.net.send(session, b"stats");
    assert!(g.net.received(session).last().unwrap().ends_with("gateway known"));
}

#[test]
fn bounds_are_told() {
    let mut g = Net::line(1, 0.0, 1);
    let session = g.net.open(0);
    let mut ask = |line: &str| {
        let before = g.net.received(session).len();
        g.net.send(session, line.as_bytes());
        g.net.received(session)[before..].join("|")
    };
    for (line, why) in [
        ("get", "a number is missing"),
        ("get 1", "a URL has"),
        (&format!("get 1 {}", "x".repeat(MAX_URL + 1)), "a URL has"),
        ("get 1 http://a/ soon", "know only"),
        ("dance", "usage"),
    ] {
        let told = ask(line);
        assert!(told.starts_with("error ") && told.contains(why), "{line}: {told}");
    }
    for id in 0..4 {
        assert_eq!(ask(&format!("get {id} http://a/{id}")), "");
    }
    assert_eq!(ask("get 4 http://a/4"), "error 4 too many requests at once");
    ask("cancel 2");
    assert_eq!(ask("get 4 http://a/4"), "");
}

#[test]
fn what_a_neighbor_makes_up_is_no_panic() {
    let mut g = Net::line(2, 0.0, 1);
    let session = g.net.open(1);
    g.put("http://a/x", 60, object(1, 5000));
    let mut random = 1;
    for round in 0..20_000u64 {
        random = mix(random);
        let len = random as usize % 140;
        let mut payload = object(random, len);
        if let Some(first) = payload.first_mut() {
            *first = 1 + (random % 3) as u8;
        }
        g.net.inject(1, 0, (random >> 8) as u8 % 4, &payload);
        if round % 1000 == 0 {
            g.net.send(session, &payload);
        }
    }
    // An announcement that was made up may have led the way astray.
    g.net.restart(1, Http::new());
    g.pass(2 * SECOND);
    assert_eq!(g.fetch(1, 1, "http://a/x").bytes, object(1, 5000));
}

#[test]
fn messages_survive_any_damage() {
    let get = Get { hops: 1, flags: 0, nonce: 0, index: 3, version: 9 };
    let get = [&get.bytes()[..], b"http://a/x"].concat();
    let piece = Piece {
        hops: 1,
        key: [1; 16],
        asked: 9,
        nonce: 0,
        index: 3,
        count: 4,
        life: 9,
        left: 8,
        digest: [7; 32],
    };
    let piece = [&piece.bytes()[..], b"bytes"].concat();
    assert!(Get::read(&get).is_some() && Piece::read(&piece).is_some());
    for whole in [get, piece] {
        (0..whole.len()).for_each(|len| _ = (Get::read(&whole[..len]), Piece::read(&whole[..len])));
        let mut random = 1;
        for _ in 0..50_000 {
            let mut damaged = whole.clone();
            random = mix(random);
            let at = random as usize % damaged.len();
            damaged[at] = (random >> 32) as u8;
            if let Some((piece, bytes)) = Piece::read(&damaged) {
                assert!(piece.index < piece.count && bytes.len() <= MAX_BYTES);
            }
            let _ = Get::read(&damaged);
        }
    }
}
