//! The node's log on standard output, one line per state change, and in a file if one is wanted.

use std::fmt::Display;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

/// Where log lines go.
#[derive(Debug, Default)]
pub struct Console {
    file: Option<File>,
}

impl Console {
    /// Standard output, and `file` if there is one; it is appended to.
    pub fn new(file: Option<&Path>) -> io::Result<Self> {
        let open = |path| OpenOptions::new().append(true).create(true).open(path);
        Ok(Self { file: file.map(open).transpose()? })
    }

    /// Writes a line about something that happened `at_us` microseconds after start.
    pub fn line(&mut self, at_us: u64, text: impl Display) {
        let line = format!("[{:5}.{:06}] {text}\n", at_us / 1_000_000, at_us % 1_000_000);
        // Nobody reads any more, or the disk is full: the node goes on.
        let _ = io::stdout().lock().write_all(line.as_bytes());
        if let Some(file) = &mut self.file {
            let _ = file.write_all(line.as_bytes());
        }
    }
}
