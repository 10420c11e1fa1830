//! Backbones that stand in folders: what they give is what the library gave that wrote them, and what is wrong with a folder is
//! said by name. The folders in `tests/fixtures/backbones` are tiny and random (`make.py` there).

mod common;

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use petl_workbench::backbones::folder::Tensors;
use petl_workbench::backbones::{self, Input, Opened};
use petl_workbench::engine::bag::Bag;
use petl_workbench::engine::model::host;
use petl_workbench::engine::tuner::Tuner;
use petl_workbench::plan::Plan;
use petl_workbench::session::{Choice, Session, Value};

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
    let Opened { network, weights } = backbones::open(choice).expect("the folder opens");
    let session = Session { backbone: choice.clone(), ..common::session(vec![]) };
    let plan = Plan::on(&session, network.anatomy(), 3, &mut vec![]);
    let (weights, bag) = (weights(0, &device).expect("weights"), Bag::default());
    let mut tuner = Tuner::new(&plan, &weights, &bag, None);
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

#[test]
fn vision_transformers_give_what_transformers_and_timm_give() {
    let cases: [(&str, &[usize]); 7] = [
        ("vit", &[24, 40]),
        ("vit-no-bias", &[24]),
        ("deit-distilled", &[24]), // transformers 5 does not stretch DeiT's positions as it does ViT's
        ("dinov2", &[24, 16, 40]),
        ("dinov2-gated", &[24]),
        ("timm-vit", &[24]),
        ("timm-dinov2", &[24]),
    ];
    for (name, sides) in cases {
        let expected = Tensors::open(&fixture(name).join("expected.safetensors")).expect("expected values");
        for side in sides {
            let choice = choice(&fixture(name), *side);
            let (ours, visited) = forward(&choice, floats::<4>(&expected, &format!("pixel_values_{side}")).into());
            let (theirs, _) = expected.floats(&format!("last_hidden_state_{side}")).expect("features");
            let apart = apart(&ours, &theirs);
            assert!(apart < 1e-4, "{name} at {side} pixels: {apart:e}");
            let declared = backbones::open(&choice).expect("opens").network.anatomy().sites;
            assert_eq!(visited, declared.into_iter().map(|s| s.path).collect::<Vec<_>>(), "{name}");
        }
    }
}
