//! Data sets: where samples come from. To add one: a new file here with a `CARD`, then two lines below
//! (`mod` and `CATALOG`). Plain bytes and labels; knows no tensors and no window.

pub mod digits;
pub mod emoji;
pub mod paint;
pub mod shapes;
pub mod sheet;
pub mod three_tasks;
pub mod unknown;

use anyhow::Context;

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
    /// The class names, known without reading the data, in label order.
    pub classes: &'static [&'static str],
    /// The domains a sample may come from (vendors' styles, say); one name where there is only one.
    pub domains: &'static [&'static str],
    /// The tasks that it mixes; one where there is only one. Together they have every class once, in label order.
    pub tasks: &'static [Task],
    /// Reads (or draws) the samples. `seed` is the session's. Settings are already checked and filled.
    pub load: fn(&Settings, seed: u64) -> anyhow::Result<Loaded>,
}

pub const CATALOG: &[&Card] = &[&digits::CARD, &emoji::CARD, &shapes::CARD, &three_tasks::CARD];

/// Of what is offered, and of `unknown`, which is not: it is what the session of an imported adapter says.
pub fn find(name: &str) -> Option<&'static Card> {
    CATALOG.iter().copied().chain([&unknown::CARD]).find(|card| card.name == name)
}

/// The class names of a session's data set, in label order; none where there is no such data set.
pub fn classes(choice: &Choice) -> Vec<String> {
    match find(&choice.name) {
        Some(card) if card.name == unknown::CARD.name => unknown::classes(&choice.settings),
        Some(card) => card.classes.iter().map(|name| (*name).to_owned()).collect(),
        None => vec![],
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

/// One split: images or texts, never both.
#[derive(Clone, Debug, Default)]
pub struct Samples {
    /// Side of the images, in pixels; 0 where there are none.
    pub side: usize,
    /// RGB bytes, row by row: `pixels[n][y][x][c]`.
    pub pixels: Vec<u8>,
    /// As they were read, until the network's tokenizer has made `tokens` of them.
    pub texts: Vec<Text>,
    pub tokens: Vec<Tokens>,
    pub labels: Vec<u32>,
    /// Index into `Card::domains`, one a sample.
    pub domains: Vec<u16>,
    /// Index into `Card::tasks`, one a sample.
    pub tasks: Vec<u16>,
}

impl Samples {
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The bytes of image `n`, `[side, side, 3]`.
    pub fn image(&self, n: usize) -> &[u8] {
        let size = self.side * self.side * 3;
        &self.pixels[n * size..(n + 1) * size]
    }

    /// The tasks of the samples with these numbers.
    pub fn tasks_of(&self, picked: &[usize]) -> Vec<u16> {
        picked.iter().map(|n| self.tasks[*n]).collect()
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

    /// Adds a text.
    pub fn push_text(&mut self, text: Text, label: u32, domain: u16) {
        self.texts.push(text);
        self.labels.push(label);
        self.domains.push(domain);
        self.tasks.push(0);
    }

    /// Every image at another side, in pixels: bicubic, with the average of what a pixel covers where it gets smaller.
    pub fn resize(&mut self, side: usize) -> anyhow::Result<()> {
        if side == self.side || self.pixels.is_empty() {
            return Ok(());
        }
        let (from, to) = (u32::try_from(self.side)?, u32::try_from(side)?);
        let mut pixels = Vec::with_capacity(self.len() * side * side * 3);
        for n in 0..self.len() {
            let image = image::RgbImage::from_raw(from, from, self.image(n).to_vec()).context("an image of another size")?;
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
        self.texts.truncate(n);
        self.tokens.truncate(n);
        self.labels.truncate(n);
        self.domains.truncate(n);
        self.tasks.truncate(n);
    }

    /// Adds all samples of `other`, which are of the same size.
    pub fn append(&mut self, other: &mut Samples) {
        self.pixels.append(&mut other.pixels);
        self.texts.append(&mut other.texts);
        self.tokens.append(&mut other.tokens);
        self.labels.append(&mut other.labels);
        self.domains.append(&mut other.domains);
        self.tasks.append(&mut other.tasks);
    }
}

/// A data set, ready to train on.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    pub train: Samples,
    pub test: Samples,
}
