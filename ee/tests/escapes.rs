//! Ways out that do not work: forged and stale handles, other teams' handles, envelopes and proofs used by
//! those for whom they are not, limits got round, timer storms, and what a collision of MD5 may achieve.

mod common;

use std::sync::Arc;
use std::time::Duration;

use authagent::keys::{PublicKey, SigningKey};
use common::guest::{self, flow};
use common::puppet::{CAPSULE, Call, FROM, House, OUT, OWN, Puppet, result};
use common::{Options, Random, WALL, World};
use ee::abi::{Error, IMPORTS, rights};
use ee::sandbox::Shared;
use nodeos::platform::{Instant, Now, Reading};
use wire::control::{Answer, FlowState, Request};
use wire::id::{PartHash, TupleHash};
use wire::statement::{self, EnvelopeId, Proof};
use wire::tuple::{DataPart, Part, Scheme, Tuple};

const SECOND: Duration = Duration::from_secs(1);

fn code(error: Error) -> i64 {
    error.code().into()
}

fn house() -> House {
    let shared = Shared { key: Some(Arc::new(SigningKey::from_seed(&[7; 32]))), ..Shared::default() };
    shared.sensors.set([Reading { name: "x-units".into(), value: -5 }]);
    House::new(shared)
}

/// What reading the sensor gives with this capability: the value, or the error.
fn read(team: &mut Puppet, cap: i64) -> Result<i64, i64> {
    let (results, seen) = team.run(b"x-units", &[("sensor_read", &[cap, OWN, 7, OUT])]);
    if results[0] < 0 { Err(results[0]) } else { Ok(i64::from_le_bytes(seen[..8].try_into().unwrap())) }
}

/// Puts a capability into an envelope.
fn envelope(team: &mut Puppet, cap: i64, to: &[u8]) -> Result<EnvelopeId, i64> {
    let (results, seen) = team.run(to, &[("envelope_make", &[cap, OWN, to.len() as i64, OUT])]);
    if results[0] < 0 { Err(results[0]) } else { Ok(seen[..16].try_into().unwrap()) }
}

fn open(team: &mut Puppet, id: &EnvelopeId, unsealer: i64, proof: &[u8]) -> i64 {
    let own = [&id[..], proof].concat();
    team.run(&own, &[("envelope_open", &[OWN, unsealer, OWN + 16, proof.len() as i64])]).0[0]
}

#[test]
fn privileges_work_for_who_has_them_and_can_be_taken_back() {
    let house = house();
    let (mut with, mut without) = (house.team(1, &["sensors", "node-key"]), house.team(2, &[]));
    let sensors = with.lookup("sensors");
    assert_eq!(read(&mut with, sensors), Ok(-5));
    let (results, seen) = with.run(&[], &[("sensor_list", &[sensors, OUT, 100])]);
    assert_eq!((results[0], &seen[..8]), (8, &b"x-units\n"[..]));
    assert_eq!(with.run(b"y", &[("sensor_read", &[sensors, OWN, 1, OUT])]).0[0], code(Error::NotFound));
    for name in ["sensors", "node-key", "disk"] {
        assert_eq!(without.lookup(name), code(Error::NotFound), "{name}");
    }
    // A duplicate has no more rights than it was given, nor have its own.
    let blind = with.call("cap_duplicate", &[sensors, rights::READ.into()]);
    assert_eq!(read(&mut with, blind), Err(code(Error::NotPermitted)));
    assert_eq!(with.call("cap_duplicate", &[blind, 7]), code(Error::NotPermitted));
    assert_eq!(with.call("cap_revoke", &[blind]), code(Error::NotPermitted));
    assert_eq!(envelope(&mut with, blind, &[]), Err(code(Error::NotPermitted)));
    // The agent clamps: capability and duplicates go at once, and asking finds nothing.
    let second = with.call("cap_duplicate", &[sensors, rights::ALL.into()]);
    with.sandbox.withhold(&["node-key".into()]);
    for cap in [sensors, second, blind] {
        assert_eq!(read(&mut with, cap), Err(code(Error::BadHandle)));
    }
    assert_eq!(with.lookup("sensors"), code(Error::NotFound));
    assert!(with.lookup("node-key") > 0);
}

