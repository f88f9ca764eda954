//! Ids in bincode: the bare number.

use bincode::{
    Decode, Encode,
    de::{BorrowDecoder, Decoder},
    enc::Encoder,
    error::{DecodeError, EncodeError},
};

use crate::base::{Incarnation, Ino, LineageId, LinkId, Lsn, ObjectId, SegmentId, StoreId, VersionId};

use super::Codec;

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

id_code!(Ino, Lsn, SegmentId, Incarnation, StoreId, ObjectId, LinkId, VersionId, LineageId);

impl Encode for Codec {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        (*self as u8).encode(encoder)
    }
}

impl<C> Decode<C> for Codec {
    fn decode<D: Decoder<Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
        Self::from_u8(Decode::decode(decoder)?).ok_or(DecodeError::Other("unknown codec"))
    }
}

impl<'de, C> bincode::BorrowDecode<'de, C> for Codec {
    fn borrow_decode<D: BorrowDecoder<'de, Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
        Self::decode(decoder)
    }
}
