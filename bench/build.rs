//! Tells the program which compiler made it: instruction counts depend on it.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let rustc = std::env::var("RUSTC").expect("cargo names the compiler");
    let output = Command::new(rustc).arg("--version").output().expect("the compiler runs");
    println!("cargo::rustc-env=BENCH_COMPILER={}", String::from_utf8_lossy(&output.stdout).trim());
}
