//! Products with frozen matrices that stay packed, four or eight bits a number in blocks of 32, as GGUF files hold them (QLoRA's base:
//! Dettmers et al. 2023). A matrix is unpacked for one product, forward or backward, and forgotten: no pass ever holds two of them.
//! Called by `engine::frozen`; knows no file.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::wgpu::CubeBackend;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{DType, Device, FloatDType, Int, Shape, Tensor, TensorData};

/// Numbers that share a scale.
pub const BLOCK: usize = 32;

/// A packed matrix `[rows, cols]`; `cols` is a multiple of `BLOCK`.
#[derive(Clone, Debug)]
pub struct Packed {
    /// Codes in words of 32 bits, the first lowest, `[rows, cols · bits / 32]`.
    codes: Tensor<2, Int>,
    /// One a block, `[rows, cols / BLOCK]`: a number is code · scale + shift.
    scales: Tensor<2>,
    shifts: Tensor<2>,
    /// Four or eight.
    bits: usize,
}

impl Packed {
    /// From words, scales and shifts in host memory.
    pub fn new(
        words: Vec<i32>,
        scales: Vec<f32>,
        shifts: Vec<f32>,
        [rows, cols]: [usize; 2],
        bits: usize,
        device: &Device,
    ) -> Packed {
        let blocks = [rows, cols / BLOCK];
        Packed {
            codes: Tensor::from_data(TensorData::new(words, [rows, cols * bits / 32]), (device, DType::I32)),
            scales: Tensor::from_data(TensorData::new(scales, blocks), device),
            shifts: Tensor::from_data(TensorData::new(shifts, blocks), device),
            bits,
        }
    }

    pub fn device(&self) -> Device {
        self.scales.device()
    }

    /// Rows and columns.
    pub fn dims(&self) -> [usize; 2] {
        let [rows, blocks] = self.scales.dims();
        [rows, blocks * BLOCK]
    }

    /// Bytes that it holds.
    pub fn bytes(&self) -> usize {
        let [rows, cols] = self.dims();
        rows * cols * self.bits / 8 + 2 * rows * (cols / BLOCK) * size_of::<f32>()
    }

    /// The numbers, `[rows, cols]`.
    pub fn unpacked(&self) -> Tensor<2> {
        let (codes, scales, shifts) = (self.codes.clone(), self.scales.clone(), self.shifts.clone());
        Tensor::from_dispatch(<Dispatch as Products>::unpacked(
            codes.into_dispatch(),
            scales.into_dispatch(),
            shifts.into_dispatch(),
            self.bits,
        ))
    }

    /// The rows of these numbers, `[numbers, cols]`.
    pub fn rows(&self, numbers: Tensor<1, Int>) -> Packed {
        let of = |t: &Tensor<2>| t.clone().select(0, numbers.clone());
        Packed {
            codes: self.codes.clone().select(0, numbers.clone()),
            scales: of(&self.scales),
            shifts: of(&self.shifts),
            bits: self.bits,
        }
    }

    /// `x · Wᵀ`: `[batch, positions, cols]` to `[batch, positions, rows]`.
    pub fn product(&self, x: Tensor<3>) -> Tensor<3> {
        let [batch, positions, cols] = x.dims();
        let x = x.reshape([batch * positions, cols]);
        let (codes, scales, shifts) = (self.codes.clone(), self.scales.clone(), self.shifts.clone());
        let y: Tensor<2> = Tensor::from_dispatch(<Dispatch as Products>::packed_product(
            x.into_dispatch(),
            codes.into_dispatch(),
            scales.into_dispatch(),
            shifts.into_dispatch(),
            self.bits,
            false,
        ));
        y.reshape([batch, positions, self.dims()[0]])
    }
}

