//! Tasks: what the features are for - head, loss, metric. To add one: a new file here with a `CARD`, then two plain lines
//! below (`mod` and `CATALOG`).

pub mod classify;
pub mod contrast;

use crate::session::Choice;
use crate::session::settings::Field;
use classify::{Activation, Margin};

/// What the catalogue says of a task.
pub struct Card {
    pub name: &'static str,
    pub title: &'static str,
    pub help: &'static str,
    pub fields: &'static [Field],
}

pub const CATALOG: &[&Card] = &[&classify::CARD, &contrast::CARD];

pub fn find(name: &str) -> Option<&'static Card> {
    CATALOG.iter().copied().find(|card| card.name == name)
}

/// What a session's task makes of the features.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Aim {
    /// A linear layer tells the classes apart.
    #[default]
    Linear,
    /// Two layers do, with an activation between them.
    Mlp(Activation),
    /// The angle to a trained centre of each class does.
    Cosine(Margin),
    /// The likeness to a text about each class does, which is made of its name by this pattern.
    ZeroShot(String),
    /// Images and captions are matched; there are no classes.
    Contrast,
}

impl Aim {
    /// What this task means; the first of the catalogue where it is unknown.
    pub fn of(task: &Choice) -> Aim {
        if task.name == contrast::CARD.name {
            return Aim::Contrast;
        }
        let set = task.settings.filled(classify::CARD.fields);
        match (Margin::of(&set), set.text("head")) {
            (Some(margin), _) => Aim::Cosine(margin),
            (_, classify::MLP) => Aim::Mlp(Activation::named(set.text("activation")).unwrap_or(Activation::Tanh)),
            (_, classify::ZERO_SHOT) => Aim::ZeroShot(set.text("template").to_owned()),
            _ => Aim::Linear,
        }
    }

    /// What a session without methods is called.
    pub fn alone(&self) -> &'static str {
        match self {
            Aim::Linear => "Linear probe",
            Aim::Mlp(_) => "MLP head alone",
            Aim::Cosine(_) => "Head by angles alone",
            Aim::ZeroShot(_) | Aim::Contrast => "Network as it is",
        }
    }

    pub fn margin(&self) -> Option<Margin> {
        match self {
            Aim::Cosine(margin) => Some(*margin),
            _ => None,
        }
    }

    /// It compares images with texts, so that nothing but the network and what stands on it trains.
    pub fn compares_texts(&self) -> bool {
        matches!(self, Aim::ZeroShot(_) | Aim::Contrast)
    }
}
