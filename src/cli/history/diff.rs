//! `segfs diff`: lines for text, ranges for anything else.

use std::{
    fs, io,
    io::Read,
    path::{Path, PathBuf},
};

use segfs::console::Output;
use serde_json::json;

use super::{
    super::failure::{Failure, Outcome},
    list::text,
    place::Base,
    show::{open, resolve},
    versions::Found,
};

/// Files up to this size are compared as text, in bytes.
const TEXT_BYTES: u64 = 16 << 20;
/// Lines around a change that are shown with it.
const CONTEXT: usize = 3;
/// Equal bytes that are passed over inside one changed range.
const GAP: u64 = 16;
/// Steps after which the smallest difference is not looked for any more.
const STEPS: usize = 4000;

/// Compares two versions.
pub fn run(base: &Base, a: (&Path, Option<&str>), b: Option<&Path>, json: bool) -> Outcome<()> {
    let (file, old) = resolve(base, a.0, a.1)?;
    let (other, new) = match b {
        Some(b) => resolve(base, b, None)?,
        None => (file.clone(), present(base, &file)),
    };
    let what = format!("{} can't be compared", file.display());
    let system = |e: io::Error| Failure::system(&what, &e);
    for found in [&old, &new] {
        if fs::symlink_metadata(&found.path).is_ok_and(|m| m.is_dir()) {
            let next = format!("diff -r {} {}", old.path.display(), new.path.display());
            return Err(Failure::usage(&what, "it is a directory", next));
        }
    }
    let mut out = Output::new(json);
    let labels = [label(&file, &old), label(&other, &new)];
    let small = |f: &Found| size(f) <= TEXT_BYTES;
    if small(&old) && small(&new) {
        let (x, y) = (content(&old).map_err(system)?, content(&new).map_err(system)?);
        if !x.contains(&0) && !y.contains(&0) {
            text_diff(&mut out, &labels, &x, &y)?;
            return out.finish();
        }
    }
    let ranges = ranges(&old, &new).map_err(system)?;
    if json {
        let list: Vec<_> = ranges.iter().map(|(at, len)| json!({"offset": at, "length": len})).collect();
        out.value(&json!({
            "a": labels[0], "b": labels[1], "text": false, "size_a": size(&old), "size_b": size(&new), "ranges": list,
        }))?;
    } else if !ranges.is_empty() || size(&old) != size(&new) {
        out.line(&format!("--- {}  {} bytes", labels[0], size(&old)))?;
        out.line(&format!("+++ {}  {} bytes", labels[1], size(&new)))?;
        for (at, len) in &ranges {
            out.line(&format!("differs at {at}, {len} bytes"))?;
        }
    }
    out.finish()
}

fn present(base: &Base, file: &Path) -> Found {
    Found { path: base.path(file), label: "now".to_owned() }
}

fn label(file: &PathBuf, found: &Found) -> String {
    format!("{} ({})", text(file.as_os_str()), found.label)
}

fn size(found: &Found) -> u64 {
    fs::symlink_metadata(&found.path).map_or(0, |m| m.len())
}

/// The whole content; a symlink's is its target, that of what is not there now is empty.
fn content(found: &Found) -> io::Result<Vec<u8>> {
    match fs::symlink_metadata(&found.path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e),
        Ok(m) if m.is_symlink() => Ok(fs::read_link(&found.path)?.into_os_string().into_encoded_bytes()),
        Ok(_) => {
            let mut bytes = Vec::new();
            open(&found.path)?.read_to_end(&mut bytes)?;
            Ok(bytes)
        }
    }
}

/// Stretches in which two files differ, as far as both go, and what only the longer one has.
fn ranges(old: &Found, new: &Found) -> io::Result<Vec<(u64, u64)>> {
    let (mut a, mut b) = (open(&old.path)?, open(&new.path)?);
    let (mut x, mut y) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut found: Vec<(u64, u64)> = Vec::new();
    let mut at = 0;
    loop {
        let (n, m) = (fill(&mut a, &mut x)?, fill(&mut b, &mut y)?);
        for i in 0..n.max(m) {
            if x[..n].get(i) != y[..m].get(i) {
                let here = at + i as u64;
                match found.last_mut() {
                    Some((start, len)) if here < *start + *len + GAP => *len = here + 1 - *start,
                    _ => found.push((here, 1)),
                }
            }
        }
        if n.max(m) == 0 {
            return Ok(found);
        }
        at += n.max(m) as u64;
    }
}

fn fill(from: &mut fs::File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match from.read(&mut buffer[done..])? {
            0 => break,
            n => done += n,
        }
    }
    Ok(done)
}

fn text_diff(out: &mut Output, labels: &[String; 2], x: &[u8], y: &[u8]) -> Outcome<()> {
    let (a, b) = (lines(x), lines(y));
    let edits = edits(&a, &b);
    let hunks = hunks(&edits);
    let mut all = Vec::new();
    if !hunks.is_empty() {
        all.push(format!("--- {}", labels[0]));
        all.push(format!("+++ {}", labels[1]));
    }
    for hunk in hunks {
        let part = &edits[hunk];
        let (i, j) = part.first().map_or((0, 0), |e| (e.1, e.2));
        let (n, m) = (part.iter().filter(|e| e.0 != '+').count(), part.iter().filter(|e| e.0 != '-').count());
        let start = |at: usize, n: usize| if n == 0 { at } else { at + 1 };
        all.push(format!("@@ -{},{n} +{},{m} @@", start(i, n), start(j, m)));
        for (sign, i, j) in part {
            let line = if *sign == '+' { b[*j] } else { a[*i] };
            let ended = line.strip_suffix(b"\n");
            all.push(format!("{sign}{}", String::from_utf8_lossy(ended.unwrap_or(line))));
            if ended.is_none() {
                all.push("\\ No newline at end of file".to_owned());
            }
        }
    }
    if out.json {
        return out.value(&json!({"a": labels[0], "b": labels[1], "text": true, "diff": all}));
    }
    for line in all {
        out.line(&line)?;
    }
    Ok(())
}

