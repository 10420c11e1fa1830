//! `petl`: without arguments the window, otherwise the command line.

use petl_workbench::cli;
use petl_workbench::engine::devices;
use petl_workbench::engine::measure::Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() {
    devices::leave(cli::main())
}
