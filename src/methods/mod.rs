//! Methods: what may be placed on the drawing. To add one: a new file here with a `CARD` and a `Method`, then two plain
//! lines below (`mod` and `CATALOG`). A method owns no tensors: it declares parameters, the bag holds them.

pub mod adalora;
pub mod bitfit;
pub mod boft;
pub mod bottleneck;
pub mod compacter;
pub mod conformer;
pub mod difffit;
pub mod dora;
pub mod fact;
pub mod full;
pub mod gps;
pub mod hyperformer;
pub mod ia3;
pub mod layernorm;
pub mod loha;
pub mod lokr;
pub mod lora;
pub mod lst;
pub mod ltsft;
pub mod oft;
pub mod padapter;
pub mod prefix;
pub mod prompt;
pub mod repadapter;
pub mod sct;
pub mod sparse;
pub mod ssf;
pub mod twin;
pub mod vera;
pub mod vlpet;

// No methods: what several share, or may. None of them knows a method.
pub mod budget;
pub mod cayley;
pub mod laplacian;
pub mod parts;
pub mod pissa;
pub mod sharing;

use burn::tensor::Tensor;

use crate::engine::bag::{At, Bag, Start};
use crate::plan::Member;
use crate::plan::anatomy::{Anatomy, Door, Role, Site};
use crate::session::settings::{Field, Settings};

pub const CATALOG: &[&Card] = &[
    &lora::CARD,
    &dora::CARD,
    &vera::CARD,
    &adalora::CARD,
    &loha::CARD,
    &lokr::CARD,
    &fact::CARD,
    &oft::CARD,
    &boft::CARD,
    &twin::CARD,
    &bottleneck::CARD,
    &compacter::CARD,
    &hyperformer::CARD,
    &vlpet::CARD,
    &conformer::CARD,
    &padapter::CARD,
    &repadapter::CARD,
    &sct::CARD,
    &prompt::CARD,
    &prefix::CARD,
    &ia3::CARD,
    &ssf::CARD,
    &difffit::CARD,
    &bitfit::CARD,
    &layernorm::CARD,
    &sparse::CARD,
    &gps::CARD,
    &ltsft::CARD,
    &lst::CARD,
    &full::CARD,
];

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

impl Family {
    /// In the order in which the palette shows them.
    pub const ALL: [Family; 8] = [
        Family::LowRank,
        Family::Adapter,
        Family::Prompt,
        Family::Prefix,
        Family::Scale,
        Family::Select,
        Family::Side,
        Family::Full,
    ];

    pub fn title(self) -> &'static str {
        match self {
            Family::LowRank => "Low rank",
            Family::Adapter => "Adapters",
            Family::Prompt => "Prompts",
            Family::Prefix => "Prefixes",
            Family::Select => "Chosen weights",
            Family::Scale => "Scales and shifts",
            Family::Side => "Side networks",
            Family::Full => "Whole network",
        }
    }
}

/// A ready group of settings under the name the field knows it by.
pub struct Variant {
    pub title: &'static str,
    pub help: &'static str,
    pub roles: &'static [Role],
    /// `name = value`, as in a session file.
    pub settings: &'static [(&'static str, &'static str)],
}

impl Variant {
    /// With the default settings.
    pub const fn new(title: &'static str, help: &'static str, roles: &'static [Role]) -> Variant {
        Variant { title, help, roles, settings: &[] }
    }

    pub const fn with(self, settings: &'static [(&'static str, &'static str)]) -> Variant {
        Variant { settings, ..self }
    }
}

/// A number of trainable parameters (without head) that the paper or its formula gives for ViT-B/16 at 224 pixels, or for a
/// network with the same blocks. `tests/laws.rs` holds the method to it, on a plan without weights.
pub struct Published {
    pub what: &'static str,
    pub roles: &'static [Role],
    /// `name = value`, as in a session file.
    pub settings: &'static [(&'static str, &'static str)],
    pub trainable: usize,
}

