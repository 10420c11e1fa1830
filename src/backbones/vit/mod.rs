//! The vision transformer, pre-norm: Dosovitskiy et al., "An Image is Worth 16x16 Words" (2021); with a distillation token, DeiT
//! (Touvron et al. 2021); with LayerScale and SwiGLU, DINOv2 (Oquab et al. 2024); with a norm before the blocks, the image tower of
//! CLIP (Radford et al. 2021). The whole forward pass is below, straight down; the tuner's calls name its sites. Called through `backbones::Backbone`.

mod sizes;

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use burn::tensor::{Device, Tensor, TensorData, activation};
use serde_json::{Value as Json, json};

use super::bend::Bend;
use super::folder::Folder;
use super::names::{self, Naming};
use super::positions::{self, Rule};
use super::tensors::Tensors;
use super::weights;
use super::{Backbone, Card, Input, Opened};
use crate::engine::bag::Weights;
use crate::engine::model::host;
use crate::engine::tuner::Tuner;
use crate::plan::anatomy::{Anatomy, Classifier, Entry, Part, Pixels, Role, Site};
use crate::session::settings::{Field, Settings};

/// The sizes of one vision transformer, and what it has beyond the plain one.
#[derive(Clone, Copy, Debug)]
pub struct Vit {
    pub kind: Kind,
    /// Side of the square image and of a patch, in pixels.
    pub image: usize,
    pub patch: usize,
    pub width: usize,
    pub blocks: usize,
    pub heads: usize,
    /// Width of the MLP's hidden layer.
    pub hidden: usize,
    pub epsilon: f64,
    pub pixels: Pixels,
    /// q, k and v have a bias.
    pub qkv_bias: bool,
    /// A second token after the class token.
    pub distilled: bool,
    /// The patches' layer has a bias.
    pub patch_bias: bool,
    /// A norm between embedding and blocks.
    pub embed_norm: bool,
    /// The MLP bends by x σ(1.702 x) in GELU's place.
    pub bend: Bend,
    /// LayerScale: a factor a channel on what each branch adds.
    pub layer_scale: bool,
    /// The MLP is SwiGLU: `up` makes two halves, SiLU of the first times the second.
    pub swiglu: bool,
    /// Positions are stretched from those of another side.
    pub stretched: bool,
}

/// Whose network it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Vit,
    Deit,
    Dinov2,
    /// The image tower.
    Clip,
    Timm,
    /// As Google released it: a `.npz` archive.
    Google,
}

/// The embedded backbone; `assets/backbones/vit-tiny-32` holds its recipe.
pub const TINY_32: Card = Card {
    name: "vit-tiny-32",
    title: "ViT tiny 32, pretrained",
    help: "A small vision transformer for 32 x 32 images, pretrained on clothes, shapes and invented glyphs. It travels inside the program.",
    source: "Pretrained by examples/pretrain_vit_tiny; recipe and accuracy in assets/backbones/README.md",
    licence: "MIT OR Apache-2.0",
    fields: &[Field::text(
        "weights",
        "pretrained",
        "\"pretrained\", \"random\" (for control experiments), or the path of a safetensors file with this backbone's tensors.",
    )],
    model_types: &[],
    open: tiny,
};

/// A folder that the user has.
pub const FOLDER: Card = Card {
    name: "vit",
    title: "Vision transformer",
    help: "ViT, DeiT, DINOv2 and CLIP's image tower of any size, as transformers or timm save them, a folder with config.json and weights; or one of Google's .npz archives.",
    source: "The folder that you open",
    licence: "That of the weights you open; see the folder's README",
    fields: &[
        Field::text(super::FOLDER, "", "The folder that holds config.json and the weights, or a .npz archive."),
        super::SOURCE,
        Field::whole(
            "side",
            0,
            2048,
            0,
            "Side of the images in pixels, a multiple of the patch; 0 takes the model's own. Positions are interpolated.",
        ),
    ],
    model_types: &["vit", "deit", "dinov2", "clip_vision_model", "timm", "npz"],
    open: folder,
};

const EMBEDDED: &[u8] = include_bytes!("../../../assets/backbones/vit-tiny-32/model.safetensors");

/// Sizes of `vit-tiny-32`.
pub const TINY: Vit = Vit { image: 32, patch: 4, width: 96, blocks: 6, heads: 3, hidden: 192, ..B_16 };

