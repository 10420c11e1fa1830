//! What other programs wrote comes in: every adapter gives their logits through the command line, on images and texts, and what is no
//! whole folder, or another network's, is refused with words. Every kind goes out and in again on every network that has names for it.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

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

/// What PEFT wrote for a decoder, its classifier without a bias among it.
#[test]
fn every_adapter_for_a_decoder_gives_pefts_logits() {
    let folder = fixtures().join("peft-decoder");
    let expected = Tensors::open(&folder.join("expected.safetensors")).unwrap();
    for name in ["lora", "dora", "ia3"] {
        let scratch = tempfile::tempdir().unwrap();
        let run = scratch.path().join("run");
        let (fine, said) = import(&folder.join(name), &folder.join("base"), &run);
        assert!(fine && said.contains("3 classes"), "{name}: {said}");
        let theirs = expected.floats(&format!("logits.{name}")).unwrap().0;
        let difference = apart(&predicted(&run, &folder.join("expected.safetensors"), "logits"), &theirs);
        assert!(difference < 1e-4, "{name}: {difference}");
        let away = apart(&expected.floats("logits.base").unwrap().0, &theirs);
        assert!(away > 1e-3, "{name}: the base model alone would pass ({away})");
    }
    // Prompts: PEFT's logits are of texts without padding (`make.py` says why).
    let scratch = tempfile::tempdir().unwrap();
    let (run, inputs) = (scratch.path().join("run"), scratch.path().join("inputs.safetensors"));
    let (fine, said) = import(&folder.join("prompt"), &folder.join("base"), &run);
    assert!(fine, "{said}");
    let (ids, shape) = expected.wholes("whole_ids").unwrap();
    let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::I64, shape, &bytes).unwrap();
    std::fs::write(&inputs, safetensors::serialize([("input_ids", view)], None).unwrap()).unwrap();
    let difference = apart(&predicted(&run, &inputs, "logits"), &expected.floats("whole.prompt").unwrap().0);
    assert!(difference < 1e-4, "prompts: {difference}");
}

/// LoRA with biases beside it, on convolutions, and what stands on GPT-2, as PEFT writes them: in, out, and in again.
#[test]
fn every_form_that_peft_wrote_gives_pefts_logits_and_leaves_again() {
    let folder = fixtures().join("peft-forms");
    let expected = Tensors::open(&folder.join("expected.safetensors")).unwrap();
    let (vit, bert, gpt2) = (peft("base_vit"), peft("base_bert"), folder.join("gpt2"));
    let [whisper, ast] = ["whisper-classifier", "ast-classifier"].map(|name| fixtures().join("backbones").join(name));
    let both = "LoRA + BitFit";
    for (name, base, stack, bias) in [
        ("lora_only", &vit, both, "lora_only"),
        ("all", &vit, both, "all"),
        ("all_base_head", &vit, both, "all"),
        ("all_bert", &bert, both, "all"),
        ("lora_bias", &vit, both, "lora_only"),
        ("lora_bias_only", &vit, both, "lora_only"),
        ("dora_only", &vit, "DoRA + BitFit", "lora_only"),
        ("conv", &vit, "LoRA + LoRA + BitFit", "lora_only"),
        ("conv_whisper", &whisper, "LoRA", ""), // does not leave: below
        ("conv_ast", &ast, both, "lora_only"),
        ("gpt2_lora", &gpt2, "LoRA", "none"),
        ("gpt2_bias", &gpt2, both, "all"),
        ("gpt2_dora", &gpt2, "DoRA", "none"),
        ("gpt2_ia3", &gpt2, "IA3", "null"),
    ] {
        let scratch = tempfile::tempdir().unwrap();
        let run = scratch.path().join("run");
        let (fine, said) = import(&folder.join(name), base, &run);
        assert!(fine, "{name}: {said}");
        let inputs = match base {
            base if *base == vit || *base == bert => peft("inputs.safetensors"),
            _ => scratch.path().join("inputs.safetensors"),
        };
        if !inputs.exists() {
            write_case(&expected, name, &inputs);
        }
        let theirs = expected.floats(&format!("{name}.logits")).unwrap().0;
        let scale = theirs.iter().fold(1.0f32, |most, v| v.abs().max(most));
        let difference = apart(&predicted(&run, &inputs, "logits"), &theirs) / scale;
        assert!(difference < 1e-4, "{name}: {difference}");
        let away = apart(&expected.floats(&format!("{name}.base")).unwrap().0, &theirs);
        assert!(away > 1e-2, "{name}: the base model alone would pass ({away})");
        let again = Plan::of(&file::open(&run.join("session.petl.toml")).unwrap());
        assert_eq!(again.words(), stack, "{name}");
        let out = scratch.path().join("out");
        let (fine, said) = petl(&["export", text(&run), "--as", "peft", text(&out)]);
        if name == "conv_whisper" {
            assert!(!fine && said.contains("for its stride") && said.contains("`merged`"), "{said}");
            continue;
        }
        assert!(fine && said.contains("on 64 samples"), "{name}: {said}");
        let config = tensors::read_json(&out.join("adapter_config.json")).unwrap();
        assert_eq!(config["bias"].as_str().unwrap_or("null"), bias, "{name}");
        let back = scratch.path().join("back");
        let (fine, said) = import(&out, base, &back);
        assert!(fine, "{name}: {said}");
        let difference = apart(&predicted(&back, &inputs, "logits"), &theirs) / scale;
        assert!(difference < 1e-4, "{name}, out and in again: {difference}");
    }
}

/// The inputs of one case as a file of its own.
fn write_case(expected: &Tensors, case: &str, to: &Path) {
    let mut raw: Vec<(&str, Vec<usize>, safetensors::Dtype, Vec<u8>)> = vec![];
    for name in ["input_features", "input_values"] {
        if let Ok((values, shape)) = expected.floats(&format!("{case}.{name}")) {
            raw.push((name, shape, safetensors::Dtype::F32, values.iter().flat_map(|v| v.to_le_bytes()).collect()));
        }
    }
    for name in ["input_ids", "attention_mask"] {
        if let Ok((values, shape)) = expected.wholes(&format!("{case}.{name}")) {
            raw.push((name, shape, safetensors::Dtype::I64, values.iter().flat_map(|v| v.to_le_bytes()).collect()));
        }
    }
    let view = |shape: &[usize], dtype, bytes| safetensors::tensor::TensorView::new(dtype, shape.to_vec(), bytes).unwrap();
    let views = raw.iter().map(|(name, shape, dtype, bytes)| (*name, view(shape, *dtype, bytes)));
    std::fs::write(to, safetensors::serialize(views, None).unwrap()).unwrap();
}

