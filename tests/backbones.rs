//! Backbones that stand in folders: what they give is what the library gave that wrote them, and what is wrong with a folder is
//! said by name. The folders in `tests/fixtures/backbones` are tiny and random (`make.py` there).

mod common;

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

#[test]
fn vision_transformers_give_what_transformers_and_timm_give() {
    let cases: [(&str, &[usize]); 9] = [
        ("vit", &[24, 40]),
        ("vit-no-bias", &[24]),
        ("deit-distilled", &[24]), // transformers 5 does not stretch DeiT's positions as it does ViT's
        ("dinov2", &[24, 16, 40]),
        ("dinov2-gated", &[24]),
        ("clip-vision", &[24, 32]),
        ("timm-vit", &[24]),
        ("timm-dinov2", &[24]),
        ("vit-npz", &[24]), // as Google released it
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

/// Features, what leaves each merging, what the head reads and what the folder's own classifier makes of it.
#[test]
fn swin_transformers_give_what_transformers_gives() {
    for (name, sides, merges) in [("swin", [24, 20], vec![1]), ("swin-odd", [22, 30], vec![1, 2])] {
        let expected = Tensors::open(&fixture(name).join("expected.safetensors")).expect("expected values");
        let own = Tensors::open(&fixture(name)).expect("weights");
        for side in sides {
            let choice = choice(&fixture(name), side);
            let Opened { network, weights, .. } = backbones::open(&choice).expect("the folder opens");
            let session = Session { backbone: choice.clone(), ..common::session(vec![]) };
            let plan = Plan::on(&session, network.anatomy(), 3, &mut vec![]);
            let (weights, bag) = (weights(0, &Device::flex()).expect("weights"), Bag::default());
            let mut tuner = Tuner::new(&plan, &weights, &bag, None);
            tuner.watched = merges.iter().map(|block| (format!("blocks.{block}.merge"), None)).collect();
            let features = network.forward(&mut tuner, floats::<4>(&expected, &format!("pixel_values_{side}")).into());
            let watched = std::mem::take(&mut tuner.watched).into_values().enumerate();
            let mut ours: Vec<(String, Vec<f32>)> =
                watched.map(|(n, y)| (format!("stage_{n}"), host(y.expect("passed")).expect("values"))).collect();
            ours.push(("last_hidden_state".to_owned(), host(features.clone()).expect("features")));
            let pooled = network.pool(&mut tuner, features);
            if own.has("classifier.weight") {
                let logits = pooled.clone().matmul(floats::<2>(&own, "classifier.weight").transpose());
                let logits = logits + floats::<1>(&own, "classifier.bias").unsqueeze::<2>();
                ours.push(("logits".to_owned(), host(logits).expect("logits")));
            }
            ours.push(("pooler_output".to_owned(), host(pooled).expect("pooled")));
            assert_eq!(ours.len(), 3 + 1, "{name}: two stages and no classifier, or one and one");
            for (what, ours) in ours {
                let (theirs, _) = expected.floats(&format!("{what}_{side}")).expect(&what);
                let apart = apart(&ours, &theirs);
                assert!(apart < 1e-4, "{name} at {side} pixels, {what}: {apart:e}");
            }
            let declared = network.anatomy().sites.into_iter().map(|s| s.path).collect::<Vec<_>>();
            assert_eq!(tuner.visited, declared, "{name}");
        }
    }
}

/// Names of transformers 5, and the list of distances that early files hold.
#[test]
fn a_swin_folder_may_have_new_names_and_more_than_the_network_needs() {
    let new = renamed("swin", |name| {
        name.replace("attention.self.query", "attention.q_proj")
            .replace("attention.self.key", "attention.k_proj")
            .replace("attention.self.value", "attention.v_proj")
            .replace("attention.self.relative", "attention.relative_position_bias.relative")
            .replace("attention.output.dense", "attention.o_proj")
            .replace("intermediate.dense", "mlp.fc1")
            .replace("output.dense", "mlp.fc2")
            .replace("classifier.weight", "swin.encoder.layers.0.blocks.0.attention.self.relative_position_index")
    });
    let expected = Tensors::open(&fixture("swin").join("expected.safetensors")).expect("expected values");
    let ours = |folder: &Path| forward(&choice(folder, 0), floats::<4>(&expected, "pixel_values_24").into()).0;
    assert_eq!(ours(new.path()), ours(&fixture("swin")));
}

/// Every method of the catalogue trains on a network of stages or says in words why it does not stand there, and one that folds
/// gives the same folded: what fills windows up is then seen as the method would have made it.
#[test]
fn on_a_swin_every_method_stands_or_is_refused_in_words() {
    let (mut refused, mut still, mut strange, mut folds) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for card in methods::CATALOG {
        for settings in ways(card.fields) {
            for (name, side) in [("swin", 20), ("swin-odd", 0)] {
                let words = format!("{name}: {} {settings:?}", card.name);
                let stack = vec![common::placed(card, settings.clone())];
                let session = Session { backbone: choice(&fixture(name), side), ..common::session(stack) };
                let mut problems = Vec::new();
                let opened = backbones::open(&session.backbone).expect("the folder opens");
                let plan = Plan::on(&session, opened.network.anatomy(), 3, &mut problems);
                if plan.members.is_empty() {
                    assert!(problems.iter().any(|problem| problem.words.len() > 40), "{words}: {problems:?}");
                    refused.push((settings.0.is_empty(), card.name));
                    continue;
                }
                let device = Device::flex();
                let weights = (opened.weights)(0, &device).expect("weights");
                let Ok(mut bag) = Bag::make(&plan, &weights, 3, &device) else { continue }; // it wants something measured
                for (n, param) in bag.params.values_mut().enumerate() {
                    let dims = param.dims();
                    let noise = TensorData::new(common::numbers(dims.iter().product(), n as f32), dims);
                    let moved = param.clone().inner() + Tensor::from_data(noise, &device) * 0.1;
                    *param = moved.autodiff().require_grad();
                }
                let model = Model { plan, backbone: opened.network, weights, bag, device };
                let side = model.plan.anatomy.side();
                let pixels = TensorData::new(common::numbers(2 * 3 * side * side, 0.5), [2, 3, side, side]);
                let pixels = || Tensor::<4>::from_data(pixels.clone(), &model.device);
                let logits = model.logits(&model.bag, pixels(), None);
                let ours = host(logits.clone()).expect("logits");
                let moved = model.bag.gradients((logits.square()).sum().backward());
                let dead =
                    moved.values().filter(|g| host((*g).clone().abs().sum().unsqueeze::<2>()).expect("a sum")[0] == 0.0).count();
                if moved.is_empty() || dead == moved.len() || ours.iter().any(|v| !v.is_finite()) {
                    still.push(words.clone());
                }
                if (petl_workbench::exports::merged::CARD.fits)(&model.plan).is_ok() {
                    let folded = folded(&model, &session);
                    let apart = apart(&host(folded.logits(&folded.bag, pixels(), None)).expect("logits"), &ours);
                    folds += 1;
                    if apart > 1e-4 {
                        strange.push(format!("{words}: {apart:e}"));
                    }
                }
            }
        }
    }
    refused.dedup();
    let by_default = |default| refused.iter().filter(|(is, _)| *is == default).map(|(_, name)| *name).collect::<Vec<_>>();
    let wholly = ["fact", "hyperformer", "padapter", "prompt", "prefix", "lst"];
    assert_eq!(by_default(true), wholly);
    let also: Vec<_> = by_default(false).into_iter().filter(|name| !wholly.contains(name)).collect();
    assert_eq!(also, ["bottleneck"], "one adapter for layers of several widths");
    assert!(still.is_empty(), "no gradient: {still:#?}");
    assert!(folds >= 50 && strange.is_empty(), "{strange:#?} of {folds}");
}

/// The network of `model` with its stack folded into the weights, and its head.
fn folded(model: &Model, session: &Session) -> Model {
    let frozen = model.bag.frozen();
    let tuner = Tuner::new(&model.plan, &model.weights, &frozen, None);
    let mut weights = model.weights.clone();
    for site in &model.plan.anatomy.sites {
        for part in &site.parts {
            weights.insert(format!("{}.{}", site.path, part.name), tuner.folded(site, part.name));
        }
    }
    let session = Session { methods: vec![], ..session.clone() };
    let plan = Plan::on(&session, model.plan.anatomy.clone(), 3, &mut vec![]);
    let head = frozen.params.iter().filter(|(key, _)| key.starts_with("head/"));
    let bag = Bag { params: head.map(|(key, value)| (key.clone(), value.clone())).collect(), ..Bag::default() };
    Model { plan, backbone: model.backbone.clone(), weights, bag, device: model.device.clone() }
}

/// The tokens of an expected file, for texts of this length.
fn text(expected: &Tensors, length: usize) -> Text {
    let whole = |name: &str| expected.wholes(&format!("{name}_{length}")).expect(name).0;
    let ids: Vec<u32> = whole("input_ids").iter().map(|id| *id as u32).collect();
    let seen = whole("attention_mask").iter().map(|seen| *seen == 1).collect();
    Text { length, kinds: vec![0; ids.len()], ids, seen, device: Device::flex() }
}

#[test]
fn networks_that_read_give_what_transformers_gives_padding_and_all() {
    let encoders = ["bert", "bert-bin", "bert-no-pooler", "roberta", "xlm-roberta", "distilbert"];
    for name in encoders.into_iter().chain(DECODERS).chain(BOTH) {
        let expected = Tensors::open(&fixture(name).join("expected.safetensors")).expect("expected values");
        let choice = choice(&fixture(name), 0);
        for length in [5, 9] {
            let (ours, visited) = forward(&choice, Input::Text(text(&expected, length)));
            let (theirs, shape) = expected.floats(&format!("last_hidden_state_{length}")).expect("features");
            // What stands at padding is read by nobody; what stands at tokens must be the same.
            let seen = text(&expected, length).seen;
            let at_tokens = |values: Vec<f32>| -> Vec<f32> {
                values.chunks(shape[2]).zip(&seen).filter(|(_, seen)| **seen).flat_map(|(row, _)| row.to_vec()).collect()
            };
            let apart = apart(&at_tokens(ours), &at_tokens(theirs));
            assert!(apart < 1e-4, "{name}, {length} tokens: {apart:e}");
            let declared: Vec<_> =
                backbones::open(&choice).expect("opens").network.anatomy().sites.into_iter().map(|s| s.path).collect();
            assert_eq!(visited, declared.into_iter().filter(|path| path != "pooler").collect::<Vec<_>>(), "{name}");
        }
    }
}

const DECODERS: [&str; 8] = ["llama", "llama-3", "mistral", "qwen2", "gpt2", "gpt2-exact", "clip-text", "clip-text-exact"];

/// An encoder and a decoder.
const BOTH: [&str; 2] = ["t5", "t5-gated"];

/// A GGUF file's numbers stay packed, and give what they give unpacked.
#[test]
fn packed_decoders_give_what_their_numbers_unpacked_give() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gguf");
    let expected = Tensors::open(&folder.join("expected.safetensors")).expect("expected values");
    for kind in ["q4_0", "q4_1", "q8_0"] {
        let choice = choice(&folder.join(format!("{kind}.gguf")), 0);
        let (ours, visited) = forward(&choice, Input::Text(text(&expected, 9)));
        let (theirs, shape) = expected.floats(&format!("last_hidden_state_{kind}")).expect("features");
        let seen = text(&expected, 9).seen;
        let at_tokens = |values: Vec<f32>| -> Vec<f32> {
            values.chunks(shape[2]).zip(&seen).filter(|(_, seen)| **seen).flat_map(|(row, _)| row.to_vec()).collect()
        };
        let apart = apart(&at_tokens(ours), &at_tokens(theirs));
        assert!(apart < 1e-4, "{kind}: {apart:e}");

        let opened = backbones::open(&choice).expect("opens");
        let anatomy = opened.network.anatomy();
        assert_eq!(visited, anatomy.sites.iter().map(|s| s.path.clone()).collect::<Vec<_>>(), "{kind}");
        let weights = (opened.weights)(0, &Device::flex()).expect("weights");
        let dense = anatomy.count() * 4;
        assert_eq!(weights.bytes(), dense - anatomy.saved, "{kind}: what the plan counts is what it holds");
        let most = if kind == "q8_0" { 0.32 } else { 0.25 }; // the table of tokens always has eight bits
        assert!((weights.bytes() as f64) < most * dense as f64, "{kind}: {} of {dense} bytes", weights.bytes());
    }
}

#[test]
fn the_tokenizer_in_a_packed_file_cuts_as_transformers_does() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gguf");
    let cases = std::fs::read_to_string(folder.join("tokens.json")).expect("tokens");
    let cases: Vec<serde_json::Value> = serde_json::from_str(&cases).expect("JSON");
    let mut samples = Samples::default();
    for case in &cases {
        samples.push_text(datasets::Text { first: case["text"].as_str().expect("text").to_owned(), second: None }, 0, 0);
    }
    let opened = backbones::open(&choice(&folder.join("q4_0.gguf"), 0)).expect("opens");
    (opened.prepare)(&mut samples).expect("tokens");
    for (case, tokens) in cases.iter().zip(&samples.tokens) {
        let ids: Vec<u32> = case["ids"].as_array().expect("ids").iter().map(|id| id.as_u64().expect("id") as u32).collect();
        assert_eq!(tokens.ids, ids, "{case}");
    }
}

