//! What a session asks of a store, done.

use crate::{
    base::{Error, FsError, Result, limits::PEER_READ_BATCHES},
    format::wire::Reason,
    store::{Knowledge, Parcel, Store},
};

use super::{Effect, Fetched, Incoming, Input, Offered, Session, Taken};

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
            let kept = store.keep_extent(&head.id, arrived.stored, &head);
            outcome(kept).map(|kept| Input::Kept(head.request, kept))
        }
        Effect::Import(incoming) => {
            import(store, &incoming).map(|t| Input::Imported(incoming.parcel.origin, t))
        }
        Effect::Fetch(request, offered, id) => {
            let read = match store.extent_as_stored(&offered.parcel, &id) {
                // Gone since it was offered. What shows its bytes now is offered when this is read again.
                Err(Error::Fs(FsError::NotFound)) => Ok(Err(Reason::Unreadable)),
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

fn know(store: &Store) -> Result<Input> {
    let held = store.knowledge()?;
    let as_of = store.last_lsn();
    // What is told must not be lost again.
    store.sync(as_of)?;
    Ok(Input::Holding(held, as_of))
}

fn read(store: &Store, theirs: &Knowledge, from: crate::base::Lsn) -> Result<Input> {
    let (parcels, next) = store.parcels(theirs, from, PEER_READ_BATCHES)?;
    let (mut offered, mut unreadable) = (Vec::with_capacity(parcels.len()), Vec::new());
    for parcel in parcels {
        match outcome(hashes(store, &parcel))? {
            Ok(hashes) => offered.push(Offered { parcel, hashes }),
            Err(reason) => unreadable.push((parcel.origin, reason)),
        }
    }
    Ok(Input::Batches { offered, unreadable, next })
}

type Hashes = Vec<(crate::base::VersionId, Option<crate::format::hash::Hash>)>;

/// The content hashes of a batch's versions.
fn hashes(store: &Store, parcel: &Parcel) -> Result<Hashes> {
    parcel.contents.iter().map(|c| Ok((c.version, store.hash_of_version(c.version)?))).collect()
}

fn import(store: &Store, incoming: &Incoming) -> Result<Taken> {
    let parcel = &incoming.parcel;
    if store.is_ahead(parcel) {
        return Ok(Taken::Failed(Reason::Ahead));
    }
    let done = checked(store, incoming).and_then(|matches| {
        if !matches {
            return Ok(Taken::Failed(Reason::Mismatch));
        }
        let lsn = store.import(parcel, &mut |_| Err(FsError::Stale.into()))?;
        Ok(Taken::Here(lsn))
    });
    match done {
        // An extent that was here is not any more.
        Err(Error::Fs(FsError::Stale | FsError::Busy)) => Ok(Taken::Lacking),
        done => Ok(match outcome(done)? {
            Ok(taken) => taken,
            Err(reason) => Taken::Failed(reason),
        }),
    }
}

/// Will each version have the hash that was sent along?
fn checked(store: &Store, incoming: &Incoming) -> Result<bool> {
    for (version, hash) in &incoming.hashes {
        if let Some(hash) = hash
            && let Some(found) = store.hash_of_arriving(&incoming.parcel, *version)?
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
