//! methods/03, twin quality-weighted LoRA, and the quality that it reads.

use burn::tensor::{Device, Tensor, TensorData};
use petl_workbench::engine::batch::Rows;
use petl_workbench::engine::model::{Model, host};
use petl_workbench::engine::quality::sharpness;
use petl_workbench::engine::tuner::Tuner;
use petl_workbench::methods::twin::CARD;
use petl_workbench::session::Value;
use petl_workbench::tasks::{Aim, classify};

use crate::common::{CLASSES, apart, batch, gradients, logits, numbers, put, session, toy, with};

const Q: &str = "blocks.0.attn.q";

/// Settings that give every image this α.
fn fixed(alpha: f64) -> Vec<(&'static str, Value)> {
    match alpha {
        0.5 => vec![("k", Value::Real(0.0))],
        _ => vec![("threshold", Value::Real(50.0 - 100.0 * alpha))], // so far off that it is held at 0 or 1
    }
}

fn raw(threshold: f64) -> Vec<(&'static str, Value)> {
    vec![("rule", Value::Text("raw".into())), ("threshold", Value::Real(threshold))]
}

/// The toy network with both modules speaking.
fn model(set: &[(&str, Value)]) -> Model {
    let mut model = toy(&session(vec![with(&CARD, &[set, &[("dropout", Value::Real(0.0))]].concat())]));
    let keys: Vec<_> = model.bag.params.keys().filter(|k| k.contains("/B")).cloned().collect();
    for (n, key) in keys.iter().enumerate() {
        put(&mut model, key, numbers(8 * 24, n as f32));
    }
    model
}

/// Four images, from smooth to noisy.
fn pixels() -> Tensor<4> {
    let noise = numbers(4 * 3 * 64, 0.5);
    let values = noise.iter().enumerate().map(|(n, v)| v * [0.02, 0.1, 0.3, 1.0][n / 192]).collect();
    Tensor::from_data(TensorData::new::<f32, _>(values, [4, 3, 8, 8]), &Device::flex())
}

fn through(model: &Model, x: &Tensor<3>) -> Tensor<3> {
    scored(model, &[], x)
}

/// The same where the data gives the images these scores.
fn scored(model: &Model, quality: &[f32], x: &Tensor<3>) -> Tensor<3> {
    let bag = model.bag.frozen();
    let mut tuner = Tuner::new(&model.plan, &model.weights, &bag, None).on(Rows { quality, ..Rows::default() });
    tuner.look(&pixels().into());
    tuner.linear(Q, x.clone())
}

fn answers(model: &Model) -> Vec<f32> {
    scored_answers(model, &[])
}

fn scored_answers(model: &Model, quality: &[f32]) -> Vec<f32> {
    let rows = Rows { quality, ..Rows::default() };
    host(model.logits_of(rows, &model.bag.frozen(), pixels(), None)).expect("logits")
}

fn x() -> Tensor<3> {
    Tensor::from_data(TensorData::new(numbers(4 * 5 * 24, 0.2), [4, 5, 24]), &Device::flex())
}

#[test]
fn with_b_zero_it_is_the_frozen_network_whatever_the_quality() {
    // methods/03 (h) 1.
    let frozen = logits(&toy(&session(vec![])));
    for set in [fixed(0.0), fixed(0.5), fixed(1.0), raw(-3.0), raw(7.0)] {
        assert_eq!(logits(&toy(&session(vec![with(&CARD, &set)]))), frozen, "{set:?}");
    }
}

#[test]
fn the_output_is_affine_in_alpha() {
    // methods/03 (h) 2, image by image, inside and outside 0 to 1.
    let (y0, y1) = (through(&model(&fixed(0.0)), &x()), through(&model(&fixed(1.0)), &x()));
    assert!(apart(&host(y0.clone()).expect("values"), &host(y1.clone()).expect("values")) > 1e-2);
    for threshold in [-2.0, 0.3, 0.5, 4.0] {
        let alpha = (sharpness(pixels()) + (0.5 - threshold)).unsqueeze_dim::<3>(2);
        let expected = y0.clone() * (-alpha.clone() + 1.0) + y1.clone() * alpha;
        let difference = apart(&host(through(&model(&raw(threshold)), &x())).expect("y"), &host(expected).expect("y"));
        assert!(difference < 1e-5 * (1.0 + threshold.abs() as f32), "τ = {threshold}: {difference}");
    }
}

