//! Comparing runs: which were tested on the same items, an exact paired test between two of them, the spread over seeds, and one
//! score for accuracy and parameters together.
//! Plain numbers and words; called by the command line and the figures. Knows no tensors and no window.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use crate::board::{Run, Status};
use crate::datasets::pictures::MEMORY;
use crate::datasets::{self, Samples, Wanted};
use crate::plan::anatomy::Front;
use crate::session::Session;

/// Below this a difference is named; it is the usual line, and the words always carry p itself.
const SIGNIFICANT: f64 = 0.05;

/// C of `ppt` in V-PETL Bench: as many trained parameters cost about a quarter of the score.
pub const PPT_C: f64 = 1e7;

/// Performance-parameter trade-off of V-PETL Bench (Xin et al. 2024): M · exp(-log10(P / C + 1)), where M is the accuracy from 0 to
/// 1 and P the trained parameters without the head. A method without parameters has its accuracy.
pub fn ppt(accuracy: f64, parameters: usize, c: f64) -> f64 {
    accuracy * (-(parameters as f64 / c + 1.0).log10()).exp()
}

/// How one run did on the items on which the first one was tested.
#[derive(Clone, Debug, PartialEq)]
pub struct Paired {
    /// Items that only this run, and only the first run, got right.
    pub only_this: usize,
    pub only_first: usize,
    /// Accuracy minus the first run's.
    pub difference: f64,
    /// Two-sided p of McNemar's exact test.
    pub p: f64,
}

/// Two-sided p of the exact test of McNemar (1947): under no difference, each item that only one of the two got right is a
/// toss of a fair coin.
pub fn mcnemar(only_one: usize, only_other: usize) -> f64 {
    let n = only_one + only_other;
    let fewer = only_one.min(only_other);
    // Binomial terms of a fair coin in logarithms: thousands of items would underflow otherwise.
    let half = -(n as f64) * std::f64::consts::LN_2;
    let mut choose = 0.0; // ln C(n, 0)
    let mut tail = half.exp();
    for k in 1..=fewer {
        choose += (((n - k + 1) as f64) / k as f64).ln();
        tail += (choose + half).exp();
    }
    (2.0 * tail).min(1.0)
}

/// This run against the first, on the same labels. None when either has other items than `labels`.
pub fn paired(labels: &[u32], first: &[u32], this: &[u32]) -> Option<Paired> {
    if labels.is_empty() || first.len() != labels.len() || this.len() != labels.len() {
        return None;
    }
    let (mut only_this, mut only_first) = (0, 0);
    for ((label, first), this) in labels.iter().zip(first).zip(this) {
        match (this == label, first == label) {
            (true, false) => only_this += 1,
            (false, true) => only_first += 1,
            _ => {}
        }
    }
    let difference = (only_this as f64 - only_first as f64) / labels.len() as f64;
    Some(Paired { only_this, only_first, difference, p: mcnemar(only_this, only_first) })
}

/// Holm's correction (1979): with many comparisons against one run, the smallest p must be smaller. In the order given.
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|a, b| p[*a].total_cmp(&p[*b]));
    let mut out = vec![1.0; p.len()];
    let mut highest: f64 = 0.0;
    for (rank, n) in order.into_iter().enumerate() {
        highest = highest.max(p[n] * (p.len() - rank) as f64).min(1.0);
        out[n] = highest;
    }
    out
}

/// "higher, p .003" or "cannot tell apart, p 0.41". Says which number is higher, never which method is better.
pub fn words(difference: f64, p: f64) -> String {
    match p < SIGNIFICANT {
        true if difference > 0.0 => format!("higher, {}", p_words(p)),
        true => format!("lower, {}", p_words(p)),
        false => format!("cannot tell apart, {}", p_words(p)),
    }
}

fn p_words(p: f64) -> String {
    match p {
        p if p < 0.001 => "p < .001".to_owned(),
        p if p < 0.01 => format!("p {p:.3}").replacen("0.", ".", 1),
        p => format!("p {p:.2}"),
    }
}

/// The test items of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Items {
    fingerprint: String,
    pub labels: Vec<u32>,
}

impl Items {
    /// Read as the data set has them, whatever backbone they were meant for: images of files at a side of their own, sounds by their
    /// first second.
    ///
    /// # Errors
    /// When the data set cannot be read.
    pub fn of(session: &Session) -> Result<Items> {
        const SIDE: usize = 64;
        let wanted = Wanted { heard: Front::RATE, ..Wanted::all(SIDE) };
        let card = datasets::find(&session.data.name).with_context(|| format!("unknown data set `{}`", session.data.name))?;
        let test = (card.load)(&session.data.settings.filled(card.fields), session.seed, &wanted)?.test;
        Ok(Items { fingerprint: fingerprint(&test)?, labels: test.labels })
    }

