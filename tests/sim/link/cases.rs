//! Single cases of the protocol: what a session does, and what it refuses.

use segfs::{
    base::{Incarnation, Ino, Lsn},
    format::{
        facts::Owner,
        wire::{Bye, Epoch, Hello, MAGIC, Message, Reason, Splitter, Stretch},
    },
    replicate::{Effect, End, Input, Notice, Session},
    store::{NewObject, Rename, Store},
};

use super::{
    super::{
        agree::{Solo, portrait::portrait},
        disk::Faults,
    },
    wire::{Link, Pair, close, me},
};

const MIB: usize = 1 << 20;

fn file(s: &Store, name: &str, bytes: &[u8]) -> Ino {
    let new = NewObject::file(0o644, Owner::default());
    let ino = s.create_object(Ino::FIRST, name.as_bytes(), &new).unwrap().1.ino;
    write(s, ino, 0, bytes);
    ino
}

fn write(s: &Store, ino: Ino, offset: usize, bytes: &[u8]) {
    for (n, part) in bytes.chunks(MIB).enumerate() {
        s.write(ino, (offset + n * MIB) as u64, part).unwrap();
    }
    s.commit_version(ino).unwrap();
    s.sync_all().unwrap();
}

fn noise(len: usize) -> Vec<u8> {
    let mut x = 1_u64;
    (0..len)
        .map(|_| {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (x >> 33) as u8
        })
        .collect()
}

fn shows(s: &Store, name: &str) -> Option<Vec<u8>> {
    let a = s.view().lookup(Ino::FIRST, name.as_bytes()).ok()?;
    let mut bytes = vec![0; a.size as usize];
    s.view().read(a.ino, 0, &mut bytes).unwrap();
    Some(bytes)
}

#[test]
fn a_small_change_of_a_large_file_sends_the_change() {
    let (a, b) = (Solo::large(1), Solo::large(2));
    let f = file(&a.store, "f", &noise(24 * MIB));
    let mut pair = Pair::new([&a.store, &b.store], &*a.clock);
    pair.exchange();
    write(&a.store, f, 11 * MIB + 77, &[7; 4096]);
    let link = pair.exchange();
    let seen = link.seen.as_ref().unwrap();
    let all = seen[0].bytes + seen[1].bytes;
    assert!((4096..16 << 10).contains(&all), "{all} bytes for a change of 4 KiB");
    assert_eq!(seen[1].wants + seen[0].wants, 1);
    assert_eq!(portrait(&a.store), portrait(&b.store));
    // And what is the same on both sides costs next to nothing.
    let link = pair.exchange();
    let all: u64 = link.seen.as_ref().unwrap().iter().map(|s| s.bytes).sum();
    assert!(all < 600, "{all} bytes to find out that there is nothing");
}

#[test]
fn a_small_file_does_not_wait_for_a_large_one() {
    let (a, b) = (Solo::large(1), Solo::large(2));
    file(&a.store, "large", &noise(40 * MIB));
    file(&a.store, "large too", &noise(9 * MIB + 5));
    let mut pair = Pair::new([&a.store, &b.store], &*a.clock);
    let mut link = pair.link();
    let now = pair.clock.monotonic_ns();
    let mut saved = None;
    // A slow link: so many bytes leave at a time.
    let took = loop {
        for n in 0..2 {
            link.carry(n, 8 << 10);
            link.deliver(1 - n, 8 << 10, now);
            while let Some(side) = &mut link.sides[n]
                && !side.todo.is_empty()
            {
                side.work(0, pair.stores[n], &mut pair.met[n], now);
            }
        }
        let bytes = link.seen.as_ref().unwrap()[1].bytes;
        if bytes > 10 << 20 && saved.is_none() {
            file(&a.store, "small", &[1; 4096]);
            pair.commit(&mut link, 0);
            saved = Some(bytes);
        }
        if let Some(before) = saved
            && shows(&b.store, "small").is_some_and(|s| s == [1; 4096])
        {
            break bytes - before;
        }
        assert!(bytes < 50 << 20, "the small file came last");
    };
    assert!(took < 600 << 10, "{took} bytes of others went before a file of 4 KiB");
    assert_eq!(shows(&b.store, "large"), None, "it is not shown before it is whole");
    pair.run(&mut link);
    assert_eq!(portrait(&a.store), portrait(&b.store));
}

