//! Flows that a flow starts below its own: who may, whose budget they live on, and when they end.

mod common;

use std::time::Duration;

use common::guest::{self, Flow, flow};
use common::{Options, World};
use ee::abi::Error;
use ee::node::SessionId;
use wire::budget::Kind;
use wire::control::{FlowState, TeamInfo};
use wire::tuple::{Budgets, DataPart, Part, Privilege};

const SECOND: Duration = Duration::from_secs(1);
const MILLI: Duration = Duration::from_millis(1);
const KIB: u64 = 1024;

/// A packet of 16 bytes is a command: what to do, an argument, a number of 8 bytes. What the call gave comes
/// back as 4 bytes; what happens to a flow below as 8: the capability's number, and the state with its top
/// bit set.
const PARENT: &str = r#"
    (global $session (mut i32) (i32.const 0))
    (global $flow (mut i32) (i32.const 0))
    (data (i32.const 256) "flowstuple")
    (func $say (param $n i32)
        (i32.store (i32.const 512) (local.get $n))
        (drop (call $session_reply (global.get $session) (i32.const 512) (i32.const 4))))
    (global $late (mut i32) (i32.const 0))
    (func $start (param $give i32) (result i32)
        (local $got i32)
        (local.set $got (call $cap_lookup (i32.const 256) (i32.const 5)))
        (if (result i32) (i32.gt_s (local.get $got) (i32.const 0))
            (then (call $flow_start (local.get $got) (i32.const 4096)
                (call $data_read (i32.const 261) (i32.const 5) (i32.const 0) (i32.const 4096) (i32.const 8192))
                (local.get $give)))
            (else (local.get $got))))
    (func (export "on_stop")
        (if (global.get $late) (then (drop (call $start (i32.const 0))))))
    (func (export "on_flow") (param $flow i32) (param $state i32)
        (i32.store (i32.const 512) (local.get $flow))
        (i32.store (i32.const 516) (i32.or (local.get $state) (i32.const 0x80000000)))
        (drop (call $session_reply (global.get $session) (i32.const 512) (i32.const 8))))
    (func (export "on_session") (param $c i32) (param $s i32) (param $what i32) (param $len i32)
        (local $op i32) (local $got i32)
        (if (i32.ne (local.get $what) (i32.const 1)) (then (return)))
        (global.set $session (local.get $s))
        (local.set $op (i32.load8_u (i32.const 0)))
        (if (i32.eq (local.get $op) (i32.const 115)) (then ;; s: start
            (local.set $got (call $start (i32.load8_u (i32.const 1))))
            (if (i32.gt_s (local.get $got) (i32.const 0)) (then (global.set $flow (local.get $got))))
            (call $say (local.get $got))))
        (if (i32.eq (local.get $op) (i32.const 97)) (then ;; a: start one when it is stopped
            (global.set $late (i32.const 1))
            (call $say (i32.const 0))))
        (if (i32.eq (local.get $op) (i32.const 63)) (then ;; ?: state
            (call $say (call $flow_state (global.get $flow)))))
        (if (i32.eq (local.get $op) (i32.const 120)) (then ;; x: stop
            (call $say (call $flow_stop (global.get $flow) (i32.load8_u (i32.const 1))))))
        (if (i32.eq (local.get $op) (i32.const 108)) (then ;; l: limit
            (call $say (call $flow_limit (global.get $flow) (i32.load8_s (i32.const 1)) (i64.load (i32.const 8))))))
        (if (i32.eq (local.get $op) (i32.const 100)) (then ;; d: drop
            (call $say (call $cap_drop (global.get $flow)))))
        (if (i32.eq (local.get $op) (i32.const 101)) (then ;; e: into an envelope
            (call $say (call $envelope_make (global.get $flow) (i32.const 0) (i32.const 0) (i32.const 600)))))
        (if (i32.eq (local.get $op) (i32.const 33)) (then (unreachable))))
"#;

/// Fills its memory a page at a time when it is told to, and says how many pages it got.
const GREEDY: &str = r#"
    (func (export "on_session") (param $c i32) (param $s i32) (param $what i32) (param $len i32)
        (if (i32.ne (local.get $what) (i32.const 1)) (then (return)))
        (if (i32.eq (i32.load8_u (i32.const 0)) (i32.const 33)) (then (unreachable)))
        (block $full (loop $more
            (br_if $full (i32.lt_s (memory.grow (i32.const 1)) (i32.const 0)))
            (br $more)))
        (i32.store (i32.const 512) (memory.size))
        (drop (call $session_reply (local.get $s) (i32.const 512) (i32.const 4))))
