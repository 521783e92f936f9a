//! Nodes that know nobody at the start: they find each other, relay flows, and forget who is gone; and what others may
//! say harms nobody whom the operator knows.

mod common;

use std::time::Duration;

use common::guest;
use common::puppet::{House, OUT, OWN, SESSION, script};
use common::{Fate, Frame, Options, World, identity};
use ee::abi::Error;
use ee::node::SessionId;
use ee::sandbox::{Effect, Event, NeighborId, NeighborRef, SessionInput, Shared};
use nodeos::link::LinkId;
use nodeos::platform::{Instant, Now};
use wire::advert::{Advert, Hearsay, advert_id};
use wire::capsule::{Capsule, HEADER_LEN};
use wire::control::{Answer, FlowState, KnownNode, NeighborInfo, NeighborNews, Protection, Request};

const SECOND: Duration = Duration::from_secs(1);
const LINK: &str = "discover = true";

/// A packet of a program says what to do: s: send to all neighbors, l: how many are there? k: how many nodes are known? o: what may
/// be sent to the neighbor that was told of last? e: goes on without end. The result comes back as 4 bytes; what the flow is told of a neighbor plus 1000.
const SCOUT: &str = r#"
    (global $s (mut i32) (i32.const 0))
    (global $last (mut i32) (i32.const 0))
    (func $say (param $n i32)
        (i32.store (i32.const 512) (local.get $n))
        (drop (call $session_reply (global.get $s) (i32.const 512) (i32.const 4))))
    (func $all (result i32) (call $cap_lookup (i32.const 64) (i32.const 12)))
    (func (export "on_session") (param $c i32) (param $s i32) (param $what i32) (param $len i32) (local $op i32)
        (global.set $s (local.get $s))
        (if (i32.ne (local.get $what) (i32.const 1)) (then (return)))
        (local.set $op (i32.load8_u (i32.const 0)))
        (if (i32.eq (local.get $op) (i32.const 115)) (then
            (call $say (call $capsule_multicast (local.get $c) (call $all) (i32.const 0)))))
        (if (i32.eq (local.get $op) (i32.const 108)) (then
            (call $say (call $neighborhood_list (call $all) (i32.const 1024) (i32.const 16)))))
        (if (i32.eq (local.get $op) (i32.const 107)) (then
            (call $say (call $nodes_known (call $all) (i32.const 0) (i32.const 2048) (i32.const 1)))
            (call $say (i32.load (i32.const 2048)))))
        (if (i32.eq (local.get $op) (i32.const 101)) (then (loop $on (br $on))))
        (if (i32.eq (local.get $op) (i32.const 111)) (then
            (call $say (call $neighbor_max_payload (global.get $last))))))
    (func (export "on_neighbor") (param $n i32) (param $news i32)
        (global.set $last (local.get $n))
        (call $say (i32.add (local.get $news) (i32.const 1000))))
"#;

fn open(n: usize) -> World {
    World::line_with(n, Options { link: LINK, strangers: true, ..Options::default() })
}

/// Nodes that know each other's keys, and nothing else.
fn keyed(n: usize) -> World {
    let right: fn(usize, usize) -> Option<usize> = |_, peer| Some(peer);
    World::line_with(n, Options { link: LINK, strangers: true, keys: Some(right), ..Options::default() })
}

fn neighbors(world: &mut World, node: usize) -> Vec<NeighborInfo> {
    let Answer::Neighbors(all) = world.control(node, Request::NeighborShow) else { panic!("neighbors") };
    all
}

fn names(world: &mut World, node: usize) -> Vec<String> {
    let mut all: Vec<String> = neighbors(world, node).into_iter().map(|n| n.name).collect();
    all.sort();
    all
}

fn known(world: &mut World, node: usize) -> Vec<(String, u8, Option<String>)> {
    let Answer::Known(page) = world.control(node, Request::KnownShow { from: 0 }) else { panic!("nodes") };
    let mut all: Vec<_> =
        page.items.into_iter().map(|KnownNode { name, hops, neighbor, .. }| (name, hops, neighbor)).collect();
    all.sort();
    all
}

