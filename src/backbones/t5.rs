//! Encoder-decoders of the T5 family (Raffel et al. 2020), also mT5 (Xue et al. 2021): attention with a bias for each head and distance
//! in the positions' place, root-mean-square norms, no biases. The whole forward pass is below, straight down; the tuner's calls name
//! its sites. Called through `backbones::Backbone`.

use std::sync::Arc;

use anyhow::Result;
use burn::tensor::{Device, Int, Tensor, TensorData, activation};
use serde_json::{Value as Json, json};

use super::folder::Folder;
use super::names::{self, Naming};
use super::tensors::Tensors;
use super::words::Words;
use super::{Backbone, Card, Input, Opened};
use crate::engine::frozen::Weights;
use crate::engine::kernels::{Mask, reference};
use crate::engine::tuner::Tuner;
use crate::plan::anatomy::{Anatomy, Classifier, Entry, Part, Role, Site};
use crate::session::settings::{Field, Settings};
use crate::tasks::classify::Activation;

/// The sizes of one network.
#[derive(Clone, Copy, Debug)]
pub struct T5 {
    pub vocabulary: usize,
    pub width: usize,
    /// Blocks of the encoder and of the decoder; no decoder where the encoder stands alone.
    pub blocks: [usize; 2],
    pub heads: usize,
    /// Channels of a head.
    pub depth: usize,
    pub hidden: usize,
    /// The MLP is gated, with GELU by tanh (T5 1.1); otherwise it is plain, with ReLU.
    pub gated: bool,
    /// Distances are counted in so many buckets, and all beyond the farthest are as far.
    pub buckets: usize,
    pub farthest: usize,
    pub epsilon: f64,
    /// The token that the decoder reads first.
    pub start: u32,
    /// The token that ends a text, at which transformers' classifier reads.
    pub end: u32,
    /// The token that fills a batch up. Nobody attends to it.
    pub padding: u32,
    /// The longest text, in tokens.
    pub length: usize,
}

pub const FOLDER: Card = Card {
    name: "t5",
    title: "T5 encoder-decoder",
    help: "T5, T5 1.1, Flan-T5 and mT5 of any size, as transformers saves them: a folder with config.json, safetensors and tokenizer.json. The head reads the decoder's last state at the text's last token (</s>), where the decoder reads the text moved on by one; of the encoder alone the mean of all tokens.",
    source: "The folder that you open",
    licence: "That of the weights you open; see the folder's README",
    fields: &[
        Field::text(super::FOLDER, "", "The folder that holds config.json, model.safetensors and tokenizer.json."),
        super::SOURCE,
        Field::whole(
            "length",
            2,
            LONGEST,
            128,
            "The longest text in tokens; longer ones are cut. The network has no limit of its own.",
        ),
        Field::choice(
            "side",
            &["both", "encoder alone"],
            "Both: the head reads the decoder, as T5ForSequenceClassification does. Encoder alone: half the work; the head reads its mean.",
        ),
    ],
    model_types: &["t5", "mt5"],
    open,
};

/// Of the encoder alone.
const ENCODER: &str = "transformers has no classifier that reads the mean of T5's encoder";
/// Distances have no end; attention over more tokens than this takes gigabytes.
const LONGEST: i64 = 4096;

fn open(set: &Settings) -> Result<Opened, String> {
    let folder = Folder::open(set.text(super::FOLDER))?;
    let t5 = T5::of(&folder, set)?;
    let words = Words::of(&folder);
    let weights = move |_, device: &Device| t5.load(&folder, device);
    Ok(Opened {
        network: Arc::new(t5),
        weights: Box::new(weights),
        prepare: Box::new(move |samples| words.encode(samples, t5.length, [t5.vocabulary, 1])),
    })
}

impl T5 {
    /// What the configuration of a folder says.
    ///
    /// # Errors
    /// In words, when a size is missing or a part is none that this file knows.
    pub fn of(folder: &Folder, set: &Settings) -> Result<T5, String> {
        let fault = |words: String| format!("{}: {words}", folder.path.join("config.json").display());
        folder.is_of(&FOLDER)?;
        let usual = if folder.kind() == "mt5" { "gated-gelu" } else { "relu" };
        let gated = folder.word("feed_forward_proj", usual, &["relu", "gated-gelu"])? == "gated-gelu";
        let vocabulary = folder.whole("vocab_size")?;
        let token = |name: &str, default: usize| {
            let token = folder.config[name].as_u64().unwrap_or(default as u64);
            let known = token < vocabulary as u64;
            known.then_some(token as u32).ok_or_else(|| fault(format!("`{name}` is {token}, but there are {vocabulary} tokens")))
        };
        let padding = token("pad_token_id", 0)?;
        let buckets = folder.whole_or("relative_attention_num_buckets", Some(32))?;
        let farthest = folder.whole_or("relative_attention_max_distance", Some(128))?;
        if buckets < 4 || farthest <= buckets / 2 {
            return Err(fault(format!(
                "{buckets} buckets do not hold distances up to {farthest}: 4 buckets at least, and distances beyond half as many, are needed"
            )));
        }
        let encoder = folder.whole("num_layers")?;
        let decoder = match set.text("side") {
            "encoder alone" => 0,
            _ => folder.whole_or("num_decoder_layers", Some(encoder))?,
        };
        Ok(T5 {
            vocabulary,
            width: folder.whole("d_model")?,
            blocks: [encoder, decoder],
            heads: folder.whole("num_heads")?,
            depth: folder.whole("d_kv")?,
            hidden: folder.whole("d_ff")?,
            gated,
            buckets,
            farthest,
            epsilon: folder.real_or("layer_norm_epsilon", 1e-6)?,
            start: token("decoder_start_token_id", padding as usize)?,
            end: token("eos_token_id", 1)?,
            padding,
            length: set.whole("length"),
        })
    }

