//! Sparse changes against PEFT's SHiRA.

use burn::tensor::TensorData;
use petl_workbench::plan::anatomy::Role;
use petl_workbench::session::Value;

use crate::fixture::{Case, How, ROW};

/// Rows and columns of `[out, in]` as places in our `[in, out]`, row by row.
fn places(data: &TensorData) -> TensorData {
    let indices = data.try_to_vec::<f32>().expect("f32");
    let (rows, columns) = indices.split_at(indices.len() / 2);
    let places: Vec<f32> = rows.iter().zip(columns).map(|(out, inner)| inner * 20.0 + out).collect();
    let count = places.len();
    TensorData::new(places, [1, count])
}

#[test]
fn a_sparse_change_is_pefts_shira() {
    let settings = [("share", Value::Real(64.0 / 240.0))];
    let constants = [("index", "const/shira_indices", How { put: places, back: places })];
    let params = [("values", "shira_weight", ROW)];
    Case { fixture: "shira", method: "sparse", role: Role::Q, settings: &settings, params: &params, constants: &constants }
        .holds();
}
