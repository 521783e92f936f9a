//! `bees lab demo`: the whole story in one command. A protocol enters at one node, its code travels hop by
//! hop to the others, and they answer.
//!
//! The lab is destroyed at the end, however the command ends, unless it is to be kept.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sim::lab::{Inject, Lab};
use wire::control::FlowInfo;

use super::deploy::{self, deploy};
use super::destroy::destroy;
use super::graph::{self, Format};
use super::guard::Guard;
use super::injects::{Stage, TIMEOUT};
use super::state::Folder;
use crate::cli::{arrivals, flow_value, health};
use crate::exit::{Code, failure};
use crate::flow::inject;
use crate::output::{Output, Table, plain, progress, time, us};
use crate::remote::Remote;
use crate::session::{Received, Session};

/// How to run the demonstration.
#[derive(Debug, Clone, clap::Args)]
#[group(id = "demo")]
pub struct Options {
    #[command(flatten)]
    deploy: deploy::Options,
    /// Leave the lab up, and say what to type next
    #[arg(long)]
    keep: bool,
    /// The folder with the protocols' modules, instead of the one that `cargo xtask capsules` fills
    #[arg(long, env = "BEES_CAPSULES", value_name = "FOLDER")]
    capsules: Option<PathBuf>,
}

/// What the demonstration saw.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Who answered `hello`.
    pub answers: Vec<Hello>,
    /// The flows of each node.
    pub flows: Vec<(String, Vec<FlowInfo>)>,
    /// The lines of the ping to the farthest node.
    pub ping: Vec<String>,
}

/// A node's answer to `hello`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The node.
    pub node: String,
    /// How many hops away it is.
    pub hops: u32,
    /// How long the answer took, in microseconds.
    pub us: u64,
    /// The neighbor that the answer came through.
    pub via: String,
    /// What the module was built with.
    pub tag: Option<String>,
}

/// How long a protocol's answers may take in all.
const ANSWERS: Duration = Duration::from_secs(120);

/// Runs the demonstration with the lab of `file`.
pub fn demo(file: &Path, options: &Options, output: Output) -> Result<Report> {
    let text = fs::read_to_string(file)
        .map_err(|e| failure(Code::Missing, format!("cannot read {}: {e}", file.display())))?;
    let lab = Lab::parse(&text).map_err(|e| failure(Code::Usage, format!("{}: {e}", file.display())))?;
    let guard = if options.keep { None } else { Some(Guard::start(&Folder::named(&lab.name))?) };
    let report = play(&lab, file, options, output);
    if let Some(guard) = guard {
        let destroyed = destroy(&Folder::named(&lab.name));
        guard.dismiss()?;
        // What went wrong first is what counts.
        return report.and_then(|r| destroyed.map(|()| r));
    }
    hints(&lab);
    report
}

