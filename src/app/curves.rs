//! The runs' curves as the plots draw them: at most a few hundred points each, made anew only when a run has grown.
//! Called by the plots; held by the view.
//! Must not draw; reads the board only.

use std::collections::BTreeMap;

use crate::board::Run;

/// Points of one series kept; more than a plot has pixels.
const MOST: usize = 600;

pub type Points = Vec<[f64; 2]>;

/// The series of one run.
#[derive(Default)]
pub struct Series {
    grown: (usize, usize),
    /// In per cent.
    pub test: Points,
    pub train: Points,
    pub raw_loss: Points,
    pub loss: Points,
    /// In megabytes.
    pub used: Points,
    pub peak: Points,
}

#[derive(Default)]
pub struct Curves {
    of: BTreeMap<String, Series>,
}

impl Curves {
    /// Brings the series of these runs up to date and forgets all others.
    pub fn follow(&mut self, runs: &[&Run]) {
        self.of.retain(|id, _| runs.iter().any(|run| run.id == *id));
        for run in runs {
            let series = self.of.entry(run.id.clone()).or_default();
            let grown = (run.steps.len(), run.evaluations.len());
            if series.grown != grown {
                *series = Series::of(run);
            }
        }
    }

    pub fn of(&self, run: &Run) -> Option<&Series> {
        self.of.get(&run.id)
    }
}

impl Series {
    fn of(run: &Run) -> Series {
        let of = |value: fn(&crate::engine::Step) -> f64| run.steps.iter().map(|s| [s.step as f64, value(s)]).collect::<Points>();
        let (train, loss) = (of(|s| 100.0 * s.accuracy), of(|s| s.loss));
        let test: Points = run.evaluations.iter().map(|e| [e.step as f64, 100.0 * e.accuracy]).collect();
        Series {
            grown: (run.steps.len(), run.evaluations.len()),
            test: thin(&test),
            train: thin(&smooth(&train)),
            loss: thin(&smooth(&loss)),
            raw_loss: thin(&loss),
            used: thin(&of(|s| s.bytes as f64 / 1e6)),
            peak: thin(&of(|s| s.peak_bytes as f64 / 1e6)),
        }
    }
}

/// The lowest and the highest point of each of equal stretches, so that no spike is lost.
fn thin(points: &[[f64; 2]]) -> Points {
    if points.len() <= MOST {
        return points.to_vec();
    }
    let mut out = Vec::with_capacity(MOST + 2);
    for stretch in points.chunks(points.len().div_ceil(MOST / 2)) {
        let by = |a: &usize, b: &usize| stretch[*a][1].total_cmp(&stretch[*b][1]);
        let low = (0..stretch.len()).min_by(by).unwrap_or(0);
        let high = (0..stretch.len()).max_by(by).unwrap_or(0);
        out.push(stretch[low.min(high)]);
        if low != high {
            out.push(stretch[low.max(high)]);
        }
    }
    out.extend(points.last().filter(|last| out.last() != Some(last)));
    out
}

/// Exponential mean, begun at the first value.
fn smooth(points: &[[f64; 2]]) -> Points {
    let keep = 1.0 - 1.0 / (points.len() as f64 / 20.0).clamp(2.0, 20.0);
    let mut mean = points.first().map_or(0.0, |p| p[1]);
    points
        .iter()
        .map(|[x, y]| {
            mean = keep * mean + (1.0 - keep) * y;
            [*x, mean]
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thinning_keeps_ends_order_and_spikes() {
        let mut points: Points = (0..50_000).map(|n| [n as f64, (n as f64 / 900.0).sin()]).collect();
        points[31_337][1] = 9.0;
        let thinned = thin(&points);
        assert!(thinned.len() <= MOST + 2, "{}", thinned.len());
        assert!(thinned.iter().any(|p| p[1] == 9.0));
        assert!(thinned.windows(2).all(|w| w[0][0] < w[1][0]));
        assert_eq!(thinned.last(), points.last());
        assert_eq!(thin(&points[..10]), points[..10]);
    }
}
