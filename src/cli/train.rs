//! `petl train` and `petl bench`: drive the workbench as the window does and print its events. Called by the command line;
//! must not know tensors.

use std::cell::Cell;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context, anyhow};
use serde_json::json;

use super::{Answer, Asked, Fault, asked, out, plan};
use crate::datasets;
use crate::engine::{Event, Finished, Started, Step, model};
use crate::plan::Plan;
use crate::session::command::Command;
use crate::session::file;
use crate::session::settings::Kind;
use crate::workbench::{self, Workbench, fresh_folder};

/// Trains the session that was asked for to its end and prints what happens.
pub fn train(asked: Asked, into: Option<&Path>, json: bool) -> Answer {
    plan::blocked(&Plan::of(&asked.session), &asked)?;
    let session = asked.session;
    let home = workbench::home();
    let folder = match into {
        Some(folder) => new_folder(folder)?,
        None => fresh_folder(&home.join("runs"), &session.title)?,
    };
    let id = folder.file_name().map_or_else(|| "run".to_owned(), |n| n.to_string_lossy().into_owned());
    let mut bench = Workbench::headless(session, home, Box::new(|| ()))?;
    let asked_to_stop = interrupts()?;
    bench.start_run(&id, &folder)?;
    let show = Show::new(json);
    let mut told = false;
    loop {
        // Looked at between two events too: with few reports the next one may be minutes away.
        if asked_to_stop.load(Relaxed) > 0 && !told {
            told = true;
            out::note("\nStopping after this step; what was learned is kept. Ctrl-C again ends at once");
            bench.try_carry_out(Command::StopAndKeep)?;
        }
        let event = bench.wait_for(BETWEEN_LOOKS);
        let event = event.with_context(|| format!("the run in {} is cut off. Train it again", folder.display()))?;
        let Some(event) = event.filter(|event| event.run() == Some(&id)) else { continue };
        show.event(&event)?;
        match event {
            Event::Finished(finished) => return show.finished(&finished, &folder),
            Event::Failed { words, .. } => return Err(Fault::Failed(anyhow!("{words}"))),
            _ => {}
        }
    }
}

/// How long at most a Ctrl-C goes unnoticed.
pub const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

/// As a shell reports a program that Ctrl-C ended.
const ENDED_BY_CTRL_C: i32 = 130;

/// Counts Ctrl-C; the second one ends the program.
pub fn interrupts() -> Answer<Arc<AtomicUsize>> {
    let count = Arc::new(AtomicUsize::new(0));
    let counter = count.clone();
    let obey = move || {
        if counter.fetch_add(1, Relaxed) > 0 {
            std::process::exit(ENDED_BY_CTRL_C);
        }
    };
    ctrlc::set_handler(obey).context("cannot listen for Ctrl-C")?;
    Ok(count)
}

/// `folder`, which must be new or empty: no run is written over another.
fn new_folder(folder: &Path) -> Answer<PathBuf> {
    if folder.is_file() {
        return Err(Fault::Request(anyhow!("{} is a file; --out takes a new or empty folder", folder.display())));
    }
    if std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(Fault::Request(anyhow!(
            "{} is not empty. Choose a new folder, so that no run is written over",
            folder.display()
        )));
    }
    std::fs::create_dir_all(folder)
        .with_context(|| format!("cannot make the run's folder {}. May you write there?", folder.display()))?;
    // A name for the run also where the path is `.` or ends in `..`.
    Ok(folder.canonicalize().unwrap_or_else(|_| folder.to_owned()))
}

/// How events reach the person: JSON lines, or words; a line that replaces itself where standard error is a terminal.
struct Show {
    json: bool,
    line: bool,
    /// The reader of standard output has left (`petl train ... | head -1`). The run goes on, and is kept.
    unread: Cell<bool>,
}

impl Show {
    fn new(json: bool) -> Show {
        let err = std::io::stderr().is_terminal();
        // JSON lines on the same terminal would run into the progress line.
        Show { json, line: err && !(json && std::io::stdout().is_terminal()), unread: Cell::new(false) }
    }

    /// Writes to standard output while somebody reads it.
    fn tell(&self, tell: impl FnOnce() -> Answer) -> Answer {
        if self.unread.get() {
            return Ok(());
        }
        match tell() {
            Err(Fault::Unread) => {
                self.unread.set(true);
                Ok(())
            }
            told => told,
        }
    }

