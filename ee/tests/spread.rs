//! A protocol spreads: its code travels from hop to hop behind its capsules, and what goes wrong on the
//! way is repaired or refused.

mod common;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use common::guest::{self, Flow, answer, ask, big, flow, question};
use common::{Fate, Frame, World};
use wire::control::FlowState;
use wire::id::{CapsuleId, Path, TupleHash};
use wire::system::{
    DownloadRequest, DownloadResponse, REQUEST, RESPONSE, Translation, TranslationResponse, decode,
    download_id, encode, translation_id,
};

const SECOND: Duration = Duration::from_secs(1);

/// Sets a flow going on node a and asks node c once.
fn set_going(world: &mut World, flow: &Flow) -> (TupleHash, ee::node::SessionId) {
    let hash = world.start(0, flow);
    let session = world.session(0, "ask");
    world.say(0, session, &question(b'c', 1));
    (hash, session)
}

/// Asks again and expects the answer.
#[track_caller]
fn ask_again(world: &mut World, session: ee::node::SessionId, constant: u8) {
    world.heard(0, session);
    world.say(0, session, &question(b'c', 2));
    world.run(SECOND);
    assert_eq!(world.heard(0, session), [answer(b'c', constant, 2)]);
}

/// Changes the capsules with this identifier that node c gets.
fn tamper(id: CapsuleId, mut how: impl FnMut(&[u8]) -> Vec<u8> + 'static) -> impl FnMut(&mut Frame) -> Fate {
    move |frame| {
        if let Some((found, payload)) = frame.capsule()
            && found == id
            && frame.to == 2
        {
            let payload = how(payload);
            frame.set_payload(&payload);
        }
        Fate::Pass
    }
}

/// Flips a bit in the chunk at `offset`.
fn flip(payload: &[u8], at: u32) -> Vec<u8> {
    match decode::<DownloadResponse<'_>>(payload).unwrap() {
        DownloadResponse::Chunk { nonce, offset, total, bytes } if offset == at => {
            let mut bytes = bytes.to_vec();
            *bytes.last_mut().unwrap() ^= 1;
            encode(&DownloadResponse::Chunk { nonce, offset, total, bytes: &bytes })
        }
        _ => payload.to_vec(),
    }
}

#[test]
fn code_spreads_behind_its_capsules() {
    let mut world = World::line(3);
    let flow = ask("ask", 77);
    let hash = world.start(0, &flow);
    assert_eq!((world.state(1, hash), world.state(2, hash)), (None, None));
    let session = world.session(0, "ask");
    world.say(0, session, &question(b'c', 1));
    world.run(SECOND);
    assert_eq!(world.heard(0, session), [answer(b'c', 77, 1)], "{:?} {:?}", world.log(1), world.log(2));
    for (node, source) in [(0, None), (1, Some("a")), (2, Some("b"))] {
        let info = world.flow(node, hash).unwrap();
        assert_eq!((info.state, info.source.as_deref()), (FlowState::Running, source));
        let bytes = if node == 0 { 0 } else { (flow.tuple.len() + flow.module.len()) as u64 };
        assert_eq!(info.arrival.bytes, bytes);
    }
    assert_eq!(world.compiled, 3);
}

#[test]
fn a_part_with_a_flipped_bit_is_refused_and_fetched_anew_later() {
    let mut world = World::line(3);
    let flow = big(ask("ask", 7), 40_000);
    let empty = world.holds(2);
    world.tap(tamper(download_id(RESPONSE, &flow.hash(), Some(&flow.part())), |p| flip(p, 0)));
    let (hash, session) = set_going(&mut world, &flow);
    world.run(SECOND);
    let why = world.why(2, hash);
    assert!(
        why.starts_with("peer: part") && why.ends_with("does not have the hashes that the tuple names"),
        "{why}"
    );
    assert_eq!((world.count(2, "peer_bad_parts"), world.count(2, "flows_started")), (1, 0));
    assert_eq!(world.holds(2), empty);
    // Its identifiers are not asked for at once.
    world.untap();
    world.say(0, session, &question(b'c', 9));
    world.run(SECOND / 2);
    assert_eq!((world.count(2, "flows_started"), world.count(2, "capsules_refused")), (0, 1));
    world.run(2 * SECOND);
    ask_again(&mut world, session, 7);
}

