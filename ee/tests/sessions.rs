//! Sessions over TCP and by UDP as programs on the management link have them, many at once; and what others try.

mod common;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;

use common::guest::{self, Flow};
use common::host::{HOST, Host};
use common::{Options, Random, World};
use nodeos::link::LinkId;
use wire::control::FlowState;
use wire::datagram::{self, CREDIT, FromNode, HEADER, IDLE_SECONDS, MAX_PACKET, Said, Token, open};
use wire::session::{Reader, frame};

/// The only link of the only node.
const MGMT: LinkId = LinkId(0);
const LINKS: &str = r#"
    [[link]]
    name = "mgmt"
    mac = "02:00:00:00:10:00"
    address = "10.255.0.2/16"
    management = true
"#;

/// Says what it is told.
const ECHO: &str = r#"
    (func (export "on_session") (param $c i32) (param $s i32) (param $what i32) (param $len i32)
        (if (i32.ne (local.get $what) (i32.const 1)) (then (return)))
        (drop (call $session_read (local.get $s) (i32.const 0) (i32.const 1024) (local.get $len)))
        (drop (call $session_reply (local.get $s) (i32.const 1024) (local.get $len))))"#;

/// Says at once how long packets may be, and on each packet as much as it can: 1200 bytes at a time.
const FLOOD: &str = r#"
    (func (export "on_session") (param $c i32) (param $s i32) (param $what i32) (param $len i32)
        (local $n i32)
        (if (i32.eqz (local.get $what)) (then
            (i32.store (i32.const 512) (local.get $len))
            (i32.store (i32.const 516)
                (call $session_reply (local.get $s) (i32.const 1024) (i32.add (local.get $len) (i32.const 1))))
            (drop (call $session_reply (local.get $s) (i32.const 512) (i32.const 8)))))
        (if (i32.eq (local.get $what) (i32.const 1)) (then
            (loop $more
                (local.set $n (i32.add (local.get $n) (i32.const 1)))
                (br_if $more (i32.and (i32.lt_u (local.get $n) (i32.const 40))
                    (i32.eqz (call $session_reply (local.get $s) (i32.const 1024) (i32.const 1200)))))))))"#;

fn world(team: &str) -> World {
    World::line_with(1, Options { team, more: LINKS, ..Options::default() })
}

fn echo() -> Flow {
    guest::of("echo", ECHO)
}

/// A program at this address, which need not be the host's.
fn program(last: u8, port: u16) -> SocketAddr {
    SocketAddr::from(([HOST[0], HOST[1], HOST[2], last], port))
}

/// The cookie for an address.
fn cookie(world: &mut World, host: &mut Host, from: SocketAddr) -> Token {
    let answers = host.say(world, from, &open("echo", None));
    match answers.iter().map(|a| FromNode::parse(a)).collect::<Vec<_>>()[..] {
        [Ok(FromNode::Cookie(cookie))] => cookie,
        ref other => panic!("{other:?}"),
    }
}

/// Opens a session by datagrams; its token, or why not.
fn dialog(world: &mut World, host: &mut Host, from: SocketAddr, flow: &str) -> Result<Token, String> {
    let cookie = cookie(world, host, from);
    let answers = host.say(world, from, &open(flow, Some(cookie)));
    match FromNode::parse(&answers[0]) {
        Ok(FromNode::Opened(token, _)) => Ok(token),
        Ok(FromNode::Refused(why)) => Err(why.to_string()),
        other => panic!("{other:?}"),
    }
}

/// What comes back for a packet, after the flow has had time.
fn echoed(world: &mut World, host: &mut Host, from: SocketAddr, token: Token, packet: &[u8]) -> Vec<Vec<u8>> {
    let mut answers = host.say(world, from, &Said::Packet(token, packet).encode());
    for _ in 0..3 {
        host.step(world);
    }
    answers.extend(host.datagrams.drain(..).filter(|(to, _)| *to == from).map(|(_, bytes)| bytes));
    answers
}

