//! Live replacement: a new version takes over between two events, with the state, the sessions and what waited; or the
//! old one goes on.

mod common;

use std::time::Duration;

use authagent::keys::SigningKey;
use common::guest::{self, Flow};
use common::{Options, World};
use ee::config::ADMIN;
use nodeos::link::LinkId;
use wire::capsule::{Capsule, HEADER_LEN};
use wire::control::{Answer, FlowState, Request};
use wire::id::{CapsuleId, Path};
use wire::limits::Operation;
use wire::replace::{Place, Replacement};
use wire::tuple::{
    Body, CapsuleType, Companion, Coupling, Credentials, Extension, Privilege, Provider, Scheme, Tuple,
};

const SECOND: Duration = Duration::from_secs(1);
const MILLI: Duration = Duration::from_millis(1);

/// Counts capsules, and those of them that did not come in their order; works a while with each. It tells a program both,
/// its VERSION, what the program did, and how often it was started; and hands over all of it but VERSION.
const COUNTER: &str = r#"
    (global $stack (export "__stack_pointer") (mut i32) (i32.const 8192))
    (func (export "on_boot") (param i32) BOOT
        (i32.store (i32.const 1040) (i32.add (i32.load (i32.const 1040)) (i32.const 1))))
    (func (export "on_capsule") (param $c i32) (param $kind i32) (param $len i32) (param $from i32) (local $n i32)
        (if (i32.eq (i32.load (i32.const 0)) (i32.const -1)) (then (loop $l (br $l))))
        (i32.store (i32.const 1024) (i32.add (i32.load (i32.const 1024)) (i32.const 1)))
        (if (i32.le_u (i32.load (i32.const 0)) (i32.load (i32.const 1048)))
            (then (i32.store (i32.const 1028) (i32.add (i32.load (i32.const 1028)) (i32.const 1)))))
        (i32.store (i32.const 1048) (i32.load (i32.const 0)))
        (i32.store (i32.const 1044) (local.get $kind))
        (loop $more
            (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (br_if $more (i32.lt_u (local.get $n) (i32.const 4000)))))
    (func (export "on_session") (param $c i32) (param $s i32) (param $what i32) (param $len i32)
        (i32.store (i32.const 1036) (local.get $what))
        (i32.store (i32.const 1032) (i32.const VERSION))
        (i32.store (i32.const 1052) (i32.add (i32.load (i32.const 1052))
            (i32.eq (local.get $what) (i32.const 0))))
        (if (i32.eqz (i32.load (i32.const 1056))) (then (i32.store (i32.const 1056) (local.get $s))))
        (i32.store (i32.const 1060) (i32.eq (i32.load (i32.const 1056)) (local.get $s)))
        (i32.store (i32.const 1064) (global.get $stack))
        (if (i32.eq (local.get $what) (i32.const 1)) (then
            (drop (call $session_reply (local.get $s) (i32.const 1024) (i32.const 44))))))
    (func (export "on_handover") (result i32) HAND
        (call $handover_write (i32.const 1024) (i32.const 64)))
    (func (export "on_takeover") (param $c i32) (param $len i32) (result i32) TAKE
        (if (i32.ne (call $handover_read (i32.const 0) (i32.const 1024) (i32.const 64)) (i32.const 64)) (then (return (i32.const 1))))
        (i32.store (i32.const 1056) (call $handover_session (i32.load (i32.const 1056))))
        (i32.const 0))"#;

/// What COUNTER tells.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    capsules: u32,
    out_of_order: u32,
    version: u32,
    boots: u32,
    kind: u32,
    /// Sessions that were opened, as it saw, and whether the program's session is the first.
    opened: u32,
    first: bool,
}

/// A version: its number, and code for its handlers.
#[derive(Clone, Copy)]
struct Version<'a> {
    number: u32,
    boot: &'a str,
    hand: &'a str,
    take: &'a str,
}

impl Default for Version<'_> {
    fn default() -> Self {
        Self { number: 1, boot: "", hand: "", take: "" }
    }
}

