//! Text decoders of the Llama family (Touvron et al. 2023): rotary positions, grouped-query attention (Ainslie et al. 2023), root-mean-square
//! norms, SwiGLU (Shazeer 2020). Also Mistral, Qwen2 and SmolLM, which are built alike. The whole forward pass is below, straight
//! down; the tuner's calls name its sites. Called through `backbones::Backbone`.

use std::sync::Arc;

use anyhow::Result;
use burn::tensor::{Device, Tensor, activation};
use serde_json::{Value as Json, json};

use super::folder::Folder;
use super::gguf::Gguf;
use super::names;
use super::rotary::Rotary;
use super::tensors::Tensors;
use super::words::Words;
use super::{Backbone, Card, Input, Opened};
use crate::engine::frozen::Weights;
use crate::engine::kernels;
use crate::engine::tuner::Tuner;
use crate::plan::anatomy::{Anatomy, Classifier, Entry, Part, Role, Site};
use crate::session::settings::{Field, Settings};

/// The sizes of one decoder.
#[derive(Clone, Debug)]
pub struct Llama {
    pub vocabulary: usize,
    pub width: usize,
    pub blocks: usize,
    pub heads: usize,
    /// Heads of keys and values: each serves `heads / groups` of the queries'.
    pub groups: usize,
    /// Channels of a head.
    pub depth: usize,
    pub hidden: usize,
    pub epsilon: f64,
    /// q, k and v have biases (Qwen2), or these and o (`attention_bias`), or the MLP has.
    pub qkv_bias: bool,
    pub o_bias: bool,
    pub mlp_bias: bool,
    pub rotary: Rotary,
    /// The token that fills a batch up. Nobody attends to it.
    pub padding: usize,
    /// The longest text that it was trained for, and the longest here, in tokens.
    pub longest: usize,
    pub length: usize,
    /// The head reads the mean of all tokens instead of the last.
    pub mean: bool,
    /// Bytes that its packed numbers take less than f32 would.
    pub saved: usize,
    /// What its `config.json` says, for the folder of an export.
    pub config: Json,
}

pub const FOLDER: Card = Card {
    name: "llama",
    title: "Llama decoder",
    help: "Llama, Mistral, Qwen2, SmolLM and other decoders that are built alike, of any size: a folder with config.json, safetensors and tokenizer.json, or a GGUF file (Q4_0, Q4_1, Q8_0), whose numbers stay packed.",
    source: "The folder that you open",
    licence: "That of the weights you open; see the folder's README",
    fields: FIELDS,
    model_types: &["llama", "mistral", "qwen2"],
    open,
};

/// Why no classifier of transformers reads what the head here reads.
pub const MEAN: &str = "transformers' classifier of a decoder reads the last token, but the head here reads the mean";

/// The settings of every decoder.
pub const FIELDS: &[Field] = &[
    Field::text(
        super::FOLDER,
        "",
        "The folder that holds config.json, the weights and tokenizer.json; for Llama also a GGUF file.",
    ),
    super::SOURCE,
    Field::whole("length", 2, 4096, 128, "The longest text in tokens; longer ones are cut. Not more than the model's own."),
    Field::choice(
        "pool",
        &["last token", "mean"],
        "What the head reads: the last token, which has seen all others, or the mean of all.",
    ),
];

fn open(set: &Settings) -> Result<Opened, String> {
    let folder = Folder::open(set.text(super::FOLDER))?;
    let llama = Arc::new(Llama::of(&folder, set)?);
    let (words, network) = (Words::of(&folder), llama.clone());
    let weights = move |_, device: &Device| match &folder.gguf {
        None => network.load(&folder, device),
        Some(gguf) => network.load_packed(gguf, device),
    };
    let (length, vocabulary) = (llama.length, llama.vocabulary);
    Ok(Opened {
        network: llama,
        weights: Box::new(weights),
        prepare: Box::new(move |samples| words.encode(samples, length, [vocabulary, 1])),
    })
}

