//! Every kind of budget as a policy bounds it: for each flow of a principal, for all of them together, for those that
//! the operator trusts; and while they run.

mod common;

use std::time::Duration;

use authagent::keys::SigningKey;
use common::guest::{self, Flow};
use common::{Options, World};
use ee::node::SessionId;
use nodeos::link::LinkId;
use wire::budget::{Budgets, Kind, Unit};
use wire::capsule::{Capsule, HEADER_LEN};
use wire::control::{Answer, BudgetInfo, FlowState, Request, TeamInfo};
use wire::id::{CapsuleId, Path, TupleHash};
use wire::tuple::{Credentials, Scheme, Tuple};

const SECOND: Duration = Duration::from_secs(1);
const MILLI: Duration = Duration::from_millis(1);

fn key(principal: &str) -> SigningKey {
    SigningKey::from_seed(&[principal.as_bytes()[0]; 32])
}

/// A principal's flow, and what it asks for.
fn flow(principal: &str, name: &str, ask: impl FnOnce(&mut Budgets)) -> Flow {
    flow_of(guest::TRY, principal, name, ask)
}

fn flow_of(code: &str, principal: &str, name: &str, ask: impl FnOnce(&mut Budgets)) -> Flow {
    let unsigned = guest::flow(name, guest::module(code), |body| ask(&mut body.request.budgets));
    let mut tuple = Tuple::decode(&unsigned.tuple).unwrap();
    let signature = key(principal).sign(&tuple.body.encode()).to_vec();
    tuple.credentials =
        Credentials::Signed { principal: principal.into(), scheme: Scheme::Ed25519, signature };
    Flow { module: unsigned.module, tuple: tuple.encode() }
}

/// A policy with two principals; `joe` and `ops` are what is said about them behind their keys.
fn policy(joe: &str, ops: &str) -> String {
    let principal = |name, more| {
        format!("[[principal]]\nname = \"{name}\"\nkeys = [\"{}\"]\n{more}\n", key(name).public())
    };
    principal("joe", joe) + &principal("ops", ops)
}

fn world(policy: &str, more: &str) -> World {
    let node = format!("agent = \"source-based\"\npolicy = '''{policy}'''");
    World::line_with(2, Options { node: &node, more, ..Options::default() })
}

fn load(world: &mut World, policy: &str) {
    assert_eq!(world.control(0, Request::PolicyLoad { text: policy.into() }), Answer::Done);
}

fn team(world: &mut World, name: &str) -> Option<TeamInfo> {
    world.teams(0).into_iter().find(|t| t.name == name)
}

fn budget(world: &mut World, name: &str, kind: Kind) -> BudgetInfo {
    let team = team(world, name).expect("its team lives");
    team.budgets.into_iter().find(|b| b.kind == kind).expect("every kind is shown")
}

fn tell(world: &mut World, session: SessionId, what: u8) -> i32 {
    world.say(0, session, &[what]);
    world.run(MILLI);
    let heard = world.heard(0, session);
    heard.last().map_or(-1, |packet| i32::from_le_bytes(packet[..].try_into().unwrap()))
}

/// Goes on telling a flow the same until it ends, if it does.
fn pester(world: &mut World, hash: TupleHash, session: SessionId, what: u8) {
    // After two strikes it is throttled, and has an event in ten milliseconds.
    for _ in 0..8000 {
        if world.state(0, hash) != Some(FlowState::Running) {
            return;
        }
        let now = world.time();
        let _ = world.stations[0].node.session_send(now, session, &[what]);
        world.settle(0);
        world.run(MILLI);
        while let Ok(Some(_)) = world.stations[0].node.session_packet(session) {}
    }
}

/// A line of TOML that bounds a kind.
fn line(kind: Kind, bound: u64) -> String {
    match kind.unit() {
        Unit::Bytes => format!("{kind} = {bound}\n"),
        Unit::Time => format!("{kind} = \"{bound}us\"\n"),
        Unit::Rate => format!("{kind} = \"{}bit\"\n", bound * 8),
        Unit::Count => format!("{kind} = {bound}\n"),
    }
}

