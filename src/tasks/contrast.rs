//! Matching images and texts: the likeness of every image of a batch to every caption, the loss that makes an image most like its own caption
//! and a caption most like its own image, and how often they find each other. Radford et al., "Learning Transferable Visual Models From
//! Natural Language Supervision" (2021), section 2.3 and figure 3. Called by the engine.

use burn::tensor::{Tensor, TensorData, activation};

use super::Card;
use super::classify::argmax;

pub const CARD: Card = Card {
    name: "contrast",
    title: "Match captions",
    help: "Brings each image and its caption together and keeps them apart from the others of the batch: for a backbone of two towers and a data set of images with captions. Accuracy is how often the most similar of all captions of the test set is the image's own.",
    fields: &[],
};

/// Names of the two ways, as they stand in results.
pub const WAYS: [&str; 2] = ["image to text", "text to image"];

/// `scale` `[1, 1]` times the cosine of every image's embedding `[images, width]` with every text's `[texts, width]`: `[images, texts]`.
pub fn likeness(images: Tensor<2>, texts: Tensor<2>, scale: Tensor<2>) -> Tensor<2> {
    let unit = |x: Tensor<2>| x.clone() / x.square().sum_dim(1).sqrt();
    unit(images).matmul(unit(texts).transpose()) * scale
}

/// The mean of two cross-entropies `[1]` of likenesses `[images, captions]`: over the captions for each image, and over the images for each
/// caption, where a caption of several images counts each of them alike. `of` is each image's caption; `smoothing` is the part of a target that
/// is spread over all.
pub fn loss(likeness: Tensor<2>, of: &[u32], smoothing: f64) -> Tensor<1> {
    let [images, captions] = likeness.dims();
    let mut own = vec![0.0_f32; images * captions];
    of.iter().enumerate().for_each(|(image, caption)| own[image * captions + *caption as usize] = 1.0);
    let own = Tensor::<2>::from_data(TensorData::new(own, [images, captions]), &likeness.device().inner());
    let half = |likeness: Tensor<2>, own: Tensor<2>| {
        let [_, among] = likeness.dims();
        let target = own.clone() / own.sum_dim(1) * (1.0 - smoothing) + smoothing / among as f64;
        -(activation::log_softmax(likeness, 1) * target).sum_dim(1).mean()
    };
    (half(likeness.clone(), own.clone()) + half(likeness.transpose(), own.transpose())) * 0.5
}

/// How many captions are most like an image of their own, of likenesses `[images, captions]` in host memory row by row. `of` is each image's
/// caption.
pub fn found(likeness: &[f32], of: &[u32]) -> usize {
    let captions = likeness.len() / of.len().max(1);
    let image = |caption: usize| argmax(&likeness.iter().skip(caption).step_by(captions).copied().collect::<Vec<_>>());
    (0..captions).filter(|caption| of.get(image(*caption)).is_some_and(|own| *own as usize == *caption)).count()
}
