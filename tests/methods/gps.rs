//! GPS: k connections of every neuron, those with the largest gradient.

use petl_workbench::engine::bag::{Bag, Measured};
use petl_workbench::methods::gps;
use petl_workbench::session::settings::{Settings, Value};

use crate::common::{logits, numbers, placed, session, toy};

fn with(k: i64, biases: bool) -> Settings {
    let mut set = Settings::default();
    set.set("k", Value::Whole(k));
    set.set("biases", Value::Flag(biases));
    set
}

#[test]
fn every_neuron_has_k_connections_and_no_other_count_arises() {
    for k in [1, 3] {
        let model = toy(&session(vec![placed(&gps::CARD, with(k, false))]));
        let places = &model.plan.members[0].placements;
        let neurons: usize = places.iter().map(|p| model.plan.anatomy.site(&p.site).map_or(0, |s| s.d_out)).sum();
        assert_eq!(model.plan.trainable(), neurons * k as usize);
        for (key, index) in &model.bag.constants {
            let site = model.plan.anatomy.site(key.split('/').nth(1).expect("a site")).expect("in the anatomy");
            let mut of_neuron = vec![0; site.d_out];
            index.host.iter().for_each(|n| of_neuron[*n as usize % site.d_out] += 1);
            assert!(of_neuron.iter().all(|n| *n == k), "{key}: {of_neuron:?}");
        }
        let biased = toy(&session(vec![placed(&gps::CARD, with(k, true))]));
        assert_eq!(biased.plan.trainable(), neurons * (k as usize + 1));
    }
}

#[test]
fn the_measured_gradient_decides_neuron_by_neuron() {
    let session = session(vec![placed(&gps::CARD, with(2, false))]);
    let mut model = toy(&session);
    let frozen = logits(&model);
    let mut measured = Measured::new();
    for site in &model.plan.members[0].sites {
        let weight = model.plan.anatomy.site(site).and_then(|s| s.part("weight")).expect("a weight");
        measured.insert((0, site.clone()), numbers(weight.count(), site.len() as f32).iter().map(|v| v.abs()).collect());
    }
    model.bag = Bag::make_with(&model.plan, &model.weights, &measured, session.seed, &model.device).expect("a bag");
    let (site, d_in, d_out) = ("blocks.1.mlp.down", 48, 24);
    let scores = &measured[&(0, site.to_owned())];
    let index: Vec<usize> = model.bag.constants[&format!("0.gps/{site}/index")].host.iter().map(|n| *n as usize).collect();
    for j in 0..d_out {
        let mut by_size: Vec<usize> = (0..d_in).map(|i| i * d_out + j).collect();
        by_size.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
        assert!(by_size[..2].iter().all(|n| index.contains(n)), "neuron {j}");
    }
    assert_eq!(logits(&model), frozen, "whatever was chosen, training starts at the frozen network");
}
