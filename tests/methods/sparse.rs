//! Fixed sparse masks: which numbers are chosen, that they alone move, and that their gradient is the full one's at those places.

use petl_workbench::engine::model::host;
use petl_workbench::engine::optimise::Optimiser;
use petl_workbench::engine::tuner::Tuner;
use petl_workbench::methods::{full, sparse};
use petl_workbench::session::Recipe;
use petl_workbench::session::settings::{Settings, Value};
use petl_workbench::tasks::classify;

use crate::common::{batch, placed, session, step, toy};

fn with(share: f64, choose: &str) -> Settings {
    let mut set = Settings::default();
    set.set("share", Value::Real(share));
    set.set("choose", Value::Text(choose.into()));
    set
}

fn index(model: &petl_workbench::engine::model::Model, site: &str) -> Vec<usize> {
    model.bag.constants[&format!("0.sparse/{site}/index")].host.iter().map(|n| *n as usize).collect()
}

#[test]
fn the_mask_has_so_many_places_each_once_and_follows_the_seed() {
    let of_seed = |seed| {
        let mut session = session(vec![placed(&sparse::CARD, with(0.1, "random"))]);
        session.seed = seed;
        index(&toy(&session), "blocks.0.mlp.up")
    };
    let mask = of_seed(3);
    assert_eq!(mask.len(), 115, "round(0.1 · 24 · 48)");
    assert!(mask.windows(2).all(|pair| pair[0] < pair[1]) && mask[114] < 24 * 48, "sorted, each once, in the matrix: {mask:?}");
    assert_eq!(mask, of_seed(3));
    assert_ne!(mask, of_seed(4));
    assert!(mask[57] > 24 * 48 / 4 && mask[57] < 24 * 48 * 3 / 4, "spread over the matrix");
    let other = index(&toy(&session(vec![placed(&sparse::CARD, with(0.1, "random"))])), "blocks.1.mlp.up");
    assert_ne!(mask, other, "each place draws its own");
}

#[test]
fn by_magnitude_the_largest_weights_are_trained() {
    let model = toy(&session(vec![placed(&sparse::CARD, with(0.05, "magnitude"))]));
    let w = host(model.weights["blocks.1.attn.q.weight"].clone()).expect("read");
    let chosen = index(&model, "blocks.1.attn.q");
    let smallest = chosen.iter().map(|n| w[*n].abs()).fold(f32::INFINITY, f32::min);
    let larger = w.iter().filter(|w| w.abs() > smallest).count();
    assert_eq!((chosen.len(), larger), (29, 28), "28 of the 29 chosen are larger than the smallest of them, and nothing else is");
}

#[test]
fn the_gradient_is_the_full_one_at_the_masks_places_and_nothing_else_moves() {
    let mut sparse = toy(&session(vec![placed(&sparse::CARD, with(0.1, "random"))]));
    let full = toy(&session(vec![placed(&full::CARD, Settings::default())]));
    let gradients = |model: &petl_workbench::engine::model::Model| {
        let (pixels, labels) = batch(&model.device);
        model.bag.gradients(classify::loss(model.logits(&model.bag, pixels, None), labels, 0.0).backward())
    };
    let (few, all) = (gradients(&sparse), gradients(&full));
    for site in ["blocks.0.attn.v", "blocks.1.mlp.down"] {
        let few = host(few[&format!("0.sparse/{site}/values")].clone()).expect("read");
        let all = host(all[&format!("0.full/{site}/weight")].clone()).expect("read");
        let picked: Vec<f32> = index(&sparse, site).iter().map(|n| all[*n]).collect();
        assert!(few.iter().any(|g| g.abs() > 1e-6));
        assert!(few.iter().zip(&picked).all(|(a, b)| (a - b).abs() <= 1e-6 * (1.0 + b.abs())), "{site}: {few:?} {picked:?}");
    }
    let recipe = Recipe { weight_decay: 0.5, ..Recipe::default() }; // would move frozen numbers, were they in the optimiser
    let mut optimiser = Optimiser::new(&recipe, Default::default());
    (0..3).for_each(|_| {
        step(&mut sparse, &mut optimiser, 1e-2);
    });
    let bag = sparse.bag.frozen();
    let tuner = Tuner::new(&sparse.plan, &sparse.weights, &bag, None);
    for site in &sparse.plan.anatomy.sites {
        for part in &site.parts {
            let before = host(sparse.weights[&format!("{}.{}", site.path, part.name)].clone()).expect("read");
            let after = host(tuner.folded(site, part.name)).expect("read");
            let moved: Vec<usize> = (0..before.len()).filter(|n| before[*n].to_bits() != after[*n].to_bits()).collect();
            let masked = sparse.plan.stands_at(&site.path) && part.name == "weight";
            assert_eq!(moved, if masked { index(&sparse, &site.path) } else { vec![] }, "{}.{}", site.path, part.name);
        }
    }
}
