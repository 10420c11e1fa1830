//! Frozen weights by full name: most as matrices on the plain device, some packed (`kernels::packed`), as a quantised file holds them.
//! Filled by the backbones, read by the tuner.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};

use burn::tensor::{Tensor, TensorData};

use super::kernels::packed::Packed;

/// Matrices by full name, `blocks.0.attn.q.weight`, `[rows, cols]`. What stands in it as a map are those that are not packed.
#[derive(Clone, Default)]
pub struct Weights {
    whole: BTreeMap<String, Tensor<2>>,
    packed: BTreeMap<String, (Packed, Lies)>,
}

/// How a packed matrix lies to ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lies {
    /// `[cols, rows]`: a linear layer, whose packed rows are its outputs.
    Turned,
    /// `[rows, cols]`: a table of embeddings.
    Straight,
}

impl Weights {
    pub fn new() -> Weights {
        Weights::default()
    }

    pub fn pack(&mut self, name: String, packed: Packed, lies: Lies) {
        self.packed.insert(name, (packed, lies));
    }

    /// The matrix of this name, packed or not, `[rows, cols]`; a packed one is worked out anew.
    pub fn matrix(&self, name: &str) -> Option<Tensor<2>> {
        match self.whole.get(name) {
            Some(tensor) => Some(tensor.clone()),
            None => self.packed.get(name).map(|(packed, lies)| match lies {
                Lies::Turned => packed.unpacked().transpose(),
                Lies::Straight => packed.unpacked(),
            }),
        }
    }

    /// Where it is packed.
    pub fn packed(&self, name: &str) -> Option<(&Packed, Lies)> {
        self.packed.get(name).map(|(packed, lies)| (packed, *lies))
    }

    /// Every name, packed or not, in order.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<_> = self.whole.keys().chain(self.packed.keys()).map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// All of them in host memory, none packed.
    pub fn data(&self) -> BTreeMap<String, TensorData> {
        self.names().into_iter().filter_map(|name| Some((name.to_owned(), self.matrix(name)?.to_data()))).collect()
    }

    /// Bytes that they hold.
    pub fn bytes(&self) -> usize {
        let whole = self.whole.values().map(|t| t.dims().iter().product::<usize>() * size_of::<f32>());
        whole.chain(self.packed.values().map(|(packed, _)| packed.bytes())).sum()
    }
}

impl Deref for Weights {
    type Target = BTreeMap<String, Tensor<2>>;

    fn deref(&self) -> &Self::Target {
        &self.whole
    }
}

impl DerefMut for Weights {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.whole
    }
}

impl FromIterator<(String, Tensor<2>)> for Weights {
    fn from_iter<T: IntoIterator<Item = (String, Tensor<2>)>>(all: T) -> Weights {
        Weights { whole: all.into_iter().collect(), packed: BTreeMap::new() }
    }
}

impl<const N: usize> From<[(String, Tensor<2>); N]> for Weights {
    fn from(all: [(String, Tensor<2>); N]) -> Weights {
        Weights { whole: all.into(), packed: BTreeMap::new() }
    }
}
