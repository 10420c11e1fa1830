//! Errands: what needs the disk or the processor for a while and must not hold up the window - autosaves and figures. A thread
//! of their own does them, one after the other. Called by the workbench; knows no tensors and no window.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use anyhow::{Result, anyhow};
use crossbeam_channel::{Receiver, Sender, bounded};

use crate::board::Run;
use crate::figures;
use crate::session::Session;
use crate::session::side::{Left, Side};

pub enum Errand {
    /// Keeps the unsaved edits of the session in the file `of`.
    Keep {
        session: Box<Session>,
        of: Option<PathBuf>,
    },
    /// There are none any more.
    Forget {
        of: Option<PathBuf>,
    },
    /// What a crash left was answered for.
    Remove(Box<Left>),
    /// The program ends in an orderly way.
    Close,
    Figure {
        kind: String,
        runs: Vec<Run>,
        path: PathBuf,
    },
}

/// How an errand ended, where that is of interest.
pub enum Done {
    Kept(Result<()>),
    Drawn(Result<Vec<PathBuf>>),
}

/// The handle to the thread. Dropped, it waits until the errands that were given are done.
pub struct Errands {
    errands: Option<Sender<Errand>>,
    done: Option<Receiver<Done>>,
    thread: Option<JoinHandle<()>>,
}

impl Errands {
    /// Starts the thread; `wake` is called when something is done.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(home: &Path, wake: impl Fn() + Send + 'static) -> Result<Errands> {
        let (errands, inbox) = bounded(64);
        let (outbox, done) = bounded(64);
        let mut side = Side::new(home);
        let work = move || {
            for errand in inbox {
                if let Some(done) = one(errand, &mut side) {
                    let _ = outbox.send(done);
                    wake();
                }
            }
        };
        let thread = std::thread::Builder::new().name("petl-errands".into()).spawn(work)?;
        Ok(Errands { errands: Some(errands), done: Some(done), thread: Some(thread) })
    }

    /// Gives an errand without waiting. False when 64 wait already.
    pub fn give(&self, errand: Errand) -> bool {
        self.errands.as_ref().is_some_and(|errands| errands.try_send(errand).is_ok())
    }

    /// What was done since the last call.
    pub fn poll(&self) -> Option<Done> {
        self.done.as_ref()?.try_recv().ok()
    }
}

impl Drop for Errands {
    fn drop(&mut self) {
        self.errands = None; // the thread ends when it has done them all
        self.done = None; // and does not wait for a reader
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn one(errand: Errand, side: &mut Side) -> Option<Done> {
    match errand {
        Errand::Keep { session, of } => return Some(Done::Kept(side.keep(&session, of.as_deref()))),
        Errand::Forget { of } => side.forget(of.as_deref()),
        Errand::Remove(left) => left.remove(),
        Errand::Close => side.close(),
        Errand::Figure { kind, runs, path } => {
            let runs: Vec<&Run> = runs.iter().collect();
            // Plotting is foreign code; its fault must not take later autosaves along.
            let drawn = catch_unwind(AssertUnwindSafe(|| figures::write(&kind, &runs, &path)));
            return Some(Done::Drawn(drawn.unwrap_or_else(|_| Err(anyhow!("the figure could not be drawn")))));
        }
    }
    None
}
