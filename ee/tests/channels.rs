//! Cut-through channels that an operator makes, and what a link does with teams that want more of it than it has.

mod common;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use common::guest::{self, answer, ask, question};
use common::{Fate, Frame, Options, World, at, platform};
use ee::Node;
use ee::config::NodeConfig;
use nodeos::link::LinkId;
use wire::capsule::{Capsule, HEADER_LEN};
use wire::control::{Answer, ChannelInfo, CutInfo, Erred, Request};
use wire::id::{CapsuleId, Path, TupleHash};
use wire::system::{REQUEST, translation_id};

const SECOND: Duration = Duration::from_secs(1);
/// A capsule that no flow knows.
const FOREIGN: CapsuleId = CapsuleId([0x5a; 16]);

/// A frame with a capsule from node a to node b.
fn frame(id: &CapsuleId, payload: usize) -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0x88, 0xb5];
    bytes.resize(14 + HEADER_LEN + payload, 0xee);
    Capsule::emit_header(&mut bytes[14..], id, payload);
    bytes
}

fn add(from: &str, capsule: CapsuleId, to: &str, flow: Option<TupleHash>) -> Request {
    Request::ChannelAdd { from: from.into(), capsule, to: to.into(), flow }
}

fn remove(from: &str, capsule: CapsuleId) -> Request {
    Request::ChannelRemove { from: from.into(), capsule }
}

fn shown(answer: Answer) -> Vec<ChannelInfo> {
    let Answer::Channels(page) = answer else { panic!("{answer:?}") };
    assert_eq!(page.next, None);
    page.items
}

fn cuts(world: &mut World) -> Vec<CutInfo> {
    let cut = |c| if let ChannelInfo::CutThrough(cut) = c { Some(cut) } else { None };
    shown(world.control(1, Request::ChannelShow { from: 0 })).into_iter().filter_map(cut).collect()
}

/// What arrives at node c from now on.
fn arriving(world: &mut World) -> Rc<RefCell<Vec<Frame>>> {
    let seen: Rc<RefCell<Vec<Frame>>> = Rc::default();
    let copy = seen.clone();
    world.tap(move |frame: &mut Frame| {
        if frame.to == 2 {
            copy.borrow_mut().push(frame.clone());
            return Fate::Lose;
        }
        Fate::Pass
    });
    seen
}

#[test]
fn capsules_pass_without_the_execution_environment() {
    let mut world = World::line(3);
    let flow = ask("ask", 5);
    world.start(0, &flow);
    let session = world.session(0, "ask");
    let asks = |world: &mut World, n| {
        world.say(0, session, &question(b'c', n));
        world.run(SECOND);
        world.heard(0, session) == [answer(b'c', 5, n)]
    };
    assert!(asks(&mut world, 1));
    let before = world.flow(1, flow.hash()).unwrap().capsules;
    let id = CapsuleId::compute(&flow.hash(), &Path::default(), 0, &[]);
    for (from, to) in [("a", "c"), ("c", "a")] {
        assert_eq!(world.control(1, add(from, id, to, Some(flow.hash()))), Answer::Done);
    }
    for n in 2..5 {
        assert!(asks(&mut world, n), "{:?}", world.log(2));
    }
    assert_eq!(world.flow(1, flow.hash()).unwrap().capsules, before, "its code saw nothing of it");
    let all = cuts(&mut world);
    assert_eq!(all.len(), 2);
    for cut in &all {
        assert_eq!((cut.capsule, cut.flow, cut.passed.0, cut.dropped), (id, Some(flow.hash()), 3, 0));
        assert_eq!((&cut.team.1[..], cut.passed.1), ("ask", 3 * (HEADER_LEN as u64 + 8)));
    }
    let sent = world.teams(1)[1].sent.0;
    // Closing one leaves the count of what the team sent.
    assert_eq!(world.control(1, remove("c", id)), Answer::Done);
    assert_eq!((cuts(&mut world).len(), world.teams(1)[1].sent.0), (1, sent));
    assert!(asks(&mut world, 5), "the way back is the protocol's again");

    // With the flow its channels end.
    assert_eq!(world.stop(1, flow.hash(), true), Answer::Done);
    assert!(cuts(&mut world).is_empty());
    let (seen, unknown) = (arriving(&mut world), world.count(1, "capsules_unknown"));
    world.hand(1, LinkId(0), &frame(&id, 8));
    world.run(SECOND / 10);
    assert!(seen.borrow().iter().all(|f| f.capsule().is_none_or(|(got, _)| got != id)));
    let refused = world.count(1, "capsules_refused");
    assert!(world.count(1, "capsules_unknown") + refused > unknown);
}