#[test]
fn a_rename_is_not_shown_before_what_it_exposes() {
    let (a, b) = (Solo::large(1), Solo::large(2));
    file(&a.store, "f", b"old");
    let mut pair = Pair::new([&a.store, &b.store], &*a.clock);
    pair.exchange();
    file(&a.store, "tmp", &noise(2 * MIB));
    a.store.rename((Ino::FIRST, b"tmp"), (Ino::FIRST, b"f"), Rename::Replace).unwrap();
    a.store.sync_all().unwrap();
    let mut link = pair.link();
    let now = pair.clock.monotonic_ns();
    let mut states = Vec::new();
    loop {
        let mut did = false;
        for n in 0..2 {
            did |= link.carry(n, 4 << 10);
            did |= link.deliver(1 - n, 4 << 10, now);
            if let Some(side) = &mut link.sides[n]
                && !side.todo.is_empty()
            {
                side.work(0, pair.stores[n], &mut pair.met[n], now);
                did = true;
            }
        }
        let shown = shows(&b.store, "f").map(|bytes| bytes.len());
        if states.last() != Some(&shown) {
            states.push(shown);
        }
        if !did {
            break;
        }
    }
    assert_eq!(states, [Some(3), Some(2 * MIB)]);
}

#[test]
fn an_empty_file_is_shown_although_no_version_follows() {
    let (a, b) = (Solo::new(1), Solo::new(2));
    a.store.create_object(Ino::FIRST, b"empty", &NewObject::file(0o644, Owner::default())).unwrap();
    file(&a.store, "full", b"1");
    let mut pair = Pair::new([&a.store, &b.store], &*a.clock);
    let mut link = pair.exchange();
    assert_eq!((shows(&b.store, "empty"), shows(&b.store, "full")), (Some(Vec::new()), Some(b"1".to_vec())));
    a.store.create_object(Ino::FIRST, b"later", &NewObject::file(0o644, Owner::default())).unwrap();
    pair.commit(&mut link, 0);
    pair.run(&mut link);
    assert_eq!(shows(&b.store, "later"), Some(Vec::new()));
}

#[test]
fn what_cannot_be_taken_in_is_told_and_comes_again() {
    let (a, b) = (Solo::large(1), Solo::large(2));
    file(&a.store, "f", &noise(6 * MIB));
    let mut pair = Pair::new([&a.store, &b.store], &*a.clock);
    b.disk.set_faults(Faults { capacity_bytes: Some(9 << 20), ..Faults::default() });
    let mut link = pair.link();
    pair.run(&mut link);
    let told = |link: &Link| {
        link.notices(0).iter().any(|n| matches!(n, Notice::Aside(_, Reason::NoSpace)))
            && link.notices(1).iter().any(|n| matches!(n, Notice::NotTaken(_, Reason::NoSpace)))
    };
    assert!(told(&link), "{:?}\n{:?}", link.notices(0), link.notices(1));
    assert_eq!(link.ended(0), None, "the connection stands");
    assert_eq!(shows(&b.store, "f").unwrap_or_default(), b"", "no half of it is shown");
    assert!(!link.sides[0].as_ref().unwrap().session.is_idle());
    b.disk.set_faults(Faults::default());
    // The connection stays alive meanwhile, and tries again by itself.
    pair.later(&mut link, 8);
    assert_eq!(portrait(&a.store), portrait(&b.store));
    let session = &link.sides[0].as_ref().unwrap().session;
    assert!(session.is_idle() && session.cursor() > a.store.durable_lsn());
}

#[test]
fn what_failed_and_came_by_another_way_holds_nothing_back() {
    let (a, b, c) = (Solo::large(1), Solo::large(2), Solo::large(3));
    let mut pair = Pair::new([&a.store, &b.store], &*a.clock);
    let mut link = pair.exchange();
    file(&c.store, "f", &noise(6 * MIB));
    Pair::new([&c.store, &a.store], &*a.clock).exchange();
    b.disk.set_faults(Faults { capacity_bytes: Some(9 << 20), ..Faults::default() });
    pair.commit(&mut link, 0);
    pair.run(&mut link);
    assert!(link.notices(1).iter().any(|n| matches!(n, Notice::NotTaken(_, Reason::NoSpace))));
    b.disk.set_faults(Faults::default());
    Pair::new([&c.store, &b.store], &*a.clock).exchange();
    pair.commit(&mut link, 1);
    pair.run(&mut link);
    assert_eq!(portrait(&a.store), portrait(&b.store));
    // The name that waited here for its version has nothing to wait for.
    pair.later(&mut link, 8);
    let session = &link.sides[0].as_ref().unwrap().session;
    assert!(session.is_idle() && session.cursor() > a.store.durable_lsn());
}

