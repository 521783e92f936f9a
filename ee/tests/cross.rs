//! Calls between flows: who may serve whom, what a call costs and whom, and what happens when either end goes.

mod common;

use std::time::Duration;

use common::guest::{self, Flow};
use common::{Fate, Options, World};
use ee::abi::Error;
use ee::config::ADMIN;
use ee::node::SessionId;
use wire::control::{Answer, FlowState, Request};
use wire::tuple::{Body, Companion, Coupling, Extension, Privilege, Provider};

const SECOND: Duration = Duration::from_secs(1);

/// A packet is a command: `a`, an operation, and a message: a call of "clock", whose number comes back after an `n`. `b`: the same with so many bytes as the number that follows says. `f`: as
/// many calls as the second byte says, and how many of them were taken. `s`: answers the call of the number that
/// follows. What is answered to it comes back after an `r`: number, result, length, and the bytes.
const CALLER: &str = r#"
    (global $session (mut i32) (i32.const 0))
    (data (i32.const 256) "companion/clock")
    (func $cap (result i32) (call $cap_lookup (i32.const 256) (i32.const 15)))
    (func $say (param $n i32)
        (i32.store8 (i32.const 512) (i32.const 110))
        (i32.store (i32.const 513) (local.get $n))
        (drop (call $session_reply (global.get $session) (i32.const 512) (i32.const 5))))
    (func (export "on_session") (param $c i32) (param $s i32) (param $what i32) (param $len i32) (local $n i32) (local $i i32)
        (if (i32.ne (local.get $what) (i32.const 1)) (then (return)))
        (global.set $session (local.get $s))
        (drop (call $session_read (local.get $s) (i32.const 0) (i32.const 8192) (i32.const 20000)))
        (if (i32.eq (i32.load8_u (i32.const 8192)) (i32.const 97)) (then
            (call $say (call $companion_ask (call $cap) (i32.load8_u (i32.const 8193))
                (i32.const 8194) (i32.sub (local.get $len) (i32.const 2))))))
        (if (i32.eq (i32.load8_u (i32.const 8192)) (i32.const 98)) (then
            (call $say (call $companion_ask (call $cap) (i32.load8_u (i32.const 8193))
                (i32.const 8192) (i32.load (i32.const 8194))))))
        (if (i32.eq (i32.load8_u (i32.const 8192)) (i32.const 102)) (then
            (loop $more
                (if (i32.gt_s (call $companion_ask (call $cap) (i32.const 2) (i32.const 0) (i32.const 0)) (i32.const 0))
                    (then (local.set $n (i32.add (local.get $n) (i32.const 1)))))
                (local.set $i (i32.add (local.get $i) (i32.const 1)))
                (br_if $more (i32.lt_u (local.get $i) (i32.load8_u (i32.const 8193)))))
            (call $say (local.get $n))))
        (if (i32.eq (i32.load8_u (i32.const 8192)) (i32.const 115)) (then
            (call $say (call $companion_settle (i32.load (i32.const 8193)) (i32.const 1) (i32.const 0) (i32.const 0))))))
    (func (export "on_answer") (param $cap i32) (param $number i32) (param $result i32) (param $len i32)
        (i32.store8 (i32.const 8192) (i32.const 114))
        (i32.store (i32.const 8193) (local.get $number))
        (i32.store (i32.const 8197) (local.get $result))
        (i32.store (i32.const 8201) (local.get $len))
        (drop (call $companion_answer (i32.const 0) (i32.const 8205) (local.get $len)))
        (if (i32.ne (local.get $cap) (call $cap)) (then (unreachable)))
        (drop (call $session_reply (global.get $session) (i32.const 8192) (i32.add (i32.const 13) (local.get $len)))))
"#;

