//! `bees health`: the reports that a health agent's server has (`capsules/health/README.md`), as a table.

use std::time::{Duration, Instant};

use anyhow::Result;
use nodeos::units::parse_time;
use serde_json::{Map, Value, json};

use wire::control::FlowInfo;

use super::Access;
use crate::exit::{Code, failure};
use crate::output::{Cell, Colour, Output, Table, plain, progress};
use crate::remote::Target;
use crate::session::{Received, Sender, Session};

/// Whose reports, and how to look at them.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// The agent's flow: its name, its hash, or the hash's first digits
    #[arg(default_value = "health")]
    flow: String,
    /// Make the node the server first: agents on all nodes report to it from then on
    #[arg(long)]
    serve: bool,
    /// Look again and again until interrupted
    #[arg(short, long)]
    watch: bool,
    /// Time between two looks
    #[arg(short, long, default_value = "2s", value_parser = parse_time, value_name = "TIME")]
    interval: Duration,
    /// Looks, then end; implies --watch
    #[arg(short, long, value_name = "TIMES")]
    count: Option<u32>,
    /// Only sensors whose names begin so
    #[arg(long = "sensor", value_name = "PREFIX")]
    sensors: Vec<String>,
}

/// A report that is older than so many seconds is shown as such.
const OLD: u64 = 15;

pub fn run(access: &Access, options: &Options, output: Output) -> Result<()> {
    let target = access.target()?;
    let session = Session::open(&target.session, &options.flow, target.timeout)?;
    let mut program = Program { sender: session.sender()?, session, patience: target.timeout };
    if options.serve {
        program.serve()?;
    }
    let mut looks = 0;
    loop {
        let health = program.health(&options.sensors)?;
        output.screen()?;
        output.show(|| health.value(), || health.table())?;
        if !output.is_json() {
            progress(plain(&health.summary));
        }
        looks += 1;
        if options.count.map_or(!options.watch, |count| looks >= count) {
            return Ok(());
        }
        std::thread::sleep(options.interval);
    }
}

