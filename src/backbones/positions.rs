//! Position embeddings of a grid of patches, stretched to another grid. Called by the vision transformers.

/// Position embeddings `[first + from², width]` on another grid, `[first + to², width]`: bicubic with a = -0.75, corners not
/// aligned, edges repeated, as PyTorch's `interpolate` does it for transformers.
pub fn stretched(values: &[f32], width: usize, first: usize, from: usize, to: usize) -> Vec<f32> {
    const A: f64 = -0.75;
    let near = |x: f64| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
    let far = |x: f64| ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A;
    // The four neighbours of each new place along one axis, and their weights.
    let taps: Vec<[(usize, f64); 4]> = (0..to)
        .map(|n| {
            let at = (n as f64 + 0.5) * from as f64 / to as f64 - 0.5;
            let (below, t) = (at.floor(), at - at.floor());
            let weights = [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)];
            std::array::from_fn(|k| ((below + k as f64 - 1.0).clamp(0.0, from as f64 - 1.0) as usize, weights[k]))
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
