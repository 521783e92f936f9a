//! The paper's example (seed 004, sections II.C and III): joe signs a protocol that reads sensors. One node
//! gives it the sensors, one lets it run without them, one does not know joe.

mod common;

use std::collections::BTreeMap;

use common::{Lab, root};

fn a_flow_gets_what_its_signer_may_have(on: &str) {
    let lab = Lab::deploy("joe/lab.toml", on);
    let module = root().join("target/capsules/probe.wasm");
    // A round takes as long as an emulated processor may take to compile.
    let build = ["--privilege", "sensors?", "--param", "interval=1000", "-o", "probe.tuple"];
    lab.bees(&[&["flow", "build", module.to_str().unwrap()], &build[..]].concat());
    lab.bees(&["flow", "sign", "probe.tuple", "--principal", "joe"]);
    let hash = lab.bees(&["-n", "a", "flow", "inject", "probe.tuple"]).trim().to_string();
    let request = "read uptime-microseconds";
    let text = lab.bees(&["-n", "a", "session", "probe", "--wait", "90", "--until", "done", "--", request]);

    // `node NAME hops N SENSOR VALUE` or `node NAME hops N router`
    let words = text.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let rows: BTreeMap<_, _> = words.filter(|w| w[0] == "node").map(|w| (w[1], w[2..].to_vec())).collect();
    assert_eq!(rows.keys().copied().collect::<Vec<_>>(), ["a", "granted", "router"], "{text}");
    assert_eq!(rows["router"], ["hops", "1", "router"], "{text}");
    for (node, hops) in [("a", "0"), ("granted", "2")] {
        assert_eq!(rows[node][..3], ["hops", hops, "uptime-microseconds"], "{text}");
        assert!(rows[node][3].parse::<u64>().unwrap() > 0, "{text}");
    }

    let flow = |node: &str| {
        let flows = lab.json(&["-n", node, "flow", "show"]);
        let found = flows.as_array().unwrap().iter().find(|f| f["hash"] == hash.as_str()).cloned();
        found.unwrap_or_else(|| panic!("{node} has not heard of the flow: {flows}"))
    };
    assert_eq!(flow("granted")["source"], "router", "the code came from the hop before");
    let refused = flow("closed");
    assert!(refused["why"].as_str().unwrap().contains("joe"), "{refused}");
    let counters = lab.json(&["-n", "closed", "node", "show"])["counters"].clone();
    assert!(counters["principal_unknown"].as_u64().unwrap() > 0, "{counters}");
    let code = lab.json(&["-n", "closed", "protocol", "show"]);
    assert_eq!(code.as_array().map(Vec::len), Some(0), "no byte of it was fetched: {code}");
    let log = lab.bees(&["-n", "closed", "node", "log", "--audit"]);
    assert!(log.contains("joe"), "{log}");
}

#[test]
fn hosted_a_flow_gets_what_its_signer_may_have() {
    a_flow_gets_what_its_signer_may_have("hosted");
}

#[test]
fn qemu_a_flow_gets_what_its_signer_may_have() {
    a_flow_gets_what_its_signer_may_have("qemu");
}
