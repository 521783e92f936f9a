//! `bees blob show|remove`: what flows keep on a node (`docs/abi/blob.md`).

use anyhow::Result;
use serde_json::json;
use wire::control::{AreaInfo, Request};
use wire::id::TupleHash;

use super::Access;
use crate::exit::{Code, failure};
use crate::output::{Output, Table, bytes, hex, or_dash, progress};
use crate::remote::Kept;

/// Verbs of blobs.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Verb {
    /// Show the areas of flows, and the node's own, with their blobs
    Show,
    /// Remove a blob, or all of a flow's
    Remove(Remove),
}

/// What to remove.
#[derive(Debug, Clone, clap::Args)]
pub struct Remove {
    /// The flow whose it is: its hash, the first digits of that, or its name if it runs; node: the node's own,
    /// with its identity
    #[arg(value_name = "FLOW")]
    area: String,
    /// The blob, as it is shown; without it all of them
    #[arg(value_name = "NAME")]
    name: Option<String>,
}

/// How the node's own area is called.
const NODE: &str = "node";

/// Does it.
pub fn run(access: &Access, verb: &Verb, output: Output) -> Result<()> {
    let mut remote = access.login()?;
    let Kept { areas, device } = remote.kept()?;
    match verb {
        Verb::Show => show(&areas, device, output),
        Verb::Remove(Remove { area, name }) => {
            let area = find(&areas, area)?;
            let name = name.as_deref().map(parse).transpose()?;
            remote.ask(&Request::BlobRemove { area, name })?;
            progress("removed");
            Ok(())
        }
    }
}

fn show(areas: &[AreaInfo], device: Option<(u64, u64)>, output: Output) -> Result<()> {
    let value = || {
        let area = |a: &AreaInfo| {
            let blob = |b: &wire::control::BlobInfo| json!({ "name": shown(&b.name), "len": b.len });
            json!({
                "area": called(a), "flow": a.flow, "charged": a.charged, "claimed": a.claimed,
                "damaged": a.damaged, "blobs": a.blobs.iter().map(blob).collect::<Vec<_>>(),
            })
        };
        let disk = device.map(|(used, limit)| json!({ "used": used, "limit": limit }));
        json!({ "disk": disk, "areas": areas.iter().map(area).collect::<Vec<_>>() })
    };
    if output.is_json() {
        return output.value(&value());
    }
    output.text(&match device {
        Some((used, limit)) => format!("disk: {} of {}\n", bytes(used), bytes(limit)),
        None => "no disk: all of it ends with the node\n".into(),
    })?;
    output.show(value, || {
        let mut table = Table::new(&["AREA", "FLOW", "IN USE", ">CHARGED", ">DAMAGED", "BLOB", ">BYTES"]);
        for a in areas {
            let mut words = [
                called(a).chars().take(16).collect(),
                or_dash(a.flow.as_ref()),
                if a.claimed { "yes" } else { "no" }.to_string(),
                bytes(a.charged),
                a.damaged.to_string(),
            ];
            if a.blobs.is_empty() {
                table.row(words.iter().cloned().map(Into::into));
            }
            for blob in &a.blobs {
                let own = [shown(&blob.name), blob.len.to_string()];
                table.row(words.iter().cloned().chain(own).map(Into::into));
                // What holds for the area is said once.
                words = Default::default();
            }
        }
        table
    })
}

fn called(area: &AreaInfo) -> String {
    if area.owner.0 == [0; 32] { NODE.into() } else { area.owner.to_string() }
}

fn find(areas: &[AreaInfo], wanted: &str) -> Result<TupleHash> {
    let named = |a: &&AreaInfo| {
        a.flow.as_deref() == Some(wanted)
            || called(a) == wanted
            || wanted.len() >= 4 && called(a).starts_with(wanted)
    };
    let found: Vec<_> = areas.iter().filter(named).collect();
    match found[..] {
        [area] => Ok(area.owner),
        [] => Err(failure(Code::Missing, format!("nothing is kept there for {wanted}"))),
        _ => Err(failure(Code::Usage, format!("{wanted} names more than one area"))),
    }
}

/// A name in words where it is in printable ones, else in hexadecimal digits.
fn shown(name: &[u8]) -> String {
    match std::str::from_utf8(name) {
        Ok(text) if name.iter().all(u8::is_ascii_graphic) && !text.starts_with("0x") => text.into(),
        _ => format!("0x{}", hex(name)),
    }
}

fn parse(text: &str) -> Result<Vec<u8>> {
    let Some(digits) = text.strip_prefix("0x") else { return Ok(text.into()) };
    let bad = || failure(Code::Usage, format!("{text} is no hexadecimal name"));
    let digits: Option<Vec<u8>> =
        digits.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect();
    let (pairs, rest) = digits.as_ref().ok_or_else(bad)?.as_chunks::<2>();
    if rest.is_empty() { Ok(pairs.iter().map(|[a, b]| a << 4 | b).collect()) } else { Err(bad()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_as_they_are_shown() {
        for name in [&b"count"[..], b"a b", b"0x41", b"\xff\0", "\u{e4}".as_bytes()] {
            assert_eq!(parse(&shown(name)).unwrap(), name);
        }
        assert_eq!((shown(b"count"), shown(b"a b")), ("count".into(), "0x612062".into()));
        assert!(parse("0x4").is_err() && parse("0xzz").is_err());
    }

    #[test]
    fn areas_are_found_by_hash_name_and_role() {
        let area = |owner: u8, flow: Option<&str>| AreaInfo {
            owner: TupleHash([owner; 32]),
            flow: flow.map(Into::into),
            blobs: vec![],
            charged: 0,
            claimed: true,
            damaged: 0,
        };
        let areas =
            [area(0, None), area(0x0a, Some("hello")), area(0x0b, Some("twice")), area(0x0c, Some("twice"))];
        assert_eq!(find(&areas, "node").unwrap().0, [0; 32]);
        assert_eq!(
            (find(&areas, "hello").unwrap().0, find(&areas, "0a0a").unwrap().0),
            ([0x0a; 32], [0x0a; 32])
        );
        for (wanted, code) in [("0000", Code::Missing), ("0a", Code::Missing), ("twice", Code::Usage)] {
            assert_eq!(crate::exit::code(&find(&areas, wanted).unwrap_err()), code, "{wanted}");
        }
    }
}