#[test]
fn a_tuple_with_a_flipped_bit_is_refused() {
    let mut world = World::line(3);
    let flow = ask("ask", 7);
    let empty = world.holds(2);
    world.tap(tamper(download_id(RESPONSE, &flow.hash(), None), |p| flip(p, 0)));
    let (hash, session) = set_going(&mut world, &flow);
    world.run(SECOND);
    assert_eq!(world.why(2, hash), "peer: the tuple does not have its hash");
    assert_eq!(world.count(2, "peer_false_translations"), 1);
    assert_eq!(world.holds(2), empty);
    world.untap();
    world.run(2 * SECOND);
    ask_again(&mut world, session, 7);
}

/// The hop answers a question for one flow's capsule with another flow, one that exists and is sound.
#[test]
fn a_translation_that_names_the_wrong_flow_is_refused() {
    for known_at_c in [false, true] {
        let mut world = World::line(3);
        let (flow, other) = (ask("ask", 7), ask("other", 8));
        world.start(1, &other);
        if known_at_c {
            world.start(2, &other);
        }
        let empty = world.holds(2);
        let lie = other.hash();
        let len = other.tuple.len() as u32;
        world.tap(tamper(translation_id(RESPONSE), move |payload| {
            let mut response = decode::<TranslationResponse>(payload).unwrap();
            if let Translation::Known { tuple, tuple_len, .. } = &mut response.answer {
                (*tuple, *tuple_len) = (lie, len);
            }
            encode(&response)
        }));
        let (_, session) = set_going(&mut world, &flow);
        world.run(SECOND);
        assert_eq!(world.count(2, "peer_false_translations"), 1, "known {known_at_c}: {:?}", world.log(2));
        assert_eq!(world.holds(2), empty);
        world.untap();
        world.run(2 * SECOND);
        ask_again(&mut world, session, 7);
    }
}

#[test]
fn false_paths_kinds_and_lengths_are_refused() {
    type Lie = fn(&mut Translation);
    let path: Lie = |t| {
        if let Translation::Known { path, .. } = t {
            *path = Path(vec![0])
        }
    };
    let kind: Lie = |t| {
        if let Translation::Known { kind, .. } = t {
            *kind = 1
        }
    };
    let coupled: Lie = |t| {
        if let Translation::Known { coupled, .. } = t {
            *coupled = vec![[1; 32]]
        }
    };
    let long: Lie = |t| {
        if let Translation::Known { tuple_len, .. } = t {
            *tuple_len += 1
        }
    };
    let short: Lie = |t| {
        if let Translation::Known { tuple_len, .. } = t {
            *tuple_len = 1
        }
    };
    let none: Lie = |t| {
        if let Translation::Known { tuple_len, .. } = t {
            *tuple_len = 0
        }
    };
    let huge: Lie = |t| {
        if let Translation::Known { tuple_len, .. } = t {
            *tuple_len = u32::MAX
        }
    };
    let lies = [
        (path, "peer_false_translations"),
        (kind, "peer_false_translations"),
        (coupled, "peer_false_translations"),
        // The source says how long it really is, so nothing that it sends fits.
        (long, "downloads_given_up"),
        (short, "downloads_given_up"),
        (none, "capsules_refused"),
        (huge, "capsules_refused"),
    ];
    for (n, (lie, counter)) in lies.into_iter().enumerate() {
        let mut world = World::line(3);
        let empty = world.holds(2);
        world.tap(tamper(translation_id(RESPONSE), move |payload| {
            let mut response = decode::<TranslationResponse>(payload).unwrap();
            lie(&mut response.answer);
            encode(&response)
        }));
        let (_, session) = set_going(&mut world, &ask("ask", 7));
        world.run(15 * SECOND);
        assert_eq!(world.count(2, counter), 1, "lie {n}: {:?}", world.log(2));
        assert_eq!(world.holds(2), empty);
        world.untap();
        world.run(2 * SECOND);
        ask_again(&mut world, session, 7);
    }
}

