//! A frame: envelope, body, batch end. The input is taken as it is, and once more with every checksum put right.
#![no_main]

use libfuzzer_sys::fuzz_target;
use segfs::{
    base::{SegmentId, limits},
    format::{
        BatchEnd, Codec, Envelope, Kind, Seed, checksum::crc, frame::ENVELOPE_BYTES, payload::open_body,
    },
};

/// As in the golden bytes.
const SALT: u64 = 0x0123_4567_89ab_cdef;
const AT: u64 = 8192;

fn open(e: &Envelope, rest: &[u8]) {
    let body = &rest[..rest.len().min(e.body_len as usize)];
    if e.kind == Kind::BatchEnd {
        let _ = BatchEnd::decode(body, e);
    }
    if let Ok((_, raw)) = open_body(e, body) {
        let most = if e.kind == Kind::Extent { limits::EXTENT_BYTES } else { limits::RECORD_BYTES };
        assert!(raw.len() <= most);
    }
}

fuzz_target!(|bytes: &[u8]| {
    let (seed, segment) = (Seed::of(SALT), SegmentId::new(7));
    let Some((head, rest)) = bytes.split_at_checked(ENVELOPE_BYTES) else { return };
    if let Ok(e) = Envelope::decode(head, seed, segment, AT, u64::MAX) {
        open(&e, rest);
    }
    // A magic, a kind and a codec that exist, this place, lengths that fit in the input, right checksums.
    let mut head: [u8; ENVELOPE_BYTES] = head.try_into().unwrap();
    head[..2].copy_from_slice(&0x4653_u16.to_le_bytes());
    head[2] = 1 + head[2] % 5;
    head[3] %= 2;
    head[24 + 8..24 + 16].copy_from_slice(&7_u64.to_le_bytes());
    head[40..48].copy_from_slice(&AT.to_le_bytes());
    let word = |head: &[u8], at: usize| u32::from_le_bytes(head[at..at + 4].try_into().unwrap());
    let body_len = word(&head, 8).min(rest.len() as u32);
    let before = match (Kind::from_u8(head[2]), Codec::from_u8(head[3])) {
        (Some(Kind::Extent), Some(Codec::Raw)) => {
            // Head, piece table, payload: what the payload's length must be, so that all three fit.
            let body = body_len.saturating_sub(80);
            if body <= 16 << 10 { 80 } else { 80 + body.div_ceil((16 << 10) + 4) * 4 }
        }
        (Some(Kind::Extent | Kind::Operation), _) => 80,
        _ => 0,
    };
    let payload_len = body_len.saturating_sub(before);
    let at = (body_len - payload_len) as usize;
    let mut body = rest[..body_len as usize].to_vec();
    if before >= 80 && body.len() >= 80 && head[3] == 0 {
        body[64..68].copy_from_slice(&payload_len.to_le_bytes());
        let raw_crc = crc(&body[at..]);
        body[68..72].copy_from_slice(&raw_crc.to_le_bytes());
    }
    head[8..12].copy_from_slice(&body_len.to_le_bytes());
    head[12..16].copy_from_slice(&payload_len.to_le_bytes());
    head[16..20].copy_from_slice(&if before > 0 { crc(&body[..at]) } else { 0 }.to_le_bytes());
    let raw_extent = head[2] == 1 && head[3] == 0;
    head[20..24].copy_from_slice(&if raw_extent { 0 } else { crc(&body[at..]) }.to_le_bytes());
    let right = seed.crc_without(&head, 4);
    head[4..8].copy_from_slice(&right.to_le_bytes());
    if let Ok(e) = Envelope::decode(&head, seed, segment, AT, u64::MAX) {
        open(&e, &body);
    }
});
