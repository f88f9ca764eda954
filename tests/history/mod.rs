//! History: the versions of a name, moments as trees, and the commands that show them.
#![allow(clippy::disallowed_methods)] // this is the outside: real files, real time

mod commands;
mod conflicts;
mod habits;
mod lineage;
mod paths;
mod scale;
