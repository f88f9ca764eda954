//! The contract of the command line, docs/CLI.md, held to what both programs have and print. The commands are not listed
//! here: they are asked for.
#![allow(clippy::disallowed_methods)] // this is the outside: real files, real time

use std::{
    collections::BTreeSet,
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;

use crate::{
    mount::{Mounted, SEGFS},
    segtool,
};

const PAGE: &str = include_str!("../docs/CLI.md");

fn programs() -> [(&'static str, &'static Path); 2] {
    [("segfs", Path::new(SEGFS)), ("segtool", segtool::program())]
}

fn run(program: &Path, words: &[&str]) -> Output {
    Command::new(program).args(words).env("COLUMNS", "200").output().unwrap()
}

fn help(program: &Path, words: &[String]) -> String {
    let done = Command::new(program).args(words).arg("--help").env("COLUMNS", "200").output().unwrap();
    assert!(done.status.success() && done.stderr.is_empty(), "{words:?}: {done:?}");
    String::from_utf8(done.stdout).unwrap()
}

/// The lines of a section of a help text.
fn lines<'a>(help: &'a str, section: &str) -> Vec<&'a str> {
    let Some((_, rest)) = help.split_once(&format!("\n{section}:\n")) else { return Vec::new() };
    rest.lines().take_while(|l| l.is_empty() || l.starts_with(' ')).filter(|l| !l.is_empty()).collect()
}

/// Commands that a help text lists.
fn listed(help: &str) -> Vec<String> {
    let names = lines(help, "Commands").into_iter().filter_map(|l| l.split_whitespace().next());
    names.filter(|n| *n != "help").map(str::to_owned).collect()
}

/// Every command of a program with its help: also those that only have commands of their own.
fn all_commands(program: &Path) -> Vec<(Vec<String>, String)> {
    let mut todo = vec![Vec::new()];
    let mut all = Vec::new();
    while let Some(words) = todo.pop() {
        let text = help(program, &words);
        todo.extend(listed(&text).into_iter().map(|name| [&words[..], &[name]].concat()));
        all.push((words, text));
    }
    assert!(all.len() > 4, "{all:?}");
    all
}

/// The options that a help text lists, by their long names.
fn options(help: &str) -> BTreeSet<String> {
    let lines = lines(help, "Options").into_iter().map(str::trim).filter(|l| l.starts_with('-'));
    let named = lines.filter_map(|l| l.split([' ', ',']).find(|w| w.starts_with("--")));
    named.map(|w| w.trim_end_matches('.').to_owned()).collect()
}

/// Those of every command.
const EVERYWHERE: [&str; 3] = ["--json", "--help", "--version"];

/// The section of the page about a command.
fn section(program: &str, words: &[String]) -> Option<&'static str> {
    let title = format!("\n### {program} {}", words.join(" "));
    let (_, rest) = PAGE.split_once(&title).filter(|(_, rest)| rest.starts_with([' ', '\n']))?;
    let end = ["\n### ", "\n## "].iter().filter_map(|next| rest.find(next)).min().unwrap_or(rest.len());
    Some(&rest[..end])
}

fn names(text: &str) -> BTreeSet<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The names of fields that a section tells.
fn told_fields(section: &str) -> BTreeSet<String> {
    let paragraph = |p: &&str| p.trim_start().starts_with("JSON");
    let told = section.split("\n\n").filter(paragraph).flat_map(names);
    told.filter(|n| n.chars().all(|c| c.is_ascii_lowercase() || c == '_')).collect()
}

#[test]
fn every_command_shows_two_examples_of_itself() {
    for (name, program) in programs() {
        for (words, text) in all_commands(program) {
            let (_, examples) =
                text.split_once("\nExamples:\n").unwrap_or_else(|| panic!("{name} {words:?}: {text}"));
            let begin = format!("{name} {}", words.join(" "));
            let examples = examples.lines().filter(|l| l.contains(begin.trim_end()));
            assert!(examples.count() >= 2, "{name} {words:?}: {text}");
        }
    }
}

