//! Text encoders with the norm behind each branch: BERT (Devlin et al. 2019), RoBERTa (Liu et al. 2019) and XLM-R, DistilBERT (Sanh
//! et al. 2019), MiniLM (Wang et al. 2020). The whole forward pass is below, straight down; the tuner's calls name its sites.
//! Called through `backbones::Backbone`.

use std::sync::Arc;

use burn::tensor::Tensor;
use serde_json::{Value as Json, json};

use super::folder::Folder;
use super::names::{self, Naming};
use super::tensors::Tensors;
use super::words::Words;
use super::{Backbone, Card, Input, Opened};
use crate::engine::kernels;
use crate::engine::tuner::Tuner;
use crate::plan::anatomy::{Anatomy, Classifier, Entry, Part, Role, Site};
use crate::session::settings::{Field, Settings};
use crate::tasks::classify::Activation;

/// The sizes of one text encoder.
#[derive(Clone, Copy, Debug)]
pub struct Bert {
    pub kind: Kind,
    pub vocabulary: usize,
    pub width: usize,
    pub blocks: usize,
    pub heads: usize,
    pub hidden: usize,
    /// Rows of the table of positions.
    pub positions: usize,
    /// Kinds of segments: 2 where a pair of texts is told apart, 0 where there is no such table.
    pub kinds: usize,
    pub epsilon: f64,
    /// The token that fills a batch up.
    pub padding: usize,
    /// The longest text, in tokens.
    pub length: usize,
    pub pool: Pool,
}

/// Whose network it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Bert,
    /// Positions are counted from the padding token's number on.
    Roberta,
    /// The same under another name.
    XlmRoberta,
    Distil,
}

impl Kind {
    fn is_roberta(self) -> bool {
        matches!(self, Kind::Roberta | Kind::XlmRoberta)
    }
}

/// How the features of all tokens become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pool {
    /// The first token's.
    First,
    /// The first token's through the pretrained dense layer and tanh.
    Pooler,
    /// The mean over all that is no padding.
    Mean,
}

pub const FOLDER: Card = Card {
    name: "bert",
    title: "Text encoder",
    help: "BERT, MiniLM, RoBERTa, XLM-R and DistilBERT of any size, as transformers saves them: a folder with config.json, safetensors and tokenizer.json.",
    source: "The folder that you open",
    licence: "That of the weights you open; see the folder's README",
    fields: &[
        Field::text(super::FOLDER, "", "The folder that holds config.json, model.safetensors and tokenizer.json."),
        super::SOURCE,
        Field::whole("length", 2, 4096, 128, "The longest text in tokens; longer ones are cut. Not more than the model's own."),
        Field::choice(
            "pool",
            &["as the folder", "first token", "pooler", "mean"],
            "What the head reads: the first token, the first token through the pretrained pooler, or the mean of all tokens. Folders of sentence-transformers say which.",
        ),
    ],
    model_types: &["bert", "roberta", "xlm-roberta", "distilbert"],
    open,
};

fn open(set: &Settings) -> Result<Opened, String> {
    let folder = Folder::open(set.text(super::FOLDER))?;
    let bert = Bert::of(&folder, set)?;
    let (path, words) = (folder.path.clone(), Words::of(&folder));
    let weights = move |_, device: &_| {
        let tensors = Tensors::open(&path)?;
        let naming = bert.naming();
        let naming = if tensors.has(&naming.mark()) { *naming } else { naming.bare() };
        let all = naming.tensors(&bert.declare()).map_err(anyhow::Error::msg)?;
        let heads = [
            "classifier",
            "cls",
            "lm_head",
            "pre_classifier",
            "qa_outputs",
            "pooler",
            "vocab_transform",
            "vocab_layer_norm",
            "vocab_projector",
        ];
        let may_stay = |name: &str| {
            let bare = name.strip_prefix(naming.prefix).unwrap_or(name);
            heads.contains(&bare.split('.').next().unwrap_or_default()) || bare == "embeddings.position_ids"
        };
        tensors.weights(&all, &bert.declare(), &may_stay, device)
    };
    Ok(Opened {
        network: Arc::new(bert),
        weights: Box::new(weights),
        prepare: Box::new(move |samples| words.encode(samples, bert.length, [bert.vocabulary, bert.kinds.max(1)])),
    })
}

