//! The workbench: the only place where session, history, board and engine meet. `carry_out` obeys commands, `poll` takes in
//! events. The window, the command line and the tests drive it alike.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::board::{Board, Run, Status};
use crate::downloads::Download;
use crate::engine::{Device, Engine, Event, Order, Wake, claim};
use crate::errands::{Done, Errand, Errands};
use crate::hub::{self, Hub};
use crate::plan::Plan;
use crate::session::command::{Command, Edit};
use crate::session::history::History;
use crate::session::side::{self, Left};
use crate::session::{Session, edit, file, presets};

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
    /// The session is not what its file holds.
    pub dirty: bool,
    /// Edits that a program left when it ended without saving; they wait for an answer.
    pub unsaved: Option<Left>,
    /// The model folder that is being fetched from the hub.
    pub download: Download,
    home: PathBuf,
    engine: Engine,
    errands: Errands,
    /// More of them, to be asked for one after the other.
    questions: Vec<Left>,
    /// The last autosave that failed, so that it is said once and not every two seconds.
    fault: Option<String>,
    /// What each file that was opened or saved holds; without a file, the sessions as they were opened.
    saved: Vec<(Option<PathBuf>, Session)>,
    autosaved: Instant,
    stale: bool,
    /// When runs of other programs were last looked at.
    looked: Instant,
}

/// Where runs, autosaves and settings live: `$PETL_HOME`, else the user's data folder.
pub fn home() -> PathBuf {
    let data = || directories::ProjectDirs::from("", "", "petl").map(|d| d.data_dir().to_owned());
    std::env::var_os("PETL_HOME").map(PathBuf::from).or_else(data).unwrap_or_else(|| PathBuf::from("petl-home"))
}

/// Seconds between two autosaves.
const AUTOSAVE_SECONDS: u64 = 2;
/// Seconds between two looks at what other programs train.
const LOOK_SECONDS: u64 = 2;