fn version(v: Version<'_>, edit: impl FnOnce(&mut Body)) -> Flow {
    let handlers = COUNTER
        .replace("BOOT", v.boot)
        .replace("HAND", v.hand)
        .replace("TAKE", v.take)
        .replace("VERSION", &v.number.to_string());
    guest::flow("counter", guest::module(&handlers), |body| {
        body.nonce = [v.number as u8; 16];
        edit(body);
    })
}

fn first() -> Flow {
    version(Version::default(), |_| ())
}

/// A version that takes over from another.
fn next(v: Version<'_>, old: &Flow, how: &Replacement, edit: impl FnOnce(&mut Body)) -> Flow {
    version(v, |body| {
        edit(body);
        body.replaces = Some(old.hash());
        body.extensions.push(how.extension());
    })
}

fn second(old: &Flow) -> Flow {
    next(Version { number: 2, ..Version::default() }, old, &with_state(), |_| ())
}

fn with_state() -> Replacement {
    Replacement { handover: true, types: vec![((0, 0), (0, 0))] }
}

fn id(flow: &Flow, kind: u16) -> CapsuleId {
    CapsuleId::compute(&flow.hash(), &Path::default(), kind, &[])
}

/// A capsule from `a` reaches `b`, and is looked at when the node is next.
fn hand(world: &mut World, id: &CapsuleId, number: u32) {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0x88, 0xb5];
    frame.resize(14 + HEADER_LEN, 0);
    Capsule::emit_header(&mut frame[14..], id, 4);
    frame.extend(number.to_le_bytes());
    world.hand(1, LinkId(0), &frame);
}

fn told(world: &mut World, session: ee::node::SessionId) -> Told {
    world.say(1, session, b"?");
    let answered = world.run_until(SECOND, |w| {
        w.run(MILLI);
        true
    });
    assert!(answered);
    let packet = world.heard(1, session).pop().expect("an answer");
    let at = |n: usize| u32::from_le_bytes(packet[n - 1024..n - 1020].try_into().unwrap());
    assert_eq!(at(1064), 8192, "where its stack ends");
    Told {
        capsules: at(1024),
        out_of_order: at(1028),
        version: at(1032),
        boots: at(1040),
        kind: at(1044),
        opened: at(1052),
        first: at(1060) == 1,
    }
}

fn runs(world: &mut World, flow: &Flow) -> bool {
    let hash = flow.hash();
    world.run_until(2 * SECOND, |w| w.state(1, hash) == Some(FlowState::Running))
}

fn ended(world: &mut World, flow: &Flow) -> String {
    let hash = flow.hash();
    assert!(world.run_until(2 * SECOND, |w| matches!(w.state(1, hash), Some(FlowState::Ended(_)))));
    world.why(1, hash)
}

/// Capsules come all the time, faster than they are processed, while the flow is replaced and replaced back.
#[test]
fn nothing_is_lost_when_versions_change_under_load() {
    let team = "queue = 400\nmemory = \"4M\"";
    let mut world = World::line_with(2, Options { team, ..Options::default() });
    let one = first();
    world.start(1, &one);
    let empty_but_one = world.holds(1);
    let session = world.session(1, "counter");
    let two = second(&one);
    let three = next(Version { number: 3, ..Version::default() }, &two, &with_state(), |_| ());
    let (mut sent, mut most) = (0, 0);
    for (from, to) in [(&one, &two), (&two, &three)] {
        world.inject(1, to);
        let mut since = 0;
        let begun = world.now;
        while since < 40 {
            assert!(world.now < begun + 1_000_000, "{:?}", world.log(1));
            for _ in 0..22 {
                sent += 1;
                hand(&mut world, &id(from, 0), sent);
            }
            world.run(Duration::from_micros(100));
            let now = world.time();
            let teams = world.stations[1].node.control(now, ADMIN, Request::TeamShow { from: 0 });
            let Answer::Teams(teams) = teams else { panic!("no teams") };
            most = most.max(teams.items.iter().map(|t| t.events.1).max().unwrap_or(0));
            since += u32::from(world.state(1, to.hash()) == Some(FlowState::Running));
        }
        world.run(200 * MILLI);
    }
    assert!(most > 2, "capsules waited: {most}");
    let all = Told { capsules: sent, out_of_order: 0, version: 3, boots: 1, kind: 0, opened: 1, first: true };
    assert_eq!(told(&mut world, session), all);
    assert_eq!(world.count(1, "team_queue_full"), 0);
    assert_eq!((world.count(1, "flows_replaced"), world.count(1, "capsules_without_successor")), (2, 0));
    assert_eq!(ended(&mut world, &one), format!("flow counter {:.8} took over from it", two.hash()));
    let shown = world.flow(1, three.hash()).unwrap().replaces.unwrap();
    assert_eq!((shown.flow, shown.here, shown.identifiers), (two.hash(), true, 2));
    assert!(shown.capsules.0 > 0);
    assert_eq!(world.flow(1, one.hash()).unwrap().replaced_by, Some(two.hash()));
    // What was asked of old versions is theirs for a while; then nobody has it, and they do not come back.
    world.run(601 * SECOND);
    assert_eq!(world.flow(1, three.hash()).unwrap().replaces.unwrap().identifiers, 0);
    world.now += 1;
    let now = world.time();
    world.stations[1].node.session_close(now, session);
    world.run(SECOND);
    let held = world.holds(1);
    assert_eq!((held.1, held.2, held.3), (empty_but_one.1, empty_but_one.2, empty_but_one.3));
    // The tuples name flows that they replace: they are longer, and the names of two are kept.
    assert!(held.0 < empty_but_one.0 + 2000, "{held:?} {empty_but_one:?}");
    assert!(matches!(world.try_inject(1, &one), Answer::Error(e) if e.text.contains("to go back")));
    hand(&mut world, &id(&one, 0), 1);
    world.run(SECOND);
    assert_eq!(world.holds(1).2, 1);
}