#[test]
fn folders_of_biases_that_are_not_whole_are_refused() {
    let refused = |name: &str, config: &dyn Fn(&mut serde_json::Value), change: &dyn Fn(&mut tensors::Named), words: &str| {
        let (fine, said) = spoilt(&format!("../peft-forms/{name}"), config, change);
        assert!(!fine && said.contains(words), "{words}: {said}");
    };
    let q = "base_model.model.vit.layers.0.attention.q_proj";
    let same = |_: &mut serde_json::Value| ();
    refused("lora_only", &same, &|t| drop(t.remove(&format!("{q}.base_layer.bias"))), "no bias for `blocks.0.attn.q`");
    refused("lora_only", &|c| c["bias"] = "none".into(), &|_| (), "do not name it");
    refused("lora_only", &|c| c["bias"] = "most".into(), &|_| (), "none, lora_only and all");
    refused("all", &|c| c["bias"] = "lora_only".into(), &|_| (), "do not name it");
    refused("all", &same, &|t| drop(t.remove("base_model.model.vit.layernorm.bias")), "no bias for `norm`");
    refused("lora_bias", &|c| c["use_dora"] = true.into(), &|_| (), "PEFT itself does not open");
    refused("lora_bias", &|c| c["lora_bias"] = false.into(), &|_| (), "do not name it");
    let short = |t: &mut tensors::Named| {
        drop(t.insert(format!("{q}.base_layer.bias"), TensorData::new(vec![0.0f32; 31], [31])));
    };
    refused("lora_only", &same, &short, "has 32 outputs");
    let flat = |t: &mut tensors::Named| {
        let key = "base_model.model.vit.embeddings.patch_embeddings.projection.lora_A.weight";
        let values = t[key].try_to_vec::<f32>().unwrap();
        t.insert(key.to_owned(), TensorData::new(values, [3, 768]));
    };
    refused("conv", &same, &flat, "convolution of [3, 16, 16]");
}

fn rows(value: &serde_json::Value) -> Vec<f32> {
    value.as_array().unwrap().iter().flat_map(|row| row.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32)).collect()
}

fn apart(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn every_adapter_that_peft_wrote_gives_pefts_logits() {
    let expected = tensors::read_json(&peft("expected.json")).unwrap();
    for name in ["lora", "lora_hf5", "lora_dual", "dora", "ia3", "ln_tuning", "vera", "loha", "oft"] {
        let scratch = tempfile::tempdir().unwrap();
        let run = scratch.path().join("run");
        let (fine, said) = import(&peft(name), &peft("base_vit"), &run);
        assert!(fine && said.contains("3 classes"), "{name}: {said}");
        let theirs = rows(&expected["adapters"][name.split('_').next().filter(|n| *n == "lora").unwrap_or(name)]["logits"]);
        let difference = apart(&predicted(&run, &peft("inputs.safetensors"), "logits"), &theirs);
        assert!(difference < 1e-4, "{name}: {difference}");
        let away = apart(&rows(&expected["base_vit"]), &theirs);
        assert!(away > 1e-3, "{name}: the base model alone would pass ({away})");
        let summary = tensors::read_json(&run.join("summary.json")).unwrap();
        assert!(summary["imported"].as_str().unwrap().starts_with("PEFT "), "{summary}");
    }
}

#[test]
fn every_adapter_that_adapterhub_wrote_gives_its_logits() {
    let expected = tensors::read_json(&peft("adapterhub/expected.json")).unwrap();
    for name in ["seq_bn", "par_bn", "lora"] {
        let scratch = tempfile::tempdir().unwrap();
        let run = scratch.path().join("run");
        let (fine, said) = import(&peft("adapterhub").join(name), &peft("base_vit"), &run);
        assert!(fine, "{name}: {said}");
        let theirs = rows(&expected["adapters"][name]["logits"]);
        let difference = apart(&predicted(&run, &peft("inputs.safetensors"), "logits"), &theirs);
        assert!(difference < 1e-4, "{name}: {difference}");
    }
}

#[test]
fn prompts_that_move_every_token_are_refused_with_the_reason() {
    let scratch = tempfile::tempdir().unwrap();
    let run = scratch.path().join("run");
    let (fine, said) = import(&peft("prompt_tuning"), &peft("base_bert"), &run);
    assert!(!fine && said.contains("first positions"), "{said}");
    assert!(!run.exists());
}

/// PEFT counts a text's tokens on from the prefix: where positions stand in a table, another row each.
#[test]
fn prefixes_that_peft_wrote_give_pefts_logits_and_leave_again() {
    let folder = fixtures().join("peft-prefix");
    let inputs = folder.join("expected.safetensors");
    let expected = Tensors::open(&inputs).unwrap();
    let logits = |name: &str| expected.floats(name).unwrap().0;
    assert!(apart(&logits("unmoved.bert"), &logits("logits.bert")) > 1e-1, "positions are not heard");
    for (name, base) in
        [("bert", peft("base_bert")), ("bert-projected", peft("base_bert")), ("llama", fixtures().join("peft-decoder/base"))]
    {
        let scratch = tempfile::tempdir().unwrap();
        let [run, out, again] = ["run", "out", "again"].map(|name| scratch.path().join(name));
        let (fine, said) = import(&folder.join(name), &base, &run);
        assert!(fine && said.contains("PEFT PREFIX_TUNING"), "{name}: {said}");
        let theirs = logits(&format!("logits.{name}"));
        let difference = apart(&predicted(&run, &inputs, "logits"), &theirs);
        assert!(difference < 1e-4, "{name}: {difference}");
        let alone = apart(&logits(&format!("logits.{}-base", name.split('-').next().unwrap())), &theirs);
        assert!(alone > 1e-1, "{name}: the base model alone would pass ({alone})");
        let (fine, said) = petl(&["export", text(&run), "--as", "peft", text(&out)]);
        assert!(fine && said.contains("on 64 samples"), "{name}: {said}");
        let [ours, first] = [&out, &folder.join(name)].map(|f| tensors::read(&f.join("adapter_model.safetensors"), "").unwrap());
        assert_eq!(ours.keys().collect::<Vec<_>>(), first.keys().collect::<Vec<_>>());
        assert!(ours.iter().all(|(key, data)| data.as_bytes() == first[key].as_bytes()), "{name}");
        let [ours, first] = [&out, &folder.join(name)].map(|f| tensors::read_json(&f.join("adapter_config.json")).unwrap());
        for field in
            ["num_virtual_tokens", "num_layers", "num_attention_heads", "num_transformer_submodules", "token_dim", "task_type"]
        {
            assert_eq!(ours[field], first[field], "{name}: {field}");
        }
        assert!(import(&out, &base, &again).0);
        assert_eq!(predicted(&again, &inputs, "logits"), predicted(&run, &inputs, "logits"), "{name}");
    }
    // Of transformers 4, and no text longer than there are positions behind the prefix.
    let scratch = tempfile::tempdir().unwrap();
    let run = scratch.path().join("run");
    assert!(import(&peft("prefix_tuning"), &peft("base_bert"), &run).0);
    let theirs = rows(&tensors::read_json(&peft("expected.json")).unwrap()["adapters"]["prefix_tuning"]["logits"]);
    assert!(apart(&predicted(&run, &peft("inputs.safetensors"), "logits"), &theirs) < 1e-4);
    let long = scratch.path().join("long.safetensors");
    for (tokens, wanted) in [(35, true), (36, false)] {
        let bytes = [1u8, 0, 0, 0, 0, 0, 0, 0].repeat(tokens);
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::I64, vec![1, tokens], &bytes).unwrap();
        std::fs::write(&long, safetensors::serialize([("input_ids", view)], None).unwrap()).unwrap();
        let out = scratch.path().join("out.safetensors");
        let (fine, said) = petl(&["predict", text(&run), "--inputs", text(&long), "--out", text(&out)]);
        assert!(fine == wanted && (fine || said.contains("1 to 35 tokens")), "{tokens}: {said}");
    }
}

