//! The instruction budget: later work must not make the data path slower unseen.

use std::path::PathBuf;
use std::process::Command;

use bench::instructions::budget::{Budget, compiler};
use bench::instructions::relays::Kind;
use bench::instructions::{available, count};

/// Builds the program as a release, which is what is counted. Returns where it is.
fn release_build() -> PathBuf {
    let output = Command::new(env!("CARGO"))
        .args(["build", "--release", "--package", "bench", "--bin", "bench", "--message-format", "json"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let messages = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let mut executables = messages.filter_map(|message| message["executable"].as_str().map(PathBuf::from));
    executables.next_back().expect("cargo says where the program is")
}

#[test]
fn instructions_per_capsule_stay_within_their_budget() {
    if !available() {
        assert!(std::env::var_os("CI").is_none(), "valgrind is not installed");
        eprintln!("skipped instructions_per_capsule_stay_within_their_budget: needs valgrind");
        return;
    }
    let (program, budget) = (release_build(), Budget::read().unwrap());
    let costs: Vec<_> =
        Kind::ALL.iter().map(|&kind| count(&program, kind, budget.payload).unwrap()).collect();
    for cost in &costs {
        eprintln!("{}: {:.0} instructions per capsule", cost.relay, cost.total);
    }
    if let Err(why) = budget.judge(&costs, compiler()) {
        panic!("{why}");
    }
}
