//! The anatomy of a network: its sites, and the doors a method may stand at. Backbones declare it, plans and the
//! drawing read it. Plain data: knows no tensors, no window.

pub use super::role::Role;
use crate::backbones::names::Naming;
use crate::tasks::classify::Activation;

/// Where a method acts at a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Door {
    /// Changes a weight before it is used.
    Weight,
    /// Changes what enters the site.
    Before,
    /// Changes what leaves the site, same shape.
    After,
    /// Makes what leaves the site longer; always after every `After`, so that additions still fit.
    Extend,
    /// Reads the outputs of all blocks and answers in the trunk's place.
    Readout,
}

/// One frozen matrix of a site: `[rows, cols]`, used as `x · W`; a vector is one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    pub name: &'static str,
    pub rows: usize,
    pub cols: usize,
}

impl Part {
    pub const fn new(name: &'static str, rows: usize, cols: usize) -> Part {
        Part { name, rows, cols }
    }

    /// Gain and shift of a norm over `d` channels.
    pub fn norm(d: usize) -> Vec<Part> {
        vec![Part::new("weight", 1, d), Part::new("bias", 1, d)]
    }

    /// Gain of a norm without a shift.
    pub fn gain(d: usize) -> Vec<Part> {
        vec![Part::new("weight", 1, d)]
    }

    /// Weight and bias of a linear layer.
    pub fn dense(d_in: usize, d_out: usize) -> Vec<Part> {
        vec![Part::new("weight", d_in, d_out), Part::new("bias", 1, d_out)]
    }

    pub fn count(&self) -> usize {
        self.rows * self.cols
    }
}

/// One named place of the network. `path` is part of the file format: `blocks.3.attn.q`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    pub path: String,
    pub role: Role,
    /// Index of the block, from 0; none for the embedding, the last norm and the head.
    pub block: Option<usize>,
    /// In a network of stages: which of them, and for a site of a block the block's number within it. What merges positions
    /// belongs to the stage that it leads to.
    pub stage: Option<(usize, usize)>,
    /// Row of the grid: the place within a block, in words ("norm 1", "q").
    pub place: &'static str,
    /// Channels in and out.
    pub d_in: usize,
    pub d_out: usize,
    pub parts: Vec<Part>,
}

impl Site {
    /// A site outside the blocks, of a network without stages; `widths` are its channels in and out.
    pub fn outside(path: &str, role: Role, place: &'static str, widths: [usize; 2], parts: Vec<Part>) -> Site {
        let [d_in, d_out] = widths;
        Site { path: path.to_owned(), role, block: None, stage: None, place, d_in, d_out, parts }
    }

    /// The same in block `n`: the block itself, or below it (`.attn.q`).
    pub fn within(n: usize, below: &str, role: Role, place: &'static str, widths: [usize; 2], parts: Vec<Part>) -> Site {
        Site { block: Some(n), ..Site::outside(&format!("blocks.{n}{below}"), role, place, widths, parts) }
    }

    pub fn part(&self, name: &str) -> Option<&Part> {
        self.parts.iter().find(|part| part.name == name)
    }

    pub fn count(&self) -> usize {
        self.parts.iter().map(Part::count).sum()
    }

    /// It belongs to a decoder's attention to what the encoder made: the branch `cross` and the norm before it.
    pub fn crosses(&self) -> bool {
        self.block.is_some() && self.path.split('.').nth(2).is_some_and(|below| below.starts_with("cross"))
    }

    /// The branch that it is or lies in: `blocks.3.attn` for `blocks.3.attn.q`.
    fn branch(&self) -> &str {
        self.path.match_indices('.').nth(2).map_or(&self.path, |(at, _)| &self.path[..at])
    }
}

