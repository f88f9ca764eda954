//! A second look, where what rows showed may have gone since they were read.
//!
//! Who reads takes no lock: between reading a row and reading what it leads to, an extent or another row, it may come to lead elsewhere
//! (something was overwritten, removed, or written again by the cleaner), and what it led to may go, the extent back to the disk. So
//! what is not there is damage only if a second look, from the rows on, comes to the same end.

use crate::base::{Error, Result};

/// Looks at what goes on changing under the reader, after which a damage is believed.
const LOOKS: usize = 16;

/// Reads rows and what they lead to: again, where that ends in damage, until two looks in a row end in the same.
///
/// # Errors
/// What the last look says.
pub(super) fn look_again<T>(look: &mut dyn FnMut() -> Result<T>) -> Result<T> {
    let mut before = None;
    for _ in 1..LOOKS {
        match look() {
            Err(Error::Damaged(damage)) if before.as_ref() != Some(&damage) => before = Some(damage),
            done => return done,
        }
    }
    look()
}

/// What happens to a reader of this thread that has read a row, before it reads the extent.
#[cfg(test)]
pub(super) mod held {
    use std::cell::RefCell;

    type Step = Box<dyn FnOnce()>;

    thread_local! {
        static NEXT: RefCell<Option<(usize, Step)>> = const { RefCell::new(None) };
    }

    /// The reader of so many extents before passes; before the next one, this happens, once.
    pub(in crate::store) fn after(extents: usize, step: impl FnOnce() + 'static) {
        NEXT.with(|next| *next.borrow_mut() = Some((extents, Box::new(step))));
    }

    pub(in crate::store) fn is_over() -> bool {
        NEXT.with(|next| next.borrow().is_none())
    }

    pub(in crate::store) fn happens() {
        let step = NEXT.with(|next| {
            let mut next = next.borrow_mut();
            match &mut *next {
                Some((0, _)) => next.take(),
                Some((left, _)) => {
                    *left -= 1;
                    None
                }
                None => None,
            }
        });
        if let Some((_, step)) = step {
            step();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::FileExt, path::Path, sync::Arc};

    use super::*;
    use crate::{
        base::{FsError, Ino, Lsn, VersionId},
        format::facts::Owner,
        store::{
            Goal, NewObject, Options, Parcel, Policy, Retention, Store, VersionInfo, differences::Onward,
        },
    };

    const CHUNK: usize = crate::base::limits::CHUNK_BYTES as usize;
    const FILE: usize = 4 * CHUNK;

    fn bytes(seed: u64) -> Vec<u8> {
        let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        std::iter::repeat_with(|| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            (x >> 32) as u8
        })
        .take(FILE)
        .collect()
    }

    struct Scene {
        store: Arc<Store>,
        ino: Ino,
        /// What the file shows.
        now: Vec<u8>,
        path: std::path::PathBuf,
        _dir: tempfile::TempDir,
    }

    fn new(path: &Path) -> Arc<Store> {
        let options = Options { background: false, segment_bytes: 1 << 20, ..Options::default() };
        Arc::new(Store::create(path, options).unwrap())
    }

    /// A file in large extents, most of each written over since; and the log has gone on behind it.
    fn scene() -> Scene {
        let dir = tempfile::tempdir().unwrap();
        let store = new(&dir.path().join("s"));
        let file = NewObject::file(0o644, Owner::default());
        let ino = store.create_object(Ino::FIRST, b"f", &file).unwrap().1.ino;
        let mut now = bytes(1);
        store.write(ino, 0, &now).unwrap();
        store.commit_version(ino).unwrap();
        let over = bytes(2);
        for at in (0..FILE).step_by(64 << 10) {
            store.write(ino, at as u64, &over[at..at + (48 << 10)]).unwrap();
            now[at..at + (48 << 10)].copy_from_slice(&over[at..at + (48 << 10)]);
        }
        store.commit_version(ino).unwrap();
        let other = store.create_object(Ino::FIRST, b"other", &file).unwrap().1.ino;
        for n in 0..4 {
            store.write(other, n * FILE as u64, &bytes(3 + n)).unwrap();
        }
        store.commit_version(other).unwrap();
        store.sync_all().unwrap();
        Scene { store, ino, now, path: dir.path().join("s"), _dir: dir }
    }

