//! http, as it is shipped, on whole nodes whose links lose a tenth of all frames: objects come whole and equal, the second time
//! from the nearest node that keeps them, and after their time from their server again.

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::real::{flows, number, start, total, word};
use sim::lab::Lab;
use sim::medium::Shape;
use sim::{Options, Session, Sim};
use wire::control::FlowState;
use wire::id::PartHash;

const SECOND: Duration = Duration::from_secs(1);
const PIECE: usize = 1024;
const HEAD: usize = 74;

/// A line of nodes; the gateway's program is beside node 0, and has objects: life and bytes by URL.
struct Net {
    sim: Sim,
    gateway: Session,
    objects: BTreeMap<&'static str, (u32, Vec<u8>)>,
    /// Pieces that the gateway's program was asked for.
    fetched: usize,
}

/// What a program got: bytes, and the most hops of a piece.
#[derive(Debug, PartialEq, Eq)]
struct Got(Vec<u8>, u8);

impl Net {
    fn new(nodes: usize, loss: f64) -> Self {
        let shape = Shape { rate: Some(12_500_000), delay: SECOND / 1000, loss, ..Shape::default() };
        let lab = Lab::line(nodes).shaped(shape);
        let mut sim = Sim::new(&lab, 7, Options::default()).unwrap();
        let gateway = start(&mut sim, 0, "http");
        sim.send(gateway, b"serve").unwrap();
        let mut told = vec![];
        sim.run_until(SECOND, |sim| {
            told.extend(sim.received(gateway).unwrap());
            !told.is_empty()
        });
        assert_eq!(told, [b"ok"]);
        let spread = |sim: &mut Sim| {
            (0..nodes).all(|at| flows(sim, at).iter().any(|flow| flow.state == FlowState::Running))
        };
        assert!(sim.run_until(60 * SECOND, spread), "it comes to every node");
        // And everybody hears of the gateway.
        sim.run_for(5 * SECOND);
        Self { sim, gateway, objects: BTreeMap::new(), fetched: 0 }
    }

    /// Time passes, in which the gateway's program answers.
    fn pass(&mut self, time: Duration) {
        let end = self.sim.now() + time;
        while self.sim.now() < end {
            self.sim.run_for(SECOND / 200);
            let gets = self.sim.received(self.gateway);
            for get in gets.unwrap_or_else(|e| panic!("{e}: {:?}", flows(&mut self.sim, 0))) {
                assert_eq!(get[0], 2, "{}", String::from_utf8_lossy(&get));
                let (nonce, version, url) = (&get[3..7], &get[9..17], &get[17..]);
                let index = u16::from_le_bytes([get[7], get[8]]);
                let (life, bytes) = &self.objects[std::str::from_utf8(url).unwrap()];
                let count = bytes.len().div_ceil(PIECE) as u16;
                let mut piece = vec![3, 0];
                piece.extend(&PartHash::of(url).0[..16]);
                piece.extend(version);
                piece.extend(nonce);
                piece.extend(index.to_le_bytes());
                piece.extend(count.to_le_bytes());
                piece.extend(life.to_le_bytes());
                piece.extend(life.to_le_bytes());
                piece.extend(PartHash::of(bytes).0);
                assert_eq!(piece.len(), HEAD);
                piece.extend(bytes.chunks(PIECE).nth(index.into()).unwrap());
                self.sim.send(self.gateway, &piece).unwrap();
                self.fetched += 1;
            }
        }
    }

    fn get(&mut self, at: usize, url: &str) -> Got {
        let session = self.sim.session(at, "http").unwrap();
        self.sim.send(session, format!("get 7 {url}").as_bytes()).unwrap();
        let (mut pieces, mut hops) = (BTreeMap::new(), 0);
        for _ in 0..2000 {
            self.pass(SECOND / 50);
            for packet in self.sim.received(session).unwrap() {
                if packet[0] == 4 {
                    let piece = &packet[5..];
                    pieces.insert(u16::from_le_bytes([piece[30], piece[31]]), piece[HEAD..].to_vec());
                    hops = hops.max(piece[1]);
                    continue;
                }
                assert_eq!(packet, b"end 7", "{}", String::from_utf8_lossy(&packet));
                self.sim.close(session);
                return Got(pieces.into_values().flatten().collect(), hops);
            }
        }
        panic!("it takes too long: {} pieces", pieces.len());
    }

