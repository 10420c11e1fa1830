//! Side files: unsaved edits, kept under the program's home while it runs, never beside or over the person's own file. Every
//! program that runs has a folder of its own with a lock that the system lets go when it ends, however it ends: a folder that
//! nobody holds is what a crash left. Written by the workbench's errands, read when the window opens. Plain files.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};

use super::{Session, file};

/// The first words of a side file, before the path of the session's own file.
const OF: &str = "# unsaved edits of ";
const LOCK: &str = "lock";

fn root(home: &Path) -> PathBuf {
    home.join("autosaves")
}

/// `path` as it is called from everywhere.
fn full(path: &Path) -> PathBuf {
    path.canonicalize().or_else(|_| std::path::absolute(path)).unwrap_or_else(|_| path.to_owned())
}

/// This program's side files, one for each session file in which something was edited; made when the first is needed.
pub struct Side {
    root: PathBuf,
    own: Option<(PathBuf, File)>,
    /// The session's own file, by the number of its side file.
    of: Vec<Option<PathBuf>>,
}

impl Side {
    pub fn new(home: &Path) -> Side {
        Side { root: root(home), own: None, of: vec![] }
    }

    /// Keeps the unsaved edits of the session in the file `of`, or of one without a file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn keep(&mut self, session: &Session, of: Option<&Path>) -> Result<()> {
        let of = of.map(full);
        let folder = self.folder()?;
        let n = self.of.iter().position(|known| *known == of).unwrap_or_else(|| {
            self.of.push(of.clone());
            self.of.len() - 1
        });
        let name = of.as_ref().and_then(|path| path.to_str()).filter(|path| !path.contains('\n')).unwrap_or("no file");
        file::write_whole(&folder.join(format!("{n}.petl.toml")), format!("{OF}{name}\n{}", file::text(session)?).as_bytes())
    }

    /// The session in `of` was saved, or is again as it was saved.
    pub fn forget(&mut self, of: Option<&Path>) {
        let of = of.map(full);
        if let (Some((folder, _)), Some(n)) = (&self.own, self.of.iter().position(|known| *known == of)) {
            let _ = std::fs::remove_file(folder.join(format!("{n}.petl.toml")));
        }
    }

    /// The program ends in an orderly way.
    pub fn close(&mut self) {
        if let Some((folder, _lock)) = self.own.take() {
            let _ = std::fs::remove_dir_all(folder);
        }
        self.of.clear();
    }

    fn folder(&mut self) -> Result<PathBuf> {
        if let Some((folder, _)) = &self.own {
            return Ok(folder.clone());
        }
        let fail = || format!("cannot write into {}. May you write there? PETL_HOME chooses another place", self.root.display());
        std::fs::create_dir_all(&self.root).with_context(fail)?;
        for _ in 0..100 {
            let folder = tempfile::Builder::new().prefix("program-").tempdir_in(&self.root).with_context(fail)?.keep();
            let lock = File::create(folder.join(LOCK)).with_context(fail)?;
            if !matches!(lock.try_lock(), Err(TryLockError::WouldBlock)) {
                self.own = Some((folder.clone(), lock));
                return Ok(folder);
            } // another program has just looked whether it was left by a crash
        }
        anyhow::bail!("{}", fail())
    }
}

/// Unsaved edits that a program left when it ended without saving. Whoever holds them keeps other programs from offering them.
#[derive(Clone, Debug)]
pub struct Left {
    pub session: Session,
    /// The session's own file, if it had one.
    pub path: Option<PathBuf>,
    side: PathBuf,
    _lock: Arc<File>,
}

impl Left {
    /// Takes the side file away: it was answered for.
    pub fn remove(self) {
        let _ = std::fs::remove_file(&self.side);
        tidy(self.side.parent());
    }
}

/// Removes a folder that holds nothing but its lock.
fn tidy(folder: Option<&Path>) {
    let Some(folder) = folder else { return };
    let only_lock = |mut list: std::fs::ReadDir| list.all(|e| e.is_ok_and(|e| e.file_name() == LOCK));
    if std::fs::read_dir(folder).is_ok_and(only_lock) {
        let _ = std::fs::remove_dir_all(folder);
    }
}

/// What crashes left, the newest first, and words for what could not be read.
#[derive(Default)]
pub struct Found {
    pub left: Vec<Left>,
    pub unreadable: Vec<String>,
}

/// What programs that ended left of the session in `of`; without a file, of any session. What cannot be read is put aside.
pub fn left(home: &Path, of: Option<&Path>) -> Found {
    let of = of.map(full);
    let mut found = Found::default();
    let mut folders: Vec<_> = std::fs::read_dir(root(home))
        .map(|list| list.filter_map(|e| Some(e.ok()?.path())).filter(|path| path.is_dir()).collect())
        .unwrap_or_default();
    folders.sort_by_key(|folder: &PathBuf| std::cmp::Reverse(std::fs::metadata(folder).and_then(|m| m.modified()).ok()));
    for folder in folders {
        let Ok(lock) = File::open(folder.join(LOCK)) else { continue };
        if matches!(lock.try_lock(), Err(TryLockError::WouldBlock)) {
            continue; // its program runs, or another one asks already
        }
        let lock = Arc::new(lock);
        let mut here = vec![];
        for side in sides(&folder) {
            match read(&side) {
                Ok((session, path)) => here.push(Left { session, path, side, _lock: lock.clone() }),
                Err(error) => found.unreadable.push(put_aside(home, &folder, &side, &error)),
            }
        }
        tidy(Some(&folder));
        here.sort_by_key(|left| left.path != of); // what was asked for comes first
        if of.is_none() || here.iter().any(|left| left.path == of) {
            found.left.extend(here);
        }
    }
    found
}

fn sides(folder: &Path) -> Vec<PathBuf> {
    let is_side = |path: &PathBuf| path.extension().is_some_and(|e| e == "toml");
    let mut sides: Vec<PathBuf> = std::fs::read_dir(folder)
        .map(|list| list.filter_map(|e| Some(e.ok()?.path())).filter(is_side).collect())
        .unwrap_or_default();
    sides.sort();
    sides
}

fn read(side: &Path) -> Result<(Session, Option<PathBuf>)> {
    let text = std::fs::read_to_string(side).context("cannot read it")?;
    let of = text.lines().next().and_then(|line| line.strip_prefix(OF)).filter(|name| *name != "no file");
    Ok((file::parse(&text, "the autosaved session")?, of.map(PathBuf::from)))
}

fn put_aside(home: &Path, folder: &Path, side: &Path, error: &anyhow::Error) -> String {
    let name = |path: &Path| path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let aside = home.join(format!("unreadable-{}-{}", name(folder), name(side)));
    let kept = match std::fs::rename(side, &aside) {
        Ok(()) => aside,
        Err(_) => side.to_owned(),
    };
    format!("an autosaved session cannot be read ({error:#}). It is kept as {}", kept.display())
}
