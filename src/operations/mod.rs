//! Operations: what is done with weights that were trained already. To add one: a new file here with a `CARD`, then two plain lines
//! below (`mod` and `CATALOG`). Called by the command line.

pub mod compose;

/// What the catalogue says of an operation.
pub struct Card {
    pub name: &'static str,
    pub title: &'static str,
    /// One sentence.
    pub help: &'static str,
    pub formula: &'static str,
    pub paper: &'static str,
    pub year: u16,
    /// When it fails, or what to watch.
    pub caution: &'static str,
}

pub const CATALOG: &[&Card] = &[&compose::CARD];
