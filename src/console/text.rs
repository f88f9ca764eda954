//! Times, sizes and damage as people and programs read them.

use serde_json::{Value, json};

use crate::base::Damage;

/// A time (ns since 1970) as RFC 3339 in UTC with 9 digits.
#[must_use]
pub fn time(ns: u64) -> String {
    time_ns(i128::from(ns))
}

/// As [`time`], also before 1970.
#[must_use]
pub fn time_ns(ns: i128) -> String {
    match jiff::Timestamp::from_nanosecond(ns) {
        Ok(t) => t.strftime("%Y-%m-%dT%H:%M:%S.%9fZ").to_string(),
        Err(_) => format!("{ns} ns"),
    }
}

/// How long ago, in the largest unit that fits.
#[must_use]
pub fn age(now_ns: u64, then_ns: u64) -> String {
    let seconds = now_ns.saturating_sub(then_ns) / 1_000_000_000;
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// A size in the largest unit that leaves a whole part.
#[must_use]
pub fn size(bytes: u64) -> String {
    let mut n = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB", "TiB"] {
        if n < 1024.0 || unit == "TiB" {
            return if unit == "B" { format!("{bytes} B") } else { format!("{n:.1} {unit}") };
        }
        n /= 1024.0;
    }
    unreachable!("the last unit takes everything")
}

/// Bytes in hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(bytes.len() * 2);
    for b in bytes {
        let _ = write!(out, "{b:02x}"); // into memory: never fails
    }
    out
}

/// Damage, and where.
#[must_use]
pub fn damage(d: &Damage) -> Value {
    json!({
        "segment": d.place.segment.map(|s| s.get()),
        "file": d.place.file.as_ref().map(|f| f.display().to_string()),
        "offset": d.place.offset,
        "lsn": d.place.lsn.map(|l| l.get()),
        "why": d.why,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_nine_digits_also_before_1970() {
        assert_eq!(time(1), "1970-01-01T00:00:00.000000001Z");
        assert_eq!(time_ns(-1), "1969-12-31T23:59:59.999999999Z");
        assert_eq!(time(1_800_000_000_123_456_789), "2027-01-15T08:00:00.123456789Z");
    }

    #[test]
    fn sizes_keep_a_whole_part() {
        assert_eq!(
            (size(1023), size(1024), size(3 << 29)),
            ("1023 B".into(), "1.0 KiB".into(), "1.5 GiB".into())
        );
        assert_eq!((age(5_000_000_000, 0), age(0, 9)), ("5 s".into(), "0 s".into()));
    }
}
