//! Compression of payloads: zstd level 1 or nothing.

use std::cell::RefCell;

use super::Malformed;

/// How a payload is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[repr(u8)]
pub enum Codec {
    /// As it is.
    #[default]
    Raw = 0,
    /// One zstd frame that declares its raw length.
    Zstd = 1,
}

impl Codec {
    /// From its number on disk.
    #[must_use]
    pub const fn from_u8(n: u8) -> Option<Self> {
        match n {
            0 => Some(Self::Raw),
            1 => Some(Self::Zstd),
            _ => None,
        }
    }
}

/// The level for data on its way in; the cleaner may take a higher one.
pub const LEVEL: i32 = 1;

thread_local! {
    static DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
}

/// The bytes as one zstd frame, if that is smaller by at least an eighth.
#[must_use]
pub fn compress(raw: &[u8], level: i32) -> Option<Vec<u8>> {
    let stored = zstd::bulk::compress(raw, level).ok()?;
    (stored.len() <= raw.len() - raw.len() / 8).then_some(stored)
}

/// The raw bytes of a zstd frame into `raw`, whose length must be exactly theirs.
///
/// # Errors
/// If the frame is damaged or holds another number of bytes.
pub fn decompress(stored: &[u8], raw: &mut [u8]) -> Result<(), Malformed> {
    DECOMPRESSOR.with_borrow_mut(|d| {
        let d = match d {
            Some(d) => d,
            None => d.insert(zstd::bulk::Decompressor::new().map_err(|_| Malformed("zstd has no memory"))?),
        };
        match d.decompress_to_buffer(stored, raw) {
            Ok(n) if n == raw.len() => Ok(()),
            Ok(_) => Err(Malformed("decompressed length is not the raw length")),
            Err(_) => Err(Malformed("zstd data is damaged")),
        }
    })
}

/// The raw length that a zstd frame declares.
///
/// # Errors
/// If it is no zstd frame, declares none, or more than `limit`.
pub fn declared_len(stored: &[u8], limit: usize) -> Result<usize, Malformed> {
    let declared = zstd::zstd_safe::get_frame_content_size(stored)
        .map_err(|_| Malformed("not a zstd frame"))?
        .ok_or(Malformed("zstd frame declares no length"))?;
    match usize::try_from(declared) {
        Ok(n) if n <= limit => Ok(n),
        _ => Err(Malformed("zstd frame declares more than is allowed")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_shrinks_and_comes_back_and_noise_stays() {
        let text = b"the same words again and again, ".repeat(300);
        let stored = compress(&text, LEVEL).unwrap();
        assert_eq!(declared_len(&stored, text.len()), Ok(text.len()));
        assert!(declared_len(&stored, text.len() - 1).is_err());
        let mut raw = vec![0; text.len()];
        decompress(&stored, &mut raw).unwrap();
        assert_eq!(raw, text);
        let mut longer = vec![0; text.len() + 1];
        assert!(decompress(&stored, &mut longer).is_err());
        let mut x = 1_u64;
        let noise: Vec<u8> = (0..4096)
            .map(|_| {
                x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (x >> 33) as u8
            })
            .collect();
        assert_eq!(compress(&noise, LEVEL), None);
        assert_eq!(compress(&[], LEVEL), None);
    }
}
