//! VeRA: one frozen pair for all places, cut to each place's size.

use burn::tensor::{Tensor, TensorData};
use petl_workbench::engine::model::host;
use petl_workbench::engine::optimise::Optimiser;
use petl_workbench::methods::vera::CARD;
use petl_workbench::plan::anatomy::Role;
use petl_workbench::session::{Place, Placed, Recipe, Value};

use crate::common::{apart, numbers, put, session, step, through, toy, with};

#[test]
fn all_places_share_one_frozen_pair_of_the_largest_size() {
    let placed = Placed { place: Place::roles(&[Role::Q, Role::Up, Role::Down]), ..with(&CARD, &[("rank", Value::Whole(6))]) };
    let mut model = toy(&session(vec![placed]));
    let shapes: Vec<_> = model.bag.constants.iter().map(|(key, c)| (key.as_str(), c.tensor.dims())).collect();
    assert_eq!(shapes, [("0.vera/all/A", [48, 6]), ("0.vera/all/B", [6, 48])]);
    assert_eq!(model.plan.trainable(), 2 * ((6 + 24) + (6 + 48) + (6 + 24)), "r + d_out a place");
    let before: Vec<_> = model.bag.constants.values().map(|c| c.host.to_vec()).collect();
    // Kaiming-uniform of the pair's own fan-in: bounds sqrt(6 / 48) and 1.
    let largest = |n: usize| before[n].iter().fold(0.0_f32, |m, v| m.max(v.abs()));
    assert!((0.30..0.354).contains(&largest(0)) && (0.85..1.0001).contains(&largest(1)), "{} {}", largest(0), largest(1));
    let mut optimiser = Optimiser::new(&Recipe::default(), model.plan.rates());
    (0..3).for_each(|_| {
        step(&mut model, &mut optimiser, 1e-2);
    });
    let after: Vec<_> = model.bag.constants.values().map(|c| host(c.tensor.clone()).expect("values")).collect();
    assert_eq!(before, after, "the shared pair was trained");
}

#[test]
fn a_place_adds_what_the_formula_says_from_its_corner_of_the_pair() {
    let placed = Placed { place: Place::roles(&[Role::Up, Role::Down]), ..with(&CARD, &[("rank", Value::Whole(6))]) };
    let mut model = toy(&session(vec![placed]));
    let site = "blocks.1.mlp.up"; // 24 in, 48 out; the pair is 48 by 6 by 48
    let d = host(model.bag.params[&format!("0.vera/{site}/d")].clone()).expect("d");
    assert!(d.iter().all(|v| *v == 0.1), "d starts at 0.1");
    let (d, b) = (numbers(6, 0.4), numbers(48, 0.6));
    put(&mut model, &format!("0.vera/{site}/d"), d.clone());
    put(&mut model, &format!("0.vera/{site}/b"), b.clone());
    let x = numbers(24, 0.2);
    let of = |name: &str| model.bag.constants[&format!("0.vera/all/{name}")].host.clone();
    let (pair_a, pair_b) = (of("A"), of("B"));
    let mut expected = Vec::new();
    for (out, b) in b.iter().enumerate() {
        let h = |n: usize| (0..24).map(|i| x[i] * pair_a[i * 6 + n]).sum::<f32>() * d[n];
        expected.push((0..6).map(|n| h(n) * pair_b[n * 48 + out]).sum::<f32>() * b);
    }
    let x = Tensor::<3>::from_data(TensorData::new(x, [1, 1, 24]), &model.device);
    let plain = through(&toy(&session(vec![])), site, x.clone());
    let added = host(through(&model, site, x) - plain).expect("values");
    assert!(apart(&added, &expected) < 1e-5, "{}", apart(&added, &expected));
}