fn play(lab: &Lab, file: &Path, options: &Options, output: Output) -> Result<Report> {
    let say = |text: &str| if output.is_json() { Ok(()) } else { output.text(text) };
    let started = Instant::now();
    say(&format!("{}\n", graph::draw(lab, Format::Text)))?;
    let (folder, state) = deploy(file, &options.deploy)?;
    say(&format!("{} nodes are up after {}\n", lab.nodes.len(), time(started.elapsed())))?;
    let stage = Stage::new(folder, state, options.capsules.as_deref());
    let mut report = Report::default();
    for wanted in &lab.injects {
        let node = &lab.nodes[wanted.node].name;
        let flow = stage.inject(lab, wanted)?;
        say(&format!("\n{} ({:.8}) is injected at {node}\n", wanted.protocol, flow.hash))?;
        if wanted.protocol == "hello" {
            let reachable = connected(lab, wanted.node);
            report.answers = stage.hello(node, &flow, reachable)?;
            say(&format!("{} nodes of {reachable} answered {node}\n\n", report.answers.len()))?;
            output_table(output, hello_table(&report.answers))?;
            if report.answers.len() < reachable {
                return Err(failure(Code::Failed, "not every node answered; `bees node log` may say why"));
            }
        }
        if wanted.protocol == "health" {
            let begun = Instant::now();
            let reports =
                health::until_all_report(&stage.target(node)?, &flow, connected(lab, wanted.node), ANSWERS)?;
            say(&format!("everybody has reported to {node} after {}\n\n", time(begun.elapsed())))?;
            output_table(output, reports)?;
        }
    }
    report.flows = stage.flows()?;
    say("\nwhere the code is now, and how it came there\n\n")?;
    let all = report.flows.iter().flat_map(|(n, flows)| flows.iter().map(move |f| (Some(n.as_str()), f)));
    output_table(output, arrivals(all))?;
    let farthest = report.answers.iter().max_by_key(|a| a.hops).filter(|a| a.hops > 0);
    if let (Some(farthest), Some(wanted)) = (farthest, lab.injects.first()) {
        let node = &lab.nodes[wanted.node].name;
        let (companions, params) = Default::default();
        let ping = Inject { protocol: "ping".into(), companions, params, ..wanted.clone() };
        let flow = stage.inject(lab, &ping)?;
        say(&format!("\nping {} from {node}\n\n", farthest.node))?;
        report.ping =
            stage.talk(node, &flow, &format!("ping {}", farthest.node), |line| say(&format!("{line}\n")))?;
        if report.ping.last().is_none_or(|l| l.ends_with(" received 0")) {
            return Err(failure(Code::Failed, format!("{} does not answer a ping", farthest.node)));
        }
        report.flows = stage.flows()?;
    }
    if output.is_json() {
        output.value(&report_value(&report))?;
    }
    Ok(report)
}

impl Stage {
    fn flows(&self) -> Result<Vec<(String, Vec<FlowInfo>)>> {
        let flows = |node: &super::state::NodeState| {
            let flows = Remote::login(&self.target(&node.name)?)?.flows()?;
            Ok((node.name.clone(), flows))
        };
        self.state.nodes.iter().map(flows).collect()
    }

    /// Who answers. `hello` gives up after some rounds that bring nothing new, which a slow machine may need
    /// for compiling the code; then it is asked again, until `wanted` nodes have answered or time is up.
    fn hello(&self, node: &str, flow: &FlowInfo, wanted: usize) -> Result<Vec<Hello>> {
        let deadline = Instant::now() + ANSWERS;
        loop {
            let lines = self.talk(node, flow, "find", |_| Ok(()))?;
            let answers: Vec<Hello> = lines.iter().filter_map(|line| parse_hello(line)).collect();
            if answers.len() >= wanted || Instant::now() > deadline {
                return Ok(answers);
            }
            progress(format!("{} of {wanted} nodes have answered; asking again", answers.len()));
        }
    }

    /// Makes a request and collects the answer's lines up to the one that says it is done.
    fn talk(
        &self,
        node: &str,
        flow: &FlowInfo,
        request: &str,
        mut told: impl FnMut(&str) -> Result<()>,
    ) -> Result<Vec<String>> {
        let target = self.target(node)?;
        let mut session = Session::open(&target.session, &flow.hash.to_string(), TIMEOUT)?;
        session.sender()?.send(request.as_bytes())?;
        let deadline = Instant::now() + ANSWERS;
        let mut lines = Vec::new();
        loop {
            match session.receive(deadline)? {
                Received::Packet(packet) => {
                    let line = plain(&String::from_utf8_lossy(&packet));
                    if let Some(why) = line.strip_prefix("error ") {
                        return Err(failure(Code::Failed, format!("{}: {why}", flow.name)));
                    }
                    told(&line)?;
                    let done = line.starts_with("done");
                    lines.push(line);
                    if done {
                        return Ok(lines);
                    }
                }
                Received::Nothing => {
                    return Err(failure(Code::TimedOut, format!("{} did not come to an end", flow.name)));
                }
                Received::Closed => {
                    let now = Remote::login(&target)?.find_flow(&flow.hash.to_string())?;
                    let state = inject::state_text(&now.state);
                    let text = format!("{} closed the session; at {node} it is {state}", flow.name);
                    return Err(failure(Code::Failed, text));
                }
            }
        }
    }
}

