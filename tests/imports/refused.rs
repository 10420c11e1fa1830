//! Folders and inputs that are not what they say.

use super::*;

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
    for folder in ["dinov2", "clip-vision", "roberta", "bert-no-pooler", "timm-vit"] {
        let words = fits("transformers", &format!("backbones/{folder}"), "lora", Role::Q).unwrap_err();
        assert!(words.contains("`merged`"), "{folder}: {words}");
    }
    for folder in ["vit", "deit-distilled", "bert", "distilbert"] {
        assert_eq!(fits("transformers", &format!("backbones/{folder}"), "lora", Role::Q), Ok(()), "{folder}");
    }
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