/// Serves "clock". 1: the message comes back with `MARK` in front; its length is the result. 2: nothing yet. 3: what
/// was put off last is answered with 33, twice. 4: a trap. 5: long work. 6: who calls. Its own sessions answer numbers
/// as those of [`CALLER`] do.
const CLOCK: &str = r#"
    (global $late (mut i32) (i32.const 0))
    (func $settle (param $call i32) (param $result i32) (param $len i32)
        (drop (call $companion_settle (local.get $call) (local.get $result) (i32.const 8192) (local.get $len))))
    (func (export "on_call") (param $c i32) (param $call i32) (param $op i32) (param $len i32) (local $n i32)
        (if (i32.eq (local.get $op) (i32.const 1)) (then
            (i32.store8 (i32.const 8192) (i32.const MARK))
            (drop (call $companion_read (i32.const 0) (i32.const 8193) (local.get $len)))
            (if (i32.ne (i32.load8_u (i32.const 0)) (i32.load8_u (i32.const 8193))) (then (unreachable)))
            (if (i32.ne (call $companion_reply (i32.const 0) (i32.const 1)) (i32.const -8)) (then (unreachable)))
            (call $settle (local.get $call) (local.get $len) (i32.add (local.get $len) (i32.const 1)))))
        (if (i32.eq (local.get $op) (i32.const 2)) (then (global.set $late (local.get $call))))
        (if (i32.eq (local.get $op) (i32.const 3)) (then
            (call $settle (global.get $late) (i32.const 33) (i32.const 0))
            (call $settle (global.get $late) (i32.const 34) (i32.const 0))
            (call $settle (local.get $call) (i32.const 3) (i32.const 0))))
        (if (i32.eq (local.get $op) (i32.const 4)) (then (unreachable)))
        (if (i32.eq (local.get $op) (i32.const 5)) (then
            (loop $more
                (local.set $n (i32.add (local.get $n) (i32.const 1)))
                (br_if $more (i32.lt_u (local.get $n) (i32.const 100000))))
            (call $settle (local.get $call) (i32.const 5) (i32.const 0))))
        (if (i32.eq (local.get $op) (i32.const 6)) (then
            (drop (call $companion_caller (local.get $call) (i32.const 8192)))
            (call $settle (local.get $call) (i32.const 6) (i32.const 32)))))
    (func (export "on_session") (param $c i32) (param $s i32) (param $what i32) (param $len i32)
        (if (i32.ne (local.get $what) (i32.const 1)) (then (return)))
        (i32.store8 (i32.const 512) (i32.const 110))
        (i32.store (i32.const 513)
            (call $companion_settle (i32.load (i32.const 0)) (i32.const 1) (i32.const 0) (i32.const 0)))
        (drop (call $session_reply (local.get $s) (i32.const 512) (i32.const 5))))
"#;

fn wants(body: &mut Body, privilege: &str, optional: bool) {
    body.request.privileges.push(Privilege { name: privilege.into(), optional });
}

fn uses(body: &mut Body, interface: &str, name: &str) {
    let provider = Provider::System(name.into());
    body.protocols[0].companions.push(Companion {
        interface: interface.into(),
        coupling: Coupling::Tuple,
        provider,
    });
}

/// A flow that calls the service `name` by the interface "clock".
fn caller_of(name: &str, service: &str) -> Flow {
    guest::flow(name, guest::module(CALLER), |body| {
        uses(body, "clock", service);
        wants(body, service, false);
    })
}

fn caller(name: &str) -> Flow {
    caller_of(name, "ops.clock")
}

fn offering(name: &str, handlers: &str, interface: &str, edit: impl FnOnce(&mut Body)) -> Flow {
    guest::flow(name, guest::module(handlers), |body| {
        body.extensions = vec![Extension::offers(&[interface])];
        wants(body, "offer", false);
        edit(body);
    })
}

fn clock(name: &str, mark: u8) -> Flow {
    offering(name, &CLOCK.replace("MARK", &mark.to_string()), "ops.clock", |_| ())
}

/// What a flow with a session said.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Number(i32),
    Result { number: i32, result: i32, answer: Vec<u8> },
}

fn said(packet: &[u8]) -> Said {
    let int = |at: usize| i32::from_le_bytes(packet[at..at + 4].try_into().unwrap());
    if packet[0] == b'n' {
        return Said::Number(int(1));
    }
    let answer = packet[13..].to_vec();
    assert_eq!(int(9) as usize, answer.len());
    Said::Result { number: int(1), result: int(5), answer }
}

fn says(world: &mut World, node: usize, session: SessionId, packet: &[u8]) -> Vec<Said> {
    world.say(node, session, packet);
    // Longer work waits for the next look at the links.
    world.run(SECOND / 1000);
    world.heard(node, session).iter().map(|packet| said(packet)).collect()
}

fn call(operation: u8, message: &[u8]) -> Vec<u8> {
    [&[b'a', operation], message].concat()
}

fn result(number: i32, result: i32, answer: &[u8]) -> Said {
    Said::Result { number, result, answer: answer.to_vec() }
}

#[test]
fn a_flow_calls_another_and_everything_is_given_back() {
    let mut world = World::line(1);
    let idle = world.holds(0);
    let (clock, caller) = (clock("clock", b'>'), caller("caller"));
    world.start(0, &clock);
    world.start(0, &caller);
    let running = world.holds(0);
    let session = world.session(0, "caller");
    let long: Vec<u8> = (0..12_000).map(|n| n as u8).collect();
    let answered = [b">".as_slice(), &long].concat();
    assert_eq!(says(&mut world, 0, session, &call(1, b"hi")), [Said::Number(1), result(1, 2, b">hi")]);
    assert_eq!(
        says(&mut world, 0, session, &call(1, &long)),
        [Said::Number(2), result(2, 12_000, &answered)]
    );
    assert_eq!(
        says(&mut world, 0, session, &call(6, b"")),
        [Said::Number(3), result(3, 6, &caller.hash().0)]
    );
    // The longest message, and a longer one.
    let asked = |len: u32| [b"b\x02".as_slice(), &len.to_le_bytes()].concat();
    let too_large = [Said::Number(Error::TooLarge.code())];
    assert_eq!(says(&mut world, 0, session, &asked(16 * 1024 + 1)), too_large);
    assert_eq!(says(&mut world, 0, session, &asked(16 * 1024)), [Said::Number(4)]);
    assert_eq!(world.count(0, "companion_calls_answered"), 3);
    world.control(0, Request::FlowStop { flow: clock.hash(), kill: true });
    assert_eq!(
        world.heard(0, session).iter().map(|p| said(p)).collect::<Vec<_>>(),
        [result(4, Error::Unavailable.code(), b"")]
    );
    world.stop(0, caller.hash(), false);
    world.run(SECOND);
    assert!(running.0 > idle.0);
    assert_eq!(world.holds(0), idle);
}