impl Bert {
    /// What the configuration of a folder says.
    ///
    /// # Errors
    /// In words, when a size is missing or a part is none that this file knows.
    pub fn of(folder: &Folder, set: &Settings) -> Result<Bert, String> {
        let distil = folder.kind() == "distilbert";
        folder.word(if distil { "activation" } else { "hidden_act" }, "gelu", &["gelu"])?;
        folder.word("position_embedding_type", "absolute", &["absolute"])?;
        let whole = |name: &str, short: &str, default| folder.whole_or(if distil { short } else { name }, Some(default));
        let kind = match folder.kind() {
            "bert" => Kind::Bert,
            "roberta" => Kind::Roberta,
            "xlm-roberta" => Kind::XlmRoberta,
            "distilbert" => Kind::Distil,
            kind => {
                return Err(format!("`{kind}` is no text encoder; choose a folder of bert, roberta, xlm-roberta or distilbert"));
            }
        };
        let padding = folder.config["pad_token_id"].as_u64().map_or(usize::from(kind.is_roberta()), |n| n as usize);
        let bert = Bert {
            kind,
            vocabulary: folder.whole_or("vocab_size", Some(30522))?,
            width: whole("hidden_size", "dim", 768)?,
            blocks: whole("num_hidden_layers", "n_layers", 12)?,
            heads: whole("num_attention_heads", "n_heads", 12)?,
            hidden: whole("intermediate_size", "hidden_dim", 3072)?,
            positions: folder.whole_or("max_position_embeddings", Some(512))?,
            kinds: if distil { 0 } else { folder.whole_or("type_vocab_size", Some(2))? },
            epsilon: folder.real_or("layer_norm_eps", 1e-12)?,
            padding,
            length: set.whole("length"),
            pool: Pool::First,
        };
        let longest = bert.longest();
        if longest == 0 || padding >= bert.vocabulary {
            return Err(format!(
                "{}: {} positions and {} tokens leave no room for padding token {padding}",
                folder.path.display(),
                bert.positions,
                bert.vocabulary
            ));
        }
        if !bert.width.is_multiple_of(bert.heads) {
            return Err(format!("{}: {} channels do not divide into {} heads", folder.path.display(), bert.width, bert.heads));
        }
        let pool = bert.pooled_as(folder, set.text("pool"))?;
        Ok(Bert { length: bert.length.min(longest), pool, ..bert })
    }

    /// Sentence-transformers note their pooling in a folder of its own; a classifier of BERT's reads the pooler.
    fn pooled_as(&self, folder: &Folder, chosen: &str) -> Result<Pool, String> {
        let has_pooler = || folder.tensors().is_ok_and(|t| t.names().any(|name| name.ends_with("pooler.dense.weight")));
        let noted = folder.beside("1_Pooling/config.json");
        let says = |old: &str, new: &str| noted.as_ref().is_some_and(|c| c[old] == true || c["pooling_mode"] == new);
        match chosen {
            "first token" => Ok(Pool::First),
            "mean" => Ok(Pool::Mean),
            "pooler" if has_pooler() => Ok(Pool::Pooler),
            "pooler" => Err(format!("{} has no pooler. Choose `first token` or `mean`", folder.path.display())),
            _ if says("pooling_mode_mean_tokens", "mean") => Ok(Pool::Mean),
            _ if says("pooling_mode_cls_token", "cls") => Ok(Pool::First),
            _ if noted.is_some() => Err(format!(
                "{} pools by something else than first token and mean. Choose one of these",
                folder.path.join("1_Pooling/config.json").display()
            )),
            _ if has_pooler() => Ok(Pool::Pooler),
            _ => Ok(Pool::First),
        }
    }

    /// The longest text that there are positions for.
    fn longest(&self) -> usize {
        match self.kind {
            Kind::Roberta | Kind::XlmRoberta => self.positions.saturating_sub(self.padding + 1),
            _ => self.positions,
        }
    }

