//! The source keeps its shape: imports point one way, crates stay in their rooms, files stay readable.
//!
//! `rules` holds the tables, `checks` the checks, `tokens` what they see of a file. Each check is shown
//! below to find what it looks for, and then finds nothing in the repository.

mod checks;
mod rules;
mod tokens;

use std::{fs, path::Path};

use checks::Source;

/// Directories that hold Rust files of ours.
const DIRECTORIES: &[&str] = &["src", "tools", "tests", "benches"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn collect(directory: &Path, found: &mut Vec<Source>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target") {
                collect(&path, found);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root()).unwrap().to_str().unwrap();
            found.push(Source::new(name, &fs::read_to_string(&path).unwrap()));
        }
    }
}

/// Runs a check over every file of the repository.
fn hold(check: fn(&Source) -> Vec<String>) {
    let mut sources = Vec::new();
    for directory in DIRECTORIES {
        let directory = root().join(directory);
        if directory.is_dir() {
            collect(&directory, &mut sources);
        }
    }
    assert!(sources.len() > 10, "the source was not found");
    let wrong: Vec<String> = sources.iter().flat_map(check).collect();
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

/// What a check says of one file.
fn said(check: fn(&Source) -> Vec<String>, path: &str, text: &str) -> Vec<String> {
    check(&Source::new(path, text))
}

#[track_caller]
fn finds(check: fn(&Source) -> Vec<String>, path: &str, text: &str) {
    let findings = said(check, path, text);
    assert_eq!(findings.len(), 1, "{path}: {text:.100}: {findings:?}");
}

#[track_caller]
fn passes(check: fn(&Source) -> Vec<String>, path: &str, text: &str) {
    assert_eq!(said(check, path, text), Vec::<String>::new(), "{path}: {text:.100}");
}

#[test]
fn rooms_only_use_rooms_above_them() {
    for (i, (room, may_use)) in rules::ROOMS.iter().enumerate() {
        for used in *may_use {
            assert!(rules::ROOMS[..i].iter().any(|(name, _)| name == used), "{room} uses {used}");
        }
    }
}

#[test]
fn imports_point_one_way() {
    let check = checks::imports;
    finds(check, "src/disk/plain.rs", "use crate::log::Log;"); // upward
    finds(check, "src/index/mod.rs", "use crate::{base::Lsn, disk::Disk};"); // sideways
    finds(check, "src/format/frame.rs", "fn f() { crate::store::open() }");
    finds(check, "src/base/ids.rs", "use super::super::disk::Disk;");
    finds(check, "src/base/mod.rs", "use super::disk;");
    finds(check, "src/base/mod.rs", "mod inner { use super::super::{disk}; }");
    finds(check, "src/vfs/mod.rs", "use crate::*;");
    finds(check, "src/vfs.rs", "#[cfg(test)] mod tests { use crate::fuse::Adapter; }");
    finds(check, "src/attic/mod.rs", "");
    passes(
        check,
        "src/log/mod.rs",
        "use crate::{base::Lsn, segment::{self, Segment}}; use super::base::Ino;",
    );
    passes(check, "src/base/ids.rs", "use super::Lsn; // crate::log\nlet s = \"crate::log\";");
    passes(check, "src/base/ids.rs", "pub(crate) fn f() { crate::base::g(); crate::bail!() }");
    passes(check, "src/base/ids.rs", "mod tests { use super::super::Error; use super::*; }");
    passes(check, "src/main.rs", "use crate::cli;");
    hold(check);
}

#[test]
fn crates_stay_in_their_rooms() {
    let check = checks::crates;
    finds(check, "src/store/mod.rs", "use fuser::Filesystem;");
    finds(check, "src/store/mod.rs", "use zstd as z;");
    finds(check, "src/store/mod.rs", "let x = ::zstd::bulk::compress(b, 3);");
    finds(check, "src/store/mod.rs", "#[derive(zerocopy::FromBytes)] struct A;");
    finds(check, "src/lib.rs", "pub use lsm_tree::Tree;");
    finds(check, "src/main.rs", "let x = bincode::config::standard();");
    finds(check, "src/lib.rs", "use clap::Parser;");
    finds(check, "src/store/mod.rs", "use serde_json::json;");
    passes(check, "src/cli/mod.rs", "use clap::Parser;");
    passes(check, "src/format/compress.rs", "use zstd::bulk;");
    passes(check, "src/store/mod.rs", "use crate::format::zstd; let fuser = 1;");
    hold(check);
}

#[test]
fn unsafe_code_stays_in_disk() {
    let check = checks::unsafe_code;
    finds(check, "src/format/frame.rs", "let x = unsafe { *p };");
    finds(check, "tests/sim/mod.rs", "unsafe impl Send for A {}");
    passes(check, "src/disk/map.rs", "let x = unsafe { *p };");
    passes(check, "src/lib.rs", "#![deny(unsafe_code)] // unsafe");
    hold(check);
}

#[test]
fn errnos_stay_in_one_file() {
    let check = checks::errnos;
    finds(check, "src/vfs/mod.rs", "return libc::ENOENT;");
    finds(check, "src/store/mod.rs", "use rustix::io::Errno as E;");
    passes(check, "src/fuse/errno.rs", "libc::ENOENT");
    passes(check, "src/vfs/mod.rs", "/// ENOENT\nlet EXTENT = \"ENOENT\";");
    hold(check);
}

#[test]
fn the_library_is_given_its_disk() {
    let check = checks::std_fs;
    finds(check, "src/store/mod.rs", "use std::fs;");
    finds(check, "src/store/mod.rs", "use std::{io, fs::File};");
    finds(check, "src/log/mod.rs", "std::fs::read(p)");
    passes(check, "src/disk/plain.rs", "use std::fs;");
    passes(check, "src/log/mod.rs", "use std::io; #[cfg(test)] mod tests { use std::fs; }");
    hold(check);
}

#[test]
fn every_file_says_what_it_is() {
    let check = checks::headers;
    finds(check, "src/log/tail.rs", "use std::io;\n//! too late");
    finds(check, "src/log/tail.rs", "");
    passes(check, "src/log/tail.rs", "//! The tail.\nuse std::io;");
    hold(check);
}

#[test]
fn nothing_is_left_to_be_done() {
    let check = checks::unfinished;
    finds(check, "src/log/tail.rs", "fn f() { todo!() }");
    finds(check, "tests/log.rs", "fn f() { std::unimplemented!(\"x\") }");
    passes(check, "src/log/tail.rs", "fn todo() {} // todo!()");
    hold(check);
}

#[test]
fn files_stay_readable() {
    let check = checks::file_length;
    let long = "// x\n".repeat(rules::MAX_FILE_LINES + 1);
    finds(check, "src/log/tail.rs", &long);
    finds(check, "src/log/tail.rs", &format!("{long}#[cfg(test)]\nmod tests {{ }}\n"));
    passes(check, "src/log/tail.rs", "//! x\n#[cfg(test)]\nmod tests { }\n// y\n");
    passes(check, "src/log/tail.rs", &format!("//! x\n#[cfg(test)]\nmod tests {{\n{long}}}\n"));
    hold(check);
    for (path, why) in rules::LONG_FILES {
        assert!(root().join(path).exists() && !why.is_empty(), "{path}: this exception is not needed");
    }
}

#[test]
fn functions_stay_readable() {
    let check = checks::function_length;
    let body = "x();\n".repeat(rules::MAX_FUNCTION_LINES);
    finds(check, "src/log/tail.rs", &format!("fn f(a: [u8; 4]) -> fn(u8) -> u8 {{\n{body}}}"));
    finds(check, "tools/xtask/src/main.rs", &format!("impl A {{ const fn g() {{\n{body}}} }}"));
    passes(check, "src/log/tail.rs", &format!("trait T {{ fn f(a: [u8; 4]); }}\nmod a {{ {body} }}"));
    passes(check, "src/log/tail.rs", &format!("#[cfg(test)] mod tests {{ fn f() {{\n{body}}} }}"));
    hold(check);
    for (path, name, why) in rules::LONG_FUNCTIONS {
        let there = read(path).contains(&format!("fn {name}"));
        assert!(there && !why.is_empty(), "{path}, {name}: this exception is not needed");
    }
}

#[test]
fn the_map_shows_every_room() {
    let page = read("docs/ARCHITECTURE.md");
    assert_eq!(checks::architecture(&page), Vec::<String>::new());
    let renamed = page.replace("### log\n", "### logs\n");
    assert_eq!(checks::architecture(&renamed).len(), 1);
    let widened = page.replace("- May use: base, vfs.", "- May use: base, vfs, store.");
    assert_eq!(checks::architecture(&widened).len(), 1);
    let silent = page.replacen("- Must never know", "- Need not know", 1);
    assert_eq!(checks::architecture(&silent).len(), 1);
}

#[test]
fn every_dependency_is_accounted_for() {
    let page = read("docs/decisions/0001-dependencies.md");
    for manifest in
        ["Cargo.toml", "tools/segtool/Cargo.toml", "tools/xtask/Cargo.toml", "tools/fuzz/Cargo.toml"]
    {
        assert_eq!(checks::dependencies(&read(manifest), &page), Vec::<String>::new(), "{manifest}");
    }
    let planted = "[dev-dependencies]\nleft-pad = \"1\"\n\n[features]\nnot-a-crate = []\n";
    assert_eq!(checks::dependencies(planted, &page).len(), 1);
}
