//! Writes `docs/methods.md` from the catalogue: every method's card, and what its preset reaches on the three embedded tasks,
//! beside the linear probe. Runs are kept in a folder, so that the same command goes on where it was stopped.
//! `cargo run --release --example methods_page -- RUNS --seeds 5` (about ten seconds a run on two cores)

#![expect(clippy::print_stderr, reason = "an example says how far it is")]

#[path = "shared/mod.rs"]
mod shared;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use petl_workbench::board::Run;
use petl_workbench::engine::measure::Counting;
use petl_workbench::methods::{self, Card};
use petl_workbench::session::{Session, file, presets};
use shared::{run, spread};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const TASKS: [&str; 3] = ["digits", "emoji", "shapes"];
/// The same for every method: a short run, so that the whole page takes an evening on two cores.
const EVERY: [&str; 5] =
    ["device=cpu", "recipe.epochs=3", "recipe.batch_size=16", "data.settings.train=500", "data.settings.test=300"];
/// The probe computes its features once; its head alone may train longer.
const PROBE: [&str; 1] = ["recipe.epochs=40"];

/// Stacks that a paper published as one method.
const STACKS: [&str; 2] = ["mam", "unipelt"];
/// A short run for the time of a step, measured in turn with plain LoRA's, this often.
const TIMED: [&str; 5] =
    ["device=cpu", "recipe.epochs=1", "recipe.batch_size=16", "data.settings.train=160", "data.settings.test=10"];
const TURNS: usize = 3;
const LORA: &str = "digits-lora";

/// One row: runs of one preset by task, seeds in order.
struct Row {
    title: String,
    preset: &'static str,
    /// None for the linear probe.
    trains_the_trunk: bool,
    runs: Vec<Vec<Run>>,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let folder = PathBuf::from(arguments.first().context("name a folder for the runs")?);
    let number = |name: &str| -> Result<Option<u64>> {
        let Some(n) = arguments.iter().position(|a| a == name) else { return Ok(None) };
        Ok(Some(arguments.get(n + 1).with_context(|| format!("{name} takes a number"))?.parse()?))
    };
    let seeds = number("--seeds")?.unwrap_or(5);
    let mut presets = vec![("digits-probe", false)];
    presets.extend(methods::CATALOG.iter().flat_map(|card| alone(card)).chain(STACKS).map(|preset| (preset, true)));
    // The runs of one seed and no page, so that several programs may share the work.
    if let Some(seed) = number("--only")? {
        for (preset, trains) in presets {
            for task in TASKS {
                let run = seeded(preset, trains, task, seed, &folder)?;
                eprintln!("{preset} on {task}, seed {seed}: {:.1} %", spread(&[run]).0);
            }
        }
        return Ok(());
    }
    // Seed by seed: what was finished when somebody had to stop is kept.
    let mut rows = Vec::new();
    for seeds in 1..=seeds {
        rows = presets.iter().map(|(preset, trains)| row(preset, *trains, &folder, seeds)).collect::<Result<_>>()?;
    }
    let steps = rows.iter().map(|row| if row.trains_the_trunk { step(row.preset, &folder).map(Some) } else { Ok(None) });
    let page = page(&rows, &steps.collect::<Result<Vec<_>>>()?, seeds)?;
    file::write_whole(Path::new("docs/methods.md"), page.as_bytes())
}

/// The time of a step over that of plain LoRA, kept beside the runs once it was measured.
fn step(preset: &str, folder: &Path) -> Result<f64> {
    let place = folder.join(format!("{preset}.step"));
    if let Ok(text) = std::fs::read_to_string(&place) {
        return text.trim().parse().with_context(|| format!("{} is no number", place.display()));
    }
    let ratio = ratio(preset)?;
    file::write_whole(&place, format!("{ratio:.2}\n").as_bytes())?;
    Ok(ratio)
}

/// The time of a step over that of plain LoRA, medians of runs in turn.
fn ratio(preset: &str) -> Result<f64> {
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..TURNS {
        for (times, preset) in times.iter_mut().zip([preset, LORA]) {
            let session = file::set(&file::find(preset)?, &TIMED.map(str::to_owned))?;
            let folder = tempfile::tempdir()?;
            times.push(run(&session, &folder.path().join("run"))?.step_ms());
        }
    }
    let [own, lora] = times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        times[TURNS / 2]
    });
    eprintln!("{preset}: {own:.0} ms a step, LoRA {lora:.0} ms");
    Ok(own / lora)
}

/// The presets whose stack is this method alone, on digits.
fn alone(card: &Card) -> Vec<&'static str> {
    let fits = |session: &Session| {
        session.data.name == "digits" && !session.methods.is_empty() && session.methods.iter().all(|m| m.name == card.name)
    };
    presets::PRESETS.iter().filter(|p| file::find(p.name).is_ok_and(|session| fits(&session))).map(|p| p.name).collect()
}

/// The runs of one preset, seeds 1 to `seeds`; trains what is not there yet.
fn row(preset: &'static str, trains_the_trunk: bool, folder: &Path, seeds: u64) -> Result<Row> {
    let title = file::find(preset)?.title.trim_start_matches("Digits, ").to_owned();
    let mut runs = Vec::new();
    for task in TASKS {
        let mut of_task = Vec::new();
        for seed in 1..=seeds {
            of_task.push(seeded(preset, trains_the_trunk, task, seed, folder)?);
        }
        eprintln!("{preset} on {task}, {seeds} seeds: {:.1} %", spread(&of_task).0);
        runs.push(of_task);
    }
    Ok(Row { title, preset, trains_the_trunk, runs })
}