/// Without a handover the new version starts anew, and hears of the sessions.
#[test]
fn without_a_handover_it_starts_anew() {
    let mut world = World::line(2);
    let one = first();
    world.start(1, &one);
    let session = world.session(1, "counter");
    hand(&mut world, &id(&one, 0), 1);
    world.run(MILLI);
    let how = Replacement { handover: false, types: vec![] };
    let two = next(Version { number: 2, ..Version::default() }, &one, &how, |_| ());
    world.inject(1, &two);
    assert!(runs(&mut world, &two));
    hand(&mut world, &id(&one, 0), 2);
    hand(&mut world, &id(&two, 0), 2);
    world.run(MILLI);
    let all = Told { capsules: 1, out_of_order: 0, version: 2, boots: 1, kind: 0, opened: 1, first: true };
    assert_eq!(told(&mut world, session), all);
    assert_eq!(world.count(1, "capsules_without_successor"), 1);
    assert_eq!(world.flow(1, two.hash()).unwrap().replaces.unwrap().capsules, (0, 1));
}

/// The table says what each type is in the new version, and through several of them.
#[test]
fn types_live_on_under_other_numbers() {
    let kinds = |n: usize| {
        move |body: &mut Body| {
            let kind = |n: usize| CapsuleType {
                name: format!("k{n}"),
                limits: guest::all(1).with(Operation::Derives, 0),
                derives: vec![],
            };
            body.protocols[0].capsules = (0..n).map(kind).collect();
        }
    };
    let mut world = World::line(2);
    let one = version(Version::default(), kinds(3));
    world.start(1, &one);
    let session = world.session(1, "counter");
    let table = |types: &[(Place, Place)]| Replacement { handover: true, types: types.to_vec() };
    let v = |number| Version { number, ..Version::default() };
    let two = next(v(2), &one, &table(&[((0, 0), (0, 2)), ((0, 1), (0, 1))]), kinds(3));
    world.inject(1, &two);
    assert!(runs(&mut world, &two));
    for (kind, now) in [(0, 2), (1, 1)] {
        hand(&mut world, &id(&one, kind), 1);
        world.run(MILLI);
        assert_eq!(told(&mut world, session).kind, now);
    }
    hand(&mut world, &id(&one, 2), 2);
    world.run(MILLI);
    assert_eq!((world.count(1, "capsules_taken_over"), world.count(1, "capsules_without_successor")), (2, 1));
    let three = next(v(3), &two, &table(&[((0, 2), (0, 0))]), kinds(1));
    world.inject(1, &three);
    assert!(runs(&mut world, &three));
    for kind in 0..3 {
        hand(&mut world, &id(&one, kind), 3);
        hand(&mut world, &id(&two, kind), 3);
    }
    world.run(MILLI);
    let Told { capsules, kind, .. } = told(&mut world, session);
    assert_eq!((capsules, kind), (4, 0));
    assert_eq!(world.count(1, "capsules_without_successor"), 5);
    assert_eq!(world.flow(1, three.hash()).unwrap().replaces.unwrap().identifiers, 6);
}

