//! Neighbors that are watched: a death and a return are told to the operator's programs and to flows, at the expense of
//! whoever wants to know; and what others may say about a neighbor changes nothing.

mod common;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use common::guest;
use common::{Fate, Frame, Options, World};
use ee::abi::Error;
use ee::node::SessionId;
use wire::capsule::{Capsule, HEADER_LEN};
use wire::control::{Alive, Answer, NeighborNews, Request};
use wire::id::CapsuleId;
use wire::system::{Poke, REQUEST, RESPONSE, decode, encode, liveness_id};

const SECOND: Duration = Duration::from_secs(1);
const LINK: &str = "liveness = { poke = \"1s\", expire = \"5s\" }";

/// A packet of a program says what to do with all neighbors, and with which times: w: watch, u: no more, a: is it alive?
/// The result comes back as 4 bytes, and so does what the flow is told of a neighbor, plus 1000.
const WATCHER: &str = r#"
    (global $s (mut i32) (i32.const 0))
    (func $say (param $n i32)
        (i32.store (i32.const 512) (local.get $n))
        (drop (call $session_reply (global.get $s) (i32.const 512) (i32.const 4))))
    (func $do (param $n i32) (result i32) (local $op i32)
        (local.set $op (i32.load8_u (i32.const 0)))
        (if (i32.eq (local.get $op) (i32.const 119)) (then (return (call $neighbor_watch (local.get $n)
            (i64.load (i32.const 8)) (i64.load (i32.const 16))))))
        (if (i32.eq (local.get $op) (i32.const 117)) (then (return (call $neighbor_unwatch (local.get $n)))))
        (call $neighbor_alive (local.get $n)))
    (func (export "on_session") (param $c i32) (param $s i32) (param $what i32) (param $len i32) (local $n i32)
        (if (i32.ne (local.get $what) (i32.const 1)) (then (return)))
        (global.set $s (local.get $s))
        (local.set $n (call $neighborhood_list
            (call $cap_lookup (i32.const 64) (i32.const 12)) (i32.const 1024) (i32.const 16)))
        (block $done (loop $next
            (br_if $done (i32.eqz (local.get $n)))
            (local.set $n (i32.sub (local.get $n) (i32.const 1)))
            (call $say (call $do (i32.load (i32.add (i32.const 1024) (i32.mul (local.get $n) (i32.const 4))))))
            (br $next))))
    (func (export "on_neighbor") (param $n i32) (param $news i32)
        (call $say (i32.add (local.get $news) (i32.const 1000))))
"#;

fn right(_: usize, peer: usize) -> Option<usize> {
    Some(peer)
}

fn world(n: usize, link: &str, sealed: bool) -> World {
    let keys = if sealed { Some(right as fn(usize, usize) -> Option<usize>) } else { None };
    World::line_with(n, Options { link, keys, ..Options::default() })
}

fn alive(world: &mut World, node: usize) -> Vec<Alive> {
    let Answer::Neighbors(all) = world.control(node, Request::NeighborShow) else { panic!("neighbors") };
    all.into_iter().filter_map(|n| n.alive).collect()
}

fn up(world: &mut World, node: usize) -> Vec<bool> {
    alive(world, node).iter().map(|a| a.up).collect()
}

fn events(world: &mut World, from: u64) -> Vec<(u64, String, NeighborNews)> {
    let Answer::NeighborEvents(all) = world.control(0, Request::NeighborEvents { from }) else {
        panic!("events")
    };
    all.into_iter().map(|event| (event.number, event.name, event.news)).collect()
}

fn heard(world: &mut World, session: SessionId) -> Vec<i32> {
    let number = |packet: Vec<u8>| i32::from_le_bytes(packet[..].try_into().unwrap());
    world.heard(0, session).into_iter().map(number).collect()
}

fn ask(world: &mut World, session: SessionId, op: u8, poke: i64, expire: i64) -> Vec<i32> {
    let mut packet = [op, 0, 0, 0, 0, 0, 0, 0].to_vec();
    packet.extend(poke.to_le_bytes());
    packet.extend(expire.to_le_bytes());
    world.say(0, session, &packet);
    world.run(SECOND / 100);
    heard(world, session)
}

/// Keeps the pokes and their answers that pass: who sent them, what, and the frame's length.
type Seen = Rc<RefCell<Vec<(usize, CapsuleId, Vec<u8>, usize)>>>;