/// A bound with which a flow can run.
fn enough(kind: Kind) -> u64 {
    match kind.unit() {
        Unit::Bytes if kind == Kind::Burst => 9000,
        Unit::Bytes => 600_000,
        Unit::Time if kind == Kind::Compile => 5_000_000,
        Unit::Time => 900,
        Unit::Rate => 100_000,
        Unit::Count => 7,
    }
}

#[test]
fn every_kind_is_bounded_by_tuple_by_policy_and_while_it_runs() {
    for kind in Kind::ALL {
        let grant = |bound| policy(&format!("[principal.grant.budgets]\n{}", line(kind, bound)), "");
        let most = enough(kind);
        let mut world = world(&grant(most), "");
        // One asks for less, one for more, one for nothing.
        world.start(0, &flow("joe", "less", |ask| ask.set(kind, Some(most - 1))));
        world.start(0, &flow("joe", "more", |ask| ask.set(kind, Some(u64::MAX))));
        world.start(0, &flow("joe", "none", |_| ()));
        let limits = |world: &mut World| {
            ["less", "more", "none"].map(|name| budget(world, name, kind).limit.expect("it is bounded"))
        };
        assert_eq!(limits(&mut world), [most - 1, most, most], "{kind}");
        load(&mut world, &grant(most - 2));
        assert_eq!(limits(&mut world), [most - 2; 3], "{kind}");
        load(&mut world, &grant(most));
        assert_eq!(limits(&mut world), [most - 2; 3], "{kind}: nothing is raised");
        if kind == Kind::Shares {
            assert_eq!(team(&mut world, "more").unwrap().shares.0, 5);
        }
        for name in ["less", "more", "none"] {
            assert!(team(&mut world, name).is_some(), "{kind}: {name} goes on");
        }
    }
}

#[test]
fn a_rate_that_is_bounded_while_it_runs_refuses() {
    for (bound, packets) in [("packets = 5", 5), ("total_rate = \"8kbit\"", 60)] {
        let mut world = world(&policy("[principal.grant]", ""), "");
        world.start(0, &flow("joe", "try", |_| ()));
        let session = world.session(0, "try");
        let sent = |world: &mut World| (0..200).map(|_| tell(world, session, b's').max(0)).sum::<i32>();
        assert_eq!(sent(&mut world), 200);
        load(&mut world, &policy(&format!("[principal.grant.budgets]\n{bound}"), ""));
        let after = sent(&mut world);
        assert!((1..=packets).contains(&after), "{bound}: {after}");
        assert!(team(&mut world, "try").unwrap().refused > 0);
    }
}

/// How many packets a session takes before the node had any time for them.
fn taken(world: &mut World, session: SessionId) -> usize {
    let now = world.time();
    (0..100).filter(|_| world.stations[0].node.session_send(now, session, b"-").is_ok()).count()
}

#[test]
fn a_queue_that_is_bounded_while_it_runs_takes_less() {
    let mut world = world(&policy("[principal.grant]", ""), "");
    world.start(0, &flow("joe", "try", |_| ()));
    let session = world.session(0, "try");
    for (queue, most) in [(64, 64), (3, 3), (0, 0)] {
        load(&mut world, &policy(&format!("[principal.grant.budgets]\nqueue = {queue}"), ""));
        assert_eq!(taken(&mut world, session), most);
        world.run(SECOND);
    }
}

#[test]
fn what_waits_for_all_flows_of_a_principal_is_bounded() {
    let total = |lines| policy(&format!("[principal.grant]\n[principal.total]\n{lines}"), "");
    let mut world = world(&total("queue = 5"), "");
    let names = ["a", "b", "c"];
    for name in names {
        world.start(0, &flow("joe", name, |ask| ask.queue = Some(2)));
    }
    let sessions = names.map(|name| world.session(0, name));
    world.run(SECOND);
    // Two of each, five of all; then three of all.
    assert_eq!(sessions.map(|session| taken(&mut world, session)), [2, 2, 1]);
    world.run(SECOND);
    load(&mut world, &total("queue = 3"));
    assert_eq!(sessions.map(|session| taken(&mut world, session)), [2, 1, 0]);
    // Nothing is shown of a team in which no flow runs but what waits below it.
    let shown = budget(&mut world, "principal joe", Kind::Queue);
    assert_eq!((shown.used, shown.limit), (Some(3), Some(3)));
}

