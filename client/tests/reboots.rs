//! Nodes with a disk, in QEMU (`qemu_`) and hosted (`hosted_`): what they keep when they are killed and start again.
//! `cargo xtask test` builds what this needs: image and `bees-node`.

mod common;

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::Lab;
use serde_json::Value;
use wire::describe::{self, Description};
use wire::tuple::Events;

const LAB: &str = "name = \"disk\"\n[[node]]\nname = \"a\"\ndisk = \"256k\"\n";

/// Keeps a packet that begins with `p` as a blob, and answers every other with what it keeps.
const KEEPER: &str = r#"(module
    (import "bees" "cap_lookup" (func $lookup (param i32 i32) (result i32)))
    (import "bees" "session_read" (func $read (param i32 i32 i32 i32) (result i32)))
    (import "bees" "session_reply" (func $reply (param i32 i32 i32) (result i32)))
    (import "bees" "blob_put" (func $put (param i32 i32 i32 i32 i32) (result i32)))
    (import "bees" "blob_get" (func $get (param i32 i32 i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1 1)
    (global (export "bees_inbox") i32 (i32.const 0))
    (func (export "bees_abi_1"))
    (data (i32.const 64) "blobs...kept....none")
    (func (export "on_session") (param $c i32) (param $s i32) (param $what i32) (param $len i32) (local $n i32) (local $cap i32)
        (if (i32.ne (local.get $what) (i32.const 1)) (then (return)))
        (local.set $cap (call $lookup (i32.const 64) (i32.const 5)))
        (local.set $n (call $read (local.get $s) (i32.const 0) (i32.const 128) (i32.const 100)))
        (if (i32.eq (i32.load8_u (i32.const 128)) (i32.const 112))
            (then
                (if (i32.eqz (call $put (local.get $cap) (i32.const 72) (i32.const 4) (i32.const 128) (local.get $n)))
                    (then (drop (call $reply (local.get $s) (i32.const 72) (i32.const 4)))
                          (return)))))
        (local.set $n (call $get (local.get $cap) (i32.const 72) (i32.const 4) (i32.const 0) (i32.const 256) (i32.const 100)))
        (if (i32.lt_s (local.get $n) (i32.const 0))
            (then (drop (call $reply (local.get $s) (i32.const 80) (i32.const 4))) (return)))
        (drop (call $reply (local.get $s) (i32.const 256) (local.get $n)))))"#;

fn keeper() -> Vec<u8> {
    let mut module = wat::parse_str(KEEPER).unwrap();
    let description = Description {
        name: "keeper".into(),
        capsules: vec![],
        events: Events::default(),
        session: true,
        params: vec![],
        companions: vec![],
    };
    let mut section = vec![describe::SECTION.len() as u8];
    section.extend(describe::SECTION.as_bytes());
    section.extend(description.encode());
    module.extend([0, u8::try_from(section.len()).unwrap()]);
    module.extend(section);
    module
}

/// The node of a lab, started without the lab's help: killed without warning, and started as it was.
struct Node<'a> {
    lab: &'a Lab,
    command: Vec<OsString>,
    child: Option<Child>,
    ports: Value,
}

impl<'a> Node<'a> {
    /// Takes the node over from the lab, whose configuration loses its identity.
    fn of(lab: &'a Lab) -> Self {
        let state: Value = serde_json::from_slice(&fs::read(lab.state().join("lab.json")).unwrap()).unwrap();
        let node = &state["nodes"][0];
        let pid = node["process"]["pid"].as_u64().unwrap();
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap();
        let command = line.split(|b| *b == 0).filter(|word| !word.is_empty());
        let command = command.map(|word| OsString::from_vec(word.to_vec())).collect();
        assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
        let file = lab.state().join("a.toml");
        let text = fs::read_to_string(&file).unwrap();
        let lines = text.lines().filter(|l| !l.starts_with("identity"));
        let without = lines.map(|l| format!("{l}\n")).collect::<String>();
        assert!(without.len() + 64 < text.len());
        fs::write(&file, without).unwrap();
        Self { lab, command, child: None, ports: node["ports"].clone() }
    }