#[test]
fn what_is_put_off_is_answered_later_once_and_in_its_own_name() {
    let mut world = World::line(1);
    world.start(0, &clock("clock", b'>'));
    world.start(0, &caller("caller"));
    let session = world.session(0, "caller");
    assert_eq!(says(&mut world, 0, session, &call(2, b"")), [Said::Number(1)]);
    let all = says(&mut world, 0, session, &call(3, b""));
    assert_eq!(all, [Said::Number(2), result(1, 33, b""), result(2, 3, b"")]);
}

/// Who may serve what: the operator's own flows, one for each interface, and none in the node's name.
#[test]
fn only_system_flows_serve_others() {
    let mut world = World::line(2);
    let empty = world.holds(0);
    let refused = |world: &mut World, flow: &Flow, why: &str| {
        let hash = world.inject(0, flow);
        world.run(SECOND);
        let said = world.why(0, hash);
        assert!(said.contains(why), "{said}");
    };
    let text = CLOCK.replace("MARK", "62");
    // A user's flow, which was not given the privilege; and what it is that nobody may serve.
    let user = guest::flow("user", guest::module(&text), |body| {
        body.extensions = vec![Extension::offers(&["ops.clock"])];
    });
    refused(&mut world, &user, "it lacks the privilege offer");
    refused(&mut world, &offering("thief", &text, "bees.download", |_| ()), "it is the node's own");
    refused(&mut world, &offering("invention", &text, "bees.invention", |_| ()), "it is the node's own");
    // Nobody serves this, and nobody else has this name of the node's.
    refused(&mut world, &caller("early"), "ops.clock, which nobody serves on this node");
    refused(
        &mut world,
        &caller_of("wrong", "bees.invention"),
        "bees.invention, which nobody serves on this node",
    );
    assert_eq!(world.count(0, "node_companions_missing"), 2);
    assert_eq!(world.count(0, "principal_offers_refused"), 3);
    // What was put for them and is not wanted goes after a while.
    world.run(60 * SECOND);
    assert_eq!(world.holds(0), empty);
    let clock = clock("clock", b'>');
    world.start(0, &clock);
    refused(&mut world, &offering("second", &text, "ops.clock", |_| ()), "another flow does");
    // Who uses it says so among his privileges.
    let silent = guest::flow("silent", guest::module(CALLER), |body| uses(body, "clock", "ops.clock"));
    refused(&mut world, &silent, "the flow needs privilege ops.clock");
    // One that would rather have it than not runs without.
    let modest = guest::flow("modest", guest::module(CALLER), |body| {
        uses(body, "clock", "ops.other");
        wants(body, "ops.other", true);
    });
    world.start(0, &modest);
    let session = world.session(0, "modest");
    assert_eq!(
        says(&mut world, 0, session, &call(1, b"")),
        [Said::Number(1), result(1, Error::Unavailable.code(), b"")]
    );
}

/// A flow with the privilege serves where its operator put it. It goes to no other node to serve there.
#[test]
fn what_came_from_a_neighbor_serves_nobody() {
    let mut world = World::line(2);
    let spreading = guest::ask_handlers(1);
    let flow = offering("spreading", &spreading, "ops.clock", |_| ());
    world.start(0, &flow);
    let session = world.session(0, "spreading");
    world.say(0, session, &guest::question(b'b', 1));
    world.run(SECOND);
    let why = world.why(1, flow.hash());
    assert!(why.contains("only flows that the operator starts on a node do that"), "{why}");
    // Without the offer it would have gone there.
    let flow = guest::flow("spread", guest::module(&spreading), |_| ());
    world.start(0, &flow);
    let session = world.session(0, "spread");
    world.say(0, session, &guest::question(b'b', 1));
    world.run(SECOND);
    assert_eq!(world.state(1, flow.hash()), Some(FlowState::Running));
}

