//! Data sets: where samples come from. To add one: a new file here with a `CARD`, then two lines below
//! (`mod` and `CATALOG`). Plain bytes and labels; knows no tensors and no window.

pub mod audio_folder;
pub mod cifar;
pub mod class_folders;
pub mod columns;
pub mod digits;
pub mod emoji;
pub mod idx;
pub mod image_captions;
pub mod image_folder;
pub mod image_list;
pub mod image_parquet;
pub mod log_mel;
pub mod paint;
pub mod pictures;
pub mod quality;
pub mod shapes;
pub mod sheet;
pub mod splits;
pub mod table;
pub mod text_table;
pub mod three_tasks;
pub mod unknown;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use anyhow::Context;

use pictures::Picture;
use quality::Scores;

use crate::session::Choice;
use crate::session::settings::{Field, Settings};

/// One task of a data set. Only its own labels compete for its samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Task {
    pub name: &'static str,
    /// Label of its first class.
    pub first: usize,
    pub classes: usize,
}

/// What the catalogue says of a data set.
pub struct Card {
    /// Name in session files.
    pub name: &'static str,
    pub title: &'static str,
    pub help: &'static str,
    /// Who made it, and under which licence.
    pub source: &'static str,
    pub licence: &'static str,
    pub fields: &'static [Field],
    /// What there is with these settings, which hold every field; or, in words, why nothing is. Called on every edit: a file
    /// that it reads goes through `once`.
    pub describe: fn(&Settings) -> Result<Described, String>,
    /// Reads (or draws) the samples. `seed` is the session's. Settings are already checked and filled.
    pub load: fn(&Settings, seed: u64, wanted: &Wanted) -> anyhow::Result<Loaded>,
}

pub const CATALOG: &[&Card] = &[
    &digits::CARD,
    &emoji::CARD,
    &shapes::CARD,
    &three_tasks::CARD,
    &image_folder::CARD,
    &audio_folder::CARD,
    &image_list::CARD,
    &image_parquet::CARD,
    &image_captions::CARD,
    &text_table::CARD,
    &idx::CARD,
    &cifar::CARD,
];

/// Of what is offered, and of `unknown`, which is not: it is what the session of an imported adapter says.
pub fn find(name: &str) -> Option<&'static Card> {
    CATALOG.iter().copied().chain([&unknown::CARD]).find(|card| card.name == name)
}

/// What a data set holds, known without its samples.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Described {
    /// The class names, in label order.
    pub classes: Vec<String>,
    /// The domains a sample may come from (vendors' styles, say); one name where there is only one.
    pub domains: Vec<String>,
    /// The tasks that it mixes; one where there is only one. Together they have every class once, in label order.
    pub tasks: Vec<Task>,
    pub holds: Holds,
    /// What quality scores its samples have; none where it gives none.
    pub quality: Option<Scores>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Holds {
    #[default]
    Images,
    Texts,
    Sounds,
    /// Images, each with a caption; there are no classes.
    Captions,
    /// Nobody knows.
    Unknown,
}

impl Described {
    /// Images whose classes stand in the program.
    pub fn images(classes: &[&str], domains: &[&str], tasks: &[Task]) -> Described {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let (classes, domains, tasks) = (owned(classes), owned(domains), tasks.to_vec());
        Described { classes, domains, tasks, holds: Holds::Images, quality: None }
    }

    /// One task with the classes that were found at `place`.
    ///
    /// # Errors
    /// In words, when there is nothing to tell apart.
    pub fn found(place: &str, classes: Vec<String>, holds: Holds) -> Result<Described, String> {
        match classes.as_slice() {
            [] => return Err(format!("{place} has no classes")),
            [one] => return Err(format!("{place} has one class only (`{one}`); there must be two to tell apart")),
            _ => {}
        }
        let tasks = vec![Task { name: "classes", first: 0, classes: classes.len() }];
        Ok(Described { classes, domains: vec!["files".to_owned()], tasks, holds, quality: None })
    }
}

/// What the network wants of the samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Side of the images, in pixels. What is stored in one size ignores it: the network's own preparing comes later.
    pub side: usize,
    /// Samples of each split that are read, spread over it; what costs nothing to read is read whole.
    pub at_most: usize,
    /// Numbers of a sound that are heard, at 16 kHz; longer ones are cut.
    pub heard: usize,
}

impl Wanted {
    pub fn all(side: usize) -> Wanted {
        Wanted { side, at_most: usize::MAX, heard: usize::MAX }
    }

    /// As many of `all` as are wanted, spread over it.
    pub fn some<T: Clone>(&self, all: &[T]) -> Vec<T> {
        let count = all.len().min(self.at_most);
        (0..count).map(|n| all[n * all.len() / count].clone()).collect()
    }
}

