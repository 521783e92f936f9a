//! A simulated node's disk outlives its crash.

mod common;

use std::time::Duration;

use common::{guest, real};
use sim::lab::Lab;
use sim::{Options, Sim};
use wire::tuple::Privilege;

const SECOND: Duration = Duration::from_secs(1);

/// Answers each packet with the one before, out of a blob.
const BEFORE: &str = r#"
    (data (i32.const 80) "blobs")
    (func (export "on_session") (param $c i32) (param $s i32) (param $what i32) (param $len i32) (local $cap i32) (local $n i32)
        (if (i32.ne (local.get $what) (i32.const 1)) (then (return)))
        (local.set $cap (call $cap_lookup (i32.const 80) (i32.const 5)))
        (local.set $n (call $blob_get (local.get $cap) (i32.const 80) (i32.const 5) (i32.const 0) (i32.const 256) (i32.const 64)))
        (drop (call $blob_put (local.get $cap) (i32.const 80) (i32.const 5)
            (i32.const 512) (call $session_read (local.get $s) (i32.const 0) (i32.const 512) (i32.const 64))))
        (if (i32.lt_s (local.get $n) (i32.const 0)) (then (local.set $n (i32.const 0))))
        (drop (call $session_reply (local.get $s) (i32.const 256) (local.get $n))))"#;

#[test]
fn what_was_kept_is_there_after_a_crash() {
    let mut lab = Lab::line(2);
    lab.nodes[0].disk = Some(64 << 10);
    let mut sim = Sim::new(&lab, 1, Options { keep_log: true, ..Options::default() }).unwrap();
    let flow = guest::flow("before", guest::module(BEFORE), |body| {
        body.request.privileges = vec![Privilege { name: "blobs".into(), optional: false }];
    });
    for (at, expected) in [(0, "first"), (1, "")] {
        let say = |sim: &mut Sim, word: &str| {
            let hash = sim.inject(at, &flow.tuple, &[&flow.module]).unwrap();
            let session = real::open(sim, at, &hash);
            sim.send(session, word.as_bytes()).unwrap();
            sim.run_for(SECOND);
            real::lines(sim, session).concat()
        };
        assert_eq!(say(&mut sim, "first"), "");
        sim.crash(at);
        sim.restart(at).unwrap();
        assert_eq!(say(&mut sim, "second"), expected, "with the disk, and without");
    }
    let log = sim.take_log();
    let opened = |l: &&(usize, wire::control::LogEntry)| l.1.text == "store: the disk has 1 blobs in 1 areas";
    assert_eq!(log.iter().filter(opened).map(|l| l.0).collect::<Vec<_>>(), [0]);
}
