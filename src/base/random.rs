//! Chance as the store sees it.

/// Where random numbers come from. The simulator gives a seeded one.
pub trait Random: Send + Sync {
    /// Fills the buffer with random bytes.
    fn fill(&self, bytes: &mut [u8]);

    /// A random 64-bit number that is not zero.
    fn nonzero_u64(&self) -> u64 {
        loop {
            let mut bytes = [0; 8];
            self.fill(&mut bytes);
            let n = u64::from_le_bytes(bytes);
            if n != 0 {
                return n;
            }
        }
    }

    /// A random 128-bit number.
    fn u128(&self) -> u128 {
        let mut bytes = [0; 16];
        self.fill(&mut bytes);
        u128::from_le_bytes(bytes)
    }
}

/// The kernel's random numbers.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemRandom;

impl Random for SystemRandom {
    fn fill(&self, bytes: &mut [u8]) {
        let mut done = 0;
        while done < bytes.len() {
            match rustix::rand::getrandom(&mut bytes[done..], rustix::rand::GetRandomFlags::empty()) {
                Ok(n) => done += n,
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => panic!("the kernel gives no random numbers: {e}"),
            }
        }
    }
}
