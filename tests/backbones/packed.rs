//! Packed files.

use super::*;

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