#[test]
fn the_node_signs_for_a_flow_and_for_nothing_else() {
    let house = house();
    let mut team = house.team(1, &["node-key"]);
    let key = team.lookup("node-key");
    let (results, seen) =
        team.run(b"report", &[("key_public", &[key, OUT]), ("key_sign", &[key, OWN, 6, OUT + 32])]);
    assert_eq!(results, [0, 0]);
    let node = SigningKey::from_seed(&[7; 32]).public();
    assert_eq!(seen[..32], node.to_bytes());
    let signature = &seen[32..96];
    assert!(node.verify(&statement::guest(&TupleHash([1; 32]), b"report"), signature).is_ok());
    // Not as another flow's, nor as bare bytes.
    assert!(node.verify(&statement::guest(&TupleHash([2; 32]), b"report"), signature).is_err());
    assert!(node.verify(b"report", signature).is_err());
    // A guest cannot have the node sign what opens an envelope of which the node's key is the lock.
    let id = [9; 16];
    let wanted = Proof::statement(&node.to_bytes(), &id, &TupleHash([1; 32]), u64::MAX);
    let (_, seen) = team.run(&wanted, &[("key_sign", &[key, OWN, wanted.len() as i64, OUT])]);
    assert!(node.verify(&wanted, &seen[..64]).is_err());
    assert_eq!(
        team.call("key_sign", &[key, OWN, statement::MAX_GUEST as i64 + 1, OUT]),
        code(Error::TooLarge)
    );
    let blind = team.call("cap_duplicate", &[key, rights::READ.into()]);
    assert_eq!(team.call("key_sign", &[blind, OWN, 1, OUT]), code(Error::NotPermitted));
    // Without entropy a node has no key, and says so.
    let mut poor = House::new(Shared::default()).team(1, &["node-key"]);
    let key = poor.lookup("node-key");
    assert_eq!(poor.call("key_sign", &[key, OWN, 1, OUT]), code(Error::Unavailable));
}

#[test]
fn forged_stale_and_strangers_handles_name_nothing() {
    let house = house();
    let (mut rich, mut poor) = (house.team(1, &["sensors", "node-key"]), house.team(2, &[]));
    let held: Vec<i64> =
        ["sensors", "node-key", "neighborhood", "neighbor/n1"].map(|n| rich.lookup(n)).into();
    let near = held.iter().flat_map(|h| [h - 1, h + 1, h ^ 0x8000, h + 0x1_0000, h | 0x4000_0000]);
    let odd = [0, 1, -1, 0x7fff, 0x8000, i64::from(i32::MAX), i64::from(i32::MIN), 0xffff_ffff];
    for handle in held.iter().copied().chain(near).chain(odd) {
        assert!(read(&mut poor, handle).is_err(), "{handle:x}");
        assert!(poor.call("key_sign", &[handle, OWN, 1, OUT]) < 0);
        assert!(poor.call("key_public", &[handle, OUT]) < 0);
        assert!(poor.call("sensor_list", &[handle, OUT, 10]) < 0);
        assert!(envelope(&mut poor, handle, &[]).is_err());
        assert!(poor.call("cap_revoke", &[handle]) < 0);
    }
    // What was given back is gone, also when its place is taken again.
    let old = rich.lookup("neighbor/n2");
    assert_eq!(rich.call("cap_drop", &[old]), 0);
    let new = rich.call("cap_duplicate", &[held[3], 7]);
    assert_ne!(old, new);
    assert_eq!(rich.call("neighbor_max_payload", &[old]), code(Error::BadHandle));
    assert_eq!(rich.call("neighbor_max_payload", &[new]), 1000);
    assert_eq!(rich.call("cap_drop", &[old]), code(Error::BadHandle));
    // One kind is not another.
    assert_eq!(read(&mut rich, held[1]), Err(code(Error::BadHandle)));
    assert_eq!(rich.call("key_sign", &[held[0], OWN, 1, OUT]), code(Error::BadHandle));
    assert_eq!(rich.call("capsule_send", &[CAPSULE, held[0], 0]), code(Error::BadHandle));
    assert_eq!(rich.call("capsule_multicast", &[CAPSULE, held[3], 0]), code(Error::BadHandle));
}

#[test]
fn groups_count_once_and_give_no_rights() {
    let house = house();
    let mut team = house.team(1, &[]);
    let names = ["neighbor/n0", "neighbor/n2", "neighbor/n3"].map(|n| team.lookup(n));
    let list = |caps: &[i64]| caps.iter().flat_map(|c| (*c as u32).to_le_bytes()).collect::<Vec<u8>>();
    let make = |team: &mut Puppet, caps: &[i64]| {
        team.run(&list(caps), &[("neighborhood_make", &[OWN, caps.len() as i64])]).0[0]
    };
    let group = make(&mut team, &[names[0], names[2], names[2]]);
    let (results, seen) = team.run(
        &[],
        &[
            ("neighborhood_list", &[group, OUT, 8]),
            ("capsule_multicast", &[CAPSULE, group, 1]),
            ("capsule_left", &[CAPSULE, 2]),
            ("capsule_multicast", &[CAPSULE, group, 1]),
            ("capsule_multicast", &[CAPSULE, group, 1]),
        ],
    );
    assert_eq!(results, [2, 2, 1, 2, code(Error::Depleted)]);
    assert_eq!(seen[..8], list(&[names[0], names[2]]));
    assert_eq!(team.sent, [(0, 0), (3, 0), (0, 0), (3, 0)]);
    // Not to where it came from, though that is a member.
    let results = team.run_capsule(&house, &[("capsule_multicast", &[CAPSULE, group, 2])]);
    assert_eq!((results[0], &team.sent[..]), (1, &[(3, 0)][..]));
    // A member without the right to send makes a group without it; one that may not be passed on makes none.
    let mute = team.call("cap_duplicate", &[names[1], (rights::READ | rights::DUPLICATE).into()]);
    let quiet = make(&mut team, &[names[0], mute]);
    assert_eq!(team.call("capsule_multicast", &[CAPSULE, quiet, 0]), code(Error::NotPermitted));
    let own = team.call("cap_duplicate", &[names[1], rights::USE.into()]);
    assert_eq!(make(&mut team, &[own]), code(Error::NotPermitted));
    assert_eq!(make(&mut team, &[group]), code(Error::BadHandle));
    // There are sixteen, and dropping one makes room.
    while make(&mut team, &names) > 0 {}
    assert_eq!(make(&mut team, &names), code(Error::NoRoom));
    assert_eq!(team.call("cap_drop", &[quiet]), 0);
    assert!(make(&mut team, &names) > 0);
    // Who is gone is reached no more.
    team.sandbox.neighbor_gone(ee::sandbox::NeighborId(3));
    assert_eq!(team.call("capsule_multicast", &[CAPSULE, group, 0]), 1);
    assert_eq!(team.sent, [(0, 0)]);
    assert_eq!(team.call("neighborhood_make", &[OWN, -1]), code(Error::BadPointer));
}