/// ViT-B/16 at 224 pixels: the shapes that papers count on.
pub const B_16: Vit = Vit {
    kind: Kind::Vit,
    image: 224,
    patch: 16,
    width: 768,
    blocks: 12,
    heads: 12,
    hidden: 3072,
    epsilon: 1e-6,
    pixels: Pixels::HALVES,
    qkv_bias: true,
    distilled: false,
    patch_bias: true,
    embed_norm: false,
    bend: Bend::Gelu,
    layer_scale: false,
    swiglu: false,
    stretched: false,
};

fn tiny(set: &Settings) -> Result<Opened, String> {
    let source = set.text("weights").to_owned();
    let weights = move |seed, device: &Device| match source.as_str() {
        "random" => Ok(weights::random(&TINY.declare(), seed, device)),
        "pretrained" => weights::from_bytes(EMBEDDED, &TINY.declare(), "the embedded vit-tiny-32", device),
        path => weights::from_file(Path::new(path), &TINY.declare(), device),
    };
    Ok(Opened { network: Arc::new(TINY), weights: Box::new(weights), prepare: Box::new(|samples| samples.resize(TINY.image)) })
}

fn folder(set: &Settings) -> Result<Opened, String> {
    let folder = Folder::open(set.text(super::FOLDER))?;
    let own = Vit::of(&folder)?;
    let side = own.side(set.whole("side"))?;
    let vit = Vit { image: side, stretched: side != own.image, ..own };
    let path = folder.path;
    Ok(Opened {
        network: Arc::new(vit),
        weights: Box::new(move |_, device| vit.load(&path, own.image, device)),
        prepare: Box::new(move |samples| samples.resize(side)),
    })
}

impl Vit {
    /// The names of its tensors in files.
    fn naming(&self) -> [&'static Naming; 2] {
        match self.kind {
            Kind::Vit => [&names::VIT_4, &names::VIT_5],
            Kind::Deit => [&names::DEIT_4, &names::DEIT_5],
            Kind::Dinov2 if self.swiglu => [&names::DINOV2_GATED, &names::DINOV2_GATED],
            Kind::Dinov2 => [&names::DINOV2_4, &names::DINOV2_5],
            Kind::Clip => [&names::CLIP_4, &names::CLIP_5],
            Kind::Timm => [&names::TIMM, &names::TIMM],
            Kind::Google => [&names::GOOGLE, &names::GOOGLE],
        }
    }

    /// The side of images that is meant where `wanted` pixels are, or 0 for its own.
    ///
    /// # Errors
    /// In words, when it is not whole patches.
    pub(super) fn side(&self, wanted: usize) -> Result<usize, String> {
        let side = if wanted == 0 { self.image } else { wanted };
        match side.is_multiple_of(self.patch) {
            true => Ok(side),
            false => Err(format!("images of {side} pixels are not whole patches of {}; take a multiple of it", self.patch)),
        }
    }

    /// The weights in a folder whose own images have `side` pixels; positions are stretched to this network's.
    fn load(&self, path: &Path, side: usize, device: &Device) -> anyhow::Result<Weights> {
        let tensors = Tensors::open(path)?;
        let own = Vit { image: side, ..*self };
        // Old names or new, of the bare network or of one with a head.
        let named = |naming: &Naming| if tensors.has(&naming.mark()) { *naming } else { naming.bare() };
        let first = |naming: &Naming| naming.module(0, Role::Q).map(|module| format!("{module}.weight")).unwrap_or_default();
        let [old, new] = self.naming().map(named);
        let naming = if tensors.has(&first(&new)) { new } else { old };
        let anatomy = own.declare();
        let all = naming.tensors(&anatomy).map_err(anyhow::Error::msg)?;
        let heads = ["classifier", "head", "pooler", "cls_classifier", "distillation_classifier", "head_dist", "pre_logits"];
        let may_stay = |name: &str| {
            let other_tower = ["text_model.", "visual_projection.", "text_projection.", "logit_scale"];
            if self.kind == Kind::Clip && (other_tower.iter().any(|n| name.starts_with(n)) || name.ends_with("position_ids")) {
                return true;
            }
            let bare = name.strip_prefix(naming.prefix).unwrap_or(name);
            heads.contains(&bare.split(['.', '/']).next().unwrap_or_default()) || bare == "embeddings.mask_token"
        };
        let mut weights = tensors.weights(&all, &anatomy, &may_stay, device)?;
        self.stretch(&mut weights, side, device)?;
        Ok(weights)
    }

