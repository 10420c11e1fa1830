//! The command line: arguments become the same sessions and commands as in the window; events are printed as words or JSON
//! lines. Called by `main`; the only part that writes to standard output. Must not know tensors or any method by name.

mod compare;
mod fetch;
mod list;
mod out;
mod plan;
mod predict;
mod runs;
mod suite;
mod train;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use clap::builder::PossibleValuesParser;
use clap::{Args, Parser, Subcommand};

use crate::plan::{Plan, Problem};
use crate::session::{Session, Settings, file, presets};
use crate::suite::{METHODS, Request};
use crate::{compare as statistics, datasets, exports, figures, workbench};

/// How a command ends when it is not done.
pub enum Fault {
    /// The request was wrong: exit code 2.
    Request(anyhow::Error),
    /// It was right, but failed: exit code 1.
    Failed(anyhow::Error),
    /// Nobody reads the output any more (`petl list methods | head`).
    Unread,
}

impl From<anyhow::Error> for Fault {
    fn from(error: anyhow::Error) -> Fault {
        Fault::Failed(error)
    }
}

pub type Answer<T = ()> = Result<T, Fault>;

/// An error of `result` is the request's fault.
pub fn asked<T>(result: anyhow::Result<T>) -> Answer<T> {
    result.map_err(Fault::Request)
}

