//! The bends that pretrained MLPs have, under the names that the plan and the drawing know. Called by the families.

use burn::tensor::{Tensor, activation};

use crate::engine::kernels;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bend {
    /// The exact one.
    Gelu,
    /// By tanh (`gelu_new`).
    TanhGelu,
    /// By a logistic function, x · σ(1.702 x).
    QuickGelu,
}

impl Bend {
    /// The place's name.
    pub fn word(self) -> &'static str {
        match self {
            Bend::Gelu => "gelu",
            Bend::TanhGelu => "tanh gelu",
            Bend::QuickGelu => "quick gelu",
        }
    }

    pub fn of(self, u: Tensor<3>) -> Tensor<3> {
        match self {
            Bend::Gelu => kernels::gelu(u),
            Bend::TanhGelu => activation::gelu_approximate(u),
            Bend::QuickGelu => u.clone() * activation::sigmoid(u * 1.702),
        }
    }
}
