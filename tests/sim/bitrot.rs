//! Every byte of a small store turned over once: each flip is noticed, or changes no answer.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use segfs::{base::Error, disk::Disk, index::FlushedState, store::Options};

use super::{
    compare::Rule,
    disk::SimDisk,
    host::{Host, Ran, Site},
    model::Model,
    rng::Rng,
    workload,
};

/// A small store, closed as it should be.
struct Small {
    disk: SimDisk,
    model: Model,
    index: FlushedState,
    site: Site,
}

fn small() -> Small {
    let options =
        Options { segment_bytes: 64 << 10, background: false, mint_interrupted: false, ..Options::default() };
    let site = Site::new(5, 1_700_000_000_000_000_000, options);
    let mut host = Host::create(SimDisk::new(5), &site);
    let mut rng = Rng::new(5);
    while host.disk.counts().writes < 14 {
        let op = workload::next(&mut rng, host.model.now());
        assert!(matches!(host.apply(&op), Ok(Ran::Agreed)), "{op:?}");
        if rng.percent(15) {
            host.store.sync_all().unwrap();
        }
    }
    host.store.close().unwrap();
    let index = host.index.flushed_states().pop().unwrap();
    Small { disk: host.disk.written_image(), model: host.model, index, site }
}

impl Small {
    /// What becomes of the store with this byte turned over. True: nobody noticed, and every answer is right.
    fn flipped(&self, path: &str, at: u64, index: Option<&FlushedState>) -> Result<bool, String> {
        let disk = self.disk.written_image();
        let mut rng = Rng::new(at);
        disk.flip_bit(path.as_ref(), at, rng.below(8) as u8);
        let host = match Host::open(disk, index, &self.site, self.model.clone()) {
            Ok(host) => host,
            Err(Error::Damaged(_) | Error::NotAStore { .. }) => return Ok(false),
            Err(e) => return Err(e.to_string()),
        };
        let r = host.store.recovered();
        let told = !r.log.damages.is_empty() || !r.superblock_damage.is_empty();
        if host.acked < self.model.lsn() && !told {
            return Err(format!("the log ends at {} instead of {}", host.acked, self.model.lsn()));
        }
        if told || host.check(&mut rng, 1, Rule::Exact).is_err() {
            host.check(&mut rng, 2, Rule::RightOrError)?;
            return Ok(false);
        }
        Ok(true)
    }
}

#[test]
fn no_flipped_byte_becomes_a_wrong_answer() {
    let small = small();
    let mut bytes = vec![("STORE".to_owned(), 8192)];
    for name in small.disk.list("segments".as_ref()).unwrap() {
        let path = format!("segments/{name}");
        let len = small.disk.open(path.as_ref(), false).unwrap().len().unwrap();
        bytes.push((path, len));
    }
    let (quiet, noticed) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for half in 0..2 {
            let (small, bytes, quiet, noticed) = (&small, &bytes, &quiet, &noticed);
            scope.spawn(move || {
                for (path, len) in bytes {
                    for at in (half..*len).step_by(2) {
                        // Every other pair of bytes is read through the index alone.
                        let index = (at / 2 % 2 == 0).then_some(&small.index);
                        let unseen = small.flipped(path, at, index);
                        let unseen = unseen.unwrap_or_else(|e| panic!("byte {at} of {path}: {e}"));
                        if unseen { quiet } else { noticed }.fetch_add(1, Relaxed);
                    }
                }
            });
        }
    });
    let (quiet, noticed) = (quiet.into_inner(), noticed.into_inner());
    println!("{noticed} flips were noticed, {quiet} changed no answer");
    assert!(noticed > 4096, "{noticed} of {} flips were noticed", noticed + quiet);
}