fn packet(token: Token, bytes: &[u8]) -> Vec<u8> {
    Said::Packet(token, bytes).encode()
}

#[test]
fn a_session_by_datagrams_from_its_opening_to_its_end() {
    let (mut world, mut host) = (world(""), Host::new(MGMT));
    let hash = world.start(0, &echo());
    let empty = world.holds(0);
    let me = program(99, 5000);
    let cookie = cookie(&mut world, &mut host, me);
    assert_eq!(world.holds(0), empty, "nothing is kept of who has shown nothing");
    let question = open("echo", Some(cookie));
    let opened = host.say(&mut world, me, &question);
    let Ok(FromNode::Opened(token, flow)) = FromNode::parse(&opened[0]) else { panic!("{opened:?}") };
    assert_eq!(flow, hash.to_string());
    // The answer was lost: the same session again.
    assert_eq!(host.say(&mut world, me, &question), opened);
    assert_eq!(world.flow(0, hash).unwrap().sessions, 1);
    for bytes in [&b""[..], b"hello", &[7; MAX_PACKET]] {
        assert_eq!(echoed(&mut world, &mut host, me, token, bytes), [packet(token, bytes)]);
    }
    let alive = Said::Alive(token).encode();
    assert_eq!(host.say(&mut world, me, &alive), std::slice::from_ref(&alive));
    let close = Said::Close(token).encode();
    assert_eq!(host.say(&mut world, me, &close), std::slice::from_ref(&close));
    host.step(&mut world);
    assert_eq!(world.flow(0, hash).unwrap().sessions, 0);
    // Over: neither its token nor its cookie is worth anything.
    assert_eq!(host.say(&mut world, me, &packet(token, b"x")), std::slice::from_ref(&close));
    assert_eq!(host.say(&mut world, me, &question), Vec::<Vec<u8>>::new());
    assert_eq!(host.say(&mut world, me, &close), Vec::<Vec<u8>>::new(), "two nodes do not go on for ever");
    assert!(world.holds(0).0 <= empty.0 + 1024, "but slots of its queue");
    // The flow's end is told.
    host.step(&mut world);
    let other = program(99, 5001);
    let token = dialog(&mut world, &mut host, other, "echo").unwrap();
    host.datagrams.clear();
    world.stop(0, hash, true);
    host.step(&mut world);
    assert_eq!(host.datagrams, [(other, Said::Close(token).encode())]);
    assert_eq!(
        dialog(&mut world, &mut host, program(99, 5002), "echo").unwrap_err(),
        "no flow of that name or hash runs here"
    );
}

#[test]
fn nobody_gets_more_than_he_sends_before_he_has_shown_a_cookie() {
    let (mut world, mut host) = (world(""), Host::new(MGMT));
    world.start(0, &echo());
    let me = program(99, 5000);
    let real = cookie(&mut world, &mut host, me);
    let token = dialog(&mut world, &mut host, me, "echo").unwrap();
    let held = world.holds(0);
    let mut random = Random::new(7);
    let long = open(&"x".repeat(400), None);
    let mut seeds = vec![
        open("echo", None),
        open("echo", Some(real)),
        open("nothing", Some(real)),
        open(&"y".repeat(100), Some(real)),
        long,
        packet(token, b"mine"),
        packet(Token([0; 8]), &[1; 1000]),
        Said::Alive(token).encode(),
        Said::Alive(Token([1; 8])).encode(),
        Said::Close(token).encode(),
        b"open echo\n".to_vec(),
        vec![0; datagram::MAX_DATAGRAM + 1],
        vec![],
    ];
    for n in 0..3000 {
        if n >= seeds.len() {
            let mut bytes = seeds[n % seeds.len()].clone();
            match random.below(4) {
                0 => bytes.truncate(random.below(bytes.len() + 1)),
                1 => bytes.extend(vec![0; random.below(100)]),
                _ if bytes.is_empty() => {}
                _ => {
                    let at = random.below(bytes.len());
                    bytes[at] = random.below(256) as u8;
                }
            }
            if n < 20 {
                seeds.push(bytes.clone());
            }
            check(&mut world, &mut host, &bytes, n);
        } else {
            check(&mut world, &mut host, &seeds[n].clone(), n);
        }
    }
    // Other people's cookies and tokens were not good for anything.
    assert_eq!(world.holds(0), held);
    assert_eq!(echoed(&mut world, &mut host, me, token, b"still"), [packet(token, b"still")]);
    assert!(world.count(0, "client_datagrams_refused") > 1000);

    /// From an address that nobody has.
    fn check(world: &mut World, host: &mut Host, bytes: &[u8], n: usize) {
        let from = program(3 + (n % 90) as u8, 1 + n as u16);
        let answers = host.say(world, from, bytes);
        let sent: usize = answers.iter().map(Vec::len).sum();
        assert!(sent <= bytes.len(), "{} bytes for {}: {answers:?}", sent, bytes.len());
        assert!(host.datagrams.is_empty(), "others hear nothing of it");
    }
}

