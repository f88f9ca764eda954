//! Progress on a terminal: a pseudo-terminal, made by script(1), in which a test of this file works for a while.

use std::{
    env,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use segfs::console::Progress;

/// How long the work takes, in milliseconds.
const TAKES: &str = "SEGFS_TEST_WORK_MS";

#[test]
#[ignore = "started by the tests beside it"]
#[allow(clippy::disallowed_methods)] // real time, as a person sees it
fn work() {
    let took = Duration::from_millis(env::var(TAKES).unwrap().parse().unwrap());
    let progress = Progress::new("counting sheep", false);
    let began = Instant::now();
    while began.elapsed() < took {
        progress.tell(began.elapsed().as_millis() as u64, took.as_millis() as u64);
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What the work writes to its terminal, or, without one, to its standard error.
#[allow(clippy::disallowed_methods)] // a real process
fn written(ms: u64, terminal: bool) -> String {
    let own = env::current_exe().unwrap();
    let words = ["--ignored", "--exact", "--nocapture", "terminal::work"];
    let mut command = if terminal {
        let mut script = Command::new("script");
        script.args(["-qec", &format!("'{}' {} > /dev/null", own.display(), words.join(" ")), "/dev/null"]);
        script
    } else {
        let mut plain = Command::new(own);
        plain.args(words);
        plain
    };
    command.env(TAKES, ms.to_string()).env("TERM", "xterm").env("COLUMNS", "120").stdin(Stdio::null());
    let done = command.output().unwrap();
    assert!(done.status.success(), "{done:?}");
    String::from_utf8(if terminal { done.stdout } else { done.stderr }).unwrap()
}

#[test]
fn a_bar_with_rate_and_time_left_is_drawn_and_taken_away() {
    let said = written(1500, true);
    assert!(said.contains("counting sheep ["), "{said:?}");
    let last = said.rfind("counting sheep").unwrap();
    let (bar, after) = said[last..].split_once(" left").unwrap_or_else(|| panic!("{said:?}"));
    assert!(bar.contains("/1500 ") && bar.contains("/s,") && bar.contains('s'), "{bar:?}");
    let drawn = said.matches("counting sheep").count();
    assert!((2..=30).contains(&drawn), "drawn {drawn} times");
    // The line is cleared, and nothing is coloured.
    assert!(after.contains("\x1b[2K"), "{after:?}");
    assert!(!said.contains("\x1b[3"), "{said:?}");
}

#[test]
fn what_is_over_soon_and_what_is_no_terminal_shows_nothing() {
    assert_eq!(written(300, true), "");
    assert!(!written(1200, false).contains("sheep"));
}
