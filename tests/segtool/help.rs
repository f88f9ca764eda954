//! `--help`, and the page about the command line.

use super::run_with;

/// Commands, by their words.
const COMMANDS: &[&[&str]] = &[
    &["segments"],
    &["dump"],
    &["verify"],
    &["stat"],
    &["index"],
    &["index", "check"],
    &["index", "rebuild"],
];

fn help(words: &[&str]) -> String {
    run_with(&[words, &["--help"]].concat(), |_| {}).ends_with(0).out
}

/// Names listed in a section of a help text: what begins a line in it.
fn listed(help: &str, section: &str) -> Vec<String> {
    let Some((_, rest)) = help.split_once(&format!("\n{section}:\n")) else { return Vec::new() };
    let lines = rest.lines().take_while(|l| !l.is_empty() && l.starts_with(' '));
    lines.filter_map(|l| l.split_whitespace().next()).map(str::to_owned).collect()
}

#[test]
fn each_command_shows_two_examples() {
    for words in [&[&[][..]], COMMANDS].concat() {
        let text = help(words);
        let (_, examples) = text.split_once("\nExamples:\n").unwrap_or_else(|| panic!("{words:?}: {text}"));
        let examples = examples.lines().filter(|l| l.trim_start().starts_with("segtool "));
        assert!(examples.count() >= 2, "{words:?}: {text}");
    }
}

#[test]
fn the_page_has_every_command_and_every_flag() {
    let page = include_str!("../../docs/CLI.md");
    let (_, page) = page.split_once("\n## segtool\n").expect("a section about segtool");
    let page = page.split("\n## ").next().unwrap_or(page);
    // The commands tested are all that there are.
    let all: Vec<_> = listed(&help(&[]), "Commands").into_iter().filter(|c| c != "help").collect();
    let tops: Vec<_> = COMMANDS.iter().filter(|c| c.len() == 1).map(|c| c[0].to_owned()).collect();
    assert_eq!(all, tops);
    assert_eq!(listed(&help(&["index"]), "Commands"), ["check", "rebuild", "help"]);
    for words in COMMANDS.iter().filter(|w| **w != ["index"]) {
        let heading = format!("\n### segtool {}", words.join(" "));
        let (_, section) = page.split_once(&heading).unwrap_or_else(|| panic!("no section {heading:?}"));
        let section = section.split("\n### ").next().unwrap_or(section);
        let text = help(words);
        let flags = text
            .split_whitespace()
            .filter(|w| w.starts_with("--"))
            .map(|w| w.trim_matches(|c: char| !c.is_ascii_alphanumeric() && c != '-').to_owned());
        for flag in flags.filter(|f| !["--help", "--json", "--version"].contains(&f.as_str())) {
            assert!(section.contains(&flag), "{heading}: nothing about {flag}");
        }
    }
    for word in ["--json", "--help", "NO_COLOR"] {
        assert!(page.contains(word), "nothing about {word}");
    }
}
