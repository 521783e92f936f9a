//! `bees team show|budget|stop|kill|limit`: who uses how much of a node, and how much he may.

use anyhow::Result;
use nodeos::units::Rate;
use serde_json::{Value, json};
use wire::budget::{Amount, Unit};
use wire::control::{Answer, BudgetInfo, Request, TeamInfo};
use wire::id::TupleHash;

use super::Access;
use crate::exit::{Code, failure};
use crate::flow::build::{Pair, budgets};
use crate::output::{Output, Table, bytes, or_dash, progress, us};
use crate::remote::Remote;

/// Verbs of teams.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Verb {
    /// Show the tree of teams, and what each does
    Show,
    /// Show the budgets of every kind: what is in use and what may be
    Budget {
        /// Only of this team
        team: Option<String>,
    },
    /// End a team and those below it, after their own clean-up
    Stop {
        /// The team: its number, its flow's first digits, or its name
        team: String,
    },
    /// End a team and those below it at once
    Kill {
        /// The team: its number, its flow's first digits, or its name
        team: String,
    },
    /// Lower what a team may use; nothing is ever raised
    Limit(Limit),
}

/// New bounds.
#[derive(Debug, Clone, clap::Args)]
pub struct Limit {
    /// The team: its number, its flow's first digits, or its name
    team: String,
    /// A bound: memory=256k event=500us rate=10mbit timers=8 flows=2 ... (docs/policy.md has all of them)
    #[arg(value_name = "NAME=VALUE", required = true)]
    budgets: Vec<Pair>,
}

/// Does it.
pub fn run(access: &Access, verb: &Verb, output: Output) -> Result<()> {
    let mut remote = access.login()?;
    let teams = remote.teams()?;
    match verb {
        Verb::Show => output.show(|| teams.iter().map(value).collect(), || tree(&teams)),
        Verb::Budget { team } => {
            let chosen: Vec<&TeamInfo> = match team {
                Some(text) => vec![find(&teams, text)?],
                None => teams.iter().collect(),
            };
            output.show(|| chosen.iter().map(|t| value(t)).collect(), || table(&chosen))
        }
        Verb::Stop { team } => end(&mut remote, find(&teams, team)?, false),
        Verb::Kill { team } => end(&mut remote, find(&teams, team)?, true),
        Verb::Limit(limit) => lower(&mut remote, find(&teams, &limit.team)?, limit),
    }
}

/// The team that is meant.
fn find<'a>(teams: &'a [TeamInfo], text: &str) -> Result<&'a TeamInfo> {
    let digits = |t: &TeamInfo| t.flow.is_some_and(|f| text.len() >= 4 && f.to_string().starts_with(text));
    let means = |t: &&TeamInfo| t.id.to_string() == text || t.name == text || digits(t);
    let mut found = teams.iter().filter(means);
    match (found.next(), found.next()) {
        (Some(team), None) => Ok(team),
        (Some(_), Some(_)) => {
            Err(failure(Code::Usage, format!("{text} means several teams: give the number of one")))
        }
        (None, _) => Err(failure(Code::Failed, format!("there is no team {text} here: bees team show"))),
    }
}

fn flow_of(team: &TeamInfo) -> Result<TupleHash> {
    team.flow.ok_or_else(|| failure(Code::Usage, "no flow runs in that team itself: it stays as it is"))
}

fn end(remote: &mut Remote, team: &TeamInfo, kill: bool) -> Result<()> {
    remote.stop(flow_of(team)?, kill, &format!("team {}", team.name))
}

fn lower(remote: &mut Remote, team: &TeamInfo, limit: &Limit) -> Result<()> {
    let budgets = budgets(&limit.budgets).map_err(|e| failure(Code::Usage, e.to_string()))?;
    match remote.ask(&Request::FlowLimit { flow: flow_of(team)?, budgets })? {
        Answer::Done => {
            progress(format!("team {} goes on with less", team.name));
            Ok(())
        }
        _ => Err(remote.nonsense()),
    }
}

fn value(t: &TeamInfo) -> Value {
    let budget = |b: &BudgetInfo| {
        let part = json!({ "used": b.used, "limit": b.limit, "donated": b.donated });
        (b.kind.name().to_string(), part)
    };
    json!({
        "id": t.id, "parent": t.parent, "name": t.name, "flow": t.flow.map(|f| f.to_string()),
        "memory": { "used": t.memory.0, "peak": t.memory.1, "limit": t.memory.2 },
        "cpu_us": t.cpu_us, "start_us": t.work_us.0, "serve_us": t.work_us.1, "event_us": t.event_us,
        "shares": { "among": t.shares.0, "own": t.shares.1 },
        "events": { "handled": t.events.0, "waiting": t.events.1, "dropped": t.events.2 },
        "sent": t.sent.0, "rate": t.sent.1, "refused": t.refused, "throttled_us": t.throttled_us, "strikes": t.strikes,
        "budgets": t.budgets.iter().map(budget).collect::<serde_json::Map<_, _>>(),
    })
}

