//! The bag: every trainable matrix of a run under its name, and the constants that go with them. Optimiser, clipping, checkpoint and export
//! are written once, here and in `optimise`, instead of once a method. Lives on the autodiff device; the backbone never
//! does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use burn::tensor::{Device, Gradients, Tensor, TensorData};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::kernels::{self, Mask};
use super::tuner::mask;
use crate::engine::random;
use crate::methods::{Init, ParamSpec, Scope};
use crate::plan::anatomy::{Anatomy, Role, Site};
use crate::plan::{Member, Plan};
use crate::session::settings::Settings;

pub use super::frozen::Weights;

/// What was measured before the start, by position in the stack and site.
pub type Measured = BTreeMap<(usize, String), Vec<f32>>;

/// The matrices of a run by key: `0.lora/blocks.0.attn.q/A`, `0.vera/all/A`, `head/weight`.
#[derive(Clone, Default)]
pub struct Bag {
    /// Trained.
    pub params: BTreeMap<String, Tensor<2>>,
    /// Not trained: masks, indices, random projections, scores.
    pub constants: BTreeMap<String, Constant>,
    /// Keys of biases, norms and scales, which weight decay leaves alone. LoRA's B at rank 1 has one row and is none of them.
    pub vectors: BTreeSet<String>,
}

/// A matrix that is not trained, on the plain device and in host memory.
#[derive(Clone)]
pub struct Constant {
    pub tensor: Tensor<2>,
    /// Empty after `Bag::keep`.
    pub host: Arc<[f32]>,
}

impl Constant {
    fn new(values: Vec<f32>, rows: usize, cols: usize, device: &Device) -> Constant {
        let host = values.clone().into();
        Constant { tensor: Tensor::from_data(TensorData::new(values, [rows, cols]), device), host }
    }
}

impl Bag {
    /// Makes every parameter of `plan`. Each key draws from a stream of its own, so that adding a method never changes how
    /// another one starts.
    ///
    /// # Errors
    /// When a parameter starts from a frozen part that the backbone lacks, or a method forgot a value of its own.
    pub fn make(plan: &Plan, weights: &Weights, seed: u64, device: &Device) -> Result<Bag> {
        Bag::make_with(plan, weights, &Measured::new(), seed, device)
    }

    /// The same with what `engine::calibrate` measured.
    ///
    /// # Errors
    /// As `make`.
    pub fn make_with(plan: &Plan, weights: &Weights, measured: &Measured, seed: u64, device: &Device) -> Result<Bag> {
        let own: BTreeMap<String, Vec<f32>> =
            plan.members.iter().flat_map(|m| starts(plan, m, weights, measured, seed)).collect();
        Bag::of(&plan.specs(), weights, &own, seed, device)
    }

    /// Makes every parameter of `specs` (key, spec); `own` holds those that methods give themselves.
    ///
    /// # Errors
    /// As `make`.
    pub fn of(
        specs: &[(String, ParamSpec)],
        weights: &Weights,
        own: &BTreeMap<String, Vec<f32>>,
        seed: u64,
        device: &Device,
    ) -> Result<Bag> {
        let mut bag = Bag::default();
        for (key, spec) in specs {
            bag.insert(key, spec, weights, own, seed, device)?;
        }
        Ok(bag)
    }

    fn insert(
        &mut self,
        key: &str,
        spec: &ParamSpec,
        weights: &Weights,
        own: &BTreeMap<String, Vec<f32>>,
        seed: u64,
        device: &Device,
    ) -> Result<()> {
        let values = match spec.init {
            Init::Frozen(part) => {
                let site = key.split('/').nth(1).unwrap_or_default();
                let name = format!("{site}.{part}");
                let frozen =
                    weights.matrix(&name).with_context(|| format!("`{key}` starts from `{name}`, which the backbone lacks"))?;
                // A copy through host memory: the trained tensor must never share storage with the frozen one.
                super::model::host(frozen)?
            }
            Init::Own => own.get(key).cloned().with_context(|| format!("its method gives `{key}` no first value"))?,
            init => {
                let mut rng = ChaCha8Rng::seed_from_u64(random::stream(seed, key));
                random::values(&mut rng, init, spec.size())
            }
        };
        if values.len() != spec.size() {
            bail!("`{key}` starts with {} values where {} x {} are declared", values.len(), spec.rows, spec.cols);
        }
        if spec.vector {
            self.vectors.insert(key.to_owned());
        }
        if spec.trainable {
            let tensor = Tensor::from_data(TensorData::new(values, [spec.rows, spec.cols]), device);
            self.params.insert(key.to_owned(), trainable(tensor));
        } else {
            self.constants.insert(key.to_owned(), Constant::new(values, spec.rows, spec.cols, device));
        }
        Ok(())
    }

