//! Orthogonal blocks by the Cayley transform, R = (I + Q)(I − Q)⁻¹ with Q skew-symmetric: what the orthogonal methods share.
//! Qiu et al., "Controlling Text-to-Image Diffusion by Orthogonal Finetuning" (2023), section 3.3. Knows no method.

use burn::tensor::{Int, Tensor, TensorData};

use super::parts;

/// Numbers that a skew-symmetric block of side `b` is made of.
pub fn numbers(b: usize) -> usize {
    b * (b - 1) / 2
}

/// Skew-symmetric blocks `[n, b, b]` from their strict upper triangles, row by row: `[n, b (b - 1) / 2]`.
pub fn skew(triangle: Tensor<2>, b: usize) -> Tensor<3> {
    let n = triangle.dims()[0];
    let at = |i: usize, j: usize| (i * b + j - (i + 1) * (i + 2) / 2) as i64; // place of row i, column j > i
    let (mut places, mut signs) = (Vec::with_capacity(b * b), Vec::with_capacity(b * b));
    for (i, j) in (0..b).flat_map(|i| (0..b).map(move |j| (i, j))) {
        places.push(if i == j { 0 } else { at(i.min(j), i.max(j)) });
        signs.push(if i == j { 0.0_f32 } else { (j as f32 - i as f32).signum() });
    }
    let device = triangle.device().inner();
    let places = Tensor::<1, Int>::from_data(TensorData::new(places, [b * b]), &device);
    let signs = Tensor::<2>::from_data(TensorData::new(signs, [1, b * b]), &device);
    (triangle.select(1, places) * signs).reshape([n, b, b])
}

/// R = (I + Q)(I − Q)⁻¹ for every block of `q` `[n, b, b]`; orthogonal, and the identity where Q is zero.
pub fn exact(q: Tensor<3>) -> Tensor<3> {
    let eye = identity(&q);
    inverse(eye.clone() - q) * 2.0 - eye // because I + Q = 2 I − (I − Q)
}

/// The same by five terms of the inverse's Neumann series (Qiu et al., "Orthogonal Finetuning Made Scalable", 2025), as PEFT
/// has it: I + 2 Q + 2 Q² + 2 Q³ + Q⁴. Nearly orthogonal where Q is small.
pub fn five_terms(q: Tensor<3>) -> Tensor<3> {
    let square = q.clone().matmul(q.clone()); // [n, b, b]
    let cube = square.clone().matmul(q.clone());
    let fourth = cube.clone().matmul(q.clone());
    identity(&q) + (q + square + cube) * 2.0 + fourth
}

/// `[1, b, b]`, plain.
fn identity(like: &Tensor<3>) -> Tensor<3> {
    Tensor::<2>::eye(like.dims()[1], &like.device().inner()).unsqueeze()
}

/// The inverse of I − Q. Gauss-Jordan elimination finds it outside the graph; no pivot is below 1, because the symmetric part
/// is the identity. One Newton step X (2 I − A X) inside the graph then has the inverse's own derivative, −X dA X, and keeps
/// two products for the backward pass where elimination would keep every step.
fn inverse(a: Tensor<3>) -> Tensor<3> {
    let [n, b, _] = a.dims();
    let eye = identity(&a);
    let mut rows = Tensor::cat(vec![a.clone().inner(), eye.clone().expand([n, b, b])], 2); // [n, b, 2 b]
    for k in 0..b {
        let row = rows.clone().narrow(1, k, 1); // [n, 1, 2 b]
        let row = row.clone() / row.narrow(2, k, 1);
        let column = rows.clone().narrow(2, k, 1) - eye.clone().narrow(2, k, 1); // [n, b, 1]: row k itself becomes `row`
        rows = rows - column * row;
    }
    let x = rows.narrow(2, b, b); // [n, b, b]
    x.clone().matmul(eye * 2.0 - a.matmul(x))
}

/// `x · diag(R_1, …, R_n)`: `[batch, positions, n b]` by `[n, b, b]`.
pub fn turn(x: Tensor<3>, r: Tensor<3>) -> Tensor<3> {
    let [batch, positions, d] = x.dims();
    let [n, b, _] = r.dims();
    let x = x.reshape([batch * positions, n, b]).swap_dims(0, 1); // [n, batch · positions, b]
    x.matmul(r).swap_dims(0, 1).reshape([batch, positions, d])
}

/// `R · w`, where `turn` answers `x · R`: `[d_in, d_out]`.
pub fn fold(w: Tensor<2>, turn: impl FnOnce(Tensor<3>) -> Tensor<3>) -> Tensor<2> {
    let r = turn(Tensor::<2>::eye(w.dims()[0], &w.device()).unsqueeze()); // [1, d_in, d_in]
    r.squeeze_dim::<2>(0).matmul(w)
}

/// Sizes of blocks, smallest first, into which `d` channels can be cut in multiples of `step`: "2, 3, 4".
pub fn fitting(d: usize, step: usize) -> String {
    parts::fitting(2..=d, |b| d.is_multiple_of(b * step) && (step == 1 || b.is_multiple_of(2)))
}
