//! Long work of a team with the privilege `background` beside others': who waits for whom, and ends.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::guest::{self, Flow};
use common::{Options, World, platform};
use ee::config::{ADMIN, NodeConfig};
use ee::{Engine, InterruptHandle, Metering, Node, Platform};
use nodeos::platform::{Instant, Interrupter, Meter, Now};
use wire::control::{Answer, FlowState, Request};
use wire::id::{PartHash, TupleHash};
use wire::tuple::Privilege;

/// Replies 9 to a program when it has gone round TURNS times; then the session is over, and the log knows.
const CRUNCH: &str = r#"
    (func (export "on_session") (param $c i32) (param $s i32) (param $what i32) (param $len i32) (local $d i32)
        (if (i32.ne (local.get $what) (i32.const 1)) (then (return)))
        (drop (call $log (i32.const 2) (i32.const 64) (i32.const 12)))
        (loop $long (local.set $d (i32.add (local.get $d) (i32.const 1)))
            (br_if $long (i32.ne (local.get $d) (i32.const TURNS))))
        (i32.store8 (i32.const 0) (i32.const 9))
        (drop (call $session_reply (local.get $s) (i32.const 0) (i32.const 1))))
"#;

/// Sends a program its packets back.
const ECHO: &str = r#"
    (func (export "on_session") (param $c i32) (param $s i32) (param $what i32) (param $len i32)
        (if (i32.ne (local.get $what) (i32.const 1)) (then (return)))
        (drop (call $session_reply (local.get $s) (i32.const 0) (local.get $len))))
"#;

fn crunch(turns: i64, privilege: bool) -> Flow {
    let module = guest::module(&CRUNCH.replace("TURNS", &turns.to_string()));
    guest::flow("crunch", module, |body| {
        if privilege {
            let asked = Privilege { name: "background".into(), optional: false };
            body.request.privileges.push(asked);
        }
    })
}

fn counter(world: &mut World, name: &str) -> u64 {
    world.info(0).counters.iter().find(|c| c.name == name).map_or(0, |c| c.value)
}

/// A node, two flows, and sessions with both; the cruncher has begun.
fn busy(turns: i64) -> (World, ee::node::SessionId, ee::node::SessionId) {
    let mut world = World::line_with(1, Options { team: "background = \"1s\"", ..Options::default() });
    world.start(0, &crunch(turns, true));
    world.start(0, &guest::of("echo", ECHO));
    let now = world.time();
    let node = &mut world.stations[0].node;
    let [cruncher, echo] = ["crunch", "echo"].map(|name| node.session_open(now, name).unwrap());
    world.run(Duration::from_millis(1));
    let now = world.time();
    world.stations[0].node.session_send(now, cruncher, b"go").unwrap();
    (world, cruncher, echo)
}

#[test]
fn others_wait_for_one_slice() {
    // 60 million turns of some five instructions are 300 ms.
    let run = || {
        let (mut world, cruncher, echo) = busy(60_000_000);
        let (mut rounds, mut worst) = (0u64, 0);
        loop {
            let now = world.time();
            let node = &mut world.stations[0].node;
            if let Some(answer) = node.session_packet(cruncher).unwrap() {
                assert_eq!(answer, [9]);
                break;
            }
            assert!(rounds == 0 || node.only_long_work());
            node.session_send(now, echo, b"hello").unwrap();
            assert!(!node.only_long_work());
            let mut polls = 1;
            while node.poll(now) && node.session_packet(echo).unwrap().is_none() {
                polls += 1;
            }
            worst = worst.max(polls);
            while node.session_packet(echo).unwrap().is_some() {}
            rounds += 1;
            world.now += 100;
            assert!(rounds < 10_000, "the cruncher does not come to its end");
        }
        (rounds, worst, counter(&mut world, "background_slices"), counter(&mut world, "guest_overruns"))
    };
    let (rounds, worst, slices, overruns) = run();
    eprintln!("{slices} slices, {rounds} echoes meanwhile, the slowest in {worst} polls");
    assert!(slices > 80 && rounds > 80, "{slices} slices, {rounds} rounds");
    assert!(worst <= 2, "an echo took {worst} polls");
    assert_eq!(overruns, 0);
    assert_eq!(run(), (rounds, worst, slices, 0), "counted, so the same every time");
}

#[test]
fn what_never_ends_is_ended_when_its_time_is_over() {
    let (mut world, cruncher, echo) = busy(-1);
    let hash = crunch(-1, true).hash();
    assert!(
        world.run_until(Duration::from_secs(2), |w| matches!(w.state(0, hash), Some(FlowState::Ended(_))))
    );
    // A second in slices of 2 ms.
    assert_eq!(counter(&mut world, "background_slices"), 499);
    assert_eq!(counter(&mut world, "guest_overruns"), 1);
    let node = &mut world.stations[0].node;
    assert!(node.session_packet(cruncher).is_err());
    assert_eq!(node.session_packet(echo), Ok(None));
}

