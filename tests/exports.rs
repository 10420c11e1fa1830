//! What leaves: every form is written, read back and compared; what does not fit is refused with words; folders that PEFT wrote
//! give PEFT's logits here.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use petl_workbench::backbones::tensors::Tensors;
use petl_workbench::backbones::vit::Vit;
use petl_workbench::engine::bag::Bag;
use petl_workbench::engine::model::{Model, host};
use petl_workbench::engine::run::{self, Surroundings};
use petl_workbench::exports::{self, peft, tensors, transformers};
use petl_workbench::plan::Plan;
use petl_workbench::session::{Choice, Place, Placed, Session, Settings, Value, file};

/// A preset on 40 digits for one epoch, tested on 64, on random weights: what leaves does not depend on how well it was trained.
fn tiny(preset: &str, more: &[&str]) -> Session {
    let mut set: Vec<String> = ["recipe.epochs=1", "device=cpu", "backbone.settings.weights=random"].map(str::to_owned).to_vec();
    let session = file::find(preset).unwrap();
    if session.data.name == "digits" {
        set.extend(["data.settings.train=40".to_owned(), "data.settings.test=64".to_owned()]);
    }
    set.extend(more.iter().map(|s| (*s).to_owned()));
    file::set(&session, &set).unwrap()
}

fn train(session: &Session, folder: &Path) {
    let around = Surroundings { run: "test", folder, send: &|_| Ok(()), ask: &|| Ok(ControlFlow::Continue(())) };
    run::train(session, &around).unwrap();
}

fn trained(preset: &str, more: &[&str]) -> (tempfile::TempDir, PathBuf) {
    let scratch = tempfile::tempdir().unwrap();
    let run = scratch.path().join("run");
    train(&tiny(preset, more), &run);
    (scratch, run)
}

/// Kinds that hold the run, and those that refuse it, with the words.
fn leave(scratch: &Path, run: &Path) -> (Vec<&'static str>, BTreeMap<&'static str, String>) {
    let (mut held, mut refused) = (vec![], BTreeMap::new());
    for card in exports::CATALOG {
        let into = scratch.join(card.name);
        match exports::export(run, card.name, &into) {
            Ok(done) => {
                assert_eq!(done.samples, 64);
                assert!(done.difference <= 1e-3, "{}: {}", card.name, done.difference);
                assert!(std::fs::read_dir(&into).unwrap().count() >= 2);
                held.push(card.name);
            }
            Err(error) => {
                assert!(!into.exists(), "{} left a folder although it was refused", card.name);
                refused.insert(card.name, format!("{error:#}"));
            }
        }
    }
    let left = std::fs::read_dir(scratch)
        .unwrap()
        .filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().starts_with(".petl-export"));
    assert_eq!(left.count(), 0, "a half-written export was left behind");
    (held, refused)
}

/// Where LoRA on q and v leaves.
const EVERYWHERE: &[&str] = &["petl", "peft", "adapterhub", "merged", "transformers"];

#[test]
fn changes_of_weights_leave_in_every_form_that_holds_them() {
    const BESIDE: &[&str] = &["petl", "merged", "transformers"];
    const PEFT: &[&str] = &["petl", "peft", "merged", "transformers"];
    let presets = ["ia3", "dora", "vera", "adalora", "loha", "lokr", "oft", "layernorm"].map(|preset| (preset, PEFT));
    // PEFT takes more than one of BOFT's factors only with its CUDA extension.
    let others = [("digits-lora", EVERYWHERE), ("bitfit", BESIDE), ("digits-probe", BESIDE), ("boft", BESIDE)];
    for (preset, expected) in presets.into_iter().chain(others) {
        let (scratch, run) = trained(preset, &[]);
        let (held, refused) = leave(scratch.path(), &run);
        assert_eq!(held, expected, "{preset}: {refused:?}");
        for words in refused.values() {
            assert!(words.contains("Export it as `"), "the refusal names no way out: {words}");
        }
    }
}

