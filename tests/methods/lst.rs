//! methods/05, ladder side-tuning.

use petl_workbench::engine::model::Model;
use petl_workbench::methods::lst;
use petl_workbench::plan::Plan;
use petl_workbench::session::settings::Settings;

use crate::common::{CLASSES, TOY, apart, logits, placed, session, toy};

#[test]
fn a_ladders_gates_open_and_close() {
    // methods/05 (h): a gate at 0 gives one half of each; wide open, the rung's block is not heard; shut, only it is.
    let model = toy(&session(vec![placed(&lst::CARD, Settings::default())]));
    let with = |gate: f32, tap: f32| {
        let mut bag = model.bag.frozen();
        for (key, value) in &mut bag.params {
            if key.contains("/a_") {
                *value = value.ones_like() * gate;
            }
        }
        let mut weights = model.weights.clone();
        // Move the output of block 2 only: the side network's last rung.
        let name = "blocks.1.mlp.down.bias".to_owned();
        let shifted = weights[&name].clone() + tap;
        weights.insert(name, shifted);
        let moved = Model {
            plan: Plan::on(&session(vec![placed(&lst::CARD, Settings::default())]), TOY.declare(), CLASSES, &mut vec![]),
            backbone: std::sync::Arc::new(TOY),
            weights,
            bag: bag.clone(),
            device: model.device.clone(),
            names: None,
        };
        logits(&moved)
    };
    assert!(apart(&with(100.0, 0.0), &with(100.0, 1.0)) < 1e-6, "open gates must not hear the block");
    assert!(apart(&with(-100.0, 0.0), &with(-100.0, 1.0)) > 1e-4, "shut gates must hear it");
    let half =
        model.bag.params.iter().filter(|(k, _)| k.contains("/a_")).all(|(_, v)| v.clone().inner().into_scalar::<f32>() == 0.0);
    assert!(half, "gates start at 0, which is one half");
}