#[test]
fn an_envelope_opens_once_and_for_its_flow() {
    let house = house();
    let (mut maker, mut other, mut third) =
        (house.team(1, &["sensors"]), house.team(2, &[]), house.team(3, &[]));
    let sensors = maker.lookup("sensors");
    let id = envelope(&mut maker, sensors, &[2; 32]).unwrap();
    assert_eq!(open(&mut third, &id, 0, &[]), code(Error::NotPermitted));
    let mut guess = id;
    guess[15] ^= 1;
    assert_eq!(open(&mut other, &guess, 0, &[]), code(Error::NotFound));
    let lent = open(&mut other, &id, 0, &[]);
    assert_eq!(read(&mut other, lent), Ok(-5));
    for team in [&mut other, &mut third, &mut maker] {
        assert_eq!(open(team, &id, 0, &[]), code(Error::NotFound), "opened twice");
    }
    // It has the rights that the maker's capability had.
    let weak = maker.call("cap_duplicate", &[sensors, (rights::READ | rights::DUPLICATE).into()]);
    let id = envelope(&mut maker, weak, &[]).unwrap();
    let weak = open(&mut third, &id, 0, &[]);
    assert_eq!(read(&mut third, weak), Err(code(Error::NotPermitted)));
    // Nobody but the maker voids or seals it.
    let id = envelope(&mut maker, sensors, &[]).unwrap();
    assert_eq!(third.run(&id, &[("envelope_void", &[OWN])]).0[0], code(Error::NotFound));
    assert_eq!(maker.run(&id, &[("envelope_void", &[OWN])]).0[0], 0);
    assert_eq!(open(&mut third, &id, 0, &[]), code(Error::NotFound));
    // The neighborhood is everybody's own; a length that is no hash is none.
    let all = maker.lookup("neighborhood");
    assert_eq!(envelope(&mut maker, all, &[]), Err(code(Error::BadArgument)));
    assert_eq!(envelope(&mut maker, sensors, &[2; 31]), Err(code(Error::BadArgument)));
    // A team has sixteen at most, and pays for them until they are gone.
    let before = maker.account.used();
    let made = std::iter::from_fn(|| envelope(&mut maker, sensors, &[]).ok()).count();
    assert_eq!((made, house.shared.envelopes.len()), (16, 16));
    assert_eq!(maker.account.used() - before, 16 * 512);
    drop((maker, other, third));
    assert_eq!((house.shared.envelopes.len(), house.memory.used()), (0, 0));
}

#[test]
fn what_is_taken_back_is_gone_everywhere_at_once() {
    let house = house();
    let mut teams: Vec<Puppet> =
        (1..=9).map(|n| house.team(n, if n == 1 { &["sensors"] } else { &[] })).collect();
    let sensors = teams[0].lookup("sensors");
    // From hand to hand, as far as it goes.
    let mut caps = vec![sensors];
    for n in 1..9 {
        let id = envelope(&mut teams[n - 1], caps[n - 1], &[]).unwrap();
        caps.push(open(&mut teams[n], &id, 0, &[]));
        assert_eq!(read(&mut teams[n], caps[n]), Ok(-5));
    }
    assert_eq!(envelope(&mut teams[8], caps[8], &[]), Err(code(Error::NoRoom)));
    let twin = teams[5].call("cap_duplicate", &[caps[5], 7]);
    let waiting = envelope(&mut teams[5], twin, &[]).unwrap();
    // One in the middle takes back what it gave: those after it lose it, those before do not.
    assert_eq!(teams[4].call("cap_revoke", &[caps[4]]), 0);
    for (n, team) in teams.iter_mut().enumerate() {
        let expected = if n < 4 { Ok(-5) } else { Err(code(Error::BadHandle)) };
        assert_eq!(read(team, caps[n]), expected, "{n}");
    }
    assert_eq!(read(&mut teams[5], twin), Err(code(Error::BadHandle)));
    assert_eq!(teams[5].call("cap_duplicate", &[twin, 7]), code(Error::BadHandle));
    assert_eq!(open(&mut teams[8], &waiting, 0, &[]), code(Error::NotFound));
    // The end of a team takes back what it gave.
    teams.remove(2);
    assert_eq!(read(&mut teams[2], caps[3]), Err(code(Error::BadHandle)));
    assert_eq!(read(&mut teams[1], caps[1]), Ok(-5));
    // So does the agent that takes the privilege from who lent it.
    teams[0].sandbox.withhold(&[]);
    assert_eq!(read(&mut teams[1], caps[1]), Err(code(Error::BadHandle)));
    // A fresh capability after a revocation does not bring the old ones back.
    let mut maker = house.team(20, &["sensors"]);
    let first = maker.lookup("sensors");
    let id = envelope(&mut maker, first, &[]).unwrap();
    assert_eq!(maker.call("cap_revoke", &[first]), 0);
    let again = maker.lookup("sensors");
    assert_eq!(read(&mut maker, again), Ok(-5));
    assert_eq!(read(&mut maker, first), Err(code(Error::BadHandle)));
    assert_eq!(open(&mut teams[1], &id, 0, &[]), code(Error::NotFound));
}