#[test]
fn the_operators_channels_are_bounded_by_a_team_of_their_own() {
    let mut world =
        World::line_with(3, Options { team: "rate = \"80kbit\"\nburst = \"2k\"", ..Options::default() });
    let empty = world.holds(1);
    assert_eq!(world.control(1, add("a", FOREIGN, "c", None)), Answer::Done);
    let team = world.teams(1)[1].clone();
    assert_eq!((&team.name[..], team.flow), ("channels", None));
    let seen = arriving(&mut world);
    for _ in 0..200 {
        world.hand(1, LinkId(0), &frame(&FOREIGN, 200 - HEADER_LEN - 14));
        world.run(Duration::from_millis(10));
    }
    // Two seconds at 10 kB/s, and the burst.
    let (bytes, count) = seen.borrow().iter().fold((0, 0), |(b, n), f| (b + f.bytes.len(), n + 1));
    assert!((21_000..=22_200).contains(&bytes), "{bytes}");
    let cut = cuts(&mut world).remove(0);
    assert_eq!((cut.passed.0, cut.dropped), (count, 200 - count));
    assert_eq!(world.teams(1)[1].sent.0, cut.passed.1);
    assert_eq!(seen.borrow()[0].capsule().unwrap().0, FOREIGN);
    // Nothing of it reached the execution environment.
    assert_eq!(world.count(1, "capsules_unknown"), 0);

    // A second channel is the same team's; with the last one it goes.
    let other = CapsuleId([1; 16]);
    assert_eq!(world.control(1, add("c", other, "a", None)), Answer::Done);
    assert_eq!(world.teams(1).len(), 2);
    assert_eq!(world.control(1, remove("a", FOREIGN)), Answer::Done);
    assert_eq!(world.teams(1).len(), 2);
    assert_eq!(world.control(1, remove("c", other)), Answer::Done);
    assert_eq!(world.holds(1), empty);
    // Ends and begins again under another name.
    for _ in 0..3 {
        assert_eq!(world.control(1, add("a", FOREIGN, "c", None)), Answer::Done);
        assert_ne!(world.teams(1)[1].id, team.id);
        assert_eq!(world.control(1, remove("a", FOREIGN)), Answer::Done);
    }
    assert_eq!(world.holds(1), empty);
    let lines = world.log(1);
    assert!(lines.iter().any(|l| l.contains("from a to c, paid by channels, opened by admin")), "{lines:?}");
    assert!(lines.iter().any(|l| l.contains("from a closed by admin")), "{lines:?}");
}

#[test]
fn channels_that_cannot_be_are_refused() {
    let mut world = World::line(3);
    let refused = |world: &mut World, request, erred, why: &str| match world.control(1, request) {
        Answer::Error(e) => assert!(e.erred == erred && e.text.contains(why), "{e}"),
        other => panic!("{why}: {other:?}"),
    };
    let operator = Erred::Operator;
    refused(&mut world, add("x", FOREIGN, "c", None), operator, "there is no neighbor \"x\"");
    refused(&mut world, add("a", FOREIGN, "y", None), operator, "there is no neighbor \"y\"");
    refused(&mut world, add("a", FOREIGN, "a", None), operator, "the same neighbor");
    refused(&mut world, add("a", translation_id(REQUEST), "c", None), operator, "for the node itself");
    refused(&mut world, add("a", FOREIGN, "c", Some(TupleHash([1; 32]))), operator, "no such flow");
    refused(&mut world, remove("a", FOREIGN), operator, "no such channel");
    refused(&mut world, remove("x", FOREIGN), operator, "no such channel");
    assert_eq!(world.teams(1).len(), 1, "nothing is left of what was refused");
    for n in 0..64 {
        assert_eq!(world.control(1, add("a", CapsuleId([n; 16]), "c", None)), Answer::Done);
    }
    refused(&mut world, add("a", CapsuleId([3; 16]), "c", None), operator, "remove it first");
    refused(&mut world, add("a", FOREIGN, "c", None), Erred::Node, "which is the most");
    let mut from = 0;
    let mut all = Vec::new();
    loop {
        let Answer::Channels(page) = world.control(1, Request::ChannelShow { from }) else {
            panic!("channels")
        };
        all.extend(page.items);
        let Some(next) = page.next else { break };
        from = next;
    }
    // Two links, two neighbors, and these.
    assert_eq!(all.len(), 2 + 2 + 64);
}

