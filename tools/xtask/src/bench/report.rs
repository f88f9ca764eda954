//! Figures, and the tables made of them.

use std::{fmt::Write as _, fs};

use serde_json::{Map, Value, json};

use crate::{Failure, Outcome};

use super::{
    machine::HaltPoll,
    options::Bench,
    rows::{self, Group, ROWS, Row, Unit},
};

/// Under what the figures were taken.
#[derive(Debug, Clone, Default)]
pub struct Conditions {
    /// The command that gave them.
    pub command: String,
    /// Processors.
    pub processors: usize,
    /// The kernel's version.
    pub kernel: String,
    /// Halt polling in ns, where there is such a thing.
    pub halt_poll_ns: Option<String>,
    /// Rounds.
    pub rounds: usize,
    /// Bytes of a large file.
    pub file_bytes: u64,
    /// Small files.
    pub files: usize,
}

impl Conditions {
    /// What they are now.
    pub fn of(bench: &Bench, halt_poll: &HaltPoll) -> Self {
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            command: bench.command(),
            processors: std::thread::available_parallelism().map_or(0, Into::into),
            kernel: kernel.trim().to_owned(),
            halt_poll_ns: halt_poll.now().map(str::to_owned),
            rounds: bench.rounds(),
            file_bytes: bench.sizes().file_bytes,
            files: bench.sizes().files,
        }
    }

    fn said(&self) -> String {
        let halt_poll = match &self.halt_poll_ns {
            Some(ns) => format!("halt polling {ns} ns"),
            None => "no halt polling".into(),
        };
        let rounds =
            if self.rounds == 1 { "1 round".into() } else { format!("medians of {} rounds", self.rounds) };
        format!(
            "`{}`: {rounds}, {} processors, Linux {}, {halt_poll}; large files of {} MiB, {} small files",
            self.command,
            self.processors,
            self.kernel,
            self.file_bytes >> 20,
            self.files
        )
    }
}

/// The figures of one row on one subject, one for each round.
#[derive(Debug, Clone, Default)]
struct Cell {
    values: Vec<f64>,
    cpu_seconds: Vec<f64>,
}

/// All figures. The first subject is what the others are compared to.
pub struct Results {
    labels: Vec<String>,
    /// By row, then by subject.
    cells: Vec<Vec<Cell>>,
    peak_mib: Vec<u64>,
    failures: Vec<(usize, Group, String)>,
}

impl Results {
    /// No figures yet, of subjects with these headings.
    pub fn new(labels: Vec<String>) -> Self {
        let cells = ROWS.iter().map(|_| vec![Cell::default(); labels.len()]).collect();
        Self { peak_mib: vec![0; labels.len()], cells, labels, failures: Vec::new() }
    }

    /// The subjects.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// A figure, and the processor seconds that the daemon took for it.
    pub fn add(&mut self, row: usize, subject: usize, value: f64, cpu_seconds: f64) {
        let cell = &mut self.cells[row][subject];
        cell.values.push(value);
        cell.cpu_seconds.push(cpu_seconds);
    }

    /// The most memory that a subject's daemon took, in MiB.
    pub fn memory(&mut self, subject: usize, mib: u64) {
        self.peak_mib[subject] = self.peak_mib[subject].max(mib);
    }

    /// A group did not come to its end.
    pub fn failed(&mut self, subject: usize, group: Group, why: &str) {
        eprintln!("FAILED: {} on {}: {why}", group.name(), self.labels[subject]);
        self.failures.push((subject, group, why.to_owned()));
    }

    /// Fails if anything did.
    pub fn failures(&self) -> Outcome {
        let said =
            self.failures.iter().map(|(n, g, why)| format!("{} on {}: {why}", g.name(), self.labels[*n]));
        let said: Vec<String> = said.collect();
        if said.is_empty() {
            Ok(())
        } else {
            Err(Failure(format!("not all of it ran:\n{}", said.join("\n"))))
        }
    }

    fn value(&self, row: usize, subject: usize) -> Option<f64> {
        median(&self.cells[row][subject].values)
    }

    fn ratio(&self, row: usize, subject: usize) -> Option<f64> {
        Some(ROWS[row].unit.ratio(self.value(row, subject)?, self.value(row, 0)?))
    }

    fn cpu(&self, row: usize, subject: usize) -> Option<f64> {
        median(&self.cells[row][subject].cpu_seconds)
    }

    /// Rows that have any figure.
    fn measured(&self) -> impl Iterator<Item = (usize, &'static Row)> {
        let any = |n: usize| self.cells[n].iter().any(|cell| !cell.values.is_empty());
        ROWS.iter().enumerate().filter(move |(n, _)| any(*n))
    }

