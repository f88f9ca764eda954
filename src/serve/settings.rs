//! What a person sets, told and changed while a store is mounted.

use std::path::PathBuf;

use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::{
    config::{self, ConfigError, Edit},
    console::{Failure, Outcome, time},
    disk::{Disk, Engine, RealDisk},
    store::{Expiry, Settings, Store},
};

/// `config.toml` of the store that is mounted.
pub(super) struct Config {
    store: PathBuf,
    /// Is there a file, as far as was seen last? Held while it is read or changed.
    found: Mutex<Option<bool>>,
}

/// Settings as they are told.
#[must_use]
pub fn settings_value(settings: &Settings, has_file: bool) -> Value {
    let rule = |r: config::Rule| {
        json!({
            "path": r.path,
            "keep": r.keep.map(|k| k.to_string()),
            "versions": r.versions.map(|v| v.to_string()),
        })
    };
    json!({
        "file": has_file,
        "rules": config::rules(settings).into_iter().map(rule).collect::<Vec<_>>(),
        "history_yields": settings.history_yields,
    })
}

/// The clock by which things expire, as it is told.
#[must_use]
pub fn expiry_value(expiry: Expiry) -> Value {
    json!({
        "time": time(expiry.time_ns),
        "time_ns": expiry.time_ns,
        "suspended": expiry.ahead_ns.is_some(),
        "ahead_seconds": expiry.ahead_ns.map(|ns| ns / 1_000_000_000),
    })
}

/// A change as it is asked for.
#[must_use]
pub fn edit_value(edit: &Edit) -> Value {
    match edit {
        Edit::Path { path, keep, versions } => json!({
            "path": path,
            "keep": keep.as_ref().map(ToString::to_string),
            "versions": versions.map(|v| v.to_string()),
        }),
        Edit::Clear(path) => json!({"path": path, "clear": true}),
    }
}

fn edit_of(value: &Value) -> Result<Edit, String> {
    let path = value["path"].as_str().ok_or("it names no path")?.to_owned();
    if value["clear"] == true {
        return Ok(Edit::Clear(path));
    }
    let keep = value["keep"].as_str().map(str::parse).transpose()?;
    let versions = value["versions"].as_str().map(str::parse).transpose()?;
    Ok(Edit::Path { path, keep, versions })
}

impl Config {
    pub(super) fn of(store: PathBuf) -> Self {
        Self { store, found: Mutex::default() }
    }

    /// Answers a request: `reload` takes the file in again, `change` changes it and takes that in; then all is told.
    pub(super) fn answer(&self, store: &Store, asked: &Value) -> Outcome<Value> {
        let mut found = self.found.lock();
        let failed = |what: &'static str| move |e: ConfigError| e.failure(what, &self.store);
        let disk = || {
            RealDisk::open(&self.store, Engine::Plain)
                .map_err(|e| Failure::system("the settings can't be read", &e))
        };
        if !asked["change"].is_null() {
            let edit = edit_of(&asked["change"]).map_err(|why| {
                Failure::usage("the settings can't be changed", why, "segfs retain set --help")
            })?;
            let _one = super::CHANGING.lock();
            let changed = config::change(&disk()?, &edit).map_err(failed("the settings can't be changed"))?;
            store.set_settings(changed);
            *found = Some(true);
        } else if asked["reload"] == true || found.is_none() {
            let read = config::read(&disk()? as &dyn Disk).map_err(failed("the settings stay as they were"));
            if asked["reload"] == true {
                let read = read?;
                *found = Some(read.is_some());
                store.set_settings(read.unwrap_or_else(Settings::keep_all));
            } else {
                // What holds was taken in at mounting; whether there was a file shows in it.
                *found = Some(!matches!(read, Ok(None)));
            }
        }
        Ok(settings_value(&store.settings(), *found != Some(false)))
    }
}
