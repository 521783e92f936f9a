//! What `bees` prints: tables for people, JSON for programs, progress on stderr.

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::time::Duration;

use anyhow::Result;
use serde_json::Value;

/// Where results go, and in which form.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    json: bool,
    colour: bool,
}

impl Output {
    /// Results on stdout, as JSON if `json`; colours only on a terminal and without `NO_COLOR`.
    pub fn new(json: bool) -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        Self { json, colour: wanted && io::stdout().is_terminal() }
    }

    /// Whether a program reads.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Prints what `table` makes, or for a program what `value` makes.
    pub fn show(&self, value: impl FnOnce() -> Value, table: impl FnOnce() -> Table) -> Result<()> {
        if self.json { self.value(&value()) } else { self.raw(&table().render(self.colour)) }
    }

    /// Makes room for the next picture of what people watch: on a terminal it takes the place of the last.
    pub fn screen(&self) -> Result<()> {
        if self.json || !io::stdout().is_terminal() { Ok(()) } else { self.raw("\x1b[H\x1b[2J") }
    }

    /// Prints JSON, on one line.
    pub fn value(&self, value: &Value) -> Result<()> {
        self.raw(&format!("{}\n", escaped(&value.to_string())))
    }

    /// Prints lines of text. What of it controls a terminal does not reach it.
    pub fn text(&self, text: &str) -> Result<()> {
        self.raw(&lines(text))
    }

    /// Prints what has no control characters but our own.
    fn raw(&self, text: &str) -> Result<()> {
        let mut out = io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            // Whoever read us has enough.
            Err(e) if e.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
            result => Ok(result?),
        }
    }
}

/// Tells people on stderr what is going on; also in words of a node's, whose control characters do not reach the terminal.
pub fn progress(text: impl AsRef<str>) {
    // There is nowhere to complain to.
    let _ = writeln!(io::stderr(), "{}", lines(text.as_ref()));
}

/// A table whose columns line up.
#[derive(Debug, Default)]
pub struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
}

#[derive(Debug)]
struct Column {
    name: &'static str,
    right: bool,
}

/// A cell's text and colour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    text: String,
    colour: Option<Colour>,
}

/// What a colour says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    /// All is well.
    Good,
    /// Something is under way.
    Busy,
    /// Something is wrong.
    Bad,
}

impl Colour {
    fn code(self) -> &'static str {
        match self {
            Self::Good => "\x1b[32m",
            Self::Busy => "\x1b[33m",
            Self::Bad => "\x1b[31m",
        }
    }
}

impl Cell {
    /// A cell with a colour.
    pub fn coloured(text: impl Into<String>, colour: Colour) -> Self {
        Self { colour: Some(colour), ..Self::from(text.into()) }
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self { text: plain(&text), colour: None }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        text.to_string().into()
    }
}

impl Table {
    /// A table with these columns; a name that starts with `>` is that of a column of numbers.
    pub fn new(columns: &[&'static str]) -> Self {
        let column = |name: &&'static str| match name.strip_prefix('>') {
            Some(name) => Column { name, right: true },
            None => Column { name, right: false },
        };
        Self { columns: columns.iter().map(column).collect(), rows: Vec::new() }
    }

    /// Appends a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The table's lines. With no rows there are none.
    pub fn render(&self, colour: bool) -> String {
        let mut out = String::new();
        if self.rows.is_empty() {
            return out;
        }
        let head: Vec<Cell> = self.columns.iter().map(|c| c.name.into()).collect();
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|i| {
                let cells = self.rows.iter().chain([&head]).filter_map(|r| r.get(i));
                cells.map(|c| c.text.chars().count()).max().unwrap_or(0)
            })
            .collect();
        for row in [&head].into_iter().chain(&self.rows) {
            let mut line = String::new();
            let mut blank = 0;
            for ((cell, column), width) in row.iter().zip(&self.columns).zip(&widths) {
                let fill = width - cell.text.chars().count();
                let (before, after) = if column.right { (fill, 0) } else { (0, fill) };
                if !cell.text.is_empty() {
                    line.extend(std::iter::repeat_n(' ', blank + before));
                    match cell.colour.filter(|_| colour) {
                        Some(c) => line.extend([c.code(), &cell.text, "\x1b[0m"]),
                        None => line.push_str(&cell.text),
                    }
                    blank = after + 2;
                } else {
                    blank += width + 2;
                }
            }
            out.push_str(&line);
            out.push('\n');
        }
        out
    }
}

