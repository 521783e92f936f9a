//! Companions across nodes: their capsules carry identifiers of their own, coupled with the protocol that they
//! serve, and bring the whole flow with them.

mod common;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::guest::{self, Flow};
use common::{Fate, World};
use wire::control::FlowState;
use wire::id::{CapsuleId, Path};
use wire::system::{RESPONSE, Translation, TranslationResponse, decode, encode, translation_id};
use wire::tuple::{Body, Companion, Coupling, Part, Provider, Tuple};

const SECOND: Duration = Duration::from_secs(1);

/// What a program says goes through the companion to the neighbors' main protocols; each adds a byte to what comes
/// back by the companion.
const MAIN: &str = r#"
    (global $session (mut i32) (i32.const 0))
    (data (i32.const 256) "companion/carrier")
    (func (export "on_session") (param $c i32) (param $s i32) (param $what i32) (param $len i32)
        (if (i32.ne (local.get $what) (i32.const 1)) (then (return)))
        (global.set $session (local.get $s))
        (drop (call $companion_call (call $cap_lookup (i32.const 256) (i32.const 17)) (i32.const 1)
            (i32.const 0) (local.get $len))))
    (func (export "on_companion") (param $c i32) (param $from i32) (param $op i32) (param $len i32) (result i32)
        (if (i32.eq (local.get $op) (i32.const 3))
            (then (drop (call $session_reply (global.get $session) (i32.const 0) (local.get $len)))))
        (i32.const 77))
"#;

/// Carries what it is given (1) to all neighbors, with `MARK` in front; there it asks its main protocol (2), and what
/// that gives goes back, where it is told (3).
const CARRIER: &str = r#"
    (data (i32.const 256) "parent")
    (func $up (param $op i32) (param $len i32) (result i32)
        (call $companion_call (call $cap_lookup (i32.const 256) (i32.const 6)) (local.get $op)
            (i32.const 0) (local.get $len)))
    (func (export "on_companion") (param $c i32) (param $from i32) (param $op i32) (param $len i32) (result i32)
        (i32.store8 (i32.const 512) (i32.const MARK))
        (drop (call $companion_read (i32.const 0) (i32.const 513) (local.get $len)))
        (drop (call $capsule_resize (local.get $c) (i32.add (local.get $len) (i32.const 1))))
        (drop (call $capsule_write (local.get $c) (i32.const 0) (i32.const 512) (i32.add (local.get $len) (i32.const 1))))
        (call $capsule_multicast (local.get $c) (call $cap_lookup (i32.const 64) (i32.const 12)) (i32.const 0)))
    (func (export "on_capsule") (param $c i32) (param $kind i32) (param $len i32) (param $from i32)
        (if (i32.eq (i32.load8_u (i32.const 0)) (i32.const MARK))
            (then
                (i32.store8 (i32.const 0) (call $up (i32.const 2) (local.get $len)))
                (drop (call $capsule_write (local.get $c) (i32.const 0) (i32.const 0) (i32.const 1)))
                (drop (call $capsule_return (local.get $c) (i32.const 0))))
            (else (drop (call $up (i32.const 3) (local.get $len))))))
"#;

struct Team {
    flow: Flow,
    carrier: Vec<u8>,
}

fn team(coupling: Coupling, mark: u8, edit: impl FnOnce(&mut Body)) -> Team {
    let carrier = guest::module(&CARRIER.replace("MARK", &mark.to_string()));
    let flow = guest::flow("asker", guest::module(MAIN), |body| {
        let mut protocol = guest::body("carrier", &carrier, 4).protocols.swap_remove(0);
        protocol.session = false;
        body.protocols.push(protocol);
        let (interface, provider) = ("carrier".into(), Provider::Tuple(1));
        body.protocols[0].companions = vec![Companion { interface, coupling, provider }];
        edit(body);
    });
    Team { flow, carrier }
}

impl Team {
    fn start(&self, world: &mut World) {
        world.put(0, &self.carrier);
        world.start(0, &self.flow);
    }

    fn tuple(&self) -> Tuple {
        Tuple::decode(&self.flow.tuple).unwrap()
    }
}