#[test]
fn a_total_below_what_was_used_refuses_and_then_strikes_or_ends() {
    let mut world = world(&policy("[principal.grant]", ""), "");
    let hash = world.start(0, &flow("joe", "try", |ask| ask.timers = Some(20)));
    let session = world.session(0, "try");
    assert_eq!(tell(&mut world, session, b't'), 20);
    world.run(SECOND);
    load(&mut world, &policy("[principal.grant.budgets]\ntimers_total = 10", ""));
    assert_eq!(tell(&mut world, session, b't'), 0);
    let info = budget(&mut world, "try", Kind::TimersTotal);
    assert_eq!((info.used, info.limit), (Some(20), Some(10)));
    pester(&mut world, hash, session, b't');
    assert!(world.why(0, hash).contains("kept asking"), "{}", world.why(0, hash));

    let mut world = self::world(&policy("[principal.grant]", ""), "");
    let hash = world.start(0, &flow("joe", "try", |_| ()));
    let session = world.session(0, "try");
    for _ in 0..5 {
        tell(&mut world, session, b's');
    }
    load(&mut world, &policy("[principal.grant.budgets]\nevents_total = 4", ""));
    assert_eq!(world.state(0, hash), Some(FlowState::Running), "it ends with the next event");
    world.say(0, session, b"s");
    world.run(MILLI);
    assert!(world.why(0, hash).contains("all the events"), "{}", world.why(0, hash));
}

#[test]
fn a_principals_flows_share_its_total() {
    let total = "[principal.grant]\n[principal.total]\nmemory = \"700k\"\nshares = 50\nflows = 3\nevents_total = 1000";
    let mut world = world(&policy(total, "[principal.grant]"), "");
    let before = world.holds(0);
    world.start(0, &flow("joe", "one", |_| ()));
    world.start(0, &flow("joe", "two", |_| ()));
    world.start(0, &flow("ops", "other", |_| ()));
    let joe = team(&mut world, "principal joe").expect("joe has a team");
    let root = team(&mut world, "root").unwrap();
    assert_eq!((joe.parent, joe.flow, joe.shares.0), (Some(root.id), None, 50));
    for (name, above) in [("one", joe.id), ("two", joe.id), ("other", root.id)] {
        assert_eq!(team(&mut world, name).unwrap().parent, Some(above), "{name}");
    }
    // One takes what there is; little is left for the other, and who is not joe has his own.
    let got = ["one", "two", "other"].map(|name| {
        let session = world.session(0, name);
        tell(&mut world, session, b'g')
    });
    assert!(got[1] < got[0] && got[1] < got[2], "{got:?}");
    let used = budget(&mut world, "principal joe", Kind::Memory);
    assert!(used.used <= Some(700 << 10) && used.used > Some(500 << 10), "{used:?}");
    assert_eq!(budget(&mut world, "principal joe", Kind::Flows).used, Some(2));

    // A lower total holds at once; a higher one raises nothing.
    let load_total = |world: &mut World, lines: &str| {
        load(world, &policy(&format!("[principal.grant]\n[principal.total]\n{lines}"), "[principal.grant]"));
    };
    load_total(&mut world, "flows = 2\nshares = 20\nevents_total = 1");
    assert_eq!(team(&mut world, "principal joe").unwrap().shares.0, 20);
    load_total(&mut world, "flows = 9");
    assert_eq!(budget(&mut world, "principal joe", Kind::Flows).limit, Some(2));
    let third = world.inject(0, &flow("joe", "three", |_| ()));
    world.run(SECOND);
    assert!(world.why(0, third).contains("budget of flows"), "{}", world.why(0, third));
    let session = world.session(0, "other");
    assert!(tell(&mut world, session, b's') > 0, "that of another is left alone");

    // With its last flow the team ends, and everything is back.
    for info in world.flows(0) {
        if info.state == FlowState::Running {
            world.stop(0, info.hash, true);
        }
    }
    assert_eq!(world.teams(0).len(), 1);
    assert_eq!(world.holds(0).3, before.3);
    // One that has no room for its first flow ends at once.
    load_total(&mut world, "memory = \"10k\"");
    let none = world.inject(0, &flow("joe", "none", |_| ()));
    world.run(SECOND);
    assert!(matches!(world.state(0, none), Some(FlowState::Ended(_))));
    assert_eq!(world.teams(0).len(), 1);
}