#[test]
fn an_envelope_brings_no_neighbor_that_the_agent_hides() {
    let house = house();
    let mut wide = house.team(1, &[]);
    let mut narrow = house.team_with(2, &[], |s| s.neighbors.truncate(2));
    let send = |team: &mut Puppet, cap| team.call("capsule_send", &[CAPSULE, cap, 0]);
    let (near, far) = (wide.lookup("neighbor/n1"), wide.lookup("neighbor/n3"));
    let id = envelope(&mut wide, near, &[]).unwrap();
    let lent = open(&mut narrow, &id, 0, &[]);
    assert_eq!((send(&mut narrow, lent), &narrow.sent[..]), (0, &[(1, 0)][..]));
    let id = envelope(&mut wide, far, &[]).unwrap();
    assert_eq!(open(&mut narrow, &id, 0, &[]), code(Error::NotPermitted));
    let own: Vec<u8> = [near, far].iter().flat_map(|c| (*c as u32).to_le_bytes()).collect();
    let group = wide.run(&own, &[("neighborhood_make", &[OWN, 2])]).0[0];
    let id = envelope(&mut wide, group, &[]).unwrap();
    let lent = open(&mut narrow, &id, 0, &[]);
    assert_eq!(narrow.call("capsule_multicast", &[CAPSULE, lent, 0]), 1);
    assert_eq!(narrow.sent, [(1, 0)]);
}

#[test]
fn a_sealed_envelope_needs_its_unsealer() {
    let house = house();
    let (mut maker, mut other) = (house.team(1, &["sensors"]), house.team(2, &[]));
    let pair = |team: &mut Puppet| {
        let (results, seen) = team.run(&[], &[("seal_make", &[OUT])]);
        assert_eq!(results, [0]);
        [0, 4].map(|at| i64::from(u32::from_le_bytes(seen[at..at + 4].try_into().unwrap())))
    };
    let ([sealer, unsealer], [_, wrong]) = (pair(&mut maker), pair(&mut other));
    let sensors = maker.lookup("sensors");
    let id = envelope(&mut maker, sensors, &[]).unwrap();
    let seal = |team: &mut Puppet, sealer| team.run(&id, &[("envelope_seal", &[OWN, sealer])]).0[0];
    assert_eq!(seal(&mut maker, unsealer), code(Error::BadHandle), "an unsealer seals nothing");
    assert_eq!(seal(&mut maker, sealer), 0);
    assert_eq!(seal(&mut maker, sealer), code(Error::BadArgument), "sealed already");
    assert_eq!(open(&mut other, &id, 0, &[]), code(Error::NotPermitted));
    assert_eq!(open(&mut other, &id, wrong, &[]), code(Error::NotPermitted));
    // The number of somebody else's unsealer is nothing; neither is a sealer.
    assert!(open(&mut other, &id, unsealer + 0x10_0000, &[]) < 0);
    assert_eq!(open(&mut maker, &id, sealer, &[]), code(Error::BadHandle));
    assert_eq!(open(&mut other, &id, 0, &[1; 73]), code(Error::NotPermitted), "a proof is no unsealer");
    // The unsealer travels in an envelope of its own.
    let key = envelope(&mut maker, unsealer, &[2; 32]).unwrap();
    let unsealer = open(&mut other, &key, 0, &[]);
    let lent = open(&mut other, &id, unsealer, &[]);
    assert_eq!(read(&mut other, lent), Ok(-5));
}

