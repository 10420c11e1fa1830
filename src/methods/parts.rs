//! Phrases that several methods share. Knows no method.

use std::ops::RangeInclusive;

use burn::tensor::{IndexingUpdateOp, Int, Tensor, TensorData, activation};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Init, ParamSpec};
use crate::engine::bag::At;
use crate::engine::kernels;
use crate::plan::anatomy::Role;
use crate::session::settings::{Field, Settings};

/// Every linear layer of a block, and those that merge positions between stages.
pub const LINEAR: &[Role] = EVERY_LINEAR.split_at(1).1;
/// And the one over patches, or over what stands beside each other in a sound.
pub const EVERY_LINEAR: &[Role] =
    &[Role::Embed, Role::Q, Role::K, Role::V, Role::O, Role::Gate, Role::Up, Role::Down, Role::Merge];
/// Attention and MLP, each as a whole.
pub const BRANCHES: &[Role] = &[Role::Attn, Role::Mlp];

/// Bound of PyTorch's default for a linear layer of `d_in` inputs: Kaiming-uniform with a = sqrt 5 (He et al. 2015).
pub fn kaiming(d_in: usize) -> Init {
    Init::Uniform(1.0 / (d_in as f64).sqrt())
}

pub const DROPOUT: Field = Field::real("dropout", 0.0, 0.9, 0.0, "Part of the method's inputs set to zero while training.");

/// Sets a part of `x` `[batch, positions, channels]` to zero while training and scales the rest up, so that the mean stays.
/// Every sample draws from a stream of its own: a batch that is cut drops the same.
pub fn dropout(at: &At, x: Tensor<3>) -> Tensor<3> {
    dropout_of(at, 0, x)
}

/// The same for the `n`-th of several tensors of one placement, each with zeros of its own.
pub fn dropout_of(at: &At, n: u64, x: Tensor<3>) -> Tensor<3> {
    let rate = at.set.real("dropout");
    if rate <= 0.0 || at.noise().is_none() {
        return x;
    }
    let [batch, positions, channels] = x.dims();
    let kept = (1.0 / (1.0 - rate)) as f32;
    let mut mask = Vec::with_capacity(batch * positions * channels);
    for row in 0..batch {
        let mut rng = ChaCha8Rng::seed_from_u64(at.noise_of(row).unwrap_or_default().wrapping_add(n));
        mask.extend((0..positions * channels).map(|_| if rng.random_bool(rate) { 0.0 } else { kept }));
    }
    let mask = Tensor::<3>::from_data(TensorData::new(mask, x.dims()), &x.device().inner());
    x * mask
}

/// Does `work` once for every task that is in the batch, with its number and its samples of `x` `[batch, positions, channels]`;
/// the answers come in the batch's order. Work is done by task and not by sample, so that no weight is copied for each sample.
pub fn by_task(at: &At, x: Tensor<3>, work: impl Fn(usize, Tensor<3>) -> Tensor<3>) -> Tensor<3> {
    let tasks = at.tasks();
    let mut order: Vec<usize> = (0..tasks.len()).collect();
    order.sort_by_key(|row| tasks[*row]);
    let groups: Vec<&[usize]> = order.chunk_by(|a, b| tasks[*a] == tasks[*b]).collect();
    if let [] | [_] = groups.as_slice() {
        return work(tasks.first().map_or(0, |task| usize::from(*task)), x);
    }
    let device = x.device().inner();
    let rows = |rows: Vec<usize>| {
        let numbers: Vec<i64> = rows.iter().map(|row| *row as i64).collect();
        Tensor::<1, Int>::from_data(TensorData::new(numbers, [rows.len()]), &device)
    };
    let one = |group: &&[usize]| work(usize::from(tasks[group[0]]), x.clone().select(0, rows(group.to_vec())));
    let answers = Tensor::cat(groups.iter().map(one).collect(), 0); // [batch, positions, channels], task after task
    let mut back: Vec<usize> = (0..order.len()).collect();
    back.sort_by_key(|row| order[*row]);
    answers.select(0, rows(back))
}

/// `a` then `b` along positions. The frozen trunk's tensors join the graph only here, where they meet a trained one.
pub fn join(a: Tensor<3>, b: Tensor<3>) -> Tensor<3> {
    let tracked = a.is_autodiff() || b.is_autodiff();
    match tracked {
        true => Tensor::cat(vec![a.autodiff(), b.autodiff()], 1),
        false => Tensor::cat(vec![a, b], 1),
    }
}

/// A row `[1, channels]`, or any matrix, under an axis for the batch, to meet activations.
pub fn row(v: Tensor<2>) -> Tensor<3> {
    v.unsqueeze::<3>()
}

pub const ACTIVATION: Field = Field::choice(
    "activation",
    &["relu", "gelu", "silu", "identity"],
    "The bend between down and up; identity leaves a low-rank linear change.",
);

