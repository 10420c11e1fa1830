//! The vision transformer, pre-norm: Dosovitskiy et al., "An Image is Worth 16x16 Words" (2021). The whole forward pass is
//! below, straight down; the tuner's calls name its sites. Called through `backbones::Backbone`.

use burn::tensor::{Device, Tensor, activation};

use super::weights;
use super::{Backbone, Card};
use crate::engine::bag::Weights;
use crate::engine::tuner::Tuner;
use crate::plan::anatomy::{Anatomy, Part, Role, Site};
use crate::session::settings::{Field, Settings, Value};

/// The sizes of one vision transformer.
#[derive(Clone, Copy, Debug)]
pub struct Vit {
    /// Side of the square image and of a patch, in pixels.
    pub image: usize,
    pub patch: usize,
    pub width: usize,
    pub blocks: usize,
    pub heads: usize,
    /// Width of the MLP's hidden layer.
    pub hidden: usize,
    pub epsilon: f64,
    /// Weights that travel inside the program.
    pub embedded: Option<&'static [u8]>,
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
    backbone: &TINY,
};

/// Sizes of `vit-tiny-32`.
pub const TINY: Vit = Vit {
    image: 32,
    patch: 4,
    width: 96,
    blocks: 6,
    heads: 3,
    hidden: 192,
    epsilon: 1e-6,
    embedded: Some(include_bytes!("../../assets/backbones/vit-tiny-32/model.safetensors")),
};

/// ViT-B/16 at 224 pixels: the shapes that papers count on. For plans only; it has no weights here.
pub const B_16: Vit =
    Vit { image: 224, patch: 16, width: 768, blocks: 12, heads: 12, hidden: 3072, epsilon: 1e-6, embedded: None };

impl Vit {
    /// The anatomy of these sizes.
    pub fn declare(&self) -> Anatomy {
        let (d, h) = (self.width, self.hidden);
        let grid = self.image / self.patch;
        let tokens = grid * grid + 1;
        let patch = 3 * self.patch * self.patch;
        let vector = |name, cols| Part { name, rows: 1, cols };
        let norm = || vec![vector("weight", d), vector("bias", d)];
        let dense = |d_in, d_out| vec![Part { name: "weight", rows: d_in, cols: d_out }, vector("bias", d_out)];

        let mut sites = vec![Site {
            path: "embed".into(),
            role: Role::Embed,
            block: None,
            place: "embedding",
            d_in: patch,
            d_out: d,
            parts: [dense(patch, d), vec![vector("cls", d), Part { name: "pos", rows: tokens, cols: d }]].concat(),
        }];
        for n in 0..self.blocks {
            let mut site = |path: &str, role, place, d_in, d_out, parts| {
                sites.push(Site { path: format!("blocks.{n}{path}"), role, block: Some(n), place, d_in, d_out, parts });
            };
            site("", Role::Block, "block", d, d, vec![]);
            site(".norm1", Role::Norm, "norm 1", d, d, norm());
            site(".attn", Role::Attn, "attention", d, d, vec![]);
            site(".attn.q", Role::Q, "q", d, d, dense(d, d));
            site(".attn.k", Role::K, "k", d, d, dense(d, d));
            site(".attn.v", Role::V, "v", d, d, dense(d, d));
            site(".attn.o", Role::O, "o", d, d, dense(d, d));
            site(".mid", Role::Mid, "between", d, d, vec![]);
            site(".norm2", Role::Norm, "norm 2", d, d, norm());
            site(".mlp", Role::Mlp, "mlp", d, d, vec![]);
            site(".mlp.up", Role::Up, "up", d, h, dense(d, h));
            site(".mlp.act", Role::Act, "gelu", h, h, vec![]);
            site(".mlp.down", Role::Down, "down", h, d, dense(h, d));
        }
        let last =
            |path: &str, role, place, parts| Site { path: path.into(), role, block: None, place, d_in: d, d_out: d, parts };
        sites.push(last("norm", Role::Norm, "last norm", norm()));
        sites.push(last("readout", Role::Head, "readout", vec![]));
        Anatomy {
            sites,
            blocks: self.blocks,
            width: d,
            heads: self.heads,
            hidden: h,
            tokens,
            image: self.image,
            patch: self.patch,
        }
    }
}