#[test]
fn what_is_wrong_with_a_packed_file_is_said_by_name() {
    let whole = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gguf/q4_1.gguf")).expect("a file");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("model.gguf");
    let said = |bytes: &[u8]| {
        std::fs::write(&file, bytes).expect("written");
        fault(folder.path())
    };
    assert_eq!(said(&whole), "");
    let cut = said(&whole[..whole.len() - 40]);
    assert!(cut.contains("reaches beyond the file's") && cut.contains("Fetch the file again"), "{cut}");
    let header = said(&whole[..200]);
    assert!(header.contains("in the middle of its header"), "{header}");
    let other = said(b"GGML it is not");
    assert!(other.contains("does not begin with GGUF"), "{other}");
    let mut renamed = whole.clone();
    let at = whole.windows(14).position(|w| w == b"blk.1.ffn_gate").expect("a name");
    renamed[at + 4] = b'7';
    let missing = said(&renamed);
    assert!(missing.contains("lacks 1 of its tensors: blk.1.ffn_gate.weight"), "{missing}");
    assert!(missing.contains("unknown to this network, 1 of its tensors: blk.7.ffn_gate.weight"), "{missing}");
    // A tensor's kind stands behind its name, its rank and its two sizes; 12 is one that is not known.
    let mut strange = whole.clone();
    strange[at + "blk.1.ffn_gate.weight".len() + 4 + 16] = 12;
    let kind = said(&strange);
    assert!(kind.contains("`blk.1.ffn_gate.weight` is stored as ggml's type 12") && kind.contains("Quantise"), "{kind}");
}

