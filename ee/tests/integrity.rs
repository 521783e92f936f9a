//! Marks that a protocol asks for: what its own instance next door did not send does not reach it.

mod common;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use common::guest::{Flow, answer, ask, flow, module, question};
use common::{Fate, Frame, Options, World};
use wire::capsule::Capsule;
use wire::id::{CapsuleId, Path};

const SECOND: Duration = Duration::from_secs(1);

/// Sets a key for every neighbor at boot: the 32 bytes at 512, which `before` may change.
fn marked(before: &str) -> Flow {
    let boot = format!(
        "(func (export \"on_boot\") (param i32) (local $n i32)
            {before}
            (local.set $n (call $neighborhood_list
                (call $cap_lookup (i32.const 64) (i32.const 12)) (i32.const 256) (i32.const 8)))
            (loop $l (if (local.get $n) (then
                (local.set $n (i32.sub (local.get $n) (i32.const 1)))
                (if (call $integrity_set
                        (i32.load offset=256 (i32.shl (local.get $n) (i32.const 2)))
                        (i32.const 512) (i32.const 32))
                    (then (unreachable)))
                (br $l)))))"
    );
    flow("ask", module(&(boot + &common::guest::ask_handlers(7))), |_| ())
}

/// The identifier of the flow's capsules.
fn id(flow: &Flow) -> CapsuleId {
    CapsuleId::compute(&flow.hash(), &Path::default(), 0, &[])
}

fn asks(world: &mut World, session: ee::node::SessionId, number: u32) -> bool {
    world.heard(0, session);
    world.say(0, session, &question(b'c', number));
    world.run(SECOND);
    world.heard(0, session) == [answer(b'c', 7, number)]
}

/// Three nodes that run the flow and have spoken.
fn going(flow: &Flow, options: Options<'_>) -> (World, ee::node::SessionId) {
    let mut world = World::line_with(3, options);
    world.start(0, flow);
    let session = world.session(0, "ask");
    assert!(asks(&mut world, session, 1), "{:?} {:?}", world.log(1), world.log(2));
    (world, session)
}

#[test]
fn marked_capsules_pass_and_others_of_the_flow_do_not() {
    let flow = marked("");
    let (mut world, session) = going(&flow, Options::default());
    let (of_flow, last) = (id(&flow), Rc::new(RefCell::new(None::<Frame>)));
    let copy = last.clone();
    world.tap(move |frame: &mut Frame| {
        let capsule = Capsule::parse(&frame.bytes[14..]).unwrap();
        assert_eq!(capsule.mark.is_some(), capsule.id == of_flow);
        if capsule.id == of_flow && frame.to == 1 && frame.from == 0 {
            copy.replace(Some(frame.clone()));
            return Fate::Lose;
        }
        Fate::Pass
    });
    assert!(!asks(&mut world, session, 2));
    let refused = |world: &mut World| {
        (world.count(1, "peer_integrity_refused"), world.count(1, "peer_integrity_replayed"))
    };
    assert_eq!(refused(&mut world), (0, 0));
    let frame = last.take().expect("a capsule from a to b");
    let before = world.count(1, "capsules_received");
    // Without a mark; every bit of mark, identifier and payload changed.
    let mut bare = frame.clone();
    bare.set_payload(&question(b'c', 3));
    world.hand(1, frame.link, &bare.bytes);
    assert_eq!(refused(&mut world), (1, 0));
    for bit in (14 + 12) * 8..frame.bytes.len() * 8 {
        let mut bad = frame.bytes.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        world.hand(1, frame.link, &bad);
    }
    assert_eq!(world.count(1, "capsules_received"), before);
    let (wrong, again) = refused(&mut world);
    // A changed identifier is no capsule of the flow, and a lower sequence number is an old one.
    assert_eq!(wrong + again, 1 + (frame.bytes.len() as u64 - 26 - 16) * 8);
    assert!(again < 64 && world.log(1).iter().any(|l| l.contains("without the mark")));
    // As it was, once.
    for _ in 0..3 {
        world.hand(1, frame.link, &frame.bytes);
    }
    assert_eq!(world.count(1, "capsules_received"), before + 1);
    assert_eq!(refused(&mut world), (wrong, again + 2));
    world.untap();
    world.run(SECOND);
    assert!(asks(&mut world, session, 4));
}

#[test]
fn the_key_must_be_the_same() {
    // Each node takes its own name for a part of the key.
    let flow = marked("(drop (call $node_name (i32.const 512) (i32.const 8)))");
    let mut world = World::line(3);
    world.start(0, &flow);
    let session = world.session(0, "ask");
    for n in 1..5 {
        assert!(!asks(&mut world, session, n));
    }
    // What waited for the flow to start is not checked; all that follows is.
    assert!(world.count(1, "peer_integrity_refused") >= 3);
    assert!(world.count(2, "capsules_received") <= 1);
    // The same protocol that asks for nothing is not concerned.
    let open = ask("open", 7);
    world.start(0, &open);
    let session = world.session(0, "open");
    assert!(asks(&mut world, session, 9), "{:?}", world.log(1));
}

#[test]
fn marks_pass_under_protected_links_too() {
    let seen = Rc::new(Cell::new(0));
    let options = Options { keys: Some(|_, peer| Some(peer)), ..Options::default() };
    let (mut world, session) = going(&marked(""), options);
    let count = seen.clone();
    world.tap(move |frame: &mut Frame| {
        assert!(frame.capsule().is_none());
        count.set(count.get() + 1);
        Fate::Pass
    });
    assert!(asks(&mut world, session, 2) && seen.get() >= 4);
}