#[test]
fn the_page_has_every_command_and_every_option_and_no_others() {
    let mut commands = BTreeSet::new();
    for (name, program) in programs() {
        for (words, text) in all_commands(program).into_iter().filter(|(_, text)| listed(text).is_empty()) {
            let section =
                section(name, &words).unwrap_or_else(|| panic!("no section about {name} {words:?}"));
            let has = options(&text);
            for option in has.iter().filter(|o| !EVERYWHERE.contains(&o.as_str())) {
                let told = section.contains(&format!("`{option}"));
                assert!(told, "{name} {words:?}: the page says nothing of {option}");
            }
            let told = names(section);
            let told =
                told.iter().filter_map(|n| n.split_whitespace().next()).filter(|n| n.starts_with("--"));
            for option in told.filter(|o| !EVERYWHERE.contains(o)) {
                assert!(has.contains(option), "{name} {words:?}: there is no {option}");
            }
            commands.insert(format!("{name} {}", words.join(" ")));
        }
    }
    for title in PAGE.lines().filter_map(|l| l.strip_prefix("### seg")) {
        let title = format!("seg{title}");
        let known = commands.iter().any(|c| title == *c || title.starts_with(&format!("{c} ")));
        assert!(known, "the page has a section about {title}");
    }
    for word in EVERYWHERE {
        assert!(PAGE.contains(word), "nothing about {word}");
    }
}

/// All names of fields in a value.
fn fields(v: &Value, out: &mut BTreeSet<String>) {
    match v {
        Value::Object(map) => {
            for (k, v) in map {
                out.insert(k.clone());
                fields(v, out);
            }
        }
        Value::Array(list) => list.iter().for_each(|v| fields(v, out)),
        _ => {}
    }
}

/// What a command printed as JSON has the fields that its section tells; `rare` are those that only show at times.
#[track_caller]
fn holds(program: &str, words: &[&str], outputs: &[&Output], rare: &[&str]) {
    let words: Vec<String> = words.iter().map(|w| (*w).to_owned()).collect();
    let told = told_fields(section(program, &words).unwrap());
    let mut found = BTreeSet::new();
    for done in outputs {
        let text = String::from_utf8_lossy(&done.stdout);
        assert!(!text.trim().is_empty(), "{program} {words:?}: {done:?}");
        for line in text.lines() {
            let value =
                serde_json::from_str(line).unwrap_or_else(|e| panic!("{program} {words:?}: {e}: {line}"));
            fields(&value, &mut found);
        }
    }
    let untold: Vec<_> = found.difference(&told).collect();
    assert!(untold.is_empty(), "{program} {words:?}: the page does not tell of {untold:?}");
    let missing: Vec<_> = told.difference(&found).filter(|f| !rare.contains(&f.as_str())).collect();
    assert!(missing.is_empty(), "{program} {words:?}: the page tells of {missing:?}, which is not there");
}

#[test]
fn the_page_has_every_field_of_segfs() {
    let mut m = Mounted::new();
    let (store, dir) = (m.store(), m.dir());
    let (store, dir) = (store.to_str().unwrap(), dir.to_str().unwrap());
    std::fs::write(m.path("f"), "x").unwrap();
    let segfs = Path::new(SEGFS);
    assert!(run(segfs, &["scrub", dir]).status.success());
    let status = run(segfs, &["status", "--json", dir]);
    let all = run(segfs, &["status", "--json"]);
    assert!(String::from_utf8_lossy(&all.stdout).starts_with('['), "{all:?}");
    m.unmount();
    holds("segfs", &["status"], &[&status, &run(segfs, &["--json", "status", store])], &[]);
    let mounted = run(segfs, &["mount", "--background", "--json", store, dir]);
    assert!(mounted.status.success(), "{mounted:?}");
    let unmounted = run(segfs, &["umount", dir, "--json"]);
    assert!(unmounted.status.success(), "{unmounted:?}");
    holds("segfs", &["mount"], &[&mounted], &[]);
    holds("segfs", &["umount"], &[&unmounted], &[]);
    let new = m.root.path().join("new");
    holds("segfs", &["init"], &[&run(segfs, &["init", new.to_str().unwrap(), "--json"])], &[]);
    holds("segfs", &["doctor"], &[&run(segfs, &["doctor", "--json", store])], &[]);
}

