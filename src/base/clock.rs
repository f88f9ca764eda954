//! The clock as the store sees it.

/// Where time comes from. The simulator gives one that it moves by hand, also backwards.
pub trait Clock: Send + Sync {
    /// Wall-clock time in nanoseconds since 1970-01-01T00:00:00Z. May step in either direction.
    fn wall_ns(&self) -> u64;
    /// Nanoseconds since some fixed moment; never goes back.
    fn monotonic_ns(&self) -> u64;
    /// As [`monotonic_ns`](Self::monotonic_ns), counting also the time for which the machine slept.
    fn uptime_ns(&self) -> u64 {
        self.monotonic_ns()
    }
}

/// The clock of the machine.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn wall_ns(&self) -> u64 {
        let t = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        to_ns(t)
    }

    fn monotonic_ns(&self) -> u64 {
        to_ns(rustix::time::clock_gettime(rustix::time::ClockId::Monotonic))
    }

    fn uptime_ns(&self) -> u64 {
        to_ns(rustix::time::clock_gettime(rustix::time::ClockId::Boottime))
    }
}

fn to_ns(t: rustix::time::Timespec) -> u64 {
    let seconds = u64::try_from(t.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(t.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}
