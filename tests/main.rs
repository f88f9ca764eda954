//! All integration tests, in one binary.

mod bounds;
mod disk;
mod format;
mod index;
mod mount;
mod review;
mod segtool;
mod sim;
mod store;
mod tidy;