fn listen(world: &mut World, fate: fn(&Frame) -> Fate) -> Seen {
    let seen = Seen::default();
    let list = seen.clone();
    world.tap(move |frame: &mut Frame| {
        if let Some((id, payload)) = frame.capsule()
            && [liveness_id(REQUEST), liveness_id(RESPONSE)].contains(&id)
        {
            list.borrow_mut().push((frame.from, id, payload.to_vec(), frame.bytes.len()));
        }
        fate(frame)
    });
    seen
}

#[test]
fn a_death_is_told_to_programs_and_so_is_the_return() {
    for sealed in [false, true] {
        let mut world = world(2, LINK, sealed);
        world.run(60 * SECOND);
        let [known] = alive(&mut world, 0)[..] else { panic!("one neighbor") };
        assert!(known.up && known.rtt_us.is_some_and(|us| (1000..1500).contains(&us)), "{known:?}");
        assert_eq!(events(&mut world, 0), vec![]);

        world.tap(|_| Fate::Lose);
        world.run(3 * SECOND);
        assert_eq!(up(&mut world, 0), [true], "not yet");
        world.run(3 * SECOND);
        assert_eq!(up(&mut world, 0), [false]);
        let dead = (0, "b".into(), NeighborNews::Dead);
        assert_eq!(events(&mut world, 0), std::slice::from_ref(&dead));
        assert_eq!(world.count(0, "neighbors_down"), 1);

        world.untap();
        // A protected link that was silent for long shakes hands first.
        world.run(5 * SECOND);
        let back = (1, "b".into(), NeighborNews::Alive);
        assert_eq!(up(&mut world, 0), [true]);
        assert_eq!(events(&mut world, 0), [dead, back.clone()]);
        assert_eq!(events(&mut world, 1), [back]);
        let log = world.log(0).join("\n");
        assert!(log.contains("b does not answer any more") && log.contains("b answers again"), "{log}");
    }
}

#[test]
fn a_flow_is_told_of_what_it_watches_and_pays_for_it() {
    let mut world = world(2, "", false);
    let idle = world.holds(0);
    let flow = guest::of("watcher", WATCHER);
    let hash = world.start(0, &flow);
    let session = world.session(0, "watcher");
    let seen = listen(&mut world, |_| Fate::Pass);
    world.run(5 * SECOND);
    assert_eq!(seen.borrow().len(), 0, "nobody wants to know");
    assert_eq!(ask(&mut world, session, b'a', 0, 0), [Error::NotFound.code()]);
    for (poke, expire) in [(1, 2), (1_000_000, 1_500_000), (-1, 5_000_000), (1_000_000, 1 << 60)] {
        assert_eq!(ask(&mut world, session, b'w', poke, expire), [Error::BadArgument.code()]);
    }
    let before = world.teams(0).into_iter().find(|t| t.name == "watcher").unwrap();
    assert_eq!(ask(&mut world, session, b'w', 500_000, 2_000_000), [0]);
    world.run(10 * SECOND);
    assert_eq!(ask(&mut world, session, b'a', 0, 0), [1]);
    let pokes = seen.borrow().iter().filter(|(from, ..)| *from == 0).count();
    assert!((20..=22).contains(&pokes), "{pokes} pokes");
    assert_eq!(alive(&mut world, 1), [], "the other one does not want to know");
    let after = world.teams(0).into_iter().find(|t| t.name == "watcher").unwrap();
    assert!(after.cpu_us > before.cpu_us, "{} {}", after.cpu_us, before.cpu_us);

    // Silence, and a return. It is the flow's business: no line, no event of the node's.
    let seen = listen(&mut world, |_| Fate::Lose);
    world.run(3 * SECOND);
    assert_eq!(heard(&mut world, session), [1000 + NeighborNews::Dead as i32]);
    assert_eq!(ask(&mut world, session, b'a', 0, 0), [0]);
    world.untap();
    world.run(SECOND);
    assert_eq!(heard(&mut world, session), [1000 + NeighborNews::Alive as i32]);
    assert_eq!((events(&mut world, 0), world.count(0, "neighbors_down")), (vec![], 0));
    drop(seen);

    // Who does not want to know any more, or has ended, pokes nobody.
    let seen = listen(&mut world, |_| Fate::Pass);
    assert_eq!(ask(&mut world, session, b'u', 0, 0), [0]);
    assert_eq!(ask(&mut world, session, b'a', 0, 0), [Error::NotFound.code()]);
    world.run(5 * SECOND);
    assert_eq!(seen.borrow().len(), 0);
    assert_eq!(ask(&mut world, session, b'w', 0, 0), [0]);
    world.run(10 * SECOND);
    let pokes = seen.borrow().iter().filter(|(from, ..)| *from == 0).count();
    assert!((10..=11).contains(&pokes), "{pokes} pokes: one in a second is usual");
    world.stop(0, hash, false);
    world.run(SECOND);
    seen.borrow_mut().clear();
    world.run(5 * SECOND);
    assert_eq!((seen.borrow().len(), world.holds(0)), (0, idle));
}

