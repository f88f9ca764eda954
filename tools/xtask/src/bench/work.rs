//! The workloads themselves, each timed.
#![allow(clippy::disallowed_methods)] // xtask is the edge: real time, real files

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use crate::{Failure, Outcome};

use super::{
    corpus::{Corpus, Dice, git},
    machine::Stop,
    options::Bench,
    report::Results,
    rows::{self, Group, Unit},
    subjects::Subject,
};

/// One request of the sequential workloads.
const CHUNK_BYTES: usize = 1 << 20;
const PAGE_BYTES: u64 = 4096;
/// Part of a file's pages that a cold random read touches: more, and it would warm the file up for itself.
const COLD_PART: u64 = 10;
/// Size of a file that is written and synced.
const SYNCED_BYTES: usize = 16 << 20;
/// Directories that the small files lie in.
const DIRECTORIES: usize = 100;
/// No workload that counts operations goes on for longer.
const LIMIT: Duration = Duration::from_secs(20);

/// How much was done, in the row's unit times seconds, and how long it took.
type Done = io::Result<(f64, Duration)>;

/// Runs the rows of a group on a fresh subject, which has this number in the results.
pub fn group(
    group: Group,
    subject: &mut Subject,
    number: usize,
    bench: &Bench,
    corpus: &Corpus,
    results: &mut Results,
    stop: &Stop,
) -> Outcome {
    let mut run = Run { subject, number, bench, corpus, results, stop };
    match group {
        Group::Sequential => run.sequential(),
        Group::Random => run.random(),
        Group::Fsync => run.fsync(),
        Group::Small => run.small(),
        Group::Tree => run.tree(),
    }
}

struct Run<'a> {
    subject: &'a mut Subject,
    number: usize,
    bench: &'a Bench,
    corpus: &'a Corpus,
    results: &'a mut Results,
    stop: &'a Stop,
}

