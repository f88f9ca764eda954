//! All integration tests, in one binary.

mod disk;
mod index;
mod sim;
mod store;
mod tidy;
