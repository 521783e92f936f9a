//! Versions that are swapped under load in labs as their users run them: QEMU nodes (`qemu_`) and hosted ones
//! (`hosted_`). A program sends numbers at one end of a line all the time; each comes to the other end once.

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{BEES, Lab};
use serde_json::Value;
use wire::describe::{Description, SECTION};
use wire::limits::{Limits, Operation};
use wire::tuple::{CapsuleType, Events};

/// Passes each number of four digits on, away from where it came from; counts those that it sees for the first time
/// and again. To `?` it answers with both and its VERSION, as text. It hands over what it has seen.
const RELAY: &str = r#"(module
    (import "bees" "capsule_resize" (func $capsule_resize (param i32 i32) (result i32)))
    (import "bees" "capsule_write" (func $capsule_write (param i32 i32 i32 i32) (result i32)))
    (import "bees" "capsule_multicast" (func $capsule_multicast (param i32 i32 i32) (result i32)))
    (import "bees" "cap_lookup" (func $cap_lookup (param i32 i32) (result i32)))
    (import "bees" "session_reply" (func $session_reply (param i32 i32 i32) (result i32)))
    (import "bees" "handover_write" (func $handover_write (param i32 i32) (result i32)))
    (import "bees" "handover_read" (func $handover_read (param i32 i32 i32) (result i32)))
    (memory (export "memory") 1 1)
    (func (export "bees_abi_1"))
    (global (export "bees_inbox") i32 (i32.const 0))
    (data (i32.const 64) "neighborhood")
    (data (i32.const 128) "0000 new, 0000 again, version VERSION")
    (func $digits (param $n i32) (param $at i32) (local $i i32)
        (local.set $i (i32.const 4))
        (loop $more
            (local.set $i (i32.sub (local.get $i) (i32.const 1)))
            (i32.store8 (i32.add (local.get $at) (local.get $i))
                (i32.add (i32.const 48) (i32.rem_u (local.get $n) (i32.const 10))))
            (local.set $n (i32.div_u (local.get $n) (i32.const 10)))
            (br_if $more (local.get $i))))
    (func $number (result i32) (local $n i32) (local $i i32)
        (loop $more
            (local.set $n (i32.add (i32.mul (local.get $n) (i32.const 10))
                (i32.sub (i32.load8_u (local.get $i)) (i32.const 48))))
            (local.set $i (i32.add (local.get $i) (i32.const 1)))
            (br_if $more (i32.lt_u (local.get $i) (i32.const 4))))
        (i32.and (local.get $n) (i32.const 0x3fff)))
    (func $seen (param $n i32) (result i32) (local $at i32) (local $bit i32)
        (local.set $at (i32.add (i32.const 2048) (i32.shr_u (local.get $n) (i32.const 3))))
        (local.set $bit (i32.shl (i32.const 1) (i32.and (local.get $n) (i32.const 7))))
        (if (i32.and (i32.load8_u (local.get $at)) (local.get $bit)) (then
            (i32.store (i32.const 1028) (i32.add (i32.load (i32.const 1028)) (i32.const 1)))
            (return (i32.const 1))))
        (i32.store8 (local.get $at) (i32.or (i32.load8_u (local.get $at)) (local.get $bit)))
        (i32.store (i32.const 1024) (i32.add (i32.load (i32.const 1024)) (i32.const 1)))
        (i32.const 0))
    (func $pass (param $c i32) (param $flags i32)
        (if (call $seen (call $number)) (then (return)))
        (drop (call $capsule_resize (local.get $c) (i32.const 4)))
        (drop (call $capsule_write (local.get $c) (i32.const 0) (i32.const 0) (i32.const 4)))
        (drop (call $capsule_multicast (local.get $c) (call $cap_lookup (i32.const 64) (i32.const 12)) (local.get $flags))))
    (func (export "on_capsule") (param $c i32) (param $kind i32) (param $len i32) (param $from i32)
        (call $pass (local.get $c) (i32.const 2)))
    (func (export "on_session") (param $c i32) (param $s i32) (param $what i32) (param $len i32)
        (if (i32.ne (local.get $what) (i32.const 1)) (then (return)))
        (if (i32.eq (local.get $len) (i32.const 4)) (then (call $pass (local.get $c) (i32.const 0)) (return)))
        (call $digits (i32.load (i32.const 1024)) (i32.const 128))
        (call $digits (i32.load (i32.const 1028)) (i32.const 138))
        (drop (call $session_reply (local.get $s) (i32.const 128) (i32.const 31))))
    (func (export "on_handover") (result i32) (call $handover_write (i32.const 1024) (i32.const 3072)))
    (func (export "on_takeover") (param $c i32) (param $len i32) (result i32)
        (i32.ne (call $handover_read (i32.const 0) (i32.const 1024) (i32.const 3072)) (i32.const 3072))))"#;