fn events(world: &mut World, node: usize) -> Vec<(String, NeighborNews)> {
    let Answer::NeighborEvents(all) = world.control(node, Request::NeighborEvents { from: 0 }) else {
        panic!("events")
    };
    all.into_iter().map(|event| (event.name, event.news)).collect()
}

fn ask(world: &mut World, session: SessionId, op: &[u8]) -> Vec<i32> {
    world.say(0, session, op);
    world.run(SECOND / 100);
    heard(world, session)
}

fn heard(world: &mut World, session: SessionId) -> Vec<i32> {
    let number = |packet: Vec<u8>| i32::from_le_bytes(packet[..].try_into().unwrap());
    world.heard(0, session).into_iter().map(number).collect()
}

/// An advert that arrives at the first node from this station of its link.
fn says(world: &mut World, station: u16, advert: &Advert<'_>, known: &[Hearsay<'_>]) {
    let [high, low] = station.to_be_bytes();
    says_from(world, [2, 7, 7, 7, high, low], advert, known);
}

/// The same from any address.
fn says_from(world: &mut World, from: [u8; 6], advert: &Advert<'_>, known: &[Hearsay<'_>]) {
    let payload = advert.clone().encode(known.iter().copied()).0;
    let mut bytes = vec![0xff; 6];
    bytes.extend(from);
    bytes.extend([0x88, 0xb5]);
    bytes.resize(14 + HEADER_LEN, 0);
    Capsule::emit_header(&mut bytes[14..], &advert_id(), payload.len());
    bytes.extend(payload);
    world.hand(0, LinkId(0), &bytes);
    world.settle(0);
}

fn advert(name: &str) -> Advert<'_> {
    Advert { name, identity: None, interval_ms: 1000, expire_ms: 5000, known: vec![] }
}

#[test]
fn strangers_find_each_other_relay_and_forget() {
    let mut world = open(4);
    assert_eq!(names(&mut world, 0), [""; 0]);
    world.run(4 * SECOND);
    assert_eq!(names(&mut world, 1), ["~a", "~c"]);
    assert!(neighbors(&mut world, 1).iter().all(|n| n.discovered && n.protection == Protection::None));
    let b = |name: &str| Some(name.to_string());
    let far = [("b".into(), 1, b("~b")), ("c".into(), 2, None), ("d".into(), 3, None)];
    assert_eq!(known(&mut world, 0), far);
    // A flow goes to the other end, and its answer comes back.
    world.start(0, &guest::ask("ask", 7));
    let session = world.session(0, "ask");
    world.say(0, session, &guest::question(b'd', 1));
    world.run(2 * SECOND);
    assert_eq!(world.heard(0, session), [guest::answer(b'd', 7, 1)]);

    // The second node is cut off from both sides.
    world.tap(|frame: &mut Frame| if frame.from == 1 || frame.to == 1 { Fate::Lose } else { Fate::Pass });
    world.run(12 * SECOND);
    assert_eq!((names(&mut world, 0), known(&mut world, 0)), (vec![], vec![]));
    assert_eq!(names(&mut world, 2), ["~d"]);
    world.untap();
    world.run(4 * SECOND);
    assert_eq!(known(&mut world, 0), far);
    let news = |news| ("~b".to_string(), news);
    let happened = [NeighborNews::Found, NeighborNews::Gone, NeighborNews::Found].map(news);
    assert_eq!(events(&mut world, 0), happened);
    world.say(0, session, &guest::question(b'd', 2));
    world.run(3 * SECOND);
    assert_eq!(world.heard(0, session), [guest::answer(b'd', 7, 2)]);
}