    fn event(&self, event: &Event) -> Answer {
        if self.json {
            self.tell(|| out::json_line(event))?;
        }
        match event {
            Event::Started(started) => self.started(started),
            Event::Preparing { words, .. } if self.line => out::progress(words),
            Event::Step(step) if self.line => out::progress(&step_words(step)),
            Event::Evaluated(e) => {
                let words =
                    format!("epoch {}  step {}  test accuracy {:.1} %  loss {:.3}", e.epoch, e.step, e.accuracy * 100.0, e.loss);
                match (self.line, self.json) {
                    (true, _) => out::progress(&format!("{words}\n")),
                    (false, false) => out::note(&words),
                    (false, true) => {}
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn started(&self, s: &Started) {
        if !self.json || self.line {
            let (trainable, head) = (out::count(s.trainable), out::count(s.head));
            out::note(&format!(
                "{}: {}, {trainable} trainable + head {head}, {} steps on {}",
                s.title, s.stack, s.steps, s.device
            ));
            s.notes.iter().for_each(|note| out::note(note));
        }
    }

    fn finished(&self, f: &Finished, folder: &Path) -> Answer {
        if self.line {
            out::progress("");
        }
        if self.json {
            return Ok(());
        }
        let how = if f.stopped { "Stopped and kept" } else { "Finished" };
        let (accuracy, seconds, ms, wait) = (f.accuracy * 100.0, f.seconds, f.step_ms, f.wait_ms);
        let mut words = format!(
            "{how}: test accuracy {accuracy:.1} % after {} steps in {seconds:.1} s ({ms:.1} ms a step, {wait:.1} of them waiting for samples; peak {}, in evaluation {})",
            f.steps,
            out::bytes(f.peak_bytes),
            out::bytes(f.evaluation_peak_bytes)
        );
        for (part, accuracy) in f.domains.iter().chain(&f.tasks) {
            words += &format!("\n  {part}: {:.1} %", accuracy * 100.0);
        }
        self.tell(|| out::say(&format!("{words}\n{}", folder.display())))
    }
}

pub fn step_words(s: &Step) -> String {
    let left = s.seconds_left.round() as u64;
    format!(
        "step {}  epoch {}  loss {:.3}  accuracy {:.0} %  {:.1} ms a step  {}  {}:{:02} left",
        s.step,
        s.epoch,
        s.loss,
        s.accuracy * 100.0,
        s.step_ms,
        out::bytes(s.bytes),
        left / 60,
        left % 60
    )
}

/// Times at least `steps` steps of the session's own training loop, after `warm_up` that do not count. Keeps nothing.
pub fn bench(wanted: &Asked, steps: usize, warm_up: usize, json: bool) -> Answer {
    plan::blocked(&Plan::of(&wanted.session), wanted)?;
    // The run is stopped when enough steps are in. The test set is not what is measured. The loss is read back as often as the
    // session says, because that is a part of the loop.
    let mut changes = vec!["recipe.epochs=10000".to_owned()];
    let fields = datasets::find(&wanted.session.data.name).map_or(&[][..], |card| card.fields);
    if fields.iter().any(|f| f.name == "test" && matches!(f.kind, Kind::Whole { .. })) {
        changes.push("data.settings.test=10".to_owned());
    }
    let session = asked(file::set(&wanted.session, &changes))?;
    let plan = Plan::of(&session);
    let scratch = tempfile::tempdir().context("cannot make a scratch folder. Is there room in the temporary folder?")?;
    let mut bench = Workbench::headless(session.clone(), scratch.path().to_owned(), Box::new(|| ()))?;
    bench.start_run("bench", &scratch.path().join("bench"))?;
    // Mean milliseconds a step of each report, and how many steps it is about.
    let mut times: Vec<(f64, usize)> = Vec::new();
    let (mut device, mut seen, mut measured, mut activations, mut told, mut waited) = (String::new(), 0, 0, 0, false, 0.0);
    let peak = loop {
        match bench.wait() {
            None => return Err(Fault::Failed(anyhow!("the worker ended without a word"))),
            Some(Event::Started(started)) => device = started.device,
            Some(Event::Step(step)) => {
                let since = step.step - seen;
                if seen >= warm_up && measured < steps {
                    times.push((step.step_ms, since));
                    waited += step.wait_ms * since as f64;
                    measured += since;
                    activations = activations.max(step.activation_bytes);
                }
                seen = step.step;
                if measured >= steps && !told {
                    told = true;
                    bench.try_carry_out(Command::StopAndKeep)?;
                }
            }
            Some(Event::Finished(finished)) => break finished.peak_bytes,
            Some(Event::Failed { words, .. }) => return Err(Fault::Failed(anyhow!("{words}"))),
            Some(_) => {}
        }
    };
    times.sort_by(|a, b| a.0.total_cmp(&b.0));
    let each: Vec<f64> = times.iter().flat_map(|(ms, steps)| std::iter::repeat_n(*ms, *steps)).collect();
    let quantile = |q: f64| each.get((each.len().saturating_sub(1) as f64 * q).round() as usize).copied().unwrap_or(f64::NAN);
    let (median, low, high) = (quantile(0.5), quantile(0.1), quantile(0.9));
    let waited = waited / measured as f64;
    // The last batch of an epoch may be smaller.
    let samples = model::data(&session)?.train.len();
    let rate = samples as f64 / samples.div_ceil(session.recipe.batch_size) as f64 / median * 1e3;
    if json {
        return out::json(&json!({
            "title": session.title,
            "stack": plan.words(),
            "device": device,
            "batch_size": session.recipe.batch_size,
            "steps": measured,
            "reports": times.len(),
            "warm_up": warm_up,
            "step_ms": median,
            "step_ms_10_90": [low, high],
            "wait_ms": waited,
            "samples_per_second": rate,
            "peak_bytes": peak,
            "activation_bytes": activations,
            "predicted_activation_bytes": plan.cost.bytes.activations,
            "predicted_bytes": plan.cost.bytes.total(),
            "trainable": plan.trainable(),
            "head": plan.head_count(),
            "flops_step": plan.cost.flops_step,
        }));
    }
    let rows = [
        ("ms a step, median", format!("{median:.2}  (10 to 90 %: {low:.2} to {high:.2})")),
        ("of them waiting for samples, mean", format!("{waited:.2}")),
        ("samples a second", format!("{rate:.0}")),
        ("peak memory", out::bytes(peak)),
        ("saved activations", format!("{}  (predicted {})", out::bytes(activations), out::bytes(plan.cost.bytes.activations))),
        ("GFLOP a second", format!("{:.1}", plan.cost.flops_step / median / 1e6)),
    ];
    let rows: Vec<Vec<String>> = rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
    out::say(&format!(
        "{}, {}, batch {}, {} steps on {device}",
        session.title,
        plan.words(),
        session.recipe.batch_size,
        measured
    ))?;
    out::say(&out::table(&["measured", ""], &rows, &[]))
}
