//! Protected links between nodes: protocols spread over them as over others, and whoever is on the link
//! reads nothing, changes nothing, repeats nothing, and cannot talk the nodes out of it.

mod common;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use common::guest::{answer, ask, question};
use common::{Fate, Frame, Options, Random, World, at, identity, platform};
use ee::Node;
use ee::config::NodeConfig;
use nodeos::link::LinkId;
use nodeos::platform::{Entropy, EntropyError};
use wire::anep::{self, Packet};
use wire::control::{Answer, NeighborInfo, Protection, Request};
use wire::link::{Frame as LinkFrame, OVERHEAD};

const SECOND: Duration = Duration::from_secs(1);

/// Everybody knows the right keys.
fn right(_: usize, peer: usize) -> Option<usize> {
    Some(peer)
}

fn protected(n: usize) -> World {
    World::line_with(n, Options { keys: Some(right), ..Options::default() })
}

fn neighbors(world: &mut World, node: usize) -> Vec<NeighborInfo> {
    let Answer::Neighbors(all) = world.control(node, Request::NeighborShow) else { panic!("neighbors") };
    all
}

fn protection(world: &mut World, node: usize) -> Vec<&'static str> {
    neighbors(world, node).iter().map(|n| n.protection.name()).collect()
}

/// The ANEP type of a frame.
fn kind(frame: &Frame) -> u16 {
    Packet::new_checked(&frame.bytes[14..]).unwrap().type_id()
}

/// Asks node c from node a; whether the answer came within `limit`.
fn asks(world: &mut World, session: ee::node::SessionId, number: u32, limit: Duration) -> bool {
    world.say(0, session, &question(b'c', number));
    let wanted = answer(b'c', 7, number);
    world.run_until(limit, |w| w.heard(0, session).contains(&wanted))
}

#[test]
fn a_protocol_spreads_and_nothing_of_it_can_be_read() {
    let mut world = protected(3);
    let flow = ask("ask", 7);
    let (secrets, sealed) = ([flow.module[20..44].to_vec(), flow.hash().0.to_vec()], Rc::new(Cell::new(0)));
    let count = sealed.clone();
    world.tap(move |frame: &mut Frame| {
        assert_eq!(kind(frame), anep::TYPE_LINK);
        assert!(frame.capsule().is_none());
        for secret in &secrets {
            assert!(!frame.bytes.windows(secret.len()).any(|w| w == secret));
        }
        count.set(count.get() + 1);
        Fate::Pass
    });
    // At once, before anybody has proven anything: it waits.
    world.start(0, &flow);
    let session = world.session(0, "ask");
    assert!(asks(&mut world, session, 1, SECOND), "{:?} {:?}", world.log(0), world.log(1));
    assert!(sealed.get() > 20);
    assert_eq!(protection(&mut world, 1), ["protected", "protected"]);
    let Protection::Protected { identity: proven, .. } = neighbors(&mut world, 1)[0].protection else {
        panic!("protected")
    };
    assert_eq!(proven, identity(0).public().to_bytes());
    assert!(world.log(1).iter().any(|l| l.contains("a proved its identity")), "{:?}", world.log(1));
    for node in 0..3 {
        for wrong in ["peer_forged_frames", "peer_unprotected_frames", "peer_handshakes_refused"] {
            assert_eq!(world.count(node, wrong), 0);
        }
    }
    assert_eq!((world.count(0, "link_keys_made"), world.count(1, "link_keys_made")), (1, 2));
}

#[test]
fn sealing_takes_its_bytes_from_the_payload() {
    let [clear, sealed] = [World::line(2), protected(2)].map(|mut w| neighbors(&mut w, 0)[0].max_payload);
    assert_eq!(usize::from(clear - sealed), OVERHEAD);
}