/// Text of a node without control characters, which must not reach the terminal.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Lines of text, each without control characters but tabs.
fn lines(text: &str) -> String {
    let unix = text.replace("\r\n", "\n");
    unix.chars().map(|c| if c.is_control() && !"\n\t".contains(c) { '\u{fffd}' } else { c }).collect()
}

/// JSON without the control characters that may stand in its strings as they are: a terminal obeys some of them.
fn escaped(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        match c.is_control() {
            true => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            false => out.push(c),
        }
    }
    out
}

/// Rows of a name and a value.
pub fn pairs(rows: impl IntoIterator<Item = (&'static str, String)>) -> String {
    let rows: Vec<_> = rows.into_iter().collect();
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    rows.iter().map(|(name, value)| format!("{name:width$}  {}\n", plain(value))).collect()
}

/// A time for people: three or four digits.
pub fn time(duration: Duration) -> String {
    let us = duration.as_micros();
    match us {
        0..1000 => format!("{us} us"),
        1000..10_000 => format!("{:.2} ms", us as f64 / 1e3),
        10_000..1_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        _ if duration.as_secs() < 60 => format!("{:.2} s", duration.as_secs_f64()),
        _ => {
            let s = duration.as_secs();
            let (hours, minutes, seconds) = (s / 3600, s / 60 % 60, s % 60);
            if hours > 0 {
                format!("{hours}:{minutes:02}:{seconds:02} h")
            } else {
                format!("{minutes}:{seconds:02} min")
            }
        }
    }
}

/// A time in microseconds for people.
pub fn us(microseconds: u64) -> String {
    time(Duration::from_micros(microseconds))
}

/// A number of bytes for people, in powers of 1024.
pub fn bytes(n: u64) -> String {
    let scaled = |unit: u64| n as f64 / unit as f64;
    match n {
        0..10_240 => format!("{n} B"),
        10_240..10_485_760 => format!("{:.1} kiB", scaled(1 << 10)),
        10_485_760..10_737_418_240 => format!("{:.1} MiB", scaled(1 << 20)),
        _ => format!("{:.1} GiB", scaled(1 << 30)),
    }
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// A value, or a dash where there is none.
pub fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or("-".into(), |v| v.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_end_where_text_ends() {
        let mut t = Table::new(&["NODE", ">HOPS", "STATE"]);
        t.row(["a".into(), "0".into(), Cell::coloured("up", Colour::Good)]);
        t.row(["größer".into(), "12".into(), "".into()]);
        assert_eq!(t.render(false), "NODE    HOPS  STATE\na          0  up\ngrößer    12\n");
        assert!(t.render(true).contains("0  \x1b[32mup\x1b[0m\n"));
        assert_eq!(Table::new(&["A"]).render(false), "");
    }

    #[test]
    fn a_hostile_name_stays_text() {
        let mut t = Table::new(&["NAME"]);
        t.row(["\x1b[2Jx\n".into()]);
        assert_eq!(t.render(false), "NAME\n\u{fffd}[2Jx\u{fffd}\n");
    }

    #[test]
    fn control_characters_do_not_get_out() {
        assert_eq!(
            lines("a\tb\r\nc\rd\x1b[2J\u{9b}\u{7f}\n"),
            "a\tb\nc\u{fffd}d\u{fffd}[2J\u{fffd}\u{fffd}\n"
        );
        let value = Value::from("\x1b\u{9b}\u{7f}\u{85}\n ü");
        let json = escaped(&value.to_string());
        assert!(!json.contains(char::is_control), "{json:?}");
        assert_eq!(serde_json::from_str::<Value>(&json).unwrap(), value);
    }

    #[test]
    fn figures_for_people() {
        let times: Vec<_> = [0, 999, 1500, 123_456, 2_500_000, 90_000_000, 3_600_000_000].map(us).into();
        assert_eq!(times, ["0 us", "999 us", "1.50 ms", "123.5 ms", "2.50 s", "1:30 min", "1:00:00 h"]);
        assert_eq!([bytes(10), bytes(20_480), bytes(64 << 20)], ["10 B", "20.0 kiB", "64.0 MiB"]);
        assert_eq!(pairs([("a", "1".into()), ("long", "2".into())]), "a     1\nlong  2\n");
    }
}
