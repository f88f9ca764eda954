//! bincode, the one way: fixed configuration, bounded, nothing left over.

use bincode::{
    Decode, Encode,
    config::{Configuration, Limit, LittleEndian, Varint},
    de::{BorrowDecoder, Decoder},
    enc::Encoder,
    error::{DecodeError, EncodeError},
};

use crate::base::{
    Error, Incarnation, Ino, LinkId, Lsn, ObjectId, Result, SegmentId, StoreId, VersionId, limits,
};

const CONFIG: Configuration<LittleEndian, Varint, Limit<{ 2 * limits::RECORD_BYTES }>> =
    bincode::config::standard().with_limit::<{ 2 * limits::RECORD_BYTES }>();

/// The bytes of a value.
///
/// # Panics
/// Never for the types of this crate: they have no case that can't be encoded.
#[must_use]
pub fn encode<T: Encode>(value: &T) -> Vec<u8> {
    bincode::encode_to_vec(value, CONFIG).expect("every value can be encoded")
}

/// The value of exactly these bytes.
///
/// # Errors
/// [`Error::BadRequest`] naming `what`, if they are not such a value, or are longer.
pub fn decode<T: Decode<()>>(bytes: &[u8], what: &str) -> Result<T> {
    match bincode::decode_from_slice::<T, _>(bytes, CONFIG) {
        Ok((value, used)) if used == bytes.len() => Ok(value),
        Ok((_, used)) => Err(Error::BadRequest(format!("{what}: {} bytes too many", bytes.len() - used))),
        Err(e) => Err(Error::BadRequest(format!("{what}: {e}"))),
    }
}

/// The value with which these bytes begin.
///
/// # Errors
/// As of [`decode`].
pub fn decode_first<T: Decode<()>>(bytes: &[u8], what: &str) -> Result<T> {
    bincode::decode_from_slice::<T, _>(bytes, CONFIG)
        .map(|(value, _)| value)
        .map_err(|e| Error::BadRequest(format!("{what}: {e}")))
}

macro_rules! id_code {
    ($($name:ident),+) => {$(
        impl Encode for $name {
            fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
                self.get().encode(encoder)
            }
        }
        impl<C> Decode<C> for $name {
            fn decode<D: Decoder<Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
                Ok(Self::new(Decode::decode(decoder)?))
            }
        }
        impl<'de, C> bincode::BorrowDecode<'de, C> for $name {
            fn borrow_decode<D: BorrowDecoder<'de, Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
                Ok(Self::new(Decode::decode(decoder)?))
            }
        }
    )+};
}

id_code!(Ino, Lsn, SegmentId, Incarnation, StoreId, ObjectId, LinkId, VersionId);
