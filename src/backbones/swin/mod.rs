//! The Swin transformer: Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows" (2021), as
//! transformers builds it. Attention within windows, which every second block shifts; between stages four positions become one of twice
//! the width. The whole forward pass is below, straight down; `windows` says which position goes where. Called through `backbones::Backbone`.

mod sizes;
pub mod windows;

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use burn::tensor::{Device, Tensor, TensorData};
use serde_json::{Value as Json, json};

use super::folder::Folder;
use super::names::{Naming, SWIN_4, SWIN_5};
use super::positions::{self, Rule};
use super::tensors::Tensors;
use super::{Backbone, Card, Input, Opened};
use crate::engine::bag::Weights;
use crate::engine::kernels;
use crate::engine::model::host;
use crate::engine::tuner::Tuner;
use crate::plan::anatomy::{Anatomy, Classifier, Entry, Part, Pixels, Role, Site, Stage};
use crate::session::settings::{Field, Settings};
use windows::{Windows, fours, gathered};

/// The sizes of one Swin transformer.
#[derive(Clone, Debug)]
pub struct Swin {
    /// Side of the square image and of a patch, in pixels.
    pub image: usize,
    pub patch: usize,
    /// Width of the first stage; every later one is twice as wide as the one before.
    pub width: usize,
    /// Blocks and heads of each stage.
    pub depths: Vec<usize>,
    pub heads: Vec<usize>,
    /// Side of a window, in positions.
    pub window: usize,
    /// Width of an MLP's hidden layer over that of its stage.
    pub ratio: f64,
    /// Of the blocks' norms and the last one.
    pub epsilon: f64,
    /// q, k and v have a bias.
    pub qkv_bias: bool,
    /// There are position embeddings beside the distances within windows.
    pub positions: bool,
    pub pixels: Pixels,
    /// Side of the images of the folder's own network.
    pub own: usize,
}

/// The norms behind the patches and between the stages keep PyTorch's ε whatever the configuration says.
const EPSILON: f64 = 1e-5;

pub const FOLDER: Card = Card {
    name: "swin",
    title: "Swin transformer",
    help: "Swin transformers of any size, as transformers saves them: a folder with config.json and weights.",
    source: "The folder that you open",
    licence: "That of the weights you open; see the folder's README",
    fields: &[
        Field::text(super::FOLDER, "", "The folder that holds config.json and the weights."),
        super::SOURCE,
        Field::whole(
            "side",
            0,
            2048,
            0,
            "Side of the images in pixels, a multiple of the patch; 0 takes the model's own. Grids that windows do not divide are filled up.",
        ),
    ],
    model_types: &["swin"],
    open: folder,
};

fn folder(set: &Settings) -> Result<Opened, String> {
    let folder = Folder::open(set.text(super::FOLDER))?;
    let swin = Swin::of(&folder)?.at_side(set.whole("side"))?;
    let (network, path, side) = (Arc::new(swin.clone()), folder.path, swin.image);
    Ok(Opened {
        network,
        weights: Box::new(move |_, device| swin.load(&path, device)),
        prepare: Box::new(move |samples| samples.resize(side)),
    })
}

impl Swin {
    /// The weights in a folder; positions are stretched to this network's.
    fn load(&self, path: &Path, device: &Device) -> anyhow::Result<Weights> {
        let tensors = Tensors::open(path)?;
        let own = Swin { image: self.own, ..self.clone() };
        // Old names or new, of the bare network or of one with a head.
        let named = |naming: &Naming| if tensors.has(&naming.mark()) { *naming } else { naming.bare() };
        let anatomy = own.declare();
        let q = anatomy.site("blocks.0.attn.q").context("the network has a block")?;
        let [old, new] = [&SWIN_4, &SWIN_5].map(named);
        let is_new = new.module_of(&anatomy, q).is_some_and(|module| tensors.has(&format!("{module}.weight")));
        let naming = if is_new { new } else { old };
        let all = naming.tensors(&anatomy).map_err(anyhow::Error::msg)?;
        // Heads of other tasks, and the table of which distance is which, which early files hold.
        let may_stay = |name: &str| {
            let bare = name.strip_prefix(naming.prefix).unwrap_or(name);
            ["classifier.", "decoder."].iter().any(|head| bare.starts_with(head))
                || bare == "embeddings.mask_token"
                || bare.ends_with("relative_position_index")
        };
        let mut weights = tensors.weights(&all, &anatomy, &may_stay, device)?;
        if self.positions && self.image != self.own {
            let before = weights.get("embed.pos").context("the network has positions")?.clone();
            let (from, to) = (own.grid(0), self.grid(0));
            let values = positions::stretched(&host(before)?, self.width, 0, from, to, Rule::Plain);
            weights.insert("embed.pos".to_owned(), Tensor::from_data(TensorData::new(values, [to * to, self.width]), device));
        }
        Ok(weights)
    }