#[test]
fn a_cookie_is_for_one_address_and_a_short_while() {
    let (mut world, mut host) = (world(""), Host::new(MGMT));
    world.start(0, &echo());
    let old = cookie(&mut world, &mut host, program(99, 5000));
    for thief in [program(98, 5000), program(99, 5001)] {
        let answers = host.say(&mut world, thief, &open("echo", Some(old)));
        assert!(matches!(FromNode::parse(&answers[0]), Ok(FromNode::Cookie(_))), "asked for his own");
    }
    world.run(Duration::from_secs(25));
    let answers = host.say(&mut world, program(99, 5000), &open("echo", Some(old)));
    assert!(matches!(FromNode::parse(&answers[0]), Ok(FromNode::Cookie(fresh)) if fresh != old));
    assert_eq!(world.count(0, "sessions_opened"), 0);
}

#[test]
fn sessions_by_datagrams_are_bounded_and_end_with_their_programs() {
    let (mut world, mut host) = (world("sessions = 200\nqueue = 300"), Host::new(MGMT));
    let hash = world.start(0, &echo());
    let empty = world.holds(0).0;
    let mut open = Vec::new();
    for last in 11..=15 {
        let of_one = (0..40).map(|n| (last, n)).take_while(|(last, n)| {
            let opened = dialog(&mut world, &mut host, program(*last, 6000 + n), "echo");
            host.step(&mut world);
            open.extend(opened.as_ref().ok().map(|token| (program(*last, 6000 + n), *token)));
            opened.is_ok()
        });
        let of_one = of_one.count();
        assert_eq!(of_one, if last < 15 { 32 } else { 0 }, "of address {last}");
    }
    assert_eq!(open.iter().map(|(_, token)| token.0).collect::<HashSet<_>>().len(), 128);
    // Streams have the other half.
    let stream = host.connect(3323);
    (0..5).for_each(|_| host.step(&mut world));
    host.tcp(stream).send_slice(b"open echo\n").unwrap();
    (0..5).for_each(|_| host.step(&mut world));
    assert!(host.take(stream).starts_with(b"ok "));
    host.tcp(stream).abort();
    host.step(&mut world);
    assert!(world.count(0, "sessions_refused") >= 5);
    // One goes on, the others are silent.
    let (me, token) = open[0];
    for _ in 0..IDLE_SECONDS / 10 + 1 {
        world.run(Duration::from_secs(10));
        host.say(&mut world, me, &Said::Alive(token).encode());
    }
    assert_eq!(world.flow(0, hash).unwrap().sessions, 1);
    assert_eq!(echoed(&mut world, &mut host, me, token, b"x"), [packet(token, b"x")]);
    host.say(&mut world, me, &Said::Close(token).encode());
    host.step(&mut world);
    assert!(world.holds(0).0 <= empty + 1024, "{} then, {empty} before", world.holds(0).0);
}

