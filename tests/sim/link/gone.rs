//! What the log holds no more is told from the index.

use segfs::{
    base::{Ino, Lsn, limits::PEER_FACTS_BYTES},
    format::{facts::Owner, wire::Reason},
    replicate::{Effect, Input, Notice, Taken, answer},
    store::{Goal, Knowledge, NewObject, Policy, Rename, Retention, Store},
};

use super::{
    super::agree::{Solo, portrait::portrait},
    wire::{Link, Pair},
};

fn file(s: &Store, name: &str, bytes: &[u8]) -> Ino {
    let new = NewObject::file(0o644, Owner::default());
    let ino = s.create_object(Ino::FIRST, name.as_bytes(), &new).unwrap().1.ino;
    edit(s, ino, bytes);
    ino
}

fn edit(s: &Store, ino: Ino, bytes: &[u8]) {
    s.write(ino, 0, bytes).unwrap();
    s.commit_version(ino).unwrap();
}

/// Files with several versions, names that moved and went, directories, attributes; and its log given back.
fn fill(s: &Store) {
    s.set_retention(Retention::everywhere(Policy::All));
    for n in 0..60_u8 {
        let name = format!("f{n}");
        let f = file(s, &name, &[n; 3000]);
        edit(s, f, &[n ^ 0x55; 5000]);
        s.set_xattr(f, b"user.a", Some(&[n]), None).unwrap();
        if n % 4 == 0 {
            s.unlink(Ino::FIRST, name.as_bytes()).unwrap();
        } else if n % 4 == 1 {
            let to = format!("moved {n}");
            s.rename((Ino::FIRST, name.as_bytes()), (Ino::FIRST, to.as_bytes()), Rename::Replace).unwrap();
        }
    }
    clean(s);
}

fn clean(s: &Store) {
    s.write_base().unwrap();
    let cleaned = s.clean(Goal::ALL).unwrap();
    assert!(cleaned.segments > 0 && s.tail_floor().unwrap() > Lsn::new(50), "{cleaned:?}");
}

#[track_caller]
fn alike(a: &Store, b: &Store) {
    assert_eq!(a.knowledge().unwrap(), b.knowledge().unwrap());
    let (a, b) = (portrait(a), portrait(b));
    for k in a.keys().chain(b.keys()) {
        assert_eq!(a.get(k), b.get(k), "{k}");
    }
}

fn was_told(link: &Link, n: usize) -> bool {
    link.notices(n).iter().any(|n| matches!(n, Notice::Told(_)))
}

#[test]
fn an_empty_store_gets_all_of_one_whose_log_was_cleaned_and_hands_it_on() {
    let (a, b, c) = (Solo::new(1), Solo::new(2), Solo::new(3));
    fill(&a.store);
    let mut pair = Pair::new([&a.store, &b.store], &*a.clock);
    let link = pair.exchange();
    assert!(was_told(&link, 0) && !was_told(&link, 1), "{:?}", link.notices(0));
    alike(&a.store, &b.store);
    // From then on the log is enough.
    file(&a.store, "later", b"1");
    file(&b.store, "here", b"2");
    let link = pair.exchange();
    assert!(!was_told(&link, 0) && !was_told(&link, 1));
    alike(&a.store, &b.store);
    // What was told is in no log there; it goes on all the same.
    let link = Pair::new([&b.store, &c.store], &*a.clock).exchange();
    assert!(was_told(&link, 0));
    alike(&a.store, &c.store);
}

#[test]
fn a_store_that_was_away_while_the_log_was_cleaned_has_no_gap() {
    let (a, b) = (Solo::new(1), Solo::new(2));
    let f = file(&a.store, "f", b"before");
    Pair::new([&a.store, &b.store], &*a.clock).exchange();
    edit(&b.store, f, b"there meanwhile");
    edit(&a.store, f, b"here meanwhile");
    fill(&a.store);
    let mut pair = Pair::new([&a.store, &b.store], &*a.clock);
    pair.exchange();
    alike(&a.store, &b.store);
}

#[test]
fn what_goes_from_the_log_while_a_connection_stands_is_noticed() {
    let (a, b, c) = (Solo::new(1), Solo::new(2), Solo::new(3));
    let mut pair = Pair::new([&a.store, &b.store], &*a.clock);
    let mut link = pair.exchange();
    // The connection is slow: nothing passes while much is written and the log is given back.
    fill(&a.store);
    pair.commit(&mut link, 0);
    pair.run(&mut link);
    assert!(was_told(&link, 0), "{:?}", link.notices(0));
    alike(&a.store, &b.store);
    // What another store tells comes into no log, and is passed on over a connection that stood before.
    fill(&c.store);
    let mut other = Pair::new([&c.store, &a.store], &*a.clock);
    other.exchange();
    pair.commit(&mut link, 0);
    pair.run(&mut link);
    alike(&c.store, &b.store);
}