    /// Replaces the constant `key` by what its method worked out on the device between two steps; it has no copy in host
    /// memory then, so that a running score costs no read-back.
    pub fn keep(&mut self, key: &str, tensor: Tensor<2>) {
        self.constants.insert(key.to_owned(), Constant { tensor, host: Arc::new([]) });
    }

    /// Each parameter's gradient, plain; a parameter that had no part in the loss is left out.
    pub fn gradients(&self, mut gradients: Gradients) -> BTreeMap<String, Tensor<2>> {
        self.params.iter().filter_map(|(key, param)| Some((key.clone(), param.grad_remove(&mut gradients)?))).collect()
    }

    /// All but the parameters.
    fn beside(&self) -> Bag {
        Bag { params: BTreeMap::new(), constants: self.constants.clone(), vectors: self.vectors.clone() }
    }

    /// The same values outside the graph, for evaluation and export.
    pub fn frozen(&self) -> Bag {
        let params = self.params.iter().map(|(k, v)| (k.clone(), v.clone().inner())).collect();
        Bag { params, ..self.beside() }
    }

    /// The same values as leaves of a graph of their own: shards on several threads that shared leaves would wait for each
    /// other, since Burn locks connected graphs as one.
    pub fn leaves(&self) -> Bag {
        let params = self.params.iter().map(|(k, v)| (k.clone(), trainable(v.clone()))).collect();
        Bag { params, ..self.beside() }
    }

    /// Replaces every value by those of `values`, which must have the same names and shapes.
    ///
    /// # Errors
    /// When one is missing, surplus or of another shape.
    pub fn load(&mut self, values: &BTreeMap<String, TensorData>, device: &Device) -> Result<()> {
        let fitting = |key: &str, dims: [usize; 2]| -> Result<TensorData> {
            let Some(data) = values.get(key) else { bail!("the adapter lacks `{key}`") };
            if data.shape().as_slice() != dims {
                bail!("`{key}` is {:?} in the adapter, but this session makes it {dims:?}", data.shape().as_slice());
            }
            Ok(data.clone())
        };
        if let Some(key) = values.keys().find(|key| !self.params.contains_key(*key) && !self.constants.contains_key(*key)) {
            bail!("the adapter holds `{key}`, which this session does not place");
        }
        for (key, param) in &mut self.params {
            *param = trainable(Tensor::from_data(fitting(key, param.dims())?, device));
        }
        for (key, constant) in &mut self.constants {
            let dims = constant.tensor.dims();
            let values = fitting(key, dims)?.try_to_vec::<f32>().map_err(|e| anyhow::anyhow!("`{key}`: {e:?}"))?;
            *constant = Constant::new(values, dims[0], dims[1], device);
        }
        Ok(())
    }

    /// Every value, constants included, read back to host memory.
    pub fn data(&self) -> BTreeMap<String, TensorData> {
        let constants = self.constants.iter().map(|(k, v)| (k.clone(), v.tensor.to_data()));
        self.params.iter().map(|(k, v)| (k.clone(), v.clone().inner().to_data())).chain(constants).collect()
    }

    /// Whether weight decay takes `key`: biases, norms and scales are left alone.
    pub fn decays(&self, key: &str) -> bool {
        self.params.contains_key(key) && !self.vectors.contains(key)
    }

    /// Trainable parameters in it.
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
    /// The sample in each row of the batch.
    pub(super) samples: &'a [usize],
    pub(super) bag: &'a Bag,
    pub(super) weights: &'a Weights,
    pub(super) seen: Option<Tensor<2>>,
    /// Tokens of a text that is read in order.
    pub(super) causal: Option<usize>,
    pub(super) quality: Option<Tensor<2>>,
    /// The task of each row of the batch; empty where nobody said.
    pub(super) tasks: &'a [u16],
    /// Tasks of the data set.
    pub(super) task_count: usize,
    pub(super) anatomy: &'a Anatomy,
    /// What left the sites that some method reads, by role, the latest.
    pub(super) left: &'a BTreeMap<Role, Tensor<3>>,
    /// `0.lora/blocks.0.attn.q/`
    pub(super) prefix: String,
}

