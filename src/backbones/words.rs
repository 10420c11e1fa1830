//! From texts to tokens: the `tokenizer.json` of a model folder, by the `tokenizers` crate. Called by the text encoders.

use std::sync::Arc;

use anyhow::{Result, anyhow, ensure};
use tokenizers::{PaddingParams, Tokenizer, TruncationParams};

use super::folder::Folder;
use crate::datasets::{Samples, Tokens};

/// Texts of one call of the tokenizer.
const AT_ONCE: usize = 256;

/// A folder's tokenizer, or why there is none: a network opens without one, texts do not.
#[derive(Clone)]
pub struct Words(Result<Arc<Tokenizer>, String>);

impl Words {
    pub fn of(folder: &Folder) -> Words {
        let place = folder.path.join("tokenizer.json");
        if !place.is_file() {
            return Words(Err(format!(
                "{} has no tokenizer.json, without which texts cannot be read. Fetch it, or save the tokenizer there (in Python: AutoTokenizer.from_pretrained(folder).save_pretrained(folder))",
                folder.path.display()
            )));
        }
        Words(Tokenizer::from_file(&place).map(Arc::new).map_err(|fault| format!("{} is no tokenizer: {fault}", place.display())))
    }

    /// Replaces texts by tokens, at most `longest` a text, with the signs that the model wants at both ends.
    ///
    /// # Errors
    /// When there is no tokenizer, or a text cannot be read.
    pub fn encode(&self, samples: &mut Samples, longest: usize) -> Result<()> {
        let tokenizer = self.0.as_ref().map_err(|words| anyhow!("{words}"))?;
        let mut tokenizer = Tokenizer::clone(tokenizer);
        let fault = |fault| anyhow!("the tokenizer refuses: {fault}");
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
                let kinds = encoded.get_type_ids().iter().map(|kind| *kind as u8).collect();
                tokens.push(Tokens { ids: encoded.get_ids().to_vec(), kinds });
            }
        }
        samples.texts = Vec::new();
        samples.tokens = tokens;
        Ok(())
    }
}
