//! FacT: factors that all layers share, in two forms.

use std::collections::BTreeMap;

use burn::tensor::{Tensor, TensorData};
use petl_workbench::engine::bag::trainable;
use petl_workbench::engine::model::{self, Model};
use petl_workbench::methods::fact;
use petl_workbench::plan::Plan;
use petl_workbench::plan::anatomy::Role;
use petl_workbench::session::settings::{Settings, Value};
use petl_workbench::session::{Place, Placed, Session};
use petl_workbench::tasks::classify;

use crate::common::{CLASSES, TOY, apart, batch, change, folded, logits, placed, session, set, shaken, toy, values};

fn form(form: &str, rank: i64, scale: f64) -> Settings {
    set(&[("form", Value::Text(form.into())), ("rank", Value::Whole(rank)), ("scale", Value::Real(scale))])
}

/// Gradients of the toy batch's loss, by key.
fn gradients(model: &Model) -> BTreeMap<String, Vec<f32>> {
    let (pixels, labels) = batch(&model.device);
    let loss = classify::loss(model.logits(&model.bag, pixels, None), labels, 0.0);
    let all = model.bag.gradients(loss.backward());
    all.into_iter().map(|(key, g)| (key, model::host(g).expect("a gradient"))).collect()
}

#[test]
fn both_forms_pass_as_they_fold() {
    for name in ["tensor train", "tucker"] {
        let model = shaken(&session(vec![placed(&fact::CARD, form(name, 5, 0.7))]), 0.3);
        assert!(apart(&logits(&model), &logits(&folded(&model))) < 1e-4, "{name}");
        assert!(apart(&logits(&model), &logits(&toy(&session(vec![])))) > 1e-2, "{name}: nothing changed");
    }
}

#[test]
fn tucker_is_a_tensor_train_whose_middles_are_mixed_from_the_core() {
    let r = 4;
    let tucker = shaken(&session(vec![placed(&fact::CARD, form("tucker", r, 1.0))]), 0.4);
    let mut train = toy(&session(vec![placed(&fact::CARD, form("tensor train", r, 1.0))]));
    let r = r as usize;
    let core = values(&tucker, "0.fact/all/C"); // [r, r, r]
    for (key, value) in &mut train.bag.params {
        let [rows, cols] = value.dims();
        let new = match key.strip_suffix("/S") {
            Some(place) => {
                // Piece (i, j) of the place is Σ_k P_k C_k, its row a and column b.
                let p = values(&tucker, &format!("{place}/P")); // [pieces, r]
                let pieces = cols / r;
                let at = |row: usize, col: usize| {
                    let (piece, a, b) = (row / r * pieces + col / r, row % r, col % r);
                    (0..r).map(|k| p[piece * r + k] * core[(k * r + a) * r + b]).sum::<f32>()
                };
                (0..rows * cols).map(|n| at(n / cols, n % cols)).collect()
            }
            None => values(&tucker, key),
        };
        *value = trainable(Tensor::from_data(TensorData::new(new, [rows, cols]), &train.device));
    }
    assert!(apart(&logits(&tucker), &logits(&train)) < 1e-4);
    assert!(apart(&logits(&tucker), &logits(&toy(&session(vec![])))) > 1e-2, "nothing changed");
}

