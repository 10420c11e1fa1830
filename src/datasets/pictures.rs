//! Pictures in files: where each of them is, and which of them stay decoded in memory, within a limit.
//! Called by the data sets that read image files, and by `Samples` when an image is asked for. Must not know methods, models or tensors.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use anyhow::{Result, anyhow};
use image::RgbImage;

use super::{Loaded, Wanted, columns, image_folder};
use crate::session::settings::{Field, Settings};

const MB: usize = 1_000_000;

pub const MEMORY: Field = Field::whole(
    "memory",
    0,
    1_000_000,
    2048,
    "How many MB of decoded images may stay in memory. Those beyond are decoded anew whenever they are needed, which takes time and \
     changes no result.",
);

/// Room for the decoded pictures of all splits of a data set.
///
/// Nothing is put out for another picture: what came first stays. An epoch asks for each picture once, so the one that was used last is
/// the one needed last. With room for the part f of all, what stays answers f of every epoch; putting out the least recently used would
/// answer f + (1 - f) ln(1 - f) of a shuffled one (15 % at half the room) and nothing of one in order, as evaluations are.
#[derive(Debug, Default)]
pub struct Memory {
    limit: usize,
    held: AtomicUsize,
    most: AtomicUsize,
    decoded: AtomicUsize,
}

impl Memory {
    /// With room for so many bytes.
    pub fn new(limit: usize) -> Arc<Memory> {
        Arc::new(Memory { limit, ..Memory::default() })
    }

    pub fn of(set: &Settings) -> Arc<Memory> {
        Memory::new(set.whole(MEMORY.name).saturating_mul(MB))
    }

    /// Bytes that may be held.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Bytes held now.
    pub fn held(&self) -> usize {
        self.held.load(Relaxed)
    }

    /// The most bytes that were ever held.
    pub fn most(&self) -> usize {
        self.most.load(Relaxed)
    }

    /// How many times a picture was decoded.
    pub fn decoded(&self) -> usize {
        self.decoded.load(Relaxed)
    }

    /// Takes room for so many bytes, where there is as much.
    fn reserve(&self, bytes: usize) -> bool {
        let taken = |held: usize| held.checked_add(bytes).filter(|sum| *sum <= self.limit);
        let before = self.held.fetch_update(Relaxed, Relaxed, taken);
        before.is_ok_and(|before| {
            self.most.fetch_max(before + bytes, Relaxed);
            true
        })
    }

    fn release(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Relaxed);
    }

    /// What was loaded, with a word on it where not all of it fits; none where only a look at it was wanted.
    pub fn told(&self, mut loaded: Loaded, wanted: &Wanted) -> Loaded {
        let all: Vec<&Arc<Picture>> = loaded.train.pictures.iter().chain(&loaded.test.pictures).collect();
        let kept = all.iter().filter(|picture| picture.is_kept()).count();
        if kept < all.len() && wanted.at_most == usize::MAX {
            let needed = all.iter().map(|picture| picture.size()).sum::<usize>().div_ceil(MB);
            loaded.notes.push(format!(
                "{kept} of {} images stay decoded in `memory` ({} MB), the others are decoded anew whenever they are needed. \
                 All of them need {needed} MB",
                all.len(),
                self.limit / MB
            ));
        }
        loaded
    }
}

/// Where a picture is.
#[derive(Clone, Debug)]
pub enum Source {
    File(PathBuf),
    /// A cell of a parquet file.
    Cell {
        file: Arc<Path>,
        column: Arc<str>,
        row: usize,
    },
}

impl Source {
    fn open(&self) -> Result<RgbImage, String> {
        match self {
            Source::File(path) => image_folder::open(path).map_err(|fault| fault.to_string()),
            Source::Cell { file, column, row } => {
                let bytes = columns::picture(file, column, *row)?;
                image_folder::decoded(&bytes).map_err(|fault| fault.to_string())
            }
        }
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Source::File(path) => write!(f, "{}", path.display()),
            Source::Cell { file, row, .. } => write!(f, "{}, row {row}", file.display()),
        }
    }
}

/// A picture that is decoded when it is asked for.
#[derive(Debug)]
pub struct Picture {
    source: Source,
    /// In pixels, of the square that is made of it.
    side: usize,
    memory: Arc<Memory>,
    kept: OnceLock<Vec<u8>>,
}

impl Picture {
    /// The picture at `source`, decoded by `open` and kept where there is room.
    ///
    /// # Errors
    /// In words that begin with the place, when it cannot be read.
    pub fn seen(
        source: Source,
        side: usize,
        memory: &Arc<Memory>,
        open: impl FnOnce() -> Result<RgbImage, String>,
    ) -> Result<Arc<Picture>, String> {
        let picture = Picture { source, side, memory: memory.clone(), kept: OnceLock::new() };
        memory.decoded.fetch_add(1, Relaxed);
        let image = open().map_err(|fault| format!("{} ({fault})", picture.source))?;
        if memory.reserve(picture.size()) {
            picture.keep(image_folder::square(&image, side).into_raw());
        }
        Ok(Arc::new(picture))
    }

    /// The same of a file.
    ///
    /// # Errors
    /// As above.
    pub fn in_file(path: &Path, side: usize, memory: &Arc<Memory>) -> Result<Arc<Picture>, String> {
        let source = Source::File(path.to_owned());
        let own = source.clone();
        Picture::seen(source, side, memory, || own.open())
    }

    /// It at another side; decoded anew when it is asked for.
    pub fn at(&self, side: usize) -> Arc<Picture> {
        Arc::new(Picture { source: self.source.clone(), side, memory: self.memory.clone(), kept: OnceLock::new() })
    }

    /// Its bytes `[side, side, 3]`.
    ///
    /// # Errors
    /// When it cannot be read any more.
    pub fn bytes(&self) -> Result<Cow<'_, [u8]>> {
        if let Some(kept) = self.kept.get() {
            return Ok(Cow::Borrowed(kept));
        }
        self.memory.decoded.fetch_add(1, Relaxed);
        let image = self.source.open().map_err(|fault| {
            anyhow!(
                "{} was an image when the data set was loaded and cannot be read now ({fault}). Put it back, then start again",
                self.source
            )
        })?;
        let bytes = image_folder::square(&image, self.side).into_raw();
        Ok(if self.memory.reserve(self.size()) { Cow::Borrowed(self.keep(bytes)) } else { Cow::Owned(bytes) })
    }

    /// Keeps bytes for which room was taken; gives the room back where another thread was quicker.
    fn keep(&self, bytes: Vec<u8>) -> &[u8] {
        let mut first = false;
        let kept = self.kept.get_or_init(|| {
            first = true;
            bytes
        });
        if !first {
            self.memory.release(self.size());
        }
        kept
    }

    pub fn is_kept(&self) -> bool {
        self.kept.get().is_some()
    }

    /// Bytes of it, decoded.
    fn size(&self) -> usize {
        self.side * self.side * 3
    }

    pub fn memory(&self) -> &Memory {
        &self.memory
    }
}

impl Drop for Picture {
    fn drop(&mut self) {
        if self.is_kept() {
            self.memory.release(self.size());
        }
    }
}
