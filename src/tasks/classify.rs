//! Classification: a linear head on the class token, an MLP or one by angles with a margin, label-smoothed cross-entropy (Szegedy et al. 2016), accuracy. The head is
//! always in the bag; a linear probe is the empty stack with this head. Where a data set mixes tasks, the head has the classes
//! of all of them, and here alone it is said that only those of a sample's own task compete for it. Called by the engine.

use std::ops::Range;

use burn::tensor::{Int, Tensor, TensorData, activation};

use super::{Aim, Card};
use crate::datasets::Task;
use crate::engine::bag::Bag;
use crate::engine::kernels;
use crate::methods::{Init, ParamSpec};
use crate::session::settings::{Field, Settings};

pub const CARD: Card = Card {
    name: "classify",
    title: "Classify",
    help: "One label for each sample, by a linear layer on what the backbone pools (its class token, or what its card says), by two layers, or by the angle to a centre of each class.",
    fields: &[
        Field::choice(
            "head",
            &[LINEAR, MLP, COSINE, ZERO_SHOT],
            "A linear layer; a layer of the backbone's width, an activation and a linear layer, as transformers has on RoBERTa, T5 (tanh) and DistilBERT (ReLU); the cosine of the angle between features and a trained centre of each class, as in face recognition; or the likeness to a text about each class, which needs no training but a backbone of two towers.",
        ),
        Field::choice("activation", &Activation::WORDS, "What stands between the two layers of an MLP."),
        Field::text(
            "template",
            "a photo of a {}.",
            "The text about a class, for a zero-shot head: {} stands for the class's name.",
        ),
        Field::real("scale", 1.0, 256.0, 16.0, "Factor s of the cosines, for a head by angles; 64 for thousands of classes."),
        Field::real(
            "margin",
            0.0,
            1.0,
            0.35,
            "For a head by angles: while training, the cosine of the right class must be larger by this margin m (CosFace). 0 trains plain cosines.",
        ),
    ],
};

const LINEAR: &str = "linear";
pub const MLP: &str = "mlp";
const COSINE: &str = "cosine";
/// A head of texts about the classes: Radford et al. (2021), section 3.1.
pub const ZERO_SHOT: &str = "zero-shot";
/// What stands in its pattern for the name of a class.
pub const NAME: &str = "{}";

/// The settings that one kind of head has beside the others.
pub fn fields_of(aim: &Aim) -> &'static [&'static str] {
    match aim {
        Aim::Mlp(_) => &["activation"],
        Aim::Cosine(_) => &["scale", "margin"],
        Aim::ZeroShot(_) => &["template"],
        Aim::Linear | Aim::Contrast => &[],
    }
}

/// What stands between the two layers of an MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    Tanh,
    Relu,
    Gelu,
}

impl Activation {
    const WORDS: [&str; 3] = ["tanh", "relu", "gelu"];

    pub fn named(word: &str) -> Option<Activation> {
        [Activation::Tanh, Activation::Relu, Activation::Gelu].into_iter().find(|one| one.word() == word)
    }

    pub fn word(self) -> &'static str {
        Activation::WORDS[self as usize]
    }

    fn bend(self, x: Tensor<2>) -> Tensor<2> {
        match self {
            Activation::Tanh => x.tanh(),
            Activation::Relu => activation::relu(x),
            Activation::Gelu => kernels::gelu(x.unsqueeze::<3>()).squeeze_dim(0),
        }
    }
}

/// A head by angles: logit s · cos θ; while training s · (cos θ - m) for the right class. CosFace, Wang et al. (2018), equation 4.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Margin {
    pub scale: f64,
    pub margin: f64,
}

impl Margin {
    /// What the task's settings say, which hold every field; none for a linear head.
    pub fn of(set: &Settings) -> Option<Margin> {
        (set.text("head") == COSINE).then(|| Margin { scale: set.real("scale"), margin: set.real("margin") })
    }

    /// Logits `[batch, classes]` for training: those of the right classes held back by the margin.
    pub fn held_back(self, logits: Tensor<2>, labels: &Tensor<1, Int>) -> Tensor<2> {
        let [_, classes] = logits.dims();
        let right: Tensor<2> = labels.clone().one_hot::<2>(classes).float().to_device(&logits.device().inner());
        logits - right * (self.scale * self.margin)
    }
}

/// The head's parameters, none where texts are compared: d · classes + classes, or without the bias, as transformers' classifiers on decoders are. A head by angles
/// has a centre for each class, an MLP d · d + d more.
pub fn head(width: usize, classes: usize, bias: bool, aim: &Aim) -> Vec<ParamSpec> {
    let layer = |weight: &str, shift: &str, outputs: usize| {
        let weight = ParamSpec::new(weight, width, outputs, Init::Normal(0.02));
        [Some(weight), bias.then(|| ParamSpec::new(shift, 1, outputs, Init::Zeros))].into_iter().flatten()
    };
    match aim {
        Aim::Linear => layer("weight", "bias", classes).collect(),
        Aim::Mlp(_) => layer("dense", "dense_bias", width).chain(layer("weight", "bias", classes)).collect(),
        Aim::Cosine(_) => vec![ParamSpec::new("centres", width, classes, Init::Normal(0.02))],
        Aim::ZeroShot(_) | Aim::Contrast => vec![],
    }
}

