//! The health agent on five nodes, as an operator meets it: injected at the server as the lab file says, seen with
//! `bees health`; it is everywhere soon, and nowhere soon after it was stopped at the server. With `--nocapture` it prints
//! the figures of `docs/benchmarks.md`.

mod common;

use std::time::{Duration, Instant};

use common::{Lab, root};
use serde_json::Value;

const NODES: [&str; 5] = ["server", "b", "d", "c", "e"];

/// Looks until `good`, at most so long; how long it took.
#[track_caller]
fn soon(most: Duration, mut good: impl FnMut() -> Result<(), String>) -> Duration {
    let begun = Instant::now();
    loop {
        match good() {
            Ok(()) => return begun.elapsed(),
            Err(why) => assert!(begun.elapsed() < most, "{why}"),
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Nodes on which the agent runs.
fn running(lab: &Lab) -> Vec<&'static str> {
    let runs = |node: &&str| {
        let flows = lab.json(&["-n", node, "flow", "show"]);
        flows.as_array().unwrap().iter().any(|f| f["name"] == "health" && f["state"] == "running")
    };
    NODES.into_iter().filter(runs).collect()
}

/// Bytes that all links together have carried.
fn carried(lab: &Lab) -> u64 {
    let links = lab.json(&["lab", "inspect"])["links"].clone();
    links.as_array().unwrap().iter().flat_map(|link| link["bytes"].as_u64()).sum()
}

fn everybody_reports_and_forgets(on: &str) {
    let lab = Lab::deploy("health.toml", on);
    let capsules = root().join("target/capsules");
    let flows = lab.json(&["lab", "inject", "--capsules", capsules.to_str().unwrap()]);
    let hash = flows[0]["hash"].as_str().unwrap().to_string();
    assert_eq!((&flows[0]["node"], &flows[0]["name"]), (&"server".into(), &"health".into()), "{flows}");
    lab.bees(&["-n", "server", "health", "--serve"]);
    let mut health = Value::Null;
    let spread = soon(Duration::from_secs(60), || {
        health = lab.json(&["-n", "server", "health"]);
        let known: Vec<&str> =
            health["nodes"].as_array().unwrap().iter().flat_map(|n| n["node"].as_str()).collect();
        if known == NODES { Ok(()) } else { Err(format!("only {known:?} report")) }
    });
    for (node, hops) in health["nodes"].as_array().unwrap().iter().zip([0, 1, 1, 2, 3]) {
        assert_eq!(node["hops"], hops, "{node}");
        assert!(node["key"].as_str().is_some_and(|key| key.len() == 16), "{node}");
        assert!(node["sensors"]["uptime-microseconds"].as_u64() > Some(0), "{node}");
    }
    assert_eq!(
        (&health["counts"]["forged"], &health["counts"]["malformed"]),
        (&0.into(), &0.into()),
        "{health}"
    );
    let table =
        lab.bees(&["-n", "server", "health", "--count", "2", "--interval", "1s", "--sensor", "uptime"]);
    assert_eq!(table.lines().filter(|l| l.starts_with("NODE")).count(), 2, "{table}");
    assert!(!table.contains("memory"), "{table}");

    // Nothing happens for a while: what it costs.
    let (before, begun) = (carried(&lab), Instant::now());
    let reports = |lab: &Lab| {
        let counts = lab.json(&["-n", "server", "health"])["counts"].clone();
        (counts["reports"].as_u64().unwrap(), counts["lost"].as_u64().unwrap())
    };
    let first = reports(&lab);
    std::thread::sleep(Duration::from_secs(30));
    let (bytes, last) = (carried(&lab) - before, reports(&lab));
    let per_node = bytes as f64 / begun.elapsed().as_secs_f64() / NODES.len() as f64;
    let (came, lost) = (last.0 - first.0, last.1 - first.1);
    // One a second of each node; one link loses a hundredth.
    assert!(came + lost >= 120 && lost * 10 <= came, "{came} reports, {lost} lost");

    // Without the server it ends on the others, and does not come back.
    lab.bees(&["-n", "server", "flow", "stop", &hash]);
    let vanish = soon(Duration::from_secs(30), || match &running(&lab)[..] {
        [] => Ok(()),
        left => Err(format!("it still runs on {left:?}")),
    });
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(running(&lab), [""; 0], "it came back");
    println!(
        "{on}: everybody reported after {spread:.1?}; {came} reports in 30 s, {lost} lost; {per_node:.0} bytes/s and node on \
         links; nobody ran it {vanish:.1?} after its end"
    );
}

#[test]
fn hosted_everybody_reports_and_forgets() {
    everybody_reports_and_forgets("hosted");
}

#[test]
fn qemu_everybody_reports_and_forgets() {
    everybody_reports_and_forgets("qemu");
}
