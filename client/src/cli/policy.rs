//! `bees policy show|check|load`.

use std::path::{Path, PathBuf};

use anyhow::Result;
use authagent::access::Right;
use authagent::keys::PublicKey;
use authagent::policy::{Policy, Principal, Terms};
use serde_json::{Map, Value, json};
use wire::control::{Answer, MAX_POLICY, Request};
use wire::grant::Grant;
use wire::limits::{Limits, Operation};
use wire::utc::Utc;

use super::Access;
use crate::exit::{Code, failure};
use crate::flow::{dump, read};
use crate::lab::principals::{fill, names_principals};
use crate::output::{Output, Table, or_dash, plain, progress};

/// Verbs of policies.
#[derive(Debug, clap::Subcommand)]
pub enum Verb {
    /// Show the policy that the node's Auth Agent follows
    Show {
        /// As it was written, instead of a table of its principals
        #[arg(short, long)]
        text: bool,
    },
    /// Look for mistakes in a policy, without a node
    Check {
        /// The policy
        file: PathBuf,
    },
    /// Give the node another policy; flows that lost their grant end at once
    Load {
        /// The policy
        file: PathBuf,
    },
}

pub fn run(access: &Access, verb: &Verb, output: Output) -> Result<()> {
    match verb {
        Verb::Show { text } => show(access, *text, output),
        Verb::Check { file } => print(&read_policy(access, file)?, output),
        Verb::Load { file } => {
            // A mistake is better pointed at here than in a node's refusal.
            let policy = read_text(access, file)?;
            parse_policy(file, &policy)?;
            let mut remote = access.login()?;
            let Answer::Done = remote.ask(&Request::PolicyLoad { text: policy })? else {
                return Err(remote.nonsense());
            };
            progress(format!("{} holds now, for running flows, too", file.display()));
            Ok(())
        }
    }
}

fn show(access: &Access, raw: bool, output: Output) -> Result<()> {
    let mut remote = access.login()?;
    let Answer::Policy { agent, text } = remote.ask(&Request::PolicyShow)? else {
        return Err(remote.nonsense());
    };
    if raw && !output.is_json() {
        return text.lines().try_for_each(|line| output.text(&format!("{}\n", plain(line))));
    }
    if text.is_empty() {
        progress(format!("the agent {} follows no policy", plain(&agent)));
    }
    let policy = Policy::parse(&text).map_err(|e| {
        failure(Code::Failed, format!("the node's policy cannot be read here: {e}; --text shows it as it is"))
    })?;
    if output.is_json() {
        return output.value(&json!({ "agent": agent, "text": text, "policy": policy_value(&policy) }));
    }
    progress(format!("agent {}", plain(&agent)));
    print(&policy, output)
}

/// Reads a policy's file.
pub fn read_policy(access: &Access, file: &Path) -> Result<Policy> {
    parse_policy(file, &read_text(access, file)?)
}

/// A policy's text, with the keys of a lab's principals where it names some.
fn read_text(access: &Access, file: &Path) -> Result<String> {
    let bytes = read(file)?;
    if bytes.len() > MAX_POLICY {
        let text = format!("{} has {} bytes; a policy has at most {MAX_POLICY}", file.display(), bytes.len());
        return Err(failure(Code::Failed, text));
    }
    let text = String::from_utf8(bytes)
        .map_err(|_| failure(Code::Failed, format!("{} is no text", file.display())))?;
    if names_principals(&text) { fill(file, &text, &access.folder()?) } else { Ok(text) }
}

/// The policy that `text` is; `file` is where a mistake is said to be.
pub fn parse_policy(file: &Path, text: &str) -> Result<Policy> {
    Policy::parse(text).map_err(|e| {
        let place = format!("{}:{}:{}", file.display(), e.line, e.column);
        failure(Code::Failed, format!("{place}: {}; docs/policy.md says what may stand there", e.why))
    })
}

fn print(policy: &Policy, output: Output) -> Result<()> {
    output.show(|| policy_value(policy), || table(policy))
}

fn table(policy: &Policy) -> Table {
    let mut table = Table::new(&["PRINCIPAL", "KEY", "FROM", "UNTIL", "CONTROL", "FLOWS MAY HAVE"]);
    let time = |t: Option<u64>| t.map_or("-".into(), |t| Utc(t).to_string());
    let terms = |t: &Option<Terms>| t.as_ref().map_or("nothing: none may run".into(), terms_text);
    for (name, p) in policy.principals() {
        for (at, key) in p.keys.iter().enumerate() {
            let first = |text: String| if at == 0 { text } else { String::new() };
            let cells = [
                first(name.into()),
                key_text(key),
                first(time(p.validity.from)),
                first(time(p.validity.until)),
                first(or_dash(Some(rights(p).join(" ")).filter(|t| !t.is_empty()))),
                first(terms(&p.terms)),
            ];
            table.row(cells.map(Into::into));
        }
    }
    let rest = ["nobody", "-", "-", "-", "-", &terms(&policy.unsigned)];
    table.row(rest.map(Into::into));
    for key in &policy.revokers {
        table.row(["revoker", &key_text(key), "-", "-", "revokes any flow", "-"].map(Into::into));
    }
    table
}