impl Run<'_> {
    /// Does a row that later ones need.
    fn always(&mut self, name: &str, work: impl FnOnce(&Path, &Corpus) -> Done) -> Outcome {
        self.stop.check()?;
        self.subject.settle();
        let cpu = self.subject.cpu_seconds();
        let dir = self.subject.dir();
        let (amount, took) =
            self.subject.watched(|| work(&dir, self.corpus)).map_err(|e| Failure(format!("{name}: {e}")))?;
        // What it leaves to do in the background is part of its cost.
        self.subject.settle();
        if self.bench.wants(name) {
            let row = rows::number(name);
            let seconds = took.as_secs_f64();
            let value = if rows::ROWS[row].unit == Unit::Seconds { seconds } else { amount / seconds };
            self.results.add(row, self.number, value, self.subject.cpu_seconds() - cpu);
        }
        Ok(())
    }

    /// Does a row if it is asked for.
    fn row(&mut self, name: &str, work: impl FnOnce(&Path, &Corpus) -> Done) -> Outcome {
        if self.bench.wants(name) { self.always(name, work) } else { Ok(()) }
    }

    /// The same, with nothing cached.
    fn cold(&mut self, name: &str, work: impl FnOnce(&Path, &Corpus) -> Done) -> Outcome {
        if self.bench.wants(name) {
            self.stop.check()?;
            self.subject.make_cold()?;
            self.always(name, work)?;
        }
        Ok(())
    }

    fn wants(&self, names: &[&str]) -> bool {
        names.iter().any(|name| self.bench.wants(name))
    }

    fn sequential(&mut self) -> Outcome {
        let (plain, text) = ("plain", "text");
        if self.wants(&["write", "read-cold", "read-warm"]) {
            self.always("write", |dir, c| write(&dir.join(plain), &c.random, c.sizes.file_bytes))?;
            self.cold("read-cold", |dir, _| read(&dir.join(plain)))?;
            self.warm_up(plain, "read-warm")?;
            self.row("read-warm", |dir, _| read(&dir.join(plain)))?;
            fs::remove_file(self.subject.dir().join(plain)).map_err(|e| Failure(e.to_string()))?;
        }
        if self.wants(&["write-text", "read-text-cold", "read-text-warm"]) {
            self.always("write-text", |dir, c| write(&dir.join(text), &c.text, c.sizes.file_bytes))?;
            self.cold("read-text-cold", |dir, _| read(&dir.join(text)))?;
            self.warm_up(text, "read-text-warm")?;
            self.row("read-text-warm", |dir, _| read(&dir.join(text)))?;
        }
        Ok(())
    }

    fn random(&mut self) -> Outcome {
        let file = self.subject.dir().join("file");
        let bytes = self.corpus.sizes.file_bytes;
        self.subject
            .watched(|| write(&file, &self.corpus.random, bytes))
            .map_err(|e| Failure(format!("preparing: {e}")))?;
        let stop = self.stop.clone();
        for (name, jobs) in [("random-read-cold", 1), ("random-read-cold-4", 4)] {
            let stop = stop.clone();
            self.cold(name, move |dir, _| {
                let each = bytes / PAGE_BYTES / COLD_PART / jobs;
                in_parallel(jobs, |job| random_read(&dir.join("file"), (job, jobs), each, LIMIT, &stop))
            })?;
        }
        self.warm_up("file", "random-read-warm")?;
        let stop_warm = stop.clone();
        self.row("random-read-warm", |dir, c| {
            let time = Duration::from_millis(c.sizes.timed_ms);
            random_read(&dir.join("file"), (0, 1), u64::MAX, time, &stop_warm)
        })?;
        self.row("overwrite", |dir, c| overwrite(&dir.join("file"), c, &stop))
    }

    fn fsync(&mut self) -> Outcome {
        for (name, jobs) in [("fsync-1", 1_u64), ("fsync-4", 4)] {
            let stop = self.stop.clone();
            let files: Vec<PathBuf> =
                (0..jobs).map(|n| self.subject.dir().join(format!("file{n}"))).collect();
            for file in &files {
                let written = self.subject.watched(|| write(file, &self.corpus.random, SYNCED_BYTES as u64));
                written.map_err(|e| Failure(format!("preparing: {e}")))?;
            }
            self.row(name, |_, c| {
                let time = Duration::from_millis(c.sizes.timed_ms);
                in_parallel(jobs, |job| write_and_sync(&files[job as usize], c, job, time, &stop))
            })?;
        }
        Ok(())
    }

    fn small(&mut self) -> Outcome {
        self.always("create", |dir, c| create(&dir.join("small"), c))?;
        self.cold("stat-cold", |dir, c| stat(&dir.join("small"), c.sizes.files))?;
        self.cold("walk-cold", |dir, _| timed(|| walk(&dir.join("small"), &mut |_| Ok(()))))?;
        let read_each = |dir: &Path| {
            let mut buffer = vec![0; 65536];
            timed(|| walk(&dir.join("small"), &mut |file| File::open(file)?.read(&mut buffer).map(drop)))
        };
        self.cold("small-read-cold", |dir, _| read_each(dir))?;
        if self.wants(&["small-read-warm"]) {
            let dir = self.subject.dir();
            self.subject.watched(|| read_each(&dir)).map_err(|e| Failure(e.to_string()))?;
        }
        self.row("small-read-warm", |dir, _| read_each(dir))?;
        self.row("remove", |dir, c| timed(|| fs::remove_dir_all(dir.join("small")).map(|()| c.sizes.files)))
    }

    fn tree(&mut self) -> Outcome {
        // In memory, so that reading it is no part of the figure.
        fs::read(&self.corpus.archive).map_err(|e| Failure(e.to_string()))?;
        self.always("untar", |dir, c| {
            let mut tar = Command::new("tar");
            tar.arg("-C").arg(dir).arg("-xf").arg(&c.archive);
            command(&mut tar, Some(dir))
        })?;
        let status = |dir: &Path| {
            let mut git = git();
            git.arg("-C").arg(dir.join("tree")).args(["status", "--porcelain"]);
            command(&mut git, None)
        };
        if self.wants(&["status-first", "status-warm"]) {
            self.always("status-first", |dir, _| status(dir))?;
        }
        self.row("status-warm", |dir, _| status(dir))?;
        self.row("clone", |dir, _| {
            let mut git = git();
            git.args(["clone", "-q", "--no-hardlinks"]).arg(dir.join("tree")).arg(dir.join("clone"));
            command(&mut git, Some(dir))
        })
    }

    fn warm_up(&mut self, file: &str, row: &str) -> Outcome {
        if self.bench.wants(row) {
            let path = self.subject.dir().join(file);
            self.subject.watched(|| read(&path)).map_err(|e| Failure(format!("reading: {e}")))?;
        }
        Ok(())
    }
}

fn timed(work: impl FnOnce() -> io::Result<usize>) -> Done {
    let begin = Instant::now();
    let amount = work()?;
    Ok((amount as f64, begin.elapsed()))
}

/// Makes everything on the filesystem of a directory survive a crash. `sync` alone never reaches a process that answers
/// through FUSE; fsync of the directory does.
fn sync_all(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()?;
    rustix::fs::sync();
    Ok(())
}

fn write(path: &Path, data: &[u8], bytes: u64) -> Done {
    let begin = Instant::now();
    let mut file = File::create(path)?;
    for n in 0..bytes as usize / CHUNK_BYTES {
        let from = n * CHUNK_BYTES % data.len();
        file.write_all(&data[from..from + CHUNK_BYTES])?;
    }
    file.sync_all()?;
    drop(file);
    Ok((bytes as f64 / f64::from(1 << 20), begin.elapsed()))
}

