//! `bees channel show|add|remove`: where capsules arrive and leave, and cut-through channels, which take capsules
//! from one neighbor to another without the execution environment.

use anyhow::Result;
use serde_json::{Value, json};
use wire::control::{Answer, ChannelInfo, CutInfo, Request};
use wire::id::{CapsuleId, Path, TupleHash};
use wire::tuple::Tuple;

use super::Access;
use crate::exit::{Code, failure};
use crate::output::{Output, Table, progress};
use crate::remote::Remote;

/// Verbs of channels.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Verb {
    /// Show in-channels, out-channels and cut-through channels
    Show,
    /// Open a cut-through channel, between neighbors that are not protected
    Add {
        /// The neighbor that capsules come from
        from: String,
        /// The neighbor that they go to
        to: String,
        #[command(flatten)]
        capsules: Capsules,
    },
    /// Close a cut-through channel
    Remove {
        /// The neighbor that capsules come from
        from: String,
        #[command(flatten)]
        capsules: Capsules,
    },
}

/// Which capsules a channel takes.
#[derive(Debug, Clone, clap::Args)]
pub struct Capsules {
    /// The capsules' identifier, 32 hexadecimal digits as bees flow dump prints them; with --flow also the name of a
    /// capsule type of its main protocol
    capsule: String,
    /// The flow whose they are, which pays for them: its name, or its hash's first digits. Without it the
    /// operator's own team pays
    #[arg(long)]
    flow: Option<String>,
}

/// Does it.
pub fn run(access: &Access, verb: &Verb, output: Output) -> Result<()> {
    let mut remote = access.login()?;
    match verb {
        Verb::Show => {
            let all = remote.channels()?;
            output.show(|| value(&all), || table(&all))
        }
        Verb::Add { from, to, capsules } => {
            let (capsule, flow) = find(&mut remote, capsules)?;
            let request = Request::ChannelAdd { from: from.clone(), capsule, to: to.clone(), flow };
            change(&mut remote, &request, &format!("capsules {capsule} pass from {from} to {to}"))
        }
        Verb::Remove { from, capsules } => {
            let (capsule, _) = find(&mut remote, capsules)?;
            let request = Request::ChannelRemove { from: from.clone(), capsule };
            change(&mut remote, &request, &format!("capsules {capsule} from {from} do not pass any more"))
        }
    }
}

fn change(remote: &mut Remote, request: &Request, done: &str) -> Result<()> {
    match remote.ask(request)? {
        Answer::Done => {
            progress(done);
            Ok(())
        }
        _ => Err(remote.nonsense()),
    }
}

/// The identifier and the flow that are meant.
fn find(remote: &mut Remote, capsules: &Capsules) -> Result<(CapsuleId, Option<TupleHash>)> {
    let Capsules { capsule, flow } = capsules;
    let flow = flow.as_ref().map(|name| remote.find_flow(name)).transpose()?.map(|flow| flow.hash);
    if let Ok(id) = capsule.parse() {
        return Ok((id, flow));
    }
    let Some(hash) = flow else {
        let text =
            format!("{capsule} is no identifier: give 32 hexadecimal digits, or --flow and a type's name");
        return Err(failure(Code::Usage, text));
    };
    let Answer::Tuple(bytes) = remote.ask(&Request::FlowTuple { flow: hash })? else {
        return Err(remote.nonsense());
    };
    let tuple = Tuple::decode(&bytes)?;
    let kind = tuple.main().capsules.iter().position(|c| c.name == *capsule);
    match kind.and_then(|kind| u16::try_from(kind).ok()) {
        Some(kind) => Ok((CapsuleId::compute(&hash, &Path::default(), kind, &[]), flow)),
        None => {
            let text = format!("{} has no capsules of the type {capsule}", tuple.main().name);
            Err(failure(Code::Missing, text))
        }
    }
}

