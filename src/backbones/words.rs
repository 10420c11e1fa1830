//! From texts to tokens: the `tokenizer.json` of a model folder, or what a GGUF file says of its own, by the `tokenizers` crate. Called by
//! the networks that read.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Result, anyhow, bail, ensure};
use serde_json::{Value as Json, json};
use tokenizers::{PaddingParams, Tokenizer, TruncationParams};

use super::folder::Folder;
use super::gguf::Gguf;
use crate::datasets::{Samples, Tokens};

const JSON: &str = "tokenizer.json";

/// Texts of one call of the tokenizer.
const AT_ONCE: usize = 256;

/// Where a model's tokenizer stands. It is read when there are texts: a network opens without one.
#[derive(Clone, Debug)]
pub enum Words {
    Json(PathBuf),
    Gguf(Arc<Gguf>),
}

impl Words {
    /// A `tokenizer.json` in the folder or beside the file; otherwise what is in the file.
    pub fn of(folder: &Folder) -> Words {
        let beside = if folder.path.is_file() { folder.path.with_file_name(JSON) } else { folder.path.join(JSON) };
        match &folder.gguf {
            Some(gguf) if !beside.is_file() => Words::Gguf(gguf.clone()),
            _ => Words::Json(beside),
        }
    }

    fn tokenizer(&self) -> Result<Tokenizer> {
        let place = self.place();
        let fault = |fault| anyhow!("{place} cannot be used as a tokenizer: {fault}");
        match self {
            Words::Json(path) => {
                ensure!(
                    path.is_file(),
                    "there is no {place}, without which texts cannot be read. Fetch it, or save the tokenizer there (in Python: AutoTokenizer.from_pretrained(folder).save_pretrained(folder))"
                );
                Tokenizer::from_file(path).map_err(fault)
            }
            Words::Gguf(gguf) => Tokenizer::from_bytes(of_gguf(gguf)?.to_string()).map_err(fault),
        }
    }

    fn place(&self) -> String {
        match self {
            Words::Json(path) => path.display().to_string(),
            Words::Gguf(gguf) => gguf.path.display().to_string(),
        }
    }

    /// Replaces texts by tokens, at most `longest` a text, with the signs that the model wants at both ends. The model knows so many
    /// tokens and kinds of segments.
    ///
    /// # Errors
    /// When there is no tokenizer, or one of another model, or a text cannot be read.
    pub fn encode(&self, samples: &mut Samples, longest: usize, [vocabulary, segments]: [usize; 2]) -> Result<()> {
        if samples.texts.is_empty() {
            return Ok(());
        }
        let place = self.place();
        let fault = |fault| anyhow!("{place} cannot be used as a tokenizer: {fault}");
        let mut tokenizer = self.tokenizer()?;
        tokenizer
            .with_truncation(Some(TruncationParams { max_length: longest, ..TruncationParams::default() }))
            .map_err(fault)?;
        tokenizer.with_padding(None::<PaddingParams>);
        let mut tokens = Vec::with_capacity(samples.texts.len());
        for some in samples.texts.chunks(AT_ONCE) {
            let inputs = some.iter().map(|text| match &text.second {
                Some(second) => tokenizers::EncodeInput::Dual(text.first.as_str().into(), second.as_str().into()),
                None => tokenizers::EncodeInput::Single(text.first.as_str().into()),
            });
            for encoded in tokenizer.encode_batch(inputs.collect(), true).map_err(fault)? {
                ensure!(!encoded.get_ids().is_empty(), "the tokenizer makes no token of a text");
                let (ids, kinds) = (encoded.get_ids(), encoded.get_type_ids());
                if let Some(id) = ids.iter().find(|id| **id as usize >= vocabulary) {
                    bail!(
                        "{place} makes token {id}, but the model knows {vocabulary} tokens. Is it the tokenizer of another model?"
                    );
                }
                ensure!(
                    kinds.iter().all(|kind| (*kind as usize) < segments),
                    "{place} tells two texts of a pair apart, which this model does not. Use a column of single texts"
                );
                let kinds = encoded.get_type_ids().iter().map(|kind| *kind as u8).collect();
                tokens.push(Tokens { ids: encoded.get_ids().to_vec(), kinds });
            }
        }
        samples.texts = Vec::new();
        samples.tokens = tokens;
        Ok(())
    }
}