#[test]
fn what_was_spent_stays_spent_when_the_last_flow_has_ended() {
    let total = |timers| {
        let bounds = format!("timers_total = {timers}\nflows_total = 3\ntotal_rate = \"8kbit\"");
        policy(&format!("[principal.grant]\n[principal.total]\n{bounds}"), "")
    };
    let mut world = world(&total(5), "");
    let before = world.holds(0);
    let turn = |world: &mut World, name, timers, frames: std::ops::RangeInclusive<i32>| {
        let hash = world.start(0, &flow("joe", name, |_| ()));
        let session = world.session(0, name);
        let sent = (0..200).map(|_| tell(world, session, b's').max(0)).sum::<i32>();
        assert!(frames.contains(&sent), "{name}: {sent}");
        assert_eq!(tell(world, session, b't'), timers, "{name}");
        world.stop(0, hash, true);
        assert!(team(world, "principal joe").is_none());
    };
    turn(&mut world, "one", 5, 30..=70);
    // Nothing is left, neither of timers nor of a burst.
    turn(&mut world, "two", 0, 0..=20);
    // Who is given more has what is more.
    load(&mut world, &total(7));
    turn(&mut world, "three", 2, 0..=20);
    assert_eq!(budget(&mut world, "root", Kind::TimersTotal).used, Some(7), "each is counted once");
    let fourth = world.inject(0, &flow("joe", "four", |_| ()));
    world.run(SECOND);
    assert!(world.why(0, fourth).contains("budget of flows_total"), "{}", world.why(0, fourth));
    assert_eq!(world.holds(0).3, before.3);
    // A policy without a total forgets.
    load(&mut world, &policy("[principal.grant]", ""));
    load(&mut world, &total(5));
    turn(&mut world, "five", 5, 30..=70);
}

#[test]
fn a_lower_bound_on_what_cannot_be_added_up_holds_for_flows_that_run() {
    let total =
        |lines| policy(&format!("[principal.grant]\n[principal.total]\n{lines}"), "[principal.grant]");
    let mut world = world(&total(""), "");
    world.start(0, &flow("joe", "try", |_| ()));
    world.start(0, &flow("ops", "other", |_| ()));
    let limits = |world: &mut World, name| {
        [Kind::Event, Kind::Background].map(|kind| budget(world, name, kind).limit.expect("it is bounded"))
    };
    let other = limits(&mut world, "other");
    load(&mut world, &total("event = \"900us\"\nbackground = \"5ms\""));
    assert_eq!((limits(&mut world, "try"), limits(&mut world, "other")), ([900, 5000], other));
    load(&mut world, &total("event = \"1500us\""));
    assert_eq!(limits(&mut world, "try"), [900, 5000]);
    let session = world.session(0, "try");
    assert!(tell(&mut world, session, b's') > 0, "it goes on");
}

#[test]
fn what_others_used_up_bounds_a_download_and_keeps_no_flow_away() {
    // Another module, or there would be nothing to fetch for the second one.
    let other = guest::TRY.replace("(i32.const 100)", "(i32.const 101)");
    let flows =
        [(guest::TRY, "try"), (&other, "more")].map(|(code, name)| flow_of(code, "joe", name, |_| ()));
    let part = flows[0].module.len() as u64;
    assert_eq!(flows[1].module.len() as u64, part);
    let total = |bytes| policy(&format!("[principal.grant]\n[principal.total]\ndownload = {bytes}"), "");
    let mut world = world(&total(part + part / 2), "");
    let [first, second] = flows.map(|flow| world.start(0, &flow));
    let sessions = ["try", "more"].map(|name| world.session(0, name));
    for session in sessions {
        tell(&mut world, session, b's');
        world.run(SECOND);
    }
    assert_eq!(world.state(1, first), Some(FlowState::Running));
    assert!(world.why(1, second).contains("downloaded"), "{}", world.why(1, second));
    // What was refused was not fetched.
    let used = |world: &mut World| {
        let team = world.teams(1).into_iter().find(|t| t.name == "principal joe").expect("it lives");
        team.budgets.into_iter().find(|b| b.kind == Kind::Download).and_then(|b| b.used)
    };
    assert_eq!(used(&mut world), Some(part));
    // Its principal gets more, and it comes at once: it has done nothing for which it would be kept away.
    world.stop(1, first, true);
    assert_eq!(world.control(1, Request::PolicyLoad { text: total(10 * part) }), Answer::Done);
    world.run(2 * SECOND);
    tell(&mut world, sessions[1], b's');
    world.run(SECOND);
    assert_eq!(world.state(1, second), Some(FlowState::Running));
    assert_eq!(used(&mut world), Some(2 * part));
}

