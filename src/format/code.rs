//! bincode in the one configuration that the format fixes: little-endian, variable-length integers, bounded.

use bincode::config::{Configuration, Limit, LittleEndian, Varint};

pub use bincode::{Decode, Encode};

use super::Malformed;
use crate::base::limits::RECORD_BYTES;

/// What decoding one value may allocate, in bytes; values are wider in memory than in their encoding.
const DECODED_BYTES: usize = 16 * RECORD_BYTES;

const CONFIG: Configuration<LittleEndian, Varint, Limit<DECODED_BYTES>> =
    bincode::config::standard().with_limit::<DECODED_BYTES>();

/// Appends the encoding of a value.
///
/// # Panics
/// If a hand-written `Encode` fails; the derived ones can't.
pub fn encode_into<T: bincode::Encode>(value: &T, out: &mut Vec<u8>) {
    bincode::encode_into_std_write(value, out, CONFIG).expect("encoding into memory can't fail");
}

/// The encoding of a value.
///
/// # Panics
/// As [`encode_into`].
#[must_use]
pub fn encode<T: bincode::Encode>(value: &T) -> Vec<u8> {
    // Most rows and records are this small; growing step by step costs more than they do.
    let mut out = Vec::with_capacity(192);
    encode_into(value, &mut out);
    out
}

/// A value from exactly these bytes.
///
/// # Errors
/// If they are not its encoding, ask for too much memory, or go on behind it.
pub fn decode<T: bincode::Decode<()>>(bytes: &[u8]) -> Result<T, Malformed> {
    let (value, used) = decode_prefix(bytes)?;
    if used == bytes.len() { Ok(value) } else { Err(Malformed("bytes follow the value")) }
}

/// A value from the beginning of these bytes, and how many it took.
///
/// # Errors
/// As [`decode`], but for what follows.
pub fn decode_prefix<T: bincode::Decode<()>>(bytes: &[u8]) -> Result<(T, usize), Malformed> {
    bincode::decode_from_slice(bytes, CONFIG).map_err(|_| Malformed("not a valid encoding"))
}

/// As [`decode`], for bytes of somebody who may be hostile: decoding allocates at most `BYTES`.
///
/// # Errors
/// As [`decode`].
pub fn decode_within<const BYTES: usize, T: bincode::Decode<()>>(bytes: &[u8]) -> Result<T, Malformed> {
    let config = bincode::config::standard().with_limit::<BYTES>();
    match bincode::decode_from_slice(bytes, config) {
        Ok((value, used)) if used == bytes.len() => Ok(value),
        Ok(_) => Err(Malformed("bytes follow the value")),
        Err(_) => Err(Malformed("not a valid encoding, or too large a value")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_comes_back_and_nothing_may_follow() {
        let value = (7_u64, String::from("seven"), vec![1_u8, 2]);
        let mut bytes = encode(&value);
        assert_eq!(decode::<(u64, String, Vec<u8>)>(&bytes), Ok(value));
        bytes.push(0);
        assert_eq!(decode::<(u64, String, Vec<u8>)>(&bytes), Err(Malformed("bytes follow the value")));
    }

    #[test]
    fn a_length_beyond_the_limit_allocates_nothing() {
        let bytes = encode(&(u64::MAX / 2));
        assert!(decode::<Vec<u64>>(&bytes).is_err());
        assert!(decode::<Vec<u8>>(&encode(&(1_u64 << 40))).is_err());
    }

    #[test]
    fn what_a_value_takes_in_memory_is_bounded() {
        // One byte each in the encoding, eight in memory.
        let bytes = encode(&vec![1_u64; 100]);
        assert_eq!(decode_within::<1000, Vec<u64>>(&bytes), Ok(vec![1; 100]));
        assert!(decode_within::<700, Vec<u64>>(&bytes).is_err());
    }
}