/// What the data set of a session holds.
///
/// # Errors
/// In words, when the name is unknown, or a file or folder is not what it should be.
pub fn describe(choice: &Choice) -> Result<Described, String> {
    let card = find(&choice.name).ok_or_else(|| {
        let names: Vec<_> = CATALOG.iter().map(|c| c.name).collect();
        format!("unknown data set `{}`; one of: {}", choice.name, names.join(", "))
    })?;
    (card.describe)(&choice.settings.filled(card.fields))
}

/// Descriptions by what they were made of.
static KNOWN: Mutex<BTreeMap<String, Described>> = Mutex::new(BTreeMap::new());
/// Descriptions kept; more than that many settings tried on one day begin anew.
const KEPT: usize = 64;

/// What `read` makes of the files or folders at `paths`: read again only when one of them or a setting has changed. What failed
/// is tried again each time, since it may have been mended anywhere below.
///
/// # Errors
/// When `read` fails.
pub fn once(paths: &[PathBuf], set: &Settings, read: impl FnOnce() -> Result<Described, String>) -> Result<Described, String> {
    let stamp = |path: &PathBuf| {
        let about = std::fs::metadata(path).ok()?;
        Some((path.clone(), about.len(), about.modified().ok()?))
    };
    let stamps: Vec<_> = paths.iter().map(stamp).collect();
    if stamps.contains(&None) {
        return read();
    }
    let key = format!("{stamps:?} {set:?}");
    if let Ok(known) = KNOWN.lock()
        && let Some(found) = known.get(&key)
    {
        return Ok(found.clone());
    }
    let found = read()?;
    if let Ok(mut known) = KNOWN.lock() {
        if known.len() >= KEPT {
            known.clear();
        }
        known.insert(key, found.clone());
    }
    Ok(found)
}

/// The path that was typed or chosen, or what should be.
fn path_of(set: &Settings, name: &str, wanted: &str) -> Result<PathBuf, String> {
    match set.text(name) {
        "" => Err(format!("no {name} is chosen. Choose {wanted}")),
        path => Ok(Path::new(path).to_path_buf()),
    }
}

/// A text, or a pair of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text {
    pub first: String,
    pub second: Option<String>,
}

/// A text as a network takes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    pub ids: Vec<u32>,
    /// Which of two texts a token belongs to.
    pub kinds: Vec<u8>,
}

/// A sound as a network takes it: what stands behind its end is the same everywhere and is kept once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Spectrogram {
    pub bins: usize,
    /// `[bins, frames]`.
    pub values: Vec<f32>,
    /// In every bin of every frame behind them.
    pub rest: f32,
}

impl Spectrogram {
    /// Appends it to `values`, filled up to so many frames or cut to them, `[bins, frames]`.
    pub fn fill(&self, frames: usize, values: &mut Vec<f32>) {
        let own = self.values.len() / self.bins.max(1);
        for bin in 0..self.bins {
            values.extend(&self.values[bin * own..bin * own + own.min(frames)]);
            values.extend(std::iter::repeat_n(self.rest, frames.saturating_sub(own)));
        }
    }
}

/// One split: images, texts or sounds, of one kind only.
#[derive(Clone, Debug, Default)]
pub struct Samples {
    /// Side of the images, in pixels; 0 where there are none.
    pub side: usize,
    /// RGB bytes, row by row: `pixels[n][y][x][c]`. Of images that come decoded; those in files are `pictures`.
    pub pixels: Vec<u8>,
    /// Images in files, decoded when they are asked for.
    pub pictures: Vec<Arc<Picture>>,
    /// As they were read, until the network's tokenizer has made `tokens` of them.
    pub texts: Vec<Text>,
    pub tokens: Vec<Tokens>,
    /// Mono sounds at 16 kHz, from -1 to 1, until the network's front end has made `spectrograms` of them.
    pub sounds: Vec<Vec<f32>>,
    pub spectrograms: Vec<Spectrogram>,
    pub labels: Vec<u32>,
    /// Index into `Described::domains`, one a sample.
    pub domains: Vec<u16>,
    /// Index into `Described::tasks`, one a sample.
    pub tasks: Vec<u16>,
    /// How good each sample is, in the data set's own measure; empty where it gives no such score.
    pub quality: Vec<f32>,
}

