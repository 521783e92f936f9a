//! `bees flow build|dump|inject|show|stop`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};
use wire::control::{Answer, Arrival, FlowInfo, FlowState, Request};
use wire::grant::{Grant, Neighbors};
use wire::limits::Operation;
use wire::tuple::Tuple;

use super::Access;
use crate::exit::{Code, failure};
use crate::flow::inject::{inject, state_text};
use crate::flow::{Bundle, build, dump, read};
use crate::output::{Cell, Colour, Output, Table, bytes, or_dash, pairs, progress, us};

/// Verbs of flows.
#[derive(Debug, clap::Subcommand)]
pub enum Verb {
    /// Make a flow tuple from a protocol's module
    Build {
        #[command(flatten)]
        options: build::Options,
        /// Where to write the tuple; its parts go into the folder beside it
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Print a flow tuple: limits, worst cases, identifiers
    Dump {
        /// The tuple's file; or a flow of the node, by its hash or name
        flow: String,
    },
    /// Start a flow on the node
    Inject {
        /// A tuple's file, or a module to build a flow from with default settings
        file: PathBuf,
        /// A setting of the protocol, if the file is a module
        #[arg(short, long = "param", value_name = "NAME=VALUE")]
        params: Vec<build::Pair>,
        /// Files with parts that are not beside the tuple
        #[arg(long = "part", value_name = "FILE")]
        parts: Vec<PathBuf>,
        /// How long the flow may take until it runs, in seconds
        #[arg(long, default_value_t = 30, value_name = "SECONDS")]
        patience: u64,
    },
    /// Show the node's flows, or all about one
    Show {
        /// The flow, by its hash, the hash's first digits, or its name
        flow: Option<String>,
        /// How the flows came here: bytes, and time per stage
        #[arg(short, long)]
        arrival: bool,
    },
    /// End a flow on the node
    Stop {
        /// The flow, by its hash, the hash's first digits, or its name
        flow: String,
        /// At once, without its own clean-up
        #[arg(long)]
        kill: bool,
    },
}

pub fn run(access: &Access, verb: &Verb, output: Output) -> Result<()> {
    match verb {
        Verb::Build { options, output: file } => build_file(options, file.as_deref(), output),
        Verb::Dump { flow } => dump_flow(access, flow, output),
        Verb::Inject { file, params, parts, patience } => {
            let bundle = bundle(file, params, parts)?;
            let flow = inject(&mut access.login()?, &bundle, Duration::from_secs(*patience))?;
            if output.is_json() {
                output.value(&flow_value(&flow))
            } else {
                output.text(&format!("{}\n", flow.hash))
            }
        }
        Verb::Show { flow: Some(name), .. } => {
            let flow = access.login()?.find_flow(name)?;
            if output.is_json() { output.value(&flow_value(&flow)) } else { output.text(&flow_text(&flow)) }
        }
        Verb::Show { flow: None, arrival } => {
            let flows = access.login()?.flows()?;
            let table =
                || if *arrival { arrivals(flows.iter().map(|f| (None, f))) } else { overview(&flows) };
            output.show(|| flows.iter().map(flow_value).collect(), table)
        }
        Verb::Stop { flow, kill } => stop(access, flow, *kill),
    }
}

fn build_file(options: &build::Options, file: Option<&Path>, output: Output) -> Result<()> {
    let bundle = build::build(options)?;
    let default = options.module.with_extension("tuple");
    let file = file.unwrap_or(&default);
    bundle.save(file)?;
    if output.is_json() {
        return output.value(&json!({ "file": file, "hash": bundle.hash().to_string() }));
    }
    let parts: usize = bundle.parts.values().map(Vec::len).sum();
    progress(format!(
        "{}: tuple of {} bytes, {} parts of {}",
        file.display(),
        bundle.bytes.len(),
        bundle.parts.len(),
        bytes(parts as u64)
    ));
    output.text(&format!("{}\n", bundle.hash()))
}

fn dump_flow(access: &Access, flow: &str, output: Output) -> Result<()> {
    let bytes = if Path::new(flow).is_file() {
        read(flow.as_ref())?
    } else {
        let mut remote = access.login()?;
        let hash = remote.find_flow(flow)?.hash;
        let Answer::Tuple(bytes) = remote.ask(&Request::FlowTuple { flow: hash })? else {
            return Err(remote.nonsense());
        };
        bytes
    };
    let tuple = Tuple::decode(&bytes)?;
    if output.is_json() {
        output.value(&dump::value(&tuple, &bytes))
    } else {
        output.text(&dump::text(&tuple, &bytes))
    }
}

/// A flow from a tuple's file or straight from a module.
fn bundle(file: &Path, params: &[build::Pair], parts: &[PathBuf]) -> Result<Bundle> {
    if read(file)?.starts_with(b"\0asm") {
        build::build(&build::Options { module: file.into(), params: params.to_vec(), ..Default::default() })
    } else if params.is_empty() {
        Bundle::load(file, parts)
    } else {
        Err(failure(Code::Usage, "a tuple's settings are fixed; --param needs a module"))
    }
}

fn stop(access: &Access, flow: &str, kill: bool) -> Result<()> {
    let mut remote = access.login()?;
    let hash = remote.find_flow(flow)?.hash;
    match remote.ask(&Request::FlowStop { flow: hash, kill })? {
        Answer::Done => {
            progress(format!("flow {hash:.8} is {}", if kill { "killed" } else { "stopped" }));
            Ok(())
        }
        _ => Err(remote.nonsense()),
    }
}

fn overview(flows: &[FlowInfo]) -> Table {
    let columns = [
        "FLOW",
        "NAME",
        "STATE",
        "FROM",
        "PRINCIPAL",
        ">TEAM",
        ">PROCESSED",
        ">SENT",
        ">REFUSED",
        ">SESSIONS",
    ];
    let mut t = Table::new(&columns);
    for f in flows {
        let (done, sent, refused) = f.capsules;
        t.row([
            format!("{:.8}", f.hash).into(),
            f.name.as_str().into(),
            state_cell(&f.state),
            f.source.clone().unwrap_or_else(|| "injected".into()).into(),
            or_dash(f.principal.as_ref()).into(),
            or_dash(f.team).into(),
            done.to_string().into(),
            sent.to_string().into(),
            refused.to_string().into(),
            f.sessions.to_string().into(),
        ]);
    }
    t
}

fn state_cell(state: &FlowState) -> Cell {
    let colour = match state {
        FlowState::Running => Colour::Good,
        FlowState::Ended(_) => Colour::Bad,
        _ => Colour::Busy,
    };
    Cell::coloured(crate::output::plain(&state_text(state)), colour)
}

/// How flows came to where they are, each with its node if more than one is asked.
pub fn arrivals<'a>(flows: impl Iterator<Item = (Option<&'a str>, &'a FlowInfo)>) -> Table {
    let columns = [
        "NODE",
        "FLOW",
        "NAME",
        "FROM",
        ">BYTES",
        ">AGAIN",
        ">TRANSLATE",
        ">TUPLE",
        ">JUDGE",
        ">DOWNLOAD",
        ">COMPILE",
        ">START",
        ">ALL",
    ];
    let flows: Vec<_> = flows.collect();
    let skip = usize::from(flows.iter().all(|(node, _)| node.is_none()));
    let mut t = Table::new(&columns[skip..]);
    for (node, f) in flows {
        let a = &f.arrival;
        let mut cells = vec![
            node.unwrap_or_default().to_string(),
            format!("{:.8}", f.hash),
            f.name.clone(),
            f.source.clone().unwrap_or_else(|| "injected".into()),
            a.bytes.to_string(),
            a.retries.to_string(),
        ];
        cells.extend(stages(a).map(|(_, time)| us(time)));
        cells.push(us(stages(a).iter().map(|(_, time)| time).sum()));
        t.row(cells.into_iter().skip(skip).map(Into::into));
    }
    t
}