#[test]
fn answers_that_nobody_asked_for_change_nothing() {
    let mut world = World::line(3);
    let (hash, session) = set_going(&mut world, &ask("ask", 7));
    world.run(SECOND);
    let heard = Rc::new(RefCell::new(Vec::new()));
    let copy = heard.clone();
    world.tap(move |frame| {
        copy.borrow_mut().push(frame.clone());
        Fate::Pass
    });
    let before = world.holds(2);
    for (id, payload) in [
        (
            translation_id(RESPONSE),
            encode(&TranslationResponse {
                nonce: 1,
                unknown: CapsuleId([1; 16]),
                answer: Translation::Unknown,
            }),
        ),
        (
            download_id(RESPONSE, &hash, None),
            encode(&DownloadResponse::Chunk { nonce: 0, offset: 0, total: 9, bytes: &[1; 9] }),
        ),
        (download_id(RESPONSE, &hash, None), encode(&DownloadResponse::Refused { nonce: 0 })),
    ] {
        let mut frame = Frame { from: 1, to: 2, link: nodeos::link::LinkId(0), bytes: vec![] };
        frame.bytes.extend([2, 0, 0, 0, 1, 1, 2, 0, 0, 0, 1, 0, 0x88, 0xb5]);
        frame.bytes.extend([0; wire::capsule::HEADER_LEN]);
        wire::capsule::Capsule::emit_header(&mut frame.bytes[14..], &id, payload.len());
        frame.bytes.extend(&payload);
        world.hand(2, frame.link, &frame.bytes);
    }
    world.run(SECOND);
    assert_eq!(world.count(2, "peer_unasked_answers"), 3);
    assert_eq!(world.holds(2), before);
    assert!(heard.borrow().is_empty(), "nothing was answered");
    ask_again(&mut world, session, 7);
}

#[test]
fn lost_chunks_are_asked_for_again() {
    let flow = big(ask("ask", 7), 40_000);
    // The first of everything is lost; then, in another run, three frames in ten.
    for every in [0, 3] {
        let mut world = World::line(3);
        let (mut seen, mut random) = (std::collections::HashSet::new(), common::Random::new(5));
        world.tap(move |frame| {
            let Some((id, payload)) = frame.capsule() else { return Fate::Pass };
            let system =
                id == translation_id(REQUEST) || id == translation_id(RESPONSE) || payload.len() > 20;
            let lost = match every {
                0 => seen.insert((frame.to, id)),
                n => random.below(10) < n && system,
            };
            if lost { Fate::Lose } else { Fate::Pass }
        });
        let (hash, session) = set_going(&mut world, &flow);
        for n in 2..20 {
            world.run(SECOND);
            world.say(0, session, &question(b'c', n));
        }
        world.run(SECOND);
        assert!(!world.heard(0, session).is_empty(), "{every}: {:?}", world.log(2));
        let info = world.flow(2, hash).unwrap();
        assert_eq!(info.state, FlowState::Running);
        assert!(info.arrival.retries > 0 && world.count(2, "download_retries") > 0);
        assert_eq!(info.arrival.bytes, (flow.tuple.len() + flow.module.len()) as u64);
    }
}

/// Wherever in the arrival the previous hop vanishes, it is given up within a time, and nothing is left.
#[test]
fn a_hop_that_vanishes_is_given_up() {
    let flow = big(ask("ask", 7), 150_000);
    let mut stages = Vec::new();
    for frames in [1, 2, 3, 4, 6, 10, 40, 100] {
        let mut world = World::line(3);
        let empty = world.holds(2);
        let hash = world.start(0, &flow);
        let session = world.session(0, "ask");
        world.say(0, session, &question(b'b', 1));
        world.run(SECOND);
        // b has it; from now on it says only so much to c.
        let mut left = frames;
        world.tap(move |frame| {
            if (frame.from, frame.to) != (1, 2) {
                return Fate::Pass;
            }
            left -= 1;
            if left < 0 { Fate::Lose } else { Fate::Pass }
        });
        world.say(0, session, &question(b'c', 2));
        world.run(SECOND / 4);
        stages.push(world.state(2, hash));
        assert_ne!(world.holds(2), empty, "it waits for something");
        world.run(20 * SECOND);
        assert_eq!(world.count(2, "downloads_given_up"), 1, "after {frames}: {:?}", world.log(2));
        assert_eq!((world.holds(2), world.count(2, "flows_started")), (empty, 0));
        world.untap();
        ask_again(&mut world, session, 7);
    }
    for expected in [None, Some(FlowState::Tuple), Some(FlowState::Download)] {
        assert!(stages.contains(&expected), "{expected:?} in {stages:?}");
    }
}

