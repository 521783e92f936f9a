//! A node that has just started fetches its protocols from a server, which may do as it likes.

mod common;

use std::time::Duration;

use authagent::keys::SigningKey;
use common::guest::{self, Flow};
use common::host::Host;
use common::{Options, World};
use nodeos::link::LinkId;
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::State;
use wire::control::FlowState;
use wire::server::{Question, take_line};
use wire::tuple::{Credentials, Scheme, Tuple};

const MGMT: LinkId = LinkId(0);
const LINKS: &str = r#"
    [[link]]
    name = "mgmt"
    mac = "02:00:00:00:10:00"
    address = "10.255.0.2/16"
    management = true
    [server]
    address = "10.255.0.99:3325"
    start = ["one", "two"]
"#;

type Lie = fn(&Question, Vec<u8>) -> Vec<u8>;

/// A protocol server on the host.
struct Server {
    flows: Vec<Flow>,
    socket: SocketHandle,
    input: Vec<u8>,
    output: Vec<u8>,
    /// What was asked.
    asked: Vec<String>,
    /// What to do to an answer.
    lie: Lie,
}

impl Server {
    fn new(host: &mut Host, flows: Vec<Flow>) -> Self {
        let socket = host.listen(3325);
        Self { flows, socket, input: vec![], output: vec![], asked: vec![], lie: |_, answer| answer }
    }

    fn answer(&self, question: &Question) -> Result<Vec<u8>, &'static str> {
        let flow = |name: &str| {
            let named = |f: &&Flow| f.hash().to_string() == name || name_of(f) == name;
            self.flows.iter().find(named)
        };
        match question {
            Question::List => Ok(vec![]),
            Question::Tuple(name) => flow(name).map(|f| f.tuple.clone()).ok_or("there is no such flow"),
            Question::Part(hash) => {
                let part = self.flows.iter().find(|f| f.part() == *hash);
                part.map(|f| f.module.clone()).ok_or("there is no such part")
            }
        }
    }

    fn work(&mut self, host: &mut Host) {
        self.input.extend(host.take(self.socket));
        while let Some(line) = take_line(&mut self.input).unwrap() {
            let question = Question::parse(&line).unwrap();
            self.asked.push(line);
            let answer = match self.answer(&question) {
                Ok(bytes) => [format!("ok {}\n", bytes.len()).into_bytes(), bytes].concat(),
                Err(why) => format!("error {why}\n").into_bytes(),
            };
            self.output.extend((self.lie)(&question, answer));
        }
        let socket = host.tcp(self.socket);
        if socket.can_send() && !self.output.is_empty() {
            let n = socket.send_slice(&self.output).unwrap();
            self.output.drain(..n);
        }
        let over = match socket.state() {
            State::Closed => true,
            State::CloseWait => self.output.is_empty(),
            _ => false,
        };
        if over {
            // The node hung up: the next call is taken.
            socket.abort();
            (self.input, self.output) = (vec![], vec![]);
            self.socket = host.listen(3325);
        }
    }

    fn run(&mut self, host: &mut Host, world: &mut World, ms: u64) {
        for _ in 0..ms {
            host.step(world);
            self.work(host);
        }
    }

    /// Until a flow runs; whether it does before so many seconds are over.
    fn run_until(&mut self, host: &mut Host, world: &mut World, seconds: u64, flow: &Flow) -> bool {
        (0..10 * seconds).any(|_| {
            self.run(host, world, 100);
            running(world, flow)
        })
    }
}

fn name_of(flow: &Flow) -> String {
    Tuple::decode(&flow.tuple).unwrap().main().name.clone()
}

fn flows() -> Vec<Flow> {
    // More than one read of the connection, each.
    let module = |n: u8| {
        guest::module(&format!(
            r#"(data (i32.const 4096) "{}") (func (export "on_boot") (param i32))"#,
            format!("\\{n:02x}").repeat(9000)
        ))
    };
    vec![guest::flow("one", module(1), |_| ()), guest::flow("two", module(2), |_| ())]
}

fn world(node: &str) -> World {
    World::line_with(1, Options { node, more: LINKS, ..Options::default() })
}

fn running(world: &mut World, flow: &Flow) -> bool {
    world.state(0, flow.hash()) == Some(FlowState::Running)
}

#[test]
fn a_node_fetches_what_it_is_to_run() {
    let (mut world, mut host) = (world(""), Host::new(MGMT));
    let mut server = Server::new(&mut host, flows());
    server.run(&mut host, &mut world, 500);
    let all = flows();
    assert!(all.iter().all(|flow| running(&mut world, flow)), "{:?}", world.log(0));
    let part = |flow: &Flow| Question::Part(flow.part()).to_string();
    assert_eq!(server.asked, ["tuple one".into(), part(&all[0]), "tuple two".into(), part(&all[1])]);
    let info = world.flow(0, all[0].hash()).unwrap();
    assert_eq!((info.source.as_deref(), info.injected_by), (Some("server"), None));
    // A program finds it by name, as what an operator put there.
    world.run(Duration::from_secs(600));
    assert_eq!(server.asked.len(), 4, "nothing more is asked");
    assert_eq!(world.count(0, "server_fetches_failed"), 0);
}

#[test]
fn the_auth_agent_judges_it_as_if_it_came_from_a_hop() {
    let (mut world, mut host) = (world("agent = \"source-based\""), Host::new(MGMT));
    let mut server = Server::new(&mut host, flows());
    server.run(&mut host, &mut world, 500);
    for flow in flows() {
        let why = world.why(0, flow.hash());
        assert!(why.contains("signed"), "{why}");
    }
    assert_eq!(server.asked, ["tuple one", "tuple two"], "no part of it is fetched");
}

