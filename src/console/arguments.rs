//! From the words of a command line to a program's own type, and what is said if they make no sense.

use std::{ffi::OsString, process::ExitCode};

use clap::{Parser, error::ErrorKind};

use super::{Failure, USAGE};

/// Is JSON asked for? Looks at the words themselves, since errors in them are told as JSON too.
#[must_use]
pub fn wants_json(words: &[OsString]) -> bool {
    words.iter().take_while(|w| *w != "--").any(|w| w == "--json")
}

/// Understands the words, of which the first is the program's name. Help and version are printed here.
///
/// # Errors
/// What the process ends with; everything has been said.
pub fn parse<C: Parser>(program: &str, words: &[OsString]) -> Result<C, ExitCode> {
    C::try_parse_from(words).map_err(|e| {
        if e.use_stderr() {
            return of_clap(program, &e).tell(program, wants_json(words));
        }
        // Help and version. A pipe closed early is no failure of ours.
        let _ = e.print();
        ExitCode::SUCCESS
    })
}

/// What the parser says.
fn of_clap(program: &str, e: &clap::Error) -> Failure {
    let text = e.render().to_string();
    let next = format!("{} --help", command(program, &text));
    if e.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return Failure::new(USAGE, "no command was named", "there is nothing to do without one", next);
    }
    // The first paragraph says what; the next ones are the usage and hints.
    let (first, rest) = text.split_once("\n\n").unwrap_or((&text, ""));
    let joined =
        |s: &str, with| s.split('\n').map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>().join(with);
    let mut what = joined(first.trim_start_matches("error: "), " ");
    let mut why = joined(rest.split("For more information").next().unwrap_or_default(), "; ");
    if why.is_empty() {
        // A value that does not parse: the reason stands on the same line.
        (what, why) = match what.split_once(": ") {
            Some((what, why)) => (what.to_owned(), why.to_owned()),
            None => (what, format!("{program} does not understand it")),
        };
    }
    Failure::new(USAGE, what, why, next)
}

/// The command that the usage line names, such as `segtool index check`.
fn command(program: &str, text: &str) -> String {
    let usage = text.lines().find_map(|l| l.trim().strip_prefix("Usage: "));
    let words = usage.unwrap_or(program).split_whitespace();
    let is_name = |w: &&str| w.chars().all(|c| c.is_ascii_lowercase() || c == '-') && !w.starts_with('-');
    let named: Vec<&str> = words.take_while(is_name).collect();
    if named.is_empty() { program.to_owned() } else { named.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Parser)]
    #[command(name = "prog", arg_required_else_help = true)]
    struct Cli {
        #[command(subcommand)]
        command: Command,
    }

    #[derive(Debug, clap::Subcommand)]
    enum Command {
        Go {
            #[arg(long)]
            far: Option<u8>,
            place: String,
        },
    }

    fn says(words: &[&str]) -> Failure {
        of_clap("prog", &Cli::try_parse_from([&["prog"], words].concat()).unwrap_err())
    }

    #[test]
    fn what_makes_no_sense_is_told_in_three_parts() {
        assert_eq!(says(&[]).next, "prog --help");
        let wrong = says(&["go", "--fur", "x"]);
        assert!(wrong.what.contains("--fur") && wrong.why.contains("--far"), "{wrong:?}");
        assert_eq!((wrong.code, wrong.next.as_str()), (USAGE, "prog go --help"));
        let wrong = says(&["go", "--far", "300", "x"]);
        assert!(wrong.what.contains("300") && wrong.why.contains("255"), "{wrong:?}");
        assert!(says(&["go"]).what.contains("PLACE"));
        assert!(says(&["come"]).what.contains("come"));
    }

    #[test]
    fn json_is_asked_for_by_a_word_before_the_dashes() {
        let words = |w: &[&str]| w.iter().map(OsString::from).collect::<Vec<_>>();
        assert!(wants_json(&words(&["prog", "nonsense", "--json"])));
        assert!(!wants_json(&words(&["prog", "--", "--json"])));
    }
}
