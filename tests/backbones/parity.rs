//! Networks against what transformers and timm give.

use super::*;

#[test]
fn vision_transformers_give_what_transformers_and_timm_give() {
    let cases: [(&str, &[usize]); 9] = [
        ("vit", &[24, 40]),
        ("vit-no-bias", &[24]),
        ("deit-distilled", &[24]), // transformers 5 does not stretch DeiT's positions as it does ViT's
        ("dinov2", &[24, 16, 40]),
        ("dinov2-gated", &[24]),
        ("clip-vision", &[24, 32]),
        ("timm-vit", &[24, 16, 40]),
        ("timm-dinov2", &[24, 16, 40]),
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
        let model = Model { plan, backbone: opened.network, weights, bag, device: device.clone(), names: None };
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
