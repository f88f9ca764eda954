//! What a session asks of a store, done.

use crate::{
    base::{
        Error, FsError, Lsn, ObjectId, Result, VersionId,
        limits::{PEER_RANGES, PEER_READ_BATCHES, PEER_TOLD_BYTES},
    },
    format::{
        Origin, code,
        facts::{Changes, ExtentId, Fact, Range, Source},
        wire::{Lack, Page, Reason, Supplied},
    },
    store::{CatchUp, Knowledge, Lacking, Onward, Parcel, Store, Supply, ToldPage},
};

use super::{Effect, Fetched, Incoming, Input, Offered, Session, Taken, Wanted};

/// Carries out what a session asks of the store, and hands it the answer; what is not for the store comes back. Takes as long as
/// reading, hashing and writing take.
pub fn perform(store: &Store, session: &mut Session, effect: Effect, now: u64) -> Option<Effect> {
    match answer(store, session.theirs(), effect) {
        Ok(input) => {
            session.handle(input, now);
            None
        }
        Err(other) => Some(other),
    }
}

/// As [`perform()`], away from the session: what the other side holds, as [`Session::theirs`] had it when it asked, comes along, and
/// the answer is handed to the session by whoever has it.
///
/// # Errors
/// What is not for the store comes back.
pub fn answer(store: &Store, theirs: &Knowledge, effect: Effect) -> std::result::Result<Input, Effect> {
    let done = match effect {
        Effect::Know => know(store),
        Effect::Read(from) => read(store, theirs, from),
        Effect::Ask(origin, mut asked) => store.knowledge().map(|held| {
            asked.retain(|o| held.has(o));
            Input::Asked(origin, asked)
        }),
        Effect::Look(incoming) => {
            let lacking = store.lacking_extents(&incoming.parcel);
            lacking.map(|ids| Input::Lacks(incoming.parcel.origin, ids))
        }
        Effect::Keep(arrived) => {
            let head = arrived.head;
            let kept = store.keep_extent(arrived.of, &head.id, arrived.stored, &head);
            outcome(kept).map(|kept| Input::Kept(head.request, kept))
        }
        Effect::Import(incoming, gone) => {
            import(store, &incoming, &gone).map(|t| imported(store, incoming.parcel.origin, t))
        }
        Effect::Take(incoming, gone) => {
            take(store, &incoming, &gone).map(|t| imported(store, incoming.parcel.origin, t))
        }
        Effect::Supply(lack) => supply(store, &lack),
        Effect::Lacking(after) => lacking_behind(store, after.as_ref()),
        Effect::TakeSupply(incoming, gone, wanted) => take_supply(store, &incoming, &gone, wanted),
        Effect::Page(number, from) => page(store, theirs, number, from),
        Effect::Fetch(request, offered, id) => {
            let read = store.extent_as_stored(&offered.parcel, &id);
            let read = match read {
                Err(Error::Fs(FsError::NotFound)) => Ok(Err(Reason::Gone)),
                read => outcome(read),
            };
            read.map(|r| Input::Extent(request, r.map(|(payload, hash)| Fetched { payload, hash })))
        }
        Effect::Commit => store.sync_all().map(|()| Input::Durable(store.durable_lsn())),
        other @ (Effect::Fence(_) | Effect::Meet(..) | Effect::Tell(_)) => return Err(other),
    };
    Ok(done.unwrap_or_else(|e| {
        tracing::error!("a peer's connection ends: {e}");
        Input::Stopped
    }))
}

fn imported(store: &Store, origin: Origin, taken: Taken) -> Input {
    if !matches!(taken, Taken::Lacking) {
        store.arrived(&origin);
    }
    Input::Imported(origin, taken)
}

fn know(store: &Store) -> Result<Input> {
    let held = store.knowledge()?;
    let as_of = store.last_lsn();
    // What is told must not be lost again.
    store.sync(as_of)?;
    Ok(Input::Holding(held, as_of))
}

fn read(store: &Store, theirs: &Knowledge, from: Lsn) -> Result<Input> {
    let (parcels, next) = store.parcels(theirs, from, PEER_READ_BATCHES)?;
    let (mut offered, mut unreadable) = (Vec::with_capacity(parcels.len()), Vec::new());
    for parcel in parcels {
        match outcome(hashes(store, &parcel))? {
            Ok(hashes) => offered.push(Offered { parcel, hashes }),
            Err(reason) => unreadable.push((parcel.origin, reason)),
        }
    }
    let gap = store.tail_floor()? > from;
    Ok(Input::Batches { offered, unreadable, next, gap })
}

type Hashes = Vec<(VersionId, Option<crate::format::hash::Hash>)>;