    /// Side of a stage's grid.
    fn grid(&self, stage: usize) -> usize {
        (0..stage).fold(self.image / self.patch, |grid, _| grid.div_ceil(2))
    }

    /// Width of a stage, and of its MLPs' hidden layer.
    fn widths(&self, stage: usize) -> (usize, usize) {
        let d = self.width << stage;
        (d, (self.ratio * d as f64) as usize)
    }

    /// The windows of a block, by its number within its stage.
    fn windows(&self, stage: usize, within: usize) -> Windows {
        Windows::of(self.grid(stage), self.window, within % 2 == 1)
    }

    fn stage(&self, n: usize) -> Stage {
        let (width, hidden) = self.widths(n);
        let windows = self.windows(n, 0);
        Stage {
            width,
            heads: self.heads[n],
            hidden,
            tokens: self.grid(n).pow(2),
            attending: windows.side.pow(2),
            window: windows.area(),
        }
    }

    /// The anatomy of these sizes.
    pub fn declare(&self) -> Anatomy {
        let stages: Vec<Stage> = (0..self.depths.len()).map(|n| self.stage(n)).collect();
        let (first, last) = (stages[0], stages[stages.len() - 1]);
        let patch = 3 * self.patch * self.patch;
        let mut embed = Part::dense(patch, first.width);
        if self.positions {
            embed.push(Part::new("pos", first.tokens, first.width));
        }
        let mut sites = Vec::new();
        let mut site = |path: String, role, block, stage, place, (d_in, d_out), parts| {
            sites.push(Site { path, role, block, stage: Some(stage), place, d_in, d_out, parts });
        };
        let mut block = 0;
        for (n, stage) in stages.iter().enumerate() {
            let (d, h, heads) = (stage.width, stage.hidden, stage.heads);
            let same = (d, d);
            if n == 0 {
                site("embed".into(), Role::Embed, None, (0, 0), "embedding", (patch, d), std::mem::take(&mut embed));
                site("embed.norm".into(), Role::Norm, None, (0, 0), "first norm", same, Part::norm(d));
            } else {
                let (path, wide) = (format!("blocks.{}.merge", block - 1), 2 * d); // four positions of half the width
                site(format!("{path}.norm"), Role::Norm, None, (n, 0), "merge norm", (wide, wide), Part::norm(wide));
                site(path, Role::Merge, None, (n, 0), "merge", (wide, d), vec![Part::new("weight", wide, d)]);
            }
            for within in 0..self.depths[n] {
                let mut site = |path: &str, role, place, widths, parts| {
                    site(format!("blocks.{block}{path}"), role, Some(block), (n, within), place, widths, parts);
                };
                let qkv = || Part::dense(d, d).into_iter().filter(|part| self.qkv_bias || part.name != "bias").collect();
                let distances = (2 * self.window - 1).pow(2);
                site("", Role::Block, "block", same, vec![]);
                site(".norm1", Role::Norm, "norm 1", same, Part::norm(d));
                site(".attn", Role::Attn, "attention", same, vec![]);
                site(".attn.q", Role::Q, "q", same, qkv());
                site(".attn.k", Role::K, "k", same, qkv());
                site(".attn.v", Role::V, "v", same, qkv());
                site(".attn.distance", Role::Distance, "distances", (heads, heads), vec![Part::new("weight", distances, heads)]);
                site(".attn.o", Role::O, "o", same, Part::dense(d, d));
                site(".mid", Role::Mid, "between", same, vec![]);
                site(".norm2", Role::Norm, "norm 2", same, Part::norm(d));
                site(".mlp", Role::Mlp, "mlp", same, vec![]);
                site(".mlp.up", Role::Up, "up", (d, h), Part::dense(d, h));
                site(".mlp.act", Role::Act, "gelu", (h, h), vec![]);
                site(".mlp.down", Role::Down, "down", (h, d), Part::dense(h, d));
                block += 1;
            }
        }
        let (d, end) = (last.width, (stages.len() - 1, 0));
        site("norm".into(), Role::Norm, None, end, "last norm", (d, d), Part::norm(d));
        site("readout".into(), Role::Head, None, end, "readout", (d, d), vec![]);
        Anatomy {
            blocks: block,
            width: d,
            heads: last.heads,
            hidden: last.hidden,
            tokens: first.tokens,
            has_classifier: true,
            stretched: self.positions && self.image != self.own,
            stages,
            classifier: Classifier::PLAIN,
            ..Anatomy::of(sites, Entry::Image { side: self.image, patch: self.patch, pixels: self.pixels }, [&SWIN_4, &SWIN_5])
        }
    }
}