impl Published {
    /// With the default settings.
    pub const fn new(what: &'static str, roles: &'static [Role], trainable: usize) -> Published {
        Published { what, roles, settings: &[], trainable }
    }

    pub const fn with(self, settings: &'static [(&'static str, &'static str)]) -> Published {
        Published { settings, ..self }
    }
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
    /// The method beside the frozen network, in signs of one width: `█` frozen, `▒` trained.
    pub drawing: &'static str,
    /// Trainable parameters of one placement, in words.
    pub count: &'static str,
    /// Counts to which the laws hold it.
    pub published: &'static [Published],
    /// Authors, title, year.
    pub paper: &'static str,
    pub year: u16,
    /// The paper's learning rate for AdamW (or the nearest that it gives).
    pub learning_rate: f64,
    /// What the paper's own released code does otherwise than the paper, or than this program.
    pub released: &'static str,
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
    /// The trained change can be folded into the backbone's weights, except with settings that `Method::stays_beside` names.
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
    /// The method gives the values itself, in `Method::start`.
    Own,
}

/// Who shares a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// One for the placement's site.
    Site,
    /// One for all places of this entry of the stack. Declared once, by the first placement.
    Method,
}

/// One matrix `[rows, cols]` that a method needs; a vector is one row.
#[derive(Clone, Debug, PartialEq)]
pub struct ParamSpec {
    pub name: String,
    pub rows: usize,
    pub cols: usize,
    pub init: Init,
    pub scope: Scope,
    /// Otherwise it keeps its first value: a mask, a random projection.
    pub trainable: bool,
    /// Multiplies the learning rate (LoRA+).
    pub rate: f64,
    /// A bias, a norm, a scale: weight decay leaves it alone.
    pub vector: bool,
    /// One for each task of the data set. The plan puts them one under the other, `rows` rows each, in the order of the tasks.
    pub by_task: bool,
}

impl ParamSpec {
    /// One row is taken for a vector, more for a matrix.
    pub fn new(name: impl Into<String>, rows: usize, cols: usize, init: Init) -> ParamSpec {
        let (scope, vector) = (Scope::Site, rows == 1);
        ParamSpec { name: name.into(), rows, cols, init, scope, trainable: true, rate: 1.0, vector, by_task: false }
    }

    /// A matrix also where it has one row (a rank of 1, one prompt token): weight decay takes it like any other.
    pub fn matrix(self) -> ParamSpec {
        ParamSpec { vector: false, ..self }
    }

    /// Shared by all places of the method.
    pub fn shared(self) -> ParamSpec {
        ParamSpec { scope: Scope::Method, ..self }
    }

    /// One for each task of the data set: `At::of_task` gives that of one task.
    pub fn by_task(self) -> ParamSpec {
        ParamSpec { by_task: true, ..self }
    }

    /// Kept as it starts.
    pub fn constant(self) -> ParamSpec {
        ParamSpec { trainable: false, ..self }
    }

    /// Trained at `rate` times the learning rate.
    pub fn rate(self, rate: f64) -> ParamSpec {
        ParamSpec { rate, ..self }
    }

    pub fn size(&self) -> usize {
        self.rows * self.cols
    }

    /// Trainable parameters in it.
    pub fn count(&self) -> usize {
        if self.trainable { self.size() } else { 0 }
    }
}

/// What a method wants measured on training samples before it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// L2 norm of every channel that leaves the site, class token left out, mean over the classes: `d_out` numbers.
    OutputNorms,
    /// Size of the mean gradient of the site's frozen weight, row by row, under a loss that needs no head: `d_in · d_out`
    /// numbers.
    Gradients,
    /// What full fine-tuning of the placed sites for this many steps changed, part after part of the site, row by row.
    Changes { steps: usize },
}

impl Measure {
    /// It is measured on what samples make of the network, and not by training it.
    pub fn looks_at_samples(self) -> bool {
        !matches!(self, Measure::Changes { .. })
    }
}