    /// Lines of cells: the heading first.
    fn lines(&self) -> Vec<Vec<String>> {
        let mut heading = vec!["workload".to_owned(), "unit".into()];
        heading.extend(self.labels.iter().cloned());
        heading.extend(["aim".to_owned(), "daemon CPU s".into()]);
        let mut lines = vec![heading];
        for (n, row) in self.measured() {
            let mut line = vec![row.what.to_owned(), row.unit.name().into()];
            for subject in 0..self.labels.len() {
                line.push(match (self.value(n, subject), self.ratio(n, subject)) {
                    (None, _) => "-".into(),
                    (Some(v), Some(r)) if subject > 0 => format!("{} ({r:.2})", figure(v)),
                    (Some(v), _) => figure(v),
                });
            }
            line.push(row.aim.map_or("-".into(), |aim| format!("{aim}")));
            line.push(self.cpu(n, 1).map_or("-".into(), |s| format!("{s:.2}")));
            lines.push(line);
        }
        lines
    }

    /// What a daemon costs: processor time for what was written and made, and memory.
    fn costs(&self, conditions: &Conditions) -> Vec<Vec<String>> {
        let heading = [
            "cost of the daemon",
            "CPU s for a GiB written",
            "CPU s for 10,000 files made",
            "peak memory MiB",
        ];
        let mut lines = vec![heading.map(str::to_owned).to_vec()];
        let gib = conditions.file_bytes as f64 / f64::from(1 << 30);
        let ten_thousands = conditions.files as f64 / 10_000.0;
        for (n, label) in self.labels.iter().enumerate().skip(1) {
            let per = |row: &str, amount: f64| {
                self.cpu(rows::number(row), n).map_or("-".into(), |s| format!("{:.2}", s / amount))
            };
            let memory = self.peak_mib[n].to_string();
            lines.push(vec![label.clone(), per("write", gib), per("create", ten_thousands), memory]);
        }
        lines
    }

    /// For a terminal.
    pub fn text(&self, conditions: &Conditions) -> String {
        let mut text = columns(&self.lines());
        text.push('\n');
        text += &columns(&self.costs(conditions));
        let _ = writeln!(
            text,
            "\n{}.\nIn brackets: ratio to {}, above 1 is better.",
            conditions.said(),
            self.labels[0]
        );
        text
    }

    /// For a page.
    pub fn markdown(&self, conditions: &Conditions) -> String {
        let mut text = format!(
            "{}. In brackets: ratio to {}, above 1 is better.\n\n",
            conditions.said(),
            self.labels[0]
        );
        text += &table(&self.lines());
        text.push('\n');
        text += &table(&self.costs(conditions));
        text
    }

    /// Every figure.
    pub fn json(&self, conditions: &Conditions) -> Value {
        let mut found = Vec::new();
        for (n, row) in self.measured() {
            let mut subjects = Map::new();
            for (s, label) in self.labels.iter().enumerate() {
                let cell = &self.cells[n][s];
                let of = json!({"values": cell.values, "median": self.value(n, s), "ratio": self.ratio(n, s),
                    "cpu_seconds": cell.cpu_seconds});
                subjects.insert(label.clone(), of);
            }
            let lower = row.unit == Unit::Seconds;
            found.push(
                json!({"row": row.name, "what": row.what, "unit": row.unit.name(), "lower_is_better": lower,
                "aim": row.aim, "subjects": subjects}),
            );
        }
        let memory: Map<String, Value> =
            self.labels.iter().zip(&self.peak_mib).skip(1).map(|(l, m)| (l.clone(), json!(m))).collect();
        let failed: Vec<Value> = self
            .failures
            .iter()
            .map(|(n, g, why)| json!({"subject": self.labels[*n], "group": g.name(), "why": why}))
            .collect();
        json!({"command": conditions.command, "rounds": conditions.rounds, "processors": conditions.processors,
            "kernel": conditions.kernel, "halt_poll_ns": conditions.halt_poll_ns,
            "file_bytes": conditions.file_bytes, "files": conditions.files, "base": self.labels[0],
            "rows": found, "peak_mib": memory, "failed": failed})
    }
}

/// The middle one, or the mean of the two in the middle.
pub(super) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        n if n % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

/// Three digits that mean something, and no more.
pub(super) fn figure(value: f64) -> String {
    match value {
        v if v >= 100.0 => {
            let digits = format!("{v:.0}");
            let groups: Vec<&str> = digits
                .as_bytes()
                .rchunks(3)
                .rev()
                .filter_map(|group| std::str::from_utf8(group).ok())
                .collect();
            groups.join(",")
        }
        v if v >= 10.0 => format!("{v:.1}"),
        v if v >= 1.0 => format!("{v:.2}"),
        v => format!("{v:.3}"),
    }
}

fn columns(lines: &[Vec<String>]) -> String {
    let width = |column: usize| lines.iter().map(|l| l[column].chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for line in lines {
        for (n, cell) in line.iter().enumerate() {
            let width = width(n);
            let _ = if n == 0 { write!(text, "{cell:<width$}") } else { write!(text, "  {cell:>width$}") };
        }
        text.push('\n');
    }
    text
}

fn table(lines: &[Vec<String>]) -> String {
    let mut text = String::new();
    for (n, line) in lines.iter().enumerate() {
        let _ = writeln!(text, "| {} |", line.join(" | "));
        if n == 0 {
            let _ = writeln!(text, "|{}", "---|".repeat(line.len()));
        }
    }
    text
}
