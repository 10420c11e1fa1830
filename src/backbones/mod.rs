//! Backbones: the frozen networks. To add one: a new file here with a `CARD` and a `Backbone`, then two plain lines below
//! (`mod` and `CATALOG`). A backbone owns no tensors: it declares its anatomy and its forward pass; `weights` loads.

pub mod vit;
pub mod weights;

use burn::tensor::{Device, Tensor};

use crate::engine::bag::Weights;
use crate::engine::tuner::Tuner;
use crate::plan::anatomy::Anatomy;
use crate::session::settings::{Field, Settings};

pub const CATALOG: &[&Card] = &[&vit::TINY_32];

pub fn find(name: &str) -> Option<&'static Card> {
    CATALOG.iter().copied().find(|card| card.name == name)
}

/// What the catalogue says of a backbone.
pub struct Card {
    pub name: &'static str,
    pub title: &'static str,
    pub help: &'static str,
    pub source: &'static str,
    pub licence: &'static str,
    pub fields: &'static [Field],
    pub backbone: &'static dyn Backbone,
}

/// One family of networks.
pub trait Backbone: Sync {
    /// Every site, without any weights. `set` holds every field of the card.
    fn anatomy(&self, set: &Settings) -> Result<Anatomy, String>;

    /// Makes the path of a file that `set` names, if any, absolute: what a run keeps must mean the same from every folder.
    fn settle(&self, _set: &mut Settings) {}

    /// The frozen weights on `device`, one matrix for every part that the anatomy declares.
    fn weights(&self, set: &Settings, seed: u64, device: &Device) -> anyhow::Result<Weights>;

    /// `pixels` `[batch, 3, side, side]`, normalised as the backbone wants them, to the normed features
    /// `[batch, positions, width]`.
    fn forward(&self, t: &mut Tuner, pixels: Tensor<4>) -> Tensor<3>;
}
