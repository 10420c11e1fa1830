//! The encoder of Whisper: Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision" (2022). Two convolutions over a
//! log-mel spectrogram, then a transformer with the norm before each branch. The whole forward pass is below, straight down; the tuner's
//! calls name its sites. Called through `backbones::Backbone`; the decoder is not read.

use std::sync::Arc;

use anyhow::Context;
use burn::tensor::{Device, Tensor, TensorData};
use serde_json::{Value as Json, json};

use super::folder::Folder;
use super::names::{self, Naming};
use super::tensors::Tensors;
use super::{Backbone, Card, Input, Opened};
use crate::datasets::log_mel;
use crate::engine::bag::Weights;
use crate::engine::kernels;
use crate::engine::model::host;
use crate::engine::tuner::Tuner;
use crate::plan::anatomy::{Anatomy, Classifier, Entry, Front, Part, Role, Site};
use crate::session::settings::{Field, Settings};

/// The sizes of one encoder.
#[derive(Clone, Copy, Debug)]
pub struct Whisper {
    /// Bands of the mel scale.
    pub bins: usize,
    pub width: usize,
    pub blocks: usize,
    pub heads: usize,
    /// Width of the MLP's hidden layer.
    pub hidden: usize,
    /// 50 a second.
    pub positions: usize,
    /// Fewer positions than the folder has.
    pub cut: bool,
    /// Outputs of the layer through which transformers' classifier reads.
    pub projector: usize,
}

/// Of every norm.
const EPSILON: f64 = 1e-5;
/// Frames of a spectrogram for one position.
const STRIDE: usize = 2;
/// Frames in a second.
const PER_SECOND: usize = Front::RATE / Front::HOP;

pub const FOLDER: Card = Card {
    name: "whisper",
    title: "Whisper's encoder",
    help: "The encoder of Whisper of any size, as transformers saves it, with or without the decoder: a folder with config.json and safetensors.",
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
            "How much of a sound is heard: longer ones are cut, shorter ones filled up with silence. 0 takes the model's own, 30 seconds. \
             Less costs less; the positions are then the model's first.",
        ),
    ],
    model_types: &["whisper"],
    open,
};

fn open(set: &Settings) -> Result<Opened, String> {
    let folder = Folder::open(set.text(super::FOLDER))?;
    let own = Whisper::of(&folder)?;
    let positions = match set.real("seconds") {
        0.0 => own.positions,
        seconds => (seconds * (PER_SECOND / STRIDE) as f64).round().max(1.0) as usize,
    };
    if positions > own.positions {
        let most = own.positions as f64 * STRIDE as f64 / PER_SECOND as f64;
        return Err(format!("{} has positions for {most} seconds. Take no more, or 0 for all", folder.path.display()));
    }
    let whisper = Whisper { positions, cut: positions < own.positions, ..own };
    let path = folder.path;
    Ok(Opened {
        network: Arc::new(whisper),
        weights: Box::new(move |_, device| whisper.load(&Tensors::open(&path)?, own, device)),
        prepare: Box::new(move |samples| log_mel::prepare(samples, Front::Whisper, whisper.bins, whisper.frames())),
    })
}

impl Whisper {
    /// What the configuration of a folder says.
    ///
    /// # Errors
    /// In words, when a size is none, or a part is none that this file knows.
    pub fn of(folder: &Folder) -> Result<Whisper, String> {
        let place = folder.path.display();
        folder.word("activation_function", "gelu", &["gelu"])?;
        let noted = folder.ear()?;
        for (name, known) in [("hop_length", Front::HOP), ("n_fft", Front::WINDOW)] {
            if noted[name].as_u64().is_some_and(|n| n != known as u64) {
                return Err(format!(
                    "{place}: preprocessor_config.json has `{name}` {}; this program knows {known}",
                    noted[name]
                ));
            }
        }
        if folder.flag_or("use_weighted_layer_sum", false)? {
            return Err(format!(
                "{place}: its classifier reads a sum over all layers (`use_weighted_layer_sum`), and the head here the last. Set it to false to take that"
            ));
        }
        let whisper = Whisper {
            bins: folder.whole_or("num_mel_bins", Some(80))?,
            width: folder.whole_or("d_model", Some(384))?,
            blocks: folder.whole_or("encoder_layers", Some(4))?,
            heads: folder.whole_or("encoder_attention_heads", Some(6))?,
            hidden: folder.whole_or("encoder_ffn_dim", Some(1536))?,
            positions: folder.whole_or("max_source_positions", Some(1500))?,
            cut: false,
            projector: folder.whole_or("classifier_proj_size", Some(256))?,
        };
        if !whisper.width.is_multiple_of(whisper.heads) || whisper.blocks > 1 << 10 || whisper.bins > 1 << 10 {
            return Err(format!(
                "{place}: {} channels for {} heads, {} layers, {} bands: no network of these sizes can be opened",
                whisper.width, whisper.heads, whisper.blocks, whisper.bins
            ));
        }
        Ok(whisper)
    }

