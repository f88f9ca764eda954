//! What passes when an invite is shown: one message each way, in the encoding of facts. `docs/PROTOCOL.md` section 8.

use bincode::{Decode, Encode};

use super::{Malformed, code};
use crate::base::StoreId;

/// The most bytes of one of these messages.
pub const PAIRING_BYTES: usize = 4096;

/// The joiner shows an invite.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Show {
    /// What the code holds.
    pub secret: [u8; 16],
    /// How the joiner calls itself.
    pub name: String,
    /// Where it listens, if it does.
    pub address: Option<String>,
    /// What the inviter may do at the joiner's.
    pub grants: String,
    /// The joiner's store.
    pub store: StoreId,
}

/// What the inviter answers.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Answer {
    /// Both know each other from now on.
    Joined {
        /// How the inviter calls itself.
        name: String,
        /// What the joiner may do at the inviter's.
        grants: String,
        /// The inviter's store.
        store: StoreId,
    },
    /// Why not.
    Refused(String),
}

macro_rules! message {
    ($name:ident) => {
        impl $name {
            /// The bytes to send: the length, 4 bytes little-endian, and the body.
            #[must_use]
            pub fn frame(&self) -> Vec<u8> {
                let body = code::encode(self);
                [&(body.len() as u32).to_le_bytes()[..], &body].concat()
            }

            /// From the bytes of a body.
            ///
            /// # Errors
            /// If they are no such message.
            pub fn decode(body: &[u8]) -> Result<Self, Malformed> {
                code::decode_within::<PAIRING_BYTES, Self>(body)
            }
        }
    };
}

message!(Show);
message!(Answer);