impl Llama {
    /// What the configuration of a folder says.
    ///
    /// # Errors
    /// In words, when a size is missing or a part is none that this file knows.
    pub fn of(folder: &Folder, set: &Settings) -> Result<Llama, String> {
        let fault = |words: String| format!("{}: {words}", folder.path.join("config.json").display());
        folder.is_of(&FOLDER)?;
        folder.word("hidden_act", "silu", &["silu"])?;
        let (width, heads) = (folder.whole("hidden_size")?, folder.whole("num_attention_heads")?);
        let groups = folder.whole_or("num_key_value_heads", Some(heads))?;
        let depth = folder.whole_or("head_dim", Some(width / heads))?;
        if !heads.is_multiple_of(groups) || depth % 2 == 1 || depth == 0 {
            return Err(fault(format!(
                "{heads} heads of {depth} channels do not divide among {groups} heads of keys and values"
            )));
        }
        if folder.config["use_sliding_window"] == true {
            return Err(fault("a sliding window for some of its layers (`use_sliding_window`) is not known here".to_owned()));
        }
        let bias = folder.flag_or("attention_bias", folder.kind() == "qwen2")?;
        let mut longest = folder.whole_or("max_position_embeddings", Some(2048))?;
        if folder.kind() == "mistral" && !folder.config["sliding_window"].is_null() {
            longest = longest.min(folder.whole("sliding_window")?); // within it there is nothing to slide over
        }
        Ok(Llama {
            vocabulary: folder.whole("vocab_size")?,
            width,
            blocks: folder.whole("num_hidden_layers")?,
            heads,
            groups,
            depth,
            hidden: folder.whole("intermediate_size")?,
            epsilon: folder.real_or("rms_norm_eps", 1e-6)?,
            qkv_bias: bias,
            o_bias: bias && folder.kind() != "qwen2",
            mlp_bias: folder.flag_or("mlp_bias", false)?,
            rotary: Rotary::of(folder, depth)?,
            padding: folder.filler(),
            longest,
            length: set.whole("length").min(longest),
            mean: set.text("pool") == "mean",
            saved: folder.gguf.as_ref().map_or(0, |gguf| gguf.saved()),
            config: folder.config.clone(),
        })
    }

    fn load(&self, folder: &Folder, device: &Device) -> Result<Weights> {
        let tensors = Tensors::open(&folder.path)?;
        let naming = if tensors.has(&names::LLAMA.mark()) { names::LLAMA } else { names::LLAMA.bare() };
        let anatomy = self.declare();
        let all = naming.tensors(&anatomy).map_err(anyhow::Error::msg)?;
        // Heads for other ends, and tables that the network works out by itself.
        let may_stay = |name: &str| {
            ["lm_head.", "score."].iter().any(|head| name.starts_with(head)) || name.ends_with("rotary_emb.inv_freq")
        };
        tensors.weights(&all, &anatomy, &may_stay, device)
    }

    /// llama.cpp turns channels that lie side by side where transformers turns those half a head apart: for networks that it calls
    /// llama its files hold the outputs of q and k in that order.
    fn load_packed(&self, gguf: &Gguf, device: &Device) -> Result<Weights> {
        let anatomy = self.declare();
        let all = names::LLAMA_CPP.tensors(&anatomy).map_err(anyhow::Error::msg)?;
        let (depth, half) = (self.depth, self.depth / 2);
        let side_by_side = self.config["model_type"] == "llama";
        let order = |ours: &str, row: usize| match side_by_side && (ours.contains(".attn.q.") || ours.contains(".attn.k.")) {
            true => row / depth * depth + row % half * 2 + row % depth / half,
            false => row,
        };
        let may_stay = |name: &str| matches!(name, "output.weight" | "rope_freqs.weight");
        gguf.weights(&all, &anatomy, &may_stay, &order, device)
    }

    /// The anatomy of these sizes.
    pub fn declare(&self) -> Anatomy {
        let (d, h) = (self.width, self.hidden);
        let (all, shared) = (self.heads * self.depth, self.groups * self.depth);
        let dense = |d_in, d_out, bias: bool| {
            Part::dense(d_in, d_out).into_iter().filter(|part| bias || part.name != "bias").collect::<Vec<_>>()
        };
        let outside = |path: &str, role, place, parts| Site::outside(path, role, place, [d, d], parts);
        let mut sites = vec![outside("embed", Role::Embed, "embedding", vec![Part::new("word", self.vocabulary, d)])];
        for n in 0..self.blocks {
            let mut site = |path: &str, role, place, d_in, d_out, parts| {
                sites.push(Site::within(n, path, role, place, [d_in, d_out], parts))
            };
            site("", Role::Block, "block", d, d, vec![]);
            site(".norm1", Role::Norm, "norm 1", d, d, Part::gain(d));
            site(".attn", Role::Attn, "attention", d, d, vec![]);
            site(".attn.q", Role::Q, "q", d, all, dense(d, all, self.qkv_bias));
            site(".attn.k", Role::K, "k", d, shared, dense(d, shared, self.qkv_bias));
            site(".attn.v", Role::V, "v", d, shared, dense(d, shared, self.qkv_bias));
            site(".attn.o", Role::O, "o", all, d, dense(all, d, self.o_bias));
            site(".mid", Role::Mid, "between", d, d, vec![]);
            site(".norm2", Role::Norm, "norm 2", d, d, Part::gain(d));
            site(".mlp", Role::Mlp, "mlp", d, d, vec![]);
            site(".mlp.gate", Role::Gate, "gate", d, h, dense(d, h, self.mlp_bias));
            site(".mlp.up", Role::Up, "up", d, h, dense(d, h, self.mlp_bias));
            site(".mlp.act", Role::Act, "swiglu", h, h, vec![]);
            site(".mlp.down", Role::Down, "down", h, d, dense(h, d, self.mlp_bias));
        }
        sites.push(outside("norm", Role::Norm, "last norm", Part::gain(d)));
        sites.push(outside("readout", Role::Head, "readout", vec![]));
        Anatomy {
            blocks: self.blocks,
            width: d,
            heads: self.heads,
            hidden: h,
            tokens: self.length,
            causal: true,
            rotary: true,
            has_classifier: self.config().is_some(),
            stretched: self.saved > 0,
            saved: self.saved,
            classifier: if self.mean { Classifier::Other { layer: "score", why: MEAN } } else { Classifier::SCORE },
            ..Anatomy::of(
                sites,
                Entry::Text { vocabulary: self.vocabulary, padding: self.padding as u32, longest: self.longest },
                [&names::LLAMA, &names::LLAMA],
            )
        }
    }

