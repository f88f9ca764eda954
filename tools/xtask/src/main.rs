//! xtask: tests, checks and benchmarks of this repository.
fn main() {}