#[test]
fn what_cannot_fold_leaves_beside_the_weights() {
    let cases: [(&str, &[&str]); 2] = [("pfeiffer", &["petl", "adapterhub"]), ("twin", &["petl"])];
    for (preset, expected) in cases {
        let (scratch, run) = trained(preset, &[]);
        let (held, refused) = leave(scratch.path(), &run);
        assert_eq!(held, expected, "{preset}");
        for (kind, words) in refused {
            assert!(words.contains("`petl`"), "{preset}, {kind}: {words}");
        }
    }
}

#[test]
fn an_adapter_is_tied_to_the_weights_it_was_trained_on() {
    let scratch = tempfile::tempdir().unwrap();
    let (weights, run) = (scratch.path().join("weights.safetensors"), scratch.path().join("run"));
    let embedded = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/backbones/vit-tiny-32/model.safetensors");
    std::fs::copy(embedded, &weights).unwrap();
    train(&tiny("digits-lora", &[&format!("backbone.settings.weights={}", weights.display())]), &run);
    let kept = std::fs::read(run.join("adapter.safetensors")).unwrap();
    assert!(exports::load_run(&run).is_ok());

    // One bit of one frozen number: the same shapes, other weights.
    let mut bytes = std::fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&weights, &bytes).unwrap();
    for words in [
        exports::load_run(&run).map(|_| ()).unwrap_err(),
        exports::export(&run, "merged", &scratch.path().join("merged")).map(|_| ()).unwrap_err(),
    ] {
        let words = format!("{words:#}");
        assert!(words.contains("other weights") && words.contains(weights.to_str().unwrap()), "{words}");
    }
    // An adapter that does not say where it belongs is not guessed at.
    let untied = tensors::read(&run.join("adapter.safetensors"), "").unwrap();
    petl_workbench::backbones::weights::write(&run.join("adapter.safetensors"), &untied, false, BTreeMap::new()).unwrap();
    let words = format!("{:#}", exports::load_run(&run).map(|_| ()).unwrap_err());
    assert!(words.contains("does not say on which weights"), "{words}");
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&weights, &bytes).unwrap();
    std::fs::write(run.join("adapter.safetensors"), kept).unwrap();
    assert!(exports::load_run(&run).is_ok());
}

#[test]
fn an_export_gives_the_labels_that_the_run_gave() {
    let (scratch, run) = trained("digits-lora", &[]);
    let path = run.join("summary.json");
    let mut summary = tensors::read_json(&path).unwrap();
    let label = summary["predictions"][1].as_u64().unwrap();
    summary["predictions"][1] = ((label + 1) % 10).into();
    tensors::write_json(&path, &summary).unwrap();
    let into = scratch.path().join("petl");
    let words = format!("{:#}", exports::export(&run, "petl", &into).unwrap_err());
    assert!(words.contains("other labels") && words.contains("1 of 64 samples"), "{words}");
    assert!(!into.exists());
    std::fs::remove_file(&path).unwrap(); // an exported folder has none, and can be exported on
    assert!(exports::export(&run, "petl", &into).is_ok());
    assert!(exports::export(&into, "merged", &scratch.path().join("merged")).is_ok());
}

#[test]
fn every_domain_is_compared_and_no_sample_twice() {
    let set = ["data.settings.train=10", "data.settings.test=10", "recipe.epochs=1"];
    let (scratch, run) = trained("emoji-lora", &set);
    // 10 emoji in three styles: 30 samples, and not the first ten over and over.
    let done = exports::export(&run, "petl", &scratch.path().join("petl")).unwrap();
    assert_eq!(done.samples, 30);
    // A wrong answer in the last style alone is seen.
    let path = run.join("summary.json");
    let mut summary = tensors::read_json(&path).unwrap();
    let label = summary["predictions"][29].as_u64().unwrap();
    summary["predictions"][29] = ((label + 1) % 7).into();
    tensors::write_json(&path, &summary).unwrap();
    let words = format!("{:#}", exports::export(&run, "petl", &scratch.path().join("again")).unwrap_err());
    assert!(words.contains("1 of 30 samples"), "{words}");
}

