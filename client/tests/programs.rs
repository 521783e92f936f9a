//! Sessions as programs have them, on hosted nodes (`hosted_`) and in QEMU (`qemu_`): `bees`, the library, and Python with nothing but sockets; many at
//! once; and a protocol server.

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use client::session::{Received, Session};
use common::{BEES, Lab, root};

const TIMEOUT: Duration = Duration::from_secs(20);

/// The session server of a lab's node.
fn sessions_of(lab: &Lab, node: &str) -> String {
    let nodes = lab.json(&["lab", "inspect"]);
    let text = nodes.to_string();
    let find = |value: &serde_json::Value| {
        let list = value.get("nodes").and_then(|n| n.as_array()).or_else(|| value.as_array())?;
        let node = list.iter().find(|n| n["name"] == node)?;
        node["session"].as_u64()
    };
    let port = find(&nodes).unwrap_or_else(|| panic!("no session port of {node}: {text}"));
    format!("127.0.0.1:{port}")
}

fn hello(lab: &Lab) {
    let module = root().join("target/capsules/hello.wasm");
    lab.bees(&["-n", "a", "flow", "inject", module.to_str().unwrap(), "--patience", "60"]);
}

#[test]
fn hosted_programs_in_rust_and_python_open_hello_by_name() {
    programs_open_hello_by_name("hosted");
}

#[test]
fn qemu_programs_in_rust_and_python_open_hello_by_name() {
    programs_open_hello_by_name("qemu");
}

fn programs_open_hello_by_name(on: &str) {
    let lab = Lab::deploy("line3.toml", on);
    hello(&lab);
    let address = sessions_of(&lab, "a");
    for open in [Session::open, Session::open_datagrams] {
        let mut session = open(&address, "hello", TIMEOUT).unwrap();
        session.send(b"find").unwrap();
        let (deadline, mut names) = (Instant::now() + TIMEOUT, Vec::new());
        while names.iter().collect::<std::collections::HashSet<_>>().len() < 3 {
            assert!(Instant::now() < deadline, "{names:?}");
            match session.receive(Instant::now() + Duration::from_secs(2)).unwrap() {
                // The end of the search before may not have been heard of when this one was asked for.
                Received::Nothing => session.send(b"find").unwrap(),
                Received::Packet(packet) => {
                    let text = String::from_utf8(packet).unwrap();
                    names.extend(text.strip_prefix("node ").map(|rest| rest[..1].to_string()));
                }
                other => panic!("{other:?} after {names:?}"),
            }
        }
        names.sort();
        names.dedup();
        assert_eq!(names, ["a", "b", "c"]);
    }
    for udp in [false, true] {
        let mut command = Command::new("python3");
        command.arg(root().join("client/examples/session.py"));
        if udp {
            command.arg("--udp");
        }
        let output = command.args([address.as_str(), "hello", "find"]).output();
        let output = output.expect("this test needs python3 (apt install python3)");
        let text = String::from_utf8_lossy(&output.stdout);
        let found = ["node a", "node b", "node c"].iter().all(|name| text.contains(name));
        assert!(output.status.success() && found, "{text}{}", String::from_utf8_lossy(&output.stderr));
    }
    let text = lab.bees(&["-n", "a", "session", "hello", "--udp", "--wait", "2", "--", "find"]);
    assert!(text.contains("node c"), "{text}");
    let output = lab.run(&["-n", "a", "session", "hullo", "--", "find"]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains("bees flow show"), "{text}");
}

/// A protocol server of a folder, ended with the test.
struct Server(Child, String);

impl Server {
    fn start(lab: &Lab, folder: &str) -> Self {
        let mut child = Command::new(BEES)
            .args(["protocol", "serve", folder, "--listen", "127.0.0.1:0"])
            .current_dir(&lab.folder)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self(child, line.trim().to_string())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn hosted_flows_come_from_a_protocol_server() {
    let lab = Lab::deploy("line3.toml", "hosted");
    let module = root().join("target/capsules/hello.wasm");
    fs::create_dir_all(lab.folder.join("flows")).unwrap();
    let hash = lab.bees(&["flow", "build", module.to_str().unwrap(), "-o", "flows/hello.tuple"]);
    let server = Server::start(&lab, "flows");
    let from = server.1.as_str();
    let listed = lab.bees(&["protocol", "list", "--from", from]);
    assert!(listed.contains(hash.trim()) && listed.contains("hello"), "{listed}");
    assert_eq!(lab.bees(&["protocol", "fetch", "hello", "--from", from]), hash);
    assert_eq!(
        fs::read(lab.folder.join("hello.tuple")).unwrap(),
        fs::read(lab.folder.join("flows/hello.tuple")).unwrap()
    );
    assert_eq!(lab.bees(&["-n", "a", "protocol", "fetch", hash.trim(), "--from", from, "--inject"]), hash);
    let text = lab.bees(&["-n", "a", "session", "hello", "--wait", "2", "--", "find"]);
    assert!(text.contains("node c"), "{text}");
    let missing = lab.run(&["protocol", "fetch", "nothing", "--from", from]);
    assert_eq!(missing.status.code(), Some(3), "{missing:?}");
}

/// A node that has just started has nothing, and fetches from the server of its configuration what it is to start; others
/// get it from the node.
fn a_node_starts_what_its_server_has(on: &str) {
    let lab = Lab::prepare(&format!("{on}-server"));
    let module = root().join("target/capsules/hello.wasm");
    fs::create_dir_all(lab.folder.join("flows")).unwrap();
    let hash = lab.bees(&["flow", "build", module.to_str().unwrap(), "-o", "flows/hello.tuple"]);
    let server = Server::start(&lab, "flows");
    let text = fs::read_to_string(root().join("emulab/line3.toml")).unwrap();
    let text = text.replacen("[defaults]", &format!("[defaults]\nserver = \"{}\"", server.1), 1).replacen(
        "name = \"a\"",
        "name = \"a\"\nstart = [\"hello\", \"nothing\"]",
        1,
    );
    let file = lab.folder.join("server.toml");
    fs::write(&file, text).unwrap();
    lab.bring_up(&file, on);
    let deadline = Instant::now() + Duration::from_secs(60);
    let flow = loop {
        let flows = lab.json(&["-n", "a", "flow", "show"]);
        let found = flows.as_array().unwrap().iter().find(|f| f["name"] == "hello").cloned();
        match found {
            Some(flow) if flow["state"] == "running" => break flow,
            other => {
                assert!(Instant::now() < deadline, "{other:?} {}", lab.bees(&["-n", "a", "node", "log"]))
            }
        }
        std::thread::sleep(Duration::from_millis(200));
    };
    assert_eq!((&flow["hash"], &flow["source"]), (&hash.trim().into(), &"server".into()), "{flow}");
    let text =
        lab.bees(&["-n", "a", "session", "hello", "--udp", "--wait", "60", "--until", "done", "--", "find"]);
    assert!(text.contains("node a") && text.contains("done"), "{text}");
}

#[test]
fn hosted_a_node_starts_what_its_server_has() {
    a_node_starts_what_its_server_has("hosted");
}

#[test]
fn qemu_a_node_starts_what_its_server_has() {
    a_node_starts_what_its_server_has("qemu");
}
