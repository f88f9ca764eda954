//! The table of workloads.

use std::fmt::Write as _;

/// Workloads that share what they work on, and so run one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// Large files from end to end.
    Sequential,
    /// 4 KiB here and there.
    Random,
    /// 4 KiB and fsync.
    Fsync,
    /// Many small files.
    Small,
    /// A source tree.
    Tree,
}

impl Group {
    /// All, in the order in which they run.
    pub const ALL: &[Self] = &[Self::Sequential, Self::Random, Self::Fsync, Self::Small, Self::Tree];

    /// For a line of progress.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sequential => "sequential",
            Self::Random => "random",
            Self::Fsync => "fsync",
            Self::Small => "small files",
            Self::Tree => "tree",
        }
    }
}

/// What a figure counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// MiB a second.
    Rate,
    /// Operations a second.
    Operations,
    /// Files a second.
    Files,
    /// Seconds; fewer are better.
    Seconds,
}

impl Unit {
    /// As printed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rate => "MiB/s",
            Self::Operations => "ops/s",
            Self::Files => "files/s",
            Self::Seconds => "s",
        }
    }

    /// How many times as good as the other a figure is.
    pub fn ratio(self, value: f64, other: f64) -> f64 {
        if self == Self::Seconds { other / value } else { value / other }
    }
}

/// One workload.
#[derive(Debug)]
pub struct Row {
    /// What `--only` calls it.
    pub name: &'static str,
    /// In words.
    pub what: &'static str,
    /// Its group.
    pub group: Group,
    /// Its unit.
    pub unit: Unit,
    /// The least ratio to the disk that segfs aims at.
    pub aim: Option<f64>,
}

const fn row(name: &'static str, what: &'static str, group: Group, unit: Unit, aim: f64) -> Row {
    Row { name, what, group, unit, aim: if aim > 0.0 { Some(aim) } else { None } }
}

use Group::{Fsync, Random, Sequential, Small, Tree};
use Unit::{Files, Operations, Rate, Seconds};

/// All workloads, in the order of the table.
pub const ROWS: &[Row] = &[
    row("write", "sequential write, incompressible, fsync at the end", Sequential, Rate, 0.65),
    row("write-text", "sequential write, text, fsync at the end", Sequential, Rate, 0.95),
    row("read-cold", "sequential read, incompressible, cold", Sequential, Rate, 1.0),
    row("read-warm", "sequential read, incompressible, warm", Sequential, Rate, 0.4),
    row("read-text-cold", "sequential read, text, cold", Sequential, Rate, 1.0),
    row("read-text-warm", "sequential read, text, warm", Sequential, Rate, 0.4),
    row("random-read-cold", "4 KiB random read, cold", Random, Operations, 0.9),
    row("random-read-cold-4", "4 KiB random read, cold, 4 jobs", Random, Operations, 0.8),
    row("random-read-warm", "4 KiB random read, warm", Random, Operations, 1.0),
    row("overwrite", "4 KiB random overwrite, fsync at the end", Random, Operations, 0.65),
    row("fsync-1", "4 KiB write + fsync", Fsync, Operations, 0.75),
    row("fsync-4", "4 KiB write + fsync, 4 jobs", Fsync, Operations, 1.2),
    row("create", "create small files of 4 KiB, sync at the end", Small, Files, 1.0),
    row("stat-cold", "stat of each, cold", Small, Files, 0.75),
    row("walk-cold", "walk with stat, cold", Small, Files, 1.3),
    row("small-read-cold", "read each, cold", Small, Files, 2.0),
    row("small-read-warm", "read each, warm", Small, Files, 0.25),
    row("remove", "remove them all", Small, Files, 2.0),
    row("untar", "untar a source tree, sync at the end", Tree, Seconds, 2.0),
    row("status-first", "git status, first", Tree, Seconds, 0.45),
    row("status-warm", "git status, warm", Tree, Seconds, 0.6),
    row("clone", "git clone, sync at the end", Tree, Seconds, 0.6),
];

/// The rows of a group.
pub fn of(group: Group) -> impl Iterator<Item = &'static Row> {
    ROWS.iter().filter(move |row| row.group == group)
}

/// The number of a row; the name must be one of the table.
pub fn number(name: &str) -> usize {
    ROWS.iter().position(|row| row.name == name).unwrap_or_else(|| panic!("there is no row {name}"))
}

/// The rows, one a line.
pub fn list() -> String {
    let mut text = String::new();
    for row in ROWS {
        let _ = writeln!(text, "  {:<19} {}", row.name, row.what);
    }
    text
}
