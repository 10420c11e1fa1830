//! Backbones: the frozen networks. To add one: a new file here with a `CARD` and a `Backbone`, then two plain lines below
//! (`mod` and `CATALOG`). A backbone owns no tensors: it declares its anatomy and its forward pass; `weights` and `folder` load.

pub mod ast;
pub mod bend;
pub mod bert;
pub mod clip;
mod dialects;
pub mod folder;
pub mod gguf;
pub mod gpt2;
pub mod llama;
pub mod names;
pub mod positions;
pub mod rotary;
pub mod stored;
pub mod swin;
pub mod t5;
pub mod tensors;
pub mod vit;
pub mod weights;
pub mod whisper;
pub mod words;

use std::path::Path;
use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use serde_json::Value as Json;

use crate::datasets::Samples;
use crate::engine::bag::Weights;
use crate::engine::tuner::Tuner;
use crate::plan::anatomy::Anatomy;
use crate::session::Choice;
use crate::session::settings::{Field, Settings, Value};
use folder::Folder;

pub const CATALOG: &[&Card] = &[
    &vit::TINY_32,
    &vit::FOLDER,
    &swin::FOLDER,
    &bert::FOLDER,
    &llama::FOLDER,
    &gpt2::FOLDER,
    &gpt2::CLIP,
    &clip::FOLDER,
    &t5::FOLDER,
    &whisper::FOLDER,
    &ast::FOLDER,
];

pub fn find(name: &str) -> Option<&'static Card> {
    CATALOG.iter().copied().find(|card| card.name == name)
}

/// What the catalogue says of a backbone.
pub struct Card {
    pub name: &'static str,
    pub title: &'static str,
    pub help: &'static str,
    pub source: &'static str,
    pub licence: &'static str,
    pub fields: &'static [Field],
    /// What stands as `model_type` in the `config.json` of folders that it opens.
    pub model_types: &'static [&'static str],
    /// The network that these settings mean. `set` holds every field. Reads a configuration where there is one, never a tensor.
    pub open: fn(&Settings) -> Result<Opened, String>,
}

/// A network, and where its weights come from.
pub struct Opened {
    pub network: Arc<dyn Backbone>,
    pub weights: Box<Source>,
    pub prepare: Box<Prepare>,
}

/// Brings samples into the form that the network takes: images to its side, texts to its tokens, sounds to its spectrograms.
pub type Prepare = dyn Fn(&mut Samples) -> anyhow::Result<()> + Send + Sync;

/// Loads the frozen weights onto a device, one matrix for every part that the anatomy declares; the seed is for random ones.
pub type Source = dyn Fn(u64, &Device) -> anyhow::Result<Weights> + Send + Sync;

/// The settings of a backbone or a data set that name a file or a folder.
pub const PATHS: [&str; 3] = ["weights", "folder", "file"];
/// The setting of cards that open a model folder.
pub const FOLDER: &str = "folder";
/// The setting that says where the folder came from.
pub const SOURCE: Field = Field::text(
    "source",
    "",
    "Where the folder was fetched from: repository, commit and a hash over its files. Empty for folders of your own.",
);

/// One network.
pub trait Backbone: Send + Sync {
    /// Every site, without any weights.
    fn anatomy(&self) -> Anatomy;

    /// What enters, normalised as the network wants it, to the normed features `[batch, positions, width]`.
    fn forward(&self, t: &mut Tuner, input: Input) -> Tensor<3>;

    /// What the head reads `[batch, width]`, of the normed features.
    fn pool(&self, _t: &mut Tuner, features: Tensor<3>) -> Tensor<2> {
        features.narrow(1, 0, 1).squeeze_dim::<2>(1) // the class token
    }

    /// What the cosine of an image's embedding and a text's is multiplied by, `[1, 1]`; none in a network that does not embed both.
    fn scale(&self, _t: &mut Tuner) -> Option<Tensor<2>> {
        None
    }

    /// Its `config.json` for transformers, labels left out; none where transformers has no such network.
    fn config(&self) -> Option<Json> {
        None
    }
}

/// What enters a network.
#[derive(Clone)]
pub enum Input {
    /// `[batch, 3, side, side]`.
    Pixels(Tensor<4>),
    Text(Text),
    /// Log-mel spectrograms `[batch, bins, frames]`.
    Sound(Tensor<3>),
}

/// Tokens of texts that are filled up to one length, text after text.
#[derive(Clone, Debug)]
pub struct Text {
    pub length: usize,
    pub ids: Vec<u32>,
    /// Which segment a token belongs to, where there are two.
    pub kinds: Vec<u8>,
    /// False for padding.
    pub seen: Vec<bool>,
    pub device: Device,
}