#[test]
fn a_proof_is_for_one_envelope_node_and_flow_until_it_expires_and_once() {
    let house = house();
    let owner = SigningKey::from_seed(&[42; 32]);
    let node = SigningKey::from_seed(&[7; 32]).public().to_bytes();
    let id: EnvelopeId = [3; 16];
    house.shared.envelopes.keep(id, "sensors", PublicKey::from(owner.public()), None).unwrap();
    let mut team = house.team(1, &[]);
    let wall = house.wall.unwrap();
    let proof = |key: &SigningKey, node: &[u8; 32], id: &EnvelopeId, flow: u8, expiry: u64| {
        let signed = Proof::statement(node, id, &TupleHash([flow; 32]), expiry);
        Proof { expiry, scheme: Scheme::Ed25519, signature: key.sign(&signed).into() }.encode()
    };
    let good = proof(&owner, &node, &id, 1, wall + 60);
    let wrong = [
        ("nothing", vec![]),
        ("no proof", vec![1; 8]),
        ("another key", proof(&SigningKey::from_seed(&[43; 32]), &node, &id, 1, wall + 60)),
        ("another node", proof(&owner, &[1; 32], &id, 1, wall + 60)),
        ("another envelope", proof(&owner, &node, &[4; 16], 1, wall + 60)),
        ("another flow", proof(&owner, &node, &id, 2, wall + 60)),
        ("expired", proof(&owner, &node, &id, 1, wall - 1)),
        ("expiry put off", [&(wall + 61).to_le_bytes()[..], &good[8..]].concat()),
        ("another scheme", [&good[..8], &[1], &good[9..]].concat()),
        ("no scheme", [&good[..8], &[2], &good[9..]].concat()),
        ("too long", [&good[..], &[0; 500]].concat()),
    ];
    for (what, proof) in &wrong {
        assert_eq!(open(&mut team, &id, 0, proof), code(Error::WrongProof), "{what}");
    }
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(open(&mut team, &id, 0, &bad), code(Error::WrongProof), "bit {bit}");
    }
    // A node that does not know the time takes none.
    team.wall = None;
    assert_eq!(open(&mut team, &id, 0, &good), code(Error::Unavailable));
    team.wall = Some(wall);
    let cap = open(&mut team, &id, 0, &good);
    assert_eq!(read(&mut team, cap), Ok(-5));
    assert_eq!(open(&mut team, &id, 0, &good), code(Error::WrongProof), "replayed");
    // Nor does it help to come back as a new team of the same flow.
    drop(team);
    let mut team = house.team(1, &[]);
    assert_eq!(open(&mut team, &id, 0, &good), code(Error::WrongProof), "replayed");
    assert_eq!(team.run(&id, &[("envelope_void", &[OWN])]).0[0], code(Error::NotFound), "the operator's");
    // Others open it with proofs of their own, sixty-four before the first expire.
    let mut opened = 0;
    while open(&mut team, &id, 0, &proof(&owner, &node, &id, 1, wall + 100 + opened)) > 0 {
        opened += 1;
        if opened % 8 == 0 {
            drop(team);
            team = house.team(1, &[]);
        }
    }
    assert_eq!(opened, 63);
    // A team's own envelope, sealed with a key, is gone when it is opened.
    let mut maker = house.team(5, &["sensors"]);
    let sensors = maker.lookup("sensors");
    let id = envelope(&mut maker, sensors, &[]).unwrap();
    let own = [&id[..], &owner.public().to_bytes()].concat();
    assert_eq!(maker.run(&own, &[("envelope_lock", &[OWN, 0, OWN + 16, 32])]).0[0], 0);
    assert_eq!(open(&mut maker, &id, 0, &[]), code(Error::WrongProof), "not even its maker");
    let mut team = house.team(6, &[]);
    let good = proof(&owner, &node, &id, 6, wall);
    assert!(open(&mut team, &id, 0, &good) > 0);
    assert_eq!(open(&mut team, &id, 0, &good), code(Error::NotFound));
}