/// `[batch, width]` to logits `[batch, classes]`.
pub fn logits(aim: &Aim, bag: &Bag, pooled: Tensor<2>) -> Tensor<2> {
    if let (Aim::Cosine(margin), Some(centres)) = (aim, bag.params.get("head/centres")) {
        let unit = |t: Tensor<2>, along: usize| t.clone() / (t.square().sum_dim(along) + TINY).sqrt();
        return unit(pooled, 1).matmul(unit(centres.clone(), 0)) * margin.scale;
    }
    let layer = |x: Tensor<2>, weight: &str, bias: &str| {
        let bias = bag.params.get(bias).map(|b| b.clone().squeeze_dim::<1>(0));
        match bag.params.get(weight) {
            Some(w) => burn::tensor::module::linear(x, w.clone(), bias),
            _ => panic!("the plan puts a head into every bag, but this one has no `{weight}`"),
        }
    };
    let features = match aim {
        Aim::Mlp(activation) => activation.bend(layer(pooled, "head/dense", "head/dense_bias")),
        _ => pooled,
    };
    layer(features, "head/weight", "head/bias")
}

/// Mean cross-entropy `[1]` of logits `[batch, classes]`; a part `smoothing` of every target is spread over all classes.
pub fn loss(logits: Tensor<2>, labels: Tensor<1, Int>, smoothing: f64) -> Tensor<1> {
    loss_among(None, logits, labels, smoothing)
}

/// Keeps a length above zero.
const TINY: f64 = 1e-12;
/// Far below every logit that a network gives, and still a number.
const FAR: f64 = 1e9;

/// The same where only some classes compete for each sample: those with a 1 in `own` `[batch, classes]`. The target is spread
/// over them alone.
pub fn loss_among(own: Option<Tensor<2>>, logits: Tensor<2>, labels: Tensor<1, Int>, smoothing: f64) -> Tensor<1> {
    let masked = match &own {
        Some(own) => logits + (own.clone() - 1.0) * FAR,
        None => logits,
    };
    let log_p = activation::log_softmax(masked, 1); // [batch, classes]
    let hit = log_p.clone().gather(1, labels.unsqueeze_dim::<2>(1)).mean();
    let even = match own {
        Some(own) => ((log_p * own.clone()).sum_dim(1) / own.sum_dim(1)).mean(),
        None => log_p.mean(),
    };
    -(hit * (1.0 - smoothing) + even * smoothing)
}

/// The classes that compete for a sample of task `of`.
fn lane(tasks: &[Task], of: u16, classes: usize) -> Range<usize> {
    match tasks {
        [] | [_] => 0..classes,
        tasks => tasks.get(usize::from(of)).map_or(0..classes, |task| task.first..task.first + task.classes),
    }
}

/// 1 where a class is one of the sample's task, `[batch, classes]` as `logits`; none where all classes are of one task. `of` is
/// the task of each sample.
pub fn own(tasks: &[Task], of: &[u16], logits: &Tensor<2>) -> Option<Tensor<2>> {
    let [batch, classes] = logits.dims();
    let mut values = vec![0.0_f32; batch * classes];
    for (row, of) in values.chunks_mut(classes).zip(of) {
        row[lane(tasks, *of, classes)].fill(1.0);
    }
    let mask = TensorData::new(values, [batch, classes]);
    (tasks.len() > 1).then(|| Tensor::from_data(mask, &logits.device().inner()))
}

/// What is decided for one sample: the logits of the classes of its task, in host memory.
pub struct Rivals<'a> {
    /// Label of the first of them.
    first: usize,
    pub logits: &'a [f32],
}

impl Rivals<'_> {
    /// The label that wins.
    pub fn label(&self) -> u32 {
        (self.first + argmax(self.logits)) as u32
    }

    /// The logit of `label`; none when it does not compete.
    pub fn logit(&self, label: u32) -> Option<f32> {
        self.logits.get((label as usize).checked_sub(self.first)?).copied()
    }

    pub fn cross_entropy(&self, label: u32) -> f64 {
        let top = f64::from(self.logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let sum: f64 = self.logits.iter().map(|v| (f64::from(*v) - top).exp()).sum();
        top + sum.ln() - self.logit(label).map_or(f64::NEG_INFINITY, f64::from)
    }
}

/// What competes for each sample, of logits `[batch, classes]` in host memory row by row; `of` is the task of each.
pub fn rivals<'a>(logits: &'a [f32], tasks: &[Task], of: &[u16]) -> Vec<Rivals<'a>> {
    let classes = (logits.len() / of.len().max(1)).max(1);
    let one = |(row, of): (&'a [f32], &u16)| {
        let lane = lane(tasks, *of, classes);
        Rivals { first: lane.start, logits: &row[lane] }
    };
    logits.chunks(classes).zip(of).map(one).collect()
}

/// Right answers.
pub fn right(rivals: &[Rivals], labels: &[u32]) -> usize {
    rivals.iter().zip(labels).filter(|(rivals, label)| rivals.label() == **label).count()
}

/// Right answers among logits `[batch, classes]` in host memory row by row, where all classes compete.
pub fn hits(logits: &[f32], labels: &[u32]) -> usize {
    right(&rivals(logits, &[], &vec![0; labels.len()]), labels)
}

/// Index of the largest value; 0 for none.
pub fn argmax(row: &[f32]) -> usize {
    row.iter().enumerate().fold((0, f32::NEG_INFINITY), |best, (n, v)| if *v > best.1 { (n, *v) } else { best }).0
}