impl At<'_> {
    /// The parameter `name` of this placement, `[rows, cols]`.
    ///
    /// # Panics
    /// When the plan did not declare it; the catalogue law finds that.
    pub fn param(&self, name: &str) -> Tensor<2> {
        self.find(&format!("{}{name}", self.prefix))
    }

    /// The parameter `name` that all places of this method share, `[rows, cols]`.
    ///
    /// # Panics
    /// As `param`.
    pub fn shared(&self, name: &str) -> Tensor<2> {
        self.find(&self.shared_key(name))
    }

    /// The values of the constant `name` of this placement, row by row, without reading back from the device.
    ///
    /// # Panics
    /// As `param`, and when it is trained.
    pub fn host(&self, name: &str) -> &[f32] {
        let key = format!("{}{name}", self.prefix);
        match self.bag.constants.get(&key) {
            Some(constant) => &constant.host,
            None => panic!("`{key}` is used as a constant but was not declared as one by the method's plan"),
        }
    }

    /// The site's frozen `part` as the backbone has it, `[rows, cols]`, plain.
    ///
    /// # Panics
    /// When the backbone has none.
    pub fn frozen(&self, part: &str) -> Tensor<2> {
        self.frozen_at(self.site, part)
    }

    /// The same of the site with this role in the same block: for a branch, a layer within it.
    ///
    /// # Panics
    /// As `frozen`.
    pub fn frozen_within(&self, role: Role, part: &str) -> Tensor<2> {
        match self.anatomy.beside(self.site, role) {
            Some(site) => self.frozen_at(site, part),
            None => panic!("the block of `{}` has no `{}`, which its method asks for", self.site.path, role.word()),
        }
    }

    /// That site's bias `[1, d_out]`, zeros where the network's layers have none.
    ///
    /// # Panics
    /// As `frozen_within`, where there is no such site.
    pub fn bias_within(&self, role: Role) -> Tensor<2> {
        match self.anatomy.beside(self.site, role).filter(|site| site.part("bias").is_none()) {
            Some(site) => Tensor::zeros([1, site.d_out], &self.frozen_at(site, "weight").device()),
            None => self.frozen_within(role, "bias"),
        }
    }

    /// What this network divides the scores of attention by, in heads of `depth` channels.
    pub fn divisor(&self, depth: usize) -> f64 {
        if self.anatomy.relative { 1.0 } else { (depth as f64).sqrt() }
    }

    /// The pretrained norm behind the branch at this place, of what it and the stream add up to, `[batch, positions, width]`.
    ///
    /// # Panics
    /// In a network that has no such norm.
    pub fn norm_behind(&self, sum: Tensor<3>) -> Tensor<3> {
        let Some((norm, epsilon)) = self.anatomy.norm_behind(self.site) else {
            panic!("no norm stands behind `{}`, which its method asks for", self.site.path)
        };
        let [gamma, beta] = ["weight", "bias"].map(|part| self.frozen_at(norm, part).squeeze_dim::<1>(0));
        kernels::layer_norm(sum, gamma, beta, epsilon)
    }

    fn frozen_at(&self, site: &Site, part: &str) -> Tensor<2> {
        match self.weights.matrix(&format!("{}.{part}", site.path)) {
            Some(tensor) => tensor,
            None => panic!("`{}` has no frozen `{part}`, which its method asks for", site.path),
        }
    }

    /// What left the site with this role in this block during this pass, `[batch, positions, channels]`; positions that a
    /// prefix or a prompt added included.
    ///
    /// # Panics
    /// When the method does not say that it `reads` the role, and when the pass did not come by it before this door.
    pub fn left(&self, role: Role) -> Tensor<3> {
        match self.left.get(&role) {
            Some(tensor) => tensor.clone(),
            None => panic!("`{}` asks for what left `{}`, which this pass did not keep", self.prefix, role.word()),
        }
    }

    /// 1 for tokens, 0 for padding, `[batch, positions]`; none where nothing is padding.
    pub fn seen(&self) -> Option<Tensor<2>> {
        self.seen.clone()
    }

    /// The same of the keys of an attention, `[batch, keys]`, trained prefixes and prompts among them.
    pub fn keys_seen(&self, queries: usize, keys: usize) -> Option<Tensor<2>> {
        mask(self.seen.as_ref(), None, queries, keys).seen
    }

    /// Who may attend to what in an attention of so many queries and keys, trained prefixes and prompts among them. The keys of a
    /// decoder's attention to its encoder have no prompts, whatever its queries have.
    pub fn mask(&self, queries: usize, keys: usize) -> Mask {
        let tokens = self.seen.as_ref().map_or(queries, |seen| seen.dims()[1]);
        let queries = if self.site.crosses() { tokens } else { queries };
        mask(self.seen.as_ref(), self.causal, queries, keys)
    }

    /// The quality of every sample of the batch, `[batch, 1]`, plain: the data's own score, or the image's sharpness
    /// (`engine::quality`) where the data gives none.
    ///
    /// # Panics
    /// When the method does not say that it `reads_quality`, and outside a forward pass.
    pub fn quality(&self) -> Tensor<2> {
        match &self.quality {
            Some(quality) => quality.clone(),
            None => panic!("`{}` asks for the images' quality, which this pass did not look at", self.prefix),
        }
    }

    /// The task of every row of the batch, an index into `datasets::Described::tasks`; empty where the data set has one task only.
    ///
    /// # Panics
    /// When there are several tasks and the pass was not told which sample belongs to which.
    pub fn tasks(&self) -> &[u16] {
        match (self.task_count, self.tasks) {
            (0 | 1, _) => &[],
            (_, []) => panic!("`{}` asks for the task of every sample, which this pass was not told", self.prefix),
            (_, tasks) => tasks,
        }
    }

    /// That part of the parameter `all`, declared `by_task`, which belongs to `task`: `[rows, cols]`.
    pub fn of_task(&self, task: usize, all: Tensor<2>) -> Tensor<2> {
        if self.task_count <= 1 {
            return all;
        }
        let rows = all.dims()[0] / self.task_count;
        all.narrow(0, task * rows, rows)
    }

    fn find(&self, key: &str) -> Tensor<2> {
        let constant = || self.bag.constants.get(key).map(|c| &c.tensor);
        match self.bag.params.get(key).or_else(constant) {
            Some(tensor) => tensor.clone(),
            None => panic!("`{key}` is used but was not declared by the method's plan"),
        }
    }

    fn shared_key(&self, name: &str) -> String {
        let stem = self.prefix.split('/').next().unwrap_or_default();
        format!("{stem}/{ALL}/{name}")
    }

    /// While training: a seed for this placement at this step, the same on every device and for every part of the batch.
    pub fn noise(&self) -> Option<u64> {
        self.noise.map(|noise| random::stream(noise, &self.prefix))
    }

    /// The same for row `row` of the batch: it goes by the sample that stands there, so that it does not matter how a batch
    /// is cut.
    pub fn noise_of(&self, row: usize) -> Option<u64> {
        let sample = self.samples.get(row).copied().unwrap_or(row) as u64;
        self.noise().map(|noise| noise ^ (sample + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// Whether this placement declared `name`.
    pub fn has(&self, name: &str) -> bool {
        let key = format!("{}{name}", self.prefix);
        self.bag.params.contains_key(&key) || self.bag.constants.contains_key(&key)
    }
}

/// What a method sees when it gives first values of its own, one placed site.
pub struct Start<'a> {
    pub site: &'a Site,
    pub set: &'a Settings,
    /// What `Method::measures` asked for; none while nothing was measured (a plan's dry model, an adapter being loaded).
    pub measured: Option<&'a [f32]>,
    /// A seed of this placement.
    pub seed: u64,
    index: usize,
    method: &'static str,
    weights: &'a Weights,
}

impl Start<'_> {
    /// The site's frozen `part`, row by row; empty when the backbone has none.
    pub fn frozen(&self, part: &str) -> Vec<f32> {
        self.weight(part).and_then(|t| super::model::host(t).ok()).unwrap_or_default()
    }

    /// The same on its device, `[rows, cols]`, for first values that must have the bits which the forward pass works out.
    pub fn weight(&self, part: &str) -> Option<Tensor<2>> {
        self.weights.matrix(&format!("{}.{part}", self.site.path))
    }

    pub fn key(&self, name: &str) -> String {
        key(self.index, self.method, &self.site.path, name)
    }

    pub fn shared_key(&self, name: &str) -> String {
        key(self.index, self.method, ALL, name)
    }
}