/// Where training stands when `Method::between` is called.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// Steps done, this one included.
    pub done: usize,
    pub steps: usize,
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
    /// Attention weights beside that, for one sample; none where attention makes them again (`plan::cost`).
    pub scores: usize,
    /// It only tidies up after another placement (takes prompts off again): not drawn, begins no graph.
    pub tidies: bool,
}

impl Placement {
    pub fn new(site: &Site, door: Door, params: Vec<ParamSpec>) -> Placement {
        Placement { site: site.path.clone(), door, params, macs: 0, kept: 0, scores: 0, tidies: false }
    }

    /// A placement that only takes back what another one of this method did.
    pub fn tidying(site: &Site, door: Door) -> Placement {
        Placement { tidies: true, ..Placement::new(site, door, vec![]) }
    }

    /// Trainable parameters of this placement.
    pub fn count(&self) -> usize {
        self.params.iter().map(ParamSpec::count).sum()
    }

    /// Says how many attention weights it keeps for one sample.
    pub fn attends(mut self, scores: usize) -> Placement {
        self.scores = scores;
        self
    }

    pub fn costs(mut self, macs: usize, kept: usize) -> Placement {
        self.macs = macs;
        self.kept = kept;
        self
    }
}

/// Plain gradients by key.
pub type Gradients = std::collections::BTreeMap<String, Tensor<2>>;

/// One method. `plan` is data only and runs on every edit; the other functions are the doors, called by the `Tuner` at
/// the placements that `plan` declared. Activations are `[batch, positions, channels]`.
pub trait Method: Sync {
    /// Where it stands and what it needs, or why it cannot. `set` holds every field of the card.
    fn plan(&self, anatomy: &Anatomy, sites: &[&Site], set: &Settings) -> Result<Vec<Placement>, String>;

    /// First values of the parameters declared with `Init::Own`, each under its key (`at.key(..)`, `at.shared_key(..)`). All
    /// places of one entry of the stack at once, in forward order.
    fn start(&self, _places: &[Start]) -> Vec<(String, Vec<f32>)> {
        Vec::new()
    }

    /// What shall be measured at every placed site before `start`; it stands in `Start::measured` then.
    fn measures(&self, _set: &Settings) -> Option<Measure> {
        None
    }

    /// What this placement adds to the loss `[1]` while training.
    fn penalty(&self, _at: &At) -> Option<Tensor<1>> {
        None
    }

    /// Whether `between` shall be called.
    fn acts_between(&self) -> bool {
        false
    }

    /// Whether it asks for `At::quality`.
    fn reads_quality(&self) -> bool {
        false
    }

    /// Of the positions that the network has for a text's tokens, how many it takes away from them, where such positions are in a table.
    fn positions_taken(&self, _set: &Settings) -> usize {
        0
    }

    /// Roles of its own block whose output it asks for (`At::left`). They come by before its own doors.
    fn reads(&self) -> &'static [Role] {
        &[]
    }

    /// Why a placement with these settings stays beside the weights although the card says `folds`, to be read behind the
    /// method's title; none where it folds.
    fn stays_beside(&self, _set: &Settings) -> Option<&'static str> {
        None
    }

    /// Called after every optimiser step with that step's gradients, for methods that change themselves while they train.
    fn between(&self, _moment: Moment, _member: &Member, _gradients: &Gradients, _bag: &mut Bag) {}

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

    /// The frozen `part` with what the doors `Before` and `After` change folded in; only asked where `Member::stays_beside`
    /// gives no reason. A method that stands before a whole attention or MLP is asked for every site that reads its input.
    fn fold(&self, at: &At, part: &str, w: Tensor<2>) -> Tensor<2> {
        self.weight(at, part, w)
    }

    /// Whether its change has a part that does not hang on what enters: folded, it needs a bias.
    fn shifts(&self) -> bool {
        false
    }

    /// What `before` adds whatever enters, `[1, d_in]`: folded through the weight into the bias.
    fn shift(&self, _at: &At) -> Option<Tensor<2>> {
        None
    }
}
