//! Payloads made ready outside any lock: compressed if asked, checksums taken.

use std::sync::Arc;

use super::{
    Codec, Kind, Malformed,
    checksum::crc,
    compress,
    frame::{self, BODY_HEADER_BYTES, BodyHeader},
};
use crate::base::limits::{COMPRESSED_EXTENT_BYTES, EXTENT_BYTES, PIECE_BYTES, RECORD_BYTES};

/// A payload with everything that its frame says of it, so that appending it costs no checksum over its bytes.
/// Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Prepared {
    is_extent: bool,
    codec: Codec,
    raw_len: u32,
    raw_crc: u32,
    /// Of the stored bytes; 0 for a raw extent.
    payload_crc: u32,
    /// The piece table as stored; empty for anything but an extent above 4 KiB.
    table: Vec<u8>,
    stored: Arc<Vec<u8>>,
}

impl Prepared {
    /// An extent; compressed if asked, not too long, and if that helps.
    ///
    /// # Panics
    /// If there are more than [`EXTENT_BYTES`] bytes.
    #[must_use]
    pub fn extent(raw: Vec<u8>, try_compress: bool) -> Self {
        assert!(raw.len() <= EXTENT_BYTES, "extent of {} bytes", raw.len());
        let (raw_crc, table) = sums(&raw);
        let raw_len = raw.len() as u32;
        if try_compress
            && raw.len() <= COMPRESSED_EXTENT_BYTES
            && let Some(stored) = compress::compress(&raw, compress::LEVEL)
        {
            let payload_crc = crc(&stored);
            return Self {
                is_extent: true,
                codec: Codec::Zstd,
                raw_len,
                raw_crc,
                payload_crc,
                table,
                stored: Arc::new(stored),
            };
        }
        Self {
            is_extent: true,
            codec: Codec::Raw,
            raw_len,
            raw_crc,
            payload_crc: 0,
            table,
            stored: Arc::new(raw),
        }
    }

    /// An operation or a piece of a base; compressed above 4 KiB if that helps.
    ///
    /// # Panics
    /// If there are more than a record holds.
    #[must_use]
    pub fn record(raw: Vec<u8>) -> Self {
        assert!(raw.len() <= RECORD_BYTES - BODY_HEADER_BYTES, "record of {} bytes", raw.len());
        let raw_crc = crc(&raw);
        let raw_len = raw.len() as u32;
        let squeezed = if raw.len() > 4096 { compress::compress(&raw, compress::LEVEL) } else { None };
        match squeezed {
            Some(stored) => {
                let payload_crc = crc(&stored);
                let stored = Arc::new(stored);
                Self {
                    is_extent: false,
                    codec: Codec::Zstd,
                    raw_len,
                    raw_crc,
                    payload_crc,
                    table: Vec::new(),
                    stored,
                }
            }
            None => Self {
                is_extent: false,
                codec: Codec::Raw,
                raw_len,
                raw_crc,
                payload_crc: raw_crc,
                table: Vec::new(),
                stored: Arc::new(raw),
            },
        }
    }

    /// A footer: always raw.
    #[must_use]
    pub(crate) fn footer(raw: Vec<u8>) -> Self {
        let raw_crc = crc(&raw);
        Self {
            is_extent: false,
            codec: Codec::Raw,
            raw_len: raw.len() as u32,
            raw_crc,
            payload_crc: raw_crc,
            table: Vec::new(),
            stored: Arc::new(raw),
        }
    }

    /// An extent as another place stored it (a peer, another segment): decompressed once to check it.
    ///
    /// # Errors
    /// If lengths or checksums do not fit.
    pub fn stored_extent(
        codec: Codec,
        stored: Vec<u8>,
        raw_len: u32,
        raw_crc: u32,
    ) -> Result<Self, Malformed> {
        let bound = if codec == Codec::Raw { EXTENT_BYTES } else { COMPRESSED_EXTENT_BYTES };
        if raw_len as usize > bound || stored.len() > bound {
            return Err(Malformed("extent is longer than allowed"));
        }
        let ((crc_found, table), payload_crc) = match codec {
            Codec::Raw if stored.len() != raw_len as usize => {
                return Err(Malformed("raw length is not the payload's"));
            }
            Codec::Raw => (sums(&stored), 0),
            Codec::Zstd => {
                let mut raw = vec![0; raw_len as usize];
                compress::decompress(&stored, &mut raw)?;
                (sums(&raw), crc(&stored))
            }
        };
        if crc_found != raw_crc {
            return Err(Malformed("payload fails its checksum"));
        }
        Ok(Self { is_extent: true, codec, raw_len, raw_crc, payload_crc, table, stored: Arc::new(stored) })
    }

    /// How it is stored.
    #[must_use]
    pub fn codec(&self) -> Codec {
        self.codec
    }

    /// Length of the raw payload.
    #[must_use]
    pub fn raw_len(&self) -> u32 {
        self.raw_len
    }

    /// Checksum of the raw payload.
    #[must_use]
    pub fn raw_crc(&self) -> u32 {
        self.raw_crc
    }

    /// Checksum for the envelope.
    #[must_use]
    pub fn payload_crc(&self) -> u32 {
        self.payload_crc
    }

