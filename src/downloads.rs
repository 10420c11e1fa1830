//! The download of a model folder beside the person's work: a thread asks the hub and fetches, and is ended at once when nobody wants it any
//! more. Called by the workbench; knows no session.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use crossbeam_channel::{Receiver, bounded};

use crate::hub::{self, About, Hub};

/// Bytes between two words of progress.
const WORD: u64 = 1 << 20;

/// How far it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum State {
    #[default]
    Idle,
    /// The hub was asked what this repository holds.
    Asking(String),
    /// It waits for a yes.
    Known(About),
    Fetching {
        about: About,
        done: u64,
    },
}

enum Heard {
    About(Result<About>),
    Bytes(u64),
    Folder(Result<PathBuf>),
}

pub struct Download {
    pub state: State,
    pub hub: Hub,
    heard: Option<Receiver<Heard>>,
    stop: Arc<AtomicBool>,
    wake: Arc<dyn Fn() + Send + Sync>,
}

impl Download {
    /// `wake` is called when there is news.
    pub fn new(hub: Hub, wake: Arc<dyn Fn() + Send + Sync>) -> Download {
        Download { state: State::Idle, hub, heard: None, stop: Arc::default(), wake }
    }

    /// Asks what a repository holds.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn ask(&mut self, repository: String, revision: String) -> Result<()> {
        self.cancel();
        self.state = State::Asking(repository.clone());
        let hub = self.hub.clone();
        self.work(move |say, _| say(Heard::About(hub::about(&hub, &repository, &revision))))
    }

    /// Fetches what was asked about into a folder below `models`; does nothing while nothing is known.
    ///
    /// # Errors
    /// As `ask`.
    pub fn fetch(&mut self, models: &Path) -> Result<()> {
        let State::Known(about) = std::mem::take(&mut self.state) else { return Ok(()) };
        self.state = State::Fetching { about: about.clone(), done: 0 };
        let (hub, models) = (self.hub.clone(), models.to_owned());
        self.work(move |say, stop| {
            let mut said = 0;
            let mut hear = |done: u64| {
                if done / WORD != said / WORD {
                    said = done;
                    say(Heard::Bytes(done));
                }
                if stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            let folder = hub::fetch(&hub, &about, &models, &mut hear);
            say(Heard::Folder(folder));
        })
    }

    /// Ends whatever goes on; nothing stays half fetched.
    pub fn cancel(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        (self.state, self.heard, self.stop) = (State::Idle, None, Arc::default());
    }

    /// Takes in the news. The folder, or what went wrong, when it has ended.
    pub fn poll(&mut self) -> Option<Result<PathBuf>> {
        loop {
            let heard = self.heard.as_ref()?.try_recv().ok()?;
            match heard {
                Heard::About(Ok(about)) => self.state = State::Known(about),
                Heard::Bytes(bytes) => {
                    if let State::Fetching { done, .. } = &mut self.state {
                        *done = bytes;
                    }
                }
                Heard::About(Err(fault)) => {
                    self.cancel();
                    return Some(Err(fault));
                }
                Heard::Folder(folder) => {
                    self.cancel();
                    return Some(folder);
                }
            }
        }
    }

    fn work(&mut self, job: impl FnOnce(&dyn Fn(Heard), &AtomicBool) + Send + 'static) -> Result<()> {
        let (sender, receiver) = bounded(64);
        self.heard = Some(receiver);
        let (stop, wake) = (self.stop.clone(), self.wake.clone());
        let say = move |heard: Heard| {
            // Of words of progress some may be lost; how it ended must not.
            let _ = match heard {
                Heard::Bytes(_) => sender.try_send(heard).is_ok(),
                heard => sender.send(heard).is_ok(),
            };
            wake();
        };
        let run = move || job(&say, &stop);
        std::thread::Builder::new().name("petl-hub".into()).spawn(run)?;
        Ok(())
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
