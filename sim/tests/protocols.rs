//! ping and benchmark, as they are shipped: what they count is what the links did.

mod common;

use std::time::Duration;

use common::real::{ask, module, number, start, word};
use sim::lab::Lab;
use sim::medium::Shape;
use sim::trial::script::Script;
use sim::trial::{Trial, TrialError};
use sim::{Options, Sim};

const SECOND: Duration = Duration::from_secs(1);

fn shape(loss: f64) -> Shape {
    Shape { rate: Some(12_500_000), delay: SECOND / 1000, loss, ..Shape::default() }
}

#[test]
fn three_lines_try_a_protocol() {
    let mut trial = Trial::start(&Lab::line(3), &module("hello")).unwrap();
    let found = trial.ask("n1", "find", "done").unwrap();
    assert!(found.len() == 4 && found[3].ends_with("complete"), "{found:?}");

    assert!(matches!(trial.say("n4", "find"), Err(TrialError::Node(name)) if name == "n4"));
    let silence = trial.hear("n1", "news").unwrap_err().to_string();
    assert!(silence.ends_with("it heard nothing; the flow runs"), "{silence}");
    let text = Trial::start(&Lab::line(1), b"\0asm").err().unwrap().to_string();
    assert!(text.starts_with("a node would not run the module"), "{text}");
}