/// What is sealed shows no identifier below the execution environment; and what came in the clear, from whoever,
/// must not be sent on.
#[test]
fn protected_links_have_no_cut_through_channels() {
    let keys: fn(usize, usize) -> Option<usize> = |_, peer| Some(peer);
    let mut world = World::line_with(3, Options { keys: Some(keys), ..Options::default() });
    world.run(SECOND);
    match world.control(1, add("a", FOREIGN, "c", None)) {
        Answer::Error(e) => {
            assert!(e.erred == Erred::Operator && e.text.contains("link to a is protected"), "{e}")
        }
        other => panic!("{other:?}"),
    }
    assert!(cuts(&mut world).is_empty());
}

#[test]
fn a_configurations_channels_are_there_from_the_start() {
    let text = r#"
        [node]
        name = "b"
        [[link]]
        name = "w0"
        mac = "02:00:00:00:00:01"
        [[link]]
        name = "w1"
        mac = "02:00:00:00:01:00"
        address = "10.1.0.1/24"
        [[neighbor]]
        name = "a"
        link = "w0"
        mac = "02:00:00:00:00:00"
        [[neighbor]]
        name = "c"
        link = "w1"
        udp = "10.1.0.2:3322"
        [[channel]]
        from = "a"
        to = "c"
        capsule = "5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a"
    "#;
    let platform = platform(16, 1);
    let mut node = Node::new(&NodeConfig::parse(text).unwrap(), platform.clone(), at(0)).unwrap();
    let channels = shown(node.control(at(0), "admin", Request::ChannelShow { from: 0 }));
    let lines: Vec<String> = channels
        .iter()
        .map(|channel| match channel {
            ChannelInfo::In { link, address } => format!("in {link} {address}"),
            ChannelInfo::Out { link, neighbor, address, .. } => format!("out {link} {neighbor} {address}"),
            ChannelInfo::CutThrough(c) => format!("cut {} {} {} {}", c.from.1, c.to.1, c.address, c.team.1),
        })
        .collect();
    let expected = [
        "in w0 02:00:00:00:00:01",
        "in w1 02:00:00:00:01:00",
        "in w1 10.1.0.1:3322",
        "out w0 a 02:00:00:00:00:00",
        "out w1 c 10.1.0.2:3322",
        "cut a c 10.1.0.2:3322 channels",
    ];
    assert_eq!(lines, expected);
    // The shortest packet to a neighbor that is reached by UDP in the clear is 128 bytes (docs/wire.md).
    node.frame(at(0), LinkId(0), platform.buffers.copy_of(&frame(&FOREIGN, 4)).unwrap());
    node.poll(at(0));
    let question = node.transmit(at(0), LinkId(1)).expect("who has 10.1.0.2?");
    let mut reply = question.to_vec();
    let mac = [2, 0, 0, 0, 1, 1];
    // ARP: the question turned round (RFC 826).
    reply[0..6].copy_from_slice(&question[6..12]);
    reply[6..12].copy_from_slice(&mac);
    reply[21] = 2;
    reply[22..28].copy_from_slice(&mac);
    reply[28..32].copy_from_slice(&question[38..42]);
    reply[32..38].copy_from_slice(&question[22..28]);
    reply[38..42].copy_from_slice(&question[28..32]);
    node.frame(at(0), LinkId(1), platform.buffers.copy_of(&reply).unwrap());
    let sent = node.transmit(at(0), LinkId(1)).expect("it was cut through");
    assert_eq!(sent.len(), 14 + 28 + 128);
    let capsule = Capsule::parse(&sent[42..]).unwrap();
    assert_eq!((capsule.id, capsule.payload_len), (FOREIGN, 4));
}