/// A version's module, with its description.
fn module(lab: &Lab, version: u32) -> PathBuf {
    let mut bytes = wat::parse_str(RELAY.replace("VERSION", &version.to_string())).unwrap();
    let kind = CapsuleType {
        name: "Number".into(),
        limits: Limits::NONE.with(Operation::Multicasts, 1),
        derives: vec![],
    };
    let description = Description {
        name: "relay".into(),
        capsules: vec![kind],
        events: Events { session: Some(0), ..Events::default() },
        session: true,
        params: vec![],
        companions: vec![],
    };
    // A custom section: 0, its length, the length of its name and the name, the contents; all of them short.
    let contents = description.encode();
    bytes.extend([0, (1 + SECTION.len() + contents.len()) as u8, SECTION.len() as u8]);
    bytes.extend(SECTION.as_bytes());
    bytes.extend(&contents);
    assert!(1 + SECTION.len() + contents.len() < 128);
    let path = lab.folder.join(format!("relay{version}.wasm"));
    fs::write(&path, bytes).unwrap();
    path
}

fn flow(lab: &Lab, node: &str, what: impl Fn(&Value) -> bool) -> Option<Value> {
    let flows = lab.json(&["-n", node, "flow", "show"]);
    flows.as_array().unwrap().iter().find(|f| f["name"] == "relay" && what(f)).cloned()
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(120);
    while !is_so() {
        assert!(Instant::now() < end, "{what} takes too long");
        std::thread::sleep(Duration::from_millis(300));
    }
}

fn swaps_under_load(on: &str) {
    let lab = Lab::deploy("line3.toml", on);
    let [one, two] = [1, 2].map(|version| module(&lab, version));
    lab.bees(&["-n", "a", "flow", "inject", one.to_str().unwrap(), "--patience", "60"]);
    let mut program = Command::new(BEES)
        .args(["-n", "a", "session", "relay", "--wait", "5"])
        .current_dir(&lab.folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = program.stdin.take().unwrap();
    writeln!(input, "0000").unwrap();
    input.flush().unwrap();
    let is_running =
        |node: &str, hash: &str| flow(&lab, node, |f| f["state"] == "running" && f["hash"] == hash).is_some();
    let first = flow(&lab, "a", |_| true).unwrap()["hash"].as_str().unwrap().to_string();
    until("the way of the first number", || ["b", "c"].iter().all(|node| is_running(node, &first)));

    let enough = Arc::new(AtomicBool::new(false));
    let done = enough.clone();
    // While a version arrives at the next node, at most 32 capsules wait for it there; an emulated processor compiles slowly.
    let pause = Duration::from_millis(if on == "qemu" { 40 } else { 8 });
    let load = std::thread::spawn(move || {
        let mut sent = 1;
        while !done.load(Ordering::Relaxed) && sent < 9999 {
            writeln!(input, "{sent:04}").unwrap();
            input.flush().unwrap();
            sent += 1;
            std::thread::sleep(pause);
        }
        // A question behind all of them.
        writeln!(input, "?").unwrap();
        sent
    });
    let replace = |old: &str, module: &PathBuf| {
        let module = module.to_str().unwrap();
        let new = lab.bees(&["-n", "a", "flow", "replace", old, module, "--patience", "60"]);
        let new = new.trim().to_string();
        until("the new version's way", || ["a", "b", "c"].iter().all(|node| is_running(node, &new)));
        std::thread::sleep(Duration::from_millis(500));
        new
    };
    let second = replace(&first, &two);
    // Back to the module of the first version.
    let third = replace(&second, &one);
    enough.store(true, Ordering::Relaxed);
    let sent = load.join().unwrap();
    let answered: Vec<String> =
        BufReader::new(program.stdout.take().unwrap()).lines().map(Result::unwrap).collect();
    assert!(program.wait().unwrap().success());
    // One session all the time.
    assert_eq!(answered, [format!("{sent:04} new, 0000 again, version 1")]);
    for node in ["b", "c"] {
        let all = format!("{sent:04} new, 0000 again, version 1\n");
        assert_eq!(lab.bees(&["-n", node, "session", "relay", "--until", "0", "--", "?"]), all, "{node}");
        let shown = flow(&lab, node, |f| f["hash"] == *third).unwrap();
        assert_eq!(shown["replaces"]["flow"], *second, "{shown}");
        assert_eq!(shown["replaces"]["here"], true, "{shown}");
        let before = flow(&lab, node, |f| f["hash"] == *first).unwrap();
        assert_eq!((&before["state"], &before["replaced_by"]), (&"ended".into(), &(*second).into()));
        let counters = lab.json(&["-n", node, "node", "show"])["counters"].clone();
        assert_eq!(counters["flows_replaced"], 2, "{counters}");
    }
}

#[test]
fn hosted_versions_are_swapped_under_load() {
    swaps_under_load("hosted");
}

#[test]
fn qemu_versions_are_swapped_under_load() {
    swaps_under_load("qemu");
}
