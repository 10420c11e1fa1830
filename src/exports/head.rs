//! The linear classifier as transformers keeps it: what it reads there, what it is called, and where that is what our head is. Called
//! by the exports and the import.

use anyhow::{Context, Result, anyhow, bail};
use burn::tensor::TensorData;

use super::tensors::{self, Named};
use crate::plan::anatomy::Anatomy;

/// transformers' classifier of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The name of its last layer.
    pub layer: &'static str,
    /// It reads the class token and beside it the mean of all patches (DINOv2): ours has zeros for the mean.
    beside_mean: bool,
    /// A decoder's has no bias, nor has ours on one.
    bias: bool,
}

impl Head {
    /// The head of a network of this anatomy.
    ///
    /// # Errors
    /// In words, where transformers' classifier is none that ours can be written as.
    pub fn of(anatomy: &Anatomy) -> Result<Head, String> {
        let head = Head { layer: anatomy.classifier(), beside_mean: false, bias: !anatomy.causal };
        match anatomy.dialects[0].prefix {
            "vit." | "deit." => Ok(head),
            "dinov2." => Ok(Head { beside_mean: true, ..head }),
            "bert." if anatomy.site("pooler").is_some() => Ok(head),
            "bert." => {
                Err("transformers' classifier of BERT reads the pooler, but the head here reads the tokens themselves".to_owned())
            }
            "model." if anatomy.has_classifier => Ok(head),
            "model." => {
                Err("transformers' classifier of a decoder reads the last token, but the head here reads the mean".to_owned())
            }
            "transformer." if anatomy.relative => Err(
                "transformers' classifier of T5 has layers of its own before the last one, for which the head here has no place"
                    .to_owned(),
            ),
            "transformer." => {
                Err("GPT-2's layers are stored otherwise than those of other networks, which is not written from here".to_owned())
            }
            other => Err(format!(
                "transformers' classifier for `{}` has layers of its own before the last one, for which the head here has no place",
                other.trim_end_matches('.')
            )),
        }
    }

    /// Its tensors, `classifier.weight` and `classifier.bias`, from the bag's values.
    pub fn theirs(self, bag: &Named) -> Result<Named> {
        let of = |key: &str| bag.get(key).with_context(|| format!("the run's adapter lacks `{key}`"));
        let weight = of("head/weight")?; // [width, classes]
        let weight = match self.beside_mean {
            false => weight.clone(),
            true => tensors::stacked("head/weight", weight, weight, 0.0)?, // [2 width, classes]
        };
        let mut all = Named::from([(format!("{}.weight", self.layer), tensors::turned("head/weight", &weight)?)]);
        if self.bias {
            let bias = of("head/bias")?;
            let bias = tensors::shaped("head/bias", bias, &[bias.shape().num_elements()])?;
            all.insert(format!("{}.bias", self.layer), bias);
        }
        Ok(all)
    }

    /// `head/weight` and, where there is one, `head/bias` from transformers' tensors, for features of `width` channels. `of` gives a
    /// tensor by its whole name.
    pub fn ours(self, of: impl Fn(&str) -> Result<TensorData>, width: usize) -> Result<Named> {
        let name = format!("{}.weight", self.layer);
        let weight = of(&name)?;
        let turned = tensors::turned(&name, &weight)?; // [inputs, classes]
        let &[inputs, classes] = turned.shape().as_slice() else { bail!("`{name}` is no matrix") };
        let wanted = width * if self.beside_mean { 2 } else { 1 };
        let bias_name = format!("{}.bias", self.layer);
        let bias = self.bias.then(|| of(&bias_name)).transpose()?;
        let outputs = bias.as_ref().map_or(classes, |bias| bias.shape().num_elements());
        if inputs != wanted || outputs != classes {
            bail!(
                "`{name}` is {:?} with a bias of {outputs}, but a classifier of this network reads {wanted} channels",
                weight.shape().as_slice(),
            );
        }
        let values = tensors::values(&name, &turned)?;
        let (own, rest) = values.split_at(width * classes);
        if rest.iter().any(|v| *v != 0.0) {
            bail!("`{name}` also reads the mean of all patches, which the head here does not");
        }
        let mut all = Named::from([("head/weight".to_owned(), TensorData::new(own.to_vec(), [width, classes]))]);
        if let Some(bias) = bias {
            all.insert("head/bias".to_owned(), tensors::shaped(&bias_name, &bias, &[1, classes])?);
        }
        Ok(all)
    }

    /// The same from tensors that have been read.
    pub fn among(self, found: &Named, width: usize) -> Result<Named> {
        let known =
            |name: &str| name.strip_prefix(self.layer).is_some_and(|rest| rest == ".weight" || (self.bias && rest == ".bias"));
        if let Some(name) = found.keys().find(|name| !known(name)) {
            bail!("`{name}` is no part of a linear classifier as this network has it");
        }
        self.ours(|name| found.get(name).cloned().ok_or_else(|| anyhow!("it lacks `{name}`")), width)
    }
}
