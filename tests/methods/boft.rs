//! BOFT: a few rounds of small rotations make a dense one.

use burn::tensor::Tensor;
use petl_workbench::backbones::vit::{B_16, Vit};
use petl_workbench::engine::model::{self, Model};
use petl_workbench::engine::tuner::Tuner;
use petl_workbench::methods::{self, Card, boft};
use petl_workbench::plan::Plan;
use petl_workbench::plan::anatomy::Role;
use petl_workbench::session::settings::{Settings, Value};
use petl_workbench::session::{Place, Placed};

use crate::common::{CLASSES, TOY, apart, folded, logits, placed, session, set, shaken, toy};

const LINEAR: [Role; 6] = [Role::Q, Role::K, Role::V, Role::O, Role::Up, Role::Down];

fn settings(b: i64, m: i64, scale: bool) -> Settings {
    set(&[("block_size", Value::Whole(b)), ("factors", Value::Whole(m)), ("scale", Value::Flag(scale))])
}

/// R at a site `[d_in, d_in]`: what folding makes of an identity weight.
fn rotation(model: &mut Model, site: &str) -> Tensor<2> {
    let d = model.plan.anatomy.site(site).expect("a site").d_in;
    model.weights.insert(format!("{site}.weight"), Tensor::eye(d, &model.device));
    let bag = model.bag.frozen();
    let tuner = Tuner::new(&model.plan, &model.weights, &bag, None);
    tuner.folded(model.plan.anatomy.site(site).expect("a site"), "weight")
}

fn turned(b: i64, m: i64) -> Vec<f32> {
    let mut model = shaken(&session(vec![placed(&boft::CARD, settings(b, m, false))]), 1.0);
    let r = rotation(&mut model, "blocks.0.attn.q");
    let gram = r.clone().transpose().matmul(r.clone()) - Tensor::eye(24, &model.device);
    assert!(gram.abs().max().into_scalar::<f32>() < 1e-5, "b {b}, m {m}: not orthogonal");
    model::host(r).expect("read")
}

#[test]
fn every_round_doubles_the_channels_that_meet() {
    // BOFT(m, b) is block-diagonal with blocks of b 2^(m − 1), each of them full; at that of the whole width it is dense.
    for (b, m) in [(6, 1), (6, 2), (6, 3), (2, 1), (2, 2), (2, 3), (12, 2)] {
        let wide = (b << (m - 1)) as usize;
        for (n, v) in turned(b, m).iter().enumerate() {
            let together = n / 24 / wide == n % 24 / wide;
            assert_eq!(*v != 0.0, together, "b {b}, m {m}: row {}, column {}", n / 24, n % 24);
        }
    }
}

#[test]
fn rounds_pair_half_blocks_as_the_reference_permutation_does() {
    // b = 2, m = 3 on 24 channels: three groups of 8, pairs 4, 2 and 1 apart. The reference puts the even half-blocks of a
    // group before its odd ones, multiplies by the block diagonal, and undoes the order; R = F_3 F_2 F_1 on the right of x.
    let mut model = shaken(&session(vec![placed(&boft::CARD, settings(2, 3, false))]), 1.0);
    let t = crate::common::values(&model, "0.boft/blocks.0.attn.q/Q"); // [36, 1]
    let mut expected = vec![0.0_f32; 576];
    (0..24).for_each(|n| expected[n * 25] = 1.0);
    for i in (0..3).rev() {
        let group = 2 << i; // channels of one group, since a half-block is one channel
        let order: Vec<usize> = (0..group).step_by(2).chain((1..group).step_by(2)).collect();
        // P[row, order[row]] = 1; F = P diag Pᵀ.
        let place = |n: usize| n / group * group + order[n % group];
        let mut next = vec![0.0; 576];
        for (row, col) in (0..24).flat_map(|row| (0..24).map(move |col| (row, col))) {
            next[row * 24 + col] = (0..24)
                .map(|k| {
                    let (a, b) = (place(k), place(col));
                    let q = t[i * 12 + a / 2];
                    let (cos, sin) = ((1.0 - q * q) / (1.0 + q * q), 2.0 * q / (1.0 + q * q));
                    let f = match (a / 2 == b / 2, a % 2, b % 2) {
                        (false, ..) => 0.0,
                        (true, 0, 1) => sin,
                        (true, 1, 0) => -sin,
                        _ => cos,
                    };
                    expected[row * 24 + k] * f
                })
                .sum();
        }
        expected = next;
    }
    let r = model::host(rotation(&mut model, "blocks.0.attn.q")).expect("read");
    assert!(apart(&r, &expected) < 1e-5);
}