fn read(path: &Path) -> Done {
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut file = File::open(path)?;
    let begin = Instant::now();
    let mut bytes = 0;
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            n => bytes += n,
        }
    }
    Ok((bytes as f64 / f64::from(1 << 20), begin.elapsed()))
}

/// Runs a job several times at once: the sum of what they did, and the time of the slowest.
fn in_parallel(jobs: u64, work: impl Fn(u64) -> Done + Sync) -> Done {
    let work = &work;
    let done: Vec<Done> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..jobs).map(|job| scope.spawn(move || work(job))).collect();
        let panicked = |_| Err(io::Error::other("a job panicked"));
        running.into_iter().map(|job| job.join().unwrap_or_else(panicked)).collect()
    });
    let mut all = (0.0, Duration::ZERO);
    for one in done {
        let (amount, took) = one?;
        all = (all.0 + amount, all.1.max(took));
    }
    Ok(all)
}

/// Reads pages of one part of a file, as many as `count`, for no longer than `time`.
fn random_read(path: &Path, (job, jobs): (u64, u64), count: u64, time: Duration, stop: &Stop) -> Done {
    let file = File::open(path)?;
    let pages = file.metadata()?.len() / PAGE_BYTES / jobs;
    let mut dice = Dice::new(100 + job);
    let mut page = [0; PAGE_BYTES as usize];
    let begin = Instant::now();
    let mut done = 0;
    while done < count && !(done % 64 == 0 && (begin.elapsed() > time || stop.asked())) {
        file.read_exact_at(&mut page, (job * pages + dice.below(pages)) * PAGE_BYTES)?;
        done += 1;
    }
    Ok((done as f64, begin.elapsed()))
}

fn overwrite(path: &Path, corpus: &Corpus, stop: &Stop) -> Done {
    let file = OpenOptions::new().write(true).open(path)?;
    let pages = file.metadata()?.len() / PAGE_BYTES;
    let mut dice = Dice::new(7);
    let begin = Instant::now();
    let mut done = 0;
    while done < corpus.sizes.overwrites && !(done % 64 == 0 && (begin.elapsed() > LIMIT || stop.asked())) {
        file.write_all_at(page_of(corpus, done), dice.below(pages) * PAGE_BYTES)?;
        done += 1;
    }
    file.sync_all()?;
    drop(file);
    Ok((done as f64, begin.elapsed()))
}

fn write_and_sync(path: &Path, corpus: &Corpus, job: u64, time: Duration, stop: &Stop) -> Done {
    let file = OpenOptions::new().write(true).open(path)?;
    let pages = file.metadata()?.len() / PAGE_BYTES;
    let mut dice = Dice::new(200 + job);
    let begin = Instant::now();
    let mut done = 0;
    while begin.elapsed() < time && !stop.asked() {
        file.write_all_at(page_of(corpus, done), dice.below(pages) * PAGE_BYTES)?;
        file.sync_all()?;
        done += 1;
    }
    Ok((done as f64, begin.elapsed()))
}

fn page_of(corpus: &Corpus, n: usize) -> &[u8] {
    let pages = corpus.random.len() / PAGE_BYTES as usize;
    &corpus.random[n % pages * PAGE_BYTES as usize..][..PAGE_BYTES as usize]
}

fn create(dir: &Path, corpus: &Corpus) -> Done {
    timed(|| {
        fs::create_dir(dir)?;
        let mut made = 0;
        for d in 0..DIRECTORIES {
            fs::create_dir(dir.join(format!("d{d}")))?;
            for f in 0..corpus.sizes.files / DIRECTORIES {
                let mut file = File::create_new(dir.join(format!("d{d}/f{f}")))?;
                file.write_all(page_of(corpus, made))?;
                made += 1;
            }
        }
        sync_all(dir)?;
        Ok(made)
    })
}

fn stat(dir: &Path, files: usize) -> Done {
    timed(|| {
        for d in 0..DIRECTORIES {
            for f in 0..files / DIRECTORIES {
                fs::symlink_metadata(dir.join(format!("d{d}/f{f}")))?;
            }
        }
        Ok(files)
    })
}

/// Looks at every entry below a directory, and hands over the files. Returns how many files there are.
fn walk(dir: &Path, visit: &mut dyn FnMut(&Path) -> io::Result<()>) -> io::Result<usize> {
    let mut files = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.metadata()?.is_dir() {
            files += walk(&entry.path(), visit)?;
        } else {
            visit(&entry.path())?;
            files += 1;
        }
    }
    Ok(files)
}

/// Runs a command, and makes what it wrote to a filesystem survive a crash.
fn command(command: &mut Command, sync: Option<&Path>) -> Done {
    let begin = Instant::now();
    let out = command.output()?;
    if let Some(dir) = sync {
        sync_all(dir)?;
    }
    let took = begin.elapsed();
    if out.status.success() {
        Ok((1.0, took))
    } else {
        Err(io::Error::other(String::from_utf8_lossy(&out.stderr).trim().to_owned()))
    }
}