impl Samples {
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The bytes of image `n`, `[side, side, 3]`.
    ///
    /// # Errors
    /// When its file cannot be read any more.
    pub fn image(&self, n: usize) -> anyhow::Result<Cow<'_, [u8]>> {
        if !self.pictures.is_empty() {
            return self.pictures[n].bytes();
        }
        let size = self.side * self.side * 3;
        Ok(Cow::Borrowed(&self.pixels[n * size..(n + 1) * size]))
    }

    /// Whether one of these images has to be decoded before it can be had.
    pub fn decodes(&self, picked: &[usize]) -> bool {
        !self.pictures.is_empty() && picked.iter().any(|n| !self.pictures[*n].is_kept())
    }

    /// The different captions of images with these numbers, each as the first of them that has it, in the order in which they come; and
    /// which of these each image has. The label of an image with a caption is the caption's number in its split.
    pub fn captions_of(&self, picked: &[usize]) -> (Vec<usize>, Vec<u32>) {
        let (mut numbers, mut different) = (BTreeMap::new(), vec![]);
        let of = |n: &usize| {
            *numbers.entry(self.labels[*n]).or_insert_with(|| {
                different.push(*n);
                different.len() as u32 - 1
            })
        };
        let of = picked.iter().map(of).collect();
        (different, of)
    }

    /// The tasks of the samples with these numbers.
    pub fn tasks_of(&self, picked: &[usize]) -> Vec<u16> {
        picked.iter().map(|n| self.tasks[*n]).collect()
    }

    /// The quality scores of the samples with these numbers; empty where there are none.
    pub fn quality_of(&self, picked: &[usize]) -> Vec<f32> {
        if self.quality.is_empty() { vec![] } else { picked.iter().map(|n| self.quality[*n]).collect() }
    }

    /// Adds a sample of the first task.
    pub fn push(&mut self, image: &[u8], label: u32, domain: u16) {
        self.push_of(0, image, label, domain);
    }

    /// Adds a sample of task number `task`.
    pub fn push_of(&mut self, task: u16, image: &[u8], label: u32, domain: u16) {
        self.pixels.extend_from_slice(image);
        self.labels.push(label);
        self.domains.push(domain);
        self.tasks.push(task);
    }

    /// Adds an image that is in a file.
    pub fn push_picture(&mut self, picture: Arc<Picture>, label: u32, domain: u16) {
        self.pictures.push(picture);
        self.push(&[], label, domain);
    }

    /// Adds a text.
    pub fn push_text(&mut self, text: Text, label: u32, domain: u16) {
        self.texts.push(text);
        self.labels.push(label);
        self.domains.push(domain);
        self.tasks.push(0);
    }

    /// Adds a sound.
    pub fn push_sound(&mut self, sound: Vec<f32>, label: u32, domain: u16) {
        self.sounds.push(sound);
        self.labels.push(label);
        self.domains.push(domain);
        self.tasks.push(0);
    }

    /// Every image at another side, in pixels: bicubic, with the average of what a pixel covers where it gets smaller. Those in files
    /// are made of their files anew.
    pub fn resize(&mut self, side: usize) -> anyhow::Result<()> {
        if side == self.side || (self.pixels.is_empty() && self.pictures.is_empty()) {
            return Ok(());
        }
        if !self.pictures.is_empty() {
            self.pictures.iter_mut().for_each(|picture| *picture = picture.at(side));
            self.side = side;
            return Ok(());
        }
        let (from, to) = (u32::try_from(self.side)?, u32::try_from(side)?);
        let mut pixels = Vec::with_capacity(self.len() * side * side * 3);
        for n in 0..self.len() {
            let image = image::RgbImage::from_raw(from, from, self.image(n)?.into_owned()).context("an image of another size")?;
            pixels.extend_from_slice(&image::imageops::resize(&image, to, to, image::imageops::FilterType::CatmullRom));
        }
        self.pixels = pixels;
        self.side = side;
        Ok(())
    }

    /// The first `n` samples (the files are shuffled once, when they are made).
    pub fn truncate(&mut self, n: usize) {
        let n = n.min(self.len());
        self.pixels.truncate(n * self.side * self.side * 3);
        self.pictures.truncate(n);
        self.texts.truncate(n);
        self.tokens.truncate(n);
        self.sounds.truncate(n);
        self.spectrograms.truncate(n);
        self.labels.truncate(n);
        self.domains.truncate(n);
        self.tasks.truncate(n);
        self.quality.truncate(n);
    }

    /// Adds all samples of `other`, which are of the same kind and size and have quality scores where these have them.
    pub fn append(&mut self, other: &mut Samples) {
        self.pixels.append(&mut other.pixels);
        self.pictures.append(&mut other.pictures);
        self.texts.append(&mut other.texts);
        self.tokens.append(&mut other.tokens);
        self.sounds.append(&mut other.sounds);
        self.spectrograms.append(&mut other.spectrograms);
        self.labels.append(&mut other.labels);
        self.domains.append(&mut other.domains);
        self.tasks.append(&mut other.tasks);
        self.quality.append(&mut other.quality);
    }
}

/// A data set, ready to train on.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    pub train: Samples,
    pub test: Samples,
    /// How many training and test samples there are, where only some of them were wanted.
    pub of: Option<[usize; 2]>,
    /// What the person should know: what was left out, and why.
    pub notes: Vec<String>,
}

impl Loaded {
    pub fn new(train: Samples, test: Samples) -> Loaded {
        Loaded { train, test, of: None, notes: vec![] }
    }

    /// Training and test samples of the data set.
    pub fn counts(&self) -> [usize; 2] {
        self.of.unwrap_or([self.train.len(), self.test.len()])
    }
}
