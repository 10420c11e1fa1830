//! methods/06 (h) 1, Compacter and PHM layers.

use burn::tensor::{Tensor, TensorData, activation, module};
use petl_workbench::engine::model::Model;
use petl_workbench::methods::{bottleneck, compacter};
use petl_workbench::plan::anatomy::Role;
use petl_workbench::session::Place;
use petl_workbench::session::settings::{Settings, Value};

use crate::common::{apart, logits, placed, session, toy};
use crate::through::{at, gap, list, put, refusal, set, shake, text, through, values};

/// Σ A_i ⊗ B_i by its definition; `b(i, p, q)` is an entry of B_i.
fn kronecker(a: &[f32], b: impl Fn(usize, usize, usize) -> f32, n: usize, d_in: usize, d_out: usize) -> Vec<f32> {
    let (rows, cols) = (d_in / n, d_out / n);
    let mut w = vec![0.0; d_in * d_out];
    for (x, value) in w.iter_mut().enumerate() {
        let (row, col) = (x / d_out, x % d_out);
        *value = (0..n).map(|i| a[i * n * n + row / rows * n + col / cols] * b(i, row % rows, col % cols)).sum();
    }
    w
}

/// `y` with the adapter of dense matrices behind it.
fn dense(model: &Model, y: &Tensor<3>, down: Vec<f32>, up: Vec<f32>, biases: [&str; 2]) -> Tensor<3> {
    let linear = |x: Tensor<3>, w: Vec<f32>, dims: [usize; 2], bias: &str| {
        let w = Tensor::<2>::from_data(TensorData::new(w, dims), &model.device);
        module::linear(x, w, Some(model.bag.params[bias].clone().inner().squeeze_dim::<1>(0)))
    };
    let r = model.bag.params[biases[0]].dims()[1];
    let h = activation::gelu(linear(y.clone(), down, [24, r], biases[0]));
    y.clone() + linear(h, up, [r, 24], biases[1])
}

#[test]
fn its_matrices_are_sums_of_kronecker_products() {
    let n = 4;
    for rank in [0, 1, 3] {
        for share in [true, false] {
            let fields = [("n", Value::Whole(4)), ("rank", Value::Whole(rank)), ("bottleneck", Value::Whole(12))];
            let mut settings = set(&fields);
            settings.set("share_rule", Value::Flag(share));
            let mut model = toy(&session(vec![placed(&compacter::CARD, settings)]));
            shake(&mut model, 0.5);
            let of = |name: &str| list(model.bag.params[&format!("0.compacter/{name}")].clone());
            let whole = |name: &str, d_in: usize, d_out: usize| {
                let (rows, cols, k) = (d_in / n, d_out / n, rank as usize);
                let a = if share { of("all/A") } else { of(&format!("blocks.1.mlp/A_{name}")) };
                let part = |part: &str| of(&format!("blocks.1.mlp/{part}_{name}"));
                if k == 0 {
                    let b = part("B");
                    return kronecker(&a, |i, p, q| b[(i * rows + p) * cols + q], n, d_in, d_out);
                }
                let (s, t) = (part("s"), part("t"));
                let entry = |i, p, q| (0..k).map(|j| s[(i * rows + p) * k + j] * t[(i * k + j) * cols + q]).sum();
                kronecker(&a, entry, n, d_in, d_out)
            };
            let (x, y) = (values([2, 5, 24], 0.1, &model), values([2, 5, 24], 0.2, &model));
            let biases = ["0.compacter/blocks.1.mlp/b_dn", "0.compacter/blocks.1.mlp/b_up"];
            let wanted = dense(&model, &y, whole("dn", 24, 12), whole("up", 12, 24), biases);
            let given = through(&model, "blocks.1.mlp", &x, &y);
            assert!(gap(given.clone(), wanted) < 1e-5, "rank {rank}, share {share}");
            assert!(gap(given, y) > 1e-2, "the adapter must add something to be seen");
        }
    }
}

#[test]
fn one_product_with_a_rule_of_one_is_a_plain_adapter() {
    let fields = [("n", Value::Whole(1)), ("rank", Value::Whole(0)), ("bottleneck", Value::Whole(16))];
    let mut phm = toy(&session(vec![placed(&compacter::CARD, set(&fields))]));
    let both = Place::roles(&[Role::Attn, Role::Mlp]);
    let plain = at(&bottleneck::CARD, set(&[("bottleneck", Value::Whole(16)), ("activation", text("gelu"))]), both);
    let mut plain = toy(&session(vec![plain]));
    shake(&mut plain, 0.3);
    put(&mut phm.bag, "0.compacter/all/A", Tensor::ones([1, 1], &phm.device));
    for (ours, theirs) in [("B_dn", "down"), ("b_dn", "down_bias"), ("B_up", "up"), ("b_up", "up_bias")] {
        for site in ["blocks.0.attn", "blocks.0.mlp", "blocks.1.attn", "blocks.1.mlp"] {
            let value = plain.bag.params[&format!("0.bottleneck/{site}/{theirs}")].clone().inner();
            put(&mut phm.bag, &format!("0.compacter/{site}/{ours}"), value);
        }
    }
    assert!(apart(&logits(&phm), &logits(&plain)) < 1e-6);
    assert!(apart(&logits(&phm), &logits(&toy(&session(vec![])))) > 1e-2);
}

#[test]
fn n_products_have_an_nth_of_the_parameters() {
    let of_b = |n: i64| {
        let settings = set(&[("n", Value::Whole(n)), ("rank", Value::Whole(0))]);
        let model = toy(&session(vec![placed(&compacter::CARD, settings)]));
        let of_b = model.bag.params.iter().filter(|(key, _)| key.contains("/B_"));
        of_b.map(|(_, value)| value.dims().iter().product::<usize>()).sum::<usize>()
    };
    let plain = 4 * 2 * 24 * 24; // four places, two matrices
    assert_eq!([1, 2, 3, 4].map(of_b), [plain, plain / 2, plain / 3, plain / 4]);
}

#[test]
fn an_n_that_does_not_divide_is_refused_with_those_that_do() {
    let words = refusal(vec![placed(&compacter::CARD, set(&[("n", Value::Whole(5))]))]);
    assert!(words.contains("n that fit: 1, 2, 3, 4, 6, 8, 12, 24"), "{words}");
    assert_eq!(refusal(vec![placed(&compacter::CARD, Settings::default())]), "");
}
