//! All integration tests, in one binary.

mod badinput;
mod bounds;
mod catchup;
mod cli;
mod disk;
mod exchange;
mod format;
mod history;
mod index;
mod kill;
mod mount;
mod names;
mod operate;
mod peers;
mod policy;
mod review;
mod segtool;
mod serve;
mod sim;
mod space;
mod store;
mod stores;
mod suites;
mod terminal;
mod tidy;
