//! How PEFT keeps a matrix of ours, there and back. Called by the kinds.

use burn::tensor::TensorData;

use super::kinds::How;
use crate::exports::tensors;

impl How {
    /// Ours as PEFT keeps it.
    pub fn theirs(self, name: &str, data: &TensorData) -> anyhow::Result<TensorData> {
        let n = data.shape().num_elements();
        match self {
            How::Turned => tensors::turned(name, data),
            How::Vector => tensors::shaped(name, data, &[n]),
            How::Column => tensors::shaped(name, data, &[n, 1]),
            How::Same => Ok(data.clone()),
            How::Minus => minus(name, data),
            How::Skew { side, rounds } => {
                let values = tensors::values(name, data)?;
                let width = side * (side - 1) / 2;
                let count = values.len() / width.max(1);
                let mut all = vec![0.0f32; count * side * side];
                for (block, triangle) in all.chunks_mut(side * side).zip(values.chunks(width.max(1))) {
                    for ((i, j), v) in pairs(side).zip(triangle) {
                        block[i * side + j] = -v;
                        block[j * side + i] = *v;
                    }
                }
                Ok(TensorData::new(all, [rounds, count / rounds.max(1), side, side]))
            }
        }
    }

    /// PEFT's as we keep it.
    pub fn ours(self, name: &str, data: &TensorData) -> anyhow::Result<TensorData> {
        let n = data.shape().num_elements();
        match self {
            How::Turned => tensors::turned(name, data),
            How::Vector | How::Column => tensors::shaped(name, data, &[1, n]),
            How::Same => Ok(data.clone()),
            How::Minus => minus(name, data),
            How::Skew { side, rounds } => {
                let shape = data.shape().as_slice();
                if shape.len() != 4 || shape[0] != rounds || shape[2..] != [side, side] {
                    anyhow::bail!(
                        "`{name}` has shape {shape:?}, but {rounds} rounds of rotations of {side} channels are [{rounds}, blocks, {side}, {side}]"
                    );
                }
                let values = tensors::values(name, data)?;
                let of = |block: &[f32]| {
                    let block = block.to_vec();
                    pairs(side).map(move |(i, j)| -0.5 * (block[i * side + j] - block[j * side + i]))
                };
                let rows: Vec<f32> = values.chunks(side * side).flat_map(of).collect();
                let width = side * (side - 1) / 2;
                let count = rows.len() / width.max(1);
                Ok(TensorData::new(rows, [count, width]))
            }
        }
    }
}

fn minus(name: &str, data: &TensorData) -> anyhow::Result<TensorData> {
    let values = tensors::values(name, data)?.into_iter().map(|v| -v).collect::<Vec<f32>>();
    Ok(TensorData::new(values, data.shape().clone()))
}

/// Above the diagonal, row by row.
fn pairs(side: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..side).flat_map(move |i| (i + 1..side).map(move |j| (i, j)))
}
