//! What sites do, and the words for it in session files and on screen. Read through `anatomy`. Plain data.

use serde::{Deserialize, Serialize};

/// What a site does in its block. The session's `roles = ["q", "v"]` names these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Patches, positions and class token.
    Embed,
    /// The block as a whole: its input and its output on the residual stream.
    Block,
    Norm,
    Q,
    K,
    V,
    /// The attention branch as a whole, before it joins the residual stream.
    Attn,
    O,
    /// The residual stream between the attention branch and the MLP branch.
    Mid,
    /// The MLP branch as a whole, before it joins the residual stream.
    Mlp,
    Up,
    /// The layer beside `up` whose bend multiplies what leaves it.
    Gate,
    Act,
    Down,
    /// LayerScale: a frozen factor a channel on what a branch adds.
    Scale,
    Head,
    /// The pretrained layer between the first token and a head.
    Pool,
    /// The layer between two stages that makes one position of four.
    Merge,
    /// The table of what attention within a window adds to the score of two positions, by how they lie to each other.
    Distance,
    /// The one number by which the likeness of an image and a text is multiplied.
    Temperature,
}

impl Role {
    pub const ALL: [Role; 20] = [
        Role::Embed,
        Role::Block,
        Role::Norm,
        Role::Q,
        Role::K,
        Role::V,
        Role::Attn,
        Role::O,
        Role::Mid,
        Role::Mlp,
        Role::Up,
        Role::Gate,
        Role::Act,
        Role::Down,
        Role::Scale,
        Role::Head,
        Role::Pool,
        Role::Merge,
        Role::Distance,
        Role::Temperature,
    ];

    /// The word used in session files and on screen.
    pub fn word(self) -> &'static str {
        match self {
            Role::Embed => "embed",
            Role::Block => "block",
            Role::Norm => "norm",
            Role::Q => "q",
            Role::K => "k",
            Role::V => "v",
            Role::Attn => "attn",
            Role::O => "o",
            Role::Mid => "mid",
            Role::Mlp => "mlp",
            Role::Up => "up",
            Role::Gate => "gate",
            Role::Act => "act",
            Role::Down => "down",
            Role::Scale => "scale",
            Role::Head => "head",
            Role::Pool => "pool",
            Role::Merge => "merge",
            Role::Distance => "distance",
            Role::Temperature => "temperature",
        }
    }

    pub fn from_word(word: &str) -> Option<Role> {
        Role::ALL.into_iter().find(|role| role.word() == word)
    }
}
