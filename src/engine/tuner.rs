//! The tuner: the doors of one forward pass. A backbone's code names its places through it; the tuner lets the methods
//! that stand there act. Knows no method by name.

use std::collections::BTreeMap;

use burn::tensor::{Device, Int, Tensor, TensorData, module};

use super::bag::{At, Bag, Weights};
use super::batch::Rows;
use super::frozen::Lies;
use super::kernels::packed::Packed;
use super::kernels::{self, Mask};
use super::quality;
use crate::backbones::Input;
use crate::plan::anatomy::{Anatomy, Door, Entry, Role, Site};
use crate::plan::{Member, Plan};

/// One forward pass: frozen weights, trainable bag, and who stands where.
pub struct Tuner<'a> {
    plan: &'a Plan,
    weights: &'a Weights,
    bag: &'a Bag,
    /// While training: the seed of this step's dropout.
    noise: Option<u64>,
    /// What is known of the samples in the rows of the batch.
    rows: Rows<'a>,
    /// Positions on the residual stream before any prompt joined it.
    positions: usize,
    /// What enters are texts.
    reads_text: bool,
    /// The embedding and the output of every block so far, prompts stripped.
    taps: Vec<Tensor<3>>,
    /// 1 for tokens, 0 for padding, `[batch, positions]`; none where there is no padding.
    seen: Option<Tensor<2>>,
    /// Where each text ends, as a row of all positions of the batch.
    ends: Vec<i64>,
    /// Of every sample of the batch, `[batch, 1]`, where a method reads it.
    quality: Option<Tensor<2>>,
    /// Roles that methods of the stack read within their block, and what last left each of them: blocks come one after the
    /// other, so what a method finds there is of its own.
    reads: Vec<Role>,
    left: BTreeMap<Role, Tensor<3>>,
    /// Paths in the order in which the pass came by; the anatomy law compares them with the declaration.
    pub visited: Vec<String>,
    /// Sites that somebody watches, and what left them, `[batch, positions, channels]`, once the pass came by.
    pub watched: BTreeMap<String, Option<Tensor<3>>>,
}

