//! The policy's TOML form, and where a mistake in it is.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::ops::Range;

use serde::Deserialize;
use toml::Spanned;
use toml::value::Datetime;
use wire::budget::Section;
use wire::control::MAX_POLICY;
use wire::grant::Neighbors;
use wire::limits::{Limits, MAX_DEPTH, Operation};
use wire::tuple::{MAX_NAME, Validity};
use wire::units::Time;
use wire::utc::Utc;

use super::{MAX_KEYS, MAX_NEIGHBORS, MAX_PRINCIPALS, MAX_PRIVILEGES, MAX_REVOKERS};
use super::{Policy, PolicyError, Principal, Terms};
use crate::access::Right;
use crate::agent::UnknownTime;
use crate::keys::{PublicKey, RSA_BITS};

/// The name that the node's configuration keeps for its administrator.
const ADMIN: &str = "admin";

/// What is wrong, and where in the text.
type Mistake = (Range<usize>, String);

pub(super) fn parse(text: &str) -> Result<Policy, PolicyError> {
    if text.len() > MAX_POLICY {
        let why = format!("a policy of {} bytes, {MAX_POLICY} are allowed", text.len());
        return Err(PolicyError { line: 1, column: 1, why });
    }
    let file: Result<File, _> = toml::from_str(text);
    let policy =
        file.map_err(|e| (e.span().unwrap_or(0..0), e.message().to_string())).and_then(|file| file.policy());
    policy.map_err(|(span, why)| {
        let before = text.get(..span.start).unwrap_or(text);
        let start = before.rfind('\n').map_or(0, |at| at + 1);
        let line = before.bytes().filter(|b| *b == b'\n').count() + 1;
        PolicyError { line, column: before[start..].chars().count() + 1, why }
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    min_rsa_bits: Option<Spanned<u32>>,
    #[serde(default)]
    unknown_time: UnknownTime,
    #[serde(default)]
    revokers: Vec<Spanned<String>>,
    #[serde(default)]
    unsigned: Option<TermsText>,
    #[serde(default, rename = "principal")]
    principals: Vec<PrincipalText>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PrincipalText {
    name: Spanned<String>,
    keys: Spanned<Vec<Spanned<String>>>,
    #[serde(default)]
    from: Option<Spanned<Moment>>,
    #[serde(default)]
    until: Option<Spanned<Moment>>,
    #[serde(default)]
    control: Vec<Right>,
    #[serde(default)]
    grant: Option<TermsText>,
    #[serde(default)]
    total: Option<Section>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TermsText {
    #[serde(default)]
    privileges: Vec<Spanned<String>>,
    #[serde(default)]
    neighbors: Option<Spanned<NeighborsText>>,
    #[serde(default)]
    max_emissions: Option<u64>,
    #[serde(default)]
    cycle_depth: Option<Spanned<u32>>,
    #[serde(default)]
    limits: LimitsText,
    #[serde(default)]
    timer: Option<Spanned<TimerText>>,
    #[serde(default)]
    budgets: Section,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum NeighborsText {
    All,
    Only(Vec<String>),
    Except(Vec<String>),
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct LimitsText {
    returns: Option<u16>,
    sends: Option<u16>,
    multicasts: Option<u16>,
    derives: Option<u16>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct TimerText {
    min: Option<Time>,
    max: Option<Time>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected seconds since 1970, or a time such as 2027-01-31T12:00:00Z")]
enum Moment {
    Seconds(u64),
    Date(Datetime),
}

impl File {
    fn policy(self) -> Result<Policy, Mistake> {
        let mut principals = BTreeMap::new();
        if let Some(over) = self.principals.get(MAX_PRINCIPALS) {
            return Err((over.name.span(), format!("at most {MAX_PRINCIPALS} principals")));
        }
        for text in self.principals {
            let (span, name) = (text.name.span(), text.name.get_ref().clone());
            check_name(&text.name)?;
            if name == ADMIN {
                return Err((span, format!("{ADMIN} is the administrator of the node's configuration")));
            }
            if principals.insert(name, text.principal()?).is_some() {
                return Err((span, "another principal has the same name".into()));
            }
        }
        let min_rsa_bits = match self.min_rsa_bits {
            None => Policy::default().min_rsa_bits,
            Some(bits) if RSA_BITS.contains(bits.get_ref()) => bits.into_inner(),
            Some(bits) => {
                let (least, most) = RSA_BITS.into_inner();
                return Err((bits.span(), format!("min_rsa_bits is between {least} and {most}")));
            }
        };
        if let Some(over) = self.revokers.get(MAX_REVOKERS) {
            return Err((over.span(), format!("at most {MAX_REVOKERS} revokers")));
        }
        Ok(Policy {
            min_rsa_bits,
            unknown_time: self.unknown_time,
            revokers: self.revokers.iter().map(key).collect::<Result<_, _>>()?,
            unsigned: self.unsigned.map(TermsText::terms).transpose()?,
            principals,
        })
    }
}

impl PrincipalText {
    fn principal(self) -> Result<Principal, Mistake> {
        let list = self.keys.get_ref();
        if list.is_empty() || list.len() > MAX_KEYS {
            return Err((self.keys.span(), format!("a principal has 1 to {MAX_KEYS} keys")));
        }
        let keys: Vec<PublicKey> = list.iter().map(key).collect::<Result<_, _>>()?;
        if let Some(at) = (1..keys.len()).find(|&at| keys[..at].contains(&keys[at])) {
            return Err((list[at].span(), "the principal has this key already".into()));
        }
        let (from, until) = (self.from.map(moment).transpose()?, self.until.as_ref());
        let until_span = until.map_or(0..0, Spanned::span);
        let until = self.until.map(moment).transpose()?;
        if from.zip(until).is_some_and(|(from, until)| from > until) {
            return Err((until_span, "until is before from".into()));
        }
        Ok(Principal {
            keys,
            validity: Validity { from, until },
            terms: self.grant.map(TermsText::terms).transpose()?,
            total: self.total.map(|section| section.0),
            rights: self.control.into_iter().collect(),
        })
    }
}

impl TermsText {
    fn terms(self) -> Result<Terms, Mistake> {
        if let Some(over) = self.privileges.get(MAX_PRIVILEGES) {
            return Err((over.span(), format!("at most {MAX_PRIVILEGES} privileges")));
        }
        self.privileges.iter().try_for_each(check_name)?;
        let cycle_depth = match self.cycle_depth {
            Some(depth) if *depth.get_ref() as usize > MAX_DEPTH => {
                return Err((depth.span(), format!("cycle_depth is at most {MAX_DEPTH}")));
            }
            depth => depth.map(Spanned::into_inner),
        };
        let (min_timer_us, max_timer_us) = self.timer.map(timer).transpose()?.unwrap_or_default();
        Ok(Terms {
            budgets: self.budgets.0,
            privileges: self.privileges.into_iter().map(Spanned::into_inner).collect(),
            neighbors: self.neighbors.map(neighbors).transpose()?.unwrap_or(Neighbors::All),
            limits: self.limits.limits(),
            cycle_depth,
            max_emissions: self.max_emissions,
            min_timer_us,
            max_timer_us,
        })
    }
}

impl LimitsText {
    fn limits(&self) -> Limits {
        let named = [self.returns, self.sends, self.multicasts, self.derives];
        let each = Operation::ALL.into_iter().zip(named);
        each.fold(Limits::NONE, |l, (op, n)| l.with(op, n.unwrap_or(u16::MAX)))
    }
}

fn check_name(name: &Spanned<String>) -> Result<(), Mistake> {
    let text = name.get_ref();
    let good = (1..=MAX_NAME).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
    if good {
        Ok(())
    } else {
        Err((name.span(), format!("a name has 1 to {MAX_NAME} printable characters without blanks")))
    }
}

fn key(text: &Spanned<String>) -> Result<PublicKey, Mistake> {
    PublicKey::from_text(text.get_ref()).map_err(|e| (text.span(), e.to_string()))
}

fn neighbors(text: Spanned<NeighborsText>) -> Result<Neighbors, Mistake> {
    let span = text.span();
    let (names, made): (_, fn(Vec<String>) -> Neighbors) = match text.into_inner() {
        NeighborsText::All => return Ok(Neighbors::All),
        NeighborsText::Only(names) => (names, Neighbors::Only),
        NeighborsText::Except(names) => (names, Neighbors::Except),
    };
    if names.len() > MAX_NEIGHBORS || names.iter().any(|n| n.len() > MAX_NAME) {
        return Err((span, format!("at most {MAX_NEIGHBORS} names of at most {MAX_NAME} bytes")));
    }
    Ok(made(names))
}

/// The shortest and the longest interval, in microseconds.
fn timer(text: Spanned<TimerText>) -> Result<(Option<u32>, Option<u64>), Mistake> {
    let span = text.span();
    let TimerText { min, max } = text.into_inner();
    let (min, max) = (min.map(|t| t.0.as_micros()), max.map(|t| t.0.as_micros()));
    if min.zip(max).is_some_and(|(min, max)| min > max) {
        return Err((span, "the shortest interval is longer than the longest".into()));
    }
    let min_us = min.map(u32::try_from).transpose();
    let max_us = max.map(u64::try_from).transpose();
    match (min_us, max_us) {
        (Ok(min), Ok(max)) => Ok((min, max)),
        _ => Err((span, "an interval is too long".into())),
    }
}

/// Seconds since 1970.
fn moment(text: Spanned<Moment>) -> Result<u64, Mistake> {
    let span = text.span();
    let date = match text.into_inner() {
        Moment::Seconds(seconds) => return Ok(seconds),
        Moment::Date(date) => date,
    };
    let utc: Result<Utc, _> = date.to_string().parse();
    utc.map(|utc| utc.0).map_err(|e| (span, e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use wire::budget::{Kind, Unit};

    const KEY: &str = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c";

    /// The example of `docs/policy.md`.
    fn example() -> &'static str {
        let doc = include_str!("../../../docs/policy.md");
        let (_, rest) = doc.split_once("```toml\n").expect("the document has an example");
        rest.split_once("```").expect("the example ends").0
    }

    #[test]
    fn the_documented_example() {
        let policy = Policy::parse(example()).unwrap();
        assert_eq!(policy.min_rsa_bits, 3072);
        let joe = policy.principal("joe").unwrap();
        assert_eq!(joe.validity, Validity { from: Some(1_767_225_600), until: Some(1_798_761_599) });
        let terms = joe.terms.as_ref().unwrap();
        assert_eq!(terms.privileges, ["sensors", "blobs"]);
        assert_eq!(terms.neighbors, Neighbors::Except(vec!["outside".into()]));
        assert_eq!((terms.limits.get(Operation::Sends), terms.limits.get(Operation::Derives)), (4, 2));
        assert_eq!((terms.min_timer_us, terms.max_timer_us), (Some(10_000), Some(3_600_000_000)));
        assert_eq!(terms.budgets.rate, Some(1_250_000));
        assert!(joe.rights.has(Right::Inject) && !joe.rights.has(Right::Reconfigure));
        assert!(policy.unsigned.is_none() && policy.revokers.len() == 1);
    }

    #[test]
    fn every_budget_can_be_bounded_for_a_flow_and_for_all_together() {
        let head = format!("[[principal]]\nname = \"joe\"\nkeys = [\"{KEY}\"]\n");
        let value = |kind: Kind| match kind.unit() {
            Unit::Bytes => "\"4k\"",
            Unit::Time => "\"4096us\"",
            Unit::Rate => "\"32768bit\"",
            Unit::Count => "4096",
        };
        let lines: String = Kind::ALL.map(|kind| format!("{kind} = {}\n", value(kind))).concat();
        let policy = format!("{head}[principal.grant.budgets]\n{lines}[principal.total]\n{lines}");
        let policy = Policy::parse(&policy).unwrap();
        let joe = policy.principal("joe").unwrap();
        for budgets in [joe.terms.as_ref().unwrap().budgets, joe.total.unwrap()] {
            assert!(Kind::ALL.into_iter().all(|kind| budgets.get(kind) == Some(4096)), "{budgets:?}");
        }
        let empty = Policy::parse(&format!("{head}[principal.total]")).unwrap();
        assert_eq!(empty.principal("joe").unwrap().total, Some(Default::default()));
        assert_eq!(Policy::parse(&head).unwrap().principal("joe").unwrap().total, None);
    }

    #[test]
    fn an_empty_text_grants_nothing() {
        let policy = Policy::parse("").unwrap();
        assert!(policy.unsigned.is_none() && policy.principals().next().is_none());
        assert_eq!(policy.min_rsa_bits, 2048);
    }

    #[test]
    fn mistakes_are_pointed_at() {
        let joe = format!("[[principal]]\nname = \"joe\"\nkeys = [\"{KEY}\"]\n");
        let cases = [
            ("x = 1".into(), 1, 1, "unknown field"),
            ("\n  min_rsa_bits = 1024".into(), 2, 18, "between 2048 and 4096"),
            ("unknown_time = \"perhaps\"".into(), 1, 16, "unknown variant"),
            (format!("{joe}{joe}"), 5, 8, "the same name"),
            (joe.replace("joe", "admin"), 2, 8, "administrator"),
            (joe.replace("joe", "j e"), 2, 8, "without blanks"),
            (joe.replace('3', "z"), 3, 9, "hex"),
            (joe.replace(&format!("\"{KEY}\""), ""), 3, 8, "1 to 4 keys"),
            (joe.replace(&format!("\"{KEY}\""), &format!("\"{KEY}\", '{KEY}'")), 3, 77, "already"),
            (format!("{joe}control = [\"rule\"]"), 4, 12, "unknown variant"),
            (format!("{joe}from = 5\nuntil = 4"), 5, 9, "before"),
            (format!("{joe}from = 07:32:00"), 4, 8, ""),
            (format!("{joe}from = \"now\""), 4, 8, "seconds since 1970"),
            (format!("{joe}[principal.grant]\nneighbors = \"some\""), 5, 13, "unknown variant"),
            (format!("{joe}[principal.grant]\ncycle_depth = 65"), 5, 15, "at most 64"),
            (format!("{joe}[principal.grant]\nbudgets = {{ memory = \"big\" }}"), 5, 22, "a size such as"),
            (format!("{joe}[principal.grant.budgets]\nflows = 65536"), 5, 9, "flows is at most 65535"),
            (format!("{joe}[principal.grant.budgets]\nflow = 1"), 5, 1, "unknown field `flow`"),
            (format!("{joe}[principal.grant.budgets]\ncompile = \"3\""), 5, 11, "a duration such as"),
            (format!("{joe}[principal.total]\nshares = -1"), 5, 10, "invalid value"),
            (format!("{joe}[principal.total]\nprivileges = []"), 5, 1, "unknown field"),
            ("[unsigned.total]".into(), 1, 11, "unknown field"),
            (format!("{joe}[principal.grant]\ntimer = {{ min = \"2s\", max = \"1s\" }}"), 5, 9, "longer"),
            ("[[principal]]\nname = \"joe\"".into(), 1, 1, "missing field"),
            ("[unsigned\n".into(), 1, 10, ""),
        ];
        for (text, line, column, why) in cases {
            let e = Policy::parse(&text).unwrap_err();
            assert!(e.why.contains(why), "{text}\n{e}");
            assert_eq!((e.line, e.column), (line, column), "{text}\n{e}");
        }
        let long = "#".repeat(MAX_POLICY + 1);
        assert!(Policy::parse(&long).unwrap_err().why.contains("bytes"));
        assert!(Policy::parse(&"[".repeat(MAX_POLICY)).is_err());
        assert!(Policy::parse(&format!("x = {}", "[".repeat(MAX_POLICY - 9))).is_err());
    }

    #[test]
    fn lists_are_bounded() {
        let principal = |n| format!("[[principal]]\nname = \"p{n}\"\nkeys = [\"{KEY}\"]\n");
        let many = |n: usize| (0..n).map(principal).collect::<String>();
        assert_eq!(Policy::parse(&many(MAX_PRINCIPALS)).unwrap().principals().count(), MAX_PRINCIPALS);
        assert!(Policy::parse(&many(MAX_PRINCIPALS + 1)).unwrap_err().why.contains("at most 256"));
        let names = |n: usize| (0..n).map(|i| format!("\"n{i}\",")).collect::<String>();
        let unsigned = |text: &str| Policy::parse(&format!("[unsigned]\n{text}"));
        assert!(unsigned(&format!("privileges = [{}]", names(MAX_PRIVILEGES))).is_ok());
        assert!(unsigned(&format!("privileges = [{}]", names(MAX_PRIVILEGES + 1))).is_err());
        assert!(unsigned(&format!("neighbors = {{ only = [{}] }}", names(MAX_NEIGHBORS))).is_ok());
        assert!(unsigned(&format!("neighbors = {{ only = [{}] }}", names(MAX_NEIGHBORS + 1))).is_err());
    }

    #[test]
    fn dates_become_seconds() {
        for (text, expected) in [
            ("951868799", Some(951_868_799)),
            ("2000-02-29T23:59:59Z", Some(951_868_799)),
            ("2026-01-01T00:00:00Z", Some(1_767_225_600)),
            ("2026-01-01", Some(1_767_225_600)),
            ("1969-12-31T23:59:59Z", None),
            ("2026-01-01T01:00:00", None),
            ("-1", None),
        ] {
            let text = format!("[[principal]]\nname = 'a'\nkeys = ['{KEY}']\nfrom = {text}");
            let policy = Policy::parse(&text);
            assert_eq!(
                policy.ok().map(|p| p.principal("a").unwrap().validity.from.unwrap()),
                expected,
                "{text}"
            );
        }
    }
}
