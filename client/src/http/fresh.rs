//! How long a response may be kept by those who share it (RFC 9111, section 4.2), in seconds.

use std::time::SystemTime;

/// The longest that anything is kept.
pub const MAX_LIFE: u32 = 24 * 3600;
/// Statuses whose responses may be kept.
const KEEPABLE: [u16; 6] = [200, 203, 300, 301, 404, 410];

/// Seconds that a response with this status and these headers may be kept from `now` on; 0: not at all.
pub fn life<'a>(
    status: u16,
    headers: impl Iterator<Item = (&'a str, &'a str)> + Clone,
    now: SystemTime,
) -> u32 {
    if !KEEPABLE.contains(&status) {
        return 0;
    }
    let all =
        |name: &'static str| headers.clone().filter(move |h| h.0.eq_ignore_ascii_case(name)).map(|h| h.1);
    let mut shared = None;
    let mut anybody = None;
    for directive in all("cache-control").flat_map(|value| value.split(',')) {
        let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
        let seconds = || value.trim().trim_matches('"').parse::<u64>().unwrap_or(0);
        match name.trim().to_ascii_lowercase().as_str() {
            "no-store" | "no-cache" | "private" => return 0,
            "s-maxage" => shared = Some(seconds()),
            "max-age" => anybody = Some(seconds()),
            _ => {}
        }
    }
    // It may be another one for others.
    let varies =
        all("vary").flat_map(|v| v.split(',')).any(|v| !v.trim().eq_ignore_ascii_case("accept-encoding"));
    if varies || all("set-cookie").next().is_some() {
        return 0;
    }
    let date = |name| all(name).next().and_then(|text| httpdate::parse_http_date(text.trim()).ok());
    let expires = || {
        // What is no date has expired.
        let at = all("expires").next().map(|_| date("expires").unwrap_or(SystemTime::UNIX_EPOCH))?;
        let from = date("date").unwrap_or(now);
        Some(at.duration_since(from).map_or(0, |left| left.as_secs()))
    };
    let life = shared.or(anybody).or_else(expires).unwrap_or(0);
    let age = all("age").next().and_then(|age| age.trim().parse::<u64>().ok()).unwrap_or(0);
    life.saturating_sub(age).min(MAX_LIFE.into()) as u32
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn of(headers: &[(&str, &str)]) -> u32 {
        life(200, headers.iter().copied(), SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777))
    }

    #[test]
    fn servers_say_how_long() {
        assert_eq!(of(&[]), 0);
        assert_eq!(of(&[("Cache-Control", "public, max-age=60")]), 60);
        assert_eq!(of(&[("cache-control", "max-age=60, s-maxage=\"7\"")]), 7);
        assert_eq!(of(&[("Cache-Control", "max-age=60"), ("Cache-Control", "no-store")]), 0);
        assert_eq!(of(&[("Cache-Control", "private, max-age=60")]), 0);
        assert_eq!(of(&[("Cache-Control", "max-age=60"), ("Age", "20")]), 40);
        assert_eq!(of(&[("Cache-Control", "max-age=99999999999")]), MAX_LIFE);
        assert_eq!(of(&[("Cache-Control", "max-age=60"), ("Vary", "Cookie")]), 0);
        assert_eq!(of(&[("Cache-Control", "max-age=60"), ("Vary", "Accept-Encoding")]), 60);
        assert_eq!(of(&[("Cache-Control", "max-age=60"), ("Set-Cookie", "a=b")]), 0);
        let (date, later) = ("Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:51:07 GMT");
        assert_eq!(of(&[("Date", date), ("Expires", later)]), 90);
        assert_eq!(of(&[("Expires", later)]), 90, "from now on");
        assert_eq!(of(&[("Expires", "0")]), 0);
        assert_eq!(of(&[("Expires", date), ("Date", later)]), 0);
        assert_eq!(life(500, [("Cache-Control", "max-age=60")].into_iter(), SystemTime::now()), 0);
    }

    proptest! {
        #[test]
        fn any_headers_are_bounded(control in "[ -~]{0,40}", expires in "[ -~]{0,40}", age in "[ -~]{0,8}") {
            let headers = [("Cache-Control", control.as_str()), ("Expires", &expires), ("Age", &age)];
            prop_assert!(of(&headers) <= MAX_LIFE);
        }
    }
}