/// Lets a session say what it says, and changes its messages on the way.
fn forge(link: &mut Link, pair: &mut Pair<'_>, from: usize, change: &mut dyn FnMut(Message) -> Vec<Message>) {
    let now = pair.clock.monotonic_ns();
    let mut splitter = Splitter::default();
    loop {
        let mut did = false;
        for n in 0..2 {
            let Some(side) = &mut link.sides[n] else { continue };
            let bytes = side.session.output(1 << 20);
            side.gather();
            did |= !bytes.is_empty();
            if n == from {
                splitter.push(&bytes);
                while let Ok(Some(message)) = splitter.next_message() {
                    let changed = change(message);
                    link.pipes[1 - n].extend(changed.iter().flat_map(Message::frame));
                }
            } else {
                link.pipes[1 - n].extend(&bytes);
            }
            did |= link.deliver(1 - n, 1 << 20, now);
            if let Some(side) = &mut link.sides[n]
                && !side.todo.is_empty()
            {
                side.work(0, pair.stores[n], &mut pair.met[n], now);
                did = true;
            }
        }
        if !did {
            return;
        }
    }
}

#[test]
fn bytes_that_are_not_those_of_their_hash_are_not_taken_in() {
    let a = Solo::large(1);
    let f = file(&a.store, "f", &noise(300_000));
    write(&a.store, f, 100_000, &[5; 70_000]);
    let whole = portrait(&a.store);
    // A lie about the content of a version; a range in the wrong place; bytes of an extent changed; its hash changed with them.
    for lie in 0..4 {
        let b = Solo::large(2);
        let mut pair = Pair::new([&a.store, &b.store], &*a.clock);
        let mut link = pair.link();
        let mut done = false;
        forge(&mut link, &mut pair, 0, &mut |mut message| {
            match &mut message {
                Message::Facts(f) if lie == 0 => {
                    for c in &mut f.contents {
                        done = true;
                        c.hash = c.hash.map(|_| [9; 32]);
                    }
                }
                Message::Ranges(_, _, ranges) if lie == 1 => {
                    done = true;
                    ranges[0].offset += 4096;
                    ranges[0].len -= 4096;
                }
                Message::Data(_, bytes) if lie == 2 => {
                    done = true;
                    bytes[0] ^= 1;
                }
                Message::Extent(head) if lie == 3 => {
                    done = true;
                    head.hash[3] ^= 1;
                }
                _ => {}
            }
            vec![message]
        });
        assert!(done, "lie {lie}");
        let reasons: Vec<_> = link.notices(1).iter().filter(|n| matches!(n, Notice::NotTaken(..))).collect();
        assert!(!reasons.is_empty(), "lie {lie}: {:?}", link.notices(1));
        assert!(shows(&b.store, "f").unwrap_or_default().is_empty(), "lie {lie}");
        // Who is honest is believed afterwards.
        drop(link);
        pair.exchange();
        assert!(portrait(&b.store) == whole, "lie {lie}");
    }
}

#[test]
fn without_a_grant_nothing_crosses() {
    let (a, b) = (Solo::new(1), Solo::new(2));
    file(&a.store, "of a", b"1");
    file(&b.store, "of b", b"2");
    let mut pair = Pair::new([&a.store, &b.store], &*a.clock);
    // B lets A read only: A's facts stay away, B's come.
    let mut mine = [pair.me(0), pair.me(1)];
    mine[1].grants[0].write = false;
    let mut link = Link::watched(mine.clone(), 0);
    pair.run(&mut link);
    assert_eq!((shows(&b.store, "of a"), shows(&a.store, "of b")), (None, Some(b"2".to_vec())));
    // An A that does not care is refused, and so is one that asks for what it may not read.
    mine[1].grants[0].read = false;
    file(&b.store, "more of b", b"3");
    let mut link = Link::watched(mine, 0);
    let mut tries = 0;
    forge(&mut link, &mut pair, 1, &mut |message| {
        let message = match message {
            Message::Grants(mut grants) => {
                tries += 1;
                grants[0].write = true;
                Message::Grants(grants)
            }
            other => other,
        };
        vec![message]
    });
    assert_eq!(tries, 1);
    let refused = |n: &&Notice| matches!(n, Notice::NotTaken(_, Reason::NotGranted));
    assert!(link.notices(1).iter().filter(refused).count() > 0, "{:?}", link.notices(1));
    assert_eq!(shows(&b.store, "of a"), None);
    assert_eq!(shows(&a.store, "more of b").unwrap_or_default(), b"", "the names come, the bytes do not");
}