impl Workbench {
    /// The workbench of a window, with a session that has no file yet; its runs are kept under `home`.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn new(session: Session, home: PathBuf, wake: Wake) -> Result<Workbench> {
        Workbench::with_file(session, None, home, wake)
    }

    /// As `new`, with a session that was read from the file `path`.
    ///
    /// # Errors
    /// As `new`.
    pub fn with_file(session: Session, path: Option<PathBuf>, home: PathBuf, wake: Wake) -> Result<Workbench> {
        let mut bench = Workbench::headless(session, home, wake)?;
        bench.saved = vec![(path.clone(), bench.session.clone())];
        bench.path = path;
        bench.board = Board::open(&bench.home.join("runs"));
        bench.look_for_unsaved();
        Ok(bench)
    }

    /// A workbench that trains one session and asks nothing: for the command line. It reads no other runs.
    ///
    /// # Errors
    /// As `new`.
    pub fn headless(session: Session, home: PathBuf, wake: Wake) -> Result<Workbench> {
        let wake: Arc<dyn Fn() + Send + Sync> = Arc::from(wake);
        let (also, third) = (wake.clone(), wake.clone());
        Ok(Workbench {
            plan: Plan::of(&session),
            saved: vec![(None, session.clone())],
            session,
            history: History::default(),
            board: Board::default(),
            devices: vec![],
            notice: None,
            path: None,
            dirty: false,
            unsaved: None,
            download: Download::new(Hub::default(), third),
            engine: Engine::start(Box::new(move || wake()))?,
            errands: Errands::start(&home, move || also())?,
            home,
            questions: vec![],
            fault: None,
            autosaved: Instant::now(),
            stale: false,
            looked: Instant::now(),
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
                if self.history.undo(&mut self.session, &mut self.path).is_some() {
                    self.changed();
                }
            }
            Command::Redo => {
                if self.history.redo(&mut self.session, &mut self.path).is_some() {
                    self.changed();
                }
            }
            Command::OpenPreset(name) => {
                let preset = presets::find(&name).with_context(|| format!("there is no preset `{name}`"))?;
                let session = file::parse(preset.text, &format!("preset {name}"))?;
                self.go_over(format!("Open {name}"), session.clone(), None);
                self.is_saved(None, session);
            }
            Command::Open(path) => {
                let session = file::open(&path)?;
                let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
                self.go_over(format!("Open {name}"), session.clone(), Some(path.clone()));
                self.is_saved(Some(path), session);
                self.look_for_unsaved();
            }
            Command::Save => {
                let path = self.path.clone().context("this session has no file yet. Use Save as")?;
                self.save(&path)?;
            }
            Command::SaveAs(path) => self.save(&path)?,
            Command::RestoreAutosave => {
                if let Some(left) = self.unsaved.take() {
                    self.go_over("Restore".into(), left.session.clone(), left.path.clone());
                    self.autosave(); // before the old side file goes
                    self.errands.give(Errand::Remove(Box::new(left)));
                    self.next_question();
                }
            }
            Command::DiscardAutosave => {
                if let Some(left) = self.unsaved.take() {
                    self.errands.give(Errand::Remove(Box::new(left)));
                    self.next_question();
                }
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
                let ended = run.finished.is_some();
                anyhow::ensure!(ended || !claim::is_taken(&run.folder), "another program is training it. Stop it there first");
                let folder = run.folder.clone();
                match std::fs::remove_dir_all(&folder) {
                    Err(error) if error.kind() == ErrorKind::NotFound => {} // gone already, by somebody else's hand
                    done => done.with_context(|| format!("cannot remove {}. May you write there?", folder.display()))?,
                }
                self.board.runs.retain(|run| run.id != id);
            }
            Command::Export { run, kind, folder } => {
                let from = self.board.run(&run).with_context(|| format!("there is no run `{run}`"))?.folder.clone();
                self.order(Order::Export { run, folder: from, kind, into: folder })?;
                if let Some(live) = self.board.live() {
                    let words = format!("The export begins when {} has ended", live.id);
                    self.notice = Some(Notice { words, is_error: false });
                }
            }
            Command::Figure { kind, path } => {
                let runs = self.board.shown().cloned().collect();
                let given = self.errands.give(Errand::Figure { kind, runs, path });
                anyhow::ensure!(given, "the disk is busy. Wait a moment and try again");
            }
            Command::HubAsk { repository, revision } => self.download.ask(repository, revision)?,
            Command::HubFetch => self.download.fetch(&hub::models(&self.home))?,
            Command::HubCancel => self.download.cancel(),
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
        while let Some(done) = self.errands.poll() {
            self.done(done);
            any = true;
        }
        if let Some(fetched) = self.download.poll() {
            let opened = fetched.and_then(|folder| self.edit(&Edit::ModelFolder(folder)));
            if let Err(error) = opened {
                self.notice = Some(Notice { words: format!("Fetch from the hub: {error:#}"), is_error: true });
            }
            any = true;
        }
        if self.stale && self.autosaved.elapsed().as_secs() >= AUTOSAVE_SECONDS {
            self.autosave();
        }
        if self.looked.elapsed().as_secs() >= LOOK_SECONDS {
            self.looked = Instant::now();
            any |= self.board.look_elsewhere();
        }
        any
    }

    /// `poll` has something to do soon, though no event may come: an autosave, a run that another program trains.
    pub fn wants_polls(&self) -> bool {
        self.dirty || self.stale || self.board.runs.iter().any(|run| run.status == Status::Elsewhere)
    }

    /// Waits for the next event and takes it in; none when the worker has gone. For the command line.
    pub fn wait(&mut self) -> Option<Event> {
        let event = self.engine.wait()?;
        self.take_in(&event);
        Some(event)
    }

    /// As `wait`, for at most this long: `Ok(None)` when nothing came.
    ///
    /// # Errors
    /// When the worker has gone.
    pub fn wait_for(&mut self, longest: Duration) -> Result<Option<Event>> {
        let event = self.engine.wait_for(longest)?;
        event.iter().for_each(|event| self.take_in(event));
        Ok(event)
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

    /// Takes in how an errand ended.
    fn done(&mut self, done: Done) {
        let notice = match done {
            Done::Kept(Ok(())) => {
                self.fault = None;
                return;
            }
            Done::Kept(Err(error)) => {
                self.stale = true; // tried again
                let words = format!("Autosave: {error:#}");
                if self.fault.replace(words.clone()).as_ref() == Some(&words) {
                    return;
                }
                Notice { words, is_error: true }
            }
            Done::Drawn(Ok(written)) => {
                let names: Vec<_> = written.iter().map(|p| p.display().to_string()).collect();
                Notice { words: format!("Wrote {}", names.join(", ")), is_error: false }
            }
            Done::Drawn(Err(error)) => Notice { words: format!("Save figure: {error:#}"), is_error: true },
        };
        self.notice = Some(notice);
    }

    /// Looks whether a program that ended left unsaved edits of this session, or of any where this one has no file.
    fn look_for_unsaved(&mut self) {
        let found = side::left(&self.home, self.path.as_deref());
        if !found.unreadable.is_empty() {
            self.notice = Some(Notice { words: found.unreadable.join(". "), is_error: true });
        }
        for left in found.left {
            // A crash just after a save leaves what the file holds too.
            let same = left.session.same_as(&self.session) && left.path.is_some() == self.path.is_some();
            match same && !self.dirty {
                true => drop(self.errands.give(Errand::Remove(Box::new(left)))),
                false => self.questions.push(left),
            }
        }
        if self.unsaved.is_none() {
            self.next_question();
        }
    }

    fn next_question(&mut self) {
        self.unsaved = (!self.questions.is_empty()).then(|| self.questions.remove(0));
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

    /// Goes over to another session, in another file or none. Undo comes back to this one, its file and its unsaved edits.
    fn go_over(&mut self, label: String, session: Session, path: Option<PathBuf>) {
        if self.dirty {
            self.autosave();
            let words = format!("The edits of \"{}\" were not saved. Undo brings them back", self.session.title);
            self.notice = Some(Notice { words, is_error: false });
        }
        self.history.keep_with_file(label, &self.session, self.path.clone());
        (self.session, self.path) = (session, path);
        self.changed();
    }

    /// What a file holds now; a session without a file is as good as saved where it is a preset, as it was opened.
    fn is_saved(&mut self, path: Option<PathBuf>, session: Session) {
        self.saved.retain(|(known, _)| known.is_none() || *known != path);
        self.saved.push((path, session));
        self.changed();
    }

    fn changed(&mut self) {
        self.plan = Plan::of(&self.session);
        self.dirty = !self.saved.iter().any(|(path, saved)| *path == self.path && saved.same_as(&self.session));
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
        let folder = fresh_folder(&self.home.join("runs"), &self.session.title)?;
        let id = folder.file_name().map_or_else(|| "run".to_owned(), |n| n.to_string_lossy().into_owned());
        self.start_run(&id, &folder).inspect_err(|_| drop(std::fs::remove_dir(&folder)))
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
        file::save(&self.session, path)?; // at once, and not as an errand: whoever asked wants to know now
        self.errands.give(Errand::Forget { of: self.path.clone() });
        self.path = Some(path.to_owned());
        self.errands.give(Errand::Forget { of: self.path.clone() });
        self.is_saved(self.path.clone(), self.session.clone());
        self.stale = false;
        Ok(())
    }

    /// Has the unsaved edits kept in a side file, never in the user's own.
    pub fn autosave(&mut self) {
        self.autosaved = Instant::now();
        let of = self.path.clone();
        self.stale = !self.errands.give(match self.dirty {
            true => Errand::Keep { session: Box::new(self.session.clone()), of },
            false => Errand::Forget { of },
        });
    }

    /// Call when the program ends in an orderly way and the person gave up unsaved edits knowingly. A question that was not
    /// answered is asked again next time.
    pub fn close(&mut self) {
        self.errands.give(Errand::Close);
    }
}

/// A new folder under `runs`, named after `title`; making it takes the name, so that two programs never share one.
///
/// # Errors
/// When it cannot be made.
pub fn fresh_folder(runs: &Path, title: &str) -> Result<PathBuf> {
    let fail = || {
        format!("cannot make a run's folder in {}. May you write there? PETL_HOME or --out chooses another place", runs.display())
    };
    std::fs::create_dir_all(runs).with_context(fail)?;
    for _ in 0..100 {
        let folder = runs.join(free_name(runs, title));
        match std::fs::create_dir(&folder) {
            Ok(()) => return Ok(folder),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(fail),
        }
    }
    anyhow::bail!("{}", fail())
}

/// A folder name after `title` that is not taken yet: `digits-lora-003`.
fn free_name(runs: &Path, title: &str) -> String {
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
