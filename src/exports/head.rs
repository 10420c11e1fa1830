//! The linear classifier as transformers keeps it: what it reads there, and where that is what our head reads. Called by the exports
//! and the import.

use anyhow::{Context, Result, bail};
use burn::tensor::TensorData;

use super::tensors::{self, Named};
use crate::plan::anatomy::Anatomy;

/// What transformers' classifier of a network reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// What ours reads.
    Same,
    /// The class token, and beside it the mean of all patches (DINOv2): ours has zeros for the mean.
    BesideMean,
}

impl Head {
    /// The head of a network of this anatomy.
    ///
    /// # Errors
    /// In words, where transformers' classifier is none that ours can be written as.
    pub fn of(anatomy: &Anatomy) -> Result<Head, String> {
        match anatomy.dialects[0].prefix {
            "vit." | "deit." => Ok(Head::Same),
            "dinov2." => Ok(Head::BesideMean),
            "bert." if anatomy.site("pooler").is_some() => Ok(Head::Same),
            "bert." => {
                Err("transformers' classifier of BERT reads the pooler, but the head here reads the tokens themselves".to_owned())
            }
            other => Err(format!(
                "transformers' classifier for `{}` has layers of its own before the last one, for which the head here has no place",
                other.trim_end_matches('.')
            )),
        }
    }

    /// `classifier.weight` and `classifier.bias` from the bag's values.
    pub fn theirs(self, bag: &Named) -> Result<[TensorData; 2]> {
        let of = |key: &str| bag.get(key).with_context(|| format!("the run's adapter lacks `{key}`"));
        let (weight, bias) = (of("head/weight")?, of("head/bias")?); // [width, classes]
        let weight = match self {
            Head::Same => weight.clone(),
            Head::BesideMean => tensors::stacked("head/weight", weight, weight, 0.0)?, // [2 width, classes]
        };
        let bias = tensors::shaped("head/bias", bias, &[bias.shape().num_elements()])?;
        Ok([tensors::turned("head/weight", &weight)?, bias])
    }

    /// `head/weight` and `head/bias` from transformers' tensors, for features of `width` channels.
    pub fn ours(self, weight: &TensorData, bias: &TensorData, width: usize) -> Result<[TensorData; 2]> {
        let turned = tensors::turned("classifier.weight", weight)?; // [inputs, classes]
        let &[inputs, classes] = turned.shape().as_slice() else { bail!("`classifier.weight` is no matrix") };
        let wanted = width * if self == Head::BesideMean { 2 } else { 1 };
        if inputs != wanted || bias.shape().num_elements() != classes {
            bail!(
                "`classifier.weight` is {:?} with a bias of {}, but a classifier of this network reads {wanted} channels",
                weight.shape().as_slice(),
                bias.shape().num_elements()
            );
        }
        let values = tensors::values("classifier.weight", &turned)?;
        let (own, rest) = values.split_at(width * classes);
        if rest.iter().any(|v| *v != 0.0) {
            bail!("`classifier.weight` also reads the mean of all patches, which the head here does not");
        }
        let weight = TensorData::new(own.to_vec(), [width, classes]);
        Ok([weight, tensors::shaped("classifier.bias", bias, &[1, classes])?])
    }
}
