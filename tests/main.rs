//! All integration tests, in one binary.

mod disk;
mod exchange;
mod format;
mod index;
mod mount;
mod review;
mod segtool;
mod sim;
mod store;
mod suites;
mod tidy;
