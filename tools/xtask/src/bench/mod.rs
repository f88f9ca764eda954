//! `cargo xtask bench`: the same workloads on a directory of the disk that holds the store, on a segfs mount, and on
//! other FUSE filesystems that are installed, in turns, with medians and ratios.
//!
//! `options` reads the command line, `rows` has the table of workloads, `work` does them, `subjects` has what is
//! measured, `corpus` makes the data, `machine` is what is asked and set of the system, `report` prints.

mod corpus;
mod machine;
mod options;
mod report;
mod rows;
mod subjects;
mod work;

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{Failure, Outcome, cargo, run as run_command, target_dir};

use corpus::Corpus;
use machine::{HaltPoll, Stop, Watchdog};
pub use options::{Bench, HELP};
use report::{Conditions, Results};
use rows::Group;
pub use rows::list;
use subjects::{Kind, Subject};

/// Runs what was asked for, and prints the table.
pub fn run(root: &Path, bench: &Bench) -> Outcome {
    build(root)?;
    let stop = Stop::on_signals()?;
    let dir = bench.dir.clone().unwrap_or_else(|| target_dir(root).join("bench"));
    let place = Place::make(&dir)?;
    let kinds = kinds(bench)?;
    let halt_poll = HaltPoll::begin(bench.haltpoll)?;
    eprintln!("{}", halt_poll.said());
    if !machine::can_drop_caches() {
        eprintln!("not root: the page cache can't be emptied, so \"cold\" means mounted anew");
    }
    let corpus = Corpus::make(root, &place.path, bench.sizes())?;
    let mut results = Results::new(kinds.iter().map(|k| k.label(&place.path)).collect());
    let done = measure(root, bench, &place.path, &kinds, &corpus, &mut results, &stop);
    let conditions = Conditions::of(bench, &halt_poll);
    drop(halt_poll);
    drop(place);
    done?;
    if bench.json {
        println!("{:#}", results.json(&conditions));
    } else if bench.markdown {
        print!("{}", results.markdown(&conditions));
    } else {
        print!("{}", results.text(&conditions));
    }
    results.failures()
}

fn build(root: &Path) -> Outcome {
    let mut command = cargo(root);
    run_command(command.args(["build", "--release", "--bin", "segfs"]))
}

/// What is measured: the disk, segfs, and the peers that are there.
fn kinds(bench: &Bench) -> Result<Vec<Kind>, Failure> {
    let mut kinds = vec![Kind::Disk, Kind::Segfs(bench.options.clone())];
    match &bench.peers {
        None => kinds.extend([Kind::Fuse2fs, Kind::Gocryptfs].into_iter().filter(Kind::is_there)),
        Some(names) => {
            for name in names {
                let kind =
                    Kind::named(name).ok_or_else(|| Failure(format!("there is no peer \"{name}\"")))?;
                if !kind.is_there() {
                    return Err(Failure(format!("{name} is not installed")));
                }
                kinds.push(kind);
            }
        }
    }
    Ok(kinds)
}

fn measure(
    root: &Path,
    bench: &Bench,
    place: &Path,
    kinds: &[Kind],
    corpus: &Corpus,
    results: &mut Results,
    stop: &Stop,
) -> Outcome {
    let watchdog = Watchdog::start();
    let rounds = bench.rounds();
    for round in 0..rounds {
        for group in Group::ALL {
            if !rows::of(*group).any(|row| bench.wants(row.name)) {
                continue;
            }
            // Who comes first, and so after whom, changes with the round.
            for turn in 0..kinds.len() {
                let n = (turn + round) % kinds.len();
                eprintln!("round {} of {rounds}: {} on {}", round + 1, group.name(), results.labels()[n]);
                let home = place.join("subject");
                let done = Subject::make(&kinds[n], root, &home, &watchdog).and_then(|mut subject| {
                    work::group(*group, &mut subject, n, bench, corpus, results, stop)?;
                    results.memory(n, subject.finish()?);
                    Ok(())
                });
                stop.check()?;
                if let Err(Failure(why)) = done {
                    results.failed(n, *group, &why);
                }
                fs::remove_dir_all(&home)
                    .map_err(|e| Failure(format!("removing {}: {e}", home.display())))?;
            }
        }
    }
    Ok(())
}

/// The directory of this run; goes away with it.
struct Place {
    path: PathBuf,
}

impl Place {
    fn make(dir: &Path) -> Result<Self, Failure> {
        let path = dir.join(format!("run.{}", std::process::id()));
        fs::create_dir_all(&path).map_err(|e| Failure(format!("making {}: {e}", path.display())))?;
        let path = path.canonicalize().map_err(|e| Failure(format!("{}: {e}", path.display())))?;
        Ok(Self { path })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(e) = fs::remove_dir_all(&self.path) {
            eprintln!("removing {}: {e}", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests;
