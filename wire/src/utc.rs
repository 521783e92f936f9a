//! Points in time as people write them: UTC, to the second (RFC 3339).
//!
//! A tuple's validity is two numbers of seconds since 1970; `2026-11-21T15:04:05Z` is what people see of
//! them, and what they write on a command line. A date alone is its first second. Leap seconds do not exist, as in POSIX.

use core::fmt;
use core::str::FromStr;

/// Seconds since 1970 (UTC).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Utc(pub u64);

/// The last second that can be written: the end of the year 9999.
const LAST: u64 = 253_402_300_799;
const DAY: u64 = 24 * 60 * 60;

/// The text is no point in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UtcError;

impl fmt::Display for UtcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "expected a time such as \"2026-11-21\" or \"2026-11-21T15:04:05Z\" (UTC), or seconds since 1970",
        )
    }
}

impl core::error::Error for UtcError {}

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 > LAST {
            return write!(f, "{} s since 1970", self.0);
        }
        let (year, month, day) = date(self.0 / DAY);
        let s = self.0 % DAY;
        write!(f, "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", s / 3600, s / 60 % 60, s % 60)
    }
}

impl FromStr for Utc {
    type Err = UtcError;

    fn from_str(text: &str) -> Result<Self, UtcError> {
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
            return text.parse().map(Self).map_err(|_| UtcError);
        }
        read(text).ok_or(UtcError)
    }
}

/// `YYYY-MM-DD`, or with `THH:MM:SSZ` behind it.
fn read(text: &str) -> Option<Utc> {
    let (day, time) = match text.split_at_checked(10)? {
        (day, "") => (day, "00:00:00"),
        (day, time) => (day, time.strip_prefix('T')?.strip_suffix('Z')?),
    };
    let [year, month, day] = numbers(day, '-', [4, 2, 2])?;
    let [hours, minutes, seconds] = numbers(time, ':', [2, 2, 2])?;
    if hours > 23 || minutes > 59 || seconds > 59 {
        return None;
    }
    let days = days(year, month, day).filter(|days| date(*days) == (year, month, day))?;
    Some(Utc(days * DAY + hours * 3600 + minutes * 60 + seconds))
}

/// Three numbers with exactly so many digits.
fn numbers(text: &str, between: char, digits: [usize; 3]) -> Option<[u64; 3]> {
    let mut found = [0; 3];
    let mut parts = text.split(between);
    for (number, digits) in found.iter_mut().zip(digits) {
        let part = parts.next().filter(|p| p.len() == digits && p.bytes().all(|b| b.is_ascii_digit()))?;
        *number = part.parse().ok()?;
    }
    parts.next().is_none().then_some(found)
}

/// Days from 1970 to a day; `None` before 1970 or for a month that is none.
fn days(year: u64, month: u64, day: u64) -> Option<u64> {
    if year < 1970 || !(1..=12).contains(&month) || day == 0 {
        return None;
    }
    let before = (1..month).map(|m| month_len(year, m)).sum::<u64>();
    Some(days_before(year) - days_before(1970) + before + day - 1)
}

/// Year, month and day of the day that is so many days after the first of 1970.
fn date(days: u64) -> (u64, u64, u64) {
    // No year is longer than 366 days, so that this is never late, and never more than a few years early.
    let mut year = 1970 + days / 366;
    let mut left = days + days_before(1970) - days_before(year);
    while left >= year_len(year) {
        left -= year_len(year);
        year += 1;
    }
    let mut month = 1;
    while left >= month_len(year, month) {
        left -= month_len(year, month);
        month += 1;
    }
    (year, month, left + 1)
}

/// Days from the year 1 to the first day of `year`.
fn days_before(year: u64) -> u64 {
    let whole = year - 1;
    whole * 365 + whole / 4 - whole / 100 + whole / 400
}

fn year_len(year: u64) -> u64 {
    days_before(year + 1) - days_before(year)
}

fn month_len(year: u64, month: u64) -> u64 {
    match month {
        2 => year_len(year) - 337,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString as _;
    use proptest::prelude::*;

    #[test]
    fn known_times() {
        // date -u -d @N +%FT%TZ
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_795_273_445, "2026-11-21T15:04:05Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (LAST, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(Utc(seconds).to_string(), text);
            assert_eq!(text.parse(), Ok(Utc(seconds)));
            assert_eq!(seconds.to_string().parse(), Ok(Utc(seconds)));
        }
        assert_eq!("2026-11-21".parse(), Ok(Utc(1_795_219_200)));
        assert_eq!(Utc(u64::MAX).to_string(), "18446744073709551615 s since 1970");
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "x",
            "-1",
            "1969-12-31",
            "2026-02-29",
            "2100-02-29",
            "2026-13-01",
            "2026-00-01",
            "2026-01-00",
            "2026-04-31",
            "2026-1-1",
            "26-01-01",
            "2026-01-01T",
            "2026-01-01T00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:60:00Z",
            "2026-01-01T00:00:60Z",
            "2026-01-01T00:00:00",
            "2026-01-01 00:00:00Z",
            "2026-01-01T00:00:00+01:00",
            "2026-01-0\u{e9}",
            "99999999999999999999999",
        ] {
            assert_eq!(text.parse::<Utc>(), Err(UtcError), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[0-9TZ: -]{0,24}|\\PC{0,24}") {
            if let Ok(time) = text.parse::<Utc>() {
                prop_assert_eq!(time.to_string().split(' ').next().unwrap().parse(), Ok(time));
            }
        }

        #[test]
        fn a_time_comes_back(seconds in 0..=LAST) {
            prop_assert_eq!(Utc(seconds).to_string().parse(), Ok(Utc(seconds)));
        }
    }
}
