//! GPT-2 (Radford et al. 2019) and its likes of any size, and the text tower of CLIP (Radford et al. 2021), which is one of them: a text
//! decoder with learned positions and the norm before each branch. The whole forward pass is below, straight down; the tuner's calls
//! name its sites. Called through `backbones::Backbone`.

use std::sync::Arc;

use burn::tensor::Tensor;
use serde_json::{Value as Json, json};

use super::bend::Bend;
use super::folder::Folder;
use super::names::{self, Naming};
use super::tensors::Tensors;
use super::words::Words;
use super::{Backbone, Card, Input, Opened};
use crate::engine::tuner::Tuner;
use crate::plan::anatomy::{Anatomy, Classifier, Entry, Part, Role, Site, TEXT};
use crate::session::settings::Settings;

/// The sizes of one decoder.
#[derive(Clone, Copy, Debug)]
pub struct Gpt2 {
    pub kind: Kind,
    pub vocabulary: usize,
    pub width: usize,
    pub blocks: usize,
    pub heads: usize,
    pub hidden: usize,
    /// Rows of the table of positions: the longest text.
    pub positions: usize,
    pub epsilon: f64,
    pub bend: Bend,
    /// The token that fills a batch up. Nobody attends to it.
    pub padding: usize,
    pub length: usize,
    /// The head reads the mean of all tokens instead of the last.
    pub mean: bool,
    /// The tokens that open and close a text, as the configuration of CLIP's has them.
    pub signs: [usize; 2],
    /// Blocks of the image tower that stand before its own; none where it stands alone.
    pub behind: Option<usize>,
}

/// Whose network it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Gpt2,
    /// The text tower.
    Clip,
}

pub const CLIP: Card = Card {
    name: "clip-text",
    title: "CLIP's text tower",
    help: "The text tower of CLIP of any size, alone or in a folder of both towers: config.json, the weights and tokenizer.json. What it ends in is the token that closes the text.",
    model_types: &["clip_text_model"],
    ..FOLDER
};

pub const FOLDER: Card = Card {
    name: "gpt2",
    title: "GPT-2 decoder",
    help: "GPT-2, DistilGPT-2 and other decoders that are built alike, of any size: a folder with config.json, safetensors and tokenizer.json.",
    source: "The folder that you open",
    licence: "That of the weights you open; see the folder's README",
    fields: super::llama::FIELDS,
    model_types: &["gpt2"],
    open,
};

fn open(set: &Settings) -> Result<Opened, String> {
    let folder = Folder::open(set.text(super::FOLDER))?;
    let gpt2 = Gpt2::of(&folder, set)?;
    let (path, words) = (folder.path.clone(), Words::of(&folder));
    let weights = move |_, device: &_| {
        let tensors = Tensors::open(&path)?;
        let naming = gpt2.naming();
        let naming = if tensors.has(&naming.mark()) { *naming } else { naming.bare() };
        let anatomy = gpt2.declare();
        let all = naming.tensors(&anatomy).map_err(anyhow::Error::msg)?;
        // Heads for other ends, the other tower, and the tables that early checkpoints hold.
        let may_stay = |name: &str| {
            ["lm_head.", "score.", "vision_model.", "visual_projection.", "text_projection.", "logit_scale"]
                .iter()
                .any(|other| name.starts_with(other))
                || [".attn.bias", ".attn.masked_bias", "position_ids"].iter().any(|table| name.ends_with(table))
        };
        tensors.weights(&all, &anatomy, &may_stay, device)
    };
    Ok(Opened {
        network: Arc::new(gpt2),
        weights: Box::new(weights),
        prepare: Box::new(move |samples| words.encode(samples, gpt2.length, [gpt2.vocabulary, 1])),
    })
}