#[test]
fn whoever_serves_is_replaced_under_its_callers() {
    let mut world = World::line(1);
    let (one, other) = (clock("one", b'>'), clock("other", b'#'));
    world.start(0, &one);
    world.start(0, &caller("caller"));
    let session = world.session(0, "caller");
    assert_eq!(says(&mut world, 0, session, b"f\x03"), [Said::Number(3)]);
    world.stop(0, one.hash(), false);
    let ended: Vec<Said> = world.heard(0, session).iter().map(|p| said(p)).collect();
    let gone = Error::Unavailable.code();
    assert_eq!(ended, [result(1, gone, b""), result(2, gone, b""), result(3, gone, b"")]);
    assert_eq!(says(&mut world, 0, session, &call(1, b"x")), [Said::Number(4), result(4, gone, b"")]);
    world.start(0, &other);
    assert_eq!(says(&mut world, 0, session, &call(1, b"x")), [Said::Number(5), result(5, 1, b"#x")]);
    // One that fails is gone, too.
    assert_eq!(says(&mut world, 0, session, &call(4, b"")), [Said::Number(6), result(6, gone, b"")]);
    assert!(world.why(0, other.hash()).contains("trapped"));
    assert_eq!(world.count(0, "companion_calls_failed"), 5);
}

/// A flow that asks without end is told so, and nobody waits longer for it.
#[test]
fn a_flood_is_bounded_for_each_caller() {
    let mut world = World::line(1);
    world.start(0, &clock("clock", b'>'));
    for name in ["flood", "calm"] {
        world.start(0, &caller(name));
    }
    let (flood, calm) = (world.session(0, "flood"), world.session(0, "calm"));
    assert_eq!(says(&mut world, 0, flood, b"f\xff"), [Said::Number(8)]);
    assert_eq!(says(&mut world, 0, flood, &call(1, b"x")), [Said::Number(Error::NoRoom.code())]);
    assert_eq!(says(&mut world, 0, calm, &call(1, b"x")), [Said::Number(1), result(1, 1, b">x")]);
    // What is answered makes room again.
    assert_eq!(says(&mut world, 0, calm, &call(3, b"")), [Said::Number(2), result(2, 3, b"")]);
    assert_eq!(world.heard(0, flood).iter().map(|p| said(p)).collect::<Vec<_>>(), [result(8, 33, b"")]);
    assert_eq!(says(&mut world, 0, flood, &call(1, b"x")), [Said::Number(9), result(9, 1, b">x")]);
}

/// Numbers of calls are good for whom they were given to, until he answers.
#[test]
fn answers_cannot_be_forged() {
    let mut world = World::line(1);
    world.start(0, &clock("clock", b'>'));
    // Another one that serves, and knows how to answer.
    let handlers = CLOCK.replace("MARK", "35");
    world.start(0, &offering("liar", &handlers, "ops.other", |_| ()));
    for name in ["victim", "thief"] {
        world.start(0, &caller(name));
    }
    let [victim, thief, liar, clock] =
        ["victim", "thief", "liar", "clock"].map(|name| world.session(0, name));
    assert_eq!(says(&mut world, 0, victim, b"f\x02"), [Said::Number(2)]);
    let bad = Said::Number(Error::BadHandle.code());
    // The numbers that the clock, the victim and the node have for the calls are among these.
    for number in (0..64u32).flat_map(|n| [n, n | 1 << 15, n | 1 << 16, n | 2 << 15]) {
        let number = number.to_le_bytes();
        let packet = [b"s".as_slice(), &number].concat();
        assert_eq!(says(&mut world, 0, thief, &packet), [const { Said::Number(-1) }]);
        assert_eq!(says(&mut world, 0, victim, &packet), [const { Said::Number(-1) }]);
        assert_eq!(says(&mut world, 0, liar, &number), [const { Said::Number(-1) }]);
    }
    assert_eq!(bad, Said::Number(-1));
    // Whose they are can: once.
    let number = (1u32 << 15).to_le_bytes();
    assert_eq!(says(&mut world, 0, clock, &number), [Said::Number(0)]);
    assert_eq!(says(&mut world, 0, clock, &number), [bad]);
    assert_eq!(world.heard(0, victim).iter().map(|p| said(p)).collect::<Vec<_>>(), [result(1, 1, b"")]);
    assert_eq!(world.heard(0, thief), [b""; 0]);
}

#[test]
fn whoever_calls_pays_for_the_time() {
    let mut world = World::line(1);
    world.start(0, &clock("clock", b'>'));
    world.start(0, &caller("caller"));
    let session = world.session(0, "caller");
    let used = |world: &mut World, name: &str| {
        let team = world.teams(0).into_iter().find(|team| team.name == name).unwrap();
        team.cpu_us
    };
    let before = (used(&mut world, "clock"), used(&mut world, "caller"));
    assert_eq!(says(&mut world, 0, session, &call(5, b"")), [Said::Number(1), result(1, 5, b"")]);
    let after = (used(&mut world, "clock"), used(&mut world, "caller"));
    assert_eq!(after.0, before.0);
    assert!(after.1 - before.1 > 300, "{before:?} {after:?}");
}