#[test]
fn a_hundred_flows_of_one_get_no_more_than_one_of_another() {
    let total = "[principal.grant]\n[principal.total]\nshares = 100";
    let mut world = world(&policy(total, total), "");
    for n in 0..5 {
        world.start(0, &flow("joe", &format!("joe{n}"), |_| ()));
    }
    world.start(0, &flow("ops", "ops0", |_| ()));
    let teams = world.teams(0);
    let root = teams.iter().find(|t| t.parent.is_none()).unwrap();
    let top: Vec<_> = teams.iter().filter(|t| t.parent == Some(root.id)).map(|t| t.shares.0).collect();
    assert_eq!(top, [100, 100]);
    let joe = teams.iter().find(|t| t.name == "principal joe").unwrap();
    assert_eq!(teams.iter().filter(|t| t.parent == Some(joe.id)).count(), 5);
}

#[test]
fn what_the_operator_trusts_is_unaccounted_and_shown() {
    let grant = policy("[principal.grant]", "[principal.grant]");
    let mut world = world(&grant, "[system]\nprincipals = [\"ops\"]");
    let before = world.holds(0);
    // A tuple asks for what it likes, and says of itself what it likes: only who signed it counts.
    let asks = |ask: &mut Budgets| (ask.memory, ask.timers) = (Some(u64::MAX), Some(2));
    let hash = world.start(0, &flow("ops", "trusted", asks));
    world.start(0, &flow("joe", "system", |ask| ask.memory = Some(u64::MAX)));
    let trusted = team(&mut world, "trusted").unwrap();
    let system = world.teams(0).into_iter().find(|t| t.name == "system" && t.flow.is_none()).unwrap();
    assert_eq!((system.flow, trusted.parent), (None, Some(system.id)));
    for kind in [Kind::Memory, Kind::Code, Kind::TimersTotal, Kind::TotalRate, Kind::Download, Kind::Flows] {
        assert_eq!(budget(&mut world, "trusted", kind).limit, None, "{kind}");
    }
    assert!(budget(&mut world, "trusted", Kind::Memory).used > Some(64 << 10), "its use is shown");
    let joes = world.teams(0).into_iter().find(|t| t.flow.is_some() && t.name == "system").unwrap();
    assert_eq!(joes.memory.2, 1 << 20, "joe's flow is as any other");

    // It is refused what there is not, and that is no strike.
    let session = world.session(0, "trusted");
    pester(&mut world, hash, session, b't');
    let trusted = team(&mut world, "trusted").unwrap();
    assert!(trusted.refused > 600, "{}", trusted.refused);
    assert_eq!((trusted.strikes, world.state(0, hash)), (0, Some(FlowState::Running)));

    // Who has nothing left in the policy has nothing left here.
    load(&mut world, &policy("[principal.grant]", ""));
    assert!(matches!(world.state(0, hash), Some(FlowState::Ended(_))));
    assert!(world.teams(0).iter().all(|t| t.flow.is_some() || t.parent.is_none()));
    let joe = joes.flow.unwrap();
    world.stop(0, joe, true);
    assert_eq!(world.holds(0).3, before.3);
}

#[test]
fn what_the_operator_trusts_can_be_accounted() {
    let grant = policy("[principal.grant]", "[principal.grant]");
    let more =
        "[system]\nprincipals = [\"ops\"]\naccounted = true\nbudget = { memory = \"500k\", flows = 2 }";
    let mut world = world(&grant, more);
    let hash = world.start(0, &flow("ops", "trusted", |ask| ask.timers = Some(2)));
    let system = team(&mut world, "system").unwrap();
    assert_eq!((system.memory.2, budget(&mut world, "trusted", Kind::Sessions).limit), (500 << 10, Some(8)));
    let session = world.session(0, "trusted");
    tell(&mut world, session, b'g');
    assert!(team(&mut world, "system").unwrap().memory.0 <= 500 << 10);
    pester(&mut world, hash, session, b't');
    assert!(world.why(0, hash).contains("kept asking"), "{}", world.why(0, hash));
    assert!(team(&mut world, "system").is_none());
}