#[test]
fn a_prefix_that_says_something_else_than_its_numbers_is_refused() {
    let refused = |change: &dyn Fn(&mut serde_json::Value), base: PathBuf, words: &str| {
        let scratch = tempfile::tempdir().unwrap();
        let (folder, from) = (scratch.path().join("adapter"), fixtures().join("peft-prefix/bert"));
        std::fs::create_dir(&folder).unwrap();
        std::fs::copy(from.join("adapter_model.safetensors"), folder.join("adapter_model.safetensors")).unwrap();
        let mut config = tensors::read_json(&from.join("adapter_config.json")).unwrap();
        change(&mut config);
        tensors::write_json(&folder.join("adapter_config.json"), &config).unwrap();
        let run = scratch.path().join("run");
        let (fine, said) = import(&folder, &base, &run);
        assert!(!fine && said.contains(words) && !run.exists(), "{words}: {said}");
    };
    let bert = || peft("base_bert");
    refused(&|c| c["num_virtual_tokens"] = 5.into(), bert(), "`num_virtual_tokens` is 5");
    refused(&|c| c["num_layers"] = 3.into(), bert(), "`num_layers` is 3");
    refused(&|c| c["num_transformer_submodules"] = 2.into(), bert(), "make it 1");
    refused(&|c| c["spell"] = true.into(), bert(), "`spell` is set");
    refused(&|_| (), peft("base_vit"), "texts alone");
    refused(&|_| (), fixtures().join("backbones/t5"), "decoder");
    refused(&|c| c["num_attention_heads"] = 2.into(), bert(), "make it 4");
    refused(&|c| c["token_dim"] = 16.into(), bert(), "make it 32");
    refused(&|_| (), fixtures().join("peft-decoder/base"), "the classifier in");
}

#[test]
fn prefixes_that_adapterhub_wrote_give_its_logits_and_leave_again() {
    let folder = fixtures().join("adapterhub-prefix");
    let inputs = folder.join("expected.safetensors");
    let expected = Tensors::open(&inputs).unwrap();
    let logits = |name: &str| expected.floats(name).unwrap().0;
    let scratch = tempfile::tempdir().unwrap();
    // Texts and pictures stand in one file; the program takes what the network reads.
    for name in ["bert", "bert-flat", "vit"] {
        let kind = name.split('-').next().unwrap();
        let base = peft(&format!("base_{kind}"));
        let [run, out, again] = ["run", "out", "again"].map(|what| scratch.path().join(format!("{name}-{what}")));
        let (fine, said) = import(&folder.join(name), &base, &run);
        assert!(fine && said.contains("AdapterHub prefix_tuning"), "{name}: {said}");
        let theirs = logits(&format!("logits.{name}"));
        let difference = apart(&predicted(&run, &inputs, "logits"), &theirs);
        assert!(difference < 1e-4, "{name}: {difference}");
        let alone = apart(&logits(&format!("logits.{kind}-base")), &theirs);
        assert!(alone > 1e-2, "{name}: the base model alone would pass ({alone})");
        let (fine, said) = petl(&["export", text(&run), "--as", "adapterhub", text(&out)]);
        assert!(fine && said.contains("on 64 samples"), "{name}: {said}");
        let config = tensors::read_json(&out.join("adapter_config.json")).unwrap();
        assert_eq!((&config["config"]["flat"], &config["config"]["architecture"]), (&true.into(), &"prefix_tuning".into()));
        assert!(import(&out, &base, &again).0);
        assert!(apart(&predicted(&again, &inputs, "logits"), &theirs) < 1e-4, "{name}");
        let (fine, said) = petl(&["export", text(&run), "--as", "peft", text(&scratch.path().join("peft"))]);
        assert!(!fine && (said.contains("`count_on` is off") || said.contains("gate") || said.contains("texts alone")), "{said}");
    }
    // What its configuration says must be what its file holds.
    for (from, field, value, words) in [
        ("bert", "prefix_length", 4.into(), "wte.weight"),
        ("bert", "bottleneck_size", 7.into(), "control_trans.0.weight"),
        ("bert", "non_linearity", "mish".into(), "non_linearity"),
        ("bert", "flat", true.into(), "holds no"),
        ("bert", "use_gating", true.into(), "prefix_gates"),
        ("bert-flat", "shared_gating", false.into(), "shared_gating"),
        ("bert-flat", "leave_out", serde_json::json!([]), "control_trans"),
        ("bert-flat", "use_gating", false.into(), "names no place"),
    ] {
        let spoilt = scratch.path().join("spoilt");
        let _ = std::fs::remove_dir_all(&spoilt);
        std::fs::create_dir(&spoilt).unwrap();
        std::fs::copy(folder.join(from).join("pytorch_adapter.bin"), spoilt.join("pytorch_adapter.bin")).unwrap();
        let mut config = tensors::read_json(&folder.join(from).join("adapter_config.json")).unwrap();
        config["config"][field] = serde_json::Value::clone(&value);
        tensors::write_json(&spoilt.join("adapter_config.json"), &config).unwrap();
        let (fine, said) = import(&spoilt, &peft("base_bert"), &scratch.path().join("no"));
        assert!(!fine && said.contains(words), "{field}: {said}");
    }
}

/// A session whose only method is a prefix on the model in `folder`, with texts of up to 20 tokens.
fn with_prefix(folder: &Path, place: Place, set: &[(&str, Value)]) -> Session {
    let set = [&[("length", Value::Whole(3))], set].concat();
    let mut session = session(folder, "prefix", place, &set);
    if backbones::find(&session.backbone.name).unwrap().fields.iter().any(|field| field.name == "length") {
        session.backbone.settings.set("length", Value::Whole(20));
    }
    session
}

