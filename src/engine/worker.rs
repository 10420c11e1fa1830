//! The worker thread: takes orders, runs them one at a time, turns every error and panic into words. Called by `Engine` only.

use std::io::Write;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
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
    let mut waiting = std::collections::VecDeque::new();
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
                let (names, fault) = devices::ask();
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
            let cause = (panic.downcast_ref::<String>().cloned())
                .or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()))
                .unwrap_or_else(|| "no words were given".to_owned());
            format!(
                "the numerics stopped: {cause}. The session and the other runs are untouched; undo the last placement or choose device `cpu`, then train again"
            )
        }
    };
    send(Event::Failed { run: run.to_owned(), words });
    false
}

fn train(
    run: &str,
    session: &Session,
    folder: &Path,
    inbox: &Receiver<Order>,
    waiting: &mut std::collections::VecDeque<Order>,
    send: &dyn Fn(Event),
) -> Result<bool> {
    std::fs::create_dir_all(folder)
        .with_context(|| format!("cannot make the run's folder {}. May you write there?", folder.display()))?;
    let _claim = claim::take(folder)?;
    let path = folder.join("events.jsonl");
    let log =
        std::fs::File::create(&path).with_context(|| format!("cannot write {}. Is there room on the disk?", path.display()))?;
    let log = std::cell::RefCell::new(std::io::BufWriter::new(log));
    let broken = std::cell::RefCell::new(None);
    let logged = |event: Event| {
        let line = serde_json::to_string(&event).map_err(|e| anyhow!("cannot write an event as JSON: {e}"));
        let written = line.and_then(|line| {
            let mut log = log.borrow_mut();
            writeln!(log, "{line}")
                .and_then(|()| log.flush())
                .with_context(|| format!("cannot write {}. Is the disk full?", path.display()))
        });
        if let Err(error) = written {
            broken.borrow_mut().get_or_insert(error);
        }
        send(event);
    };
    let quit = std::cell::Cell::new(false);
    let waiting = std::cell::RefCell::new(waiting);
    let ask = || {
        if broken.borrow().is_some() {
            return ControlFlow::Break(());
        }
        let mut paused = false;
        loop {
            let order = match paused {
                true => inbox.recv().map_err(|_| TryRecvError::Disconnected),
                false => inbox.try_recv(),
            };
            match order {
                Err(TryRecvError::Empty) => return ControlFlow::Continue(()),
                Err(TryRecvError::Disconnected) | Ok(Order::Quit) => {
                    quit.set(true);
                    return ControlFlow::Break(());
                }
                Ok(Order::Stop) => return ControlFlow::Break(()),
                Ok(Order::Pause) if !paused => {
                    paused = true;
                    logged(Event::Paused { run: run.to_owned() });
                }
                Ok(Order::Continue) if paused => {
                    paused = false;
                    logged(Event::Continued { run: run.to_owned() });
                }
                Ok(Order::Pause | Order::Continue) => {}
                Ok(other) => waiting.borrow_mut().push_back(other), // after this run
            }
        }
    };
    let around = run::Surroundings { run, folder, send: &logged, ask: &ask };
    // Caught here, so that the words of a failure reach the run's own file too.
    let ended = catch_unwind(AssertUnwindSafe(|| run::train(session, &around)));
    if let Some(error) = broken.take() {
        return Err(error);
    }
    match ended {
        Ok(Ok(())) => {}
        ended => {
            guarded(run, &logged, || match ended {
                Ok(result) => result.map(|()| false),
                Err(panic) => std::panic::resume_unwind(panic),
            });
        }
    }
    Ok(quit.get())
}
