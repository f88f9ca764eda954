//! What counts as a frame, and as a batch.

use super::*;

/// A frame with this text, alone in a batch at 4096 of segment 3.
fn lone_batch(text: &str, more: &[&str]) -> Vec<u8> {
    let mut b = segment::BatchBuilder::new(SegmentId::new(3), Seed::of(9), 4096, Lsn::new(1));
    for (n, t) in std::iter::once(&text).chain(more).enumerate() {
        let p = Prepared::record(t.as_bytes().to_vec());
        let lsn = Lsn::new(n as u64 + 1);
        let parts = segment::FrameParts {
            kind: Kind::Base,
            flags: 0,
            lsn,
            ino: Ino::new(0),
            head: None,
            payload: &p,
        };
        b.push(&parts, true);
    }
    b.close(Lsn::new(0), 0).pieces().concat()
}

#[test]
pub(super) fn an_envelope_counts_only_in_its_place_and_life() {
    let batch = lone_batch("text", &[]);
    let decode = |bytes: &[u8], salt, id, at, limit| {
        Envelope::decode(&bytes[..64], Seed::of(salt), SegmentId::new(id), at, limit)
    };
    assert!(decode(&batch, 9, 3, 4096, 8192).is_ok());
    assert!(decode(&batch, 8, 3, 4096, 8192).is_err(), "an earlier life");
    assert!(decode(&batch, 9, 4, 4096, 8192).is_err(), "another segment");
    assert!(decode(&batch, 9, 3, 8192, 1 << 20).is_err(), "another place");
    assert!(decode(&batch, 9, 3, 4096, 4100).is_err(), "beyond the end");
    for i in 0..64 {
        let mut bad = batch.clone();
        bad[i] ^= 2;
        assert!(decode(&bad, 9, 3, 4096, 8192).is_err(), "flip at {i}");
    }
}

#[test]
pub(super) fn frames_of_two_batches_at_one_place_are_no_batch() {
    let (a, b) = (lone_batch("aaaa", &["bbbb"]), lone_batch("cccc", &["bbbb"]));
    let scan = |bytes: &[u8]| {
        let disk = MemDisk::new();
        let file = crate::disk::Disk::create(&*disk, &path(3)).unwrap();
        file.write_at(&[bytes], 4096).unwrap();
        let header = SegmentHeader {
            store: STORE,
            segment: SegmentId::new(3),
            salt: 9,
            first_lsn: Lsn::new(1),
            predecessor: None,
            predecessor_end: 0,
            capacity: 65536,
            created_ns: 0,
            incarnation: crate::base::Incarnation::new(1),
            durable_lsn: Lsn::new(0),
        };
        match segment::Scan::new(file, &header, 4096, 65536).next_found() {
            Some(segment::Found::Batch(b)) => b.is_whole(),
            other => panic!("{other:?}"),
        }
    };
    assert!(scan(&a) && scan(&b));
    let mixed = [&a[..72], &b[72..]].concat();
    assert!(!scan(&mixed));
}