#[test]
fn rounding_is_judged_by_the_size_of_the_logits() {
    let (scratch, run) = trained("digits-lora", &[]);
    let (session, mut model) = exports::load_run(&run).unwrap();
    // Logits a thousand times as large carry rounding a thousand times as large.
    for value in ["head/weight", "head/bias"] {
        let large = model.bag.params[value].clone().inner() * 1000.0;
        model.bag.params.insert(value.to_owned(), large.autodiff().require_grad());
    }
    for card in exports::CATALOG {
        let folder = scratch.path().join(card.name);
        std::fs::create_dir(&folder).unwrap();
        (card.write)(&session, &model, &folder).unwrap();
        let difference = exports::verify(card, &session, &model, &folder);
        assert!(difference.is_ok(), "{}: {difference:?}", card.name);
    }
}

#[test]
fn a_run_that_really_learned_leaves_in_every_form() {
    let scratch = tempfile::tempdir().unwrap();
    let run = scratch.path().join("run");
    let set = ["backbone.settings.weights=pretrained", "data.settings.train=300", "data.settings.test=100", "recipe.epochs=4"];
    let session = tiny("digits-lora-all", &set);
    train(&session, &run);
    let summary = tensors::read_json(&run.join("summary.json")).unwrap();
    assert!(summary["accuracy"].as_f64().unwrap() > 0.4, "{}", summary["accuracy"]);
    let (held, refused) = leave(scratch.path(), &run);
    assert_eq!(held, ["petl", "peft", "merged", "transformers"], "{refused:?}"); // AdapterHub's has no LoRA at `o`
}

/// LoRA members on sites of their own, of other ranks, strengths and scales.
fn patchwork() -> Session {
    let member = |place: Place, settings: &[(&str, Value)]| {
        let mut set = Settings::default();
        settings.iter().for_each(|(name, value)| set.set(name, value.clone()));
        Placed { name: "lora".into(), place, settings: set, learning_rate_factor: 1.0, resolved: vec![] }
    };
    let mut session = tiny("digits-lora", &[]);
    let text = |t: &str| Value::Text(t.into());
    session.methods = vec![
        member(
            Place::sites(&["blocks.0.attn.q", "blocks.3.mlp.down"]),
            &[("rank", Value::Whole(4)), ("alpha", Value::Real(4.0))],
        ),
        member(
            Place::sites(&["blocks.1.attn.o", "blocks.2.mlp.up"]),
            &[("rank", Value::Whole(9)), ("scaling", text("alpha / sqrt r"))],
        ),
        member(
            Place { blocks: "2-3".into(), ..Place::roles(&["v", "k"].map(role)) },
            &[("rank", Value::Whole(4)), ("alpha", Value::Real(6.5))],
        ),
    ];
    session
}

fn role(word: &str) -> petl_workbench::plan::anatomy::Role {
    petl_workbench::plan::anatomy::Role::from_word(word).unwrap()
}

#[test]
fn ranks_and_strengths_by_place_survive_the_way_through_peft() {
    let scratch = tempfile::tempdir().unwrap();
    let run = scratch.path().join("run");
    train(&patchwork(), &run);
    let (held, refused) = leave(scratch.path(), &run);
    assert_eq!(held, ["petl", "peft", "merged", "transformers"], "{refused:?}");
    let config = tensors::read_json(&scratch.path().join("peft/adapter_config.json")).unwrap();
    assert_eq!(config["r"], 4);
    assert_eq!(config["use_rslora"], false);
    assert_eq!(config["rank_pattern"]["vit.encoder.layer.1.attention.output.dense"], 9);
    assert_eq!(config["rank_pattern"]["vit.layers.2.mlp.fc1"], 9);
    // 16 / sqrt 9 · 9: the strength that α / r needs for rsLoRA's scale.
    assert_eq!(config["alpha_pattern"]["vit.layers.2.mlp.fc1"], 48);
    let targets: Vec<_> = config["target_modules"].as_array().unwrap().iter().map(|v| v.as_str().unwrap()).collect();
    assert!(!targets.contains(&"output.dense"), "would also mean attention.output.dense: {targets:?}");
}