    /// Two runs saw the same pictures or texts and labels in the same order.
    pub fn are_those_of(&self, other: &Items) -> bool {
        self.fingerprint == other.fingerprint
    }
}

/// The test items as a number: two runs with the same number saw the same pictures, quality scores and labels
/// in the same order.
///
/// # Errors
/// When a file cannot be read any more.
pub fn fingerprint(test: &Samples) -> Result<String> {
    use sha2::{Digest, Sha256};
    let mut hash = Sha256::new();
    hash.update(test.side.to_le_bytes());
    hash.update(&test.pixels);
    for picture in &test.pictures {
        hash.update(picture.bytes()?);
    }
    for text in &test.texts {
        hash.update(format!("{text:?}"));
    }
    for value in test.sounds.iter().flatten() {
        hash.update(value.to_le_bytes());
    }
    for score in &test.quality {
        hash.update(score.to_le_bytes());
    }
    for label in &test.labels {
        hash.update(label.to_le_bytes());
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Finished runs whose sessions differ in nothing but seed, title and device, the first one first. A run that did not end in
/// order stands alone: what it had reached is no sample of what its stack reaches.
#[derive(Clone, Debug)]
pub struct Group<'a> {
    pub runs: Vec<&'a Run>,
    /// Seeds among them. One seed run twice is one value: it says nothing about the spread over seeds.
    pub n: usize,
    /// Of the accuracies, seed by seed.
    pub mean: f64,
    /// Sample standard deviation over the seeds; none for one seed.
    pub deviation: Option<f64>,
    /// Every step was done.
    pub finished: bool,
}

impl Group<'_> {
    /// "91.2 ± 0.4, n 3" in per cent, or the one accuracy; marked where the run did not finish.
    pub fn words(&self) -> String {
        let mean = self.mean * 100.0;
        match (self.deviation, self.runs.first()) {
            (Some(sd), _) => format!("{mean:.1} ± {:.1}, n {}", sd * 100.0, self.n),
            (None, Some(run)) if !self.finished => format!("{mean:.1} ({})", run.status.words()),
            (None, _) => format!("{mean:.1}"),
        }
    }

    /// Of the mean accuracy; all runs of a group train the same parameters.
    pub fn ppt(&self, c: f64) -> Option<f64> {
        let started = self.runs.iter().find_map(|run| run.started.as_ref())?;
        Some(ppt(self.mean, started.trainable, c))
    }

    /// The name of the stack, with the session's title where there is one.
    pub fn title(&self) -> String {
        self.runs.first().map_or_else(String::new, |run| run.title())
    }
}

/// The session without what makes no difference to a result's meaning: seed, title, device, memory. Equal for runs of one group.
pub fn alike(session: &Session) -> Session {
    let mut session = session.clone();
    session.seed = 0;
    session.title = String::new();
    session.device = String::new();
    session.recipe.report_every = 1;
    session.data.settings.0.remove(MEMORY.name);
    session.methods.iter_mut().for_each(|m| m.resolved.clear());
    session
}

/// Groups runs that have an accuracy; a run that lost its session or did not finish stands alone.
pub fn groups<'a>(runs: &[&'a Run]) -> Vec<Group<'a>> {
    let mut groups: Vec<(Option<Session>, Vec<&'a Run>)> = Vec::new();
    for run in runs.iter().filter(|run| run.accuracy().is_some()) {
        let key = run.session.as_ref().filter(|_| run.status == Status::Finished).map(alike);
        match groups.iter_mut().find(|(known, _)| key.is_some() && *known == key) {
            Some((_, members)) => members.push(run),
            None => groups.push((key, vec![run])),
        }
    }
    groups.into_iter().map(|(_, runs)| group(runs)).collect()
}

