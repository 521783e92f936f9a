//! Teams that are always busy get processor time by their shares, in whole nodes, by counted instructions: the same
//! in every run. `bench fairness` shows it on a real processor, and for bandwidth.

mod common;

use std::time::Duration;

use common::guest::{self, Flow};
use common::{Options, World};
use ee::abi::Resource;
use ee::config::ADMIN;
use nodeos::link::LinkId;
use wire::capsule::{Capsule, HEADER_LEN};
use wire::control::{Answer, Request, TeamInfo};
use wire::id::{CapsuleId, Path};
use wire::tuple::Privilege;

/// What each team gives to the next, of the 1000 shares of its own events.
const GIVEN: f64 = 750.0;
/// How far from its due a team may be.
const TOLERANCE: f64 = 0.02;
/// Capsules that wait for each team: more than are handled between two looks at the node.
const WAITING: u32 = 160;

/// Goes round as often as its capsule says; starts the flow whose tuple it has.
fn handlers(below: Option<&Flow>) -> String {
    let tuple = below.map_or(&[][..], |flow| &flow.tuple);
    let text: String = tuple.iter().map(|byte| format!("\\{byte:02x}")).collect();
    let start = below.map_or(String::new(), |_| {
        format!(
            "(drop (call $flow_start (call $cap_lookup (i32.const 256) (i32.const 5)) (i32.const 1024)
                (i32.const {}) (i32.const {})))",
            tuple.len(),
            1 << Resource::Processor as u32
        )
    });
    format!(
        r#"(data (i32.const 256) "flows") (data (i32.const 1024) "{text}")
        (func (export "on_flow") (param i32 i32))
        (func (export "on_boot") (param i32) {start})
        (func (export "on_capsule") (param i32 i32 i32 i32)
            (local $rounds i64)
            (local.set $rounds (i64.load (i32.const 0)))
            (loop $round
                (local.set $rounds (i64.sub (local.get $rounds) (i64.const 1)))
                (br_if $round (i64.gt_s (local.get $rounds) (i64.const 0)))))"#
    )
}

/// Each below the one before, which gives it its part; who `background` names works there.
fn chain(depth: usize, background: impl Fn(usize) -> bool) -> Vec<Flow> {
    let mut flows: Vec<Flow> = Vec::new();
    for team in (0..depth).rev() {
        let module = guest::module(&handlers(flows.last()));
        let names = [(background(team), "background"), (team + 1 < depth, "flows")];
        let wanted = names.into_iter().filter(|(wanted, _)| *wanted);
        let privilege = |(_, name): (bool, &str)| Privilege { name: name.into(), optional: false };
        flows.push(guest::flow(&format!("t{team}"), module, |body| {
            body.request.privileges = wanted.map(privilege).collect();
        }));
    }
    flows.reverse();
    flows
}

/// A capsule that makes its guest go round so often.
fn frame(flow: &Flow, rounds: u64) -> Vec<u8> {
    let id = CapsuleId::compute(&flow.hash(), &Path::default(), 0, &[]);
    // From the neighbor at the other end of the first wire.
    let mut bytes = vec![2, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 1, 0x88, 0xb5];
    bytes.extend([0; HEADER_LEN]);
    Capsule::emit_header(&mut bytes[14..], &id, 8);
    bytes.extend(rounds.to_le_bytes());
    bytes
}

/// The node's teams; asking does not make it work.
fn shown(world: &mut World) -> Vec<TeamInfo> {
    let now = world.time();
    match world.stations[0].node.control(now, ADMIN, Request::TeamShow { from: 0 }) {
        Answer::Teams(page) => page.items,
        other => panic!("{other:?}"),
    }
}

/// Keeps a chain busy; the n-th capsule of each team makes it go round so often. What each team got, and its due.
fn divided(flows: &[Flow], polls: usize, rounds: impl Fn(usize, usize) -> u64) -> Vec<(f64, f64)> {
    // What waits below a team waits for it, too.
    let team = "shares = 750\nmemory = \"4M\"\nbackground = \"10s\"\nqueue = 256";
    let mut world =
        World::line_with(2, Options { team, node: "memory = \"64M\"", buffers: 4096, ..Options::default() });
    flows.iter().skip(1).for_each(|flow| world.put(0, &flow.module));
    world.start(0, &flows[0]);
    world.run(Duration::from_millis(200));
    let used = |world: &mut World| {
        let teams = shown(world);
        let of = |flow: &Flow| teams.iter().find(|team| team.flow == Some(flow.hash())).unwrap().cpu_us;
        flows.iter().map(of).collect::<Vec<u64>>()
    };
    let mut number = vec![0; flows.len()];
    let mut before = Vec::new();
    for poll in 0..polls + polls / 10 {
        if poll == polls / 10 {
            before = used(&mut world);
        }
        let teams = shown(&mut world);
        for (team, flow) in flows.iter().enumerate() {
            let waiting = teams.iter().find(|t| t.flow == Some(flow.hash())).unwrap().events.1;
            for _ in waiting..WAITING {
                world.hand(0, LinkId(0), &frame(flow, rounds(team, number[team])));
                number[team] += 1;
            }
        }
        let now = world.time();
        assert!(world.stations[0].node.poll(now), "there is always more to do");
    }
    let got: Vec<u64> = used(&mut world).iter().zip(before).map(|(after, before)| after - before).collect();
    let (sum, last, given) = (got.iter().sum::<u64>() as f64, got.len() - 1, GIVEN / 1000.0);
    let due = |team: usize| given.powi(team as i32) * if team == last { 1.0 } else { 1.0 - given };
    got.iter().enumerate().map(|(team, got)| (*got as f64 / sum, due(team))).collect()
}

#[track_caller]
fn fair(parts: &[(f64, f64)]) {
    eprintln!("{parts:.4?}");
    assert!(parts.iter().all(|(part, due)| (part / due - 1.0).abs() <= TOLERANCE), "{parts:.4?}");
}

const SHORT: u64 = 300;
const LONG: u64 = 30_000;

fn mixed(team: usize, number: usize) -> u64 {
    if number % 8 == team { LONG } else { SHORT * (1 + number as u64 % 3) }
}

#[test]
fn one_to_three_whatever_events_cost() {
    let pair = chain(2, |_| false);
    fair(&divided(&pair, 6000, |team, _| [LONG, SHORT][team]));
    fair(&divided(&pair, 6000, |team, _| [SHORT, LONG][team]));
    fair(&divided(&pair, 6000, mixed));
}

#[test]
fn level_by_level() {
    fair(&divided(&chain(4, |_| false), 6000, mixed));
}

/// Work of many slices, alone and beside teams of short events.
#[test]
fn in_the_background_too() {
    let long = |_, _| 100 * LONG;
    fair(&divided(&chain(2, |_| true), 12000, long));
    let every_other = chain(4, |team| team % 2 == 1);
    fair(&divided(
        &every_other,
        12000,
        |team, number| if team % 2 == 1 { 100 * LONG } else { mixed(team, number) },
    ));
}