    /// Nothing of the first version is kept, what is left of its extents is written again, and they are given back.
    fn clean(store: &Store) {
        store.set_retention(Retention::everywhere(Policy::Never));
        store.expire(Ino::FIRST, 1 << 62).unwrap();
        for _ in 0..4 {
            store.clean(Goal::ALL).unwrap();
        }
        assert!(store.cleaned().segments > 0, "{:?}", store.cleaned());
    }

    impl Scene {
        fn held(&self, extents: usize, step: impl FnOnce(&Store, Ino) + 'static) {
            let (store, ino) = (Arc::clone(&self.store), self.ino);
            let there = store.segments();
            held::after(extents, move || {
                step(&store, ino);
                assert_ne!(there[0].id, store.segments()[0].id, "the first segment was given back");
            });
        }

        fn versions(&self) -> Vec<VersionInfo> {
            self.store.view().versions(self.ino, None, 10).unwrap()
        }

        fn newest(&self) -> VersionInfo {
            self.versions().pop().unwrap()
        }
    }

    fn over<T>(done: T) -> T {
        assert!(held::is_over(), "the reader came past an extent");
        done
    }

    #[test]
    fn a_reader_is_given_what_shows_by_now() {
        for extents in [0, 1, 5] {
            let s = scene();
            s.held(extents, |store, _| clean(store));
            let mut out = vec![0; FILE];
            assert_eq!(over(s.store.view().read(s.ino, 0, &mut out)).unwrap(), FILE);
            assert!(out == s.now);

            let s = scene();
            s.held(extents, |store, _| clean(store));
            out.fill(0);
            let read = over(s.store.view().read_at_once(s.ino, 0, &mut out)).unwrap();
            // Whether it had to wait for the disk is another question.
            assert!(read.is_none() || out == s.now);

            let s = scene();
            let v = s.newest();
            s.held(extents, |store, _| clean(store));
            out.fill(0);
            assert_eq!(over(s.store.read_version(s.ino, v.lsn, 0, &mut out)).unwrap(), FILE);
            assert!(out == s.now);

            let s = scene();
            let at = s.store.last_lsn();
            s.held(extents, |store, _| clean(store));
            out.fill(0);
            assert_eq!(over(s.store.view_at(at).read(s.ino, 0, &mut out)).unwrap(), FILE);
            assert!(out == s.now);
        }
    }

    #[test]
    fn a_file_that_was_cut_meanwhile_shows_what_it_is_now() {
        let s = scene();
        s.held(2, |store, ino| {
            store.truncate(ino, 0).unwrap();
            store.truncate(ino, FILE as u64).unwrap();
            store.commit_version(ino).unwrap();
            clean(store);
        });
        let mut out = vec![1; FILE];
        over(s.store.view().read(s.ino, 0, &mut out)).unwrap();
        assert!(out[CHUNK..].iter().all(|b| *b == 0), "what was read later is not damaged, and not older");
    }

    #[test]
    fn a_version_that_is_removed_meanwhile_is_not_there() {
        let gone = |read: Result<usize>| assert!(matches!(over(read), Err(Error::Fs(FsError::NotFound))));
        for cleaned in [false, true] {
            let remove = move |store: &Store, _: Ino| {
                store.set_retention(Retention::everywhere(Policy::Never));
                assert_eq!(store.expire(Ino::FIRST, 1 << 62).unwrap().0, 1);
                if cleaned {
                    clean(store);
                }
            };
            let held = |s: &Scene| {
                let (store, ino) = (Arc::clone(&s.store), s.ino);
                held::after(2, move || remove(&store, ino));
            };
            let mut out = vec![0; FILE];
            let s = scene();
            let first = s.versions()[0].clone();
            held(&s);
            gone(s.store.read_version(s.ino, first.lsn, 0, &mut out));
            let s = scene();
            held(&s);
            gone(s.store.view_at(first.lsn).read(s.ino, 0, &mut out));
        }
    }

