//! One optimiser step over the bag, by Burn's own AdamW and SGD; decoupled weight decay (Loshchilov and Hutter 2019) with
//! both; clipping; gradient norms. Called by the run.

use std::collections::BTreeMap;

use burn::optim::momentum::MomentumConfig;
use burn::optim::{AdamW, AdamWConfig, AdamWState, Optimizer as _, Sgd, SgdConfig, SgdState};
use burn::tensor::Tensor;

use super::bag::{Bag, trainable};
use crate::session::{Optimizer, Recipe, Schedule};

/// Optimiser and its state, one entry a parameter.
pub struct Optimiser {
    rule: Rule,
    weight_decay: f64,
    clip_norm: f64,
    /// Learning-rate factor of each key's method.
    factors: BTreeMap<String, f64>,
}

/// Burn's rules without their own decay: its SGD would add the decay to the gradient, and with it to the momentum.
enum Rule {
    AdamW { rule: AdamW, states: BTreeMap<String, AdamWState<2>> },
    Sgd { rule: Sgd, states: BTreeMap<String, SgdState<2>> },
}

impl Optimiser {
    pub fn new(recipe: &Recipe, factors: BTreeMap<String, f64>) -> Optimiser {
        let rule = match recipe.optimizer {
            Optimizer::AdamW => {
                let rule = AdamWConfig::new().with_epsilon(1e-8).with_weight_decay(0.0).build();
                Rule::AdamW { rule, states: BTreeMap::new() }
            }
            Optimizer::Sgd => {
                let momentum =
                    (recipe.momentum > 0.0).then(|| MomentumConfig::new().with_momentum(recipe.momentum).with_dampening(0.0));
                Rule::Sgd { rule: SgdConfig::new().with_momentum(momentum).build(), states: BTreeMap::new() }
            }
        };
        Optimiser { rule, weight_decay: recipe.weight_decay, clip_norm: recipe.clip_norm, factors }
    }

    /// Applies the gradients `found` to the parameters of `bag`. Returns each key's squared gradient norm `[1]`, still on the
    /// device; a key without a gradient is left out.
    pub fn step(&mut self, bag: &mut Bag, found: BTreeMap<String, Tensor<2>>, learning_rate: f64) -> BTreeMap<String, Tensor<1>> {
        let squares: BTreeMap<_, _> = found.iter().map(|(key, g)| (key.clone(), g.clone().square().sum())).collect();
        // Clipping stays on the device: no value is read back for it.
        let factor = (self.clip_norm > 0.0 && !squares.is_empty()).then(|| {
            let total = Tensor::cat(squares.values().cloned().collect(), 0).sum().sqrt(); // [1]
            ((total + 1e-6).recip() * self.clip_norm).clamp_max(1.0).unsqueeze::<2>() // [1, 1]
        });
        for (key, gradient) in found {
            let gradient = match &factor {
                Some(factor) => gradient * factor.clone(),
                None => gradient,
            };
            let lr = learning_rate * self.factors.get(&key).copied().unwrap_or(1.0);
            let decay = if bag.decays(&key) { lr * self.weight_decay } else { 0.0 };
            let Some(param) = bag.params.remove(&key) else { continue };
            let value = match decay {
                0.0 => param.inner(),
                decay => param.inner() * (1.0 - decay),
            };
            let next = match &mut self.rule {
                Rule::AdamW { rule, states } => {
                    let (next, state) = rule.step(lr, value, gradient, states.remove(&key));
                    states.extend(state.map(|s| (key.clone(), s)));
                    next
                }
                Rule::Sgd { rule, states } => {
                    let (next, state) = rule.step(lr, value, gradient, states.remove(&key));
                    states.extend(state.map(|s| (key.clone(), s)));
                    next
                }
            };
            bag.params.insert(key, trainable(next));
        }
        squares
    }
}

/// Learning rate of step `step` (from 0) of `steps`.
pub fn learning_rate(recipe: &Recipe, step: usize, steps: usize) -> f64 {
    let warm = (recipe.warm_up * steps as f64).ceil();
    let step = step as f64;
    if step < warm {
        return recipe.learning_rate * (step + 1.0) / warm;
    }
    match recipe.schedule {
        Schedule::Constant => recipe.learning_rate,
        Schedule::Cosine => {
            let done = (step - warm) / (steps as f64 - warm).max(1.0);
            recipe.learning_rate * 0.5 * (1.0 + (std::f64::consts::PI * done).cos())
        }
    }
}
