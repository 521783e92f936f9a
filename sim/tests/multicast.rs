//! multicast, as it is shipped: on whole nodes whose links lose a tenth of all frames and fail, members get what they want,
//! nothing comes after a leave, and links carry what somebody wants and nothing else. More graphs are tried in memory:
//! `capsules/multicast/src/tests.rs`.

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use common::real::{flows, lines, number, start, total, word};
use sim::lab::Lab;
use sim::medium::Shape;
use sim::{Options, Session, Sim};
use wire::control::FlowState;

const SECOND: Duration = Duration::from_secs(1);
const NODES: usize = 30;
const TOPICS: [&str; 3] = ["sport", "news", "weather"];

struct Groups {
    sim: Sim,
    source: Session,
    members: Vec<Session>,
}

impl Groups {
    /// A group whose source is node 0; every node but that one has a program.
    fn new(seed: u64, loss: f64) -> Self {
        let shape = Shape { rate: Some(12_500_000), delay: SECOND / 1000, loss, ..Shape::default() };
        let lab = Lab::random(NODES, 3, seed).shaped(shape);
        let mut sim = Sim::new(&lab, seed, Options::default()).unwrap();
        let source = start(&mut sim, 0, "multicast");
        let mut groups = Self { sim, source, members: vec![] };
        assert_eq!(groups.ask(source, "source g"), "ok");
        let spread = |sim: &mut Sim| {
            (1..NODES).all(|at| flows(sim, at).iter().any(|flow| flow.state == FlowState::Running))
        };
        assert!(groups.sim.run_until(60 * SECOND, spread), "it comes to every node");
        groups.members = (1..NODES).map(|at| groups.sim.session(at, "multicast").unwrap()).collect();
        groups
    }

    fn ask(&mut self, session: Session, line: &str) -> String {
        self.sim.send(session, line.as_bytes()).unwrap();
        let mut told = vec![];
        let answered = self.sim.run_until(SECOND, |sim| {
            told.extend(lines(sim, session));
            told.iter().any(|l| ["ok", "error", "done"].contains(&word(l, 0)))
        });
        assert!(answered, "{line}: {told:?}");
        told.into_iter().find(|l| ["ok", "error", "done"].contains(&word(l, 0))).unwrap()
    }

    fn send(&mut self, payload: &str) {
        let source = self.source;
        let told = self.ask(source, &format!("send g {payload}"));
        assert!(told.starts_with("ok "), "{told}");
    }

    /// The payloads that a member got since the last call.
    fn got(&mut self, member: usize) -> Vec<String> {
        let told = lines(&mut self.sim, self.members[member]);
        told.iter()
            .filter(|l| word(l, 0) == "data")
            .map(|l| l.splitn(5, ' ').nth(4).unwrap().into())
            .collect()
    }

    /// A count, summed over all nodes. What members were told meanwhile is lost.
    fn sum(&mut self, name: &str) -> u64 {
        let sessions: Vec<Session> = self.members.iter().copied().chain([self.source]).collect();
        sessions.into_iter().map(|s| number(&self.ask(s, "show"), name)).sum()
    }
}

#[test]
fn members_get_what_they_want_and_links_carry_nothing_else() {
    let mut g = Groups::new(1, 0.0);
    // Node 0's program wants nothing; of the others every third one of each topic, and the rest nothing.
    for member in (0..NODES - 1).step_by(2) {
        let (session, topic) = (g.members[member], TOPICS[member % 3]);
        assert_eq!(g.ask(session, &format!("join g {topic}")), "ok");
    }
    g.sim.run_for(3 * SECOND);
    for round in 0..20 {
        TOPICS.iter().for_each(|topic| g.send(&format!("{topic} {round}")));
        g.send("nonsense");
    }
    g.sim.run_for(SECOND);
    for member in (0..NODES - 1).step_by(2) {
        let wanted: Vec<String> = (0..20).map(|round| format!("{} {round}", TOPICS[member % 3])).collect();
        assert_eq!(g.got(member), wanted);
    }
    let (carried, twice) = (g.sum("forwarded"), g.sum("duplicates"));
    assert_eq!((g.sum("unwanted"), g.sum("unsent")), (0, 0));
    // Of two ways of the same length now one is the first, now the other.
    assert!(twice * 20 <= carried, "{twice} of {carried}");
    // What is carried is what the links lead to: without members nothing.
    for member in (0..NODES - 1).step_by(2) {
        let session = g.members[member];
        assert_eq!(g.ask(session, "leave g"), "ok");
    }
    g.sim.run_for(SECOND);
    let carried = g.sum("forwarded");
    assert!(carried > 0);
    TOPICS.iter().for_each(|topic| g.send(topic));
    g.sim.run_for(SECOND);
    assert_eq!(g.sum("forwarded"), carried);
    assert!((0..NODES - 1).all(|member| g.got(member).is_empty()));
    for wrong in ["guest_traps", "guest_overruns", "teams_struck_out"] {
        assert_eq!(total(&mut g.sim, wrong), 0, "{wrong}");
    }
}

#[test]
fn a_tenth_of_all_frames_is_lost_and_links_fail() {
    let mut g = Groups::new(2, 0.1);
    let members: Vec<usize> = (0..NODES - 1).step_by(3).collect();
    for &member in &members {
        let session = g.members[member];
        g.ask(session, &format!("join g {}", TOPICS[member % 3]));
    }
    g.sim.run_for(4 * SECOND);
    let links = g.sim.plan().links.len();
    for round in 0..300 {
        match round % 60 {
            20 => g.sim.set_link(round * 7 % links, false),
            50 => g.sim.heal(),
            _ => {}
        }
        TOPICS.iter().for_each(|topic| g.send(&format!("{topic} {round}")));
        g.sim.run_for(SECOND / 20);
    }
    g.sim.run_for(SECOND);
    let mut all = 0;
    for &member in &members {
        let got = g.got(member);
        assert!(got.iter().all(|p| p.starts_with(TOPICS[member % 3])), "{got:?}");
        assert_eq!(got.iter().collect::<BTreeSet<_>>().len(), got.len(), "one came twice");
        all += got.len();
    }
    let sent = 300 * members.len();
    let (carried, unwanted) = (g.sum("forwarded"), g.sum("unwanted"));
    println!("{all} of {sent} delivered, {carried} carried, {unwanted} of them unwanted");
    assert!(all * 2 > sent, "{all} of {sent}");
    assert!(unwanted * 50 <= carried, "{unwanted} of {carried}");
    // After a leave nothing comes.
    for &member in &members {
        let session = g.members[member];
        assert_eq!(g.ask(session, "leave g"), "ok");
        g.got(member);
    }
    for _ in 0..20 {
        TOPICS.iter().for_each(|topic| g.send(topic));
        g.sim.run_for(SECOND / 20);
    }
    assert!(members.iter().all(|&member| g.got(member).is_empty()));
    // Joins expire whatever was lost of the leaving.
    g.sim.run_for(15 * SECOND);
    let before = g.sum("forwarded");
    TOPICS.iter().for_each(|topic| g.send(topic));
    g.sim.run_for(SECOND);
    assert_eq!(g.sum("forwarded"), before);
}
