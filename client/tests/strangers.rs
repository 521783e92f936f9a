//! A lab of three nodes that know nobody at the start: they find each other, and relay what a program wants, on QEMU nodes
//! (`qemu_`) and on hosted ones (`hosted_`), as `client/tests/labs.rs`.

mod common;

use std::time::{Duration, Instant};

use common::{Lab, root};
use serde_json::Value;

/// How long the nodes may need: some adverts, and a handshake on an emulated processor.
const PATIENCE: Duration = Duration::from_secs(60);

/// A table of a node, as soon as it has so many rows.
fn rows(lab: &Lab, node: &str, verb: &str, count: usize) -> Vec<Value> {
    let start = Instant::now();
    loop {
        let table = lab.json(&["-n", node, "neighbor", verb]);
        let rows = table.as_array().expect("a table");
        if rows.len() == count {
            return rows.clone();
        }
        assert!(start.elapsed() < PATIENCE, "{node}: {table}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn strangers_relay(on: &str, readable: bool) {
    let lab = match readable {
        true => Lab::deploy_readable("strangers3.toml", on),
        false => Lab::deploy("strangers3.toml", on),
    };
    // In the clear nobody vouches for a name.
    let (mark, protection) = if readable { ("~", "none") } else { ("", "protected") };
    for (node, others) in [("a", &["b"][..]), ("b", &["a", "c"]), ("c", &["b"])] {
        let start = Instant::now();
        let is_there = |row: &Value| row["protection"] == protection && row["discovered"] == true;
        while !rows(&lab, node, "show", others.len()).iter().all(is_there) {
            assert!(start.elapsed() < PATIENCE, "{node} does not find its neighbors");
            std::thread::sleep(Duration::from_millis(200));
        }
        let mut names: Vec<String> = rows(&lab, node, "show", others.len())
            .iter()
            .map(|row| row["name"].as_str().unwrap().into())
            .collect();
        names.sort();
        assert_eq!(names, others.iter().map(|name| format!("{mark}{name}")).collect::<Vec<_>>());
    }
    // By hearsay the ends know of each other.
    let mut known = rows(&lab, "a", "known", 2);
    known.sort_by_key(|row| row["hops"].as_u64());
    assert_eq!((known[1]["name"].as_str(), known[1]["hops"].as_u64()), (Some("c"), Some(2)));

    let ping = root().join("target/capsules/ping.wasm");
    lab.bees(&["-n", "a", "flow", "inject", ping.to_str().unwrap(), "--patience", "60"]);
    let request = "ping c count 5 interval 200 timeout 30000";
    let replies = lab.bees(&["-n", "a", "session", "ping", "--wait", "60", "--until", "done", "--", request]);
    assert!(replies.contains("5 sent, 5 received, 0% loss"), "{replies}");
    assert!(replies.contains("from c: seq=5 hops=2"), "{replies}");
}

#[test]
fn hosted_strangers_relay() {
    strangers_relay("hosted", true);
}

#[test]
fn hosted_strangers_who_know_keys_relay() {
    strangers_relay("hosted", false);
}

#[test]
fn qemu_strangers_who_know_keys_relay() {
    strangers_relay("qemu", false);
}