fn lines(text: &[u8]) -> Vec<&[u8]> {
    text.split_inclusive(|b| *b == b'\n').collect()
}

/// One line of a comparison: ' ', '-' or '+', and where it is in both.
type Edit = (char, usize, usize);

/// How to come from one list of lines to the other: the shortest way (Myers, "An O(ND) difference algorithm"), unless
/// that is too far.
fn edits(a: &[&[u8]], b: &[&[u8]]) -> Vec<Edit> {
    let head = a.iter().zip(b).take_while(|(x, y)| x == y).count();
    let tail = a[head..].iter().rev().zip(b[head..].iter().rev()).take_while(|(x, y)| x == y).count();
    let (inner_a, inner_b) = (&a[head..a.len() - tail], &b[head..b.len() - tail]);
    let mut all: Vec<Edit> = (0..head).map(|i| (' ', i, i)).collect();
    for (sign, i, j) in shortest(inner_a, inner_b) {
        all.push((sign, head + i, head + j));
    }
    all.extend((0..tail).map(|n| (' ', a.len() - tail + n, b.len() - tail + n)));
    all
}

fn shortest(a: &[&[u8]], b: &[&[u8]]) -> Vec<Edit> {
    let (n, m) = (a.len() as isize, b.len() as isize);
    let most = (a.len() + b.len()).min(STEPS) as isize;
    let offset = most + 1;
    let mut reach = vec![0_isize; 2 * offset as usize + 1];
    let mut trace = Vec::new();
    for d in 0..=most {
        trace.push(reach[(offset - d) as usize..=(offset + d) as usize].to_vec());
        for k in (-d..=d).step_by(2) {
            let at = |k: isize| (k + offset) as usize;
            let down = k == -d || (k != d && reach[at(k - 1)] < reach[at(k + 1)]);
            let mut x = if down { reach[at(k + 1)] } else { reach[at(k - 1)] + 1 };
            let mut y = x - k;
            while x < n && y < m && a[x as usize] == b[y as usize] {
                (x, y) = (x + 1, y + 1);
            }
            reach[at(k)] = x;
            if x >= n && y >= m {
                return walk_back(&trace, n, m);
            }
        }
    }
    // Too different: everything goes, everything comes.
    let gone = (0..a.len()).map(|i| ('-', i, 0));
    gone.chain((0..b.len()).map(|j| ('+', a.len(), j))).collect()
}

fn walk_back(trace: &[Vec<isize>], n: isize, m: isize) -> Vec<Edit> {
    let (mut x, mut y) = (n, m);
    let mut edits = Vec::new();
    for (d, reach) in trace.iter().enumerate().rev() {
        let d = d as isize;
        let get = |k: isize| reach.get((k + d) as usize).copied().unwrap_or(0);
        let k = x - y;
        let down = k == -d || (k != d && get(k - 1) < get(k + 1));
        let before = if down { k + 1 } else { k - 1 };
        let (from_x, from_y) = if d == 0 { (0, 0) } else { (get(before), get(before) - before) };
        while x > from_x && y > from_y {
            (x, y) = (x - 1, y - 1);
            edits.push((' ', x as usize, y as usize));
        }
        if d > 0 {
            edits.push(if down {
                ('+', x as usize, from_y as usize)
            } else {
                ('-', from_x as usize, y as usize)
            });
        }
        (x, y) = (from_x, from_y);
    }
    edits.reverse();
    edits
}

/// Changes with the lines around them; those that are close together are one.
fn hunks(edits: &[Edit]) -> Vec<std::ops::Range<usize>> {
    let mut found: Vec<std::ops::Range<usize>> = Vec::new();
    for (n, _) in edits.iter().enumerate().filter(|(_, e)| e.0 != ' ') {
        let (start, end) = (n.saturating_sub(CONTEXT), (n + 1 + CONTEXT).min(edits.len()));
        match found.last_mut() {
            Some(last) if start <= last.end => last.end = end,
            _ => found.push(start..end),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_lead_from_one_to_the_other_and_are_few() {
        let cases: &[(&str, &str, usize)] = &[
            ("", "", 0),
            ("a\n", "", 1),
            ("", "a\nb\n", 2),
            ("a\nb\nc\n", "a\nx\nc\n", 2),
            ("a\nb\nc\na\nb\nb\na\n", "c\nb\na\nb\na\nc\n", 5),
            ("x\na\nb\n", "a\nb\ny", 2),
        ];
        for (old, new, changes) in cases {
            let (a, b) = (lines(old.as_bytes()), lines(new.as_bytes()));
            let found = edits(&a, &b);
            let side = |drop: char, pick: &dyn Fn(&Edit) -> Vec<u8>| -> Vec<u8> {
                found.iter().filter(|e| e.0 != drop).flat_map(pick).collect()
            };
            assert_eq!(side('+', &|e| a[e.1].to_vec()), old.as_bytes(), "{old:?} {new:?}");
            assert_eq!(side('-', &|e| b[e.2].to_vec()), new.as_bytes(), "{old:?} {new:?}");
            assert_eq!(found.iter().filter(|e| e.0 != ' ').count(), *changes, "{old:?} {new:?}: {found:?}");
        }
    }
}
