//! Fills README's table of real backbones on real data: linear probe, LoRA, bottleneck adapter, BitFit and full fine-tuning. Weights and data
//! stand in a folder ($PETL_DATA, or ~/.cache/petl-data) under the names below and never enter the repository. Runs are kept, so that the
//! same command goes on where it was stopped; a task whose runs are not all there leaves its rows as they are.
//! `cargo run --release --example real_table -- RUNS` (two to three hours on two cores). With `--only TEXT` it trains the runs whose names hold
//! the text (`dinov2.elpv`, `full.whisper.spoken.2`) and stops there: several such commands may go on side by side. With `--rows` it trains
//! nothing more: it times an epoch of what is whole, with nothing beside it, and writes those rows.

#![expect(clippy::print_stderr, reason = "an example says how far it is")]

#[path = "shared/mod.rs"]
mod shared;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use petl_workbench::board::{Run, Status};
use petl_workbench::engine::measure::Counting;
use petl_workbench::session::{Session, file};
use serde_json::Value as Json;
use shared::{run, spread};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const SEEDS: u64 = 3;
const README: &str = "README.md";
/// Between these lines of README the table stands.
const MARKS: [&str; 2] = ["<!-- real_table: begin -->", "<!-- real_table: end -->"];

/// A backbone on a data set.
struct Task {
    name: &'static str,
    title: &'static str,
    /// Settings of backbone and data; `DATA` is the folder of all, `LISTS` that of what `prepare` writes.
    set: &'static [&'static str],
}

const TASKS: [Task; 5] = [
    Task {
        name: "minilm.movies",
        title: "MiniLM, movie reviews (2 classes)",
        set: &[
            "backbone.name=bert",
            "backbone.settings.folder=DATA/minilm",
            "backbone.settings.length=32",
            "data.name=text-table",
            "data.settings.file=LISTS/movies.csv",
            "data.settings.threshold=0",
            "data.settings.train=300",
            "data.settings.test_items=300",
        ],
    },
    Task {
        name: "minilm.tweets",
        title: "MiniLM, tweets (2 classes)",
        set: &[
            "backbone.name=bert",
            "backbone.settings.folder=DATA/minilm",
            "backbone.settings.length=32",
            "data.name=text-table",
            "data.settings.file=LISTS/tweets.csv",
            "data.settings.threshold=0",
            "data.settings.train=300",
            "data.settings.test_items=300",
        ],
    },
    Task {
        name: "dinov2.elpv",
        title: "DINOv2-small, solar cells (2 classes)",
        set: &[
            "backbone.name=vit",
            "backbone.settings.folder=DATA/dinov2-small",
            "backbone.settings.side=112",
            "data.name=image-list",
            "data.settings.folder=LISTS",
            "data.settings.train_list=elpv-train.txt",
            "data.settings.test_list=elpv-test.txt",
        ],
    },
    Task {
        name: "dinov2.emoji",
        title: "DINOv2-small, emoji of one vendor (9 classes)",
        set: &[
            "backbone.name=vit",
            "backbone.settings.folder=DATA/dinov2-small",
            "backbone.settings.side=112",
            "data.name=image-list",
            "data.settings.folder=LISTS",
            "data.settings.train_list=emoji-train.txt",
            "data.settings.test_list=emoji-test.txt",
        ],
    },
    Task {
        name: "whisper.spoken",
        title: "Whisper-tiny's encoder, spoken languages (5 classes)",
        set: &[
            "backbone.name=whisper",
            "backbone.settings.folder=DATA/whisper-tiny-encoder",
            "backbone.settings.seconds=4",
            "data.name=audio-folder",
            "data.settings.folder=DATA/spoken",
            "data.settings.test=0.07",
            "data.settings.per_class=60",
            "data.settings.damaged=leave out",
        ],
    },
];

