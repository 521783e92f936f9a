//! Budgets of a flow's team that are counted or spent: each is tried to be passed, and what is charged to whom.

mod common;

use std::time::Duration;

use common::guest::{self, answer, ask, question};
use common::{Options, World};
use wire::control::{Answer, BudgetInfo, FlowState, Request, TeamInfo};
use wire::tuple::Budgets;

const SECOND: Duration = Duration::from_secs(1);

fn world(team: &str) -> World {
    World::line_with(2, Options { team, ..Options::default() })
}

fn number(packet: &[u8]) -> i32 {
    i32::from_le_bytes(packet.try_into().expect("four bytes"))
}

fn budget(team: &TeamInfo, resource: &str) -> BudgetInfo {
    team.budgets.iter().find(|b| b.kind.name() == resource).expect("every resource is shown").clone()
}

fn team(world: &mut World, node: usize, name: &str) -> TeamInfo {
    world.teams(node).into_iter().find(|t| t.name == name).expect("its team lives")
}

#[test]
fn more_is_not_downloaded_than_a_flow_may() {
    let mut world = world("download = \"100\"");
    let flow = ask("ask", 1);
    world.start(0, &flow);
    let session = world.session(0, "ask");
    world.say(0, session, &question(b'b', 1));
    world.run(SECOND);
    // Where it was injected nothing was downloaded; where it would be, it ends.
    assert_eq!(world.state(0, flow.hash()), Some(FlowState::Running));
    let why = world.why(1, flow.hash());
    assert!(why.starts_with("principal") && why.contains("downloaded"), "{why}");
    assert_eq!(world.teams(1).len(), 1);
}

#[test]
fn compiling_is_paid_and_bounded_and_not_tried_again_at_once() {
    let flow = ask("ask", 1);
    let mut first = world("");
    first.start(0, &flow);
    let paid = team(&mut first, 0, "ask");
    assert!(budget(&paid, "compile").used > Some(0));
    assert!(Some(paid.work_us.0) >= budget(&paid, "compile").used, "compiling is part of the start's time");
    // A second flow of the same module finds it compiled: its code is charged in full, compiling is not.
    let again = guest::flow("ask", flow.module.clone(), |body| body.nonce = [9; 16]);
    first.start(0, &again);
    let teams: Vec<TeamInfo> = first.teams(0).into_iter().filter(|t| t.name == "ask").collect();
    assert_eq!(budget(&teams[0], "code").used, budget(&teams[1], "code").used);
    let spent: Vec<Option<u64>> = teams.iter().map(|t| budget(t, "compile").used).collect();
    assert_eq!(spent.iter().filter(|us| **us == Some(0)).count(), 1, "{spent:?}");
}

#[test]
fn what_costs_too_much_to_compile_ends_and_stays_away() {
    let mut world = world("compile = \"1us\"");
    let flow = ask("ask", 1);
    let hash = world.inject(0, &flow);
    world.run(SECOND);
    let why = world.why(0, hash);
    assert!(why.contains("compiling took"), "{why}");
    assert_eq!(world.teams(0).len(), 1);
}

#[test]
fn a_compilation_is_paid_when_nobody_waits_for_it_any_more() {
    let mut world = world("");
    let flow = ask("ask", 1);
    for _ in 0..5 {
        // It is compiled already, so it is too late to take the job back; the next one waits for the same job.
        let hash = world.inject(0, &flow);
        assert_eq!(world.stop(0, hash, true), Answer::Done);
    }
    world.start(0, &flow);
    let (root, team) = (team(&mut world, 0, "root"), team(&mut world, 0, "ask"));
    assert_eq!(budget(&team, "compile").used, Some(0), "who brought it is gone");
    let mut alone = self::world("");
    alone.start(0, &flow);
    let once = budget(&self::team(&mut alone, 0, "ask"), "compile").used;
    assert_eq!(budget(&root, "compile").used, once);
}

