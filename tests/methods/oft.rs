//! OFT, and the Cayley transform that it shares.

use burn::tensor::{Device, Tensor, TensorData};
use petl_workbench::backbones::vit::Vit;
use petl_workbench::engine::bag::trainable;
use petl_workbench::engine::model;
use petl_workbench::methods::{cayley, oft};
use petl_workbench::plan::Plan;
use petl_workbench::session::settings::Value;

use crate::common::{CLASSES, TOY, apart, change, folded, logits, numbers, placed, session, set, shaken, toy, values};

fn blocks(n: usize, b: usize, size: f32) -> Tensor<3> {
    let triangle: Vec<f32> = numbers(n * cayley::numbers(b), 0.4).iter().map(|v| v * size).collect();
    cayley::skew(Tensor::from_data(TensorData::new(triangle, [n, cayley::numbers(b)]), &Device::flex()), b)
}

/// Largest entry of Rᵀ R − I.
fn crooked(r: &Tensor<3>) -> f32 {
    let b = r.dims()[1];
    let error = r.clone().swap_dims(1, 2).matmul(r.clone()) - Tensor::<2>::eye(b, &r.device()).unsqueeze::<3>();
    error.abs().max().into_scalar::<f32>()
}

#[test]
fn rotations_are_orthogonal_and_proper_whatever_their_numbers() {
    for (n, b) in [(3, 2), (4, 8), (2, 32), (1, 96)] {
        for size in [0.01, 0.3, 3.0, 100.0] {
            let r = cayley::exact(blocks(n, b, size));
            assert!(crooked(&r) < 1e-5, "{b} wide, numbers up to {size}: {}", crooked(&r));
        }
    }
    // A rotation of two channels by hand: Q = [[0, t], [−t, 0]] turns by 2 atan t.
    let q = cayley::skew(Tensor::from_data(TensorData::new(vec![0.5_f32], [1, 1]), &Device::flex()), 2);
    let r = model::host(cayley::exact(q)).expect("read");
    assert!(apart(&r, &[0.6, 0.8, -0.8, 0.6]) < 1e-6, "{r:?}");
}

#[test]
fn skew_blocks_are_filled_row_by_row() {
    let triangle = Tensor::from_data(TensorData::new((1..=6).map(|n| n as f32).collect(), [1, 6]), &Device::flex());
    let q = model::host(cayley::skew(triangle, 4)).expect("read");
    let expected = [0., 1., 2., 3., -1., 0., 4., 5., -2., -4., 0., 6., -3., -5., -6., 0.];
    assert_eq!(q, expected);
}

#[test]
fn five_terms_are_near_the_exact_rotation_while_it_is_small() {
    // The first term that differs is Q⁴, which counts twice in the full series.
    let (small, large) = (blocks(4, 8, 0.02), blocks(4, 8, 1.0));
    let difference = |q: &Tensor<3>| (cayley::exact(q.clone()) - cayley::five_terms(q.clone())).abs().max().into_scalar::<f32>();
    assert!(difference(&small) < 1e-5 && difference(&large) > 0.1, "{} {}", difference(&small), difference(&large));
    assert!(crooked(&cayley::five_terms(large)) > 0.1, "large ones are not orthogonal");
}

#[test]
fn the_gradient_of_the_exact_rotation_is_that_of_a_difference_quotient() {
    let (n, b) = (2, 5);
    let start: Vec<f32> = numbers(n * cayley::numbers(b), 0.9).iter().map(|v| v * 0.8).collect();
    let weights = Tensor::<3>::from_data(TensorData::new(numbers(n * b * b, 0.1), [n, b, b]), &Device::flex());
    let shape = [n, cayley::numbers(b)];
    let loss = |q: Tensor<2>| (cayley::exact(cayley::skew(q, b)) * weights.clone()).sum();
    let leaf = trainable(Tensor::from_data(TensorData::new(start.clone(), shape), &Device::flex()));
    let gradients = loss(leaf.clone()).backward();
    let found = model::host(leaf.grad(&gradients).expect("a gradient")).expect("read");
    for (k, derivative) in found.iter().enumerate() {
        let at = |step: f32| {
            let mut moved = start.clone();
            moved[k] += step;
            loss(Tensor::from_data(TensorData::new(moved, shape), &Device::flex())).into_scalar::<f32>()
        };
        let quotient = (at(0.01) - at(-0.01)) / 0.02;
        assert!((derivative - quotient).abs() < 2e-3, "{k}: {derivative} and {quotient}");
    }
}

#[test]
fn turning_keeps_lengths_and_angles_of_the_neurons() {
    // R W has the Gram matrix of W: columns of W are neurons.
    for share in [false, true] {
        let model = shaken(&session(vec![placed(&oft::CARD, set(&[("share", Value::Flag(share))]))]), 1.0);
        let gram = |w: &Tensor<2>| model::host(w.clone().transpose().matmul(w.clone())).expect("read");
        let name = "blocks.0.attn.v.weight";
        let merged = folded(&model);
        assert!(apart(&gram(&merged.weights[name]), &gram(&model.weights[name])) < 1e-5);
        assert!(change(&model, "blocks.0.attn.v").iter().any(|v| v.abs() > 0.05), "nothing turned");
        assert!(apart(&logits(&model), &logits(&merged)) < 1e-4);
    }
}

#[test]
fn a_shared_block_turns_every_group_alike() {
    let model = shaken(&session(vec![placed(&oft::CARD, set(&[("share", Value::Flag(true))]))]), 0.5);
    assert_eq!(model.bag.params["0.oft/blocks.0.attn.q/Q"].dims(), [1, 28]);
    // The same numbers written out for each of three blocks.
    let mut apart_blocks = toy(&session(vec![placed(&oft::CARD, set(&[]))]));
    for (key, value) in apart_blocks.bag.params.iter_mut().filter(|(k, _)| k.ends_with("/Q")) {
        let one = values(&model, key);
        *value = trainable(Tensor::from_data(TensorData::new(one.repeat(3), [3, 28]), &model.device));
    }
    assert!(apart(&logits(&model), &logits(&apart_blocks)) < 1e-6);
}

#[test]
fn sizes_that_do_not_fit_are_refused_and_counts_are_the_papers() {
    let mut problems = vec![];
    let seven = placed(&oft::CARD, set(&[("block_size", Value::Whole(7))]));
    Plan::on(&session(vec![seven]), TOY.declare(), CLASSES, &mut problems);
    assert!(problems[0].words.contains("fit: 2, 3, 4, 6, 8, 12, 24"), "{problems:?}");

    // Section 3.3: 960 parameters for a 128 x 128 weight in 8 blocks.
    let small = Vit { width: 128, heads: 4, blocks: 1, ..TOY };
    let mut on_q = placed(&oft::CARD, set(&[("block_size", Value::Whole(16))]));
    on_q.place = petl_workbench::session::Place::sites(&["blocks.0.attn.q"]);
    assert_eq!(Plan::on(&session(vec![on_q]), small.declare(), CLASSES, &mut vec![]).trainable(), 960);
}
