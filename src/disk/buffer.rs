//! A growable byte buffer that begins on a page, as direct writes need it.

use std::ops::{Deref, DerefMut};

use memmap2::MmapMut;

/// Like `Vec<u8>`, but its first byte lies on a page boundary and its memory comes straight from the kernel.
/// What was reserved once stays reserved: a tail buffer is cleared and filled again without new page faults.
#[derive(Default)]
pub struct AlignedBuffer {
    map: Option<MmapMut>,
    len: usize,
}

/// The smallest map, in bytes; capacities are powers of two above it.
const MAP_BYTES: usize = 64 << 10;

impl AlignedBuffer {
    /// An empty buffer that owns no memory yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { map: None, len: 0 }
    }

    /// An empty buffer that can take `bytes` without moving.
    ///
    /// # Panics
    /// If the kernel has no memory left.
    #[must_use]
    pub fn with_capacity(bytes: usize) -> Self {
        let mut buffer = Self::new();
        buffer.reserve(bytes);
        buffer
    }

    /// The number of bytes held.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The number of bytes that fit without moving.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.map.as_ref().map_or(0, |m| m.len())
    }

    /// Makes room for `more` bytes behind those held.
    ///
    /// # Panics
    /// If the kernel has no memory left, as `Vec` does.
    pub fn reserve(&mut self, more: usize) {
        let needed = self.len.checked_add(more).expect("a buffer is smaller than the address space");
        if needed <= self.capacity() {
            return;
        }
        let capacity = needed.max(MAP_BYTES).next_power_of_two();
        let mut map = match MmapMut::map_anon(capacity) {
            Ok(map) => map,
            Err(e) => panic!("no memory for a buffer of {capacity} bytes: {e}"),
        };
        map[..self.len].copy_from_slice(self);
        self.map = Some(map);
    }

    /// Appends bytes.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        let at = self.len;
        self.reserve(bytes.len());
        self.len += bytes.len();
        self[at..].copy_from_slice(bytes);
    }

    /// Sets the length; new bytes are zero, whatever the memory held before.
    pub fn resize_zeroed(&mut self, len: usize) {
        let old = self.len;
        if len > old {
            self.reserve(len - old);
            self.len = len;
            self[old..].fill(0);
        } else {
            self.len = len;
        }
    }

    /// Forgets what is behind `len`.
    pub const fn truncate(&mut self, len: usize) {
        if len < self.len {
            self.len = len;
        }
    }

    /// Forgets everything; keeps the memory.
    pub const fn clear(&mut self) {
        self.len = 0;
    }

    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        self
    }

    /// The bytes, to be changed in place.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        self
    }
}

impl Deref for AlignedBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.map.as_ref().map_or(&[], |m| &m[..self.len])
    }
}

impl DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        let len = self.len;
        self.map.as_mut().map_or(&mut [], |m| &mut m[..len])
    }
}

impl std::fmt::Debug for AlignedBuffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AlignedBuffer({} of {} bytes)", self.len, self.capacity())
    }
}

#[cfg(test)]
mod tests {
    use super::AlignedBuffer;

    #[test]
    fn behaves_like_a_vec_and_lies_on_a_page() {
        let (mut buffer, mut model) = (AlignedBuffer::new(), Vec::new());
        assert_eq!(buffer.as_slice(), &[] as &[u8]);
        for i in 0..300_u32 {
            let piece = vec![i as u8; (i as usize * 37) % 2000];
            buffer.extend_from_slice(&piece);
            model.extend_from_slice(&piece);
            if i % 60 == 20 {
                buffer.truncate(model.len() / 2);
                model.truncate(model.len() / 2);
            }
            assert_eq!(buffer.as_slice(), model);
        }
        assert!(buffer.len() > 64 << 10, "the buffer has grown past its first map");
        assert_eq!(buffer.as_ptr() as usize % 4096, 0);
    }

    #[test]
    fn new_bytes_are_zero_in_used_memory() {
        let mut buffer = AlignedBuffer::with_capacity(4096);
        buffer.resize_zeroed(1000);
        buffer.as_mut_slice().fill(7);
        let place = buffer.as_ptr();
        buffer.clear();
        buffer.extend_from_slice(b"abc");
        buffer.resize_zeroed(1000);
        assert_eq!(&buffer[..4], b"abc\0");
        assert!(buffer[3..].iter().all(|&b| b == 0));
        assert_eq!(buffer.as_ptr(), place, "the memory is kept");
        buffer.truncate(5000);
        assert_eq!(buffer.len(), 1000);
    }
}
