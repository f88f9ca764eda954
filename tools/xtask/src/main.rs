//! xtask: the checks, tests and benchmarks of this repository, run as `cargo xtask test` and `cargo xtask bench`.
//!
//! `steps` holds the table of what is run, `system` the table of programs that tests need from the system,
//! `tools` the cargo programs that are built into `target/tools`, `fuzz` the short fuzzing run, `suites` the long tests of
//! real mounts, `bench` the benchmark.

mod bench;
mod fuzz;
mod steps;
mod suites;
mod system;
mod tools;

use std::{
    env,
    fmt::Write as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use bench::Bench;
use steps::Choice;

/// Exit code for a failed check, as for a failed test.
const FAILED: u8 = 1;
/// Exit code for a command line that makes no sense.
const USAGE: u8 = 2;

/// Why a step failed and what to do about it, for a person.
#[derive(Debug)]
pub struct Failure(pub String);

/// What a step returns.
pub type Outcome = Result<(), Failure>;

/// What the person asked for.
#[derive(Debug, PartialEq, Eq)]
enum Request {
    Help,
    List,
    Test(Choice),
    HelpBench,
    Bench(Bench),
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match parse(&arguments) {
        Ok(Request::Help) => {
            print!("{}", help());
            ExitCode::SUCCESS
        }
        Ok(Request::List) => {
            print!("{}", steps::list());
            ExitCode::SUCCESS
        }
        Ok(Request::HelpBench) => {
            print!("{}{}", bench::HELP, bench::list());
            ExitCode::SUCCESS
        }
        Ok(Request::Test(choice)) => ended(steps::run(&root(), &choice)),
        Ok(Request::Bench(bench)) => ended(bench::run(&root(), &bench)),
        Err(why) => {
            eprintln!("xtask: {why}\n\n{}", help());
            ExitCode::from(USAGE)
        }
    }
}

fn ended(outcome: Outcome) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure(why)) => {
            eprintln!("\n{why}");
            ExitCode::from(FAILED)
        }
    }
}

/// Reads the command line.
fn parse(arguments: &[String]) -> Result<Request, String> {
    let mut words = arguments.iter().map(String::as_str);
    match words.next() {
        None | Some("help" | "-h" | "--help") => return Ok(Request::Help),
        Some("test") => {}
        Some("bench") => return Ok(Bench::parse(&arguments[1..])?.map_or(Request::HelpBench, Request::Bench)),
        Some(other) => return Err(format!("there is no command \"{other}\"")),
    }
    let mut choice = Choice::All;
    while let Some(word) = words.next() {
        if choice != Choice::All && matches!(word, "--quick" | "--only") {
            return Err("give one of --quick and --only, once".into());
        }
        match word {
            "-h" | "--help" => return Ok(Request::Help),
            "--list" => return Ok(Request::List),
            "--quick" => choice = Choice::Quick,
            "--only" => {
                let name = words.next().ok_or("--only needs the name of a step")?;
                if !steps::exists(name) {
                    return Err(format!("there is no step \"{name}\"; the steps are:\n{}", steps::list()));
                }
                choice = Choice::Only(name.to_owned());
            }
            other => return Err(format!("\"test\" does not know \"{other}\"")),
        }
    }
    Ok(Request::Test(choice))
}

fn help() -> String {
    let mut text = String::from(
        "Usage: cargo xtask test [--quick | --only STEP] [--list]\n\
         \x20      cargo xtask bench [OPTIONS], see cargo xtask bench --help\n\n\
         Runs every check and test of this repository, in the order below, and stops at the first that fails.\n\n\
         \x20 --quick      leave out the slow steps (marked)\n\
         \x20 --only STEP  run just that step\n\
         \x20 --list       say what the steps are\n\nSteps:\n",
    );
    let _ = write!(text, "{}", steps::list());
    text
}

/// The repository: two directories above this package.
fn root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.ancestors().nth(2).expect("tools/xtask is two levels deep").to_path_buf()
}

/// Where cargo puts what it builds.
pub fn target_dir(root: &Path) -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |dir| root.join(dir))
}

/// Cargo, as started by the cargo that runs us, from the repository's root and without a terminal to wait at.
pub fn cargo(root: &Path) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root).stdin(Stdio::null());
    command
}

/// Runs a command to its end; a failure names the command.
pub fn run(command: &mut Command) -> Outcome {
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Failure(format!("{} ended with {status}", shown(command)))),
        Err(error) => Err(Failure(format!("{} could not be started: {error}", shown(command)))),
    }
}

/// A command as a person would type it.
pub fn shown(command: &Command) -> String {
    let mut text = String::new();
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            let _ = write!(text, "{}={} ", name.display(), quoted(&value.to_string_lossy()));
        }
    }
    let program = Path::new(command.get_program());
    let is_cargo = program.file_name().is_some_and(|name| name == "cargo");
    text.push_str(&if is_cargo { "cargo".into() } else { quoted(&program.to_string_lossy()) });
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&quoted(&argument.to_string_lossy()));
    }
    text
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,+@".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(words: &[&str]) -> Result<Request, String> {
        parse(&words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn the_command_line_is_understood() {
        assert_eq!(request(&[]), Ok(Request::Help));
        assert_eq!(request(&["test"]), Ok(Request::Test(Choice::All)));
        assert_eq!(request(&["test", "--quick"]), Ok(Request::Test(Choice::Quick)));
        assert_eq!(request(&["test", "--only", "clippy"]), Ok(Request::Test(Choice::Only("clippy".into()))));
        assert_eq!(request(&["test", "--list"]), Ok(Request::List));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for words in [
            &["tset"][..],
            &["test", "--fast"],
            &["test", "--only"],
            &["test", "--only", "nosuch"],
            &["test", "--quick", "--only", "clippy"],
        ] {
            assert!(request(words).is_err(), "{words:?}");
        }
    }

    #[test]
    fn a_command_is_shown_as_it_would_be_typed() {
        let mut command = Command::new("/usr/bin/cargo");
        command.env("RUSTDOCFLAGS", "-D warnings").args(["test", "--", "it's"]);
        assert_eq!(shown(&command), r"RUSTDOCFLAGS='-D warnings' cargo test -- 'it'\''s'");
    }
}
