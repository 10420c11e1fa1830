//! Samples of the chosen data set, loaded by a thread of their own: pictures, and spectrograms as the network gets them, as textures;
//! texts as they are.
//! Called by the left panel; `poll` is called once a frame. Must not train or change anything; it reads the catalogues only.

use anyhow::Result;
use crossbeam_channel::{Receiver, bounded};
use eframe::egui::{self, ColorImage, TextureHandle, TextureOptions};

use crate::backbones;
use crate::datasets::{self, Loaded, Spectrogram, Wanted, log_mel};
use crate::plan::anatomy::{Anatomy, Entry, Front};
use crate::session::settings::Settings;
use crate::session::{Choice, Session};

/// Tiles shown.
pub const TILES: usize = 18;
/// Texts and sounds shown.
const TEXTS: usize = 6;
const SOUNDS: usize = 6;
/// Bins and frames of sounds that the network does not hear.
const UNHEARD: [usize; 2] = [80, 300];
/// Side of a texture that every graphics card takes, in pixels.
const WIDEST: usize = 2048;

/// What decides which pictures there are.
#[derive(Clone, PartialEq)]
struct Key {
    data: Choice,
    seed: u64,
    /// Side of the images that the network takes; 0 where it takes none.
    side: usize,
    /// The network that hears, and how much of a sound.
    ear: Option<Choice>,
    heard: usize,
}

struct Picture {
    image: ColorImage,
    label: usize,
}

struct Answer {
    pictures: Vec<Picture>,
    texts: Vec<(String, usize)>,
    counts: [usize; 2],
    notes: Vec<String>,
    classes: Vec<String>,
    are_sounds: bool,
}

pub struct Tile {
    pub texture: TextureHandle,
    /// Class name.
    pub label: String,
}

/// The samples of the data set as it was last loaded.
#[derive(Default)]
pub struct Thumbnails {
    pub tiles: Vec<Tile>,
    /// Texts instead, each with its class name.
    pub texts: Vec<(String, String)>,
    /// The tiles are spectrograms: wide ones.
    pub are_sounds: bool,
    /// What the loader has to say.
    pub notes: Vec<String>,
    pub train: usize,
    pub test: usize,
    /// Why there are none.
    pub fault: Option<String>,
    key: Option<Key>,
    loading: Option<Receiver<Result<Answer, String>>>,
}

impl Thumbnails {
    pub fn is_loading(&self) -> bool {
        self.loading.is_some()
    }

    pub fn is_empty(&self) -> bool {
        self.tiles.is_empty() && self.texts.is_empty()
    }

    /// Takes in what was loaded, and loads anew when the session's data set changed.
    pub fn poll(&mut self, ctx: &egui::Context, session: &Session, anatomy: &Anatomy) {
        if let Some(receiver) = &self.loading {
            match receiver.try_recv() {
                Ok(answer) => {
                    self.take_in(ctx, answer);
                    self.loading = None;
                }
                Err(crossbeam_channel::TryRecvError::Empty) => return,
                Err(crossbeam_channel::TryRecvError::Disconnected) => {
                    self.fault = Some("Reading the samples ended early; see the data set's settings.".into());
                    self.loading = None;
                }
            }
        }
        let ear = matches!(anatomy.entry, Entry::Sound { .. }).then(|| session.backbone.clone());
        let key = Key { data: session.data.clone(), seed: session.seed, side: anatomy.side(), ear, heard: anatomy.heard() };
        if self.key.as_ref() != Some(&key) {
            self.load(ctx, key);
        }
    }

    fn load(&mut self, ctx: &egui::Context, key: Key) {
        let Some(card) = datasets::find(&key.data.name) else {
            self.fault = Some("There is no such data set.".into());
            self.key = Some(key);
            return;
        };
        let settings: Settings = key.data.settings.filled(card.fields);
        let (choice, seed, ear) = (key.data.clone(), key.seed, key.ear.clone());
        let wanted = Wanted { side: key.side, at_most: TILES, heard: key.heard };
        let (sender, receiver) = bounded(1);
        let ctx = ctx.clone();
        let thread = std::thread::Builder::new().name("petl-samples".into()).spawn(move || {
            let answer = datasets::describe(&choice).and_then(|described| {
                let mut loaded = (card.load)(&settings, seed, &wanted).map_err(|error| format!("{error:#}"))?;
                let frames = hear(&mut loaded, ear.as_ref())?;
                pick(&loaded, frames, described.classes).map_err(|error| format!("{error:#}"))
            });
            let _ = sender.send(answer);
            ctx.request_repaint();
        });
        self.key = Some(key);
        match thread {
            Ok(_) => self.loading = Some(receiver),
            Err(error) => self.fault = Some(format!("Cannot start a thread to read samples: {error}")),
        }
    }

