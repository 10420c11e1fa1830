//! One place alone: what a method makes of a given input and output of a site, and helpers to set its parameters.

use burn::tensor::{Tensor, TensorData};
use petl_workbench::engine::bag::Bag;
use petl_workbench::engine::model::{Model, host};
use petl_workbench::engine::tuner::Tuner;
use petl_workbench::methods::Card;
use petl_workbench::plan::Plan;
use petl_workbench::session::settings::{Settings, Value};
use petl_workbench::session::{Place, Placed};

use crate::common::{CLASSES, numbers, placed, session};

/// What leaves `site` when `x` enters it and the frozen place itself gives `y`.
pub fn through(model: &Model, site: &str, x: &Tensor<3>, y: &Tensor<3>) -> Tensor<3> {
    let bag = model.bag.frozen();
    Tuner::new(&model.plan, &model.weights, &bag, None).around(site, x.clone(), |_, _| y.clone())
}

/// A tensor of values in -1 to 1 that look random.
pub fn values<const D: usize>(dims: [usize; D], phase: f32, like: &Model) -> Tensor<D> {
    Tensor::from_data(TensorData::new(numbers(dims.iter().product(), phase), dims), &like.device)
}

/// Sets the parameter `key` of `bag`, which must be there in this shape.
pub fn put(bag: &mut Bag, key: &str, value: Tensor<2>) {
    let old = bag.params.get(key).unwrap_or_else(|| panic!("no `{key}` among {:?}", bag.params.keys()));
    assert_eq!(old.dims(), value.dims(), "{key}");
    bag.params.insert(key.to_owned(), petl_workbench::engine::bag::trainable(value));
}

/// Sets every parameter of the stack to values that look random, `size` large.
pub fn shake(model: &mut Model, size: f32) {
    let keys: Vec<_> = model.bag.params.keys().filter(|k| !k.starts_with("head/")).cloned().collect();
    for (n, key) in keys.iter().enumerate() {
        let old = model.bag.params[key].clone().inner();
        let noise = values(old.dims(), n as f32 + 0.3, model) * size;
        put(&mut model.bag, key, old + noise);
    }
}

pub fn list<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    host(tensor).expect("read back")
}

/// Largest difference of two tensors.
pub fn gap<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> f32 {
    assert_eq!(a.dims(), b.dims());
    crate::common::apart(&list(a), &list(b))
}

pub fn set(values: &[(&str, Value)]) -> Settings {
    let mut settings = Settings::default();
    values.iter().for_each(|(name, value)| settings.set(name, value.clone()));
    settings
}

pub fn text(word: &str) -> Value {
    Value::Text(word.to_owned())
}

/// `card` with these settings at another place.
pub fn at(card: &Card, settings: Settings, place: Place) -> Placed {
    Placed { place, ..placed(card, settings) }
}

/// The plan of a stack on ViT-B/16.
pub fn on_b16(stack: Vec<Placed>) -> Plan {
    let mut problems = vec![];
    let plan = Plan::on(&session(stack), petl_workbench::backbones::vit::B_16.declare(), CLASSES, &mut problems);
    assert!(problems.is_empty(), "{problems:?}");
    plan
}

/// Why the toy network refuses a stack.
pub fn refusal(stack: Vec<Placed>) -> String {
    let mut problems = vec![];
    Plan::on(&session(stack), crate::common::TOY.declare(), CLASSES, &mut problems);
    problems.first().map(|p| p.words.clone()).unwrap_or_default()
}
