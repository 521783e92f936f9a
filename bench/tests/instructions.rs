//! The instruction budget: later work must not make the data path slower unseen.

use std::path::Path;

use bench::instructions::budget::{Budget, compiler};
use bench::instructions::relays::Kind;
use bench::instructions::{available, count};

#[test]
fn instructions_per_capsule_stay_within_their_budget() {
    if !available() {
        assert!(std::env::var_os("CI").is_none(), "valgrind is not installed");
        eprintln!("skipped instructions_per_capsule_stay_within_their_budget: needs valgrind");
        return;
    }
    let (program, budget) = (Path::new(env!("CARGO_BIN_EXE_bench")), Budget::read().unwrap());
    let costs: Vec<_> = Kind::ALL.iter().map(|&kind| count(program, kind, budget.payload).unwrap()).collect();
    for cost in &costs {
        eprintln!("{}: {:.0} instructions per capsule", cost.relay, cost.total);
    }
    if let Err(why) = budget.judge(&costs, compiler()) {
        panic!("{why}");
    }
}