/// How many nodes a flood from `start` can reach, itself included.
fn connected(lab: &Lab, start: usize) -> usize {
    let mut reached = vec![false; lab.nodes.len()];
    reached[start] = true;
    let mut open = vec![start];
    while let Some(at) = open.pop() {
        for link in lab.links.iter().filter(|l| l.ends.contains(&at)) {
            for end in link.ends {
                if !std::mem::replace(&mut reached[end], true) {
                    open.push(end);
                }
            }
        }
    }
    reached.iter().filter(|r| **r).count()
}

/// Reads `node NAME hops N us N via NAME round N [tag TEXT]`.
fn parse_hello(line: &str) -> Option<Hello> {
    let mut words = line.split_whitespace();
    let mut after = |name: &str| words.next().filter(|w| *w == name).and_then(|_| words.next());
    let node = after("node")?.to_string();
    let hops = after("hops")?.parse().ok()?;
    let us = after("us")?.parse().ok()?;
    let via = after("via")?.to_string();
    after("round")?;
    Some(Hello { node, hops, us, via, tag: after("tag").map(Into::into) })
}

fn hello_table(answers: &[Hello]) -> Table {
    let mut t = Table::new(&["NODE", ">HOPS", ">AFTER", "VIA", "TAG"]);
    for a in answers {
        let words =
            [a.node.clone(), a.hops.to_string(), us(a.us), a.via.clone(), a.tag.clone().unwrap_or_default()];
        t.row(words.map(Into::into));
    }
    t
}

fn output_table(output: Output, table: Table) -> Result<()> {
    if output.is_json() { Ok(()) } else { output.show(|| Value::Null, || table) }
}

fn report_value(report: &Report) -> Value {
    let answers = report
        .answers
        .iter()
        .map(|a| json!({ "node": a.node, "hops": a.hops, "us": a.us, "via": a.via, "tag": a.tag }));
    let flows: serde_json::Map<_, _> = report
        .flows
        .iter()
        .map(|(node, flows)| (node.clone(), flows.iter().map(flow_value).collect()))
        .collect();
    json!({ "answers": answers.collect::<Vec<_>>(), "flows": flows, "ping": report.ping })
}

fn hints(lab: &Lab) {
    let (Some(first), Some(last)) = (lab.nodes.first(), lab.nodes.last()) else { return };
    let bees = std::env::args().next().context("").unwrap_or_else(|_| "bees".into());
    progress(format!("\nthe lab {} stays up; now you can type", lab.name));
    for line in [
        "lab inspect".to_string(),
        format!("-n {} flow show --arrival", last.name),
        format!("-n {} session ping -- ping {}", first.name, last.name),
        format!("-n {} team show", last.name),
        format!("lab console {}", last.name),
        format!("lab destroy {}", lab.name),
    ] {
        progress(format!("  {bees} {line}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_connected_nodes_are_waited_for() {
        assert_eq!(connected(&Lab::ring(5), 3), 5);
        let mut lab = Lab::line(4);
        lab.links.remove(1);
        assert_eq!([connected(&lab, 0), connected(&lab, 3)], [2, 2]);
    }

    #[test]
    fn answers_are_read() {
        let c = Hello { node: "c".into(), hops: 2, us: 8123, via: "b".into(), tag: Some("x7".into()) };
        assert_eq!(parse_hello("node c hops 2 us 8123 via b round 1 tag x7"), Some(c.clone()));
        assert_eq!(parse_hello("node c hops 2 us 8123 via b round 1"), Some(Hello { tag: None, ..c }));
        for other in
            ["done rounds 3 nodes 3 ms 60 complete", "node c hops two us 1 via b round 1", "node c", ""]
        {
            assert_eq!(parse_hello(other), None, "{other}");
        }
    }
}
