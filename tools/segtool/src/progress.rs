//! Progress, on whatever takes longer than half a second: a bar on a terminal, lines of JSON if that was asked for,
//! else nothing.

use std::{
    cell::RefCell,
    io::{self, IsTerminal as _},
};

use indicatif::{ProgressBar, ProgressStyle};
use segfs::base::{Clock as _, SystemClock};
use serde_json::json;

/// What is over sooner needs no progress; and how often a line is printed.
const PATIENCE_NS: u64 = 500_000_000;
const TEMPLATE: &str = "{msg} [{bar:30}] {pos}/{len} {per_sec}, {eta} left";

/// One task.
pub struct Progress {
    what: &'static str,
    json: bool,
    began_ns: u64,
    told: RefCell<Told>,
}

struct Told {
    at_ns: u64,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Begins.
    pub fn new(what: &'static str, json: bool) -> Self {
        let now = SystemClock.monotonic_ns();
        Self { what, json, began_ns: now, told: RefCell::new(Told { at_ns: now, bar: None }) }
    }

    /// So much is done, of so much (0: unknown).
    pub fn tell(&self, done: u64, total: u64) {
        let now = SystemClock.monotonic_ns();
        let mut told = self.told.borrow_mut();
        let due = told.at_ns + if told.bar.is_some() { PATIENCE_NS / 5 } else { PATIENCE_NS };
        if now < due {
            return;
        }
        told.at_ns = now;
        if self.json {
            let seconds = (now - self.began_ns) as f64 / 1e9;
            let rate = done as f64 / seconds;
            let left = (total > 0 && rate > 0.0).then(|| total.saturating_sub(done) as f64 / rate);
            let (rate, left) = (rate.round() as u64, left.map(|s| s.round() as u64));
            eprintln!(
                "{}",
                json!({"progress": {"what": self.what, "done": done, "total": total, "per_second": rate, "eta_seconds": left}})
            );
        } else if io::stderr().is_terminal() {
            let bar = told.bar.get_or_insert_with(|| {
                let bar = ProgressBar::new(total).with_message(self.what);
                bar.set_style(ProgressStyle::with_template(TEMPLATE).expect("the template is valid"));
                bar
            });
            bar.set_length(total.max(done));
            bar.set_position(done);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.told.borrow().bar {
            bar.finish_and_clear();
        }
    }
}
