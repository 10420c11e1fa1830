//! Watches whether a run's numbers are still numbers. Every step leaves its loss and gradient norms on the device; they are
//! read back together with the next report, and the first step at which one of them was no number ends the run with words.
//! Called by the run.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use burn::tensor::Tensor;

use super::bag::{ALL, Bag};
use super::model::host;
use crate::plan::Plan;
use crate::session::Recipe;

/// What one step left on the device.
struct Left {
    step: usize,
    keys: Vec<String>,
    /// The loss, then the squared gradient norm of every key.
    values: Tensor<1>,
}

/// A step that was read back.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub step: usize,
    pub loss: f64,
    /// Global gradient norm, before clipping.
    pub norm: f64,
    /// The same by placement.
    pub gradients: BTreeMap<String, f64>,
}

#[derive(Default)]
pub struct Watch {
    left: Vec<Left>,
    /// The last step whose numbers were numbers.
    calm: Option<Seen>,
}

impl Watch {
    /// Takes note of step `step` (from 1) without reading anything back.
    pub fn keep(&mut self, step: usize, loss: Tensor<1>, squares: BTreeMap<String, Tensor<1>>) {
        let (keys, squares): (Vec<_>, Vec<_>) = squares.into_iter().unzip();
        let values = Tensor::cat(std::iter::once(loss).chain(squares).collect(), 0);
        self.left.push(Left { step, keys, values });
    }

    /// Reads back all steps since the last time, in one go, and gives the last of them.
    ///
    /// # Errors
    /// When a number of one of them is none.
    pub fn read(&mut self, plan: &Plan, recipe: &Recipe, steps: usize) -> Result<Option<&Seen>> {
        let left = std::mem::take(&mut self.left);
        if left.is_empty() {
            return Ok(self.calm.as_ref());
        }
        let all = host(Tensor::cat(left.iter().map(|l| l.values.clone()).collect(), 0))?;
        let mut from = 0;
        for Left { step, keys, .. } in left {
            let values = &all[from..from + 1 + keys.len()];
            from += values.len();
            let mut squares: BTreeMap<String, f64> = BTreeMap::new();
            for (key, square) in keys.iter().zip(&values[1..]) {
                let placement = key.rsplit_once('/').map_or(key.as_str(), |(placement, _)| placement);
                *squares.entry(placement.to_owned()).or_default() += f64::from(*square);
            }
            let gradients: BTreeMap<_, _> = squares.into_iter().map(|(placement, square)| (placement, square.sqrt())).collect();
            let norm = gradients.values().map(|norm| norm * norm).sum::<f64>().sqrt();
            let seen = Seen { step, loss: f64::from(values[0]), norm, gradients };
            if !seen.loss.is_finite() || !seen.norm.is_finite() {
                bail!("{}", words(plan, recipe, steps, &seen, self.calm.as_ref()));
            }
            self.calm = Some(seen);
        }
        Ok(self.calm.as_ref())
    }
}

/// What broke at `seen`, where, and what helps.
fn words(plan: &Plan, recipe: &Recipe, steps: usize, seen: &Seen, before: Option<&Seen>) -> String {
    let when = format!("at step {} of {steps}", seen.step);
    let order = |placement: &str| {
        let site = site_of(plan, placement);
        plan.anatomy.sites.iter().position(|s| Some(s.path.as_str()) == site).unwrap_or(usize::MAX) // the head last
    };
    let broken = seen.gradients.iter().filter(|(_, norm)| !norm.is_finite());
    let largest = before.and_then(|b| b.gradients.iter().max_by(|a, b| a.1.total_cmp(b.1)));
    let what = match (seen.loss.is_finite(), before) {
        (true, _) => match broken.min_by_key(|(placement, _)| order(placement)) {
            Some((placement, norm)) => {
                let place = name(plan, placement);
                format!("the gradient became {} {when}, first at {place}; the loss was {:.3}", number(*norm), seen.loss)
            }
            None => format!("the gradients grew beyond all numbers {when}; the loss was {:.3}", seen.loss),
        },
        (false, Some(before)) => {
            let place = largest.map_or(String::new(), |(placement, norm)| {
                format!("; at step {} the largest gradient, {norm:.1e}, was at {}", before.step, name(plan, placement))
            });
            format!("the loss became {} {when}{place}", number(seen.loss))
        }
        (false, None) => format!("the loss was {} from the first step on, before anything was learned", number(seen.loss)),
    };
    let remedy = match before {
        Some(_) => remedies(plan, recipe),
        None => format!(
            "The backbone's weights, or first values of {}, hold what are no numbers: check the file in backbone.settings.weights, and the methods' settings",
            plan.words()
        ),
    };
    format!("{what}. {remedy}")
}