const AFTER: &str = "\
Exit codes: 0 done, 1 failed, 2 bad request, 130 ended at once by a second Ctrl-C (the first one stops a training and keeps it: 0).
PETL_HOME: the folder for runs and autosaves (default: the user's data folder).

A first tour:
  petl list presets
  petl plan digits-lora
  petl train digits-lora --set recipe.epochs=3 --out /tmp/digits
  petl train digits-probe --out /tmp/probe
  petl export /tmp/digits --as peft /tmp/digits-peft
  petl compare /tmp/digits /tmp/probe --figure /tmp/runs.svg
  petl suite /tmp/suite --methods probe,lora --data digits --seeds 2";

/// A workbench for parameter-efficient transfer learning. Without a command: the window.
#[derive(Parser)]
#[command(name = "petl", version, after_help = AFTER, args_conflicts_with_subcommands = true)]
struct Line {
    /// Session file or preset to open in the window.
    session: Option<String>,
    #[command(subcommand)]
    command: Option<Task>,
}

/// A data set that is there without a file of the person's, and is no mixture of others.
fn is_whole(card: &datasets::Card) -> bool {
    (card.describe)(&Settings::default().filled(card.fields)).is_ok_and(|described| described.tasks.len() == 1)
}

#[derive(Subcommand)]
enum Task {
    /// What there is to choose from, with the words of its card.
    List {
        #[arg(value_enum)]
        kind: list::Kind,
        /// One entry alone.
        name: Option<String>,
        /// One JSON array instead of text.
        #[arg(long)]
        json: bool,
    },
    /// What a session implies: exact parameter counts, bytes, operations, problems. Trains nothing.
    Plan {
        #[command(flatten)]
        session: Wanted,
        /// One JSON object instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Trains a session; the run's folder keeps session, events, adapter and summary. Ctrl-C stops and keeps.
    Train {
        #[command(flatten)]
        session: Wanted,
        /// New folder for the run; left out, one under PETL_HOME/runs.
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// One JSON object a line: started, preparing (where a method measures before it trains), step, evaluated, saved,
        /// finished, failed.
        #[arg(long)]
        json: bool,
    },
    /// Logits of a run for your own pictures, texts or spectrograms; of a bare model folder, its features.
    Predict {
        /// Folder of a run, or its name under PETL_HOME/runs; or a model's folder (config.json and weights), or its GGUF or npz file.
        run: String,
        /// safetensors file with `pixel_values` [batch, 3, height, width], normalised as the backbone takes them (the embedded one:
        /// byte / 127.5 - 1); with `input_ids` [batch, tokens] (i64), and `attention_mask` and `token_type_ids` where there are any; or
        /// with `input_features` [batch, bins, frames] (or AST's `input_values` [batch, frames, bins]). For a method that goes by quality
        /// also `quality` [batch], the score of each picture.
        #[arg(long, value_name = "FILE")]
        inputs: PathBuf,
        /// safetensors file to write: `logits` [batch, classes]; of a bare model, `last_hidden_state` [batch, positions, channels].
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// The task of a data set of several that all the pictures belong to; needed where a method treats tasks apart.
        #[arg(long, value_name = "NAME")]
        task: Option<String>,
    },
    /// Writes a run's adapter for others, reads it back and compares logits before it counts as done.
    Export {
        /// Folder of a run, or its name under PETL_HOME/runs.
        run: String,
        /// Form in which it leaves (`petl list exports` says what each holds).
        #[arg(long = "as", value_name = "KIND", value_parser = PossibleValuesParser::new(exports::CATALOG.iter().map(|c| c.name)))]
        kind: String,
        /// New or empty folder.
        folder: PathBuf,
        /// One JSON object instead of words.
        #[arg(long)]
        json: bool,
    },
    /// Fetches a model folder from the Hugging Face hub. Without --yes it only shows files, size and licence.
    Fetch {
        /// Name on the hub: owner/name.
        repository: String,
        /// Branch, tag or commit.
        #[arg(long, default_value = "main")]
        revision: String,
        /// Where the folder is made; left out, PETL_HOME/models.
        #[arg(long, value_name = "DIR")]
        into: Option<PathBuf>,
        /// Fetch it.
        #[arg(long)]
        yes: bool,
    },
    /// Makes a run of an adapter that PEFT or AdapterHub wrote, to predict with and to export. Where its folder holds no classifier,
    /// the model's own is taken.
    Import {
        /// Folder with adapter_config.json.
        adapter: PathBuf,
        /// The model that it was trained on: a folder with config.json and safetensors.
        #[arg(long, value_name = "DIR")]
        backbone: PathBuf,
        /// New or empty folder for the run.
        run: PathBuf,
        /// One JSON object instead of words.
        #[arg(long)]
        json: bool,
    },
    /// Runs side by side; each against the first by an exact paired test on the same test items.
    Compare {
        /// Folders of runs, or their names under PETL_HOME/runs.
        #[arg(required = true, value_name = "RUN")]
        runs: Vec<String>,
        /// One JSON object instead of a table.
        #[arg(long)]
        json: bool,
        /// Also draws a figure: this file as SVG, and PNG and CSV beside it.
        #[arg(long, value_name = "FILE")]
        figure: Option<PathBuf>,
        /// What the figure shows; left out, a comparison.
        #[arg(long, requires = "figure", value_parser = PossibleValuesParser::new(figures::names()))]
        kind: Option<String>,
        /// C of the score PPT = accuracy · exp(-log10(trainable / C + 1)); a smaller C punishes parameters more.
        #[arg(long, value_name = "C", default_value_t = statistics::PPT_C, value_parser = positive)]
        ppt_c: f64,
    },
    /// V-PETL suite: methods on data sets with one recipe, several seeds, and the published table beside. Goes on where it was stopped.
    Suite {
        /// Keeps the runs, the table as suite.md and suite.json. The same command on the same folder trains what is missing.
        folder: PathBuf,
        /// Presets (their stack, not their recipe), methods of the catalogue, or `probe`; a preset comes before a method of its name.
        #[arg(long, value_name = "NAME,...", value_delimiter = ',', default_values = METHODS)]
        methods: Vec<String>,
        /// Data sets; left out, those of one task, since a mixed one holds the same samples again.
        #[arg(long, value_name = "NAME,...", value_delimiter = ',', default_values_t = datasets::CATALOG.iter().filter(|c| is_whole(c)).map(|c| c.name.to_owned()))]
        data: Vec<String>,
        /// Seeds 1 to this.
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
        seeds: u64,
        /// Changes one value in every run alike, as in recipe.epochs=3; can be repeated.
        #[arg(long = "set", value_name = "PATH=VALUE")]
        set: Vec<String>,
        /// C of the score PPT.
        #[arg(long, value_name = "C", default_value_t = statistics::PPT_C, value_parser = positive)]
        ppt_c: f64,
        /// One JSON object instead of Markdown.
        #[arg(long)]
        json: bool,
    },
    /// Adds what several runs changed in one backbone, and writes the sum as merged weights with the head of one of them.
    Compose {
        /// Folders of runs, or their names under PETL_HOME/runs; all of methods that fold. Their order makes no difference.
        #[arg(required = true, value_name = "RUN")]
        runs: Vec<String>,
        /// New or empty folder.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Strength of each run's change, once for each run in their order; left out, all are 1. -1 takes a change back.
        #[arg(long = "factor", value_name = "FACTOR", allow_negative_numbers = true)]
        factors: Vec<f64>,
        /// The run whose head is kept; left out, the first.
        #[arg(long, value_name = "RUN")]
        head: Option<String>,
        /// The run whose start the changes are added to, where the runs started from different weights.
        #[arg(long, value_name = "RUN")]
        base: Option<String>,
        /// One JSON object instead of words.
        #[arg(long)]
        json: bool,
    },
    /// Speed and memory of a session: a short training, timed as it reports (`recipe.report_every`), nothing kept.
    Bench {
        #[command(flatten)]
        session: Wanted,
        /// Steps that are measured, at least: up to the report in which they are reached.
        #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..))]
        steps: u16,
        /// Steps before that, which are not.
        #[arg(long, default_value_t = 5)]
        warm_up: u16,
        /// One JSON object instead of words.
        #[arg(long)]
        json: bool,
    },
}

/// A session by name, with changes.
#[derive(Args)]
pub struct Wanted {
    /// Preset (`petl list presets`) or session file (*.petl.toml).
    #[arg(value_name = "SESSION|PRESET")]
    session: String,
    /// Changes one value, as in recipe.epochs=3, device=cpu, methods.0.settings.rank=4; can be repeated.
    #[arg(long = "set", value_name = "PATH=VALUE")]
    set: Vec<String>,
}

impl Wanted {
    /// The session that was asked for.
    fn open(&self) -> Answer<Asked> {
        let written = asked(file::find(&self.session))?;
        let session = match self.set.as_slice() {
            [] => written.clone(),
            changes => asked(file::set(&written, changes))?,
        };
        let file = presets::find(&self.session).is_none().then(|| PathBuf::from(&self.session));
        Ok(Asked { session, written, file })
    }
}

/// A session as it shall be used, and the file that it comes from.
pub struct Asked {
    pub session: Session,
    /// As the file has it, before `--set`.
    written: Session,
    file: Option<PathBuf>,
}

impl Asked {
    /// "mine.petl.toml, line 12: " where `problem` stands in the file; nothing where `--set` brought it, or a preset has it.
    pub fn line(&self, problem: &Problem) -> String {
        let Some(file) = self.file.as_ref().filter(|_| Plan::of(&self.written).problems.contains(problem)) else {
            return String::new();
        };
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let line = file::line_of(&text, &problem.place).map_or(String::new(), |n| format!(", line {n}"));
        format!("{}{line}: ", file.display())
    }
}

/// Runs the program and gives its exit code.
pub fn main() -> u8 {
    // Clap prints its own words and leaves with 2 for a bad request, 0 for help and the version.
    let line = Line::parse();
    match catch_unwind(AssertUnwindSafe(|| obey(line))) {
        Ok(Ok(()) | Err(Fault::Unread)) => 0,
        Ok(Err(Fault::Failed(error))) => {
            out::complain(&format!("{error:#}"));
            1
        }
        Ok(Err(Fault::Request(error))) => {
            out::complain(&format!("{error:#}"));
            2
        }
        Err(_) => {
            out::complain(
                "the program met a fault of its own (above). Nothing half-written was left; please report it with the command that you gave",
            );
            1
        }
    }
}

fn obey(line: Line) -> Answer {
    match line.command {
        None => window(line.session.as_deref()),
        Some(Task::List { kind, name, json }) => list::list(kind, name.as_deref(), json),
        Some(Task::Plan { session, json }) => plan::plan(&session.open()?, json),
        Some(Task::Train { session, out, json }) => train::train(session.open()?, out.as_deref(), json),
        Some(Task::Predict { run, inputs, out, task }) => predict::predict(&run, &inputs, &out, task.as_deref()),
        Some(Task::Fetch { repository, revision, into, yes }) => {
            let models = into.unwrap_or_else(|| crate::hub::models(&crate::workbench::home()));
            fetch::run(&repository, &revision, &models, yes)
        }
        Some(Task::Import { adapter, backbone, run, json }) => runs::import(&adapter, &backbone, &run, json),
        Some(Task::Export { run, kind, folder, json }) => runs::export(&run, &kind, &folder, json),
        Some(Task::Compare { runs, json, figure, kind, ppt_c }) => {
            compare::compare(&runs, json, figure.as_deref(), kind.as_deref().unwrap_or("comparison"), ppt_c)
        }
        Some(Task::Suite { folder, methods, data, seeds, set, ppt_c, json }) => {
            suite::suite(&folder, &Request { methods, data, seeds, set }, ppt_c, json)
        }
        Some(Task::Compose { runs, out, factors, head, base, json }) => {
            runs::compose(&runs, &out, &factors, head.as_deref(), base.as_deref(), json)
        }
        Some(Task::Bench { session, steps, warm_up, json }) => train::bench(&session.open()?, steps.into(), warm_up.into(), json),
    }
}

/// A number above zero.
fn positive(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(number) if number > 0.0 && f64::is_finite(number) => Ok(number),
        _ => Err("a number above 0, as in 1e7".to_owned()),
    }
}

/// The folder of the run that `what` names: one with a log, or with an adapter that was exported as `petl`.
pub fn run_folder(what: &str) -> Answer<PathBuf> {
    let runs = workbench::home().join("runs");
    let folders = || [PathBuf::from(what), runs.join(what)].into_iter().filter(|folder| folder.is_dir());
    if let Some(run) = folders().find(|f| f.join("events.jsonl").exists() || f.join("adapter.toml").exists()) {
        return Ok(run);
    }
    if let Some(folder) = folders().next() {
        let words = format!("{} is not a run: it holds neither events.jsonl nor adapter.toml", folder.display());
        return Err(Fault::Request(anyhow::anyhow!(words)));
    }
    let mut known: Vec<_> = std::fs::read_dir(&runs)
        .map(|list| list.filter_map(|e| e.ok()?.file_name().into_string().ok()).collect())
        .unwrap_or_default();
    known.sort();
    let known = if known.is_empty() {
        "it is empty; train one first (`petl train digits-lora`)".to_owned()
    } else {
        format!("it has {}", known.join(", "))
    };
    Err(Fault::Request(anyhow::anyhow!("there is no run `{what}`: neither a folder, nor a name in {} ({known})", runs.display())))
}

/// Opens the window with `what`, or with the first preset.
fn window(what: Option<&str>) -> Answer {
    let first = presets::PRESETS.first().map_or("digits-lora", |preset| preset.name);
    let what = what.unwrap_or(first);
    let looks_like_file = what.ends_with(".toml") || Path::new(what).exists();
    if presets::find(what).is_none() && !looks_like_file {
        let words = format!(
            "`{what}` is neither a command, nor a preset, nor a session file. `petl help` lists the commands, `petl list presets` the presets"
        );
        return Err(Fault::Request(anyhow::anyhow!(words)));
    }
    let session = asked(file::find(what))?;
    open(session, what)
}

#[cfg(feature = "window")]
fn open(session: Session, what: &str) -> Answer {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    if cfg!(target_os = "linux") && !set("DISPLAY") && !set("WAYLAND_DISPLAY") {
        let words =
            format!("there is no display (neither DISPLAY nor WAYLAND_DISPLAY is set), so no window can open. {}", twin(what));
        return Err(Fault::Failed(anyhow::anyhow!(words)));
    }
    let path = presets::find(what).is_none().then(|| PathBuf::from(what));
    crate::app::run_with(session, path, workbench::home())
        .map_err(|error| Fault::Failed(error.context(format!("the window could not open. {}", twin(what)))))
}

#[cfg(not(feature = "window"))]
fn open(_session: Session, what: &str) -> Answer {
    let words = format!("this petl was built without its window (cargo feature `window`). {}", twin(what));
    Err(Fault::Failed(anyhow::anyhow!(words)))
}

/// The way to the same end without a window.
fn twin(what: &str) -> String {
    format!("The command line does the same: `petl train {what}` trains this session, `petl help` shows the rest")
}
