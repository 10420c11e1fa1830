//! Trains a moment, then takes the adapter away in every form that the stack fits; each is read back and compared.
//! `cargo run --release --example 04_export`

#![expect(clippy::print_stdout, reason = "an example shows what it finds")]

use anyhow::{Result, bail};
use petl_workbench::engine::Event;
use petl_workbench::exports;
use petl_workbench::session::file;
use petl_workbench::workbench::Workbench;

fn main() -> Result<()> {
    let small = ["data.settings.train=64", "data.settings.test=64", "recipe.epochs=1", "device=cpu"].map(str::to_owned);
    let session = file::set(&file::find("digits-lora")?, &small)?;
    let home = tempfile::tempdir()?;
    let run = home.path().join("run");
    let mut bench = Workbench::new(session, home.path().to_owned(), Box::new(|| ()))?;
    bench.start_run("run", &run)?;
    while let Some(event) = bench.wait() {
        match event {
            Event::Finished(_) => break,
            Event::Failed { words, .. } => bail!(words),
            _ => {}
        }
    }
    for card in exports::CATALOG {
        match exports::export(&run, card.name, &home.path().join(card.name)) {
            Ok(done) => {
                println!("{}: written, largest difference {:.1e} on {} samples", card.title, done.difference, done.samples)
            }
            Err(error) => println!("{}: {error:#}", card.title),
        }
    }
    Ok(())
}