    #[test]
    fn a_hash_is_that_of_what_shows() {
        let s = scene();
        let newest = s.newest();
        let right = s.store.content_hash(s.ino, newest.lsn).unwrap();
        s.held(1, |store, _| clean(store));
        assert_eq!(over(s.store.content_hash(s.ino, newest.lsn)).unwrap(), right);

        let s = scene();
        let newest = s.newest();
        let right = s.store.content_hash(s.ino, newest.lsn).unwrap();
        let row = s.store.version_there(s.ino, newest.lsn).unwrap();
        s.held(1, |store, _| clean(store));
        over(s.store.hash_version(s.ino, newest.lsn, &row)).unwrap();
        assert_eq!(s.newest().hash, Some(right));
    }

    fn parcels(s: &Store) -> Vec<Parcel> {
        s.parcels(&Default::default(), Lsn::FIRST, usize::MAX).unwrap().0
    }

    /// Does another store make the newest version of what it is told?
    fn told(s: &Scene, parcels: &[Parcel], id: VersionId) -> bool {
        let dir = tempfile::tempdir().unwrap();
        let other = new(&dir.path().join("other"));
        for p in parcels {
            other.import(p, &mut |id| s.store.extent_bytes(p, id)).unwrap();
        }
        for lacking in other.lacking(None, 10).unwrap() {
            other.take_supply(&lacking, &mut &*s.store).unwrap();
        }
        let Some((ino, at)) = other.find_version(id).unwrap() else { return false };
        let mut out = vec![0; FILE];
        other.read_version(ino, at, 0, &mut out).unwrap();
        out == s.now
    }

    #[test]
    fn others_are_told_what_shows() {
        for extents in [0, 1, 5] {
            let s = scene();
            let id = s.newest().id;
            s.held(extents, |store, _| clean(store));
            let found = over(parcels(&s.store));
            assert!(told(&s, &found, id), "parcels, after {extents}");

            let s = scene();
            let id = s.newest().id;
            s.held(extents, |store, _| clean(store));
            let supplied = over(s.store.supply(id, &[], Onward::default())).unwrap().unwrap();
            let all: u64 = supplied.ranges.iter().map(|r| r.len).sum();
            assert_eq!(all, FILE as u64);
            for (named, ..) in &supplied.sources {
                s.store.source_bytes(&supplied.sources, named).unwrap();
            }
        }
    }

    #[test]
    fn what_was_named_and_is_gone_is_not_damaged() {
        let s = scene();
        let id = s.newest().id;
        let old = parcels(&s.store);
        s.held(0, |store, _| clean(store));
        let (mut gone, mut there) = (0, 0);
        for p in &old {
            for named in p.sources.keys() {
                match (s.store.extent_bytes(p, named), s.store.extent_as_stored(p, named)) {
                    (Ok(_), Ok(_)) => there += 1,
                    (Err(Error::Fs(FsError::NotFound)), Err(Error::Fs(FsError::NotFound))) => gone += 1,
                    other => panic!("{other:?}"),
                }
            }
        }
        assert!(gone > 0 && there > 0, "{gone} gone, {there} there");
        assert!(told(&s, &old, id), "what is lacking then is supplied");
    }

    fn keep_extents(from: &Store, p: &Parcel, to: &Store) {
        for named in p.sources.keys() {
            let (payload, hash) = from.extent_as_stored(p, named).unwrap();
            let head = crate::format::wire::ExtentHead {
                request: 0,
                id: *named,
                codec: payload.codec(),
                stored_len: payload.stored().len() as u32,
                raw_len: payload.raw_len(),
                raw_crc: payload.raw_crc(),
                hash,
            };
            to.keep_extent(p.origin, named, payload.stored().to_vec(), &head).unwrap();
        }
    }

