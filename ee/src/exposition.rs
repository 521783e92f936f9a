//! Prometheus' text exposition format, version 0.0.4: families of samples, each with its help and type.
//!
//! Names come from this program and need no escaping; the values of labels come from anywhere.

use std::fmt::Write;

/// The content type of the format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a family's samples are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, but for a restart.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// A sample's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value {
    /// A number.
    Count(u64),
    /// Microseconds, shown in seconds.
    Micros(u64),
}

/// Text that grows by families and samples.
#[derive(Debug, Default)]
pub struct Text(String);

impl Text {
    /// Begins a family; its samples follow.
    pub fn family(&mut self, name: &str, help: &str, kind: Kind) {
        let kind = if kind == Kind::Counter { "counter" } else { "gauge" };
        self.put(format_args!("# HELP {name} "));
        help.chars().for_each(|c| self.escaped(c, false));
        self.put(format_args!("\n# TYPE {name} {kind}\n"));
    }

    /// One sample.
    pub fn sample(&mut self, name: &str, labels: &[(&str, String)], value: Value) {
        self.0.push_str(name);
        for (at, (label, text)) in labels.iter().enumerate() {
            self.put(format_args!("{}{label}=\"", if at == 0 { '{' } else { ',' }));
            text.chars().for_each(|c| self.escaped(c, true));
            self.0.push('"');
        }
        self.0.push_str(if labels.is_empty() { " " } else { "} " });
        match value {
            Value::Count(n) => self.put(format_args!("{n}\n")),
            Value::Micros(n) => self.put(format_args!("{}.{:06}\n", n / 1_000_000, n % 1_000_000)),
        }
    }

    /// What has been written since the last call.
    pub fn take(&mut self) -> String {
        std::mem::take(&mut self.0)
    }

    /// The format knows three escapes. Other control characters are nothing that a terminal should get to see.
    fn escaped(&mut self, c: char, quoted: bool) {
        match c {
            '\\' => self.0.push_str("\\\\"),
            '\n' => self.0.push_str("\\n"),
            '"' if quoted => self.0.push_str("\\\""),
            c if c.is_control() => self.0.push(char::REPLACEMENT_CHARACTER),
            c => self.0.push(c),
        }
    }

    fn put(&mut self, text: std::fmt::Arguments<'_>) {
        // Writing to a string does not fail.
        let _ = self.0.write_fmt(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn as_the_format_says() {
        let mut text = Text::default();
        text.family("bees_x_total", "So \"many\"\\\n.", Kind::Counter);
        text.sample("bees_x_total", &[], Value::Count(u64::MAX));
        text.sample(
            "bees_x_total",
            &[("a", "b\"\\\n\u{1b}[2J\r".into()), ("c", String::new())],
            Value::Count(0),
        );
        text.sample("bees_x_total", &[], Value::Micros(12_000_345));
        let wanted = "# HELP bees_x_total So \"many\"\\\\\\n.\n# TYPE bees_x_total counter\n\
            bees_x_total 18446744073709551615\n\
            bees_x_total{a=\"b\\\"\\\\\\n\u{fffd}[2J\u{fffd}\",c=\"\"} 0\nbees_x_total 12.000345\n";
        assert_eq!(text.take(), wanted);
        assert_eq!(text.take(), "");
    }

    proptest! {
        /// Nobody's name ends its line or its quotes, and what was meant can be read back.
        #[test]
        fn names_stay_in_their_place(name in any::<String>()) {
            let mut text = Text::default();
            text.sample("m", &[("l", name.clone())], Value::Count(1));
            let text = text.take();
            let quoted = text.strip_prefix("m{l=\"").and_then(|t| t.strip_suffix("\"} 1\n")).unwrap();
            let (mut back, mut chars) = (String::new(), quoted.chars());
            while let Some(c) = chars.next() {
                prop_assert!(c != '"' && !c.is_control());
                back.push(match c {
                    '\\' => match chars.next().unwrap() {
                        'n' => '\n',
                        c @ ('\\' | '"') => c,
                        c => panic!("\\{c}"),
                    },
                    c => c,
                });
            }
            let shown = |c: char| if c.is_control() && c != '\n' { char::REPLACEMENT_CHARACTER } else { c };
            prop_assert_eq!(back, name.chars().map(shown).collect::<String>());
        }
    }
}