/// Every method leaves the order alone: what follows a token changes nothing at it. But for those that the papers let read the whole
/// text: gates that take its mean, and the Conformer adapter's convolution.
#[test]
fn no_method_lets_a_decoder_look_ahead() {
    let (mut stood, mut ahead) = (0, Vec::new());
    for (name, card) in ["llama", "gpt2"].into_iter().flat_map(|name| methods::CATALOG.iter().map(move |card| (name, card))) {
        for settings in ways(card.fields) {
            let words = format!("{name}: {} {settings:?}", card.name);
            let set = settings.filled(card.fields);
            let gate =
                set.0.get("gate").is_some_and(|gate| matches!(gate, Value::Flag(true)) || *gate == Value::Text("small".into()));
            let whole = card.name == "conformer" || gate;
            let Some(model) = shaken(&fixture(name), card, settings) else { continue };
            let of = |ids: &[u32]| {
                let text = Text {
                    length: ids.len(),
                    kinds: vec![0; ids.len()],
                    ids: ids.to_vec(),
                    seen: vec![true; ids.len()],
                    device: Device::flex(),
                };
                host(model.features(&model.bag.frozen(), Input::Text(text), None)).expect("features")
            };
            let (short, long) = (of(&[7, 21, 9]), of(&[7, 21, 9, 33, 40, 12]));
            let apart = apart(&long[..short.len()], &short);
            if (apart > 1e-4) != whole {
                ahead.push(format!("{words}: {apart:e}"));
            }
            stood += 1;
        }
    }
    assert!(stood >= 120 && ahead.is_empty(), "{ahead:?} of {stood} ways");
}