    /// Stretches the positions of images of `side` pixels to this network's, where these are others.
    pub(super) fn stretch(&self, weights: &mut Weights, side: usize, device: &Device) -> anyhow::Result<()> {
        if self.stretched {
            let before = weights.get("embed.pos").context("the network has positions")?.clone();
            let (from, to) = (side / self.patch, self.image / self.patch);
            let rule = if self.kind == Kind::Timm { Rule::Antialiased } else { Rule::Plain };
            let values = positions::stretched(&host(before)?, self.width, self.first(), from, to, rule);
            let rows = self.first() + to * to;
            weights.insert("embed.pos".to_owned(), Tensor::from_data(TensorData::new(values, [rows, self.width]), device));
        }
        Ok(())
    }

    /// transformers' classifier on it.
    fn classifier(&self) -> Classifier {
        match self.kind {
            Kind::Vit | Kind::Deit => Classifier::PLAIN,
            Kind::Dinov2 => Classifier::BesideMean,
            Kind::Clip => Classifier::Other {
                layer: "classifier",
                why: "transformers' classifier on CLIP's image tower reads the mean of all patches, and the head here the class token",
            },
            Kind::Timm | Kind::Google => {
                Classifier::Other { layer: "head", why: "transformers has no classifier on a network in another program's names" }
            }
        }
    }

    /// Positions before the first patch.
    fn first(&self) -> usize {
        1 + usize::from(self.distilled)
    }

    /// The anatomy of these sizes.
    pub fn declare(&self) -> Anatomy {
        let d = self.width;
        let grid = self.image / self.patch;
        let tokens = grid * grid + self.first();
        let mut sites = vec![self.embed_site(3 * self.patch * self.patch, tokens)];
        if self.embed_norm {
            sites.push(Site::outside("embed.norm", Role::Norm, "first norm", [d, d], Part::norm(d)));
        }
        sites.extend(self.trunk_sites());
        Anatomy {
            blocks: self.blocks,
            width: d,
            heads: self.heads,
            hidden: self.hidden,
            tokens,
            has_classifier: self.config().is_some(),
            stretched: self.stretched,
            classifier: self.classifier(),
            ..Anatomy::of(sites, Entry::Image { side: self.image, patch: self.patch, pixels: self.pixels }, self.naming())
        }
    }

    /// The site at which patches of so many numbers become so many tokens, those before the first patch among them.
    pub fn embed_site(&self, patch: usize, tokens: usize) -> Site {
        let d = self.width;
        let mut parts: Vec<Part> = Part::dense(patch, d).into_iter().filter(|p| self.patch_bias || p.name != "bias").collect();
        parts.push(Part::new("cls", 1, d));
        if self.distilled {
            parts.push(Part::new("dist", 1, d));
        }
        parts.push(Part::new("pos", tokens, d));
        Site::outside("embed", Role::Embed, "embedding", [patch, d], parts)
    }

    /// The sites of the blocks and of what follows them.
    pub fn trunk_sites(&self) -> Vec<Site> {
        let (d, h) = (self.width, self.hidden);
        let qkv = || Part::dense(d, d).into_iter().filter(|part| self.qkv_bias || part.name != "bias").collect();
        let up = if self.swiglu { 2 * h } else { h };
        let mut sites = vec![];
        for n in 0..self.blocks {
            let mut site = |path: &str, role, place, d_in, d_out, parts| {
                sites.push(Site::within(n, path, role, place, [d_in, d_out], parts))
            };
            site("", Role::Block, "block", d, d, vec![]);
            site(".norm1", Role::Norm, "norm 1", d, d, Part::norm(d));
            site(".attn", Role::Attn, "attention", d, d, vec![]);
            site(".attn.q", Role::Q, "q", d, d, qkv());
            site(".attn.k", Role::K, "k", d, d, qkv());
            site(".attn.v", Role::V, "v", d, d, qkv());
            site(".attn.o", Role::O, "o", d, d, Part::dense(d, d));
            if self.layer_scale {
                site(".scale1", Role::Scale, "scale 1", d, d, vec![Part::new("weight", 1, d)]);
            }
            site(".mid", Role::Mid, "between", d, d, vec![]);
            site(".norm2", Role::Norm, "norm 2", d, d, Part::norm(d));
            site(".mlp", Role::Mlp, "mlp", d, d, vec![]);
            site(".mlp.up", Role::Up, "up", d, up, Part::dense(d, up));
            site(".mlp.act", Role::Act, if self.swiglu { "swiglu" } else { self.bend.word() }, up, h, vec![]);
            site(".mlp.down", Role::Down, "down", h, d, Part::dense(h, d));
            if self.layer_scale {
                site(".scale2", Role::Scale, "scale 2", d, d, vec![Part::new("weight", 1, d)]);
            }
        }
        let last = |path: &str, role, place, parts| Site::outside(path, role, place, [d, d], parts);
        sites.push(last("norm", Role::Norm, "last norm", Part::norm(d)));
        sites.push(last("readout", Role::Head, "readout", vec![]));
        sites
    }
}

