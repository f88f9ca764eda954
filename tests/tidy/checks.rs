//! The checks. Each takes source files and returns what is wrong with them, one line a finding.

use super::{
    rules::{
        CRATES, ERRNO, ERRNO_NAMES, LONG_FILES, LONG_FUNCTIONS, MAX_FILE_LINES, MAX_FUNCTION_LINES, PROGRAM,
        ROOMS, STD_FS, UNSAFE,
    },
    tokens::{Path, Token, matching, paths, tokens},
};

/// A Rust file of the repository.
pub struct Source {
    /// From the repository's root, with `/`.
    path: String,
    text: String,
    tokens: Vec<Token>,
    paths: Vec<Path>,
}

impl Source {
    pub fn new(path: &str, text: &str) -> Self {
        let mut tokens = tokens(text);
        let is_test_file = path.ends_with("/tests.rs") || path.contains("/tests/");
        if path.starts_with("src/") && is_test_file {
            tokens.iter_mut().for_each(|token| token.in_test = true);
        }
        let paths = paths(&tokens);
        Self { path: path.into(), text: text.into(), tokens, paths }
    }

    /// Where the file stands below the crate's root: `src/log/tail.rs` is `[log, tail]`. None for what is
    /// not of the library.
    fn module(&self) -> Option<Vec<&str>> {
        let path = self.path.strip_prefix("src/")?.strip_suffix(".rs")?;
        let mut parts: Vec<&str> = path.split('/').collect();
        if parts.last() == Some(&"mod") {
            parts.pop();
        }
        match parts[0] {
            "lib" => Some(Vec::new()),
            "main" | "cli" => None,
            _ => Some(parts),
        }
    }

    fn room(&self) -> Option<&str> {
        self.module()?.first().copied()
    }

    fn is_at(&self, places: &[&str]) -> bool {
        places.iter().any(|place| {
            if place.ends_with('/') { self.path.starts_with(place) } else { self.path == *place }
        })
    }

    fn at(&self, line: usize, what: impl AsRef<str>) -> String {
        format!("{}:{line}: {}", self.path, what.as_ref())
    }
}

/// Imports between rooms point one way.
pub fn imports(source: &Source) -> Vec<String> {
    let Some(module) = source.module() else { return Vec::new() };
    let Some(room) = module.first() else { return Vec::new() };
    let Some((_, may_use)) = ROOMS.iter().find(|(name, _)| name == room) else {
        return vec![source.at(1, format!("\"{room}\" is not in the table of rooms"))];
    };
    let mut wrong = Vec::new();
    for path in &source.paths {
        let Some(target) = target(&module, path) else { continue };
        if target == *room || may_use.contains(&target) {
            continue;
        }
        let is_room = ROOMS.iter().any(|(name, _)| *name == target);
        if is_room {
            wrong.push(source.at(path.line, format!("{room} must not use {target}")));
        } else if !path.is_macro {
            wrong.push(source.at(path.line, format!("\"{target}\" at the crate's root is not a room")));
        }
    }
    wrong
}

/// The first word below the crate's root, of a path that goes up to it.
fn target<'a>(module: &[&str], path: &'a Path) -> Option<&'a str> {
    let words = &path.words;
    match words[0].as_str() {
        "crate" => words.get(1).map(String::as_str),
        "super" => {
            let supers = words.iter().take_while(|word| *word == "super").count();
            let reaches_root = supers >= module.len() + path.depth;
            if reaches_root { words.get(supers).map(String::as_str) } else { None }
        }
        _ => None,
    }
}

/// Crates stay in their rooms.
pub fn crates(source: &Source) -> Vec<String> {
    if !source.path.starts_with("src/") {
        return Vec::new();
    }
    let mut wrong = Vec::new();
    let names_a_crate = |path: &&Path| (path.words.len() > 1 || path.in_use) && !path.in_test;
    for path in source.paths.iter().filter(names_a_crate) {
        for (name, rooms) in CRATES.iter().filter(|(name, _)| *name == path.words[0]) {
            let at = if source.module().is_none() { Some(PROGRAM) } else { source.room() };
            if !at.is_some_and(|room| rooms.contains(&room)) {
                wrong.push(source.at(path.line, format!("{name} belongs to {} alone", rooms.join(" and "))));
            }
        }
    }
    wrong
}

/// `unsafe` stays in disk.
pub fn unsafe_code(source: &Source) -> Vec<String> {
    if source.is_at(UNSAFE) {
        return Vec::new();
    }
    let found = source.tokens.iter().filter(|token| token.text == "unsafe");
    found.map(|token| source.at(token.line, "unsafe code belongs to disk alone")).collect()
}

/// Errno names stay in one file.
pub fn errnos(source: &Source) -> Vec<String> {
    if !source.path.starts_with("src/") || source.is_at(ERRNO) {
        return Vec::new();
    }
    let is_errno = |token: &&Token| token.text == "Errno" || ERRNO_NAMES.contains(&token.text.as_str());
    let found = source.tokens.iter().filter(|token| !token.in_test).filter(is_errno);
    found
        .map(|token| source.at(token.line, format!("{}: errnos belong to src/fuse/errno.rs", token.text)))
        .collect()
}