/// The paper's example: the operator's envelope, and a proof that comes in a capsule.
#[test]
fn a_proof_in_a_capsule_opens_the_operators_envelope() {
    let (owner, node) = (SigningKey::from_seed(&[42; 32]), SigningKey::from_seed(&[1; 32]));
    let more = format!(
        "[sensors]\n\"x-units\" = 77\n[[envelope]]\nid = \"{}\"\nprivilege = \"sensors\"\nkey = \"{}\"\n",
        "0a".repeat(16),
        owner.public()
    );
    let identity = format!("identity = \"{}\"", "01".repeat(32));
    let mut world = World::line_with(2, Options { node: &identity, more: &more, ..Options::default() });
    let handlers = r#"
        (data (i32.const 256) "x-units") (global $s (mut i32) (i32.const 0))
        (func (export "on_session") (param $c i32) (param $s i32) (param $what i32) (param $len i32)
            (if (i32.ne (local.get $what) (i32.const 1)) (then (return)))
            (global.set $s (local.get $s))
            (drop (call $session_read (local.get $s) (i32.const 0) (i32.const 1024) (local.get $len)))
            (drop (call $capsule_resize (local.get $c) (local.get $len)))
            (drop (call $capsule_write (local.get $c) (i32.const 0) (i32.const 1024) (local.get $len)))
            (drop (call $capsule_multicast (local.get $c) (call $cap_lookup (i32.const 64) (i32.const 12)) (i32.const 0))))
        (func (export "on_capsule") (param $c i32) (param $kind i32) (param $len i32) (param $from i32)
            (if (i32.le_u (local.get $len) (i32.const 16))
                (then (drop (call $session_reply (global.get $s) (i32.const 0) (local.get $len))) (return)))
            (drop (call $capsule_read (local.get $c) (i32.const 0) (i32.const 1024) (local.get $len)))
            (i32.store (i32.const 512) (call $envelope_open (i32.const 1024) (i32.const 0)
                (i32.const 1040) (i32.sub (local.get $len) (i32.const 16))))
            (i32.store (i32.const 516)
                (call $sensor_read (i32.load (i32.const 512)) (i32.const 256) (i32.const 7) (i32.const 520)))
            (drop (call $capsule_resize (local.get $c) (i32.const 16)))
            (drop (call $capsule_write (local.get $c) (i32.const 0) (i32.const 512) (i32.const 16)))
            (drop (call $capsule_return (local.get $c) (i32.const 0))))"#;
    let flow = guest::of("prober", handlers);
    world.start(0, &flow);
    let session = world.session(0, "prober");
    let id = [0x0a; 16];
    let ask = |world: &mut World, expiry: u64| {
        let signed = Proof::statement(&node.public().to_bytes(), &id, &flow.hash(), expiry);
        let proof = Proof { expiry, scheme: Scheme::Ed25519, signature: owner.sign(&signed).into() };
        world.say(0, session, &[&id[..], &proof.encode()].concat());
        world.run(SECOND);
        let heard = world.heard(0, session);
        let [answer] = &heard[..] else { panic!("{heard:?}") };
        let word = |at: usize| i32::from_le_bytes(answer[at..at + 4].try_into().unwrap());
        (word(0), word(4), i64::from_le_bytes(answer[8..].try_into().unwrap()))
    };
    let (cap, read, value) = ask(&mut world, WALL + 3600);
    assert!(cap > 0, "{cap}");
    assert_eq!((read, value), (0, 77));
    // The same capsule again opens nothing.
    assert_eq!(ask(&mut world, WALL + 3600).0, Error::WrongProof.code());
    assert_eq!(ask(&mut world, WALL - 1).0, Error::WrongProof.code());
}

#[test]
fn limits_hold_whatever_is_tried() {
    let house = house();
    let mut team = house.team(1, &[]);
    let (depleted, gone) = (code(Error::Depleted), code(Error::BadHandle));
    let to = team.lookup("neighbor/n1");
    // Copies that are kept, a rewritten payload, a new length: the object is the same.
    let send: Call<'_> = ("capsule_send", &[CAPSULE, to, 1]);
    let results = team.run(
        b"new payload",
        &[
            send,
            ("capsule_write", &[CAPSULE, 0, OWN, 0]),
            send,
            ("capsule_resize", &[CAPSULE, 11]),
            ("capsule_write", &[CAPSULE, 0, OWN, 11]),
            send,
            ("capsule_left", &[CAPSULE, 1]),
            // Read and made new: what is derived has its own type's limits, and there are two of them.
            ("capsule_derive", &[CAPSULE, 2]),
            ("capsule_derive", &[CAPSULE, 1]),
            ("capsule_derive", &[CAPSULE, 1]),
            ("capsule_send", &[result(7), to, 1]),
            ("capsule_send", &[result(7), to, 1]),
            // A derived one derives no more of its parent's type, nor of its own.
            ("capsule_derive", &[result(8), 0]),
            ("capsule_derive", &[result(8), 1]),
            ("capsule_derive", &[result(8), 2]),
            ("capsule_derive", &[result(8), 2]),
            ("capsule_derive", &[result(8), 2]),
            ("capsule_derive", &[result(14), 2]),
            ("capsule_derive", &[CAPSULE, 3]),
            ("capsule_derive", &[CAPSULE, -1]),
        ],
    );
    let r = results.0;
    assert_eq!(r[..7], [0, 0, 0, 0, 0, depleted, 0]);
    assert!(r[7] > 0 && r[8] > 0 && r[14] > 0 && r[15] > 0);
    assert_eq!((r[9], r[10], r[11], r[16]), (depleted, 0, depleted, depleted));
    let never = code(Error::NotPermitted);
    assert_eq!((r[12], r[13], r[17]), (never, never, never));
    assert_eq!([r[18], r[19]], [code(Error::BadArgument); 2]);
    assert_eq!(team.sent, [(1, 0), (1, 0), (1, 2)]);
    // Nothing is kept over an event: not what came, not what was derived.
    for old in [r[7], r[8], r[14], r[15]] {
        for call in ["capsule_send", "capsule_return", "capsule_drop", "capsule_len"] {
            assert_eq!(team.call(call, &[old, to, 0]), gone, "{call}");
        }
    }
    // An object that was sent whole is gone within the event.
    let (results, _) = team.run(
        &[],
        &[
            ("capsule_send", &[CAPSULE, to, 0]),
            ("capsule_send", &[CAPSULE, to, 0]),
            ("capsule_derive", &[CAPSULE, 1]),
        ],
    );
    assert_eq!(results, [0, gone, gone]);
    // A duplicate of a neighbor, a group, a lent neighbor: another way there is not another object.
    let twin = team.call("cap_duplicate", &[to, 7]);
    let id = envelope(&mut team, to, &[]).unwrap();
    let lent = open(&mut team, &id, 0, &[]);
    let ways = [to, twin, lent, to, twin, lent].map(|way| [CAPSULE, way, 1]);
    let calls: Vec<Call<'_>> = ways.iter().map(|args| ("capsule_send", &args[..])).collect();
    assert_eq!(team.run(&[], &calls).0, [0, 0, depleted, depleted, depleted, depleted]);
    assert_eq!(team.sent.len(), 2);
}