    fn take_in(&mut self, ctx: &egui::Context, answer: Result<Answer, String>) {
        self.tiles.clear();
        self.texts.clear();
        self.notes.clear();
        self.fault = None;
        match answer {
            Err(words) => self.fault = Some(words),
            Ok(answer) => {
                [self.train, self.test] = answer.counts;
                self.notes = answer.notes;
                self.are_sounds = answer.are_sounds;
                let name = |label: usize| answer.classes.get(label).cloned().unwrap_or_else(|| label.to_string());
                self.texts = answer.texts.into_iter().map(|(text, label)| (text, name(label))).collect();
                for (n, picture) in answer.pictures.into_iter().enumerate() {
                    let texture = ctx.load_texture(format!("sample {n}"), picture.image, TextureOptions::LINEAR);
                    self.tiles.push(Tile { texture, label: name(picture.label) });
                }
            }
        }
    }
}

/// Makes spectrograms of sounds, as the network `ear` gets them; how many frames it gets.
fn hear(loaded: &mut Loaded, ear: Option<&Choice>) -> Result<usize, String> {
    let fault = |fault| format!("{fault:#}");
    let (train, [bins, frames]) = (&mut loaded.train, UNHEARD);
    let Some(ear) = ear.filter(|_| !train.sounds.is_empty()) else {
        log_mel::prepare(train, Front::Whisper, bins, frames).map_err(fault)?;
        return Ok(frames);
    };
    let opened = backbones::open(ear)?;
    (opened.prepare)(train).map_err(fault)?;
    match opened.network.anatomy().entry {
        Entry::Sound { frames, .. } => Ok(frames),
        _ => Err("the backbone hears no sounds".to_owned()),
    }
}

/// A spectrogram from its quietest number to its loudest, in grey, low tones at the bottom. Where there are more frames than a texture
/// has columns, some become one.
fn drawn(spectrogram: &Spectrogram, frames: usize) -> ColorImage {
    let mut values = Vec::new();
    spectrogram.fill(frames, &mut values); // [bins, frames]
    let (low, high) = values.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), v| (low.min(*v), high.max(*v)));
    let grey = |some: &[f32]| {
        let mean = some.iter().sum::<f32>() / some.len() as f32;
        ((mean - low) / (high - low).max(f32::EPSILON) * 255.0) as u8
    };
    let at_once = frames.div_ceil(WIDEST).max(1);
    let rows = values.chunks(frames.max(1)).rev().flat_map(|row| row.chunks(at_once).map(grey).collect::<Vec<_>>());
    ColorImage::from_gray([frames.div_ceil(at_once), spectrogram.bins], &rows.collect::<Vec<_>>())
}

/// Samples spread over the training set.
fn pick(loaded: &Loaded, frames: usize, classes: Vec<String>) -> Result<Answer> {
    let train = &loaded.train;
    let spread = |most: usize| {
        let count = train.len().min(most);
        (0..count).map(move |k| k * train.len() / count)
    };
    let label = |n: usize| train.labels[n] as usize;
    let sound = |n: usize| Picture { image: drawn(&train.spectrograms[n], frames), label: label(n) };
    let picture = |n| {
        let image = ColorImage::from_rgb([train.side, train.side], &train.image(n)?);
        Ok(Picture { image, label: label(n) })
    };
    let text = |n: usize| {
        let text = &train.texts[n];
        let words = [Some(&text.first), text.second.as_ref()].into_iter().flatten().map(String::as_str).collect::<Vec<_>>();
        (words.join("  |  "), label(n))
    };
    let are_sounds = !train.spectrograms.is_empty();
    let captioned = train.side > 0 && !train.texts.is_empty();
    let classes = match captioned {
        true => {
            let all: Vec<usize> = (0..train.len()).collect();
            train.captions_of(&all).0.into_iter().map(|n| train.texts[n].first.clone()).collect()
        }
        false => classes,
    };
    let (pictures, texts) = match () {
        () if are_sounds => (spread(SOUNDS).map(sound).collect(), vec![]),
        () if train.side > 0 => (spread(TILES).map(picture).collect::<Result<_>>()?, vec![]),
        () => (vec![], spread(TEXTS).map(text).collect()),
    };
    Ok(Answer { pictures, texts, counts: loaded.counts(), notes: loaded.notes.clone(), classes, are_sounds })
}