fn group(runs: Vec<&Run>) -> Group<'_> {
    let mut by_seed: BTreeMap<Option<u64>, Vec<f64>> = BTreeMap::new();
    for run in &runs {
        by_seed.entry(run.session.as_ref().map(|s| s.seed)).or_default().extend(run.accuracy());
    }
    let mean_of = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let values: Vec<f64> = by_seed.values().map(|same| mean_of(same)).collect();
    let (n, mean) = (values.len(), mean_of(&values));
    let square = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
    let deviation = (n > 1).then(|| (square / (n - 1) as f64).sqrt());
    let finished = runs.iter().all(|run| run.status == Status::Finished);
    Group { runs, n, mean, deviation, finished }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_test_gives_the_tables_values() {
        // scipy.stats.binomtest(3, 13).pvalue and (10, 30).
        assert!((mcnemar(3, 10) - 0.092_285_156_25).abs() < 1e-12);
        assert!((mcnemar(20, 10) - 0.098_737_146_7).abs() < 1e-9);
        assert_eq!(mcnemar(0, 0), 1.0);
        assert_eq!(mcnemar(5, 5), 1.0);
        assert!(mcnemar(4000, 0) < 1e-300);
    }

    #[test]
    fn ppt_gives_the_published_values() {
        let near = |got: f64, want: f64| assert!((got - want).abs() < 0.005, "{got} is not {want}");
        near(ppt(0.717, 2_380_000, PPT_C), 0.65); // LST on ViT-B/16
        near(ppt(0.492, 12_600_000, PPT_C), 0.35); // Partial-1 on Swin-B
        assert_eq!(ppt(0.5294, 0, PPT_C), 0.5294, "without parameters it is the accuracy");
        assert_eq!(ppt(0.5294, 0, 1.0), 0.5294, "whatever C is");
        assert!(ppt(0.7, 1000, PPT_C) > ppt(0.7, 2000, PPT_C), "more parameters score less");
        assert!(ppt(0.7, 1000, 1e6) < ppt(0.7, 1000, 1e7), "a smaller C punishes more");
        assert!((ppt(1.0, 90_000_000, PPT_C) - (-1.0_f64).exp()).abs() < 1e-12, "P = 9 C costs one e");
    }

    #[test]
    fn words_name_a_side_only_when_the_test_does() {
        assert_eq!(words(0.01, 0.41), "cannot tell apart, p 0.41");
        assert_eq!(words(0.05, 0.003), "higher, p .003");
        assert_eq!(words(-0.05, 0.03), "lower, p 0.03");
        assert_eq!(words(-0.5, 1e-9), "lower, p < .001");
    }

    #[test]
    fn holm_keeps_the_order_and_the_ceiling() {
        let corrected = holm(&[0.01, 0.04, 0.03]);
        for (got, want) in corrected.iter().zip([0.03, 0.06, 0.06]) {
            assert!((got - want).abs() < 1e-12);
        }
    }

    /// A run of `preset` with this seed that ended so, at this accuracy.
    fn run(seed: u64, accuracy: f64, ended: Option<bool>) -> Run {
        use crate::engine::{Evaluated, Event, Finished};
        let mut session = crate::session::file::find("digits-lora").unwrap();
        session.seed = seed;
        let mut run = Run::new("run", std::path::Path::new("/nowhere"), Some(session));
        run.fold(&Event::Evaluated(Evaluated { accuracy, ..Evaluated::default() }));
        match ended {
            Some(stopped) => run.fold(&Event::Finished(Finished { accuracy, stopped, ..Finished::default() })),
            None => run.status = Status::Cut,
        }
        run
    }

    #[test]
    fn means_over_seeds_take_finished_runs_and_one_value_a_seed() {
        let runs = [
            run(1, 0.80, Some(false)),
            run(2, 0.90, Some(false)),
            run(2, 0.90, Some(false)),
            run(2, 0.90, Some(false)),
            run(3, 0.10, Some(true)),
            run(4, 0.20, None),
        ];
        let refs: Vec<&Run> = runs.iter().collect();
        let groups = groups(&refs);
        assert_eq!(
            groups.iter().map(|g| (g.runs.len(), g.n, g.finished)).collect::<Vec<_>>(),
            [(4, 2, true), (1, 1, false), (1, 1, false)]
        );
        assert!((groups[0].mean - 0.85).abs() < 1e-12);
        assert!(groups[0].deviation.is_some_and(|sd| (sd - 0.005_f64.sqrt()).abs() < 1e-12)); // of 0.8 and 0.9
        assert_eq!(
            groups.iter().map(Group::words).collect::<Vec<_>>(),
            ["85.0 ± 7.1, n 2", "10.0 (stopped, kept)", "20.0 (cut off)"]
        );
    }

    #[test]
    fn other_items_are_not_paired() {
        assert_eq!(paired(&[1, 2], &[1, 2], &[1]), None);
        let found = paired(&[1, 2, 3], &[1, 0, 0], &[1, 2, 3]);
        assert_eq!(found, Some(Paired { only_this: 2, only_first: 0, difference: 2.0 / 3.0, p: 0.5 }));
    }
}