"#;

/// A flow, and the parts that it carries for those below.
struct Family {
    parent: Flow,
    child: Flow,
}

fn child(edit: impl FnOnce(&mut Budgets)) -> Flow {
    flow("child", guest::module(GREEDY), |body| edit(&mut body.request.budgets))
}

fn family(child: Flow, privileges: &[&str]) -> Family {
    let parent = flow("parent", guest::module(PARENT), |body| {
        let data = |name: &str, bytes: &[u8]| DataPart { name: name.into(), part: Part::of(bytes).unwrap() };
        body.protocols[0].data = vec![data("tuple", &child.tuple), data("code", &child.module)];
        let privilege = |name: &&str| Privilege { name: name.to_string(), optional: false };
        body.request.privileges = privileges.iter().map(privilege).collect();
        body.request.budgets.memory = Some(900 * KIB);
    });
    Family { parent, child }
}

/// The first node of a line of two, with the parent and a session to it.
struct Home {
    world: World,
    session: SessionId,
    family: Family,
}

impl Home {
    fn new(family: Family) -> Self {
        let mut world = World::line_with(2, Options::default());
        world.put(0, &family.child.tuple);
        world.put(0, &family.child.module);
        world.start(0, &family.parent);
        let session = world.session(0, "parent");
        world.run(MILLI);
        Self { world, session, family }
    }

    /// Runs a command; what it gave, and what was told of flows below since the last one.
    fn tell(&mut self, op: u8, argument: u8, number: i64) -> (i32, Vec<i32>) {
        let mut packet = [0; 16];
        (packet[0], packet[1]) = (op, argument);
        packet[8..].copy_from_slice(&number.to_le_bytes());
        let mut told = self.told();
        self.world.say(0, self.session, &packet);
        self.world.run(SECOND);
        let heard = self.world.heard(0, self.session);
        let result = heard.iter().find(|p| p.len() == 4).expect("an answer");
        told.extend(heard.iter().filter(|p| p.len() == 8).map(|p| state_of(p)));
        (i32::from_le_bytes(result[..].try_into().unwrap()), told)
    }

    fn told(&mut self) -> Vec<i32> {
        self.world.heard(0, self.session).iter().filter(|p| p.len() == 8).map(|p| state_of(p)).collect()
    }

    fn team(&mut self, name: &str) -> Option<TeamInfo> {
        self.world.teams(0).into_iter().find(|t| t.name == name)
    }

    fn child_state(&mut self) -> Option<FlowState> {
        let hash = self.family.child.hash();
        self.world.state(0, hash)
    }
}

fn state_of(packet: &[u8]) -> i32 {
    i32::from_le_bytes(packet[4..].try_into().unwrap()) & 0x7fff_ffff
}

const RUNNING: i32 = 1;
const ENDED: i32 = 2;

#[test]
fn a_flow_starts_another_below_its_own_and_they_end_together() {
    let mut home = Home::new(family(child(|_| ()), &["flows"]));
    let before = home.world.holds(0);
    let (flow, told) = home.tell(b's', 0, 0);
    assert!(flow > 0, "{flow}");
    assert_eq!(told, [RUNNING], "{:?}", home.world.log(0));
    assert_eq!(home.tell(b'?', 0, 0).0, RUNNING);
    let (parent, child) = (home.team("parent").unwrap(), home.team("child").unwrap());
    assert_eq!(child.parent, Some(parent.id));
    // What it uses its parent uses.
    assert!(parent.memory.0 > child.memory.0 + 64 * KIB);
    // It is a flow as any other: programs talk to it, and it is stopped with its parent.
    let session = home.world.session(0, "child");
    home.world.say(0, session, b"grow");
    home.world.run(SECOND);
    assert_eq!(home.world.heard(0, session).len(), 1);
    assert!(home.team("parent").unwrap().memory.0 <= 900 * KIB);
    let parent = home.family.parent.hash();
    home.world.stop(0, parent, false);
    home.world.run(MILLI);
    assert_eq!(home.child_state(), Some(FlowState::Ended("the flow that started it ended".into())));
    let after = home.world.holds(0);
    assert_eq!((after.1, after.2, after.3), (before.1, before.2 - 1, before.3 - 1));
    // Without any team the node holds what it held: nothing of theirs.
    assert_eq!(home.world.teams(0).len(), 1);
}

#[test]
fn without_the_privilege_there_is_no_capability() {
    let mut home = Home::new(family(child(|_| ()), &[]));
    assert_eq!(home.tell(b's', 0, 0).0, Error::NotFound.code());
    assert_eq!(home.tell(b'?', 0, 0).0, Error::BadHandle.code());
    assert!(home.team("child").is_none());
}