/// The content hashes of a batch's versions.
fn hashes(store: &Store, parcel: &Parcel) -> Result<Hashes> {
    parcel.contents.iter().map(|c| Ok((c.version, store.hash_of_version(c.version)?))).collect()
}

fn import(store: &Store, incoming: &Incoming, gone: &[ExtentId]) -> Result<Taken> {
    let parcel = &incoming.parcel;
    if store.is_ahead(parcel) {
        return Ok(Taken::Failed(Reason::Ahead));
    }
    let done = checked(store, parcel, &whole(incoming, gone)).and_then(|matches| {
        if !matches {
            return Ok(Taken::Failed(Reason::Mismatch));
        }
        let lsn = store.import(parcel, &mut |id| Err(lacking(id, gone)))?;
        Ok(Taken::Here(lsn))
    });
    taken(done)
}

fn taken(done: Result<Taken>) -> Result<Taken> {
    match done {
        // An extent that was here is not any more.
        Err(Error::Fs(FsError::Stale | FsError::Busy)) => Ok(Taken::Lacking),
        done => Ok(match outcome(done)? {
            Ok(taken) => taken,
            Err(reason) => Taken::Failed(reason),
        }),
    }
}

/// The next page of what the index says, as a batch.
fn page(store: &Store, theirs: &Knowledge, number: u64, from: Option<Box<CatchUp>>) -> Result<Input> {
    let mut at = match from {
        Some(at) => at,
        None => Box::new(store.catch_up(Lsn::new(0))?),
    };
    let Some(page) = store.next_told(&mut at, PEER_TOLD_BYTES)? else {
        return Ok(Input::Page(number, at, None));
    };
    let known = page.known.minus(theirs).stretches().collect();
    let facts = Page { told: page.told, removed: page.removed, known, last: false };
    let parcel = Parcel {
        origin: Origin::page(store.id(), number),
        stamp: 0,
        object: ObjectId::ROOT,
        facts: code::encode(&facts),
        contents: page.contents,
        sources: page.sources,
    };
    Ok(Input::Page(number, at, Some(readable(store, parcel)?)))
}

/// A page with the hashes of its contents, without those that can't be read, which it names: one bad place must not hold up the whole
/// index.
fn readable(store: &Store, mut parcel: Parcel) -> Result<(Offered, Vec<VersionId>)> {
    let (mut hashes, mut left_out, mut failed) = (Vec::new(), Vec::new(), Ok(()));
    parcel.contents.retain(|c| match store.hash_of_version(c.version) {
        Ok(hash) => {
            hashes.push((c.version, hash));
            true
        }
        Err(Error::Damaged(d)) => {
            tracing::error!("the content of version {} can't be sent: {d}", c.version);
            left_out.push(c.version);
            false
        }
        Err(e) => {
            failed = Err(e);
            false
        }
    });
    failed.map(|()| (Offered { parcel, hashes }, left_out))
}

fn take(store: &Store, incoming: &Incoming, gone: &[ExtentId]) -> Result<Taken> {
    let page: Page = match code::decode(&incoming.parcel.facts) {
        Ok(page) => page,
        Err(_) => return Ok(Taken::Failed(Reason::Refused)),
    };
    let mut known = Knowledge::default();
    page.known.iter().for_each(|s| known.add_stretch(s));
    if page.last {
        return taken(store.finish_told(&known).map(Taken::Here));
    }
    // What is there of it is checked as a whole where that can be done before it is taken in.
    let facts: Vec<Fact> = page.told.iter().filter_map(|t| code::decode(&t.fact).ok()).collect();
    let parcel = Parcel { facts: code::encode(&facts), ..incoming.parcel.clone() };
    let told = ToldPage::arrived(page.told, incoming.parcel.contents.clone(), page.removed, known);
    let done = checked(store, &parcel, &whole(incoming, gone)).and_then(|matches| {
        if !matches {
            return Ok(Taken::Failed(Reason::Mismatch));
        }
        store.take_told(&told, &mut |id| Err(lacking(id, gone))).map(Taken::Here)
    });
    taken(done)
}

/// A page of the content of a version, as a batch.
fn supply(store: &Store, lack: &Lack) -> Result<Input> {
    let page = match store.supply(lack.version, &lack.bases, Onward::of(lack.from)) {
        Ok(Some(page)) if page.ranges.len() <= PEER_RANGES => page,
        Ok(_) | Err(Error::Damaged(_)) => return Ok(Input::Supply(lack.number, None)),
        Err(e) => return Err(e),
    };
    let Supply { version, stamp, maker, base, ranges, next, sources } = page;
    let content = Changes { object: version.object, version: version.id, base, ranges };
    let facts = code::encode(&Supplied { version, stamp, maker, next: next.map(Onward::parts) });
    let origin = Origin::supply(store.id(), lack.number);
    let parcel = Parcel { origin, stamp: 0, object: content.object, facts, contents: vec![content], sources };
    Ok(Input::Supply(lack.number, Some(Offered { parcel, hashes: Vec::new() })))
}

