//! The one integration-test binary.

mod index;
