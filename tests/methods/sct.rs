//! methods/12 (b2), SCT: the change is a linear layer among the chosen channels of the residual stream, and touches no other.

use std::collections::BTreeMap;

use burn::tensor::{Tensor, TensorData};
use petl_workbench::backbones::Backbone;
use petl_workbench::engine::bag::{Bag, Measured};
use petl_workbench::engine::model::{Model, host};
use petl_workbench::engine::tuner::Tuner;
use petl_workbench::methods::sct;
use petl_workbench::session::settings::{Settings, Value};

use crate::common::{TOY, apart, batch, numbers, placed, session, toy};

/// What leaves `blocks.0.mid`, `[batch, positions, width]` row by row.
fn stream(model: &Model) -> Vec<f32> {
    let bag = model.bag.frozen();
    let mut tuner = Tuner::new(&model.plan, &model.weights, &bag, None);
    tuner.watched = BTreeMap::from([("blocks.0.mid".to_owned(), None)]);
    TOY.forward(&mut tuner, batch(&model.device).0.into());
    host(tuner.watched.remove("blocks.0.mid").flatten().expect("the pass came by")).expect("read")
}

#[test]
fn the_salient_channels_change_as_the_formula_says_and_the_others_keep_their_bits() {
    let mut set = Settings::default();
    set.set("k", Value::Whole(3));
    set.set("scale", Value::Real(0.5));
    let session = session(vec![placed(&sct::CARD, set)]);
    let mut model = toy(&session);
    let before = stream(&model);
    let mut norms = vec![1.0_f32; 24];
    [4, 11, 20].iter().for_each(|c: &usize| norms[*c] = 2.0 + *c as f32);
    let measured = Measured::from([((0, "blocks.0.mid".to_owned()), norms)]);
    model.bag = Bag::make_with(&model.plan, &model.weights, &measured, session.seed, &model.device).expect("a bag");
    assert_eq!(*model.bag.constants["0.sct/blocks.0.mid/index"].host, [4.0, 11.0, 20.0]);
    assert_eq!(stream(&model), before, "starts at the frozen network");
    let (w, b) = (numbers(9, 0.2), numbers(3, 0.9));
    for (name, values, rows) in [("W", w.clone(), 3), ("b", b.clone(), 1)] {
        let tensor = Tensor::<2>::from_data(TensorData::new(values, [rows, 3]), &model.device);
        model.bag.params.insert(format!("0.sct/blocks.0.mid/{name}"), tensor.autodiff().require_grad());
    }
    let after = stream(&model);
    let mut expected = before.clone();
    for (row, h) in before.chunks(24).enumerate() {
        for (j, channel) in [4, 11, 20].into_iter().enumerate() {
            let sum: f32 = [4, 11, 20].iter().enumerate().map(|(i, c)| h[*c] * w[i * 3 + j]).sum();
            expected[row * 24 + channel] += 0.5 * (sum + b[j]);
        }
    }
    assert!(apart(&after, &expected) < 1e-5);
    assert!(apart(&after, &before) > 0.1);
    let untouched = (0..before.len()).filter(|n| ![4, 11, 20].contains(&(n % 24)));
    assert!(untouched.into_iter().all(|n| before[n].to_bits() == after[n].to_bits()));
}