    /// transformers' classifier on it.
    fn classifier(&self) -> Classifier {
        let other = |why| Classifier::Other { layer: "classifier", why };
        match (self.kind, self.pool) {
            (Kind::Bert, Pool::Pooler) => Classifier::PLAIN,
            (Kind::Bert, _) => {
                other("transformers' classifier of BERT reads the pooler, but the head here reads the tokens themselves")
            }
            (Kind::Roberta | Kind::XlmRoberta, Pool::First) => {
                Classifier::Mlp(["classifier.dense", "classifier.out_proj"], Activation::Tanh)
            }
            (Kind::Roberta | Kind::XlmRoberta, _) => {
                other("transformers' classifier of RoBERTa reads the first token; choose `first token` for `pool`")
            }
            (Kind::Distil, Pool::First) => Classifier::Mlp(["pre_classifier", "classifier"], Activation::Relu),
            (Kind::Distil, _) => {
                other("transformers' classifier of DistilBERT reads the first token; choose `first token` for `pool`")
            }
        }
    }

    fn naming(&self) -> &'static Naming {
        match self.kind {
            Kind::Bert => &names::BERT,
            Kind::Roberta | Kind::XlmRoberta => &names::ROBERTA,
            Kind::Distil => &names::DISTILBERT,
        }
    }

    /// The anatomy of these sizes.
    pub fn declare(&self) -> Anatomy {
        let (d, h) = (self.width, self.hidden);
        let outside = |path: &str, role, place, parts| Site::outside(path, role, place, [d, d], parts);

        let mut tables = vec![Part::new("word", self.vocabulary, d), Part::new("pos", self.positions, d)];
        if self.kinds > 0 {
            tables.push(Part::new("kind", self.kinds, d));
        }
        let mut sites = vec![
            outside("embed", Role::Embed, "embedding", tables),
            outside("embed.norm", Role::Norm, "first norm", Part::norm(d)),
        ];
        for n in 0..self.blocks {
            let mut site = |path: &str, role, place, d_in, d_out, parts| {
                sites.push(Site::within(n, path, role, place, [d_in, d_out], parts))
            };
            site("", Role::Block, "block", d, d, vec![]);
            site(".attn", Role::Attn, "attention", d, d, vec![]);
            site(".attn.q", Role::Q, "q", d, d, Part::dense(d, d));
            site(".attn.k", Role::K, "k", d, d, Part::dense(d, d));
            site(".attn.v", Role::V, "v", d, d, Part::dense(d, d));
            site(".attn.o", Role::O, "o", d, d, Part::dense(d, d));
            site(".norm1", Role::Norm, "norm 1", d, d, Part::norm(d));
            site(".mid", Role::Mid, "between", d, d, vec![]);
            site(".mlp", Role::Mlp, "mlp", d, d, vec![]);
            site(".mlp.up", Role::Up, "up", d, h, Part::dense(d, h));
            site(".mlp.act", Role::Act, "gelu", h, h, vec![]);
            site(".mlp.down", Role::Down, "down", h, d, Part::dense(h, d));
            site(".norm2", Role::Norm, "norm 2", d, d, Part::norm(d));
        }
        sites.push(outside("readout", Role::Head, "readout", vec![]));
        if self.pool == Pool::Pooler {
            sites.push(outside("pooler", Role::Pool, "pooler", Part::dense(d, d)));
        }
        Anatomy {
            blocks: self.blocks,
            width: d,
            heads: self.heads,
            hidden: h,
            tokens: self.length,
            norms_behind: Some(self.epsilon),
            has_classifier: self.config().is_some(),
            classifier: self.classifier(),
            ..Anatomy::of(
                sites,
                Entry::Text { vocabulary: self.vocabulary, padding: self.padding as u32, longest: self.longest() },
                [self.naming(), self.naming()],
            )
        }
    }
}

impl Backbone for Bert {
    fn anatomy(&self) -> Anatomy {
        self.declare()
    }