#[test]
fn loss_repetition_and_damage_cost_time_only() {
    for seed in 0..5 {
        let mut world = protected(3);
        let (random, damaged) = (RefCell::new(Random::new(seed)), Rc::new(Cell::new(0)));
        let count = damaged.clone();
        world.tap(move |frame: &mut Frame| {
            let mut random = random.borrow_mut();
            if random.below(20) == 0 {
                let bit = 14 * 8 + random.below((frame.bytes.len() - 14) * 8);
                frame.bytes[bit / 8] ^= 1 << (bit % 8);
                count.set(count.get() + 1);
            }
            if random.below(10) == 0 { Fate::Lose } else { Fate::Pass }
        });
        world.start(0, &ask("ask", 7));
        let session = world.session(0, "ask");
        let answered = (1..20).find(|&n| asks(&mut world, session, n, SECOND));
        assert!(answered.is_some(), "seed {seed}: {:?} {:?}", world.log(0), world.log(1));
        assert!(damaged.get() > 0);
    }
}

#[test]
fn a_capsule_in_the_clear_is_refused_before_and_after() {
    // What the same nodes say where nothing is protected.
    let flow = ask("ask", 7);
    let overheard: Rc<RefCell<Vec<Frame>>> = Rc::default();
    let (mut open, copy) = (World::line(3), overheard.clone());
    open.tap(move |frame: &mut Frame| {
        copy.borrow_mut().push(frame.clone());
        Fate::Pass
    });
    open.start(0, &flow);
    let session = open.session(0, "ask");
    open.say(0, session, &question(b'c', 1));
    open.run(SECOND);
    let frames: Vec<Frame> = overheard.take().into_iter().filter(|f| f.to == 1).collect();
    assert!(frames.len() > 5);

    let mut world = protected(3);
    for round in 1..=2 {
        for frame in &frames {
            world.hand(1, frame.link, &frame.bytes);
        }
        assert_eq!(world.count(1, "peer_unprotected_frames"), round * frames.len() as u64);
        assert_eq!(world.count(1, "capsules_unknown") + world.count(1, "capsules_received"), 0);
        world.run(SECOND);
    }
    assert!(world.flow(1, flow.hash()).is_none());
    assert_eq!(neighbors(&mut world, 1).iter().map(|n| n.received).sum::<u64>(), 0);
    assert!(world.log(1).iter().any(|l| l.contains("unprotected frame")));
    assert_eq!(protection(&mut world, 1), ["protected", "protected"]);
}

#[test]
fn whoever_keeps_the_handshake_away_gets_silence() {
    let mut world = protected(2);
    let seen = Rc::new(Cell::new(0));
    let count = seen.clone();
    world.tap(move |frame: &mut Frame| {
        assert_eq!(kind(frame), anep::TYPE_LINK);
        let link = LinkFrame::parse(&frame.bytes[14..]).unwrap();
        assert!(!matches!(link, LinkFrame::Sealed { .. }));
        count.set(count.get() + 1);
        if matches!(link, LinkFrame::Hello { .. }) { Fate::Pass } else { Fate::Lose }
    });
    world.start(0, &ask("ask", 7));
    let session = world.session(0, "ask");
    for n in 0..60 {
        world.say(0, session, &question(b'b', n));
        world.run(SECOND);
    }
    assert!(seen.get() > 20);
    assert_eq!(protection(&mut world, 0), ["handshake"]);
    assert!(world.count(0, "link_unproven_dropped") > 50);
    assert_eq!(world.holds(1), protected(2).holds(1), "nothing waits for ever");
    // Where nobody interferes any more, all is well.
    world.untap();
    world.run(5 * SECOND);
    world.heard(0, session);
    world.say(0, session, &question(b'b', 99));
    world.run(SECOND);
    assert_eq!(world.heard(0, session), [answer(b'b', 7, 99)]);
}