#[test]
fn what_is_trusted_has_the_nodes_shares_unless_others_are_named() {
    let grant = policy("[principal.grant]", "[principal.grant]");
    let node = format!("agent = \"source-based\"\npolicy = '''{grant}'''");
    for (more, shares) in [("", 30), ("budget = { shares = 7 }", 7)] {
        let more = format!("[system]\nprincipals = [\"ops\"]\n{more}");
        let mut world = World::line_with(
            2,
            Options { node: &node, team: "shares = 30", more: &more, ..Options::default() },
        );
        world.start(0, &flow("ops", "trusted", |_| ()));
        let of = |world: &mut World, name| team(world, name).expect("it lives").shares.0;
        assert_eq!((of(&mut world, "system"), of(&mut world, "trusted")), (shares, 30));
    }
}

#[test]
fn a_total_that_bounds_nothing_is_told() {
    let total = policy("[principal.grant]", "[principal.grant]\n[principal.total]\nflows = 1");
    let mut world = world(&total, "[system]\nprincipals = [\"ops\"]");
    let told = |world: &mut World| {
        world.log(0).iter().filter(|line| line.contains("\"ops\"") && line.contains("bounds nothing")).count()
    };
    assert_eq!(told(&mut world), 1);
    load(&mut world, &policy("[principal.grant]\n[principal.total]", "[principal.grant]"));
    assert_eq!(told(&mut world), 1);
    load(&mut world, &total);
    assert_eq!(told(&mut world), 2);
}

/// A capsule of a flow, as it comes from the second node to the first.
fn hand(world: &mut World, flow: &Flow) {
    let mut frame = vec![2, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 1, 0x88, 0xb5];
    frame.resize(14 + HEADER_LEN, 0);
    let id = CapsuleId::compute(&flow.hash(), &Path::default(), 0, &[]);
    Capsule::emit_header(&mut frame[14..], &id, 0);
    // An identifier of what has ended is not asked about for two seconds.
    world.run(3 * SECOND);
    world.hand(0, LinkId(0), &frame);
    world.run(SECOND);
}

fn total(lines: &str) -> String {
    policy(&format!("[principal.grant]\n[principal.total]\n{lines}"), "[principal.grant]")
}

/// Others are no more in the way of a flow that they were in the way of: it was not kept away.
fn comes_back(world: &mut World, modest: &Flow, greedy: TupleHash) {
    world.stop(0, greedy, true);
    load(world, &policy("[principal.grant]", ""));
    hand(world, modest);
    assert_eq!(world.state(0, modest.hash()), Some(FlowState::Running), "{:?}", world.log(0));
}

#[test]
fn events_that_others_used_up_end_a_flow_and_do_not_keep_it_away() {
    let mut world = world(&total("events_total = 20"), "");
    let modest = flow("joe", "modest", |_| ());
    world.start(1, &modest);
    hand(&mut world, &modest);
    assert_eq!(world.state(0, modest.hash()), Some(FlowState::Running));
    let greedy = world.start(0, &flow("joe", "greedy", |_| ()));
    let session = world.session(0, "greedy");
    while budget(&mut world, "principal joe", Kind::EventsTotal).used < Some(20) {
        world.say(0, session, b"-");
        world.run(MILLI);
    }
    hand(&mut world, &modest);
    assert!(world.why(0, modest.hash()).contains("all the events"), "{}", world.why(0, modest.hash()));
    // It cannot come back for now, and nothing is downloaded or started for it.
    let before = world.count(0, "flows_started");
    hand(&mut world, &modest);
    assert!(world.why(0, modest.hash()).contains("budget of events_total"));
    assert_eq!((world.count(0, "flows_started"), world.count(0, "teams_struck_out")), (before, 0));
    comes_back(&mut world, &modest, greedy);
}