/// A signature is verified beside the node, meanwhile there is nothing to ask; but there is soon.
#[test]
fn what_is_judged_for_a_while_is_fetched_then() {
    let key = SigningKey::from_seed(&[1; 32]);
    let node = format!(
        "agent = \"source-based\"\npolicy = '''[[principal]]\nname = \"joe\"\nkeys = [\"{}\"]\n[principal.grant]'''",
        key.public()
    );
    let signed = |flow: Flow| {
        let mut tuple = Tuple::decode(&flow.tuple).unwrap();
        let signature = key.sign(&tuple.body.encode()).to_vec();
        tuple.credentials =
            Credentials::Signed { principal: "joe".into(), scheme: Scheme::Ed25519, signature };
        Flow { module: flow.module, tuple: tuple.encode() }
    };
    for delay in [500, 1500, 100_000, 11_000_000] {
        let (mut world, mut host) = (world(&node), Host::new(MGMT));
        world.compile_us = delay;
        let all: Vec<Flow> = flows().into_iter().map(signed).collect();
        let mut server = Server::new(&mut host, all.clone());
        for flow in &all {
            assert!(server.run_until(&mut host, &mut world, 60, flow), "{delay}: {:?}", world.log(0));
        }
        assert_eq!(world.count(0, "server_fetches_failed"), 0, "{delay}: {:?}", world.log(0));
        // Nobody is kept on the line.
        server.run(&mut host, &mut world, 11_000);
        assert_eq!(host.tcp(server.socket).state(), State::Listen);
    }
}

#[test]
fn a_server_that_comes_late_is_found_and_others_are_not_kept_waiting() {
    let (mut world, mut host) = (world(""), Host::new(MGMT));
    for _ in 0..20_000 {
        host.step(&mut world);
    }
    let failed = world.count(0, "server_fetches_failed");
    assert!((3..8).contains(&failed), "{failed}: waits grow");
    // It has only the second of them.
    let mut server = Server::new(&mut host, flows().split_off(1));
    let [one, two] = &flows()[..] else { unreachable!() };
    assert!(server.run_until(&mut host, &mut world, 100, two), "{:?}", world.log(0));
    assert!(!running(&mut world, one));
    server.flows = flows();
    assert!(server.run_until(&mut host, &mut world, 100, one), "{:?}", world.log(0));
}

#[test]
fn a_server_that_lies_is_not_believed_and_holds_nothing() {
    let lies: [Lie; 8] = [
        |_, _| b"ok 99999999\n".to_vec(),
        |_, _| b"what?\n".to_vec(),
        |_, _| vec![b'x'; 4000],
        |_, _| b"ok 0\n".to_vec(),
        |q, a| if matches!(q, Question::Part(_)) { b"ok 7\nshorter".to_vec() } else { a },
        |_, a| [&a[..], b"and what nobody asked"].concat(),
        |_, a| a[..a.len() / 2].to_vec(),
        |q, mut a| {
            if matches!(q, Question::Part(_)) {
                *a.last_mut().unwrap() ^= 1;
            }
            a
        },
    ];
    for (n, lie) in lies.into_iter().enumerate() {
        let (mut world, mut host) = (world(""), Host::new(MGMT));
        let empty = world.holds(0);
        let mut server = Server::new(&mut host, flows());
        server.lie = lie;
        server.run(&mut host, &mut world, 12_000);
        let all = flows();
        assert!(!all.iter().any(|flow| running(&mut world, flow)), "lie {n}");
        let (memory, buffers, count, teams) = world.holds(0);
        assert!(count <= 1 && teams <= empty.3 + 1 && memory <= empty.0 + (1 << 20), "lie {n}: {memory}");
        assert!(buffers <= empty.1 + 4, "lie {n}");
        let noticed = world.count(0, "server_fetches_failed") + world.count(0, "peer_bad_parts");
        assert!(noticed > 0, "lie {n}: {:?}", world.log(0));
    }
}

#[test]
fn a_part_that_was_false_is_asked_for_again_ever_later() {
    let (mut world, mut host) = (world(""), Host::new(MGMT));
    let mut server = Server::new(&mut host, flows());
    server.lie = |q, mut a| {
        if matches!(q, Question::Part(_)) {
            *a.last_mut().unwrap() ^= 1;
        }
        a
    };
    server.run(&mut host, &mut world, 20_000);
    let failed = world.count(0, "server_fetches_failed");
    assert!((3..8).contains(&failed), "{failed}: waits grow, though the tuples come");
    server.lie = |_, answer| answer;
    for flow in &flows() {
        assert!(server.run_until(&mut host, &mut world, 100, flow), "{:?}", world.log(0));
    }
}

#[test]
fn another_flow_than_was_asked_for_is_not_started() {
    let (mut world, mut host) = (world(""), Host::new(MGMT));
    let [one, two] = &flows()[..] else { unreachable!() };
    let mut server = Server::new(&mut host, flows());
    server.lie = |q, a| match q {
        Question::Tuple(name) if name == "one" => {
            let tuple = &flows()[1].tuple;
            [format!("ok {}\n", tuple.len()).into_bytes(), tuple.clone()].concat()
        }
        _ => a,
    };
    server.run(&mut host, &mut world, 5000);
    assert!(!running(&mut world, one) && running(&mut world, two), "{:?}", world.log(0));
}
