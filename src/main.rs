//! segfs: mounts and operates a store.

mod cli;

fn main() -> std::process::ExitCode {
    cli::run()
}