const TRAP: &str = "(global.set $stack (i32.const 16)) (unreachable)";
const SPIN: &str = "(global.set $stack (i32.const 16)) (loop $l (br $l))";
const HOG: &str = "(loop $l (br_if $l (i32.eqz (call $handover_write (i32.const 0) (i32.const 60000)))))";

/// Whatever goes wrong, the old version goes on with all that it had, and it is said why.
#[test]
fn a_handover_that_fails_changes_nothing() {
    let v = Version { number: 2, ..Version::default() };
    let none = Replacement { handover: false, types: vec![] };
    let cases: [(&str, Version<'_>, Replacement, &str, bool); 9] = [
        (TRAP, v, with_state(), "did not hand over: guest trapped: wasm trap: wasm `unreachable`", true),
        (
            SPIN,
            v,
            with_state(),
            "did not hand over: guest ran past the deadline of its event, in handover",
            true,
        ),
        (
            "(return (i32.const -7))",
            v,
            with_state(),
            "did not hand over: guest refused (NO_ROOM), in handover",
            true,
        ),
        // The state is at most 256 KiB.
        (HOG, Version { take: "(return (i32.const 0))", ..v }, with_state(), "", false),
        ("", Version { take: "(unreachable)", ..v }, with_state(), "guest trapped", true),
        ("", Version { take: SPIN, ..v }, with_state(), "deadline of its event, in takeover", true),
        (
            "",
            Version { take: "(return (i32.const 3))", ..v },
            with_state(),
            "guest refused (3), in takeover",
            true,
        ),
        ("", Version { boot: "(unreachable)", ..v }, none.clone(), "guest trapped", true),
        ("", Version { boot: SPIN, ..v }, none, "deadline", true),
    ];
    for (hand_over, v, how, why, fails) in cases {
        let mut world = World::line_with(2, Options { team: "memory = \"2M\"", ..Options::default() });
        let one = version(Version { hand: hand_over, ..Version::default() }, |_| ());
        world.start(1, &one);
        let session = world.session(1, "counter");
        hand(&mut world, &id(&one, 0), 1);
        world.run(MILLI);
        let before = world.holds(1);
        let two = next(v, &one, &how, |_| ());
        world.inject(1, &two);
        if !fails {
            assert!(runs(&mut world, &two), "{:?}", world.log(1));
            continue;
        }
        let said = ended(&mut world, &two);
        assert!(said.contains(why), "{said}");
        assert!(world.flow(1, two.hash()).is_some_and(|f| f.capsules == (0, 0, 0)));
        assert_eq!(world.count(1, "replacements_failed"), 1);
        hand(&mut world, &id(&one, 0), 2);
        world.run(MILLI);
        let all =
            Told { capsules: 2, out_of_order: 0, version: 1, boots: 1, kind: 0, opened: 1, first: true };
        assert_eq!(told(&mut world, session), all, "{said}");
        assert_eq!(world.holds(1), before, "{said}");
        // Whoever failed to hand over is not asked again.
        if hand_over == SPIN || hand_over == TRAP {
            let three = next(Version { number: 3, ..v }, &one, &with_state(), |_| ());
            world.inject(1, &three);
            assert!(ended(&mut world, &three).contains("has failed before"));
            assert_eq!(world.flow(1, one.hash()).unwrap().crashes.len(), 2);
        }
    }
}

/// Between grant and switch both are charged; afterwards only the new one, whatever happened, and however often.
#[test]
fn nothing_is_left_behind_after_many_versions() {
    let mut world = World::line(2);
    let mut last = first();
    world.start(1, &last);
    let mut after_two = None;
    for number in 2..30 {
        let new = next(Version { number, ..Version::default() }, &last, &with_state(), |_| ());
        hand(&mut world, &id(&last, 0), number);
        world.inject(1, &new);
        assert!(runs(&mut world, &new));
        last = new;
        world.run(601 * SECOND);
        let held = world.holds(1);
        // Names of earlier versions are kept, up to sixteen of them.
        if number == 20 {
            after_two = Some(held);
        }
        if number > 20 {
            assert_eq!(Some(held), after_two);
        }
    }
    world.stop(1, last.hash(), false);
    world.run(SECOND);
    let held = world.holds(1);
    assert_eq!((held.0, held.2, held.3), (World::line(2).holds(1).0, 0, 1));
}

fn signed(flow: &Flow, principal: &str) -> Flow {
    let mut tuple = Tuple::decode(&flow.tuple).unwrap();
    let key = SigningKey::from_seed(&[principal.as_bytes()[0]; 32]);
    let signature = key.sign(&tuple.body.encode()).to_vec();
    tuple.credentials =
        Credentials::Signed { principal: principal.into(), scheme: Scheme::Ed25519, signature };
    Flow { module: flow.module.clone(), tuple: tuple.encode() }
}

fn policy() -> String {
    let key = |name: &str| SigningKey::from_seed(&[name.as_bytes()[0]; 32]).public();
    let principal = |name: &str, more: &str| {
        format!("[[principal]]\nname = \"{name}\"\nkeys = [\"{}\"]\n{more}\n", key(name))
    };
    let may = "[principal.grant]\n";
    format!("{}{}", principal("joe", may), principal("eve", may))
}

/// Nobody takes a flow over that is another's, neither from a neighbor nor by injection; the administrator does.
#[test]
fn only_its_principal_or_an_operator_replaces_a_flow() {
    let node = format!("agent = \"source-based\"\npolicy = '''{}'''", policy());
    let mut world = World::line_with(2, Options { node: &node, ..Options::default() });
    let one = signed(&first(), "joe");
    world.start(1, &one);
    // Eve's version comes from the neighbor, where hers runs as a flow of its own: there joe's is not.
    let eves = signed(&second(&one), "eve");
    world.start(0, &eves);
    hand(&mut world, &id(&eves, 0), 1);
    let why = ended(&mut world, &eves);
    assert!(why.contains("not its principal's"), "{why}");
    assert_eq!(world.count(1, "principal_replacements_refused"), 1);
    assert_eq!(world.state(1, one.hash()), Some(FlowState::Running));
    // Joe's comes the same way.
    let joes = signed(&second(&one), "joe");
    world.start(0, &joes);
    hand(&mut world, &id(&joes, 0), 1);
    assert!(runs(&mut world, &joes), "{:?}", world.log(1));
    assert_eq!(world.count(1, "flows_replaced"), 1);
    // Who may stop a flow may put another one in its place.
    let other =
        signed(&next(Version { number: 4, ..Version::default() }, &joes, &with_state(), |_| ()), "eve");
    world.inject(1, &other);
    assert!(runs(&mut world, &other), "{:?}", world.log(1));
}

/// What the operator stopped does not come back as its next version; injected it does.
#[test]
fn a_flow_that_is_kept_away_does_not_come_back_as_its_next_version() {
    let mut world = World::line(2);
    let one = first();
    world.start(1, &one);
    world.stop(1, one.hash(), true);
    let two = second(&one);
    world.start(0, &two);
    hand(&mut world, &id(&two, 0), 1);
    let why = ended(&mut world, &two);
    assert!(why.contains("is kept away here"), "{why}");
    world.inject(1, &two);
    assert!(runs(&mut world, &two));
    let shown = world.flow(1, two.hash()).unwrap().replaces.unwrap();
    assert_eq!((shown.flow, shown.here), (one.hash(), false));
}

/// A node that has the new version first gives it what comes for the old one, without starting that.
#[test]
fn the_old_version_does_not_start_beside_the_new_one() {
    // It is the same if the old one could not start there: it calls what another flow serves elsewhere only.
    let clock = guest::flow("clock", guest::module(""), |body| {
        body.extensions = vec![Extension::offers(&["ops.clock"])];
        body.request.privileges = vec![Privilege { name: "offer".into(), optional: false }];
    });
    for calls in [false, true] {
        let mut world = World::line(2);
        world.start(0, &clock);
        let one = version(Version::default(), |body| {
            if calls {
                let (interface, provider) = ("clock".into(), Provider::System("ops.clock".into()));
                body.protocols[0].companions =
                    vec![Companion { interface, coupling: Coupling::Tuple, provider }];
                body.request.privileges = vec![Privilege { name: "ops.clock".into(), optional: false }];
            }
        });
        world.start(0, &one);
        let two = second(&one);
        world.start(1, &two);
        let session = world.session(1, "counter");
        for number in 1..=20 {
            hand(&mut world, &id(&one, 0), number);
        }
        world.run(SECOND);
        let Told { capsules, out_of_order, version, .. } = told(&mut world, session);
        assert_eq!((capsules, out_of_order, version), (20, 0, 2));
        assert_eq!((world.holds(1).2, world.compiled), (1, 3));
        assert!(ended(&mut world, &one).contains("has taken its place here"));
        hand(&mut world, &id(&one, 0), 21);
        world.run(MILLI);
        assert_eq!(world.count(1, "capsules_taken_over"), 21);
    }
}

/// A version with long events hands over between two of them.
#[test]
fn a_flow_in_the_background_hands_over_between_events() {
    let long = |body: &mut Body| {
        body.request.privileges = vec![Privilege { name: "background".into(), optional: false }];
    };
    let mut world = World::line_with(2, Options { team: "background = \"300ms\"", ..Options::default() });
    let one = version(Version::default(), long);
    world.start(1, &one);
    let session = world.session(1, "counter");
    hand(&mut world, &id(&one, 0), 1);
    world.run(MILLI);
    let v = |number, take| Version { number, take, ..Version::default() };
    let wrong = next(v(2, SPIN), &one, &with_state(), long);
    world.inject(1, &wrong);
    assert!(ended(&mut world, &wrong).contains("deadline"));
    let Told { capsules, version, .. } = told(&mut world, session);
    assert_eq!((capsules, version), (1, 1));
    let two = next(v(3, ""), &one, &with_state(), long);
    world.inject(1, &two);
    assert!(runs(&mut world, &two), "{:?}", world.log(1));
    let Told { capsules, version, .. } = told(&mut world, session);
    assert_eq!((capsules, version), (1, 3));
    // In the middle of an event that never ends: when the node has ended that, the new version starts anew.
    hand(&mut world, &id(&two, 0), u32::MAX);
    world.run(MILLI);
    let three = next(v(4, ""), &two, &with_state(), long);
    world.inject(1, &three);
    assert!(world.run_until(SECOND, |w| w.state(1, three.hash()) == Some(FlowState::Standby)));
    assert!(world.run_until(SECOND, |w| matches!(w.state(1, two.hash()), Some(FlowState::Ended(_)))));
    // It was kept away for that, and so is what would go on in its place by itself; this one was injected.
    assert!(runs(&mut world, &three), "{:?}", world.log(1));
}

/// Strikes are not left behind with the old version.
#[test]
fn strikes_outlive_a_replacement() {
    let lies = r#"(drop (call $handover_write (i32.const -1) (i32.const 64)))"#;
    let mut world = World::line(2);
    let one = version(Version { boot: lies, ..Version::default() }, |_| ());
    let lie = one.hash();
    let read = guest::flow("counter", one.module.clone(), |b| b.nonce = [1; 16]);
    assert_eq!(read.hash(), lie);
    world.start(1, &one);
    world.run(MILLI);
    let strikes = |world: &mut World| world.teams(1).last().unwrap().strikes;
    assert_eq!(strikes(&mut world), 1);
    let two = second(&one);
    world.inject(1, &two);
    assert!(runs(&mut world, &two));
    assert_eq!(strikes(&mut world), 1);
}

/// Sessions end with a version that has none, and the program sees it.
#[test]
fn a_version_without_sessions_ends_them() {
    let mut world = World::line(2);
    let one = first();
    world.start(1, &one);
    let session = world.session(1, "counter");
    let two = next(Version { number: 2, ..Version::default() }, &one, &with_state(), |body| {
        body.protocols[0].session = false;
    });
    world.inject(1, &two);
    assert!(runs(&mut world, &two));
    world.run(MILLI);
    assert!(world.stations[1].node.session_packet(session).is_err());
    assert_eq!(world.flow(1, two.hash()).unwrap().sessions, 0);
    assert!(world.log(1).iter().any(|line| line.starts_with("1 sessions end: flow counter")));
    let used = world.teams(1).pop().unwrap().budgets.into_iter();
    assert!(used.into_iter().filter(|b| b.kind == wire::budget::Kind::Sessions).all(|b| b.used == Some(0)));
}

/// Of two versions that would take the same flow's place one does.
#[test]
fn only_one_version_takes_a_flows_place() {
    let mut world = World::line(2);
    let one = first();
    world.start(1, &one);
    let [two, three] =
        [2, 3].map(|number| next(Version { number, ..Version::default() }, &one, &with_state(), |_| ()));
    world.inject(1, &two);
    world.inject(1, &three);
    assert!(runs(&mut world, &two));
    assert!(ended(&mut world, &three).contains("another version has taken the place"));
    assert!(matches!(world.try_inject(1, &three), Answer::Injected(_)));
    assert!(ended(&mut world, &three).contains("another version has taken the place"));
}

/// In whatever order three versions come, in the end the newest runs alone, with the state of those that ran before, and has what
/// is sent to any of them.
#[test]
fn versions_may_come_in_any_order() {
    let one = first();
    let two = second(&one);
    let three = next(Version { number: 3, ..Version::default() }, &two, &with_state(), |_| ());
    let versions = [&one, &two, &three];
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let mut world = World::line(2);
        let empty = world.holds(1);
        let mut sent = 0;
        for step in 0..3 {
            world.inject(1, versions[order[step]]);
            world.run(SECOND / 10);
            if order[..=step].contains(&0) {
                for _ in 0..5 {
                    sent += 1;
                    hand(&mut world, &id(&one, 0), sent);
                }
                world.run(10 * MILLI);
            }
        }
        let running = world.flows(1).into_iter().filter(|flow| flow.state == FlowState::Running);
        let running: Vec<_> = running.map(|flow| flow.hash).collect();
        assert_eq!(running, [three.hash()], "{order:?}: {:?}", world.log(1));
        sent += 1;
        hand(&mut world, &id(&two, 0), sent);
        world.run(MILLI);
        let session = world.session(1, "counter");
        let Told { capsules, out_of_order, version, boots, .. } = told(&mut world, session);
        assert_eq!((capsules, out_of_order, version, boots), (sent, 0, 3, 1), "{order:?}");
        assert_eq!(
            (world.count(1, "capsules_without_successor"), world.count(1, "replacements_failed")),
            (0, 0)
        );
        world.run(601 * SECOND);
        world.stop(1, three.hash(), false);
        world.run(61 * SECOND);
        assert_eq!(world.holds(1), empty, "{order:?}");
    }
}