#[test]
fn pissa_leaves_for_peft_as_one_change_of_twice_the_rank() {
    let (scratch, run) = trained("pissa", &["methods.0.settings.rank=4", "methods.0.settings.alpha=6"]);
    let (held, refused) = leave(scratch.path(), &run);
    assert_eq!(held, ["petl", "peft", "merged", "transformers"], "{refused:?}");
    let config = tensors::read_json(&scratch.path().join("peft/adapter_config.json")).unwrap();
    assert_eq!((&config["r"], &config["lora_alpha"]), (&8.into(), &12.into()), "α / r stays 6 / 4");
    let theirs = tensors::read(&scratch.path().join("peft/adapter_model.safetensors"), "").unwrap();
    let (_, model) = exports::load_run(&run).unwrap();
    let of = |name: &str| {
        let key = format!("0.lora/blocks.2.attn.q/{name}");
        let constant = || model.bag.constants.get(&key).map(|c| &c.tensor);
        model.bag.params.get(&key).or_else(constant).unwrap().clone().inner()
    };
    let read = |name: &str, shape: [usize; 2]| {
        let data = theirs[&format!("base_model.model.vit.layers.2.attention.q_proj.{name}.weight")].clone();
        assert_eq!(data.shape().as_slice(), shape, "{name}");
        Tensor::<2>::from_data(data, &Device::flex())
    };
    // What PEFT will add to the original weight: B A, turned over, is A B - A0 B0.
    let change = read("lora_B", [96, 8]).matmul(read("lora_A", [8, 96])).transpose();
    let ours = of("A").matmul(of("B")) - of("A0").matmul(of("B0"));
    assert!(apart(&host(change.clone()).unwrap(), &host(ours).unwrap()) < 1e-5);
    assert!(change.abs().max().into_scalar::<f32>() > 1e-3, "training changed nothing");
}

#[test]
fn pissa_beside_plain_lora_keeps_each_scale_under_rslora() {
    let mut session = patchwork();
    session.methods.truncate(2);
    for member in &mut session.methods {
        member.settings.set("scaling", Value::Text("alpha / sqrt r".into()));
    }
    session.methods[0].settings.set("start", Value::Text("pissa".into()));
    let scratch = tempfile::tempdir().unwrap();
    let run = scratch.path().join("run");
    train(&session, &run);
    let (held, refused) = leave(scratch.path(), &run);
    assert_eq!(held, ["petl", "peft", "merged", "transformers"], "{refused:?}");
    let config = tensors::read_json(&scratch.path().join("peft/adapter_config.json")).unwrap();
    assert_eq!((&config["r"], &config["use_rslora"]), (&8.into(), &true.into()));
    let alpha = config["lora_alpha"].as_f64().unwrap();
    assert!((alpha / 8f64.sqrt() - 4.0 / 4f64.sqrt()).abs() < 1e-12, "{alpha}");
    assert_eq!(config["rank_pattern"]["vit.layers.2.mlp.fc1"], 9);
    assert_eq!(config["alpha_pattern"]["vit.layers.2.mlp.fc1"], 16);
}

#[test]
fn the_mixed_presets_ranks_by_block_are_written_as_patterns() {
    let mut session = tiny("mixed", &[]);
    session.methods.retain(|m| m.name == "lora");
    let plan = Plan::of(&session);
    (exports::find("peft").unwrap().fits)(&plan).unwrap();
    let config = peft::config(&plan);
    assert_eq!((&config["r"], &config["lora_alpha"]), (&4.into(), &8.into()));
    for (block, rank, alpha) in [(3, 8, 16), (5, 8, 16)] {
        for module in ["q_proj", "v_proj"] {
            let name = format!("vit.layers.{block}.attention.{module}");
            assert_eq!(
                (&config["rank_pattern"][&name], &config["alpha_pattern"][&name]),
                (&rank.into(), &alpha.into()),
                "{name}"
            );
        }
    }
    assert_eq!(config["rank_pattern"].as_object().unwrap().len(), 3 * 2 * 2, "three blocks, q and v, two dialects");
}

