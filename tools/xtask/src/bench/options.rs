//! The command line of `bench`.

use std::path::PathBuf;

use super::rows;

/// How the command is used.
pub const HELP: &str = "Usage: cargo xtask bench [OPTIONS]

Measures each workload on a directory of the disk, on a segfs mount on that disk, and on fuse2fs and gocryptfs where
they are installed, in turns, and prints medians and ratios to the directory (above 1 is better than it).

  --rounds N       rounds (default 3; 1 with --quick)
  --quick          small and short, to see that it works; the figures mean little
  --only ROW       only rows whose names begin so (several: repeat, or separate by commas)
  --peers LIST     of fuse2fs, gocryptfs, writeback (segfs -o writeback); none: no peer
  -o OPTIONS       mount options for segfs
  --haltpoll       set halt polling to 200000 ns for the run (root) and put it back
  --dir DIR        where on which disk (default target/bench)
  --markdown       print a table for a page
  --json           print every figure

Cold: mounted anew, and the page cache emptied (root).

Rows:
";

/// What was asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // options are that
pub struct Bench {
    /// Small and short.
    pub quick: bool,
    /// Rounds, if said.
    pub rounds: Option<usize>,
    /// Beginnings of the names of rows; empty: all.
    pub only: Vec<String>,
    /// Peers by name; none: those that are there.
    pub peers: Option<Vec<String>>,
    /// Mount options for segfs.
    pub options: Option<String>,
    /// Set halt polling for the run.
    pub haltpoll: bool,
    /// Where.
    pub dir: Option<PathBuf>,
    /// Print JSON.
    pub json: bool,
    /// Print Markdown.
    pub markdown: bool,
}

/// How much each workload does.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// The large files, in bytes.
    pub file_bytes: u64,
    /// Small files.
    pub files: usize,
    /// Files of the tree.
    pub tree_files: usize,
    /// Random overwrites.
    pub overwrites: usize,
    /// How long what has no end of its own takes, in milliseconds.
    pub timed_ms: u64,
}

impl Bench {
    /// Reads the words after `bench`; none: help is asked for.
    pub fn parse(words: &[String]) -> Result<Option<Self>, String> {
        let mut bench = Self::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().cloned().ok_or(format!("{word} needs a value"));
            match word.as_str() {
                "-h" | "--help" => return Ok(None),
                "--quick" => bench.quick = true,
                "--haltpoll" => bench.haltpoll = true,
                "--json" => bench.json = true,
                "--markdown" => bench.markdown = true,
                "--rounds" => {
                    let n = value()?;
                    let rounds = n.parse().ok().filter(|r| (1..=100).contains(r));
                    bench.rounds = Some(rounds.ok_or(format!("\"{n}\" is no number of rounds"))?);
                }
                "--only" => bench.only.extend(list(&value()?)),
                "--peers" => {
                    let names = list(&value()?).filter(|n| n != "none");
                    bench.peers.get_or_insert_default().extend(names);
                }
                "-o" => bench.options = Some(value()?),
                "--dir" => bench.dir = Some(value()?.into()),
                other => return Err(format!("\"bench\" does not know \"{other}\"")),
            }
        }
        for name in &bench.only {
            if !rows::ROWS.iter().any(|row| row.name.starts_with(name.as_str())) {
                return Err(format!("there is no row \"{name}\"; the rows are:\n{}", rows::list()));
            }
        }
        if bench.json && bench.markdown {
            return Err("give one of --json and --markdown".into());
        }
        Ok(Some(bench))
    }

    /// How many rounds.
    pub fn rounds(&self) -> usize {
        self.rounds.unwrap_or(if self.quick { 1 } else { 3 })
    }

    /// Is the row of this name asked for?
    pub fn wants(&self, row: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|name| row.starts_with(name.as_str()))
    }

    /// How much is done.
    pub fn sizes(&self) -> Sizes {
        if self.quick {
            Sizes { file_bytes: 64 << 20, files: 1000, tree_files: 500, overwrites: 2048, timed_ms: 300 }
        } else {
            Sizes {
                file_bytes: 512 << 20,
                files: 10_000,
                tree_files: 5000,
                overwrites: 16_384,
                timed_ms: 1000,
            }
        }
    }

    /// The command as a person would type it.
    pub fn command(&self) -> String {
        let mut words = vec!["cargo xtask bench".to_owned()];
        let mut flag = |on: bool, name: &str| {
            if on {
                words.push(name.to_owned());
            }
        };
        flag(self.quick, "--quick");
        flag(self.haltpoll, "--haltpoll");
        if let Some(n) = self.rounds {
            words.push(format!("--rounds {n}"));
        }
        if !self.only.is_empty() {
            words.push(format!("--only {}", self.only.join(",")));
        }
        if let Some(peers) = &self.peers {
            words.push(format!("--peers {}", if peers.is_empty() { "none".into() } else { peers.join(",") }));
        }
        if let Some(options) = &self.options {
            words.push(format!("-o {options}"));
        }
        words.join(" ")
    }
}

fn list(text: &str) -> impl Iterator<Item = String> + use<> {
    text.split(',').map(|w| w.trim().to_owned()).filter(|w| !w.is_empty()).collect::<Vec<_>>().into_iter()
}