/// The next version of whoever serves serves on: it gets the calls that wait, and what the old one heard and did not
/// answer is told to have nobody.
#[test]
fn the_next_version_of_whoever_serves_takes_the_calls_over() {
    let mut world = World::line(1);
    let idle = world.holds(0);
    let one = clock("clock", b'>');
    let next = |mark: u8, old: &Flow| {
        offering("clock", &CLOCK.replace("MARK", &mark.to_string()), "ops.clock", |body| {
            body.nonce = [mark; 16];
            body.replaces = Some(old.hash());
        })
    };
    let two = next(b'#', &one);
    world.start(0, &one);
    let callers = ["calm", "caller"].map(caller);
    for caller in &callers {
        world.start(0, caller);
    }
    let [calm, busy] = ["calm", "caller"].map(|name| world.session(0, name));
    assert_eq!(says(&mut world, 0, calm, &call(2, b"")), [Said::Number(1)]);
    // Long calls, all the time.
    world.inject(0, &two);
    let (mut asked, mut answered) = (0, 0);
    let mut heard = |world: &mut World| {
        for packet in world.heard(0, busy) {
            match said(&packet) {
                Said::Number(number) => asked += i32::from(number > 0),
                Said::Result { result, .. } => {
                    assert_eq!(result, 5);
                    answered += 1;
                }
            }
        }
        asked - answered
    };
    let mut wait = 0;
    for _ in 0..200 {
        for _ in 0..4 {
            world.say(0, busy, &call(5, b""));
        }
        world.run(SECOND / 10_000);
        wait = heard(&mut world);
        if world.state(0, two.hash()) == Some(FlowState::Running) {
            break;
        }
    }
    assert_eq!(world.state(0, two.hash()), Some(FlowState::Running), "{:?}", world.log(0));
    assert!(wait > 0, "calls waited");
    world.run(SECOND);
    assert_eq!(heard(&mut world), 0);
    let gone = Error::Unavailable.code();
    assert_eq!(world.heard(0, calm).iter().map(|p| said(p)).collect::<Vec<_>>(), [result(1, gone, b"")]);
    assert_eq!(says(&mut world, 0, calm, &call(1, b"x")), [Said::Number(2), result(2, 1, b"#x")]);
    // A version that cannot start leaves everything as it is; so does somebody else who wants the interface.
    let broken =
        offering("clock", "(func (export \"on_boot\") (param i32) (unreachable))", "ops.clock", |body| {
            body.replaces = Some(two.hash());
        });
    for (flow, why) in [(&broken, "trapped"), (&clock("other", b'!'), "another flow does")] {
        world.inject(0, flow);
        world.run(SECOND);
        assert!(world.why(0, flow.hash()).contains(why));
        assert_eq!(says(&mut world, 0, calm, &call(6, b"")).len(), 2);
    }
    assert_eq!(says(&mut world, 0, calm, &call(1, b"x"))[1..], [result(5, 1, b"#x")]);
    // One that serves nothing ends the service.
    let mute = guest::flow("clock", guest::module(""), |body| body.replaces = Some(two.hash()));
    world.inject(0, &mute);
    world.run(SECOND);
    assert_eq!(world.state(0, mute.hash()), Some(FlowState::Running));
    assert_eq!(says(&mut world, 0, calm, &call(1, b"x"))[1..], [result(6, gone, b"")]);
    for flow in callers.iter().chain([&mute]) {
        world.stop(0, flow.hash(), false);
    }
    // The module of the one that was refused is kept a while for whoever injects it next.
    world.run(61 * SECOND);
    assert_eq!(world.holds(0), idle);
}

/// What was called belongs to the version that called.
#[test]
fn the_next_version_of_a_caller_gets_no_answer_of_the_old_ones() {
    let mut world = World::line(1);
    world.start(0, &clock("clock", b'>'));
    let one = caller("caller");
    world.start(0, &one);
    let session = world.session(0, "caller");
    assert_eq!(says(&mut world, 0, session, b"f\x05"), [Said::Number(5)]);
    let two = guest::flow("caller", guest::module(CALLER), |body| {
        uses(body, "clock", "ops.clock");
        wants(body, "ops.clock", false);
        body.replaces = Some(one.hash());
    });
    world.inject(0, &two);
    world.run(SECOND);
    assert_eq!(world.state(0, two.hash()), Some(FlowState::Running));
    assert_eq!(says(&mut world, 0, session, &call(3, b"")), [Said::Number(1), result(1, 3, b"")]);
    assert_eq!(says(&mut world, 0, session, b"f\x08"), [Said::Number(8)]);
}