    fn frames(&self) -> usize {
        STRIDE * self.positions
    }

    /// The encoder's weights, of the whole model's tensors or of its own, in a file for a network of the sizes `own`.
    fn load(&self, tensors: &Tensors, own: Whisper, device: &Device) -> anyhow::Result<Weights> {
        let bare = names::WHISPER.bare();
        let known = [Naming { prefix: "model.encoder.", ..bare }, names::WHISPER, bare];
        let naming = known.into_iter().find(|naming| tensors.has(&naming.mark())).unwrap_or(names::WHISPER);
        let others = ["model.decoder.", "decoder.", "proj_out.", "projector.", "classifier."];
        let may_stay = |name: &str| others.iter().any(|other| name.starts_with(other));
        let anatomy = own.declare();
        let all = naming.tensors(&anatomy).map_err(anyhow::Error::msg)?;
        let mut weights = tensors.weights(&all, &anatomy, &may_stay, device)?;
        if self.cut {
            let all = host(weights.get("embed.pos").context("the network has positions")?.clone())?;
            let first = TensorData::new(all[..self.positions * self.width].to_vec(), [self.positions, self.width]);
            weights.insert("embed.pos".to_owned(), Tensor::from_data(first, device));
        }
        Ok(weights)
    }

    /// The anatomy of these sizes.
    pub fn declare(&self) -> Anatomy {
        let (d, h) = (self.width, self.hidden);
        let outside = |path: &str, role, place, d_in, parts| Site::outside(path, role, place, [d_in, d], parts);
        let mut sites = vec![
            outside("embed.conv1", Role::Embed, "conv 1", 3 * self.bins, Part::dense(3 * self.bins, d)),
            outside("embed.conv2", Role::Embed, "conv 2", 3 * d, Part::dense(3 * d, d)),
            outside("embed", Role::Embed, "positions", d, vec![Part::new("pos", self.positions, d)]),
        ];
        for n in 0..self.blocks {
            let mut site = |path: &str, role, place, d_in, d_out, parts| {
                sites.push(Site::within(n, path, role, place, [d_in, d_out], parts))
            };
            site("", Role::Block, "block", d, d, vec![]);
            site(".norm1", Role::Norm, "norm 1", d, d, Part::norm(d));
            site(".attn", Role::Attn, "attention", d, d, vec![]);
            site(".attn.q", Role::Q, "q", d, d, Part::dense(d, d));
            site(".attn.k", Role::K, "k", d, d, vec![Part::new("weight", d, d)]);
            site(".attn.v", Role::V, "v", d, d, Part::dense(d, d));
            site(".attn.o", Role::O, "o", d, d, Part::dense(d, d));
            site(".mid", Role::Mid, "between", d, d, vec![]);
            site(".norm2", Role::Norm, "norm 2", d, d, Part::norm(d));
            site(".mlp", Role::Mlp, "mlp", d, d, vec![]);
            site(".mlp.up", Role::Up, "up", d, h, Part::dense(d, h));
            site(".mlp.act", Role::Act, "gelu", h, h, vec![]);
            site(".mlp.down", Role::Down, "down", h, d, Part::dense(h, d));
        }
        sites.push(outside("norm", Role::Norm, "last norm", d, Part::norm(d)));
        sites.push(outside("readout", Role::Head, "readout", d, vec![]));
        Anatomy {
            blocks: self.blocks,
            width: d,
            heads: self.heads,
            hidden: h,
            tokens: self.positions,
            has_classifier: self.config().is_some(),
            stretched: self.cut,
            classifier: Classifier::Projected(self.projector),
            ..Anatomy::of(
                sites,
                Entry::Sound { bins: self.bins, frames: self.frames(), front: Front::Whisper },
                [&names::WHISPER, &names::WHISPER],
            )
        }
    }
}

