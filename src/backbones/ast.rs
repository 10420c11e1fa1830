//! The Audio Spectrogram Transformer: Gong et al., "AST: Audio Spectrogram Transformer" (2021). A vision transformer with class and
//! distillation token (`vit`) over patches of a spectrogram that overlap. Called through `backbones::Backbone`.

use std::sync::Arc;

use anyhow::Context;
use burn::tensor::{Device, Int, Tensor, TensorData};
use serde_json::{Value as Json, json};

use super::folder::Folder;
use super::names::{self, Naming};
use super::tensors::Tensors;
use super::vit::{B_16, Vit};
use super::{Backbone, Card, Input, Opened};
use crate::datasets::log_mel;
use crate::engine::bag::Weights;
use crate::engine::kernels;
use crate::engine::model::host;
use crate::engine::tuner::Tuner;
use crate::plan::anatomy::{Anatomy, Classifier, Entry, Front, Role};
use crate::session::settings::{Field, Settings};

/// The sizes of one.
#[derive(Clone, Copy, Debug)]
pub struct Ast {
    /// Its blocks, and what stands before the patches.
    pub vit: Vit,
    /// Bands of the mel scale, and frames of a spectrogram.
    pub bins: usize,
    pub frames: usize,
    /// From one patch to the next, in bands and in frames.
    pub strides: [usize; 2],
    pub front: Front,
    /// Fewer frames than the folder has positions for.
    pub cut: bool,
}

/// Positions before the first patch.
const FIRST: usize = 2;

pub const FOLDER: Card = Card {
    name: "ast",
    title: "Audio spectrogram transformer",
    help: "AST of any size, as transformers saves it: a folder with config.json, safetensors and preprocessor_config.json.",
    source: "The folder that you open",
    licence: "That of the weights you open; see the folder's README",
    fields: &[
        Field::text(super::FOLDER, "", "The folder that holds config.json and model.safetensors."),
        super::SOURCE,
        Field::real(
            "seconds",
            0.0,
            600.0,
            0.0,
            "How much of a sound is heard: longer ones are cut, shorter ones filled up. 0 takes the model's own, about 10 seconds. Less \
             costs less; the positions are then the model's first.",
        ),
    ],
    model_types: &["audio-spectrogram-transformer"],
    open,
};

fn open(set: &Settings) -> Result<Opened, String> {
    let folder = Folder::open(set.text(super::FOLDER))?;
    let own = Ast::of(&folder)?;
    let frames = match set.real("seconds") {
        0.0 => own.frames,
        seconds => (seconds * (Front::RATE / Front::HOP) as f64).round() as usize,
    };
    if !(own.vit.patch..=own.frames).contains(&frames) {
        let seconds = |frames: usize| frames as f64 * Front::HOP as f64 / Front::RATE as f64;
        return Err(format!(
            "{} hears from {} to {} seconds. Take something between, or 0 for all",
            folder.path.display(),
            seconds(own.vit.patch),
            seconds(own.frames)
        ));
    }
    let ast = Ast { frames, cut: frames < own.frames, ..own };
    let path = folder.path;
    Ok(Opened {
        network: Arc::new(ast),
        weights: Box::new(move |_, device| ast.load(&Tensors::open(&path)?, own, device)),
        prepare: Box::new(move |samples| log_mel::prepare(samples, ast.front, ast.bins, ast.frames)),
    })
}

impl Ast {
    /// What the configuration of a folder says.
    ///
    /// # Errors
    /// In words, when a size is none, or a part is none that this file knows.
    pub fn of(folder: &Folder) -> Result<Ast, String> {
        folder.word("hidden_act", "gelu", &["gelu"])?;
        let noted = folder.ear()?;
        // AudioSet's, where nothing is said.
        let number = |name: &str, usual: f64| noted[name].as_f64().unwrap_or(usual) as f32;
        let (mean, deviation) = match noted["do_normalize"].as_bool() {
            Some(false) => (0.0, 0.5),
            _ => (number("mean", -4.267_739_3), number("std", 4.568_997_4)),
        };
        let vit = Vit {
            patch: folder.whole_or("patch_size", Some(16))?,
            width: folder.whole_or("hidden_size", Some(768))?,
            blocks: folder.whole_or("num_hidden_layers", Some(12))?,
            heads: folder.whole_or("num_attention_heads", Some(12))?,
            hidden: folder.whole_or("intermediate_size", Some(3072))?,
            epsilon: folder.real_or("layer_norm_eps", 1e-12)?,
            qkv_bias: folder.flag_or("qkv_bias", true)?,
            distilled: true,
            ..B_16
        };
        let ast = Ast {
            vit,
            bins: folder.whole_or("num_mel_bins", Some(128))?,
            frames: folder.whole_or("max_length", Some(1024))?,
            strides: [folder.whole_or("frequency_stride", Some(10))?, folder.whole_or("time_stride", Some(10))?],
            front: Front::Kaldi { mean, deviation },
            cut: false,
        };
        let fits = vit.patch <= ast.bins.min(ast.frames) && ast.bins <= 1 << 10 && vit.width.is_multiple_of(vit.heads);
        match fits && deviation > 0.0 {
            true => Ok(ast),
            false => Err(format!(
                "{}: {} channels for {} heads, {} bands and {} frames in patches of {}, a deviation of {deviation}: no network of these sizes can be opened",
                folder.path.display(),
                vit.width,
                vit.heads,
                ast.bins,
                ast.frames,
                vit.patch
            )),
        }
    }

