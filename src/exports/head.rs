//! The classifier as transformers keeps it: what it reads there, what it is called, and where that is what our head is. Called
//! by the exports and the import.

use anyhow::{Context, Result, anyhow, bail};
use burn::tensor::TensorData;

use super::tensors::{self, Named};
use crate::plan::Plan;
use crate::plan::anatomy::{Anatomy, Classifier};
use crate::tasks::Aim;
use crate::tasks::classify::Activation;

/// transformers' classifier of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The name of its last layer.
    pub layer: &'static str,
    before: Before,
    /// A decoder's has no bias, nor has ours on one.
    bias: bool,
}

/// What stands in it before the last layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Before {
    Nothing,
    /// It reads the class token and beside it the mean of all patches (DINOv2): ours has zeros for the mean.
    Mean,
    /// A norm's gain and shift (AST): ours has them in its own weight and bias.
    Norm,
    /// A linear layer with so many outputs (Whisper): ours is both in one. There it does all the work, and the last layer picks the
    /// classes' own.
    Layer(usize),
    /// A square layer of this name and an activation (T5, RoBERTa, DistilBERT): our MLP. A linear layer is written so that the activation leaves it
    /// alone. For tanh the layer makes numbers so small that tanh is straight there, and the last layer makes them large again; for ReLU it gives every
    /// class's logit twice, once turned over, and the last layer takes the one that is positive.
    Mlp(&'static str, Activation),
}

const NORM: &str = "classifier.layernorm";
const PROJECTOR: &str = "projector";
/// How small tanh gets its numbers: a power of two, which costs no digit. tanh x = x (1 - x²/3 + ..), so that of a feature of 100 one part in a
/// million is lost.
const SMALL: f32 = 1.0 / 65536.0;
/// The largest factor that is read as such a one.
const SMALL_ENOUGH: f32 = 1.0 / 1024.0;

impl Head {
    /// The one that a plan's classifier leaves as.
    ///
    /// # Errors
    /// In words, where transformers' is none that it can be written as.
    pub fn of_plan(plan: &Plan) -> Result<Head, String> {
        let ours = match plan.aim {
            Aim::Linear => None,
            Aim::Mlp(activation) => Some(activation),
            Aim::Cosine(_) => {
                return Err("the classifier goes by angles to a centre of each class, which transformers has not".to_owned());
            }
            Aim::ZeroShot(_) | Aim::Contrast => return Err("texts stand in the classifier's place".to_owned()),
        };
        let head = Head::of(&plan.anatomy)?;
        let classes = plan.classes.len();
        match (ours, head.before) {
            (None, Before::Layer(outputs)) if classes > outputs => Err(format!(
                "transformers' classifier of this network reads through {outputs} channels, which are too few for {classes} classes"
            )),
            (None, Before::Mlp(_, Activation::Relu)) if 2 * classes > plan.anatomy.width => Err(format!(
                "a linear head of {classes} classes is more than the ReLU in transformers' classifier of this network lets through; train it with the head `mlp`"
            )),
            (Some(ours), Before::Mlp(_, theirs)) if ours == theirs => Ok(head),
            (Some(ours), Before::Mlp(_, theirs)) => {
                Err(format!("the MLP has {} in it, transformers' classifier of this network {}", ours.word(), theirs.word()))
            }
            (Some(_), _) => Err("the classifier is an MLP, and transformers' of this network is none".to_owned()),
            (None, _) => Ok(head),
        }
    }

    /// The head of a network of this anatomy.
    ///
    /// # Errors
    /// In words, where transformers' classifier is none that ours can be written as.
    pub fn of(anatomy: &Anatomy) -> Result<Head, String> {
        let plain = Head { layer: "classifier", before: Before::Nothing, bias: true };
        Ok(match anatomy.classifier {
            Classifier::Linear { layer, bias } => Head { layer, bias, ..plain },
            Classifier::BesideMean => Head { before: Before::Mean, ..plain },
            Classifier::Normed => Head { layer: "classifier.dense", before: Before::Norm, ..plain },
            Classifier::Projected(outputs) => Head { before: Before::Layer(outputs), ..plain },
            Classifier::Mlp([dense, layer], activation) => Head { layer, before: Before::Mlp(dense, activation), ..plain },
            Classifier::Other { why, .. } => return Err(why.to_owned()),
        })
    }

    /// What stands between its two layers, where it has two.
    pub fn activation(self) -> Option<Activation> {
        match self.before {
            Before::Mlp(_, activation) => Some(activation),
            _ => None,
        }
    }