impl Backbone for Whisper {
    fn anatomy(&self) -> Anatomy {
        self.declare()
    }

    fn forward(&self, t: &mut Tuner, input: Input) -> Tensor<3> {
        let x = input.spectrograms().swap_dims(1, 2); // [batch, frames, bins]
        let x = kernels::gelu(t.linear("embed.conv1", beside(x, 1))); // [batch, frames, width]
        let x = kernels::gelu(t.linear("embed.conv2", beside(x, STRIDE))); // [batch, positions, width]
        let mut x = t.around("embed", x, |t, x| x + t.weight("embed", "pos").unsqueeze::<3>());
        t.tap(&x);

        for n in 0..self.blocks {
            let at = |place: &str| format!("blocks.{n}{place}");
            x = t.around(&at(""), x, |t, x| {
                let h = t.norm(&at(".norm1"), x.clone(), EPSILON);
                let y = t.around(&at(".attn"), h, |t, h| t.self_attention(&at(".attn"), h, self.heads));
                let x = t.around(&at(".mid"), x + y, |_, x| x);
                let h = t.norm(&at(".norm2"), x.clone(), EPSILON);
                let y = t.around(&at(".mlp"), h, |t, h| {
                    let u = t.linear(&at(".mlp.up"), h); // [batch, positions, hidden]
                    let u = t.around(&at(".mlp.act"), u, |_, u| kernels::gelu(u));
                    t.linear(&at(".mlp.down"), u) // [batch, positions, width]
                });
                x + y
            });
            t.tap(&x);
        }
        let y = t.norm("norm", x, EPSILON);
        t.readout("readout", y)
    }

    /// The mean over all positions, silence behind the end of a sound included: what the classifier of transformers reads, too.
    fn pool(&self, _t: &mut Tuner, features: Tensor<3>) -> Tensor<2> {
        features.mean_dim(1).squeeze_dim::<2>(1)
    }

    fn config(&self) -> Option<Json> {
        // The front end of transformers counts in whole seconds.
        self.frames().is_multiple_of(PER_SECOND).then(|| {
            json!({
                "activation_function": "gelu",
                "architectures": ["WhisperForAudioClassification"],
                "classifier_proj_size": self.projector,
                "d_model": self.width,
                "encoder_attention_heads": self.heads,
                "encoder_ffn_dim": self.hidden,
                "encoder_layers": self.blocks,
                "max_source_positions": self.positions,
                "model_type": "whisper",
                "num_mel_bins": self.bins,
                "use_weighted_layer_sum": false,
            })
        })
    }
}

/// What a convolution of three sees at every `stride`th place: the channels of the place before, its own and the next one's, channel by
/// channel, with nothing beyond both ends. `[batch, places, channels]` to `[batch, places / stride, 3 channels]`.
fn beside(x: Tensor<3>, stride: usize) -> Tensor<3> {
    let [batch, places, channels] = x.dims();
    let n = places / stride;
    let nothing = Tensor::zeros([batch, 1, channels], &x.device());
    let x = Tensor::cat(vec![nothing.clone(), x, nothing], 1); // [batch, places + 2, channels]
    let every = |from: usize| {
        let some = x.clone().narrow(1, from, n * stride).reshape([batch, n, stride, channels]);
        some.narrow(2, 0, 1).reshape([batch, n, channels])
    };
    Tensor::stack::<4>((0..3).map(every).collect(), 3).reshape([batch, n, 3 * channels])
}