    /// Self-attention in which several heads of queries share one of keys and values. Positions turn queries and keys; a prefix has
    /// none, and the tokens are counted on from it, as transformers counts on from a cache.
    fn attention(&self, t: &mut Tuner, site: &str, h: Tensor<3>) -> Tensor<3> {
        let q = t.linear(&format!("{site}.q"), h.clone()); // [batch, positions, heads · depth]
        let k = t.linear(&format!("{site}.k"), h.clone()); // [batch, prefix + positions, groups · depth]
        let v = t.linear(&format!("{site}.v"), h);
        let [batch, positions, _] = q.dims();
        let [_, keys, shared] = k.dims();
        let prefix = keys - positions;
        let angles = self.rotary.angles(t.order(positions).map(|at| prefix + at), &q.device().inner());
        let q = kernels::rotate(q, &angles);
        let turned = kernels::rotate(k.clone().narrow(1, prefix, positions), &angles);
        let k = if prefix == 0 { turned } else { Tensor::cat(vec![k.narrow(1, 0, prefix), turned], 1) };
        let each = self.heads / self.groups;
        let spread = |x: Tensor<3>| match each {
            1 => x,
            _ => x
                .reshape([batch, keys, self.groups, 1, self.depth])
                .expand([batch, keys, self.groups, each, self.depth])
                .reshape([batch, keys, shared * each]),
        };
        let y = t.attention(q, spread(k), spread(v), self.heads); // [batch, positions, heads · depth]
        t.linear(&format!("{site}.o"), y) // [batch, positions, width]
    }
}

impl Backbone for Llama {
    fn anatomy(&self) -> Anatomy {
        self.declare()
    }

    fn forward(&self, t: &mut Tuner, input: Input) -> Tensor<3> {
        let text = input.tokens();
        let (batch, n) = (text.rows(), text.length);
        let x = t.rows("embed", "word", text.ids.iter().map(|id| i64::from(*id)).collect());
        let x = x.reshape([batch, n, self.width]); // [batch, tokens, width]
        let mut x = t.around("embed", x, |_, x| x);
        t.tap(&x);

        for n in 0..self.blocks {
            let at = |place: &str| format!("blocks.{n}{place}");
            x = t.around(&at(""), x, |t, x| {
                let h = t.rms_norm(&at(".norm1"), x.clone(), self.epsilon);
                let x = x + t.around(&at(".attn"), h, |t, h| self.attention(t, &at(".attn"), h));
                let x = t.around(&at(".mid"), x, |_, x| x);
                let h = t.rms_norm(&at(".norm2"), x.clone(), self.epsilon);
                let y = t.around(&at(".mlp"), h, |t, h| {
                    let g = t.linear(&at(".mlp.gate"), h.clone()); // [batch, tokens, hidden]
                    let u = t.linear(&at(".mlp.up"), h);
                    let u = t.around(&at(".mlp.act"), g, |_, g| activation::silu(g) * u);
                    t.linear(&at(".mlp.down"), u) // [batch, tokens, width]
                });
                x + y
            });
            t.tap(&x);
        }
        let y = t.rms_norm("norm", x, self.epsilon);
        t.readout("readout", y)
    }

    fn pool(&self, t: &mut Tuner, features: Tensor<3>) -> Tensor<2> {
        if self.mean { t.mean(features) } else { t.at_ends(features) }
    }

    fn config(&self) -> Option<Json> {
        // transformers' classifier reads the last token; it finds it by the padding token's number.
        let of_kind = |kind: &str| match kind {
            "llama" => Some("LlamaForSequenceClassification"),
            "mistral" => Some("MistralForSequenceClassification"),
            "qwen2" => Some("Qwen2ForSequenceClassification"),
            _ => None,
        };
        let architecture = of_kind(self.config["model_type"].as_str()?).filter(|_| !self.mean)?;
        let mut config = self.config.clone();
        let fields = config.as_object_mut()?;
        for of_a_file in ["torch_dtype", "dtype", "quantization_config", "_name_or_path", "transformers_version"] {
            fields.remove(of_a_file);
        }
        config["architectures"] = json!([architecture]);
        config["pad_token_id"] = json!(self.padding);
        Some(config)
    }
}