/// Capsules that arrive before their flow are kept in their order, up to the bound.
#[test]
fn capsules_wait_in_order_up_to_the_bound() {
    let collect = r#"
        (global $n (mut i32) (i32.const 1024))
        (func (export "on_capsule") (param i32 i32 i32 i32)
            (i32.store8 (global.get $n) (i32.load8_u (i32.const 0)))
            (global.set $n (i32.add (global.get $n) (i32.const 1))))
        (func (export "on_session") (param $c i32) (param $s i32) (param $what i32) (param $len i32)
            (if (i32.ne (local.get $what) (i32.const 1)) (then (return)))
            (if (i32.eqz (i32.load8_u (i32.const 0)))
                (then (drop (call $session_reply (local.get $s) (i32.const 1024)
                    (i32.sub (global.get $n) (i32.const 1024)))) (return)))
            (drop (call $capsule_resize (local.get $c) (i32.const 1)))
            (drop (call $capsule_write (local.get $c) (i32.const 0) (i32.const 0) (i32.const 1)))
            (drop (call $capsule_multicast (local.get $c) (call $cap_lookup (i32.const 64) (i32.const 12)) (i32.const 0))))"#;
    let mut world = World::line(2);
    let hash = world.start(0, &guest::of("collect", collect));
    let session = world.session(0, "collect");
    for n in 1..=40 {
        world.say(0, session, &[n]);
    }
    world.run(SECOND);
    assert_eq!(world.state(1, hash), Some(FlowState::Running));
    let there = world.session(1, "collect");
    world.say(1, there, &[0]);
    world.run(SECOND);
    assert_eq!(world.heard(1, there), [(1..=32).collect::<Vec<u8>>()]);
    assert_eq!(world.count(1, "capsules_waiting_dropped"), 8);
}

#[test]
fn two_flows_of_one_module_compile_once() {
    let mut world = World::line(3);
    let module = ask("ask", 7).module;
    let flows = [1, 2].map(|n| flow("ask", module.clone(), |b| b.nonce = [n; 16]));
    let hashes = flows.each_ref().map(|f| world.inject(0, f));
    world.run(SECOND);
    for hash in hashes {
        assert_eq!(world.state(0, hash), Some(FlowState::Running));
        let session = world.session(0, &hash.to_string());
        world.say(0, session, &question(b'c', 1));
        world.run(SECOND);
        assert_eq!(world.heard(0, session).len(), 1);
    }
    assert_eq!(world.compiled, 3, "once for each node");
    // The second one found the module on every node: only its tuple crossed the links.
    let second = world.flow(2, hashes[1]).unwrap();
    assert_eq!(second.arrival.bytes, flows[1].tuple.len() as u64);
    // Both pay for it.
    let teams = world.teams(2);
    assert_eq!((teams.len(), teams[1].memory.0), (3, teams[2].memory.0));
}

