//! Backbones that stand in folders: what they give is what the library gave that wrote them, and what is wrong with a folder is
//! said by name. The folders in `tests/fixtures/backbones` are tiny and random (`make.py` there).

#[path = "../common/mod.rs"]
mod common;

mod faults;
mod packed;
mod parity;
mod stands;
mod towers;

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData, activation};
use petl_workbench::backbones::tensors::Tensors;
use petl_workbench::backbones::{self, Input, Opened, Text};
use petl_workbench::datasets::{self, Samples};
use petl_workbench::engine::bag::{Bag, trainable};
use petl_workbench::engine::model::{Model, host};
use petl_workbench::engine::tuner::Tuner;
use petl_workbench::exports::{self, merged};
use petl_workbench::methods;
use petl_workbench::plan::Plan;
use petl_workbench::plan::anatomy::{Role, Site};
use petl_workbench::session::settings::{Field, Kind};
use petl_workbench::session::{Choice, Place, Placed, Session, Settings, Value};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/backbones").join(name)
}

/// The session's choice of a folder, with images of this side.
fn choice(folder: &Path, side: usize) -> Choice {
    let mut choice = backbones::of_folder(folder).expect("the folder opens");
    if side > 0 {
        choice.settings.set("side", Value::Whole(side as i64));
    }
    choice
}

/// Features of `input`, and the paths that the pass came by.
fn forward(choice: &Choice, input: Input) -> (Vec<f32>, Vec<String>) {
    let device = Device::flex();
    let Opened { network, weights, .. } = backbones::open(choice).expect("the folder opens");
    let session = Session { backbone: choice.clone(), ..common::session(vec![]) };
    let plan = Plan::on(&session, network.anatomy(), 3, &mut vec![]);
    let (weights, bag) = (weights(0, &device).expect("weights"), Bag::default());
    let mut tuner = Tuner::new(&plan, &weights, &bag, None);
    tuner.look(&input);
    let features = host(network.forward(&mut tuner, input)).expect("features");
    (features, tuner.visited)
}

/// Largest difference over the largest value.
fn apart(ours: &[f32], theirs: &[f32]) -> f32 {
    assert_eq!(ours.len(), theirs.len());
    let scale = theirs.iter().fold(0.0_f32, |most, v| most.max(v.abs()));
    ours.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / scale
}

fn floats<const D: usize>(file: &Tensors, name: &str) -> Tensor<D> {
    let (values, shape) = file.floats(name).expect(name);
    Tensor::from_data(TensorData::new(values, shape), &Device::flex())
}

/// The tokens of an expected file, for texts of this length.
fn text(expected: &Tensors, length: usize) -> Text {
    let whole = |name: &str| expected.wholes(&format!("{name}_{length}")).expect(name).0;
    let ids: Vec<u32> = whole("input_ids").iter().map(|id| *id as u32).collect();
    let seen = whole("attention_mask").iter().map(|seen| *seen == 1).collect();
    Text { length, kinds: vec![0; ids.len()], ids, seen, device: Device::flex() }
}

const DECODERS: [&str; 8] = ["llama", "llama-3", "mistral", "qwen2", "gpt2", "gpt2-exact", "clip-text", "clip-text-exact"];

/// An encoder and a decoder.
const BOTH: [&str; 2] = ["t5", "t5-gated"];

/// A copy of a fixture that may be spoiled.
fn copy(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(fixture(name).join(file), folder.path().join(file)).expect("a copy");
    }
    folder
}

/// Why the folder gives no network or no weights.
fn fault(folder: &Path) -> String {
    let opened = match backbones::of_folder(folder).and_then(|choice| backbones::open(&choice)) {
        Err(words) => return words,
        Ok(opened) => opened,
    };
    match (opened.weights)(0, &Device::flex()) {
        Err(fault) => format!("{fault:#}"),
        Ok(_) => String::new(),
    }
}

/// A model with one method, away from the start, where many methods change nothing yet. None where the method says in words that it
/// does not stand in this network, or wants something measured first.
fn shaken(folder: &Path, card: &'static methods::Card, settings: Settings) -> Option<Model> {
    shaken_stack(folder, vec![common::placed(card, settings)])
}

/// The same with a whole stack.
fn shaken_stack(folder: &Path, stack: Vec<Placed>) -> Option<Model> {
    let (backbone, count) = (choice(folder, 0), stack.len());
    let session = Session { backbone, ..common::session(stack) };
    let opened = backbones::open(&session.backbone).expect("the folder opens");
    let plan = Plan::on(&session, opened.network.anatomy(), 3, &mut vec![]);
    if plan.members.len() < count {
        return None;
    }
    let device = Device::flex();
    let weights = (opened.weights)(0, &device).expect("weights");
    let mut bag = Bag::make(&plan, &weights, 3, &device).ok()?;
    for (n, param) in bag.params.values_mut().enumerate() {
        let dims = param.dims();
        let noise = TensorData::new(common::numbers(dims.iter().product(), n as f32), dims);
        *param = trainable(param.clone().inner() + Tensor::from_data(noise, &device) * 0.1);
    }
    Some(Model { plan, backbone: opened.network, weights, bag, device, names: None })
}
