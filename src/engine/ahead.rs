//! What comes next, made ahead: a thread of its own makes one thing after the other while the caller works on those before, never more than
//! `AHEAD` in front of it. Called by the run and the model for their batches; must not know what is made.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, anyhow};
use crossbeam_channel::{Receiver, bounded};

/// Things that are made and not taken yet, at most.
pub const AHEAD: usize = 2;

/// Where the caller takes what was made.
pub struct Ahead<'a, T> {
    made: Receiver<Result<T>>,
    /// Held while something is made.
    busy: &'a Mutex<()>,
}

impl<T> Ahead<'_, T> {
    /// The next thing, waited for; none when all were taken.
    ///
    /// # Errors
    /// When it could not be made; nothing comes after it.
    pub fn next(&self) -> Result<Option<T>> {
        self.made.recv().ok().transpose()
    }

    /// Runs `work` while nothing is made, so that what it measures is its own.
    pub fn still<R>(&self, work: impl FnOnce() -> R) -> R {
        let _made = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        work()
    }
}

/// Makes something of every one of `jobs`, in their order, while `work` takes what was made. When `work` ends, however it does, nothing
/// more is made, and the thread has gone when this returns. `what` says in words what is made.
///
/// # Errors
/// When there is no thread, and with what `work` gives.
pub fn ahead<J, T: Send, R>(
    what: &str,
    jobs: impl Iterator<Item = J> + Send,
    make: impl Fn(J) -> Result<T> + Send,
    work: impl FnOnce(&Ahead<T>) -> Result<R>,
) -> Result<R> {
    let busy = &Mutex::new(());
    // The last of them waits in the maker's hand.
    let (sender, made) = bounded(AHEAD - 1);
    let maker = move || {
        for job in jobs {
            let one = {
                let _making = busy.lock().unwrap_or_else(PoisonError::into_inner);
                catch_unwind(AssertUnwindSafe(|| make(job)))
            };
            let one = one.unwrap_or_else(|panic| {
                let cause = super::cause(panic.as_ref());
                Err(anyhow!("{cause}. This is a fault of the program: report it, and choose another data set meanwhile"))
            });
            let one = one.with_context(|| format!("{what} cannot be made"));
            let last = one.is_err();
            if sender.send(one).is_err() || last {
                return;
            }
        }
    };
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("petl-ahead".into())
            .spawn_scoped(scope, maker)
            .with_context(|| format!("the system gives no thread that makes {what}. End other programs, then start again"))?;
        let ahead = Ahead { made, busy }; // goes when `work` has ended or panicked, and with it the thread
        work(&ahead)
    })
}