/// A call outlives its caller's end, and is nobody's then.
#[test]
fn a_caller_that_ends_leaves_nothing_behind() {
    let mut world = World::line(1);
    let clock = clock("clock", b'>');
    world.start(0, &clock);
    let idle = world.holds(0);
    let memory = |world: &mut World| world.teams(0).into_iter().find(|t| t.name == "clock").unwrap().memory.0;
    let of_clock = memory(&mut world);
    for round in 0..20 {
        let caller = caller("caller");
        world.start(0, &caller);
        let session = world.session(0, "caller");
        assert_eq!(says(&mut world, 0, session, b"f\x05"), [Said::Number(5)]);
        world.stop(0, caller.hash(), round % 2 == 0);
    }
    // Of the hundred calls the clock was given no more than it may have open.
    world.run(SECOND);
    let kept = memory(&mut world) - of_clock;
    assert!(kept < 8 * 1024, "{kept}");
    assert_eq!((world.holds(0).1, world.holds(0).3), (idle.1, idle.3));
    world.stop(0, clock.hash(), false);
    world.start(0, &clock);
    world.start(0, &caller("caller"));
    let session = world.session(0, "caller");
    assert_eq!(says(&mut world, 0, session, &call(1, b"x")), [Said::Number(1), result(1, 1, b">x")]);
}

/// What a caller asked for and was not heard is worked on no more when the caller ends, and leaves its places in the queue.
#[test]
fn calls_of_a_caller_that_ends_are_withdrawn() {
    let mut world = World::line(1);
    world.start(0, &clock("clock", b'>'));
    // Its flood is of calls each of which takes longer than a look at the links may wait.
    let asks = CALLER.replace("(call $cap) (i32.const 2)", "(call $cap) (i32.const 5)");
    let gone = guest::flow("gone", guest::module(&asks), |body| {
        uses(body, "clock", "ops.clock");
        wants(body, "ops.clock", false);
    });
    let stays = caller("stays");
    let sessions = [&gone, &stays].map(|flow| {
        world.start(0, flow);
        world.session(0, &wire::tuple::Tuple::decode(&flow.tuple).unwrap().main().name)
    });
    let of_clock = |world: &mut World| {
        let now = world.time();
        match world.stations[0].node.control(now, ADMIN, Request::TeamShow { from: 0 }) {
            Answer::Teams(teams) => teams.items.into_iter().find(|team| team.name == "clock").unwrap(),
            other => panic!("{other:?}"),
        }
    };
    let before = of_clock(&mut world);
    let now = world.time();
    for (session, packet) in [(sessions[0], b"f\x08".to_vec()), (sessions[1], call(5, b""))] {
        world.stations[0].node.session_send(now, session, &packet).unwrap();
    }
    let mut polls = 0;
    while of_clock(&mut world).events.1 < 2 {
        polls += 1;
        assert!(polls < 100, "{:?}", of_clock(&mut world).events);
        world.stations[0].node.poll(now);
    }
    let (heard, free) = (of_clock(&mut world).events.0, of_clock(&mut world).events.1);
    let stop = Request::FlowStop { flow: gone.hash(), kill: true };
    assert_eq!(world.stations[0].node.control(now, ADMIN, stop), Answer::Done);
    let left = of_clock(&mut world).events.1;
    assert!(left <= 1 && left < free, "{left} of {free}");
    world.run(SECOND);
    let after = of_clock(&mut world);
    assert!(after.events.0 <= heard + 1, "{} events, {heard} before", after.events.0);
    assert!(heard > before.events.0 || after.events.0 > before.events.0);
    assert_eq!(
        world.heard(0, sessions[1]).iter().map(|p| said(p)).collect::<Vec<_>>()[1..],
        [result(1, 5, b"")]
    );
    // And others are served as before, also when many were withdrawn.
    for round in 0..30 {
        let now = world.time();
        world.start(0, &gone);
        let session = world.session(0, "gone");
        world.stations[0].node.session_send(now, session, b"f\x08").unwrap();
        (0..round % 6).for_each(|_| _ = world.stations[0].node.poll(now));
        world.stop(0, gone.hash(), true);
    }
    let said = says(&mut world, 0, sessions[1], &call(1, b"x"));
    assert_eq!(said, [Said::Number(2), result(2, 1, b">x")]);
    assert_eq!(of_clock(&mut world).events.1, 0);
}

