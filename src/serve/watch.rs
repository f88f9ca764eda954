//! What of a store's state is an event: looked at about once a second, so that the store itself need not know of events.

use serde_json::json;

use super::events::Events;
use crate::{
    config,
    store::{Settings, Store},
};

/// History that yields is told of at most so often, in nanoseconds.
const YIELD_PACE_NS: u64 = 60 * 1_000_000_000;

/// What was told already.
#[derive(Default)]
pub(super) struct Watch {
    stopped: bool,
    suspended: bool,
    yielded: u64,
    yielded_at_ns: Option<u64>,
}

impl Watch {
    /// Tells what has come to be since the last look.
    pub(super) fn look(&mut self, store: &Store, events: &Events, uptime_ns: u64, last: bool) {
        if let Some(why) = store.stopped().filter(|_| !self.stopped) {
            self.stopped = true;
            events.add("writes_stopped", &format!("nothing is written any more: {why}"), json!({"why": why}));
        }
        let expiry = store.expiry();
        if self.suspended != expiry.ahead_ns.is_some() {
            self.suspended = !self.suspended;
            let ahead_seconds = expiry.ahead_ns.map(|ns| ns / 1_000_000_000);
            if let Some(ahead) = ahead_seconds {
                let text = format!(
                    "no version expires, since the clock is {} days ahead of the store's own; if it is right: segfs retain confirm",
                    ahead / (24 * 3600)
                );
                events.add("expiry_suspended", &text, json!({"ahead_seconds": ahead}));
            } else {
                events.add("expiry_resumed", "versions expire again", json!({}));
            }
        }
        let yielded = store.versions_yielded();
        let paced = self.yielded_at_ns.is_none_or(|at| uptime_ns.saturating_sub(at) >= YIELD_PACE_NS);
        if yielded > self.yielded && (paced || last) {
            let versions = yielded - self.yielded;
            let text = format!("the disk was short of space: {versions} old versions made room");
            events.add("history_yielded", &text, json!({"versions": versions}));
            (self.yielded, self.yielded_at_ns) = (yielded, Some(uptime_ns));
        }
    }
}

/// Settings were taken in: told if they are not those that were told last.
pub(super) fn settings(events: &Events, settings: &Settings) {
    let mut text = String::from("what is kept:");
    for rule in config::rules(settings) {
        text.push_str(&format!(" {}", rule.path));
        if let Some(keep) = rule.keep {
            text.push_str(&format!(" keep {keep}"));
        }
        if let Some(versions) = rule.versions {
            text.push_str(&format!(" versions {versions}"));
        }
        text.push(';');
    }
    text.push_str(if settings.history_yields { " history yields" } else { " history does not yield" });
    let text: String = text.chars().take(3000).collect();
    if events.newest_of("settings_loaded").is_none_or(|last| last["text"] != text) {
        events.add("settings_loaded", &text, json!({}));
    }
}