/// The first values that `member` gives itself.
fn starts(plan: &Plan, member: &Member, weights: &Weights, measured: &Measured, seed: u64) -> Vec<(String, Vec<f32>)> {
    if !member.placements.iter().flat_map(|p| &p.params).any(|p| p.init == Init::Own) {
        return vec![];
    }
    let mut places = Vec::new();
    for path in &member.sites {
        let Some(site) = plan.anatomy.site(path) else { continue };
        places.push(Start {
            site,
            set: &member.settings,
            measured: measured.get(&(member.index, path.clone())).map(Vec::as_slice),
            seed: random::stream(seed, &format!("{}.{}/{path}", member.index, member.card.name)),
            index: member.index,
            method: member.card.name,
            weights,
        });
    }
    member.card.method.start(&places)
}

/// Stands in a key for the site of a parameter that all places of a method share.
pub const ALL: &str = "all";

/// The key of a parameter in the bag, as `spec` is scoped.
pub fn key_of(index: usize, method: &str, site: &str, spec: &ParamSpec) -> String {
    key(index, method, if spec.scope == Scope::Method { ALL } else { site }, &spec.name)
}

/// A key in the bag.
pub fn key(index: usize, method: &str, site: &str, param: &str) -> String {
    format!("{index}.{method}/{site}/{param}")
}
