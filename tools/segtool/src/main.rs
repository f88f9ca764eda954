//! segtool: looks inside a segfs store.
//!
//! Arguments and printing only; what is found out, `segfs::store::inspect` finds out. `docs/CLI.md` has the contract:
//! exit codes, the three parts of an error, the JSON forms.

mod args;
mod describe;
mod dump;
mod held;
mod index;
mod segments;
mod stat;
mod verify;

use std::process::ExitCode;

use args::{Cli, Command, IndexCommand};
use segfs::console::{self, Failure, Output};

/// As of the store's own program: rebuilding and checking an index is mostly small allocations.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().collect();
    let cli: Cli = match console::parse("segtool", &words) {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    let json = cli.json;
    let mut out = Output::new(json);
    let done = run(cli, &mut out);
    match done.and_then(|()| out.finish()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // What was found before it failed is worth as much as without the failure.
            let _ = out.finish();
            failure.tell("segtool", json)
        }
    }
}

fn run(cli: Cli, out: &mut Output) -> Result<(), Failure> {
    match cli.command {
        Command::Segments { store } => segments::run(&store, out),
        Command::Dump(dump) => dump::run(&dump, out),
        Command::Verify { store, deep } => verify::run(&store, deep, out),
        Command::Stat { store } => stat::run(&store, out),
        Command::Index { command: IndexCommand::Check { store } } => index::check(&store, out),
        Command::Index { command: IndexCommand::Rebuild { store } } => index::rebuild(&store, out),
    }
}