/// What is fetched for a flow that ends is fetched no more, unless another flow, or a capsule, wants it.
#[test]
fn what_only_a_flow_that_ended_wanted_is_not_fetched() {
    let mut world = World::line(2);
    let wanted = guest::ask("wanted", 7);
    world.start(1, &wanted);
    let loaders = ["one", "two"].map(|name| caller_of(name, "bees.download"));
    let fetch = |hash: &[u8]| {
        let len = (wanted.tuple.len() as u32).to_le_bytes();
        call(1, &[hash, &len, b"b"].concat())
    };
    let hash = wanted.hash();
    let starts = |world: &mut World, at: usize| {
        world.start(0, &loaders[at]);
        world.session(0, ["one", "two"][at])
    };
    let taken = |said: &[Said], code: i32| matches!(said[1], Said::Result { result, .. } if result == code);
    // Nothing of it comes while the link is cut.
    world.tap(|_| Fate::Lose);
    let empty = world.holds(0);
    for kill in [true, false] {
        let one = starts(&mut world, 0);
        assert!(taken(&says(&mut world, 0, one, &fetch(&hash.0)), 0));
        assert!(matches!(world.state(0, hash), Some(FlowState::Tuple)));
        world.stop(0, loaders[0].hash(), kill);
        assert_eq!(world.why(0, hash), "the flow that wanted it here ended");
        assert_eq!(world.holds(0), empty);
    }
    // The other one wants it, too, and pays now.
    let (one, two) = (starts(&mut world, 0), starts(&mut world, 1));
    assert!(taken(&says(&mut world, 0, one, &fetch(&hash.0)), 0));
    assert!(taken(&says(&mut world, 0, two, &fetch(&hash.0)), 1));
    let memory = |world: &mut World| world.teams(0).into_iter().find(|t| t.name == "two").unwrap().memory.0;
    let before = memory(&mut world);
    world.stop(0, loaders[0].hash(), true);
    assert!(memory(&mut world) > before + wanted.tuple.len() as u64);
    world.stop(0, loaders[1].hash(), true);
    assert_eq!(world.why(0, hash), "the flow that wanted it here ended");
    // The loaders' module is kept a while for whoever injects one of them next.
    world.run(61 * SECOND);
    assert_eq!(world.holds(0), empty);
    // Once it runs it is as any other.
    world.untap();
    let one = starts(&mut world, 0);
    assert!(taken(&says(&mut world, 0, one, &fetch(&hash.0)), 0));
    let runs = |w: &mut World| w.state(0, hash) == Some(FlowState::Running);
    assert!(world.run_until(2 * SECOND, runs));
    world.stop(0, loaders[0].hash(), true);
    world.run(SECOND);
    assert_eq!(world.state(0, hash), Some(FlowState::Running));
}

/// What serves an interface and has no handler for calls answers all the same.
#[test]
fn a_flow_without_the_handler_answers_nothing() {
    let mut world = World::line(1);
    world.start(0, &offering("mute", "", "ops.clock", |_| ()));
    world.start(0, &caller("caller"));
    let session = world.session(0, "caller");
    let missing = Error::NotFound.code();
    assert_eq!(says(&mut world, 0, session, &call(1, b"x")), [Said::Number(1), result(1, missing, b"")]);
}

/// The node's own services: whether neighbors are there, with news at the end, and who is there at all.
#[test]
fn flows_ask_the_node_who_is_there() {
    let link = "discover = true";
    let mut world = World::line_with(3, Options { link, strangers: true, ..Options::default() });
    let told = r#"
        (func (export "on_neighbor") (param $n i32) (param $news i32)
            (call $say (i32.add (local.get $news) (i32.const 1000))))"#;
    let watcher = |name: &str, service: &str| {
        guest::flow(name, guest::module(&format!("{CALLER} {told}")), |body| {
            uses(body, "clock", service);
            wants(body, service, false);
        })
    };
    world.start(0, &watcher("watcher", "bees.liveness"));
    world.start(0, &watcher("looker", "bees.discovery"));
    let [watcher, looker] = ["watcher", "looker"].map(|name| world.session(0, name));
    // Sessions hear of neighbors once something was said.
    let mut number = 0;
    let mut result = |world: &mut World, session, packet: &[u8]| {
        number += 1;
        let said = says(world, 0, session, packet);
        match said.into_iter().find(|said| matches!(said, Said::Result { .. })) {
            Some(Said::Result { result, answer, .. }) => (result, answer),
            other => panic!("{number}: {other:?}"),
        }
    };
    let (missing, bad) = (Error::NotFound.code(), Error::BadArgument.code());
    world.run(4 * SECOND);
    let (count, records) = result(&mut world, looker, &call(0, &0u32.to_le_bytes()));
    assert_eq!((count, records.len()), (2, 96));
    assert_eq!((&records[..2], records[33], &records[48..50], records[81]), (&b"b\0"[..], 1, &b"c\0"[..], 2));
    let (count, rest) = result(&mut world, looker, &call(0, &1u32.to_le_bytes()));
    assert_eq!((count, rest.len(), &rest[..34]), (2, 48, &records[48..82]));
    assert_eq!(result(&mut world, looker, &call(0, &[0xff; 4])), (2, vec![]));
    assert_eq!(result(&mut world, looker, &call(0, b"")).0, bad);

    let watch = |poke: i64, expire: i64, name: &[u8]| {
        call(1, &[&poke.to_le_bytes()[..], &expire.to_le_bytes(), name].concat())
    };
    assert_eq!(result(&mut world, watcher, &call(0, b"~b")).0, missing, "nobody watches it");
    for (packet, code) in [
        (watch(1, 2, b"~b"), bad),
        (watch(500_000, 2_000_000, b"~c"), missing),
        (watch(500_000, 2_000_000, b"\xff"), bad),
        (call(1, b"short"), bad),
        (call(3, b"~b"), bad),
        (watch(500_000, 2_000_000, b"~b"), 0),
    ] {
        assert_eq!(result(&mut world, watcher, &packet).0, code, "{packet:?}");
    }
    world.run(3 * SECOND);
    let (is_alive, numbers) = result(&mut world, watcher, &call(0, b"~b"));
    let rtt = u32::from_le_bytes(numbers[4..].try_into().unwrap());
    assert!(is_alive == 1 && (1000..2000).contains(&rtt), "{is_alive} {rtt}");
    // Silence is told, sooner than the adverts are forgotten, and told when it is asked.
    world.tap(|_| Fate::Lose);
    world.heard(0, watcher);
    world.run(3 * SECOND);
    let news: Vec<Said> = world.heard(0, watcher).iter().map(|packet| said(packet)).collect();
    assert_eq!(news, [Said::Number(1000)]);
    assert_eq!(result(&mut world, watcher, &call(0, b"~b")).0, 0);
    assert_eq!(result(&mut world, watcher, &call(2, b"~b")).0, 0);
    assert_eq!(result(&mut world, watcher, &call(0, b"~b")).0, missing);
}