/// A node whose cruncher, with a clean-up that logs, is in the middle of an event of so many turns.
fn crunching(turns: i64, on_stop: &str) -> (World, TupleHash, ee::node::SessionId) {
    let mut world = World::line_with(1, Options { team: "background = \"1s\"", ..Options::default() });
    let module = guest::module(&format!("{} {on_stop}", CRUNCH.replace("TURNS", &turns.to_string())));
    let flow = guest::flow("crunch", module, |body| {
        body.request.privileges.push(Privilege { name: "background".into(), optional: false });
    });
    let hash = world.start(0, &flow);
    let now = world.time();
    let node = &mut world.stations[0].node;
    let session = node.session_open(now, "crunch").unwrap();
    node.session_send(now, session, b"go").unwrap();
    node.session_send(now, session, b"again").unwrap();
    world.run(Duration::from_millis(5));
    assert!(counter(&mut world, "background_slices") > 10);
    (world, hash, session)
}

const CLEANS_UP: &str = r#"
    (data (i32.const 128) "cleaned up")
    (func (export "on_stop") (drop (call $log (i32.const 2) (i32.const 128) (i32.const 10))))"#;

fn logged(world: &mut World, what: &str) -> usize {
    world.log(0).iter().filter(|line| line.contains(what)).count()
}

fn has_ended(world: &mut World, hash: TupleHash) -> bool {
    matches!(world.state(0, hash), Some(FlowState::Ended(_)))
}

#[test]
fn what_is_killed_in_the_middle_does_nothing_more() {
    let mut world = World::line_with(1, Options { team: "background = \"1s\"", ..Options::default() });
    let empty = world.info(0).memory.0;
    // The same when it was to be stopped before.
    for first in [false, true] {
        let (mut world, hash, _) = crunching(-1, CLEANS_UP);
        if first {
            assert_eq!(world.stop(0, hash, false), Answer::Done);
            world.run(Duration::from_millis(3));
            assert!(!has_ended(&mut world, hash));
        }
        assert_eq!(world.stop(0, hash, true), Answer::Done);
        let slices = counter(&mut world, "background_slices");
        assert!(world.why(0, hash).contains("killed by admin"));
        world.run(Duration::from_millis(100));
        assert_eq!(counter(&mut world, "background_slices"), slices);
        assert_eq!((counter(&mut world, "guest_overruns"), counter(&mut world, "guest_traps")), (0, 0));
        // What it logged at its beginning, it did not.
        assert_eq!((logged(&mut world, "neighborhood"), logged(&mut world, "cleaned up")), (0, 0));
        assert!(!world.stations[0].node.only_long_work());
        let after = world.info(0);
        assert_eq!((after.memory.0, after.buffers.0), (empty, 0));
    }
}

#[test]
fn what_is_stopped_in_the_middle_gets_its_event_over_and_cleans_up() {
    // 140 slices, of which some 50 are done.
    let (mut world, hash, session) = crunching(35_000_000, CLEANS_UP);
    assert_eq!(world.stop(0, hash, false), Answer::Done);
    assert!(!has_ended(&mut world, hash));
    // It takes nothing in meanwhile, and is neither stopped twice nor started again beside itself.
    let now = world.time();
    let node = &mut world.stations[0].node;
    assert!(node.session_send(now, session, b"more").is_err() && node.session_open(now, "crunch").is_err());
    assert_eq!(world.stop(0, hash, false), Answer::Done);
    assert!(world.run_until(Duration::from_millis(150), |w| has_ended(w, hash)));
    assert!(world.why(0, hash).contains("stopped by admin"));
    // What the event did came about; the one that waited behind it was not begun.
    assert_eq!((logged(&mut world, "neighborhood"), logged(&mut world, "cleaned up")), (1, 1));
    assert!(world.stations[0].node.session_packet(session).is_err(), "its sessions are over");
    assert_eq!((counter(&mut world, "guest_overruns"), world.teams(0).len()), (0, 1));
}

#[test]
fn what_does_not_come_to_its_end_is_stopped_without_a_clean_up() {
    let (mut world, hash, _) = crunching(-1, CLEANS_UP);
    let before = counter(&mut world, "background_slices");
    assert_eq!(world.stop(0, hash, false), Answer::Done);
    assert!(world.run_until(Duration::from_secs(2), |w| has_ended(w, hash)));
    // A quarter of the 500 slices that an event may take.
    let slices = counter(&mut world, "background_slices") - before;
    assert!((124..=126).contains(&slices), "{slices}");
    let why = world.why(0, hash);
    assert!(why.contains("stopped by admin") && why.contains("past the deadline"), "{why}");
    assert_eq!((logged(&mut world, "neighborhood"), logged(&mut world, "cleaned up")), (0, 0));
    // That it was stopped is no offence.
    assert_eq!((counter(&mut world, "guest_overruns"), counter(&mut world, "teams_struck_out")), (0, 0));
}