#[test]
fn a_budget_bounds_both_kinds_and_the_program_is_told() {
    let (mut world, mut host) = (world("sessions = 3"), Host::new(MGMT));
    world.start(0, &echo());
    for n in 0..3 {
        dialog(&mut world, &mut host, program(99, 5000 + n), "echo").unwrap();
        host.step(&mut world);
    }
    let full = "the flow has as many sessions as its budget allows";
    assert_eq!(dialog(&mut world, &mut host, program(99, 5003), "echo").unwrap_err(), full);
    let stream = host.connect(3323);
    (0..5).for_each(|_| host.step(&mut world));
    host.tcp(stream).send_slice(b"open echo\n").unwrap();
    (0..5).for_each(|_| host.step(&mut world));
    assert_eq!(String::from_utf8(host.take(stream)).unwrap(), format!("error {full}\n"));
}

#[test]
fn a_flood_of_datagrams_holds_nothing_and_leaves_room() {
    let (mut world, mut host) = (world(""), Host::new(MGMT));
    world.start(0, &echo());
    let token = dialog(&mut world, &mut host, program(99, 5000), "echo").unwrap();
    host.step(&mut world);
    let held = world.holds(0);
    for round in 0..10u16 {
        for n in 0..400 {
            let from = program(3 + (n % 90) as u8, 1000 * round + n + 1);
            world.hand(0, MGMT, &common::host::to_node(from, &open("echo", None)));
        }
        assert!(world.info(0).buffers.0 <= held.1 + nodeos::net::MAX_DATAGRAMS as u32);
        host.step(&mut world);
        host.step(&mut world);
        host.datagrams.clear();
        let me = program(99, 5000);
        assert_eq!(echoed(&mut world, &mut host, me, token, b"mine"), [packet(token, b"mine")], "{round}");
    }
    assert_eq!(world.holds(0), held);
}

#[test]
fn a_program_that_is_gone_is_not_flooded() {
    let (mut world, mut host) = (world("queue = 300"), Host::new(MGMT));
    world.start(0, &guest::of("flood", FLOOD));
    let me = program(99, 5000);
    let cookie = cookie(&mut world, &mut host, me);
    let mut told = host.say(&mut world, me, &open("flood", Some(cookie)));
    (0..3).for_each(|_| host.step(&mut world));
    told.extend(host.datagrams.drain(..).map(|(_, bytes)| bytes));
    let Ok(FromNode::Opened(token, _)) = FromNode::parse(&told[0]) else { panic!("{told:?}") };
    let Ok(FromNode::Said(Said::Packet(_, told))) = FromNode::parse(&told[1]) else { panic!("{told:?}") };
    // 1200 bytes, and TOO_LARGE for more.
    assert_eq!(told, [1200i32.to_le_bytes(), (-11i32).to_le_bytes()].concat());
    // Two questions that come at once: the answers to both are for one credit.
    for _ in 0..2 {
        world.hand(0, MGMT, &common::host::to_node(me, &packet(token, b"go")));
    }
    (0..20).for_each(|_| host.step(&mut world));
    let sent: usize = host.datagrams.drain(..).map(|(_, bytes)| bytes.len()).sum();
    assert!(sent <= CREDIT && sent > CREDIT - 2 * (HEADER + MAX_PACKET), "{sent}");
    assert!(world.count(0, "session_datagrams_dropped") >= 20);
    // It is heard again, and has as much again.
    let answers = echoed(&mut world, &mut host, me, token, b"go");
    assert_eq!(answers.len(), 40);
}

