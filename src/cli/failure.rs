//! What a person is told when something does not work; it is `console`'s, the same for both programs.

pub use segfs::console::*;