#[test]
fn a_clean_up_after_long_work_has_no_more_time_than_another() {
    for (on_stop, ends) in [("(loop $l (br $l))", 1), ("(unreachable)", 0)] {
        let (mut world, hash, _) = crunching(35_000_000, &format!("(func (export \"on_stop\") {on_stop})"));
        assert_eq!(world.stop(0, hash, false), Answer::Done);
        assert!(world.run_until(Duration::from_millis(50), |w| has_ended(w, hash)));
        assert_eq!(counter(&mut world, "guest_overruns") + 2 * counter(&mut world, "guest_traps"), 2 - ends);
        assert_eq!((world.teams(0).len(), world.info(0).flows.0), (1, 0));
    }
}

/// The processor's time in units of a nanosecond.
struct Real(std::time::Instant);

impl Meter for Real {
    fn count(&self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }
    fn per_micro(&self) -> u64 {
        1000
    }
}

/// A thread that ticks while armed.
struct Ticks {
    armed: Arc<AtomicBool>,
}

impl Ticks {
    fn new(handle: InterruptHandle) -> Self {
        let armed = Arc::new(AtomicBool::new(false));
        let flag = Arc::downgrade(&armed);
        std::thread::spawn(move || {
            while let Some(armed) = flag.upgrade() {
                if armed.load(Ordering::Relaxed) {
                    handle.interrupt();
                }
                drop(armed);
                std::thread::sleep(Duration::from_micros(200));
            }
        });
        Self { armed }
    }
}

impl Interrupter for Ticks {
    fn arm(&self, _: u64) {
        self.armed.store(true, Ordering::Relaxed);
    }
    fn disarm(&self) {
        self.armed.store(false, Ordering::Relaxed);
    }
}

/// With real time and epochs: 300 ms in the background, and how long an echo beside it takes.
#[test]
fn an_echo_beside_real_work() {
    let engine = Engine::new(Metering::Epoch).unwrap();
    let start = std::time::Instant::now();
    let interrupter = Arc::new(Ticks::new(engine.interrupter_handle()));
    let platform = Platform { meter: Arc::new(Real(start)), interrupter, engine, ..platform(64, 1) };
    let config = "[node]\nname = \"a\"\n[team]\nevent = \"2ms\"\nbackground = \"20s\"\n";
    let now = || Now::mono(Instant(start.elapsed().as_micros() as u64));
    let mut node = Node::new(&NodeConfig::parse(config).unwrap(), platform, now()).unwrap();
    // As many turns as take some 300 ms here.
    let turns = {
        let (from, mut n) = (std::time::Instant::now(), 0i64);
        while from.elapsed() < Duration::from_millis(30) {
            (0..1_000_000).for_each(|i| n = std::hint::black_box(n + i - i + 1));
        }
        (n * 10).min(i64::from(i32::MAX))
    };
    for flow in [crunch(turns, true), guest::of("echo", ECHO)] {
        let (part, total) = (PartHash::of(&flow.module), flow.module.len() as u32);
        let put = Request::PartPut { part, total, offset: 0, bytes: flow.module };
        assert_eq!(node.control(now(), ADMIN, put), Answer::Done);
        assert!(matches!(
            node.control(now(), ADMIN, Request::FlowInject { tuple: flow.tuple }),
            Answer::Injected(_)
        ));
        let done = node.job().expect("a compilation").run();
        node.job_done(now(), done);
        while node.poll(now()) {}
    }
    let [cruncher, echo] = ["crunch", "echo"].map(|name| node.session_open(now(), name).unwrap());
    while node.poll(now()) {}
    let mut times = [vec![], vec![]];
    for (busy, times) in times.iter_mut().enumerate() {
        if busy == 1 {
            node.session_send(now(), cruncher, b"go").unwrap();
        }
        while times.len() < 50 || busy == 1 {
            let from = std::time::Instant::now();
            node.session_send(now(), echo, b"hello").unwrap();
            while node.session_packet(echo).unwrap().is_none() {
                node.poll(now());
            }
            times.push(from.elapsed());
            if busy == 1 && node.session_packet(cruncher).unwrap().is_some() {
                break;
            }
        }
        times.sort();
    }
    let at = |times: &[Duration], percent: usize| times[(times.len() - 1) * percent / 100];
    let [rest, busy] = times.each_ref().map(|t| [50, 99].map(|p| at(t, p)));
    eprintln!("echo at rest p50, p99: {rest:?}; beside {} slices or so: {busy:?}", times[1].len());
    assert!(times[1].len() > 20, "{} echoes while the cruncher worked", times[1].len());
    // A slice is 2 ms; a busy machine may take the processor away now and then, but not always.
    assert!(busy[0] < Duration::from_millis(6), "{busy:?}");
}