/// A backbone's declared anatomy: all that planning and drawing need.
#[derive(Clone, Debug, PartialEq)]
pub struct Anatomy {
    /// In the order the forward pass visits them.
    pub sites: Vec<Site>,
    pub blocks: usize,
    /// Width of the residual stream.
    pub width: usize,
    pub heads: usize,
    /// Width of the hidden layer of a block's MLP.
    pub hidden: usize,
    /// Positions on the residual stream, class token included.
    pub tokens: usize,
    pub entry: Entry,
    /// What other programs call its places: transformers 4 and 5, or one program twice.
    pub dialects: [&'static Naming; 2],
    /// It reads in order: a token knows only those before it.
    pub causal: bool,
    /// Positions turn queries and keys after these have left their layers.
    pub rotary: bool,
    /// Attention as T5 has it: scores are not divided by √depth, and those of self-attention have a trained bias for each head and
    /// distance.
    pub relative: bool,
    /// It norms what a branch and the stream add up to, behind each branch, with this small number under the root (BERT); none where it norms what
    /// enters a branch.
    pub norms_behind: Option<f64>,
    /// transformers has a classifier that reads of this network what the head here reads, so that the whole can leave for it.
    pub has_classifier: bool,
    /// Its positions were stretched, or its numbers are packed: the folder that it was read from is no base of what is trained on it.
    pub stretched: bool,
    /// Bytes that packed numbers take less than f32 would.
    pub saved: usize,
    pub classifier: Classifier,
    /// Where width and positions change on the way: the stages, first to last. `width`, `heads` and `hidden` are then those of the last one,
    /// which the head reads, and `tokens` those of the first, which has the most. Empty where all blocks have the same.
    pub stages: Vec<Stage>,
    /// Of a network that embeds images and texts side by side: its image tower and its text tower, each a network of its own at the paths that
    /// it has here. `heads`, `hidden`, `tokens` and `entry` are then those of the image tower, and `width` is that of the embeddings.
    pub towers: Vec<Anatomy>,
}

/// The classifier of transformers on a network, where it reads what the head here reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Classifier {
    /// One linear layer of this name; a decoder's has no bias.
    Linear { layer: &'static str, bias: bool },
    /// The layer reads the class token and beside it the mean of all patches (DINOv2).
    BesideMean,
    /// A norm stands before the layer (AST).
    Normed,
    /// A linear layer with so many outputs stands before it (Whisper).
    Projected(usize),
    /// A linear layer of the network's width and an activation stand before it (T5, RoBERTa, DistilBERT): the names of both layers.
    Mlp([&'static str; 2], Activation),
    /// None that the head here could be written as, and why; what its last layer would be called.
    Other { layer: &'static str, why: &'static str },
}

impl Classifier {
    pub const PLAIN: Classifier = Classifier::Linear { layer: "classifier", bias: true };
    /// A decoder's.
    pub const SCORE: Classifier = Classifier::Linear { layer: "score", bias: false };
    /// The modules that it is made of.
    pub fn modules(self) -> Vec<&'static str> {
        match self {
            Classifier::Linear { layer, .. } | Classifier::Other { layer, .. } => vec![layer],
            Classifier::BesideMean | Classifier::Normed => vec!["classifier"],
            Classifier::Projected(_) => vec!["classifier", "projector"],
            Classifier::Mlp(layers, _) => {
                let mut modules: Vec<_> = layers.iter().filter_map(|layer| layer.split('.').next()).collect();
                modules.dedup();
                modules
            }
        }
    }
}

/// Blocks of one width that see the same positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage {
    pub width: usize,
    pub heads: usize,
    pub hidden: usize,
    /// Positions on the residual stream.
    pub tokens: usize,
    /// Positions within the attention: with what fills windows up.
    pub attending: usize,
    /// How many of them each attends to.
    pub window: usize,
}

/// What enters the network.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Entry {
    /// Square images of `side` pixels, in patches of `patch` pixels.
    Image { side: usize, patch: usize, pixels: Pixels },
    /// Texts of tokens out of `vocabulary`; `padding` fills a batch up. The network has positions for texts up to `longest`.
    Text { vocabulary: usize, padding: u32, longest: usize },
    /// Sounds as spectrograms of `bins` by `frames`.
    Sound { bins: usize, frames: usize, front: Front },
}

