//! UniPELT: the gates of LoRA, prefix and bottleneck. Against the package `adapters`: `tests/layers`.

use petl_workbench::engine::model::Model;
use petl_workbench::exports::{merged, peft, transformers};
use petl_workbench::methods::{Card, bottleneck, lora, prefix};
use petl_workbench::plan::Plan;
use petl_workbench::session::{Placed, Session, Value, file};

use crate::common::{apart, folded, gradients, logits, placed, put, session, shaken, toy, values, with};
use crate::through::{on_b16, shake};

const GATED: (&str, Value) = ("gate", Value::Flag(true));
const PARTS: [&Card; 3] = [&lora::CARD, &prefix::CARD, &bottleneck::CARD];

/// Sets every parameter whose key holds `part` to one value.
fn all(model: &mut Model, part: &str, value: f32) {
    let keys: Vec<_> = model.bag.params.keys().filter(|key| key.contains(part)).cloned().collect();
    assert!(!keys.is_empty(), "no `{part}`");
    for key in keys {
        let size = model.bag.params[&key].dims().iter().product();
        put(model, &key, vec![value; size]);
    }
}

#[test]
fn gated_lora_and_bottleneck_start_as_the_frozen_network() {
    let frozen = logits(&toy(&session(vec![])));
    for card in [&lora::CARD, &bottleneck::CARD] {
        assert_eq!(apart(&frozen, &logits(&toy(&session(vec![with(card, &[GATED])])))), 0.0, "{}", card.name);
    }
    let pissa = with(&lora::CARD, &[GATED, ("start", Value::Text("pissa".into()))]);
    assert_eq!(apart(&frozen, &logits(&toy(&session(vec![pissa])))), 0.0, "PiSSA's start is taken off behind the gate too");
}

#[test]
fn a_shut_gate_adds_nothing_and_an_open_one_everything() {
    let frozen = logits(&toy(&session(vec![])));
    for card in [&lora::CARD, &bottleneck::CARD] {
        let of = |pairs: &[(&str, Value)], bias: f32| {
            let mut model = toy(&session(vec![with(card, pairs)]));
            let own = |key: &&String| !key.starts_with("head/") && !key.contains("/gate");
            let keys: Vec<_> = model.bag.params.keys().filter(own).cloned().collect();
            for (n, key) in keys.iter().enumerate() {
                let size = model.bag.params[key].dims().iter().product();
                put(&mut model, key, crate::common::numbers(size, n as f32));
            }
            if model.bag.params.keys().any(|key| key.ends_with("/gate")) {
                all(&mut model, "/gate", 0.0);
                all(&mut model, "/gate_bias", bias);
            }
            logits(&model)
        };
        // With α = r, plain LoRA has the scale 1 too.
        let plain = of(if card.name == "lora" { &[("alpha", Value::Real(8.0))] } else { &[] }, 0.0);
        assert!(apart(&frozen, &of(&[GATED], -100.0)) < 1e-6, "{}", card.name);
        assert!(apart(&plain, &of(&[GATED], 100.0)) < 1e-5, "{}", card.name);
        let half = of(&[GATED], 0.0);
        assert!(apart(&frozen, &half) > 1e-3 && apart(&plain, &half) > 1e-3, "{}", card.name);
    }
}

#[test]
fn a_shut_gate_makes_a_prefix_of_zeros_for_keys_and_values_alike() {
    let mut gated = toy(&session(vec![with(&prefix::CARD, &[GATED])]));
    all(&mut gated, "/gate_bias_", -100.0);
    let mut zeros = toy(&session(vec![placed(&prefix::CARD, Default::default())]));
    all(&mut zeros, "/P", 0.0);
    assert!(apart(&logits(&gated), &logits(&zeros)) < 1e-6);
    assert!(apart(&logits(&zeros), &logits(&toy(&session(vec![])))) > 1e-4, "they still take attention");
}

#[test]
fn every_gate_gets_a_gradient() {
    for card in PARTS {
        let mut model = toy(&session(vec![with(card, &[GATED])]));
        shake(&mut model, 0.3);
        let gradients = gradients(&model);
        let gates: Vec<_> = gradients.keys().filter(|key| key.contains("/gate")).collect();
        assert_eq!(gates.len(), model.bag.params.keys().filter(|key| key.contains("/gate")).count(), "{}", card.name);
        for key in gates {
            let size: f32 = gradients[key].clone().abs().sum().into_scalar();
            assert!(size > 1e-6, "{key}: {size}");
        }
    }
}

#[test]
fn without_the_gate_nothing_is_new() {
    for card in PARTS {
        let plain = toy(&session(vec![placed(card, Default::default())]));
        assert!(plain.bag.params.keys().all(|key| !key.contains("gate")), "{}", card.name);
        // What both have starts alike.
        let gated = toy(&session(vec![with(card, &[GATED])]));
        for key in plain.bag.params.keys() {
            assert_eq!(values(&plain, key), values(&gated, key), "{key}");
        }
    }
}

/// A stack on the embedded backbone, which the exports of other programs hold.
fn plan(methods: Vec<Placed>) -> Plan {
    let plan = Plan::of(&Session { methods, ..session(vec![]) });
    assert!(plan.blocked().is_none());
    plan
}

#[test]
fn what_relies_on_folding_refuses_a_gate_and_says_what_works() {
    let (gated, plain) = (plan(vec![with(&lora::CARD, &[GATED])]), plan(vec![placed(&lora::CARD, Default::default())]));
    for card in [&merged::CARD, &transformers::CARD, &peft::CARD] {
        assert_eq!((card.fits)(&plain), Ok(()), "{}", card.name);
        let words = (card.fits)(&gated).expect_err("refused");
        for part in ["LoRA with `gate` on", "each image", "`petl`", "without that setting"] {
            assert!(words.contains(part), "{}: {words}", card.name);
        }
    }
    // The words of a method that never folds name no setting.
    let words = (merged::CARD.fits)(&plan(vec![with(&bottleneck::CARD, &[GATED])])).expect_err("refused");
    assert!(words.contains("is not a change of weights") && !words.contains("setting"), "{words}");
    // And rightly: folded all the same, it would be another network.
    let model = shaken(&session(vec![with(&lora::CARD, &[GATED])]), 0.3);
    assert!(apart(&logits(&model), &logits(&folded(&model))) > 1e-2);
}

#[test]
fn the_preset_is_the_papers_stack() {
    let session = file::find("unipelt").expect("the preset");
    let plan = on_b16(session.methods.clone());
    // The paper's sizes: prefix 10, adapter 48 wide, rank 8; one gate for each prefix, adapter, and LoRA.
    let (lora, prefix, adapter) = (12 * 4 * 768 * 8, 12 * 2 * 10 * 768, 12 * (2 * 768 * 48 + 48 + 768));
    assert_eq!(plan.trainable(), lora + prefix + adapter + 12 * 4 * (768 + 1));
    assert!(plan.members.iter().all(|member| member.settings.flag("gate")));
    assert!(Plan::of(&session).problems.is_empty());
}
