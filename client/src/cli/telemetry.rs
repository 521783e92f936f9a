//! `bees telemetry`: what happens to a capsule on its way (`capsules/telemetry/README.md`), as a table.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Value, json};

use super::Access;
use crate::exit::{Code, failure};
use crate::output::{Output, Table, plain, progress};
use crate::session::{Received, Session};

/// Where to, and how often.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// The node that traces go to
    to: String,
    /// Traces that are to come back
    #[arg(short, long, default_value_t = 1)]
    count: u16,
    /// The protocol's flow: its name, its hash, or the hash's first digits
    #[arg(long, default_value = "telemetry", value_name = "FLOW")]
    flow: String,
}

/// The protocol gives up sooner than this if nothing comes back.
const SILENCE: Duration = Duration::from_secs(20);

pub fn run(access: &Access, options: &Options, output: Output) -> Result<()> {
    if options.to.is_empty() || !options.to.bytes().all(|b| b.is_ascii_graphic()) {
        let text =
            format!("{:?} is no node's name: those have printable characters without blanks", options.to);
        return Err(failure(Code::Usage, text));
    }
    let target = access.target()?;
    let mut session = Session::open(&target.session, &options.flow, target.timeout)?;
    session.sender()?.send(format!("trace {} count {}", options.to, options.count).as_bytes())?;
    let mut traces = Vec::new();
    let summary = loop {
        let packet = match session.receive(Instant::now() + target.timeout.max(SILENCE))? {
            Received::Packet(packet) => packet,
            Received::Nothing => return Err(failure(Code::TimedOut, "the protocol did not answer in time")),
            Received::Closed => return Err(failure(Code::Failed, "the protocol closed the session")),
        };
        let line = String::from_utf8_lossy(&packet);
        match line.split_once(' ') {
            Some(("trace", _)) => traces.push(Trace::parse(&line)?),
            Some(("hop", _)) => {
                traces.last_mut().ok_or_else(|| nonsense(&line))?.hops.push(Hop::parse(&line)?)
            }
            Some(("done", summary)) => break summary.to_string(),
            Some(("error", why)) => return Err(failure(Code::Failed, plain(why))),
            _ => return Err(nonsense(&line)),
        }
    };
    output.show(|| Value::from_iter(traces.iter().map(Trace::value)), || table(&traces))?;
    if !output.is_json() {
        progress(plain(&summary));
    }
    Ok(())
}

/// One trace that came back.
#[derive(Debug, PartialEq)]
struct Trace {
    round: u64,
    us: u64,
    missed: u64,
    hops: Vec<Hop>,
}

/// What one node wrote down.
#[derive(Debug, PartialEq)]
struct Hop {
    node: String,
    /// On the node's own clock.
    arrived_us: u64,
    stay_us: u64,
    /// `None`: the node does not tell.
    waiting: Option<u64>,
    next: Option<String>,
}

/// The words behind the first, of which every other is a name that must be there.
fn values<'a>(line: &'a str, names: &[&str]) -> Result<Vec<&'a str>> {
    let words: Vec<&str> = line.split(' ').collect();
    let pairs = words.chunks_exact(2);
    let right =
        words.len() == 2 * names.len() && pairs.clone().zip(names).all(|(pair, name)| pair[0] == *name);
    if right { Ok(pairs.map(|pair| pair[1]).collect()) } else { Err(nonsense(line)) }
}