#[test]
fn a_flow_gets_to_know_who_is_discovered() {
    let mut world = open(2);
    world.tap(|_| Fate::Lose);
    let flow = guest::of("scout", SCOUT);
    world.start(0, &flow);
    let session = world.session(0, "scout");
    world.run(SECOND);
    let held = world.holds(0);
    assert_eq!((ask(&mut world, session, b"l"), ask(&mut world, session, b"s")), (vec![0], vec![0]));
    assert_eq!(ask(&mut world, session, b"k"), [0, 0]);
    for _ in 0..3 {
        world.untap();
        world.run(2 * SECOND);
        assert_eq!(heard(&mut world, session), [1000 + NeighborNews::Found as i32]);
        assert_eq!((ask(&mut world, session, b"l"), ask(&mut world, session, b"s")), (vec![1], vec![1]));
        assert_eq!(ask(&mut world, session, b"k"), [1, i32::from_le_bytes([b'b', 0, 0, 0])]);
        let payload = neighbors(&mut world, 0)[0].max_payload;
        assert_eq!(ask(&mut world, session, b"o"), [payload.into()]);
        world.tap(|_| Fate::Lose);
        world.run(6 * SECOND);
        assert_eq!(heard(&mut world, session), [1000 + NeighborNews::Gone as i32]);
        assert_eq!(ask(&mut world, session, b"o"), [Error::BadHandle.code()], "the capability is void");
        assert_eq!((ask(&mut world, session, b"l"), ask(&mut world, session, b"k")[0]), (vec![0], 0));
    }
    // The same neighbor takes the same place again: what that takes does not grow.
    let (memory, ..) = world.holds(0);
    assert!(memory - held.0 < 2000, "{} bytes", memory - held.0);
    assert_eq!(world.count(0, "neighbors_untold"), 0);
}

#[test]
fn who_is_known_by_a_key_proves_it() {
    let mut world = keyed(3);
    world.run(4 * SECOND);
    assert_eq!(
        (names(&mut world, 0), names(&mut world, 1)),
        (vec!["b".to_string()], vec!["a".into(), "c".into()])
    );
    let sealed = |n: &NeighborInfo| matches!(n.protection, Protection::Protected { identity, .. } if identity == identity_of(1));
    assert!(neighbors(&mut world, 0).iter().all(sealed));
    // What is farther away is told sealed only.
    let b = Some("b".to_string());
    assert_eq!(known(&mut world, 0), [("b".into(), 1, b.clone()), ("c".into(), 2, None)]);
    world.start(0, &guest::ask("ask", 7));
    let session = world.session(0, "ask");
    world.say(0, session, &guest::question(b'c', 1));
    world.run(2 * SECOND);
    assert_eq!(world.heard(0, session), [guest::answer(b'c', 7, 1)]);

    // Whoever says it is b, or has b's key, from elsewhere changes nothing; nor does who has another key, or none.
    let lies = [
        ("b", Some(identity_of(1))),
        ("b", None),
        ("x", Some(identity_of(1))),
        ("x", Some([9; 32])),
        ("y", None),
    ];
    let far = [Hearsay { name: "lie", hops: 1, age_ms: 0, left_ms: 1000 }];
    for (at, (name, identity)) in (0..).zip(lies) {
        says(&mut world, at, &Advert { identity, ..advert(name) }, &far);
    }
    assert_eq!(world.count(0, "peer_adverts_refused"), 5);
    world.run(SECOND);
    assert_eq!((names(&mut world, 0), known(&mut world, 0).len()), (vec!["b".to_string()], 2));

    // The real one is silent; forged adverts do not keep it here.
    world.tap(|_| Fate::Lose);
    world.run(7 * SECOND);
    assert_eq!(names(&mut world, 0), [""; 0]);
    // Somebody is there first with its key: it is b as far as nobody else proves it, and nothing passes.
    says(&mut world, 9, &Advert { identity: Some(identity_of(1)), ..advert("b") }, &far);
    assert!(matches!(neighbors(&mut world, 0)[..], [NeighborInfo { protection: Protection::Handshake, .. }]));
    world.untap();
    world.run(4 * SECOND);
    assert!(neighbors(&mut world, 0).iter().all(sealed));
    assert_eq!(known(&mut world, 0), [("b".into(), 1, b), ("c".into(), 2, None)]);
}