impl Gpt2 {
    /// What the configuration of a folder says.
    ///
    /// # Errors
    /// In words, when a size is missing or a part is none that this file knows.
    pub fn of(folder: &Folder, set: &Settings) -> Result<Gpt2, String> {
        let fault = |words: String| format!("{}: {words}", folder.path.join("config.json").display());
        if folder.kind().starts_with("clip") {
            return Gpt2::of_clip(folder, set.whole("length"), set.text("pool") == "mean");
        }
        folder.is_of(&FOLDER)?;
        let bend = folder.word("activation_function", "gelu_new", &["gelu_new", "gelu_pytorch_tanh", "gelu"])?;
        for (name, usual) in
            [("scale_attn_weights", true), ("scale_attn_by_inverse_layer_idx", false), ("add_cross_attention", false)]
        {
            if folder.flag_or(name, usual)? != usual {
                return Err(fault(format!("`{name}` is {}, which is not known here", !usual)));
            }
        }
        let width = folder.whole_or("n_embd", Some(768))?;
        let heads = folder.whole_or("n_head", Some(12))?;
        if !width.is_multiple_of(heads) {
            return Err(fault(format!("{width} channels do not divide into {heads} heads")));
        }
        let positions = folder.whole_or("n_positions", Some(1024))?;
        Ok(Gpt2 {
            kind: Kind::Gpt2,
            vocabulary: folder.whole_or("vocab_size", Some(50257))?,
            width,
            blocks: folder.whole_or("n_layer", Some(12))?,
            heads,
            hidden: folder.whole_or("n_inner", Some(4 * width))?,
            positions,
            epsilon: folder.real_or("layer_norm_epsilon", 1e-5)?,
            bend: if bend == "gelu" { Bend::Gelu } else { Bend::TanhGelu },
            padding: folder.filler(),
            length: set.whole("length").min(positions),
            mean: set.text("pool") == "mean",
            signs: [0; 2],
            behind: None,
        })
    }

    /// The text tower, of a folder of its own or of both.
    pub(super) fn of_clip(folder: &Folder, length: usize, mean: bool) -> Result<Gpt2, String> {
        let part = Folder { config: folder.config["text_config"].clone(), ..folder.clone() };
        let folder = if part.config.is_object() { &part } else { folder };
        let bend = folder.word("hidden_act", "quick_gelu", &["quick_gelu", "gelu"])?;
        let (width, heads) = (folder.whole_or("hidden_size", Some(512))?, folder.whole_or("num_attention_heads", Some(8))?);
        if !width.is_multiple_of(heads) {
            return Err(format!("{}: {width} channels do not divide into {heads} heads", folder.path.display()));
        }
        let positions = folder.whole_or("max_position_embeddings", Some(77))?;
        Ok(Gpt2 {
            kind: Kind::Clip,
            vocabulary: folder.whole_or("vocab_size", Some(49408))?,
            width,
            blocks: folder.whole_or("num_hidden_layers", Some(12))?,
            heads,
            hidden: folder.whole_or("intermediate_size", Some(2048))?,
            positions,
            epsilon: folder.real_or("layer_norm_eps", 1e-5)?,
            bend: if bend == "gelu" { Bend::Gelu } else { Bend::QuickGelu },
            padding: folder.filler(),
            length: length.min(positions),
            mean,
            signs: [folder.whole_or("bos_token_id", Some(49406))?, folder.whole_or("eos_token_id", Some(49407))?],
            behind: None,
        })
    }

    fn classifier(&self) -> Classifier {
        let other = |why| Classifier::Other { layer: "score", why };
        match self.kind {
            Kind::Gpt2 if self.mean => other(super::llama::MEAN),
            Kind::Gpt2 => Classifier::SCORE,
            Kind::Clip => other("transformers has no classifier on CLIP's text tower"),
        }
    }