    fn naming(&self) -> &'static Naming {
        if self.gated { &names::T5_GATED } else { &names::T5 }
    }

    fn load(&self, folder: &Folder, device: &Device) -> Result<Weights> {
        let tensors = Tensors::open(&folder.path)?;
        let naming = self.naming();
        let naming = if tensors.has(&naming.mark()) { *naming } else { naming.bare() };
        let anatomy = self.declare();
        let all = naming.tensors(&anatomy).map_err(anyhow::Error::msg)?;
        // Heads for other ends, the one table of tokens under other names, and a table that early files have and nobody reads.
        let may_stay = |name: &str| {
            let bare = name.strip_prefix(naming.prefix).unwrap_or(name);
            let ours = ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"];
            ["lm_head.", "classification_head."].iter().any(|head| name.starts_with(head))
                || ours.contains(&bare)
                || bare.ends_with("EncDecAttention.relative_attention_bias.weight")
                || (self.blocks[1] == 0 && bare.starts_with("decoder."))
        };
        tensors.weights(&all, &anatomy, &may_stay, device)
    }

    /// The anatomy of these sizes. The decoder's blocks count on from the encoder's.
    pub fn declare(&self) -> Anatomy {
        let (d, h, all) = (self.width, self.hidden, self.heads * self.depth);
        let dense = |d_in, d_out| vec![Part::new("weight", d_in, d_out)];
        let outside = |path: &str, role, place, d, parts| Site::outside(path, role, place, [d, d], parts);
        let mut sites = vec![outside("embed", Role::Embed, "embedding", d, vec![Part::new("word", self.vocabulary, d)])];
        let blocks = self.blocks[0] + self.blocks[1];
        for n in 0..blocks {
            let decodes = n >= self.blocks[0];
            let side = if decodes { "decoder" } else { "encoder" };
            if n == 0 || n == self.blocks[0] {
                let table = vec![Part::new("table", self.heads, self.buckets)];
                sites.push(outside(&format!("{side}.relative"), Role::Embed, "distances", self.buckets, table));
            }
            let mut site = |path: &str, role, place, d_in, d_out, parts| {
                sites.push(Site::within(n, path, role, place, [d_in, d_out], parts))
            };
            site("", Role::Block, "block", d, d, vec![]);
            site(".norm1", Role::Norm, "norm 1", d, d, Part::gain(d));
            site(".attn", Role::Attn, "attention", d, d, vec![]);
            site(".attn.q", Role::Q, "q", d, all, dense(d, all));
            site(".attn.k", Role::K, "k", d, all, dense(d, all));
            site(".attn.v", Role::V, "v", d, all, dense(d, all));
            site(".attn.o", Role::O, "o", all, d, dense(all, d));
            if decodes {
                site(".cross_norm", Role::Norm, "cross norm", d, d, Part::gain(d));
                site(".cross", Role::Attn, "cross-attention", d, d, vec![]);
                site(".cross.q", Role::Q, "cross q", d, all, dense(d, all));
                site(".cross.k", Role::K, "cross k", d, all, dense(d, all));
                site(".cross.v", Role::V, "cross v", d, all, dense(d, all));
                site(".cross.o", Role::O, "cross o", all, d, dense(all, d));
            }
            site(".mid", Role::Mid, "between", d, d, vec![]);
            site(".norm2", Role::Norm, "norm 2", d, d, Part::gain(d));
            site(".mlp", Role::Mlp, "mlp", d, d, vec![]);
            if self.gated {
                site(".mlp.gate", Role::Gate, "gate", d, h, dense(d, h));
            }
            site(".mlp.up", Role::Up, "up", d, h, dense(d, h));
            site(".mlp.act", Role::Act, if self.gated { "gated tanh gelu" } else { "relu" }, h, h, vec![]);
            site(".mlp.down", Role::Down, "down", h, d, dense(h, d));
            if n + 1 == self.blocks[0] || n + 1 == blocks {
                let place = if n + 1 == blocks { "last norm" } else { "encoder norm" };
                sites.push(outside(&format!("{side}.norm"), Role::Norm, place, d, Part::gain(d)));
            }
        }
        sites.push(outside("readout", Role::Head, "readout", d, vec![]));
        Anatomy {
            blocks,
            width: d,
            heads: self.heads,
            hidden: h,
            tokens: self.length,
            relative: true,
            has_classifier: self.config().is_some(),
            classifier: match self.blocks[1] {
                0 => Classifier::Other { layer: "classification_head", why: ENCODER },
                _ => Classifier::Mlp(["classification_head.dense", "classification_head.out_proj"], Activation::Tanh),
            },
            ..Anatomy::of(
                sites,
                Entry::Text { vocabulary: self.vocabulary, padding: self.padding, longest: LONGEST as usize },
                [self.naming(), self.naming()],
            )
        }
    }
}