/// A guest that gives more than may wait is told of room by datagrams, too: once its program is there to read it.
#[test]
fn a_guest_is_told_of_room_when_its_program_is_heard() {
    let (mut world, mut host) = (world("queue = 300"), Host::new(MGMT));
    let more = FLOOD.replace("i32.const 40", "i32.const 60");
    let room = more.replacen(
        "(local $n i32)",
        r#"(local $n i32)
        (if (i32.eq (local.get $what) (i32.const 3)) (then
            (drop (call $session_reply (local.get $s) (i32.const 512) (i32.const 5)))))"#,
        1,
    );
    world.start(0, &guest::of("flood", &room));
    let me = program(99, 5000);
    let token = dialog(&mut world, &mut host, me, "flood").unwrap();
    (0..3).for_each(|_| host.step(&mut world));
    let answers = echoed(&mut world, &mut host, me, token, b"go");
    (0..50).for_each(|_| host.step(&mut world));
    assert_eq!((answers.len(), host.datagrams.len()), (54, 0), "64 KiB, and nothing more until it is heard");
    let mut answers = host.say(&mut world, me, &Said::Alive(token).encode());
    (0..3).for_each(|_| host.step(&mut world));
    answers.extend(host.datagrams.drain(..).map(|(_, bytes)| bytes));
    assert_eq!(answers.iter().map(Vec::len).collect::<Vec<_>>(), [HEADER, HEADER + 5]);
}

/// A program with a stream.
struct Client {
    socket: smoltcp::iface::SocketHandle,
    reader: Reader,
    opened: Option<String>,
    heard: Vec<Vec<u8>>,
    output: Vec<u8>,
}

impl Client {
    fn new(host: &mut Host, flow: &str) -> Self {
        let output = format!("open {flow}\n").into_bytes();
        let socket = host.connect(3323);
        Self { socket, reader: Reader::default(), opened: None, heard: Vec::new(), output }
    }

    fn say(&mut self, packet: &[u8]) {
        self.output.extend(frame(packet).unwrap());
    }

    fn work(&mut self, host: &mut Host) {
        let socket = host.tcp(self.socket);
        if socket.can_send() && !self.output.is_empty() {
            let n = socket.send_slice(&self.output).unwrap();
            self.output.drain(..n);
        }
        self.reader.push(&host.take(self.socket));
        if self.opened.is_none() {
            self.opened = self.reader.line().unwrap();
        }
        if self.opened.is_some() {
            while let Some(packet) = self.reader.packet().unwrap() {
                self.heard.push(packet);
            }
        }
    }
}

/// What programs are told is sent at the team's rate on the link, however many of them ask, and nothing of it is lost.
#[test]
fn programs_are_told_at_the_teams_rate() {
    // 100,000 bytes a second, headers included.
    let (mut world, mut host) =
        (world("queue = 300\nsessions = 20\nrate = \"800kbit\"\nburst = \"4k\""), Host::new(MGMT));
    let hash = world.start(0, &guest::of("flood", FLOOD));
    world.start(0, &echo());
    let mut clients: Vec<Client> = (0..2).map(|_| Client::new(&mut host, "flood")).collect();
    let mut other = Client::new(&mut host, "echo");
    let me = program(99, 5000);
    let token = dialog(&mut world, &mut host, me, "flood").unwrap();
    for _ in 0..200 {
        host.step(&mut world);
        clients.iter_mut().chain([&mut other]).for_each(|client| client.work(&mut host));
    }
    host.datagrams.clear();
    let heard = |clients: &[Client]| clients.iter().flat_map(|c| &c.heard).map(Vec::len).sum::<usize>();
    let before = heard(&clients);
    clients.iter_mut().for_each(|client| client.say(b"go"));
    let at_once: usize = host.say(&mut world, me, &packet(token, b"go")).iter().map(Vec::len).sum();
    let mut sent = Vec::new();
    for step in 1..=3000 {
        host.step(&mut world);
        clients.iter_mut().chain([&mut other]).for_each(|client| client.work(&mut host));
        let datagrams: usize = host.datagrams.iter().map(|(_, bytes)| bytes.len()).sum();
        sent.push(heard(&clients) - before + at_once + datagrams);
        assert!(sent[step - 1] <= 4096 + 100 * (step + 1), "{} bytes after {step} ms", sent[step - 1]);
        if step == 100 {
            other.say(b"hello");
        }
        assert!(step < 110 || other.heard == [b"hello"], "another flow's programs wait for nobody");
    }
    assert_eq!(sent.last(), Some(&(2 * 40 * 1200 + 40 * (HEADER + 1200))), "all of it has come");
    assert!(sent[1000] > 80_000, "{} bytes in a second", sent[1000]);
    let team = world.teams(0).into_iter().find(|team| team.flow == Some(hash)).unwrap();
    assert!(team.sent.0 >= 150_000 && team.throttled_us > 1_000_000, "{team:?}");
    assert_eq!(world.count(0, "session_datagrams_dropped"), 0);
}