#[test]
fn it_lives_on_its_parents_memory_shared_or_given() {
    // Shared: it gets what is left of its parent's, and the parent lacks it.
    let mut home = Home::new(family(child(|_| ()), &["flows"]));
    home.tell(b's', 0, 0);
    let idle = home.team("parent").unwrap().memory.0;
    let session = home.world.session(0, "child");
    home.world.say(0, session, b"grow");
    home.world.run(SECOND);
    let (parent, child) = (home.team("parent").unwrap(), home.team("child").unwrap());
    assert!(parent.memory.0 > idle && parent.memory.0 <= parent.memory.2);
    assert!(child.memory.0 < child.memory.2, "the parent's bound was the nearer one");
    home.tell(b'x', 1, 0);
    assert!(home.team("parent").unwrap().memory.0 < idle - 64 * KIB);

    // Given: the parent is charged the whole part at once, whatever the other uses.
    let part = 300 * KIB;
    let mut home = Home::new(family(self::child(|b| b.memory = Some(part)), &["flows"]));
    // The place for flows below it is made with the first, and stays.
    assert_eq!(home.tell(b's', 1, 0).1, [RUNNING]);
    home.tell(b'x', 0, 0);
    let before = home.team("parent").unwrap().memory.0;
    assert_eq!(home.tell(b's', 1, 0).1, [RUNNING], "{:?}", home.world.log(0));
    let charged = home.team("parent").unwrap().memory.0 - before;
    // Beside the part: the capability's effect, and nothing else that grows.
    assert!((part..part + 4 * KIB).contains(&charged), "{charged}");
    let session = home.world.session(0, "child");
    home.world.say(0, session, b"grow");
    home.world.run(SECOND);
    assert!(home.team("child").unwrap().memory.0 <= part);
    assert_eq!(home.team("parent").unwrap().memory.0 - before, charged);
    home.tell(b'x', 0, 0);
    assert_eq!(home.team("parent").unwrap().memory.0, before);

    // More than the parent has cannot be given.
    let mut home = Home::new(family(self::child(|b| b.memory = Some(890 * KIB)), &["flows"]));
    assert_eq!(home.tell(b's', 1, 0).1, [ENDED]);
    let why = home.child_state();
    assert!(matches!(&why, Some(FlowState::Ended(why)) if why.contains("budget of memory")), "{why:?}");
}

#[test]
fn the_one_above_stops_and_limits_it() {
    let mut home = Home::new(family(child(|_| ()), &["flows"]));
    home.tell(b's', 0, 0);
    let used = home.team("child").unwrap().memory.0 + 16 * KIB;
    assert_eq!(home.tell(b'l', 0, used as i64).0, 0);
    let session = home.world.session(0, "child");
    home.world.say(0, session, b"grow");
    home.world.run(SECOND);
    assert_eq!(home.world.heard(0, session), [1u32.to_le_bytes().to_vec()], "not one page more");
    // Bounds are never raised.
    assert_eq!(home.tell(b'l', 0, i64::MAX).0, 0);
    assert_eq!(home.team("child").unwrap().memory.2, used);
    for (resource, most, error) in
        [(3u8, 1, Error::BadArgument), (255, 1, Error::BadArgument), (0, -1, Error::BadArgument)]
    {
        assert_eq!(home.tell(b'l', resource, most).0, error.code());
    }
    assert_eq!(home.tell(b'l', 4, 3).0, 0);
    let timers = home.team("child").unwrap().budgets.into_iter().find(|b| b.kind == Kind::Timers).unwrap();
    assert_eq!(timers.limit, Some(3));
    // No other team gets a hold on it.
    assert_eq!(home.tell(b'e', 0, 0).0, Error::BadArgument.code());
    let (result, told) = home.tell(b'x', 0, 0);
    assert_eq!((result, told), (0, vec![ENDED]));
    assert_eq!(home.tell(b'?', 0, 0).0, ENDED);
    assert_eq!(home.tell(b'l', 0, 1).0, Error::Unavailable.code());
    assert_eq!(home.tell(b'x', 0, 0).0, 0, "stopping twice is no error");
    assert_eq!(home.tell(b'd', 0, 0).0, 0);
    assert_eq!(home.tell(b'?', 0, 0).0, Error::BadHandle.code());
    // Stopped by its own, not by an operator: it may be started again.
    assert_eq!(home.tell(b's', 0, 0).1, [RUNNING]);
}