    fn stats(&mut self, at: usize) -> String {
        let session = self.sim.session(at, "http").unwrap();
        self.sim.send(session, b"stats").unwrap();
        let mut told = vec![];
        self.sim.run_until(SECOND, |sim| {
            told.extend(sim.received(session).unwrap());
            !told.is_empty()
        });
        self.sim.close(session);
        let line = String::from_utf8(told.remove(0)).unwrap();
        assert_eq!(word(&line, 0), "done");
        line
    }
}

fn object(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    sim::random::Random::new(seed, 0).fill(&mut bytes);
    bytes
}

#[test]
fn an_object_comes_whole_and_the_second_time_from_nearby() {
    for loss in [0.0, 0.1] {
        let mut net = Net::new(5, loss);
        let bytes = object(1, 200_000);
        let pieces = bytes.len().div_ceil(PIECE);
        net.objects.insert("http://a/b", (600, bytes.clone()));
        let begun = net.sim.now();
        let first = net.get(4, "http://a/b");
        let took = Duration::from_micros(net.sim.now().micros() - begun.micros());
        assert!(first.0 == bytes && first.1 <= 4, "loss {loss}: {} bytes, {} hops", first.0.len(), first.1);
        let fetched = net.fetched;
        assert!(
            fetched == pieces || loss > 0.0 && fetched < 2 * pieces,
            "loss {loss}: {fetched} of {pieces}"
        );
        println!(
            "loss {loss}: {} bytes over 4 hops in {took:.1?}, {fetched} gets at the gateway for {pieces} pieces",
            bytes.len()
        );
        // Another node's program gets it from that node; the one next to it from there.
        let second = net.get(2, "http://a/b");
        assert!(second == Got(bytes.clone(), 0), "loss {loss}: {} hops", second.1);
        assert!(net.get(4, "http://a/b") == Got(bytes, 0), "loss {loss}");
        assert_eq!(net.fetched, fetched, "loss {loss}: none of them reached the gateway's program");
        for at in [2, 4] {
            let line = net.stats(at);
            assert!(
                number(&line, "hits") >= pieces as u64 && number(&line, "unstored") == 0,
                "node {at}: {line}"
            );
        }
        for wrong in ["guest_traps", "guest_overruns", "teams_struck_out"] {
            assert_eq!(total(&mut net.sim, wrong), 0, "{wrong}");
        }
    }
}

#[test]
fn what_has_expired_is_fetched_again_and_what_may_not_be_kept_is_not() {
    let mut net = Net::new(3, 0.1);
    net.objects.insert("http://a/short", (4, object(1, 5000)));
    net.objects.insert("http://a/never", (0, object(2, 5000)));
    assert_eq!(net.get(2, "http://a/short").0, object(1, 5000));
    net.objects.insert("http://a/short", (4, object(3, 5000)));
    assert_eq!(net.get(2, "http://a/short").0, object(1, 5000), "it is kept");
    net.pass(5 * SECOND);
    assert_eq!(net.get(2, "http://a/short").0, object(3, 5000), "it has expired");
    for _ in 0..2 {
        let before = net.fetched;
        assert_eq!(net.get(2, "http://a/never").0, object(2, 5000));
        assert!(net.fetched >= before + 5);
    }
}

/// More than fits the flow's memory: the least recently used give way, everything comes, nobody is struck.
#[test]
fn what_does_not_fit_gives_way() {
    let mut net = Net::new(3, 0.0);
    let urls: Vec<&'static str> = (0..12).map(|n| &*format!("http://a/{n}").leak()).collect();
    for (seed, url) in urls.iter().enumerate() {
        net.objects.insert(url, (600, object(seed as u64, 150_000)));
        assert_eq!(net.get(2, url).0, object(seed as u64, 150_000));
    }
    let line = net.stats(2);
    assert!(number(&line, "evicted") > 0, "{line}");
    // The last one is still there, the first one is not.
    let before = net.fetched;
    assert_eq!(net.get(2, urls[11]).1, 0);
    assert_eq!(net.fetched, before);
    assert_eq!(net.get(2, urls[0]).0, object(0, 150_000));
    assert!(net.fetched > before);
    for wrong in ["guest_traps", "guest_overruns", "teams_struck_out"] {
        assert_eq!(total(&mut net.sim, wrong), 0, "{wrong}");
    }
}