#[test]
fn a_module_without_weight_has_no_gradient() {
    // methods/03 (h) 3.
    for (alpha, silent, speaking) in [(0.0, '2', '1'), (1.0, '1', '2')] {
        let found = gradients(&model(&fixed(alpha)));
        let largest = |n: char| {
            let of = found.iter().filter(|(key, _)| key.contains(&format!("/A{n}_")) || key.ends_with(&format!("/B{n}")));
            let all: Vec<f32> = of.map(|(_, g)| g.clone().abs().max().into_scalar::<f32>()).collect();
            assert_eq!(all.len(), 2 + 6, "one A a block, one B a place");
            all.into_iter().fold((f32::MAX, 0.0_f32), |(low, high), v| (low.min(v), high.max(v)))
        };
        assert_eq!(largest(silent).1, 0.0, "α = {alpha}");
        assert!(largest(speaking).0 > 0.0, "α = {alpha}");
    }
}

/// Scores of the data for the four images, in another order than their sharpness, on a scale of their own.
const SCORES: [f32; 4] = [0.75, 0.2, 1.4, 0.0];

#[test]
fn the_datas_own_score_takes_the_place_of_sharpness() {
    // methods/03 (h) 1: with B = 0 no score matters.
    let plain = toy(&session(vec![with(&CARD, &[])]));
    assert_eq!(scored_answers(&plain, &SCORES), answers(&toy(&session(vec![]))));
    // (h) 2: affine in α, by both rules of methods/03 (b).
    let (y0, y1) = (through(&model(&fixed(0.0)), &x()), through(&model(&fixed(1.0)), &x()));
    let steep = [("k", Value::Real(2.0)), ("threshold", Value::Real(0.4))];
    for (set, alpha) in [
        (raw(0.5), SCORES),
        (raw(-1.0), SCORES.map(|q| q + 1.5)),
        (steep.to_vec(), SCORES.map(|q| (0.5 + 2.0 * (q - 0.4)).clamp(0.0, 1.0))),
    ] {
        let model = model(&set);
        let alpha = Tensor::<3>::from_data(TensorData::new(alpha.to_vec(), [4, 1, 1]), &Device::flex());
        let expected = host(y0.clone() * (-alpha.clone() + 1.0) + y1.clone() * alpha).expect("y");
        let difference = apart(&host(scored(&model, &SCORES, &x())).expect("y"), &expected);
        assert!(difference < 3e-5, "{set:?}: {difference}");
        assert!(apart(&host(through(&model, &x())).expect("y"), &expected) > 1e-2, "{set:?}: sharpness gives the same");
    }
}

#[test]
fn a_score_at_an_end_leaves_one_module_without_gradient() {
    // methods/03 (h) 3, with α = q.
    let model = model(&[]);
    let (pixels, labels) = batch(&model.device);
    for (score, silent) in [(0.0, '2'), (1.0, '1')] {
        let rows = Rows { quality: &[score; 6], ..Rows::default() };
        let loss = classify::loss(model.logits_of(rows, &model.bag, pixels.clone(), Some(1)), labels.clone(), 0.0);
        for (key, gradient) in model.bag.gradients(loss.backward()).iter().filter(|(key, _)| key.contains("twin")) {
            let largest = gradient.clone().abs().max().into_scalar::<f32>();
            let of_silent = key.contains(&format!("/A{silent}_")) || key.ends_with(&format!("/B{silent}"));
            assert_eq!(largest == 0.0, of_silent, "score {score}, {key}: {largest}");
        }
    }
}

#[test]
fn one_score_merges_and_two_do_not() {
    // methods/03 (h) 4.
    let model = model(&raw(0.5)); // α = q
    let own = scored_answers(&model, &SCORES);
    for (n, score) in SCORES.iter().enumerate() {
        let one = answers(&merged(&model, f64::from(*score)));
        assert!(apart(&scored_answers(&model, &[*score; 4]), &one) < 1e-5, "all images with score {score}");
        for (image, (a, b)) in own.chunks(CLASSES).zip(one.chunks(CLASSES)).enumerate() {
            assert_eq!(apart(a, b) < 1e-5, image == n, "image {image} by the weight for image {n}: {}", apart(a, b));
        }
    }
}