fn identity_of(at: usize) -> [u8; 32] {
    identity(at).public().to_bytes()
}

#[test]
fn an_advert_overrides_nobody_whom_the_operator_knows() {
    // Here b is a neighbor by configuration, and adverts are read.
    let mut world = World::line_with(2, Options { link: LINK, ..Options::default() });
    world.run(3 * SECOND);
    assert_eq!((names(&mut world, 0), known(&mut world, 0)), (vec!["b".to_string()], vec![]));
    for name in ["a", "b"] {
        says(&mut world, 1, &advert(name), &[]);
    }
    assert_eq!(world.count(0, "peer_adverts_refused"), 2);
    says(&mut world, 1, &advert("c"), &[]);
    assert_eq!(names(&mut world, 0), ["b", "~c"]);
    // It calls itself otherwise, or another one calls itself so.
    says(&mut world, 1, &advert("d"), &[]);
    says(&mut world, 2, &advert("c"), &[]);
    says(&mut world, 1, &Advert { identity: Some([7; 32]), ..advert("c") }, &[]);
    assert_eq!(
        (names(&mut world, 0), world.count(0, "peer_adverts_refused")),
        (vec!["b".into(), "~c".into()], 5)
    );
    assert_eq!(events(&mut world, 0), [("~c".to_string(), NeighborNews::Found)]);
    let log = world.log(0).join("\n");
    assert!(log.contains("says it is d: it said otherwise before"), "{log}");
}

/// Whoever says that it stays for long keeps out nobody whose key the operator knows.
#[test]
fn who_is_known_by_a_key_finds_a_place() {
    let keys = format!("[discovery]\nkeys = {{ b = \"{}\" }}\n", identity(1).public());
    let node = format!("identity = \"{}\"", &*identity(0).to_hex());
    let (node, more) = (&*node, &*keys);
    let mut world =
        World::line_with(2, Options { link: LINK, strangers: true, node, more, ..Options::default() });
    world.tap(|_| Fate::Lose);
    for n in 0..60 {
        let name = format!("n{n}");
        says(&mut world, n, &Advert { expire_ms: 3_600_000, ..advert(&name) }, &[]);
        world.run(SECOND / 4);
    }
    assert_eq!(names(&mut world, 0).len(), 31);
    says(&mut world, 100, &Advert { identity: Some(identity_of(1)), ..advert("b") }, &[]);
    let all = names(&mut world, 0);
    assert!(all.len() == 32 && all.contains(&"b".to_string()), "{all:?}");
}

#[test]
fn a_flood_of_adverts_has_its_bounds_and_leaves_nothing() {
    let mut world = open(2);
    world.tap(|_| Fate::Lose);
    world.run(SECOND);
    world.start(0, &guest::of("scout", SCOUT));
    let session = world.session(0, "scout");
    world.run(SECOND);
    let idle = world.holds(0);
    let mut names_seen = std::collections::BTreeSet::new();
    for round in 0..40u16 {
        for n in 0..50 {
            let name = format!("n{}", round * 50 + n);
            let far = format!("far{}", round * 50 + n);
            let known = [Hearsay { name: &far, hops: 1, age_ms: 0, left_ms: 5000 }];
            says(&mut world, round * 50 + n, &advert(&name), &known);
        }
        world.run(SECOND / 4);
        names_seen.extend(names(&mut world, 0));
        assert!(names(&mut world, 0).len() <= 32 && known(&mut world, 0).len() <= 64);
    }
    assert!((16..100).contains(&names_seen.len()), "{}", names_seen.len());
    assert!(world.count(0, "peer_adverts_limited") > 1000);
    // All of them are gone; those who come later have their places.
    world.run(70 * SECOND);
    assert_eq!((names(&mut world, 0).len(), known(&mut world, 0).len()), (0, 0));
    says(&mut world, 60_000, &advert("late"), &[]);
    assert_eq!(names(&mut world, 0), ["~late"]);
    world.run(7 * SECOND);
    let told = heard(&mut world, session);
    let count = |news: NeighborNews| told.iter().filter(|n| **n == 1000 + news as i32).count();
    assert_eq!(count(NeighborNews::Found), count(NeighborNews::Gone));
    let (memory, ..) = world.holds(0);
    assert!(memory - idle.0 < 100_000, "{} bytes stay for places", memory - idle.0);
}

