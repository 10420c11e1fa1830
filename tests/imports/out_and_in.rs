//! What was trained here, out and in again.

use super::*;

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
fn every_kind_goes_out_and_in_on_every_network_that_has_names_for_it() {
    let card = exports::find("peft").unwrap();
    let networks = [
        "backbones/dinov2",
        "backbones/dinov2-gated",
        "backbones/swin",
        "backbones/llama",
        "backbones/llama-3",
        "backbones/t5",
        "backbones/t5-gated",
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
                "oft" if folder.ends_with("t5-gated") => &[("block_size", Value::Whole(2))],
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
    let mut roberta = session(&fixtures().join("backbones/roberta"), "lora", Place::roles(&[Role::Q]), &[]);
    assert!(there_and_back(card, &roberta).unwrap_err().contains("choose `first token`"));
    roberta.backbone.settings.set("pool", Value::Text("first token".into()));
    let difference = there_and_back(card, &roberta);
    assert!(difference.as_ref().is_ok_and(|d| *d < 1e-5), "{difference:?}");
    let refused =
        there_and_back(card, &session(&fixtures().join("backbones/timm-vit"), "lora", Place::sites(&["blocks.0.attn.q"]), &[]));
    assert!(refused.unwrap_err().contains("timm"));
}

#[test]
fn what_stands_on_gpt2_goes_out_and_in_where_q_k_and_v_are_one_layer() {
    use Role::{Down, K, Norm, O, Q, Up, V};
    let (gpt2, peft) = (fixtures().join("peft-forms/gpt2"), exports::find("peft").unwrap());
    let rank = |r: i64| [("rank", Value::Whole(r))];
    let (two, three, rs) = (rank(2), rank(3), [("rank", Value::Whole(3)), ("scaling", Value::Text("alpha / sqrt r".into()))]);
    let weak = [("rank", Value::Whole(3)), ("alpha", Value::Real(2.0))];
    let pissa = [("rank", Value::Whole(2)), ("start", Value::Text("pissa".into()))];
    let held: [&[One]; 17] = [
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
        &[("adalora", &[V], &three)],
        &[("adalora", &[Q, V, O, Down], &three)],
        &[("adalora", &[Q, K], &two), ("adalora", &[V, Up], &two)],
    ];
    for methods in held {
        let difference = there_and_back(peft, &stack(&gpt2, methods));
        assert!(difference.as_ref().is_ok_and(|d| *d < 1e-5), "{methods:?}: {difference:?}");
    }
    let most = rank(200);
    let refused: [(&[One], &str); 8] = [
        (&[("dora", &[Q], &two)], "from all of them or from none"),
        (&[("vera", &[Q], &[])], "q, k, v are one layer there"),
        (&[("adalora", &[Q, K, V], &most)], "add up to 600"),
        (&[("adalora", &[V], &two), ("adalora", &[O], &three)], "one for all layers"),
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

/// What is short in T5's encoder may mean another layer in its decoder; and its classifier has tanh in it.
#[test]
fn what_stands_on_t5_is_named_layer_by_layer_where_one_word_means_more() {
    use Role::{Down, Norm, Q, V};
    let (t5, card) = (fixtures().join("peft-forms/t5"), exports::find("peft").unwrap());
    let targets = |session: &Session| {
        let difference = there_and_back(card, session);
        assert!(difference.as_ref().is_ok_and(|d| *d < 1e-5), "{:?}: {difference:?}", session.methods);
        exports::peft::config(&Plan::of(session))["target_modules"].clone()
    };
    let lora = |place| session(&t5, "lora", place, &[]);
    assert_eq!(targets(&lora(Place::roles(&[Q, V, Down]))), serde_json::json!(["q", "v", "wo"]));
    let both = targets(&lora(Place::sites(&["blocks.2.attn.q", "blocks.2.cross.q"])));
    let within = |layer: &str| format!("transformer.decoder.block.0.layer.{layer}");
    assert_eq!(both, serde_json::json!([within("0.SelfAttention.q"), within("1.EncDecAttention.q")]));
    let norms = |place| session(&t5, "layernorm", place, &[]);
    assert_eq!(targets(&norms(Place::sites(&["blocks.2.cross_norm"]))), serde_json::json!([within("1.layer_norm")]));
    assert_eq!(targets(&norms(Place::sites(&["blocks.2.norm2"]))), serde_json::json!([within("2.layer_norm")]));
    assert_eq!(targets(&norms(Place::roles(&[Norm]))).as_array().unwrap().len(), 9);

    let whole = exports::find("transformers").unwrap();
    for folder in ["peft-forms/t5", "backbones/t5"] {
        let difference = there_and_back(whole, &session(&fixtures().join(folder), "lora", Place::roles(&[Q, V]), &[]));
        assert!(difference.as_ref().is_ok_and(|d| *d < 1e-5), "{folder}: {difference:?}");
    }
    let prompts = session(&t5, "prompt", Place::roles(&[Role::Block]), &[]);
    assert!((card.fits)(&Plan::of(&prompts)).unwrap_err().contains("does not take"));
    let (fine, said) = import(&fixtures().join("peft-decoder/prompt"), &t5, &tempfile::tempdir().unwrap().path().join("run"));
    assert!(!fine && said.contains("does not take"), "{said}");
    let mut alone = lora(Place::roles(&[Q]));
    alone.backbone.settings.set("side", Value::Text("encoder alone".into()));
    for card in [card, whole] {
        let said = there_and_back(card, &alone).unwrap_err();
        assert!(said.contains("mean of T5's encoder") && said.contains("Export it as"), "{said}");
    }
}

/// A classifier of two layers goes out as it is, and a linear one so that what is between the layers leaves it alone.
#[test]
fn heads_of_one_and_two_layers_leave_for_classifiers_of_two() {
    let with = |folder: &str, head: Option<&str>, classes: usize| {
        let mut session = session(&fixtures().join(folder), "lora", Place::roles(&[Role::Q]), &[]);
        session.backbone.settings.set("pool", Value::Text("first token".into()));
        if folder.contains("t5") {
            session.backbone.settings.0.remove("pool");
        }
        if let Some(activation) = head {
            session.task.settings.set("head", Value::Text("mlp".into()));
            session.task.settings.set("activation", Value::Text(activation.into()));
        }
        session.data = unknown::choice(&(0..classes).map(|n| n.to_string()).collect::<Vec<_>>());
        session
    };
    for (folder, theirs, width) in
        [("peft-forms/t5", "tanh", 16), ("backbones/roberta", "tanh", 32), ("backbones/distilbert", "relu", 32)]
    {
        for kind in ["peft", "transformers"] {
            let card = exports::find(kind).unwrap();
            for head in [None, Some(theirs)] {
                let difference = there_and_back(card, &with(folder, head, 3));
                assert!(difference.as_ref().is_ok_and(|d| *d < 1e-5), "{folder}, {kind}, {head:?}: {difference:?}");
            }
            let said = there_and_back(card, &with(folder, Some("gelu"), 3)).unwrap_err();
            assert!(said.contains(&format!("has gelu in it, transformers' classifier of this network {theirs}")), "{said}");
            let many = there_and_back(card, &with(folder, None, width));
            match theirs {
                "relu" => assert!(many.unwrap_err().contains("train it with the head `mlp`")),
                _ => assert!(many.is_ok_and(|d| d < 1e-5)),
            }
        }
    }
    let said = there_and_back(exports::find("peft").unwrap(), &with("peft/base_bert", Some("tanh"), 3)).unwrap_err();
    assert!(said.contains("reads the pooler"), "{said}");
    // That a head cannot leave is said before it is trained, with what can.
    let plan = Plan::of(&with("backbones/distilbert", Some("tanh"), 3));
    let note = plan.problems.iter().find(|problem| problem.place == "task.settings.activation").unwrap();
    assert_eq!(note.remedy.as_ref().map(|remedy| remedy.label()), Some("Use relu".to_owned()));
    // A decoder's layers have no bias.
    let (merged, scratch) = (exports::find("merged").unwrap(), tempfile::tempdir().unwrap());
    let mut decoder = with("peft-forms/gpt2", Some("tanh"), 3);
    decoder.backbone.settings.0.remove("pool");
    let model = moved(&decoder);
    (merged.write)(&decoder, &model, scratch.path()).unwrap();
    assert!(exports::verify(merged, &decoder, &model, scratch.path()).unwrap().0 < 1e-4);
    let notes = tensors::read_json(&scratch.path().join("petl.json")).unwrap();
    assert_eq!(notes["head"], "logits are tanh(x dense) weight");
}

/// Features of a hundred pass a linear head that was written for tanh, and come out as they went in.
#[test]
fn tanh_leaves_a_linear_head_alone() {
    let session = session(&fixtures().join("peft-forms/t5"), "lora", Place::roles(&[Role::Q]), &[]);
    let (model, scratch) = (moved(&session), tempfile::tempdir().unwrap());
    (exports::find("peft").unwrap().write)(&session, &model, scratch.path()).unwrap();
    let all = tensors::read(&scratch.path().join("adapter_model.safetensors"), "").unwrap();
    let of = |part: &str| all[&format!("base_model.model.classification_head.{part}")].try_to_vec::<f32>().unwrap();
    let (dense, last, bias) = (of("dense.weight"), of("out_proj.weight"), of("out_proj.bias"));
    let features: Vec<f32> = (0..16).map(|n| (n as f32 - 8.0) * 12.5).collect();
    let product = |rows: &[f32], x: &[f32]| -> Vec<f32> {
        rows.chunks(x.len()).map(|row| row.iter().zip(x).map(|(w, v)| w * v).sum()).collect()
    };
    let bent: Vec<f32> = product(&dense, &features).into_iter().map(f32::tanh).collect();
    let theirs: Vec<f32> = product(&last, &bent).iter().zip(&bias).map(|(v, b)| v + b).collect();
    let own = model.bag.data();
    let (weight, shift) = (own["head/weight"].try_to_vec::<f32>().unwrap(), own["head/bias"].try_to_vec::<f32>().unwrap());
    let ours: Vec<f32> =
        (0..3).map(|c| features.iter().enumerate().map(|(n, v)| v * weight[n * 3 + c]).sum::<f32>() + shift[c]).collect();
    let scale = ours.iter().fold(1.0f32, |most, v| v.abs().max(most));
    assert!(apart(&theirs, &ours) / scale < 1e-5, "{theirs:?} and {ours:?}");
}

/// The two layers of T5's classifier are one where the first is a small multiple of the identity, and otherwise two.
#[test]
fn a_classifier_of_t5s_is_linear_where_tanh_leaves_it_alone() {
    let scratch = tempfile::tempdir().unwrap();
    let (folder, from) = (scratch.path().join("adapter"), fixtures().join("peft-forms/t5_head"));
    let dense = "base_model.model.classification_head.dense";
    // What the values are multiplied by, what is added to the second, and whether the head is linear.
    for (n, (part, factor, more, linear)) in [
        ("weight", 16.0, 0.0, false),
        ("weight", -1.0, 0.0, false),
        ("weight", 1.0, 1e-4, false),
        ("bias", 1.0, 1e-4, false),
        ("weight", 1.0, 0.0, true),
    ]
    .into_iter()
    .enumerate()
    {
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir(&folder).unwrap();
        std::fs::copy(from.join("adapter_config.json"), folder.join("adapter_config.json")).unwrap();
        let mut all = tensors::read(&from.join("adapter_model.safetensors"), "").unwrap();
        let data = all.get_mut(&format!("{dense}.{part}")).unwrap();
        let (mut values, shape) = (data.try_to_vec::<f32>().unwrap(), data.shape().clone());
        values.iter_mut().for_each(|v| *v *= factor);
        values[1] += more;
        *data = TensorData::new(values, shape);
        tensors::write(&folder.join("adapter_model.safetensors"), &all).unwrap();
        let run = scratch.path().join(format!("run-{n}"));
        let (fine, said) = import(&folder, &fixtures().join("peft-forms/t5"), &run);
        assert!(fine, "{part}: {said}");
        let aim = Plan::of(&file::open(&run.join("session.petl.toml")).unwrap()).aim;
        assert_eq!(aim, if linear { Aim::Linear } else { Aim::Mlp(Activation::Tanh) }, "{part} · {factor} + {more}");
    }
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

/// Merged weights are the folder again with the change in it: its names, its shapes, its configuration, and what no method touched as it was.
#[test]
fn merged_weights_leave_in_the_names_in_which_the_backbone_came() {
    let merged = exports::find("merged").unwrap();
    let networks = [
        "vit",
        "deit-distilled",
        "dinov2",
        "dinov2-gated",
        "clip-vision",
        "timm-vit",
        "timm-dinov2",
        "swin",
        "bert",
        "roberta",
        "distilbert",
        "llama",
        "qwen2",
        "gpt2",
        "clip-text",
        "t5",
        "t5-gated",
        "whisper-classifier",
        "ast-classifier",
    ];
    for name in networks {
        let from = fixtures().join("backbones").join(name);
        let session = session(&from, "lora", Place::roles(&[Role::Q, Role::Down]), &[("rank", Value::Whole(2))]);
        let (model, scratch) = (moved(&session), tempfile::tempdir().unwrap());
        let out = scratch.path().join("out");
        std::fs::create_dir(&out).unwrap();
        (merged.write)(&session, &model, &out).unwrap_or_else(|fault| panic!("{name}: {fault:#}"));
        let (difference, samples) =
            exports::verify(merged, &session, &model, &out).unwrap_or_else(|fault| panic!("{name}: {fault:#}"));
        assert!(difference < 1e-4 && samples == 64, "{name}: {difference}");
        let [before, after] = [&from, &out].map(|folder| Tensors::open(folder).unwrap());
        let (mut same, mut changed) = (0, 0);
        for tensor in before.names() {
            let Ok((was, shape)) = before.floats(tensor) else { continue };
            let (is, now) = after.floats(tensor).unwrap_or_else(|fault| panic!("{name}: {fault:#}"));
            assert_eq!(shape, now, "{name}: {tensor}");
            if was == is { same += 1 } else { changed += 1 }
        }
        assert!(changed >= 2 && same > changed, "{name}: {changed} changed, {same} the same");
        assert!(after.names().all(|tensor| before.has(tensor)), "{name}: something was added");
        let [old, new] = [&from, &out].map(|folder| std::fs::read(folder.join("config.json")).unwrap());
        assert_eq!(old, new, "{name}");
        assert_eq!(backbones::of_folder(&out).unwrap().name, session.backbone.name);
    }
}
