//! What AdapterHub wrote, read, and what leaves for it.

use super::*;

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

/// Heads that the package puts on a bare model: of one and of two layers, on the first token and on the pooler.
#[test]
fn adapterhubs_own_heads_come_in_with_the_adapter() {
    let folder = fixtures().join("adapterhub-heads");
    let inputs = folder.join("expected.safetensors");
    let expected = Tensors::open(&inputs).unwrap();
    for (name, base, aim, classes) in [
        ("bert", "base_bert", Aim::Mlp(Activation::Tanh), vec!["no", "yes", "perhaps"]),
        ("bert-pooled", "base_bert", Aim::Mlp(Activation::Gelu), vec!["LABEL_0", "LABEL_1"]),
        ("bert-classifier", "base_bert", Aim::Linear, vec!["LABEL_0", "LABEL_1", "LABEL_2"]),
        ("vit", "base_vit", Aim::Linear, vec!["LABEL_0", "LABEL_1", "LABEL_2"]),
    ] {
        let scratch = tempfile::tempdir().unwrap();
        let run = scratch.path().join("run");
        let (fine, said) = import(&folder.join(name), &peft(base), &run);
        assert!(fine, "{name}: {said}");
        let theirs = expected.floats(&format!("logits.{name}")).unwrap().0;
        let difference = apart(&predicted(&run, &inputs, "logits"), &theirs);
        assert!(difference < 1e-4, "{name}: {difference}");
        let mut plan = Plan::of(&file::open(&run.join("session.petl.toml")).unwrap());
        assert_eq!((std::mem::take(&mut plan.aim), plan.classes), (aim, classes.into_iter().map(str::to_owned).collect()));
    }
    // What the head reads is its own to say, whatever a folder of sentence-transformers pools.
    let means = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(peft("base_bert").join(file), means.path().join(file)).unwrap();
    }
    std::fs::create_dir(means.path().join("1_Pooling")).unwrap();
    tensors::write_json(&means.path().join("1_Pooling/config.json"), &serde_json::json!({ "pooling_mode_mean_tokens": true }))
        .unwrap();
    for name in ["bert", "bert-pooled"] {
        let run = means.path().join(format!("run-{name}"));
        let (fine, said) = import(&folder.join(name), means.path(), &run);
        assert!(fine, "{name}: {said}");
        let theirs = expected.floats(&format!("logits.{name}")).unwrap().0;
        assert!(apart(&predicted(&run, &inputs, "logits"), &theirs) < 1e-4, "{name}");
    }
    let none = fixtures().join("backbones/bert-no-pooler");
    let (fine, said) = import(&folder.join("bert-pooled"), &none, &means.path().join("no"));
    assert!(!fine && said.contains("reads the pooler") && said.contains("has no pooler"), "{said}");
    for (case, name, value) in [
        ("bert", "head_type", "multilabel_classification".into()),
        ("bert", "layers", 3.into()),
        ("bert", "activation_function", "swish".into()),
        ("bert", "bias", false.into()),
        ("bert", "num_labels", 1.into()),
        ("vit", "multilabel", true.into()),
        ("vit", "use_pooler", true.into()),
    ] {
        let scratch = tempfile::tempdir().unwrap();
        let adapter = scratch.path().join("adapter");
        std::fs::create_dir(&adapter).unwrap();
        for file in ["adapter_config.json", "adapter.safetensors", "model_head.safetensors"] {
            std::fs::copy(folder.join(case).join(file), adapter.join(file)).unwrap();
        }
        let mut config = tensors::read_json(&folder.join(case).join("head_config.json")).unwrap();
        config["config"][name] = serde_json::Value::clone(&value);
        tensors::write_json(&adapter.join("head_config.json"), &config).unwrap();
        let run = scratch.path().join("run");
        let (fine, said) = import(&adapter, &peft(&format!("base_{case}")), &run);
        assert!(!fine && said.contains(name) && said.contains("head_config.json") && !run.exists(), "{name}: {said}");
    }
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
    assert!(!fine && said.contains("holds no `bert.encoder"), "{said}");
}

#[test]
fn bottlenecks_go_out_to_adapterhub_and_in_where_they_stand_as_there() {
    let card = exports::find("adapterhub").unwrap();
    let role = |word: &str| petl_workbench::plan::anatomy::Role::from_word(word).unwrap();
    let form = |text: &str| ("form", Value::Text(text.into()));
    let more = [("bottleneck", Value::Whole(5)), ("activation", Value::Text("gelu".into())), ("scale", Value::Real(0.7))];
    let stream = "parallel to the stream";
    let held: [(&str, &[&str], &str); 10] = [
        ("base_vit", &["mlp"], "sequential"),
        ("base_vit", &["attn", "mlp"], "sequential"),
        ("base_vit", &["block"], "sequential"),
        ("base_vit", &["mid", "block"], "sequential"),
        ("base_vit", &["mlp"], stream),
        ("base_bert", &["attn", "mlp"], "sequential"),
        ("base_bert", &["mlp"], "through the norm"),
        ("base_bert", &["attn", "mlp"], "through the norm"),
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
