//! The program `bees-node` as whoever starts it sees it.

use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use sim::lab::{Keys, Lab, Plan};
use wire::capsule::Capsule;
use wire::id::CapsuleId;

const LIMIT: Duration = Duration::from_secs(20);

/// A folder that is removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("bees-node-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn unix(&self, local: &str, remote: &str) -> String {
        format!("--link=unix:{},{}", self.at(local).display(), self.at(remote).display())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A running node, which does not outlive the test.
struct Node(Option<Child>);

impl Node {
    fn start(config: &str, arguments: &[String]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_bees-node"))
            .args(["--config", "-"])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // One that finds a mistake in its arguments is gone before it reads.
        let _ = child.stdin.take().unwrap().write_all(config.as_bytes());
        Self(Some(child))
    }

    fn id(&self) -> i32 {
        self.0.as_ref().unwrap().id() as i32
    }

    fn end(mut self, signal: Option<libc::c_int>) -> Output {
        if let Some(signal) = signal {
            // Safety: the call takes plain numbers; the process is our child and not yet waited for.
            assert_eq!(unsafe { libc::kill(self.id(), signal) }, 0);
        }
        self.0.take().unwrap().wait_with_output().unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn plan() -> Plan {
    let mut lab = Lab::line(2);
    // The other end is this test, which shakes no hands.
    lab.defaults.protect = false;
    lab.plan(&Keys { admin: BASE_POINT, identities: vec![[1; 32], [2; 32]], ..Keys::default() }).unwrap()
}

/// A valid Ed25519 public key (RFC 8032, section 5.1).
const BASE_POINT: [u8; 32] = {
    let mut key = [0x66; 32];
    key[0] = 0x58;
    key
};

fn wait_for(path: &Path) {
    let start = Instant::now();
    while !path.exists() {
        assert!(start.elapsed() < LIMIT, "{} does not appear", path.display());
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The first frame of this EtherType.
fn receive(socket: &UnixDatagram, ethertype: u16) -> Vec<u8> {
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    let mut frame = [0; 2048];
    loop {
        let n = socket.recv(&mut frame).expect("a frame comes");
        if frame[12..14] == ethertype.to_be_bytes() {
            return frame[..n].to_vec();
        }
    }
}

/// Processor time of a process so far.
fn processor_time(pid: i32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    // Safety: the call takes and returns plain numbers.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as u64;
    Duration::from_millis(ticks * 1000 / per_second)
}

#[test]
fn a_node_answers_on_its_links_and_ends_when_told() {
    let (folder, plan) = (Folder::new("answers"), plan());
    let mgmt = UnixDatagram::bind(folder.at("mgmt.wire")).unwrap();
    let data = UnixDatagram::bind(folder.at("data.wire")).unwrap();
    let arguments = [
        folder.unix("mgmt.node", "mgmt.wire"),
        folder.unix("data.node", "data.wire"),
        format!("--log={}", folder.at("log").display()),
    ];
    let node = Node::start(&plan.nodes[0].config, &arguments);
    wait_for(&folder.at("data.node"));

    // Who has 10.255.0.1? Tell 10.255.9.9.
    let mut arp = vec![0xff; 6];
    arp.extend_from_slice(&[2, 9, 9, 9, 9, 9, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 9, 9, 9, 9, 9, 10, 255, 9, 9]);
    arp.extend_from_slice(&[0, 0, 0, 0, 0, 0, 10, 255, 0, 1]);
    mgmt.send_to(&arp, folder.at("mgmt.node")).unwrap();
    let answer = receive(&mgmt, 0x0806);
    assert_eq!(answer[..12], [2, 9, 9, 9, 9, 9, 2, 0, 0, 0, 1, 0]);
    assert_eq!(answer[28..32], [10, 255, 0, 1]);

    // A capsule that the node does not know makes it ask the neighbor what it is.
    let id = CapsuleId([7; 16]);
    let mut frame = [plan.nodes[0].nics[1].mac, plan.nodes[1].nics[1].mac].concat();
    frame.extend_from_slice(&wire::ETHERTYPE.to_be_bytes());
    let header = frame.len();
    frame.resize(header + wire::capsule::HEADER_LEN, 0);
    Capsule::emit_header(&mut frame[header..], &id, 0);
    data.send_to(&frame, folder.at("data.node")).unwrap();
    let question = receive(&data, wire::ETHERTYPE);
    assert_eq!(question[..6], plan.nodes[1].nics[1].mac);
    let capsule = Capsule::parse(&question[14..]).unwrap();
    assert_eq!(capsule.id, wire::system::translation_id(wire::system::REQUEST));

    let output = node.end(Some(libc::SIGTERM));
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let console = String::from_utf8(output.stdout).unwrap();
    assert!(console.lines().next().unwrap().starts_with("[    0."), "{console}");
    assert!(console.contains("node n1 on linux"), "{console}");
    assert_eq!(std::fs::read_to_string(folder.at("log")).unwrap(), console);
    assert!(!folder.at("data.node").exists() && !folder.at("mgmt.node").exists());
}

#[test]
fn an_idle_node_costs_next_to_nothing() {
    let (folder, plan) = (Folder::new("idle"), plan());
    let arguments = [folder.unix("m", "m.wire"), folder.unix("d", "d.wire")];
    let node = Node::start(&plan.nodes[0].config, &arguments);
    wait_for(&folder.at("d"));
    std::thread::sleep(Duration::from_millis(500));
    let before = processor_time(node.id());
    std::thread::sleep(Duration::from_secs(2));
    let used = processor_time(node.id()) - before;
    assert!(used <= Duration::from_millis(20), "{used:?} in two seconds");
    assert_eq!(node.end(Some(libc::SIGINT)).status.code(), Some(0));
}

#[test]
fn mistakes_are_told() {
    let (folder, plan) = (Folder::new("mistakes"), plan());
    let good = &plan.nodes[0].config;
    let two = [folder.unix("m", "m.wire"), folder.unix("d", "d.wire")];
    let refused = |config: &str, arguments: &[String], status, text: &str| {
        let output = Node::start(config, arguments).end(None);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(status), "{error}");
        assert!(error.contains(text), "{error}");
    };
    refused(good, &two[..1], 1, "2 links");
    refused("[node]\nname = 3", &two, 1, "line 2");
    refused(good, &[two[0].clone(), "--link=packet:no-such-interface".into()], 1, "n1-n2");
    refused(good, &[two[0].clone(), "--link=pipe:x".into()], 2, "unix:LOCAL,REMOTE");
    assert!(!folder.at("m").exists(), "a node that does not start leaves nothing behind");
}