    /// The piece table as stored.
    #[must_use]
    pub fn table(&self) -> &[u8] {
        &self.table
    }

    /// The payload as stored.
    #[must_use]
    pub fn stored(&self) -> &Arc<Vec<u8>> {
        &self.stored
    }

    /// Length of the body of a frame with this payload.
    #[must_use]
    pub fn body_len(&self, kind: Kind) -> u32 {
        let head = if kind.has_body_header() { BODY_HEADER_BYTES + self.table.len() } else { 0 };
        (head + self.stored.len()) as u32
    }

    /// Does it fit what the kind allows?
    ///
    /// # Errors
    /// If it was made for another kind.
    pub fn check(&self, kind: Kind) -> Result<(), Malformed> {
        let ok = match kind {
            Kind::Extent => self.is_extent,
            Kind::Operation | Kind::Base => !self.is_extent,
            Kind::BatchEnd | Kind::Footer => false,
        };
        if ok { Ok(()) } else { Err(Malformed("payload was prepared for another kind")) }
    }
}

/// CRC of the whole and the piece table, in one pass.
fn sums(raw: &[u8]) -> (u32, Vec<u8>) {
    if raw.len() <= PIECE_BYTES {
        return (crc(raw), Vec::new());
    }
    let mut whole = crc32fast::Hasher::new();
    let mut table = Vec::with_capacity(frame::table_len(raw.len() as u32));
    for piece in raw.chunks(PIECE_BYTES) {
        let mut h = crc32fast::Hasher::new();
        h.update(piece);
        whole.combine(&h);
        table.extend_from_slice(&h.finalize().to_le_bytes());
    }
    (whole.finalize(), table)
}

/// Checks a whole body against its envelope and returns head and raw payload (borrowed if stored raw).
///
/// # Errors
/// If anything in it fails its checksum.
pub fn open_body<'a>(
    envelope: &frame::Envelope,
    body: &'a [u8],
) -> Result<(Option<BodyHeader>, std::borrow::Cow<'a, [u8]>), Malformed> {
    if body.len() != envelope.body_len as usize {
        return Err(Malformed("body is cut off"));
    }
    let (head, payload) = body.split_at(envelope.head_len());
    let header = if envelope.kind.has_body_header() {
        Some(BodyHeader::decode(head, envelope)?)
    } else if envelope.head_crc == 0 {
        None
    } else {
        return Err(Malformed("checksum for a head that is not there"));
    };
    let raw_extent = envelope.kind == Kind::Extent && envelope.codec == Codec::Raw;
    if !raw_extent && crc(payload) != envelope.payload_crc {
        return Err(Malformed("payload fails its checksum"));
    }
    let raw = match envelope.codec {
        Codec::Raw => std::borrow::Cow::Borrowed(payload),
        Codec::Zstd => {
            let len = match header {
                Some(h) => h.raw_len as usize,
                None => compress::declared_len(payload, RECORD_BYTES)?,
            };
            let mut raw = vec![0; len];
            compress::decompress(payload, &mut raw)?;
            std::borrow::Cow::Owned(raw)
        }
    };
    if let Some(h) = header {
        if h.raw_len as usize != raw.len() {
            return Err(Malformed("raw length is not the payload's"));
        }
        let table = &head[BODY_HEADER_BYTES..];
        if table.is_empty() {
            if crc(&raw) != h.raw_crc {
                return Err(Malformed("payload fails its checksum"));
            }
        } else if sums(&raw) != (h.raw_crc, table.to_vec()) {
            return Err(Malformed("a piece of the payload fails its checksum"));
        }
    }
    Ok((header, raw))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_of_pieces_is_the_sum_of_the_whole() {
        for len in [0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES + 5, EXTENT_BYTES] {
            let raw: Vec<u8> = (0..len).map(|i| (i * 7 / 3) as u8).collect();
            let p = Prepared::extent(raw.clone(), false);
            assert_eq!(p.raw_crc(), crc(&raw));
            assert_eq!(p.table().len(), frame::table_len(len as u32));
            p.check(Kind::Extent).unwrap();
        }
    }

    #[test]
    fn a_stored_extent_is_checked() {
        let raw = b"abcdefgh".repeat(1000);
        let p = Prepared::extent(raw.clone(), true);
        assert_eq!(p.codec(), Codec::Zstd);
        let again =
            Prepared::stored_extent(Codec::Zstd, p.stored().to_vec(), p.raw_len(), p.raw_crc()).unwrap();
        assert_eq!(again.table(), p.table());
        assert_eq!(again.payload_crc(), p.payload_crc());
        assert!(Prepared::stored_extent(Codec::Zstd, p.stored().to_vec(), p.raw_len(), 1).is_err());
        assert!(Prepared::stored_extent(Codec::Raw, raw, 7, p.raw_crc()).is_err());
    }

    #[test]
    fn a_payload_fits_one_kind() {
        assert!(Prepared::extent(vec![1; 20000], false).check(Kind::Operation).is_err());
        assert!(Prepared::extent(vec![1; 20], false).check(Kind::Operation).is_err());
        assert!(Prepared::record(vec![1; 20]).check(Kind::Extent).is_err());
        assert!(Prepared::record(vec![1; 20000]).check(Kind::Base).is_ok());
    }
}