#[test]
fn prefixes_go_out_and_in_where_they_mean_the_same() {
    let [peft_card, hub] = ["peft", "adapterhub"].map(|name| exports::find(name).unwrap());
    let flag = |name: &'static str| (name, Value::Flag(true));
    let everywhere = || Place::roles(&[Role::Attn]);
    let (bert, vit, llama) = (peft("base_bert"), peft("base_vit"), fixtures().join("backbones/llama"));
    let fine = |card: &Card, session: Session| {
        let difference = there_and_back(card, &session);
        assert!(difference.as_ref().is_ok_and(|d| *d < 1e-5), "{}: {difference:?}", card.name);
    };
    fine(peft_card, with_prefix(&bert, everywhere(), &[flag("count_on")]));
    for folder in ["llama", "llama-3", "mistral", "qwen2"] {
        fine(peft_card, with_prefix(&fixtures().join("backbones").join(folder), everywhere(), &[]));
    }
    let later = || Place { blocks: "2".into(), ..everywhere() };
    for (folder, place, set) in [
        (&vit, everywhere(), vec![]),
        (&vit, later(), vec![flag("gate")]),
        (&bert, later(), vec![]),
        (&bert, everywhere(), vec![flag("gate")]),
    ] {
        fine(hub, with_prefix(folder, place, &set));
    }
    let refused = |card: &Card, session: Session, words: &str| {
        let said = (card.fits)(&Plan::of(&session)).unwrap_err();
        assert!(said.contains(words) && said.contains("`petl`"), "{words}: {said}");
    };
    refused(peft_card, with_prefix(&bert, everywhere(), &[]), "`count_on` is off");
    refused(peft_card, with_prefix(&bert, everywhere(), &[flag("count_on"), flag("gate")]), "no gate");
    refused(peft_card, with_prefix(&bert, later(), &[flag("count_on")]), "at every attention");
    refused(peft_card, with_prefix(&vit, everywhere(), &[]), "texts alone");
    refused(peft_card, with_prefix(&fixtures().join("backbones/t5"), everywhere(), &[]), "decoder");
    refused(
        peft_card,
        with_prefix(&fixtures().join("backbones/roberta"), everywhere(), &[flag("count_on")]),
        "layers of its own",
    );
    refused(hub, with_prefix(&bert, everywhere(), &[flag("count_on")]), "`count_on` is on");
    refused(hub, with_prefix(&llama, everywhere(), &[]), "ViT and BERT");
    let mut two = with_prefix(&llama, everywhere(), &[]);
    two.methods.push(session(&llama, "lora", Place::roles(&[Role::Q]), &[]).methods.remove(0));
    refused(peft_card, two, "a prefix alone");
}

#[test]
fn an_imported_run_leaves_again() {
    let scratch = tempfile::tempdir().unwrap();
    let run = scratch.path().join("run");
    assert!(import(&peft("dora"), &peft("base_vit"), &run).0);
    let expected = rows(&tensors::read_json(&peft("expected.json")).unwrap()["adapters"]["dora"]["logits"]);
    for kind in ["petl", "peft", "merged", "transformers"] {
        let into = scratch.path().join(kind);
        let (fine, said) = petl(&["export", text(&run), "--as", kind, text(&into)]);
        assert!(fine && said.contains("on 64 samples"), "{kind}: {said}");
    }
    let again = scratch.path().join("again");
    let (fine, said) = import(&scratch.path().join("peft"), &peft("base_vit"), &again);
    assert!(fine, "{said}");
    assert!(apart(&predicted(&again, &peft("inputs.safetensors"), "logits"), &expected) < 1e-4);
    // There is nothing to train it on, and that is said before anything is made.
    let no = scratch.path().join("no");
    let (fine, said) = petl(&["train", text(&run.join("session.petl.toml")), "--out", text(&no)]);
    assert!(!fine && said.contains("nothing to train or test on") && !no.exists(), "{said}");
    // The board has it, without an accuracy that nobody measured.
    let board = petl_workbench::board::Board::open(scratch.path());
    let imported = board.run("run").unwrap();
    assert_eq!((&imported.status, imported.accuracy()), (&petl_workbench::board::Status::Imported, None));
    let (fine, said) = petl(&["compare", text(&run), text(&run)]);
    assert!(fine && !said.contains("0.0 %"), "{said}");
    let composed = scratch.path().join("composed");
    let (fine, said) = petl(&["compose", text(&run), "--out", text(&composed)]);
    assert!(fine && said.contains("accuracy is not known"), "{said}");
}

#[test]
fn an_adapter_on_stretched_positions_takes_its_base_along_or_stays() {
    let card = exports::find("peft").unwrap();
    let wide = |folder: PathBuf, side: i64| {
        let mut session = session(&folder, "lora", Place::roles(&[Role::Q]), &[]);
        session.backbone.settings.set("side", Value::Whole(side));
        session
    };
    let (native, stretched) = (wide(peft("base_vit"), 32), wide(peft("base_vit"), 48));
    for (session, base) in [(&native, false), (&stretched, true)] {
        let (model, scratch) = (moved(session), tempfile::tempdir().unwrap());
        (card.write)(session, &model, scratch.path()).unwrap();
        assert_eq!(scratch.path().join("base/model.safetensors").exists(), base);
        assert!(exports::verify(card, session, &model, scratch.path()).unwrap().0 < 1e-5);
    }
    let words = (card.fits)(&Plan::of(&wide(fixtures().join("backbones/dinov2"), 40))).unwrap_err();
    assert!(words.contains("stretched positions") && words.contains("`petl`"), "{words}");
    assert!((card.fits)(&Plan::of(&wide(fixtures().join("backbones/dinov2"), 24))).is_ok());
}

#[test]
fn what_has_nowhere_to_fold_and_what_transformers_does_not_build_is_refused_before_any_work() {
    let fits = |kind: &str, folder: &str, method: &str, role: Role| {
        let session = session(&fixtures().join(folder), method, Place::roles(&[role]), &[]);
        (exports::find(kind).unwrap().fits)(&Plan::of(&session))
    };
    for (method, role) in [("ssf", Role::Q), ("repadapter", Role::Attn)] {
        let words = fits("merged", "backbones/vit-no-bias", method, role).unwrap_err();
        assert!(words.contains("has no bias to hold it"), "{method}: {words}");
        assert!(fits("merged", "backbones/vit", method, role).is_ok(), "{method}");
    }
    assert!(fits("merged", "backbones/bert", "ssf", Role::Embed).unwrap_err().contains("`embed` has no bias"));
    for folder in ["dinov2", "clip-vision", "roberta", "distilbert", "bert-no-pooler", "timm-vit"] {
        let words = fits("transformers", &format!("backbones/{folder}"), "lora", Role::Q).unwrap_err();
        assert!(words.contains("`merged`"), "{folder}: {words}");
    }
    for folder in ["vit", "deit-distilled", "bert"] {
        assert_eq!(fits("transformers", &format!("backbones/{folder}"), "lora", Role::Q), Ok(()), "{folder}");
    }
}

