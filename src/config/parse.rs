//! From the file's text to settings.

use std::ops::Range;

use toml_edit::{Document, Item, Table, TableLike, Value};

use super::{Fault, Peering};
use crate::store::{
    Making, Policy, Scrubs, Settings, Thinning,
    words::{DURATION, check_thinning, parse_duration},
};

const KEEP: &str = "\"all\", \"never\", { last = 5 }, { age = \"30d\" } or { thin = [...] }";
const VERSIONS: &str = "\"close\", \"fsync\", \"never\" or { every = \"30s\" }";

/// The lowest rate at which everything is read, in bytes a second.
const SLOWEST: u64 = 64 << 10;

/// A fault at a byte of the text.
pub(super) fn at(text: &str, byte: usize, what: impl Into<String>) -> Fault {
    let before = text.get(..byte).unwrap_or(text);
    let line = before.bytes().filter(|b| *b == b'\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    Fault { line, column, what: what.into() }
}

/// What may stand in the file.
const KNOWN: &[&str] = &["path", "space", "scrub", "listen", "peer", "replicate"];

/// What the text says.
///
/// # Errors
/// The first thing in it that is not known or makes no sense.
pub(super) fn parse(text: &str) -> Result<Settings, Fault> {
    parse_all(text).map(|all| all.0)
}

/// As [`parse`], with what it says of peers.
pub(super) fn parse_all(text: &str) -> Result<(Settings, Peering), Fault> {
    let document = Document::parse(text).map_err(|e| {
        let why = e.message().trim().replace('\n', "; ");
        at(text, e.span().map_or(0, |s| s.start), format!("this is no TOML: {why}"))
    })?;
    let read = Reader { text };
    let mut settings = Settings::default();
    let mut peering = Peering::default();
    for (name, item) in document.iter() {
        match name {
            "listen" => peering.listen = Some(read.listen(item)?),
            "peer" => read.peers(item, &mut peering)?,
            // Below, once all peers are known.
            "replicate" => {}
            "path" => read.paths(item, &mut settings)?,
            "scrub" => settings.scrubs = read.scrubs(item)?,
            "space" => {
                let table = read.table(item, "[space]")?;
                for (name, item) in table.iter() {
                    match name {
                        "history_yields" => settings.history_yields = read.yes_or_no(item)?,
                        "for_peers" => settings.for_peers_bytes = read.bytes(item)?,
                        _ => {
                            return Err(read.unknown(
                                table,
                                name,
                                "[space]",
                                &["history_yields", "for_peers"],
                            ));
                        }
                    }
                }
            }
            _ => return Err(read.unknown(document.as_table(), name, "the file", KNOWN)),
        }
    }
    if let Some(item) = document.get("replicate") {
        read.replication(item, &mut peering)?;
    }
    Ok((settings, peering))
}

pub(super) struct Reader<'a> {
    text: &'a str,
}

