//! methods/07, prefix tuning as a gated sum.

use petl_workbench::engine::model::Model;
use petl_workbench::methods::prefix;
use petl_workbench::session::settings::Settings;

use crate::common::{TOY, apart, logits, placed, session, toy};

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
            weights.insert(name.clone(), weights[&name].clone() * 0.0 + value);
        }
    }
    for (key, value) in &mut bag.params {
        if key.contains("attn.k/") {
            *value = value.ones_like() * -1e4;
        }
    }
    let gone = Model { plan: model.plan, backbone: &TOY, weights: weights.clone(), bag, device: model.device };
    let mut plain = toy(&session(vec![]));
    plain.weights = weights;
    assert!(apart(&logits(&gone), &logits(&plain)) < 1e-5);
}
