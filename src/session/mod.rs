//! A session: what the person wants. Plain serde data, read from and written to `*.petl.toml`.
//! Changed only by `edit`; undone by `history`; read and written by `file`, its unsaved edits by `side`. Knows no tensors, no window, no threads.

pub mod command;
pub mod edit;
pub mod file;
pub mod history;
pub mod place;
pub mod presets;
pub mod recipe;
pub mod settings;
pub mod side;

use serde::{Deserialize, Serialize};

pub use place::Place;
pub use settings::{Settings, Value};

/// Version of the session file format that this program writes and reads.
pub const VERSION: u32 = 1;

/// One whole session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Session {
    /// Version of the file format.
    pub petl: u32,
    pub title: String,
    /// Seed of parameters, shuffling and dropout.
    #[serde(default)]
    pub seed: u64,
    /// `auto`, `cpu`, or a device's name as `petl list devices` prints it.
    #[serde(default = "auto")]
    pub device: String,
    pub backbone: Choice,
    pub data: Choice,
    #[serde(default = "classify")]
    pub task: Choice,
    #[serde(default)]
    pub recipe: Recipe,
    /// The stack, in the order in which the methods act. Empty: a linear probe.
    #[serde(default)]
    pub methods: Vec<Placed>,
}

impl Session {
    /// The same wishes: what a pattern stood for when a file was last saved does not count.
    pub fn same_as(&self, other: &Session) -> bool {
        let bare = |session: &Session| {
            let mut session = session.clone();
            session.methods.iter_mut().for_each(|placed| placed.resolved.clear());
            session
        };
        bare(self) == bare(other)
    }
}

fn auto() -> String {
    "auto".to_owned()
}

fn classify() -> Choice {
    Choice::named("classify")
}

/// A catalogue entry and its settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Choice {
    pub name: String,
    #[serde(default, skip_serializing_if = "is_empty")]
    pub settings: Settings,
}

impl Choice {
    pub fn named(name: &str) -> Choice {
        Choice { name: name.to_owned(), settings: Settings::default() }
    }
}

fn is_empty(settings: &Settings) -> bool {
    settings.0.is_empty()
}

/// One method of the stack, where it stands, and its settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Placed {
    pub name: String,
    pub place: Place,
    #[serde(default, skip_serializing_if = "is_empty")]
    pub settings: Settings,
    /// Multiplies the recipe's learning rate for this method's parameters.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub learning_rate_factor: f64,
    /// The sites the pattern stood for when the file was last saved. Written for the reader; never read back as a choice.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resolved: Vec<String>,
}

fn one() -> f64 {
    1.0
}

fn is_one(v: &f64) -> bool {
    *v == 1.0
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Optimizer {
    AdamW,
    Sgd,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    Cosine,
    Constant,
}

/// How to train: the supervised recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Recipe {
    pub optimizer: Optimizer,
    pub learning_rate: f64,
    pub schedule: Schedule,
    /// Part of all steps in which the learning rate rises from 0, 0 to 1.
    pub warm_up: f64,
    /// Decoupled weight decay; not applied to vectors (biases, norms, scales).
    pub weight_decay: f64,
    /// SGD only.
    pub momentum: f64,
    pub label_smoothing: f64,
    /// Largest global gradient norm; 0 switches clipping off.
    pub clip_norm: f64,
    pub batch_size: usize,
    pub epochs: usize,
    /// Mirror images left to right, half of the time.
    pub flip: bool,
    /// Shift images by up to this many pixels (padded with the border's colour).
    pub crop: usize,
    /// Read the loss back every this many steps.
    pub report_every: usize,
}

impl Default for Recipe {
    fn default() -> Recipe {
        Recipe {
            optimizer: Optimizer::AdamW,
            learning_rate: 1e-3,
            schedule: Schedule::Cosine,
            warm_up: 0.1,
            weight_decay: 0.01,
            momentum: 0.9,
            label_smoothing: 0.0,
            clip_norm: 1.0,
            batch_size: 32,
            epochs: 6,
            flip: false,
            crop: 0,
            report_every: 4,
        }
    }
}
