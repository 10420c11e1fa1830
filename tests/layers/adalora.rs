//! AdaLoRA against PEFT: the layer, the orthogonality term, and the choice of singular values step by step.

use burn::tensor::{Device, Tensor, TensorData};
use petl_workbench::engine::bag::{Bag, Weights};
use petl_workbench::exports::tensors::Named;
use petl_workbench::methods::{Gradients, Moment};
use petl_workbench::plan::anatomy::{Anatomy, Part, Role, Site};
use petl_workbench::session::{Place, Settings, Value};

use crate::fixture::{self, Case, How, ROW, TOLERANCE, TURNED};

/// Rank 3 at the end is 5 at the start, as in the fixtures.
const RANK: i64 = 3;

const PARAMS: [(&str, &str, How); 3] = [("P", "lora_A", TURNED), ("Lambda", "lora_E", ROW), ("Q", "lora_B", TURNED)];

#[test]
fn the_layer_is_pefts() {
    // PEFT divides its strength 4 by the rank.
    let settings = [("rank", Value::Whole(RANK)), ("scale", Value::Real(4.0 / (5.0 + 1e-5)))];
    Case { fixture: "adalora", method: "adalora", role: Role::Q, settings: &settings, params: &PARAMS, constants: &[] }.holds();
}

#[test]
fn the_orthogonality_term_is_the_papers_of_pefts_norms() {
    let file = fixture::open("adalora");
    let settings = [("rank", Value::Whole(RANK)), ("orthogonality", Value::Real(1.0))];
    let case =
        Case { fixture: "adalora", method: "adalora", role: Role::Q, settings: &settings, params: &PARAMS, constants: &[] };
    let device = Device::flex();
    let (weights, plan) = (case.weights(&file, &device), case.plan(&file));
    let mut bag = Bag::make(&plan, &weights, 0, &device).expect("the bag");
    let named = PARAMS.map(|(ours, theirs, how)| (format!("0.adalora/{}/{ours}", fixture::SITE), format!("param/{theirs}"), how));
    fixture::fill(&mut bag, &file, &named, &device);
    let tuner = petl_workbench::engine::tuner::Tuner::new(&plan, &weights, &bag, None);
    let ours = tuner.penalty().expect("a penalty").inner().into_data();
    // The paper adds the squares of the norms of which PEFT takes the mean.
    let norm = |name: &str| file[name].try_to_vec::<f32>().expect("f32")[0];
    let sum = norm("norm/lora_A").powi(2) + norm("norm/lora_B").powi(2);
    assert!(fixture::distance(&ours, &TensorData::new(vec![sum], [1])) < TOLERANCE, "{ours:?} and {sum}");
}

/// Step `n` of a stacked tensor, as ours.
fn at_step(file: &Named, name: &str, n: usize, how: How) -> TensorData {
    let data = &file[name];
    let shape = data.shape().as_slice()[1..].to_vec();
    let size: usize = shape.iter().product();
    let values = data.try_to_vec::<f32>().expect("f32")[n * size..(n + 1) * size].to_vec();
    (how.put)(&TensorData::new(values, shape))
}

#[test]
fn singular_values_are_cut_as_pefts_allocator_cuts_them() {
    let file = fixture::open("adalora-budget");
    let device = Device::flex();
    let names = ["one", "two"];
    let site = |name: &str| Site {
        path: name.into(),
        role: Role::Q,
        block: Some(0),
        stage: None,
        place: "q",
        d_in: 12,
        d_out: 20,
        parts: vec![Part { name: "weight", rows: 12, cols: 20 }],
    };
    let sites = names.map(site).to_vec();
    let anatomy = Anatomy {
        sites,
        blocks: 1,
        width: 12,
        heads: 1,
        hidden: 20,
        tokens: 5,
        ..petl_workbench::backbones::vit::B_16.declare()
    };
    let real = |name: &str, value: f64| (name.to_owned(), Value::Real(value));
    let settings = Settings(
        [
            real("t_init", 2.0 / 12.0),
            real("t_final", 4.0 / 12.0),
            ("every".to_owned(), Value::Whole(2)),
            ("rank".to_owned(), Value::Whole(RANK)),
        ]
        .into(),
    );
    let plan = fixture::plan(anatomy, vec![fixture::placed("adalora", Place::sites(&names), settings)]);
    let weights: Weights = names.map(|n| (format!("{n}.weight"), Tensor::zeros([12, 20], &device))).into();
    let mut bag = Bag::make(&plan, &weights, 0, &device).expect("the bag");
    let member = &plan.members[0];
    let mut living = vec![];
    for n in 0..10 {
        let (mut values, mut gradients) = (bag.data(), Gradients::new());
        for name in names {
            for (ours, theirs, how) in PARAMS {
                let key = format!("0.adalora/{name}/{ours}");
                values.insert(key.clone(), at_step(&file, &format!("given/{name}/{theirs}"), n, how));
                gradients.insert(key, Tensor::from_data(at_step(&file, &format!("slope/{name}/{theirs}"), n, how), &device));
            }
        }
        bag.load(&values, &device).expect("the file's values fit");
        member.card.method.between(Moment { done: n + 1, steps: 12 }, member, &gradients, &mut bag);
        let mut alive = 0;
        for name in names {
            let ours = bag.params[&format!("0.adalora/{name}/Lambda")].clone().inner().into_data();
            let theirs = at_step(&file, &format!("after/{name}/lora_E"), n, ROW);
            let values = |data: &TensorData| data.try_to_vec::<f32>().expect("f32");
            alive += values(&ours).iter().filter(|v| **v != 0.0).count();
            // At the last choice (step 8) PEFT leaves that step's own gradient out, and ours takes it in.
            if n + 1 < 8 {
                assert_eq!(values(&ours), values(&theirs), "{name} after step {}", n + 1);
            }
        }
        living.push(alive);
    }
    assert_eq!(living, [10, 10, 10, 7, 10, 6, 10, 6, 6, 6], "singular values alive after each step");
}