pub fn bend(name: &str, x: Tensor<3>) -> Tensor<3> {
    match name {
        "gelu" => kernels::gelu(x),
        "silu" => activation::silu(x),
        "identity" => x,
        _ => activation::relu(x),
    }
}

/// `x · W + b`: `[batch, positions, d_in]` by `[d_in, d_out]` and `[1, d_out]`.
pub fn dense(x: Tensor<3>, w: Tensor<2>, b: Tensor<2>) -> Tensor<3> {
    burn::tensor::module::linear(x, w, Some(b.squeeze_dim::<1>(0)))
}

/// W `[d_in, d_out]` of a linear layer that is called `name`, and its b `[1, d_out]`, which starts at zero.
pub fn linear(name: &str, d_in: usize, d_out: usize, init: Init) -> [ParamSpec; 2] {
    [ParamSpec::new(name, d_in, d_out, init).matrix(), ParamSpec::new(format!("{name}_bias"), 1, d_out, Init::Zeros)]
}

/// `x` through the placement's linear layer `name`: `[batch, positions, d_in]` to `[batch, positions, d_out]`.
pub fn through(at: &At, name: &str, x: Tensor<3>) -> Tensor<3> {
    dense(x, at.param(name), at.param(&format!("{name}_bias")))
}

/// UniPELT's gate: Mao et al., "UniPELT: A Unified Framework for Parameter-Efficient Language Model Tuning" (2022).
pub const GATE: Field =
    Field::flag("gate", false, "UniPELT: a trained gate, one number from 0 to 1 for each image, weighs what the method adds.");

/// The gate's w `[d, 1]` and b `[1, 1]`, which start it close to one half.
pub fn gate_params(d: usize) -> [ParamSpec; 2] {
    [ParamSpec::new("gate", d, 1, Init::Normal(0.02)), ParamSpec::new("gate_bias", 1, 1, Init::Zeros)]
}

/// How far the gate is open for each sample: the mean over positions of sigmoid(x w + b).
pub fn gate(at: &At, x: Tensor<3>, w: Tensor<2>, b: Tensor<2>) -> Tensor<3> {
    mean(at, activation::sigmoid(dense(x, w, b))) // [batch, 1, 1]
}

/// `x` `[batch, positions, channels]` with zeros where a text is filled up.
pub fn without_padding(at: &At, x: Tensor<3>) -> Tensor<3> {
    let [_, positions, _] = x.dims();
    match at.keys_seen(positions, positions) {
        Some(seen) => x * seen.unsqueeze_dim::<3>(2), // [batch, positions, 1]
        None => x,
    }
}

/// The mean over all positions that are no padding, `[batch, 1, channels]`.
pub fn mean(at: &At, x: Tensor<3>) -> Tensor<3> {
    let [_, positions, _] = x.dims();
    match at.keys_seen(positions, positions) {
        Some(seen) => without_padding(at, x).sum_dim(1) / seen.sum_dim(1).unsqueeze_dim::<3>(2),
        None => x.mean_dim(1),
    }
}

/// Why a gated change does not fold.
pub fn gated(set: &Settings) -> Option<&'static str> {
    set.flag("gate").then_some("with `gate` on changes the weights for each image differently")
}

/// The numbers in `range` that fit, in words: "1, 2, 4".
pub fn fitting(range: RangeInclusive<usize>, fits: impl Fn(usize) -> bool) -> String {
    range.filter(|n| fits(*n)).map(|n| n.to_string()).collect::<Vec<_>>().join(", ")
}

/// A mask of the `count` highest scores: 1 for them, 0 for the rest. Of equal scores the earlier wins.
pub fn strongest(scores: &[f32], count: usize) -> Vec<f32> {
    let mut mask = vec![0.0; scores.len()];
    largest(scores, count).into_iter().for_each(|n| mask[n] = 1.0);
    mask
}

/// Positions are kept as f32, which counts exactly up to here.
pub const EXACT: usize = 1 << 24;

/// Positions of the `k` largest of `scores`, in rising order; of equal ones the first.
pub fn largest(scores: &[f32], k: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    let k = k.min(order.len());
    if (1..order.len()).contains(&k) {
        order.select_nth_unstable_by(k - 1, |a, b| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b)));
    }
    order.truncate(k);
    order.sort_unstable();
    order
}

/// `w` with `values` `[1, k]` added at its flat positions `index` `[1, k]`. Backward it picks k numbers out of the gradient
/// of `w`: nothing else is trained or stored.
pub fn add_at(w: Tensor<2>, index: Tensor<2>, values: Tensor<2>) -> Tensor<2> {
    let [rows, cols] = w.dims();
    let w = if values.is_autodiff() { w.autodiff() } else { w };
    w.reshape([1, rows * cols]).scatter(1, index.int(), values, IndexingUpdateOp::Add).reshape([rows, cols])
}