/// A reply that is longer than the team's burst goes out in pieces, however small that is; by datagrams the guest is told what
/// passes.
#[test]
fn a_burst_that_is_shorter_than_a_segment_delays_replies_and_stops_none() {
    for burst in [1077, 600, 120] {
        let terms = format!("rate = \"8mbit\"\nburst = \"{burst}\"");
        let (mut world, mut host) = (world(&terms), Host::new(MGMT));
        world.start(0, &echo());
        let mut client = Client::new(&mut host, "echo");
        let packet = vec![7; 10_000];
        [&packet[..], b"after"].into_iter().for_each(|packet| client.say(packet));
        for _ in 0..1000 {
            host.step(&mut world);
            client.work(&mut host);
        }
        assert!(client.heard == [&packet[..], b"after"], "{burst}: {:?}", client.heard.len());
    }
    let (mut world, mut host) = (world("rate = \"8mbit\"\nburst = \"600\""), Host::new(MGMT));
    world.start(0, &guest::of("flood", FLOOD));
    let me = program(99, 5000);
    let cookie = cookie(&mut world, &mut host, me);
    let mut told = host.say(&mut world, me, &open("flood", Some(cookie)));
    (0..3).for_each(|_| host.step(&mut world));
    told.extend(host.datagrams.drain(..).map(|(_, bytes)| bytes));
    let Ok(FromNode::Said(Said::Packet(_, told))) = FromNode::parse(&told[1]) else { panic!("{told:?}") };
    let most = 600 - 42 - HEADER as i32;
    assert_eq!(told, [most.to_le_bytes(), (-11i32).to_le_bytes()].concat());
}

/// Where not one byte of a reply would pass there are no sessions; those that there are end.
#[test]
fn a_flow_that_may_not_say_a_byte_has_no_sessions() {
    let (mut world, mut host) = (world("burst = \"50\"\nrate = \"8mbit\""), Host::new(MGMT));
    world.start(0, &echo());
    let opened = |world: &mut World, host: &mut Host| {
        let mut client = Client::new(host, "echo");
        for _ in 0..20 {
            host.step(world);
            client.work(host);
        }
        (client.opened.clone(), client)
    };
    let why = "the flow's bandwidth lets no reply pass";
    assert_eq!(opened(&mut world, &mut host).0, Some(format!("error {why}")));
    assert_eq!(dialog(&mut world, &mut host, program(99, 5000), "echo"), Err(why.to_string()));
    assert_eq!(world.count(0, "sessions_refused"), 2);
    // One that had more when the session was opened.
    let (mut world, mut host) = (self::world("burst = \"600\"\nrate = \"8mbit\""), Host::new(MGMT));
    let flow = world.start(0, &echo());
    let (line, mut client) = opened(&mut world, &mut host);
    assert_eq!(line, Some(format!("ok {flow}")));
    let mut budgets = wire::tuple::Budgets::default();
    budgets.set(wire::budget::Kind::Burst, Some(54));
    let answer = world.control(0, wire::control::Request::FlowLimit { flow, budgets });
    assert_eq!(answer, wire::control::Answer::Done);
    client.say(&[7; 1000]);
    for _ in 0..50 {
        host.step(&mut world);
        client.work(&mut host);
    }
    assert_eq!((client.heard.len(), world.flow(0, flow).unwrap().sessions), (0, 0));
    assert!(!host.tcp(client.socket).may_recv(), "the program is told");
    assert_eq!(world.count(0, "sessions_refused"), 1);
}

