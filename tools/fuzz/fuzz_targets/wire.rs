//! Messages of peers: whatever decodes is encoded as it was read, and cutting the bytes elsewhere changes nothing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use segfs::format::wire::{Message, Splitter};

/// The messages in these bytes, handed over in pieces of so many; and whether it ended with what is none.
fn split(bytes: &[u8], step: usize) -> (Vec<Message>, bool) {
    let (mut splitter, mut got) = (Splitter::default(), Vec::new());
    for part in bytes.chunks(step) {
        splitter.push(part);
        loop {
            match splitter.next_message() {
                Ok(Some(message)) => got.push(message),
                Ok(None) => break,
                Err(_) => return (got, true),
            }
        }
    }
    (got, false)
}

fuzz_target!(|bytes: &[u8]| {
    let step = usize::from(bytes.first().copied().unwrap_or(0)) + 1;
    assert_eq!(split(bytes, step), split(bytes, usize::MAX));
    // A body alone: checksums do not stand in the way.
    if let Ok(message) = Message::decode(bytes) {
        let (again, broken) = split(&message.frame(), step);
        assert!(!broken && again == [message]);
    }
});
