//! Self-tests: small programs that exercise one part of the platform for real. The node runs one
//! instead of its own work when its configuration has the key `selftest = "NAME"`, or the kernel's
//! arguments end in `-- selftest=NAME`. `cargo xtask test` boots them.
//!
//! A test that is to end the machine with an error (`faults.rs`) never succeeds: when the machine
//! survives, it says so and *succeeds*, which its caller takes for failure. All others end with
//! success or with an error as one expects.

mod faults;
mod net;
mod time;
mod wasm;

use std::env;
use std::fmt::Display;

use nodeos::link::Mac;
use serde::Deserialize;

use crate::{Machine, exit};

/// The keys of a configuration that self-tests look at; all others are somebody else's.
#[derive(Debug, Default, Deserialize)]
pub struct Options {
    /// The test's name.
    selftest: Option<String>,
    /// How long tests run that could go on for ever.
    #[serde(default)]
    seconds: Option<u64>,
    /// The neighbor that a relay hands capsules on to.
    #[serde(default)]
    next: Option<Mac>,
}

type Test = fn(&mut Machine, &Options) -> Result<(), String>;

const TESTS: &[(&str, Test)] = &[
    ("hello", hello),
    ("null-write", faults::null_write),
    ("wild-read", faults::wild_read),
    ("text-write", faults::text_write),
    ("constant-write", faults::constant_write),
    ("heap-execute", faults::heap_execute),
    ("stack-execute", faults::stack_execute),
    ("loader-execute", faults::loader_execute),
    ("guest-code-write", wasm::code_write),
    ("stack-overflow", faults::stack_overflow),
    ("stack-overflow-thread", faults::stack_overflow_thread),
    ("stack-overflow-fiber", wasm::fiber_overflow),
    ("panic", faults::panic),
    ("panic-thread", faults::panic_thread),
    ("abort", faults::abort),
    ("undefined-instruction", faults::undefined_instruction),
    ("out-of-memory", faults::out_of_memory),
    ("entropy", time::entropy),
    ("clock", time::clock),
    ("allocate", time::allocate),
    ("priority", time::priority),
    ("preempt", time::preempt),
    ("watchdog", time::watchdog),
    ("wasm", wasm::run),
    ("fiber", wasm::fiber),
    ("idle", net::idle),
    ("relay", net::relay),
    ("relay-busy", net::relay_busy),
    ("relay-nodeos", net::relay_nodeos),
];

/// Runs the test that the arguments or the configuration name, and ends the machine. Returns when
/// none is named.
pub fn run(machine: &mut Machine, configuration: &str) {
    let mut options: Options = match toml::from_str(configuration) {
        Ok(options) => options,
        Err(error) => return machine.console.line(format_args!("configuration: {error}")),
    };
    if let Some(name) = env::args().find_map(|a| Some(a.strip_prefix("selftest=")?.to_owned())) {
        options.selftest = Some(name);
    }
    let Some(name) = &options.selftest else { return };
    let Some((_, test)) = TESTS.iter().find(|(known, _)| known == name) else {
        let known: Vec<_> = TESTS.iter().map(|(known, _)| *known).collect();
        exit::failure(format_args!("no self-test {name}; there are: {}", known.join(", ")));
    };
    machine.console.line(format_args!("selftest {name}"));
    match test(machine, &options) {
        Ok(()) => {
            machine.console.line(format_args!("selftest {name}: passed"));
            exit::success()
        }
        Err(error) => exit::failure(format_args!("selftest {name}: {error}")),
    }
}

/// The platform comes up, and that is all.
fn hello(machine: &mut Machine, _: &Options) -> Result<(), String> {
    machine.console.line(format_args!(
        "{} network cards, entropy from {:?}, processor up for {} us when the node started",
        machine.nics.len(),
        machine.random.sources(),
        machine.clock.since_reset()
    ));
    for nic in &machine.nics {
        machine.console.line(format_args!("network card {}: {:02x?}", nic.place(), nic.mac()));
    }
    Ok(())
}

/// An error unless `condition` holds.
fn check(condition: bool, what: impl Display) -> Result<(), String> {
    if condition { Ok(()) } else { Err(what.to_string()) }
}
