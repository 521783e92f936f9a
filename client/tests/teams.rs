//! The teams of a running node as its operator sees and bounds them: `bees team`, `bees top`, and the metrics.

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use common::{Lab, root};
use serde_json::Value;

/// A scrape's samples: name, labels, value.
fn scrape(port: u64) -> Vec<(String, String, f64)> {
    let mut stream = TcpStream::connect(("127.0.0.1", u16::try_from(port).unwrap())).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: node\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    body.lines().filter(|line| !line.starts_with('#')).map(sample).collect()
}

/// One line of the exposition format, taken apart.
fn sample(line: &str) -> (String, String, f64) {
    let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line}"));
    let (name, labels) = match name.split_once('{') {
        Some((name, labels)) => (name, labels.strip_suffix('}').expect("labels end")),
        None => (name, ""),
    };
    assert!(name.starts_with("bees_"), "{line}");
    assert!(name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'), "{line}");
    let value = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
    (name.into(), labels.into(), value)
}

fn team<'a>(teams: &'a Value, name: &str) -> &'a Value {
    let all = teams.as_array().expect("teams are a list");
    all.iter().find(|t| t["name"] == name).unwrap_or_else(|| panic!("no team {name}: {teams}"))
}

fn teams_are_seen_and_bounded(on: &str) {
    let lab = Lab::deploy("line3.toml", on);
    let ping = root().join("target/capsules/ping.wasm");
    lab.bees(&["-n", "a", "flow", "inject", ping.to_str().unwrap(), "--patience", "60"]);
    let request = "ping c count 5 interval 100 timeout 30000";
    lab.bees(&["-n", "a", "session", "ping", "--wait", "60", "--until", "done", "--", request]);

    // The tree, and every budget.
    let teams = lab.json(&["-n", "b", "team", "show"]);
    let shown = team(&teams, "ping");
    assert_eq!(shown["parent"], team(&teams, "root")["id"]);
    assert!(shown["start_us"].as_u64() > Some(0) && shown["serve_us"].as_u64() > Some(0), "{shown}");
    assert!(shown["budgets"]["memory"]["used"].as_u64() > Some(64 << 10), "{shown}");
    assert!(shown["budgets"]["compile"]["used"].as_u64() > Some(0), "{shown}");
    assert!(lab.bees(&["-n", "b", "team", "show"]).contains("\n  ping"));
    let budgets = lab.bees(&["-n", "b", "team", "budget", "ping"]);
    for resource in
        ["memory", "code", "timers_total", "event", "total_rate", "packets", "queue", "flows", "shares"]
    {
        assert!(budgets.lines().any(|l| l.contains(&format!(" {resource} "))), "{resource}: {budgets}");
    }
    let top = lab.json(&["-n", "b", "top", "--count", "1", "--interval", "200ms"]);
    assert!(team(&top, "ping")["memory"].as_u64() > Some(0), "{top}");

    // The same by HTTP.
    let inspected = lab.json(&["lab", "inspect"]);
    let b = inspected["nodes"].as_array().unwrap().iter().find(|n| n["name"] == "b").unwrap().clone();
    let samples = scrape(b["metrics"].as_u64().unwrap());
    let of_ping = |name: &str| {
        let found = samples.iter().find(|(n, labels, _)| n == name && labels.contains("\"ping\""));
        found.unwrap_or_else(|| panic!("no {name} of ping")).2
    };
    assert!(of_ping("bees_team_sent_bytes_total") > 0.0 && of_ping("bees_team_memory_bytes") > 65536.0);

    // Channels: two links of the lab and the management link, which has an address; the lab's links are protected.
    let channels = lab.json(&["-n", "b", "channel", "show"]);
    let links =
        |of: &str| channels[of].as_array().unwrap().iter().map(|c| c["link"].clone()).collect::<Vec<_>>();
    assert_eq!((links("in").len(), links("out").len(), links("cut_through").len()), (4, 2, 0), "{channels}");
    assert!(lab.bees(&["-n", "b", "channel", "show"]).contains("CHANNEL"));
    let add = lab.run(&["-n", "b", "channel", "add", "a", "c", &"5a".repeat(16)]);
    assert!(
        !add.status.success() && String::from_utf8_lossy(&add.stderr).contains("is protected"),
        "{add:?}"
    );

    // Bounds, and the end.
    lab.bees(&["-n", "b", "team", "limit", "ping", "timers=3", "memory=512k", "total_rate=8mbit"]);
    let teams = lab.json(&["-n", "b", "team", "show"]);
    assert_eq!(team(&teams, "ping")["memory"]["limit"].as_u64(), Some(512 << 10));
    assert_eq!(team(&teams, "ping")["budgets"]["total_rate"]["limit"].as_u64(), Some(1_000_000));
    lab.bees(&["-n", "b", "team", "kill", "ping"]);
    let teams = lab.json(&["-n", "b", "team", "show"]);
    assert_eq!(teams.as_array().map(Vec::len), Some(1), "{teams}");
    assert!(!lab.run(&["-n", "b", "team", "limit", "root", "timers=1"]).status.success());
}

#[test]
fn hosted_teams_are_seen_and_bounded() {
    teams_are_seen_and_bounded("hosted");
}

#[test]
fn qemu_teams_are_seen_and_bounded() {
    teams_are_seen_and_bounded("qemu");
}
