//! CLIP: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (2021): a vision transformer (`vit`) and a
//! text decoder (`gpt2`) side by side, each with a projection into the space that both share. One pass goes through one tower. Called
//! through `backbones::Backbone`.

use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use serde_json::{Value as Json, json};

use super::bend::Bend;
use super::folder::Folder;
use super::gpt2::Gpt2;
use super::names;
use super::tensors::Tensors;
use super::vit::Vit;
use super::words::Words;
use super::{Backbone, Card, Input, Opened};
use crate::engine::bag::Weights;
use crate::engine::tuner::Tuner;
use crate::plan::anatomy::{Anatomy, Classifier, Part, Role, Site};
use crate::session::settings::{Field, Settings};

/// The sizes of both towers and of what they share.
#[derive(Clone, Copy, Debug)]
pub struct Clip {
    pub image: Vit,
    pub text: Gpt2,
    /// Channels of an embedding.
    pub width: usize,
}

pub const FOLDER: Card = Card {
    name: "clip",
    title: "CLIP, both towers",
    help: "CLIP of any size, its image tower and its text tower side by side: a folder with config.json, the weights and tokenizer.json. It tells pictures apart by a linear head on their embedding or by the names of the classes alone (`zero-shot`), and learns from pictures and captions.",
    source: "The folder that you open",
    licence: "That of the weights you open; see the folder's README",
    fields: &[
        Field::text(super::FOLDER, "", "The folder that holds config.json, the weights and tokenizer.json."),
        super::SOURCE,
        Field::whole(
            "side",
            0,
            2048,
            0,
            "Side of the images in pixels, a multiple of the patch; 0 takes the model's own. Positions are interpolated.",
        ),
        Field::whole("length", 2, 4096, 77, "The longest text in tokens; longer ones are cut. The model's own limit holds too."),
    ],
    model_types: &["clip"],
    open,
};

/// Where the embeddings of an image are made, and where their likeness to a text's is scaled.
const PROJECTION: &str = "projection";
const TEMPERATURE: &str = "temperature";

fn open(set: &Settings) -> Result<Opened, String> {
    let folder = Folder::open(set.text(super::FOLDER))?;
    folder.is_of(&FOLDER)?;
    let own = Vit::of(&folder)?;
    let side = own.side(set.whole("side"))?;
    let image = Vit { image: side, stretched: side != own.image, ..own };
    let text = Gpt2 { behind: Some(image.blocks), ..Gpt2::of_clip(&folder, set.whole("length"), false)? };
    let clip = Clip { image, text, width: folder.whole_or("projection_dim", Some(512))? };
    let (path, words) = (folder.path.clone(), Words::of(&folder));
    Ok(Opened {
        network: Arc::new(clip),
        weights: Box::new(move |_, device| clip.load(&Tensors::open(&path)?, own.image, device)),
        prepare: Box::new(move |samples| {
            samples.resize(side)?;
            words.encode(samples, text.length, [text.vocabulary, 1])
        }),
    })
}

impl Clip {
    /// The weights in a folder whose own images have `side` pixels.
    fn load(&self, tensors: &Tensors, side: usize, device: &Device) -> anyhow::Result<Weights> {
        let own = Clip { image: Vit { image: side, ..self.image }, ..*self };
        let anatomy = own.declare();
        let all = names::CLIP.tensors(&anatomy).map_err(anyhow::Error::msg)?;
        let mut weights = tensors.weights(&all, &anatomy, &|name| name.ends_with("position_ids"), device)?;
        self.image.stretch(&mut weights, side, device)?;
        Ok(weights)
    }

    /// The anatomy of these sizes: the image tower's sites are called as those of a network that stands alone, the text tower's blocks count
    /// on from its last.
    pub fn declare(&self) -> Anatomy {
        let tower = |mut tower: Anatomy, path: &str| {
            let part = vec![Part::new("weight", tower.width, self.width)];
            tower.sites.push(Site::outside(path, Role::Pool, "projection", [tower.width, self.width], part));
            tower
        };
        let towers = vec![tower(self.image.declare(), PROJECTION), tower(self.text.declare(), &self.text.path(PROJECTION))];
        let mut sites: Vec<Site> = towers.iter().flat_map(|tower| tower.sites.clone()).collect();
        let number = vec![Part::new("weight", 1, 1)];
        sites.push(Site::outside(TEMPERATURE, Role::Temperature, "temperature", [1, 1], number));
        Anatomy {
            blocks: self.image.blocks + self.text.blocks,
            width: self.width,
            heads: self.image.heads,
            hidden: self.image.hidden,
            tokens: towers[0].tokens,
            stretched: self.image.stretched,
            classifier: Classifier::Other {
                layer: "classifier",
                why: "transformers' classifier on CLIP reads the mean of all patches, and the head here an image's embedding",
            },
            ..Anatomy { towers: towers.clone(), ..Anatomy::of(sites, towers[0].entry, [&names::CLIP; 2]) }
        }
    }
}

impl Backbone for Clip {
    fn anatomy(&self) -> Anatomy {
        self.declare()
    }

    fn forward(&self, t: &mut Tuner, input: Input) -> Tensor<3> {
        match input {
            Input::Text(_) => self.text.forward(t, input),
            _ => self.image.forward(t, input),
        }
    }

    /// The embedding: the class token's features, or those of the token that closes the text, through the tower's projection.
    fn pool(&self, t: &mut Tuner, features: Tensor<3>) -> Tensor<2> {
        let (site, pooled) = match t.is_of_text() {
            true => (self.text.path(PROJECTION), self.text.pool(t, features)),
            false => (PROJECTION.to_owned(), self.image.pool(t, features)),
        };
        t.linear(&site, pooled.unsqueeze_dim::<3>(1)).squeeze_dim::<2>(1) // [batch, embedding]
    }

    fn scale(&self, t: &mut Tuner) -> Option<Tensor<2>> {
        Some(t.number(TEMPERATURE).exp())
    }

    fn config(&self) -> Option<Json> {
        let bend = |bend| if bend == Bend::Gelu { "gelu" } else { "quick_gelu" };
        let (image, text) = (&self.image, &self.text);
        Some(json!({
            "architectures": ["CLIPModel"],
            "model_type": "clip",
            "projection_dim": self.width,
            "text_config": {
                "bos_token_id": text.signs[0],
                "eos_token_id": text.signs[1],
                "hidden_act": bend(text.bend),
                "hidden_size": text.width,
                "intermediate_size": text.hidden,
                "layer_norm_eps": text.epsilon,
                "max_position_embeddings": text.positions,
                "model_type": "clip_text_model",
                "num_attention_heads": text.heads,
                "num_hidden_layers": text.blocks,
                "pad_token_id": text.padding,
                "projection_dim": self.width,
                "vocab_size": text.vocabulary,
            },
            "vision_config": {
                "hidden_act": bend(image.bend),
                "hidden_size": image.width,
                "image_size": image.image,
                "intermediate_size": image.hidden,
                "layer_norm_eps": image.epsilon,
                "model_type": "clip_vision_model",
                "num_attention_heads": image.heads,
                "num_channels": 3,
                "num_hidden_layers": image.blocks,
                "patch_size": image.patch,
                "projection_dim": self.width,
            },
        }))
    }
}