#[test]
fn a_flood_of_unknown_identifiers_is_bounded_and_leaves_room_for_others() {
    let mut world = World::line(3);
    let empty = world.holds(1);
    let asked = Rc::new(RefCell::new(0));
    let count = asked.clone();
    // a never answers; c does.
    world.tap(move |frame| {
        let request = frame.capsule().is_some_and(|(id, _)| id == translation_id(REQUEST));
        *count.borrow_mut() += u32::from(request && frame.to == 0);
        if frame.to == 0 { Fate::Lose } else { Fate::Pass }
    });
    let mut random = common::Random::new(1);
    let mut frame = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0x88, 0xb5].to_vec();
    frame.resize(14 + wire::capsule::HEADER_LEN + 100, 0);
    let mut most = (0, 0);
    let honest = world.start(2, &ask("ask", 9));
    let session = world.session(2, "ask");
    for round in 0..2000 {
        for _ in 0..50 {
            let id = CapsuleId(random.bytes());
            wire::capsule::Capsule::emit_header(&mut frame[14..], &id, 100);
            world.hand(1, nodeos::link::LinkId(0), &frame);
        }
        if round == 1000 {
            world.say(2, session, &question(b'b', 1));
        }
        world.run(Duration::from_millis(1));
        let holds = world.holds(1);
        most = (most.0.max(holds.0), most.1.max(holds.1));
    }
    assert_eq!(world.heard(2, session), [answer(b'b', 9, 1)], "c's flow arrived at b through the flood");
    assert!(most.0 < 700_000 && most.1 < 200, "most was {most:?}");
    // Sixteen questions at a time, each asked six times in three seconds.
    assert!(*asked.borrow() < 200, "{} questions", asked.borrow());
    assert_eq!(world.stop(1, honest, true), wire::control::Answer::Done);
    world.run(10 * SECOND);
    assert_eq!(world.holds(1), empty);
}

#[test]
fn a_refused_identifier_is_not_asked_for_again_at_once() {
    let mut world = World::line(2);
    let requests = Rc::new(RefCell::new(0));
    let count = requests.clone();
    world.tap(move |frame| {
        *count.borrow_mut() +=
            u32::from(frame.capsule().is_some_and(|(id, _)| id == translation_id(REQUEST)));
        Fate::Pass
    });
    let mut frame = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0x88, 0xb5].to_vec();
    frame.resize(14 + wire::capsule::HEADER_LEN, 0);
    wire::capsule::Capsule::emit_header(&mut frame[14..], &CapsuleId([7; 16]), 0);
    for _ in 0..100 {
        world.hand(1, nodeos::link::LinkId(0), &frame);
        world.run(Duration::from_millis(10));
    }
    assert_eq!(*requests.borrow(), 1, "a does not know it either");
    assert!(world.count(1, "capsules_refused") > 90);
    world.run(2 * SECOND);
    world.hand(1, nodeos::link::LinkId(0), &frame);
    world.run(SECOND);
    assert_eq!(*requests.borrow(), 2);
}

/// A hop that answers with crumbs costs neither much memory nor much time.
#[test]
fn crumbs_are_not_collected() {
    let mut world = World::line(3);
    let flow = big(ask("ask", 7), 150_000);
    let id = download_id(RESPONSE, &flow.hash(), Some(&flow.part()));
    let total = flow.module.len() as u32;
    let nonce = Rc::new(RefCell::new(None));
    let seen = nonce.clone();
    world.tap(move |frame| {
        let Some((found, payload)) = frame.capsule() else { return Fate::Pass };
        if found == download_id(REQUEST, &flow.hash(), Some(&flow.part())) && frame.to == 1 && frame.from == 2
        {
            *seen.borrow_mut() = decode::<DownloadRequest>(payload).map(|r| r.nonce);
            return Fate::Lose;
        }
        Fate::Pass
    });
    let (hash, _) = set_going(&mut world, &big(ask("ask", 7), 150_000));
    assert!(world.run_until(SECOND, |_| nonce.borrow().is_some()));
    let nonce = nonce.borrow().unwrap();
    let mut frame = Frame { from: 1, to: 2, link: nodeos::link::LinkId(0), bytes: vec![] };
    frame.bytes.extend([2, 0, 0, 0, 1, 1, 2, 0, 0, 0, 1, 0, 0x88, 0xb5]);
    frame.bytes.extend([0; wire::capsule::HEADER_LEN]);
    wire::capsule::Capsule::emit_header(&mut frame.bytes[14..], &id, 0);
    for offset in (1..total).step_by(2) {
        frame.set_payload(&encode(&DownloadResponse::Chunk { nonce, offset, total, bytes: &[0] }));
        world.hand(2, frame.link, &frame.bytes);
    }
    assert_eq!(world.state(2, hash), Some(FlowState::Download));
    assert!(
        world.count(2, "peer_unasked_answers") > u64::from(total) / 2 - 100,
        "all but a few were ignored"
    );
}