/// The shortest time that the operator allows, or the Auth Agent to that flow, is what a flow gets that wants less.
#[test]
fn a_flow_pokes_no_more_often_than_it_may() {
    let operator = ("", "[liveness]\nleast = \"500ms\"\n");
    let policy = "agent = \"source-based\"\npolicy = \"\"\"[unsigned]\ntimer = { min = '1s' }\n\"\"\"";
    for ((node, more), least) in [(operator, SECOND / 2), ((policy, ""), SECOND)] {
        let mut world = World::line_with(2, Options { node, more, ..Options::default() });
        world.start(0, &guest::of("watcher", WATCHER));
        let session = world.session(0, "watcher");
        let seen = listen(&mut world, |_| Fate::Pass);
        assert_eq!(ask(&mut world, session, b'w', 100_000, 200_000), [0]);
        world.run(20 * least);
        let pokes = seen.borrow().iter().filter(|(from, ..)| *from == 0).count();
        assert!((20..=22).contains(&pokes), "{pokes} pokes");
        // A death takes two of these then.
        world.tap(|_| Fate::Lose);
        world.run(least * 9 / 10);
        assert_eq!(heard(&mut world, session), [0; 0]);
        world.run(least * 3);
        assert_eq!(heard(&mut world, session), [1000 + NeighborNews::Dead as i32]);
    }
}

/// Those that the first node sent.
fn pokes_of(seen: &Seen) -> usize {
    seen.borrow().iter().filter(|(from, id, ..)| *from == 0 && *id == liveness_id(REQUEST)).count()
}

fn watches(world: &mut World, from: u64, poke: Duration, expire: Duration) -> Answer {
    let [poke_us, expire_us] = [poke, expire].map(|time| time.as_micros() as u64);
    world.control(0, Request::NeighborWatch { from, poke_us, expire_us })
}

/// A program has times of its own, is told by them, and is forgotten when it does not ask any more.
#[test]
fn programs_watch_with_times_of_their_own() {
    let mut world = world(2, LINK, false);
    let seen = listen(&mut world, |_| Fate::Pass);
    let quick = |world: &mut World, from| -> Vec<(u64, NeighborNews)> {
        match watches(world, from, SECOND / 5, SECOND / 2) {
            Answer::NeighborEvents(all) => all.into_iter().map(|event| (event.number, event.news)).collect(),
            other => panic!("{other:?}"),
        }
    };
    let none = vec![];
    assert_eq!(quick(&mut world, 0), none);
    world.run(5 * SECOND);
    let pokes = pokes_of(&seen);
    assert!((24..=27).contains(&pokes), "{pokes} pokes");
    // It asks again within its time, and stays.
    assert_eq!(quick(&mut world, 0), none);
    world.tap(|_| Fate::Lose);
    world.run(SECOND);
    let dead = (0, NeighborNews::Dead);
    assert_eq!(quick(&mut world, 0), [dead]);
    assert_eq!((events(&mut world, 0), up(&mut world, 0)), (vec![], vec![true]), "the node waits longer");
    world.run(5 * SECOND);
    world.untap();
    world.run(SECOND);
    assert_eq!(quick(&mut world, 0), [dead, (1, NeighborNews::Alive)]);
    assert_eq!(quick(&mut world, 2), none);

    // Others have their own places, up to a bound, and nobody pokes too often.
    for n in 1..8 {
        assert!(matches!(watches(&mut world, 0, SECOND * n, SECOND * 10 * n), Answer::NeighborEvents(_)));
    }
    let refused = |answer: Answer| match answer {
        Answer::Error(error) => error.text,
        other => panic!("{other:?}"),
    };
    let full = refused(watches(&mut world, 0, 9 * SECOND, 90 * SECOND));
    assert!(full.contains("as many programs"), "{full}");
    for (poke, expire) in [(SECOND / 11, SECOND), (SECOND, SECOND), (SECOND, 7200 * SECOND)] {
        let why = refused(watches(&mut world, 0, poke, expire));
        assert!(why.contains("100ms apart at least"), "{why}");
    }
    // All are gone after a while, with what they took, and what is left is the operator's watch.
    let held = world.holds(0).0;
    world.run(11 * SECOND);
    let seen = listen(&mut world, |_| Fate::Pass);
    world.run(5 * SECOND);
    let pokes = pokes_of(&seen);
    assert!((5..=6).contains(&pokes), "{pokes} pokes");
    assert!(world.holds(0).0 + 8 * 4096 < held, "{} {held}", world.holds(0).0);
    // Numbers go on where they were.
    assert_eq!(quick(&mut world, 2), none);
}