#[test]
fn one_round_is_oft() {
    let one = shaken(&session(vec![placed(&boft::CARD, settings(8, 1, false))]), 0.5);
    let mut same = toy(&session(vec![placed(&methods::oft::CARD, set(&[("block_size", Value::Whole(8))]))]));
    for (key, value) in &mut same.bag.params {
        *value = one.bag.params[&key.replace("0.oft", "0.boft")].clone();
    }
    assert_eq!(logits(&one), logits(&same));
}

#[test]
fn scales_stretch_outputs_and_leave_the_bias() {
    let model = shaken(&session(vec![placed(&boft::CARD, settings(4, 2, true))]), 0.5);
    let merged = folded(&model);
    assert!(apart(&logits(&model), &logits(&merged)) < 1e-4);
    let bias = "blocks.1.attn.o.bias";
    assert_eq!(merged.weights[bias].to_data(), model.weights[bias].to_data());
    // Rotations keep the length of a neuron (a column), so that only s changes it.
    let lengths = |m: &Model| model::host(m.weights["blocks.1.attn.o.weight"].clone().square().sum_dim(0).sqrt()).expect("read");
    let s = crate::common::values(&model, "0.boft/blocks.1.attn.o/s");
    let expected: Vec<f32> = lengths(&model).iter().zip(&s).map(|(l, s)| l * s.abs()).collect();
    assert!(apart(&lengths(&merged), &expected) < 1e-5);
    assert!(s.iter().any(|s| (s - 1.0).abs() > 0.1), "nothing stretched");
}

#[test]
fn sizes_that_do_not_fit_are_refused_and_counts_are_the_papers() {
    let refused = |b, m| {
        let mut problems = vec![];
        Plan::on(&session(vec![placed(&boft::CARD, settings(b, m, true))]), TOY.declare(), CLASSES, &mut problems);
        problems[0].words.clone()
    };
    assert!(refused(8, 3).contains("fit: 2, 6"), "{}", refused(8, 3));
    assert!(refused(3, 2).contains("fit: 2, 4, 6, 12"), "{}", refused(3, 2));
    assert!(refused(2, 12).contains("fewer factors"), "{}", refused(2, 12));

    // Tables 1 and 4: every linear layer with rotations, scales and biases, on DeBERTaV3-base (blocks as in ViT-B) and DINOv2-large.
    let large = Vit { width: 1024, heads: 16, blocks: 24, hidden: 4096, ..B_16 };
    let count = |net: Vit, b, m| {
        let on = |card: &'static Card, set| Placed { place: Place::roles(&LINEAR), ..placed(card, set) };
        let stack = vec![on(&boft::CARD, settings(b, m, true)), on(&methods::bitfit::CARD, Settings::default())];
        let plan = Plan::on(&session(stack), net.declare(), CLASSES, &mut vec![]);
        (plan.trainable() as f64 / 1e4).round() / 100.0
    };
    assert_eq!([count(B_16, 16, 1), count(B_16, 8, 2)], [0.79, 0.75]);
    assert_eq!([count(large, 16, 1), count(large, 8, 2), count(large, 4, 4), count(large, 2, 6)], [2.10, 1.99, 1.77, 1.11]);
}
