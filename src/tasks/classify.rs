//! Classification: a linear head on the class token, label-smoothed cross-entropy (Szegedy et al. 2016), accuracy. The head is
//! always in the bag; a linear probe is the empty stack with this head. Called by the engine.

use burn::tensor::{Int, Tensor, activation};

use super::Card;
use crate::engine::bag::Bag;
use crate::methods::{Init, ParamSpec};

pub const CARD: Card = Card {
    name: "classify",
    title: "Classify",
    help: "One label for each image, by a linear layer on the class token.",
    fields: &[],
};

/// The head's parameters: d · classes + classes.
pub fn head(width: usize, classes: usize) -> Vec<ParamSpec> {
    vec![ParamSpec::new("weight", width, classes, Init::Normal(0.02)), ParamSpec::new("bias", 1, classes, Init::Zeros)]
}

/// The class token of `features` `[batch, positions, width]`: `[batch, width]`.
pub fn pooled(features: Tensor<3>) -> Tensor<2> {
    features.narrow(1, 0, 1).squeeze_dim::<2>(1)
}

/// `[batch, width]` to logits `[batch, classes]`.
pub fn logits(bag: &Bag, pooled: Tensor<2>) -> Tensor<2> {
    match (bag.params.get("head/weight"), bag.params.get("head/bias")) {
        (Some(w), Some(b)) => burn::tensor::module::linear(pooled, w.clone(), Some(b.clone().squeeze_dim::<1>(0))),
        _ => panic!("the plan puts a head into every bag, but this one has none"),
    }
}

/// Mean cross-entropy `[1]` of logits `[batch, classes]`; a part `smoothing` of every target is spread over all classes.
pub fn loss(logits: Tensor<2>, labels: Tensor<1, Int>, smoothing: f64) -> Tensor<1> {
    let log_p = activation::log_softmax(logits, 1); // [batch, classes]
    let hit = log_p.clone().gather(1, labels.unsqueeze_dim::<2>(1)).mean();
    let even = log_p.mean();
    -(hit * (1.0 - smoothing) + even * smoothing)
}

/// Right answers among logits `[batch, classes]`, given in host memory row by row.
pub fn hits(logits: &[f32], labels: &[u32]) -> usize {
    let classes = logits.len() / labels.len().max(1);
    let right = |(row, label): &(&[f32], &u32)| argmax(row) == **label as usize;
    logits.chunks(classes.max(1)).zip(labels).filter(right).count()
}

/// Index of the largest value; 0 for none.
pub fn argmax(row: &[f32]) -> usize {
    row.iter().enumerate().fold((0, f32::NEG_INFINITY), |best, (n, v)| if *v > best.1 { (n, *v) } else { best }).0
}
