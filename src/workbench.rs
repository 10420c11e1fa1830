//! The workbench: the only place where session, history, board and engine meet. `carry_out` obeys commands, `poll` takes in
//! events. The window, the command line and the tests drive it alike.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};

use crate::board::{Board, Run};
use crate::engine::{Device, Engine, Event, Order, Wake};
use crate::figures;
use crate::plan::Plan;
use crate::session::command::{Command, Edit};
use crate::session::history::History;
use crate::session::{Session, edit, file};

/// Words for the person, shown until dismissed or replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    pub words: String,
    pub is_error: bool,
}

pub struct Workbench {
    pub session: Session,
    /// Kept in step with the session.
    pub plan: Plan,
    pub history: History,
    pub board: Board,
    pub devices: Vec<Device>,
    pub notice: Option<Notice>,
    /// The file the session lives in.
    pub path: Option<PathBuf>,
    /// Edits since the last save.
    pub dirty: bool,
    /// An autosaved session from a program that ended without saving; waits for an answer.
    pub unsaved: Option<Session>,
    home: PathBuf,
    engine: Engine,
    autosaved: Instant,
    stale: bool,
}

/// Where runs, autosaves and settings live: `$PETL_HOME`, else the user's data folder.
pub fn home() -> PathBuf {
    let data = || directories::ProjectDirs::from("", "", "petl").map(|d| d.data_dir().to_owned());
    std::env::var_os("PETL_HOME").map(PathBuf::from).or_else(data).unwrap_or_else(|| PathBuf::from("petl-home"))
}

/// Seconds between two autosaves.
const AUTOSAVE_SECONDS: u64 = 2;

impl Workbench {
    /// A workbench with `session`, keeping its runs under `home`.
    ///
    /// # Errors
    /// When the worker thread cannot be started.
    pub fn new(session: Session, home: PathBuf, wake: Wake) -> Result<Workbench> {
        let engine = Engine::start(wake)?;
        let board = Board::open(&home.join("runs"));
        let unsaved = std::fs::read_to_string(file::autosave_path(None, &home))
            .ok()
            .and_then(|text| file::parse(&text, "the autosaved session").ok());
        Ok(Workbench {
            plan: Plan::of(&session),
            session,
            history: History::default(),
            board,
            devices: vec![],
            notice: None,
            path: None,
            dirty: false,
            unsaved,
            home,
            engine,
            autosaved: Instant::now(),
            stale: false,
        })
    }

    pub fn home(&self) -> &Path {
        &self.home
    }

    /// Does what `command` asks. What cannot be done becomes a notice; nothing is half done.
    pub fn carry_out(&mut self, command: Command) {
        let label = command.label();
        if let Err(error) = self.try_carry_out(command) {
            self.notice = Some(Notice { words: format!("{label}: {error:#}"), is_error: true });
        }
    }

    /// As `carry_out`, with the error handed back, for the command line and tests.
    ///
    /// # Errors
    /// With cause, place and remedy in its words.
    pub fn try_carry_out(&mut self, command: Command) -> Result<()> {
        match command {
            Command::Edit(edit) => self.edit(&edit)?,
            Command::Undo => {
                self.history.undo(&mut self.session);
                self.changed();
            }
            Command::Redo => {
                self.history.redo(&mut self.session);
                self.changed();
            }
            Command::OpenPreset(name) => {
                let session = file::find(&name)?;
                self.edit(&Edit::Replace(Box::new(session)))?;
                self.path = None;
            }
            Command::Open(path) => {
                let session = file::open(&path)?;
                self.history = History::default();
                self.session = session;
                self.changed();
                self.dirty = false;
                let side = file::autosave_path(Some(&path), &self.home);
                let left = std::fs::read_to_string(side).ok().and_then(|text| file::parse(&text, "the autosaved session").ok());
                self.unsaved = left.filter(|left| *left != self.session);
                self.path = Some(path);
            }
            Command::Save => {
                let path = self.path.clone().context("this session has no file yet. Use Save as")?;
                self.save(&path)?;
            }
            Command::SaveAs(path) => self.save(&path)?,
            Command::RestoreAutosave => {
                if let Some(session) = self.unsaved.take() {
                    self.edit(&Edit::Replace(Box::new(session)))?;
                }
            }
            Command::DiscardAutosave => {
                self.unsaved = None;
                self.forget_autosave();
            }
            Command::Train => self.train()?,
            Command::Pause => self.order(Order::Pause)?,
            Command::Continue => self.order(Order::Continue)?,
            Command::StopAndKeep => self.order(Order::Stop)?,
            Command::RestoreRun(id) => {
                let run = self.board.run(&id).with_context(|| format!("there is no run `{id}`"))?;
                let session =
                    run.session.clone().with_context(|| format!("{} has lost its session.petl.toml", run.folder.display()))?;
                self.edit(&Edit::Replace(Box::new(session)))?;
            }
            Command::ToggleRun(id) => {
                if let Some(run) = self.board.run_mut(&id) {
                    run.shown = !run.shown;
                }
            }
            Command::DeleteRun(id) => {
                let run = self.board.run(&id).with_context(|| format!("there is no run `{id}`"))?;
                anyhow::ensure!(!run.status.is_live(), "it is training. Stop it first");
                let folder = run.folder.clone();
                std::fs::remove_dir_all(&folder)
                    .with_context(|| format!("cannot remove {}. May you write there?", folder.display()))?;
                self.board.runs.retain(|run| run.id != id);
            }
            Command::Export { run, kind, folder } => {
                let from = self.board.run(&run).with_context(|| format!("there is no run `{run}`"))?.folder.clone();
                self.order(Order::Export { run, folder: from, kind, into: folder })?;
            }
            Command::Figure { kind, path } => {
                let runs: Vec<&Run> = self.board.shown().collect();
                let written = figures::write(&kind, &runs, &path)?;
                let names: Vec<_> = written.iter().map(|p| p.display().to_string()).collect();
                self.notice = Some(Notice { words: format!("Wrote {}", names.join(", ")), is_error: false });
            }
            Command::DismissNotice => self.notice = None,
        }
        Ok(())
    }