    fn naming(&self) -> &'static Naming {
        match self.kind {
            Kind::Gpt2 => &names::GPT2,
            Kind::Clip => &names::CLIP_TEXT,
        }
    }

    /// The number of its first block.
    fn first(&self) -> usize {
        self.behind.unwrap_or(0)
    }

    /// The path of a site outside the blocks.
    pub(super) fn path(&self, own: &str) -> String {
        if self.behind.is_some() { format!("{TEXT}{own}") } else { own.to_owned() }
    }

    /// The anatomy of these sizes.
    pub fn declare(&self) -> Anatomy {
        let (d, h) = (self.width, self.hidden);
        let outside = |path: &str, role, place, parts| Site::outside(&self.path(path), role, place, [d, d], parts);
        let tables = vec![Part::new("word", self.vocabulary, d), Part::new("pos", self.positions, d)];
        let mut sites = vec![outside("embed", Role::Embed, "embedding", tables)];
        for n in 0..self.blocks {
            let mut site = |path: &str, role, place, d_in, d_out, parts| {
                sites.push(Site::within(self.first() + n, path, role, place, [d_in, d_out], parts))
            };
            site("", Role::Block, "block", d, d, vec![]);
            site(".norm1", Role::Norm, "norm 1", d, d, Part::norm(d));
            site(".attn", Role::Attn, "attention", d, d, vec![]);
            site(".attn.q", Role::Q, "q", d, d, Part::dense(d, d));
            site(".attn.k", Role::K, "k", d, d, Part::dense(d, d));
            site(".attn.v", Role::V, "v", d, d, Part::dense(d, d));
            site(".attn.o", Role::O, "o", d, d, Part::dense(d, d));
            site(".mid", Role::Mid, "between", d, d, vec![]);
            site(".norm2", Role::Norm, "norm 2", d, d, Part::norm(d));
            site(".mlp", Role::Mlp, "mlp", d, d, vec![]);
            site(".mlp.up", Role::Up, "up", d, h, Part::dense(d, h));
            site(".mlp.act", Role::Act, self.bend.word(), h, h, vec![]);
            site(".mlp.down", Role::Down, "down", h, d, Part::dense(h, d));
        }
        sites.push(outside("norm", Role::Norm, "last norm", Part::norm(d)));
        sites.push(outside("readout", Role::Head, "readout", vec![]));
        Anatomy {
            blocks: self.blocks,
            width: d,
            heads: self.heads,
            hidden: h,
            tokens: self.length,
            causal: true,
            has_classifier: self.config().is_some(),
            classifier: self.classifier(),
            ..Anatomy::of(
                sites,
                Entry::Text { vocabulary: self.vocabulary, padding: self.padding as u32, longest: self.positions },
                [self.naming(); 2],
            )
        }
    }
}

impl Backbone for Gpt2 {
    fn anatomy(&self) -> Anatomy {
        self.declare()
    }

    fn forward(&self, t: &mut Tuner, input: Input) -> Tensor<3> {
        let text = input.tokens();
        let (batch, n) = (text.rows(), text.length);
        let embed = self.path("embed");
        let words = t.rows(&embed, "word", text.ids.iter().map(|id| i64::from(*id)).collect());
        let places = t.rows(&embed, "pos", (0..batch).flat_map(|_| 0..n as i64).collect());
        let x = (words + places).reshape([batch, n, self.width]); // [batch, tokens, width]
        let mut x = t.around(&embed, x, |_, x| x);
        t.tap(&x);

        for n in self.first()..self.first() + self.blocks {
            let at = |place: &str| format!("blocks.{n}{place}");
            x = t.around(&at(""), x, |t, x| {
                let h = t.norm(&at(".norm1"), x.clone(), self.epsilon);
                let x = x + t.around(&at(".attn"), h, |t, h| t.self_attention(&at(".attn"), h, self.heads));
                let x = t.around(&at(".mid"), x, |_, x| x);
                let h = t.norm(&at(".norm2"), x.clone(), self.epsilon);
                let y = t.around(&at(".mlp"), h, |t, h| {
                    let u = t.linear(&at(".mlp.up"), h); // [batch, tokens, hidden]
                    let u = t.around(&at(".mlp.act"), u, |_, u| self.bend.of(u));
                    t.linear(&at(".mlp.down"), u) // [batch, tokens, width]
                });
                x + y
            });
            t.tap(&x);
        }
        let y = t.norm(&self.path("norm"), x, self.epsilon);
        t.readout(&self.path("readout"), y)
    }

    fn pool(&self, t: &mut Tuner, features: Tensor<3>) -> Tensor<2> {
        if self.mean { t.mean(features) } else { t.at_ends(features) }
    }

    fn config(&self) -> Option<Json> {
        // transformers' classifier reads the last token; it finds it by the padding token's number.
        (self.kind == Kind::Gpt2 && !self.mean).then(|| {
            json!({
                "activation_function": if self.bend == Bend::Gelu { "gelu" } else { "gelu_new" },
                "architectures": ["GPT2ForSequenceClassification"],
                "layer_norm_epsilon": self.epsilon,
                "model_type": "gpt2",
                "n_embd": self.width,
                "n_head": self.heads,
                "n_inner": self.hidden,
                "n_layer": self.blocks,
                "n_positions": self.positions,
                "pad_token_id": self.padding,
                "vocab_size": self.vocabulary,
            })
        })
    }
}
