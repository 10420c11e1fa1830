//! Methods: what may be placed on the drawing. To add one: a new file here with a `CARD` and a `Method`, then two plain
//! lines below (`mod` and `CATALOG`). A method owns no tensors: it declares parameters, the bag holds them.

pub mod bitfit;
pub mod bottleneck;
pub mod full;
pub mod ia3;
pub mod lora;
pub mod lst;
pub mod parts;
pub mod prefix;
pub mod prompt;

use burn::tensor::Tensor;

use crate::engine::bag::At;
use crate::plan::anatomy::{Anatomy, Door, Role, Site};
use crate::session::settings::{Field, Settings};

pub const CATALOG: &[&Card] =
    &[&lora::CARD, &bottleneck::CARD, &prompt::CARD, &prefix::CARD, &ia3::CARD, &bitfit::CARD, &lst::CARD, &full::CARD];

pub fn find(name: &str) -> Option<&'static Card> {
    CATALOG.iter().copied().find(|card| card.name == name)
}

/// The family decides the colour, in the palette, the grid, the plots and the table alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    LowRank,
    Adapter,
    Prompt,
    Prefix,
    Select,
    Scale,
    Side,
    Full,
}

/// A ready group of settings under the name the field knows it by.
pub struct Variant {
    pub title: &'static str,
    pub help: &'static str,
    pub roles: &'static [Role],
    /// `name = value`, as in a session file.
    pub settings: &'static [(&'static str, &'static str)],
}

/// What the catalogue says of a method; the form, the hover text, the command line and the manual print it.
pub struct Card {
    pub name: &'static str,
    pub title: &'static str,
    pub family: Family,
    /// One sentence.
    pub help: &'static str,
    /// The formula, in the paper's letters.
    pub formula: &'static str,
    /// Trainable parameters of one placement, in words.
    pub count: &'static str,
    /// Authors, title, year.
    pub paper: &'static str,
    pub year: u16,
    /// When it fails, or what to watch.
    pub caution: &'static str,
    pub licence: &'static str,
    pub fields: &'static [Field],
    pub variants: &'static [Variant],
    /// Roles at which it can stand, and where a click on the card puts it.
    pub roles: &'static [Role],
    pub default_roles: &'static [Role],
    /// The first forward pass gives the frozen network's output.
    pub identity_at_start: bool,
    /// The trained change can be folded into the backbone's weights.
    pub folds: bool,
    pub method: &'static dyn Method,
}

/// How a parameter starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    Zeros,
    Ones,
    Constant(f64),
    /// Mean 0 and this standard deviation.
    Normal(f64),
    /// Uniform in `[-bound, bound]`.
    Uniform(f64),
    /// A copy of the site's frozen part of this name.
    Frozen(&'static str),
}

/// One trainable matrix `[rows, cols]`; a vector is one row.
#[derive(Clone, Debug, PartialEq)]
pub struct ParamSpec {
    pub name: String,
    pub rows: usize,
    pub cols: usize,
    pub init: Init,
}

impl ParamSpec {
    pub fn new(name: impl Into<String>, rows: usize, cols: usize, init: Init) -> ParamSpec {
        ParamSpec { name: name.into(), rows, cols, init }
    }

    pub fn count(&self) -> usize {
        self.rows * self.cols
    }
}

/// A method at one site and one door, with the parameters it needs there.
#[derive(Clone, Debug, PartialEq)]
pub struct Placement {
    pub site: String,
    pub door: Door,
    /// The parameters live under this site's name; placements of one method at one site share them.
    pub params: Vec<ParamSpec>,
    /// Multiply-adds a sample that this placement adds to the forward pass.
    pub macs: usize,
    /// Numbers a sample that this placement keeps for the backward pass, beside what the trunk keeps.
    pub kept: usize,
}

impl Placement {
    pub fn new(site: &Site, door: Door, params: Vec<ParamSpec>) -> Placement {
        Placement { site: site.path.clone(), door, params, macs: 0, kept: 0 }
    }

    pub fn costs(mut self, macs: usize, kept: usize) -> Placement {
        self.macs = macs;
        self.kept = kept;
        self
    }
}

/// One method. `plan` is data only and runs on every edit; the other functions are the doors, called by the `Tuner` at
/// the placements that `plan` declared. Activations are `[batch, positions, channels]`.
pub trait Method: Sync {
    /// Where it stands and what it needs, or why it cannot. `set` holds every field of the card.
    fn plan(&self, anatomy: &Anatomy, sites: &[&Site], set: &Settings) -> Result<Vec<Placement>, String>;

    /// Door `Weight`: the frozen `part` of the site as it shall be used, `[rows, cols]`.
    fn weight(&self, _at: &At, _part: &str, w: Tensor<2>) -> Tensor<2> {
        w
    }

    /// Door `Before`.
    fn before(&self, _at: &At, x: Tensor<3>) -> Tensor<3> {
        x
    }

    /// Doors `After` and `Extend`: `x` entered the site, `y` leaves it.
    fn after(&self, _at: &At, _x: &Tensor<3>, y: Tensor<3>) -> Tensor<3> {
        y
    }

    /// Door `Readout`: `taps[0]` is the embedding, `taps[i]` the output of block i; the answer takes the place of `y`,
    /// the trunk's normed output.
    fn readout(&self, _at: &At, _taps: &[Tensor<3>], y: Tensor<3>) -> Tensor<3> {
        y
    }

    /// The frozen `part` with the trained change folded in; only asked where the card says `folds`.
    fn fold(&self, at: &At, part: &str, w: Tensor<2>) -> Tensor<2> {
        self.weight(at, part, w)
    }
}
