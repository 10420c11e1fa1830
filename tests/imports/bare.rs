//! Model folders without an adapter.

use super::*;

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