/// Neither a station that never stops, nor one with a new address each time, takes anything from those who are known, nor
/// everything from those who come.
#[test]
fn who_floods_starves_nobody() {
    let mut world = open(3);
    world.run(4 * SECOND);
    let far = ("c".to_string(), 2, None);
    let mut late = 0;
    for tick in 0..2000u16 {
        says(&mut world, 7000, &advert("b"), &[]);
        says(&mut world, 10_000 + tick, &advert("b"), &[]);
        if tick % 10 == 0 {
            // Until it is heard it says it once a second, as others do.
            let n = tick / 200;
            let name = format!("n{n}");
            says(&mut world, n, &Advert { expire_ms: 3_600_000, ..advert(&name) }, &[]);
        }
        world.run(SECOND / 100);
        if tick % 200 == 199 {
            late += usize::from(!names(&mut world, 0).contains(&format!("~n{}", tick / 200)));
            assert!(known(&mut world, 0).contains(&far), "{tick}");
        }
    }
    assert!(late <= 2, "{late} of ten are not heard within two seconds");
    assert!(!events(&mut world, 0).contains(&("~b".into(), NeighborNews::Gone)));
    assert!(world.count(0, "peer_adverts_limited") > 3000);

    // Nor does who writes a neighbor's address keep out what that one seals.
    let mut world = keyed(2);
    world.run(4 * SECOND);
    for _ in 0..1000 {
        says_from(&mut world, [2, 0, 0, 0, 0, 1], &advert("b"), &[]);
        world.run(SECOND / 100);
    }
    assert_eq!(events(&mut world, 0), [("b".to_string(), NeighborNews::Found)]);
}

/// Those whom nobody knows come without end; one whose key is known comes among them.
#[test]
fn newcomers_without_a_key_do_not_keep_out_one_with_it() {
    let keys = format!("[discovery]\nkeys = {{ b = \"{}\" }}\n", identity(1).public());
    let node = format!("identity = \"{}\"", &*identity(0).to_hex());
    let (node, more) = (&*node, &*keys);
    let mut world =
        World::line_with(2, Options { link: LINK, strangers: true, node, more, ..Options::default() });
    world.tap(|_| Fate::Lose);
    for n in 0..20 {
        let name = format!("n{n}");
        says(&mut world, n, &advert(&name), &[]);
    }
    assert_eq!(names(&mut world, 0).len(), 16, "as many come at once");
    says(&mut world, 100, &Advert { identity: Some(identity_of(1)), ..advert("b") }, &[]);
    assert!(names(&mut world, 0).contains(&"b".to_string()));
}

/// What came from a neighbor that is gone did not come from the next one that has its place.
#[test]
fn a_flow_came_from_whom_it_came() {
    let mut world = open(2);
    world.run(3 * SECOND);
    let flow = guest::ask("ask", 7);
    world.start(1, &flow);
    let session = world.session(1, "ask");
    world.say(1, session, &guest::question(b'a', 1));
    world.run(2 * SECOND);
    let source = |world: &mut World| world.flow(0, flow.hash()).and_then(|flow| flow.source);
    assert_eq!(source(&mut world).as_deref(), Some("~b"));
    world.tap(|_| Fate::Lose);
    world.run(70 * SECOND);
    // All other places are taken, and then its.
    for n in 0..32 {
        let name = format!("n{n}");
        says(&mut world, n, &Advert { expire_ms: 3_600_000, ..advert(&name) }, &[]);
        world.run(SECOND);
    }
    assert_eq!(names(&mut world, 0).len(), 32);
    assert_eq!(source(&mut world).as_deref(), Some("~b"));
}