#[test]
fn scripts_try_what_is_shipped() {
    for (name, text) in [
        ("template", include_str!("../../capsules/template/lab.txt")),
        ("echo", include_str!("../../capsules/c/lab.txt")),
    ] {
        let script = Script::parse(text).unwrap();
        script.run(&module(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    let wrong = Script::parse("lab line 2\nn1 < hello\nn1 > nothing of the kind").unwrap();
    let error = wrong.run(&module("echo")).unwrap_err();
    assert!(error.line == 3 && error.to_string().contains("hello from n2"), "{error}");
}

/// Unprotected: a protected link lets nothing through twice, and has frames of its own.
fn line(nodes: usize, loss: f64) -> Sim {
    let mut lab = Lab::line(nodes).shaped(shape(loss));
    lab.defaults.protect = false;
    Sim::new(&lab, 1, Options::default()).unwrap()
}

/// Frames that one direction of a link was given.
fn frames(sim: &Sim, link: usize, direction: usize) -> u64 {
    sim.link(link)[direction].frames
}

#[test]
fn ping_measures_what_the_links_take() {
    let mut sim = line(4, 0.0);
    let session = start(&mut sim, 0, "ping");
    let lines = ask(&mut sim, session, "ping n4 count 50 interval 10", 60 * SECOND);
    assert_eq!(lines.last().unwrap(), "done sent 50 received 50");
    assert_eq!(lines[0], "PING n4: 64 bytes");
    let replies: Vec<&String> = lines.iter().filter(|l| l.contains(" from n4: ")).collect();
    for (seq, line) in (1..).zip(&replies) {
        assert!(line.starts_with(&format!("64 bytes from n4: seq={seq} hops=3 time=")), "{line}");
        // Six times a millisecond, and what the frames' bytes take at 100 Mbit/s.
        let time: f64 = word(line, 6).trim_start_matches("time=").parse().unwrap();
        assert!((6.0..6.2).contains(&time), "{line}");
    }
    assert_eq!(replies.len(), 50);
    assert!(lines.iter().any(|l| l.starts_with("50 sent, 50 received, 0% loss")), "{lines:?}");
}

#[test]
fn ping_finds_its_way_in_spite_of_loss_and_counts_it() {
    let mut sim = line(3, 0.1);
    let session = start(&mut sim, 0, "ping");
    let lines = ask(&mut sim, session, "ping n3 count 1000 interval 20", 120 * SECOND);
    let done = lines.last().unwrap();
    let (sent, received) = (number(done, "sent"), number(done, "received"));
    let replies = lines.iter().filter(|l| l.contains(" from n3: ")).count() as u64;
    let silent = lines.iter().filter(|l| l.starts_with("no answer: seq=")).count() as u64;
    assert_eq!((sent, replies, replies + silent), (1000, received, 1000), "{done}");
    // Four links each way must all let it pass: 0.9^4 of 1000 are 656, give or take four deviations.
    assert!((596..=716).contains(&received), "{done}");
    println!("10 % loss, two hops: {received} of {sent} pings answered");
}

#[test]
fn ping_says_who_is_not_there() {
    let mut sim = line(3, 0.0);
    let session = start(&mut sim, 0, "ping");
    let lines = ask(&mut sim, session, "ping nobody", 60 * SECOND);
    assert_eq!(lines, ["PING nobody: 64 bytes", "error nobody is not found"]);
}

/// A stream from n1 to n4 where the middle link is `shape`, and what the link did meanwhile.
fn stream(shape: Shape) {
    let mut sim = line(4, 0.0);
    let session = start(&mut sim, 0, "benchmark");
    let first = ask(&mut sim, session, "send n4 count 10", 60 * SECOND);
    assert!(first[0].starts_with("result target n4 sent 10 received 10 duplicates 0 reordered 0 relays 2 "));
    sim.set_shape(1, shape);
    let before = sim.link(1)[0];
    let offered = frames(&sim, 0, 0);

    let result = ask(&mut sim, session, "send n4 count 5000 rate 2000 size 200", 60 * SECOND).remove(0);
    // The first link is perfect: what is more than the stream asks for the report.
    let asks = frames(&sim, 0, 0) - offered - 5000;
    let after = sim.link(1)[0];
    let (received, twice) = (number(&result, "received"), number(&result, "duplicates"));
    let about = |of: u64, counted: u64, what: &str| {
        assert!((counted..=counted + asks).contains(&of), "{of} {what}, {asks} asks: {result}");
    };
    assert_eq!((number(&result, "sent"), number(&result, "relays")), (5000, 2), "{result}");
    about(after.lost - before.lost, 5000 - received, "lost");
    about(after.duplicated - before.duplicated, twice, "duplicated");
    assert!(number(&result, "reordered") <= after.reordered - before.reordered, "{result}");
    let rate = number(&result, "rate") as f64;
    assert!((rate / 2000.0 - received as f64 / 5000.0).abs() < 0.01, "{result}");
    if shape == Shape::default() {
        assert_eq!((received, twice, number(&result, "reordered")), (5000, 0, 0), "{result}");
    } else {
        assert!(received < 5000 && twice > 0 && number(&result, "reordered") > 0, "{result}");
    }
    let sink = sim.session(3, "benchmark").unwrap();
    let told = ask(&mut sim, sink, "sink", SECOND);
    assert_eq!(told, [format!("sink streams 2 received {}", 10 + received + twice)]);
}

#[test]
fn benchmark_counts_what_arrives() {
    stream(Shape::default());
}

#[test]
fn benchmark_counts_what_is_lost_doubled_and_overtaken() {
    let delay = SECOND / 1000;
    stream(Shape { delay, loss: 0.1, duplicate: 0.1, reorder: 0.1, ..Shape::default() });
}

#[test]
fn benchmark_goes_the_way_that_was_set_by_hand() {
    let mut sim = Sim::new(&Lab::ring(4).shaped(shape(0.0)), 1, Options::default()).unwrap();
    let session = start(&mut sim, 0, "benchmark");
    ask(&mut sim, session, "send n3 count 10", 60 * SECOND);
    for (at, via) in [(1, "n2"), (3, "n4")] {
        let relay = sim.session(at, "benchmark").unwrap();
        assert_eq!(ask(&mut sim, relay, "route n3 via n3", SECOND), ["ok"], "{via}");
    }
    for (link, via) in [(0, "n2"), (3, "n4")] {
        assert_eq!(ask(&mut sim, session, &format!("route n3 via {via}"), SECOND), ["ok"]);
        // The last link has n4 at its first end.
        let direction = usize::from(link == 3);
        let (this, that) = (frames(&sim, link, direction), frames(&sim, 3 - link, 1 - direction));
        let result = ask(&mut sim, session, "send n3 count 200", 60 * SECOND).remove(0);
        assert!(result.starts_with("result target n3 sent 200 received 200 "), "{result}");
        assert!(frames(&sim, link, direction) - this >= 200, "via {via}");
        assert!(frames(&sim, 3 - link, 1 - direction) - that < 10, "not via {via}");
    }
}
