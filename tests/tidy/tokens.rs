//! Just enough of Rust's grammar to see which paths a file names: words and marks, without comments and
//! without the insides of strings.

/// A word or a mark of a source file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// An identifier, a number, `::`, a single other character, or `""` for any literal in quotes.
    pub text: String,
    /// Counted from 1.
    pub line: usize,
    /// Inside `#[cfg(test)] mod ... { }`.
    pub in_test: bool,
}

/// A path as written in a `use` (groups spelt out) or in an expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    /// Its words; `*` for a glob.
    pub words: Vec<String>,
    pub line: usize,
    pub in_test: bool,
    /// How many inline modules it stands in.
    pub depth: usize,
    /// It names a macro: a `!` follows.
    pub is_macro: bool,
    /// It is what a `use` names.
    pub in_use: bool,
}

/// Splits a source file into tokens.
pub fn tokens(source: &str) -> Vec<Token> {
    let chars: Vec<char> = source.chars().collect();
    let mut found = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < chars.len() {
        let end = skip(&chars, at);
        let text = match (end, chars[at]) {
            (Some(_), '"' | 'b' | 'c' | 'r' | '\'') => Some("\"\"".to_owned()),
            (Some(_), _) => None,
            (None, c) if is_word(c) => Some(chars[at..].iter().take_while(|c| is_word(**c)).collect()),
            (None, ':') if chars.get(at + 1) == Some(&':') => Some("::".to_owned()),
            (None, c) if c.is_whitespace() => None,
            (None, c) => Some(c.to_string()),
        };
        let end = end.unwrap_or(at + text.as_ref().map_or(1, |text| text.chars().count()));
        if let Some(text) = text {
            found.push(Token { text, line, in_test: false });
        }
        line += chars[at..end].iter().filter(|c| **c == '\n').count();
        at = end;
    }
    mark_tests(&mut found);
    found
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Where the comment or literal ends that begins here, if one does.
fn skip(chars: &[char], at: usize) -> Option<usize> {
    let next = |n: usize| chars.get(at + n).copied().unwrap_or(' ');
    match (chars[at], next(1)) {
        ('/', '/') => Some(chars[at..].iter().position(|c| *c == '\n').map_or(chars.len(), |n| at + n)),
        ('/', '*') => Some(end_of_comment(chars, at)),
        ('"', _) => Some(end_of_quoted(chars, at + 1, '"')),
        ('b' | 'c', '"') => Some(end_of_quoted(chars, at + 2, '"')),
        ('b', '\'') => Some(end_of_quoted(chars, at + 2, '\'')),
        ('r', '"' | '#') => end_of_raw(chars, at + 1),
        ('b' | 'c', 'r') if matches!(next(2), '"' | '#') => end_of_raw(chars, at + 2),
        // A character; a lifetime has no second quote behind its first letter.
        ('\'', '\\') => Some(end_of_quoted(chars, at + 1, '\'')),
        ('\'', _) if next(2) == '\'' => Some(at + 3),
        _ => None,
    }
}

fn end_of_comment(chars: &[char], mut at: usize) -> usize {
    let mut depth = 0;
    while at + 1 < chars.len() {
        match (chars[at], chars[at + 1]) {
            ('/', '*') => depth += 1,
            ('*', '/') => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            return at;
        }
    }
    chars.len()
}

fn end_of_quoted(chars: &[char], mut at: usize, quote: char) -> usize {
    while at < chars.len() && chars[at] != quote {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(chars.len())
}

fn end_of_raw(chars: &[char], at: usize) -> Option<usize> {
    let hashes = chars[at..].iter().take_while(|c| **c == '#').count();
    if chars.get(at + hashes) != Some(&'"') {
        return None; // a raw identifier
    }
    let mut end = at + hashes + 1;
    while end < chars.len() {
        let closes = chars[end] == '"'
            && chars[end + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes;
        if closes {
            return Some(end + 1 + hashes);
        }
        end += 1;
    }
    Some(chars.len())
}

/// Marks what stands in `#[cfg(test)] mod name { ... }`.
fn mark_tests(tokens: &mut [Token]) {
    let attribute = ["#", "[", "cfg", "(", "test", ")", "]", "mod"];
    let mut at = 0;
    while at + attribute.len() + 1 < tokens.len() {
        let begins = attribute.iter().zip(&tokens[at..]).all(|(want, token)| token.text == *want);
        if !begins || tokens[at + attribute.len() + 1].text != "{" {
            at += 1;
            continue;
        }
        let end = matching(tokens, at + attribute.len() + 1);
        tokens[at..=end].iter_mut().for_each(|token| token.in_test = true);
        at = end + 1;
    }
}

/// The index of the bracket that closes the one at `open`, or of the last token.
pub fn matching(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0;
    for (i, token) in tokens.iter().enumerate().skip(open) {
        match token.text.as_str() {
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return i;
        }
    }
    tokens.len() - 1
}

/// All paths of a file, those of `use` groups spelt out one by one. A lone word is a path too.
pub fn paths(tokens: &[Token]) -> Vec<Path> {
    let mut found = Vec::new();
    let mut module_ends: Vec<usize> = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        module_ends.retain(|end| *end > at);
        if tokens[at].text == "mod" && tokens.get(at + 2).is_some_and(|t| t.text == "{") {
            module_ends.push(matching(tokens, at + 2));
        }
        if is_name(&tokens[at].text) {
            let (first, begin) = (found.len(), at);
            at = walk(tokens, at, &[], &mut found);
            for path in &mut found[first..] {
                path.depth = module_ends.len();
                path.in_use = begin > 0 && tokens[begin - 1].text == "use";
            }
        } else if tokens[at].text == "::"
            && at > 0
            && (tokens[at - 1].text == ">" || tokens[at - 1].text == "]")
        {
            at += 2; // what follows a type in brackets belongs to the type
        } else {
            at += 1;
        }
    }
    found
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Reads one path behind `prefix`, and returns where it ends.
fn walk(tokens: &[Token], mut at: usize, prefix: &[String], found: &mut Vec<Path>) -> usize {
    let text = |i: usize| tokens.get(i).map_or("", |token| token.text.as_str());
    let start = at;
    let mut words = prefix.to_vec();
    loop {
        words.push(text(at).to_owned());
        at += 1;
        if text(at) != "::" {
            break;
        }
        if text(at + 1) == "{" {
            return group(tokens, at + 1, &words, found);
        }
        if !is_name(text(at + 1)) && text(at + 1) != "*" {
            break;
        }
        at += 1;
    }
    let Token { line, in_test, .. } = tokens[start.min(tokens.len() - 1)];
    let is_macro = text(at) == "!" && text(at + 1) != "=";
    found.push(Path { words, line, in_test, depth: 0, is_macro, in_use: false });
    at
}

fn group(tokens: &[Token], open: usize, prefix: &[String], found: &mut Vec<Path>) -> usize {
    let close = matching(tokens, open);
    let mut at = open + 1;
    while at < close {
        if tokens[at].text == "as" {
            at += 2; // the new name is not a path
        } else if is_name(&tokens[at].text) || tokens[at].text == "*" {
            at = walk(tokens, at, prefix, found);
        } else {
            at += 1;
        }
    }
    close + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(source: &str) -> Vec<String> {
        tokens(source).into_iter().map(|token| token.text).collect()
    }

    fn spelt(source: &str) -> Vec<String> {
        paths(&tokens(source)).into_iter().map(|path| path.words.join("::")).collect()
    }

    #[test]
    fn comments_and_literals_hide_their_insides() {
        assert_eq!(words("a /* b /* c */ d */ e // f\ng"), ["a", "e", "g"]);
        assert_eq!(
            words(r##"x("a\"b", r#"c"d"#, b"e", 'f', '\'', b'g')"##).concat(),
            "x(\"\",\"\",\"\",\"\",\"\",\"\")"
        );
        assert_eq!(words("&'a str"), ["&", "'", "a", "str"]);
        assert_eq!(words("r#type"), ["r", "#", "type"]);
    }

    #[test]
    fn lines_are_counted_through_literals() {
        let found = tokens("a\n\"x\ny\"\n/*\n*/ b");
        assert_eq!(found.last().map(|token| token.line), Some(5));
    }

    #[test]
    fn groups_are_spelt_out() {
        assert_eq!(
            spelt("use crate::{base::{Lsn, self}, disk as d, log::*};"),
            ["use", "crate::base::Lsn", "crate::base::self", "crate::disk", "crate::log::*"]
        );
        assert_eq!(spelt("let x = ::zstd::f::<u8>(Vec::<u8>::new());")[2..], ["zstd::f", "u8", "Vec", "u8"]);
    }

    #[test]
    fn test_modules_are_known() {
        let found = tokens("fn a() {}\n#[cfg(test)]\nmod tests { fn b() {} }\nfn c() {}");
        let tested: Vec<_> = found.iter().filter(|t| t.in_test).map(|t| t.text.as_str()).collect();
        assert!(tested.contains(&"b") && !tested.contains(&"a") && !tested.contains(&"c"));
    }
}