/// The next version of a flow talks to the programs of the old one at its own rate.
#[test]
fn a_version_that_took_sessions_over_is_held_to_its_rate() {
    let (mut world, mut host) = (world("rate = \"800kbit\"\nburst = \"4k\""), Host::new(MGMT));
    let one = guest::of("flood", FLOOD);
    world.start(0, &one);
    let mut client = Client::new(&mut host, "flood");
    for _ in 0..100 {
        host.step(&mut world);
        client.work(&mut host);
    }
    let two = guest::flow("flood", guest::module(FLOOD), |body| body.replaces = Some(one.hash()));
    let hash = world.inject(0, &two);
    for _ in 0..1000 {
        host.step(&mut world);
        client.work(&mut host);
    }
    assert_eq!(world.state(0, hash), Some(FlowState::Running));
    let heard = |client: &Client| client.heard.iter().map(Vec::len).sum::<usize>();
    let before = heard(&client);
    client.say(b"go");
    for step in 1..=1000 {
        host.step(&mut world);
        client.work(&mut host);
        let sent = heard(&client) - before;
        assert!(sent <= 4096 + 100 * (step + 1), "{sent} bytes after {step} ms");
    }
    assert_eq!(heard(&client) - before, 40 * 1200);
    let team = world.teams(0).into_iter().find(|team| team.flow == Some(hash)).unwrap();
    assert!(team.sent.0 >= 40 * 1200, "{team:?}");
}

/// Two hundred at once, more than the flow's queue has places, and all are served.
#[test]
fn two_hundred_programs_at_once() {
    let (mut world, mut host) = (world("sessions = 250\nqueue = 16"), Host::new(MGMT));
    let hash = world.start(0, &echo());
    let empty = world.holds(0).0;
    let mut clients: Vec<Client> = (0..200).map(|_| Client::new(&mut host, "echo")).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        (0..20u8).for_each(|k| client.say(&[n as u8, k]));
    }
    let done = |client: &Client| client.heard.len() == 20;
    for _ in 0..4000 {
        host.step(&mut world);
        clients.iter_mut().for_each(|client| client.work(&mut host));
        if clients.iter().all(done) {
            break;
        }
    }
    let served = clients.iter().filter(|c| done(c)).count();
    assert_eq!(served, 200, "{:?}", clients.iter().find(|c| !done(c)).map(|c| (&c.opened, c.heard.len())));
    for (n, client) in clients.iter().enumerate() {
        assert!(client.heard.iter().enumerate().all(|(k, packet)| packet[..] == [n as u8, k as u8]), "{n}");
    }
    assert_eq!((world.count(0, "sessions_opened"), world.count(0, "client_stream_errors")), (200, 0));
    assert_eq!(world.flow(0, hash).unwrap().sessions, 200);
    // They hang up, and all that they held comes back.
    clients.iter().for_each(|client| host.tcp(client.socket).abort());
    for _ in 0..50 {
        host.step(&mut world);
    }
    assert_eq!(world.flow(0, hash).unwrap().sessions, 0);
    // But the slots of its queue.
    assert!(world.holds(0).0 <= empty + (64 << 10), "{} then, {empty} before", world.holds(0).0);
    // And others have their places.
    let mut client = Client::new(&mut host, "echo");
    client.say(b"after");
    for _ in 0..50 {
        host.step(&mut world);
        client.work(&mut host);
    }
    assert_eq!(client.heard, [b"after"]);
}