    #[test]
    fn what_came_before_its_facts_stays_while_more_is_expected() {
        let (a, dir) = (scene(), tempfile::tempdir().unwrap());
        let b = new(&dir.path().join("b"));
        let all = parcels(&a.store);
        let p = all.iter().max_by_key(|p| p.sources.len()).unwrap();
        keep_extents(&a.store, p, &b);
        // Enough behind it for the segments to be sealed, and something else to clean.
        let file = NewObject::file(0o644, Owner::default());
        let ino = b.create_object(Ino::FIRST, b"other", &file).unwrap().1.ino;
        for n in 0..6 {
            b.write(ino, 0, &vec![n; 1 << 20]).unwrap();
        }
        clean(&b);
        assert_eq!(b.lacking_extents(p).unwrap(), [], "nothing of it is to be fetched again");
        // Nobody waits for it any more.
        b.arrived(&p.origin);
        clean(&b);
        let named: std::collections::BTreeSet<_> = p.sources.keys().copied().collect();
        assert_eq!(b.lacking_extents(p).unwrap().len(), named.len());
    }

    #[test]
    fn what_arrives_over_something_that_moves_has_its_hash() {
        let mut right = 0;
        for extents in [1, 6, 10] {
            let (a, dir) = (scene(), tempfile::tempdir().unwrap());
            let b = new(&dir.path().join("b"));
            for p in &parcels(&a.store) {
                b.import(p, &mut |id| a.store.extent_bytes(p, id)).unwrap();
            }
            a.store.write(a.ino, 100, &[7; 1000]).unwrap();
            a.store.commit_version(a.ino).unwrap();
            a.store.sync_all().unwrap();
            let v = a.newest();
            let hash = a.store.content_hash(a.ino, v.lsn).unwrap();
            let more = a.store.parcels(&b.knowledge().unwrap(), Lsn::FIRST, usize::MAX).unwrap().0;
            let [p] = &more[..] else { panic!("{more:?}") };
            keep_extents(&a.store, p, &b);
            b.sync_all().unwrap();
            let store = Arc::clone(&b);
            held::after(extents, move || {
                // What only a name keeps is moved once more, and goes with the segment where it is then.
                clean(&store);
                let file = NewObject::file(0o644, Owner::default());
                let ino = store.create_object(Ino::FIRST, b"more", &file).unwrap().1.ino;
                for n in 0..4 {
                    store.write(ino, n * FILE as u64, &bytes(20 + n)).unwrap();
                }
                store.commit_version(ino).unwrap();
                clean(&store);
                assert!(store.cleaned().segments > 1);
            });
            match over(b.hash_of_arriving(p, v.id)) {
                Ok(Some(found)) => {
                    assert_eq!(found, hash);
                    right += 1;
                }
                // The cleaner may take what only a name keeps; then it is asked for again.
                Err(Error::Fs(FsError::Stale)) => {}
                found => panic!("{found:?}"),
            }
        }
        assert!(right > 0);
    }

    #[test]
    fn real_damage_is_told_at_the_second_look() {
        let damaged = |place: fn(usize) -> usize| {
            let mut looks = 0;
            let read: Result<()> = look_again(&mut || {
                looks += 1;
                Err(crate::base::Damage::file("index", place(looks) as u64, "it is").into())
            });
            assert!(matches!(read, Err(Error::Damaged(_))), "{read:?}");
            looks
        };
        assert_eq!(damaged(|_| 5), 2, "the second look ends in the same");
        assert_eq!(damaged(|looks| looks), LOOKS, "it ends");
        // Bytes of an extent that shows turn on the disk.
        let s = scene();
        let extent = s.store.view().extents(s.ino, 0, 1).unwrap()[0];
        let path = s.path.join(crate::segment::path(extent.location.segment));
        let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        file.write_all_at(&[0xa5; 8192], extent.location.offset + 8192).unwrap();
        let mut out = vec![0; FILE];
        let damaged = [
            s.store.view().read(s.ino, 0, &mut out).map(drop),
            s.store.read_version(s.ino, s.newest().lsn, 0, &mut out).map(drop),
            s.store.content_hash(s.ino, s.newest().lsn).map(drop),
        ];
        assert!(damaged.iter().all(|d| matches!(d, Err(Error::Damaged(_)))), "{damaged:?}");
    }
}
