//! Tasks: what the features are for - head, loss, metric. To add one: a new file here with a `CARD`, then two plain lines
//! below (`mod` and `CATALOG`).

pub mod classify;

use crate::session::settings::Field;

/// What the catalogue says of a task.
pub struct Card {
    pub name: &'static str,
    pub title: &'static str,
    pub help: &'static str,
    pub fields: &'static [Field],
}

pub const CATALOG: &[&Card] = &[&classify::CARD];

pub fn find(name: &str) -> Option<&'static Card> {
    CATALOG.iter().copied().find(|card| card.name == name)
}
