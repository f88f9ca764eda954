//! Progress, on whatever takes longer than half a second: a bar on a terminal, lines of JSON if that was asked for,
//! else nothing.

use std::{
    cell::RefCell,
    io::{self, IsTerminal as _},
};

use crate::base::{Clock, SystemClock};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

/// What is over sooner needs no progress; and how often a line is printed.
const PATIENCE_NS: u64 = 500_000_000;
const TEMPLATE: &str = "{msg} [{bar:30}] {pos}/{len} {per_sec}, {eta} left";

/// One task.
pub struct Progress {
    clock: Box<dyn Clock>,
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
        Self::by(Box::new(SystemClock), what, json)
    }

    fn by(clock: Box<dyn Clock>, what: &'static str, json: bool) -> Self {
        let now = clock.monotonic_ns();
        Self { clock, what, json, began_ns: now, told: RefCell::new(Told { at_ns: now, bar: None }) }
    }

    /// So much is done, of so much (0: unknown).
    pub fn tell(&self, done: u64, total: u64) {
        let Some(now) = self.due() else { return };
        if self.json {
            eprintln!("{}", self.value(now, done, total));
        } else if io::stderr().is_terminal() {
            let mut told = self.told.borrow_mut();
            let bar = told.bar.get_or_insert_with(|| {
                let bar = ProgressBar::new(total).with_message(self.what);
                bar.set_style(ProgressStyle::with_template(TEMPLATE).expect("the template is valid"));
                bar
            });
            bar.set_length(total.max(done));
            bar.set_position(done);
        }
    }

    /// The time, if something is to be shown now.
    fn due(&self) -> Option<u64> {
        let now = self.clock.monotonic_ns();
        let mut told = self.told.borrow_mut();
        let patience = if told.bar.is_some() { PATIENCE_NS / 5 } else { PATIENCE_NS };
        if now < told.at_ns + patience {
            return None;
        }
        told.at_ns = now;
        Some(now)
    }

    fn value(&self, now: u64, done: u64, total: u64) -> Value {
        let rate = done as f64 / ((now - self.began_ns) as f64 / 1e9);
        let left =
            (total > 0 && rate > 0.0).then(|| (total.saturating_sub(done) as f64 / rate).round() as u64);
        let (what, rate) = (self.what, rate.round() as u64);
        json!({"progress": {"what": what, "done": done, "total": total, "per_second": rate, "eta_seconds": left}})
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.told.borrow().bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    };

    use super::*;

    struct Hand(Arc<AtomicU64>);

    impl Clock for Hand {
        fn wall_ns(&self) -> u64 {
            0
        }

        fn monotonic_ns(&self) -> u64 {
            self.0.load(Relaxed)
        }
    }

    #[test]
    fn nothing_is_shown_before_half_a_second_and_then_twice_a_second() {
        let now = Arc::new(AtomicU64::new(7_000_000_000));
        let p = Progress::by(Box::new(Hand(Arc::clone(&now))), "working", true);
        let mut shown = Vec::new();
        for ms in (0..2000).step_by(100) {
            now.store((7000 + ms) * 1_000_000, Relaxed);
            shown.extend(p.due().map(|_| ms));
        }
        assert_eq!(shown, [500, 1000, 1500]);
        let line = p.value(9_000_000_000, 10, 40).to_string();
        let expected =
            r#"{"progress":{"what":"working","done":10,"total":40,"per_second":5,"eta_seconds":6}}"#;
        assert_eq!(line, expected);
        assert!(p.value(9_000_000_000, 10, 0)["progress"]["eta_seconds"].is_null());
    }
}
