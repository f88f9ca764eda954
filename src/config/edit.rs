//! Changes of the file that leave everything else in it as it was: comments, order, and how things are written.

use toml_edit::{Array, DocumentMut, InlineTable, Item, Table, Value, value};

use super::{ConfigError, parse::clean};
use crate::store::{Making, Policy, words::duration_words};

/// What says which changes there are.
const HELP: &str = "segfs retain set --help";

/// What a store without a file is held to, as a file that a change begins with.
pub(super) const WITHOUT_FILE: &str = "[path.\"/\"]\nkeep = \"all\"\n";

/// A change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// The rule for a path. What is `None` stays as it is.
    Path {
        /// From the root of the store.
        path: String,
        /// What is kept there.
        keep: Option<Policy>,
        /// When versions are made there.
        versions: Option<Making>,
    },
    /// There is no rule for this path any more.
    Clear(String),
}

/// The text with a change made in it.
pub(super) fn apply(text: &str, edit: &Edit) -> Result<String, ConfigError> {
    let mut document: DocumentMut =
        text.parse().map_err(|e: toml_edit::TomlError| ConfigError::Refused(e.message().to_owned(), HELP))?;
    match edit {
        Edit::Path { path, keep, versions } => {
            let path = path_of(path)?;
            let rule = rule(&mut document, &path)?;
            if let Some(versions) = versions {
                put(rule, "versions", making(*versions));
            }
            if let Some(keep) = keep {
                put(rule, "keep", policy(keep));
            }
        }
        Edit::Clear(path) => {
            let path = path_of(path)?;
            let missing =
                || ConfigError::Missing(format!("there is no rule for {path}"), "segfs retain show");
            let all = document.get_mut("path").and_then(Item::as_table_like_mut).ok_or_else(missing)?;
            let name = written(all.iter().map(|(name, _)| name), &path).ok_or_else(missing)?;
            all.remove(&name);
        }
    }
    Ok(document.to_string())
}

fn path_of(path: &str) -> Result<String, ConfigError> {
    let clean = clean(path).map_err(|why| ConfigError::Refused(why, HELP))?;
    Ok(String::from_utf8_lossy(&clean).into_owned())
}

/// How the file writes a path.
fn written<'a>(mut names: impl Iterator<Item = &'a str>, path: &str) -> Option<String> {
    names.find(|name| clean(name).is_ok_and(|clean| clean == path.as_bytes())).map(str::to_owned)
}

/// The table of a path, which is made if there is none.
fn rule<'a>(
    document: &'a mut DocumentMut,
    path: &str,
) -> Result<&'a mut dyn toml_edit::TableLike, ConfigError> {
    let table = || ConfigError::Refused("what the file says of \"path\" is no table".into(), HELP);
    let all = document.entry("path").or_insert_with(|| {
        let mut table = Table::new();
        // Without a line of its own.
        table.set_implicit(true);
        Item::Table(table)
    });
    let inline = all.is_inline_table();
    let all = all.as_table_like_mut().ok_or_else(table)?;
    let name = written(all.iter().map(|(name, _)| name), path).unwrap_or_else(|| path.to_owned());
    let new = if inline { value(InlineTable::new()) } else { Item::Table(Table::new()) };
    all.entry(&name).or_insert(new).as_table_like_mut().ok_or_else(table)
}

/// Sets a value; what stands around it, such as a comment behind it, stays.
fn put(table: &mut dyn toml_edit::TableLike, name: &str, mut new: Value) {
    match table.get_mut(name) {
        Some(Item::Value(old)) => {
            *new.decor_mut() = old.decor().clone();
            *old = new;
        }
        _ => {
            table.insert(name, Item::Value(new));
        }
    }
}

fn making(making: Making) -> Value {
    match making {
        Making::Close => "close".into(),
        Making::Fsync => "fsync".into(),
        Making::Never => "never".into(),
        Making::Every(ns) => one("every", duration_words(ns).into()),
    }
}

