//! Folders that are not whole.

use super::*;

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
