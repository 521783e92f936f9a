//! Who may do what, as users meet it: a lab of hosted nodes with policies, flows that are signed, tampered
//! with, late or from strangers, and a policy that is taken back.

mod common;

use std::fs;
use std::time::{Duration, Instant};

use common::{Lab, root};

/// A node that lets everything in, and behind it one that looks at signatures.
const LAB: &str = include_str!("../../emulab/signed/lab.toml");
/// Joe may run flows and end them, eve could run some until 2001, watch may look. Nobody else may do anything.
const POLICY: &str = include_str!("../../emulab/signed/b.toml");

struct Case {
    lab: Lab,
    module: String,
}

impl Case {
    fn deploy(name: &str) -> Self {
        let lab = Lab::prepare(name);
        fs::write(lab.folder.join("lab.toml"), LAB).unwrap();
        fs::write(lab.folder.join("b.toml"), POLICY).unwrap();
        lab.bring_up(&lab.folder.join("lab.toml"), "hosted");
        let module = root().join("target/capsules/hello.wasm").to_str().unwrap().to_string();
        Self { lab, module }
    }

    /// Builds `hello` as `file`, signed by a principal of the lab.
    fn signed(&self, file: &str, principal: &str, options: &[&str]) {
        let build = ["flow", "build", &self.module, "-o", file];
        self.lab.bees(&[&build[..], options].concat());
        self.lab.bees(&["flow", "sign", file, "--principal", principal]);
    }

    /// What the node says to a command that it must refuse.
    #[track_caller]
    fn refused(&self, arguments: &[&str]) -> String {
        let output = self.lab.run(arguments);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "bees {arguments:?}: {text}");
        text
    }

    fn counter(&self, name: &str) -> u64 {
        let node = self.lab.json(&["-n", "b", "node", "show"]);
        node["counters"][name].as_u64().unwrap_or_else(|| panic!("no counter {name}: {node}"))
    }

    /// Waits until a flow does not run any more.
    #[track_caller]
    fn ends(&self, hash: &str) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.state_of(hash).is_some_and(|s| s.starts_with("running")) {
            assert!(Instant::now() < deadline, "the flow still runs");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn state_of(&self, hash: &str) -> Option<String> {
        let flows = self.lab.json(&["-n", "b", "flow", "show"]);
        let flow = flows.as_array().unwrap().iter().find(|f| f["hash"] == hash)?.clone();
        Some(format!("{} {}", flow["state"].as_str().unwrap(), flow["why"].as_str().unwrap_or_default()))
    }
}

#[test]
fn hosted_only_the_signed_may_run() {
    let case = Case::deploy("signed");
    let lab = &case.lab;
    case.signed("joe.tuple", "joe", &["--privilege", "log", "--privilege", "sensors?"]);
    lab.bees(&["flow", "verify", "joe.tuple", "--policy", "b.toml"]);
    let dump = lab.bees(&["flow", "dump", "joe.tuple"]);
    assert!(dump.contains("joe answers for it (RSA-PSS with SHA-256"), "{dump}");
    let hash = lab.bees(&["-n", "b", "flow", "inject", "joe.tuple"]).trim().to_string();
    let flow = lab.json(&["-n", "b", "flow", "show", &hash]);
    assert_eq!(flow["grant"]["privileges"], serde_json::json!(["log"]), "{flow}");
    assert_eq!(flow["grant"]["budgets"]["memory"], 1 << 20, "{flow}");

    // Each with its own reason, which `flow verify` gives beforehand.
    let build = |file: &str, options: &[&str]| {
        lab.bees(&[&["flow", "build", &case.module, "-o", file], options].concat());
    };
    build("unsigned.tuple", &[]);
    let stranger = lab.folder.join("jim.key");
    lab.bees(&["key", "new", "--type", "rsa", "--principal", "jim", stranger.to_str().unwrap()]);
    build("stranger.tuple", &["--sign", "jim.key"]);
    build("forged.tuple", &["--sign", "jim.key", "--principal", "joe"]);
    case.signed("late.tuple", "joe", &["--valid-until", "2001-01-01"]);
    case.signed("early.tuple", "joe", &["--valid-from", "+9d"]);
    case.signed("over.tuple", "eve", &[]);
    case.signed("greedy.tuple", "joe", &["--privilege", "sensors"]);
    case.signed("elsewhere.tuple", "joe", &["--for-node", "c"]);
    for (file, offline, word, counter) in [
        ("unsigned.tuple", "signature", "signed", "principal_unsigned"),
        ("stranger.tuple", "signature", "jim", "principal_unknown"),
        ("forged.tuple", "signature", "signature", "principal_bad_signatures"),
        ("late.tuple", "validity", "until", "principal_tuples_expired"),
        ("early.tuple", "validity", "from", "principal_tuples_not_yet_valid"),
        ("over.tuple", "signature", "eve", "principal_expired"),
        ("greedy.tuple", "policy", "sensors", "principal_privileges_denied"),
        ("elsewhere.tuple", "nodes", "other nodes", "principal_other_node"),
    ] {
        let why = case.refused(&["-n", "b", "flow", "verify", file, "--policy", "b.toml"]);
        assert!(why.contains("not in order") && why.contains(offline), "{file}: {why}");
        assert_eq!(case.counter(counter), 0, "{counter}");
        let why = case.refused(&["-n", "b", "flow", "inject", file]);
        assert!(why.contains(word), "{file}: {why}");
        assert_eq!(case.counter(counter), 1, "{file}: {why}");
    }
    assert_eq!(case.state_of(&hash).as_deref(), Some("running "), "joe's flow is still there");

    // A byte of a signed tuple that was changed, wherever it can be read at all.
    let good = fs::read(lab.folder.join("joe.tuple")).unwrap();
    fs::create_dir_all(lab.folder.join("bad.tuple.parts")).unwrap();
    for part in fs::read_dir(lab.folder.join("joe.tuple.parts")).unwrap() {
        let part = part.unwrap().path();
        fs::copy(&part, lab.folder.join("bad.tuple.parts").join(part.file_name().unwrap())).unwrap();
    }
    let mut injected = 0;
    for at in (0..good.len()).step_by(23) {
        let mut bad = good.clone();
        bad[at] ^= 0x04;
        fs::write(lab.folder.join("bad.tuple"), &bad).unwrap();
        let why = case.refused(&["-n", "b", "flow", "inject", "bad.tuple", "--patience", "5"]);
        injected += usize::from(why.contains("flow "));
        case.refused(&["flow", "verify", "bad.tuple", "--policy", "b.toml"]);
    }
    assert!(injected > 0, "some of them were judged by the node");

    let audit = lab.bees(&["-n", "b", "node", "log", "--audit"]);
    for word in ["joe", "jim", "eve", "admin"] {
        assert!(audit.contains(word), "{word} is not in the audit log:\n{audit}");
    }
}