    /// Takes in what the worker reported, autosaves. Call it often; it does a bounded amount of work. True when something
    /// changed.
    pub fn poll(&mut self) -> bool {
        let mut any = false;
        for _ in 0..256 {
            let Some(event) = self.engine.poll() else { break };
            self.take_in(&event);
            any = true;
        }
        if self.stale && self.autosaved.elapsed().as_secs() >= AUTOSAVE_SECONDS {
            self.autosave();
        }
        any
    }

    /// Waits for the next event and takes it in; none when the worker has gone. For the command line.
    pub fn wait(&mut self) -> Option<Event> {
        let event = self.engine.wait()?;
        self.take_in(&event);
        Some(event)
    }

    fn take_in(&mut self, event: &Event) {
        self.board.fold(event);
        match event {
            Event::Devices { names, fault } => {
                self.devices.clone_from(names);
                self.notice = fault.clone().map(|words| Notice { words, is_error: true }).or(self.notice.take());
            }
            Event::Failed { words, .. } => self.notice = Some(Notice { words: words.clone(), is_error: true }),
            Event::Exported { path, difference, samples, .. } => {
                let words = format!(
                    "Exported to {}; read back, largest difference of logits {difference:.1e} on {samples} samples",
                    path.display()
                );
                self.notice = Some(Notice { words, is_error: false });
            }
            _ => {}
        }
    }

    fn edit(&mut self, edit: &Edit) -> Result<()> {
        let next = edit::apply(&self.session, &self.plan.anatomy, edit).map_err(anyhow::Error::msg)?;
        if next != self.session {
            self.history.keep(edit.label(), edit.gesture(), &self.session);
            self.session = next;
            self.changed();
        }
        Ok(())
    }

    fn changed(&mut self) {
        self.plan = Plan::of(&self.session);
        self.dirty = true;
        self.stale = true;
    }

    /// Ends a slider's gesture: the next edit is a step of undo of its own.
    pub fn end_gesture(&mut self) {
        self.history.end_gesture();
    }

    fn train(&mut self) -> Result<()> {
        if let Some(problem) = self.plan.blocked() {
            anyhow::bail!("{}", problem.words);
        }
        anyhow::ensure!(self.board.live().is_none(), "a run is training already. Stop it first, or wait");
        let id = free_name(&self.home.join("runs"), &self.session.title);
        let folder = self.home.join("runs").join(&id);
        self.start_run(&id, &folder)
    }

    /// Trains the session as run `id` in `folder`.
    ///
    /// # Errors
    /// When the worker takes no more orders.
    pub fn start_run(&mut self, id: &str, folder: &Path) -> Result<()> {
        self.order(Order::Train { run: id.to_owned(), session: Box::new(self.session.clone()), folder: folder.to_owned() })?;
        self.board.runs.retain(|run| run.id != id);
        self.board.runs.push(Run::new(id, folder, Some(self.session.clone())));
        Ok(())
    }

    /// Asks the worker for the devices of this machine. Who needs no list never wakes a graphics driver.
    pub fn list_devices(&self) {
        self.engine.send(Order::ListDevices);
    }

    fn order(&self, order: Order) -> Result<()> {
        anyhow::ensure!(
            self.engine.send(order),
            "the worker takes no orders now. Wait a moment and try again; if it stays so, restart the program"
        );
        Ok(())
    }

    fn save(&mut self, path: &Path) -> Result<()> {
        file::save(&self.session, path)?;
        self.forget_autosave();
        self.path = Some(path.to_owned());
        self.dirty = false;
        self.stale = false;
        Ok(())
    }

    /// Writes the edits to the side file, never over the user's own.
    pub fn autosave(&mut self) {
        self.autosaved = Instant::now();
        self.stale = false;
        if !self.dirty || self.unsaved.is_some() {
            return; // an unanswered restore must not be written over
        }
        if let Err(error) = file::save(&self.session, &file::autosave_path(self.path.as_deref(), &self.home)) {
            self.notice = Some(Notice { words: format!("Autosave: {error:#}"), is_error: true });
        }
    }

    fn forget_autosave(&self) {
        let _ = std::fs::remove_file(file::autosave_path(self.path.as_deref(), &self.home));
    }

    /// Call when the program ends in an orderly way and the person gave up unsaved edits knowingly.
    pub fn close(&mut self) {
        if self.unsaved.is_none() {
            self.forget_autosave();
        }
    }
}

/// A folder name after `title` that is not taken yet: `digits-lora-003`.
pub fn free_name(runs: &Path, title: &str) -> String {
    let mut stem: String = title.to_lowercase().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    while stem.contains("--") {
        stem = stem.replace("--", "-");
    }
    let stem = stem.trim_matches('-');
    let stem = if stem.is_empty() { "run" } else { stem };
    let taken = |n: &usize| runs.join(format!("{stem}-{n:03}")).exists();
    let n = (1..).find(|n| !taken(n)).unwrap_or(0);
    format!("{stem}-{n:03}")
}
