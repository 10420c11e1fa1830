//! Reads a fixture, puts its values into our bag, and tells how far our answers are from those in the file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData, module};
use petl_workbench::engine::bag::{Bag, Weights};
use petl_workbench::engine::model::host;
use petl_workbench::engine::tuner::Tuner;
use petl_workbench::exports::tensors::{self, Named};
use petl_workbench::methods;
use petl_workbench::plan::Plan;
use petl_workbench::plan::anatomy::{Anatomy, Part, Role, Site};
use petl_workbench::session::{Choice, Place, Placed, Recipe, Session, Settings, VERSION, Value};

/// Largest difference over scale that still counts as the same.
pub const TOLERANCE: f32 = 1e-4;
/// The one layer's site.
pub const SITE: &str = "blocks.0.layer";
/// Epsilon of the fixture's norm.
const EPSILON: f64 = 1e-6;

/// How a tensor of the file becomes a matrix of ours, and how our gradient goes back to the order of the file.
#[derive(Clone, Copy)]
pub struct How {
    pub put: fn(&TensorData) -> TensorData,
    pub back: fn(&TensorData) -> TensorData,
}

/// Theirs `[out, in]`, ours `[in, out]`.
pub const TURNED: How = How { put: turned, back: turned };
/// A vector of any shape; ours is one row.
pub const ROW: How = How { put: row, back: row };
/// The same matrix; what has more axes has its last one as columns.
pub const SAME: How = How { put: matrix, back: matrix };

pub fn turned(data: &TensorData) -> TensorData {
    tensors::turned("a fixture's matrix", data).expect("a matrix of f32")
}

fn row(data: &TensorData) -> TensorData {
    let n = data.shape().num_elements();
    tensors::shaped("a fixture's vector", data, &[1, n]).expect("f32")
}

fn matrix(data: &TensorData) -> TensorData {
    let cols = data.shape().as_slice().last().copied().unwrap_or(1);
    let rows = data.shape().num_elements() / cols;
    tensors::shaped("a fixture's tensor", data, &[rows, cols]).expect("f32")
}

pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/layers")
}

pub fn open(name: &str) -> Named {
    tensors::read(&folder().join(format!("{name}.safetensors")), "tests/fixtures/layers/make.py writes it").expect("a fixture")
}

/// One method on one layer.
pub struct Case<'a> {
    pub fixture: &'a str,
    pub method: &'a str,
    /// `Norm` and `Mlp` make the layer a norm or a branch; every other role a linear layer.
    pub role: Role,
    pub settings: &'a [(&'a str, Value)],
    /// Our parameter (`all/` before those that all places share), the file's `param/` name, how one becomes the other.
    pub params: &'a [(&'a str, &'a str, How)],
    /// The same for what is not trained, with the whole name in the file.
    pub constants: &'a [(&'a str, &'a str, How)],
}

/// Largest differences over scale.
#[derive(Debug)]
pub struct Apart {
    pub y: f32,
    /// By the file's name.
    pub gradients: BTreeMap<String, f32>,
    /// Of the folded weight and bias, where the file has them and our method folds.
    pub merged: Option<f32>,
}

impl Apart {
    pub fn largest(&self) -> f32 {
        let all = self.gradients.values().copied().chain(self.merged).chain([self.y]);
        all.fold(0.0, |m, d| if d.is_nan() { f32::INFINITY } else { m.max(d) })
    }
}

impl Case<'_> {
    /// Fails unless everything agrees.
    #[track_caller]
    pub fn holds(&self) {
        let apart = self.apart();
        assert!(apart.largest() < TOLERANCE, "{}: {apart:?}", self.fixture);
    }

    pub fn apart(&self) -> Apart {
        let file = open(self.fixture);
        let device = Device::flex();
        let (weights, plan) = (self.weights(&file, &device), self.plan(&file));
        let mut bag = Bag::make(&plan, &weights, 0, &device).expect("the bag");
        let named: Vec<_> =
            self.params.iter().map(|(ours, theirs, how)| (self.key(ours), format!("param/{theirs}"), *how)).collect();
        let constants = self.constants.iter().map(|(ours, theirs, how)| (self.key(ours), (*theirs).to_owned(), *how));
        let whole: Vec<_> = named.iter().cloned().chain(constants).collect();
        fill(&mut bag, &file, &whole, &device);

        let mut tuner = Tuner::new(&plan, &weights, &bag, None);
        let x = Tensor::<3>::from_data(file["x"].clone(), &device);
        let y = match self.role {
            Role::Norm => tuner.norm(SITE, x, EPSILON),
            Role::Mlp => tuner.around(SITE, x, |_, x| {
                let (w, b) = (weights["frozen.weight"].clone(), weights["frozen.bias"].clone());
                module::linear(x, w, Some(b.squeeze_dim::<1>(0)))
            }),
            _ => tuner.linear(SITE, x),
        };
        let merged = plan.members[0].card.folds && file.contains_key("merged/weight");
        let merged = merged.then(|| {
            let frozen = bag.frozen();
            let tuner = Tuner::new(&plan, &weights, &frozen, None);
            let site = plan.anatomy.site(SITE).expect("the site");
            let weight = if self.role == Role::Norm { ROW } else { TURNED };
            let w = distance(&tuner.folded(site, "weight").into_data(), &(weight.put)(&file["merged/weight"]));
            w.max(distance(&tuner.folded(site, "bias").into_data(), &row(&file["merged/bias"])))
        });
        let (y, gradients) = compared(y, &bag, &file, &named, &device);
        Apart { y, gradients, merged }
    }

    fn key(&self, ours: &str) -> String {
        match ours.starts_with("all/") {
            true => format!("0.{}/{ours}", self.method),
            false => format!("0.{}/{SITE}/{ours}", self.method),
        }
    }

    fn sizes(&self, file: &Named) -> (usize, usize) {
        match *file["weight"].shape().as_slice() {
            [d_out, d_in] => (d_in, d_out),
            [d] => (d, d),
            _ => panic!("{}: the weight is neither a matrix nor a vector", self.fixture),
        }
    }

    pub fn plan(&self, file: &Named) -> Plan {
        let (d_in, d_out) = self.sizes(file);
        let rows = if self.role == Role::Norm { 1 } else { d_in };
        let parts = match self.role {
            Role::Mlp => vec![],
            _ => vec![Part { name: "weight", rows, cols: d_out }, Part { name: "bias", rows: 1, cols: d_out }],
        };
        let site = Site { path: SITE.into(), role: self.role, block: Some(0), stage: None, place: "layer", d_in, d_out, parts };
        let tokens = file.get("x").map_or(1, |x| x.shape().as_slice()[1]);
        let anatomy = Anatomy {
            sites: vec![site],
            blocks: 1,
            width: d_in,
            heads: 1,
            hidden: d_out,
            tokens,
            ..petl_workbench::backbones::vit::B_16.declare()
        };
        let settings = Settings(self.settings.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect());
        plan(anatomy, vec![placed(self.method, Place::sites(&[SITE]), settings)])
    }

    pub fn weights(&self, file: &Named, device: &Device) -> Weights {
        let stem = if self.role == Role::Mlp { "frozen" } else { SITE };
        let weight = if self.role == Role::Norm { ROW } else { TURNED };
        Weights::from([
            (format!("{stem}.weight"), Tensor::from_data((weight.put)(&file["weight"]), device)),
            (format!("{stem}.bias"), Tensor::from_data(row(&file["bias"]), device)),
        ])
    }
}

