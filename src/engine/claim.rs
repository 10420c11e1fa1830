//! A run's folder while it trains: a lock file that the system lets go when the program ends, however it ends. So another
//! program (and the board) can tell a run that trains from one that was cut off. Called by the worker, the board and the workbench.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

pub const LOCK: &str = "training.lock";

/// Held while the run trains.
pub struct Claim {
    path: PathBuf,
    _lock: File,
}

/// Takes the folder for one run.
///
/// # Errors
/// When another program trains into it, or it cannot be written.
pub fn take(folder: &Path) -> Result<Claim> {
    let path = folder.join(LOCK);
    let file = File::create(&path).with_context(|| format!("cannot write {}. May you write there?", path.display()))?;
    if let Err(TryLockError::WouldBlock) = file.try_lock() {
        bail!("another program trains into {}. Choose another folder, or stop it there", folder.display());
    }
    // A file system without locks: the run trains all the same, and looks cut off to others until it is done.
    Ok(Claim { path, _lock: file })
}

impl Drop for Claim {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Whether some program trains into `folder` now.
pub fn is_taken(folder: &Path) -> bool {
    let lock = File::open(folder.join(LOCK));
    lock.is_ok_and(|lock| matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock)))
}
