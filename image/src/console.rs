//! The serial console: one line per state change, with the seconds since the node's start in front.

use std::fmt::Arguments;
use std::io::{Write, stdout};

use log::{LevelFilter, Log, Metadata, Record};

use crate::clock::Clock;

/// Prints lines, and takes what crates say through `log`.
#[derive(Debug, Clone, Copy)]
pub struct Console {
    clock: Clock,
}

impl Console {
    /// Starts the console and makes it the one to which `log` goes.
    pub fn start(clock: Clock, level: LevelFilter) -> Self {
        let console = Self { clock };
        if log::set_logger(Box::leak(Box::new(console))).is_ok() {
            log::set_max_level(level);
        }
        console
    }

    /// Prints one line.
    pub fn line(&self, text: Arguments<'_>) {
        let micros = self.clock.mono().micros();
        let line = format!("[{:>5}.{:06}] {text}\n", micros / 1_000_000, micros % 1_000_000);
        // In one piece: the kernel's console takes it or leaves it. There is nobody to tell.
        let _ = stdout().write_all(line.as_bytes());
    }
}

impl Log for Console {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let level = record.level().as_str().to_ascii_lowercase();
        self.line(format_args!("{level}: {}: {}", record.target(), record.args()));
    }

    fn flush(&self) {}
}
