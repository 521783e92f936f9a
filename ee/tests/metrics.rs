//! Metrics over HTTP: a client of the management link reads them, and what else it may try.

mod common;

use std::time::Duration;

use common::guest::{ask, question};
use common::host::Host;
use common::{Options, World};
use nodeos::link::LinkId;

/// Node a's management link: behind the one to b.
const MGMT: LinkId = LinkId(1);
const ON: &str = r#"
    [[link]]
    name = "mgmt"
    mac = "02:00:00:00:10:00"
    address = "10.255.0.2/16"
    management = true
    [control]
    admin = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    metrics = true
"#;

/// Says something; everything that is answered until the node ends the connection.
fn get(host: &mut Host, world: &mut World, request: &str) -> String {
    let client = host.connect(3324);
    let mut heard = Vec::new();
    let mut said = false;
    for _ in 0..60_000 {
        host.step(world);
        let socket = host.tcp(client);
        if socket.can_send() && !said {
            socket.send_slice(request.as_bytes()).unwrap();
            said = true;
        }
        while socket.can_recv() {
            socket.recv(|bytes| (bytes.len(), heard.extend_from_slice(bytes))).unwrap();
        }
        if said && !socket.may_recv() && !socket.can_recv() {
            socket.close();
            host.step(world);
            return String::from_utf8(heard).unwrap();
        }
    }
    panic!("no end: {}", String::from_utf8_lossy(&heard));
}

fn world() -> World {
    World::line_with(2, Options { more: ON, ..Options::default() })
}

#[test]
fn a_client_reads_what_teams_use() {
    let (mut world, mut host) = (world(), Host::new(MGMT));
    world.start(0, &ask("as\"k\\", 7));
    let session = world.session(0, "as\"k\\");
    world.say(0, session, &question(b'b', 1));
    world.run(Duration::from_secs(1));
    let text = get(&mut host, &mut world, "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n");
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4"), "{head}");
    let sent =
        body.lines().find(|l| l.starts_with("bees_team_sent_bytes_total{") && l.contains("as\\\"k\\\\"));
    let sent: u64 = sent.unwrap_or_else(|| panic!("{body}")).rsplit(' ').next().unwrap().parse().unwrap();
    assert!(sent > 0);
    assert!(
        body.contains("bees_flows_started_total 1\n") && body.contains("resource=\"compile\"}"),
        "{body}"
    );
    let of_team = |l: &&str| l.starts_with("bees_team_link_dropped_frames_total{") && l.contains("as\\\"k");
    let links = body.lines().filter(of_team).filter(|l| l.ends_with(" 0")).count();
    assert_eq!((links, body.contains("bees_link_waiting_frames{link=\"w0\"} 0\n")), (2, true), "{body}");
    let heads: Vec<&str> = body.lines().filter(|l| l.starts_with("# TYPE ")).collect();
    let mut once = heads.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), heads.len(), "a family comes once");
}

#[test]
fn what_is_no_request_for_metrics_gets_its_status() {
    let (mut world, mut host) = (world(), Host::new(MGMT));
    for (request, status) in [
        ("GET / HTTP/1.0\r\n\r\n", "404"),
        ("POST /metrics HTTP/1.0\r\n\r\n", "405"),
        ("hello\r\n\r\n", "400"),
        ("GET /metrics HTTP/1.0\r\n\r\n", "200"),
    ] {
        let answer = get(&mut host, &mut world, request);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {answer}");
    }
    assert_eq!(get(&mut host, &mut world, &"a".repeat(3000)), "", "cut off");
    let before = world.now;
    assert_eq!(get(&mut host, &mut world, "GET /met"), "", "cut off");
    assert!(world.now - before < 7_000_000, "{}", world.now - before);
}

/// Two clients that say nothing keep others out for a while only.
#[test]
fn idle_clients_make_room() {
    let (mut world, mut host) = (world(), Host::new(MGMT));
    let idle = [host.connect(3324), host.connect(3324)];
    (0..20).for_each(|_| host.step(&mut world));
    assert!(idle.iter().all(|c| host.tcp(*c).may_send()));
    let third = host.connect(3324);
    (0..20).for_each(|_| host.step(&mut world));
    assert!(!host.tcp(third).may_send(), "two at a time");
    (0..7000).for_each(|_| host.step(&mut world));
    assert!(idle.iter().all(|c| !host.tcp(*c).may_send()), "cut off");
    assert!(get(&mut host, &mut world, "GET /metrics HTTP/1.0\r\n\r\n").starts_with("HTTP/1.1 200 OK"));
}

#[test]
fn nobody_listens_unless_configured() {
    let off = ON.replace("metrics = true", "");
    let mut world = World::line_with(2, Options { more: &off, ..Options::default() });
    let mut host = Host::new(MGMT);
    let client = host.connect(3324);
    (0..20).for_each(|_| host.step(&mut world));
    assert!(!host.tcp(client).is_open(), "refused");
}