/// What is made of a sound: the logarithm of what 25 milliseconds hold in each band of the mel scale, 100 times a second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Front {
    /// Whisper's (Radford et al. 2022): base 10, what lies 8 below the loudest cut off, plus 4, over 4. Silence fills a sound up.
    Whisper,
    /// Kaldi's filter bank as AST takes it (Gong et al. 2021): `(ln - mean) / (2 deviation)`. Frames of 0 before that fill a sound up.
    Kaldi { mean: f32, deviation: f32 },
}

impl Front {
    /// Numbers of a sound in a second.
    pub const RATE: usize = 16_000;
    /// Numbers from one frame to the next, and in one frame.
    pub const HOP: usize = 160;
    pub const WINDOW: usize = 400;

    /// Numbers of a sound that fill so many frames.
    pub fn samples(self, frames: usize) -> usize {
        match self {
            Front::Whisper => frames * Front::HOP,
            Front::Kaldi { .. } => frames.saturating_sub(1) * Front::HOP + Front::WINDOW,
        }
    }
}

/// What is made of a byte of each channel: `(byte / 255 - mean) / deviation`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pixels {
    pub mean: [f32; 3],
    pub deviation: [f32; 3],
}

impl Pixels {
    /// From -1 to 1.
    pub const HALVES: Pixels = Pixels { mean: [0.5; 3], deviation: [0.5; 3] };
    /// Those of ImageNet's training pictures, which most networks since ResNet take.
    pub const IMAGENET: Pixels = Pixels { mean: [0.485, 0.456, 0.406], deviation: [0.229, 0.224, 0.225] };
    /// Those of CLIP's pictures, rounded as its release has them.
    pub const CLIP: Pixels =
        Pixels { mean: [0.481_454_66, 0.457_827_5, 0.408_210_73], deviation: [0.268_629_54, 0.261_302_6, 0.275_777_1] };

    /// What a `preprocessor_config.json` (`image_mean`, `image_std`) or timm's `pretrained_cfg` (`mean`, `std`) says.
    pub fn of(config: Option<&serde_json::Value>) -> Option<Pixels> {
        let three = |names: [&str; 2]| {
            let list = names.iter().find_map(|name| config?[*name].as_array())?;
            let values: Vec<f32> = list.iter().filter_map(|v| Some(v.as_f64()? as f32)).collect();
            <[f32; 3]>::try_from(values).ok()
        };
        match (three(["image_mean", "mean"]), three(["image_std", "std"])) {
            (Some(mean), Some(deviation)) if deviation.iter().all(|d| *d > 0.0) => Some(Pixels { mean, deviation }),
            _ => None,
        }
    }
}

/// What the paths of a text tower's sites outside its blocks begin with.
pub const TEXT: &str = "text.";

/// How many times its own numbers a bend of this name keeps for the backward pass: what is composed of several operations keeps
/// each one's input.
pub fn bend_keeps(place: &str) -> usize {
    match place {
        "swiglu" => 4,
        "quick gelu" => 3,
        "tanh gelu" => 6,
        "gated tanh gelu" => 8,
        _ => 1,
    }
}

