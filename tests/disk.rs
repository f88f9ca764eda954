//! What every disk must do: the same suite for the real one, with each engine, and the simulated one.

use std::{io::ErrorKind, path::Path, sync::Arc};

use segfs::disk::{AlignedBuffer, Disk, DiskFile, Engine, RealDisk};

use crate::sim::disk::SimDisk;

/// Runs a check on every kind of disk, each with an empty directory.
fn everywhere(check: impl Fn(&dyn Disk)) {
    check(&SimDisk::new(1));
    for engine in [Engine::Plain, Engine::Auto] {
        let dir = tempfile::tempdir().unwrap();
        check(&RealDisk::open(dir.path(), engine).unwrap());
    }
}

fn path(text: &str) -> &Path {
    Path::new(text)
}

fn content(file: &Arc<dyn DiskFile>) -> Vec<u8> {
    let mut bytes = vec![0xAA; file.len().unwrap() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn kind<T>(result: std::io::Result<T>) -> ErrorKind {
    result.err().expect("an error").kind()
}

#[test]
fn engines_are_what_was_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(RealDisk::open(dir.path(), Engine::Plain).unwrap().engine(), "plain");
    let auto = RealDisk::open(dir.path(), Engine::Auto).unwrap().engine();
    match RealDisk::open(dir.path(), Engine::IoUring) {
        Ok(disk) => assert_eq!((disk.engine(), auto), ("io_uring", "io_uring")),
        Err(e) => assert_eq!(auto, "plain", "{e}"),
    }
    assert_eq!(SimDisk::new(1).engine(), "simulated");
    assert_eq!(kind(RealDisk::open(&dir.path().join("missing"), Engine::Auto)), ErrorKind::NotFound);
}

#[test]
fn writes_are_read_back() {
    everywhere(|disk| {
        let file = disk.create(path("f")).unwrap();
        file.write_at(&[b"hello ", b"", b"world"], 3).unwrap();
        assert_eq!(content(&file), b"\0\0\0hello world");
        file.write_and_sync(&[b"HE", b"L"], 3).unwrap();
        file.start_writeback(0, 100);
        file.sync().unwrap();
        assert_eq!(content(&disk.open(path("f"), false).unwrap()), b"\0\0\0HELlo world");
        let mut buffer = [9; 8];
        // What was just written is in memory. Some filesystems can't tell.
        if let Some(n) = file.read_at_once(&mut buffer, 9).unwrap() {
            assert_eq!((n, &buffer[..5]), (5, &b"world"[..]));
            assert_eq!(file.read_at_once(&mut buffer, 1 << 40).unwrap(), Some(0));
        }
        buffer = [9; 8];
        assert_eq!(file.read_at(&mut buffer, 9).unwrap(), 5, "short only at the end");
        assert_eq!(&buffer[..5], b"world");
        assert_eq!(file.read_at(&mut buffer, 14).unwrap(), 0);
        assert_eq!(file.read_at(&mut buffer, 1 << 40).unwrap(), 0);
        assert_eq!(kind(file.read_exact_at(&mut buffer, 9)), ErrorKind::UnexpectedEof);
        file.write_at(&[], 500).unwrap();
        file.write_and_sync(&[b""], 500).unwrap();
        assert_eq!(file.len().unwrap(), 14, "no bytes, no change");
    });
}

#[test]
fn commits_of_every_size_and_alignment_arrive() {
    everywhere(|disk| {
        let file = disk.create(path("f")).unwrap();
        let mut buffer = AlignedBuffer::new();
        for i in 0..(5_u32 << 20) / 4 {
            buffer.extend_from_slice(&i.wrapping_mul(2_654_435_761).to_le_bytes());
        }
        let all: &[u8] = &buffer;
        let mut model = Vec::new();
        // Large and aligned (what the ring takes), and wrong by a byte in start, end or memory; growing, over
        // what is there, and over what is only in the page cache.
        let commits = [
            (&all[..4096], 0_u64),
            (&all[..1 << 20], 4096),
            (&all[..5 << 20], 8192),
            (&all[4096..(2 << 20) + 4096], 0),
            (&all[1..(1 << 20) + 1], 4096),
            (&all[..(2 << 20) + 1], 4096),
            (&all[..2 << 20], 7),
            (&all[..3 << 20], 4096),
        ];
        for (bytes, offset) in commits {
            let (start, end) = (offset as usize, offset as usize + bytes.len());
            model.resize(model.len().max(end), 0);
            model[start..end].copy_from_slice(bytes);
            // Not yet synced bytes next to a commit must become durable with it, and not be lost to it.
            file.write_at(&[b"dirty"], end as u64).unwrap();
            model.resize(model.len().max(end + 5), 0);
            model[end..end + 5].copy_from_slice(b"dirty");
            file.write_and_sync(&[bytes], offset).unwrap();
            assert!(content(&file) == model, "{} bytes at {offset}", bytes.len());
        }
        let (a, b) = all.split_at(3 << 20);
        file.write_and_sync(&[a, b], 4096).unwrap();
        model[4096..4096 + all.len()].copy_from_slice(all);
        assert!(content(&file) == model, "in two pieces");
        // As a batch of the log: many pieces of any length that come to whole blocks, some longer than what is
        // submitted at once.
        let lengths = [1, 64, 100_003, 4 << 20, 5, 0, 900_000];
        let mut pieces = Vec::new();
        let mut at = 1;
        for n in lengths {
            pieces.push(&all[at % 4096..at % 4096 + n]);
            at += n;
        }
        let rest = (at - 1).next_multiple_of(4096) - (at - 1);
        pieces.push(&all[77..77 + rest]);
        file.write_and_sync(&pieces, 8192).unwrap();
        let whole = pieces.concat();
        model.resize(model.len().max(8192 + whole.len()), 0);
        model[8192..8192 + whole.len()].copy_from_slice(&whole);
        assert!(content(&file) == model, "in many pieces");
    });
}

#[test]
fn lengths_are_set_and_space_is_reserved() {
    everywhere(|disk| {
        let file = disk.create(path("f")).unwrap();
        file.allocate(0).unwrap();
        file.allocate(10_000).unwrap();
        assert_eq!(content(&file), [0; 10_000]);
        file.write_at(&[&[1; 10_000]], 0).unwrap();
        file.allocate(5_000).unwrap();
        assert_eq!(file.len().unwrap(), 10_000, "reserving cuts nothing");
        file.set_len(5_000).unwrap();
        file.set_len(6_000).unwrap();
        assert_eq!(content(&file), [[1; 5_000].as_slice(), &[0; 1_000]].concat());
        let space = disk.space().unwrap();
        assert!(space.free_bytes > 0 && space.free_bytes <= space.total_bytes);
    });
}

#[test]
fn names_are_made_listed_moved_and_removed() {
    everywhere(|disk| {
        assert!(disk.list(path("")).unwrap().is_empty());
        disk.create_dir(path("a/b/c")).unwrap();
        disk.create_dir(path("a/b")).unwrap();
        for name in ["a/2", "a/1", "a/b/x", "top"] {
            disk.create(path(name)).unwrap().write_at(&[name.as_bytes()], 0).unwrap();
        }
        assert_eq!(disk.list(path("a")).unwrap(), ["1", "2", "b"]);
        assert_eq!(disk.list(path("./a/b")).unwrap(), ["c", "x"]);
        assert_eq!(disk.list(path(".")).unwrap(), ["a", "top"]);
        let two = disk.open(path("a/2"), false).unwrap();
        disk.rename(path("a/1"), path("a/2")).unwrap();
        assert_eq!(content(&two), b"a/2", "an open file stays what it is");
        assert_eq!(content(&disk.open(path("a/2"), false).unwrap()), b"a/1");
        disk.rename(path("a/2"), path("a/b/y")).unwrap();
        disk.rename(path("a/b/y"), path("a/b/y")).unwrap();
        disk.remove(path("a/b/x")).unwrap();
        for dir in ["", ".", "a", "a/b"] {
            disk.sync_dir(path(dir)).unwrap();
        }
        assert_eq!(disk.list(path("a")).unwrap(), ["b"]);
        assert_eq!(disk.list(path("a/b")).unwrap(), ["c", "y"]);
    });
}

#[test]
fn mistakes_are_told_by_their_kind() {
    everywhere(|disk| {
        disk.create_dir(path("d")).unwrap();
        disk.create(path("f")).unwrap().write_at(&[b"abc"], 0).unwrap();
        assert_eq!(kind(disk.create(path("f"))), ErrorKind::AlreadyExists);
        assert_eq!(kind(disk.create(path("d"))), ErrorKind::AlreadyExists);
        assert_eq!(kind(disk.open(path("none"), false)), ErrorKind::NotFound);
        assert_eq!(kind(disk.open(path("d"), true)), ErrorKind::IsADirectory);
        assert_eq!(kind(disk.create(path("none/f"))), ErrorKind::NotFound);
        assert_eq!(kind(disk.list(path("none"))), ErrorKind::NotFound);
        assert_eq!(kind(disk.list(path("f"))), ErrorKind::NotADirectory);
        assert_eq!(kind(disk.sync_dir(path("none"))), ErrorKind::NotFound);
        assert_eq!(kind(disk.create_dir(path("f"))), ErrorKind::NotADirectory);
        assert_eq!(kind(disk.rename(path("none"), path("g"))), ErrorKind::NotFound);
        assert_eq!(kind(disk.rename(path("f"), path("none/g"))), ErrorKind::NotFound);
        assert_eq!(kind(disk.rename(path("f"), path("d"))), ErrorKind::IsADirectory);
        assert_eq!(kind(disk.remove(path("none"))), ErrorKind::NotFound);
        assert_eq!(kind(disk.remove(path("d"))), ErrorKind::IsADirectory);
        for outside in ["/etc/passwd", "../x", "d/../../x"] {
            assert_eq!(kind(disk.open(path(outside), false)), ErrorKind::InvalidInput, "{outside}");
            assert_eq!(kind(disk.create(path(outside))), ErrorKind::InvalidInput, "{outside}");
        }
        let file = disk.open(path("f"), false).unwrap();
        file.write_at(&[b"x"], 0).unwrap_err();
        file.write_and_sync(&[&vec![1; 2 << 20]], 0).unwrap_err();
        file.set_len(1).unwrap_err();
        file.allocate(100).unwrap_err();
        assert_eq!(content(&file), b"abc");
    });
}

#[test]
fn a_lock_has_one_holder_who_says_so() {
    everywhere(|disk| {
        // What a killed holder has left behind is longer than what we say, and locks nothing.
        disk.create(path("LOCK")).unwrap().write_at(&[&[b'x'; 100]], 0).unwrap();
        let first = disk.lock(path("LOCK"), "process 17, mounting").unwrap();
        let error = disk.lock(path("LOCK"), "process 18").err().unwrap();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        assert_eq!(error.to_string(), "process 17, mounting");
        assert_eq!(content(&disk.open(path("LOCK"), false).unwrap()), b"process 17, mounting");
        drop(first);
        let _second = disk.lock(path("LOCK"), "p 18").unwrap();
        assert_eq!(content(&disk.open(path("LOCK"), false).unwrap()), b"p 18");
        let _other = disk.lock(path("OTHER"), "p 18").unwrap();
    });
}

/// A store's directory may lie deeper than a path can say, and what is made there is for its owner alone.
#[test]
fn the_real_disk_is_private_and_takes_long_paths() {
    let dir = tempfile::tempdir().unwrap();
    let mut root = dir.path().to_owned();
    let mut disk = RealDisk::open(&root, Engine::Plain).unwrap();
    for _ in 0..20 {
        let name = "x".repeat(250);
        disk.create_dir(path(&name)).unwrap();
        root.push(&name);
        disk = RealDisk::open(&root, Engine::Plain).unwrap();
    }
    root.push("store");
    assert_eq!(kind(RealDisk::open(&root, Engine::Auto)), ErrorKind::NotFound);
    let disk = RealDisk::create(&root, Engine::Auto).unwrap();
    disk.create(path("f")).unwrap().write_and_sync(&[&[1; 10]], 0).unwrap();
    assert_eq!(RealDisk::open(&root, Engine::Auto).unwrap().list(path("")).unwrap(), ["f"]);
    RealDisk::create(&root, Engine::Auto).expect("one that exists is fine");

    use std::os::unix::fs::PermissionsExt;
    let mode = |p: &Path| std::fs::metadata(p).unwrap().permissions().mode() & 0o777;
    let short = dir.path().join("made/store");
    let disk = RealDisk::create(&short, Engine::Auto).unwrap();
    disk.create(path("f")).unwrap();
    disk.create_dir(path("d")).unwrap();
    let _lock = disk.lock(path("LOCK"), "me").unwrap();
    assert_eq!(["", "d", "f", "LOCK"].map(|n| mode(&short.join(n))), [0o700, 0o700, 0o600, 0o600]);
}