/// The library is given a `Disk`.
pub fn std_fs(source: &Source) -> Vec<String> {
    if !source.path.starts_with("src/") || source.is_at(STD_FS) {
        return Vec::new();
    }
    let is_fs = |path: &&Path| !path.in_test && path.words.len() > 1 && path.words[..2] == ["std", "fs"];
    let found = source.paths.iter().filter(is_fs);
    found.map(|path| source.at(path.line, "std::fs: take a disk::Disk instead")).collect()
}

/// Every file says in prose what it is, before anything else.
pub fn headers(source: &Source) -> Vec<String> {
    let begins = source.text.lines().next().is_some_and(|line| line.starts_with("//! "));
    if begins { Vec::new() } else { vec![source.at(1, "the file does not begin with a //! header")] }
}

/// Nothing is left to be done.
pub fn unfinished(source: &Source) -> Vec<String> {
    let found = source.paths.iter().filter(|path| {
        path.is_macro && path.words.last().is_some_and(|word| word == "todo" || word == "unimplemented")
    });
    found.map(|path| source.at(path.line, format!("{}! is left here", path.words.join("::")))).collect()
}

/// Files stay small; the tests at the end are not counted.
pub fn file_length(source: &Source) -> Vec<String> {
    let tests = source.tokens.iter().find(|token| token.in_test).map(|token| token.line - 1);
    let whole = source.text.lines().count();
    let lines = if source.path.starts_with("src/") || source.path.starts_with("tools/") {
        tests.filter(|lines| *lines > 0).unwrap_or(whole)
    } else {
        whole
    };
    if lines <= MAX_FILE_LINES || LONG_FILES.iter().any(|(path, _)| *path == source.path) {
        return Vec::new();
    }
    vec![source.at(1, format!("{lines} lines before the tests, more than {MAX_FILE_LINES}: split it"))]
}

/// Functions stay small; those of tests may be long.
pub fn function_length(source: &Source) -> Vec<String> {
    if source.path.starts_with("tests/") {
        return Vec::new();
    }
    let mut wrong = Vec::new();
    for (i, token) in source.tokens.iter().enumerate() {
        let Some(name) = source.tokens.get(i + 1).filter(|_| token.text == "fn" && !token.in_test) else {
            continue;
        };
        if name.text == "(" {
            continue; // a function type
        }
        let Some(open) = body(&source.tokens, i) else { continue };
        let lines = source.tokens[matching(&source.tokens, open)].line - token.line + 1;
        let excused =
            LONG_FUNCTIONS.iter().any(|(path, function, _)| *path == source.path && *function == name.text);
        if lines > MAX_FUNCTION_LINES && !excused {
            let what =
                format!("fn {} has {lines} lines, more than {MAX_FUNCTION_LINES}: split it", name.text);
            wrong.push(source.at(token.line, what));
        }
    }
    wrong
}

/// The brace that opens the body of the function at `at`; a declaration and a function type have none.
fn body(tokens: &[Token], at: usize) -> Option<usize> {
    let mut i = at + 1;
    while i < tokens.len() {
        match tokens[i].text.as_str() {
            "{" => return Some(i),
            "(" | "[" => i = matching(tokens, i),
            ";" | "," | ")" | "}" | "=" => return None,
            _ => {}
        }
        i += 1;
    }
    None
}

/// `docs/ARCHITECTURE.md` has a section for each room, with the rooms that it may use.
pub fn architecture(text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    for (room, may_use) in ROOMS {
        let Some((_, after)) = text.split_once(&format!("\n### {room}\n")) else {
            wrong.push(format!("docs/ARCHITECTURE.md: there is no section \"### {room}\""));
            continue;
        };
        let section = after.split("\n#").next().unwrap_or(after);
        let said = section.lines().find_map(|line| line.strip_prefix("- May use: "));
        let wanted = if may_use.is_empty() { "nothing".to_owned() } else { may_use.join(", ") };
        if said.map(|said| said.trim_end_matches('.')) != Some(wanted.as_str()) {
            wrong.push(format!("docs/ARCHITECTURE.md, {room}: there is no line \"- May use: {wanted}.\""));
        }
        if !section.lines().any(|line| line.starts_with("- Must never know")) {
            wrong.push(format!("docs/ARCHITECTURE.md, {room}: there is no line \"- Must never know: ...\""));
        }
    }
    wrong
}

/// The page about dependencies has a row for each direct dependency.
pub fn dependencies(manifest: &str, page: &str) -> Vec<String> {
    let mut in_table = false;
    let mut wrong = Vec::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            in_table = line.ends_with("dependencies]");
        } else if let Some((name, _)) = line.split_once('=').filter(|_| in_table && !line.starts_with('#')) {
            let name = name.trim().trim_end_matches(".workspace");
            if name != "segfs" && !page.contains(&format!("\n| `{name}` |")) {
                wrong.push(format!("docs/decisions/0001-dependencies.md has no row for `{name}`"));
            }
        }
    }
    wrong
}