#[test]
fn a_telling_that_is_cut_anywhere_begins_again_and_changes_go_on_meanwhile() {
    for cut in 0..30_usize {
        let (a, b) = (Solo::new(1), Solo::new(2));
        fill(&a.store);
        let mut pair = Pair::new([&a.store, &b.store], &*a.clock);
        let mut link = pair.link();
        let now = pair.clock.monotonic_ns();
        let (mut passed, most) = (0, cut * cut * 1000);
        for step in 0.. {
            let mut did = false;
            for n in 0..2 {
                did |= link.carry(n, 3000);
                did |= link.deliver(1 - n, 3000, now);
                while let Some(side) = &mut link.sides[n]
                    && !side.todo.is_empty()
                {
                    side.work(0, pair.stores[n], &mut pair.met[n], now);
                    did = true;
                }
            }
            passed += 3000;
            if step % 10 == 3 {
                file(&a.store, &format!("meanwhile {step}"), b"1");
                a.store.unlink(Ino::FIRST, format!("f{}", step % 60).as_bytes()).ok();
                pair.commit(&mut link, 0);
            }
            if passed > most || !did {
                break;
            }
        }
        drop(link);
        pair.exchange();
        alike(&a.store, &b.store);
    }
}

#[test]
fn content_that_goes_while_it_is_told_is_done_without() {
    let (a, b) = (Solo::new(1), Solo::new(2));
    fill(&a.store);
    let mut pair = Pair::new([&a.store, &b.store], &*a.clock);
    let mut link = pair.link();
    let now = pair.clock.monotonic_ns();
    // Until extents are asked for.
    while link.seen.as_ref().unwrap()[0].wants == 0 {
        for n in 0..2 {
            link.carry(n, 100_000);
            link.deliver(1 - n, 100_000, now);
            while let Some(side) = &mut link.sides[n]
                && !side.todo.is_empty()
                && link.seen.as_ref().unwrap()[0].wants == 0
            {
                side.work(0, pair.stores[n], &mut pair.met[n], now);
            }
        }
    }
    // What is asked for goes, with all old versions.
    a.store.set_retention(Retention::everywhere(Policy::Last(1)));
    let mut at = Some(Ino::FIRST);
    while let Some(from) = at {
        at = a.store.expire(from, u64::MAX / 2).unwrap().1;
    }
    for n in 0..60 {
        for name in [format!("f{n}"), format!("moved {n}")] {
            if let Ok(f) = a.store.view().lookup(Ino::FIRST, name.as_bytes()) {
                edit(&a.store, f.ino, &[7; 4000]);
            }
        }
    }
    clean(&a.store);
    pair.commit(&mut link, 0);
    pair.run(&mut link);
    assert!(was_told(&link, 0), "{:?} {:?}", link.notices(0), link.notices(1));
    // What was on its way by the log could not be read either, and comes again.
    pair.later(&mut link, 20);
    let aside = |n: &&Notice| matches!(n, Notice::Aside(..) | Notice::NotTaken(..));
    let aside: Vec<_> = link.notices(0).iter().chain(link.notices(1)).filter(aside).collect();
    assert_eq!(a.store.knowledge().unwrap(), b.store.knowledge().unwrap(), "{aside:?}");
    for n in 0..60 {
        for name in [format!("f{n}"), format!("moved {n}")] {
            let shows = |s: &Store| {
                let a = s.view().lookup(Ino::FIRST, name.as_bytes()).ok()?;
                let mut bytes = vec![0; a.size as usize];
                s.view().read(a.ino, 0, &mut bytes).unwrap();
                Some(bytes)
            };
            assert_eq!(shows(&a.store), shows(&b.store), "{name}");
        }
    }
}

/// Runs a connection to its end, where this may answer what a side asks for in the place of its store.
fn run_with(pair: &mut Pair<'_>, link: &mut Link, instead: &mut dyn FnMut(usize, &Effect) -> Option<Input>) {
    let now = pair.clock.monotonic_ns();
    loop {
        let mut did = false;
        for n in 0..2 {
            did |= link.carry(n, 100_000);
            did |= link.deliver(1 - n, 100_000, now);
            while let Some(side) = &mut link.sides[n]
                && let Some(effect) = side.todo.first()
            {
                did = true;
                match instead(n, effect) {
                    None => side.work(0, pair.stores[n], &mut pair.met[n], now),
                    Some(input) => {
                        side.todo.swap_remove(0);
                        side.session.handle(input, now);
                        side.gather();
                    }
                }
            }
        }
        if !did {
            return;
        }
    }
}

