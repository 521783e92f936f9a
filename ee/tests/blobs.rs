//! Blobs: what guests may do with them, what they cost, how long they live, and the identity in the store.

mod common;

use std::time::Duration;

use authagent::keys::{PublicKey, SigningKey};
use common::puppet::{Call, House, OUT, OWN, Puppet, flow, parse, script};
use common::{Options, WALL, World};
use ee::abi::{Error, rights};
use ee::node::SessionId;
use ee::sandbox::Shared;
use nodeos::store::{DiskError, SECTOR};
use wire::control::{Answer, AreaInfo, Request};
use wire::id::TupleHash;
use wire::statement::Proof;
use wire::tuple::Scheme;

const SECOND: Duration = Duration::from_secs(1);

fn code(error: Error) -> i64 {
    error.code().into()
}

fn put(team: &mut Puppet, cap: i64, name: &[u8], len: i64) -> i64 {
    team.run(name, &[("blob_put", &[cap, OWN, name.len() as i64, 0x9000, len])]).0[0]
}

#[test]
fn blobs_are_kept_read_listed_and_removed() {
    let house = House::new(Shared::default());
    let (mut team, mut other) = (house.team(1, &["blobs"]), house.team(2, &["blobs"]));
    let (cap, others) = (team.lookup("blobs"), other.lookup("blobs"));
    let own = b"bavalue";
    let calls: &[Call<'_>] = &[
        ("blob_put", &[cap, OWN, 1, OWN + 2, 5]),
        ("blob_put", &[cap, OWN + 1, 1, OWN + 2, 0]),
        ("blob_len", &[cap, OWN, 1]),
        ("blob_len", &[cap, OWN + 1, 1]),
        ("blob_get", &[cap, OWN, 1, 0, OUT, 100]),
        ("blob_get", &[cap, OWN, 1, 3, OUT + 8, 100]),
        ("blob_get", &[cap, OWN, 1, 5, OUT + 16, 100]),
        ("blob_get", &[cap, OWN, 1, 6, OUT, 100]),
        ("blob_list", &[cap, 0, OUT + 24, 10]),
        ("blob_list", &[cap, 1, OUT + 25, 10]),
        ("blob_list", &[cap, 2, OUT, 10]),
        ("blob_list", &[cap, -1, OUT, 10]),
        ("blob_remove", &[cap, OWN + 1, 1]),
        ("blob_remove", &[cap, OWN + 1, 1]),
        ("blob_len", &[cap, OWN + 1, 1]),
    ];
    let (results, seen) = team.run(own, calls);
    let none = code(Error::NotFound);
    assert_eq!(results, [0, 0, 5, 0, 5, 2, 0, code(Error::BadArgument), 1, 1, none, none, 0, none, none]);
    assert_eq!((&seen[..5], &seen[8..10], &seen[24..26]), (&b"value"[..], &b"ue"[..], &b"ab"[..]));
    assert_eq!(other.run(b"b", &[("blob_len", &[others, OWN, 1])]).0[0], none, "its own area");
}

#[test]
fn lies_about_names_and_bytes_are_refused() {
    let house = House::new(Shared::default());
    let mut team = house.team(1, &["blobs", "sensors"]);
    let cap = team.lookup("blobs");
    let before = team.account.used();
    assert_eq!(put(&mut team, cap, b"", 1), code(Error::BadArgument));
    assert_eq!(put(&mut team, cap, &[b'x'; 65], 1), code(Error::BadArgument));
    let bad = code(Error::BadPointer);
    for (ptr, len) in [(0, 65_537), (-1, 1), (0x40_0000, 1), (0, -1), (i64::from(u32::MAX), 2)] {
        assert_eq!(team.run(b"x", &[("blob_put", &[cap, OWN, 1, ptr, len])]).0[0], bad, "{ptr} {len}");
        assert_eq!(team.call("blob_put", &[cap, ptr, len, OWN, 1]), bad);
        assert_eq!(team.call("blob_len", &[cap, ptr, len]), bad);
        assert_eq!(team.call("blob_remove", &[cap, ptr, len]), bad);
        assert_eq!(team.call("blob_list", &[cap, 0, ptr, len]), bad);
    }
    for cap in [0, 1, -1, cap + 1, cap | 0x4000_0000, team.lookup("sensors"), team.lookup("neighborhood")] {
        for name in ["blob_put", "blob_get", "blob_len", "blob_list", "blob_remove"] {
            assert_eq!(team.run(b"x", &[(name, &[cap, OWN, 1, 0, 0, 0])]).0[0], code(Error::BadHandle));
        }
    }
    assert_eq!(team.account.used(), before);
    assert_eq!(put(&mut team, cap, &[b'x'; 64], 0x1_0000), 0, "the longest of both");
    assert_eq!(house.team(3, &[]).lookup("blobs"), code(Error::NotFound));
}