    /// Patches from low tones to high, and from start to end.
    fn grid(&self) -> [usize; 2] {
        [(self.bins - self.vit.patch) / self.strides[0] + 1, (self.frames - self.vit.patch) / self.strides[1] + 1]
    }

    /// The weights in a file for a network of the sizes `own`.
    fn load(&self, tensors: &Tensors, own: Ast, device: &Device) -> anyhow::Result<Weights> {
        let named = |naming: &Naming| if tensors.has(&naming.mark()) { *naming } else { naming.bare() };
        let [old, new] = [named(&names::AST_4), named(&names::AST_5)];
        let first = new.module(0, Role::Q).map(|module| format!("{module}.weight")).unwrap_or_default();
        let naming = if tensors.has(&first) { new } else { old };
        let anatomy = own.declare();
        let all = naming.tensors(&anatomy).map_err(anyhow::Error::msg)?;
        let mut weights = tensors.weights(&all, &anatomy, &|name| name.starts_with("classifier."), device)?;
        if self.cut {
            let all = host(weights.get("embed.pos").context("the network has positions")?.clone())?;
            let (d, [_, from], [rows, to]) = (self.vit.width, own.grid(), self.grid());
            let mut pos = all[..FIRST * d].to_vec();
            for row in 0..rows {
                let at = (FIRST + row * from) * d;
                pos.extend(&all[at..at + to * d]);
            }
            let tokens = FIRST + rows * to;
            weights.insert("embed.pos".to_owned(), Tensor::from_data(TensorData::new(pos, [tokens, d]), device));
        }
        Ok(weights)
    }

    /// The anatomy of these sizes.
    pub fn declare(&self) -> Anatomy {
        let (vit, [rows, cols]) = (&self.vit, self.grid());
        let tokens = FIRST + rows * cols;
        let mut sites = vec![vit.embed_site(vit.patch * vit.patch, tokens)];
        sites.extend(vit.trunk_sites());
        Anatomy {
            blocks: vit.blocks,
            width: vit.width,
            heads: vit.heads,
            hidden: vit.hidden,
            tokens,
            has_classifier: self.config().is_some(),
            stretched: self.cut,
            classifier: Classifier::Normed,
            ..Anatomy::of(
                sites,
                Entry::Sound { bins: self.bins, frames: self.frames, front: self.front },
                [&names::AST_4, &names::AST_5],
            )
        }
    }
}

impl Backbone for Ast {
    fn anatomy(&self) -> Anatomy {
        self.declare()
    }

    fn forward(&self, t: &mut Tuner, input: Input) -> Tensor<3> {
        let x = input.spectrograms(); // [batch, bins, frames]
        let ([batch, ..], p, [rows, cols]) = (x.dims(), self.vit.patch, self.grid());
        // Which bands and frames stand in each patch, one after the other: they overlap.
        let numbers = |patches: usize, stride: usize| {
            let all: Vec<i64> = (0..patches).flat_map(|n| (0..p).map(move |k| (n * stride + k) as i64)).collect();
            Tensor::<1, Int>::from_data(TensorData::new(all, [patches * p]), &x.device())
        };
        let [bands, frames] = [numbers(rows, self.strides[0]), numbers(cols, self.strides[1])];
        let patches = x.select(1, bands).select(2, frames).reshape([batch, rows, p, cols, p]).permute([0, 1, 3, 2, 4]);
        let patches = patches.reshape([batch, rows * cols, p * p]); // [batch, patches, p p]
        let x = self.vit.embedded(t, patches); // [batch, tokens, width]
        self.vit.trunk(t, x)
    }

    /// The mean of class and distillation token, normed: the classifier begins with a norm, whose gain and shift are the head's.
    fn pool(&self, _t: &mut Tuner, features: Tensor<3>) -> Tensor<2> {
        let x = features.narrow(1, 0, FIRST).mean_dim(1); // [batch, 1, width]
        let (device, d) = (x.device(), self.vit.width);
        kernels::layer_norm(x, Tensor::ones([d], &device), Tensor::zeros([d], &device), self.vit.epsilon).squeeze_dim::<2>(1)
    }

    fn config(&self) -> Option<Json> {
        let vit = &self.vit;
        Some(json!({
            "architectures": ["ASTForAudioClassification"],
            "attention_probs_dropout_prob": 0.0,
            "frequency_stride": self.strides[0],
            "hidden_act": "gelu",
            "hidden_dropout_prob": 0.0,
            "hidden_size": vit.width,
            "intermediate_size": vit.hidden,
            "layer_norm_eps": vit.epsilon,
            "max_length": self.frames,
            "model_type": "audio-spectrogram-transformer",
            "num_attention_heads": vit.heads,
            "num_hidden_layers": vit.blocks,
            "num_mel_bins": self.bins,
            "patch_size": vit.patch,
            "qkv_bias": vit.qkv_bias,
            "time_stride": self.strides[1],
        }))
    }
}