#[test]
fn the_page_has_every_field_of_segtool() {
    let dir = tempfile::tempdir().unwrap();
    let store = segtool::closed(dir.path());
    let program = segtool::program();
    let path = store.to_str().unwrap();
    let tool = |words: &[&str]| run(program, &[words, &[path, "--json"]].concat());
    holds("segtool", &["segments"], &[&tool(&["segments"])], &[]);
    holds("segtool", &["stat"], &[&tool(&["stat"])], &[]);
    holds("segtool", &["index", "check"], &[&tool(&["index", "check"])], &["how", "kind", "key"]);
    holds("segtool", &["index", "rebuild"], &[&tool(&["index", "rebuild"])], &[]);
    let dump = |kind: &str| run(program, &["dump", path, "1", "--json", "--payload", "hex", "--kind", kind]);
    // Operations have fields for each fact: they are of another page.
    holds(
        "segtool",
        &["dump"],
        &[&dump("extent"), &dump("batch"), &dump("footer")],
        &["moved", "foreign", "detached", "damage", "facts", "fact"],
    );
    let file = segtool::segment_files(&store)[0].clone();
    segtool::flip(&file, 5000);
    holds("segtool", &["verify"], &[&tool(&["verify", "--deep"])], &[]);
}

/// An error in three parts, or as an object.
#[track_caller]
fn in_three_parts(program: &str, done: &Output, code: i32, json: bool) {
    let said = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(code), "{said}");
    if json {
        let value: Value = serde_json::from_str(&said).unwrap_or_else(|e| panic!("{e}: {said}"));
        let error = value["error"].as_object().unwrap();
        assert_eq!(error.keys().collect::<Vec<_>>(), ["code", "what", "why", "next"]);
        assert!(error.values().all(|v| v.as_str().is_some_and(|s| !s.is_empty())), "{said}");
        return;
    }
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines.len(), 3, "{said}");
    for (line, begins) in lines.iter().zip([format!("{program}: "), "  why:  ".into(), "  next: ".into()]) {
        assert!(line.starts_with(&begins) && line.len() > begins.len(), "{said}");
    }
}

#[test]
fn a_command_line_that_makes_no_sense_is_told_in_three_parts_by_every_command() {
    for (name, program) in programs() {
        for (words, text) in all_commands(program) {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            for json in [false, true] {
                let with = |more: &[&str]| {
                    let json: &[&str] = if json { &["--json"] } else { &[] };
                    run(program, &[&words[..], more, json].concat())
                };
                in_three_parts(name, &with(&["--frobnicate"]), 2, json);
                if !listed(&text).is_empty() {
                    in_three_parts(name, &with(&[]), 2, json);
                    in_three_parts(name, &with(&["frobnicate"]), 2, json);
                } else if text.contains("\nArguments:\n  <") {
                    in_three_parts(name, &with(&[]), 2, json);
                }
            }
        }
    }
}

#[test]
fn nothing_is_coloured_where_nobody_wants_it() {
    for (_, program) in programs() {
        for words in [&["--help"][..], &["frobnicate"]] {
            let done = Command::new(program).args(words).env("NO_COLOR", "1").output().unwrap();
            let said = [done.stdout, done.stderr].concat();
            assert!(!said.contains(&0x1b) && !said.is_empty());
        }
    }
}