/// More than may be: who is too many is not answered, and the node goes on.
#[test]
fn no_more_programs_than_the_node_has_places() {
    let (mut world, mut host) = (world("sessions = 100"), Host::new(MGMT));
    world.start(0, &echo());
    let mut silent: Vec<_> = (0..300).map(|_| host.connect(3323)).collect();
    for _ in 0..50 {
        host.step(&mut world);
    }
    let open = silent.iter().filter(|s| host.tcp(**s).may_send()).count();
    assert_eq!(open, 208, "of one address that says nothing");
    // Ten seconds later they are gone.
    world.run(Duration::from_secs(11));
    for _ in 0..50 {
        host.step(&mut world);
    }
    silent.drain(..).for_each(|s| host.tcp(s).abort());
    let mut client = Client::new(&mut host, "echo");
    client.say(b"after");
    for _ in 0..500 {
        host.step(&mut world);
        client.work(&mut host);
    }
    assert_eq!(client.heard, [b"after"]);
}

/// Nobody pays for what a session still owes when it is over: who reads it has it, who does not is sent away.
#[test]
fn who_does_not_read_after_the_end_keeps_nothing() {
    let (mut world, mut host) = (world(""), Host::new(MGMT));
    world.start(0, &guest::of("flood", FLOOD));
    let [silent, slow] = [(); 2].map(|()| host.connect(3323));
    (0..20).for_each(|_| host.step(&mut world));
    // Much is owed when they say what is too long to be a packet.
    for bytes in [[b"open flood\n", &frame(b"x").unwrap()[..]].concat(), vec![0xff; 2]] {
        for program in [silent, slow] {
            assert_eq!(host.tcp(program).send_slice(&bytes), Ok(bytes.len()));
        }
        (0..50).for_each(|_| host.step(&mut world));
    }
    let mut read = Vec::new();
    for second in 0..20 {
        (0..100).for_each(|_| host.step(&mut world));
        read.extend(host.take(slow));
        assert_eq!(host.tcp(silent).may_send(), second < 10, "{second}");
        world.run(Duration::from_millis(900));
    }
    assert!(read.len() > 40 * 1202 && read.ends_with(b"are allowed\n"), "{}", read.len());
    assert!(host.tcp(silent).recv_queue() > 0);
}

/// A program that writes faster than the flow reads waits; none of what it said is lost.
#[test]
fn a_stream_waits_for_a_busy_flow() {
    let (mut world, mut host) = (world("queue = 2"), Host::new(MGMT));
    world.start(0, &echo());
    let mut client = Client::new(&mut host, "echo");
    let packets: Vec<Vec<u8>> = (0..300u32).map(|n| vec![n as u8; (n as usize * 37) % 3000]).collect();
    packets.iter().for_each(|packet| client.say(packet));
    for _ in 0..20_000 {
        host.step(&mut world);
        client.work(&mut host);
        if client.heard.len() == packets.len() {
            break;
        }
    }
    assert_eq!(client.heard.len(), packets.len());
    assert!(client.heard == packets);
    assert_eq!(world.count(0, "team_queue_full"), 0);
}

#[test]
fn a_name_means_the_flow_that_was_injected_last() {
    let (mut world, mut host) = (world(""), Host::new(MGMT));
    let first = world.start(0, &echo());
    world.run(Duration::from_millis(10));
    let second = world.start(0, &guest::flow("echo", guest::module(ECHO), |b| b.nonce = [9; 16]));
    let opened = |world: &mut World, host: &mut Host, name: &str| {
        let mut client = Client::new(host, name);
        for _ in 0..20 {
            host.step(world);
            client.work(host);
        }
        client.opened.unwrap()
    };
    assert_eq!(opened(&mut world, &mut host, "echo"), format!("ok {second}"));
    assert_eq!(opened(&mut world, &mut host, &first.to_string()), format!("ok {first}"));
    assert_eq!(opened(&mut world, &mut host, &first.to_string()[..8]), format!("ok {first}"));
    assert_eq!(opened(&mut world, &mut host, "ech"), "error no flow of that name or hash runs here");
    let mute = guest::flow("mute", guest::module(""), |b| {
        (b.protocols[0].session, b.protocols[0].events.session) = (false, None);
    });
    world.start(0, &mute);
    assert_eq!(opened(&mut world, &mut host, "mute"), "error the flow's protocol has no sessions");
    assert_eq!(world.state(0, second), Some(FlowState::Running));
}
