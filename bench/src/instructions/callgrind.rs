//! Callgrind's output: how much each function cost by itself (valgrind's manual, "Callgrind Format
//! Specification").

use std::collections::HashMap;

use anyhow::{Context, Result};

/// What compiled guest code is called: callgrind knows neither a name nor a file for it.
const GUEST: &str = "guest (compiled WebAssembly)";

/// Instructions by function.
#[derive(Debug, Clone, Default)]
pub struct Profile {
    /// Key: crate or library, and function.
    costs: HashMap<(String, String), i64>,
}

impl Profile {
    /// Reads a file of one event type (instructions).
    pub fn parse(text: &str) -> Result<Self> {
        let (mut objects, mut functions) = (Names::default(), Names::default());
        let mut costs = HashMap::new();
        let (mut object, mut function) = (String::new(), String::new());
        let mut is_call = false;
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("ob=") {
                object = objects.find(name)?;
            } else if let Some(name) = line.strip_prefix("fn=") {
                function = functions.find(name)?;
            } else if let Some(name) = line.strip_prefix("cob=") {
                objects.find(name)?;
            } else if let Some(name) = line.strip_prefix("cfn=") {
                functions.find(name)?;
            } else if line.starts_with("calls=") {
                is_call = true;
            } else if line.starts_with(|c: char| c.is_ascii_digit() || "+-*".contains(c)) {
                // The line behind `calls=` is what the call cost, which counts in the called function.
                if !std::mem::take(&mut is_call) {
                    let cost = line.split_whitespace().nth(1).unwrap_or("0");
                    let cost: i64 = cost.parse().with_context(|| format!("callgrind: {line}"))?;
                    *costs.entry(place(&object, &function)).or_default() += cost;
                }
            }
        }
        anyhow::ensure!(!costs.is_empty(), "callgrind counted nothing");
        Ok(Self { costs })
    }

    /// What this run cost more than another.
    pub fn less(&self, other: &Self) -> Self {
        let mut costs = self.costs.clone();
        for (key, cost) in &other.costs {
            *costs.entry(key.clone()).or_default() -= cost;
        }
        Self { costs }
    }

    /// All of it.
    pub fn total(&self) -> i64 {
        self.costs.values().sum()
    }

    /// By crate or library, most first.
    pub fn by_crate(&self) -> Vec<(String, i64)> {
        let mut sums: HashMap<String, i64> = HashMap::new();
        for ((owner, _), cost) in &self.costs {
            *sums.entry(owner.clone()).or_default() += cost;
        }
        sorted(sums)
    }

    /// By function, most first.
    pub fn by_function(&self) -> Vec<(String, i64)> {
        let mut sums: HashMap<String, i64> = HashMap::new();
        for ((_, function), cost) in &self.costs {
            *sums.entry(function.clone()).or_default() += cost;
        }
        sorted(sums)
    }
}

fn sorted(sums: HashMap<String, i64>) -> Vec<(String, i64)> {
    let mut list: Vec<_> = sums.into_iter().collect();
    list.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    list
}

/// Names are written once, as `(number) name`; later only `(number)`.
#[derive(Default)]
struct Names(HashMap<String, String>);

impl Names {
    fn find(&mut self, text: &str) -> Result<String> {
        let (number, name) = text.split_once(' ').unwrap_or((text, ""));
        if !name.is_empty() {
            self.0.insert(number.to_string(), name.to_string());
        }
        self.0.get(number).cloned().with_context(|| format!("callgrind: {text} is not explained"))
    }
}

/// The crate or library that a function belongs to, and its name.
fn place(object: &str, function: &str) -> (String, String) {
    if object == "???" {
        return (GUEST.into(), GUEST.into());
    }
    let library = object.rsplit('/').next().unwrap_or(object);
    let function =
        function.trim_end_matches(|c: char| c == '\'' || c.is_ascii_digit() && function.contains('\''));
    if library.contains(".so") {
        return (library.into(), function.into());
    }
    let path = function.trim_start_matches(['<', '&', '_', '(']);
    let path = path.strip_prefix("dyn ").unwrap_or(path);
    let owner = match path.split_once("::") {
        Some((owner, _)) if owner.chars().all(|c| c.is_alphanumeric() || c == '_') => owner,
        _ => library,
    };
    (owner.into(), function.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "\
version: 1
events: Ir
ob=(1) /somewhere/bench
fl=(1) lib.rs
fn=(1) nodeos::net::Net::frame
10 100
+2 5
cob=(2) /lib/libc.so.6
cfn=(2) memcpy
calls=3 0
12 60
* 1
fn=(3) <ee::node::Node as core::fmt::Debug>::fmt
1 7
ob=(2)
fn=(2)
0 60
ob=(3) ???
fn=(4) 0x00000000041ff000
0 40
fn=(5) 0x00000000041ff100
0 2
";

    #[test]
    fn own_costs_are_summed_and_calls_are_not() {
        let profile = Profile::parse(FILE).unwrap();
        assert_eq!(profile.total(), 100 + 5 + 1 + 7 + 60 + 42);
        let owners = profile.by_crate();
        let expected = [("nodeos", 106), ("libc.so.6", 60), (GUEST, 42), ("ee", 7)];
        assert_eq!(owners, expected.map(|(name, cost)| (name.to_string(), cost)));
        assert_eq!(profile.by_function()[0], ("nodeos::net::Net::frame".to_string(), 106));
        assert_eq!(profile.less(&profile).total(), 0);
    }

    #[test]
    fn nonsense_is_an_error() {
        assert!(Profile::parse("").is_err());
        assert!(Profile::parse("fn=(1)\n").is_err());
        assert!(Profile::parse("fn=(1) f\n1 x\n").is_err());
    }
}
