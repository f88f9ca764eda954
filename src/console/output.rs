//! Standard output: lines, tables, JSON.

use std::io::{self, Write as _};

use serde_json::Value;

use super::Failure;

/// Standard output, buffered. [`finish`](Self::finish) it: what is left in the buffer is lost otherwise.
pub struct Output {
    out: io::BufWriter<io::Stdout>,
    /// JSON was asked for.
    pub json: bool,
}

impl Output {
    /// As asked for.
    #[must_use]
    pub fn new(json: bool) -> Self {
        Self { out: io::BufWriter::new(io::stdout()), json }
    }

    /// Prints a line.
    ///
    /// # Errors
    /// If it can't be printed; [`CLOSED`](super::CLOSED) if nobody reads.
    pub fn line(&mut self, text: &str) -> Result<(), Failure> {
        Ok(writeln!(self.out, "{text}")?)
    }

    /// Prints a value on a line of its own.
    ///
    /// # Errors
    /// As of [`line`](Self::line).
    pub fn value(&mut self, value: &Value) -> Result<(), Failure> {
        self.line(&value.to_string())
    }

    /// Prints rows with their columns below each other; those of numbers to the right.
    ///
    /// # Errors
    /// As of [`line`](Self::line).
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
    ///
    /// # Errors
    /// As of [`line`](Self::line).
    pub fn finish(&mut self) -> Result<(), Failure> {
        Ok(self.out.flush()?)
    }
}
