//! segtool: looks inside a segfs store.
fn main() {}