impl Reader<'_> {
    pub(super) fn fault(&self, span: Option<Range<usize>>, what: impl Into<String>) -> Fault {
        at(self.text, span.map_or(0, |s| s.start), what)
    }

    pub(super) fn unknown(&self, table: &dyn TableLike, name: &str, of: &str, known: &[&str]) -> Fault {
        let what = format!("{of} has no setting \"{name}\"; known are: {}", known.join(", "));
        self.fault(table.key(name).and_then(toml_edit::Key::span), what)
    }

    pub(super) fn table<'i>(&self, item: &'i Item, what: &str) -> Result<&'i dyn TableLike, Fault> {
        item.as_table_like().ok_or_else(|| self.fault(item.span(), format!("{what} must be a table")))
    }

    pub(super) fn yes_or_no(&self, item: &Item) -> Result<bool, Fault> {
        item.as_bool().ok_or_else(|| self.fault(item.span(), "this must be true or false"))
    }

    /// A number of bytes.
    fn bytes(&self, item: &Item) -> Result<u64, Fault> {
        let parsed = item.as_str().and_then(|text| {
            let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
            let unit = match &text[digits.len()..] {
                "" => 1,
                "K" => 1 << 10,
                "M" => 1 << 20,
                "G" => 1 << 30,
                "T" => 1 << 40,
                _ => return None,
            };
            digits.parse::<u64>().ok()?.checked_mul(unit)
        });
        parsed.ok_or_else(|| {
            self.fault(item.span(), "this must be a number of bytes, such as \"500M\" or \"2G\"")
        })
    }

    fn scrubs(&self, item: &Item) -> Result<Scrubs, Fault> {
        let mut scrubs = Scrubs::default();
        let table = self.table(item, "[scrub]")?;
        for (name, item) in table.iter() {
            match name {
                "every" if item.as_str() == Some("never") => scrubs.every_ns = None,
                "every" => scrubs.every_ns = Some(self.duration(item.as_str(), item.span())?),
                "rate" => {
                    scrubs.rate_bytes = self.bytes(item)?;
                    if scrubs.rate_bytes < SLOWEST {
                        let what =
                            "this must be at least \"64K\"; to have nothing read, say every = \"never\"";
                        return Err(self.fault(item.span(), what));
                    }
                }
                _ => return Err(self.unknown(table, name, "[scrub]", &["every", "rate"])),
            }
        }
        Ok(scrubs)
    }

    fn paths(&self, item: &Item, settings: &mut Settings) -> Result<(), Fault> {
        let all = self.table(item, "path")?;
        let mut seen: Vec<Vec<u8>> = Vec::new();
        for (path, item) in all.iter() {
            let key = all.key(path).and_then(toml_edit::Key::span);
            let prefix = clean(path).map_err(|why| self.fault(key.clone(), why))?;
            if seen.contains(&prefix) {
                let what = format!("there is a rule for {} already", String::from_utf8_lossy(&prefix));
                return Err(self.fault(key, what));
            }
            seen.push(prefix.clone());
            let of = format!("[path.\"{path}\"]");
            let table = self.table(item, &of)?;
            for (name, item) in table.iter() {
                match name {
                    "keep" => _ = settings.retention.rules.insert(prefix.clone(), self.keep(item)?),
                    "versions" => _ = settings.making.rules.insert(prefix.clone(), self.versions(item)?),
                    _ => return Err(self.unknown(table, name, &of, &["keep", "versions"])),
                }
            }
        }
        Ok(())
    }

    /// The one entry of a table that stands for a choice.
    fn choice<'i>(&self, item: &'i Item, allowed: &str) -> Result<(&'i str, &'i Item), Fault> {
        let one = item.as_table_like().and_then(|table| {
            let mut entries = table.iter();
            entries.next().filter(|_| table.len() == 1)
        });
        one.ok_or_else(|| self.fault(item.span(), format!("this must be {allowed}")))
    }

    fn duration(&self, item: Option<&str>, span: Option<Range<usize>>) -> Result<u64, Fault> {
        item.and_then(parse_duration).ok_or_else(|| self.fault(span, format!("this must be {DURATION}")))
    }

    fn versions(&self, item: &Item) -> Result<Making, Fault> {
        match item.as_str() {
            Some("close") => return Ok(Making::Close),
            Some("fsync") => return Ok(Making::Fsync),
            Some("never") => return Ok(Making::Never),
            _ => {}
        }
        match self.choice(item, VERSIONS)? {
            ("every", item) => Ok(Making::Every(self.duration(item.as_str(), item.span())?)),
            _ => Err(self.fault(item.span(), format!("this must be {VERSIONS}"))),
        }
    }

    fn keep(&self, item: &Item) -> Result<Policy, Fault> {
        match item.as_str() {
            Some("all") => return Ok(Policy::All),
            Some("never") => return Ok(Policy::Never),
            _ => {}
        }
        match self.choice(item, KEEP)? {
            ("last", item) => {
                let n = item.as_integer().and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0);
                let what = "this must be a number of versions, at least 1 (the present)";
                n.map(Policy::Last).ok_or_else(|| self.fault(item.span(), what))
            }
            ("age", item) => Ok(Policy::Age(self.duration(item.as_str(), item.span())?)),
            ("thin", item) => self.thin(item),
            _ => Err(self.fault(item.span(), format!("this must be {KEEP}"))),
        }
    }

    fn thin(&self, item: &Item) -> Result<Policy, Fault> {
        const FORM: &str = "this must be a list such as [{ within = \"30d\" }, { every = \"1d\" }]";
        let wrong = |span| self.fault(span, FORM);
        let stretches: Vec<Thinning> = if let Some(array) = item.as_array() {
            let stretch = |value: &Value| match value.as_inline_table() {
                Some(table) => self.stretch(table),
                None => Err(wrong(value.span())),
            };
            array.iter().map(stretch).collect::<Result<_, _>>()?
        } else if let Some(tables) = item.as_array_of_tables() {
            tables.iter().map(|t: &Table| self.stretch(t)).collect::<Result<_, _>>()?
        } else {
            return Err(wrong(item.span()));
        };
        check_thinning(&stretches).map_err(|why| self.fault(item.span(), why))?;
        Ok(Policy::Thin(stretches))
    }

    fn stretch(&self, table: &dyn TableLike) -> Result<Thinning, Fault> {
        let mut stretch = Thinning { within_ns: u64::MAX, every_ns: 0 };
        for (name, item) in table.iter() {
            let ns = self.duration(item.as_str(), item.span());
            match name {
                "within" => stretch.within_ns = ns?,
                "every" => stretch.every_ns = ns?,
                _ => return Err(self.unknown(table, name, "a stretch", &["within", "every"])),
            }
        }
        Ok(stretch)
    }
}