#[test]
fn one_place_that_cannot_be_read_holds_up_nothing_else_of_the_index() {
    let (a, b) = (Solo::new(1), Solo::new(2));
    fill(&a.store);
    let mut pair = Pair::new([&a.store, &b.store], &*a.clock);
    let mut link = pair.link();
    let (mut bad, mut asked, mut pages) = (None, 0, 0);
    run_with(&mut pair, &mut link, &mut |n, effect| match effect {
        Effect::Page(number, _) if n == 0 => {
            pages = pages.max(*number);
            None
        }
        Effect::Fetch(request, _, id) if n == 0 && *bad.get_or_insert(*id) == *id => {
            asked += 1;
            Some(Input::Extent(*request, Err(Reason::Unreadable)))
        }
        _ => None,
    });
    assert!(asked > 0 && was_told(&link, 0), "{:?}", link.notices(0));
    let first_time = link.notices(0).iter().filter(|n| matches!(n, Notice::NotInLog(_))).count();
    assert_eq!(first_time, 1, "it was not told all over again");
    // It is lacking there, and nobody is told otherwise.
    let told = link.notices(0);
    assert!(told.iter().any(|n| matches!(n, Notice::Aside(_, Reason::Unreadable))), "{told:?}");
    assert!(!told.iter().any(|n| matches!(n, Notice::CaughtUp(_))), "{told:?}");
    assert_eq!(a.store.knowledge().unwrap(), b.store.knowledge().unwrap());
    // What can be read again comes as any content that is lacking.
    drop(link);
    pair.exchange();
    alike(&a.store, &b.store);
}

#[test]
fn a_page_that_was_refused_is_not_taken_for_there() {
    let (a, b) = (Solo::new(1), Solo::new(2));
    fill(&a.store);
    let mut pair = Pair::new([&a.store, &b.store], &*a.clock);
    let mut link = pair.link();
    let mut refused = 0;
    run_with(&mut pair, &mut link, &mut |n, effect| match effect {
        Effect::Take(incoming, _) if n == 1 => {
            refused += 1;
            Some(Input::Imported(incoming.parcel.origin, Taken::Failed(Reason::Refused)))
        }
        _ => None,
    });
    assert!(refused > 0 && !was_told(&link, 0), "{refused}");
    let told = link.notices(0);
    assert!(!told.iter().any(|n| matches!(n, Notice::CaughtUp(_))), "{told:?}");
    assert!(!link.sides[0].as_ref().unwrap().session.is_idle());
    drop(link);
    pair.exchange();
    alike(&a.store, &b.store);
}

#[test]
fn a_batch_that_is_longer_than_any_peer_takes_is_set_aside_and_the_rest_crosses() {
    let (a, b) = (Solo::new(1), Solo::new(2));
    file(&a.store, "f", b"1");
    file(&a.store, "g", b"2");
    a.store.sync_all().unwrap();
    let mut pair = Pair::new([&a.store, &b.store], &*a.clock);
    let mut link = pair.link();
    let mut long = None;
    let store = pair.stores[0];
    run_with(&mut pair, &mut link, &mut |n, effect| match effect {
        Effect::Read(from) if n == 0 && long.is_none() => {
            let read = answer(store, &Knowledge::default(), Effect::Read(*from)).unwrap();
            let Input::Batches { mut offered, unreadable, next, gap } = read else { panic!("{read:?}") };
            let last = &mut offered.last_mut().unwrap().parcel;
            last.facts.resize(PEER_FACTS_BYTES + 1, 0);
            long = Some(last.origin);
            Some(Input::Batches { offered, unreadable, next, gap })
        }
        _ => None,
    });
    let aside = Notice::Aside(long.unwrap(), Reason::TooLarge);
    assert!(link.notices(0).contains(&aside), "{:?}", link.notices(0));
    assert_eq!((link.ended(0), link.ended(1)), (None, None));
    let mut held = b.store.knowledge().unwrap();
    assert!(!held.has(&long.unwrap()));
    held.add(&long.unwrap());
    assert_eq!(held, a.store.knowledge().unwrap(), "all others are there");
}