impl Backbone for Vit {
    fn anatomy(&self, _set: &Settings) -> Result<Anatomy, String> {
        Ok(self.declare())
    }

    fn settle(&self, set: &mut Settings) {
        let path = match set.text("weights") {
            "" | "pretrained" | "random" => return,
            path => std::path::absolute(path).ok().and_then(|path| Some(path.to_str()?.to_owned())),
        };
        if let Some(path) = path {
            set.set("weights", Value::Text(path));
        }
    }

    fn weights(&self, set: &Settings, seed: u64, device: &Device) -> anyhow::Result<Weights> {
        let anatomy = self.declare();
        match (set.text("weights"), self.embedded) {
            ("random", _) => Ok(weights::random(&anatomy, seed, device)),
            ("pretrained", Some(bytes)) => weights::from_bytes(bytes, &anatomy, "the embedded vit-tiny-32", device),
            (path, _) => weights::from_file(std::path::Path::new(path), &anatomy, device),
        }
    }

    fn forward(&self, t: &mut Tuner, pixels: Tensor<4>) -> Tensor<3> {
        let [batch, channels, side, _] = pixels.dims(); // [batch, 3, side, side]
        let (p, grid) = (self.patch, side / self.patch);
        let patches = pixels.reshape([batch, channels, grid, p, grid, p]).permute([0, 2, 4, 1, 3, 5]).reshape([
            batch,
            grid * grid,
            channels * p * p,
        ]); // [batch, patches, 3 p p]

        let cls = t.weight("embed", "cls").unsqueeze::<3>().expand([batch, 1, self.width]);
        let pos = t.weight("embed", "pos").unsqueeze::<3>(); // [1, tokens, width]
        let mut x = t.linear("embed", patches); // [batch, patches, width]
        x = Tensor::cat(vec![cls, x], 1) + pos; // [batch, tokens, width]
        t.tap(&x);

        for n in 0..self.blocks {
            let at = |place: &str| format!("blocks.{n}{place}");
            x = t.around(&at(""), x, |t, x| {
                let h = t.norm(&at(".norm1"), x.clone(), self.epsilon);
                let x = x + t.around(&at(".attn"), h, |t, h| self.attention(t, &at(".attn"), h));
                let x = t.around(&at(".mid"), x, |_, x| x);
                let h = t.norm(&at(".norm2"), x.clone(), self.epsilon);
                x + t.around(&at(".mlp"), h, |t, h| {
                    let u = t.linear(&at(".mlp.up"), h); // [batch, tokens, hidden]
                    let u = t.around(&at(".mlp.act"), u, |_, u| activation::gelu(u));
                    t.linear(&at(".mlp.down"), u) // [batch, tokens, width]
                })
            });
            t.tap(&x);
        }
        let y = t.norm("norm", x, self.epsilon);
        t.readout("readout", y)
    }
}

impl Vit {
    /// Multi-head self-attention. Keys and values may be longer than queries (prefixes).
    fn attention(&self, t: &mut Tuner, site: &str, h: Tensor<3>) -> Tensor<3> {
        let split = |x: Tensor<3>| {
            let [batch, positions, width] = x.dims();
            x.reshape([batch, positions, self.heads, width / self.heads]).swap_dims(1, 2) // [batch, heads, positions, d/heads]
        };
        let q = split(t.linear(&format!("{site}.q"), h.clone()));
        let k = split(t.linear(&format!("{site}.k"), h.clone()));
        let v = split(t.linear(&format!("{site}.v"), h));
        let [batch, heads, positions, depth] = q.dims();
        let scores = (q * (depth as f64).powf(-0.5)).matmul(k.swap_dims(2, 3)); // [batch, heads, positions, keys]
        let y = activation::softmax(scores, 3).matmul(v); // [batch, heads, positions, d/heads]
        let y = y.swap_dims(1, 2).reshape([batch, positions, heads * depth]); // [batch, positions, width]
        t.linear(&format!("{site}.o"), y)
    }
}
