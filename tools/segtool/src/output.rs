//! Printing: lines, tables, JSON, times and sizes.

use std::io::{self, Write as _};

use segfs::base::Damage;
use serde_json::{Value, json};

use crate::fail::Failure;

/// Standard output, buffered.
pub struct Output {
    out: io::BufWriter<io::Stdout>,
    /// JSON was asked for.
    pub json: bool,
}

impl Output {
    /// As asked for.
    pub fn new(json: bool) -> Self {
        Self { out: io::BufWriter::new(io::stdout()), json }
    }

    /// Prints a line.
    pub fn line(&mut self, text: &str) -> Result<(), Failure> {
        Ok(writeln!(self.out, "{text}")?)
    }

    /// Prints a value on a line of its own.
    pub fn value(&mut self, value: &Value) -> Result<(), Failure> {
        self.line(&value.to_string())
    }

    /// Prints rows with their columns below each other; those of numbers to the right.
    pub fn table(&mut self, head: &[&str], right: &[bool], rows: &[Vec<String>]) -> Result<(), Failure> {
        let mut all: Vec<Vec<&str>> = vec![head.to_vec()];
        all.extend(rows.iter().map(|r| r.iter().map(String::as_str).collect()));
        let width = |i: usize| all.iter().map(|r| r[i].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..head.len()).map(width).collect();
        for row in &all {
            let mut line = String::new();
            for (i, cell) in row.iter().enumerate() {
                let pad = " ".repeat(widths[i] - cell.chars().count());
                let cell = if right[i] { format!("{pad}{cell}") } else { format!("{cell}{pad}") };
                line.push_str(if i > 0 { "  " } else { "" });
                line.push_str(&cell);
            }
            self.line(line.trim_end())?;
        }
        Ok(())
    }

    /// Writes out what is buffered.
    pub fn finish(&mut self) -> Result<(), Failure> {
        Ok(self.out.flush()?)
    }
}

/// A time as RFC 3339 in UTC with 9 digits.
pub fn time(ns: u64) -> String {
    match jiff::Timestamp::from_nanosecond(i128::from(ns)) {
        Ok(t) => t.strftime("%Y-%m-%dT%H:%M:%S.%9fZ").to_string(),
        Err(_) => format!("{ns} ns"),
    }
}

/// How long ago, in the largest unit that fits.
pub fn age(now_ns: u64, then_ns: u64) -> String {
    let seconds = now_ns.saturating_sub(then_ns) / 1_000_000_000;
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// A size in the largest unit that leaves a whole part.
pub fn size(bytes: u64) -> String {
    let mut n = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB", "TiB"] {
        if n < 1024.0 || unit == "TiB" {
            return if unit == "B" { format!("{bytes} B") } else { format!("{n:.1} {unit}") };
        }
        n /= 1024.0;
    }
    unreachable!("the last unit takes everything")
}

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(bytes.len() * 2);
    for b in bytes {
        let _ = write!(out, "{b:02x}"); // into memory: never fails
    }
    out
}

/// Damage, and where.
pub fn damage(d: &Damage) -> Value {
    json!({
        "segment": d.place.segment.map(|s| s.get()),
        "file": d.place.file.as_ref().map(|f| f.display().to_string()),
        "offset": d.place.offset,
        "lsn": d.place.lsn.map(|l| l.get()),
        "why": d.why,
    })
}
