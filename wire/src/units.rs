//! Rates, sizes and durations as people write them in configuration files: the vocabulary of tc(8).
//!
//! | kind     | units                                                        | example           |
//! |----------|--------------------------------------------------------------|-------------------|
//! | rate     | `bit`, `kbit`, `mbit`, `gbit` (bits per second, powers of 1000) | `rate = "100mbit"` |
//! | size     | none (bytes), `k`, `M`, `G` (powers of 1024; case is ignored)  | `burst = "32k"`   |
//! | duration | `us`, `ms`, `s`                                               | `event = "2ms"`   |
//!
//! Numbers may have a fraction (`1.5mbit`). A TOML integer stands for bytes where a size is expected.
//! The types are for serde; the functions parse text from elsewhere, such as a command line.

use alloc::borrow::Cow;
use core::fmt;
use core::time::Duration;
use serde::de::{Deserializer, Error as _, Unexpected, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// A rate, in bytes per second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rate(pub u64);

/// A size, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// A duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub Duration);

/// The text is not a number with a known unit, or the value is out of range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnitError {
    expected: &'static str,
}

impl fmt::Display for UnitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected {}", self.expected)
    }
}

impl core::error::Error for UnitError {}

const RATE: &str = "a rate such as \"100mbit\" (bit, kbit, mbit, gbit per second)";
const SIZE: &str = "a size such as \"32k\" (bytes, k, M, G)";
const TIME: &str = "a duration such as \"2ms\" (us, ms, s)";

/// Parses a rate; the result is in bytes per second and not 0.
pub fn parse_rate(text: &str) -> Result<u64, UnitError> {
    let units = [("bit", 1), ("kbit", 1000), ("mbit", 1_000_000), ("gbit", 1_000_000_000)];
    let bits = parse(text, &units).ok_or(UnitError { expected: RATE })?;
    Some(bits / 8).filter(|&bytes| bytes > 0).ok_or(UnitError { expected: RATE })
}

/// Parses a size; the result is in bytes.
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    let units = [("", 1), ("k", 1 << 10), ("m", 1 << 20), ("g", 1 << 30)];
    parse(text, &units).ok_or(UnitError { expected: SIZE })
}

/// Parses a duration.
pub fn parse_time(text: &str) -> Result<Duration, UnitError> {
    let units = [("us", 1), ("ms", 1000), ("s", 1_000_000)];
    parse(text, &units).map(Duration::from_micros).ok_or(UnitError { expected: TIME })
}

/// `number unit`, in multiples of the smallest unit.
fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let factor = units.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit.trim_start()))?.1;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let mut value = whole.parse::<u64>().ok()?.checked_mul(factor)?;
    // Each digit counts a tenth of the one before; what is below the smallest unit is cut off.
    let mut place = factor;
    for digit in fraction.bytes() {
        place /= 10;
        value = value.checked_add(u64::from(digit.checked_sub(b'0').filter(|d| *d < 10)?) * place)?;
    }
    Some(value)
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = u128::from(self.0) * 8;
        let (value, unit) =
            largest(bits, &[(1_000_000_000, "gbit"), (1_000_000, "mbit"), (1000, "kbit"), (1, "bit")]);
        write!(f, "{value}{unit}")
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (value, unit) =
            largest(u128::from(self.0), &[(1 << 30, "G"), (1 << 20, "M"), (1 << 10, "k"), (1, "")]);
        write!(f, "{value}{unit}")
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (value, unit) = largest(self.0.as_micros(), &[(1_000_000, "s"), (1000, "ms"), (1, "us")]);
        write!(f, "{value}{unit}")
    }
}

/// `value` in the largest unit that needs no fraction.
fn largest(value: u128, units: &[(u128, &'static str)]) -> (u128, &'static str) {
    let exact = units.iter().find(|(factor, _)| value != 0 && value.is_multiple_of(*factor));
    exact.map_or((value, units[units.len() - 1].1), |(factor, unit)| (value / factor, unit))
}

macro_rules! serde_by_text {
    ($name:ident, $parse:ident, $expected:expr) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = Cow::<str>::deserialize(deserializer)?;
                $parse(&text)
                    .map(Self)
                    .map_err(|_| D::Error::invalid_value(Unexpected::Str(&text), &$expected))
            }
        }
    };
}

serde_by_text!(Rate, parse_rate, RATE);
serde_by_text!(Time, parse_time, TIME);

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextOrBytes;
        impl Visitor<'_> for TextOrBytes {
            type Value = Size;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(SIZE)
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Size, E> {
                parse_size(text).map(Size).map_err(|_| E::invalid_value(Unexpected::Str(text), &self))
            }
            fn visit_u64<E: serde::de::Error>(self, bytes: u64) -> Result<Size, E> {
                Ok(Size(bytes))
            }
            fn visit_i64<E: serde::de::Error>(self, bytes: i64) -> Result<Size, E> {
                u64::try_from(bytes).map(Size).map_err(|_| E::invalid_value(Unexpected::Signed(bytes), &self))
            }
        }
        deserializer.deserialize_any(TextOrBytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use proptest::prelude::*;

    #[test]
    fn as_tc_reads_them() {
        assert_eq!(parse_rate("100mbit"), Ok(12_500_000));
        assert_eq!(parse_rate("1.5 Mbit"), Ok(187_500));
        assert_eq!(parse_rate("9600bit"), Ok(1200));
        assert_eq!(parse_size("32k"), Ok(32_768));
        assert_eq!(parse_size("16M"), Ok(16 << 20));
        assert_eq!(parse_size("77"), Ok(77));
        assert_eq!(parse_time("2ms"), Ok(Duration::from_millis(2)));
        assert_eq!(parse_time("0.25s"), Ok(Duration::from_millis(250)));
    }

    #[test]
    fn anything_else_is_refused() {
        for text in
            ["", "mbit", "1", "-1mbit", "1tbit", "1.2.3mbit", "99999999999999999999bit", "7bit", "0mbit"]
        {
            assert!(parse_rate(text).is_err(), "{text}");
        }
        for text in ["", "k", "1q", "18446744073709551615k", "٣k"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
        for text in ["2", "2m", "ms", "1h"] {
            assert!(parse_time(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,20}") {
            let _ = (parse_rate(&text), parse_size(&text), parse_time(&text));
        }

        #[test]
        fn what_is_written_is_read_back(n in 1u64..(1 << 50)) {
            prop_assert_eq!(parse_rate(&Rate(n).to_string()), Ok(n));
            prop_assert_eq!(parse_size(&Size(n).to_string()), Ok(n));
            prop_assert_eq!(parse_time(&Time(Duration::from_micros(n)).to_string()), Ok(Duration::from_micros(n)));
        }
    }
}
