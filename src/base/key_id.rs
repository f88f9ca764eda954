//! The name of a store's key, and how bytes are written so that a person can read them out.

use std::{fmt, str::FromStr};

/// Letters that are not mistaken for each other.
const LETTERS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// Names a key by its hash: what a store of somebody else is pinned to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; Self::BYTES]);

impl KeyId {
    /// Its length, in bytes.
    pub const BYTES: usize = 20;

    /// From the first bytes of the hash of a key.
    #[must_use]
    pub const fn new(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }
}

impl KeyId {
    /// How a name is written that begins with these bytes, as far as they settle its letters.
    #[must_use]
    pub fn beginning(bytes: &[u8]) -> String {
        let letters = to_letters(bytes);
        let whole = bytes.len() * 8 / 5;
        letters.as_bytes()[..whole].chunks(4).map(String::from_utf8_lossy).collect::<Vec<_>>().join("-")
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&Self::beginning(&self.0))
    }
}

impl FromStr for KeyId {
    type Err = NoLetters;
    fn from_str(s: &str) -> Result<Self, NoLetters> {
        from_letters(s)?.try_into().map(Self).map_err(|_| NoLetters)
    }
}

/// Text that does not stand for bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is cut off or has letters that do not belong there")]
pub struct NoLetters;

/// Bytes as letters and digits, five bits each.
#[must_use]
pub fn to_letters(bytes: &[u8]) -> String {
    let (mut out, mut bits, mut have) = (String::new(), 0_u32, 0);
    for b in bytes {
        bits = bits << 8 | u32::from(*b);
        have += 8;
        while have >= 5 {
            have -= 5;
            out.push(char::from(LETTERS[(bits >> have & 31) as usize]));
        }
    }
    if have > 0 {
        out.push(char::from(LETTERS[(bits << (5 - have) & 31) as usize]));
    }
    out
}

/// Back from [`to_letters`]; case, hyphens and spaces do not matter.
///
/// # Errors
/// [`NoLetters`].
pub fn from_letters(text: &str) -> Result<Vec<u8>, NoLetters> {
    let (mut out, mut bits, mut have) = (Vec::new(), 0_u32, 0);
    for c in text.bytes().filter(|c| !matches!(c, b'-' | b' ')) {
        let n = LETTERS.iter().position(|l| *l == c.to_ascii_lowercase()).ok_or(NoLetters)?;
        bits = bits << 5 | n as u32;
        have += 5;
        if have >= 8 {
            have -= 8;
            out.push((bits >> have & 255) as u8);
        }
    }
    if have >= 5 || bits & ((1 << have) - 1) != 0 { Err(NoLetters) } else { Ok(out) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_come_back_however_they_are_written() {
        for len in 0..40_u8 {
            let bytes: Vec<u8> = (0..len).map(|n| n.wrapping_mul(37).wrapping_add(len)).collect();
            let text = to_letters(&bytes);
            assert_eq!(from_letters(&text).unwrap(), bytes);
            assert_eq!(from_letters(&text.to_uppercase()).unwrap(), bytes);
        }
        let id = KeyId::new([0xa5; 20]);
        assert_eq!(id.to_string().parse::<KeyId>().unwrap(), id);
        assert_eq!(id.to_string().len(), 39);
        assert!(id.to_string().starts_with(&KeyId::beginning(&id.bytes()[..16])));
        for wrong in ["", "abc", "u", "0000-0000-0000-0000-0000-0000-0000-000"] {
            assert!(wrong.parse::<KeyId>().is_err(), "{wrong:?}");
        }
    }
}