fn key_text(key: &PublicKey) -> String {
    format!("{} {} {:.15}", key.kind(), key.bits(), key.fingerprint().to_string())
}

/// The words of `control`.
fn rights(p: &Principal) -> Vec<&'static str> {
    let all = [
        (Right::See, "see"),
        (Right::Inject, "inject"),
        (Right::Stop, "stop"),
        (Right::StopAny, "stop-any"),
        (Right::Reconfigure, "reconfigure"),
    ];
    all.into_iter().filter(|(right, _)| p.rights.has(*right)).map(|(_, word)| word).collect()
}

/// The most that a flow can be granted, beside its limits.
fn most(t: &Terms) -> Grant {
    Grant {
        budgets: t.budgets,
        neighbors: t.neighbors.clone(),
        privileges: t.privileges.clone(),
        clamps: Vec::new(),
        cycle_depth: t.cycle_depth,
        max_emissions: t.max_emissions,
        min_timer_us: t.min_timer_us,
        max_timer_us: t.max_timer_us,
    }
}

/// The limits that have an upper bound.
fn bounded(limits: &Limits) -> impl Iterator<Item = (&'static str, u16)> {
    let all = Operation::ALL.into_iter().map(|op| (op.name(), limits.get(op)));
    all.filter(|(_, n)| *n < u16::MAX)
}

/// What flows may have, for people.
fn terms_text(terms: &Terms) -> String {
    let limits = bounded(&terms.limits).map(|(name, n)| format!("; at most {n} {name}"));
    dump::grant_text(&most(terms)) + &limits.collect::<String>()
}

fn terms_value(terms: &Terms) -> Value {
    let mut value = dump::grant_value(&most(terms));
    value["limits"] =
        bounded(&terms.limits).map(|(name, n)| (name.to_string(), n.into())).collect::<Map<_, _>>().into();
    value
}

fn policy_value(policy: &Policy) -> Value {
    let terms = |t: &Option<Terms>| t.as_ref().map(terms_value);
    let principal = |(name, p): (&str, &Principal)| {
        json!({
            "name": name, "keys": p.keys.iter().map(key_value).collect::<Vec<_>>(),
            "from": p.validity.from, "until": p.validity.until,
            "control": rights(p), "grant": terms(&p.terms),
        })
    };
    json!({
        "min_rsa_bits": policy.min_rsa_bits,
        "principals": policy.principals().map(principal).collect::<Vec<_>>(),
        "unsigned": terms(&policy.unsigned),
        "revokers": policy.revokers.iter().map(key_value).collect::<Vec<_>>(),
    })
}

fn key_value(key: &PublicKey) -> Value {
    json!({ "type": key.kind(), "bits": key.bits(), "fingerprint": key.fingerprint().to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::tests::Scratch;
    use crate::keys::{Kind, PrivateKey};

    fn text() -> String {
        let key = PrivateKey::generate(Kind::Ed25519, 0).unwrap().public().to_text();
        format!(
            "[[principal]]\nname = \"joe\"\nkeys = [\"{key}\"]\nuntil = 2030-01-01T00:00:00Z\n\
             control = [\"see\", \"stop-any\"]\n[principal.grant]\nprivileges = [\"sensors\"]\n\
             limits = {{ sends = 3 }}\nneighbors = {{ except = [\"outside\"] }}\n"
        )
    }

    #[test]
    fn a_policy_is_a_table_of_its_principals() {
        let policy = Policy::parse(&text()).unwrap();
        let table = table(&policy).render(false);
        let lines: Vec<&str> = table.lines().collect();
        assert!(lines[1].starts_with("joe        ed25519 256 SHA256:"), "{table}");
        for words in
            ["2030-01-01T00:00:00Z", "see stop-any", "except outside; privileges sensors; at most 3 sends"]
        {
            assert!(lines[1].contains(words), "{table}");
        }
        assert!(lines[2].starts_with("nobody") && lines[2].ends_with("nothing: none may run"), "{table}");
        let value = policy_value(&policy);
        assert_eq!(value["principals"][0]["grant"]["limits"], json!({ "sends": 3 }));
        assert_eq!(value["unsigned"], Value::Null);
    }

    #[test]
    fn a_mistake_is_pointed_at_in_its_file() {
        let scratch = Scratch::new("policy");
        let file = scratch.0.join("node.toml");
        std::fs::write(&file, text().replace("sends", "sents")).unwrap();
        let error = read_policy(&Access::default(), &file).unwrap_err().to_string();
        assert!(error.contains("node.toml:8:12:") && error.contains("sents"), "{error}");
        std::fs::write(&file, [0xff]).unwrap();
        assert!(read_policy(&Access::default(), &file).unwrap_err().to_string().contains("is no text"));
        std::fs::write(&file, "#".repeat(MAX_POLICY + 1)).unwrap();
        assert!(read_policy(&Access::default(), &file).unwrap_err().to_string().contains("at most"));
    }
}