impl Text {
    pub fn rows(&self) -> usize {
        self.ids.len() / self.length.max(1)
    }

    /// Where each text ends: its last token's row among all positions of the batch.
    pub fn ends(&self) -> Vec<i64> {
        let last = |seen: &[bool]| seen.iter().rposition(|seen| *seen).unwrap_or_default();
        self.seen.chunks(self.length.max(1)).enumerate().map(|(n, seen)| (n * self.length + last(seen)) as i64).collect()
    }

    /// 1 for tokens, 0 for padding, `[batch, length]`; none where no text is filled up.
    pub fn mask(&self) -> Option<Tensor<2>> {
        let values: Vec<f32> = self.seen.iter().map(|seen| f32::from(*seen)).collect();
        let mask = || Tensor::from_data(TensorData::new(values, [self.rows(), self.length]), &self.device);
        self.seen.contains(&false).then(mask)
    }
}

impl From<Tensor<4>> for Input {
    fn from(pixels: Tensor<4>) -> Input {
        Input::Pixels(pixels)
    }
}

impl Input {
    /// The pixels of a network that sees.
    ///
    /// # Panics
    /// When it is something else: the plan lets no data set through that does not fit the backbone.
    pub fn pixels(self) -> Tensor<4> {
        match self {
            Input::Pixels(pixels) => pixels,
            Input::Text(_) | Input::Sound(_) => panic!("a network that sees was given something else"),
        }
    }

    /// The tokens of a network that reads.
    ///
    /// # Panics
    /// As `pixels`.
    pub fn tokens(self) -> Text {
        match self {
            Input::Text(text) => text,
            Input::Pixels(_) | Input::Sound(_) => panic!("a network that reads was given something else"),
        }
    }

    /// The spectrograms of a network that hears.
    ///
    /// # Panics
    /// As `pixels`.
    pub fn spectrograms(self) -> Tensor<3> {
        match self {
            Input::Sound(spectrograms) => spectrograms,
            Input::Pixels(_) | Input::Text(_) => panic!("a network that hears was given something else"),
        }
    }
}

/// The network that a session chooses.
///
/// # Errors
/// In words, when the name is unknown or its folder cannot be opened.
pub fn open(choice: &Choice) -> Result<Opened, String> {
    let card = find(&choice.name).ok_or_else(|| {
        let names: Vec<_> = CATALOG.iter().map(|c| c.name).collect();
        format!("unknown backbone `{}`; one of: {}", choice.name, names.join(", "))
    })?;
    (card.open)(&choice.settings.filled(card.fields))
}

/// Makes the paths that `choice` names absolute: what a run keeps must mean the same from every folder.
pub fn settle(choice: &mut Choice) {
    for name in PATHS {
        let path = match choice.settings.0.get(name) {
            Some(Value::Text(path)) if !["", "pretrained", "random"].contains(&path.as_str()) => std::path::absolute(path).ok(),
            _ => None,
        };
        if let Some(path) = path.as_deref().and_then(Path::to_str) {
            choice.settings.set(name, Value::Text(path.to_owned()));
        }
    }
}

/// The choice that opens a model folder.
///
/// # Errors
/// In words, when the folder has no configuration, or one of a network that this program does not know.
pub fn of_folder(path: &Path) -> Result<Choice, String> {
    let Some(text) = path.to_str() else {
        return Err(format!("{} has a name that a session file cannot hold. Give the folder a name in Unicode", path.display()));
    };
    let folder = Folder::open(text)?;
    folder.has_tensors()?;
    let kind = folder.kind();
    let knows = |card: &&&Card| card.model_types.iter().any(|known| kind == *known || (*known == "timm" && folder.is_timm()));
    let Some(card) = CATALOG.iter().find(knows) else {
        let known: Vec<_> = CATALOG.iter().flat_map(|card| card.model_types).copied().collect();
        return Err(format!("{} is a folder of `{kind}`; this program opens {}", path.display(), known.join(", ")));
    };
    let mut choice = Choice::named(card.name);
    choice.settings.set(FOLDER, Value::Text(text.to_owned()));
    let source = crate::hub::source(path);
    if !source.is_empty() && card.fields.iter().any(|field| field.name == SOURCE.name) {
        choice.settings.set(SOURCE.name, Value::Text(source));
    }
    open(&choice)?;
    Ok(choice)
}