#[test]
fn rights_hold_and_envelopes_carry_no_area() {
    let house = House::new(Shared::default());
    let mut team = house.team(1, &["blobs"]);
    let cap = team.lookup("blobs");
    let reader = team.call("cap_duplicate", &[cap, rights::READ.into()]);
    let writer = team.call("cap_duplicate", &[cap, rights::USE.into()]);
    let denied = code(Error::NotPermitted);
    let calls: &[Call<'_>] = &[
        ("blob_put", &[reader, OWN, 1, OWN, 1]),
        ("blob_put", &[writer, OWN, 1, OWN, 1]),
        ("blob_get", &[writer, OWN, 1, 0, OUT, 1]),
        ("blob_len", &[writer, OWN, 1]),
        ("blob_list", &[writer, 0, OUT, 1]),
        ("blob_get", &[reader, OWN, 1, 0, OUT, 1]),
        ("blob_remove", &[reader, OWN, 1]),
        ("blob_remove", &[writer, OWN, 1]),
        ("envelope_make", &[cap, OWN, 0, OUT]),
    ];
    let expected = [denied, 0, denied, denied, denied, 1, denied, 0, code(Error::BadArgument)];
    assert_eq!(team.run(b"x", calls).0, expected);
    assert_eq!(team.call("cap_revoke", &[cap]), 0);
    for gone in [cap, reader, writer] {
        assert_eq!(put(&mut team, gone, b"x", 1), code(Error::BadHandle));
    }
    let again = team.lookup("blobs");
    assert_eq!(put(&mut team, again, b"x", 1), 0);
}

/// The operator's envelope gives the privilege: over the opener's own area.
#[test]
fn an_operators_envelope_opens_the_openers_area() {
    let (node, owner) = (SigningKey::from_seed(&[7; 32]), SigningKey::from_seed(&[8; 32]));
    let shared = Shared { key: Some(std::sync::Arc::new(node.clone())), ..Shared::default() };
    shared.envelopes.keep([5; 16], "blobs", PublicKey::from(owner.public()), None).unwrap();
    let house = House::new(shared);
    let (mut rich, mut poor) = (house.team(1, &["blobs"]), house.team(2, &[]));
    let cap = rich.lookup("blobs");
    assert_eq!(put(&mut rich, cap, b"x", 10), 0);
    let expiry = WALL + 100;
    let signed = Proof::statement(&node.public().to_bytes(), &[5; 16], &TupleHash([2; 32]), expiry);
    let proof = Proof { expiry, scheme: Scheme::Ed25519, signature: owner.sign(&signed).to_vec() }.encode();
    let own = [&[5; 16][..], &proof].concat();
    let opened = poor.run(&own, &[("envelope_open", &[OWN, 0, OWN + 16, proof.len() as i64])]).0[0];
    assert!(opened > 0, "{opened}");
    assert_eq!(poor.run(b"x", &[("blob_len", &[opened, OWN, 1])]).0[0], code(Error::NotFound));
    assert_eq!(put(&mut poor, opened, b"x", 20), 0);
    assert_eq!(poor.call("envelope_make", &[opened, OWN, 0, OUT]), code(Error::BadArgument));
    assert_eq!(rich.run(b"x", &[("blob_len", &[cap, OWN, 1])]).0[0], 10);
}