#[test]
fn wide_places_are_stacked_pieces_of_the_width() {
    // Column block j of `up` is U Σ_j Vᵀ; with Σ_1 = 0 the second half of its outputs keeps its weight. `down` the same in rows.
    let r = 3;
    let mut model = shaken(&session(vec![placed(&fact::CARD, form("tensor train", r, 1.0))]), 0.4);
    let r = r as usize;
    for (key, value) in &mut model.bag.params {
        let dims = value.dims();
        let keep = match key.as_str() {
            "0.fact/blocks.0.mlp.up/S" => (0..r * 2 * r).map(|n| f32::from(u8::from(n % (2 * r) < r))).collect(),
            "0.fact/blocks.0.mlp.down/S" => (0..2 * r * r).map(|n| f32::from(u8::from(n / r < r))).collect(),
            _ => continue,
        };
        let keep = Tensor::from_data(TensorData::new::<f32, _>(keep, dims), &model.device);
        *value = trainable(value.clone().inner() * keep);
    }
    let (up, down) = (change(&model, "blocks.0.mlp.up"), change(&model, "blocks.0.mlp.down"));
    let zero = |values: &[f32], still: &dyn Fn(usize) -> bool| {
        let all = || values.iter().enumerate();
        all().all(|(n, v)| !still(n) || *v == 0.0) && all().any(|(n, v)| !still(n) && *v != 0.0)
    };
    assert!(zero(&up, &|n| n % 48 >= 24), "the second piece of `up`");
    assert!(zero(&down, &|n| n / 24 >= 24), "the second piece of `down`");
    assert!(apart(&logits(&model), &logits(&folded(&model))) < 1e-4);
}

#[test]
fn shared_factors_get_the_sum_of_every_places_gradient() {
    // The same network once as one entry on both blocks, once as one entry a block with equal factors: the gradients of the two
    // entries' U and V add up to those of the one.
    let on = |blocks: &str, settings: Settings| Placed {
        place: Place { blocks: blocks.into(), ..Place::roles(&[Role::Q, Role::Up, Role::Down]) },
        ..placed(&fact::CARD, settings)
    };
    for name in ["tensor train", "tucker"] {
        let settings = form(name, 3, 1.0);
        let one = shaken(&session(vec![on("all", settings.clone())]), 0.4);
        let two_entries: Session = session(vec![on("1", settings.clone()), on("2", settings)]);
        let mut two = toy(&two_entries);
        for (key, value) in &mut two.bag.params {
            if let Some((_, rest)) = key.split_once('.').filter(|_| !key.starts_with("head/")) {
                *value = trainable(one.bag.params[&format!("0.{rest}")].clone().inner());
            }
        }
        assert!(apart(&logits(&one), &logits(&two)) < 1e-6, "{name}: the two are the same network");
        let (whole, parts) = (gradients(&one), gradients(&two));
        let shared: &[&str] = if name == "tucker" { &["U", "V", "C"] } else { &["U", "V"] };
        for factor in shared {
            let of = |index: usize| &parts[&format!("{index}.fact/all/{factor}")];
            let sum: Vec<f32> = of(0).iter().zip(of(1)).map(|(a, b)| a + b).collect();
            let all = &whole[&format!("0.fact/all/{factor}")];
            let size = all.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
            assert!(apart(all, &sum) < 1e-5 * size.max(1.0), "{name} {factor}");
            assert!(
                of(0).iter().any(|v| v.abs() > 1e-3 * size) && of(1).iter().any(|v| v.abs() > 1e-3 * size),
                "{name} {factor}"
            );
        }
    }
}

#[test]
fn the_scale_scales_the_change_and_other_widths_are_refused() {
    let of = |scale: f64| shaken(&session(vec![placed(&fact::CARD, form("tensor train", 4, scale))]), 0.4);
    let one = change(&of(1.0), "blocks.1.attn.o");
    let ten: Vec<f32> = change(&of(10.0), "blocks.1.attn.o").iter().map(|v| v / 10.0).collect();
    assert!(apart(&one, &ten) < 1e-5);
    assert_eq!(logits(&of(0.0)), logits(&toy(&session(vec![]))), "s = 0 changes nothing");

    let mut problems = vec![];
    let odd = petl_workbench::backbones::vit::Vit { hidden: 40, ..TOY };
    Plan::on(&session(vec![placed(&fact::CARD, Settings::default())]), odd.declare(), CLASSES, &mut problems);
    assert!(problems[0].words.contains("24 x 40") && problems[0].words.contains("fit"), "{problems:?}");
}
