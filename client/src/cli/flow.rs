//! `bees flow build|sign|verify|dump|inject|replace|show|stop|revoke`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};
use wire::control::{Answer, Arrival, Crash, FlowInfo, FlowState, Replaced, Request};
use wire::id::TupleHash;
use wire::tuple::{Tuple, Validity};
use wire::utc::Utc;

use super::Access;
use super::policy::read_policy;
use crate::exit::{Code, failure};
use crate::flow::inject::{inject, state_text};
use crate::flow::verify::Against;
use crate::flow::{Bundle, build, decode, dump, read, replace, sign, signer, verify};
use crate::keys::{KeyFile, load_public};
use crate::output::{Cell, Colour, Output, Table, bytes, or_dash, pairs, plain, progress, us};
use crate::remote::Remote;

/// Verbs of flows.
#[derive(Debug, clap::Subcommand)]
pub enum Verb {
    /// Make a flow tuple from a protocol's module
    Build {
        #[command(flatten)]
        options: Box<build::Options>,
        /// Sign it with the key in this file, for the principal that --principal or the file names
        #[arg(long, value_name = "KEY")]
        sign: Option<PathBuf>,
        /// Where to write the tuple; its parts go into the folder beside it
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Answer for a flow tuple: --key and --principal say who
    Sign {
        /// The tuple's file
        flow: PathBuf,
        #[command(flatten)]
        period: build::Period,
        /// Files with parts that are not beside the tuple
        #[arg(long = "part", value_name = "FILE")]
        parts: Vec<PathBuf>,
        /// Where to write the signed tuple, instead of in its place
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Check a flow tuple part by part, as a node would: with --policy against a policy, with --key against
    /// the key that should have signed it
    Verify {
        /// The tuple's file
        flow: PathBuf,
        /// The policy of a node
        #[arg(long, value_name = "FILE")]
        policy: Option<PathBuf>,
        /// Files with parts that are not beside the tuple
        #[arg(long = "part", value_name = "FILE")]
        parts: Vec<PathBuf>,
        /// Whether it holds at this time instead of now
        #[arg(long, value_name = "TIME", value_parser = sign::parse_time)]
        at: Option<u64>,
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
    /// Put the next version of a running flow in its place: built, injected, and taken over to with the state
    Replace {
        /// The flow, by its hash, the hash's first digits, or its name
        flow: String,
        #[command(flatten)]
        options: Box<build::Options>,
        #[command(flatten)]
        manner: replace::Manner,
        /// Sign it with the key in this file, for the principal that --principal or the file names
        #[arg(long, value_name = "KEY")]
        sign: Option<PathBuf>,
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
    /// End a flow on the node and on every other that its Auth Agent tells and that believes it, and keep it
    /// away. The flow's own principal can do so, and who the policies call a revoker
    Revoke {
        /// A tuple's file; or a flow of the node, by its hash or name
        flow: String,
        /// Until when it may not come back
        #[arg(long, value_name = "TIME", value_parser = sign::parse_time, default_value = "+30d")]
        until: u64,
        /// The key that signs the revocation, if it is not the one that logs in
        #[arg(long, value_name = "KEY")]
        sign: Option<PathBuf>,
        /// The key is a revoker's, not that of the flow's principal
        #[arg(long)]
        revoker: bool,
    },
}

pub fn run(access: &Access, verb: &Verb, output: Output) -> Result<()> {
    match verb {
        Verb::Build { options, sign, output: file } => {
            let mut bundle = build::build(options)?;
            if let Some(key) = sign {
                let (key, principal) = access.flow_signer(Some(key))?;
                bundle.sign(&principal, &key, Validity::default())?;
            }
            let default = options.module.with_extension("tuple");
            save(&bundle, file.as_deref().unwrap_or(&default), output)
        }
        Verb::Sign { flow, period, parts, output: file } => {
            let (key, principal) = access.flow_signer(None)?;
            let mut bundle = Bundle::load(flow, parts)?;
            bundle.sign(&principal, &key, (*period).into())?;
            save(&bundle, file.as_deref().unwrap_or(flow), output)
        }
        Verb::Verify { flow, policy, parts, at } => {
            let policy = policy.as_deref().map(|file| read_policy(access, file)).transpose()?;
            let key = access.key_file().map(load_public).transpose()?;
            let against = match (&policy, &key) {
                (Some(policy), _) => Against::Policy(policy),
                (None, Some((key, _))) => Against::Key(key),
                (None, None) => Against::Itself,
            };
            let place = verify::Use { now: at.unwrap_or_else(sign::now), node: access.node.as_deref() };
            verify::report(&verify::verify(flow, parts, against, place)?, output)
        }
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
        Verb::Replace { flow, options, manner, sign, patience } => {
            let mut remote = access.login()?;
            let hash = remote.find_flow(flow)?.hash;
            let Answer::Tuple(bytes) = remote.ask(&Request::FlowTuple { flow: hash })? else {
                return Err(remote.nonsense());
            };
            let old = Tuple::decode(&bytes)?;
            let mut bundle = replace::build(&old, hash, options, manner)?;
            if let Some(key) = sign {
                let (key, principal) = access.flow_signer(Some(key))?;
                bundle.sign(&principal, &key, options.validity.into())?;
            }
            replace::stays_behind(&old, &bundle.tuple).into_iter().for_each(progress);
            let flow = inject(&mut remote, &bundle, Duration::from_secs(*patience))
                .map_err(|error| replace::explain(error, manner))?;
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
        Verb::Revoke { flow, until, sign, revoker } => {
            revoke(access, flow, *until, sign.as_deref(), *revoker)
        }
    }
}

fn save(bundle: &Bundle, file: &Path, output: Output) -> Result<()> {
    let before = fs::read(file).ok().and_then(|bytes| Tuple::decode(&bytes).ok());
    bundle.save(file)?;
    if output.is_json() {
        return output.value(&json!({ "file": file, "hash": bundle.hash().to_string() }));
    }
    let parts: usize = bundle.parts.values().map(Vec::len).sum();
    progress(format!(
        "{}: tuple of {} bytes, {} parts of {}, {}",
        file.display(),
        bundle.bytes.len(),
        bundle.parts.len(),
        bytes(parts as u64),
        signed(&bundle.tuple, before.as_ref())
    ));
    output.text(&format!("{}\n", bundle.hash()))
}

/// Who answers for a tuple. Who lost a signature by building anew should see it.
fn signed(tuple: &Tuple, before: Option<&Tuple>) -> String {
    match (signer(tuple), before.and_then(signer)) {
        (Some(principal), _) => format!("signed by {}", plain(principal)),
        (None, Some(before)) => format!("not signed (the one that was here was, by {})", plain(before)),
        (None, None) => "not signed".into(),
    }
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
    let tuple = decode(&bytes)?;
    if output.is_json() {
        output.value(&dump::value(&tuple, &bytes))
    } else {
        output.text(&dump::text(&tuple, &bytes))
    }
}

/// A flow from a tuple's file or straight from a module.
fn bundle(file: &Path, params: &[build::Pair], parts: &[PathBuf]) -> Result<Bundle> {
    if build::is_module(&read(file)?) {
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
    remote.stop(hash, kill, &format!("flow {hash:.8}"))
}

fn revoke(access: &Access, flow: &str, until: u64, key: Option<&Path>, revoker: bool) -> Result<()> {
    let target = access.target()?;
    let mut remote = Remote::login(&target)?;
    let flow = match (Path::new(flow).is_file(), flow.parse::<TupleHash>()) {
        (true, _) => {
            let bytes = read(flow.as_ref())?;
            decode(&bytes)?;
            TupleHash::of(&bytes)
        }
        (false, Ok(hash)) => hash,
        (false, Err(_)) => remote.find_flow(flow)?.hash,
    };
    let (key, principal) = match key {
        None => (target.key, Some(target.principal)),
        Some(file) => {
            let KeyFile { key, principal } = KeyFile::load(file)?;
            (key, principal)
        }
    };
    let unnamed = "the key's file does not say whose it is; `principal: NAME` in its first line does";
    let by = match (revoker, principal) {
        (true, _) => None,
        (false, Some(principal)) => Some(principal),
        (false, None) => return Err(failure(Code::Usage, unnamed)),
    };
    let revocation = sign::revoke(flow, until, by.as_deref(), &key)?.encode();
    match remote.ask(&Request::FlowRevoke { revocation })? {
        Answer::Done => {
            progress(format!("flow {flow:.8} is revoked until {}, where that is believed", Utc(until)));
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
    Cell::coloured(short(&plain(&state_text(state))), colour)
}

/// The longest state in a table, in characters; `bees flow show FLOW` has all of it.
const STATE_WIDTH: usize = 60;

fn short(text: &str) -> String {
    if text.chars().count() <= STATE_WIDTH {
        return text.into();
    }
    text.chars().take(STATE_WIDTH - 3).chain("...".chars()).collect()
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
        None => f.injected_by.as_ref().map_or("injected".into(), |who| format!("injected by {who}")),
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
    if let Some(Replaced { flow, here, identifiers, capsules: (taken, dropped) }) = &f.replaces {
        let text = match here {
            true => format!(
                "{flow:.8}, {identifiers} identifiers still taken: {taken} capsules, {dropped} dropped"
            ),
            false => format!("{flow:.8}, which was not here"),
        };
        rows.push(("replaces", text));
    }
    rows.extend(f.replaced_by.map(|flow| ("replaced", format!("by {flow}"))));
    if let Some(grant) = &f.grant {
        rows.push(("granted", dump::grant_text(grant)));
    }
    for crash in &f.crashes {
        rows.push(("crash", format!("after {:.1} s: {crash}", crash.at_us as f64 / 1e6)));
    }
    pairs(rows)
}

/// A flow for programs.
pub fn flow_value(f: &FlowInfo) -> Value {
    let (state, why) = match &f.state {
        FlowState::Tuple => ("tuple", None),
        FlowState::Judging => ("judging", None),
        FlowState::Download => ("download", None),
        FlowState::Compile => ("compile", None),
        FlowState::Standby => ("standby", None),
        FlowState::Running => ("running", None),
        FlowState::Ended(why) => ("ended", Some(why)),
    };
    let a = &f.arrival;
    let grant = f.grant.as_ref().map(dump::grant_value);
    let crash = |c: &Crash| json!({ "at_us": c.at_us, "during": c.during, "why": c.why, "said": c.said });
    let crashes: Vec<Value> = f.crashes.iter().map(crash).collect();
    json!({
        "hash": f.hash.to_string(), "name": f.name, "state": state, "why": why, "principal": f.principal,
        "injected_by": f.injected_by,
        "team": f.team, "source": f.source, "grant": grant,
        "arrival": {
            "bytes": a.bytes, "retries": a.retries, "translate_us": a.translate_us, "tuple_us": a.tuple_us,
            "judge_us": a.judge_us, "download_us": a.download_us, "compile_us": a.compile_us, "start_us": a.start_us,
        },
        "capsules": { "processed": f.capsules.0, "sent": f.capsules.1, "refused": f.capsules.2 },
        "sessions": f.sessions,
        "crashes": crashes,
        "replaces": f.replaces.map(|r| json!({
            "flow": r.flow.to_string(), "here": r.here, "identifiers": r.identifiers,
            "taken": r.capsules.0, "dropped": r.capsules.1,
        })),
        "replaced_by": f.replaced_by.map(|flow| flow.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::grant::Grant;
    use wire::tuple::{Credentials, Scheme};

    fn flow(source: Option<&str>) -> FlowInfo {
        FlowInfo {
            hash: TupleHash([0xab; 32]),
            name: "hello".into(),
            state: FlowState::Running,
            principal: None,
            injected_by: source.is_none().then(|| "joe".into()),
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
            crashes: vec![Crash {
                at_us: 1_500_000,
                during: "capsule Flood".into(),
                why: "guest trapped".into(),
                said: Some("hello panicked at src/lib.rs:7".into()),
            }],
            replaces: None,
            replaced_by: None,
        }
    }

    #[test]
    fn a_long_state_leaves_room_for_the_other_columns() {
        assert_eq!(short("ended: stopped"), "ended: stopped");
        let long = short(&format!("ended: guest: {}", "\u{e9}".repeat(60)));
        assert_eq!((long.chars().count(), long.ends_with("\u{e9}...")), (STATE_WIDTH, true));
    }

    #[test]
    fn a_lost_signature_is_seen() {
        let mut bundle = build::tests::bundle();
        let unsigned = bundle.tuple.clone();
        assert_eq!(signed(&unsigned, None), "not signed");
        bundle.tuple.credentials =
            Credentials::Signed { principal: "joe".into(), scheme: Scheme::Ed25519, signature: vec![] };
        assert_eq!(signed(&bundle.tuple, Some(&unsigned)), "signed by joe");
        assert_eq!(signed(&unsigned, Some(&bundle.tuple)), "not signed (the one that was here was, by joe)");
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
        assert!(flow_text(&flow(None)).contains("from       injected by joe\n"));
        let crash =
            "crash      after 1.5 s: guest trapped, in capsule Flood: hello panicked at src/lib.rs:7\n";
        assert!(flow_text(&flow(None)).ends_with(crash));
        assert_eq!(flow_value(&flow(None))["arrival"]["download_us"], 12_000);
        assert_eq!(flow_value(&flow(None))["crashes"][0]["during"], "capsule Flood");
    }
}