impl Anatomy {
    /// These sites, entered so, under these names, with nothing particular: attention is plain and looks both ways, the numbers are f32, all
    /// blocks have one width, transformers has no classifier. Sizes are set on top, and what is particular:
    /// `Anatomy { blocks, width, .., causal: true, ..Anatomy::of(sites, entry, dialects) }`.
    pub fn of(sites: Vec<Site>, entry: Entry, dialects: [&'static Naming; 2]) -> Anatomy {
        Anatomy {
            sites,
            blocks: 0,
            width: 0,
            heads: 0,
            hidden: 0,
            tokens: 0,
            entry,
            dialects,
            causal: false,
            rotary: false,
            relative: false,
            norms_behind: None,
            has_classifier: false,
            stretched: false,
            saved: 0,
            classifier: Classifier::Other { layer: "classifier", why: "transformers has no classifier on such a network" },
            stages: vec![],
            towers: vec![],
        }
    }

    /// Side of the images, in pixels; 0 where none enter.
    pub fn side(&self) -> usize {
        match self.entry {
            Entry::Image { side, .. } => side,
            Entry::Text { .. } | Entry::Sound { .. } => 0,
        }
    }

    /// Numbers of a sound that are heard; all of it where none enters.
    pub fn heard(&self) -> usize {
        match self.entry {
            Entry::Sound { frames, front, .. } => front.samples(frames),
            _ => usize::MAX,
        }
    }

    /// What is made of a sample before it enters, to be read.
    pub fn takes(&self) -> String {
        let taken = self.taken();
        match self.reading().filter(|_| !self.towers.is_empty()) {
            Some(reading) => format!("{taken}; {}", reading.taken()),
            None => taken,
        }
    }

    /// The same of what enters first.
    fn taken(&self) -> String {
        match self.entry {
            Entry::Image { side, pixels, .. } => {
                // One number where the channels have the same.
                let three = |v: [f32; 3]| if v.iter().all(|c| *c == v[0]) { v[0].to_string() } else { format!("{v:?}") };
                format!("[3, {side}, {side}], (byte / 255 - {}) / {}", three(pixels.mean), three(pixels.deviation))
            }
            Entry::Text { .. } => format!("up to {} tokens", self.tokens),
            Entry::Sound { bins, frames, front } => {
                let seconds = (front.samples(frames) as f64 / Front::RATE as f64 * 100.0).round() / 100.0;
                let made = match front {
                    Front::Whisper => "(max(lg mel, loudest - 8) + 4) / 4".to_owned(),
                    Front::Kaldi { mean, deviation } => format!("(ln mel - {mean}) / (2 x {deviation})"),
                };
                format!("[{bins}, {frames}], {seconds} s at 16 kHz, {made}")
            }
        }
    }

    pub fn site(&self, path: &str) -> Option<&Site> {
        self.sites.iter().find(|site| site.path == path)
    }

    /// The site with this role in the block of `site`; where there are two, that in the branch of `site`.
    pub fn beside(&self, site: &Site, role: Role) -> Option<&Site> {
        let all = || self.sites.iter().filter(|other| other.block == site.block && other.role == role);
        all().find(|other| other.branch() == site.branch()).or_else(|| all().next())
    }

    /// The norm of what a branch and the stream add up to, and the small number under its root, in a network that has such.
    pub fn norm_behind(&self, branch: &Site) -> Option<(&Site, f64)> {
        let mut norms = self.sites.iter().filter(|site| site.block == branch.block && site.role == Role::Norm);
        let norm = match branch.role {
            Role::Attn => norms.next(),
            Role::Mlp => norms.next_back(),
            _ => None,
        };
        norm.zip(self.norms_behind)
    }

    /// What more than queries and keys, as these leave their layers, the scores of an attention are made of, in words; none where
    /// nothing is.
    pub fn joins_scores(&self, attention: &Site) -> Option<&'static str> {
        match attention.role {
            Role::Attn if self.rotary => Some("positions turn these afterwards in this network"),
            Role::Attn if self.relative && !attention.crosses() => Some(
                "a bias of each distance joins their scores in this network. Cross-attention has none: place it there, or at the MLPs",
            ),
            _ => None,
        }
    }

    /// The tower that a site belongs to; the whole network where it has none.
    pub fn tower(&self, site: &Site) -> &Anatomy {
        self.towers.iter().find(|tower| tower.site(&site.path).is_some()).unwrap_or(self)
    }

    /// What of the network reads texts: the whole, or one tower.
    pub fn reading(&self) -> Option<&Anatomy> {
        std::iter::once(self).chain(&self.towers).find(|part| matches!(part.entry, Entry::Text { .. }))
    }