/// A version that ran beside the first one keeps its programs and what waits for it when it starts once more, and all
/// that it had where it refuses to.
#[test]
fn a_version_that_runs_already_takes_over_or_goes_on() {
    for refuses in [false, true] {
        let mut world = World::line(2);
        let one = first();
        let two = second(&one);
        let take = if refuses { "(return (i32.const 3))" } else { "" };
        let three = next(Version { number: 3, take, ..Version::default() }, &two, &with_state(), |_| ());
        world.start(1, &one);
        let of_one = world.session(1, "counter");
        (1..=5).for_each(|number| hand(&mut world, &id(&one, 0), number));
        world.start(1, &three);
        let of_three = world.session(1, &three.hash().to_string());
        (1..=2).for_each(|number| hand(&mut world, &id(&three, 0), number));
        world.run(MILLI);
        assert_eq!([of_one, of_three].map(|session| told(&mut world, session).version), [1, 3]);
        let held = |world: &mut World| {
            let its = |team: &wire::control::TeamInfo| team.flow == Some(three.hash());
            world.teams(1).into_iter().find(its).unwrap().memory.0
        };
        let before = held(&mut world);
        world.inject(1, &two);
        // Capsules come all the time: none is lost that comes once it has agreed.
        let mut number = 5;
        for _ in 0..200 {
            number += 1;
            hand(&mut world, &id(&one, 0), number);
            world.run(Duration::from_micros(100));
        }
        world.run(20 * MILLI);
        let [first, third] = [of_one, of_three].map(|session| told(&mut world, session));
        let failed = world.count(1, "replacements_failed");
        if refuses {
            assert_eq!((first.version, first.capsules, failed), (2, number, 1));
            assert_eq!((third.version, third.capsules, third.boots), (3, 2, 1));
            assert_eq!(held(&mut world), before);
            assert_eq!(world.state(1, two.hash()), Some(FlowState::Running));
            let told = |line: &String| {
                line.contains("goes on without the state of the flow that it takes over from")
            };
            assert!(world.log(1).iter().any(told), "{:?}", world.log(1));
        } else {
            assert_eq!((first.version, third.version, failed), (3, 3, 0));
            assert_eq!((first.capsules, first.out_of_order), (number, 0));
            assert_eq!(first.boots, 1);
            assert_eq!(world.flow(1, three.hash()).unwrap().sessions, 2);
            let why = ended(&mut world, &two);
            assert_eq!(why, format!("flow counter {:.8} took over from it", three.hash()));
        }
    }
}