#[test]
fn mixed_and_overlapping_stacks_are_refused_by_peft_with_a_way_out() {
    let mut session = tiny("digits-lora", &[]);
    session.methods.push(session.methods[0].clone());
    let words = (exports::find("peft").unwrap().fits)(&Plan::of(&session)).unwrap_err();
    assert!(words.contains("two methods stand at `blocks.0.attn.q`") && words.contains("`petl`"), "{words}");
    session.methods[1] = tiny("ia3", &[]).methods[0].clone();
    let words = (exports::find("peft").unwrap().fits)(&Plan::of(&session)).unwrap_err();
    assert!(words.contains("LoRA and IA3") && words.contains("`merged`"), "{words}");
}

#[test]
fn a_changed_file_is_found_when_read_back() {
    let (scratch, run) = trained("digits-lora", &[]);
    let (session, model) = exports::load_run(&run).unwrap();
    for card in exports::CATALOG {
        let folder = scratch.path().join(format!("bad-{}", card.name));
        std::fs::create_dir(&folder).unwrap();
        (card.write)(&session, &model, &folder).unwrap();
        assert!(exports::verify(card, &session, &model, &folder).is_ok());
        let path = folder.join(match card.name {
            "petl" | "adapterhub" => "adapter.safetensors",
            "peft" => "adapter_model.safetensors",
            _ => "model.safetensors",
        });
        let bytes = std::fs::read(&path).unwrap();
        // The sign of one number in the middle of every matrix row: the file stays whole.
        let mut changed = bytes.clone();
        let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        (header..bytes.len()).skip(3).step_by(64).for_each(|at| changed[at] ^= 0x80);
        std::fs::write(&path, &changed).unwrap();
        let words = format!("{:#}", exports::verify(card, &session, &model, &folder).unwrap_err());
        assert!(words.contains("nothing was exported"), "{words}");
        std::fs::write(&path, &bytes[..bytes.len() - 5]).unwrap();
        let words = format!("{:#}", exports::verify(card, &session, &model, &folder).unwrap_err());
        assert!(words.contains("not a whole safetensors file") && words.contains(path.to_str().unwrap()), "{words}");
    }
}

#[test]
fn a_configuration_that_does_not_describe_the_network_is_found_when_read_back() {
    let (scratch, run) = trained("digits-lora", &[]);
    let (session, model) = exports::load_run(&run).unwrap();
    let wrong = |card: &str, file: &str, pointer: &str, value: serde_json::Value| {
        let card = exports::find(card).unwrap();
        let folder = scratch.path().join("bad");
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir(&folder).unwrap();
        (card.write)(&session, &model, &folder).unwrap();
        assert!(exports::verify(card, &session, &model, &folder).is_ok(), "{}", card.name);
        let path = folder.join(file);
        let mut config = tensors::read_json(&path).unwrap();
        assert_ne!(*config.pointer(pointer).unwrap(), value, "{file}{pointer}");
        *config.pointer_mut(pointer).unwrap() = value;
        tensors::write_json(&path, &config).unwrap();
        let words = exports::verify(card, &session, &model, &folder).map(|_| ()).unwrap_err();
        let words = format!("{words:#}");
        let key = pointer.split('/').nth(1).unwrap();
        assert!(words.contains(path.to_str().unwrap()) && words.contains(key), "{pointer}: {words}");
    };
    // None of these changes a tensor, and all of them change what another program makes of it.
    for (card, folder) in [("transformers", ""), ("peft", "base/")] {
        let config = &format!("{folder}config.json");
        wrong(card, config, "/num_attention_heads", 4.into());
        wrong(card, config, "/layer_norm_eps", 1e-12.into());
        wrong(card, config, "/patch_size", 8.into());
        wrong(card, config, "/id2label/3", "4".into());
        wrong(card, config, "/label2id/3", 4.into());
        let pixels = &format!("{folder}preprocessor_config.json");
        wrong(card, pixels, "/image_mean/1", 0.485.into());
        wrong(card, pixels, "/rescale_factor", 1.0.into());
        wrong(card, pixels, "/size/height", 224.into());
    }
    wrong("peft", "adapter_config.json", "/modules_to_save", serde_json::json!([]));
    wrong("peft", "adapter_config.json", "/base_model_name_or_path", "somewhere/else".into());
    wrong("merged", "config.json", "/heads", 4.into());
    wrong("merged", "config.json", "/classes", serde_json::json!(["0"]));
}