#[test]
fn a_store_does_not_talk_to_itself_nor_to_its_copy() {
    let a = Solo::new(1);
    file(&a.store, "f", b"1");
    let copy = a.on(a.disk.written_image());
    for (x, y) in [(&a, &a), (&a, &copy)] {
        let mut pair = Pair::new([&x.store, &y.store], &*a.clock);
        let mut link = pair.link();
        pair.run(&mut link);
        for n in 0..2 {
            let end = link.ended(n);
            let told = matches!(end, Some(End::Said(Bye::SameStore) | End::Told(Bye::SameStore)));
            assert!(told, "{end:?}");
        }
    }
}

#[test]
fn who_meets_a_store_and_its_copy_says_so() {
    let (a, b) = (Solo::new(1), Solo::new(2));
    file(&a.store, "f", b"1");
    let backup = a.disk.written_image();
    let mut met = Default::default();
    let with = |s: &Store, met: &mut [segfs::replicate::Acquaintances; 2]| {
        let mut link = Link::new([me(&b.store, 0, Lsn::FIRST), me(s, 0, Lsn::FIRST)], 0);
        link.run([&b.store, s], met, 0);
        link.ended(0)
    };
    assert_eq!(with(&a.store, &mut met), None);
    // Its disk was set back; that alone is nothing, and what it lost comes back.
    file(&a.store, "lost", b"2");
    assert_eq!(with(&a.store, &mut met), None);
    let again = a.on(backup);
    assert_eq!(with(&again.store, &mut met), None);
    assert_eq!(shows(&again.store, "lost"), Some(b"2".to_vec()));
    // But then the first is still there.
    assert_eq!(with(&a.store, &mut met), Some(End::Said(Bye::Copy)));
}

#[test]
fn who_writes_in_my_name_is_a_copy() {
    let (a, b) = (Solo::new(1), Solo::new(2));
    file(&a.store, "f", b"1");
    let mut pair = Pair::new([&a.store, &b.store], &*a.clock);
    let mut link = pair.link();
    let (store, incarnation) = (a.store.id(), a.store.incarnation());
    forge(&mut link, &mut pair, 1, &mut |message| match message {
        Message::Knowledge(mut stretches, last) => {
            stretches.push(Stretch { store, incarnation, first: 1, last: 1000 });
            vec![Message::Knowledge(stretches, last)]
        }
        other => vec![other],
    });
    assert_eq!(link.ended(0), Some(End::Said(Bye::Copy)));
    assert_eq!(link.ended(1), Some(End::Told(Bye::Copy)));
}

#[test]
fn the_lower_epoch_turns_read_only_before_it_says_anything() {
    let (a, b) = (Solo::new(1), Solo::new(2));
    let mut mine = [me(&a.store, 0, Lsn::FIRST), me(&b.store, 0, Lsn::FIRST)];
    mine[1].epoch = Epoch { number: 3, store: b.store.id() };
    let theirs = mine[1].epoch;
    let mut link = Link::new(mine, 0);
    link.carry(1, 100_000);
    link.deliver(0, 100_000, 0);
    let side = link.sides[0].as_mut().unwrap();
    assert!(matches!(side.todo[..], [Effect::Fence(epoch)] if epoch == theirs), "{:?}", side.todo);
    let said = |session: &mut Session| {
        let mut splitter = Splitter::default();
        splitter.push(&session.output(100_000));
        let mut all = Vec::new();
        while let Some(m) = splitter.next_message().unwrap() {
            all.push(m);
        }
        all
    };
    assert!(matches!(said(&mut side.session)[..], [Message::Hello(_), Message::Epoch(_)]));
    side.session.handle(Input::Fenced, 0);
    assert!(matches!(said(&mut side.session)[..], [Message::Identity(_), Message::Grants(_)]));
}

#[test]
fn an_epoch_counts_only_from_who_may_write_and_within_reason() {
    let (a, b) = (Solo::new(1), Solo::new(2));
    for (heeds_epoch, number, fences) in [(true, 3, true), (false, 3, false), (true, u64::MAX, false)] {
        let mut mine = [me(&a.store, 0, Lsn::FIRST), me(&b.store, 0, Lsn::FIRST)];
        mine[0].heeds_epoch = heeds_epoch;
        mine[1].epoch = Epoch { number, store: b.store.id() };
        let mut link = Link::new(mine, 0);
        link.carry(1, 100_000);
        link.deliver(0, 100_000, 0);
        let side = link.sides[0].as_ref().unwrap();
        assert_eq!(side.session.ended(), None);
        let fenced = side.todo.iter().any(|e| matches!(e, Effect::Fence(_)));
        assert_eq!(fenced, fences, "{heeds_epoch} {number}: {:?}", side.todo);
    }
}