/// The frozen network with the modules merged for one α.
fn merged(model: &Model, alpha: f64) -> Model {
    let mut plain = toy(&session(vec![]));
    for site in &model.plan.members[0].sites {
        let block = site.split('.').nth(1).expect("a block");
        let part = |n: usize| {
            let a = model.bag.params[&format!("0.twin/all/A{n}_{block}")].clone().inner();
            a.matmul(model.bag.params[&format!("0.twin/{site}/B{n}")].clone().inner())
        };
        let name = format!("{site}.weight");
        let w = plain.weights[&name].clone() + part(1) * (1.0 - alpha) + part(2) * alpha;
        plain.weights.insert(name, w);
    }
    plain
}

#[test]
fn one_alpha_merges_and_two_do_not() {
    // methods/03 (h) 4.
    let half = model(&fixed(0.5));
    let difference = apart(&answers(&half), &answers(&merged(&half, 0.5)));
    assert!(difference < 1e-5, "{difference}");
    let mixed = model(&raw(0.5));
    let alphas = host(sharpness(pixels())).expect("scores"); // α = q here
    assert!(alphas.is_sorted() && alphas[0] < 0.1 && alphas[3] > 0.9, "{alphas:?}");
    let own = answers(&mixed);
    for (n, alpha) in alphas.iter().enumerate() {
        let one = answers(&merged(&mixed, f64::from(*alpha)));
        for (image, (a, b)) in own.chunks(CLASSES).zip(one.chunks(CLASSES)).enumerate() {
            assert_eq!(apart(a, b) < 1e-5, image == n, "image {image} by the weight for image {n}: {}", apart(a, b));
        }
    }
}

#[test]
fn sharpness_falls_with_blur_and_does_not_see_brightness() {
    let score = |p: Tensor<4>| host(sharpness(p)).expect("scores");
    let sharp = pixels();
    let lit = score(sharp.clone() + 0.3);
    assert!(apart(&score(sharp.clone()), &lit) < 1e-5);
    // Each pixel the mean of itself and its right neighbour.
    let left = sharp.clone().narrow(3, 0, 7);
    let blurred = score((left.clone() + sharp.clone().narrow(3, 1, 7)) / 2.0);
    assert!(score(left).iter().zip(&blurred).all(|(a, b)| b < a), "{blurred:?}");
    assert_eq!(score(sharp * 0.0), vec![0.0; 4]);
}

/// (h) 5: the margin head without a margin is plain scaled cosine cross-entropy; with one the right class is held back by it.
#[test]
fn without_a_margin_the_head_by_angles_is_plain_scaled_cosine() {
    use burn::tensor::Int;
    use petl_workbench::engine::bag::Bag;
    use petl_workbench::tasks::classify::Margin;

    let device = Device::flex();
    let (d, classes, labels) = (6, 4, vec![2_i64, 0, 3]);
    let of = |rows: usize, cols: usize, phase: f32| {
        Tensor::<2>::from_data(TensorData::new(numbers(rows * cols, phase), [rows, cols]), &device)
    };
    let (x, w) = (of(3, d, 0.0), of(d, classes, 1.0));
    let mut bag = Bag::default();
    bag.params.insert("head/centres".to_owned(), w.clone());
    let target = Tensor::<1, Int>::from_data(TensorData::new(labels.clone(), [3]), &device);
    let loss = |margin: Margin| {
        let logits = classify::logits(&Aim::Cosine(margin), &bag, x.clone());
        host(classify::loss(margin.held_back(logits, &target), target.clone(), 0.0)).expect("a loss")[0]
    };
    let (x, w) = (host(x.clone()).expect("x"), host(w).expect("w"));
    let expected = |scale: f64, margin: f64| {
        let mut sum = 0.0;
        for (row, label) in labels.iter().enumerate() {
            let length = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt();
            let own = &x[row * d..(row + 1) * d];
            let cosine = |c: usize| {
                let dot: f64 = (0..d).map(|n| f64::from(own[n]) * f64::from(w[n * classes + c])).sum();
                dot / length(&mut own.iter().copied()) / length(&mut (0..d).map(|n| w[n * classes + c]))
            };
            let logit = |c: usize| scale * (cosine(c) - if c as i64 == *label { margin } else { 0.0 });
            sum += (0..classes).map(|c| logit(c).exp()).sum::<f64>().ln() - logit(*label as usize);
        }
        (sum / labels.len() as f64) as f32
    };
    for (scale, margin) in [(8.0, 0.0), (8.0, 0.4), (64.0, 0.35)] {
        let (ours, theirs) = (loss(Margin { scale, margin }), expected(scale, margin));
        assert!((ours - theirs).abs() < 1e-4 * theirs.max(1.0), "s {scale}, m {margin}: {ours} and {theirs}");
    }
}
