//! A whole node: frames, control requests and time, in any order.
#![no_main]

use std::sync::{Arc, OnceLock};

use ee::config::NodeConfig;
use ee::{Engine, Metering, Node, Platform};
use fuzz::{CONFIG, Sequence, pieces};
use libfuzzer_sys::fuzz_target;
use nodeos::buf::BufPool;
use nodeos::link::LinkId;
use nodeos::platform::{Instant, NoSensors, Now, Still};
use wire::control::{MAX_MESSAGE, Request, decode, encode};

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

fuzz_target!(|bytes: &[u8]| {
    let config = NodeConfig::parse(CONFIG).expect("a sound configuration");
    let platform = platform();
    let mut now = Now { mono: Instant(0), wall: Some(1_800_000_000) };
    let mut node = Node::new(&config, platform.clone(), now).expect("a sound configuration");
    for (number, piece) in pieces(bytes) {
        now.mono = Instant(now.mono.0 + (1 << (number >> 3)));
        match number & 3 {
            3 => {
                if let Some(request) = decode::<Request>(piece) {
                    let answer = node.control(now, "admin", request);
                    assert!(encode(&answer).len() <= MAX_MESSAGE);
                }
            }
            link => {
                if let Some(frame) = platform.buffers.copy_of(piece) {
                    node.frame(now, LinkId(link.into()), frame);
                }
            }
        }
        node.poll(now);
        for link in 0..node.links() {
            while node.transmit(now, LinkId(link as u16)).is_some() {}
        }
        // What is compiled is another target's.
        while node.job().is_some() {}
        while node.log_line().is_some() {}
    }
    drop(node);
    assert_eq!(platform.buffers.lent(), 0);
});