/// A name that the protocol wrote as one word: `%` and two hexadecimal digits are a byte, `%` alone is nothing.
fn name(word: &str, line: &str) -> Result<String> {
    let mut pieces = word.split('%');
    let mut bytes = pieces.next().unwrap_or("").as_bytes().to_vec();
    for piece in pieces.filter(|_| word != "%") {
        let digits = piece.get(..2).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(byte.ok_or_else(|| nonsense(line))?);
        bytes.extend(&piece.as_bytes()[2..]);
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn number(word: &str, line: &str) -> Result<u64> {
    word.parse().map_err(|_| nonsense(line))
}

impl Trace {
    fn parse(line: &str) -> Result<Self> {
        let values = values(line, &["trace", "round", "hops", "us", "missed"])?;
        let numbers = values[1..].iter().map(|word| number(word, line)).collect::<Result<Vec<_>>>()?;
        Ok(Self { round: numbers[0], us: numbers[2], missed: numbers[3], hops: vec![] })
    }

    fn value(&self) -> Value {
        let hop = |h: &Hop| {
            json!({
                "node": h.node, "arrived_us": h.arrived_us, "stay_us": h.stay_us, "waiting": h.waiting, "next": h.next,
            })
        };
        let hops: Vec<Value> = self.hops.iter().map(hop).collect();
        json!({ "round": self.round, "us": self.us, "missed": self.missed, "hops": hops })
    }
}

impl Hop {
    fn parse(line: &str) -> Result<Self> {
        // Its number says nothing that its place does not.
        let rest = line.splitn(3, ' ').nth(2).ok_or_else(|| nonsense(line))?;
        let (node, rest) = rest.split_once(' ').ok_or_else(|| nonsense(line))?;
        let values = values(rest, &["arrived", "stay", "waiting", "next"])?;
        let known = |word: &str| (word != "-").then(|| word.to_string());
        Ok(Self {
            node: name(node, line)?,
            arrived_us: number(values[0], line)?,
            stay_us: number(values[1], line)?,
            waiting: known(values[2]).map(|word| number(&word, line)).transpose()?,
            next: known(values[3]).map(|word| name(&word, line)).transpose()?,
        })
    }
}

fn nonsense(line: &str) -> anyhow::Error {
    failure(Code::Failed, format!("the protocol answered nonsense: {line:?}"))
}

fn table(traces: &[Trace]) -> Table {
    let mut table = Table::new(&[">ROUND", ">HOP", "NODE", ">ARRIVED", ">STAY", "NEXT", ">WAITING", ">TIME"]);
    for trace in traces {
        for (at, hop) in trace.hops.iter().enumerate() {
            let last = at + 1 == trace.hops.len();
            let dash = || "-".to_string();
            table.row([
                trace.round.to_string().into(),
                at.to_string().into(),
                hop.node.as_str().into(),
                format!("{}.{:06} s", hop.arrived_us / 1_000_000, hop.arrived_us % 1_000_000).into(),
                format!("{} us", hop.stay_us).into(),
                hop.next.clone().unwrap_or_else(dash).into(),
                hop.waiting.map_or_else(dash, |n| n.to_string()).into(),
                if last { format!("{} us", trace.us) } else { String::new() }.into(),
            ]);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_they_were() {
        let hop = Hop::parse("hop 1 a%20%25%0ab arrived 5 stay 1 waiting - next %2d").unwrap();
        assert_eq!((hop.node.as_str(), hop.next.as_deref()), ("a %\nb", Some("-")));
        let hop = Hop::parse("hop 1 % arrived 5 stay 1 waiting - next gr%c3%b6%C3%9fer%ff").unwrap();
        assert_eq!((hop.node.as_str(), hop.next.as_deref()), ("", Some("größer\u{fffd}")));
        for bad in ["a%", "a%2", "%%", "%x0", "%+1", "%ä"] {
            assert!(Hop::parse(&format!("hop 1 {bad} arrived 5 stay 1 waiting - next b")).is_err(), "{bad}");
        }
        let hops = [
            "hop 0 a%1b[2J%20x arrived 5 stay 1 waiting - next %9b",
            "hop 1 b arrived 5 stay 1 waiting 7 next -",
        ];
        let hops = hops.iter().map(|line| Hop::parse(line).unwrap()).collect();
        let text = table(&[Trace { round: 1, us: 2, missed: 0, hops }]).render(false);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines.len() == 3 && lines[1].contains("  a\u{fffd}[2J x  "), "{text}");
        assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text:?}");
    }

    proptest::proptest! {
        #[test]
        fn any_line_is_read_or_refused(line in ".{0,120}", word in "[a%0-9é]{0,9}") {
            let _ = (Hop::parse(&line), Trace::parse(&line));
            let _ = Hop::parse(&format!("hop 1 {word} arrived 5 stay 1 waiting - next {word}"));
        }
    }

    #[test]
    fn lines_are_read_and_nonsense_is_told() {
        let trace = Trace::parse("trace d round 2 hops 6 us 6100 missed 0").unwrap();
        assert_eq!(trace, Trace { round: 2, us: 6100, missed: 0, hops: vec![] });
        let hop = Hop::parse("hop 1 b arrived 5000001 stay 12 waiting 3 next c").unwrap();
        assert_eq!((hop.node.as_str(), hop.arrived_us, hop.stay_us), ("b", 5_000_001, 12));
        assert_eq!((hop.waiting, hop.next.as_deref()), (Some(3), Some("c")));
        let last = Hop::parse("hop 2 a arrived 7 stay 0 waiting - next -").unwrap();
        assert_eq!((last.waiting, &last.next), (None, &None));
        for bad in
            ["hop", "hop 1", "hop 1 b arrived x stay 12 waiting 3 next c", "hop 1 b stay 12", "hop 1 b"]
        {
            assert!(Hop::parse(bad).is_err(), "{bad}");
        }
        assert!(Trace::parse("trace d round 2 hops 6 us missed 0").is_err());
        let text = table(&[Trace { hops: vec![hop, last], ..trace }]).render(false);
        assert!(text.contains("5.000001 s") && text.contains("6100 us"), "{text}");
    }
}
