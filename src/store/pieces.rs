//! Pieces of a chunk: which part of which extent shows where. Plain data, no I/O.

use crate::{
    base::{Lsn, limits::CHUNK_BYTES},
    format::rows::{Cut, Piece},
};

/// Makes `start..start + len` of a chunk show `piece`, or nothing (a hole), whatever it showed before.
pub(super) fn splice(pieces: &mut Vec<Piece>, start: u32, len: u32, piece: Option<Piece>) {
    let end = start + len;
    let mut out: Vec<Piece> = Vec::with_capacity(pieces.len() + 2);
    for p in pieces.iter() {
        if p.start < start {
            push(&mut out, Piece { len: p.len.min(start - p.start), ..*p });
        }
    }
    if let Some(piece) = piece {
        debug_assert!(piece.start == start && piece.len == len);
        push(&mut out, piece);
    }
    for p in pieces.iter() {
        let p_end = p.start + p.len;
        if p_end > end {
            let from = p.start.max(end);
            push(&mut out, Piece { start: from, len: p_end - from, skip: p.skip + (from - p.start), ..*p });
        }
    }
    *pieces = out;
}

/// Adds a piece at the end, as part of the last one where it continues that.
fn push(pieces: &mut Vec<Piece>, piece: Piece) {
    if let Some(last) = pieces.last_mut()
        && last.extent == piece.extent
        && last.start + last.len == piece.start
        && last.skip + last.len == piece.skip
    {
        last.len += piece.len;
        return;
    }
    pieces.push(piece);
}

/// Bytes that are not holes.
pub(super) fn allocated(pieces: &[Piece]) -> u64 {
    pieces.iter().map(|p| u64::from(p.len)).sum()
}

/// Was a chunk emptied by a truncation after it was written?
pub(super) fn is_cut(cuts: &[Cut], chunk: u64, written: Lsn) -> bool {
    cuts.iter().any(|c| c.at > written && c.size <= chunk * CHUNK_BYTES)
}

/// Adds a cut; what it covers needs no cut of its own any more.
pub(super) fn add_cut(cuts: &mut Vec<Cut>, cut: Cut) {
    cuts.retain(|c| c.size < cut.size);
    cuts.push(cut);
}

/// The chunks that a range touches: chunk, start in it, length in it, offset in the range.
pub(super) fn chunks_of(offset: u64, len: u64) -> impl Iterator<Item = (u64, u32, u32, u64)> {
    let end = offset + len;
    let mut at = offset;
    std::iter::from_fn(move || {
        (at < end).then(|| {
            let chunk = at / CHUNK_BYTES;
            let start = at % CHUNK_BYTES;
            let n = (CHUNK_BYTES - start).min(end - at);
            let item = (chunk, start as u32, n as u32, at - offset);
            at += n;
            item
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        base::SegmentId,
        format::{Codec, Location},
    };

    fn piece(start: u32, len: u32, extent: u64, skip: u32) -> Piece {
        let location =
            Location { segment: SegmentId::FIRST, offset: 0, stored_len: 0, raw_len: 0, codec: Codec::Raw };
        Piece { start, len, extent: Lsn::new(extent), skip, location }
    }

    #[test]
    fn splice_agrees_with_a_byte_by_byte_model() {
        let mut seed = 7_u64;
        let mut next = move |n: u32| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as u32 % n
        };
        for _ in 0..200 {
            let mut pieces = Vec::new();
            let mut model = [(0_u64, 0_u32); 64];
            for extent in 1..20 {
                let start = next(60);
                let len = 1 + next(64 - start);
                let hole = next(4) == 0;
                splice(&mut pieces, start, len, (!hole).then(|| piece(start, len, extent, 5)));
                for i in 0..len {
                    model[(start + i) as usize] = if hole { (0, 0) } else { (extent, 5 + i) };
                }
                let mut seen = [(0_u64, 0_u32); 64];
                let mut end = 0;
                for p in &pieces {
                    assert!(p.start >= end && p.len > 0, "{pieces:?}");
                    end = p.start + p.len;
                    for i in 0..p.len {
                        seen[(p.start + i) as usize] = (p.extent.get(), p.skip + i);
                    }
                }
                assert_eq!(seen, model);
            }
        }
    }

    #[test]
    fn a_piece_that_continues_the_last_becomes_part_of_it() {
        let mut pieces = vec![piece(0, 4, 1, 0)];
        splice(&mut pieces, 4, 4, Some(piece(4, 4, 1, 4)));
        assert_eq!(pieces, [piece(0, 8, 1, 0)]);
    }

    #[test]
    fn cuts_hide_what_was_written_before_them() {
        let mut cuts = vec![];
        add_cut(&mut cuts, Cut { at: Lsn::new(10), size: 3 * CHUNK_BYTES });
        assert!(
            is_cut(&cuts, 3, Lsn::new(9))
                && !is_cut(&cuts, 3, Lsn::new(11))
                && !is_cut(&cuts, 2, Lsn::new(9))
        );
        add_cut(&mut cuts, Cut { at: Lsn::new(20), size: 0 });
        assert_eq!(cuts.len(), 1);
    }
}
