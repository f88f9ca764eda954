//! Two-sided: the same random operations on an ext4 directory and on a mount. Results, errnos, what moved which
//! times, and the trees in between and at the end are the same on both.
//!
//! A failure names the seed and the step, and the command that replays it.

mod act;
pub(super) mod look;
mod ops;

use std::{
    collections::VecDeque,
    env, fs,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use super::ext4::Ext4;
use crate::{
    mount::{self, Mounted},
    sim::rng::Rng,
};
use act::Side;
use ops::{Op, USERS, choose};

/// Seeds in one run, unless `SEGFS_TWOSIDED_SEEDS` says how many or `SEGFS_TWOSIDED_SEED` names one.
const SEEDS: u64 = 40;
/// Operations for each seed, unless `SEGFS_TWOSIDED_STEPS` says how many.
const STEPS: u64 = 1500;
/// The trees are compared after as many steps.
const COMPARE: u64 = 100;

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable} is not a number")))
}

/// The two filesystems, one directory for each seed.
struct Pair {
    mount: Mounted,
    ext4: Ext4,
    seed: u64,
    here: Side,
    there: Side,
    last: VecDeque<String>,
    /// The kernel collects writes for the mount: files are taken for data up to their ends, and times are the kernel's own,
    /// which moves them with its clock's ticks alone.
    collects: bool,
}

impl Pair {
    fn new(seed: u64) -> Self {
        let (mounted, ext4) = (Mounted::for_all_with(&["-o", "noatime"]), Ext4::without_access_times());
        let world = |dir: PathBuf| {
            let root = dir.join("w");
            fs::create_dir(&root).unwrap();
            fs::set_permissions(&root, fs::Permissions::from_mode(0o777)).unwrap();
            Side::new(root)
        };
        let (here, there) = (world(mounted.dir()), world(ext4.dir()));
        let collects = mount::writes_are_collected();
        Self { mount: mounted, ext4, seed, here, there, last: VecDeque::new(), collects }
    }

    #[track_caller]
    fn same(&self, step: u64, what: &str, there: &str, here: &str) {
        if there == here {
            return;
        }
        let last: Vec<&str> = self.last.iter().map(String::as_str).collect();
        panic!(
            "seed {}, step {step}: {what}\n  ext4:  {there}\n  segfs: {here}\nthe last operations:\n  {}\nreplay: \
             SEGFS_TWOSIDED_SEED={} cargo xtask test --only twosided",
            self.seed,
            last.join("\n  "),
            self.seed
        );
    }

    fn step(&mut self, step: u64, rng: &mut Rng) {
        let (user, mut op) = choose(rng);
        if self.collects {
            op = op.near();
        }
        if self.last.len() == 25 {
            self.last.pop_front();
        }
        if let Op::Remount = op {
            return self.remount(step);
        }
        let before = (self.there.times(&op), self.here.times(&op));
        if self.collects && !before.1.is_empty() {
            look::tick();
        }
        let (there, here) = (self.there.act(user, &op), self.here.act(user, &op));
        let after = (self.there.times(&op), self.here.times(&op));
        let text = format!("{step}: user {} {op:?}", USERS[user].0);
        self.last.push_back(format!("{text} = {there}"));
        self.same(step, &text, &there, &here);
        let (there, here) = (look::moved(&before.0, &after.0), look::moved(&before.1, &after.1));
        if !(self.collects && kernel_moves(&op, &there, &here)) {
            self.same(step, &format!("{text}: which times moved"), &there.join(" "), &here.join(" "));
        }
        if let Op::Ranges(slot) = op
            && let (Some(there), Some(here)) = (self.there.file(slot), self.here.file(slot))
        {
            let (there, here) = (look::data_ranges(there), look::data_ranges(here));
            let fine = if self.collects { look::within(&there, &here) } else { look::within(&here, &there) };
            if !fine {
                self.same(
                    step,
                    &format!("{text}: where data is"),
                    &format!("{there:?}"),
                    &format!("{here:?}"),
                );
            }
        }
        if step % COMPARE == COMPARE - 1 {
            self.compare(step);
        }
    }

    fn compare(&self, step: u64) {
        let (there, here) = (look::tree(self.there.root()), look::tree(self.here.root()));
        for (path, text) in &there {
            let here = here.get(path).map_or("is not there", String::as_str);
            self.same(step, &format!("the tree at {path:?}"), text, here);
        }
        for path in here.keys() {
            let there = if there.contains_key(path) { "is there" } else { "is not there" };
            self.same(step, &format!("the tree at {path:?}"), there, "is there");
        }
    }

    fn remount(&mut self, step: u64) {
        self.last.push_back(format!("{step}: unmounted and mounted again"));
        self.here.close_all();
        self.there.close_all();
        self.mount.unmount();
        self.mount.mount(&["-o", "noatime"]);
        self.compare(step);
    }
}

/// Where the kernel keeps times itself, as it does when it collects writes: what it does otherwise than ext4. The change
/// time may move where nothing changed or when the file has left the cache, and neither moves where a file is cut to the size that
/// it has.
fn kernel_moves(op: &Op, there: &[&str], here: &[&str]) -> bool {
    let cut = matches!(op, Op::Truncate(..) | Op::FTruncate(..));
    let fine = |(there, here): (&&str, &&str)| match (*there, *here) {
        ("=", "ctime") | ("mtime", "both") => true,
        ("both", "=" | "ctime") => cut,
        (there, here) => there == here,
    };
    there.len() == here.len() && there.iter().zip(here).all(fine)
}

fn world(seed: u64, steps: u64) {
    let mut pair = Pair::new(seed);
    let mut rng = Rng::new(seed);
    for step in 0..steps {
        pair.step(step, &mut rng);
    }
    pair.remount(steps);
    drop(pair.ext4);
}

#[test]
#[ignore = "cargo xtask test --only twosided"]
fn the_same_operations_do_the_same_as_on_ext4() {
    let steps = number("SEGFS_TWOSIDED_STEPS").unwrap_or(STEPS);
    if let Some(seed) = number("SEGFS_TWOSIDED_SEED") {
        return world(seed, steps);
    }
    let (next, seeds) = (AtomicU64::new(0), number("SEGFS_TWOSIDED_SEEDS").unwrap_or(SEEDS));
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds {
                        return;
                    }
                    if std::panic::catch_unwind(|| world(seed, steps)).is_err() {
                        failed.lock().unwrap().push(seed);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "seeds {failed:?} failed: see above");
}