#[test]
fn what_breaks_the_protocol_ends_the_connection() {
    let a = Solo::new(1);
    let hello = |oldest, newest| Message::Hello(Hello { magic: MAGIC, oldest, newest });
    let epoch = Message::Epoch(Epoch::default());
    let other = Hello { magic: *b"SEGFSXX1", oldest: 1, newest: 1 };
    let cases: [(&[Message], Bye); 6] = [
        (&[hello(2, 9)], Bye::Version),
        (&[Message::Hello(other)], Bye::Protocol),
        (std::slice::from_ref(&epoch), Bye::Protocol),
        (&[hello(1, 1), hello(1, 1)], Bye::Protocol),
        (&[hello(1, 1), epoch.clone(), Message::Held(Vec::new())], Bye::Protocol),
        (&[hello(1, 1), Message::Ping(1)], Bye::Protocol),
    ];
    for (messages, why) in cases {
        let mut session = Session::new(me(&a.store, 0, Lsn::FIRST), 0);
        for m in messages {
            session.receive(&m.frame(), 0);
        }
        assert_eq!(session.ended(), Some(End::Said(why)), "{messages:?}");
        let said = session.output(100_000);
        assert!(said.ends_with(&Message::Bye(why).frame()), "{messages:?}");
        assert!(session.output(100).is_empty() && session.next_effect().is_none());
    }
    let mut session = Session::new(me(&a.store, 0, Lsn::FIRST), 0);
    session.receive(&[0x17; 100], 0);
    assert_eq!(session.ended(), Some(End::Said(Bye::Protocol)));
    // A newer version that still speaks ours is no stranger.
    let mut session = Session::new(me(&a.store, 0, Lsn::FIRST), 0);
    session.receive(&hello(1, 9).frame(), 0);
    assert_eq!(session.ended(), None);
}

#[test]
fn a_silent_peer_is_asked_and_then_given_up() {
    const SECOND: u64 = 1_000_000_000;
    let (a, b) = (Solo::new(1), Solo::new(2));
    let mut pair = Pair::new([&a.store, &b.store], &*a.clock);
    let mut link = Link::watched([pair.me(0), pair.me(1)], 0);
    link.run(pair.stores, &mut pair.met, 0);
    for s in 0..120 {
        for side in link.sides.iter_mut().flatten() {
            side.session.tick(s * SECOND);
        }
        link.run(pair.stores, &mut pair.met, s * SECOND);
    }
    assert_eq!(link.ended(0), None, "keepalives keep it");
    let session = &mut link.sides[0].as_mut().unwrap().session;
    session.tick(139 * SECOND);
    assert_eq!(session.ended(), None);
    session.tick(150 * SECOND);
    assert_eq!(session.ended(), Some(End::Silent));
}

#[test]
fn a_clean_end_is_told_and_nothing_follows() {
    let (a, b) = (Solo::new(1), Solo::new(2));
    file(&a.store, "f", b"1");
    let mut pair = Pair::new([&a.store, &b.store], &*a.clock);
    let mut link = pair.exchange();
    close(&mut link, 0, 0);
    pair.run(&mut link);
    assert_eq!((link.ended(0), link.ended(1)), (Some(End::Said(Bye::Done)), Some(End::Told(Bye::Done))));
    file(&a.store, "g", b"2");
    pair.commit(&mut link, 0);
    pair.run(&mut link);
    assert_eq!(shows(&b.store, "g"), None);
}

#[test]
fn who_takes_nothing_is_not_answered_without_end() {
    let (a, b) = (Solo::new(1), Solo::new(2));
    let mut pair = Pair::new([&a.store, &b.store], &*a.clock);
    let mut link = pair.exchange();
    let session = &mut link.sides[0].as_mut().unwrap().session;
    let ping = Message::Ping(5).frame();
    let mut pings = 0_u64;
    while session.wants_input() {
        session.receive(&ping, 0);
        pings += 1;
        assert!(pings < 1 << 20, "answers pile up");
    }
    // Once they are taken it goes on.
    assert!(session.output(1 << 20).len() > 100_000 && session.wants_input());
}

#[test]
fn facts_of_another_opening_in_the_knowledge_are_no_copy() {
    // A store that was opened anew is told what it made itself before.
    let (a, b) = (Solo::new(1), Solo::new(2));
    file(&a.store, "f", b"1");
    Pair::new([&a.store, &b.store], &*a.clock).exchange();
    let before: Incarnation = a.store.incarnation();
    let a = a.crash(3);
    assert_ne!(a.store.incarnation(), before);
    Pair::new([&a.store, &b.store], &*a.clock).exchange();
    assert_eq!(portrait(&a.store), portrait(&b.store));
}