/// What this recipe leaves to be done against steps that are too large.
pub fn remedies(plan: &Plan, recipe: &Recipe) -> String {
    let mut ways = vec![format!("Lower recipe.learning_rate, which is {}", recipe.learning_rate)];
    let steep = plan.members.iter().filter(|m| m.learning_rate_factor > 1.0);
    ways.extend(steep.map(|m| format!("lower methods.{}.learning_rate_factor, which is {}", m.index, m.learning_rate_factor)));
    if recipe.clip_norm == 0.0 {
        ways.push("set recipe.clip_norm to 1: clipping is off".to_owned());
    }
    if recipe.warm_up == 0.0 {
        ways.push("set recipe.warm_up to 0.1: there is none".to_owned());
    }
    ways.join("; or ")
}

/// Every trained value must be a number before it is kept.
///
/// # Errors
/// When one is none: the last update went too far, and no loss after it could show that.
pub fn values(bag: &Bag, plan: &Plan, recipe: &Recipe, done: usize) -> Result<()> {
    for (key, value) in &bag.params {
        if let Some(value) = host(value.clone())?.into_iter().find(|v| !v.is_finite()) {
            let placement = key.rsplit_once('/').map_or(key.as_str(), |(placement, _)| placement);
            bail!(
                "`{key}` holds {} after step {done}, at {}; nothing is kept. {}",
                number(f64::from(value)),
                name(plan, placement),
                remedies(plan, recipe)
            );
        }
    }
    Ok(())
}

fn number(value: f64) -> &'static str {
    if value.is_nan() { "NaN" } else { "infinite" }
}

/// `0.lora/blocks.3.attn.q` as "`blocks.3.attn.q` (LoRA)".
fn name(plan: &Plan, placement: &str) -> String {
    match (placement.split_once('/'), member_of(plan, placement)) {
        (Some((_, site)), Some(member)) if site == ALL => format!("what all places of {} share", member.card.title),
        (Some((_, site)), Some(member)) => format!("`{site}` ({})", member.card.title),
        _ => format!("the {placement}"),
    }
}

fn member_of<'a>(plan: &'a Plan, placement: &str) -> Option<&'a crate::plan::Member> {
    let index = placement.split_once('.')?.0;
    plan.members.iter().find(|m| m.index.to_string() == index)
}