/// The default settings, and each with one flag or one choice turned.
fn ways(fields: &[Field]) -> Vec<Settings> {
    let mut all = vec![Settings::default()];
    for field in fields {
        let values = match field.kind {
            Kind::Flag(default) => vec![Value::Flag(!default)],
            Kind::Choice(words) => words[1..].iter().map(|word| Value::Text((*word).to_owned())).collect(),
            _ => vec![],
        };
        all.extend(values.into_iter().map(|value| Settings([(field.name.to_owned(), value)].into())));
    }
    all
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
    Some(Model { plan, backbone: opened.network, weights, bag, device })
}

#[test]
fn padding_changes_nothing_for_any_method() {
    let (mut stood, mut changed) = (0, Vec::new());
    let ways = methods::CATALOG.iter().flat_map(|card| ways(card.fields).into_iter().map(move |set| (card, set)));
    for (name, (card, settings)) in
        ways.flat_map(|way| ["bert", "llama", "gpt2", "t5", "t5-gated"].map(|name| (name, way.clone())))
    {
        let words = format!("{name}: {} {settings:?}", card.name);
        let Some(model) = shaken(&fixture(name), card, settings) else { continue };
        let apart = apart(&filled_up(&model, 9), &filled_up(&model, 5));
        if apart > 1e-4 {
            changed.push(format!("{words}: {apart:e}"));
        }
        stood += 1;
    }
    assert!(stood >= 180 && changed.is_empty(), "{changed:?} of {stood} ways");
}

/// Logits of a text of five tokens in a batch so long.
fn filled_up(model: &Model, length: usize) -> Vec<f32> {
    let mut ids = vec![7, 21, 9, 33, 40];
    let seen = (0..length).map(|n| n < ids.len()).collect();
    ids.resize(length, 0);
    let text = Text { length, kinds: vec![0; length], ids, seen, device: model.device.clone() };
    host(model.logits(&model.bag.frozen(), Input::Text(text), None)).expect("logits")
}

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

