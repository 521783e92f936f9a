//! telemetry on three nodes, as an operator meets it: built with the privilege, injected, seen with `bees telemetry`.

mod common;

use common::{Lab, root};

fn every_hop_is_shown(on: &str) {
    let lab = Lab::deploy("line3.toml", on);
    let module = root().join("target/capsules/telemetry.wasm");
    let module = module.to_str().unwrap();
    lab.bees(&["flow", "build", module, "-o", "telemetry.tuple", "--privilege", "queues?"]);
    lab.bees(&["-n", "a", "flow", "inject", "telemetry.tuple", "--patience", "60"]);
    let traces = lab.json(&["-n", "a", "telemetry", "c", "--count", "3"]);
    let traces = traces.as_array().unwrap();
    assert_eq!(traces.len(), 3, "{traces:?}");
    for trace in traces {
        let hops = trace["hops"].as_array().unwrap();
        let names: Vec<&str> = hops.iter().map(|hop| hop["node"].as_str().unwrap()).collect();
        assert_eq!((names, &trace["missed"]), (vec!["a", "b", "c", "b", "a"], &0.into()), "{trace}");
        assert!(hops[..4].iter().all(|hop| hop["waiting"].is_u64() && hop["next"].is_string()), "{trace}");
        // One node's clock: there and back it passes b twice, and begins and ends at a.
        let arrived = |at: usize| hops[at]["arrived_us"].as_u64().unwrap();
        assert!(arrived(1) < arrived(3) && arrived(0) < arrived(4), "{trace}");
        assert_eq!(trace["us"], arrived(4) - arrived(0), "{trace}");
    }
    let table = lab.bees(&["-n", "a", "telemetry", "c"]);
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines.len() == 6 && lines[0].contains("ARRIVED") && lines[0].contains("WAITING"), "{table}");
    // Columns of numbers end below each other.
    let end = |line: &str, what: &str| line.find(what).unwrap() + what.len();
    let stay = end(lines[0], "STAY");
    assert!(lines[1..].iter().all(|line| line[..stay].ends_with(" us")), "{table}");
    let unknown = lab.run(&["-n", "a", "telemetry", "nobody"]);
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("nobody is not found"), "{unknown:?}");
    assert!(!unknown.status.success());
}

#[test]
fn hosted_every_hop_is_shown() {
    every_hop_is_shown("hosted");
}

#[test]
fn qemu_every_hop_is_shown() {
    every_hop_is_shown("qemu");
}
