//! The board: what happened. Runs and their series, folded from events and read back from the runs' folders, which are plain
//! files. Called by the workbench, the command line and the figures; knows no tensors and no window.

use std::io::BufRead;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::datasets;
use crate::engine::{Evaluated, Event, Finished, Started, Step, claim};
use crate::session::{Session, file};

/// How a run stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    Training,
    Paused,
    Finished,
    /// Stopped by the person; its adapter is kept.
    Stopped,
    /// Another program trained it.
    Imported,
    Failed(String),
    /// The program ended while it trained.
    Cut,
    /// Another program trains it now.
    Elsewhere,
}

impl Status {
    pub fn words(&self) -> &str {
        match self {
            Status::Training => "training",
            Status::Paused => "paused",
            Status::Finished => "finished",
            Status::Stopped => "stopped, kept",
            Status::Imported => "imported",
            Status::Failed(_) => "failed",
            Status::Cut => "cut off",
            Status::Elsewhere => "training elsewhere",
        }
    }

    /// This program trains it, or holds it paused.
    pub fn is_live(&self) -> bool {
        matches!(self, Status::Training | Status::Paused)
    }
}

/// One run.
#[derive(Clone, Debug)]
pub struct Run {
    /// Name of its folder.
    pub id: String,
    pub folder: PathBuf,
    /// What it was started with.
    pub session: Option<Session>,
    pub status: Status,
    pub started: Option<Started>,
    /// What it does before its first step.
    pub preparing: String,
    pub steps: Vec<Step>,
    pub evaluations: Vec<Evaluated>,
    pub finished: Option<Finished>,
    /// Its curves are on the plots.
    pub shown: bool,
    /// Unreadable lines of its events file, skipped with this note.
    pub damage: Option<String>,
}

impl Run {
    pub fn new(id: &str, folder: &Path, session: Option<Session>) -> Run {
        Run {
            id: id.to_owned(),
            folder: folder.to_owned(),
            session,
            status: Status::Training,
            started: None,
            preparing: String::new(),
            steps: vec![],
            evaluations: vec![],
            finished: None,
            shown: true,
            damage: None,
        }
    }

    /// Reads a run back from its folder.
    ///
    /// # Errors
    /// When the folder has no readable `events.jsonl`.
    pub fn open(folder: &Path) -> Result<Run> {
        let id = folder.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let path = folder.join("events.jsonl");
        let log = std::fs::File::open(&path)
            .with_context(|| format!("{} is not a run: cannot read {}", folder.display(), path.display()))?;
        let mut run = Run::new(&id, folder, file::open(&folder.join("session.petl.toml")).ok());
        for (n, line) in std::io::BufReader::new(log).lines().enumerate() {
            let event = line.map_err(anyhow::Error::from).and_then(|line| Ok(serde_json::from_str::<Event>(&line)?));
            match event {
                Ok(event) => run.fold(&event),
                Err(error) => run.damage = Some(format!("line {} of {}: {error}", n + 1, path.display())),
            }
        }
        if run.status.is_live() {
            run.status = if claim::is_taken(folder) { Status::Elsewhere } else { Status::Cut };
        }
        Ok(run)
    }

    /// Takes in one event.
    pub fn fold(&mut self, event: &Event) {
        match event {
            Event::Started(started) => self.started = Some(started.clone()),
            Event::Preparing { words, .. } => self.preparing.clone_from(words),
            Event::Step(step) => self.steps.push(step.clone()),
            Event::Evaluated(evaluated) => self.evaluations.push(evaluated.clone()),
            Event::Paused { .. } => self.status = Status::Paused,
            Event::Continued { .. } => self.status = Status::Training,
            Event::Finished(finished) => {
                self.status = match finished {
                    Finished { imported: Some(_), .. } => Status::Imported,
                    Finished { stopped: true, .. } => Status::Stopped,
                    _ => Status::Finished,
                };
                self.finished = Some(finished.clone());
            }
            // An export that failed says nothing of a run that has ended, however it ended.
            Event::Failed { words, .. } if self.status.is_live() => self.status = Status::Failed(words.clone()),
            Event::Failed { .. } | Event::Saved { .. } | Event::Exported { .. } | Event::Devices { .. } => {}
        }
    }

    /// The newest test accuracy; none of what was never tested here.
    pub fn accuracy(&self) -> Option<f64> {
        self.finished
            .as_ref()
            .filter(|f| f.imported.is_none())
            .map(|f| f.accuracy)
            .or_else(|| self.evaluations.last().map(|e| e.accuracy))
    }

    /// The newest test accuracy by task, in the order of the data set's tasks; empty where it has one only.
    pub fn accuracy_by_task(&self) -> Vec<(&str, f64)> {
        let last = || self.evaluations.last().map(|e| &e.tasks);
        let Some(found) = self.finished.as_ref().map(|f| &f.tasks).or_else(last) else { return vec![] };
        if found.is_empty() {
            return vec![];
        }
        let tasks = self.session.as_ref().and_then(|s| datasets::describe(&s.data).ok()).unwrap_or_default().tasks;
        let order = |name: &str| tasks.iter().position(|task| task.name == name);
        let mut all: Vec<_> = found.iter().map(|(name, accuracy)| (name.as_str(), *accuracy)).collect();
        all.sort_by_key(|(name, _)| order(name));
        all
    }