#[test]
fn a_bare_model_folder_gives_its_hidden_states() {
    for name in ["vit", "deit-distilled", "dinov2", "timm-vit", "bert", "roberta", "distilbert"] {
        let folder = fixtures().join("backbones").join(name);
        let expected = Tensors::open(&folder.join("expected.safetensors")).unwrap();
        let cases: Vec<String> = expected.names().filter_map(|n| Some(n.strip_prefix("last_hidden_state")?.to_owned())).collect();
        assert!(!cases.is_empty(), "{name}: {:?}", expected.names().collect::<Vec<_>>());
        for case in cases {
            let scratch = tempfile::tempdir().unwrap();
            let inputs = scratch.path().join("in.safetensors");
            write_inputs(&expected, &case, &inputs);
            let ours = predicted(&folder, &inputs, "last_hidden_state");
            let (theirs, shape) = expected.floats(&format!("last_hidden_state{case}")).unwrap();
            let (mut largest, width) = (0.0f32, shape[shape.len() - 1]);
            let seen = expected.wholes(&format!("attention_mask{case}")).map_or(vec![1; ours.len() / width], |(mask, _)| mask);
            for ((a, b), _) in ours.chunks(width).zip(theirs.chunks(width)).zip(&seen).filter(|(_, seen)| **seen == 1) {
                largest = largest.max(apart(a, b));
            }
            assert!(largest < 1e-4, "{name}, {case}: {largest}");
        }
    }
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

#[test]
fn layers_are_named_as_peft_lets_them_be_named() {
    let names = |targets: serde_json::Value| {
        let (fine, said) = spoilt("dora", &|c| c["target_modules"] = targets.clone(), &|_| ());
        assert!(fine, "{targets}: {said}");
    };
    names(serde_json::json!(r".*\.(query|value)"));
    names(serde_json::json!(r"vit\.encoder\.layer\.\d+\.attention\.attention\.(?:query|value)"));
    names(serde_json::json!(["attention.query", "attention.value"]));
    let refused = |change: &dyn Fn(&mut serde_json::Value), words: &str| {
        let (fine, said) = spoilt("dora", change, &|_| ());
        assert!(!fine && said.contains(words), "{words}: {said}");
    };
    refused(&|c| c["target_modules"] = r".*\.query".into(), "does not name it");
    refused(&|c| c["target_modules"] = r"query|value".into(), "does not name it"); // the whole name must match
    refused(&|c| c["target_modules"] = "all-linear".into(), "holds nothing for it");
    names(serde_json::json!(r"(?!x).*\.(query|value)"));
    refused(&|c| c["target_modules"] = r"(query".into(), "no expression that can be followed");
    refused(&|c| c["target_modules"] = "(".repeat(100_000).into(), "no expression that can be followed");
    refused(&|c| c["layers_to_transform"] = serde_json::json!([0]), "does not name it");
    refused(&|c| c["exclude_modules"] = serde_json::json!(["value"]), "does not name it");
    refused(&|c| c["target_modules"] = serde_json::Value::Null, "target_modules");
    let both =
        |c: &mut serde_json::Value| (c["layers_to_transform"], c["layers_pattern"]) = (serde_json::json!([0, 1]), "layer".into());
    assert!(spoilt("dora", &both, &|_| ()).0);
}

#[test]
fn ranks_and_strengths_go_by_pattern() {
    let pattern = |c: &mut serde_json::Value| {
        (c["r"], c["lora_alpha"]) = (2.into(), 3.into());
        c["rank_pattern"] = serde_json::json!({ r"layer\.[01]\..*": 4 });
        c["alpha_pattern"] = serde_json::json!({ "query": 8, "value": 8 });
    };
    assert!(spoilt("lora", &pattern, &|_| ()).0);
    let other = |c: &mut serde_json::Value| c["alpha_pattern"] = serde_json::json!({ "ery": 16 }); // no whole piece of a name
    assert!(spoilt("lora", &other, &|_| ()).0);
    // rsLoRA: α / √r is the same as α / r for another α.
    let rs = |c: &mut serde_json::Value| (c["use_rslora"], c["lora_alpha"]) = (true.into(), 4.into());
    assert!(spoilt("lora", &rs, &|_| ()).0);
    assert!(spoilt("dora", &rs, &|_| ()).0);
}

#[test]
fn numbers_that_nobody_could_mean_are_refused_at_once() {
    let huge = |c: &mut serde_json::Value| {
        (c["peft_type"], c["init_r"]) = ("ADALORA".into(), 1_000_000_000_000_000_i64.into());
        c["use_dora"] = false.into();
    };
    let (fine, said) = spoilt("dora", &huge, &|_| ());
    assert!(!fine && said.contains("`rank`"), "{said}");
    let none = |c: &mut serde_json::Value| {
        *c = serde_json::json!({ "peft_type": "BOFT", "boft_block_size": 0, "target_modules": ["query", "value"] });
    };
    let shape = |t: &mut tensors::Named| {
        t.clear();
        t.insert(format!("{QUERY}.boft_R"), TensorData::new(Vec::<f32>::new(), [1, 4, 0, 0]));
    };
    let (fine, said) = spoilt("dora", &none, &shape);
    assert!(!fine && said.contains("`block_size`"), "{said}");
}

#[test]
fn spoilt_folders_are_refused_with_what_is_wrong() {
    let same = |_: &mut serde_json::Value| ();
    let refused = |name: &str, config: &dyn Fn(&mut serde_json::Value), change: &dyn Fn(&mut tensors::Named), words: &[&str]| {
        let (fine, said) = spoilt(name, config, change);
        assert!(!fine && words.iter().all(|w| said.contains(w)), "{words:?}: {said}");
    };
    refused("lora", &|c| c["r"] = 8.into(), &|_| (), &["lora_A.weight", "[4, 32]", "[8, 32]"]);
    refused(
        "lora",
        &same,
        &|t| drop(t.remove(&format!("{QUERY}.lora_B.weight"))),
        &["holds no `lora_B.weight`", "layer.1.attention.attention.query"],
    );
    refused("lora", &|c| c["peft_type"] = "SPELL".into(), &|_| (), &["`SPELL`", "LORA, IA3"]);
    let surplus =
        |t: &mut tensors::Named| drop(t.insert(format!("{QUERY}.lora_C.weight"), TensorData::new(vec![0.0f32; 4], [2, 2])));
    refused("lora", &same, &surplus, &["lora_C.weight", "is no part of LoRA"]);
    let elsewhere = |t: &mut tensors::Named| {
        drop(t.insert("base_model.model.gpt.h.0.lora_A.weight".into(), TensorData::new(vec![0.0f32; 4], [2, 2])))
    };
    refused("lora", &same, &elsewhere, &["names no layer of this backbone"]);
    refused("lora", &same, &|t| drop(t.remove("base_model.model.classifier.bias")), &["the classifier", "lacks"]);
    refused("vera", &same, &|t| drop(t.remove("base_model.vera_A")), &["vera_A", "which all layers share"]);
    refused("vera", &|c| c["save_projection"] = false.into(), &|_| (), &["save_projection"]);
    refused("oft", &|c| c["num_cayley_neumann_terms"] = 3.into(), &|_| (), &["num_cayley_neumann_terms"]);
    refused("oft", &|c| c["coft"] = true.into(), &|_| (), &["`coft`"]);
    refused("oft", &|c| c["oft_block_size"] = 16.into(), &|_| (), &["oft_R.weight", "[4, 28]", "[2, 120]"]);
    refused("loha", &|c| c["r"] = 100_000.into(), &|_| (), &["from 1 to 512"]);
    // Another network's adapter, and a folder that is none.
    let scratch = tempfile::tempdir().unwrap();
    let run = scratch.path().join("run");
    let (fine, said) = import(&peft("lora"), &peft("base_bert"), &run);
    assert!(!fine && said.contains("names no layer of this backbone"), "{said}");
    let (fine, said) = import(&peft("base_vit"), &peft("base_vit"), &run);
    assert!(!fine && said.contains("no adapter's folder"), "{said}");
    let (fine, said) = import(&peft("lora"), &peft("lora"), &run);
    assert!(!fine && said.contains("config.json"), "{said}");
}

#[test]
fn adapterhub_settings_that_have_no_place_here_are_refused_by_name() {
    let import = |change: &dyn Fn(&mut serde_json::Value), base: &str| {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("adapter");
        std::fs::create_dir(&folder).unwrap();
        let from = peft("adapterhub/seq_bn");
        std::fs::copy(from.join("adapter.safetensors"), folder.join("adapter.safetensors")).unwrap();
        let mut config = tensors::read_json(&from.join("adapter_config.json")).unwrap();
        change(&mut config["config"]);
        tensors::write_json(&folder.join("adapter_config.json"), &config).unwrap();
        import(&folder, &peft(base), &scratch.path().join("run"))
    };
    assert!(import(&|_| (), "base_vit").0);
    for (name, value) in [
        ("ln_before", true.into()),
        ("ln_after", true.into()),
        ("phm_layer", true.into()),
        ("inv_adapter", "nice".into()),
        ("original_ln_after", false.into()),
        ("residual_before_ln", false.into()),
        ("scaling", "channel".into()),
        ("non_linearity", "tanh".into()),
        ("reduction_factor", serde_json::json!({"1": 2})),
        ("architecture", "reft".into()),
        ("something_new", 3.into()),
    ] {
        let (fine, said) = import(&|c| c[name] = serde_json::Value::clone(&value), "base_vit");
        assert!(!fine && said.contains(name), "{name}: {said}");
    }
    let (fine, said) = import(&|c| c["reduction_factor"] = 8.into(), "base_vit");
    assert!(!fine && said.contains("[2, 32]") && said.contains("[4, 32]"), "{said}");
    let (fine, said) = import(&|_| (), "base_bert");
    assert!(!fine && said.contains("original_ln_before"), "{said}");
}

/// A model that is one file gives its features by its own path and by its folder's.
#[test]
fn a_model_in_one_file_gives_its_hidden_states() {
    let (scratch, file) = (tempfile::tempdir().unwrap(), fixtures().join("gguf/q4_1.gguf"));
    std::fs::copy(&file, scratch.path().join("model.gguf")).unwrap();
    let expected = Tensors::open(&fixtures().join("gguf/expected.safetensors")).unwrap();
    let (ids, shape) = expected.wholes("input_ids_9").unwrap();
    let bytes: Vec<u8> = ids[..18].iter().flat_map(|id| id.to_le_bytes()).collect(); // the first two texts, which are whole
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::I64, vec![2, shape[1]], &bytes).unwrap();
    let inputs = scratch.path().join("inputs.safetensors");
    std::fs::write(&inputs, safetensors::serialize([("input_ids", view)], None).unwrap()).unwrap();
    let theirs = expected.floats("last_hidden_state_q4_1").unwrap().0;
    for model in [file.as_path(), scratch.path()] {
        let ours = predicted(model, &inputs, "last_hidden_state");
        let difference = apart(&ours, &theirs[..ours.len()]);
        assert!(difference < 1e-3, "{}: {difference}", model.display());
    }
}

