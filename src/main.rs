//! segfs: mounts and operates a store.

mod cli;

/// The index makes and drops many small things on several threads: with the system's allocator that is a quarter of what
/// a create costs and two fifths of a lookup (`docs/decisions/2026-11-25-speed-of-the-store.md`).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    cli::run()
}
