//! What PEFT wrote, read.

use super::*;

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

/// LoRA with biases beside it, on convolutions, what stands on GPT-2, T5, RoBERTa and DistilBERT, as PEFT writes them: in, out, and in again.
#[test]
fn every_form_that_peft_wrote_gives_pefts_logits_and_leaves_again() {
    let folder = fixtures().join("peft-forms");
    let expected = Tensors::open(&folder.join("expected.safetensors")).unwrap();
    let (vit, bert, gpt2, t5) = (peft("base_vit"), peft("base_bert"), folder.join("gpt2"), folder.join("t5"));
    let [whisper, ast, roberta, distilbert] =
        ["whisper-classifier", "ast-classifier", "roberta", "distilbert"].map(|name| fixtures().join("backbones").join(name));
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
        ("conv_dora", &vit, "DoRA + BitFit", "lora_only"),
        ("conv_dora_whisper", &whisper, "DoRA", ""), // nor this
        ("conv_ast", &ast, both, "lora_only"),
        ("gpt2_lora", &gpt2, "LoRA", "none"),
        ("gpt2_bias", &gpt2, both, "all"),
        ("gpt2_dora", &gpt2, "DoRA", "none"),
        ("gpt2_ia3", &gpt2, "IA3", "null"),
        ("gpt2_vera", &gpt2, "VeRA", "null"),
        ("gpt2_adalora", &gpt2, "AdaLoRA", "null"),
        ("roberta_lora", &roberta, "LoRA", "none"),
        ("roberta_mlp", &roberta, "LoRA", "none"),
        ("distilbert_mlp", &distilbert, "LoRA", "none"),
        ("t5_mlp", &t5, "LoRA", "none"),
        ("t5_lora", &t5, "LoRA", "none"),
        ("t5_rslora", &t5, "LoRA + LoRA", "none"),
        ("t5_head", &t5, "LoRA", "none"),
        ("t5_dora", &t5, "DoRA", "none"),
        ("t5_ia3", &t5, "IA3", "null"),
        ("t5_norms", &t5, "LayerNorm tuning", "null"),
        ("t5_vera", &t5, "VeRA", "null"),
        ("t5_loha", &t5, "LoHa", "null"),
        ("t5_lokr", &t5, "LoKr", "null"),
        ("t5_oft", &t5, "OFT", "null"),
        ("t5_boft", &t5, "BOFT", "null"),
        ("t5_adalora", &t5, "AdaLoRA", "null"),
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
        assert_eq!(matches!(again.aim, Aim::Mlp(_)), name.ends_with("_mlp"), "{name}");
        let out = scratch.path().join("out");
        let (fine, said) = petl(&["export", text(&run), "--as", "peft", text(&out)]);
        if base == &whisper {
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

/// An adapter of a model for other ends has no `transformer.` before its names; the classifier is then that of the base model.
#[test]
fn an_adapter_of_a_t5_that_writes_texts_is_read_by_its_bare_names() {
    let folder = fixtures().join("peft-forms");
    let expected = Tensors::open(&folder.join("expected.safetensors")).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let [adapter, run, inputs] = ["adapter", "run", "inputs.safetensors"].map(|name| scratch.path().join(name));
    std::fs::create_dir(&adapter).unwrap();
    let mut config = tensors::read_json(&folder.join("t5_lora/adapter_config.json")).unwrap();
    config["task_type"] = "SEQ_2_SEQ_LM".into();
    config["modules_to_save"] = serde_json::Value::Null;
    tensors::write_json(&adapter.join("adapter_config.json"), &config).unwrap();
    let all = tensors::read(&folder.join("t5_lora/adapter_model.safetensors"), "").unwrap();
    let bare = all.into_iter().map(|(key, data)| (key.replacen(".transformer.", ".", 1), data)).collect();
    tensors::write(&adapter.join("adapter_model.safetensors"), &bare).unwrap();
    let (fine, said) = import(&adapter, &folder.join("t5"), &run);
    assert!(fine, "{said}");
    write_case(&expected, "t5_lora", &inputs);
    let theirs = expected.floats("t5_lora.logits").unwrap().0;
    assert!(apart(&predicted(&run, &inputs, "logits"), &theirs) < 1e-4);
    // Where that has none, it is said what is missing.
    let model = tensors::read(&folder.join("t5/model.safetensors"), "").unwrap();
    let base = scratch.path().join("base");
    std::fs::create_dir(&base).unwrap();
    std::fs::copy(folder.join("t5/config.json"), base.join("config.json")).unwrap();
    let headless = model.into_iter().filter(|(key, _)| !key.starts_with("classification_head.")).collect();
    tensors::write(&base.join("model.safetensors"), &headless).unwrap();
    let (fine, said) = import(&adapter, &base, &scratch.path().join("no"));
    assert!(!fine && said.contains("holds no classifier of its own") && said.contains("classification_head"), "{said}");
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
fn prompts_that_move_every_token_are_refused_with_the_reason() {
    let scratch = tempfile::tempdir().unwrap();
    let run = scratch.path().join("run");
    let (fine, said) = import(&peft("prompt_tuning"), &peft("base_bert"), &run);
    assert!(!fine && said.contains("first positions"), "{said}");
    assert!(!run.exists());
}

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