impl Backbone for Swin {
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
        let x = t.linear("embed", patches); // [batch, patches, width]
        let mut x = t.norm("embed.norm", x, EPSILON);
        if self.positions {
            x = x + t.weight("embed", "pos").unsqueeze::<3>();
        }

        let mut block = 0;
        for (stage, depth) in self.depths.iter().enumerate() {
            if stage > 0 {
                let at = format!("blocks.{}.merge", block - 1);
                let fewer = self.grid(stage).pow(2);
                let four = gathered(x, &fours(self.grid(stage - 1))); // [batch, 4 · fewer, width]
                let four = four.reshape([batch, fewer, 4 * self.widths(stage - 1).0]);
                let four = t.norm(&format!("{at}.norm"), four, EPSILON);
                x = t.linear(&at, four); // [batch, fewer, 2 width]
            }
            for within in 0..*depth {
                x = self.block(t, &format!("blocks.{block}"), x, self.windows(stage, within));
                block += 1;
            }
        }
        let y = t.norm("norm", x, self.epsilon); // [batch, last positions, last width]
        t.readout("readout", y)
    }

    fn pool(&self, t: &mut Tuner, features: Tensor<3>) -> Tensor<2> {
        t.mean(features)
    }

    fn config(&self) -> Option<Json> {
        Some(json!({
            "architectures": ["SwinForImageClassification"],
            "attention_probs_dropout_prob": 0.0,
            "depths": self.depths,
            "embed_dim": self.width,
            "hidden_act": "gelu",
            "hidden_dropout_prob": 0.0,
            "image_size": self.image,
            "layer_norm_eps": self.epsilon,
            "mlp_ratio": self.ratio,
            "model_type": "swin",
            "num_channels": 3,
            "num_heads": self.heads,
            "patch_size": self.patch,
            "qkv_bias": self.qkv_bias,
            "use_absolute_embeddings": self.positions,
            "window_size": self.window,
        }))
    }
}

impl Swin {
    /// One block: `x` `[batch, positions, width]` to the same.
    fn block(&self, t: &mut Tuner, at: &str, x: Tensor<3>, windows: Windows) -> Tensor<3> {
        t.around(at, x, |t, x| {
            let h = t.norm(&format!("{at}.norm1"), x.clone(), self.epsilon);
            // What fills the windows up is attended to, as in transformers: it is the attention's input like any other.
            let fills = windows.side > windows.grid;
            let h = if fills { gathered(h, &windows.filled()) } else { h }; // [batch, filled positions, width]
            let y = t.around(&format!("{at}.attn"), h, |t, h| self.attention(t, &format!("{at}.attn"), h, windows));
            let y = if fills { gathered(y, &windows.cropped()) } else { y }; // [batch, positions, width]
            let x = t.around(&format!("{at}.mid"), x + y, |_, x| x);
            let h = t.norm(&format!("{at}.norm2"), x.clone(), self.epsilon);
            let y = t.around(&format!("{at}.mlp"), h, |t, h| {
                let u = t.linear(&format!("{at}.mlp.up"), h); // [batch, positions, hidden]
                let u = t.around(&format!("{at}.mlp.act"), u, |_, u| kernels::gelu(u));
                t.linear(&format!("{at}.mlp.down"), u) // [batch, positions, width]
            });
            x + y
        })
    }

    /// Self-attention within windows, `[batch, filled positions, width]` to the same. From q, k and v to o the positions stand
    /// window by window.
    fn attention(&self, t: &mut Tuner, at: &str, h: Tensor<3>, windows: Windows) -> Tensor<3> {
        let h = gathered(h, &windows.cut());
        let qkv = ["q", "k", "v"].map(|layer| t.linear(&format!("{at}.{layer}"), h.clone()));
        let site = format!("{at}.distance");
        let table = t.weight(&site, "weight").unsqueeze::<3>(); // [1, distances, heads]
        let table = t.around(&site, table, |_, table| table).squeeze_dim::<2>(0);
        let y = windows.attention(qkv, table, self.window);
        let y = t.linear(&format!("{at}.o"), y);
        gathered(y, &windows.joined())
    }
}