/// A path as rules have it: from the root, without a slash at the end, each component a name.
pub(super) fn clean(path: &str) -> Result<Vec<u8>, String> {
    let Some(below) = path.strip_prefix('/') else {
        return Err(format!("the path \"{path}\" does not begin with /, the root of the store"));
    };
    let parts: Vec<&str> = below.split('/').filter(|part| !part.is_empty()).collect();
    if parts.iter().any(|part| matches!(*part, "." | "..") || part.contains('\0')) {
        return Err(format!("\"{path}\" is no path: . and .. stand for nothing here"));
    }
    Ok(format!("/{}", parts.join("/")).into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_says_what_is_kept() {
        let settings = parse(super::super::FIRST).unwrap();
        assert_eq!(settings.retention.policy(b"/x"), Policy::default());
        assert_eq!(settings.making_at(b"/x"), Making::Close);
        assert!(settings.history_yields);
        let settings = parse(
            "space.history_yields = false\n[path.\"/a//b/\"]\nkeep.last = 3\n[path.\"/build\"]\nversions = 'never'\n\
             [path.'/db']\nversions = { every = '30s' }\nkeep = { age = '2w' }\n[path.'/log']\nversions = 'fsync'\nkeep = 'never'\n\
             [path.'/t']\n[[path.'/t'.keep.thin]]\nwithin = '1d'\n[[path.'/t'.keep.thin]]\nevery = '1h'\n",
        )
        .unwrap();
        assert!(!settings.history_yields);
        assert_eq!(settings.retention.policy(b"/a/b/c"), Policy::Last(3));
        assert_eq!(settings.retention.policy(b"/a/c"), Policy::default());
        assert_eq!(settings.making_at(b"/build/x"), Making::Never);
        assert_eq!(settings.making_at(b"/db"), Making::Every(30_000_000_000));
        assert_eq!(settings.retention.policy(b"/db"), Policy::Age(14 * 24 * 3600 * 1_000_000_000));
        assert_eq!(
            (settings.making_at(b"/log"), settings.retention.policy(b"/log")),
            (Making::Fsync, Policy::Never)
        );
        let hour = 3600 * 1_000_000_000;
        let thin = vec![
            Thinning { within_ns: 24 * hour, every_ns: 0 },
            Thinning { within_ns: u64::MAX, every_ns: hour },
        ];
        assert_eq!(settings.retention.policy(b"/t/x"), Policy::Thin(thin));
        assert_eq!(parse("").unwrap(), Settings::default());
        let scrubs = |text: &str| parse(text).unwrap().scrubs;
        let slowly = Scrubs { every_ns: Some(7 * 24 * hour), rate_bytes: 500 << 10 };
        assert_eq!(scrubs("[scrub]\nevery = '1w'\nrate = '500K'"), slowly);
        assert_eq!(scrubs("scrub.every = 'never'"), Scrubs { every_ns: None, ..Scrubs::default() });
        assert_eq!(scrubs(super::super::FIRST), Scrubs::default());
    }

    #[track_caller]
    fn refuses(text: &str, line: usize, column: usize, says: &str) {
        let fault = parse(text).unwrap_err();
        assert!(fault.what.contains(says), "{fault}");
        assert_eq!((fault.line, fault.column), (line, column), "{fault}");
    }

    #[test]
    fn what_is_wrong_is_named_with_line_and_column() {
        refuses("x = 1", 1, 1, "no setting \"x\"; known are: path, space, scrub, listen, peer, replicate");
        refuses("# ä\n[path.'/']\nkep = 'all'", 3, 1, "no setting \"kep\"; known are: keep, versions");
        refuses("[path.'/']\nkeep = 'everything'", 2, 8, "\"all\", \"never\"");
        refuses("[path.'/']\nkeep = { last = 0 }", 2, 17, "at least 1");
        refuses("[path.'/']\nkeep = { last = 2, age = '1d' }", 2, 8, "this must be \"all\"");
        refuses("[path.'/']\nkeep = { age = 30 }", 2, 16, "such as \"30d\"");
        refuses("[path.'/']\nkeep = { thin = [] }", 2, 17, "at least one");
        refuses(
            "[path.'/']\nkeep = { thin = [{ within = '2d' }, { within = '1d' }] }",
            2,
            17,
            "farther back",
        );
        refuses("[path.'/']\nkeep = { thin = [{ evry = '2d' }] }", 2, 20, "within, every");
        refuses("[path.'/']\nversions = 'open'", 2, 12, "{ every = \"30s\" }");
        refuses("[path.'/']\nversions = { every = '0s' }", 2, 22, "such as");
        refuses("[path.tmp]\nversions = 'never'", 1, 7, "does not begin with /");
        refuses("[path.'/a/../b']\nversions = 'never'", 1, 7, "no path");
        refuses("[path.'/a']\n[path.'/a/']\n", 2, 7, "already");
        refuses("path = 3", 1, 8, "table");
        refuses("[path]\n'/a' = 3", 2, 8, "table");
        refuses("[space]\nhistory_yields = 'no'", 2, 18, "true or false");
        refuses("[space]\nyields = true", 2, 1, "history_yields");
        refuses("[space]\nfor_peers = 5", 2, 13, "such as");
        refuses("[space]\nfor_peers = '5 GB'", 2, 13, "such as");
        refuses("[scrub]\nevery = 'sometimes'", 2, 9, "such as");
        refuses("[scrub]\nrate = '0'", 2, 8, "at least \"64K\"");
        refuses("[scrub]\nspeed = '1M'", 2, 1, "known are: every, rate");
        refuses("[path.'/'\n", 1, 10, "no TOML");
        refuses("[path.'/']\nkeep = 'all'\nkeep = 'all'", 3, 1, "no TOML");
    }
}
