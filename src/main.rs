//! segfs: mounts and operates a store.
fn main() {}
