//! Moments in time as names of paths: what people may write, and the one form that is canonical.
//!
//! Canonical is `2026-11-23T02.45.05Z`, with a fraction of as many digits as it takes. Everything else that means
//! a moment is another name for that. Times are UTC here.

use jiff::{Timestamp, civil::DateTime, tz::TimeZone};

const SECOND: u64 = 1_000_000_000;
const DAY: u64 = 24 * 3600 * SECOND;

/// The canonical name of a moment, ns since 1970.
#[must_use]
pub fn canonical(ns: u64) -> String {
    let (seconds, nanos) = (ns / SECOND, ns % SECOND);
    let t = Timestamp::from_second(seconds.cast_signed()).unwrap_or(Timestamp::UNIX_EPOCH);
    let t = TimeZone::UTC.to_datetime(t);
    let mut name = format!(
        "{:04}-{:02}-{:02}T{:02}.{:02}.{:02}",
        t.year(),
        t.month(),
        t.day(),
        t.hour(),
        t.minute(),
        t.second()
    );
    if nanos > 0 {
        let fraction = format!(".{nanos:09}");
        name.push_str(fraction.trim_end_matches('0'));
    }
    name.push('Z');
    name
}

/// The moment that a name means, ns since 1970, where `now_ns` is the present; none if it means none. One before 1970
/// is 0: before everything.
#[must_use]
pub fn parse(name: &str, now_ns: u64) -> Option<u64> {
    match name {
        "now" => return Some(now_ns),
        "today" => return Some(now_ns - now_ns % DAY),
        "yesterday" => return Some(now_ns.saturating_sub(DAY)),
        _ => {}
    }
    if let Some(ago) = ago(name) {
        return Some(now_ns.saturating_sub(ago));
    }
    if let Some(rest) = name.strip_prefix("@GMT-") {
        // Windows' names of former versions: YYYY.MM.DD-HH.MM.SS
        let (date, time) = rest.split_once('-')?;
        let (date, time): (Vec<&str>, Vec<&str>) = (date.split('.').collect(), time.split('.').collect());
        return if date.len() == 3 && time.len() == 3 { civil(&date, &time, None) } else { None };
    }
    let name = name.strip_suffix('Z').unwrap_or(name);
    let (date, time) = match name.split_once('T') {
        Some((date, time)) => (date, Some(time)),
        None => (name, None),
    };
    let date: Vec<&str> = date.split('-').collect();
    let time: Vec<&str> = time.map_or_else(Vec::new, |t| t.split(['.', ':']).collect());
    if time.len() > 4 || (!time.is_empty() && date.len() != 3) {
        return None;
    }
    civil(&date, time.get(..time.len().min(3))?, time.get(3).copied())
}

/// `45s`, `30m`, `2h`, `3d`, `1w`: so long ago, in ns.
#[must_use]
pub fn ago(name: &str) -> Option<u64> {
    let unit = match name.bytes().last()? {
        b's' => SECOND,
        b'm' => 60 * SECOND,
        b'h' => 3600 * SECOND,
        b'd' => DAY,
        b'w' => 7 * DAY,
        _ => return None,
    };
    number(&name[..name.len() - 1], 1..=9)?.checked_mul(unit)
}

/// Digits and nothing else, so many of them.
fn number(digits: &str, len: std::ops::RangeInclusive<usize>) -> Option<u64> {
    let fits = len.contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    fits.then(|| digits.parse().ok()).flatten()
}

/// Date and time in UTC; missing fields are the first month or day, or zero.
fn civil(date: &[&str], time: &[&str], fraction: Option<&str>) -> Option<u64> {
    let year = number(date.first()?, 4..=4)? as i16;
    let field = |fields: &[&str], n: usize, missing: u64| match fields.get(n) {
        Some(digits) => number(digits, 2..=2).map(|n| n as i8),
        None => Some(missing as i8),
    };
    if date.len() > 3 || time.len() > 3 {
        return None;
    }
    let (month, day) = (field(date, 1, 1)?, field(date, 2, 1)?);
    let (hour, minute, second) = (field(time, 0, 0)?, field(time, 1, 0)?, field(time, 2, 0)?);
    let nanos = match fraction {
        None => 0,
        Some(digits) => number(digits, 1..=9)? * 10_u64.pow(9 - digits.len() as u32),
    };
    let t = DateTime::new(year, month, day, hour, minute, second, nanos as i32).ok()?;
    let t = TimeZone::UTC.to_timestamp(t).ok()?;
    // What u64 can't hold lies after 2554: after now in any case.
    Some(u64::try_from(t.as_nanosecond().max(0)).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_795_488_305_250_000_000;

    #[test]
    fn every_documented_form_means_its_moment() {
        let at = |name: &str| parse(name, NOW).map(canonical);
        let is = |name: &str, canonical: &str| assert_eq!(at(name).as_deref(), Some(canonical), "{name}");
        is("2026-11-23T02.45.05Z", "2026-11-23T02.45.05Z");
        is("2026-11-23T02:45:05", "2026-11-23T02.45.05Z");
        is("2026-11-23T02.45.05.120Z", "2026-11-23T02.45.05.12Z");
        is("2026-11-23T02.45.05.000000001Z", "2026-11-23T02.45.05.000000001Z");
        is("2026-11-23T02.45", "2026-11-23T02.45.00Z");
        is("2026-11-23T02Z", "2026-11-23T02.00.00Z");
        is("2026-11-23", "2026-11-23T00.00.00Z");
        is("2026-11", "2026-11-01T00.00.00Z");
        is("2026", "2026-01-01T00.00.00Z");
        is("@GMT-2026.11.23-02.45.05", "2026-11-23T02.45.05Z");
        is("1931-05-01", "1970-01-01T00.00.00Z");
        is("yesterday", &canonical(NOW - DAY));
        is("2h", &canonical(NOW - 7200 * SECOND));
        is("now", &canonical(NOW));
        assert_eq!(at("today").unwrap()[10..], *"T00.00.00Z");
    }

    #[test]
    fn what_is_no_moment_is_none() {
        for bad in [
            "",
            "Z",
            "T",
            "2026-13-01",
            "2026-02-30",
            "2026-11-23T25",
            "2026-11-23T02.45.61",
            "26-11-23",
            "2026-1-1",
            "2026-11T02",
            "2026-11-23T02.45.05.",
            "2026-11-23T02.45.05.1234567890",
            "2026-11-23T02.45.05.1.1",
            "h",
            "2y",
            "-2h",
            "+2h",
            "99999999999h",
            "@GMT-2026.11.23",
            "@GMT-2026.11-02.45.05",
            "2026-11-23 02.45",
            "２026-11-23",
            "2026-11-23T02.45.05ZZ",
            "2026-11-23T",
        ] {
            assert_eq!(parse(bad, NOW), None, "{bad:?}");
        }
        assert_eq!(parse("9999-01-01", NOW), Some(u64::MAX));
    }
}