/// What an attention looks at, with the biases of its side's distances where it looks at its own text.
#[derive(Clone, Copy)]
enum Sees<'a> {
    All(&'a Tensor<2>),
    Before(&'a Tensor<2>),
    /// What the encoder made of the text.
    Encoded(&'a Tensor<3>),
}

impl Backbone for T5 {
    fn anatomy(&self) -> Anatomy {
        self.declare()
    }

    fn forward(&self, t: &mut Tuner, input: Input) -> Tensor<3> {
        let text = input.tokens();
        let (batch, n) = (text.rows(), text.length);
        // The decoder reads the text moved on by one. Both go through the one table together.
        let sides = if self.blocks[1] > 0 { 2 } else { 1 };
        let mut ids = Vec::with_capacity(sides * text.ids.len());
        for text in text.ids.chunks(n) {
            ids.extend(text);
            if sides == 2 {
                ids.push(self.start);
                ids.extend(&text[..n - 1]);
            }
        }
        let x = t.rows("embed", "word", ids.into_iter().map(i64::from).collect());
        let x = x.reshape([batch, sides * n, self.width]);
        let embedded = t.around("embed", x, |_, x| x); // [batch, sides · tokens, width]

        let biases = self.biases(t, "encoder.relative");
        let mut x = embedded.clone().narrow(1, 0, n); // [batch, tokens, width]
        t.tap(&x);
        for block in 0..self.blocks[0] {
            x = self.block(t, block, x, Sees::All(&biases), None);
        }
        let mut y = t.rms_norm("encoder.norm", x, self.epsilon);

        if sides == 2 {
            let biases = self.biases(t, "decoder.relative");
            let mut x = embedded.narrow(1, n, n);
            for block in 0..self.blocks[1] {
                x = self.block(t, self.blocks[0] + block, x, Sees::Before(&biases), Some(Sees::Encoded(&y)));
            }
            y = t.rms_norm("decoder.norm", x, self.epsilon);
        }
        t.readout("readout", y)
    }

    fn pool(&self, t: &mut Tuner, features: Tensor<3>) -> Tensor<2> {
        if self.blocks[1] == 0 { t.mean(features) } else { t.at_ends(features) }
    }

    fn config(&self) -> Option<Json> {
        (self.blocks[1] > 0).then(|| {
            json!({
                "architectures": ["T5ForSequenceClassification"],
                "d_ff": self.hidden,
                "d_kv": self.depth,
                "d_model": self.width,
                "decoder_start_token_id": self.start,
                "eos_token_id": self.end,
                "feed_forward_proj": if self.gated { "gated-gelu" } else { "relu" },
                "is_encoder_decoder": true,
                "layer_norm_epsilon": self.epsilon,
                "model_type": "t5",
                "num_decoder_layers": self.blocks[1],
                "num_heads": self.heads,
                "num_layers": self.blocks[0],
                "pad_token_id": self.padding,
                "relative_attention_max_distance": self.farthest,
                "relative_attention_num_buckets": self.buckets,
                "vocab_size": self.vocabulary,
            })
        })
    }
}

impl T5 {
    /// One block of either side, `[batch, positions, width]` to the same; a decoder's also looks at what was encoded.
    fn block(&self, t: &mut Tuner, n: usize, x: Tensor<3>, own: Sees, other: Option<Sees>) -> Tensor<3> {
        let at = |place: &str| format!("blocks.{n}{place}");
        let x = t.around(&at(""), x, |t, x| {
            let h = t.rms_norm(&at(".norm1"), x.clone(), self.epsilon);
            let mut x = x + t.around(&at(".attn"), h, |t, h| self.attention(t, &at(".attn"), h, own));
            if let Some(other) = other {
                let h = t.rms_norm(&at(".cross_norm"), x.clone(), self.epsilon);
                x = x + t.around(&at(".cross"), h, |t, h| self.attention(t, &at(".cross"), h, other));
            }
            let x = t.around(&at(".mid"), x, |_, x| x);
            let h = t.rms_norm(&at(".norm2"), x.clone(), self.epsilon);
            x + t.around(&at(".mlp"), h, |t, h| {
                let gate = self.gated.then(|| t.linear(&at(".mlp.gate"), h.clone())); // [batch, positions, hidden]
                let u = t.linear(&at(".mlp.up"), h);
                let u = match gate {
                    Some(g) => t.around(&at(".mlp.act"), g, |_, g| activation::gelu_approximate(g) * u),
                    None => t.around(&at(".mlp.act"), u, |_, u| activation::relu(u)),
                };
                t.linear(&at(".mlp.down"), u) // [batch, positions, width]
            })
        });
        t.tap(&x);
        x
    }

    /// Attention whose scores nobody divides: `h` `[batch, positions, width]` to the same.
    fn attention(&self, t: &mut Tuner, site: &str, h: Tensor<3>, sees: Sees) -> Tensor<3> {
        let source = match sees {
            Sees::Encoded(other) => other.clone(),
            Sees::All(_) | Sees::Before(_) => h.clone(),
        };
        let tokens = source.dims()[1];
        let q = t.linear(&format!("{site}.q"), h); // [batch, positions, heads · depth]
        let k = t.linear(&format!("{site}.k"), source.clone()); // [batch, prefix + tokens, heads · depth]
        let v = t.linear(&format!("{site}.v"), source);
        let ([batch, queries, all], keys) = (q.dims(), k.dims()[1]);
        let split = |x: Tensor<3>| {
            let positions = x.dims()[1];
            x.reshape([batch, positions, self.heads, self.depth]).swap_dims(1, 2) // [batch, heads, positions, depth]
        };
        let scores = split(q).matmul(split(k).swap_dims(2, 3)); // [batch, heads, queries, keys]
        let (scores, mask): (_, Mask) = match sees {
            Sees::All(table) => (scores + self.bias(t, table, queries, keys, true), t.mask(queries, keys, false)),
            Sees::Before(table) => (scores + self.bias(t, table, queries, keys, false), t.mask(queries, keys, true)),
            Sees::Encoded(_) => (scores, t.mask(tokens, keys, false)), // the keys are not the queries' own
        };
        let weights = activation::softmax(reference::hide(scores, &mask), 3);
        let y = weights.matmul(split(v)).swap_dims(1, 2).reshape([batch, queries, all]);
        t.linear(&format!("{site}.o"), y) // [batch, positions, width]
    }

    /// The biases of one side, which its blocks share: `[heads, buckets]`.
    fn biases(&self, t: &mut Tuner, site: &str) -> Tensor<2> {
        let table = t.weight(site, "table").unsqueeze::<3>();
        t.around(site, table, |_, table| table).squeeze_dim::<2>(0)
    }

    /// What is added to the scores, `[1, heads, queries, keys]`. A prefix counts as if it stood before the text, as a cache does in
    /// transformers.
    fn bias(&self, t: &Tuner, table: &Tensor<2>, queries: usize, keys: usize, both_ways: bool) -> Tensor<4> {
        let prefix = keys - queries;
        let own: Vec<usize> = t.order(queries).map(|at| prefix + at).collect();
        let all = || (0..prefix).chain(own.iter().copied());
        let of = |query: usize| all().map(move |key| self.bucket(key as i64 - query as i64, both_ways) as i64);
        let numbers: Vec<i64> = own.iter().flat_map(|query| of(*query)).collect();
        let numbers = Tensor::<1, Int>::from_data(TensorData::new(numbers, [queries * keys]), &table.device().inner());
        table.clone().select(1, numbers).reshape([1, self.heads, queries, keys])
    }

    /// The bucket of a key that stands so far behind its query (before it, where negative): near ones one by one, far ones by the
    /// logarithm of their distance. Where one looks both ways, each way has half of the buckets. Raffel et al. (2020), section 2.1.
    fn bucket(&self, distance: i64, both_ways: bool) -> usize {
        let (buckets, first) = match both_ways {
            true => (self.buckets / 2, if distance > 0 { self.buckets / 2 } else { 0 }),
            false => (self.buckets, 0),
        };
        let distance = if both_ways { distance.unsigned_abs() } else { distance.min(0).unsigned_abs() } as usize;
        let near = buckets / 2;
        if distance < near {
            return first + distance;
        }
        let far = (distance as f32 / near as f32).ln() / (self.farthest as f64 / near as f64).ln() as f32;
        first + (near + (far * (buckets - near) as f32) as usize).min(buckets - 1)
    }
}