/// Makes a node the server, and waits until so many nodes have reported: the table then.
pub(crate) fn until_all_report(
    target: &Target,
    flow: &FlowInfo,
    nodes: usize,
    patience: Duration,
) -> Result<Table> {
    let session = Session::open(&target.session, &flow.hash.to_string(), target.timeout)?;
    let mut program = Program { sender: session.sender()?, session, patience: target.timeout };
    program.serve()?;
    let deadline = Instant::now() + patience;
    loop {
        let health = program.health(&[])?;
        if health.nodes.len() >= nodes {
            return Ok(health.table());
        }
        if Instant::now() >= deadline {
            let text =
                format!("{} of {nodes} nodes have reported; `bees node log` may say why", health.nodes.len());
            return Err(failure(Code::Failed, text));
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// A program's session with the agent.
struct Program {
    session: Session,
    sender: Sender,
    patience: Duration,
}

/// What the server knows.
#[derive(Debug, Default, PartialEq)]
struct Health {
    nodes: Vec<Report>,
    /// The server's counters, as it says them.
    summary: String,
}

/// A node's newest report.
#[derive(Debug, Clone, PartialEq)]
struct Report {
    node: String,
    /// Hops to the server.
    hops: u64,
    /// Seconds since it came.
    age: u64,
    /// Reports that the node has sent.
    sequence: u64,
    /// Reports of it that did not come.
    lost: u64,
    /// When it was made, in seconds since 1970; 0: unknown.
    wall: u64,
    /// The beginning of the key that signed it.
    key: Option<String>,
    sensors: Vec<(String, i64)>,
}

impl Program {
    fn line(&mut self) -> Result<String> {
        match self.session.receive(Instant::now() + self.patience)? {
            Received::Packet(packet) => Ok(String::from_utf8_lossy(&packet).into_owned()),
            Received::Nothing => Err(failure(Code::TimedOut, "the agent did not answer in time")),
            Received::Closed => Err(failure(Code::Failed, "the agent closed the session")),
        }
    }

    fn serve(&mut self) -> Result<()> {
        self.sender.send(b"serve")?;
        match self.line()?.as_str() {
            "ok" => Ok(()),
            other => Err(failure(Code::Failed, format!("the agent does not serve: {}", plain(other)))),
        }
    }

    fn health(&mut self, sensors: &[String]) -> Result<Health> {
        let mut health = Health::default();
        let mut request = "list".to_string();
        loop {
            self.sender.send(request.as_bytes())?;
            loop {
                let line = self.line()?;
                match line.split_once(' ') {
                    Some(("age", _)) => health.nodes.push(Report::parse(&line, sensors)?),
                    Some(("more", from)) => {
                        request = format!("list {from}");
                        break;
                    }
                    Some(("done", summary)) => {
                        health.summary = summary.to_string();
                        health.nodes.sort_by(|a, b| (a.hops, &a.node).cmp(&(b.hops, &b.node)));
                        return Ok(health);
                    }
                    _ => return Err(nonsense(&line)),
                }
            }
        }
    }
}

impl Report {
    /// Reads a line: `age S report NODE hops H sequence N lost N wall S key HEX|- SENSOR VALUE ...`.
    fn parse(line: &str, sensors: &[String]) -> Result<Self> {
        let mut words = line.split(' ');
        let mut after = |name: &str| words.next().filter(|w| *w == name).and_then(|_| words.next());
        let mut read = || {
            let number = |word: Option<&str>| word?.parse().ok();
            let age = number(after("age"))?;
            let node = after("report")?.to_string();
            let hops = number(after("hops"))?;
            let (sequence, lost) = (number(after("sequence"))?, number(after("lost"))?);
            let (wall, key) = (number(after("wall"))?, after("key")?);
            let key = (key != "-").then(|| key.to_string());
            Some(Self { node, hops, age, sequence, lost, wall, key, sensors: vec![] })
        };
        let mut report = read().ok_or_else(|| nonsense(line))?;
        while let Some(name) = words.next() {
            let value = words.next().and_then(|v| v.parse().ok()).ok_or_else(|| nonsense(line))?;
            if sensors.is_empty() || sensors.iter().any(|prefix| name.starts_with(prefix)) {
                report.sensors.push((name.to_string(), value));
            }
        }
        Ok(report)
    }
}

fn nonsense(line: &str) -> anyhow::Error {
    failure(Code::Failed, format!("the agent answered nonsense: {line:?}"))
}

impl Health {
    fn value(&self) -> Value {
        let node = |r: &Report| {
            let sensors: Map<String, Value> =
                r.sensors.iter().map(|(n, v)| (n.clone(), (*v).into())).collect();
            json!({
                "node": r.node, "hops": r.hops, "age_s": r.age, "sequence": r.sequence, "lost": r.lost,
                "wall": r.wall, "key": r.key, "sensors": sensors,
            })
        };
        let words: Vec<&str> = self.summary.split(' ').collect();
        let counts: Map<String, Value> = words
            .chunks_exact(2)
            .filter_map(|pair| Some((pair[0].to_string(), pair[1].parse::<u64>().ok()?.into())))
            .collect();
        json!({ "nodes": self.nodes.iter().map(node).collect::<Vec<_>>(), "counts": counts })
    }

    fn table(&self) -> Table {
        let mut table = Table::new(&["NODE", ">HOPS", ">AGE", ">REPORTS", ">LOST", "KEY", "SENSORS"]);
        for r in &self.nodes {
            let colour = if r.age > OLD { Colour::Bad } else { Colour::Good };
            let sensors: Vec<String> =
                r.sensors.iter().map(|(name, value)| format!("{name} {value}")).collect();
            table.row([
                r.node.as_str().into(),
                r.hops.to_string().into(),
                Cell::coloured(format!("{} s", r.age), colour),
                r.sequence.to_string().into(),
                r.lost.to_string().into(),
                r.key.as_deref().unwrap_or("unsigned").into(),
                sensors.join(", ").into(),
            ]);
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LINE: &str = "age 3 report n1 hops 2 sequence 9 lost 1 wall 1767225600 key 0011223344556677 fan-rpm 1200 temp-millicelsius -500";

    #[test]
    fn a_line_is_a_row() {
        let report = Report::parse(LINE, &[]).unwrap();
        assert_eq!((report.node.as_str(), report.hops, report.age, report.lost), ("n1", 2, 3, 1));
        assert_eq!(report.sensors, [("fan-rpm".into(), 1200), ("temp-millicelsius".into(), -500)]);
        let only = Report::parse(LINE, &["temp".into()]).unwrap();
        assert_eq!(only.sensors.len(), 1);
        let unsigned = Report::parse("age 0 report x hops 0 sequence 1 lost 0 wall 0 key -", &[]).unwrap();
        assert_eq!((unsigned.key, unsigned.sensors.len()), (None, 0));
        let health = Health { nodes: vec![report], summary: "nodes 1 reports 9 lost 1".into() };
        assert_eq!(health.value()["counts"]["lost"], 1);
        assert_eq!(health.value()["nodes"][0]["sensors"]["temp-millicelsius"], -500);
        assert!(health.table().render(false).contains("n1       2  3 s"), "{}", health.table().render(false));
    }

    proptest! {
        #[test]
        fn any_line_is_read_or_refused(line in ".{0,120}", cut in 0..LINE.len()) {
            let _ = Report::parse(&line, &[]);
            let _ = Report::parse(&LINE[..cut], &[]);
            let _ = Report::parse(&format!("{}{line}", &LINE[..cut]), &[]);
        }
    }
}
