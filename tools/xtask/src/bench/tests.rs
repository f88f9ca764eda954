//! The parsing, the figures and the tables of the benchmark.
#![allow(clippy::disallowed_methods)] // a file of its own in the directory for temporary files

use std::{fs, path::Path};

use super::{
    machine::{self, HaltPoll},
    options::Bench,
    report::{Conditions, Results, figure, median},
    rows::{self, ROWS, Unit},
};

fn parsed(words: &str) -> Result<Option<Bench>, String> {
    Bench::parse(&words.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
}

#[test]
fn the_command_line_is_understood() {
    assert_eq!(parsed(""), Ok(Some(Bench::default())));
    assert_eq!(parsed("--quick --help"), Ok(None));
    let all = "--quick --haltpoll --rounds 5 --only write,read-cold --peers gocryptfs -o writeback";
    let bench = parsed(&format!("{all} --markdown --dir /x")).unwrap().unwrap();
    assert_eq!(bench.rounds(), 5);
    assert_eq!(bench.dir.as_deref(), Some(Path::new("/x")));
    assert_eq!(bench.command(), format!("cargo xtask bench {all}"));
    assert!(bench.wants("write") && bench.wants("write-text") && !bench.wants("read-warm"));
    let none = parsed("--peers none").unwrap().unwrap();
    assert_eq!(none.peers, Some(Vec::new()));
    assert_eq!(none.command(), "cargo xtask bench --peers none");
    assert_eq!(none.rounds(), 3);
    assert!(ROWS.iter().all(|row| none.wants(row.name)));
}

#[test]
fn what_makes_no_sense_is_refused() {
    for words in
        ["--fast", "--rounds", "--rounds 0", "--rounds x", "--only nothing", "--json --markdown", "-o"]
    {
        assert!(parsed(words).is_err(), "{words}");
    }
}

#[test]
fn rows_have_names_of_their_own_and_each_group_has_some() {
    let mut names: Vec<_> = ROWS.iter().map(|row| row.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), ROWS.len());
    assert!(rows::Group::ALL.iter().all(|group| rows::of(*group).count() > 0));
    assert_eq!(rows::list().lines().count(), ROWS.len());
}

#[test]
fn medians_and_ratios() {
    assert_eq!(median(&[]), None);
    assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
    assert_eq!(median(&[4.0, 1.0]), Some(2.5));
    assert_eq!(Unit::Rate.ratio(300.0, 600.0), 0.5);
    assert_eq!(Unit::Seconds.ratio(3.0, 6.0), 2.0, "half the time is twice as good");
    let shown: Vec<_> = [0.01234, 1.237, 99.96, 999.6, 12_345.0, 1_234_567.8].map(figure).into();
    assert_eq!(shown, ["0.012", "1.24", "100.0", "1,000", "12,345", "1,234,568"]);
}

fn some_results() -> Results {
    let mut results = Results::new(vec!["ext4".into(), "segfs".into(), "fuse2fs".into()]);
    for (subject, values) in [[1000.0, 1100.0, 900.0], [500.0, 480.0, 620.0]].iter().enumerate() {
        for value in values {
            results.add(rows::number("write"), subject, *value, 0.25 * subject as f64);
        }
    }
    for (subject, seconds) in [2.0, 1.0, 8.0].into_iter().enumerate() {
        results.add(rows::number("untar"), subject, seconds, 0.5);
    }
    results.memory(1, 70);
    results.memory(1, 60);
    results
}

fn some_conditions() -> Conditions {
    let command = "cargo xtask bench".into();
    let (kernel, halt_poll_ns) = ("6.1".into(), Some("0".into()));
    Conditions { command, processors: 2, kernel, halt_poll_ns, rounds: 3, file_bytes: 1 << 29, files: 10_000 }
}

#[test]
fn the_table_shows_medians_ratios_and_costs() {
    let text = some_results().markdown(&some_conditions());
    let wanted = "\
`cargo xtask bench`: medians of 3 rounds, 2 processors, Linux 6.1, halt polling 0 ns; large files of 512 MiB, \
10000 small files. In brackets: ratio to ext4, above 1 is better.

| workload | unit | ext4 | segfs | fuse2fs | aim | daemon CPU s |
|---|---|---|---|---|---|---|
| sequential write, incompressible, fsync at the end | MiB/s | 1,000 | 500 (0.50) | - | 0.65 | 0.25 |
| untar a source tree, sync at the end | s | 2.00 | 1.00 (2.00) | 8.00 (0.25) | 2 | 0.50 |

| cost of the daemon | CPU s for a GiB written | CPU s for 10,000 files made | peak memory MiB |
|---|---|---|---|
| segfs | 0.50 | - | 70 |
| fuse2fs | - | - | 0 |
";
    assert_eq!(text, wanted);
    let plain = some_results().text(&some_conditions());
    let widths: Vec<_> = plain.lines().take(3).map(|line| line.chars().count()).collect();
    assert!(widths.windows(2).all(|w| w[0] == w[1]), "{plain}");
}

#[test]
fn json_has_every_figure() {
    let json = some_results().json(&some_conditions());
    assert_eq!(json["rows"][0]["row"], "write");
    assert_eq!(json["rows"][0]["subjects"]["segfs"]["values"].as_array().unwrap().len(), 3);
    assert_eq!(json["rows"][0]["subjects"]["segfs"]["ratio"], 0.5);
    assert!(json["rows"][0]["subjects"]["fuse2fs"]["median"].is_null());
    assert_eq!(json["rows"][1]["subjects"]["segfs"]["ratio"], 2.0);
    assert_eq!(json["peak_mib"]["segfs"], 70);
}

#[test]
fn a_failure_is_not_forgotten() {
    let mut results = some_results();
    assert!(results.failures().is_ok());
    results.failed(2, rows::Group::Tree, "it broke");
    let crate::Failure(why) = results.failures().unwrap_err();
    assert!(why.contains("tree on fuse2fs: it broke"), "{why}");
    assert_eq!(results.json(&some_conditions())["failed"][0]["why"], "it broke");
}

#[test]
fn halt_polling_is_put_back() {
    let file = std::env::temp_dir().join(format!("segfs-haltpoll.{}", std::process::id()));
    fs::write(&file, "0\n").unwrap();
    let read = || fs::read_to_string(&file).unwrap();
    let left_alone = HaltPoll::at(&file, false).unwrap();
    assert_eq!(left_alone.now(), Some("0"));
    drop(left_alone);
    assert_eq!(read(), "0\n");
    let set = HaltPoll::at(&file, true).unwrap();
    assert_eq!((set.now(), read().as_str()), (Some("200000"), "200000"));
    // Also when the run panics.
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _set = set;
        panic!("on purpose");
    }));
    assert!(panicked.is_err());
    assert_eq!(read(), "0");
    fs::remove_file(&file).unwrap();
    assert!(HaltPoll::at(&file, true).is_err(), "nothing there to set");
    assert!(HaltPoll::at(&file, false).is_ok());
}

#[test]
fn what_the_kernel_says_is_read() {
    assert_eq!(machine::ticks("7 (a) b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14"), 23);
    assert_eq!(machine::ticks(""), 0);
    assert_eq!(machine::high_water_kib("Name:\tx\nVmHWM:\t  2048 kB\nVmRSS:\t1 kB\n"), 2048);
    let table = "1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 0:5 / /mnt rw shared:1 - xfs /dev/b rw\n";
    assert_eq!(machine::filesystem_in(table, Path::new("/mnt/x")).as_deref(), Some("xfs"));
    assert_eq!(machine::filesystem_in(table, Path::new("/mntx")).as_deref(), Some("ext4"));
}