#[test]
fn adverts_that_cannot_be_are_refused() {
    let mut world = open(2);
    world.run(SECOND);
    let all = [&[][..], &[0; 10], &[0xff; 480], &[1, b'x', 0, 1, 1, 0], &[0; 1400]];
    for (station, payload) in (1..).zip(all) {
        let mut bytes = vec![0xff; 6];
        bytes.extend([2, 7, 7, 7, 0, station, 0x88, 0xb5]);
        bytes.resize(14 + HEADER_LEN, 0);
        Capsule::emit_header(&mut bytes[14..], &advert_id(), payload.len());
        bytes.extend(payload);
        world.hand(0, LinkId(0), &bytes);
        world.settle(0);
    }
    assert_eq!((world.count(0, "peer_bad_adverts"), world.count(0, "peer_strangers")), (5, 0));
    // Where the operator does not want it nobody is heard.
    let mut world = World::line_with(2, Options { strangers: true, ..Options::default() });
    world.run(SECOND);
    says(&mut world, 1, &advert("x"), &[]);
    assert_eq!((names(&mut world, 0), world.count(0, "peer_strangers")), (vec![], 1));
}

fn found(id: u16, name: &str) -> NeighborRef {
    let (id, link) = (NeighborId(id), LinkId(0));
    NeighborRef { id, name: name.into(), link, max_payload: 1000, overhead: 38, shortest: 0 }
}

/// What anybody held for a neighbor does not stand for the next one that has its place.
#[test]
fn nothing_leads_from_a_neighbor_that_went_to_the_next() {
    let gone: i64 = Error::BadHandle.code().into();
    for privileges in [&[][..], &["background"]] {
        let house = House::new(Shared::default());
        let (mut a, mut b) = (house.team(1, privileges), house.team(2, &[]));
        let before = a.account.used();
        for team in [&mut a, &mut b] {
            assert!(team.sandbox.neighbor_found(&found(9, "~x")));
        }
        assert!((100..2000).contains(&(a.account.used() - before)), "its place is paid for");
        let x = a.lookup("neighbor/~x");
        let copy = a.call("cap_duplicate", &[x, 7]);
        let group = a.run(&(x as u32).to_le_bytes(), &[("neighborhood_make", &[OWN, 1])]).0[0];
        let lent = [x, group].map(|cap| {
            let id = a.run(&[], &[("envelope_make", &[cap, OWN, 0, OUT])]).1[..16].to_vec();
            b.run(&id, &[("envelope_open", &[OWN, 0, OWN + 16, 0])]).0[0]
        });
        // These are opened only when somebody else is there.
        let late =
            [x, group].map(|cap| a.run(&[], &[("envelope_make", &[cap, OWN, 0, OUT])]).1[..16].to_vec());
        assert!([x, copy, group, lent[0], lent[1]].iter().all(|cap| *cap > 0));
        assert_eq!(b.call("neighbor_max_payload", &[lent[0]]), 1000);
        assert_eq!(b.call("neighborhood_list", &[lent[1], OUT, 4]), 1);

        for team in [&mut a, &mut b] {
            assert!(team.sandbox.neighbor_left(NeighborId(9)));
            assert_eq!(team.lookup("neighbor/~x"), i64::from(Error::NotFound.code()));
            let held = team.account.used();
            assert!(team.sandbox.neighbor_found(&found(9, "~y")));
            assert_eq!(team.account.used(), held, "the place was there");
        }
        for cap in [x, copy] {
            assert_eq!(a.call("neighbor_max_payload", &[cap]), gone);
            assert_eq!(a.call("neighbor_watch", &[cap, 0, 0]), gone);
        }
        assert_eq!(a.call("neighborhood_list", &[group, OUT, 4]), 0, "a group does not grow");
        assert_eq!(b.call("neighbor_max_payload", &[lent[0]]), gone);
        assert!(b.call("neighborhood_list", &[lent[1], OUT, 4]) <= 0);
        for id in &late {
            let cap = b.run(id, &[("envelope_open", &[OWN, 0, OWN + 16, 0])]).0[0];
            assert!(
                b.call("neighbor_max_payload", &[cap]) < 0
                    && b.call("neighborhood_list", &[cap, OUT, 4]) <= 0
            );
        }
        let y = a.lookup("neighbor/~y");
        assert!(y > 0 && y != x);
        assert_eq!(a.call("neighbor_max_payload", &[y]), 1000);
        let all = a.lookup("neighborhood");
        assert_eq!(a.call("neighborhood_list", &[all, OUT, 0]), 5);
    }
}

