//! A flow that ends itself, and one that does not let itself be fetched by a neighbor.

mod common;

use std::time::Duration;

use common::guest::{self, Flow};
use common::{Options, World};
use ee::node::SessionId;
use wire::control::FlowState;

const SECOND: Duration = Duration::from_secs(1);
const MILLI: Duration = Duration::from_millis(1);

/// A packet of a program says what to do: e: end, and tell the neighbors of it first; m: send to all neighbors; n, y: not
/// serve, serve all of them. The result comes back as 4 bytes. When it ends it says so in the log.
const LEAVER: &str = r#"
    (data (i32.const 256) "neighborhoodbye")
    (func $say (param $s i32) (param $n i32)
        (i32.store (i32.const 512) (local.get $n))
        (drop (call $session_reply (local.get $s) (i32.const 512) (i32.const 4))))
    (func $send (param $c i32)
        (drop (call $capsule_multicast (local.get $c)
            (call $cap_lookup (i32.const 256) (i32.const 12)) (i32.const 0))))
    (func $serve (param $yes i32) (result i32)
        (local $n i32) (local $result i32)
        (local.set $n (call $neighborhood_list
            (call $cap_lookup (i32.const 256) (i32.const 12)) (i32.const 1024) (i32.const 16)))
        (block $done (loop $next
            (br_if $done (i32.eqz (local.get $n)))
            (local.set $n (i32.sub (local.get $n) (i32.const 1)))
            (local.set $result (i32.or (local.get $result) (call $neighbor_serve
                (i32.load (i32.add (i32.const 1024) (i32.mul (local.get $n) (i32.const 4)))) (local.get $yes))))
            (br $next)))
        (local.get $result))
    (func (export "on_stop")
        (drop (call $log (i32.const 2) (i32.const 268) (i32.const 3))))
    (func (export "on_session") (param $c i32) (param $s i32) (param $what i32) (param $len i32)
        (local $op i32)
        (if (i32.ne (local.get $what) (i32.const 1)) (then (return)))
        (local.set $op (i32.load8_u (i32.const 0)))
        (if (i32.eq (local.get $op) (i32.const 101)) (then
            (call $say (local.get $s) (call $flow_end))
            (call $send (local.get $c))))
        (if (i32.eq (local.get $op) (i32.const 109)) (then
            (call $send (local.get $c))
            (call $say (local.get $s) (i32.const 0))))
        (if (i32.eq (local.get $op) (i32.const 110)) (then (call $say (local.get $s) (call $serve (i32.const 0)))))
        (if (i32.eq (local.get $op) (i32.const 121)) (then (call $say (local.get $s) (call $serve (i32.const 1)))))
        (if (i32.eq (local.get $op) (i32.const 120)) (then
            (call $say (local.get $s) (call $neighbor_serve (i32.const 77777) (i32.const 1))))))
"#;

/// Two nodes; the flow runs on the first, which has a session with it.
fn home() -> (World, Flow, SessionId) {
    let mut world = World::line_with(2, Options::default());
    let flow = guest::of("leaver", LEAVER);
    world.start(0, &flow);
    let session = world.session(0, "leaver");
    world.run(MILLI);
    (world, flow, session)
}

fn tell(world: &mut World, session: SessionId, op: u8) -> i32 {
    world.say(0, session, &[op]);
    world.run(SECOND);
    let heard = world.heard(0, session);
    i32::from_le_bytes(heard.first().expect("an answer")[..].try_into().unwrap())
}

#[test]
fn a_flow_ends_itself_after_what_else_it_wanted() {
    let mut world = World::line_with(2, Options::default());
    let before = world.holds(0);
    let flow = guest::of("leaver", LEAVER);
    world.start(0, &flow);
    let session = world.session(0, "leaver");
    world.run(MILLI);
    world.say(0, session, b"e");
    world.run(2 * SECOND);
    assert_eq!(world.state(0, flow.hash()), Some(FlowState::Ended("stopped by itself".into())));
    assert!(world.log(0).iter().any(|line| line.contains("bye")), "{:?}", world.log(0));
    assert_eq!(world.holds(0), before);
    // What it said last was said: the neighbor asked for it, in vain.
    assert_eq!(world.count(0, "translations_served"), 1);
    assert_eq!(world.state(1, flow.hash()), None);
    // It may come again, as any.
    world.start(0, &flow);
    assert_eq!(world.state(0, flow.hash()), Some(FlowState::Running));
}

#[test]
fn a_neighbor_that_is_not_served_does_not_get_the_flow() {
    let (mut world, flow, session) = home();
    assert_eq!(tell(&mut world, session, b'n'), 0);
    assert_eq!(tell(&mut world, session, b'm'), 0);
    world.run(5 * SECOND);
    assert_eq!(world.state(1, flow.hash()), None);
    assert_eq!(world.count(0, "downloads_served"), 0);
    assert_eq!(tell(&mut world, session, b'y'), 0);
    assert_eq!(tell(&mut world, session, b'm'), 0);
    world.run(5 * SECOND);
    assert_eq!(world.state(1, flow.hash()), Some(FlowState::Running));
}

/// In the middle of a download, too.
#[test]
fn what_it_has_begun_to_fetch_it_does_not_get_to_the_end() {
    let mut world = World::line_with(2, Options::default());
    let flow = guest::big(guest::of("leaver", LEAVER), 60_000);
    world.start(0, &flow);
    let session = world.session(0, "leaver");
    world.run(MILLI);
    world.say(0, session, b"m");
    let begun = world.run_until(SECOND, |world| world.count(0, "downloads_served") > 1);
    assert!(begun);
    world.say(0, session, b"n");
    world.run(10 * SECOND);
    assert!(
        !matches!(world.state(1, flow.hash()), Some(FlowState::Running)),
        "{:?}",
        world.state(1, flow.hash())
    );
    assert_eq!(world.state(0, flow.hash()), Some(FlowState::Running));
}

#[test]
fn only_neighbors_that_it_knows_can_be_named() {
    let (mut world, _, session) = home();
    assert_eq!(tell(&mut world, session, b'x'), ee::abi::Error::BadHandle.code());
}
