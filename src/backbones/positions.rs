//! Position embeddings of a grid of patches, stretched to another grid. Called by the vision transformers.

/// Whose rule it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// transformers': PyTorch's bicubic `interpolate`, a = -0.75, edges repeated.
    Plain,
    /// timm's (`resample_abs_pos_embed`): the same with `antialias`, where a = -0.5, the kernel is as much wider as the grid gets smaller, and
    /// what lies beyond an edge counts for nothing.
    Antialiased,
}

/// Position embeddings `[first + from², width]` on another grid, `[first + to², width]`; corners not aligned.
pub fn stretched(values: &[f32], width: usize, first: usize, from: usize, to: usize, rule: Rule) -> Vec<f32> {
    let taps: Vec<Vec<(usize, f64)>> = (0..to)
        .map(|n| match rule {
            Rule::Plain => plain(n, from, to),
            Rule::Antialiased => antialiased(n, from, to),
        })
        .collect();
    let mut out = values[..first * width].to_vec();
    for rows in &taps {
        for cols in &taps {
            let mut sum = vec![0.0; width];
            for (y, wy) in rows {
                for (x, wx) in cols {
                    let at = (first + y * from + x) * width;
                    sum.iter_mut().zip(&values[at..at + width]).for_each(|(sum, v)| *sum += wy * wx * f64::from(*v));
                }
            }
            out.extend(sum.into_iter().map(|v| v as f32));
        }
    }
    out
}

/// The cubic kernel (Keys 1981) at a distance of `x` places.
fn kernel(x: f64, a: f64) -> f64 {
    let x = x.abs();
    match x {
        _ if x < 1.0 => ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0,
        _ if x < 2.0 => a * (((x - 5.0) * x + 8.0) * x - 4.0),
        _ => 0.0,
    }
}

/// The four neighbours of a new place along one axis, and their weights.
fn plain(n: usize, from: usize, to: usize) -> Vec<(usize, f64)> {
    let at = (n as f64 + 0.5) * from as f64 / to as f64 - 0.5;
    let near = |k: i32| at.floor() + f64::from(k);
    (-1..=2).map(|k| (near(k).clamp(0.0, from as f64 - 1.0) as usize, kernel(near(k) - at, -0.75))).collect()
}

/// All places under the kernel, which is widened where the grid gets smaller, and their weights, of sum 1.
fn antialiased(n: usize, from: usize, to: usize) -> Vec<(usize, f64)> {
    let step = from as f64 / to as f64;
    let (centre, wide) = ((n as f64 + 0.5) * step, step.max(1.0));
    let edge = |at: f64| (at + 0.5).clamp(0.0, from as f64) as usize;
    let mut taps: Vec<(usize, f64)> = (edge(centre - 2.0 * wide)..edge(centre + 2.0 * wide))
        .map(|place| (place, kernel((place as f64 + 0.5 - centre) / wide, -0.5)))
        .collect();
    let sum: f64 = taps.iter().map(|(_, weight)| weight).sum();
    taps.iter_mut().for_each(|(_, weight)| *weight /= sum);
    taps
}