/// How texts are cut into words before byte pairs are joined, by the name that llama.cpp gives it: an expression (that of the model's own
/// `tokenizer.json`), and whether digits stand alone.
fn cut(name: &str) -> Option<(Option<&'static str>, bool)> {
    const WORDS: &str =
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    const ONE_DIGIT: &str =
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    Some(match name {
        "default" | "gpt-2" => (None, false),
        "smollm" => (None, true),
        "llama-bpe" | "llama3" | "llama-v3" => (Some(WORDS), false),
        "qwen2" => (Some(ONE_DIGIT), false),
        _ => return None,
    })
}

/// The tokenizer of a GGUF file as a `tokenizer.json`: byte pairs, joined as its list of merges says.
///
/// # Errors
/// When it is of another kind.
fn of_gguf(gguf: &Gguf) -> Result<Json> {
    const INSTEAD: &str = "Put the model's tokenizer.json beside the file";
    let place = gguf.path.display();
    let kind = gguf.text("tokenizer.ggml.model").unwrap_or("none");
    ensure!(kind == "gpt2", "{place} has a tokenizer of kind `{kind}`; gpt2 (byte pairs) can be used. {INSTEAD}");
    let name = gguf.text("tokenizer.ggml.pre").unwrap_or("default");
    let (expression, digits) =
        cut(name).ok_or_else(|| anyhow!("{place} cuts texts into words by `{name}`, which is not known here. {INSTEAD}"))?;
    let (tokens, kinds) = (gguf.texts("tokenizer.ggml.tokens"), gguf.wholes("tokenizer.ggml.token_type"));
    let vocabulary: serde_json::Map<_, _> = tokens.iter().enumerate().map(|(n, token)| (token.clone(), json!(n))).collect();
    // 3: a sign that no text holds; 4: one that stands for itself.
    let apart = tokens.iter().zip(&kinds).enumerate().filter(|(_, (_, kind))| matches!(kind, 3 | 4));
    let added: Vec<Json> = apart
        .map(|(n, (token, kind))| {
            json!({
                "id": n, "content": token, "special": *kind == 3,
                "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            })
        })
        .collect();
    let bytes =
        |by_word: bool| json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": by_word });
    let mut steps = Vec::new();
    if digits {
        steps.push(json!({ "type": "Digits", "individual_digits": true }));
    }
    if let Some(expression) = expression {
        steps.push(json!({ "type": "Split", "pattern": { "Regex": expression }, "behavior": "Isolated", "invert": false }));
    }
    steps.push(bytes(expression.is_none()));
    let begin = gguf.flag("tokenizer.ggml.add_bos_token").then(|| gguf.whole("tokenizer.ggml.bos_token_id").ok()).flatten();
    let begin = begin.and_then(|id| Some((id, tokens.get(id)?))).map(|(id, token)| {
        let first = json!({ "SpecialToken": { "id": token, "type_id": 0 } });
        let text = |name: &str| json!({ "Sequence": { "id": name, "type_id": 0 } });
        json!({
            "type": "TemplateProcessing", "single": [first.clone(), text("A")], "pair": [first, text("A"), text("B")],
            "special_tokens": { token: { "id": token, "ids": [id], "tokens": [token] } },
        })
    });
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": added,
        "normalizer": (name == "qwen2").then(|| json!({ "type": "NFC" })),
        "pre_tokenizer": { "type": "Sequence", "pretokenizers": steps },
        "post_processor": begin,
        "decoder": bytes(true),
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": false, "byte_fallback": false, "ignore_merges": name.starts_with("llama"),
            "vocab": vocabulary, "merges": gguf.texts("tokenizer.ggml.merges"),
        },
    }))
}