    pub fn title(&self) -> String {
        self.session.as_ref().map_or_else(|| self.id.clone(), |s| s.title.clone())
    }

    /// Name of the stack ("LoRA + BitFit").
    pub fn stack(&self) -> String {
        self.started.as_ref().map_or_else(String::new, |s| s.stack.clone())
    }

    /// The most that a training step held.
    pub fn peak_bytes(&self) -> usize {
        self.finished.as_ref().map(|f| f.peak_bytes).or_else(|| self.steps.last().map(|s| s.peak_bytes)).unwrap_or(0)
    }

    /// The most that an evaluation held.
    pub fn evaluation_peak_bytes(&self) -> usize {
        let last = || self.evaluations.last().map(|e| e.peak_bytes);
        self.finished.as_ref().map(|f| f.evaluation_peak_bytes).or_else(last).unwrap_or(0)
    }

    pub fn step_ms(&self) -> f64 {
        self.finished.as_ref().map(|f| f.step_ms).or_else(|| self.steps.last().map(|s| s.step_ms)).unwrap_or(0.0)
    }
}

/// All runs, the oldest first.
#[derive(Default)]
pub struct Board {
    pub runs: Vec<Run>,
}

impl Board {
    /// Reads every run in the folder `runs`; what is no run is passed over.
    pub fn open(runs: &Path) -> Board {
        let folders: Vec<PathBuf> =
            std::fs::read_dir(runs).map(|list| list.filter_map(|e| Some(e.ok()?.path())).collect()).unwrap_or_default();
        // A run writes its session when it begins, and never again.
        let begun = |folder: &PathBuf| std::fs::metadata(folder.join("session.petl.toml")).and_then(|file| file.modified()).ok();
        let mut folders: Vec<_> = folders.into_iter().map(|folder| (begun(&folder), folder)).collect();
        folders.sort();
        Board { runs: folders.iter().filter_map(|(_, folder)| Run::open(folder).ok()).collect() }
    }

    /// Reads again what other programs train, as it stands now. True when there is such a run.
    pub fn look_elsewhere(&mut self) -> bool {
        let mut any = false;
        for run in self.runs.iter_mut().filter(|run| run.status == Status::Elsewhere) {
            if let Ok(now) = Run::open(&run.folder) {
                *run = Run { shown: run.shown, ..now };
            }
            any = true;
        }
        any
    }

    pub fn run(&self, id: &str) -> Option<&Run> {
        self.runs.iter().find(|run| run.id == id)
    }

    pub fn run_mut(&mut self, id: &str) -> Option<&mut Run> {
        self.runs.iter_mut().find(|run| run.id == id)
    }

    /// The run that trains or is paused now.
    pub fn live(&self) -> Option<&Run> {
        self.runs.iter().find(|run| run.status.is_live())
    }

    /// Takes in an event of any run.
    pub fn fold(&mut self, event: &Event) {
        if let Some(run) = event.run().and_then(|id| self.run_mut(id)) {
            run.fold(event);
        }
    }

    pub fn shown(&self) -> impl Iterator<Item = &Run> {
        self.runs.iter().filter(|run| run.shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A run's folder as a training that has not ended leaves it.
    fn begun(runs: &Path, id: &str) -> PathBuf {
        let folder = runs.join(id);
        std::fs::create_dir_all(&folder).unwrap();
        file::save(&file::find("digits-lora").unwrap(), &folder.join("session.petl.toml")).unwrap();
        let event = Event::Evaluated(Evaluated { run: id.into(), accuracy: 0.5, ..Evaluated::default() });
        std::fs::write(folder.join("events.jsonl"), serde_json::to_string(&event).unwrap() + "\n").unwrap();
        folder
    }

    #[test]
    fn a_run_that_another_program_trains_is_not_taken_for_cut_off() {
        let runs = tempfile::tempdir().unwrap();
        let folder = begun(runs.path(), "theirs");
        assert_eq!(Run::open(&folder).unwrap().status, Status::Cut);
        let claim = claim::take(&folder).unwrap();
        assert!(claim::take(&folder).is_err_and(|e| e.to_string().contains("another program")));
        let mut board = Board::open(runs.path());
        assert_eq!(board.runs[0].status, Status::Elsewhere);
        assert!(board.live().is_none(), "another program's run keeps this one from training");
        drop(claim);
        assert!(board.look_elsewhere());
        assert_eq!(board.runs[0].status, Status::Cut);
        assert!(!folder.join(claim::LOCK).exists());
    }

    #[test]
    fn the_oldest_run_comes_first_whatever_its_name() {
        let runs = tempfile::tempdir().unwrap();
        for (id, age) in [("b", 300), ("a", 100), ("c", 200)] {
            let file = std::fs::File::open(begun(runs.path(), id).join("session.petl.toml")).unwrap();
            file.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(age)).unwrap();
        }
        let ids: Vec<_> = Board::open(runs.path()).runs.into_iter().map(|run| run.id).collect();
        assert_eq!(ids, ["b", "c", "a"]);
    }

    #[test]
    fn an_export_that_failed_says_nothing_of_a_run_that_was_cut_off() {
        let runs = tempfile::tempdir().unwrap();
        let mut run = Run::open(&begun(runs.path(), "cut")).unwrap();
        run.fold(&Event::Failed { run: "cut".into(), words: "it holds no adapter.toml".into() });
        assert_eq!(run.status, Status::Cut);
    }
}
