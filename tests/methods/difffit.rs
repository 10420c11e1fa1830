//! methods/23, DiffFit: its scales, and the stack that is the whole of it.

use petl_workbench::engine::optimise::Optimiser;
use petl_workbench::engine::tuner::Tuner;
use petl_workbench::methods::{bitfit, difffit, layernorm};
use petl_workbench::plan::anatomy::Role;
use petl_workbench::session::settings::Settings;
use petl_workbench::session::{Place, Placed, Recipe};

use crate::common::{logits, placed, session, step, toy};
use crate::through::{at, gap, list, on_b16, put, through, values};

/// BitFit off the norms, LayerNorm tuning and the scales, as in the preset.
fn whole() -> Vec<Placed> {
    let biases = Place::roles(&[Role::Embed, Role::Q, Role::K, Role::V, Role::O, Role::Up, Role::Down]);
    vec![
        at(&bitfit::CARD, Settings::default(), biases),
        placed(&layernorm::CARD, Settings::default()),
        placed(&difffit::CARD, Settings::default()),
    ]
}

#[test]
fn scales_of_one_leave_the_frozen_network() {
    // (h) 1, for the whole stack.
    assert_eq!(logits(&toy(&session(whole()))), logits(&toy(&session(vec![]))));
}

#[test]
fn a_branch_is_scaled_behind_its_last_linear_layer() {
    let on = |roles: &[Role]| toy(&session(vec![at(&difffit::CARD, Settings::default(), Place::roles(roles))]));
    let mut branch = on(&[Role::Attn]);
    let gamma = values([1, 24], 0.6, &branch);
    put(&mut branch.bag, "0.difffit/blocks.1.attn.o/gamma", gamma.clone());
    let mut layer = on(&[Role::O]);
    put(&mut layer.bag, "0.difffit/blocks.1.attn.o/gamma", gamma.clone());
    assert_eq!(logits(&branch), logits(&layer));
    assert_ne!(logits(&branch), logits(&toy(&session(vec![]))));
    let (x, y) = (values([2, 5, 24], 0.3, &branch), values([2, 5, 24], 0.4, &branch));
    assert!(gap(through(&branch, "blocks.1.attn.o", &x, &y), y * gamma.unsqueeze::<3>()) < 1e-6);
    // Both painted: the same scale, once.
    let both = on(&[Role::Attn, Role::O, Role::Mlp, Role::Down]);
    assert_eq!(both.plan.trainable(), 2 * 2 * 24);
}

#[test]
fn it_can_stand_in_the_shallow_half() {
    let place = Place { blocks: "1-6".into(), ..Place::roles(&[Role::Attn, Role::Mlp]) };
    let plan = on_b16(vec![at(&difffit::CARD, Settings::default(), place)]);
    assert_eq!(plan.trainable(), 6 * 2 * 768);
}

#[test]
fn the_whole_counts_biases_norms_and_scales() {
    // (h) 4: 102,912 biases, of which those of 25 norms belong to LayerNorm tuning here.
    let biases = 102_912 - 25 * 768;
    assert_eq!(on_b16(whole()).trainable(), biases + 25 * 2 * 768 + 24 * 768);
}

#[test]
fn no_matrix_moves() {
    // (h) 3: what the network uses in training is the frozen matrix, bit for bit.
    let mut model = toy(&session(whole()));
    let mut optimiser = Optimiser::new(&Recipe::default(), Default::default());
    (0..2).for_each(|_| {
        step(&mut model, &mut optimiser, 1e-2);
    });
    let bag = model.bag.frozen();
    let tuner = Tuner::new(&model.plan, &model.weights, &bag, None);
    for site in &model.plan.anatomy.sites {
        for part in site.parts.iter().filter(|part| part.rows > 1) {
            let frozen = model.weights[&format!("{}.{}", site.path, part.name)].clone();
            assert_eq!(list(tuner.weight(&site.path, part.name)), list(frozen), "{}", site.path);
        }
    }
}
