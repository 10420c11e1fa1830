//! Trains a preset on the worker thread, without a window, and prints what happens.
//! `cargo run --release --example 02_train -- digits-lora`

#![expect(clippy::print_stdout, reason = "an example shows what it finds")]

use anyhow::{Result, bail};
use petl_workbench::engine::Event;
use petl_workbench::engine::measure::Counting;
use petl_workbench::session::file;
use petl_workbench::workbench::Workbench;

/// Memory on the CPU is what this allocator counts; without it every peak reads 0.
#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() -> Result<()> {
    let what = std::env::args().nth(1).unwrap_or_else(|| "digits-lora".into());
    let home = tempfile::tempdir()?;
    let mut bench = Workbench::new(file::find(&what)?, home.path().to_owned(), Box::new(|| ()))?;
    bench.start_run("example", &home.path().join("runs/example"))?;
    while let Some(event) = bench.wait() {
        match event {
            Event::Started(s) => println!("{} on {}: {} steps", s.stack, s.device, s.steps),
            Event::Step(s) => println!("step {:4}  loss {:.3}  {:.0} samples a second", s.step, s.loss, s.samples_per_second),
            Event::Evaluated(e) => println!("epoch {}  test accuracy {:.3}", e.epoch, e.accuracy),
            Event::Finished(f) => {
                println!("accuracy {:.3} in {:.0} s, peak {:.0} MB", f.accuracy, f.seconds, f.peak_bytes as f64 / 1e6);
                return Ok(());
            }
            Event::Failed { words, .. } => bail!(words),
            _ => {}
        }
    }
    Ok(())
}