#[test]
fn merged_weights_can_be_the_backbone_of_another_session() {
    let (scratch, run) = trained("digits-lora", &[]);
    let into = scratch.path().join("merged");
    exports::export(&run, "merged", &into).unwrap();
    let path = format!("backbone.settings.weights={}", into.join("model.safetensors").display());
    let session = file::set(&file::find("digits-probe").unwrap(), &[path]).unwrap();
    assert!(Model::make(&session, &Device::flex()).is_ok());
}

// Folders that PEFT itself wrote.

static FIXTURE: Vit = Vit {
    image: 32,
    patch: 16,
    width: 32,
    blocks: 2,
    heads: 4,
    hidden: 64,
    epsilon: 1e-12,
    ..petl_workbench::backbones::vit::B_16
};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/peft").join(name)
}

/// The fixture's network with these methods and these values in the bag.
fn fixture_model(methods: Vec<Placed>, params: &tensors::Named) -> Model {
    let session = Session { methods, backbone: Choice::named("vit-tiny-32"), ..tiny("digits-lora", &[]) };
    let mut problems = vec![];
    let plan = Plan::on(&session, FIXTURE.declare(), 3, &mut problems);
    assert!(problems.is_empty(), "{problems:?}");
    let device = Device::flex();
    let (weights, _) = transformers::read_base(&fixture("base_vit"), &plan.anatomy, &device).unwrap();
    let mut bag = Bag::make(&plan, &weights, 0, &device).unwrap();
    bag.load(params, &device).unwrap();
    Model { plan, backbone: std::sync::Arc::new(FIXTURE), weights, bag, device, names: None }
}

fn logits(model: &Model) -> Vec<f32> {
    let (pixels, shape) = Tensors::open(&fixture("inputs.safetensors")).unwrap().floats("pixel_values").unwrap();
    let bag = model.bag.frozen();
    host(model.logits(&bag, Tensor::<4>::from_data(TensorData::new(pixels, shape), &model.device), None)).unwrap()
}

fn expected(name: &str) -> Vec<f32> {
    let all = tensors::read_json(&fixture("expected.json")).unwrap();
    let rows = if name == "base_vit" { &all[name] } else { &all["adapters"][name]["logits"] }.as_array().unwrap();
    rows.iter().flat_map(|row| row.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32)).collect()
}

fn apart(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn the_base_model_of_transformers_gives_its_logits_here() {
    let device = Device::flex();
    let (_, head) = transformers::read_base(&fixture("base_vit"), &FIXTURE.declare(), &device).unwrap();
    let difference = apart(&logits(&fixture_model(vec![], &head)), &expected("base_vit"));
    assert!(difference < 1e-4, "{difference}");
}

#[test]
fn an_adapter_that_peft_wrote_gives_pefts_logits_and_is_written_as_peft_did() {
    let adapter = peft::adapter(&fixture("lora_dual"), &FIXTURE.declare()).unwrap();
    assert_eq!(adapter.methods.len(), 1);
    let model = fixture_model(adapter.methods, &adapter.params);
    let difference = apart(&logits(&model), &expected("lora"));
    assert!(difference < 1e-4, "{difference}");

    let theirs = tensors::read(&fixture("lora_dual/adapter_model.safetensors"), "").unwrap();
    let ours = peft::parts(&model.plan, &model.bag.data()).unwrap();
    assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());
    for (name, data) in &ours {
        assert_eq!(data.shape().as_slice(), theirs[name].shape().as_slice(), "{name}");
        assert_eq!(data.as_bytes(), theirs[name].as_bytes(), "{name}");
    }
    let (ours, theirs) = (peft::config(&model.plan), tensors::read_json(&fixture("lora_dual/adapter_config.json")).unwrap());
    for key in ["peft_type", "r", "lora_alpha", "lora_dropout", "bias", "use_rslora", "modules_to_save", "inference_mode"] {
        // 8 and 8.0 are one number to Python.
        assert!(
            ours[key] == theirs[key] || ours[key].as_f64() == theirs[key].as_f64(),
            "{key}: {} and {}",
            ours[key],
            theirs[key]
        );
    }
    let sorted = |v: &serde_json::Value| {
        let mut names: Vec<String> = v.as_array().unwrap().iter().map(|v| v.to_string()).collect();
        names.sort();
        names
    };
    assert_eq!(sorted(&ours["target_modules"]), sorted(&theirs["target_modules"]));
}