/// The site at which a placement acts first.
fn site_of<'a>(plan: &'a Plan, placement: &'a str) -> Option<&'a str> {
    match placement.split_once('/')?.1 {
        site if site == ALL => member_of(plan, placement)?.sites.first().map(String::as_str),
        site => Some(site),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::file;
    use burn::tensor::Device;

    /// Steps 1, 2, ... with this loss and these squared norms, read back at the end.
    fn read(set: &[&str], steps: &[(f32, &[(&str, f32)])]) -> Result<Seen> {
        let set: Vec<String> = set.iter().map(|s| (*s).to_owned()).collect();
        let session = file::set(&file::find("digits-lora").expect("a preset"), &set).expect("set");
        let (plan, mut watch) = (Plan::of(&session), Watch::default());
        let one = |value: f32| Tensor::<1>::from_data([value], &Device::flex());
        for (n, (loss, squares)) in steps.iter().enumerate() {
            watch.keep(n + 1, one(*loss), squares.iter().map(|(key, v)| ((*key).to_owned(), one(*v))).collect());
        }
        watch.read(&plan, &session.recipe, 9).map(|seen| seen.cloned().unwrap_or_default())
    }

    const Q0: &str = "0.lora/blocks.0.attn.q/B";
    const Q2: &str = "0.lora/blocks.2.attn.q/A";
    const V2: &str = "0.lora/blocks.2.attn.v/A";

    #[test]
    fn the_last_step_is_given_with_norms_by_placement() {
        let seen =
            read(&[], &[(9.0, &[(Q2, 1.0)]), (2.5, &[(Q2, 9.0), ("0.lora/blocks.2.attn.q/B", 16.0), ("head/bias", 144.0)])]);
        let seen = seen.expect("numbers");
        assert_eq!((seen.step, seen.loss, seen.norm), (2, 2.5, 13.0));
        assert_eq!(seen.gradients, [("0.lora/blocks.2.attn.q".to_owned(), 5.0), ("head".to_owned(), 12.0)].into());
    }

    #[test]
    fn a_step_between_two_reports_is_found_and_its_first_site_in_forward_order_named() {
        let good: (f32, &[(&str, f32)]) = (2.0, &[(Q2, 1.0)]);
        let bad: (f32, &[(&str, f32)]) =
            (2.0, &[("head/bias", f32::INFINITY), (Q2, f32::INFINITY), (V2, f32::INFINITY), (Q0, 1.0)]);
        let words = read(&[], &[good, bad, good]).expect_err("no number").to_string();
        assert!(words.contains("infinite at step 2 of 9, first at `blocks.2.attn.q` (LoRA)"), "{words}");
    }

    #[test]
    fn a_loss_that_breaks_names_the_largest_gradient_before_it() {
        let words =
            read(&[], &[(2.0, &[(Q0, 1.0), (V2, 1e12)]), (f32::NAN, &[(Q0, f32::NAN)])]).expect_err("no number").to_string();
        assert!(words.contains("the loss became NaN at step 2 of 9; at step 1"), "{words}");
        assert!(words.contains("1.0e6, was at `blocks.2.attn.v` (LoRA)"), "{words}");
        let words = read(&[], &[(f32::NAN, &[(Q0, f32::NAN)])]).expect_err("no number").to_string();
        assert!(words.contains("from the first step on") && words.contains("backbone.settings.weights"), "{words}");
    }

    #[test]
    fn a_trained_value_that_is_no_number_is_not_kept() {
        let session = file::find("digits-lora").expect("a preset");
        let plan = Plan::of(&session);
        let with = |value: f32| {
            let value = Tensor::<2>::from_data([[1.0, value]], &Device::flex());
            let bag = Bag { params: [(Q2.to_owned(), value.autodiff().require_grad())].into(), ..Bag::default() };
            values(&bag, &plan, &session.recipe, 7)
        };
        assert!(with(2.0).is_ok());
        let words = with(f32::NEG_INFINITY).expect_err("no number").to_string();
        assert!(words.contains("infinite after step 7, at `blocks.2.attn.q` (LoRA)"), "{words}");
    }

    #[test]
    fn the_remedy_fits_the_recipe() {
        let says = |set: &[&str]| read(set, &[(2.0, &[(Q0, 1.0)]), (f32::NAN, &[])]).expect_err("no number").to_string();
        let usual = says(&[]);
        assert!(
            usual.contains("learning_rate, which is 0.005") && !usual.contains("clip_norm") && !usual.contains("warm_up"),
            "{usual}"
        );
        assert!(says(&["recipe.clip_norm=0"]).contains("clip_norm to 1"));
        assert!(says(&["recipe.warm_up=0"]).contains("warm_up to 0.1"));
        assert!(says(&["methods.0.learning_rate_factor=16"]).contains("methods.0.learning_rate_factor, which is 16"));
    }
}