fn value(all: &[ChannelInfo]) -> Value {
    let ins = all.iter().filter_map(|channel| match channel {
        ChannelInfo::In { link, address } => Some(json!({ "link": link, "address": address })),
        _ => None,
    });
    let outs = all.iter().filter_map(|channel| match channel {
        ChannelInfo::Out { link, neighbor, address, protection } => Some(json!({
            "link": link, "neighbor": neighbor, "address": address, "protection": protection.name(),
        })),
        _ => None,
    });
    let cuts = all.iter().filter_map(|channel| match channel {
        ChannelInfo::CutThrough(cut) => Some(cut_value(cut)),
        _ => None,
    });
    json!({
        "in": ins.collect::<Vec<_>>(), "out": outs.collect::<Vec<_>>(), "cut_through": cuts.collect::<Vec<_>>(),
    })
}

fn cut_value(cut: &CutInfo) -> Value {
    json!({
        "from": { "link": cut.from.0, "neighbor": cut.from.1 }, "capsule": cut.capsule.to_string(),
        "to": { "link": cut.to.0, "neighbor": cut.to.1, "address": cut.address },
        "team": { "id": cut.team.0, "name": cut.team.1 }, "flow": cut.flow.map(|f| f.to_string()),
        "passed": { "capsules": cut.passed.0, "bytes": cut.passed.1 }, "dropped": cut.dropped,
    })
}

fn table(all: &[ChannelInfo]) -> Table {
    let columns = [
        "CHANNEL",
        "FROM",
        "TO",
        "ADDRESS",
        "PROTECTION",
        "CAPSULE",
        "TEAM",
        ">PASSED",
        ">BYTES",
        ">DROPPED",
    ];
    let mut table = Table::new(&columns);
    for channel in all {
        let mut words = match channel {
            ChannelInfo::In { link, address } => {
                vec!["in".into(), "-".into(), link.clone(), address.clone()]
            }
            ChannelInfo::Out { link, neighbor, address, protection } => {
                let words = ["out".into(), link.clone(), neighbor.clone(), address.clone()];
                [&words[..], &[protection.name().into()]].concat()
            }
            ChannelInfo::CutThrough(cut) => vec![
                "cut-through".into(),
                format!("{} ({})", cut.from.1, cut.from.0),
                format!("{} ({})", cut.to.1, cut.to.0),
                cut.address.clone(),
                "none".into(),
                cut.capsule.to_string(),
                format!("{} ({})", cut.team.1, cut.team.0),
                cut.passed.0.to_string(),
                cut.passed.1.to_string(),
                cut.dropped.to_string(),
            ],
        };
        words.resize(columns.len(), "-".into());
        table.row(words.into_iter().map(Into::into));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::control::Protection;

    #[test]
    fn channels_of_all_kinds_line_up() {
        let all = [
            ChannelInfo::In { link: "ab".into(), address: "02:00:00:00:01:01".into() },
            ChannelInfo::Out {
                link: "ab".into(),
                neighbor: "a".into(),
                address: "10.0.0.1:3322".into(),
                protection: Protection::None,
            },
            ChannelInfo::CutThrough(CutInfo {
                from: ("ab".into(), "a".into()),
                capsule: CapsuleId([7; 16]),
                to: ("bc".into(), "c".into()),
                address: "02:00:00:00:03:01".into(),
                team: (65537, "ping".into()),
                flow: Some(TupleHash([3; 32])),
                passed: (5, 500),
                dropped: 1,
            }),
        ];
        let text = table(&all).render(false);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4);
        let at = lines[0].find("ADDRESS").unwrap();
        assert!(
            lines[1][at..].starts_with("02:00:00:00:01:01") && lines[2][at..].starts_with("10.0.0.1:3322")
        );
        assert!(lines[3].contains("a (ab)") && lines[3].contains("ping (65537)"), "{text}");
        let value = value(&all);
        assert_eq!(value["cut_through"][0]["passed"]["bytes"], 500);
        assert_eq!((&value["in"][0]["link"], &value["out"][0]["protection"]), (&json!("ab"), &json!("none")));
    }
}
