//! methods/07, the bottleneck adapter and its scale.

use burn::tensor::Tensor;
use petl_workbench::methods::bottleneck;
use petl_workbench::session::settings::{Settings, Value};

use crate::common::{self, apart, logits, placed, session, toy};

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