#[test]
fn ia3_is_written_with_pefts_shapes() {
    let methods = vec![Placed {
        name: "ia3".into(),
        place: Place::roles(&["k", "v", "down"].map(role)),
        settings: Settings::default(),
        learning_rate_factor: 1.0,
        resolved: vec![],
    }];
    let session = Session { methods: methods.clone(), ..tiny("ia3", &[]) };
    let plan = Plan::on(&session, FIXTURE.declare(), 3, &mut vec![]);
    let params =
        plan.specs().into_iter().map(|(key, spec)| (key, TensorData::new(vec![0.5f32; spec.size()], [spec.rows, spec.cols])));
    let ours = peft::parts(&plan, &params.collect()).unwrap();
    let theirs = tensors::read(&fixture("ia3/adapter_model.safetensors"), "").unwrap();
    let mut met = 0;
    for (name, data) in theirs.iter().filter(|(name, _)| !name.contains("attention.output.dense")) {
        assert_eq!(ours[name].shape().as_slice(), data.shape().as_slice(), "{name}");
        met += 1;
    }
    assert_eq!(met, 6);
    // PEFT's own fixture scales the inputs of attention.output.dense, because `output.dense` means it too. Ours must not.
    let config = peft::config(&plan);
    for entry in config["feedforward_modules"].as_array().unwrap() {
        assert!(config["target_modules"].as_array().unwrap().contains(entry), "PEFT wants a subset");
        assert!(!"vit.encoder.layer.0.attention.output.dense".ends_with(&format!(".{}", entry.as_str().unwrap())));
    }
}

#[test]
fn a_peft_folder_that_means_something_else_is_not_read_as_if_it_did() {
    let scratch = tempfile::tempdir().unwrap();
    let copy = |change: &dyn Fn(&mut serde_json::Value)| {
        let folder = scratch.path().join("peft");
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir(&folder).unwrap();
        std::fs::copy(fixture("lora_dual/adapter_model.safetensors"), folder.join("adapter_model.safetensors")).unwrap();
        let mut config = tensors::read_json(&fixture("lora_dual/adapter_config.json")).unwrap();
        change(&mut config);
        tensors::write_json(&folder.join("adapter_config.json"), &config).unwrap();
        format!("{:#}", peft::adapter(&folder, &FIXTURE.declare()).unwrap_err())
    };
    assert!(copy(&|c| c["target_modules"] = serde_json::json!(["query", "q_proj"])).contains("does not name it"));
    assert!(copy(&|c| c["target_modules"].as_array_mut().unwrap().push("key".into())).contains("holds nothing for it"));
    assert!(copy(&|c| c["peft_type"] = "HRA".into()).contains("LORA, IA3"));
    assert!(copy(&|c| c["use_dora"] = true.into()).contains("holds no `lora_magnitude_vector`"));
    assert!(copy(&|c| c["use_qalora"] = true.into()).contains("use_qalora"));
    assert!(copy(&|c| c["bias"] = "all".into()).contains("there is no bias for `embed`"));
    assert!(copy(&|c| c["bias"] = "lora_only".into()).contains("there is no bias for `blocks.0.attn.q`"));
    assert!(copy(&|c| c["bias"] = "some".into()).contains("none, lora_only and all"));
    assert!(copy(&|c| c["lora_bias"] = true.into()).contains("there is no bias for `blocks.0.attn.q`"));
    let wrong_rank = copy(&|c| c["r"] = 8.into());
    assert!(
        wrong_rank.contains("`lora_A.weight`") && wrong_rank.contains("[4, 32]") && wrong_rank.contains("[8, 32]"),
        "{wrong_rank}"
    );
    assert!(copy(&|c| c["init_lora_weights"] = "pissa_niter_16".into()).contains("changes the base model"));
    assert!(
        copy(&|c| c["rank_pattern"] = serde_json::json!({"layers.0.attention.q_proj": 2}))
            .contains("differs between its two names")
    );
}
