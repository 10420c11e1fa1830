//! methods/07, prefix tuning as a gated sum.

use burn::tensor::{Device, Tensor, activation};
use petl_workbench::backbones;
use petl_workbench::datasets::unknown;
use petl_workbench::engine::model::{Model, host};
use petl_workbench::engine::tuner::Tuner;
use petl_workbench::methods::prefix;
use petl_workbench::plan::Plan;
use petl_workbench::session::edit;
use petl_workbench::session::settings::{Settings, Value};
use petl_workbench::tasks::{Aim, classify};

use crate::common::{TOY, apart, batch, logits, placed, session, toy};
use crate::through::{set, shake};

#[test]
fn a_prefix_of_keys_far_away_takes_no_attention() {
    // methods/07: prefix tuning is a gated sum whose gate falls with the prefix's scores. Keys that point against every
    // query leave the frozen output.
    let card = &prefix::CARD;
    let model = toy(&session(vec![placed(card, Settings::default())]));
    let mut bag = model.bag.frozen();
    let mut weights = model.weights.clone();
    for block in 0..TOY.blocks {
        // Queries of constant sign: zero weight, bias one.
        let q = format!("blocks.{block}.attn.q");
        for (part, value) in [("weight", 0.0), ("bias", 1.0)] {
            let name = format!("{q}.{part}");
            let constant = weights[&name].clone() * 0.0 + value;
            weights.insert(name, constant);
        }
    }
    for (key, value) in &mut bag.params {
        if key.contains("attn.k/") {
            *value = value.ones_like() * -1e4;
        }
    }
    let gone = Model {
        plan: model.plan,
        backbone: std::sync::Arc::new(TOY),
        weights: weights.clone(),
        bag,
        device: model.device,
        names: None,
    };
    let mut plain = toy(&session(vec![]));
    plain.weights = weights;
    assert!(apart(&logits(&gone), &logits(&plain)) < 1e-5);
}

/// The toy network with a prefix in every block, written as the unified view writes it: attention over the network's own keys
/// and over the prefix's, each by itself, mixed by the gate λ. `p(block, "k")` is P_k.
fn gated(model: &Model, p: impl Fn(usize, &str) -> Tensor<2>) -> Vec<f32> {
    let bag = model.bag.frozen();
    let plain = toy(&session(vec![]));
    let mut t = Tuner::new(&plain.plan, &model.weights, &bag, None);
    let (pixels, _) = batch(&model.device);
    let (d, heads) = (TOY.width, TOY.heads);
    let patches = pixels.reshape([6, 3, 2, 4, 2, 4]).permute([0, 2, 4, 1, 3, 5]).reshape([6, 4, 48]);
    let cls = t.weight("embed", "cls").unsqueeze::<3>().expand([6, 1, d]);
    let patches = t.linear("embed", patches);
    let mut x = Tensor::cat(vec![cls, patches], 1) + t.weight("embed", "pos").unsqueeze::<3>();
    for n in 0..TOY.blocks {
        let at = |place: &str| format!("blocks.{n}.{place}");
        let split = |x: Tensor<3>| {
            let [batch, positions, _] = x.dims();
            x.reshape([batch, positions, heads, d / heads]).swap_dims(1, 2)
        };
        let h = t.norm(&at("norm1"), x.clone(), TOY.epsilon);
        let q = split(t.linear(&at("attn.q"), h.clone()));
        let (k, v) = (split(t.linear(&at("attn.k"), h.clone())), split(t.linear(&at("attn.v"), h)));
        let (p_k, p_v) = (split(p(n, "k").unsqueeze::<3>()), split(p(n, "v").unsqueeze::<3>()));
        let score = |k: Tensor<4>| q.clone().matmul(k.swap_dims(2, 3)) / ((d / heads) as f64).sqrt();
        let (own, prefix) = (score(k), score(p_k));
        let mass = |scores: &Tensor<4>| scores.clone().exp().sum_dim(3); // [batch, heads, positions, 1]
        let lambda = mass(&prefix) / (mass(&prefix) + mass(&own));
        let attend = |scores, v: Tensor<4>| activation::softmax(scores, 3).matmul(v);
        let y = attend(own, v) * (lambda.clone().neg() + 1.0) + attend(prefix, p_v) * lambda;
        x = x + t.linear(&at("attn.o"), y.swap_dims(1, 2).reshape([6, 5, d]));
        let h = t.norm(&at("norm2"), x.clone(), TOY.epsilon);
        let u = activation::gelu(t.linear(&at("mlp.up"), h));
        x = x + t.linear(&at("mlp.down"), u);
    }
    let y = t.norm("norm", x, TOY.epsilon);
    host(classify::logits(&Aim::Linear, &bag, y.narrow(1, 0, 1).squeeze_dim::<2>(1))).expect("logits")
}