pub fn placed(method: &str, place: Place, settings: Settings) -> Placed {
    let card = methods::find(method).unwrap_or_else(|| panic!("no method `{method}`"));
    let faults = settings.faults(card.fields);
    assert!(faults.is_empty(), "{method}: {faults:?}");
    Placed { name: method.into(), place, settings, learning_rate_factor: 1.0, resolved: vec![] }
}

pub fn plan(anatomy: Anatomy, methods: Vec<Placed>) -> Plan {
    let session = Session {
        petl: VERSION,
        title: "fixture".into(),
        seed: 0,
        device: "cpu".into(),
        backbone: Choice::named("vit-tiny-32"),
        data: Choice::named("digits"),
        task: Choice::named("classify"),
        recipe: Recipe::default(),
        methods,
    };
    let mut problems = vec![];
    let plan = Plan::on(&session, anatomy, 3, &mut problems);
    assert!(problems.is_empty(), "{problems:?}");
    plan
}

/// Puts the file's values into the bag: (our key, the file's name, how). Every trained matrix of the stack must get one, and every
/// one of the file must be used; constants that get none stay as they start.
pub fn fill(bag: &mut Bag, file: &Named, named: &[(String, String, How)], device: &Device) {
    let mut values = bag.data();
    let (ours, given): (BTreeSet<_>, BTreeSet<_>) = (
        bag.params.keys().filter(|key| !key.starts_with("head/")).map(String::as_str).collect(),
        named.iter().map(|(key, ..)| key.as_str()).filter(|key| !bag.constants.contains_key(*key)).collect(),
    );
    assert_eq!(ours, given, "our trained matrices, and those that the test gives values");
    let (theirs, used): (BTreeSet<_>, BTreeSet<_>) = (
        file.keys().filter(|name| name.starts_with("param/")).map(String::as_str).collect(),
        named.iter().map(|(_, name, _)| name.as_str()).filter(|name| name.starts_with("param/")).collect(),
    );
    assert_eq!(theirs, used, "the file's parameters, and those that the test uses");
    for (key, name, how) in named {
        values.insert(key.clone(), (how.put)(file.get(name).unwrap_or_else(|| panic!("the file has no `{name}`"))));
    }
    bag.load(&values, device).expect("the file's values fit the bag");
}

/// Distance of `y` from the file's, and of the gradients of sum(y g) by the file's names.
pub fn compared(
    y: Tensor<3>,
    bag: &Bag,
    file: &Named,
    named: &[(String, String, How)],
    device: &Device,
) -> (f32, BTreeMap<String, f32>) {
    let shape = y.dims();
    let values = TensorData::new(host(y.clone()).expect("y"), shape);
    let apart = distance(&values, &file["y"]);
    let g = Tensor::<3>::from_data(file["g"].clone(), device);
    let ours = bag.gradients((y * g).sum().backward());
    let mut gradients = BTreeMap::new();
    for (key, name, how) in named {
        let theirs = &file[&name.replacen("param/", "grad/", 1)];
        let ours = ours.get(key).unwrap_or_else(|| panic!("`{key}` had no gradient"));
        let entry = gradients.entry(name.trim_start_matches("param/").to_owned()).or_insert(0.0_f32);
        *entry = entry.max(distance(&(how.back)(&ours.to_data()), theirs));
    }
    (apart, gradients)
}

/// Largest difference over the largest value; the order of the values counts, not the shape.
pub fn distance(ours: &TensorData, theirs: &TensorData) -> f32 {
    let values = |data: &TensorData| data.try_to_vec::<f32>().expect("f32");
    let (a, b) = (values(ours), values(theirs));
    assert_eq!(a.len(), b.len(), "{:?} and {:?}", ours.shape(), theirs.shape());
    let scale = b.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
    a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, |m: f32, d| if d.is_nan() { f32::NAN } else { m.max(d) }) / scale
}
