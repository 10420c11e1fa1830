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

const GATE: [(&str, &str, How); 2] = [("gate", "gate.weight", TURNED), ("gate_bias", "gate.bias", ROW)];

#[test]
fn a_gated_bottleneck_is_theirs() {
    let settings = [("bottleneck", Value::Whole(8)), ("gate", Value::Flag(true))];
    let (fixture, params) = ("unipelt-adapter", [&BOTTLENECK[..], &GATE].concat());
    Case { fixture, method: "bottleneck", role: Role::Mlp, settings: &settings, params: &params, constants: &[] }.holds();
}

#[test]
fn a_gated_lora_is_theirs_with_its_scale_left_out() {
    let params = [&[("A", "lora_A", TURNED), ("B", "lora_B", TURNED)][..], &GATE].concat();
    for alpha in [6.0, 1.0] {
        let settings = [("rank", Value::Whole(4)), ("alpha", Value::Real(alpha)), ("gate", Value::Flag(true))];
        let fixture = "unipelt-lora";
        Case { fixture, method: "lora", role: Role::Q, settings: &settings, params: &params, constants: &[] }.holds();
    }
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

/// A whole network under a stack that the package has too. What it calls its parameters, by what we call ours; prefixes are
/// slices of one matrix, `n` the slice.
fn whole(
    fixture: &str,
    stack: &[(&str, &[Role], Settings)],
    named: &[(String, String, How)],
    prefixes: &[(String, String, usize)],
) {
    let file = fixture::open(fixture);
    let device = Device::flex();
    let placed = stack.iter().map(|(name, roles, set)| fixture::placed(name, Place::roles(roles), set.clone())).collect();
    let plan = fixture::plan(NET.declare(), placed);
    let (weights, _) = transformers::read_base(&fixture::folder().join("vit"), &plan.anatomy, &device).expect("the base model");
    let mut bag = Bag::make(&plan, &weights, 0, &device).expect("the bag");
    assert_eq!(
        bag.params.keys().filter(|key| !key.starts_with("head/")).count(),
        named.len() + prefixes.len(),
        "every one of ours"
    );
    let mut values = bag.data();
    for (ours, theirs, how) in named {
        values.insert(ours.clone(), (how.put)(&file[&format!("param/{theirs}")]));
    }
    for (ours, theirs, n) in prefixes {
        values.insert(ours.clone(), slice(&file[&format!("param/{theirs}")], *n));
    }
    bag.load(&values, &device).expect("the file's values fit");

    let mut tuner = Tuner::new(&plan, &weights, &bag, None);
    let y = NET.forward(&mut tuner, Tensor::<4>::from_data(file["x"].clone(), &device).into());
    assert!(fixture::distance(&y.clone().inner().into_data(), &file["y"]) < TOLERANCE);
    let g = Tensor::<3>::from_data(file["g"].clone(), &device);
    let gradients = bag.gradients((y * g).sum().backward());
    let close = |ours: &String, data: &TensorData, theirs: &TensorData| {
        let apart = fixture::distance(data, theirs);
        assert!(apart < TOLERANCE, "{ours}: {apart}");
    };
    for (ours, theirs, how) in named {
        close(ours, &(how.back)(&gradients[ours].to_data()), &file[&format!("grad/{theirs}")]);
    }
    for (ours, theirs, n) in prefixes {
        close(ours, &gradients[ours].to_data(), &slice(&file[&format!("grad/{theirs}")], *n));
    }
}

/// Our prefixes, the one matrix of theirs, and the slice of each.
fn prefixes(index: usize) -> Vec<(String, String, usize)> {
    const THEIRS: &str = "0.attention.attention.prefix_tuning.pool.prefix_tunings.self_prefix.control_trans";
    let sites = ["blocks.0.attn.k", "blocks.0.attn.v", "blocks.1.attn.k", "blocks.1.attn.v"];
    sites.iter().enumerate().map(|(n, site)| (format!("{index}.prefix/{site}/P"), THEIRS.to_owned(), n)).collect()
}

#[test]
fn a_prefix_on_every_attention_is_theirs() {
    let settings = Settings(BTreeMap::from([("length".to_owned(), Value::Whole(3))]));
    whole("prefix", &[("prefix", &[Role::Attn], settings)], &[], &prefixes(0));
}

#[test]
fn unipelt_is_theirs() {
    let gated = |name: &str, n| {
        let pairs = [(name.to_owned(), Value::Whole(n)), ("gate".to_owned(), Value::Flag(true))];
        Settings(BTreeMap::from(pairs))
    };
    let stack: [(&str, &[Role], Settings); 3] = [
        ("lora", &[Role::Q, Role::V], gated("rank", 4)),
        ("prefix", &[Role::Attn], gated("length", 3)),
        ("bottleneck", &[Role::Mlp], gated("bottleneck", 8)),
    ];
    let mut named = Vec::new();
    for n in 0..NET.blocks {
        for (ours, theirs) in [("q", "query"), ("v", "value")] {
            for (param, name, how) in [
                ("A", "lora_A", TURNED),
                ("B", "lora_B", TURNED),
                ("gate", "gate.weight", TURNED),
                ("gate_bias", "gate.bias", ROW),
            ] {
                let theirs = format!("{n}.attention.attention.{theirs}.loras.{name}");
                named.push((format!("0.lora/blocks.{n}.attn.{ours}/{param}"), theirs, how));
            }
        }
        for (param, name, how) in [("gate", "weight", TURNED), ("gate_bias", "bias", ROW)] {
            let theirs = format!("{n}.attention.attention.prefix_tuning.prefix_gates.{name}");
            named.push((format!("1.prefix/all/{param}_{n}"), theirs, how));
        }
        for (param, name, how) in BOTTLENECK.into_iter().chain(GATE) {
            let theirs = format!("{n}.output.output_adapters.adapters.{name}");
            named.push((format!("2.bottleneck/blocks.{n}.mlp/{param}"), theirs, how));
        }
    }
    whole("unipelt", &stack, &named, &prefixes(1));
}
