//! A share of all frames as people write it: `"0.5%"`.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Error as _, Unexpected};
use serde::{Deserialize, Deserializer};

/// A share, 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Share(pub f64);

const EXPECTED: &str = "a share from \"0%\" to \"100%\"";

fn parse(text: &str) -> Option<f64> {
    let number = text.trim().strip_suffix('%')?.trim_end();
    // Only plain decimals: no sign, no exponent, no "inf".
    if !number.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return None;
    }
    // The exponent in the text, instead of a division, keeps what is written exact.
    format!("{number}e-2").parse::<f64>().ok().filter(|share| *share <= 1.0)
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0.0 {
            return f.write_str("0%");
        }
        // The shortest digits that mean this share, with the point moved two places.
        let text = format!("{:e}", self.0);
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
        let point = 3 + exponent.parse::<i32>().unwrap_or_default();
        let Ok(before) = usize::try_from(point) else {
            return write!(f, "0.{}{digits}%", "0".repeat(point.unsigned_abs() as usize));
        };
        let padded = format!("{digits:0<before$}");
        let (whole, fraction) = padded.split_at(before);
        let whole = if whole.is_empty() { "0" } else { whole };
        if fraction.is_empty() { write!(f, "{whole}%") } else { write!(f, "{whole}.{fraction}%") }
    }
}

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        parse(&text).map(Self).ok_or_else(|| D::Error::invalid_value(Unexpected::Str(&text), &EXPECTED))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn percent_only() {
        assert_eq!(parse("0.5%"), Some(0.005));
        assert_eq!(parse("100 %"), Some(1.0));
        for text in ["", "%", "5", "-1%", "101%", "1e1%", "inf%", "nan%"] {
            assert_eq!(parse(text), None, "{text}");
        }
        assert_eq!(Share(0.005).to_string(), "0.5%");
        assert_eq!(Share(0.07).to_string(), "7%");
        assert_eq!(Share(0.0).to_string(), "0%");
        assert_eq!(Share(1.0).to_string(), "100%");
        assert_eq!(Share(0.000_012).to_string(), "0.0012%");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(share in 0.0f64..=1.0) {
            prop_assert_eq!(parse(&Share(share).to_string()), Some(share));
        }
    }
}
