//! What a node says of itself: `bees node|link|neighbor|team|protocol show`, `bees node log`.

use std::time::Duration;

use anyhow::Result;
use nodeos::units::{Rate, parse_time};
use serde_json::json;
use wire::control::{Answer, Counter, LogClass, Request};
use wire::utc::Utc;

use super::Access;
use crate::output::{Output, Table, bytes, hex, or_dash, pairs, plain, us};

/// The one verb of most objects.
#[derive(Debug, Clone, Copy, clap::Subcommand)]
pub enum Show {
    /// Show
    Show,
}

/// Verbs of the node itself.
#[derive(Debug, Clone, Copy, clap::Subcommand)]
pub enum Node {
    /// Show what it is and its counters
    Show,
    /// Print its log
    Log(Log),
}

/// Verbs of neighbors.
#[derive(Debug, Clone, Copy, clap::Subcommand)]
pub enum Neighbor {
    /// Show them
    Show,
    /// Show the nodes that it knows by adverts, neighbors and farther ones
    Known,
    /// Print when one that is watched dies or returns, and when one is discovered or gone
    Watch(Watch),
}

/// How neighbors are watched.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Watch {
    /// Have the node ask all of them so often whether they are there, for as long as this runs; else as it is configured
    #[arg(long, value_parser = parse_time, value_name = "TIME")]
    interval: Option<Duration>,
    /// After so long without an answer one is dead [default: five intervals]
    #[arg(long, value_parser = parse_time, value_name = "TIME", requires = "interval")]
    expiry: Option<Duration>,
}

impl Watch {
    fn request(self, from: u64) -> Request {
        let Some(interval) = self.interval else { return Request::NeighborEvents { from } };
        let expiry = self.expiry.unwrap_or(interval.saturating_mul(5));
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        Request::NeighborWatch { from, poke_us: micros(interval), expire_us: micros(expiry) }
    }
}

/// What of the log to show.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Log {
    /// Only who was allowed what: grants, denials, revocations, logins, policies
    #[arg(long)]
    audit: bool,
    /// Go on showing new lines
    #[arg(short, long)]
    follow: bool,
    /// Only lines with at least this number
    #[arg(long, default_value_t = 0, value_name = "NUMBER")]
    from: u64,
}

pub fn node(access: &Access, output: Output) -> Result<()> {
    let mut remote = access.login()?;
    let Answer::Node(n) = remote.ask(&Request::NodeShow)? else { return Err(remote.nonsense()) };
    if output.is_json() {
        let counters: serde_json::Map<_, _> =
            n.counters.into_iter().map(|Counter { name, value }| (name, value.into())).collect();
        return output.value(&json!({
            "name": n.name, "release": n.release, "platform": n.platform, "identity": hex(&n.identity),
            "agent": n.agent, "uptime_us": n.uptime_us, "wall": n.wall,
            "memory": { "used": n.memory.0, "limit": n.memory.1 },
            "buffers": { "used": n.buffers.0, "limit": n.buffers.1 },
            "flows": { "running": n.flows.0, "limit": n.flows.1 },
            "code": { "bytes": n.code.0, "saved": n.code.1 },
            "counters": counters,
        }));
    }
    output.text(&pairs([
        ("name", n.name),
        ("release", n.release),
        ("platform", n.platform),
        ("identity", hex(&n.identity)),
        ("agent", n.agent),
        ("uptime", us(n.uptime_us)),
        ("wall time", n.wall.map_or("unknown".into(), |s| Utc(s).to_string())),
        ("memory", format!("{} of {} for teams", bytes(n.memory.0), bytes(n.memory.1))),
        ("buffers", format!("{} of {} lent", n.buffers.0, n.buffers.1)),
        ("flows", format!("{} of {}", n.flows.0, n.flows.1)),
        ("code", format!("{} compiled, {} saved by sharing it", bytes(n.code.0), bytes(n.code.1))),
    ]))?;
    let mut counters = Table::new(&["COUNTER", ">VALUE"]);
    for Counter { name, value } in n.counters.into_iter().filter(|c| c.value > 0) {
        counters.row([name.into(), value.to_string().into()]);
    }
    output.text("\n")?;
    output.show(|| json!(null), || counters)
}

pub fn link(access: &Access, output: Output) -> Result<()> {
    let mut remote = access.login()?;
    let Answer::Links(links) = remote.ask(&Request::LinkShow)? else { return Err(remote.nonsense()) };
    let value = || {
        let link = |l: &wire::control::LinkInfo| {
            json!({
                "name": l.name, "mac": sim::lab::mac_text(l.mac), "address": l.address, "mtu": l.mtu, "rate": l.rate,
                "received": { "frames": l.received.0, "bytes": l.received.1 },
                "sent": { "frames": l.sent.0, "bytes": l.sent.1 }, "dropped": l.dropped,
                "waiting": l.waiting,
            })
        };
        links.iter().map(link).collect()
    };
    output.show(value, || {
        let mut t = Table::new(&[
            "LINK",
            "MAC",
            "ADDRESS",
            ">MTU",
            ">RATE",
            ">RX FRAMES",
            ">RX BYTES",
            ">TX FRAMES",
            ">TX BYTES",
            ">DROPPED",
            ">WAITING",
        ]);
        for l in &links {
            let numbers = [l.received.0, l.received.1, l.sent.0, l.sent.1, l.dropped, l.waiting.into()];
            let words = [
                l.name.clone(),
                sim::lab::mac_text(l.mac),
                or_dash(l.address.as_ref()),
                l.mtu.to_string(),
                or_dash(l.rate.map(Rate)),
            ];
            t.row(words.into_iter().chain(numbers.map(|n| n.to_string())).map(Into::into));
        }
        t
    })
}

