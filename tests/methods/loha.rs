//! LoHa: a Hadamard product of two low-rank matrices outgrows their rank.

use petl_workbench::methods::loha;
use petl_workbench::session::settings::{Settings, Value};

use crate::common::{apart, change, logits, placed, session, set, shaken, toy, values};

/// Rank by elimination with full pivoting; what is below a thousandth of the largest value counts as zero.
fn rank(values: &[f32], cols: usize) -> usize {
    let mut rows: Vec<Vec<f64>> = values.chunks(cols).map(|row| row.iter().map(|v| f64::from(*v)).collect()).collect();
    let largest = |rows: &[Vec<f64>]| rows.iter().flatten().map(|v| v.abs()).fold(0.0, f64::max);
    let zero = largest(&rows) * 1e-3;
    let mut rank = 0;
    while !rows.is_empty() && largest(&rows) > zero {
        let top = largest(&rows);
        let at = rows.iter().position(|row| row.iter().any(|v| v.abs() == top)).expect("the largest");
        let pivot = rows.swap_remove(at);
        let col = pivot.iter().position(|v| v.abs() == top).expect("the largest");
        for row in &mut rows {
            let factor = row[col] / pivot[col];
            row.iter_mut().zip(&pivot).for_each(|(v, p)| *v -= factor * p);
        }
        rank += 1;
    }
    rank
}

#[test]
fn the_change_has_rank_r_squared() {
    for r in [1_usize, 2, 3] {
        let model = shaken(&session(vec![placed(&loha::CARD, set(&[("rank", Value::Whole(r as i64))]))]), 1.0);
        assert_eq!(rank(&change(&model, "blocks.0.attn.q"), 24), r * r, "rank {r}");
    }
    // The measure itself: a product of 24 x 2 and 2 x 24 has rank 2.
    let low: Vec<f32> =
        (0..576).map(|n| ((n / 24) as f32).sin() * ((n % 24) as f32).cos() + (n / 24) as f32 * (n % 24) as f32).collect();
    assert_eq!(rank(&low, 24), 2);
}

#[test]
fn the_change_is_the_elementwise_product_times_alpha_over_r() {
    let of = |alpha: f64| {
        let settings = set(&[("rank", Value::Whole(4)), ("alpha", Value::Real(alpha))]);
        shaken(&session(vec![placed(&loha::CARD, settings)]), 0.5)
    };
    let model = of(6.0);
    let of_key = |name: &str| values(&model, &format!("0.loha/blocks.1.attn.v/{name}"));
    let (a1, b1, a2, b2) = (of_key("A1"), of_key("B1"), of_key("A2"), of_key("B2"));
    let product = |a: &[f32], b: &[f32], i: usize, j: usize| (0..4).map(|k| a[i * 4 + k] * b[k * 24 + j]).sum::<f32>();
    let expected: Vec<f32> =
        (0..576).map(|n| (n / 24, n % 24)).map(|(i, j)| product(&a1, &b1, i, j) * product(&a2, &b2, i, j) * 6.0 / 4.0).collect();
    assert!(apart(&change(&model, "blocks.1.attn.v"), &expected) < 1e-4);
    assert_eq!(logits(&of(0.0)), logits(&toy(&session(vec![]))), "α = 0 changes nothing");
}

#[test]
fn it_starts_as_lycoris_does() {
    // Deviations 1, 0.1, 1 and zeros, over all places together.
    let model = toy(&session(vec![placed(&loha::CARD, Settings::default())]));
    for (name, deviation) in [("A1", 1.0), ("B1", 0.1), ("A2", 1.0), ("B2", 0.0)] {
        let keys = model.bag.params.keys().filter(|k| k.ends_with(name));
        let all: Vec<f32> = keys.flat_map(|k| values(&model, k)).collect();
        let measured = (all.iter().map(|v| v * v).sum::<f32>() / all.len() as f32).sqrt();
        assert!((measured - deviation).abs() <= deviation * 0.1, "{name}: {measured}");
    }
}
