//! From texts to tokens: the `tokenizer.json` of a model folder, by the `tokenizers` crate. Called by the text encoders.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail, ensure};
use tokenizers::{PaddingParams, Tokenizer, TruncationParams};

use crate::datasets::{Samples, Tokens};

/// Texts of one call of the tokenizer.
const AT_ONCE: usize = 256;

/// Where a folder's tokenizer stands. It is read when there are texts: a network opens without one.
#[derive(Clone, Debug)]
pub struct Words(PathBuf);

impl Words {
    pub fn of(folder: &Path) -> Words {
        Words(folder.join("tokenizer.json"))
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
        let place = self.0.display();
        ensure!(
            self.0.is_file(),
            "there is no {place}, without which texts cannot be read. Fetch it, or save the tokenizer there (in Python: AutoTokenizer.from_pretrained(folder).save_pretrained(folder))"
        );
        let fault = |fault| anyhow!("{place} cannot be used as a tokenizer: {fault}");
        let mut tokenizer = Tokenizer::from_file(&self.0).map_err(fault)?;
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