/// Sends a capsule of 100 bytes to every neighbor for each packet.
const SEND: &str = r#"
    (func (export "on_session") (param $c i32) (param $s i32) (param $what i32) (param $len i32)
        (if (i32.ne (local.get $what) (i32.const 1)) (then (return)))
        (drop (call $capsule_resize (local.get $c) (i32.const 100)))
        (drop (call $capsule_multicast (local.get $c) (call $cap_lookup (i32.const 64) (i32.const 12)) (i32.const 0))))
"#;

#[test]
fn a_team_that_ends_leaves_no_frame_behind() {
    let mut world = World::line_with(2, Options { link: "rate = \"8kbit\"", ..Options::default() });
    let flow = guest::of("send", SEND);
    let other = guest::of("other", SEND);
    let empty = world.holds(0);
    for flow in [&flow, &other] {
        world.start(0, flow);
    }
    let [a, b] = ["send", "other"].map(|name| world.session(0, name));
    for _ in 0..60 {
        world.say(0, a, b"-");
        world.say(0, b, b"-");
    }
    let waiting = |world: &mut World| {
        let Answer::Links(links) = world.control(0, Request::LinkShow) else { panic!("links") };
        links[0].waiting
    };
    let all = waiting(&mut world);
    assert!(all > 80, "{all}");
    assert_eq!(world.stop(0, flow.hash(), true), Answer::Done);
    let left = waiting(&mut world);
    assert!((40..=60).contains(&left), "{left} of {all}: those of the other team");
    assert_eq!(world.stop(0, other.hash(), true), Answer::Done);
    assert_eq!(waiting(&mut world), 0);
    let holds = world.holds(0);
    assert_eq!((holds.1, holds.2, holds.3), (empty.1, empty.2, empty.3));
}

/// The same where the neighbor has not proven who it is.
#[test]
fn nor_does_it_where_a_neighbor_is_awaited() {
    let keys: fn(usize, usize) -> Option<usize> = |_, peer| Some(peer);
    let mut world = World::line_with(2, Options { keys: Some(keys), ..Options::default() });
    world.tap(|_| Fate::Lose);
    let flow = guest::of("send", SEND);
    world.start(0, &flow);
    let session = world.session(0, "send");
    for _ in 0..5 {
        world.say(0, session, b"-");
    }
    assert!(world.holds(0).1 >= 5);
    assert_eq!(world.stop(0, flow.hash(), true), Answer::Done);
    assert_eq!(world.holds(0).1, 0);
}

#[test]
fn a_flood_of_one_flow_costs_the_other_no_frame() {
    let link = "rate = \"80kbit\"\nqueue = 64";
    let mut world = World::line_with(2, Options { link, ..Options::default() });
    let (flood, quiet) = (guest::of("send", SEND), guest::of("other", SEND));
    let [flood_id, quiet_id] =
        [&flood, &quiet].map(|flow| CapsuleId::compute(&flow.hash(), &Path::default(), 0, &[]));
    for flow in [&flood, &quiet] {
        world.start(0, flow);
    }
    let [a, b] = ["send", "other"].map(|name| world.session(0, name));
    let seen: Rc<RefCell<Vec<CapsuleId>>> = Rc::default();
    let copy = seen.clone();
    world.tap(move |frame: &mut Frame| {
        copy.borrow_mut().extend(frame.capsule().map(|(id, _)| id));
        Fate::Lose
    });
    for _ in 0..200 {
        world.say(0, a, b"-");
        world.run(Duration::from_millis(1));
    }
    // A third of the room: less than its part.
    let before = seen.borrow().len();
    for _ in 0..21 {
        world.say(0, b, b"-");
        world.say(0, a, b"-");
    }
    let Answer::Links(links) = world.control(0, Request::LinkShow) else { panic!("links") };
    assert_eq!(links[0].waiting, 64);
    world.run(10 * SECOND);
    let seen = seen.borrow();
    let count = |of| seen.iter().filter(|id| **id == of).count();
    assert_eq!(count(quiet_id), 21);
    assert!((60..150).contains(&count(flood_id)), "{}", count(flood_id));
    // Turn by turn with those that waited before it.
    let turn = seen[before..].iter().take(20).filter(|id| **id == quiet_id).count();
    assert!((9..=11).contains(&turn), "{turn}");
    let Answer::Links(links) = world.control(0, Request::LinkShow) else { panic!("links") };
    assert_eq!((links[0].waiting, links[0].dropped > 50), (0, true));
}