/// A method: its stack and the rate that goes with it.
const METHODS: [(&str, &str, &[&str]); 5] = [
    ("probe", "linear probe", &["recipe.learning_rate=1e-2", "recipe.epochs=40"]),
    ("lora", "LoRA r 8 on q, v", &["recipe.learning_rate=1e-3"]),
    ("bottleneck", "bottleneck adapter (Pfeiffer)", &["recipe.learning_rate=1e-3"]),
    ("bitfit", "BitFit", &["recipe.learning_rate=1e-3"]),
    ("full", "full fine-tuning", &["recipe.learning_rate=5e-5"]),
];
/// The same for every run.
const EVERY: [&str; 4] = ["device=cpu", "recipe.epochs=4", "recipe.batch_size=16", "recipe.label_smoothing=0"];
/// A short run for the time and the memory of an epoch, one after the other with nothing beside it.
const TIMED: [&str; 2] = ["recipe.epochs=1", "seed=1"];

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let folder = PathBuf::from(arguments.first().context("name a folder for the runs")?);
    let only = arguments.iter().position(|a| a == "--only").map(|n| arguments.get(n + 1).context("--only what?")).transpose()?;
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/petl-data");
    let data = std::env::var_os("PETL_DATA").map_or_else(home, PathBuf::from);
    let lists = std::path::absolute(folder.join("lists"))?;
    prepare(&data, &lists)?;
    if arguments.iter().any(|a| a == "--rows") {
        return write(&folder, &data, &lists);
    }
    for seed in 1..=SEEDS {
        for task in &TASKS {
            for (method, ..) in METHODS {
                let place = place(&folder, task, method, seed);
                if only.is_some_and(|only| !place.to_string_lossy().contains(only.as_str())) {
                    continue;
                }
                let run = run(&session(task, method, seed, &data, &lists)?, &place)
                    .with_context(|| format!("{method} on {}, seed {seed}", task.name))?;
                eprintln!("{method} on {}, seed {seed}: {:.1} %", task.name, spread(&[run]).0);
            }
        }
    }
    if only.is_some() {
        return Ok(());
    }
    for task in &TASKS {
        for (method, ..) in METHODS {
            epoch(task, method, &data, &lists, &folder)?;
        }
    }
    write(&folder, &data, &lists)
}

fn place(folder: &Path, task: &Task, method: &str, seed: u64) -> PathBuf {
    folder.join(format!("{method}.{}.{seed}", task.name))
}

fn session(task: &Task, method: &str, seed: u64, data: &Path, lists: &Path) -> Result<Session> {
    let own = METHODS.iter().find(|(name, ..)| *name == method).map_or(&[][..], |(_, _, own)| own);
    let mut set: Vec<String> = [task.set, &EVERY, own].concat().iter().map(|s| (*s).to_owned()).collect();
    for line in &mut set {
        *line = line.replace("DATA", &data.display().to_string()).replace("LISTS", &lists.display().to_string());
    }
    set.push(format!("seed={seed}"));
    let preset = match method {
        "probe" => "digits-probe",
        "lora" => "digits-lora",
        "bottleneck" => "pfeiffer",
        "bitfit" => "bitfit",
        "full" => "digits-full",
        other => bail!("no method `{other}`"),
    };
    file::set(&file::find(preset)?, &set)
}

/// Seconds of one epoch and the most megabytes in it, kept beside the runs once they were measured. The probe's seconds are those of a pass
/// over features that are kept.
fn epoch(task: &Task, method: &str, data: &Path, lists: &Path, folder: &Path) -> Result<[f64; 2]> {
    let kept = folder.join(format!("{method}.{}.epoch", task.name));
    if let Ok(text) = std::fs::read_to_string(&kept) {
        let numbers: Vec<f64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        return numbers.try_into().ok().with_context(|| format!("{} is not two numbers; delete it", kept.display()));
    }
    let session = file::set(&session(task, method, 1, data, lists)?, &TIMED.map(str::to_owned))?;
    let scratch = tempfile::tempdir()?;
    let run = run(&session, &scratch.path().join("run"))?;
    let steps = run.finished.as_ref().map_or(0, |finished| finished.steps);
    let seconds = run.step_ms() * steps as f64 / 1000.0;
    let peak = run.peak_bytes() as f64 / 1e6;
    file::write_whole(&kept, format!("{seconds:.2} {peak:.0}\n").as_bytes())?;
    eprintln!("{method} on {}: {seconds:.2} s an epoch, {peak:.0} MB", task.name);
    Ok([seconds, peak])
}

