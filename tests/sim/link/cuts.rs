//! A recorded session, cut at every byte, in both directions: the next one goes on where it was.

use segfs::{
    base::Ino,
    format::facts::Owner,
    store::{NewObject, Rename, Store},
};

use super::{
    super::agree::{Solo, portrait::portrait},
    wire::{Link, Pair},
};

/// A small tree with something of everything.
fn fill(s: &Store) {
    let owner = Owner::default();
    let dir = s.create_object(Ino::FIRST, b"d", &NewObject::directory(0o755, owner)).unwrap().1.ino;
    let file = |dir, name: &[u8], bytes: &[u8]| {
        let ino = s.create_object(dir, name, &NewObject::file(0o644, owner)).unwrap().1.ino;
        s.write(ino, 0, bytes).unwrap();
        s.commit_version(ino).unwrap();
        ino
    };
    let f = file(dir, b"f", &[1; 900]);
    s.write(f, 700, &[2; 500]).unwrap();
    s.commit_version(f).unwrap();
    file(dir, b"tmp", &[3; 1100]);
    s.rename((dir, b"tmp"), (dir, b"f"), Rename::Replace).unwrap();
    s.create_object(dir, b"l", &NewObject::symlink(&b"f"[..], owner)).unwrap();
    s.set_xattr(dir, b"user.x", Some(b"value"), None).unwrap();
    s.sync_all().unwrap();
}

/// Runs until so many bytes have arrived at one side, then cuts. Says whether there were as many.
fn run_until(pair: &mut Pair<'_>, link: &mut Link, to: usize, bytes: u64) -> bool {
    let now = pair.clock.monotonic_ns();
    loop {
        let mut did = false;
        for n in 0..2 {
            did |= link.carry(n, 100_000);
            let most = if 1 - n == to { bytes - link.seen.as_ref().unwrap()[to].bytes } else { 100_000 };
            did |= link.deliver(1 - n, most as usize, now);
            if let Some(side) = &mut link.sides[n]
                && !side.todo.is_empty()
            {
                side.work(0, pair.stores[n], &mut pair.met[n], now);
                did = true;
            }
        }
        if link.seen.as_ref().unwrap()[to].bytes == bytes {
            return true;
        }
        if !did {
            return false;
        }
    }
}

#[test]
fn a_cut_at_every_byte() {
    let a = Solo::new(1);
    fill(&a.store);
    let whole = portrait(&a.store);
    let mut cuts = 0;
    for to in 0..2 {
        for bytes in 0_u64.. {
            let b = Solo::new(2);
            let mut pair = Pair::new([&a.store, &b.store], &*a.clock);
            let mut link = pair.link();
            let reached = run_until(&mut pair, &mut link, to, bytes);
            let first = link.seen.as_ref().unwrap()[1].data;
            drop(link);
            // Every third time the receiver loses power as well.
            let b = if bytes % 3 == 0 { b.crash(bytes) } else { b };
            let lacked = {
                let known = b.store.knowledge().unwrap();
                let parcels = a.store.parcels(&known, segfs::base::Lsn::FIRST, usize::MAX).unwrap().0;
                let mut ids: Vec<_> =
                    parcels.iter().flat_map(|p| b.store.lacking_extents(p).unwrap()).collect();
                ids.sort();
                ids.dedup();
                let sizes = ids.iter().map(|id| {
                    let of = parcels.iter().find(|p| p.sources.contains_key(id)).unwrap();
                    a.store.extent_bytes(of, id).unwrap().len() as u64
                });
                sizes.sum::<u64>()
            };
            let mut pair = Pair::new([&a.store, &b.store], &*a.clock);
            let link = pair.exchange();
            let second = link.seen.as_ref().unwrap()[1].data;
            assert_eq!(
                second, lacked,
                "cut at byte {bytes} to {to}: what was there came again; first {first}"
            );
            assert!(portrait(&b.store) == whole, "cut at byte {bytes} to {to}");
            assert_eq!(a.store.knowledge().unwrap(), b.store.knowledge().unwrap());
            cuts += 1;
            if !reached {
                break;
            }
        }
    }
    assert!(cuts > 4000, "only {cuts} cuts");
    println!("{cuts} cuts");
}

#[test]
fn a_large_file_goes_on_in_its_middle() {
    const MIB: u64 = 1 << 20;
    let (a, b) = (Solo::large(1), Solo::large(2));
    let f = a.store.create_object(Ino::FIRST, b"f", &NewObject::file(0o644, Owner::default())).unwrap().1.ino;
    for n in 0..12 {
        let bytes: Vec<u8> = (0..MIB).map(|i| ((i * (n + 3)) >> 5) as u8).collect();
        a.store.write(f, n * MIB, &bytes).unwrap();
    }
    a.store.commit_version(f).unwrap();
    a.store.sync_all().unwrap();
    let mut pair = Pair::new([&a.store, &b.store], &*a.clock);
    let mut data = 0;
    let mut connections = 0;
    // A link that is cut after each two and a half megabytes.
    loop {
        let mut link = pair.link();
        let cut = run_until(&mut pair, &mut link, 1, 5 * MIB / 2);
        data += link.seen.as_ref().unwrap()[1].data;
        connections += 1;
        if !cut {
            break;
        }
        assert!(connections < 12, "the file never comes across");
    }
    assert_eq!(portrait(&a.store), portrait(&b.store));
    assert!(connections >= 5, "{connections} connections");
    // Of each cut one extent at most is lost.
    let most = 12 * MIB + connections * MIB;
    assert!((12 * MIB..=most).contains(&data), "{data} bytes for 12 MiB over {connections} connections");
}