/// The run of one preset on one task with one seed.
fn seeded(preset: &str, trains_the_trunk: bool, task: &str, seed: u64, folder: &Path) -> Result<Run> {
    let mut set: Vec<String> = EVERY.iter().map(|s| (*s).to_owned()).collect();
    if !trains_the_trunk {
        set.extend(PROBE.map(str::to_owned));
    }
    set.extend([format!("data.name={task}"), format!("seed={seed}")]);
    let session = file::set(&file::find(preset)?, &set)?;
    run(&session, &folder.join(format!("{preset}.{task}.{seed}"))).with_context(|| format!("{preset} on {task}, seed {seed}"))
}

fn page(rows: &[Row], steps: &[Option<f64>], seeds: u64) -> Result<String> {
    let mut page = String::from(
        "# Methods\n\nMade by the program from its own cards and runs; do not edit. The command stands at the foot.\n\n## What they reach\n\n",
    );
    writeln!(page, "| method | preset | digits | emoji | shapes | trainable | peak MB | step, of LoRA's |")?;
    writeln!(page, "|---|---|---|---|---|---|---|---|")?;
    for (row, step) in rows.iter().zip(steps) {
        let cells: Vec<String> = row
            .runs
            .iter()
            .map(|runs| {
                let (mean, deviation) = spread(runs);
                format!("{mean:.1} ± {deviation:.1}")
            })
            .collect();
        let first = &row.runs[0];
        let trainable = first[0].started.as_ref().map_or(0, |s| s.trainable);
        let peak = first.iter().map(Run::peak_bytes).max().unwrap_or(0) as f64 / 1e6;
        let ratio = step.map_or("-".to_owned(), |step| format!("{step:.2}"));
        writeln!(page, "| {} | `{}` | {} | {trainable} | {peak:.1} | {ratio} |", row.title, row.preset, cells.join(" | "))?;
    }
    writeln!(
        page,
        "\nTest accuracy in per cent, mean ± standard deviation of {seeds} seeds. Every run: `{}`, the rest from its preset (the probe: `{}`).",
        EVERY.join(" "),
        PROBE.join(" ")
    )?;
    writeln!(
        page,
        "Trainable parameters are without the head; peak is that of training steps; a step's time is over that of plain LoRA on q and v (`{LORA}`), medians of {TURNS} short runs in turn: `{}`.\n",
        TIMED.join(" ")
    )?;
    worse(&mut page, rows)?;
    writeln!(page, "## Cards\n")?;
    for card in methods::CATALOG {
        writeln!(page, "### {}\n\n{}\n\n```text\n{}\n\n{}\n```\n", card.title, card.help, card.formula, card.drawing)?;
        writeln!(page, "- Paper: {} ({})", card.paper, card.year)?;
        writeln!(page, "- Trainable: {}", card.count)?;
        writeln!(page, "- The paper's learning rate: {:e}", card.learning_rate)?;
        writeln!(page, "- Watch: {}", card.caution)?;
        writeln!(page, "- In released code: {}", card.released)?;
        writeln!(
            page,
            "- Start: {}; {}\n",
            start(card),
            match (card.folds, card.fields.iter().any(|field| field.name == "gate")) {
                (true, false) => "folds into the weights",
                (true, true) => "folds into the weights, unless gated",
                (false, _) => "stays beside the weights",
            }
        )?;
    }
    writeln!(page, "```sh\ncargo run --release --example methods_page -- RUNS --seeds {seeds}\n```")?;
    Ok(page)
}

fn start(card: &Card) -> &'static str {
    if card.identity_at_start { "the frozen network's output" } else { "not the frozen network's output" }
}

/// Why a preset is below the probe in runs as short as these, with what shows it.
const WHY: [(&str, &str); 3] = [
    (
        "adalora",
        "its budget falls through most of these 96 steps, so that what is left has few to learn in. At the preset's own length it reaches 93.0 % on digits \
         and 62.2 % on shapes (`petl train adalora --set seed=1`, and with `--set data.name=shapes`)",
    ),
    (
        "adaptformer",
        "its s = 0.1 and its W_up = 0 make it start slowly. At the preset's own length it reaches 93.0 % on digits and 58.6 % on shapes \
         (`petl train adaptformer --set seed=1`, and with `--set data.name=shapes`)",
    ),
    (
        "prefix",
        "fresh keys and values take a part of every attention and learn slowly. At the preset's own length it reaches 91.4 % on digits \
         (`petl train prefix --set seed=1`)",
    ),
];

/// Names what is below the probe on every task, with the reason.
fn worse(page: &mut String, rows: &[Row]) -> Result<()> {
    let Some((probe, others)) = rows.split_first() else { return Ok(()) };
    let below = |row: &&Row| row.runs.iter().zip(&probe.runs).all(|(a, b)| spread(a).0 < spread(b).0);
    let names: Vec<_> = others.iter().filter(below).collect();
    if names.is_empty() {
        writeln!(page, "No method is below the probe on all three tasks.\n")?;
        return Ok(());
    }
    writeln!(page, "Below the probe on all three tasks in these short runs:\n")?;
    for row in names {
        let why = WHY.iter().find(|(preset, _)| *preset == row.preset).map_or("no reason is known yet", |(_, why)| why);
        writeln!(page, "- {}: {why}.", row.title)?;
    }
    writeln!(page)?;
    Ok(())
}