#[test]
fn tokens_that_do_not_fit_are_refused() {
    let scratch = tempfile::tempdir().unwrap();
    let (inputs, out) = (scratch.path().join("in.safetensors"), scratch.path().join("out.safetensors"));
    let ask = |ids: &[i64], shape: [usize; 2], mask: Option<&[i64]>| {
        let bytes = |v: &[i64]| v.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        let raw: Vec<_> =
            [("input_ids", Some(ids)), ("attention_mask", mask)].into_iter().filter_map(|(n, v)| Some((n, bytes(v?)))).collect();
        let views = raw
            .iter()
            .map(|(n, b)| (*n, safetensors::tensor::TensorView::new(safetensors::Dtype::I64, shape.to_vec(), b).unwrap()));
        std::fs::write(&inputs, safetensors::serialize(views, None).unwrap()).unwrap();
        petl(&["predict", text(&peft("base_bert")), "--inputs", text(&inputs), "--out", text(&out)])
    };
    assert!(ask(&[1, 2, 3, 4], [2, 2], Some(&[1, 1, 1, 0])).0);
    for ((fine, said), words) in [
        (ask(&[1, 50], [1, 2], None), "go from 0 to 49"),
        (ask(&[1; 41], [1, 41], None), "1 to 40 tokens"),
        (ask(&[1, 2], [1, 2], Some(&[0, 0])), "leaves nothing of text 0"),
        (ask(&[1, 2], [1, 2], Some(&[1, 2])), "must hold 0 and 1"),
    ] {
        assert!(!fine && said.contains(words), "{said}");
    }
    let pixels = petl(&["predict", text(&peft("base_vit")), "--inputs", text(&inputs), "--out", text(&out)]);
    assert!(!pixels.0 && pixels.1.contains("pixel_values"), "{}", pixels.1);
}