/// An `on_handover` that refuses, over and over, takes nothing from the version that goes on.
#[test]
fn what_a_refused_handover_was_about_to_say_takes_no_room() {
    let mut world = World::line(2);
    let talks = "(drop (call $session_reply (i32.load (i32.const 1056)) (i32.const 0) (i32.const 16000)))
        (if (i32.ne (call $session_close (i32.load (i32.const 1056))) (i32.const -10)) (then (unreachable)))
        (return (i32.const -1))";
    let one = version(Version { hand: talks, ..Version::default() }, |_| ());
    world.start(1, &one);
    let session = world.session(1, "counter");
    assert_eq!(told(&mut world, session).version, 1);
    for number in 2..10 {
        let next = next(Version { number, ..Version::default() }, &one, &with_state(), |_| ());
        world.inject(1, &next);
        assert!(ended(&mut world, &next).contains("guest refused (BAD_HANDLE)"));
        assert_eq!(told(&mut world, session).version, 1);
    }
}

/// Keeps how long its first capsule waited, in microseconds, and works a while with each.
const WAITS: &str = r#"
    (func (export "on_capsule") (param $c i32) (param $kind i32) (param $len i32) (param $from i32) (local $n i32)
        (if (i64.eqz (i64.load (i32.const 1024))) (then
            (i64.store (i32.const 1024) (i64.sub (call $clock_mono) (call $event_since)))))
        (loop $more
            (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (br_if $more (i32.lt_u (local.get $n) (i32.const 4000)))))
    (func (export "on_session") (param $c i32) (param $s i32) (param $what i32) (param $len i32)
        (if (i32.eq (local.get $what) (i32.const 1)) (then
            (drop (call $session_reply (local.get $s) (i32.const 1024) (i32.const 8))))))"#;

/// What waited for the old version has waited since then.
#[test]
fn what_waited_keeps_its_time() {
    let mut world =
        World::line_with(2, Options { team: "queue = 400\nmemory = \"4M\"", ..Options::default() });
    let one = guest::of("waits", WAITS);
    world.start(1, &one);
    let how = Replacement { handover: false, types: vec![((0, 0), (0, 0))] };
    let two = guest::flow("waits", guest::module(&WAITS.replace("1024", "2048")), |body| {
        body.replaces = Some(one.hash());
        body.extensions = vec![how.extension()];
    });
    world.inject(1, &two);
    let mut sent = 0;
    while world.state(1, two.hash()) != Some(FlowState::Running) {
        assert!(sent < 3000, "{:?}", world.log(1));
        for _ in 0..22 {
            sent += 1;
            hand(&mut world, &id(&one, 0), sent);
        }
        world.run(Duration::from_micros(100));
    }
    world.run(SECOND);
    let session = world.session(1, "waits");
    world.say(1, session, b"?");
    world.run(MILLI);
    let waited = i64::from_le_bytes(world.heard(1, session).remove(0).try_into().unwrap());
    assert!(waited > 200, "{waited}");
}