#[test]
fn timers_fire_no_more_often_than_granted() {
    let house = house();
    let mut team = house.team_with(1, &[], |s| s.grant.min_timer_us = Some(10_000));
    let timers = std::iter::from_fn(|| Some(team.call("timer_set", &[0, 1, 7])).filter(|t| *t > 0)).count();
    assert_eq!(timers, 64);
    let mut fired = 0;
    for us in 0..1_000 {
        let now = Now { mono: Instant(us * 1000), wall: None };
        while let Some(event) = team.sandbox.due(now) {
            assert_eq!(team.sandbox.deliver(now, event).end, Ok(()));
            fired += 1;
        }
    }
    assert!((64..=64 * 101).contains(&fired), "{fired} in a second");
    // Setting one anew each time does not help: the first wait is bounded, too.
    let mut team = house.team_with(2, &[], |s| s.grant.min_timer_us = Some(10_000));
    let mut fired = 0;
    for ms in 0..100 {
        team.mono = ms * 1000;
        let timer = team.call("timer_set", &[1, 0, 7]);
        assert!(timer > 0);
        let now = Now { mono: Instant(team.mono), wall: None };
        fired += u32::from(team.sandbox.due(now).is_some());
        if fired == 0 {
            assert_eq!(team.call("timer_cancel", &[timer]), 0);
        }
    }
    assert_eq!(fired, 0);
}

/// Any calls with any arguments: nothing that the team was not given, no harm to others, all given back.
#[test]
fn no_sequence_of_calls_gets_anywhere() {
    let house = house();
    let mut victim = house.team(1, &["sensors", "node-key"]);
    let sensors = victim.lookup("sensors");
    let forbidden = ["sensor_list", "sensor_read", "key_sign", "key_public"];
    // Closing its session would make the puppet mute.
    let names: Vec<&str> = IMPORTS.iter().map(|s| s.name).filter(|n| *n != "session_close").collect();
    for seed in 0..40 {
        let mut random = Random::new(seed);
        // Every second one on a fiber.
        let mut team = house.team(2, if seed % 2 == 0 { &[] } else { &["background"] });
        let mut known: Vec<i64> =
            vec![0, 1, -1, 7, OWN, OUT, CAPSULE, FROM, 16, 32, 64, 1000, 65_535, 65_536, sensors];
        for _ in 0..60 {
            let calls: Vec<(&str, [i64; 8])> = (0..12)
                .map(|n| {
                    let args = std::array::from_fn(|_| match random.below(10) {
                        0 => random.number() as i32 as i64,
                        1 if n > 0 => result(random.below(n)),
                        _ => known[random.below(known.len())],
                    });
                    (names[random.below(names.len())], args)
                })
                .collect();
            let script: Vec<Call<'_>> = calls.iter().map(|(name, args)| (*name, &args[..])).collect();
            let results = if random.below(2) == 0 {
                team.run_capsule(&house, &script)
            } else {
                team.run(&[9; 64], &script).0
            };
            for ((name, args), r) in calls.iter().zip(&results) {
                assert!(!forbidden.contains(name) || *r < 0, "{name} {args:x?} gave {r}");
            }
            // Returns 2, sends 2, multicasts 2 to four, two derived that send once and derive two more.
            assert!(team.sent.len() <= 2 + 2 + 8 + 2 + 4, "{:?}", team.sent);
            assert!(team.sent.iter().all(|(to, kind)| *to < 4 && *kind < 3));
            known.extend(results.iter().filter(|r| **r > 0x8000));
            known.truncate(60);
            team.mono += 1000;
        }
        assert!(team.account.used() <= team.account.limit());
        assert_eq!(read(&mut victim, sensors), Ok(-5));
    }
    drop(victim);
    assert_eq!((house.memory.used(), house.shared.envelopes.len(), house.buffers.lent()), (0, 0, 0));
}

/// X. Wang, D. Feng, X. Lai, H. Yu, "Collisions for Hash Functions MD4, MD5, HAVAL-128 and RIPEMD", 2004.
const COLLISION: [&str; 2] = [
    "d131dd02c5e6eec4693d9a0698aff95c2fcab58712467eab4004583eb8fb7f8955ad340609f4b30283e488832571415a\
     085125e8f7cdc99fd91dbdf280373c5bd8823e3156348f5bae6dacd436c919c6dd53e2b487da03fd02396306d248cda0\
     e99f33420f577ee8ce54b67080a80d1ec69821bcb6a8839396f9652b6ff72a70",
    "d131dd02c5e6eec4693d9a0698aff95c2fcab50712467eab4004583eb8fb7f8955ad340609f4b30283e4888325f1415a\
     085125e8f7cdc99fd91dbd7280373c5bd8823e3156348f5bae6dacd436c919c6dd53e23487da03fd02396306d248cda0\
     e99f33420f577ee8ce54b67080280d1ec69821bcb6a8839396f965ab6ff72a70",
];

