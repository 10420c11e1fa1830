//! Sample pictures of the chosen data set, loaded by a thread of their own and kept as textures.
//! Called by the left panel; `poll` is called once a frame.
//! Must not train or change anything; it reads the catalogue's loader only.

use crossbeam_channel::{Receiver, bounded};
use eframe::egui::{self, ColorImage, TextureHandle, TextureOptions};

use crate::datasets;
use crate::session::settings::Settings;
use crate::session::{Choice, Session};

/// Tiles shown.
pub const TILES: usize = 18;

/// What decides which pictures there are.
#[derive(Clone, PartialEq)]
struct Key {
    data: Choice,
    seed: u64,
}

struct Picture {
    image: ColorImage,
    label: usize,
}

struct Answer {
    pictures: Vec<Picture>,
    train: usize,
    test: usize,
}

pub struct Tile {
    pub texture: TextureHandle,
    /// Class name.
    pub label: String,
}

/// The pictures of the data set as it was last loaded.
#[derive(Default)]
pub struct Thumbnails {
    pub tiles: Vec<Tile>,
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

    /// Takes in what was loaded, and loads anew when the session's data set changed.
    pub fn poll(&mut self, ctx: &egui::Context, session: &Session) {
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
        let key = Key { data: session.data.clone(), seed: session.seed };
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
        let seed = key.seed;
        let (sender, receiver) = bounded(1);
        let ctx = ctx.clone();
        let thread = std::thread::Builder::new().name("petl-samples".into()).spawn(move || {
            let answer = (card.load)(&settings, seed).map(|loaded| pick(&loaded)).map_err(|error| format!("{error:#}"));
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
        self.fault = None;
        match answer {
            Err(words) => self.fault = Some(words),
            Ok(answer) => {
                (self.train, self.test) = (answer.train, answer.test);
                let classes = self.key.as_ref().and_then(|k| datasets::find(&k.data.name)).map_or(&[][..], |card| card.classes);
                for (n, picture) in answer.pictures.into_iter().enumerate() {
                    let texture = ctx.load_texture(format!("sample {n}"), picture.image, TextureOptions::LINEAR);
                    let label = classes.get(picture.label).map_or_else(|| picture.label.to_string(), |name| (*name).to_owned());
                    self.tiles.push(Tile { texture, label });
                }
            }
        }
    }
}

/// Pictures spread over the training set.
fn pick(loaded: &datasets::Loaded) -> Answer {
    let train = &loaded.train;
    let count = train.len().min(TILES);
    let pictures = (0..count)
        .map(|k| {
            let n = k * train.len() / count.max(1);
            Picture { image: ColorImage::from_rgb([train.side, train.side], train.image(n)), label: train.labels[n] as usize }
        })
        .collect();
    Answer { pictures, train: train.len(), test: loaded.test.len() }
}