#[test]
fn every_tenth_frame_may_be_lost_and_nobody_dies() {
    let mut world = world(3, LINK, false);
    let mut random = common::Random::new(1);
    world.tap(move |_| if random.below(10) == 0 { Fate::Lose } else { Fate::Pass });
    world.run(60 * SECOND);
    // Five pokes in a row are lost one way or back with a chance of 0.19^5.
    assert_eq!((up(&mut world, 1), world.count(1, "neighbors_down")), (vec![true, true], 0));
}

/// A frame from b to a.
fn frame(world: &mut World, id: &CapsuleId, payload: &[u8]) {
    let mut bytes = vec![2, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 1, 0x88, 0xb5];
    bytes.resize(14 + HEADER_LEN, 0);
    Capsule::emit_header(&mut bytes[14..], id, payload.len());
    bytes.extend(payload);
    world.hand(0, nodeos::link::LinkId(0), &bytes);
    world.settle(0);
}

#[test]
fn a_poke_goes_back_as_it_came_and_lies_keep_nobody_alive() {
    let mut world = world(2, LINK, false);
    // b is silent from the beginning; what a says is kept.
    let said = listen(&mut world, |_| Fate::Lose);
    for n in 0..60u8 {
        world.run(SECOND / 10);
        // Guesses, and answers to nobody's question.
        let last = said.borrow().iter().rev().find(|(from, ..)| *from == 0).map(|(.., p, _)| p.clone());
        let mut nonce = last.map_or([0; 8], |p| decode::<Poke>(&p).unwrap().nonce);
        nonce[usize::from(n % 8)] ^= n + 1;
        frame(&mut world, &liveness_id(RESPONSE), &encode(&Poke { nonce }));
    }
    assert_eq!((up(&mut world, 0), world.count(0, "peer_unasked_answers")), (vec![false], 60));
    world.run(SECOND / 2);
    let pokes: Vec<_> = said.borrow_mut().drain(..).filter(|(from, ..)| *from == 0).collect();
    assert!((6..=7).contains(&pokes.len()) && pokes.iter().all(|(_, id, ..)| *id == liveness_id(REQUEST)));

    let poke = encode(&Poke { nonce: [7; 8] });
    frame(&mut world, &liveness_id(REQUEST), &poke);
    frame(&mut world, &liveness_id(REQUEST), &[poke.clone(), vec![0]].concat());
    frame(&mut world, &liveness_id(REQUEST), &[]);
    world.run(SECOND / 100);
    let answers = |said: &Seen| -> Vec<_> {
        said.borrow_mut().drain(..).filter(|(_, id, ..)| *id == liveness_id(RESPONSE)).collect()
    };
    let answer = (0, liveness_id(RESPONSE), poke.clone(), 14 + HEADER_LEN + poke.len());
    assert_eq!(answers(&said), [answer]);
    assert_eq!(world.count(0, "peer_malformed_system_capsules"), 2);

    // A flood of them is not answered.
    for _ in 0..500 {
        frame(&mut world, &liveness_id(REQUEST), &poke);
    }
    world.run(SECOND / 100);
    let answered = answers(&said).len();
    assert!((31..=33).contains(&answered), "{answered} answers");
    assert!(world.count(0, "peer_pokes_limited") >= 467);
}