    /// Its tensors, `classifier.weight` and `classifier.bias`, from the bag's values, for a plan of which `of_plan` gave it.
    pub fn theirs(self, bag: &Named) -> Result<Named> {
        let of = |key: &str| bag.get(key).with_context(|| format!("the run's adapter lacks `{key}`"));
        let weight = of("head/weight")?; // [width, classes]
        let &[width, classes] = weight.shape().as_slice() else { bail!("`head/weight` is no matrix") };
        let mut all = Named::new();
        let mut put = |layer: &str, weight: TensorData, bias: Option<TensorData>| {
            all.insert(format!("{layer}.weight"), weight);
            all.extend(bias.map(|bias| (format!("{layer}.bias"), bias)));
        };
        let bias =
            self.bias.then(|| of("head/bias").and_then(|bias| tensors::shaped("head/bias", bias, &[classes]))).transpose()?;
        let turned = tensors::turned("head/weight", weight)?; // [classes, width]
        let is_mlp = bag.contains_key("head/dense");
        if is_mlp && self.activation().is_none() {
            bail!("transformers' classifier of this network has no place for `head/dense`");
        }
        match self.before {
            Before::Nothing => put(self.layer, turned, bias),
            Before::Mean => {
                let beside = tensors::stacked("head/weight", weight, weight, 0.0)?; // [2 width, classes]
                put(self.layer, tensors::turned("head/weight", &beside)?, bias);
            }
            Before::Norm => {
                put(NORM, TensorData::ones::<f32, _>([width]), Some(TensorData::zeros::<f32, _>([width])));
                put(self.layer, turned, bias);
            }
            Before::Mlp(name, _) if is_mlp => {
                let shift = tensors::shaped("head/dense_bias", of("head/dense_bias")?, &[width])?;
                put(name, tensors::turned("head/dense", of("head/dense")?)?, Some(shift));
                put(self.layer, turned, bias);
            }
            Before::Mlp(dense, Activation::Relu) => {
                let rows = tensors::values("head/weight", &turned)?;
                let mut twice = [rows.clone(), rows.iter().map(|v| -v).collect()].concat();
                twice.resize(width * width, 0.0);
                put(dense, TensorData::new(twice, [width, width]), Some(TensorData::zeros::<f32, _>([width])));
                put(self.layer, TensorData::new(positive(classes, width), [classes, width]), bias);
            }
            Before::Mlp(dense, _) => {
                let scaled = |n: usize| if n.is_multiple_of(width + 1) { SMALL } else { 0.0 };
                let small = (0..width * width).map(scaled).collect::<Vec<f32>>();
                put(dense, TensorData::new(small, [width, width]), Some(TensorData::zeros::<f32, _>([width])));
                let large = tensors::values("head/weight", &turned)?.into_iter().map(|v| v / SMALL).collect::<Vec<f32>>();
                put(self.layer, TensorData::new(large, [classes, width]), bias);
            }
            Before::Layer(outputs) => {
                let filled = |values: Option<Vec<f32>>, count: usize| {
                    let mut values = values.unwrap_or_default();
                    values.resize(count, 0.0);
                    values
                };
                let rows = filled(Some(tensors::values("head/weight", &turned)?), outputs * width);
                let shift = filled(bias.map(|bias| tensors::values("head/bias", &bias)).transpose()?, outputs);
                put(PROJECTOR, TensorData::new(rows, [outputs, width]), Some(TensorData::new(shift, [outputs])));
                let own = (0..classes * outputs).map(|n| f32::from(u8::from(n % outputs == n / outputs))).collect::<Vec<_>>();
                put(self.layer, TensorData::new(own, [classes, outputs]), Some(TensorData::zeros::<f32, _>([classes])));
            }
        }
        Ok(all)
    }

