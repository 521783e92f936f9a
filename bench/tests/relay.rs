//! All relays relay, on real devices.

use std::process::Command;

use serde_json::Value;

#[test]
#[ignore = "needs root: makes network namespaces"]
fn every_row_has_figures() {
    let arguments = ["--json", "relay", "--payload", "0,64", "--seconds", "0.2", "--runs", "1"];
    let output = Command::new(env!("CARGO_BIN_EXE_bench")).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let figures: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(figures.len(), 2 * 3);
    for figure in figures {
        let rate = |name: &str| figure[name].as_f64().unwrap();
        assert!(rate("saturated") > 0.0 && rate("loss_free") > 0.0, "{figure}");
        assert!(rate("offered") > rate("saturated"), "{figure}");
    }
}
