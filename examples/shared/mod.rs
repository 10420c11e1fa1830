//! What the examples that fill a page with numbers share: a run that is kept, and the spread over seeds.

use std::path::Path;

use anyhow::{Context, Result, bail};
use petl_workbench::board::{Run, Status};
use petl_workbench::engine::Event;
use petl_workbench::session::Session;
use petl_workbench::workbench::Workbench;

/// The finished run in `place`, or a new one.
pub fn run(session: &Session, place: &Path) -> Result<Run> {
    if place.exists() {
        let run = Run::open(place)?;
        // A session that was saved also has what its patterns stand for.
        let bare = |session: &Session| {
            let mut session = session.clone();
            session.methods.iter_mut().for_each(|placed| placed.resolved.clear());
            session
        };
        if run.status == Status::Finished && run.session.as_ref().is_some_and(|kept| bare(kept) == bare(session)) {
            return Ok(run);
        }
        std::fs::remove_dir_all(place).with_context(|| format!("cannot remove {}", place.display()))?;
    }
    let home = tempfile::tempdir()?;
    let mut bench = Workbench::headless(session.clone(), home.path().to_owned(), Box::new(|| ()))?;
    bench.start_run("run", place)?;
    while let Some(event) = bench.wait() {
        match event {
            Event::Finished(_) => return Run::open(place),
            Event::Failed { words, .. } => bail!(words),
            _ => {}
        }
    }
    bail!("the worker ended without a word")
}

/// Mean and sample standard deviation of the accuracies, in per cent.
pub fn spread(runs: &[Run]) -> (f64, f64) {
    let scores: Vec<f64> = runs.iter().filter_map(Run::accuracy).map(|a| a * 100.0).collect();
    let mean = scores.iter().sum::<f64>() / scores.len() as f64;
    let square = scores.iter().map(|s| (s - mean).powi(2)).sum::<f64>();
    (mean, (square / (scores.len() as f64 - 1.0).max(1.0)).sqrt())
}