    /// `head/weight` and, where there is one, `head/bias` from transformers' tensors, for features of `width` channels; of an MLP `head/dense` and
    /// `head/dense_bias`, too. `of` gives a tensor by its whole name.
    pub fn ours(self, of: impl Fn(&str) -> Result<TensorData>, width: usize) -> Result<Named> {
        let (name, bias_name) = (format!("{}.weight", self.layer), format!("{}.bias", self.layer));
        let weight = of(&name)?;
        let turned = tensors::turned(&name, &weight)?; // [inputs, classes]
        let &[inputs, classes] = turned.shape().as_slice() else { bail!("`{name}` is no matrix") };
        let wanted = match self.before {
            Before::Mean => 2 * width,
            Before::Layer(outputs) => outputs,
            Before::Nothing | Before::Norm | Before::Mlp(..) => width,
        };
        let bias = self.bias.then(|| of(&bias_name)).transpose()?;
        let outputs = bias.as_ref().map_or(classes, |bias| bias.shape().num_elements());
        if inputs != wanted || outputs != classes {
            bail!(
                "`{name}` is {:?} with a bias of {outputs}, but a classifier of this network reads {wanted} channels",
                weight.shape().as_slice(),
            );
        }
        let (mut own, mut shift) = (tensors::values(&name, &turned)?, None);
        if let Some(bias) = bias {
            shift = Some(tensors::values(&bias_name, &bias)?);
        }
        // What stands before it.
        let before = |layer: &str, rows: &[usize]| -> Result<[Vec<f32>; 2]> {
            let (name, bias_name) = (format!("{layer}.weight"), format!("{layer}.bias"));
            let (weight, bias) = (of(&name)?, of(&bias_name)?);
            if weight.shape().as_slice() != rows || bias.shape().as_slice() != &rows[..1] {
                bail!("`{name}` is {:?}, but in a classifier of this network it is {rows:?}", weight.shape().as_slice());
            }
            Ok([tensors::values(&name, &weight)?, tensors::values(&bias_name, &bias)?])
        };
        let mut all = Named::new();
        // Where that is linear: both in one.
        let through = |shift: Vec<f32>, of: &[f32], own: &[f32]| -> Vec<f32> {
            let more = |class: usize| {
                of.iter().enumerate().map(|(n, v)| f64::from(*v) * f64::from(own[n * classes + class])).sum::<f64>()
            };
            shift.iter().enumerate().map(|(class, v)| (f64::from(*v) + more(class)) as f32).collect()
        };
        match self.before {
            Before::Nothing => {}
            Before::Mean => {
                if own.split_off(width * classes).iter().any(|v| *v != 0.0) {
                    bail!("`{name}` also reads the mean of all patches, which the head here does not");
                }
            }
            Before::Norm => {
                let [gain, bias] = before(NORM, &[width])?;
                shift = shift.map(|shift| through(shift, &bias, &own));
                own.chunks_mut(classes).zip(gain).for_each(|(row, gain)| row.iter_mut().for_each(|v| *v *= gain));
            }
            Before::Mlp(dense, activation) => {
                let [rows, bias] = before(dense, &[width, width])?; // [outputs, width]
                match straight(activation, [&rows, &bias, &own], width, classes) {
                    Some(straight) => own = straight,
                    None => {
                        let rows = tensors::turned(dense, &TensorData::new(rows, [width, width]))?;
                        all.insert("head/dense".to_owned(), rows);
                        all.insert("head/dense_bias".to_owned(), TensorData::new(bias, [1, width]));
                    }
                }
            }
            Before::Layer(outputs) => {
                let [rows, bias] = before(PROJECTOR, &[outputs, width])?; // [outputs, width]
                shift = shift.map(|shift| through(shift, &bias, &own));
                let column = |n: usize| rows.iter().skip(n).step_by(width).copied().collect::<Vec<_>>();
                own = (0..width).flat_map(|n| through(vec![0.0; classes], &column(n), &own)).collect();
            }
        }
        all.insert("head/weight".to_owned(), TensorData::new(own, [width, classes]));
        all.extend(shift.map(|shift| ("head/bias".to_owned(), TensorData::new(shift, [1, classes]))));
        Ok(all)
    }

    /// The same from tensors that have been read.
    pub fn among(self, found: &Named, width: usize) -> Result<Named> {
        let part = |name: &str, layer: &str, bias: bool| {
            name.strip_prefix(layer).is_some_and(|rest| rest == ".weight" || (bias && rest == ".bias"))
        };
        let known = |name: &str| match self.before {
            _ if part(name, self.layer, self.bias) => true,
            Before::Norm => part(name, NORM, true),
            Before::Layer(_) => part(name, PROJECTOR, true),
            Before::Mlp(dense, _) => part(name, dense, true),
            Before::Nothing | Before::Mean => false,
        };
        if let Some(name) = found.keys().find(|name| !known(name)) {
            bail!("`{name}` is no part of a classifier as this network has it");
        }
        self.ours(|name| found.get(name).cloned().ok_or_else(|| anyhow!("it lacks `{name}`")), width)
    }
}

/// The last layer `[classes, width]` that takes of each class what comes as it is, less what comes turned over.
fn positive(classes: usize, width: usize) -> Vec<f32> {
    let one = |n: usize| match n % width {
        col if col == n / width => 1.0,
        col if col == classes + n / width => -1.0,
        _ => 0.0,
    };
    (0..classes * width).map(one).collect()
}

/// The weight `[width, classes]` of the linear layer that was written as these two with an activation between them: weight
/// `[width, width]` and bias of the first, weight `[width, classes]` of the last. None where they are a true MLP.
fn straight(activation: Activation, [rows, bias, last]: [&[f32]; 3], width: usize, classes: usize) -> Option<Vec<f32>> {
    if bias.iter().any(|v| *v != 0.0) {
        return None;
    }
    match activation {
        Activation::Tanh => {
            let factor = rows.first().copied().unwrap_or_default();
            let plain = |(n, v): (usize, &f32)| *v == if n.is_multiple_of(width + 1) { factor } else { 0.0 };
            let is_one = (0.0..=SMALL_ENOUGH).contains(&factor) && rows.iter().enumerate().all(plain);
            is_one.then(|| last.iter().map(|v| v * factor).collect())
        }
        Activation::Relu if 2 * classes <= width => {
            let (there, turned) = rows.split_at(classes * width);
            let wanted = positive(classes, width);
            let is_one = there.iter().zip(turned).all(|(a, b)| *a == -b)
                && (0..width * classes).all(|n| last[n] == wanted[n % classes * width + n / classes]);
            is_one.then(|| (0..width * classes).map(|n| there[n % classes * width + n / classes]).collect())
        }
        _ => None,
    }
}