#[test]
fn compiled_code_has_a_bound_of_its_own() {
    let mut world = world("code = \"100\"");
    let hash = world.inject(0, &ask("ask", 1));
    world.run(SECOND);
    let why = world.why(0, hash);
    assert!(why.starts_with("principal"), "{why}");
}

#[test]
fn events_and_timers_are_bounded_in_all() {
    let mut world = world("timers_total = 5\ntimers = 3");
    world.start(0, &guest::of("try", guest::TRY));
    let session = world.session(0, "try");
    let mut got = Vec::new();
    for _ in 0..3 {
        world.say(0, session, b"t");
        world.run(SECOND);
        got.extend(world.heard(0, session).iter().map(|p| number(p)));
    }
    // Three at once; they fire; two more, then never again.
    assert_eq!(got, [3, 2, 0]);
    let used = budget(&team(&mut world, 0, "try"), "timers_total");
    assert_eq!((used.used, used.limit), (Some(5), Some(5)));

    let mut world = self::world("events_total = 6");
    let hash = world.start(0, &guest::of("try", guest::TRY));
    let session = world.session(0, "try");
    // The boot, the opening, and four packets.
    for _ in 0..4 {
        assert_eq!(world.state(0, hash), Some(FlowState::Running));
        world.say(0, session, b"-");
        world.run(SECOND);
    }
    assert_eq!(world.state(0, hash), Some(FlowState::Running));
    world.say(0, session, b"-");
    world.run(SECOND);
    assert!(world.why(0, hash).contains("all the events"), "{}", world.why(0, hash));
}

#[test]
fn packets_and_the_sum_of_all_links_are_bounded() {
    for (bound, packets) in [("packets = 5", 5), ("total_rate = \"8kbit\"", 60)] {
        let mut world = world(bound);
        world.start(0, &guest::of("try", guest::TRY));
        let session = world.session(0, "try");
        let mut sent = 0;
        for _ in 0..200 {
            world.say(0, session, b"s");
            world.run(Duration::from_millis(1));
            sent += world.heard(0, session).iter().map(|p| number(p).max(0)).sum::<i32>();
        }
        // A fifth of a second: the burst, and what the rate makes in it.
        assert!((1..=packets).contains(&sent), "{bound}: {sent}");
        assert!(team(&mut world, 0, "try").refused > 0);
    }
}

#[test]
fn whoever_is_asked_about_pays_for_the_answer() {
    let mut world = World::line(3);
    let flow = ask("ask", 5);
    world.start(0, &flow);
    let session = world.session(0, "ask");
    world.say(0, session, &question(b'c', 1));
    world.run(2 * SECOND);
    assert_eq!(world.heard(0, session), [answer(b'c', 5, 1)]);
    for node in 0..2 {
        let served = team(&mut world, node, "ask");
        assert!(served.work_us.1 > 0, "node {node} answered for it");
        assert!(served.cpu_us >= served.work_us.0 + served.work_us.1);
    }
    assert_eq!(team(&mut world, 2, "ask").work_us.1, 0, "nobody asked the last");
}

#[test]
fn an_operator_lowers_a_running_team_and_never_raises_it() {
    let mut world = world("");
    let hash = world.start(0, &guest::of("try", guest::TRY));
    let session = world.session(0, "try");
    let limit = |timers| Budgets { timers: Some(timers), memory: Some(300 << 10), ..Budgets::default() };
    for (timers, expected) in [(4, 4), (60, 4)] {
        assert_eq!(world.control(0, Request::FlowLimit { flow: hash, budgets: limit(timers) }), Answer::Done);
        world.say(0, session, b"t");
        world.run(SECOND);
        assert_eq!(world.heard(0, session).iter().map(|p| number(p)).collect::<Vec<_>>(), [expected]);
    }
    let lowered = team(&mut world, 0, "try");
    assert_eq!((lowered.memory.2, budget(&lowered, "timers").limit), (300 << 10, Some(4)));
    let nobody = Request::FlowLimit { flow: ask("gone", 1).hash(), budgets: limit(1) };
    assert!(matches!(world.control(0, nobody), Answer::Error(_)));
}