    fn forward(&self, t: &mut Tuner, input: Input) -> Tensor<3> {
        let text = input.tokens();
        let (batch, n) = (text.rows(), text.length);
        let rows = |t: &Tuner, table: &str, numbers| t.rows("embed", table, numbers).reshape([batch, n, self.width]);
        let mut x =
            rows(t, "word", text.ids.iter().map(|id| i64::from(*id)).collect()) + rows(t, "pos", self.places(&text.seen, n));
        if self.kinds > 0 {
            x = x + rows(t, "kind", text.kinds.iter().map(|kind| i64::from(*kind)).collect()); // [batch, tokens, width]
        }
        let x = t.around("embed", x, |_, x| x);
        let mut x = t.norm("embed.norm", x, self.epsilon);
        t.tap(&x);

        for n in 0..self.blocks {
            let at = |place: &str| format!("blocks.{n}{place}");
            x = t.around(&at(""), x, |t, x| {
                let y = t.around(&at(".attn"), x.clone(), |t, x| t.self_attention(&at(".attn"), x, self.heads));
                let x = t.norm(&at(".norm1"), x + y, self.epsilon);
                let x = t.around(&at(".mid"), x, |_, x| x);
                let y = t.around(&at(".mlp"), x.clone(), |t, x| {
                    let u = t.linear(&at(".mlp.up"), x); // [batch, tokens, hidden]
                    let u = t.around(&at(".mlp.act"), u, |_, u| kernels::gelu(u));
                    t.linear(&at(".mlp.down"), u) // [batch, tokens, width]
                });
                t.norm(&at(".norm2"), x + y, self.epsilon)
            });
            t.tap(&x);
        }
        t.readout("readout", x)
    }

    fn config(&self) -> Option<Json> {
        // The classifiers of transformers read BERT's pooler and the others' first token.
        let (kind, class) = match (self.kind, self.pool) {
            (Kind::Bert, Pool::Pooler) => ("bert", "BertForSequenceClassification"),
            (Kind::Roberta, Pool::First) => ("roberta", "RobertaForSequenceClassification"),
            (Kind::XlmRoberta, Pool::First) => ("xlm-roberta", "XLMRobertaForSequenceClassification"),
            (Kind::Distil, Pool::First) => {
                return Some(json!({
                    "activation": "gelu",
                    "architectures": ["DistilBertForSequenceClassification"],
                    "attention_dropout": 0.0,
                    "dim": self.width,
                    "dropout": 0.0,
                    "hidden_dim": self.hidden,
                    "max_position_embeddings": self.positions,
                    "model_type": "distilbert",
                    "n_heads": self.heads,
                    "n_layers": self.blocks,
                    "pad_token_id": self.padding,
                    "seq_classif_dropout": 0.0,
                    "sinusoidal_pos_embds": false,
                    "vocab_size": self.vocabulary,
                }));
            }
            _ => return None,
        };
        Some(json!({
            "architectures": [class],
            "attention_probs_dropout_prob": 0.0,
            "hidden_act": "gelu",
            "hidden_dropout_prob": 0.0,
            "hidden_size": self.width,
            "intermediate_size": self.hidden,
            "layer_norm_eps": self.epsilon,
            "max_position_embeddings": self.positions,
            "model_type": kind,
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.blocks,
            "pad_token_id": self.padding,
            "type_vocab_size": self.kinds,
            "vocab_size": self.vocabulary,
        }))
    }

    fn pool(&self, t: &mut Tuner, features: Tensor<3>) -> Tensor<2> {
        let [batch, _, d] = features.dims();
        match self.pool {
            Pool::First => features.narrow(1, 0, 1).reshape([batch, d]),
            Pool::Pooler => t.linear("pooler", features.narrow(1, 0, 1)).tanh().reshape([batch, d]),
            Pool::Mean => t.mean(features),
        }
    }
}

impl Bert {
    /// The row of the position table for every token of texts `n` long. RoBERTa counts from its padding token on, and puts all
    /// padding on that one place.
    fn places(&self, seen: &[bool], n: usize) -> Vec<i64> {
        let count = |(at, seen): (usize, &bool)| match self.kind {
            kind if kind.is_roberta() => (if *seen { at + self.padding + 1 } else { self.padding }) as i64,
            _ => at as i64,
        };
        seen.chunks(n).flat_map(|text| text.iter().enumerate().map(count)).collect()
    }
}
