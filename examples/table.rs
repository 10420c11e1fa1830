//! The table of `assets/README.md`: linear probe on pretrained and on random weights, LoRA, full fine-tuning, on the three
//! embedded tasks, 5 seeds each. Prints Markdown.
//! `cargo run --release --example table -- --seeds 5 >> table.md` (about half an hour on 2 cores)

#![expect(clippy::print_stdout, reason = "an example shows what it finds")]

use anyhow::{Context, Result};
use petl_workbench::board::Run;
use petl_workbench::engine::Event;
use petl_workbench::engine::measure::Counting;
use petl_workbench::session::file;
use petl_workbench::workbench::Workbench;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Name in the table, preset, overrides.
const CONDITIONS: [(&str, &str, &[&str]); 4] = [
    ("probe, random weights", "digits-probe", &["backbone.settings.weights=random", "recipe.epochs=40"]),
    ("probe, pretrained", "digits-probe", &["recipe.epochs=40"]),
    ("LoRA r 8, every linear layer", "digits-lora-all", &[]),
    ("full fine-tuning", "digits-full", &[]),
];
/// Data set, and what its sessions set besides.
const TASKS: [(&str, &[&str]); 3] =
    [("digits", &["data.settings.test=500"]), ("emoji", &["data.settings.test=150"]), ("shapes", &["data.settings.test=500"])];

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let only = arguments.iter().position(|a| a == "--only").and_then(|n| arguments.get(n + 1)); // part of a condition's name
    let seeds: u64 = match arguments.iter().position(|a| a == "--seeds") {
        Some(n) => arguments.get(n + 1).context("--seeds takes a number")?.parse()?,
        None => 5,
    };
    println!("| task | condition | accuracy, mean ± sd of {seeds} seeds | trainable | ms a step | peak MB |");
    println!("|---|---|---|---|---|---|");
    for (name, preset, overrides) in
        CONDITIONS.into_iter().filter(|(name, ..)| only.is_none_or(|only| name.contains(only.as_str())))
    {
        for (task, own) in TASKS {
            let mut runs = vec![];
            for seed in 1..=seeds {
                let mut all: Vec<String> = vec![format!("data.name={task}"), format!("seed={seed}"), "device=cpu".into()];
                all.extend(own.iter().chain(overrides).map(|o| (*o).to_owned()));
                runs.push(train(preset, &all).with_context(|| format!("{task}, {name}, seed {seed}"))?);
            }
            let scores: Vec<f64> = runs.iter().filter_map(Run::accuracy).collect();
            let mean = scores.iter().sum::<f64>() / scores.len() as f64;
            let square = scores.iter().map(|s| (s - mean).powi(2)).sum::<f64>();
            let spread = (square / (scores.len() as f64 - 1.0).max(1.0)).sqrt();
            let trainable = runs[0].started.as_ref().map_or(0, |s| s.trainable);
            println!(
                "| {task} | {name} | {:.1} ± {:.1} | {trainable} | {:.1} | {:.0} |",
                mean * 100.0,
                spread * 100.0,
                runs[0].step_ms(),
                runs[0].peak_bytes() as f64 / 1e6
            );
        }
    }
    Ok(())
}

fn train(preset: &str, overrides: &[String]) -> Result<Run> {
    let session = file::set(&file::find(preset)?, overrides)?;
    let home = tempfile::tempdir()?;
    let mut bench = Workbench::new(session, home.path().to_owned(), Box::new(|| ()))?;
    bench.start_run("run", &home.path().join("run"))?;
    while let Some(event) = bench.wait() {
        match event {
            Event::Finished(_) => break,
            Event::Failed { words, .. } => anyhow::bail!(words),
            _ => {}
        }
    }
    bench.board.run("run").cloned().context("the run is not on the board")
}
