//! A hostile peer behind a proper handshake: whatever it says, the session neither panics nor keeps more than it should, the store
//! goes on working, and what it shows is what a replay of its log shows.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use segfs::{
    base::{Incarnation, Ino, Lsn, StoreId},
    format::{
        code,
        facts::Owner,
        wire::{Epoch, Grant, Hello, Identity, MAGIC, Message},
    },
    index::MemoryIndex,
    replicate::{Acquaintances, Effect, Input, Me, Session, perform},
    store::{NewObject, Options, Parts, Store},
};
use segfs_fuzz::{MemDisk, Sequence, StillClock};

fn options() -> Options {
    Options { segment_bytes: 256 << 10, background: false, mint_interrupted: false, ..Options::default() }
}

fn new() -> Store {
    let disk = Arc::new(MemDisk::default());
    Store::format(&*disk, &options(), &StillClock, &Sequence::new(1), "".as_ref()).unwrap();
    let parts = Parts {
        disk: disk as _,
        clock: Arc::new(StillClock),
        random: Arc::new(Sequence::new(2)),
        index: Arc::new(MemoryIndex::new()),
    };
    let store = Store::open_parts(parts, options()).expect("a store opens");
    let owner = Owner::default();
    let (_, d) = store.create_object(Ino::FIRST, b"d", &NewObject::directory(0o755, owner)).unwrap();
    let (_, f) = store.create_object(d.ino, b"f", &NewObject::file(0o644, owner)).unwrap();
    store.write(f.ino, 0, &[1; 5000]).unwrap();
    store.commit_version(f.ino).unwrap();
    store.sync_all().unwrap();
    store
}

/// Does what the session asks for, and takes what it says every other time: a peer may not read either.
fn serve(store: &Store, session: &mut Session, met: &mut Acquaintances, reads: bool) {
    while let Some(effect) = session.next_effect() {
        match perform(store, session, effect, 0) {
            None | Some(Effect::Tell(_)) => {}
            Some(Effect::Fence(_)) => session.handle(Input::Fenced, 0),
            Some(Effect::Meet(who, alive)) => session.handle(Input::Met(met.meet(&who, alive)), 0),
            Some(other) => panic!("{other:?} is for nobody"),
        }
    }
    if reads {
        let _ = session.output(1 << 20);
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(messages) = code::decode::<Vec<Message>>(bytes) else { return };
    let store = new();
    let mine = Identity { store: store.id(), incarnation: store.incarnation(), wall_ns: 0 };
    let grants = vec![Grant { path: Vec::new(), read: true, write: true, asks: false }];
    let me = Me { identity: mine, epoch: Epoch::default(), heeds_epoch: true, grants: grants.clone(), sends: true, cursor: Lsn::FIRST };
    let (mut session, mut met) = (Session::new(me, 0), Acquaintances::default());
    let other = Identity { store: StoreId::new(77), incarnation: Incarnation::new(78), wall_ns: 0 };
    let begin = [
        Message::Hello(Hello { magic: MAGIC, oldest: 1, newest: 1 }),
        Message::Epoch(Epoch::default()),
        Message::Identity(other),
        Message::Grants(grants),
        Message::Knowledge(Vec::new(), true),
    ];
    for (n, message) in begin.iter().chain(messages.iter().take(200)).enumerate() {
        let body = message.frame();
        if session.wants_input() {
            session.receive(&body, 0);
        }
        serve(&store, &mut session, &mut met, n % 2 == 0);
    }
    let stopped = store.status().stopped;
    assert!(stopped.is_none(), "{stopped:?}");
    // The store is as usable as before.
    store.create_object(Ino::FIRST, b"after all", &NewObject::file(0o644, Owner::default())).map(drop).or_else(
        |e| match e {
            segfs::base::Error::Fs(_) => Ok(()),
            e => Err(e),
        },
    )
    .expect("the store works");
});
