//! LayerNorm tuning (no file of its own in the catalogue of papers; methods/12 lists it as LN-tune).

use petl_workbench::engine::optimise::Optimiser;
use petl_workbench::engine::tuner::Tuner;
use petl_workbench::methods::{full, layernorm};
use petl_workbench::plan::anatomy::Role;
use petl_workbench::session::settings::Settings;
use petl_workbench::session::{Place, Recipe};

use crate::common::{logits, placed, session, step, toy};
use crate::through::{at, list};

#[test]
fn only_gains_and_shifts_of_norms_move() {
    let mut model = toy(&session(vec![placed(&layernorm::CARD, Settings::default())]));
    let mut optimiser = Optimiser::new(&Recipe::default(), Default::default());
    (0..2).for_each(|_| {
        step(&mut model, &mut optimiser, 1e-2);
    });
    let bag = model.bag.frozen();
    let tuner = Tuner::new(&model.plan, &model.weights, &bag, None);
    for site in &model.plan.anatomy.sites {
        for part in &site.parts {
            let name = format!("{}.{}", site.path, part.name);
            let moved = list(tuner.weight(&site.path, part.name)) != list(model.weights[&name].clone());
            assert_eq!(moved, site.role == Role::Norm, "{name}");
        }
    }
}

#[test]
fn it_is_full_fine_tuning_of_the_norms() {
    let run = |stack| {
        let mut model = toy(&session(vec![stack]));
        let mut optimiser = Optimiser::new(&Recipe::default(), Default::default());
        (0..3).for_each(|_| {
            step(&mut model, &mut optimiser, 1e-2);
        });
        logits(&model)
    };
    let norms = Place::roles(&[Role::Norm]);
    assert_eq!(run(placed(&layernorm::CARD, Settings::default())), run(at(&full::CARD, Settings::default(), norms)));
}