#[test]
fn longer_keys_and_values_are_a_gated_sum() {
    // methods/07 (h) 1, exact in mathematics: for prefixes of any size, and with the network's own values.
    for size in [0.5, 3.0] {
        let mut model = toy(&session(vec![placed(&prefix::CARD, Settings::default())]));
        shake(&mut model, size);
        let params = model.bag.frozen().params;
        let answer = gated(&model, |n, role| params[&format!("0.prefix/blocks.{n}.attn.{role}/P")].clone());
        let given = logits(&model);
        assert!(apart(&given, &answer) < 1e-5, "{}", apart(&given, &answer));
        assert!(apart(&given, &logits(&toy(&session(vec![])))) > 1e-2, "the prefix must be heard");
    }
}

/// Two prefixes that count on: token i of a text reads the row behind both, and texts must leave room for them.
#[test]
fn tokens_that_are_counted_on_read_rows_behind_the_prefix() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/peft/base_bert");
    let of_length = |length: i64, lengths: &[i64]| {
        let mut session = session(vec![]);
        session.backbone = backbones::of_folder(&folder).expect("BERT");
        session.backbone.settings.set("length", Value::Whole(length));
        session.data = unknown::choice(&["a", "b"].map(str::to_owned));
        let one = |l: &i64| set(&[("length", Value::Whole(*l)), (prefix::COUNT_ON, Value::Flag(true))]);
        session.methods = lengths.iter().map(|l| placed(&prefix::CARD, one(l))).collect();
        session
    };
    let model = |length, lengths: &[i64]| Model::make(&of_length(length, lengths), &Device::flex());
    let counted = model(30, &[3, 5]).expect("room for 8 in 40 rows");
    assert_eq!(counted.plan.longest(), Some(32));
    let (bag, plain) = (counted.bag.frozen(), model(30, &[]).expect("BERT alone"));
    let tuner = Tuner::new(&counted.plan, &counted.weights, &bag, None);
    let rows = |first: i64| (first..first + 30).collect::<Vec<i64>>();
    let other = Tuner::new(&plain.plan, &plain.weights, &plain.bag, None);
    let of = |t: &Tuner, table: &str, first| host(t.rows("embed", table, rows(first))).expect("rows");
    assert_eq!(of(&tuner, "pos", 0), of(&other, "pos", 8));
    assert_eq!(of(&tuner, "word", 0), of(&other, "word", 0));
    let words = format!("{:#}", model(35, &[3, 5]).map(|_| ()).expect_err("no room for 35 tokens"));
    assert!(words.contains("up to 32 tokens fit") && words.contains("`length` to 32 or less"), "{words}");
    let crowded = of_length(35, &[3, 5]);
    let remedy = Plan::of(&crowded).broken().and_then(|problem| problem.remedy.clone()).expect("a remedy");
    let mended = edit::apply(&crowded, &counted.plan.anatomy, &remedy.edit()).expect("an edit that fits");
    assert!(Plan::of(&mended).broken().is_none(), "{}", remedy.label());
    assert_eq!(mended.methods, crowded.methods, "what was set is not taken away");
}
