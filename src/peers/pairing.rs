//! Showing an invite: the joiner's side, and the inviter's.

use std::{
    io::{self, Read as _, Write as _},
    net::{TcpStream, ToSocketAddrs as _},
    time::Duration,
};

use super::{
    invites::{Access, Code},
    keys::Key,
    tls::{self, Expect, NoConnection, Purpose, Secured, Until},
};
use crate::{
    base::{KeyId, StoreId},
    format::pairing::{Answer, PAIRING_BYTES, Show},
};

/// How long each step of it may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The most letters of a name or an address.
const WORD: usize = 255;

/// Somebody shows an invite, and has proved to have its key.
#[derive(Debug, Clone)]
pub struct Join {
    /// Its key.
    pub key: KeyId,
    /// What the code holds.
    pub secret: [u8; 16],
    /// How it calls itself.
    pub name: String,
    /// Where it listens, if it does.
    pub address: Option<String>,
    /// What this store may do there.
    pub gives: Access,
    /// Which store it is.
    pub store: StoreId,
}

/// An invite was taken.
#[derive(Debug, Clone)]
pub struct Joined {
    /// The inviter's key.
    pub key: KeyId,
    /// How it calls itself.
    pub name: String,
    /// What this store may do there.
    pub gives: Access,
    /// Which store it is.
    pub store: StoreId,
}

/// Who joins: a store, and what is said of it.
#[derive(Debug, Clone, Copy)]
pub struct Joiner<'a> {
    /// Its key.
    pub key: &'a Key,
    /// Its id.
    pub store: StoreId,
    /// How it calls itself.
    pub name: &'a str,
    /// Where it listens, if it does.
    pub listens: Option<&'a str>,
    /// What the inviter may do there.
    pub grants: Access,
}

/// Why it was not.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// Somebody else answers there.
    #[error("who answers there has the key {found}, and the code is of the key {expected}...")]
    WrongKey {
        /// The key that was shown.
        found: KeyId,
        /// How the right one begins.
        expected: String,
    },
    /// The inviter says no.
    #[error("it says: {0}")]
    Refused(String),
    /// It can't be reached, or breaks off.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Shows an invite to whoever listens at an address. The secret is sent only to the key that the code names.
///
/// # Errors
/// [`JoinError`].
pub fn join(address: &str, code: &Code, joiner: &Joiner<'_>) -> Result<Joined, JoinError> {
    let socket = connect(address, PATIENCE)?;
    let expect = Expect::Start(code.start);
    let secured = tls::dial(socket, joiner.key, expect, Purpose::Pairing, PATIENCE).map_err(|e| match e {
        NoConnection::WrongKey { found } => {
            JoinError::WrongKey { found, expected: KeyId::beginning(&code.start) }
        }
        NoConnection::Io(e) => JoinError::Io(e),
    })?;
    let inviter = secured.who;
    let mut talk = Talk::of(secured);
    let show = Show {
        secret: code.secret,
        name: joiner.name.to_owned(),
        address: joiner.listens.map(str::to_owned),
        grants: joiner.grants.to_string(),
        store: joiner.store,
    };
    talk.say(&show.frame())?;
    match Answer::decode(&talk.hear()?).map_err(|e| malformed(e.0))? {
        Answer::Joined { name, grants, store } => {
            let gives = grants.parse().map_err(|e: String| malformed(&e))?;
            Ok(Joined { key: inviter, name, gives, store })
        }
        Answer::Refused(why) => Err(JoinError::Refused(why.chars().take(WORD).collect())),
    }
}

/// Hears somebody who shows an invite, and answers what `decide` says.
pub(super) fn hear(
    secured: Secured,
    (name, store): (&str, StoreId),
    decide: impl FnOnce(&Join) -> Result<Access, String>,
) -> io::Result<()> {
    let key = secured.who;
    let mut talk = Talk::of(secured);
    let show = Show::decode(&talk.hear()?).map_err(|e| malformed(e.0))?;
    let gives = show.grants.parse().map_err(|e: String| malformed(&e))?;
    if show.name.len() > WORD || show.address.as_ref().is_some_and(|a| a.len() > WORD) {
        return Err(malformed("a name is too long"));
    }
    let Show { secret, name: joiner, address, store: of, .. } = show;
    let join = Join { key, secret, name: joiner, address, gives, store: of };
    let answer = match decide(&join) {
        Ok(access) => Answer::Joined { name: name.to_owned(), grants: access.to_string(), store },
        Err(why) => Answer::Refused(why),
    };
    talk.say(&answer.frame())
}

fn malformed(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_owned())
}

/// Connects to HOST:PORT, one address after the other.
pub(super) fn connect(address: &str, patience: Duration) -> io::Result<TcpStream> {
    let mut failed = io::Error::new(io::ErrorKind::NotFound, format!("{address} has no address"));
    for at in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&at, patience) {
            Ok(socket) => return Ok(socket),
            Err(e) => failed = e,
        }
    }
    Err(failed)
}

/// One message each way, within a time.
struct Talk {
    secured: Secured,
    until: Until,
}

impl Talk {
    fn of(secured: Secured) -> Self {
        Self { secured, until: Until::within(PATIENCE) }
    }

    fn say(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Secured { tls, socket, .. } = &mut self.secured;
        tls.writer().write_all(bytes)?;
        while tls.wants_write() {
            self.until.hold(socket)?;
            tls::again(|| tls.write_tls(socket))?;
        }
        Ok(())
    }

    fn hear(&mut self) -> io::Result<Vec<u8>> {
        let mut got = Vec::new();
        loop {
            if let Some((len, body)) = got.split_first_chunk::<4>() {
                let len = u32::from_le_bytes(*len) as usize;
                if len > PAIRING_BYTES {
                    return Err(malformed("a message is too long"));
                }
                if body.len() >= len {
                    return Ok(body[..len].to_vec());
                }
            }
            let Secured { tls, socket, .. } = &mut self.secured;
            let mut part = [0; 1024];
            match tls.reader().read(&mut part) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => got.extend_from_slice(&part[..n]),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.until.hold(socket)?;
                    if tls::again(|| tls.read_tls(socket))? == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    tls.process_new_packets().map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
                }
                Err(e) => return Err(e),
            }
        }
    }
}
