//! The worker thread: takes orders, runs them one at a time, turns every error and panic into words. Called by `Engine` only.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use anyhow::{Context, Result, anyhow};
use crossbeam_channel::{Receiver, Sender, TryRecvError};

use super::{Event, Order, Wake, claim, devices, run};
use crate::exports;
use crate::session::Session;

/// Serves orders until `Quit`, or until the handle is `closing` or gone.
pub fn work(inbox: &Receiver<Order>, outbox: &Sender<Event>, wake: &Wake, closing: &AtomicBool) {
    let send = |event: Event| {
        // Waits when 1024 events are unread: the plots lose nothing, and the worker cannot run away from the window.
        let _ = outbox.send(event);
        wake();
    };
    let mut waiting = VecDeque::new();
    loop {
        let order = match waiting.pop_front() {
            Some(order) => order,
            None => match inbox.recv() {
                Ok(order) => order,
                Err(_) => return,
            },
        };
        if closing.load(Relaxed) {
            return;
        }
        match order {
            Order::Quit => return,
            Order::ListDevices => {
                let (names, fault) = devices::look();
                send(Event::Devices { names, fault });
            }
            Order::Train { run, session, folder } => {
                if guarded(&run, &send, || train(&run, &session, &folder, inbox, &mut waiting, &send)) {
                    return;
                }
            }
            Order::Export { run, folder, kind, into } => {
                guarded(&run, &send, || {
                    let done = exports::export(&folder, &kind, &into)?;
                    let path = done.path.clone();
                    send(Event::Exported {
                        run: run.clone(),
                        path,
                        kind: kind.clone(),
                        difference: done.difference,
                        samples: done.samples,
                    });
                    Ok(false)
                });
            }
            // Late words to a run that has already ended.
            Order::Pause | Order::Continue | Order::Stop => {}
        }
    }
}

/// Runs `job`; an error or a panic becomes `Event::Failed`. True when the thread shall end.
fn guarded(run: &str, send: &dyn Fn(Event), job: impl FnOnce() -> Result<bool>) -> bool {
    let words = match catch_unwind(AssertUnwindSafe(job)) {
        Ok(Ok(quit)) => return quit,
        Ok(Err(error)) => format!("{error:#}"),
        Err(panic) => {
            let cause = super::cause(panic.as_ref());
            format!(
                "the numerics stopped: {cause}. The session and the other runs are untouched; undo the last placement or choose device `cpu`, then train again"
            )
        }
    };
    send(Event::Failed { run: run.to_owned(), words });
    false
}

/// A run's `events.jsonl`: whole lines or none, also on a full disk.
struct Log {
    path: PathBuf,
    file: File,
    length: u64,
}

impl Log {
    fn create(folder: &Path) -> Result<Log> {
        let path = folder.join("events.jsonl");
        let file = File::create(&path).with_context(|| format!("cannot write {}. Is there room on the disk?", path.display()))?;
        Ok(Log { path, file, length: 0 })
    }

    fn keep(&mut self, event: &Event) -> Result<()> {
        let mut line = serde_json::to_vec(event).map_err(|e| anyhow!("cannot write an event as JSON: {e}"))?;
        line.push(b'\n');
        match self.file.write_all(&line) {
            Ok(()) => {
                self.length += line.len() as u64;
                Ok(())
            }
            Err(error) => {
                // Takes half a line off again; where even that fails, the reader passes over it.
                let _ = self.file.set_len(self.length).and_then(|()| self.file.seek(SeekFrom::Start(self.length)));
                Err(error).with_context(|| format!("cannot write {}. Is the disk full?", self.path.display()))
            }
        }
    }
}

fn train(
    run: &str,
    session: &Session,
    folder: &Path,
    inbox: &Receiver<Order>,
    waiting: &mut VecDeque<Order>,
    send: &dyn Fn(Event),
) -> Result<bool> {
    std::fs::create_dir_all(folder)
        .with_context(|| format!("cannot make the run's folder {}. May you write there?", folder.display()))?;
    let _claim = claim::take(folder)?;
    let log = RefCell::new(Log::create(folder)?);
    // What the log cannot keep has not happened: the run ends with the words of that.
    let logged = |event: Event| -> Result<()> {
        log.borrow_mut().keep(&event)?;
        send(event);
        Ok(())
    };
    let quit = Cell::new(false);
    let waiting = RefCell::new(waiting);
    let ask = || -> Result<ControlFlow<()>> {
        let mut paused = false;
        loop {
            let order = match paused {
                true => inbox.recv().map_err(|_| TryRecvError::Disconnected),
                false => inbox.try_recv(),
            };
            match order {
                Err(TryRecvError::Empty) => return Ok(ControlFlow::Continue(())),
                Err(TryRecvError::Disconnected) | Ok(Order::Quit) => {
                    quit.set(true);
                    return Ok(ControlFlow::Break(()));
                }
                Ok(Order::Stop) => return Ok(ControlFlow::Break(())),
                Ok(Order::Pause) if !paused => {
                    paused = true;
                    logged(Event::Paused { run: run.to_owned() })?;
                }
                Ok(Order::Continue) if paused => {
                    paused = false;
                    logged(Event::Continued { run: run.to_owned() })?;
                }
                Ok(Order::Pause | Order::Continue) => {}
                Ok(other) => waiting.borrow_mut().push_back(other), // after this run
            }
        }
    };
    let around = run::Surroundings { run, folder, send: &logged, ask: &ask };
    // Guarded here, so that the words of a failure reach the run's own file too, where that can still be written.
    let told = |event: Event| {
        let _ = log.borrow_mut().keep(&event);
        send(event);
    };
    guarded(run, &told, || run::train(session, &around).map(|()| false));
    Ok(quit.get())
}