#[test]
fn colliding_parts_are_told_apart() {
    let parts = COLLISION.map(|hex| {
        let digit = |c: u8| char::from(c).to_digit(16).unwrap() as u8;
        hex.as_bytes().as_chunks::<2>().0.iter().map(|[a, b]| digit(*a) << 4 | digit(*b)).collect::<Vec<u8>>()
    });
    let named = parts.clone().map(|bytes| Part::of(&bytes).unwrap());
    assert_ne!(parts[0], parts[1]);
    assert_eq!((named[0].md5, named[0].len), (named[1].md5, named[1].len));
    assert_ne!(named[0].sha256, named[1].sha256);
    // Each flow reads the byte in which they differ of its own part.
    let handlers = r#"(data (i32.const 256) "map")
        (func (export "on_session") (param $c i32) (param $s i32) (param $what i32) (param $len i32)
            (drop (call $data_read (i32.const 256) (i32.const 3) (i32.const 19) (i32.const 512) (i32.const 1)))
            (drop (call $session_reply (local.get $s) (i32.const 512) (i32.const 1))))"#;
    for (name, at) in [("first", 0), ("second", 1)] {
        let mut world = World::line(1);
        let flow = flow(name, guest::module(handlers), |body| {
            body.protocols[0].data = vec![DataPart { name: "map".into(), part: named[at] }];
        });
        // The twin does not pass for the part: the flow waits for the one that its tuple names.
        world.put(0, &parts[1 - at]);
        let hash = match world.try_inject(0, &flow) {
            Answer::Injected(hash) => hash,
            Answer::Error(_) => flow.hash(),
            other => panic!("{other:?}"),
        };
        world.run(SECOND);
        assert_ne!(world.state(0, hash), Some(FlowState::Running), "{name} runs with the other's part");
        let false_name = Request::PartPut {
            part: named[at].sha256,
            total: named[at].len,
            offset: 0,
            bytes: parts[1 - at].clone(),
        };
        assert!(matches!(world.control(0, false_name), Answer::Error(_)));
        world.put(0, &parts[at]);
        world.start(0, &flow);
        let session = world.session(0, name);
        world.say(0, session, b"?");
        assert_eq!(world.heard(0, session).last(), Some(&vec![parts[at][19]]), "{name}");
    }
    assert_ne!(parts[0][19], parts[1][19]);
    // A tuple that names one with the other's SHA-256 is another tuple: the MD5 is not asked alone.
    let forged = Part { sha256: PartHash(named[1].sha256.0), ..named[0] };
    assert_eq!(forged, named[1]);
}

/// Two flows of one module: neither reaches the other's capsules, sessions or state.
#[test]
fn siblings_are_strangers() {
    let keeper = r#"
        (func (export "on_session") (param $c i32) (param $s i32) (param $what i32) (param $len i32)
            (if (i32.ne (local.get $what) (i32.const 1)) (then (return)))
            (drop (call $session_read (local.get $s) (i32.const 0) (i32.const 512) (i32.const 1)))
            (i32.store (i32.const 516) (call $cache_get (i32.const 512) (i32.const 1) (i32.const 520) (i32.const 4)))
            (drop (call $cache_put (i32.const 512) (i32.const 1) (i32.const 512) (i32.const 1) (i32.const 60000)))
            (drop (call $capsule_resize (local.get $c) (i32.const 1)))
            (drop (call $capsule_multicast (local.get $c) (call $cap_lookup (i32.const 64) (i32.const 12)) (i32.const 0)))
            (drop (call $session_reply (local.get $s) (i32.const 516) (i32.const 4))))
        (global $seen (mut i32) (i32.const 0))
        (func (export "on_capsule") (param i32 i32 i32 i32)
            (global.set $seen (i32.add (global.get $seen) (i32.const 1))))"#;
    let mut world = World::line(2);
    let flows =
        [1, 2].map(|nonce| flow(&format!("twin{nonce}"), guest::module(keeper), |b| b.nonce = [nonce; 16]));
    let hashes = flows.each_ref().map(|f| world.start(0, f));
    let sessions = ["twin1", "twin2"].map(|name| world.session(0, name));
    let said = |world: &mut World, at: usize| {
        world.say(0, sessions[at], b"k");
        world.run(SECOND);
        let heard = world.heard(0, sessions[at]).pop().unwrap();
        i32::from_le_bytes(heard.try_into().unwrap())
    };
    assert_eq!(said(&mut world, 0), Error::NotFound.code());
    assert_eq!(said(&mut world, 0), 1);
    assert_eq!(said(&mut world, 1), Error::NotFound.code(), "its sibling's soft state");
    let got = hashes.map(|hash| world.flow(1, hash).unwrap().capsules.0);
    assert_eq!(got, [2, 1]);
    let tuples = flows.map(|f| Tuple::decode(&f.tuple).unwrap());
    assert_eq!(tuples[0].main().code, tuples[1].main().code);
}
