//! How retention, versions and lengths of time are said in words, and read from them.

use std::{fmt, str::FromStr};

use super::{Making, Policy, Thinning};

const SECOND: u64 = 1_000_000_000;
/// Units of time, the longest first. A year has 365 days.
const UNITS: [(&str, u64); 6] = [
    ("y", 365 * 24 * 3600 * SECOND),
    ("w", 7 * 24 * 3600 * SECOND),
    ("d", 24 * 3600 * SECOND),
    ("h", 3600 * SECOND),
    ("m", 60 * SECOND),
    ("s", SECOND),
];
/// How a length of time is written.
pub const DURATION: &str = "a number with s, m, h, d, w or y, such as \"30d\"";

/// A length of time, in nanoseconds: `30s`, `2h`, `30d`. Nothing, and what does not fit, is none.
#[must_use]
pub fn parse_duration(text: &str) -> Option<u64> {
    let (number, unit) = text.split_at(text.len().checked_sub(1).filter(|at| text.is_char_boundary(*at))?);
    let (_, ns) = UNITS.iter().find(|(name, _)| *name == unit)?;
    if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    number.parse::<u64>().ok()?.checked_mul(*ns).filter(|ns| *ns > 0)
}

/// The same in words, in the longest unit that divides it; years are shown as days.
#[must_use]
pub fn duration_words(ns: u64) -> String {
    let (unit, of) = UNITS[2..].iter().find(|(_, of)| ns.is_multiple_of(*of)).unwrap_or(&UNITS[5]);
    format!("{}{unit}", ns / of)
}

/// On one line: `all`, `never`, `last=5`, `age=30d`, `thin=30d:all,365d:1d,:30d`.
impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => write!(f, "all"),
            Self::Never => write!(f, "never"),
            Self::Last(n) => write!(f, "last={n}"),
            Self::Age(ns) => write!(f, "age={}", duration_words(*ns)),
            Self::Thin(stretches) => {
                for (n, s) in stretches.iter().enumerate() {
                    let within =
                        if s.within_ns == u64::MAX { String::new() } else { duration_words(s.within_ns) };
                    let every = if s.every_ns == 0 { "all".to_owned() } else { duration_words(s.every_ns) };
                    write!(f, "{}{within}:{every}", if n == 0 { "thin=" } else { "," })?;
                }
                Ok(())
            }
        }
    }
}

/// As it is shown. The error says what is wrong, and what is allowed.
impl FromStr for Policy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let duration = |t: &str| {
            parse_duration(t).ok_or_else(|| format!("\"{t}\" is no length of time; that is {DURATION}"))
        };
        match text.split_once('=') {
            None if text == "all" => Ok(Self::All),
            None if text == "never" => Ok(Self::Never),
            Some(("last", n)) => {
                let n = n.parse().ok().filter(|n| *n > 0);
                n.map(Self::Last)
                    .ok_or_else(|| "last= wants a number of versions, at least 1 (the present)".into())
            }
            Some(("age", t)) => duration(t).map(Self::Age),
            Some(("thin", list)) => {
                let mut stretches = Vec::new();
                for part in list.split(',') {
                    let (within, every) = part.split_once(':').ok_or_else(|| {
                        format!("\"{part}\" is no stretch; that is WITHIN:EVERY, such as 30d:all")
                    })?;
                    let within_ns = if within.is_empty() { u64::MAX } else { duration(within)? };
                    let every_ns = if every == "all" { 0 } else { duration(every)? };
                    stretches.push(Thinning { within_ns, every_ns });
                }
                check_thinning(&stretches)?;
                Ok(Self::Thin(stretches))
            }
            _ => Err(format!(
                "\"{text}\" says not what to keep; that is all, never, last=N, age=30d, or thin=30d:all,365d:1d,:30d"
            )),
        }
    }
}

/// Stretches follow each other, and only the last one may have no end.
///
/// # Errors
/// What is wrong.
pub fn check_thinning(stretches: &[Thinning]) -> Result<(), String> {
    if stretches.is_empty() {
        return Err("thin wants at least one stretch".into());
    }
    for pair in stretches.windows(2) {
        if pair[0].within_ns == u64::MAX {
            return Err("only the last stretch may have no end".into());
        }
        if pair[0].within_ns >= pair[1].within_ns {
            return Err("each stretch must reach farther back than the one before it".into());
        }
    }
    Ok(())
}

/// In a word: `close`, `fsync`, `every=30s`, `never`.
impl fmt::Display for Making {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Close => write!(f, "close"),
            Self::Fsync => write!(f, "fsync"),
            Self::Every(ns) => write!(f, "every={}", duration_words(*ns)),
            Self::Never => write!(f, "never"),
        }
    }
}

/// As it is shown. The error says what is wrong, and what is allowed.
impl FromStr for Making {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            None if text == "close" => Ok(Self::Close),
            None if text == "fsync" => Ok(Self::Fsync),
            None if text == "never" => Ok(Self::Never),
            Some(("every", t)) => parse_duration(t)
                .map(Self::Every)
                .ok_or_else(|| format!("\"{t}\" is no length of time; that is {DURATION}")),
            _ => Err(format!(
                "\"{text}\" says not when versions are made; that is close, fsync, every=30s, or never"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time() {
        for (text, seconds) in
            [("1s", 1), ("90m", 5400), ("2h", 7200), ("30d", 2_592_000), ("1y", 31_536_000)]
        {
            assert_eq!(parse_duration(text), Some(seconds * SECOND), "{text}");
            assert_eq!(parse_duration(&duration_words(seconds * SECOND)), Some(seconds * SECOND));
        }
        for bad in ["", "s", "0s", "30", "-1d", "+1d", "1.5h", "1 d", "30x", "99999999999y", "1ä", "1D"] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_said_in_words_is_read_from_them() {
        for text in
            ["all", "never", "last=1", "last=5", "age=30d", "thin=30d:all,365d:1d,:30d", "thin=2h:all"]
        {
            assert_eq!(text.parse::<Policy>().unwrap().to_string(), text);
        }
        assert_eq!("thin=30d:all,1y:1d,:30d".parse::<Policy>().unwrap(), Policy::default());
        for bad in [
            "",
            "none",
            "last",
            "last=0",
            "last=x",
            "age=0d",
            "age=30",
            "thin=",
            "thin=30d",
            "thin=:all,30d:1d",
            "thin=30d:all,30d:1d",
            "all=1",
            "thin=30d:0d",
        ] {
            assert!(bad.parse::<Policy>().is_err(), "{bad}");
        }
        for text in ["close", "fsync", "every=30s", "never"] {
            assert_eq!(text.parse::<Making>().unwrap().to_string(), text);
        }
        for bad in ["", "open", "every", "every=0s", "close=1"] {
            assert!(bad.parse::<Making>().is_err(), "{bad}");
        }
    }
}
