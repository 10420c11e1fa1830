//! What the adapters of one method have in common, between places and between tasks: Sung, Cho and Bansal, "VL-Adapter" (2022),
//! section 3.3. For methods whose parameters are named `down...` and `up...`; what is named otherwise is common only where everything
//! is. Knows no method.

use burn::tensor::Tensor;

use super::{ParamSpec, parts};
use crate::engine::bag::At;
use crate::plan::anatomy::Site;
use crate::session::settings::{Field, Settings};

pub const SHARE: Field = Field::choice(
    "share",
    &["nothing", "down", "up", "everything"],
    "What all places have in common: nothing, the matrix down and its bias, up and its bias, or the whole adapter.",
);
pub const TASKS: Field = Field::choice(
    "tasks",
    &["one for all", "one each", "down shared", "up shared"],
    "With a data set of several tasks: one adapter for all of them, one for each, or one for each with the matrix down (or up) \
     and its bias in common.",
);

/// Whether all places have the parameter `name` in common.
fn by_all(set: &Settings, name: &str) -> bool {
    match set.text("share") {
        "everything" => true,
        half => name.starts_with(half), // `down` and `down_bias`, or `up` and `up_bias`
    }
}

/// Whether each task has the parameter `name` of its own.
fn by_task(set: &Settings, name: &str) -> bool {
    match set.text("tasks") {
        "one each" => true,
        "down shared" => name.starts_with("up"),
        "up shared" => name.starts_with("down"),
        _ => false,
    }
}

/// Whether what places have in common fits all of `sites`, which go from and to as many channels as `widths` says.
///
/// # Errors
/// The first site that is unlike the others.
pub fn fits(set: &Settings, sites: &[&Site], widths: impl Fn(&Site) -> (usize, usize)) -> Result<(), String> {
    let Some(first) = sites.first().filter(|_| set.text("share") != "nothing") else { return Ok(()) };
    let Some(other) = sites.iter().find(|site| widths(site) != widths(first)) else { return Ok(()) };
    let (d_in, d_out) = widths(other);
    Err(format!(
        "what places share must fit all of them, but `{}` goes from {d_in} to {d_out} and `{}` does not",
        other.path, first.path
    ))
}

/// The parameters of one place as they are shared; what all have in common the `first` place declares.
pub fn declared(set: &Settings, params: Vec<ParamSpec>, first: bool) -> Vec<ParamSpec> {
    let params = params.into_iter().map(|spec| if by_task(set, &spec.name) { spec.by_task() } else { spec });
    let (common, own): (Vec<_>, Vec<_>) = params.partition(|spec| by_all(set, &spec.name));
    common.into_iter().filter(|_| first).map(ParamSpec::shared).chain(own).collect()
}

/// `act` on `x` with the parameters `names`; where each task has its own, on the samples of every task with that task's.
pub fn with<const N: usize>(
    at: &At,
    names: [&str; N],
    x: Tensor<3>,
    act: impl Fn(Tensor<3>, [Tensor<2>; N]) -> Tensor<3>,
) -> Tensor<3> {
    let all = names.map(|name| if by_all(at.set, name) { at.shared(name) } else { at.param(name) });
    match by_task(at.set, names[0]) {
        true => parts::by_task(at, x, |task, x| act(x, all.clone().map(|of_all| at.of_task(task, of_all)))),
        false => act(x, all),
    }
}

/// `x` through the linear layer `name`: `[batch, positions, d_in]` to `[batch, positions, d_out]`.
pub fn through(at: &At, name: &str, x: Tensor<3>) -> Tensor<3> {
    with(at, [name, &format!("{name}_bias")], x, |x, [w, b]| parts::dense(x, w, b))
}
