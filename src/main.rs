//! `petl`: without arguments the window, otherwise the command line.

use std::process::ExitCode;

use petl_workbench::cli;
use petl_workbench::engine::measure::Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() -> ExitCode {
    cli::main()
}
