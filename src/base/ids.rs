//! Ids: one newtype for each kind, made by two macros so that they all print and parse alike.

use std::{fmt, str::FromStr};

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident, $first:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(u64);

        impl $name {
            /// The first one ever given out.
            pub const FIRST: Self = Self($first);
            /// The largest value of the type.
            pub const MAX: Self = Self(u64::MAX);

            /// From the bare number, as read from disk or a command line.
            #[must_use]
            pub const fn new(n: u64) -> Self {
                Self(n)
            }

            /// The bare number, as written to disk.
            #[must_use]
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The next one.
            ///
            /// # Panics
            /// At the end of 64 bits, which no store reaches.
            #[must_use]
            pub const fn next(self) -> Self {
                self.plus(1)
            }

            /// The one `n` steps on.
            ///
            /// # Panics
            /// At the end of 64 bits, which no store reaches.
            #[must_use]
            pub const fn plus(self, n: u64) -> Self {
                match self.0.checked_add(n) {
                    Some(n) => Self(n),
                    None => panic!("ran out of 64-bit ids"),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = std::num::ParseIntError;
            fn from_str(s: &str) -> Result<Self, Self::Err> {
                s.parse().map(Self)
            }
        }
    };
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(u128);

        impl $name {
            /// From the bare number, as read from disk or the wire.
            #[must_use]
            pub const fn new(n: u128) -> Self {
                Self(n)
            }

            /// The bare number, as written to disk.
            #[must_use]
            pub const fn get(self) -> u128 {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                uuid::Uuid::from_u128(self.0).hyphenated().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;
            fn from_str(s: &str) -> Result<Self, Self::Err> {
                uuid::Uuid::parse_str(s).map(|u| Self(u.as_u128()))
            }
        }
    };
}

number_id! {
    /// Names one life of one segment file; never reused in a store.
    SegmentId, 1
}
number_id! {
    /// Log sequence number: the order in which this store did things. Every record has one.
    Lsn, 1
}
number_id! {
    /// Local inode number; never reused in a store, never compared between stores. The root is 1.
    Ino, 1
}
number_id! {
    /// One opening of one store for writing: random, so that a crash or a copied store never gives one
    /// id to two contents.
    Incarnation, 1
}

uuid_id! {
    /// A store: one directory with one log.
    StoreId
}
uuid_id! {
    /// A file, directory, symlink or special file; survives renames and crossing to another host.
    ObjectId
}
uuid_id! {
    /// A place where an object hangs: a name in a directory. A rename rewrites it, a hard link is a new one.
    LinkId
}
uuid_id! {
    /// One version of one object's content: a UUIDv7, minted once and the same everywhere after.
    VersionId
}
uuid_id! {
    /// A state of the history of a name: what it had shown by then. A hash of what it says, so the same everywhere.
    LineageId
}

impl ObjectId {
    /// The root directory of every store.
    pub const ROOT: Self = Self(1);

    /// The id of an object made here: the incarnation above, the inode number it was given below.
    #[must_use]
    pub const fn made_here(incarnation: Incarnation, ino: Ino) -> Self {
        Self(((incarnation.0 as u128) << 64) | ino.0 as u128)
    }

    /// The incarnation that made it and the inode number it has there.
    #[must_use]
    pub const fn parts(self) -> (Incarnation, Ino) {
        (Incarnation((self.0 >> 64) as u64), Ino(self.0 as u64))
    }
}

impl LinkId {
    /// The link that came with the object itself; most objects never have another.
    #[must_use]
    pub const fn primary(object: ObjectId) -> Self {
        Self(object.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn print_and_parse_agree() {
        assert_eq!("42".parse::<Lsn>().unwrap(), Lsn::new(42));
        assert_eq!(Lsn::new(42).to_string(), "42");
        let id = StoreId::new(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
        assert_eq!(id.to_string(), "01234567-89ab-cdef-0123-456789abcdef");
        assert_eq!(id.to_string().parse::<StoreId>().unwrap(), id);
    }

    #[test]
    fn an_object_id_names_its_maker() {
        let id = ObjectId::made_here(Incarnation::new(7), Ino::new(9));
        assert_eq!(id.parts(), (Incarnation::new(7), Ino::new(9)));
        assert_eq!(ObjectId::ROOT.parts(), (Incarnation::new(0), Ino::FIRST));
    }
}