/// What an event wanted of a neighbor that goes before it is carried out is not done to the next one.
#[test]
fn what_was_wanted_of_a_neighbor_goes_with_it() {
    for denied in [false, true] {
        let house = House::new(Shared::default());
        let mut team = house.team(1, &[]);
        assert!(team.sandbox.neighbor_found(&found(9, "~x")));
        let x = team.lookup("neighbor/~x");
        let held = team.account.used();
        let calls: [(&str, &[i64]); 2] = [("neighbor_watch", &[x, 0, 0]), ("neighbor_serve", &[x, 0])];
        let packet = SessionInput::Packet(script(&[], &calls));
        let now = Now { mono: Instant(team.mono), wall: team.wall };
        let outcome = team.sandbox.deliver(now, Event::Session { session: SESSION, what: packet });
        assert_eq!(outcome.end, Ok(()));
        match denied {
            true => team.sandbox.neighbor_gone(NeighborId(9)),
            false => assert!(team.sandbox.neighbor_left(NeighborId(9))),
        }
        let left: Vec<Effect> = team.sandbox.effects().collect();
        assert!(!left.iter().any(|e| matches!(e, Effect::Watch { .. })), "{left:?}");
        // Who may not be known any more is not to get the flow's code, either.
        assert_eq!(left.iter().any(|e| matches!(e, Effect::Serve { .. })), denied, "{left:?}");
        assert!(!left.is_empty(), "it answered");
        drop(left);
        assert!(team.account.used() <= held);
    }
}

/// Places beyond the team's memory are refused, and it goes on without that neighbor.
#[test]
fn a_flow_without_memory_does_not_get_to_know_anybody() {
    let house = House::new(Shared::default());
    let mut team = house.team(1, &[]);
    let left = team.account.left();
    let all = team.account.charge(left).unwrap();
    assert!(!team.sandbox.neighbor_found(&found(9, "~x")));
    drop(all);
    assert_eq!(team.lookup("neighbor/~x"), i64::from(Error::NotFound.code()));
    assert!(!team.sandbox.neighbor_left(NeighborId(9)));
    assert!(team.sandbox.neighbor_found(&found(9, "~x")) && team.lookup("neighbor/~x") > 0);
}

/// A flow that waits for its turn to take over from another one gets to know who comes and goes meanwhile.
#[test]
fn a_flow_that_stands_by_starts_with_the_neighbors_that_are_there() {
    for comes in [true, false] {
        let mut world = open(2);
        let cut = |world: &mut World, now: bool| match now {
            true => world.tap(|_| Fate::Lose),
            false => world.untap(),
        };
        cut(&mut world, comes);
        let module = guest::module(&SCOUT.replace("1000))", "2000))"));
        world.start(0, &guest::flow("warm", module.clone(), |_| ()));
        world.run(3 * SECOND);
        world.compile_us = 15_000_000;
        let one = guest::of("scout", SCOUT);
        world.inject(0, &one);
        let two = guest::flow("scout", module, |body| body.replaces = Some(one.hash()));
        world.inject(0, &two);
        world.run(SECOND / 10);
        assert_eq!(world.state(0, two.hash()), Some(FlowState::Standby));
        cut(&mut world, !comes);
        assert!(world.run_until(20 * SECOND, |w| w.state(0, two.hash()) == Some(FlowState::Running)));
        let all = i32::from(comes);
        assert_eq!(names(&mut world, 0).len() as i32, all);
        let session = world.session(0, "scout");
        assert_eq!((ask(&mut world, session, b"l"), ask(&mut world, session, b"s")), (vec![all], vec![all]));
    }
}