/// The operations as Burn dispatches them; what stands here in Burn's own words is what a GPU runs.
#[backend_extension(Cube, Flex, Autodiff, Fusion)]
pub trait Products: Backend {
    /// The matrix.
    #[fusion(default)]
    fn unpacked(codes: IntTensor<Self>, scales: FloatTensor<Self>, shifts: FloatTensor<Self>, bits: usize) -> FloatTensor<Self> {
        let (rows, words, blocks) = (codes.shape()[0], codes.shape()[1], scales.shape()[1]);
        let each = 32 / bits;
        let device = codes.device();
        let places = TensorData::new((0..each).map(|n| (n * bits) as i32).collect(), [1, 1, each]);
        let places = Self::int_expand(Self::int_from_data(places, &device), Shape::new([rows, words, each]));
        let codes = Self::int_expand(Self::int_reshape(codes, Shape::new([rows, words, 1])), Shape::new([rows, words, each]));
        let codes = Self::bitwise_and_scalar(Self::bitwise_right_shift(codes, places), ((1_i64 << bits) - 1).into());
        let codes = Self::int_into_float(codes, FloatDType::F32);
        let codes = Self::float_reshape(codes, Shape::new([rows, blocks, BLOCK]));
        let of = |t| Self::float_expand(Self::float_reshape(t, Shape::new([rows, blocks, 1])), Shape::new([rows, blocks, BLOCK]));
        let values = Self::float_add(Self::float_mul(codes, of(scales)), of(shifts));
        Self::float_reshape(values, Shape::new([rows, blocks * BLOCK]))
    }

    /// `x · Wᵀ` of `[n, cols]`; `back` is `x · W` of `[n, rows]`, which is its gradient.
    #[fusion(default)]
    fn packed_product(
        x: FloatTensor<Self>,
        codes: IntTensor<Self>,
        scales: FloatTensor<Self>,
        shifts: FloatTensor<Self>,
        bits: usize,
        back: bool,
    ) -> FloatTensor<Self> {
        let w = Self::unpacked(codes, scales, shifts, bits);
        let w = if back { w } else { Self::float_swap_dims(w, 0, 1) };
        Self::float_matmul(x, w)
    }
}

impl Products for CubeBackend {}

impl Products for Flex {
    fn unpacked(codes: IntTensor<Self>, scales: FloatTensor<Self>, shifts: FloatTensor<Self>, bits: usize) -> FloatTensor<Self> {
        let (codes, scales, shifts) = (codes.to_contiguous(), scales.to_contiguous(), shifts.to_contiguous());
        let shape = [scales.shape()[0], scales.shape()[1] * BLOCK];
        let (words, scales, shifts) = (codes.storage::<i32>(), scales.storage::<f32>(), shifts.storage::<f32>());
        let mut values = vec![0.0_f32; shape[0] * shape[1]];
        let mask = ((1_i64 << bits) - 1) as i32;
        let per_block = BLOCK * bits / 32;
        for (n, block) in values.chunks_exact_mut(BLOCK).enumerate() {
            let (scale, shift) = (scales[n], shifts[n]);
            let words = &words[n * per_block..][..per_block];
            for (word, values) in words.iter().zip(block.chunks_exact_mut(32 / bits)) {
                for (place, value) in values.iter_mut().enumerate() {
                    *value = ((word >> (place * bits)) & mask) as f32 * scale + shift;
                }
            }
        }
        FloatTensor::<Self>::from_data(TensorData::new(values, shape))
    }
}

#[derive(Debug)]
struct Product;

impl<B: Products> Backward<B, 1> for Product {
    type State = (IntTensor<B>, FloatTensor<B>, FloatTensor<B>, usize);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        let (codes, scales, shifts, bits) = ops.state;
        let [parent] = ops.parents;
        if let Some(node) = parent {
            grads.register::<B>(node.id, B::packed_product(grad, codes, scales, shifts, bits, true));
        }
    }
}

impl<B: Products, C: CheckpointStrategy> Products for Autodiff<B, C> {
    fn packed_product(
        x: FloatTensor<Self>,
        codes: IntTensor<Self>,
        scales: FloatTensor<Self>,
        shifts: FloatTensor<Self>,
        bits: usize,
        back: bool,
    ) -> FloatTensor<Self> {
        assert!(!back, "nobody asks for a gradient of a gradient");
        let ((x, node), (scales, _), (shifts, _)) = (x.into_parts(), scales.into_parts(), shifts.into_parts());
        let y = B::packed_product(x, codes.clone(), scales.clone(), shifts.clone(), bits, false);
        match Product.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((codes, scales, shifts, bits), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }
}