/// The node's own services: which flow an identifier is of, and a flow that is fetched before it is needed.
#[test]
fn flows_use_the_services_of_the_node() {
    let mut world = World::line(3);
    let wanted = guest::ask("wanted", 7);
    world.start(1, &wanted);
    world.start(0, &caller_of("finder", "bees.translate"));
    world.start(0, &caller_of("loader", "bees.download"));
    let [finder, loader] = ["finder", "loader"].map(|name| world.session(0, name));
    let tuple = wire::tuple::Tuple::decode(&wanted.tuple).unwrap();
    let id = tuple.capsule_id(&wanted.hash(), 0, &Default::default(), 0);
    let missing = Error::NotFound.code();
    assert_eq!(says(&mut world, 0, finder, &call(0, &id.0)), [Said::Number(1), result(1, missing, b"")]);
    let hash = wanted.hash().0;
    assert_eq!(says(&mut world, 0, loader, &call(0, &hash)), [Said::Number(1), result(1, missing, b"")]);

    let fetch = |hash: &[u8], len: usize, from: &str| {
        call(1, &[hash, &(len as u32).to_le_bytes(), from.as_bytes()].concat())
    };
    let len = wanted.tuple.len();
    // From nobody that it knows; of a length that no tuple has; the rest of a command.
    let bad = Error::BadArgument.code();
    for (packet, code) in [
        (fetch(&hash, len, "c"), missing),
        (fetch(&hash, 0, "b"), bad),
        (fetch(&hash, 1 << 20, "b"), bad),
        (call(1, &hash), bad),
        (call(9, &hash), bad),
    ] {
        let said = says(&mut world, 0, loader, &packet);
        assert!(matches!(&said[1], Said::Result { result, .. } if *result == code), "{said:?}");
    }
    let said = says(&mut world, 0, loader, &fetch(&hash, len, "b"));
    assert!(matches!(&said[1], Said::Result { result: 0, .. }), "{said:?}");
    let again = says(&mut world, 0, loader, &fetch(&hash, len, "b"));
    assert!(matches!(&again[1], Said::Result { result: 1, .. }), "{again:?}");
    let running = |w: &mut World| w.state(0, wanted.hash()) == Some(FlowState::Running);
    assert!(world.run_until(2 * SECOND, running));
    // It is judged, and pays for itself, as any flow from a neighbor.
    assert_eq!(world.flow(0, wanted.hash()).unwrap().source.as_deref(), Some("b"));
    let bytes = ((len + wanted.module.len()) as u32).to_le_bytes();
    let said = says(&mut world, 0, loader, &call(0, &hash));
    assert!(
        matches!(&said[1], Said::Result { result: 4, answer, .. } if *answer == [bytes, bytes].concat()),
        "{said:?}"
    );
    let known = [&hash[..], &(len as u32).to_le_bytes(), &[0, 0], b"b"].concat();
    let said = says(&mut world, 0, finder, &call(0, &id.0));
    assert_eq!(said, [Said::Number(2), result(2, 1, &known)]);

    // What does not exist ends, at the expense of whoever wanted it; he has no more than two of these on their way.
    let loader_holds =
        |world: &mut World| world.teams(0).into_iter().find(|t| t.name == "loader").unwrap().memory.0;
    let before = loader_holds(&mut world);
    let results: Vec<i32> = (1..4u8)
        .map(|n| match says(&mut world, 0, loader, &fetch(&[n; 32], 100, "b")).remove(1) {
            Said::Result { result, .. } => result,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(results, [0, 0, Error::NoRoom.code()]);
    assert!(loader_holds(&mut world) > before);
    world.run(20 * SECOND);
    assert_eq!(loader_holds(&mut world), before);
    let said = says(&mut world, 0, loader, &fetch(&[9; 32], 100, "b"));
    assert!(matches!(&said[1], Said::Result { result: 0, .. }), "{said:?}");
}