pub fn neighbor(access: &Access, output: Output) -> Result<()> {
    let mut remote = access.login()?;
    let Answer::Neighbors(all) = remote.ask(&Request::NeighborShow)? else { return Err(remote.nonsense()) };
    let value = || {
        let neighbor = |n: &wire::control::NeighborInfo| {
            json!({
                "name": n.name, "link": n.link, "address": n.address, "max_payload": n.max_payload,
                "received": n.received, "sent": n.sent, "refused": n.refused, "last_heard_us": n.last_heard_us,
                "protection": n.protection.name(), "discovered": n.discovered, "alive": n.alive.map(|a| json!({
                    "up": a.up, "since_us": a.since_us, "rtt_us": a.rtt_us,
                })),
            })
        };
        all.iter().map(neighbor).collect()
    };
    output.show(value, || {
        let mut t = Table::new(&[
            "NEIGHBOR",
            "LINK",
            "ADDRESS",
            ">PAYLOAD",
            ">RECEIVED",
            ">SENT",
            ">REFUSED",
            ">LAST HEARD",
            "PROTECTION",
            "FROM",
            "STATE",
            ">SINCE",
            ">RTT",
        ]);
        for n in &all {
            let words = [
                n.name.clone(),
                n.link.clone(),
                n.address.clone(),
                n.max_payload.to_string(),
                n.received.to_string(),
                n.sent.to_string(),
                n.refused.to_string(),
                n.last_heard_us.map_or("never".into(), us),
                n.protection.name().to_string(),
                if n.discovered { "discovered" } else { "configured" }.into(),
                n.alive.map_or("-", |a| if a.up { "alive" } else { "dead" }).into(),
                or_dash(n.alive.map(|a| us(a.since_us))),
                or_dash(n.alive.and_then(|a| a.rtt_us).map(us)),
            ];
            t.row(words.map(Into::into));
        }
        t
    })
}

/// The nodes that a node knows by adverts.
pub fn known(access: &Access, output: Output) -> Result<()> {
    let mut remote = access.login()?;
    let (mut all, mut from) = (Vec::new(), 0);
    loop {
        let Answer::Known(page) = remote.ask(&Request::KnownShow { from })? else {
            return Err(remote.nonsense());
        };
        all.extend(page.items);
        match page.next {
            Some(next) => from = next,
            None => break,
        }
    }
    let value = || {
        let node = |n: &wire::control::KnownNode| {
            json!({
                "name": n.name, "hops": n.hops, "heard_us": n.heard_us, "left_us": n.left_us, "link": n.link,
                "neighbor": n.neighbor,
            })
        };
        all.iter().map(node).collect()
    };
    output.show(value, || {
        let mut t = Table::new(&["NODE", ">HOPS", ">HEARD", ">FORGOTTEN IN", "LINK", "NEIGHBOR"]);
        for n in &all {
            let (heard, left) = (us(n.heard_us), us(n.left_us));
            t.row(
                [
                    n.name.clone(),
                    n.hops.to_string(),
                    heard,
                    left,
                    n.link.clone(),
                    or_dash(n.neighbor.as_ref()),
                ]
                .map(Into::into),
            );
        }
        t
    })
}

/// Prints what happens to neighbors as it happens, those happenings first that the node remembers.
pub fn watch(access: &Access, how: Watch, output: Output) -> Result<()> {
    let mut remote = access.login()?;
    let mut from = 0;
    loop {
        let Answer::NeighborEvents(events) = remote.ask(&how.request(from))? else {
            return Err(remote.nonsense());
        };
        for e in events {
            from = e.number.saturating_add(1);
            if output.is_json() {
                let news = e.news.name();
                output.value(
                    &json!({ "number": e.number, "at_us": e.at_us, "neighbor": e.name, "news": news }),
                )?;
            } else {
                output.text(&format!(
                    "{:>12.6}  {} {}\n",
                    e.at_us as f64 / 1e6,
                    plain(&e.name),
                    e.news.name()
                ))?;
            }
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

pub fn protocol(access: &Access, output: Output) -> Result<()> {
    let mut remote = access.login()?;
    let Answer::Protocols(all) = remote.ask(&Request::ProtocolShow)? else { return Err(remote.nonsense()) };
    let value = || {
        let module = |p: &wire::control::ProtocolInfo| json!({ "code": p.code.to_string(), "len": p.len, "compiled": p.compiled, "users": p.users });
        all.iter().map(module).collect()
    };
    output.show(value, || {
        let mut t = Table::new(&["MODULE", ">BYTES", ">COMPILED", ">TEAMS"]);
        for p in &all {
            let words = [p.code.to_string(), p.len.to_string(), bytes(p.compiled), p.users.to_string()];
            t.row(words.map(Into::into));
        }
        t
    })
}

pub fn log(access: &Access, options: &Log, output: Output) -> Result<()> {
    let mut remote = access.login()?;
    let mut from = options.from;
    loop {
        let Answer::Log(lines) = remote.ask(&Request::Log { from })? else { return Err(remote.nonsense()) };
        for line in &lines {
            from = from.max(line.number.saturating_add(1));
            if options.audit && line.class != LogClass::Audit {
                continue;
            }
            if output.is_json() {
                output.value(&json!({ "number": line.number, "at_us": line.at_us, "class": line.class.to_string(), "text": line.text }))?;
            } else {
                output.text(&format!("{:>12.6}  {}\n", line.at_us as f64 / 1e6, plain(&line.text)))?;
            }
        }
        match (lines.is_empty(), options.follow) {
            (true, false) => return Ok(()),
            (true, true) => std::thread::sleep(Duration::from_millis(200)),
            (false, _) => {}
        }
    }
}