#[test]
fn one_that_fails_does_not_take_the_other_along_and_is_kept_away() {
    let mut home = Home::new(family(child(|_| ()), &["flows"]));
    home.tell(b's', 0, 0);
    let session = home.world.session(0, "child");
    home.world.say(0, session, b"!");
    home.world.run(SECOND);
    assert_eq!(home.told(), [ENDED]);
    assert_eq!(home.tell(b'?', 0, 0).0, ENDED);
    // A loop of starts costs the node no compilation and no team.
    let started = home.world.count(0, "flows_started");
    for _ in 0..3 {
        assert_eq!(home.tell(b's', 0, 0).1, [ENDED]);
        assert_eq!(home.tell(b'd', 0, 0).0, 0);
    }
    assert_eq!(home.world.count(0, "flows_started"), started);
    home.world.run(11 * SECOND);
    assert_eq!(home.tell(b's', 0, 0).1, [RUNNING]);
    // And the one above takes those below with it, however it ends.
    home.world.say(0, home.session, &[33; 16]);
    home.world.run(SECOND);
    assert!(matches!(home.child_state(), Some(FlowState::Ended(_))));
    assert_eq!(home.world.teams(0).len(), 1);
}

#[test]
fn what_its_clean_up_starts_does_not_outlive_it() {
    let mut home = Home::new(family(child(|_| ()), &["flows"]));
    // Its code is at hand from now on, so nothing would stand between a start and the first event.
    home.tell(b's', 0, 0);
    home.tell(b'x', 0, 0);
    home.tell(b'd', 0, 0);
    home.tell(b'a', 0, 0);
    let parent = home.family.parent.hash();
    home.world.stop(0, parent, false);
    home.world.run(SECOND);
    assert_eq!((home.world.teams(0).len(), home.world.info(0).flows.0), (1, 0), "{:?}", home.world.log(0));
    // The node goes on to serve whoever comes.
    let other = home.world.start(0, &guest::ask("other", 1));
    assert_eq!(home.world.state(0, other), Some(FlowState::Running));
}

#[test]
fn places_are_bounded_and_a_dropped_capability_is_no_stop() {
    let mut home = Home::new(family(child(|_| ()), &["flows"]));
    home.tell(b's', 0, 0);
    // While it runs a second start of the same is refused, each time; the answer takes a place until it is
    // dropped.
    let mut refused = 0;
    loop {
        let (got, told) = home.tell(b's', 0, 0);
        if got < 0 {
            assert_eq!(got, Error::NoRoom.code());
            break;
        }
        assert_eq!(told, [ENDED]);
        refused += 1;
        assert!(refused < 100);
    }
    assert_eq!(refused, ee::cap::MAX_CHILDREN - 1);
    assert_eq!(home.child_state(), Some(FlowState::Running));

    let mut home = Home::new(family(child(|_| ()), &["flows"]));
    home.tell(b's', 0, 0);
    home.tell(b'd', 0, 0);
    assert_eq!(home.child_state(), Some(FlowState::Running));
    assert_eq!(home.tell(b'x', 0, 0).0, Error::BadHandle.code());
}

#[test]
fn who_is_started_again_keeps_its_strikes() {
    let mut home = Home::new(family(child(|b| b.memory = Some(200 * KIB)), &["flows"]));
    let shown = |home: &mut Home| {
        let team = home.team("child").unwrap();
        (team.strikes, team.shares.0)
    };
    // What it asks for is beyond its own part.
    let ask_too_much = |home: &mut Home| {
        let session = home.world.session(0, "child");
        for _ in 0..34 {
            home.world.say(0, session, b"grow");
            home.world.run(10 * MILLI);
        }
        assert_eq!(shown(home), (2, 12));
    };
    home.tell(b's', 1, 0);
    ask_too_much(&mut home);
    for _ in 0..3 {
        home.tell(b'x', 1, 0);
        assert_eq!(home.tell(b's', 1, 0).1, [RUNNING], "{:?}", home.world.log(0));
        assert_eq!(shown(&mut home).0, 2);
    }
    // Strikes are forgiven in time, also while it is away.
    home.tell(b'x', 1, 0);
    home.world.run(130 * SECOND);
    assert_eq!(home.tell(b's', 1, 0).1, [RUNNING], "{:?}", home.world.log(0));
    assert_eq!(shown(&mut home), (0, 100));
    // Below another flow, or injected, it is nobody's second try.
    ask_too_much(&mut home);
    let parent = home.family.parent.hash();
    home.world.stop(0, parent, true);
    let flow = home.family.child.clone();
    home.world.start(0, &flow);
    assert_eq!(shown(&mut home), (0, 100));
}