    /// Starts it, and waits until it lets the administrator in: its identity.
    fn start(&mut self) -> String {
        // The old process may not have gone yet, with its lock on the disk.
        std::thread::sleep(Duration::from_millis(300));
        let console = fs::OpenOptions::new().append(true).create(true).open(self.console()).unwrap();
        let child = Command::new(&self.command[0])
            .args(&self.command[1..])
            .current_dir(&self.lab.folder)
            .stdin(Stdio::null())
            .stdout(console.try_clone().unwrap())
            .stderr(console)
            .spawn();
        self.child = Some(child.unwrap());
        let since = Instant::now();
        loop {
            let output = self.run(&["-j", "node", "show"]);
            if output.status.success() {
                let node: Value = serde_json::from_slice(&output.stdout).unwrap();
                return node["identity"].as_str().unwrap().to_string();
            }
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(since.elapsed() < Duration::from_secs(120), "{said}\n{}", self.said());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    fn console(&self) -> PathBuf {
        self.lab.state().join("a.log")
    }

    fn said(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.console()).unwrap()).into_owned()
    }

    fn run(&self, arguments: &[&str]) -> std::process::Output {
        let address = |which: &str| format!("127.0.0.1:{}", self.ports[which]);
        let (control, session) = (address("control"), address("session"));
        let key = self.lab.state().join("admin.key");
        let access = ["--address", &control, "--session-address", &session, "--key", key.to_str().unwrap()];
        self.lab.run(&[&access[..], arguments].concat())
    }

    #[track_caller]
    fn bees(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{arguments:?}: {}{}", text(&output.stderr), self.said());
        text(&output.stdout)
    }

    fn ask(&self, request: &str) -> String {
        let answer = self.bees(&["session", "keeper", "--wait", "20", "--until", "", "--", request]);
        answer.trim().to_string()
    }
}

impl Drop for Node<'_> {
    fn drop(&mut self) {
        self.kill();
    }
}

fn a_disk_outlives_its_node(on: &str) {
    let lab = Lab::prepare(&format!("{on}-disk"));
    let (file, module) = (lab.folder.join("disk.toml"), lab.folder.join("keeper.wasm"));
    fs::write(&file, LAB).unwrap();
    fs::write(&module, keeper()).unwrap();
    // The same tuple each time: the same flow.
    lab.bees(&["flow", "build", module.to_str().unwrap(), "--privilege", "blobs"]);
    let tuple = module.with_extension("tuple");
    let tuple = tuple.to_str().unwrap();
    lab.bring_up(&file, on);
    let given = lab.json(&["node", "show"])["identity"].as_str().unwrap().to_string();

    let mut node = Node::of(&lab);
    let first = node.start();
    assert_ne!(first, given, "one of its own");
    assert!(
        node.said().contains(&format!("identity {first} is new, and kept in the store")),
        "{}",
        node.said()
    );
    node.bees(&["flow", "inject", tuple]);
    assert_eq!(node.ask("get"), "none");
    assert_eq!(node.ask("patience"), "kept");
    // On its way to the disk, which takes milliseconds.
    std::thread::sleep(Duration::from_secs(2));
    node.kill();

    assert_eq!(node.start(), first);
    assert!(node.said().contains(&format!("identity {first} is the store's")), "{}", node.said());
    let shown: Value = serde_json::from_str(&node.bees(&["-j", "blob", "show"])).unwrap();
    assert_eq!(shown["areas"].as_array().map(Vec::len), Some(2), "the node's and the flow's: {shown}");
    assert_eq!(
        (&shown["areas"][1]["claimed"], &shown["areas"][1]["flow"]),
        (&Value::Bool(false), &Value::Null)
    );
    assert_eq!(shown["areas"][1]["blobs"], serde_json::json!([{ "name": "kept", "len": 8 }]));
    node.bees(&["flow", "inject", tuple]);
    assert_eq!(node.ask("get"), "patience");
    // What the operator removes is gone.
    node.bees(&["blob", "remove", "keeper", "kept"]);
    assert_eq!(node.ask("get"), "none");
    node.kill();

    // A disk with nothing on it that can be read: the node starts, and says so.
    let disk = lab.state().join("a.disk");
    let mut image = fs::read(&disk).unwrap();
    assert_eq!(image.len(), 256 << 10);
    image[..8192].fill(0xa5);
    fs::write(&disk, &image).unwrap();
    let other = node.start();
    assert_ne!(other, first);
    assert!(node.said().contains("store: the disk is not used"), "{}", node.said());
    node.kill();
    assert_eq!(fs::read(&disk).unwrap(), image, "it is left as it is");
}

#[test]
fn hosted_disk_outlives_its_node() {
    a_disk_outlives_its_node("hosted");
}

#[test]
fn qemu_disk_outlives_its_node() {
    a_disk_outlives_its_node("qemu");
}
