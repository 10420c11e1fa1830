//! methods/07 and methods/06: the bottleneck adapter's form, place, composition and sharing.

use burn::tensor::{Tensor, activation};
use petl_workbench::engine::model::Model;
use petl_workbench::methods::{Gradients, bottleneck, lora, prefix};
use petl_workbench::plan::anatomy::Role;
use petl_workbench::session::Place;
use petl_workbench::session::settings::{Settings, Value};
use petl_workbench::tasks::classify;

use crate::common::{self, apart, batch, logits, placed, session, toy};
use crate::through::{at, gap, list, on_b16, put, refusal, set, shake, text, through, values};

#[test]
fn the_scale_of_an_adapter_scales_what_it_adds() {
    // methods/07 (h) 2.
    let frozen = logits(&toy(&session(vec![])));
    let at = |scale: f64| {
        let mut set = Settings::default();
        set.set("scale", Value::Real(scale));
        let mut model = toy(&session(vec![placed(&bottleneck::CARD, set)]));
        for (key, value) in &mut model.bag.params {
            if key.ends_with("/up") {
                let up = burn::tensor::TensorData::new(common::numbers(16 * 24, 0.3), [16, 24]);
                *value = Tensor::<2>::from_data(up, &model.device).autodiff().require_grad();
            }
        }
        logits(&model)
    };
    assert_eq!(at(0.0), frozen, "s = 0 adds nothing");
    assert!(apart(&at(1.0), &frozen) > 1e-3);
}

#[test]
fn a_parallel_adapter_reads_the_input_of_its_place_and_a_sequential_one_the_output() {
    // methods/07 (h): a fake adds it behind the residual, or feeds it something else.
    for (form, learned) in [("parallel", false), ("parallel", true), ("sequential", false), ("sequential", true)] {
        let fields = [("form", text(form)), ("scale", Value::Real(4.0)), ("learn_scale", Value::Flag(learned))];
        let mut model = toy(&session(vec![placed(&bottleneck::CARD, set(&fields))]));
        let s = if learned { 4.0 + 0.5 * f64::from(common::numbers(1, 2.3)[0]) } else { 4.0 };
        shake(&mut model, 0.5); // keys in order: down, down_bias, s, up, up_bias
        let of = |name: &str| model.bag.params[&format!("0.bottleneck/blocks.0.mlp/{name}")].clone().inner().unsqueeze::<3>();
        let (x, y) = (values([2, 5, 24], 0.1, &model), values([2, 5, 24], 0.2, &model));
        let read = if form == "parallel" { x.clone() } else { y.clone() };
        let change = activation::relu(read.matmul(of("down")) + of("down_bias")).matmul(of("up")) + of("up_bias");
        let given = through(&model, "blocks.0.mlp", &x, &y);
        assert!(gap(given, y + change * s) < 1e-5, "{form}, learned s: {learned}");
    }
}

#[test]
fn a_learned_scale_is_one_number_a_place() {
    let count = |set| on_b16(vec![placed(&bottleneck::CARD, set)]).trainable();
    assert_eq!(count(set(&[("learn_scale", Value::Flag(true))])), count(Settings::default()) + 12);
}

#[test]
fn without_its_bend_a_parallel_adapter_is_lora() {
    // methods/07 (h) 3, at the places where both can stand.
    let roles = [Role::Q, Role::V, Role::Up, Role::Down];
    let fields = [
        ("form", text("parallel")),
        ("activation", text("identity")),
        ("bottleneck", Value::Whole(8)),
        ("scale", Value::Real(2.0)), // LoRA's α / r
    ];
    let mut adapter = toy(&session(vec![at(&bottleneck::CARD, set(&fields), Place::roles(&roles))]));
    let mut lora = toy(&session(vec![at(&lora::CARD, Settings::default(), Place::roles(&roles))]));
    shake(&mut lora, 0.3);
    let pairs: Vec<_> = lora.bag.params.iter().map(|(key, value)| (key.clone(), value.clone().inner())).collect();
    for (key, value) in pairs.iter().filter(|(key, _)| !key.starts_with("head/")) {
        let site = key.split('/').nth(1).expect("a site");
        let name = if key.ends_with("/A") { "down" } else { "up" };
        put(&mut adapter.bag, &format!("0.bottleneck/{site}/{name}"), value.clone());
    }
    assert!(apart(&logits(&adapter), &logits(&lora)) < 1e-5);
    assert!(apart(&logits(&lora), &logits(&toy(&session(vec![])))) > 1e-2);
}

