//! Invites: codes that work once, for a while. A code holds the first half of the hash of the inviter's key, which the joiner checks
//! before it shows the other half, the secret; here only the secret's hash is kept.

use std::{fmt, io, str::FromStr};

use super::keys::{read, replace};
use crate::{
    base::{KeyId, NoLetters, Random, from_letters, to_letters},
    disk::Disk,
};

const FILE: (&str, &str) = ("keys/invites", "keys/invites.next");
/// An invite works for so long, in nanoseconds.
const LIFE_NS: u64 = 15 * 60 * 1_000_000_000;
/// Invites that are open at once.
const OPEN: usize = 16;

/// What a peer may do in the whole store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Its changes are taken in.
    Send,
    /// It is given what is here.
    Receive,
    /// Both.
    TwoWay,
}

impl Access {
    /// It is given what is here.
    #[must_use]
    pub fn reads(self) -> bool {
        self != Self::Send
    }

    /// Its changes are taken in.
    #[must_use]
    pub fn writes(self) -> bool {
        self != Self::Receive
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Send => "send",
            Self::Receive => "receive",
            Self::TwoWay => "two-way",
        })
    }
}

impl FromStr for Access {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "send" => Ok(Self::Send),
            "receive" => Ok(Self::Receive),
            "two-way" => Ok(Self::TwoWay),
            _ => Err(format!("\"{s}\" is no grant: send, receive, or two-way")),
        }
    }
}

/// A code to hand to a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code {
    /// How the name of the inviter's key begins.
    pub start: [u8; 16],
    /// What proves that it was handed over.
    pub secret: [u8; 16],
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&to_letters(&[self.start, self.secret].concat()))
    }
}

impl FromStr for Code {
    type Err = NoLetters;
    fn from_str(s: &str) -> Result<Self, NoLetters> {
        let bytes: [u8; 32] = from_letters(s)?.try_into().map_err(|_| NoLetters)?;
        let (start, secret) = bytes.split_at(16);
        Ok(Self {
            start: start.try_into().map_err(|_| NoLetters)?,
            secret: secret.try_into().map_err(|_| NoLetters)?,
        })
    }
}

struct Invite {
    hash: String,
    until_ns: u64,
    access: Access,
}

/// The open invites of a store. Only the holder of its lock changes them.
pub struct Invites(Vec<Invite>);

impl Invites {
    /// Those that are open at this moment (wall clock).
    ///
    /// # Errors
    /// What the system says.
    pub fn open(disk: &dyn Disk, now_ns: u64) -> io::Result<Self> {
        let text = read(disk, FILE.0)?.unwrap_or_default();
        let invite = |line: &str| {
            let mut words = line.split(' ');
            let hash = words.next()?.to_owned();
            let until_ns = words.next()?.parse().ok()?;
            let access = words.next()?.parse().ok()?;
            Some(Invite { hash, until_ns, access })
        };
        let fits = |i: &Invite| now_ns < i.until_ns && i.until_ns - now_ns <= LIFE_NS;
        Ok(Self(text.lines().filter_map(invite).filter(fits).collect()))
    }

    /// Makes one, for whoever is told the code.
    ///
    /// # Errors
    /// What the system says; `QuotaExceeded` if there are too many.
    pub fn invite(
        &mut self,
        disk: &dyn Disk,
        key: KeyId,
        access: Access,
        random: &dyn Random,
        now_ns: u64,
    ) -> io::Result<Code> {
        if self.0.len() >= OPEN {
            let why = format!("{OPEN} invites are open; they end by themselves after 15 minutes");
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, why));
        }
        let mut code = Code { start: [0; 16], secret: [0; 16] };
        code.start.copy_from_slice(&key.bytes()[..16]);
        random.fill(&mut code.secret);
        let until_ns = now_ns.saturating_add(LIFE_NS);
        self.0.push(Invite { hash: hash(&code.secret), until_ns, access });
        self.keep(disk)?;
        Ok(code)
    }

    /// Somebody shows a secret. An invite is used up, durably, before it counts; none has that secret if it was wrong, used, or is too
    /// old. A wrong one changes nothing here: with 128 random bits nobody guesses, and nobody who tries may spoil it for who was invited.
    ///
    /// # Errors
    /// What the system says.
    pub fn redeem(&mut self, disk: &dyn Disk, secret: &[u8; 16]) -> io::Result<Option<Access>> {
        let shown = hash(secret);
        let Some(at) = self.0.iter().position(|i| i.hash == shown) else { return Ok(None) };
        let invite = self.0.remove(at);
        self.keep(disk)?;
        Ok(Some(invite.access))
    }

    fn keep(&self, disk: &dyn Disk) -> io::Result<()> {
        let line = |i: &Invite| format!("{} {} {}\n", i.hash, i.until_ns, i.access);
        replace(disk, FILE.1, FILE.0, &self.0.iter().map(line).collect::<String>())
    }
}

fn hash(secret: &[u8; 16]) -> String {
    to_letters(&blake3::hash(secret).as_bytes()[..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        base::SystemRandom,
        disk::{Engine, RealDisk},
    };

    #[test]
    fn an_invite_works_once_and_not_for_ever_and_wrong_codes_do_not_spoil_it() {
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk::open(dir.path(), Engine::Plain).unwrap();
        let key = KeyId::new([7; 20]);
        let make = |now| {
            let mut all = Invites::open(&disk, now).unwrap();
            all.invite(&disk, key, Access::TwoWay, &SystemRandom, now).unwrap()
        };
        let show = |code: &Code, now| Invites::open(&disk, now).unwrap().redeem(&disk, &code.secret).unwrap();
        let code = make(1);
        assert_eq!(code.to_string().parse::<Code>().unwrap(), code);
        assert_eq!(show(&code, 2), Some(Access::TwoWay));
        assert_eq!(show(&code, 3), None, "used");
        let code = make(1);
        assert_eq!(show(&code, 1 + LIFE_NS), None, "too old");
        let code = make(1);
        let wrong = Code { secret: [0; 16], ..code };
        for n in 1..100 {
            assert_eq!(show(&wrong, 2), None, "{n}");
        }
        assert_eq!(show(&code, 2), Some(Access::TwoWay), "still good");
        // The secret itself is nowhere.
        let code = make(1);
        let text = std::fs::read_to_string(dir.path().join(FILE.0)).unwrap();
        assert!(!text.contains(&to_letters(&code.secret)) && text.contains("two-way"));
    }
}
