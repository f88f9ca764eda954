//! How a version is named: what stands behind the `@` of `FILE@V`, or after `--version`.

use jiff::{civil::DateTime, tz::TimeZone};
use segfs::vfs::{ago, parse_moment};
use serde_json::{Value, json};

/// Hex digits that an id must at least be cut down to.
const PREFIX: usize = 8;

/// A version, as somebody names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Name {
    /// `3`: its number in the history of the name.
    Number(u64),
    /// `-1`: so many before the present.
    Back(u64),
    /// A moment, ns since 1970: `2h`, `yesterday`, `2026-11-23T02:45` (in the local zone, or UTC with a Z).
    Moment(u64),
    /// `tag:NAME`: a moment by its tag.
    Tag(String),
    /// `LSN:n`: what the store showed right after this record.
    Record(u64),
    /// `01a20fff` or longer: the beginning of an id. Hyphens may be left out.
    Begins(String),
    /// `id:01a20fff-...`: the whole id.
    Id(String),
}

impl Name {
    /// Understands a name, where `now_ns` is the present; none if it is none.
    pub fn parse(text: &str, now_ns: u64, zone: &TimeZone) -> Option<Self> {
        let digits = |s: &str| !s.is_empty() && s.len() <= 19 && s.bytes().all(|b| b.is_ascii_digit());
        if digits(text) {
            return text.parse().ok().map(Self::Number);
        }
        if let Some(back) = text.strip_prefix('-') {
            return digits(back).then(|| back.parse().ok().map(Self::Back)).flatten();
        }
        if let Some(tag) = text.strip_prefix("tag:") {
            return (!tag.is_empty()).then(|| Self::Tag(tag.to_owned()));
        }
        if let Some(lsn) = text.strip_prefix("LSN:") {
            return digits(lsn).then(|| lsn.parse().ok().map(Self::Record)).flatten();
        }
        let hex = |s: &str| {
            // Hyphens only where an id has them.
            let fits = (PREFIX..=36).contains(&s.len())
                && s.bytes().enumerate().all(|(at, b)| match at {
                    8 | 13 | 18 | 23 if b == b'-' => true,
                    _ => b.is_ascii_hexdigit(),
                });
            let hex = s.replace('-', "").to_ascii_lowercase();
            (fits && hex.len() <= 32).then_some(hex)
        };
        if let Some(id) = text.strip_prefix("id:") {
            return hex(id).filter(|h| h.len() == 32).map(Self::Id);
        }
        // A short number with a unit is a time; a long one that is hex as well is an id.
        if text.len() < PREFIX
            && let Some(ago) = ago(text)
        {
            return Some(Self::Moment(now_ns.saturating_sub(ago)));
        }
        if let Some(ns) = moment(text, now_ns, zone) {
            return Some(Self::Moment(ns));
        }
        hex(text).map(Self::Begins)
    }
}

impl Name {
    /// As a mount is asked for it.
    pub fn value(&self) -> Value {
        match self {
            Self::Number(n) => json!({"number": n}),
            Self::Back(n) => json!({"back": n}),
            Self::Moment(ns) => json!({"moment_ns": ns}),
            Self::Tag(tag) => json!({"tag": tag}),
            Self::Record(lsn) => json!({"lsn": lsn}),
            Self::Begins(hex) | Self::Id(hex) => json!({"begins": hex}),
        }
    }
}

/// A moment in the forms of paths, but in the local zone unless it says Z.
fn moment(text: &str, now_ns: u64, zone: &TimeZone) -> Option<u64> {
    let ns = parse_moment(text, now_ns)?;
    let is_date = text.as_bytes().get(..4).is_some_and(|y| y.iter().all(u8::is_ascii_digit));
    if !is_date || text.ends_with('Z') || ago(text).is_some() {
        return Some(ns);
    }
    let t = jiff::Timestamp::from_nanosecond(i128::from(ns)).ok()?;
    let civil: DateTime = TimeZone::UTC.to_datetime(t);
    let local = zone.to_ambiguous_timestamp(civil).compatible().ok()?;
    u64::try_from(local.as_nanosecond()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_795_488_305_000_000_000;

    fn parse(text: &str) -> Option<Name> {
        let zone = TimeZone::fixed(jiff::tz::offset(2));
        Name::parse(text, NOW, &zone)
    }

    #[test]
    fn every_documented_form_is_understood() {
        assert_eq!(parse("3"), Some(Name::Number(3)));
        assert_eq!(parse("12345678"), Some(Name::Number(12_345_678)), "a plain decimal is always a number");
        assert_eq!(parse("-1"), Some(Name::Back(1)));
        assert_eq!(parse("2h"), Some(Name::Moment(NOW - 7_200_000_000_000)));
        assert_eq!(parse("tag:a@b"), Some(Name::Tag("a@b".into())));
        assert_eq!(parse("LSN:7"), Some(Name::Record(7)));
        assert_eq!(parse("01a20fff"), Some(Name::Begins("01a20fff".into())));
        assert_eq!(parse("01A20FFF-9d17"), Some(Name::Begins("01a20fff9d17".into())));
        assert_eq!(parse("12345678d"), Some(Name::Begins("12345678d".into())));
        let id = "01a20fff-9d17-7bcf-98ef-15d113b48b5d";
        assert_eq!(parse(&format!("id:{id}")), Some(Name::Id(id.replace('-', ""))));
    }

    #[test]
    fn times_are_local_unless_they_say_otherwise() {
        let utc = parse("2026-11-23T02:45Z");
        assert_eq!(parse("2026-11-23T04:45"), utc);
        assert_eq!(parse("2026-11-23T04.45.00"), utc);
        assert_eq!(parse("2026-11-23"), parse("2026-11-22T22:00:00Z"));
        assert!(matches!(utc, Some(Name::Moment(_))));
    }

    #[test]
    fn what_names_no_version_is_none() {
        for bad in [
            "",
            "-",
            "-x",
            "x",
            "tag:",
            "LSN:",
            "LSN:x",
            "id:01a20fff",
            "1a2b3c4",
            "0x123456789",
            "2026-13-01",
            "example.com",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