fn lacking_behind(store: &Store, after: Option<&Lacking>) -> Result<Input> {
    let Some(lacking) = store.lacking(after, 1)?.pop() else { return Ok(Input::Lacking(None)) };
    let taken = store.begin_supply(&lacking)?;
    Ok(Input::Lacking(Some(Box::new((lacking, taken)))))
}

fn take_supply(
    store: &Store,
    incoming: &Incoming,
    gone: &[ExtentId],
    mut wanted: Box<Wanted>,
) -> Result<Input> {
    let parcel = &incoming.parcel;
    let refused = Ok(Input::Supplied(parcel.origin, Taken::Failed(Reason::Refused), None, false));
    let (Ok(said), [content]) = (code::decode::<Supplied>(&parcel.facts), &parcel.contents[..]) else {
        return refused;
    };
    if (content.version, content.object) != (said.version.id, said.version.object) {
        return refused;
    }
    let page = Supply {
        version: said.version,
        stamp: said.stamp,
        maker: said.maker,
        base: content.base,
        ranges: content.ranges.clone(),
        next: said.next.map(Onward::of),
        sources: Default::default(),
    };
    let before = wanted.clone();
    let (what, taken) = &mut *wanted;
    let done = store.take_supply_page(what, taken, page, &mut |_, id| Err(lacking(id, gone)));
    if !matches!(done, Err(Error::Fs(FsError::Stale | FsError::Busy))) {
        store.arrived(&parcel.origin);
    }
    Ok(match done {
        Ok(None) => Input::Supplied(parcel.origin, Taken::Here(store.last_lsn()), Some(wanted), false),
        Ok(Some(here)) => Input::Supplied(parcel.origin, Taken::Here(store.last_lsn()), None, here),
        // An extent that was here went again.
        Err(Error::Fs(FsError::Stale | FsError::Busy)) => {
            Input::Supplied(parcel.origin, Taken::Lacking, Some(before), false)
        }
        Err(e) => match outcome::<()>(Err(e))? {
            Err(reason) => Input::Supplied(parcel.origin, Taken::Failed(reason), None, false),
            Ok(()) => Input::Supplied(parcel.origin, Taken::Failed(Reason::Refused), None, false),
        },
    })
}

/// Of an extent that is not here: it went again, or can't be had.
fn lacking(id: &ExtentId, gone: &[ExtentId]) -> Error {
    if gone.contains(id) { FsError::NotFound.into() } else { FsError::Stale.into() }
}

/// The hashes of what does not lack these extents.
fn whole(incoming: &Incoming, gone: &[ExtentId]) -> Hashes {
    let is_gone = |r: &Range| matches!(r.source, Source::Extent(e, _) if gone.contains(&e));
    let is_whole = |id: &VersionId| {
        let mut of = incoming.parcel.contents.iter().filter(|c| c.version == *id);
        !of.any(|c| c.ranges.iter().any(is_gone))
    };
    incoming.hashes.iter().filter(|(id, _)| is_whole(id)).copied().collect()
}

/// Will each version have the hash that was sent along?
fn checked(store: &Store, parcel: &Parcel, hashes: &Hashes) -> Result<bool> {
    for (version, hash) in hashes {
        if let Some(hash) = hash
            && let Some(found) = store.hash_of_arriving(parcel, *version)?
            && found != *hash
        {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Errors that say something about what is asked for, and not about this store.
fn outcome<T>(done: Result<T>) -> Result<std::result::Result<T, Reason>> {
    match done {
        Ok(done) => Ok(Ok(done)),
        Err(Error::Fs(FsError::ReadOnly)) => Ok(Err(Reason::NotGranted)),
        Err(Error::BadRequest(why)) => {
            tracing::warn!("refused what a peer sent: {why}");
            Ok(Err(Reason::Refused))
        }
        Err(Error::Fs(why)) => {
            tracing::warn!("refused what a peer sent: {why}");
            Ok(Err(Reason::Refused))
        }
        Err(Error::NoSpace { .. }) => Ok(Err(Reason::NoSpace)),
        Err(Error::Damaged(d)) => {
            tracing::error!("a peer's batch waits: {d}");
            Ok(Err(Reason::Unreadable))
        }
        Err(e) => Err(e),
    }
}
