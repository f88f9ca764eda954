//! The table of steps, and running them: each announced, timed, and the first failure final.

use std::{
    fmt::Write as _,
    path::Path,
    time::{Duration, Instant},
};

use crate::{Failure, Outcome, cargo, fuzz, run as run_command, shown, suites, system, tools};

/// One thing that must pass.
struct Step {
    /// What `--only` calls it.
    name: &'static str,
    /// What it proves, in a few words.
    what: &'static str,
    /// Left out by `--quick`.
    slow: bool,
    /// How it is done.
    action: Action,
}

enum Action {
    /// Cargo with these arguments, under these environment variables.
    Cargo(&'static [&'static str], &'static [(&'static str, &'static str)]),
    /// A function that is given the repository's root.
    Call(fn(&Path) -> Outcome),
}

use Action::{Call, Cargo};

/// What is run, in this order: quick to fail comes first. A new suite is one more row.
const STEPS: &[Step] = &[
    Step { name: "system", what: "programs that the tests need", slow: false, action: Call(system::check) },
    Step {
        name: "fmt",
        what: "the source is formatted",
        slow: false,
        action: Cargo(&["fmt", "--all", "--check"], &[]),
    },
    Step {
        name: "clippy",
        what: "no warnings from the compiler or clippy",
        slow: false,
        action: Cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"], &[]),
    },
    Step {
        name: "clippy-planted",
        what: "the same with the planted bugs compiled in",
        slow: true,
        action: Cargo(
            &["clippy", "--all-targets", "--features", "planted-bugs", "--", "-D", "warnings"],
            &[],
        ),
    },
    Step {
        name: "doc",
        what: "the documentation builds and its links lead somewhere",
        slow: false,
        action: Cargo(
            &["doc", "--no-deps", "--workspace", "--document-private-items"],
            &[("RUSTDOCFLAGS", "-Dwarnings")],
        ),
    },
    Step { name: "test", what: "all tests", slow: false, action: Cargo(&["test", "--workspace"], &[]) },
    Step { name: "posix", what: "pjdfstest and fsx on a mount", slow: true, action: Call(suites::posix) },
    Step {
        name: "simulation",
        what: "a million crash states, and thousands of worlds of three stores, with and without links between them",
        slow: true,
        action: Cargo(
            &[
                "test",
                "--test",
                "it",
                "--",
                "sim::store::",
                "sim::agree::",
                "sim::link::peers_agree",
                "--nocapture",
                "--test-threads=1",
            ],
            &[("SEGFS_SIM_STATES", "1000000"), ("SEGFS_AGREE_SEEDS", "3000"), ("SEGFS_LINK_SEEDS", "3000")],
        ),
    },
    Step {
        name: "stress",
        what: "the filesystem stressors of stress-ng on a mount",
        slow: true,
        action: Call(suites::stress),
    },
    Step {
        name: "twosided",
        what: "the same random operations on a mount and on ext4",
        slow: true,
        action: Call(suites::twosided),
    },
    Step {
        name: "programs",
        what: "fio, SQLite, cargo, tar, rsync and Samba on a mount",
        slow: true,
        action: Call(suites::programs),
    },
    Step {
        name: "killed",
        what: "the daemon of a mount killed under load, its system calls failing",
        slow: true,
        action: Call(suites::killed),
    },
    Step {
        name: "writeback",
        what: "most of these suites again where the kernel collects writes",
        slow: true,
        action: Call(suites::writeback),
    },
    Step {
        name: "planted",
        what: "each bug planted on purpose is caught",
        slow: true,
        action: Cargo(&["test", "--features", "planted-bugs"], &[]),
    },
    Step {
        name: "deny",
        what: "licences, sources and bans of dependencies",
        slow: true,
        action: Call(tools::deny),
    },
    Step { name: "fuzz", what: "a short run of every fuzz target", slow: true, action: Call(fuzz::smoke) },
];

/// Which steps to run.
#[derive(Debug, PartialEq, Eq)]
pub enum Choice {
    /// All of them.
    All,
    /// Those that are not slow.
    Quick,
    /// The one of that name.
    Only(String),
}

impl Choice {
    fn wants(&self, step: &Step) -> bool {
        match self {
            Self::All => true,
            Self::Quick => !step.slow,
            Self::Only(name) => step.name == name,
        }
    }
}

/// Is there a step of that name?
pub fn exists(name: &str) -> bool {
    STEPS.iter().any(|step| step.name == name)
}

/// The steps, one a line.
pub fn list() -> String {
    let mut text = String::new();
    for step in STEPS {
        let mark = if step.slow { " (slow)" } else { "" };
        let _ = writeln!(text, "  {:<15} {}{mark}", step.name, step.what);
    }
    text
}

/// Runs the chosen steps, stopping at the first failure.
#[allow(clippy::disallowed_methods)] // xtask is the edge: it times real commands
pub fn run(root: &Path, choice: &Choice) -> Outcome {
    let chosen: Vec<&Step> = STEPS.iter().filter(|step| choice.wants(step)).collect();
    let begin = Instant::now();
    let mut times = Vec::new();
    for (i, step) in chosen.iter().enumerate() {
        println!("\n[{}/{}] {}: {}", i + 1, chosen.len(), step.name, step.what);
        let step_begin = Instant::now();
        let outcome = execute(root, &step.action);
        let took = step_begin.elapsed();
        if let Err(Failure(why)) = outcome {
            return Err(Failure(format!(
                "FAILED: {} after {}: {why}\nTo run only this step: cargo xtask test --only {}",
                step.name,
                seconds(took),
                step.name
            )));
        }
        println!("[{}/{}] {}: passed in {}", i + 1, chosen.len(), step.name, seconds(took));
        times.push((step.name, took));
    }
    println!();
    for (name, took) in times {
        println!("  {name:<15} {:>9}", seconds(took));
    }
    let left_out = STEPS.len() - chosen.len();
    let note =
        if left_out > 0 { format!("; {left_out} steps were left out as asked") } else { String::new() };
    println!("{} steps passed in {}{note}.", chosen.len(), seconds(begin.elapsed()));
    Ok(())
}

fn execute(root: &Path, action: &Action) -> Outcome {
    match action {
        Call(function) => function(root),
        Cargo(arguments, variables) => {
            let mut command = cargo(root);
            command.args(*arguments).envs(variables.iter().copied());
            println!("$ {}", shown(&command));
            run_command(&mut command)
        }
    }
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn step_names_differ() {
        let mut names: Vec<_> = STEPS.iter().map(|step| step.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), STEPS.len());
    }

    #[test]
    fn quick_leaves_out_the_slow_and_only_takes_one() {
        let wanted = |choice: Choice| {
            STEPS.iter().filter(|step| choice.wants(step)).map(|step| step.name).collect::<Vec<_>>()
        };
        assert_eq!(wanted(Choice::All).len(), STEPS.len());
        assert!(!wanted(Choice::Quick).contains(&"fuzz"));
        assert!(wanted(Choice::Quick).contains(&"test"));
        assert_eq!(wanted(Choice::Only("doc".into())), ["doc"]);
    }
}
