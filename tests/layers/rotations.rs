//! OFT and BOFT against PEFT.

use burn::tensor::TensorData;
use petl_workbench::plan::anatomy::Role;
use petl_workbench::session::Value;

use crate::fixture::{Case, How, ROW, SAME};

/// PEFT's exact map is (I - Q)(I + Q)⁻¹; the paper's, PEFT's own series and ours are (I + Q)(I - Q)⁻¹: Q has the other sign.
const OTHER_SIGN: How = How { put: minus, back: minus };

fn values(data: &TensorData) -> Vec<f32> {
    data.try_to_vec::<f32>().expect("f32")
}

fn minus(data: &TensorData) -> TensorData {
    TensorData::new(values(data).iter().map(|v| -v).collect::<Vec<_>>(), data.shape().clone())
}

fn oft(fixture: &'static str, inverse: &str, share: bool, how: How) -> Case<'static> {
    let settings: &'static [_] =
        Vec::leak(vec![("block_size", Value::Whole(4)), ("inverse", Value::Text(inverse.into())), ("share", Value::Flag(share))]);
    let params: &'static [_] = Vec::leak(vec![("Q", "oft_R.weight", how)]);
    Case { fixture, method: "oft", role: Role::Q, settings, params, constants: &[] }
}

#[test]
fn oft_is_pefts() {
    oft("oft", "exact", false, OTHER_SIGN).holds();
    assert!(oft("oft", "exact", false, SAME).apart().largest() > 1e-2, "the sign is noticed");
}

#[test]
fn ofts_series_of_five_terms_is_pefts_default() {
    oft("oft-neumann", "five terms", false, SAME).holds();
    assert!(oft("oft-neumann", "exact", false, SAME).apart().largest() > 1e-3, "the exact map is another");
}

#[test]
fn oft_with_one_rotation_for_all_blocks_is_pefts() {
    oft("oft-share", "exact", true, OTHER_SIGN).holds();
}

/// PEFT trains whole blocks `[factors, blocks, b, b]` and takes their skew part; ours are the upper triangles, row by row.
fn triangles<const SIDE: usize>(data: &TensorData) -> TensorData {
    let rows: Vec<f32> = values(data)
        .chunks(SIDE * SIDE)
        .flat_map(|block| pairs::<SIDE>().map(|(i, j)| -0.5 * (block[i * SIDE + j] - block[j * SIDE + i])))
        .collect();
    let width = SIDE * (SIDE - 1) / 2;
    let count = rows.len() / width;
    TensorData::new(rows, [count, width])
}

/// The gradient of a triangle as that of PEFT's block.
fn blocks<const SIDE: usize>(data: &TensorData) -> TensorData {
    let triangles = values(data);
    let width = SIDE * (SIDE - 1) / 2;
    let mut all = vec![0.0; triangles.len() / width * SIDE * SIDE];
    for (block, triangle) in all.chunks_mut(SIDE * SIDE).zip(triangles.chunks(width)) {
        for ((i, j), g) in pairs::<SIDE>().zip(triangle) {
            block[i * SIDE + j] = -0.5 * g;
            block[j * SIDE + i] = 0.5 * g;
        }
    }
    let count = all.len();
    TensorData::new(all, [count])
}

fn pairs<const SIDE: usize>() -> impl Iterator<Item = (usize, usize)> {
    (0..SIDE).flat_map(|i| (i + 1..SIDE).map(move |j| (i, j)))
}

#[track_caller]
fn boft(fixture: &str, side: i64, factors: i64, how: How) {
    let settings = [("block_size", Value::Whole(side)), ("factors", Value::Whole(factors)), ("scale", Value::Flag(true))];
    let params = [("Q", "boft_R", how), ("s", "boft_s", ROW)];
    Case { fixture, method: "boft", role: Role::Q, settings: &settings, params: &params, constants: &[] }.holds();
}

#[test]
fn boft_of_one_factor_is_pefts() {
    boft("boft", 4, 1, How { put: triangles::<4>, back: blocks::<4> });
}

#[test]
fn butterflies_of_two_and_three_factors_are_pefts() {
    boft("boft-2", 2, 2, How { put: triangles::<2>, back: blocks::<2> });
    boft("boft-wide", 2, 3, How { put: triangles::<2>, back: blocks::<2> });
}
