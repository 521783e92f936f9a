//! The health agent on five nodes, as an operator meets it: built with its companion, injected at the server, seen
//! with `bees health`; it is everywhere soon, and nowhere soon after it was stopped at the server.

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

fn everybody_reports_and_forgets(on: &str) {
    let lab = Lab::deploy("health.toml", on);
    let module =
        |name: &str| root().join(format!("target/capsules/{name}.wasm")).to_str().unwrap().to_string();
    let way = format!("pathfinder={}", module("pathfinder"));
    let mut build = vec!["flow", "build", "-o", "health.tuple"];
    let main = module("health");
    build.extend([main.as_str(), "--companion", &way, "--privilege", "sensors?", "--privilege", "node-key?"]);
    build.extend(["--param", "poll-frequency=1000", "--param", "timeout=4000"]);
    lab.bees(&build);
    let hash =
        lab.bees(&["-n", "server", "flow", "inject", "health.tuple", "--patience", "60"]).trim().to_string();
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

    // Without the server it ends on the others, and does not come back.
    lab.bees(&["-n", "server", "flow", "stop", &hash]);
    let vanish = soon(Duration::from_secs(30), || match &running(&lab)[..] {
        [] => Ok(()),
        left => Err(format!("it still runs on {left:?}")),
    });
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(running(&lab), [""; 0], "it came back");
    println!("{on}: everybody reported after {spread:.1?}, nobody ran it {vanish:.1?} after its end");
}

#[test]
fn hosted_everybody_reports_and_forgets() {
    everybody_reports_and_forgets("hosted");
}

#[test]
fn qemu_everybody_reports_and_forgets() {
    everybody_reports_and_forgets("qemu");
}
