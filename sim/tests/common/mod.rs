//! What tests of the simulator share: the protocols that are shipped ([`real`]), the guests that the tests
//! of `ee` use, and a small protocol: a flood that leaves its round and its hop count at every node, and
//! tells programs about it.

#![allow(dead_code, reason = "each test file uses its part")]

#[path = "../../../ee/tests/common/guest.rs"]
pub mod guest;
#[path = "../../../ee/tests/common/hostile.rs"]
pub mod hostile;
pub mod real;

use std::time::Duration;

use sim::{Session, Sim, SimError};
use wire::limits::{Limits, Operation};
use wire::tuple::{Body, CapsuleType, Credentials, Events, Part, Protocol, Tuple};

/// Numbers for [`guest`], from a seed.
pub struct Random(sim::random::Random);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(sim::random::Random::new(seed, 0))
    }

    pub fn number(&mut self) -> u64 {
        self.0.bits()
    }
}

/// Packets from programs: byte 0 says flood (1) or tell (0), bytes 4 to 7 which round. Capsules have the
/// same form, with the hop count in byte 1. A node that has seen a round tells the capsule that it saw.
const FLOOD: &str = r#"(module
    (import "bees" "cap_lookup" (func $lookup (param i32 i32) (result i32)))
    (import "bees" "capsule_resize" (func $resize (param i32 i32) (result i32)))
    (import "bees" "capsule_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (import "bees" "capsule_multicast" (func $multicast (param i32 i32 i32) (result i32)))
    (import "bees" "cache_get" (func $get (param i32 i32 i32 i32) (result i32)))
    (import "bees" "cache_put" (func $put (param i32 i32 i32 i32 i32) (result i32)))
    (import "bees" "session_reply" (func $reply (param i32 i32 i32) (result i32)))
    (memory (export "memory") 1 1)
    (global (export "bees_abi") i32 (i32.const 1))
    (global (export "bees_inbox") i32 (i32.const 0))
    (data (i32.const 64) "neighborhood")
    (global $hood (mut i32) (i32.const 0))
    (func (export "on_boot") (param i32)
        (global.set $hood (call $lookup (i32.const 64) (i32.const 12))))
    (func $pass_on (param $capsule i32) (param $flags i32)
        (drop (call $put (i32.const 4) (i32.const 4) (i32.const 0) (i32.const 8) (i32.const 600000)))
        (drop (call $resize (local.get $capsule) (i32.const 8)))
        (drop (call $write (local.get $capsule) (i32.const 0) (i32.const 0) (i32.const 8)))
        (drop (call $multicast (local.get $capsule) (global.get $hood) (local.get $flags))))
    (func (export "on_session") (param $capsule i32) (param $session i32) (param $what i32) (param $len i32)
        (local $n i32)
        (if (i32.ne (local.get $what) (i32.const 1)) (then (return)))
        (if (i32.load8_u (i32.const 0))
            (then (call $pass_on (local.get $capsule) (i32.const 0)))
            (else
                (local.set $n (call $get (i32.const 4) (i32.const 4) (i32.const 128) (i32.const 8)))
                (if (i32.gt_s (local.get $n) (i32.const 0))
                    (then (drop (call $reply (local.get $session) (i32.const 128) (local.get $n))))))))
    (func (export "on_capsule") (param $capsule i32) (param $kind i32) (param $len i32) (param $from i32)
        (if (i32.ge_s (call $get (i32.const 4) (i32.const 4) (i32.const 128) (i32.const 8)) (i32.const 0))
            (then (return)))
        (i32.store8 (i32.const 1) (i32.add (i32.load8_u (i32.const 1)) (i32.const 1)))
        (call $pass_on (local.get $capsule) (i32.const 2))))"#;

/// The flood's module and its tuple.
pub fn flood() -> (Vec<u8>, Vec<u8>) {
    let module = wat::parse_str(FLOOD).unwrap();
    let protocol = Protocol {
        capsules: vec![CapsuleType {
            name: "flood".into(),
            limits: Limits::NONE.with(Operation::Multicasts, 1),
            derives: vec![],
        }],
        events: Events { session: Some(0), ..Events::default() },
        session: true,
        ..Protocol::new("flood", Part::of(&module).unwrap())
    };
    let tuple = Tuple { body: Body::new([1; 16], vec![protocol]), credentials: Credentials::None }.encode();
    (module, tuple)
}

/// Injects the flood at a node and opens a session with it.
pub fn start(sim: &mut Sim, at: usize) -> Session {
    let (module, tuple) = flood();
    sim.inject(at, &tuple, &[&module]).unwrap();
    let mut session = None;
    let running = sim.run_until(Duration::from_secs(5), |sim| {
        session = sim.session(at, "flood").ok();
        session.is_some()
    });
    assert!(
        running,
        "the flow does not start: {:?}",
        sim.control(at, wire::control::Request::Log { from: 0 })
    );
    session.unwrap()
}

/// Starts a round.
pub fn round(sim: &mut Sim, session: Session, number: u32) {
    let mut packet = [1, 0, 0, 0, 0, 0, 0, 0];
    packet[4..].copy_from_slice(&number.to_le_bytes());
    sim.send(session, &packet).unwrap();
}

/// After how many hops a round came to a node, if it did.
pub fn hops(sim: &mut Sim, at: usize, number: u32) -> Option<u8> {
    let session = match sim.session(at, "flood") {
        Ok(session) => session,
        Err(SimError::Session(_) | SimError::Down(_)) => return None,
        Err(other) => panic!("{other}"),
    };
    let mut packet = [0; 8];
    packet[4..].copy_from_slice(&number.to_le_bytes());
    sim.send(session, &packet).unwrap();
    let told = sim.received(session).unwrap();
    sim.close(session);
    told.first().map(|packet| packet[1])
}