/// A session with one method on the model in `folder`, of an unknown data set.
fn session(folder: &Path, method: &str, place: Place, set: &[(&str, Value)]) -> Session {
    let mut settings = Settings::default();
    set.iter().for_each(|(name, value)| settings.set(name, value.clone()));
    let methods = vec![Placed { name: method.into(), place, settings, learning_rate_factor: 1.0, resolved: vec![] }];
    let data = unknown::choice(&["a", "b", "c"].map(str::to_owned));
    Session { methods, data, backbone: backbones::of_folder(folder).unwrap(), ..file::find("digits-lora").unwrap() }
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

#[test]
fn every_kind_goes_out_and_in_on_every_network_that_has_names_for_it() {
    let card = exports::find("peft").unwrap();
    let networks = [
        "backbones/dinov2",
        "backbones/dinov2-gated",
        "backbones/swin",
        "backbones/llama",
        "backbones/llama-3",
        "gguf/q4_1.gguf",
    ];
    let hear = ["backbones/whisper", "backbones/whisper-classifier", "backbones/ast", "backbones/ast-classifier"];
    let networks: Vec<_> = networks.into_iter().chain(hear).map(|name| fixtures().join(name)).collect();
    let networks = [vec![peft("base_vit"), peft("base_bert")], networks].concat();
    for kind in exports::peft::kinds::KINDS {
        let method = petl_workbench::methods::find(kind.method).unwrap();
        for folder in &networks {
            let set: &[(&str, Value)] = match kind.method {
                "boft" => &[("block_size", Value::Whole(2)), ("factors", Value::Whole(1))],
                "oft" => &[("block_size", Value::Whole(4)), ("inverse", Value::Text("five terms".into()))],
                "lokr" | "loha" | "lora" | "dora" | "adalora" => &[("rank", Value::Whole(3))],
                "vera" => &[("rank", Value::Whole(7)), ("d_initial", Value::Real(0.5))],
                _ => &[],
            };
            let whisper = folder.ends_with("whisper") || folder.ends_with("whisper-classifier");
            let open: Vec<_> = method.roles.iter().copied().filter(|role| !(whisper && *role == Role::Embed)).collect();
            for roles in [&open, method.default_roles] {
                let session = session(folder, kind.method, Place::roles(roles), set);
                let difference = there_and_back(card, &session);
                assert!(difference.as_ref().is_ok_and(|d| *d < 1e-5), "{} on {}: {difference:?}", kind.method, folder.display());
            }
        }
    }
    let llama = fixtures().join("backbones/llama");
    let prompts = |depth: &str, roles: Place| {
        there_and_back(
            card,
            &session(&llama, "prompt", roles, &[("depth", Value::Text(depth.into())), ("tokens", Value::Whole(5))]),
        )
    };
    let fine = prompts("shallow", Place::roles(&[Role::Block]));
    assert!(fine.as_ref().is_ok_and(|d| *d < 1e-5), "{fine:?}");
    assert!(prompts("deep", Place::roles(&[Role::Block])).unwrap_err().contains("not one for each block"));
    assert!(prompts("shallow", Place::sites(&["blocks.1"])).unwrap_err().contains("go through all"));
    let refused = there_and_back(card, &session(&fixtures().join("backbones/roberta"), "lora", Place::roles(&[]), &[]));
    assert!(refused.unwrap_err().contains("layers of its own"));
    let refused =
        there_and_back(card, &session(&fixtures().join("backbones/timm-vit"), "lora", Place::sites(&["blocks.0.attn.q"]), &[]));
    assert!(refused.unwrap_err().contains("timm"));
}

/// A method with its roles and settings.
type One<'a> = (&'a str, &'a [Role], &'a [(&'a str, Value)]);

/// A session with these methods: each with its roles and settings.
fn stack(folder: &Path, methods: &[One]) -> Session {
    let of = |(name, roles, set): &One| session(folder, name, Place::roles(roles), set).methods.remove(0);
    Session { methods: methods.iter().map(of).collect(), ..session(folder, "lora", Place::roles(&[]), &[]) }
}

#[test]
fn what_stands_on_gpt2_goes_out_and_in_where_q_k_and_v_are_one_layer() {
    use Role::{Down, K, Norm, O, Q, Up, V};
    let (gpt2, peft) = (fixtures().join("peft-forms/gpt2"), exports::find("peft").unwrap());
    let rank = |r: i64| [("rank", Value::Whole(r))];
    let (two, three, rs) = (rank(2), rank(3), [("rank", Value::Whole(3)), ("scaling", Value::Text("alpha / sqrt r".into()))]);
    let weak = [("rank", Value::Whole(3)), ("alpha", Value::Real(2.0))];
    let pissa = [("rank", Value::Whole(2)), ("start", Value::Text("pissa".into()))];
    let held: [&[One]; 14] = [
        &[("lora", &[Q], &two)],
        &[("lora", &[Q, V], &two)],
        &[("lora", &[Q, K, V, O, Up, Down], &three)],
        &[("lora", &[Q, V, Down], &rs)],
        &[("lora", &[K, Up], &pissa)],
        &[("lora", &[Q], &two), ("lora", &[V, O], &weak)],
        &[("lora", &[O], &two), ("bitfit", &[O], &[])],
        &[("lora", &[Q], &two), ("bitfit", &[Q, K, V], &[])],
        &[("dora", &[Q, K, V, Down], &two)],
        &[("dora", &[Q, V], &two), ("dora", &[K], &weak)],
        &[("ia3", &[K, V, Down], &[])],
        &[("layernorm", &[Norm], &[])],
        &[("vera", &[O, Up, Down], &[("rank", Value::Whole(7)), ("d_initial", Value::Real(0.5))])],
        &[("adalora", &[O, Up, Down], &three)],
    ];
    for methods in held {
        let difference = there_and_back(peft, &stack(&gpt2, methods));
        assert!(difference.as_ref().is_ok_and(|d| *d < 1e-5), "{methods:?}: {difference:?}");
    }
    let most = rank(200);
    let refused: [(&[One], &str); 7] = [
        (&[("dora", &[Q], &two)], "from all of them or from none"),
        (&[("vera", &[Q], &[])], "q, k, v are one layer there"),
        (&[("adalora", &[V], &three)], "q, k, v are one layer there"),
        (&[("ia3", &[K], &[("side", Value::Text("input".into()))])], "one input to scale"),
        (&[("loha", &[O], &three)], "which those of GPT-2 are not"),
        (&[("lora", &[Q, K, V], &most)], "add up to 600"),
        (&[("lora", &[Q], &two), ("bitfit", &[Q], &[])], "`blocks.0.attn.k` is not trained"),
    ];
    for (methods, words) in refused {
        let said = there_and_back(peft, &stack(&gpt2, methods)).unwrap_err();
        assert!(said.contains(words) && said.contains("`petl`"), "{methods:?}: {said}");
    }
    // The whole leaves for transformers, whose classifier reads the last token, and not where the head reads the mean.
    let whole = exports::find("transformers").unwrap();
    let mut session = stack(&gpt2, &[("lora", &[Q, K, V, O, Up, Down], &three), ("bitfit", bitfit(), &[])]);
    let difference = there_and_back(whole, &session);
    assert!(difference.as_ref().is_ok_and(|d| *d < 1e-5), "{difference:?}");
    session.backbone.settings.set("pool", Value::Text("mean".into()));
    assert!(there_and_back(whole, &session).unwrap_err().contains("reads the last token"));
}

fn bitfit() -> &'static [Role] {
    petl_workbench::methods::bitfit::CARD.roles
}

#[test]
fn biases_beside_lora_leave_for_peft_where_they_are_its_own_or_all() {
    use Role::{K, Norm, O, Q, V};
    let card = exports::find("peft").unwrap();
    let networks = ["dinov2", "swin", "whisper", "ast", "qwen2"].map(|name| fixtures().join("backbones").join(name));
    for folder in [&peft("base_vit"), &peft("base_bert")].into_iter().chain(&networks) {
        for method in ["lora", "dora"] {
            for (roles, word) in [(&[Q, V][..], "lora_only"), (bitfit(), "all")] {
                // A bias of keys shifts all scores of a query alike, so what is at `q`, `v` is seen.
                let session = stack(folder, &[("bitfit", roles, &[]), (method, &[Q, V], &[])]);
                let difference = there_and_back(card, &session);
                assert!(difference.as_ref().is_ok_and(|d| *d < 1e-5), "{method}, {word}, {}: {difference:?}", folder.display());
                assert_eq!(exports::peft::config(&Plan::of(&session))["bias"], word, "{method}, {}", folder.display());
            }
        }
    }
    let vit = peft("base_vit");
    let refused: [(&[One], &str); 5] = [
        (&[("lora", &[Q, V], &[]), ("bitfit", &[Q], &[])], "`blocks.0.attn.v` is not trained"),
        (&[("lora", &[Q], &[]), ("bitfit", &[Q, O], &[])], "`blocks.0.attn.o` is none of LoRA's"),
        (&[("lora", &[Q], &[]), ("bitfit", &[Q], &[]), ("bitfit", &[Q, K], &[])], "is trained twice"),
        (&[("ia3", &[K, V], &[]), ("bitfit", &[K, V], &[])], "PEFT has no BitFit"),
        (&[("bitfit", &[Norm], &[])], "PEFT has no BitFit"),
    ];
    for (methods, words) in refused {
        let said = there_and_back(card, &stack(&vit, methods)).unwrap_err();
        assert!(said.contains(words) && said.contains("`petl`"), "{methods:?}: {said}");
    }
}

#[test]
fn bottlenecks_go_out_to_adapterhub_and_in_where_they_stand_as_there() {
    let card = exports::find("adapterhub").unwrap();
    let role = |word: &str| petl_workbench::plan::anatomy::Role::from_word(word).unwrap();
    let form = |text: &str| ("form", Value::Text(text.into()));
    let more = [("bottleneck", Value::Whole(5)), ("activation", Value::Text("gelu".into())), ("scale", Value::Real(0.7))];
    let stream = "parallel to the stream";
    let held: [(&str, &[&str], &str); 8] = [
        ("base_vit", &["mlp"], "sequential"),
        ("base_vit", &["attn", "mlp"], "sequential"),
        ("base_vit", &["block"], "sequential"),
        ("base_vit", &["mid", "block"], "sequential"),
        ("base_vit", &["mlp"], stream),
        ("base_bert", &["attn", "mlp"], "sequential"),
        ("base_bert", &["mlp"], "parallel"),
        ("base_bert", &["attn", "mlp"], "parallel"),
    ];
    for (base, roles, text) in held {
        let roles: Vec<_> = roles.iter().map(|w| role(w)).collect();
        for extra in [("gate", Value::Flag(true)), ("learn_scale", Value::Flag(true))] {
            let set = [&more[..], &[form(text), extra]].concat();
            let session = session(&peft(base), "bottleneck", Place { blocks: "2".into(), ..Place::roles(&roles) }, &set);
            let difference = there_and_back(card, &session);
            assert!(difference.as_ref().is_ok_and(|d| *d < 1e-5), "{base} {roles:?} {text}: {difference:?}");
        }
    }
    for (base, roles, text) in
        [("base_vit", "mlp", "parallel"), ("base_bert", "block", "sequential"), ("base_vit", "up", "sequential")]
    {
        let session = session(&peft(base), "bottleneck", Place::roles(&[role(roles)]), &[form(text)]);
        let words = there_and_back(card, &session).unwrap_err();
        assert!(words.contains(text) && words.contains("`petl`"), "{words}");
    }
    let lora =
        session(&peft("base_bert"), "lora", Place::roles(&["q", "v", "up", "down"].map(role)), &[("gate", Value::Flag(true))]);
    assert!(there_and_back(card, &lora).unwrap() < 1e-5);
    let lora = session(&peft("base_bert"), "lora", Place::sites(&["blocks.0.attn.q", "blocks.1.attn.v"]), &[]);
    assert!(there_and_back(card, &lora).unwrap_err().contains("whole blocks"));
}

#[test]
fn adalora_with_rows_cut_by_peft_is_read() {
    // Two of the rows of one layer cut, as PEFT writes it after its budget.
    let scratch = tempfile::tempdir().unwrap();
    let session = session(
        &peft("base_vit"),
        "adalora",
        Place::sites(&["blocks.0.attn.q", "blocks.1.attn.v"]),
        &[("rank", Value::Whole(2))],
    );
    let mut model = moved(&session);
    let mut values = model.bag.data();
    values.insert("0.adalora/blocks.0.attn.q/Lambda".into(), TensorData::new(vec![0.0f32, 0.7, 0.0], [1, 3]));
    model.bag.load(&values, &model.device).unwrap();
    let card = exports::find("peft").unwrap();
    (card.write)(&session, &model, scratch.path()).unwrap();
    let file = scratch.path().join("adapter_model.safetensors");
    let mut theirs = tensors::read(&file, "").unwrap();
    let mut pattern = serde_json::Map::new();
    let floats = |t: &tensors::Named, k: &str| t[k].try_to_vec::<f32>().unwrap();
    for module in ["vit.encoder.layer.0.attention.attention.query", "vit.layers.0.attention.q_proj"] {
        let key = |part: &str| format!("base_model.model.{module}.{part}");
        let (a, b) = (floats(&theirs, &key("lora_A")), floats(&theirs, &key("lora_B")));
        theirs.insert(key("lora_A"), TensorData::new(a[32..64].to_vec(), [1, 32]));
        theirs.insert(key("lora_B"), TensorData::new(b.iter().skip(1).step_by(3).copied().collect::<Vec<f32>>(), [32, 1]));
        theirs.insert(key("lora_E"), TensorData::new(vec![0.7f32], [1, 1]));
        pattern.insert(format!("{module}.lora_E"), serde_json::json!([false, true, false]));
    }
    weights::write(&file, &theirs, false, [].into()).unwrap();
    let words = format!("{:#}", exports::verify(card, &session, &model, scratch.path()).unwrap_err());
    assert!(words.contains("1 rows") && words.contains("rank_pattern"), "{words}");
    let place = scratch.path().join("adapter_config.json");
    let mut config = tensors::read_json(&place).unwrap();
    config["rank_pattern"] = pattern.into();
    tensors::write_json(&place, &config).unwrap();
    assert!(exports::verify(card, &session, &model, scratch.path()).unwrap().0 < 1e-5);
}
