//! What other programs wrote comes in: every adapter gives their logits through the command line, on images and texts, and what is no
//! whole folder, or another network's, is refused with words. Every kind goes out and in again on every network that has names for it.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod bare;
mod from_adapterhub;
mod from_peft;
mod out_and_in;
mod prefixes;
mod refused;

use std::path::{Path, PathBuf};
use std::process::Command;

use burn::tensor::{Device, TensorData};
use petl_workbench::backbones::tensors::Tensors;
use petl_workbench::backbones::{self, weights};
use petl_workbench::datasets::unknown;
use petl_workbench::engine::model::Model;
use petl_workbench::exports::{self, Card, tensors};
use petl_workbench::plan::Plan;
use petl_workbench::plan::anatomy::Role;
use petl_workbench::session::{Place, Placed, Session, Settings, Value, file};
use petl_workbench::tasks::Aim;
use petl_workbench::tasks::classify::Activation;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn peft(name: &str) -> PathBuf {
    fixtures().join("peft").join(name)
}

/// Runs the program; what it said, and whether it went well.
fn petl(arguments: &[&str]) -> (bool, String) {
    let done = Command::new(env!("CARGO_BIN_EXE_petl")).args(arguments).output().unwrap();
    let said = [done.stdout, done.stderr].concat();
    (done.status.success(), String::from_utf8_lossy(&said).into_owned())
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Imports `adapter` onto `base` as `run`.
fn import(adapter: &Path, base: &Path, run: &Path) -> (bool, String) {
    petl(&["import", text(adapter), "--backbone", text(base), text(run)])
}

/// What the program predicts for `inputs`, the tensor `name`.
fn predicted(run: &Path, inputs: &Path, name: &str) -> Vec<f32> {
    let scratch = tempfile::tempdir().unwrap();
    let out = scratch.path().join("out.safetensors");
    let (fine, said) = petl(&["predict", text(run), "--inputs", text(inputs), "--out", text(&out)]);
    assert!(fine, "{said}");
    Tensors::open(&out).unwrap().floats(name).unwrap().0
}

fn rows(value: &serde_json::Value) -> Vec<f32> {
    value.as_array().unwrap().iter().flat_map(|row| row.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32)).collect()
}

fn apart(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// The inputs of one case as a file of its own.
fn write_inputs(expected: &Tensors, case: &str, to: &Path) {
    let mut raw: Vec<(String, Vec<usize>, safetensors::Dtype, Vec<u8>)> = vec![];
    if let Ok((values, shape)) = expected.floats(&format!("pixel_values{case}")) {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        raw.push(("pixel_values".into(), shape, safetensors::Dtype::F32, bytes));
    }
    for name in ["input_ids", "attention_mask", "token_type_ids"] {
        if let Ok((values, shape)) = expected.wholes(&format!("{name}{case}")) {
            raw.push((name.into(), shape, safetensors::Dtype::I64, values.iter().flat_map(|v| v.to_le_bytes()).collect()));
        }
    }
    let views = raw.iter().map(|(name, shape, dtype, bytes)| {
        (name.as_str(), safetensors::tensor::TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    std::fs::write(to, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// Copies a folder of PEFT's with another configuration and other tensors; what the import said.
fn spoilt(name: &str, config: &dyn Fn(&mut serde_json::Value), change: &dyn Fn(&mut tensors::Named)) -> (bool, String) {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("adapter");
    std::fs::create_dir(&folder).unwrap();
    let mut json = tensors::read_json(&peft(name).join("adapter_config.json")).unwrap();
    config(&mut json);
    tensors::write_json(&folder.join("adapter_config.json"), &json).unwrap();
    let mut all = tensors::read(&peft(name).join("adapter_model.safetensors"), "").unwrap();
    change(&mut all);
    tensors::write(&folder.join("adapter_model.safetensors"), &all).unwrap();
    let run = scratch.path().join("run");
    let (fine, said) = import(&folder, &peft("base_vit"), &run);
    assert_eq!(fine, run.exists(), "{said}");
    if fine {
        let theirs = rows(&tensors::read_json(&peft("expected.json")).unwrap()["adapters"][name]["logits"]);
        assert!(apart(&predicted(&run, &peft("inputs.safetensors"), "logits"), &theirs) < 1e-4, "{said}");
    }
    (fine, said)
}

const QUERY: &str = "base_model.model.vit.encoder.layer.1.attention.attention.query";

/// A session with one method on the model in `folder`, of an unknown data set.
fn session(folder: &Path, method: &str, place: Place, set: &[(&str, Value)]) -> Session {
    let mut settings = Settings::default();
    set.iter().for_each(|(name, value)| settings.set(name, value.clone()));
    let methods = vec![Placed { name: method.into(), place, settings, learning_rate_factor: 1.0, resolved: vec![] }];
    let data = unknown::choice(&["a", "b", "c"].map(str::to_owned));
    Session { methods, data, backbone: backbones::of_folder(folder).unwrap(), ..file::find("digits-lora").unwrap() }
}

/// Writes and reads back; how far the logits are apart, and the folder's first names.
fn there_and_back(card: &Card, session: &Session) -> Result<f64, String> {
    (card.fits)(&Plan::of(session))?;
    let (model, scratch) = (moved(session), tempfile::tempdir().unwrap());
    (card.write)(session, &model, scratch.path()).map_err(|e| format!("{e:#}"))?;
    // What lost the adapter on the way would give the start's logits.
    let mut start = Model::make(session, &Device::flex()).unwrap();
    let head = model.bag.params.iter().filter(|(key, _)| key.starts_with("head/"));
    start.bag.params.extend(head.map(|(key, value)| (key.clone(), value.clone())));
    assert!(exports::verify(card, session, &start, scratch.path()).is_err(), "the adapter makes no difference");
    exports::verify(card, session, &model, scratch.path()).map(|(difference, _)| difference).map_err(|e| format!("{e:#}"))
}

/// A method with its roles and settings.
type One<'a> = (&'a str, &'a [Role], &'a [(&'a str, Value)]);

/// A session with these methods: each with its roles and settings.
fn stack(folder: &Path, methods: &[One]) -> Session {
    let of = |(name, roles, set): &One| session(folder, name, Place::roles(roles), set).methods.remove(0);
    Session { methods: methods.iter().map(of).collect(), ..session(folder, "lora", Place::roles(&[]), &[]) }
}

/// Its model with every trained value off its start.
fn moved(session: &Session) -> Model {
    let mut model = Model::make(session, &Device::flex()).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let mut values = model.bag.data();
    for (_, data) in values.iter_mut().filter(|(key, _)| model.bag.params.contains_key(*key)) {
        let moved = data.try_to_vec::<f32>().unwrap().into_iter().map(|v| v + rng.random_range(-0.1..0.1)).collect::<Vec<f32>>();
        *data = TensorData::new(moved, data.shape().clone());
    }
    model.bag.load(&values, &model.device).unwrap();
    model
}
