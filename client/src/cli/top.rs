//! `bees top`: what the teams of a node do, now and again.

use std::time::{Duration, Instant};

use anyhow::Result;
use nodeos::units::parse_time;
use serde_json::{Value, json};
use wire::control::TeamInfo;

use super::Access;
use super::team::ordered;
use crate::output::{Output, Table, bytes};

/// How to watch.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Options {
    /// Time between two looks
    #[arg(short, long, default_value = "1s", value_parser = parse_time, value_name = "TIME")]
    interval: Duration,
    /// Looks, then end; without it until interrupted
    #[arg(short, long, value_name = "TIMES")]
    count: Option<u32>,
}

/// The shortest time between two looks.
const SHORTEST: Duration = Duration::from_millis(100);

/// Watches until it is interrupted, or has looked often enough.
pub fn run(access: &Access, options: &Options, output: Output) -> Result<()> {
    let mut remote = access.login()?;
    let (mut before, mut at) = (remote.teams()?, Instant::now());
    let mut looks = 0;
    while options.count.is_none_or(|count| looks < count) {
        std::thread::sleep(options.interval.max(SHORTEST));
        let (teams, now) = (remote.teams()?, Instant::now());
        let rates = rates(&before, &teams, now - at);
        output.screen()?;
        output.show(|| rates.iter().map(Rates::value).collect(), || table(&rates))?;
        (before, at, looks) = (teams, now, looks + 1);
    }
    Ok(())
}

/// What a team did between two looks.
#[derive(Debug, Clone, PartialEq)]
struct Rates {
    id: u32,
    name: String,
    /// Of one processor.
    cpu_percent: f64,
    events_per_s: f64,
    sent_per_s: f64,
    dropped_per_s: f64,
    refused_per_s: f64,
    /// Of the time between two looks.
    throttled_percent: f64,
    memory: u64,
    waiting: u32,
    strikes: u32,
}

fn rates(before: &[TeamInfo], now: &[TeamInfo], time: Duration) -> Vec<Rates> {
    let seconds = time.as_secs_f64().max(1e-6);
    let each = |(depth, t): (usize, &TeamInfo)| {
        // A team that was not there has done all of it since.
        let old = before.iter().find(|b| b.id == t.id);
        let per_s = |of: fn(&TeamInfo) -> u64| of(t).saturating_sub(old.map_or(0, of)) as f64 / seconds;
        Rates {
            id: t.id,
            name: format!("{}{}", "  ".repeat(depth), t.name),
            cpu_percent: per_s(|t| t.cpu_us) / 1e4,
            events_per_s: per_s(|t| t.events.0),
            sent_per_s: per_s(|t| t.sent.0),
            dropped_per_s: per_s(|t| t.events.2),
            refused_per_s: per_s(|t| t.refused),
            throttled_percent: per_s(|t| t.throttled_us) / 1e4,
            memory: t.memory.0,
            waiting: t.events.1,
            strikes: t.strikes,
        }
    };
    ordered(now).into_iter().map(each).collect()
}

impl Rates {
    fn value(&self) -> Value {
        json!({
            "id": self.id, "name": self.name.trim_start(), "cpu_percent": self.cpu_percent,
            "events_per_s": self.events_per_s, "sent_per_s": self.sent_per_s,
            "dropped_per_s": self.dropped_per_s, "refused_per_s": self.refused_per_s,
            "throttled_percent": self.throttled_percent,
            "memory": self.memory, "waiting": self.waiting, "strikes": self.strikes,
        })
    }
}

fn table(rates: &[Rates]) -> Table {
    let columns = [
        "TEAM",
        ">ID",
        ">CPU",
        ">EVENTS/S",
        ">WAITING",
        ">DROPPED/S",
        ">SENT/S",
        ">REFUSED/S",
        ">THROTTLED",
        ">MEMORY",
        ">STRIKES",
    ];
    let mut table = Table::new(&columns);
    for r in rates {
        let words = [
            r.name.clone(),
            r.id.to_string(),
            format!("{:.1} %", r.cpu_percent),
            format!("{:.0}", r.events_per_s),
            r.waiting.to_string(),
            format!("{:.0}", r.dropped_per_s),
            bytes(r.sent_per_s as u64),
            format!("{:.0}", r.refused_per_s),
            format!("{:.1} %", r.throttled_percent),
            bytes(r.memory),
            r.strikes.to_string(),
        ];
        table.row(words.map(Into::into));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::super::team::tests::team;
    use super::*;

    #[test]
    fn rates_are_what_changed_by_time() {
        let before = [team(1, None, "root"), team(2, Some(1), "a")];
        let mut now = [before[0].clone(), before[1].clone(), team(3, Some(1), "new")];
        now[1].cpu_us += 500_000;
        now[1].events.0 += 200;
        let rates = rates(&before, &now, Duration::from_secs(2));
        assert_eq!((rates[1].cpu_percent, rates[1].events_per_s), (25.0, 100.0));
        assert_eq!((rates[0].cpu_percent, rates[2].events_per_s), (0.0, 2.5));
        assert!(table(&rates).render(false).contains("25.0 %"));
    }
}