#[test]
fn the_capsules_of_a_companion_bring_the_whole_flow() {
    for coupling in [Coupling::Capsules, Coupling::Parts, Coupling::Tuple] {
        let mut world = World::line(2);
        let idle = [world.holds(0), world.holds(1)];
        let team = team(coupling, b'>', |_| ());
        team.start(&mut world);
        let tuple = team.tuple();
        let coupled = tuple.coupled(1);
        let many = [1, 1, 0][coupling as usize];
        assert_eq!(coupled.len(), many);
        let id = CapsuleId::compute(&team.flow.hash(), &Path(vec![0]), 0, &coupled);
        let seen = Arc::new(Mutex::new(0));
        let count = seen.clone();
        world.tap(move |frame| {
            *count.lock().unwrap() += u32::from(frame.capsule().is_some_and(|(seen, _)| seen == id));
            // Over UDP there may be no room for the coupled hashes: the tuple has them.
            let answer = frame.capsule().filter(|(id, _)| *id == translation_id(RESPONSE));
            if let Some(mut answer) = answer.and_then(|(_, bytes)| decode::<TranslationResponse>(bytes))
                && let Translation::Known { coupled, .. } = &mut answer.answer
                && coupling == Coupling::Parts
            {
                coupled.clear();
                frame.set_payload(&encode(&answer));
            }
            Fate::Pass
        });
        let session = world.session(0, "asker");
        for round in 1..3 {
            world.say(0, session, b"hello");
            assert!(world.run_until(2 * SECOND, |w| w.flow(1, team.flow.hash()).is_some()));
            world.run(SECOND);
            assert_eq!(world.heard(0, session), [b"Mhello"], "{coupling:?}");
            assert_eq!(*seen.lock().unwrap(), 2 * round, "there and back, under the coupled identifier");
        }
        assert_eq!(world.state(1, team.flow.hash()), Some(FlowState::Running));
        // Both modules were fetched and compiled there, and both are charged.
        let sizes = world.teams(1).into_iter().find(|t| t.name == "asker").unwrap();
        assert!(sizes.memory.0 > 128 * 1024, "two memories of 64 KiB: {sizes:?}");
        world.stop(0, team.flow.hash(), false);
        world.stop(1, team.flow.hash(), false);
        world.run(SECOND);
        // Nothing of it is left.
        assert_eq!([world.holds(0), world.holds(1)], idle);
    }
}

/// The same main protocol, byte for byte, with another companion behind the same interface.
#[test]
fn companions_are_exchanged_without_their_main_protocol() {
    let (one, other) = (team(Coupling::Parts, b'>', |_| ()), team(Coupling::Parts, b'#', |_| ()));
    assert_eq!(one.flow.module, other.flow.module);
    assert_ne!(one.flow.hash(), other.flow.hash());
    for team in [one, other] {
        let mut world = World::line(2);
        team.start(&mut world);
        let session = world.session(0, "asker");
        world.say(0, session, b"x");
        world.run(3 * SECOND);
        assert_eq!(world.heard(0, session), [b"Mx"]);
    }
}

/// A previous hop names a flow by an identifier that is coupled with something else: it is not believed.
#[test]
fn foreign_couplings_are_not_believed() {
    let mut world = World::line(2);
    let team = team(Coupling::Parts, b'>', |_| ());
    team.start(&mut world);
    let foreign = CapsuleId::compute(&team.flow.hash(), &Path(vec![0]), 0, &[[7; 32]]);
    let plain = CapsuleId::compute(&team.flow.hash(), &Path(vec![0]), 0, &[]);
    let real = team.tuple().capsule_id(&team.flow.hash(), 1, &Path(vec![0]), 0);
    for wrong in [foreign, plain] {
        assert_ne!(wrong, real);
        world.tap(move |frame| {
            if frame.capsule().is_some_and(|(id, _)| id == real) {
                frame.set_id(&wrong);
            }
            Fate::Pass
        });
        let session = world.session(0, "asker");
        world.say(0, session, b"x");
        world.run(5 * SECOND);
        assert_eq!(world.flow(1, team.flow.hash()).map(|f| f.state), None);
    }
}

/// A companion's module is judged as the main protocol's is.
#[test]
fn every_protocol_is_judged() {
    let mut world = World::line(1);
    // The companion's module is no module.
    let mut broken = team(Coupling::Tuple, b'>', |_| ());
    let mut tuple = broken.tuple();
    tuple.body.protocols[1].code = Part::of(b"nonsense").unwrap();
    broken.flow.tuple = tuple.encode();
    world.put(0, b"nonsense");
    let hash = world.inject(0, &broken.flow);
    world.run(SECOND);
    let why = world.why(0, hash);
    assert!(why.contains("module refused"), "{why}");
}