#[test]
fn compile_time_that_others_used_up_ends_a_flow_and_does_not_keep_it_away() {
    let greedy = flow("joe", "greedy", |_| ());
    let code = r#"(func (export "on_capsule") (param i32 i32 i32 i32))"#;
    let modest = flow_of(code, "joe", "modest", |_| ());
    let mut first = world(&total(""), "");
    let costs = [(&greedy, "greedy"), (&modest, "modest")].map(|(flow, name)| {
        first.start(0, flow);
        budget(&mut first, name, Kind::Compile).used.expect("it is shown")
    });
    assert!(costs[0] > costs[1] && costs[1] > 1);
    let mut world = world(&total(&format!("compile = \"{}us\"", costs[0] + costs[1] / 2)), "");
    let greedy = world.start(0, &greedy);
    world.start(1, &modest);
    hand(&mut world, &modest);
    assert!(world.why(0, modest.hash()).contains("compiling took"), "{}", world.why(0, modest.hash()));
    comes_back(&mut world, &modest, greedy);
}

#[test]
fn what_others_used_up_is_refused_and_is_no_strike() {
    let mut world = world(&total("memory = \"700k\"\ntimers = 40"), "");
    for name in ["greedy", "modest"] {
        world.start(0, &flow("joe", name, |_| ()));
    }
    world.start(0, &flow("ops", "own", |ask| (ask.memory, ask.timers) = (Some(400 << 10), Some(8))));
    let [greedy, modest, own] = ["greedy", "modest", "own"].map(|name| world.session(0, name));
    assert!(tell(&mut world, greedy, b'g') > 0 && tell(&mut world, own, b'g') > 0);
    // What is left: to grow, memory is moved, so that the one who has most cannot take the last of it.
    tell(&mut world, modest, b'g');
    for session in [modest, own] {
        for _ in 0..20 {
            assert_eq!(tell(&mut world, session, b'g'), 0);
        }
    }
    let [modest_team, own_team] = ["modest", "own"].map(|name| team(&mut world, name).unwrap());
    assert!(modest_team.refused >= 20 && own_team.refused >= 20);
    assert_eq!((modest_team.strikes, own_team.strikes), (0, 1));
    // Timers likewise: a hundred refusals, all because of the one that has them.
    let before = modest_team.refused;
    for _ in 0..100 {
        world.say(0, greedy, b"t");
        world.say(0, modest, b"t");
        world.run(MILLI / 2);
        for session in [greedy, modest] {
            world.heard(0, session);
        }
    }
    let modest_team = team(&mut world, "modest").unwrap();
    assert!(modest_team.refused >= before + 100);
    assert_eq!(modest_team.strikes, 0);
}

#[test]
fn a_team_without_a_flow_shows_what_those_below_it_did() {
    let mut world = world(&total("queue = 50"), "");
    let hashes = ["one", "two"].map(|name| world.start(0, &flow("joe", name, |_| ())));
    let sessions = ["one", "two"].map(|name| world.session(0, name));
    for session in sessions {
        for _ in 0..5 {
            assert!(tell(&mut world, session, b's') > 0);
        }
    }
    let shown = |world: &mut World, name| team(world, name).unwrap();
    let sum = |world: &mut World| {
        let [one, two] = ["one", "two"].map(|name| shown(world, name));
        (one.events.0 + two.events.0, one.sent.0 + two.sent.0, one.cpu_us + two.cpu_us)
    };
    let (events, sent, cpu) = sum(&mut world);
    let joe = shown(&mut world, "principal joe");
    assert_eq!((joe.events, joe.sent.0), ((events, 0, 0), sent));
    assert!(events >= 14 && sent > 0 && joe.cpu_us.abs_diff(cpu) <= 1, "{joe:?}");
    assert_eq!(taken(&mut world, sessions[0]), 50);
    assert_eq!(shown(&mut world, "principal joe").events.1, 50, "what waits");
    world.run(SECOND);
    // What those did that have ended is not forgotten.
    let before = shown(&mut world, "principal joe");
    world.stop(0, hashes[0], true);
    let after = shown(&mut world, "principal joe");
    assert_eq!((after.events.0, after.sent.0), (before.events.0, before.sent.0));
    assert!(after.cpu_us >= before.cpu_us && after.events.0 > shown(&mut world, "two").events.0);
}
