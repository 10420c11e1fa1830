//! The tuner: the doors of one forward pass. A backbone's code names its places through it; the tuner lets the methods
//! that stand there act. Knows no method by name.

use burn::tensor::Tensor;
use burn::tensor::module;

use super::bag::{At, Bag, Weights};
use crate::plan::Plan;
use crate::plan::anatomy::{Anatomy, Door, Site};

/// One forward pass: frozen weights, trainable bag, and who stands where.
pub struct Tuner<'a> {
    plan: &'a Plan,
    weights: &'a Weights,
    bag: &'a Bag,
    /// While training: the seed of this step's dropout.
    noise: Option<u64>,
    /// The sample in each row of the batch; empty where nobody asks.
    samples: &'a [usize],
    /// Positions on the residual stream before any prompt joined it.
    positions: usize,
    /// The embedding and the output of every block so far, prompts stripped.
    taps: Vec<Tensor<3>>,
    /// Paths in the order in which the pass came by; the anatomy law compares them with the declaration.
    pub visited: Vec<String>,
}

impl<'a> Tuner<'a> {
    pub fn new(plan: &'a Plan, weights: &'a Weights, bag: &'a Bag, noise: Option<u64>) -> Tuner<'a> {
        let positions = plan.anatomy.tokens;
        Tuner { plan, weights, bag, noise, samples: &[], positions, taps: Vec::new(), visited: Vec::new() }
    }

    /// Says which samples the batch holds: dropout goes by them.
    pub fn on(self, samples: &'a [usize]) -> Tuner<'a> {
        Tuner { samples, ..self }
    }

    pub fn anatomy(&self) -> &'a Anatomy {
        &self.plan.anatomy
    }

    /// The frozen part `name` of `site` as the methods want it used, `[rows, cols]`.
    ///
    /// # Panics
    /// When the backbone's weights lack it; loading has checked that they do not.
    pub fn weight(&self, site: &str, name: &str) -> Tensor<2> {
        let full = format!("{site}.{name}");
        let Some(frozen) = self.weights.get(&full) else { panic!("the backbone's code uses `{full}`, which was not loaded") };
        self.standing(site, Door::Weight).fold(frozen.clone(), |w, (member, at)| member.card.method.weight(&at, name, w))
    }

    /// `x · W + b` with the doors of `site` around it. `[batch, positions, d_in]` to `[batch, positions, d_out]`.
    pub fn linear(&mut self, site: &str, x: Tensor<3>) -> Tensor<3> {
        let has_bias = self.weights.contains_key(&format!("{site}.bias"));
        self.around(site, x, |t, x| {
            let bias = has_bias.then(|| t.weight(site, "bias").squeeze_dim::<1>(0));
            module::linear(x, t.weight(site, "weight"), bias)
        })
    }

    /// Layer normalisation over channels with the doors of `site` around it.
    pub fn norm(&mut self, site: &str, x: Tensor<3>, epsilon: f64) -> Tensor<3> {
        self.around(site, x, |t, x| {
            let gamma = t.weight(site, "weight").squeeze_dim::<1>(0);
            let beta = t.weight(site, "bias").squeeze_dim::<1>(0);
            module::layer_norm(x, gamma, Some(beta), epsilon)
        })
    }

    /// Runs `inner` between the doors of `site`: `Before`, then the site itself, then `After` and `Extend`.
    pub fn around(&mut self, site: &str, x: Tensor<3>, inner: impl FnOnce(&mut Self, Tensor<3>) -> Tensor<3>) -> Tensor<3> {
        self.visited.push(site.to_owned());
        let plan = self.plan;
        if !plan.stands_at(site) {
            return inner(self, x);
        }
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
    fn standing<'s>(&'s self, site: &'s str, door: Door) -> impl Iterator<Item = (&'s crate::plan::Member, At<'s>)> + 's {
        self.plan.members.iter().filter(move |m| m.stands(site, door)).filter_map(move |member| {
            let site: &Site = self.plan.anatomy.site(site)?;
            Some((member, self.at(member, site)))
        })
    }

    fn at<'s>(&'s self, member: &'s crate::plan::Member, site: &'s Site) -> At<'s> {
        At {
            site,
            set: &member.settings,
            heads: self.plan.anatomy.heads,
            noise: self.noise,
            samples: self.samples,
            bag: self.bag,
            prefix: format!("{}.{}/{}/", member.index, member.card.name, site.path),
        }
    }

    /// The backbone's frozen part with every foldable change of the stack folded in, for a merged export. Changes of the
    /// input come last: the pass lets them act before everything that stands behind the site, wherever in the stack they are.
    pub fn folded(&self, site: &Site, part: &str) -> Tensor<2> {
        let mut w = self.weight(&site.path, part);
        for first in [false, true] {
            let others =
                self.plan.members.iter().filter(|m| m.stands_anywhere(&site.path) && !m.stands(&site.path, Door::Weight));
            for member in others.filter(|m| m.stands(&site.path, Door::Before) == first) {
                w = member.card.method.fold(&self.at(member, site), part, w);
            }
        }
        w
    }
}