impl<'a> Tuner<'a> {
    pub fn new(plan: &'a Plan, weights: &'a Weights, bag: &'a Bag, noise: Option<u64>) -> Tuner<'a> {
        let (taps, left, visited, watched) = (Vec::new(), BTreeMap::new(), Vec::new(), BTreeMap::new());
        let reads = plan.members.iter().flat_map(|m| m.card.method.reads()).copied().collect();
        let positions = plan.anatomy.tokens;
        Tuner {
            plan,
            weights,
            bag,
            noise,
            rows: Rows::default(),
            positions,
            reads_text: matches!(plan.anatomy.entry, Entry::Text { .. }),
            taps,
            seen: None,
            ends: Vec::new(),
            quality: None,
            reads,
            left,
            visited,
            watched,
        }
    }

    /// Says which samples the batch holds: dropout goes by them, what a method has for each task by their tasks, and what it makes
    /// of quality by their scores.
    pub fn on(self, rows: Rows<'a>) -> Tuner<'a> {
        Tuner { rows, ..self }
    }

    /// Looks at what enters: what of it is padding, and how good it is where a method reads that and the data did not say it.
    pub fn look(&mut self, input: &Input) {
        self.reads_text = matches!(input, Input::Text(_));
        let pixels = match input {
            Input::Pixels(pixels) => pixels,
            Input::Sound(_) => return, // all of one length, no padding told apart
            Input::Text(text) => {
                self.positions = text.length;
                self.seen = text.mask();
                self.ends = text.ends();
                return;
            }
        };
        if self.plan.reads_quality().is_some() {
            self.quality = Some(match self.rows.quality {
                [] => quality::sharpness(pixels.clone()),
                scores => Tensor::from_data(TensorData::new(scores.to_vec(), [pixels.dims()[0], 1]), &pixels.device()),
            });
        }
    }

    pub fn anatomy(&self) -> &'a Anatomy {
        &self.plan.anatomy
    }

    /// Whether texts go through in this pass: in a network of two towers, which of them.
    pub fn is_of_text(&self) -> bool {
        self.reads_text
    }

    /// What the pass goes through reads in order.
    fn in_order(&self) -> bool {
        let towers = &self.plan.anatomy.towers;
        self.plan.anatomy.causal || (self.reads_text && towers.iter().any(|tower| tower.causal))
    }

    /// The one number of a site, as the methods want it used, `[1, 1]`.
    pub fn number(&mut self, site: &str) -> Tensor<2> {
        self.visited.push(site.to_owned());
        self.weight(site, "weight")
    }

    /// The frozen part `name` of `site` as the methods want it used, `[rows, cols]`.
    ///
    /// # Panics
    /// When the backbone's weights lack it; loading has checked that they do not.
    pub fn weight(&self, site: &str, name: &str) -> Tensor<2> {
        let full = format!("{site}.{name}");
        let Some(frozen) = self.weights.matrix(&full) else { panic!("the backbone's code uses `{full}`, which was not loaded") };
        self.standing(site, Door::Weight).fold(frozen, |w, (member, at)| member.card.method.weight(&at, name, w))
    }

    /// `x · W + b` with the doors of `site` around it. `[batch, positions, d_in]` to `[batch, positions, d_out]`.
    pub fn linear(&mut self, site: &str, x: Tensor<3>) -> Tensor<3> {
        let has_bias = self.weights.contains_key(&format!("{site}.bias"));
        self.around(site, x, |t, x| {
            let bias = has_bias.then(|| t.weight(site, "bias").squeeze_dim::<1>(0));
            match t.packed(site, "weight") {
                Some((packed, Lies::Turned)) => {
                    let y = packed.product(x);
                    bias.into_iter().fold(y, |y, bias| y + bias.unsqueeze::<3>())
                }
                _ => module::linear(x, t.weight(site, "weight"), bias),
            }
        })
    }

    /// Layer normalisation over channels with the doors of `site` around it.
    pub fn norm(&mut self, site: &str, x: Tensor<3>, epsilon: f64) -> Tensor<3> {
        self.around(site, x, |t, x| {
            let gamma = t.weight(site, "weight").squeeze_dim::<1>(0);
            let beta = t.weight(site, "bias").squeeze_dim::<1>(0);
            kernels::layer_norm(x, gamma, beta, epsilon)
        })
    }

    /// Division by the root of the mean square over channels (Zhang and Sennrich 2019) with the doors of `site` around it.
    pub fn rms_norm(&mut self, site: &str, x: Tensor<3>, epsilon: f64) -> Tensor<3> {
        self.around(site, x, |t, x| {
            let gamma = t.weight(site, "weight").squeeze_dim::<1>(0);
            kernels::rms_norm(x, gamma, epsilon)
        })
    }

    /// The rows of these numbers of a frozen table, as the methods want it used: `[numbers, channels]`.
    pub fn rows(&self, site: &str, table: &str, numbers: Vec<i64>) -> Tensor<2> {
        let count = numbers.len();
        let on = |device: Device| Tensor::<1, Int>::from_data(TensorData::new(numbers, [count]), &device.inner());
        match self.packed(site, table) {
            Some((packed, Lies::Straight)) => packed.rows(on(packed.device())).unpacked(),
            _ => {
                let table = self.weight(site, table);
                let numbers = on(table.device());
                table.select(0, numbers)
            }
        }
    }

    /// A frozen part that is packed and that no method changes: it need not be unpacked as a whole.
    fn packed(&self, site: &str, part: &str) -> Option<(&'a Packed, Lies)> {
        let packed = self.weights.packed(&format!("{site}.{part}"))?;
        self.standing(site, Door::Weight).next().is_none().then_some(packed)
    }

    /// The place in the text of each of so many positions on the residual stream: prompts stand behind the tokens, but count as if
    /// they stood before them.
    pub fn order(&self, positions: usize) -> impl Iterator<Item = usize> {
        let prompts = positions - self.positions;
        (prompts..positions).chain(0..prompts)
    }

    /// The mean of features `[batch, positions, width]` over all that is no padding, `[batch, width]`.
    pub fn mean(&self, features: Tensor<3>) -> Tensor<2> {
        let [batch, positions, width] = features.dims();
        match &self.seen {
            None => features.mean_dim(1).reshape([batch, width]),
            Some(seen) => {
                let share = seen.clone() / seen.clone().sum_dim(1); // [batch, positions]
                (features * share.reshape([batch, positions, 1])).sum_dim(1).reshape([batch, width])
            }
        }
    }

    /// Of features `[batch, positions, width]` those of each text's last token, `[batch, width]`.
    pub fn at_ends(&self, features: Tensor<3>) -> Tensor<2> {
        let [batch, positions, width] = features.dims();
        let ends = TensorData::new(self.ends.clone(), [batch]);
        let ends = Tensor::<1, Int>::from_data(ends, &features.device().inner());
        features.reshape([batch * positions, width]).select(0, ends)
    }

    /// Runs `inner` between the doors of `site`: `Before`, then the site itself, then `After` and `Extend`.
    pub fn around(&mut self, site: &str, x: Tensor<3>, inner: impl FnOnce(&mut Self, Tensor<3>) -> Tensor<3>) -> Tensor<3> {
        self.visited.push(site.to_owned());
        let y = match self.plan.stands_at(site) {
            true => self.through_doors(site, x, inner),
            false => inner(self, x),
        };
        if let Some(kept) = self.watched.get_mut(site) {
            *kept = Some(y.clone());
        }
        if !self.reads.is_empty()
            && let Some(role) = self.plan.anatomy.site(site).map(|s| s.role)
            && self.reads.contains(&role)
        {
            self.left.insert(role, y.clone());
        }
        y
    }

    fn through_doors(&mut self, site: &str, x: Tensor<3>, inner: impl FnOnce(&mut Self, Tensor<3>) -> Tensor<3>) -> Tensor<3> {
        // What is taken off again at this very site joins last: it is taken off the end. (Deep prompts beside shallow ones.)
        let mut x = x;
        for passing in [false, true] {
            let joining = self.standing(site, Door::Before).filter(|(member, _)| member.tidies(site) == passing);
            x = joining.fold(x, |x, (member, at)| member.card.method.before(&at, x));
        }
        let mut y = inner(self, x.clone());
        for door in [Door::After, Door::Extend] {
            y = self.standing(site, door).fold(y, |y, (member, at)| member.card.method.after(&at, &x, y));
        }
        y
    }

    /// What of the batch is no padding, `[batch, positions]`; none where all is.
    pub fn seen(&self) -> Option<Tensor<2>> {
        self.seen.clone()
    }

    /// Multi-head attention: q `[batch, queries, width]`, k and v `[batch, keys, width]`, to `[batch, queries, width]`. Nobody
    /// attends to padding; everybody to prompts, which stand behind the tokens, and to prefixes, which make keys longer in front. In a
    /// network that reads in order nobody attends to later tokens.
    pub fn attention(&self, q: Tensor<3>, k: Tensor<3>, v: Tensor<3>, heads: usize) -> Tensor<3> {
        let mask = self.mask(q.dims()[1], k.dims()[1], self.in_order());
        kernels::attention(q, k, v, heads, mask)
    }

    /// Who of so many queries may attend to which keys, as `attention` has it; `in_order` nobody to later tokens. Where keys are not the
    /// queries' own, `queries` is the number of positions that the keys were made of.
    pub fn mask(&self, queries: usize, keys: usize, in_order: bool) -> Mask {
        mask(self.seen.as_ref(), in_order.then_some(self.positions), queries, keys)
    }

    /// Multi-head self-attention with the doors of q, k, v and o below `site` around them.
    pub fn self_attention(&mut self, site: &str, h: Tensor<3>, heads: usize) -> Tensor<3> {
        let q = self.linear(&format!("{site}.q"), h.clone());
        let k = self.linear(&format!("{site}.k"), h.clone());
        let v = self.linear(&format!("{site}.v"), h);
        let y = self.attention(q, k, v, heads); // [batch, positions, width]
        self.linear(&format!("{site}.o"), y)
    }

    /// Keeps what the residual stream holds now, for methods that read it at `readout`. Only kept when one does.
    pub fn tap(&mut self, x: &Tensor<3>) {
        if self.plan.reads_out() {
            self.taps.push(x.clone().narrow(1, 0, self.positions)); // prompts stand at the end
        }
    }

    /// The trunk's answer `y`, or that of a side network that stands at `site`. `[batch, positions, width]`.
    pub fn readout(&mut self, site: &str, y: Tensor<3>) -> Tensor<3> {
        self.visited.push(site.to_owned());
        let taps = std::mem::take(&mut self.taps);
        self.standing(site, Door::Readout).fold(y, |y, (member, at)| member.card.method.readout(&at, &taps, y))
    }

    /// The sum of what the placements add to the loss, `[1]`.
    pub fn penalty(&self) -> Option<Tensor<1>> {
        let mut sum: Option<Tensor<1>> = None;
        for member in &self.plan.members {
            for path in &member.sites {
                let Some(site) = self.plan.anatomy.site(path) else { continue };
                let Some(more) = member.card.method.penalty(&self.at(member, site)) else { continue };
                sum = Some(match sum {
                    Some(sum) => sum + more,
                    None => more,
                });
            }
        }
        sum
    }

    /// The members of the stack that stand at this door, in the order of the stack.
    fn standing<'s>(&'s self, site: &'s str, door: Door) -> impl Iterator<Item = (&'s Member, At<'s>)> + 's {
        self.plan.members.iter().filter(move |m| m.stands(site, door)).filter_map(move |member| {
            let site: &Site = self.plan.anatomy.site(site)?;
            Some((member, self.at(member, site)))
        })
    }

    fn at<'s>(&'s self, member: &'s Member, site: &'s Site) -> At<'s> {
        let anatomy = self.plan.anatomy.tower(site);
        At {
            site,
            set: &member.settings,
            heads: anatomy.stage(site).heads,
            noise: self.noise,
            samples: self.rows.samples,
            bag: self.bag,
            weights: self.weights,
            seen: self.seen.clone(),
            causal: anatomy.causal.then_some(self.positions),
            quality: self.quality.clone(),
            tasks: self.rows.tasks,
            task_count: self.plan.tasks.len(),
            anatomy,
            left: &self.left,
            prefix: format!("{}.{}/{}/", member.index, member.card.name, site.path),
        }
    }

    /// The backbone's frozen part with every foldable change of the stack folded in, for a merged export. From the weight
    /// outwards: what acts on it, what leaves the site, then what enters it, the last first, wherever in the stack they are.
    pub fn folded(&self, site: &Site, part: &str) -> Tensor<2> {
        let members = || self.plan.members.iter();
        let behind = |m: &&Member| {
            m.stands_anywhere(&site.path) && !m.stands(&site.path, Door::Weight) && !m.stands(&site.path, Door::Before)
        };
        let mut steps: Vec<(&Member, At)> = members().filter(behind).map(|m| (m, self.at(m, site))).collect();
        for place in [Some(site), self.plan.anatomy.read_by(site)].into_iter().flatten() {
            steps.extend(members().rev().filter(|m| m.stands(&place.path, Door::Before)).map(|m| (m, self.at(m, place))));
        }
        let through = |part: &str, steps: &[(&Member, At)]| {
            steps.iter().fold(self.weight(&site.path, part), |w, (member, at)| member.card.method.fold(at, part, w))
        };
        let mut w = through(part, &steps);
        if part == "bias" {
            // What is added to every input has still to pass the weight behind it.
            for (n, (member, at)) in steps.iter().enumerate() {
                if let Some(shift) = member.card.method.shift(at) {
                    w = w + shift.matmul(through("weight", &steps[..n])); // [1, d_in] · [d_in, d_out]
                }
            }
        }
        w
    }
}

/// Who of so many queries may attend to which keys, where `tokens` of them are read in order.
pub(super) fn mask(seen: Option<&Tensor<2>>, causal: Option<usize>, queries: usize, keys: usize) -> Mask {
    Mask { seen: seen.map(|seen| mask_of_keys(seen, queries, keys)), causal }
}

/// What of `keys` may be seen, `[batch, keys]`: of the tokens what `seen` says, all of a prefix before them (which no query has)
/// and all prompts behind them.
fn mask_of_keys(seen: &Tensor<2>, queries: usize, keys: usize) -> Tensor<2> {
    let [batch, tokens] = seen.dims();
    let all = |n: usize| Tensor::<2>::ones([batch, n], &seen.device());
    let mut parts = vec![seen.clone()];
    if keys > queries {
        parts.insert(0, all(keys - queries));
    }
    if queries > tokens {
        parts.push(all(queries - tokens));
    }
    Tensor::cat(parts, 1)
}
