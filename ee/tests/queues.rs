//! What a guest is told of waiting: its event's, and, with the privilege, the frames' of all flows.

mod common;

use std::time::Duration;

use common::puppet::{self, CAPSULE, OWN, result};
use common::{Options, World};
use ee::abi::{Error, flags};

const SECOND: Duration = Duration::from_secs(1);

/// The results of a script that begins by looking up "queues", "neighbor/b" and "neighborhood".
fn run(world: &mut World, calls: &[(&str, &[i64])]) -> Vec<i64> {
    let session = world.session(0, "puppet");
    let own = b"queuesneighbor/bneighborhood";
    let mut all: Vec<(&str, &[i64])> =
        vec![("cap_lookup", &[OWN, 6]), ("cap_lookup", &[OWN + 6, 10]), ("cap_lookup", &[OWN + 16, 12])];
    all.extend(calls);
    world.say(0, session, &puppet::script(own, &all));
    world.run(SECOND / 1000);
    let heard = world.heard(0, session);
    puppet::parse(&heard[0]).0[..all.len()].to_vec()
}

#[test]
fn what_waits_for_a_link_is_seen_with_the_privilege() {
    let slow = Options { link: "rate = \"80kbit\"", ..Options::default() };
    let mut world = World::line_with(2, slow);
    world.start(0, &puppet::flow(&["queues"]));
    let waiting: (&str, &[i64]) = ("link_waiting", &[result(0), result(1)]);
    assert_eq!(run(&mut world, &[waiting])[3], 0);
    let keep = i64::from(flags::KEEP);
    let send: (&str, &[i64]) = ("capsule_multicast", &[CAPSULE, result(2), keep]);
    // What an event sends waits from its end on.
    let sent = run(&mut world, &[("capsule_resize", &[CAPSULE, 1000]), send, send, send, waiting]);
    assert_eq!(sent[4..], [1, 1, 1, 0]);
    let before = run(&mut world, &[waiting])[3];
    assert!((1..=3).contains(&before), "{before}");
    // The neighbor fetches the flow by the same link.
    world.run(60 * SECOND);
    assert_eq!(run(&mut world, &[waiting])[3], 0);
    // Other capabilities open nothing.
    let bad = i64::from(Error::BadHandle.code());
    let wrong = run(
        &mut world,
        &[
            ("link_waiting", &[result(2), result(1)]),
            ("link_waiting", &[result(0), result(2)]),
            ("link_waiting", &[12345, result(1)]),
            ("link_waiting", &[result(0), 0]),
        ],
    );
    assert_eq!(wrong[3..], [bad; 4]);
}

#[test]
fn without_the_privilege_nothing_is_seen() {
    let mut world = World::line(2);
    world.start(0, &puppet::flow(&[]));
    let results = run(&mut world, &[("link_waiting", &[result(0), result(1)])]);
    assert_eq!(results[0], i64::from(Error::NotFound.code()));
    assert_eq!(results[3], i64::from(Error::BadHandle.code()));
}

#[test]
fn an_event_knows_when_it_came() {
    let mut world = World::line(1);
    world.start(0, &puppet::flow(&[]));
    for _ in 0..3 {
        world.run(SECOND);
        let results = run(&mut world, &[("event_since", &[]), ("clock_mono", &[])]);
        let (since, now) = (results[3], results[4]);
        assert!(since > 0 && (0..1000).contains(&(now - since)), "{since} {now}");
    }
}