#[test]
fn without_its_bend_an_adapter_beside_the_mlp_is_one_matrix() {
    // methods/07 (h) 3 on the whole branch: W = W_dn W_up, added once.
    let fields = [("form", text("parallel")), ("activation", text("identity"))];
    let mut model = toy(&session(vec![placed(&bottleneck::CARD, set(&fields))]));
    shake(&mut model, 0.3);
    for site in ["blocks.0.mlp", "blocks.1.mlp"] {
        put(&mut model.bag, &format!("0.bottleneck/{site}/down_bias"), Tensor::zeros([1, 16], &model.device));
        put(&mut model.bag, &format!("0.bottleneck/{site}/up_bias"), Tensor::zeros([1, 24], &model.device));
    }
    let of = |name: &str| model.bag.params[&format!("0.bottleneck/blocks.1.mlp/{name}")].clone().inner();
    let w = of("down").matmul(of("up")).unsqueeze::<3>(); // [1, 24, 24]
    let (x, y) = (values([2, 5, 24], 0.1, &model), values([2, 5, 24], 0.2, &model));
    assert!(gap(through(&model, "blocks.1.mlp", &x, &y), y + x.matmul(w)) < 1e-5);
}

#[test]
fn mam_has_the_papers_count() {
    // methods/07 (d) and (h) 5: 12 · 2 · 16 · 768 + 12 (2 · 768 · 16 + 16 + 768), RoBERTa-base, whose blocks are ViT-B's.
    let parallel = [("form", text("parallel")), ("scale", Value::Real(2.0)), ("bottleneck", Value::Whole(16))];
    let stack = vec![placed(&prefix::CARD, set(&[("length", Value::Whole(16))])), placed(&bottleneck::CARD, set(&parallel))];
    assert_eq!(on_b16(stack).trainable(), 599_232);
}

/// Adapters at both branches of both blocks, all of the same values, sharing what `share` says.
fn alike(share: &str) -> Model {
    let place = Place::roles(&[Role::Attn, Role::Mlp]);
    let fields = [("share", text(share)), ("learn_scale", Value::Flag(true)), ("activation", text("gelu"))];
    let mut model = toy(&session(vec![at(&bottleneck::CARD, set(&fields), place)]));
    let keys: Vec<_> = model.bag.params.keys().filter(|k| !k.starts_with("head/")).cloned().collect();
    for key in keys {
        let dims = model.bag.params[&key].dims();
        let value = values(dims, key.len() as f32 - key.rfind('/').expect("a key") as f32, &model) * 0.3;
        put(&mut model.bag, &key, value);
    }
    model
}

fn gradients(model: &Model) -> Gradients {
    let (pixels, labels) = batch(&model.device);
    let loss = classify::loss(model.logits(&model.bag, pixels, None), labels, 0.0);
    model.bag.gradients(loss.backward())
}

#[test]
fn the_gradient_of_what_is_shared_is_the_sum_over_places() {
    // methods/06 (h) 3 and 4, over places instead of tasks.
    let apart_ones = alike("nothing");
    let own = gradients(&apart_ones);
    for (share, in_common) in [
        ("down", vec!["down", "down_bias"]),
        ("up", vec!["up", "up_bias"]),
        ("everything", vec!["down", "down_bias", "s", "up", "up_bias"]),
    ] {
        let model = alike(share);
        assert!(apart(&logits(&model), &logits(&apart_ones)) < 1e-6, "{share}: the same network");
        let shared: Vec<_> = model.bag.params.keys().filter(|k| k.contains("/all/")).collect();
        assert_eq!(
            shared,
            in_common.iter().map(|n| format!("0.bottleneck/all/{n}")).collect::<Vec<_>>().iter().collect::<Vec<_>>()
        );
        let found = gradients(&model);
        for name in in_common {
            let here = |(key, _): &(&String, &Tensor<2>)| key.starts_with("0.") && key.ends_with(&format!("/{name}"));
            let of_places: Vec<_> = own.iter().filter(here).map(|(_, gradient)| gradient.clone()).collect();
            assert_eq!(of_places.len(), 4, "{name}: two branches of two blocks");
            let sum = of_places.into_iter().reduce(|a, b| a + b).expect("places");
            let size = list(sum.clone()).iter().fold(0.0_f32, |m, v| m.max(v.abs()));
            let difference = gap(found[&format!("0.bottleneck/all/{name}")].clone(), sum);
            assert!(size > 0.0 && difference < 1e-5 * size.max(1.0), "{share}, {name}: {difference} of {size}");
        }
    }
}

#[test]
fn sharing_counts_once_and_needs_places_of_one_size() {
    let count = |share: &str| {
        let set = set(&[("share", text(share)), ("bottleneck", Value::Whole(96))]);
        on_b16(vec![at(&bottleneck::CARD, set, Place::roles(&[Role::Attn, Role::Mlp]))]).trainable()
    };
    let (down, up) = (768 * 96 + 96, 96 * 768 + 768);
    assert_eq!(count("nothing"), 24 * 148_320); // methods/06 (d)
    assert_eq!(count("down"), down + 24 * up);
    assert_eq!(count("up"), 24 * down + up);
    assert_eq!(count("everything"), 148_320);
    let both = Place::roles(&[Role::Up, Role::Down]);
    let words = refusal(vec![at(&bottleneck::CARD, set(&[("share", text("down"))]), both)]);
    assert!(words.contains("must fit all"), "{words}");
}
