//! RepAdapter: linear, so that it merges; methods/12 (h).

use petl_workbench::methods::repadapter;
use petl_workbench::plan::Plan;
use petl_workbench::session::settings::Value;

use crate::common::{CLASSES, TOY, apart, change, folded, logits, placed, session, set, shaken, toy, values};

#[test]
fn merged_it_gives_the_same_answer() {
    for (groups, scale) in [(1, 1.0), (2, 0.5), (4, 10.0)] {
        let settings = set(&[("groups", Value::Whole(groups)), ("scale", Value::Real(scale))]);
        let model = shaken(&session(vec![placed(&repadapter::CARD, settings)]), 0.2);
        let frozen = logits(&toy(&session(vec![])));
        assert!(apart(&logits(&model), &logits(&folded(&model))) < 1e-4, "{groups} groups");
        assert!(apart(&logits(&model), &frozen) > 1e-2, "{groups} groups: nothing changed");
    }
}

#[test]
fn it_merges_into_weights_and_biases_of_the_layers_that_read_its_input_and_no_others() {
    let model = shaken(&session(vec![placed(&repadapter::CARD, set(&[]))]), 0.2);
    let merged = folded(&model);
    for site in &model.plan.anatomy.sites {
        for part in &site.parts {
            let name = format!("{}.{}", site.path, part.name);
            let same = merged.weights[&name].to_data() == model.weights[&name].to_data();
            let reads = [".q", ".k", ".v", ".up"].iter().any(|end| site.path.ends_with(end));
            assert_eq!(same, !reads, "{name}");
        }
    }
}

#[test]
fn each_group_feeds_its_own_channels() {
    // 4 hidden channels in 2 groups: with W_d kept to the first two, only the first half of the channels may change.
    let settings = set(&[("hidden", Value::Whole(4)), ("groups", Value::Whole(2))]);
    let model = shaken(&session(vec![placed(&repadapter::CARD, settings)]), 0.3);
    let key = |name: &str| format!("0.repadapter/blocks.0.attn/{name}");
    let (down, up) = (values(&model, &key("down")), values(&model, &key("up"))); // [24, 4], [4, 12]
    let frozen = petl_workbench::engine::model::host(model.weights["blocks.0.attn.k.weight"].clone()).expect("a weight");
    // (W_d W_u) W by hand, group by group.
    let product = |i: usize, c: usize| (0..2).map(|h| c / 12 * 2 + h).map(|h| down[i * 4 + h] * up[h * 12 + c % 12]).sum::<f32>();
    let expected: Vec<f32> =
        (0..576).map(|n| (0..24).map(|c| product(n / 24, c) * frozen[c * 24 + n % 24]).sum::<f32>()).collect();
    assert!(apart(&change(&model, "blocks.0.attn.k"), &expected) < 1e-5);
}

#[test]
fn no_scale_no_change_and_groups_must_fit() {
    let frozen = logits(&toy(&session(vec![])));
    let none = set(&[("scale", Value::Real(0.0))]);
    assert_eq!(logits(&shaken(&session(vec![placed(&repadapter::CARD, none)]), 0.2)), frozen);

    let mut problems = vec![];
    let five = set(&[("groups", Value::Whole(5))]);
    Plan::on(&session(vec![placed(&repadapter::CARD, five)]), TOY.declare(), CLASSES, &mut problems);
    assert!(problems[0].words.contains("groups that fit: 1, 2, 4, 8"), "{problems:?}");
}
