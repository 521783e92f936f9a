//! One team's work does not become another's wait: what a node does between two looks at its links is bounded,
//! whoever uses little is next, and an honest flow's questions are answered whatever others do to the node in the
//! middle. `docs/benchmarks.md` has what the same attacks do to times.

mod common;

use std::time::Duration;

use common::guest::{self, Flow, answer, ask, flow, question};
use common::{Options, World};
use ee::node::SessionId;
use nodeos::link::LinkId;
use wire::capsule::{Capsule, HEADER_LEN};
use wire::control::{Answer, Request};
use wire::id::{CapsuleId, Path};
use wire::system::{DownloadRequest, REQUEST, download_id, encode};
use wire::tuple::{DataPart, Part, Privilege};

const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// For each packet works for half a millisecond (500,000 instructions), then answers.
const BURNER: &str = r#"
    (func (export "on_session") (param $c i32) (param $s i32) (param $what i32) (param $len i32)
        (local $n i32)
        (if (i32.ne (local.get $what) (i32.const 1)) (then (return)))
        (local.set $n (i32.const 100000))
        (loop $l (br_if $l (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
        (drop (call $session_reply (local.get $s) (i32.const 0) (i32.const 1))))"#;

/// Answers at once.
const LIGHT: &str = r#"
    (func (export "on_session") (param $c i32) (param $s i32) (param $what i32) (param $len i32)
        (if (i32.ne (local.get $what) (i32.const 1)) (then (return)))
        (drop (call $session_reply (local.get $s) (i32.const 0) (i32.const 1))))"#;

/// The same module under another name.
fn numbered(name: &str, handlers: &str, number: u8) -> Flow {
    flow(name, guest::module(handlers), |body| body.nonce[0] = number)
}

/// Puts packets into a flow's queue, and does nothing more.
fn queue(world: &mut World, session: SessionId, count: usize) {
    let now = world.time();
    for _ in 0..count {
        world.stations[0].node.session_send(now, session, b"x").unwrap();
    }
}

#[test]
fn links_are_looked_at_between_long_events() {
    let mut world = World::line_with(1, Options::default());
    world.start(0, &numbered("burner", BURNER, 0));
    let session = world.session(0, "burner");
    world.run(MILLI);
    queue(&mut world, session, 20);
    let now = world.time();
    let polls = std::iter::from_fn(|| world.stations[0].node.poll(now).then_some(())).count();
    assert!((19..=21).contains(&polls), "{polls} polls for 20 long events");
    assert_eq!(world.heard(0, session).len(), 20);
}

/// A platform that was away for a while hands in what came meanwhile, a batch between two polls.
#[test]
fn what_piled_up_while_the_processor_was_away_finds_room() {
    const BATCH: u64 = 64;
    let mut world = World::line_with(2, Options::default());
    let light =
        flow("light", guest::module(r#"(func (export "on_capsule") (param i32 i32 i32 i32))"#), |_| ());
    world.start(1, &light);
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0x88, 0xb5];
    frame.resize(14 + HEADER_LEN, 0);
    Capsule::emit_header(&mut frame[14..], &CapsuleId::compute(&light.hash(), &Path::default(), 0, &[]), 0);
    let before = world.count(1, "capsules_received");
    for _ in 0..10 {
        (0..BATCH).for_each(|_| world.hand(1, LinkId(0), &frame));
        let now = world.time();
        world.stations[1].node.poll(now);
    }
    assert_eq!(world.count(1, "capsules_received"), before + 10 * BATCH);
    assert_eq!(world.count(1, "team_queue_full"), 0);
}

#[test]
fn who_uses_little_waits_for_one_event_of_others() {
    let mut world = World::line_with(1, Options::default());
    world.start(0, &numbered("light", LIGHT, 0));
    let light = world.session(0, "light");
    let burners: Vec<SessionId> = (0..6)
        .map(|n| {
            let flow = numbered("burner", BURNER, n);
            let hash = world.start(0, &flow);
            world.session(0, &hash.to_string())
        })
        .collect();
    world.run(MILLI);
    // A new flow's first event counts as if it had been long; that is over when the others have worked as much.
    burners.iter().for_each(|&session| queue(&mut world, session, 10));
    world.run(SECOND);
    burners.iter().for_each(|&session| assert_eq!(world.heard(0, session).len(), 10));
    for round in 0..20 {
        burners.iter().for_each(|&session| queue(&mut world, session, 2));
        let now = world.time();
        assert!(world.stations[0].node.poll(now));
        queue(&mut world, light, 1);
        world.stations[0].node.poll(now);
        assert_eq!(world.heard(0, light).len(), 1, "round {round}");
        // The others get theirs as well.
        while world.stations[0].node.poll(now) {}
        for &session in &burners {
            assert_eq!(world.heard(0, session).len(), 2);
        }
    }
}

/// A flow whose module nobody else has.
fn distinct(number: u8) -> Flow {
    let module = guest::module(&format!("(data (i32.const 100) \"{number}\") {LIGHT}"));
    flow("distinct", module, |_| ())
}

#[test]
fn compilations_begin_one_at_a_time_and_only_while_somebody_waits() {
    let mut world = World::line_with(1, Options::default());
    let now = world.time();
    let flows: Vec<Flow> = (0..10).map(distinct).collect();
    let node = |world: &mut World, request| world.stations[0].node.control(now, "admin", request);
    for flow in &flows {
        let part = flow.part();
        let (total, bytes) = (flow.module.len() as u32, flow.module.clone());
        node(&mut world, Request::PartPut { part, total, offset: 0, bytes });
        let answer = node(&mut world, Request::FlowInject { tuple: flow.tuple.clone() });
        assert!(matches!(answer, Answer::Injected(_)), "{answer:?}");
    }
    world.stations[0].node.poll(now);
    let first = world.stations[0].node.job().expect("the first compilation");
    assert!(world.stations[0].node.job().is_none(), "another one before the first is done");
    // All but the last are not wanted any more; the first has begun.
    for flow in &flows[..9] {
        assert_eq!(node(&mut world, Request::FlowStop { flow: flow.hash(), kill: true }), Answer::Done);
    }
    let done = first.run();
    world.stations[0].node.job_done(now, done);
    let last = world.stations[0].node.job().expect("the last compilation");
    assert!(world.stations[0].node.job().is_none());
    let done = last.run();
    world.stations[0].node.job_done(now, done);
    assert!(world.stations[0].node.job().is_none(), "compiled for nobody");
    world.stations[0].node.poll(now);
    let started = world.count(0, "flows_started");
    assert_eq!(started, 1);
}

/// A line of three, with the victim on all of them; the attack is on b.
struct Line {
    world: World,
    victim: Flow,
    session: SessionId,
    asked: u32,
}

const B: usize = 1;

impl Line {
    fn new() -> Self {
        let mut world = World::line(3);
        let victim = ask("ask", 7);
        world.start(0, &victim);
        let session = world.session(0, "ask");
        let mut line = Self { world, victim, session, asked: 0 };
        line.ask();
        line
    }

    /// A question to the far end is answered.
    fn ask(&mut self) {
        self.asked += 1;
        self.world.say(0, self.session, &question(b'c', self.asked));
        self.world.run(SECOND);
        assert_eq!(self.world.heard(0, self.session), [answer(b'c', 7, self.asked)]);
    }

    /// What the victim used on b so far, in microseconds.
    fn used(&mut self) -> u64 {
        match self.world.control(B, Request::TeamShow { from: 0 }) {
            Answer::Teams(page) => page.items.iter().find(|t| t.name == "ask").expect("it lives").cpu_us,
            other => panic!("{other:?}"),
        }
    }

    /// Frames from c, in one go.
    fn flood(&mut self, id: CapsuleId, payload: &[u8], count: usize) {
        let mut frame = vec![2, 0, 0, 0, 1, 0, 2, 0, 0, 0, 1, 1, 0x88, 0xb5];
        frame.extend([0; HEADER_LEN]);
        Capsule::emit_header(&mut frame[14..], &id, payload.len());
        frame.extend(payload);
        for _ in 0..count {
            self.world.hand(B, LinkId(1), &frame);
        }
        self.world.settle(B);
    }
}

#[test]
fn questions_are_answered_under_a_flood_of_another_flows_capsules() {
    let mut line = Line::new();
    let sink = guest::of("sink", r#"(func (export "on_capsule") (param i32 i32 i32 i32))"#);
    line.world.start(B, &sink);
    let before = line.used();
    for _ in 0..20 {
        line.flood(CapsuleId::compute(&sink.hash(), &Path::default(), 0, &[]), &[1; 64], 500);
        line.ask();
    }
    assert!(line.world.count(B, "team_queue_full") > 0, "the flood was none");
    assert!(line.used() - before < 10_000, "the victim pays for others' capsules");
}

#[test]
fn questions_are_answered_while_the_victims_own_code_is_downloaded_without_end() {
    let mut line = Line::new();
    let id = download_id(REQUEST, &line.victim.hash(), Some(&line.victim.part()));
    let request = encode(&DownloadRequest { nonce: 1, offset: 0, len: u32::MAX });
    for _ in 0..20 {
        line.flood(id, &request, 200);
        line.ask();
    }
    assert!(line.world.count(B, "downloads_served") >= 4000);
}

#[test]
fn questions_are_answered_while_sessions_come_and_go() {
    let mut line = Line::new();
    line.world.start(B, &numbered("light", LIGHT, 0));
    for _ in 0..20 {
        let now = line.world.time();
        for _ in 0..100 {
            let node = &mut line.world.stations[B].node;
            let Ok(session) = node.session_open(now, "light") else { break };
            node.session_close(now, session);
        }
        line.ask();
    }
    assert!(line.world.count(B, "sessions_opened") > 500);
}

#[test]
fn questions_are_answered_while_modules_come_that_nobody_needs() {
    let mut line = Line::new();
    line.world.compile_us = 500_000;
    for number in 0..40 {
        line.world.inject(B, &distinct(number));
        line.ask();
    }
    assert_eq!(line.world.count(B, "flows_started"), 41);
}

/// Starts a flow below itself, kills it when it runs, and starts it again when it is gone.
const FAMILY: &str = r#"
    (data (i32.const 256) "flowstuple")
    (func $start
        (drop (call $flow_start (call $cap_lookup (i32.const 256) (i32.const 5)) (i32.const 4096)
            (call $data_read (i32.const 261) (i32.const 5) (i32.const 0) (i32.const 4096) (i32.const 8192))
            (i32.const 0))))
    (func (export "on_boot") (param i32) (call $start))
    (func (export "on_flow") (param $flow i32) (param $state i32)
        (if (i32.eq (local.get $state) (i32.const 1))
            (then (drop (call $flow_stop (local.get $flow) (i32.const 1))))
            (else (drop (call $cap_drop (local.get $flow))) (call $start))))"#;

#[test]
fn questions_are_answered_while_flows_are_started_and_killed() {
    let mut line = Line::new();
    let child = guest::of("child", LIGHT);
    let parent = flow("family", guest::module(FAMILY), |body| {
        let data = |name: &str, bytes: &[u8]| DataPart { name: name.into(), part: Part::of(bytes).unwrap() };
        body.protocols[0].data = vec![data("tuple", &child.tuple), data("code", &child.module)];
        body.request.privileges = vec![Privilege { name: "flows".into(), optional: false }];
    });
    line.world.put(B, &child.tuple);
    line.world.put(B, &child.module);
    line.world.start(B, &parent);
    for _ in 0..5 {
        line.ask();
    }
    let ended = line.world.count(B, "flows_ended");
    assert!(ended > 100, "only {ended} were killed");
}
