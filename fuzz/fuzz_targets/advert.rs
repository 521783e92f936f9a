//! A node on two links where nodes are discovered: adverts from any station, in any order, and time.
#![no_main]

use std::sync::{Arc, OnceLock};

use ee::config::NodeConfig;
use ee::{Engine, Metering, Node, Platform};
use fuzz::{Sequence, pieces};
use libfuzzer_sys::fuzz_target;
use nodeos::buf::BufPool;
use nodeos::link::LinkId;
use nodeos::platform::{Instant, NoSensors, Now, Still};
use wire::advert::{Advert, advert_id};
use wire::capsule::{Capsule, HEADER_LEN};
use wire::control::{Answer, MAX_MESSAGE, Request, encode};

/// A neighbor of the configuration, one whose key is known, and whoever says that he is there.
const CONFIG: &str = r#"
    [node]
    name = "me"
    identity = "0101010101010101010101010101010101010101010101010101010101010101"
    [discovery]
    keys = { k = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a" }
    [[link]]
    name = "w0"
    mac = "02:00:00:00:00:01"
    discover = true
    liveness = { poke = "100ms", expire = "500ms" }
    [[link]]
    name = "w1"
    mac = "02:00:00:00:01:01"
    discover = true
    [[neighbor]]
    name = "a"
    link = "w0"
    mac = "02:00:00:00:00:00"
"#;

/// The most that a node knows of each link, and of neighbors that were discovered.
const KNOWN: usize = 64;
const FOUND: usize = 32;

fn platform() -> Platform {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    let make = || Engine::new(Metering::Fuel).expect("an engine");
    Platform {
        name: "fuzz",
        meter: Arc::new(Still),
        interrupter: Arc::new(Still),
        entropy: Arc::new(Sequence::default()),
        sensors: Arc::new(NoSensors),
        engine: ENGINE.get_or_init(make).clone(),
        buffers: BufPool::new(64),
        disk: None,
    }
}

// A piece's number is a link (1 bit), a station (3 bits), and how long after the one before it comes (4 bits, in powers of
// four milliseconds); the piece is the advert.
fuzz_target!(|bytes: &[u8]| {
    let config = NodeConfig::parse(CONFIG).expect("a sound configuration");
    let platform = platform();
    let mut now = Now { mono: Instant(0), wall: None };
    let mut node = Node::new(&config, platform.clone(), now).expect("a sound configuration");
    for (number, piece) in pieces(bytes) {
        if let Some(advert) = Advert::decode(piece) {
            let (again, told) = advert.clone().encode(advert.known.iter().copied());
            assert_eq!((Advert::decode(&again), told), (Some(advert.clone()), advert.known.len()));
        }
        now.mono = Instant(now.mono.0 + (1000 << (2 * (number >> 4).min(8))));
        let station = [2, 0, 0, 0, 0, (number >> 1 & 7) << 2];
        let mut frame = [&[0xff; 6][..], &station, &[0x88, 0xb5], &[0; HEADER_LEN]].concat();
        Capsule::emit_header(&mut frame[14..], &advert_id(), piece.len());
        frame.extend(piece);
        if let Some(frame) = platform.buffers.copy_of(&frame) {
            node.frame(now, LinkId(u16::from(number & 1)), frame);
        }
        while node.poll(now) {}
        for link in 0..node.links() {
            while node.transmit(now, LinkId(link as u16)).is_some() {}
        }
        while let Some(job) = node.job() {
            node.job_done(now, job.run());
        }
        while node.log_line().is_some() {}
        let neighbors = node.control(now, "admin", Request::NeighborShow);
        assert!(encode(&neighbors).len() <= MAX_MESSAGE);
        let Answer::Neighbors(neighbors) = neighbors else { panic!("neighbors") };
        assert!(neighbors.iter().filter(|n| n.discovered).count() <= FOUND);
        assert!(neighbors.iter().any(|n| n.name == "a" && !n.discovered));
        let known = node.control(now, "admin", Request::KnownShow { from: 0 });
        assert!(encode(&known).len() <= MAX_MESSAGE);
        let Answer::Known(known) = known else { panic!("nodes") };
        assert!(known.items.len() <= 2 * KNOWN);
        assert!(known.items.iter().all(|known| known.name != "me"));
    }
    drop(node);
    assert_eq!(platform.buffers.lent(), 0);
});