fn policy(policy: &Policy) -> Value {
    match policy {
        Policy::All => "all".into(),
        Policy::Never => "never".into(),
        Policy::Last(n) => one("last", i64::from(*n).into()),
        Policy::Age(ns) => one("age", duration_words(*ns).into()),
        Policy::Thin(stretches) => {
            let mut list = Array::new();
            for s in stretches {
                let mut table = InlineTable::new();
                if s.within_ns != u64::MAX {
                    table.insert("within", duration_words(s.within_ns).into());
                }
                if s.every_ns != 0 {
                    table.insert("every", duration_words(s.every_ns).into());
                }
                list.push(table);
            }
            one("thin", list.into())
        }
    }
}

fn one(name: &str, value: Value) -> Value {
    let mut table = InlineTable::new();
    table.insert(name, value);
    table.into()
}

#[cfg(test)]
mod tests {
    use super::{super::parse::parse, *};

    fn set(path: &str, keep: Option<Policy>, versions: Option<Making>) -> Edit {
        Edit::Path { path: path.into(), keep, versions }
    }

    #[test]
    fn a_change_leaves_everything_else_as_it_was() {
        let old = "# mine\n\n[path.\"/tmp/\"] # scratch\nkeep   =   'all'   # for now\n\n# the end\n[space]\nhistory_yields = false\n";
        let new = apply(old, &set("/tmp", Some(Policy::Never), None)).unwrap();
        assert_eq!(new, old.replace("'all'", "\"never\""));
        let more = apply(&new, &set("/tmp", None, Some(Making::Every(30_000_000_000)))).unwrap();
        assert!(more.contains("# for now\nversions = { every = \"30s\" }\n\n# the end"), "{more}");
        let more = apply(&more, &set("/a b\"c", Some(Policy::default()), None)).unwrap();
        let settings = parse(&more).unwrap();
        assert_eq!(settings.retention.policy(b"/a b\"c/d"), Policy::default());
        assert_eq!(settings.retention.policy(b"/tmp/x"), Policy::Never);
        assert!(!settings.history_yields && more.starts_with(&new[..30]), "{more}");
        let less = apply(&more, &Edit::Clear("/tmp".into())).unwrap();
        assert_eq!(parse(&less).unwrap().retention.policy(b"/tmp/x"), Policy::default());
        assert!(less.contains("history_yields = false"), "{less}");
    }

    #[test]
    fn whatever_can_be_set_can_be_read() {
        let thin = Policy::Thin(vec![crate::store::Thinning { within_ns: u64::MAX, every_ns: 0 }]);
        for keep in [
            Policy::All,
            Policy::Never,
            Policy::Last(7),
            Policy::Age(3_600_000_000_000),
            Policy::default(),
            thin,
        ] {
            for versions in [Making::Close, Making::Fsync, Making::Never, Making::Every(1_000_000_000)] {
                for old in [
                    "",
                    super::super::FIRST,
                    "path = { '/x' = { keep = 'all' } }",
                    "[path]\n'/x'.keep = 'all'",
                ] {
                    for path in ["/", "/x", "/x/y"] {
                        let new = apply(old, &set(path, Some(keep.clone()), Some(versions))).unwrap();
                        let settings = parse(&new).unwrap_or_else(|e| panic!("{e}\n{new}"));
                        assert_eq!(settings.retention.rules[path.as_bytes()], keep, "{new}");
                        assert_eq!(settings.making.rules[path.as_bytes()], versions, "{new}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_change_that_makes_no_sense_is_refused() {
        for edit in [set("tmp", Some(Policy::All), None), set("/a/..", None, None)] {
            assert!(matches!(apply("", &edit), Err(ConfigError::Refused(..))), "{edit:?}");
        }
        assert!(matches!(apply("", &Edit::Clear("/tmp".into())), Err(ConfigError::Missing(..))));
    }
}