/// A flow of joe's comes to b behind its capsules; one that nobody signed stays at a.
#[test]
fn hosted_signed_code_spreads() {
    let case = Case::deploy("spreads");
    let lab = &case.lab;
    let talk = |flow: &str| {
        let arguments = ["-n", "a", "session", flow, "--wait", "60", "--until", "done", "--", "find"];
        lab.bees(&arguments)
    };
    case.signed("joe.tuple", "joe", &[]);
    let signed = lab.bees(&["-n", "a", "flow", "inject", "joe.tuple"]).trim().to_string();
    assert!(talk(&signed).contains("node b hops 1 "), "b runs joe's flow");
    let unsigned = lab.bees(&["-n", "a", "flow", "inject", &case.module]).trim().to_string();
    let answers = talk(&unsigned);
    assert!(!answers.contains("node b "), "b runs what nobody signed: {answers}");
    assert!(case.counter("principal_unsigned") > 0);

    // Its principal takes it back.
    lab.bees(&["-n", "b", "--principal", "joe", "flow", "revoke", "joe.tuple", "--until", "+1h"]);
    case.ends(&signed);
    let why = case.refused(&["-n", "b", "flow", "inject", "joe.tuple"]);
    assert!(why.contains("revoked by joe"), "{why}");
}

#[test]
fn hosted_a_policy_is_taken_back() {
    let case = Case::deploy("taken-back");
    let lab = &case.lab;
    let shown = lab.bees(&["-n", "b", "policy", "show"]);
    assert!(shown.contains("watch") && shown.contains("2001-01-01T00:00:00Z"), "{shown}");
    case.signed("joe.tuple", "joe", &[]);

    // Joe logs in with his RSA key and injects; watch only looks.
    let hash = lab.bees(&["-n", "b", "--principal", "joe", "flow", "inject", "joe.tuple"]).trim().to_string();
    lab.bees(&["-n", "b", "--principal", "watch", "flow", "show"]);
    let watch = ["-n", "b", "--principal", "watch"];
    for verb in
        [&["flow", "inject", "joe.tuple"][..], &["flow", "stop", &hash], &["policy", "load", "b.toml"]]
    {
        let why = case.refused(&[&watch[..], verb].concat());
        assert!(why.contains("watch"), "{why}");
    }
    let why = case.refused(&["-n", "b", "--principal", "joe", "policy", "load", "b.toml"]);
    assert!(why.contains("joe"), "{why}");
    // Eve has no rights there at all, and joe's name with her key opens nothing.
    let eve = lab.state().join("principals/eve.key");
    let eve = eve.to_str().unwrap();
    case.refused(&["-n", "b", "--principal", "eve", "node", "show"]);
    case.refused(&["-n", "b", "--principal", "joe", "--key", eve, "node", "show"]);

    // A mistake is pointed at and changes nothing.
    fs::write(lab.folder.join("bad.toml"), POLICY.replacen("privileges", "privilege", 1)).unwrap();
    let why = case.refused(&["-n", "b", "policy", "load", "bad.toml"]);
    assert!(why.contains("bad.toml:9:1: "), "{why}");
    assert_eq!(case.state_of(&hash).as_deref(), Some("running "));

    // Joe is taken off, and his flow ends; it does not come back.
    let without =
        POLICY[..POLICY.find("# Joe").unwrap()].to_string() + &POLICY[POLICY.find("# Eve").unwrap()..];
    fs::write(lab.folder.join("without.toml"), without).unwrap();
    lab.bees(&["-n", "b", "policy", "load", "without.toml"]);
    case.ends(&hash);
    let why = case.refused(&["-n", "b", "flow", "inject", "joe.tuple"]);
    assert!(why.contains("joe"), "{why}");
    case.refused(&["-n", "b", "--principal", "joe", "node", "show"]);
}
