//! Prefixes of PEFT and of AdapterHub, in and out.

use super::*;

/// PEFT counts a text's tokens on from the prefix: where positions stand in a table, another row each.
#[test]
fn prefixes_that_peft_wrote_give_pefts_logits_and_leave_again() {
    let folder = fixtures().join("peft-prefix");
    let inputs = folder.join("expected.safetensors");
    let expected = Tensors::open(&inputs).unwrap();
    let logits = |name: &str| expected.floats(name).unwrap().0;
    assert!(apart(&logits("unmoved.bert"), &logits("logits.bert")) > 1e-1, "positions are not heard");
    for (name, base) in [
        ("bert", peft("base_bert")),
        ("bert-projected", peft("base_bert")),
        ("llama", fixtures().join("peft-decoder/base")),
        ("gpt2", fixtures().join("peft-forms/gpt2")),
        ("roberta", fixtures().join("backbones/roberta")),
    ] {
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

/// A session whose only method is a prefix on the model in `folder`, with texts of up to 16 tokens.
fn with_prefix(folder: &Path, place: Place, set: &[(&str, Value)]) -> Session {
    let set = [&[("length", Value::Whole(3))], set].concat();
    let mut session = session(folder, "prefix", place, &set);
    if backbones::find(&session.backbone.name).unwrap().fields.iter().any(|field| field.name == "length") {
        session.backbone.settings.set("length", Value::Whole(16));
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
    fine(peft_card, with_prefix(&fixtures().join("backbones/gpt2"), everywhere(), &[flag("count_on")]));
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
    let distilbert = fixtures().join("backbones/distilbert");
    refused(peft_card, with_prefix(&distilbert, everywhere(), &[flag("count_on")]), "takes no keys and values");
    refused(peft_card, with_prefix(&fixtures().join("backbones/gpt2"), everywhere(), &[]), "`count_on` is off");
    refused(peft_card, with_prefix(&fixtures().join("backbones/clip-text"), everywhere(), &[flag("count_on")]), "CLIP's text");
    refused(hub, with_prefix(&bert, everywhere(), &[flag("count_on")]), "`count_on` is on");
    refused(hub, with_prefix(&llama, everywhere(), &[]), "ViT and BERT");
    let mut two = with_prefix(&llama, everywhere(), &[]);
    two.methods.push(session(&llama, "lora", Place::roles(&[Role::Q]), &[]).methods.remove(0));
    refused(peft_card, two, "a prefix alone");
}