/// Writes the rows of every task whose runs are all there, in place of those that stand in README.
fn write(folder: &Path, data: &Path, lists: &Path) -> Result<()> {
    let mut table = String::from(
        "| backbone and data | method | test accuracy | trainable | peak MB | s an epoch |\n|---|---|---|---|---|---|\n",
    );
    for task in &TASKS {
        for (method, title, _) in METHODS {
            let runs: Vec<Run> = (1..=SEEDS).filter_map(|seed| Run::open(&place(folder, task, method, seed)).ok()).collect();
            if (runs.len() as u64) < SEEDS || runs.iter().any(|run| run.status != Status::Finished) {
                continue;
            }
            let (mean, deviation) = spread(&runs);
            let trainable = runs[0].started.as_ref().map_or(0, |s| s.trainable);
            let [seconds, peak] = epoch(task, method, data, lists, folder)?;
            writeln!(
                table,
                "| {} | {title} | {mean:.1} ± {deviation:.1} | {trainable} | {peak:.0} | {seconds:.2} |",
                task.title
            )?;
        }
    }
    let readme = std::fs::read_to_string(README).context("run this in the repository")?;
    let parts = readme.split_once(MARKS[0]).and_then(|(before, rest)| Some((before, rest.split_once(MARKS[1])?.1)));
    let (before, after) =
        parts.with_context(|| format!("{README} has no place for the table, between {} and {}", MARKS[0], MARKS[1]))?;
    file::write_whole(Path::new(README), format!("{before}{}\n{table}{}{after}", MARKS[0], MARKS[1]).as_bytes())
}

/// Writes tables and lists in forms that the data sets take, from what was fetched.
fn prepare(data: &Path, lists: &Path) -> Result<()> {
    std::fs::create_dir_all(lists)?;
    let read = |name: &str| {
        let place = data.join(name);
        let bytes = std::fs::read(&place).with_context(|| format!("cannot read {}; fetch the data first", place.display()))?;
        anyhow::Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    for (name, of) in [("movies", "movieReviewSnippets"), ("tweets", "tweets")] {
        // Number, score from -4 to 4, text.
        let mut csv = csv::Writer::from_path(lists.join(format!("{name}.csv")))?;
        csv.write_record(["text", "label"])?;
        for line in read(&format!("vader/{of}_GroundTruth.txt"))?.lines() {
            if let [_, score, text] = line.splitn(3, '\t').collect::<Vec<_>>()[..] {
                csv.write_record([text, score])?;
            }
        }
        csv.flush()?;
    }
    // Whole cells against cells that are broken for certain, both kinds of panels.
    let mut cells = [Vec::new(), Vec::new()];
    for line in read("elpv/labels.csv")?.lines() {
        if let [path, grade, _] = line.split_whitespace().collect::<Vec<_>>()[..] {
            match grade.parse::<f64>() {
                Ok(0.0) => cells[0].push(data.join("elpv").join(path)),
                Ok(1.0) => cells[1].push(data.join("elpv").join(path)),
                _ => {}
            }
        }
    }
    list("elpv", &cells, [150, 100], lists)?;
    let emoji: Vec<Json> = serde_json::from_str(&read("emoji/emoji.json")?)?;
    let mut groups: BTreeMap<&str, Vec<PathBuf>> = BTreeMap::new();
    for one in &emoji {
        let (group, image) = (one["category"].as_str().unwrap_or_default(), one["image"].as_str().unwrap_or_default());
        let path = data.join("emoji/google").join(image);
        if group != "Component" && path.is_file() {
            groups.entry(group).or_default().push(path);
        }
    }
    list("emoji", &groups.into_values().collect::<Vec<_>>(), [33, 22], lists)
}

/// Writes a list to train on and one to test on, so many of every class, spread over it.
fn list(name: &str, classes: &[Vec<PathBuf>], [train, test]: [usize; 2], lists: &Path) -> Result<()> {
    let (mut trained, mut tested) = (String::new(), String::new());
    for (label, paths) in classes.iter().enumerate() {
        let count = paths.len().min(train + test);
        for n in 0..count {
            let line = format!("{} {label}\n", paths[n * paths.len() / count].display());
            // Alternately, so that neighbours in the source fall on both sides.
            if n * train / (train + test) != (n + 1) * train / (train + test) { trained += &line } else { tested += &line }
        }
    }
    file::write_whole(&lists.join(format!("{name}-train.txt")), trained.as_bytes())?;
    file::write_whole(&lists.join(format!("{name}-test.txt")), tested.as_bytes())
}