#[test]
fn what_is_played_again_does_nothing() {
    let mut world = protected(3);
    let record: Rc<RefCell<Vec<Frame>>> = Rc::default();
    let copy = record.clone();
    world.tap(move |frame: &mut Frame| {
        copy.borrow_mut().push(frame.clone());
        Fate::Pass
    });
    world.start(0, &ask("ask", 7));
    let session = world.session(0, "ask");
    assert!(asks(&mut world, session, 1, SECOND));
    world.untap();
    let before: Vec<u64> = (0..3).flat_map(|n| neighbors(&mut world, n)).map(|n| n.received).collect();
    let record = record.take();
    let sealed = record.iter().filter(|f| f.bytes[22] == 5).count() as u64;
    for frame in &record {
        world.hand(frame.to, frame.link, &frame.bytes);
    }
    // And to the other end, as if that had sent them.
    for frame in &record {
        world.hand(frame.from, LinkId(0), &frame.bytes);
    }
    world.run(SECOND);
    let after: Vec<u64> = (0..3).flat_map(|n| neighbors(&mut world, n)).map(|n| n.received).collect();
    assert_eq!(before, after);
    let replayed: u64 = (0..3).map(|n| world.count(n, "peer_replayed_frames")).sum();
    assert!(replayed >= sealed, "{replayed} of {sealed}");
    assert!(world.heard(0, session).is_empty());
    assert!(asks(&mut world, session, 2, SECOND));
}

#[test]
fn a_node_with_another_key_is_never_a_neighbor() {
    // Node a takes b for somebody else; or a knows no key of b while b asks for a's.
    let wrong: [fn(usize, usize) -> Option<usize>; 3] = [
        |own, peer| Some(if own == 0 { 7 } else { peer }),
        |own, peer| (own != 0).then_some(peer),
        |own, peer| (own == 0).then_some(peer),
    ];
    for keys in wrong {
        let mut world = World::line_with(2, Options { keys: Some(keys), ..Options::default() });
        world.start(0, &ask("ask", 7));
        let session = world.session(0, "ask");
        for n in 0..30 {
            world.say(0, session, &question(b'b', n));
            world.run(SECOND);
        }
        assert!(world.heard(0, session).is_empty());
        assert_eq!(world.count(1, "flows_started") + world.count(1, "link_keys_made"), 0);
        assert_eq!(neighbors(&mut world, 1)[0].received, 0);
        let refused = ["peer_handshakes_refused", "peer_unprotected_frames", "peer_malformed_capsules"];
        let refused: u64 =
            (0..2).flat_map(|n| refused.map(|name| (n, name))).map(|(n, name)| world.count(n, name)).sum();
        assert!(refused > 5, "{refused}");
    }
}

#[test]
fn without_entropy_protected_links_stay_closed() {
    struct None;
    impl Entropy for None {
        fn fill(&self, _: &mut [u8]) -> Result<(), EntropyError> {
            Err(EntropyError)
        }
    }
    let text = format!(
        "[node]\nname = \"a\"\nidentity = \"{}\"\n[[link]]\nname = \"ab\"\nmac = \"02:00:00:00:00:00\"\n\
         [[neighbor]]\nname = \"b\"\nlink = \"ab\"\nmac = \"02:00:00:00:00:01\"\nkey = \"{}\"",
        &*identity(0).to_hex(),
        identity(1).public()
    );
    let mut platform = platform(16, 1);
    platform.entropy = Arc::new(None);
    let buffers = platform.buffers.clone();
    let mut node = Node::new(&NodeConfig::parse(&text).unwrap(), platform, at(0)).unwrap();
    let mut capsule = vec![2, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 1, 0x88, 0xb5];
    capsule.extend([0; wire::capsule::HEADER_LEN]);
    wire::capsule::Capsule::emit_header(&mut capsule[14..], &wire::id::CapsuleId([1; 16]), 0);
    for n in 0..10 {
        node.frame(at(n), LinkId(0), buffers.copy_of(&capsule).unwrap());
        node.poll(at(n));
        assert!(node.transmit(at(n), LinkId(0)).is_none() && node.job().is_none());
    }
    let log: Vec<String> = std::iter::from_fn(|| node.log_line()).map(|l| l.text).collect();
    assert!(log.iter().any(|l| l.contains("protected links are closed")), "{log:?}");
    let Answer::Neighbors(all) = node.control(at(20), "admin", Request::NeighborShow) else { panic!() };
    assert_eq!((all[0].protection, all[0].received, all[0].refused), (Protection::Closed, 0, 10));
}