/// Teams with those below each of them behind it, and how deep each is.
pub fn ordered(teams: &[TeamInfo]) -> Vec<(usize, &TeamInfo)> {
    let mut out = Vec::new();
    let mut open: Vec<(usize, &TeamInfo)> =
        teams.iter().filter(|t| t.parent.is_none()).map(|t| (0, t)).collect();
    while let Some((depth, team)) = open.pop() {
        out.push((depth, team));
        let below = teams.iter().filter(|t| t.parent == Some(team.id)).map(|t| (depth + 1, t));
        // A tree whose parents are wrong ends all the same.
        let below: Vec<_> = below.filter(|(_, t)| out.iter().all(|(_, known)| known.id != t.id)).collect();
        open.extend(below.into_iter().rev());
    }
    out
}

fn tree(teams: &[TeamInfo]) -> Table {
    let columns = [
        "TEAM",
        ">ID",
        "FLOW",
        ">MEMORY",
        ">PEAK",
        ">LIMIT",
        ">SHARES",
        ">CPU",
        ">START",
        ">SERVE",
        ">EVENT",
        ">EVENTS",
        ">WAITING",
        ">DROPPED",
        ">SENT",
        ">RATE",
        ">REFUSED",
        ">THROTTLED",
        ">STRIKES",
    ];
    let mut table = Table::new(&columns);
    for (depth, t) in ordered(teams) {
        let words = [
            format!("{}{}", "  ".repeat(depth), t.name),
            t.id.to_string(),
            or_dash(t.flow.map(|f| format!("{f:.8}"))),
            bytes(t.memory.0),
            bytes(t.memory.1),
            limit_of(t.memory.2, bytes),
            if t.parent.is_some() { t.shares.0.to_string() } else { "-".into() },
            us(t.cpu_us),
            us(t.work_us.0),
            us(t.work_us.1),
            us(t.event_us.into()),
            t.events.0.to_string(),
            t.events.1.to_string(),
            t.events.2.to_string(),
            bytes(t.sent.0),
            or_dash(t.sent.1.filter(|rate| *rate != u64::MAX).map(Rate)),
            t.refused.to_string(),
            us(t.throttled_us),
            t.strikes.to_string(),
        ];
        table.row(words.map(Into::into));
    }
    table
}

fn table(teams: &[&TeamInfo]) -> Table {
    let mut table = Table::new(&["TEAM", ">ID", "BUDGET", ">USED", ">LIMIT", "HELD"]);
    for t in teams {
        for b in &t.budgets {
            let shown = |n: Option<u64>| {
                or_dash(n.map(|n| match b.kind.unit() {
                    Unit::Bytes => bytes(n),
                    Unit::Time => us(n),
                    Unit::Rate | Unit::Count => Amount(b.kind, n).to_string(),
                }))
            };
            let held = match (t.parent, b.donated) {
                (None, _) => "all",
                (Some(_), true) => "donated",
                (Some(_), false) => "shared",
            };
            let name = b.kind.name().to_string();
            let words = [t.name.clone(), t.id.to_string(), name, shown(b.used), shown(b.limit), held.into()];
            table.row(words.map(Into::into));
        }
    }
    table
}

fn limit_of(limit: u64, shown: impl Fn(u64) -> String) -> String {
    if limit == u64::MAX { "-".into() } else { shown(limit) }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use wire::budget::Kind;

    pub fn team(id: u32, parent: Option<u32>, name: &str) -> TeamInfo {
        TeamInfo {
            id,
            parent,
            name: name.into(),
            flow: parent.map(|_| TupleHash([id as u8; 32])),
            memory: (1024, 2048, u64::MAX),
            cpu_us: 1_000_000,
            work_us: (1, 2),
            shares: (100, 1000),
            budgets: vec![BudgetInfo { kind: Kind::Timers, used: Some(1), limit: Some(4), donated: true }],
            event_us: 2000,
            events: (5, 0, 1),
            sent: (10, Some(1000)),
            refused: 0,
            throttled_us: 0,
            strikes: 0,
        }
    }

    #[test]
    fn the_tree_is_in_order_and_a_false_one_ends() {
        let teams = [
            team(1, None, "root"),
            team(2, Some(1), "a"),
            team(3, Some(1), "b"),
            team(4, Some(2), "below-a"),
            team(7, Some(7), "itself"),
        ];
        let names: Vec<_> = ordered(&teams).iter().map(|(d, t)| (*d, t.name.as_str())).collect();
        assert_eq!(names, [(0, "root"), (1, "a"), (2, "below-a"), (1, "b")]);
        let text = tree(&teams).render(false);
        assert!(text.contains("    below-a"), "{text}");
        assert!(table(&[&teams[1]]).render(false).contains("donated"));
    }

    #[test]
    fn a_team_is_found_by_number_name_or_flow_and_never_guessed() {
        let teams = [team(1, None, "root"), team(2, Some(1), "x"), team(3, Some(1), "x")];
        assert_eq!(find(&teams, "2").unwrap().id, 2);
        assert_eq!(find(&teams, "root").unwrap().id, 1);
        assert_eq!(find(&teams, "030303").unwrap().id, 3);
        assert!(find(&teams, "x").is_err() && find(&teams, "y").is_err());
        assert!(flow_of(&teams[0]).is_err());
    }
}