#[test]
fn what_is_wrong_with_a_folder_is_said_by_name() {
    let spoil = |name: &str, from: &str, to: &str| {
        let folder = copy(name);
        let place = folder.path().join("config.json");
        let text = std::fs::read_to_string(&place).expect("a configuration");
        assert!(text.contains(from), "{name}: {from}");
        std::fs::write(&place, text.replace(from, to)).expect("written");
        fault(folder.path())
    };
    for name in ["vit", "bert"] {
        assert_eq!(fault(copy(name).path()), "", "{name} is whole");
    }
    // A folder under another network's name.
    for (name, of) in [("llama", "gpt2"), ("gpt2", "llama"), ("t5", "llama")] {
        let mut wrong = choice(&fixture(of), 0);
        wrong.name = name.to_owned();
        let words = backbones::open(&wrong).err().expect("another network");
        assert!(words.contains(&format!("is a folder of `{of}`; {name} opens")), "{words}");
    }
    let missing = spoil("vit", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3");
    assert!(missing.contains("lacks 16 of its tensors: encoder.layer.2."), "{missing}");
    let surplus = spoil("vit", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1");
    assert!(surplus.contains("unknown to this network, 16 of its tensors: encoder.layer.1."), "{surplus}");
    let misshapen = spoil("bert", "\"intermediate_size\": 56", "\"intermediate_size\": 64");
    assert!(
        misshapen.contains("has in another shape 6 of its tensors: encoder.layer.0.intermediate.dense.weight [56, 32]"),
        "{misshapen}"
    );
    let unknown = spoil("bert", "\"model_type\": \"bert\"", "\"model_type\": \"mamba\"");
    assert!(unknown.contains("a folder of `mamba`; this program opens vit"), "{unknown}");
    let bend = spoil("bert", "\"hidden_act\": \"gelu\"", "\"hidden_act\": \"relu\"");
    assert!(bend.contains("`hidden_act` is `relu`; this program knows gelu"), "{bend}");
    let missing = spoil("swin", "\"depths\": [\n    2,\n    2\n  ]", "\"depths\": [2, 3]");
    assert!(missing.contains("lacks 17 of its tensors: swin.encoder.layers.1.blocks.2."), "{missing}");
    let surplus = spoil("swin", "\"depths\": [\n    2,\n    2\n  ]", "\"depths\": [2, 1]");
    assert!(surplus.contains("unknown to this network, 17 of its tensors: swin.encoder.layers.1.blocks.1."), "{surplus}");
    let misshapen = spoil("swin", "\"window_size\": 4", "\"window_size\": 3");
    let table = "has in another shape 4 of its tensors: swin.encoder.layers.0.blocks.0.attention.self.relative_position_bias_table [49, 2]";
    assert!(misshapen.contains(table), "{misshapen}");
    let heads = spoil("vit", "\"num_attention_heads\": 4", "\"num_attention_heads\": 5");
    assert!(heads.contains("32 channels for 5 heads"), "{heads}");

    let missing = spoil("t5", "\"num_decoder_layers\": 2", "\"num_decoder_layers\": 3");
    assert!(missing.contains("lacks 13 of its tensors: decoder.block.2.layer.0."), "{missing}");
    let surplus = spoil("t5-gated", "\"num_layers\": 3", "\"num_layers\": 2");
    assert!(surplus.contains("unknown to this network, 9 of its tensors: encoder.block.2."), "{surplus}");
    let misshapen = spoil("t5", "\"d_kv\": 8", "\"d_kv\": 6");
    assert!(
        misshapen.contains("has in another shape 24 of its tensors: encoder.block.0.layer.0.SelfAttention.q.weight [32, 32]"),
        "{misshapen}"
    );
    let bend = spoil("t5", "\"feed_forward_proj\": \"relu\"", "\"feed_forward_proj\": \"gated-silu\"");
    assert!(bend.contains("`feed_forward_proj` is `gated-silu`; this program knows relu, gated-gelu"), "{bend}");
    let start = spoil("t5", "\"decoder_start_token_id\": 0", "\"decoder_start_token_id\": 60");
    assert!(start.contains("`decoder_start_token_id` is 60, but there are 60 tokens"), "{start}");
    let near = spoil("t5", "\"relative_attention_max_distance\": 20", "\"relative_attention_max_distance\": 4");
    assert!(near.contains("8 buckets do not hold distances up to 4"), "{near}");

    // Sizes that no file holds, from a folder that nobody vouches for.
    for (name, from, to, words) in [
        ("vit", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 4294967295", "must be a whole number from 1 to 1024"),
        ("vit", "\"image_size\": 24", "\"image_size\": 100000", "no network of these sizes"),
        ("vit", "\"patch_size\": 8", "\"patch_size\": 0", "`patch_size` is 0, but must be"),
        (
            "bert",
            "\"max_position_embeddings\": 20",
            "\"max_position_embeddings\": 99999999999",
            "must be a whole number from 1 to",
        ),
        ("bert", "\"pad_token_id\": 0", "\"pad_token_id\": 4294967297", "leave no room for padding token"),
        ("roberta", "\"max_position_embeddings\": 20", "\"max_position_embeddings\": 2", "leave no room for padding token"),
        ("swin", "\"depths\": [\n    2,\n    2\n  ]", "\"depths\": [2]", "`depths` has 1 stages and `num_heads` 2"),
        (
            "swin",
            "\"depths\": [\n    2,\n    2\n  ]",
            "\"depths\": [2, 0]",
            "`depths` is [2,0], but must be a list of whole numbers",
        ),
        ("swin", "\"window_size\": 4", "\"window_size\": 100000", "no network of these sizes"),
        ("swin", "\"embed_dim\": 16", "\"embed_dim\": 15", "stage 1 has 15 channels for 2 heads"),
        ("swin", "\"image_size\": 24", "\"image_size\": 25", "25 pixels for patches of 2"),
    ] {
        let said = spoil(name, from, to);
        assert!(said.contains(words), "{name}, {to}: {said}");
    }

    let folder = copy("vit");
    let weights = folder.path().join("model.safetensors");
    let bytes = std::fs::read(&weights).expect("weights");
    std::fs::write(&weights, &bytes[..bytes.len() / 2]).expect("written");
    assert!(fault(folder.path()).contains("is not a whole safetensors file"));
    std::fs::remove_file(&weights).expect("removed");
    assert!(fault(folder.path()).contains("holds neither model.safetensors nor"));
    assert!(fault(Path::new("/no/such")).contains("cannot read /no/such/config.json"));
}

/// The tensors of a fixture under other names.
fn renamed(name: &str, to: impl Fn(&str) -> String) -> tempfile::TempDir {
    let folder = copy(name);
    let tensors = Tensors::open(&fixture(name)).expect("whole");
    let all = tensors.names().map(|name| {
        let (values, shape) = tensors.floats(name).expect("a tensor");
        (to(name), TensorData::new(values, shape))
    });
    let all = all.collect();
    petl_workbench::exports::tensors::write(&folder.path().join("model.safetensors"), &all).expect("written");
    folder
}

#[test]
fn names_of_early_checkpoints_and_of_networks_with_a_head_are_known() {
    let expected = Tensors::open(&fixture("bert").join("expected.safetensors")).expect("expected values");
    let ours = |folder: &Path| forward(&choice(folder, 0), Input::Text(text(&expected, 9))).0;
    let plain = ours(&fixture("bert"));
    let early =
        renamed("bert", |name| name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"));
    assert_eq!(ours(early.path()), plain);
    let with_head = renamed("bert", |name| format!("bert.{name}"));
    assert_eq!(ours(with_head.path()), plain);

    let plain = ours(&fixture("t5-gated"));
    let with_head = renamed("t5-gated", |name| format!("transformer.{name}"));
    assert_eq!(ours(with_head.path()), plain);
    let config = with_head.path().join("config.json");
    let words = std::fs::read_to_string(&config).expect("a configuration");
    std::fs::write(&config, words.replace("\"model_type\": \"t5\"", "\"model_type\": \"mt5\"")).expect("written");
    assert_eq!(backbones::of_folder(with_head.path()).expect("opens").name, "t5");
    assert_eq!(ours(with_head.path()), plain, "mT5 is built alike");
}

#[test]
fn a_head_reads_what_the_card_says() {
    let device = Device::flex();
    let expected = Tensors::open(&fixture("bert").join("expected.safetensors")).expect("expected values");
    let (theirs, shape) = expected.floats("last_hidden_state_9").expect("features");
    let seen = text(&expected, 9).seen;
    let rows: Vec<Vec<f32>> = theirs.chunks(shape[1] * shape[2]).map(<[f32]>::to_vec).collect();
    for pool in ["first token", "mean"] {
        let mut choice = choice(&fixture("bert"), 0);
        choice.settings.set("pool", Value::Text(pool.to_owned()));
        let opened = backbones::open(&choice).expect("the folder opens");
        let session = Session { backbone: choice.clone(), ..common::session(vec![]) };
        let plan = Plan::on(&session, opened.network.anatomy(), 3, &mut vec![]);
        let weights = (opened.weights)(0, &device).expect("weights");
        let bag = Bag::make(&plan, &weights, 0, &device).expect("the bag");
        let model = Model { plan, backbone: opened.network, weights, bag, device: device.clone() };
        let ours = host(model.pooled(&model.bag.frozen(), Input::Text(text(&expected, 9)), None)).expect("pooled");
        for ((ours, tokens), seen) in ours.chunks(shape[2]).zip(&rows).zip(seen.chunks(9)) {
            let count = if pool == "mean" { seen.iter().filter(|seen| **seen).count() } else { 1 };
            let mean: Vec<f32> =
                (0..shape[2]).map(|c| (0..count).map(|n| tokens[n * shape[2] + c]).sum::<f32>() / count as f32).collect();
            assert!(apart(ours, &mean) < 1e-4, "{pool}");
        }
    }
}

#[test]
fn a_lost_folder_costs_no_placement() {
    let folder = copy("vit");
    let place = Place { blocks: "2".into(), ..Place::roles(&[Role::Q]) };
    let stack = vec![Placed { place, ..common::placed(&methods::lora::CARD, Settings::default()) }];
    let session = Session { backbone: choice(folder.path(), 0), ..common::session(stack) };
    let before = petl_workbench::session::file::text(&session).expect("text");
    assert!(before.contains("blocks.1.attn.q"), "{before}");
    let again: Session = toml::from_str(&before).expect("a session");
    drop(folder);
    let plan = Plan::of(&again);
    assert!(plan.problems.iter().all(|problem| problem.place.starts_with("backbone")), "{:?}", plan.problems);
    assert!(plan.blocked().is_some_and(|problem| problem.words.contains("cannot read") && problem.remedy.is_some()));
    assert_eq!(petl_workbench::session::file::text(&again).expect("text"), before);
}

#[test]
fn a_model_in_parts_is_the_whole_model() {
    let (whole, folder) = (fixture("vit"), copy("vit"));
    let tensors = Tensors::open(&whole).expect("whole");
    std::fs::remove_file(folder.path().join("model.safetensors")).expect("removed");
    let mut map = serde_json::Map::new();
    for part in 0..2 {
        let file = format!("model-0000{}-of-00002.safetensors", part + 1);
        let names = tensors.names().enumerate().filter(|(n, _)| n % 2 == part).map(|(_, name)| name.to_owned());
        let mut of_part = std::collections::BTreeMap::new();
        for name in names {
            let (values, shape) = tensors.floats(&name).expect("a tensor");
            map.insert(name.clone(), file.clone().into());
            of_part.insert(name, TensorData::new(values, shape));
        }
        petl_workbench::exports::tensors::write(&folder.path().join(&file), &of_part).expect("written");
    }
    let index = serde_json::json!({ "weight_map": map });
    std::fs::write(folder.path().join("model.safetensors.index.json"), index.to_string()).expect("written");
    let expected = Tensors::open(&whole.join("expected.safetensors")).expect("expected values");
    let pixels = || floats::<4>(&expected, "pixel_values_24").into();
    assert_eq!(forward(&choice(&whole, 0), pixels()).0, forward(&choice(folder.path(), 0), pixels()).0);

    std::fs::remove_file(folder.path().join("model-00002-of-00002.safetensors")).expect("removed");
    assert!(fault(folder.path()).contains("names files that are not there: model-00002-of-00002.safetensors"));
}

#[test]
fn an_encoder_can_stand_alone() {
    for name in BOTH {
        let expected = Tensors::open(&fixture(name).join("expected.safetensors")).expect("expected values");
        let mut choice = choice(&fixture(name), 0);
        choice.settings.set("side", Value::Text("encoder alone".to_owned()));
        let (ours, visited) = forward(&choice, Input::Text(text(&expected, 9)));
        let (theirs, shape) = expected.floats("encoder_last_hidden_state_9").expect("features");
        let seen = text(&expected, 9).seen;
        let at_tokens = |values: &[f32]| -> Vec<f32> {
            values.chunks(shape[2]).zip(&seen).filter(|(_, seen)| **seen).flat_map(|(row, _)| row.to_vec()).collect()
        };
        let apart = apart(&at_tokens(&ours), &at_tokens(&theirs));
        assert!(apart < 1e-4, "{name}: {apart:e}");
        let declared = backbones::open(&choice).expect("opens").network.anatomy().sites;
        assert_eq!(visited, declared.into_iter().map(|s| s.path).collect::<Vec<_>>(), "{name}");
    }
}

/// The head of an encoder-decoder reads the decoder at the text's last token, as transformers' classifier does.
#[test]
fn a_decoder_is_read_where_its_text_ends() {
    let expected = Tensors::open(&fixture("t5").join("expected.safetensors")).expect("expected values");
    let model = shaken_stack(&fixture("t5"), vec![]).expect("a model");
    let ours = host(model.pooled(&model.bag.frozen(), Input::Text(text(&expected, 9)), None)).expect("pooled");
    let (theirs, shape) = expected.floats("last_hidden_state_9").expect("features");
    let ends = [8, 6, 8]; // the second text has two tokens of padding
    let rows: Vec<f32> =
        ends.iter().enumerate().flat_map(|(n, end)| theirs[(n * 9 + end) * shape[2]..][..shape[2]].to_vec()).collect();
    assert!(apart(&ours, &rows) < 1e-4);
}

#[test]
fn a_decoder_block_has_two_attentions_that_are_told_apart() {
    let anatomy = backbones::open(&choice(&fixture("t5"), 0)).expect("opens").network.anatomy();
    let site = |path: &str| anatomy.site(path).unwrap_or_else(|| panic!("{path}"));
    let path = |site: Option<&Site>| site.map(|s| s.path.clone()).unwrap_or_default();
    assert_eq!(path(anatomy.beside(site("blocks.2.cross"), Role::K)), "blocks.2.cross.k");
    assert_eq!(path(anatomy.beside(site("blocks.2.cross.q"), Role::O)), "blocks.2.cross.o");
    assert_eq!(path(anatomy.beside(site("blocks.2.attn"), Role::K)), "blocks.2.attn.k");
    assert_eq!(path(anatomy.beside(site("blocks.2.mlp"), Role::Mid)), "blocks.2.mid");
    assert_eq!(path(anatomy.read_by(site("blocks.2.cross.q"))), "blocks.2.cross");
    assert_eq!(path(anatomy.read_by(site("blocks.2.cross.k"))), "", "it reads what the encoder made");
    assert_eq!(path(anatomy.read_by(site("blocks.2.attn.k"))), "blocks.2.attn");
    assert_eq!(path(anatomy.last_behind(0)), "blocks.1", "where the encoder ends");
    assert_eq!(path(anatomy.last_behind(2)), "blocks.3");
    assert!(anatomy.places().contains(&"cross-attention"));
    assert!(anatomy.cell("cross-attention", 0).is_none() && anatomy.cell("cross-attention", 2).is_some());
}

/// Each stands in it and learns at every place, or says in words why not.
#[test]
fn every_method_learns_in_an_encoder_decoder_or_says_why_not() {
    let (mut stood, mut refused, mut faults) = (0, Vec::new(), Vec::new());
    let ways = methods::CATALOG.iter().flat_map(|card| ways(card.fields).into_iter().map(move |set| (card, set)));
    for (name, (card, settings)) in ways.flat_map(|way| BOTH.map(|name| (name, way.clone()))) {
        let words = format!("{name}: {} {settings:?}", card.name);
        let session =
            Session { backbone: choice(&fixture(name), 0), ..common::session(vec![common::placed(card, settings.clone())]) };
        let plan = Plan::of_anatomy(&session, backbones::open(&session.backbone).expect("opens").network.anatomy());
        let said = plan.problems.iter().find(|problem| problem.place.starts_with("methods[0]") && problem.remedy.is_some());
        if let Some(problem) = said {
            assert!(problem.words.contains(card.title), "{words}: {}", problem.words);
            refused.push(format!("{words}: {}", problem.words));
            continue;
        }
        let Some(model) = shaken(&fixture(name), card, settings) else { continue }; // what wants something measured first
        let expected = Tensors::open(&fixture(name).join("expected.safetensors")).expect("expected values");
        let logits = model.logits(&model.bag, Input::Text(text(&expected, 9)), Some(1));
        let loss = (logits.clone() * logits).sum();
        let gradients = model.bag.gradients(loss.backward());
        for key in model.bag.params.keys() {
            let size = gradients.get(key).map_or(0.0, |g| g.clone().square().sum().into_scalar::<f32>());
            if !size.is_finite() || size == 0.0 {
                faults.push(format!("{words}: {key} {size}"));
            }
        }
        stood += 1;
    }
    assert!(faults.is_empty(), "{faults:#?}");
    assert!(stood >= 110, "{stood} stood; refused: {refused:#?}");
    assert!(refused.iter().any(|words| words.contains("a bias of each distance joins their scores")), "{refused:#?}");
}

/// The same at the decoder's attention to the encoder alone, with prompts on the decoder's side beside them, which the encoder has not.
#[test]
fn what_stands_in_cross_attention_does_not_see_padding() {
    let (mut stood, mut changed) = (Vec::new(), Vec::new());
    for name in BOTH {
        let anatomy = backbones::open(&choice(&fixture(name), 0)).expect("opens").network.anatomy();
        let first = anatomy.decoder().expect("a decoder");
        for card in methods::CATALOG {
            let fits = |site: &&Site| site.crosses() && card.roles.contains(&site.role);
            let sites: Vec<&str> = anatomy.sites.iter().filter(fits).map(|s| s.path.as_str()).collect();
            if sites.is_empty() {
                continue;
            }
            let method = Placed { place: Place::sites(&sites), ..common::placed(card, Settings::default()) };
            let blocks = format!("{}-{}", first + 1, anatomy.blocks);
            let prompts = Placed {
                place: Place { blocks, ..Place::roles(&[Role::Block]) },
                ..common::with(&methods::prompt::CARD, &[("depth", Value::Text("deep".into())), ("tokens", Value::Whole(3))])
            };
            // A convolution's neighbours are other ones where padding stands between the tokens and the prompts.
            let stacks =
                if card.name == "conformer" { vec![vec![method]] } else { vec![vec![method.clone()], vec![prompts, method]] };
            for stack in stacks {
                let words = format!("{name}: {} in a stack of {}", card.name, stack.len());
                let Some(model) = shaken_stack(&fixture(name), stack) else { continue };
                let apart = apart(&filled_up(&model, 9), &filled_up(&model, 5));
                if apart > 1e-4 || apart.is_nan() {
                    changed.push(format!("{words}: {apart:e}"));
                }
                stood.push(words);
            }
        }
    }
    assert!(changed.is_empty(), "{changed:#?}");
    assert!(stood.iter().filter(|words| words.contains(": padapter")).count() == 4, "{stood:#?}");
    assert!(stood.len() >= 80, "{}: {stood:#?}", stood.len());
}

/// p-adapter in cross-attention: the map that it works out is the network's own, and with p = 2 a step is plain smoothing,
/// (A F_v + μ F_q) / (1 + μ).
#[test]
fn p_adapter_passes_messages_on_the_map_of_cross_attention() {
    let at = |path: &str| format!("blocks.2.cross{path}");
    let place = Place::sites(&["blocks.2.cross"]);
    let stack = vec![Placed { place, ..common::with(&methods::padapter::CARD, &[("p", Value::Real(2.0))]) }];
    let mut model = shaken_stack(&fixture("t5"), stack).expect("it stands");
    let key = |name: &str| format!("0.padapter/blocks.2.cross/{name}");
    for (name, value) in [("p", 2.0), ("theta", 0.0)] {
        common::put(&mut model, &key(name), vec![value]);
    }
    let bag = model.bag.frozen();
    let mut tuner = Tuner::new(&model.plan, &model.weights, &bag, None);
    tuner.watched = [".q", ".k", ".v", ".o", ""].map(|path| (at(path), None)).into();
    let ids = [7, 21, 9, 33, 40, 12];
    let text = Text { length: 6, kinds: vec![0; 6], ids: ids.to_vec(), seen: vec![true; 6], device: model.device.clone() };
    let input = Input::Text(text);
    tuner.look(&input);
    model.backbone.forward(&mut tuner, input);
    let left = |path: &str| tuner.watched[&at(path)].clone().expect("it came by");

    let split = |x: Tensor<3>| {
        let [batch, positions, width] = x.dims();
        x.reshape([batch, positions, 4, width / 4]).swap_dims(1, 2)
    };
    let joined = |x: Tensor<4>| x.swap_dims(1, 2).flatten::<3>(2, 3);
    let a = activation::softmax(split(left(".q")).matmul(split(left(".k")).swap_dims(2, 3)), 3);
    let o = model.weights.matrix(&at(".o.weight")).expect("o").unsqueeze::<3>();
    let h = joined(a.clone().matmul(split(left(".v")))).matmul(o.clone());
    assert!(apart(&host(left(".o")).expect("h"), &host(h.clone()).expect("h")) < 1e-4, "the map is the network's own");

    let of = |name: &str| bag.params[&key(name)].clone().unsqueeze::<3>();
    let features = |x: Tensor<3>| split(x.matmul(o.clone()).matmul(of("W_i")) + of("b_i"));
    let mu = 0.2; // 2 μ0
    let f = joined((a.matmul(features(left(".v"))) + features(left(".q")) * mu) / (1.0 + mu));
    let gate = activation::gelu(h.clone().matmul(of("W_g")) + of("b_g"));
    let y = h + (gate * f).matmul(of("W_o")) + of("b_o");
    let apart = apart(&host(left("")).expect("y"), &host(y).expect("y"));
    assert!(apart < 1e-4, "{apart:e}");
}

/// What is folded into the weights gives what it gives beside them, both sides of the network.
#[test]
fn changes_fold_into_an_encoder_decoder() {
    let mut folds = Vec::new();
    for (name, card) in BOTH.into_iter().flat_map(|name| methods::CATALOG.iter().map(move |card| (name, card))) {
        let Some(mut model) = shaken(&fixture(name), card, Settings::default()) else { continue };
        if merged::fits(&model.plan).is_err() {
            continue;
        }
        let beside = filled_up(&model, 7);
        for (part, data) in merged::folded(&model).expect("folded") {
            model.weights.insert(part, Tensor::from_data(data, &model.device));
        }
        let session = Session { backbone: choice(&fixture(name), 0), ..common::session(vec![]) };
        model.plan = Plan::on(&session, model.backbone.anatomy(), 3, &mut vec![]);
        let apart = apart(&filled_up(&model, 7), &beside);
        assert!(apart < 1e-4, "{name}: {}: {apart:e}", card.name);
        folds.push(card.name);
    }
    assert!(["lora", "dora", "difffit", "ia3"].iter().all(|name| folds.contains(name)), "{folds:?}");
}

#[test]
fn what_cannot_leave_an_encoder_decoder_says_why() {
    let model = shaken(&fixture("t5"), &methods::lora::CARD, Settings::default()).expect("it stands");
    for form in ["peft", "adapterhub", "transformers"] {
        let words = (exports::find(form).expect("an export").fits)(&model.plan).expect_err("no place for the head");
        assert!(words.contains("layers of its own") || words.contains("not on"), "{form}: {words}");
    }
    for form in ["petl", "merged"] {
        assert_eq!((exports::find(form).expect("an export").fits)(&model.plan), Ok(()), "{form}");
    }
    let naming = model.plan.anatomy.dialects[0];
    let module = |path: &str| naming.module_of(&model.plan.anatomy, model.plan.anatomy.site(path).expect(path));
    assert_eq!(module("blocks.3.cross.q").as_deref(), Some("transformer.decoder.block.1.layer.1.EncDecAttention.q"));
    assert_eq!(module("blocks.1.attn.q").as_deref(), Some("transformer.encoder.block.1.layer.0.SelfAttention.q"));
}