fn stages(a: &Arrival) -> [(&'static str, u64); 6] {
    [
        ("translate", a.translate_us),
        ("tuple", a.tuple_us),
        ("judge", a.judge_us),
        ("download", a.download_us),
        ("compile", a.compile_us),
        ("start", a.start_us),
    ]
}

fn flow_text(f: &FlowInfo) -> String {
    let a = &f.arrival;
    let came = match &f.source {
        Some(neighbor) => {
            format!("{neighbor}, {} over the link, {} requests repeated", bytes(a.bytes), a.retries)
        }
        None => "injected".into(),
    };
    let times: Vec<String> = stages(a).iter().map(|(name, time)| format!("{name} {}", us(*time))).collect();
    let (done, sent, refused) = f.capsules;
    let mut rows = vec![
        ("flow", f.hash.to_string()),
        ("name", f.name.clone()),
        ("state", state_text(&f.state)),
        ("principal", or_dash(f.principal.as_ref())),
        ("team", or_dash(f.team)),
        ("from", came),
        ("arrival", times.join(", ")),
        ("capsules", format!("{done} processed, {sent} sent, {refused} refused")),
        ("sessions", f.sessions.to_string()),
    ];
    if let Some(grant) = &f.grant {
        rows.push(("granted", grant_text(grant)));
    }
    pairs(rows)
}

fn grant_text(g: &Grant) -> String {
    let mut parts = vec![match &g.neighbors {
        Neighbors::All => "all neighbors".to_string(),
        Neighbors::Only(names) => format!("neighbors {}", names.join(" ")),
        Neighbors::Except(names) => format!("neighbors except {}", names.join(" ")),
    }];
    parts.extend(Some(dump::budgets_text(&g.budgets)).filter(|b| !b.is_empty()));
    parts.extend((!g.privileges.is_empty()).then(|| format!("privileges {}", g.privileges.join(" "))));
    parts.extend(g.max_emissions.map(|n| format!("at most {n} sends per event")));
    parts.extend(g.min_timer_us.map(|t| format!("timers from {}", us(t.into()))));
    parts.extend(
        (!g.clamps.is_empty()).then(|| format!("{} capsule types with lower limits", g.clamps.len())),
    );
    parts.join("; ")
}

/// A flow for programs.
pub fn flow_value(f: &FlowInfo) -> Value {
    let (state, why) = match &f.state {
        FlowState::Tuple => ("tuple", None),
        FlowState::Judging => ("judging", None),
        FlowState::Download => ("download", None),
        FlowState::Compile => ("compile", None),
        FlowState::Running => ("running", None),
        FlowState::Ended(why) => ("ended", Some(why)),
    };
    let a = &f.arrival;
    let grant = f.grant.as_ref().map(|g| {
        let clamps = g.clamps.iter().map(|c| {
            let upper: serde_json::Map<_, _> =
                Operation::ALL.iter().map(|&op| (op.name().to_string(), c.upper.get(op).into())).collect();
            json!({ "protocol": c.protocol, "kind": c.kind, "upper": upper })
        });
        let neighbors = match &g.neighbors {
            Neighbors::All => json!("all"),
            Neighbors::Only(names) => json!({ "only": names }),
            Neighbors::Except(names) => json!({ "except": names }),
        };
        json!({
            "budgets": dump::budgets_value(&g.budgets), "neighbors": neighbors, "privileges": g.privileges,
            "clamps": clamps.collect::<Vec<_>>(), "cycle_depth": g.cycle_depth,
            "max_emissions": g.max_emissions, "min_timer_us": g.min_timer_us,
        })
    });
    json!({
        "hash": f.hash.to_string(), "name": f.name, "state": state, "why": why, "principal": f.principal,
        "team": f.team, "source": f.source, "grant": grant,
        "arrival": {
            "bytes": a.bytes, "retries": a.retries, "translate_us": a.translate_us, "tuple_us": a.tuple_us,
            "judge_us": a.judge_us, "download_us": a.download_us, "compile_us": a.compile_us, "start_us": a.start_us,
        },
        "capsules": { "processed": f.capsules.0, "sent": f.capsules.1, "refused": f.capsules.2 },
        "sessions": f.sessions,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::id::TupleHash;

    fn flow(source: Option<&str>) -> FlowInfo {
        FlowInfo {
            hash: TupleHash([0xab; 32]),
            name: "hello".into(),
            state: FlowState::Running,
            principal: None,
            team: Some(2),
            source: source.map(Into::into),
            grant: Some(Grant::everything(Default::default(), vec![])),
            arrival: Arrival {
                bytes: 5000,
                retries: 1,
                download_us: 12_000,
                compile_us: 3000,
                ..Default::default()
            },
            capsules: (3, 2, 1),
            sessions: 0,
        }
    }

    #[test]
    fn a_flow_says_how_it_came() {
        let table =
            arrivals([(Some("a"), &flow(None)), (Some("b"), &flow(Some("a")))].into_iter()).render(false);
        let lines: Vec<&str> = table.lines().collect();
        assert!(lines[0].starts_with("NODE  FLOW      NAME   FROM      BYTES"), "{table}");
        assert!(lines[2].starts_with("b     abababab  hello  a          5000"), "{table}");
        assert!(lines[2].ends_with("12.0 ms  3.00 ms   0 us  15.0 ms"), "{table}");
        assert!(!arrivals([(None, &flow(None))].into_iter()).render(false).contains("NODE"));
        assert!(
            flow_text(&flow(Some("a"))).contains("from       a, 5000 B over the link, 1 requests repeated\n")
        );
        assert!(flow_text(&flow(None)).contains("granted    all neighbors\n"));
        assert_eq!(flow_value(&flow(None))["arrival"]["download_us"], 12_000);
    }
}
