//! The bag: every trainable matrix of a run under its name, and nothing else. Optimiser, clipping, checkpoint and export
//! are written once, here and in `optimise`, instead of once a method. Lives on the autodiff device; the backbone never
//! does.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use burn::tensor::{Device, Gradients, Tensor, TensorData};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::engine::random;
use crate::methods::{Init, ParamSpec};
use crate::plan::anatomy::Site;
use crate::session::settings::Settings;

/// Frozen matrices by full name: `blocks.0.attn.q.weight`, `[rows, cols]`, on the plain device.
pub type Weights = BTreeMap<String, Tensor<2>>;

/// The trainable matrices by key: `0.lora/blocks.0.attn.q/A`, `head/weight`.
#[derive(Clone, Default)]
pub struct Bag {
    pub params: BTreeMap<String, Tensor<2>>,
}

impl Bag {
    /// Makes every parameter of `specs` (key, spec). Each key draws from a stream of its own, so that adding a method
    /// never changes how another one starts.
    pub fn make(specs: &[(String, ParamSpec)], weights: &Weights, seed: u64, device: &Device) -> Result<Bag> {
        let mut params = BTreeMap::new();
        for (key, spec) in specs {
            let tensor = match spec.init {
                Init::Frozen(part) => {
                    let site = key.split('/').nth(1).unwrap_or_default();
                    let name = format!("{site}.{part}");
                    let frozen =
                        weights.get(&name).with_context(|| format!("`{key}` starts from `{name}`, which the backbone lacks"))?;
                    // A copy through host memory: the trained tensor must never share storage with the frozen one.
                    Tensor::from_data(frozen.to_data(), device)
                }
                init => {
                    let mut rng = ChaCha8Rng::seed_from_u64(random::stream(seed, key));
                    let values = random::values(&mut rng, init, spec.count());
                    Tensor::from_data(TensorData::new(values, [spec.rows, spec.cols]), device)
                }
            };
            params.insert(key.clone(), trainable(tensor));
        }
        Ok(Bag { params })
    }

    /// Each parameter's gradient, plain; a parameter that had no part in the loss is left out.
    pub fn gradients(&self, mut gradients: Gradients) -> BTreeMap<String, Tensor<2>> {
        self.params.iter().filter_map(|(key, param)| Some((key.clone(), param.grad_remove(&mut gradients)?))).collect()
    }

    /// The same values outside the graph, for evaluation and export.
    pub fn frozen(&self) -> Bag {
        Bag { params: self.params.iter().map(|(k, v)| (k.clone(), v.clone().inner())).collect() }
    }

    /// The same values as leaves of a graph of their own: shards on several threads that shared leaves would wait for each
    /// other, since Burn locks connected graphs as one.
    pub fn leaves(&self) -> Bag {
        Bag { params: self.params.iter().map(|(k, v)| (k.clone(), trainable(v.clone()))).collect() }
    }

    /// Replaces every value by those of `values`, which must have the same names and shapes.
    pub fn load(&mut self, values: &BTreeMap<String, TensorData>, device: &Device) -> Result<()> {
        for (key, param) in &mut self.params {
            let Some(data) = values.get(key) else { bail!("the adapter lacks `{key}`") };
            let dims = param.dims();
            if data.shape().as_slice() != dims {
                bail!("`{key}` is {:?} in the adapter, but this session makes it {dims:?}", data.shape().as_slice());
            }
            *param = trainable(Tensor::from_data(data.clone(), device));
        }
        if let Some(key) = values.keys().find(|key| !self.params.contains_key(*key)) {
            bail!("the adapter holds `{key}`, which this session does not place");
        }
        Ok(())
    }

    /// Every value, read back to host memory.
    pub fn data(&self) -> BTreeMap<String, TensorData> {
        self.params.iter().map(|(k, v)| (k.clone(), v.clone().inner().to_data())).collect()
    }

    pub fn count(&self) -> usize {
        self.params.values().map(|t| t.dims().iter().product::<usize>()).sum()
    }
}

/// A leaf that keeps its gradient.
pub fn trainable(tensor: Tensor<2>) -> Tensor<2> {
    tensor.inner().autodiff().require_grad()
}

/// What a method sees at one placement: its site, its settings, its parameters.
pub struct At<'a> {
    pub site: &'a Site,
    pub set: &'a Settings,
    pub heads: usize,
    /// While training: the seed of this step's dropout.
    pub(super) noise: Option<u64>,
    pub(super) bag: &'a Bag,
    /// `0.lora/blocks.0.attn.q/`
    pub(super) prefix: String,
}

impl At<'_> {
    /// The parameter `name` of this placement, `[rows, cols]`.
    ///
    /// # Panics
    /// When the plan did not declare it; the catalogue law finds that.
    pub fn param(&self, name: &str) -> Tensor<2> {
        let key = format!("{}{name}", self.prefix);
        match self.bag.params.get(&key) {
            Some(tensor) => tensor.clone(),
            None => panic!("`{key}` is used but was not declared by the method's plan"),
        }
    }

    /// While training: a seed for this placement at this step, so that dropout is the same on every device and thread.
    pub fn noise(&self) -> Option<u64> {
        self.noise.map(|noise| random::stream(noise, &self.prefix))
    }

    /// Whether this placement declared `name`.
    pub fn has(&self, name: &str) -> bool {
        self.bag.params.contains_key(&format!("{}{name}", self.prefix))
    }
}

/// The key of a parameter in the bag.
pub fn key(index: usize, method: &str, site: &str, param: &str) -> String {
    format!("{index}.{method}/{site}/{param}")
}
