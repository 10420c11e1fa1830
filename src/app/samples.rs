//! Sample pictures of the chosen data set, loaded by a thread of their own and kept as textures.
//! Called by the left panel; `poll` is called once a frame.
//! Must not train or change anything; it reads the catalogue's loader only.

use crossbeam_channel::{Receiver, bounded};
use eframe::egui::{self, ColorImage, TextureHandle, TextureOptions};

use crate::datasets::{self, Wanted};
use crate::plan::anatomy::Anatomy;
use crate::session::settings::Settings;
use crate::session::{Choice, Session};

/// Tiles shown.
pub const TILES: usize = 18;
/// Texts shown.
const TEXTS: usize = 6;

/// What decides which pictures there are.
#[derive(Clone, PartialEq)]
struct Key {
    data: Choice,
    seed: u64,
    /// Side of the images that the network takes; 0 where it takes texts.
    side: usize,
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
        let key = Key { data: session.data.clone(), seed: session.seed, side: anatomy.side() };
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
        let (choice, seed) = (key.data.clone(), key.seed);
        let wanted = Wanted { side: key.side, at_most: TILES };
        let (sender, receiver) = bounded(1);
        let ctx = ctx.clone();
        let thread = std::thread::Builder::new().name("petl-samples".into()).spawn(move || {
            let answer = datasets::describe(&choice).and_then(|described| {
                let loaded = (card.load)(&settings, seed, &wanted).map_err(|error| format!("{error:#}"))?;
                Ok(pick(&loaded, described.classes))
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

/// Samples spread over the training set.
fn pick(loaded: &datasets::Loaded, classes: Vec<String>) -> Answer {
    let train = &loaded.train;
    let spread = |most: usize| {
        let count = train.len().min(most);
        (0..count).map(move |k| k * train.len() / count)
    };
    let label = |n: usize| train.labels[n] as usize;
    let picture = |n| Picture { image: ColorImage::from_rgb([train.side, train.side], train.image(n)), label: label(n) };
    let text = |n: usize| {
        let text = &train.texts[n];
        let words = [Some(&text.first), text.second.as_ref()].into_iter().flatten().map(String::as_str).collect::<Vec<_>>();
        (words.join("  |  "), label(n))
    };
    let (pictures, texts) = match train.texts.is_empty() {
        true => (spread(TILES).map(picture).collect(), vec![]),
        false => (vec![], spread(TEXTS).map(text).collect()),
    };
    Answer { pictures, texts, counts: loaded.counts(), notes: loaded.notes.clone(), classes }
}