impl Backbone for Vit {
    fn anatomy(&self) -> Anatomy {
        self.declare()
    }

    fn forward(&self, t: &mut Tuner, input: Input) -> Tensor<3> {
        let pixels = input.pixels();
        let [batch, channels, side, _] = pixels.dims(); // [batch, 3, side, side]
        let (p, grid) = (self.patch, side / self.patch);
        let patches = pixels.reshape([batch, channels, grid, p, grid, p]).permute([0, 2, 4, 1, 3, 5]).reshape([
            batch,
            grid * grid,
            channels * p * p,
        ]); // [batch, patches, 3 p p]

        let mut x = self.embedded(t, patches);
        if self.embed_norm {
            x = t.norm("embed.norm", x, self.epsilon);
        }
        self.trunk(t, x)
    }

    fn config(&self) -> Option<Json> {
        let mut config = json!({
            "hidden_act": "gelu",
            "hidden_size": self.width,
            "image_size": self.image,
            "intermediate_size": self.hidden,
            "layer_norm_eps": self.epsilon,
            "num_attention_heads": self.heads,
            "num_channels": 3,
            "num_hidden_layers": self.blocks,
            "patch_size": self.patch,
            "qkv_bias": self.qkv_bias,
        });
        let (kind, architecture) = match self.kind {
            Kind::Vit => ("vit", "ViTForImageClassification"),
            // transformers builds every DeiT with both tokens; this head reads the first.
            Kind::Deit if self.distilled => ("deit", "DeiTForImageClassification"),
            _ => return None,
        };
        config["model_type"] = json!(kind);
        config["architectures"] = json!([architecture]);
        config["attention_probs_dropout_prob"] = json!(0.0);
        config["hidden_dropout_prob"] = json!(0.0);
        Some(config)
    }
}

impl Vit {
    /// Patches `[batch, patches, numbers]` as tokens at their positions, behind the class token: `[batch, tokens, width]`.
    pub fn embedded(&self, t: &mut Tuner, patches: Tensor<3>) -> Tensor<3> {
        let [batch, ..] = patches.dims();
        let token = |t: &Tuner, name| t.weight("embed", name).unsqueeze::<3>().expand([batch, 1, self.width]);
        let mut first = vec![token(t, "cls")];
        if self.distilled {
            first.push(token(t, "dist"));
        }
        let pos = t.weight("embed", "pos").unsqueeze::<3>(); // [1, tokens, width]
        first.push(t.linear("embed", patches)); // [batch, patches, width]
        Tensor::cat(first, 1) + pos
    }

    /// Embedded tokens `[batch, tokens, width]` through the blocks to normed features, the same shape.
    pub fn trunk(&self, t: &mut Tuner, mut x: Tensor<3>) -> Tensor<3> {
        t.tap(&x);
        for n in 0..self.blocks {
            let at = |place: &str| format!("blocks.{n}{place}");
            x = t.around(&at(""), x, |t, x| {
                let h = t.norm(&at(".norm1"), x.clone(), self.epsilon);
                let y = t.around(&at(".attn"), h, |t, h| t.self_attention(&at(".attn"), h, self.heads));
                let x = x + self.scale(t, &at(".scale1"), y);
                let x = t.around(&at(".mid"), x, |_, x| x);
                let h = t.norm(&at(".norm2"), x.clone(), self.epsilon);
                let y = t.around(&at(".mlp"), h, |t, h| {
                    let u = t.linear(&at(".mlp.up"), h); // [batch, tokens, hidden]
                    let u = t.around(&at(".mlp.act"), u, |_, u| self.bend(u));
                    t.linear(&at(".mlp.down"), u) // [batch, tokens, width]
                });
                x + self.scale(t, &at(".scale2"), y)
            });
            t.tap(&x);
        }
        let y = t.norm("norm", x, self.epsilon);
        t.readout("readout", y)
    }

    fn scale(&self, t: &mut Tuner, site: &str, y: Tensor<3>) -> Tensor<3> {
        match self.layer_scale {
            true => t.around(site, y, |t, y| y * t.weight(site, "weight").unsqueeze::<3>()),
            false => y,
        }
    }

    fn bend(&self, u: Tensor<3>) -> Tensor<3> {
        match self.swiglu {
            true => {
                let [a, b] = [0, 1].map(|half| u.clone().narrow(2, half * self.hidden, self.hidden));
                activation::silu(a) * b // [batch, tokens, hidden]
            }
            false => self.bend.of(u),
        }
    }
}