/// A session with the puppet on a real node.
fn say(world: &mut World, session: SessionId, own: &[u8], calls: &[Call<'_>]) -> (Vec<i64>, Vec<u8>) {
    world.say(0, session, &script(own, calls));
    world.run(Duration::from_millis(5));
    let packet = world.heard(0, session).pop().expect("the puppet answers");
    let (results, seen) = parse(&packet);
    (results[..calls.len()].to_vec(), seen.to_vec())
}

fn lookup(world: &mut World, session: SessionId) -> i64 {
    say(world, session, b"blobs", &[("cap_lookup", &[OWN, 5])]).0[0]
}

fn areas(world: &mut World) -> Vec<AreaInfo> {
    match world.control(0, Request::BlobShow { from: 0 }) {
        Answer::Blobs { areas, .. } => areas.items,
        other => panic!("{other:?}"),
    }
}

fn world(disk: usize) -> World {
    let node = "identity = \"0101010101010101010101010101010101010101010101010101010101010101\"";
    World::line_with(1, Options { node, disk, ..Options::default() })
}

/// Puts under the names 0, 1, 2... until one is refused: how many, and why the next was not.
fn fill(world: &mut World, session: SessionId, cap: i64, len: i64) -> (u8, i64) {
    for n in 0..=255 {
        let answer = say(world, session, &[n], &[("blob_put", &[cap, OWN, 1, 0, len])]).0[0];
        if answer != 0 {
            return (n, answer);
        }
    }
    panic!("there is no end of it")
}

#[test]
fn full_is_full_and_the_end_gives_every_byte_back() {
    for (disk, len, many, why) in [
        // The team's memory; the flow's count; the disk: three eighths of it, less the superblocks.
        (0, 60_000, 10..17, Error::NoMemory),
        (1 << 20, 60_000, 6..7, Error::NoRoom),
        (1 << 20, 100, 64..65, Error::NoRoom),
        (1 << 16, 10_000, 1..3, Error::NoRoom),
    ] {
        let mut world = world(disk);
        let empty = world.holds(0);
        let flow = flow(&["blobs"]);
        for kill in [true, false] {
            let hash = world.start(0, &flow);
            let session = world.session(0, "puppet");
            let cap = lookup(&mut world, session);
            let used = world.teams(0)[1].memory.0;
            let (n, error) = fill(&mut world, session, cap, len);
            assert_eq!(error, code(why), "{disk} {len}: {n}");
            assert!(many.contains(&n), "{disk} {len}: {n}");
            world.run(SECOND);
            let shown = areas(&mut world);
            assert_eq!((shown.len(), shown[0].owner, shown[0].flow.as_deref()), (1, hash, Some("puppet")));
            assert_eq!((shown[0].claimed, shown[0].blobs.len()), (true, usize::from(n)));
            // To the byte: what the area is charged is what the team has more than before.
            assert_eq!(world.teams(0)[1].memory.0 - used, shown[0].charged);
            let removed = say(&mut world, session, &[0], &[("blob_remove", &[cap, OWN, 1])]).0[0];
            assert_eq!(removed, 0);
            // In the middle of a write.
            say(&mut world, session, &[0], &[("blob_put", &[cap, OWN, 1, 0, len])]);
            assert_eq!(world.stop(0, hash, kill), Answer::Done);
            world.run(Duration::from_millis(1));
            assert_eq!(world.holds(0), empty);
            world.run(SECOND);
            assert_eq!((world.holds(0), areas(&mut world)), (empty, vec![]));
        }
    }
}

#[test]
fn blobs_outlive_the_node_but_not_the_flow() {
    let mut world = world(1 << 20);
    let empty = world.info(0).memory.0;
    let flow = flow(&["blobs"]);
    let hash = world.start(0, &flow);
    let session = world.session(0, "puppet");
    let cap = lookup(&mut world, session);
    let answer = say(&mut world, session, b"kept!", &[("blob_put", &[cap, OWN, 4, OWN + 4, 1])]);
    assert_eq!(answer.0, [0]);
    world.run(SECOND);
    // This one does not reach the disk.
    world.compile_us = 10_000_000;
    say(&mut world, session, b"lost!", &[("blob_put", &[cap, OWN, 4, OWN + 4, 1])]);
    world.reboot(0);
    world.compile_us = 3000;
    let shown = areas(&mut world);
    assert_eq!((shown.len(), shown[0].owner, shown[0].claimed, &shown[0].flow), (1, hash, false, &None));
    assert_eq!(world.info(0).memory.0, empty + shown[0].charged, "the node pays");
    world.start(0, &flow);
    let shown = areas(&mut world);
    assert!(shown[0].claimed);
    let session = world.session(0, "puppet");
    let cap = lookup(&mut world, session);
    let calls: &[Call<'_>] = &[
        ("blob_get", &[cap, OWN, 4, 0, OUT, 9]),
        ("blob_list", &[cap, 0, OUT + 8, 9]),
        ("blob_list", &[cap, 1, OUT + 8, 9]),
    ];
    let (results, seen) = say(&mut world, session, b"kept", calls);
    assert_eq!(results, [1, 4, code(Error::NotFound)]);
    assert_eq!((seen[0], &seen[8..12]), (b'!', &b"kept"[..]));
    // The team pays now; with its end the area is gone, on the disk, too.
    assert!(world.teams(0)[1].memory.0 > shown[0].charged);
    world.stop(0, hash, true);
    world.run(SECOND);
    assert_eq!((areas(&mut world), world.info(0).memory.0), (vec![], empty));
    world.reboot(0);
    assert_eq!(areas(&mut world), vec![]);
}

#[test]
fn without_a_disk_blobs_end_with_the_node() {
    let mut world = world(0);
    world.start(0, &flow(&["blobs"]));
    let session = world.session(0, "puppet");
    let cap = lookup(&mut world, session);
    say(&mut world, session, b"x", &[("blob_put", &[cap, OWN, 1, OWN, 1])]);
    assert_eq!(areas(&mut world).len(), 1);
    world.reboot(0);
    assert_eq!(areas(&mut world), vec![]);
}

#[test]
fn an_operator_sees_and_removes_but_not_everybody() {
    let mut world = world(1 << 20);
    let hash = world.start(0, &flow(&["blobs"]));
    let session = world.session(0, "puppet");
    let cap = lookup(&mut world, session);
    for name in [b"a", b"b"] {
        say(&mut world, session, name, &[("blob_put", &[cap, OWN, 1, 0, 100])]);
    }
    let remove = |area, name: Option<&[u8]>| Request::BlobRemove { area, name: name.map(Into::into) };
    let now = world.time();
    for request in [Request::BlobShow { from: 0 }, remove(hash, None), remove(TupleHash([0; 32]), None)] {
        let answer = world.stations[0].node.control(now, "eve", request);
        assert!(matches!(&answer, Answer::Error(e) if e.text.contains("has no right")), "{answer:?}");
    }
    assert_eq!(world.control(0, remove(hash, Some(b"a"))), Answer::Done);
    assert!(matches!(world.control(0, remove(hash, Some(b"a"))), Answer::Error(_)));
    assert_eq!(areas(&mut world)[0].blobs.iter().map(|b| b.name[0]).collect::<Vec<_>>(), [b'b']);
    assert_eq!(world.control(0, remove(hash, None)), Answer::Done);
    assert_eq!(areas(&mut world), vec![]);
    assert_eq!(say(&mut world, session, b"b", &[("blob_len", &[cap, OWN, 1])]).0[0], code(Error::NotFound));
}

#[test]
fn an_identity_is_made_once_and_kept() {
    let identity = |world: &mut World| world.info(0).identity;
    let said = |world: &mut World, what: &str| world.log(0).iter().any(|l| l.contains(what));
    // A node shows its identity where control clients may ask for it.
    let more = "[control]\nadmin = \"d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a\"";
    let mut kept = World::line_with(1, Options { disk: 1 << 16, more, ..Options::default() });
    assert!(said(&mut kept, "is new, and kept in the store"));
    let first = identity(&mut kept);
    assert_ne!(first, [0; 32]);
    for _ in 0..3 {
        kept.run(SECOND);
        kept.reboot(0);
        assert_eq!(identity(&mut kept), first);
        assert!(said(&mut kept, "is the store's"));
    }
    assert_eq!(areas(&mut kept)[0].owner, TupleHash([0; 32]));
    // Without a disk it is another one each time; one in the configuration wins, and is not kept.
    let mut lost = World::line_with(1, Options { more, ..Options::default() });
    let first = identity(&mut lost);
    lost.reboot(0);
    assert_ne!(identity(&mut lost), first);
    let node = "identity = \"0101010101010101010101010101010101010101010101010101010101010101\"";
    let mut given = World::line_with(1, Options { node, more, disk: 1 << 16, ..Options::default() });
    given.run(SECOND);
    assert_eq!(
        (identity(&mut given), areas(&mut given)),
        (SigningKey::from_seed(&[1; 32]).public().to_bytes(), vec![])
    );
}

#[test]
fn a_damaged_disk_starts_and_is_told() {
    let mut world = World::line_with(1, Options { disk: 1 << 16, ..Options::default() });
    world.run(SECOND);
    world.start(0, &flow(&["blobs"]));
    let session = world.session(0, "puppet");
    let cap = lookup(&mut world, session);
    for name in [b"a", b"b", b"c"] {
        say(&mut world, session, name, &[("blob_put", &[cap, OWN, 1, 0, 1000])]);
        world.run(SECOND);
    }
    let disk = world.stations[0].disk.clone().unwrap();
    let first_half = 16;
    let mut image = vec![0; disk.lock().unwrap().sectors() as usize * SECTOR];
    disk.lock().unwrap().read(0, &mut image).unwrap();
    let records: Vec<u64> =
        (first_half..128).filter(|s| image[*s as usize * SECTOR..].starts_with(b"BEESBLOB")).collect();
    // The identity, then a, b and c: b is damaged.
    assert_eq!(records.len(), 4);
    disk.lock().unwrap().write(records[2], &[0xff; SECTOR]).unwrap();
    world.reboot(0);
    let shown = areas(&mut world);
    assert_eq!((shown.len(), shown[1].blobs.len()), (2, 2));
    assert_eq!(world.count(0, "store_damaged_records"), 1);
    assert!(world.log(0).iter().any(|l| l.contains("1 changes are damaged")), "{:?}", world.log(0));
    // Nothing left of it: the node starts, says so, and leaves the disk as it is.
    disk.lock().unwrap().write(0, &[0x5a; 16 * SECTOR]).unwrap();
    world.reboot(0);
    assert_eq!(world.count(0, "store_device_errors"), 1);
    let log = world.log(0);
    assert!(log.iter().any(|l| l.contains("the disk is not used") && l.contains("left as it is")), "{log:?}");
    world.start(0, &flow(&["blobs"]));
    let session = world.session(0, "puppet");
    let cap = lookup(&mut world, session);
    assert_eq!(say(&mut world, session, b"x", &[("blob_put", &[cap, OWN, 1, OWN, 1])]).0, [0], "in memory");
    world.run(SECOND);
    let mut head = [0; 16 * SECTOR];
    disk.lock().unwrap().read(0, &mut head).unwrap();
    assert_eq!(head, [0x5a; 16 * SECTOR]);
}

/// A disk that takes nothing.
struct Broken;

impl nodeos::store::Disk for Broken {
    fn sectors(&self) -> u64 {
        1000
    }
    fn read(&mut self, _: u64, into: &mut [u8]) -> Result<(), DiskError> {
        into.fill(0);
        Ok(())
    }
    fn write(&mut self, _: u64, _: &[u8]) -> Result<(), DiskError> {
        Err(DiskError::new("broken"))
    }
    fn flush(&mut self) -> Result<(), DiskError> {
        Ok(())
    }
}

#[test]
fn a_broken_disk_is_given_up_and_the_node_goes_on() {
    let mut world = world(0);
    world.stations[0].disk = Some(std::sync::Arc::new(std::sync::Mutex::new(Broken)));
    world.reboot(0);
    world.start(0, &flow(&["blobs"]));
    let session = world.session(0, "puppet");
    let cap = lookup(&mut world, session);
    assert_eq!(say(&mut world, session, b"x", &[("blob_put", &[cap, OWN, 1, OWN, 1])]).0, [0]);
    world.run(SECOND);
    assert_eq!(world.count(0, "store_device_errors"), 3);
    assert!(world.log(0).iter().any(|l| l.contains("in memory only")), "{:?}", world.log(0));
    let calls: &[Call<'_>] =
        &[("blob_get", &[cap, OWN, 1, 0, OUT, 1]), ("blob_put", &[cap, OWN + 1, 1, OWN, 1])];
    assert_eq!(say(&mut world, session, b"xy", calls).0, [1, 0]);
}
