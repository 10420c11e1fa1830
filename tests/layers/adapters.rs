//! Bottlenecks and prefixes against AdapterHub's package `adapters`.

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor, TensorData};
use petl_workbench::backbones::Backbone;
use petl_workbench::backbones::vit::Vit;
use petl_workbench::engine::bag::Bag;
use petl_workbench::engine::tuner::Tuner;
use petl_workbench::exports::transformers;
use petl_workbench::plan::anatomy::Role;
use petl_workbench::session::{Place, Settings, Value};

use crate::fixture::{self, Case, How, ROW, SAME, TOLERANCE, TURNED};

const BOTTLENECK: [(&str, &str, How); 4] = [
    ("down", "adapter_down.0.weight", TURNED),
    ("down_bias", "adapter_down.0.bias", ROW),
    ("up", "adapter_up.weight", TURNED),
    ("up_bias", "adapter_up.bias", ROW),
];

fn bottleneck(fixture: &'static str, form: &str, activation: &str, scale: f64) -> f32 {
    let settings = [
        ("bottleneck", Value::Whole(8)),
        ("form", Value::Text(form.into())),
        ("activation", Value::Text(activation.into())),
        ("scale", Value::Real(scale)),
    ];
    let (params, constants) = (&BOTTLENECK, &[]);
    Case { fixture, method: "bottleneck", role: Role::Mlp, settings: &settings, params, constants }.apart().largest()
}

#[test]
fn a_sequential_bottleneck_is_theirs() {
    assert!(bottleneck("bottleneck", "sequential", "relu", 1.0) < TOLERANCE);
    assert!(bottleneck("bottleneck-gelu", "sequential", "gelu", 4.0) < TOLERANCE);
}

#[test]
fn a_scaled_parallel_bottleneck_is_theirs() {
    assert!(bottleneck("parallel", "parallel", "relu", 4.0) < TOLERANCE);
    assert!(bottleneck("parallel", "sequential", "relu", 4.0) > 1e-2, "another form is noticed");
}

fn compacter(fixture: &'static str, rank: i64, matrices: &[(&str, &str, How)]) {
    let settings = [
        ("bottleneck", Value::Whole(8)),
        ("n", Value::Whole(4)),
        ("rank", Value::Whole(rank)),
        ("activation", Value::Text("gelu".into())),
    ];
    let common = [("all/A", "shared.phm_rule", SAME), ("b_dn", "adapter_down.0.b", ROW), ("b_up", "adapter_up.b", ROW)];
    let params = [&common, matrices].concat();
    Case { fixture, method: "compacter", role: Role::Mlp, settings: &settings, params: &params, constants: &[] }.holds();
}

#[test]
fn compacter_is_theirs() {
    let factors = [
        ("s_dn", "adapter_down.0.W_left", SAME),
        ("t_dn", "adapter_down.0.W_right", SAME),
        ("s_up", "adapter_up.W_left", SAME),
        ("t_up", "adapter_up.W_right", SAME),
    ];
    compacter("compacter", 1, &factors);
}

#[test]
fn phm_layers_are_theirs() {
    compacter("phm", 0, &[("B_dn", "adapter_down.0.W", SAME), ("B_up", "adapter_up.W", SAME)]);
}

/// Two small blocks, as `make_adapters.py` makes them.
static NET: Vit = Vit { image: 8, patch: 4, width: 16, blocks: 2, heads: 4, hidden: 24, ..petl_workbench::backbones::vit::B_16 };

/// Keys of block 0, values of block 0, keys of block 1, ...: `[length, 4, width]` in the file, one `[length, width]` in our bag.
fn slice(data: &TensorData, n: usize) -> TensorData {
    let (width, pieces) = (NET.width, 2 * NET.blocks);
    let from = data.try_to_vec::<f32>().expect("f32");
    let rows: Vec<f32> = from.chunks(pieces * width).flat_map(|row| row[n * width..(n + 1) * width].to_vec()).collect();
    let length = rows.len() / width;
    TensorData::new(rows, [length, width])
}

#[test]
fn a_prefix_on_every_attention_is_theirs() {
    let file = fixture::open("prefix");
    let device = Device::flex();
    let settings = Settings(BTreeMap::from([("length".to_owned(), Value::Whole(3))]));
    let plan = fixture::plan(NET.declare(), vec![fixture::placed("prefix", Place::roles(&[Role::Attn]), settings)]);
    let (weights, _) = transformers::read_base(&fixture::folder().join("vit"), &plan.anatomy, &device).expect("the base model");
    let mut bag = Bag::make(&plan, &weights, 0, &device).expect("the bag");
    const THEIRS: &str = "0.attention.attention.prefix_tuning.pool.prefix_tunings.self_prefix.control_trans";
    let keys = ["blocks.0.attn.k", "blocks.0.attn.v", "blocks.1.attn.k", "blocks.1.attn.v"].map(|at| format!("0.prefix/{at}/P"));
    let mut values = bag.data();
    for (n, key) in keys.iter().enumerate() {
        values.insert(key.clone(), slice(&file[&format!("param/{THEIRS}")], n));
    }
    bag.load(&values, &device).expect("the file's prefixes fit");

    let mut tuner = Tuner::new(&plan, &weights, &bag, None);
    let y = NET.forward(&mut tuner, Tensor::<4>::from_data(file["x"].clone(), &device).into());
    let theirs = Tensor::<3>::from_data(file["y"].clone(), &device);
    assert!(fixture::distance(&y.clone().inner().into_data(), &theirs.into_data()) < TOLERANCE);
    let g = Tensor::<3>::from_data(file["g"].clone(), &device);
    let gradients = bag.gradients((y * g).sum().backward());
    for (n, key) in keys.iter().enumerate() {
        let apart = fixture::distance(&gradients[key].to_data(), &slice(&file[&format!("grad/{THEIRS}")], n));
        assert!(apart < TOLERANCE, "{key}: {apart}");
    }
}