    /// A site of a tower as it would be called if the tower stood alone.
    pub fn counted_anew(&self, site: &Site) -> Site {
        let first = self.sites.iter().find_map(|site| site.block).unwrap_or(0);
        let path = site.path.strip_prefix(TEXT).unwrap_or(&site.path).to_owned();
        Site { block: site.block.map(|block| block - first), path, ..site.clone() }
    }

    /// The first block of the decoder, where the blocks before it are an encoder's.
    pub fn decoder(&self) -> Option<usize> {
        self.sites.iter().find(|site| site.crosses())?.block
    }

    /// The last block through which passes what enters `block`: an encoder's end before the decoder begins.
    pub fn last_behind(&self, block: usize) -> Option<&Site> {
        let within = |other: &usize| self.decoder().is_none_or(|first| (*other < first) == (block < first));
        self.sites.iter().rfind(|site| site.role == Role::Block && site.block.as_ref().is_some_and(within))
    }

    /// The attention or MLP whose own input is what `site` reads: that of q, k, v or `up`.
    pub fn read_by(&self, site: &Site) -> Option<&Site> {
        let role = match site.role {
            Role::K | Role::V if site.crosses() => return None, // they read what the encoder made
            Role::Q | Role::K | Role::V => Role::Attn,
            Role::Up | Role::Gate => Role::Mlp,
            _ => return None,
        };
        let holds = |whole: &Site| site.path.strip_prefix(&whole.path).is_some_and(|rest| rest.starts_with('.'));
        self.sites.iter().find(|whole| whole.role == role && holds(whole))
    }

    /// The stage of a site; of a network without stages, the whole of it.
    pub fn stage(&self, site: &Site) -> Stage {
        if !self.towers.is_empty() && !std::ptr::eq(self.tower(site), self) {
            return self.tower(site).stage(site);
        }
        let (width, heads, hidden, tokens) = (self.width, self.heads, self.hidden, self.tokens);
        let whole = Stage { width, heads, hidden, tokens, attending: tokens, window: tokens };
        site.stage.and_then(|(n, _)| self.stages.get(n)).copied().unwrap_or(whole)
    }

    /// Positions that pass a site.
    pub fn tokens_at(&self, site: &Site) -> usize {
        let stage = self.stage(site);
        match site.role {
            Role::Attn | Role::Q | Role::K | Role::V | Role::O => stage.attending,
            _ => stage.tokens,
        }
    }

    /// Whether one sequence of one width goes through all blocks, every position seen by every other.
    ///
    /// # Errors
    /// In words for a method that joins the sequence or reads it, where there is none.
    pub fn one_sequence(&self) -> Result<(), String> {
        match self.stages.is_empty() {
            true => Ok(()),
            false => Err("it needs one sequence of one width through all blocks, but this network attends within windows and merges its positions from stage to stage".to_owned()),
        }
    }

    /// Parameters of the backbone, without any head.
    pub fn count(&self) -> usize {
        self.sites.iter().map(Site::count).sum()
    }

    /// The rows of the grid, top to bottom: the places of the first block, or of a decoder's, which has all of an encoder's and more.
    pub fn places(&self) -> Vec<&'static str> {
        if !self.towers.is_empty() {
            let mut rows: Vec<&str> = vec![];
            self.towers.iter().flat_map(Anatomy::places).for_each(|row| {
                if !rows.contains(&row) {
                    rows.push(row)
                }
            });
            return rows;
        }
        let fullest = self.decoder().or_else(|| self.sites.iter().find_map(|site| site.block)).unwrap_or(0);
        let mut rows: Vec<_> = self.sites.iter().filter(|s| s.block == Some(fullest)).collect();
        rows.sort_by_key(|site| site.role == Role::Block);
        rows.iter().map(|site| site.place).collect()
    }

    /// The site of one cell of the grid.
    pub fn cell(&self, place: &str, block: usize) -> Option<&Site> {
        self.sites.iter().find(|site| site.block == Some(block) && site.place == place)
    }
}
