//! A method of your own, in the file you are reading: scale and shift after every norm (Lian et al. 2022, SSF). It declares its
//! parameters, acts at one door, and trains. In `src/methods/` it would be this file and two lines of the catalogue.
//! `cargo run --release --example 05_your_own_method`

#![expect(clippy::print_stdout, reason = "an example shows what it finds")]

use anyhow::Result;
use burn::tensor::{Device, Tensor};
use petl_workbench::engine::bag::{At, Bag};
use petl_workbench::engine::model::{self, Model};
use petl_workbench::engine::{batch, optimise};
use petl_workbench::methods::{Card, Family, Init, Method, ParamSpec, Placement};
use petl_workbench::plan::anatomy::{Anatomy, Door, Role, Site};
use petl_workbench::plan::{Member, Plan};
use petl_workbench::session::{Settings, file};
use petl_workbench::tasks::classify;

struct ScaleShift;

impl Method for ScaleShift {
    fn plan(&self, _anatomy: &Anatomy, sites: &[&Site], _set: &Settings) -> Result<Vec<Placement>, String> {
        let params = |d| vec![ParamSpec::new("gamma", 1, d, Init::Ones), ParamSpec::new("beta", 1, d, Init::Zeros)];
        Ok(sites.iter().map(|site| Placement::new(site, Door::After, params(site.d_out))).collect())
    }

    fn after(&self, at: &At, _x: &Tensor<3>, y: Tensor<3>) -> Tensor<3> {
        y * at.param("gamma").unsqueeze::<3>() + at.param("beta").unsqueeze::<3>() // [batch, positions, d]
    }
}

static CARD: Card = Card {
    name: "scale-shift",
    title: "Scale and shift",
    family: Family::Scale,
    help: "Scales and shifts what every norm gives.",
    formula: "y ← γ ⊙ y + β",
    drawing: "x ──█ norm █── ⊙ ▒ γ ▒── + ▒ β ▒── y",
    count: "2 · d a place",
    published: &[],
    paper: "Lian et al., Scaling and Shifting Your Features",
    year: 2022,
    learning_rate: 1e-2,
    released: "Not compared.",
    caution: "Folds into the layer before it.",
    licence: "MIT",
    fields: &[],
    variants: &[],
    roles: &[Role::Norm],
    default_roles: &[Role::Norm],
    identity_at_start: true,
    folds: false,
    method: &ScaleShift,
};

fn main() -> Result<()> {
    let (session, device) = (file::find("digits-probe")?, Device::flex());
    let mut plan = Plan::of(&session);
    let sites: Vec<&Site> = plan.anatomy.sites.iter().filter(|s| s.role == Role::Norm).collect();
    let placements = CARD.method.plan(&plan.anatomy, &sites, &Settings::default()).map_err(anyhow::Error::msg)?;
    let sites = sites.iter().map(|s| s.path.clone()).collect();
    plan.members.push(Member {
        index: 0,
        card: &CARD,
        settings: Settings::default(),
        sites,
        placements,
        learning_rate_factor: 1.0,
    });
    println!("{}: {} parameters at {} places", CARD.title, plan.trainable(), plan.members[0].sites.len());

    let Model { backbone, weights, .. } = Model::make(&session, &device)?;
    let bag = Bag::make(&plan, &weights, session.seed, &device)?;
    let mut model = Model { plan, backbone, weights, bag, device, names: None };
    let data = model::data(&session)?;
    let mut optimiser = optimise::Optimiser::new(&session.recipe, Default::default());
    for (step, picked) in batch::epoch(data.train.len(), 32, 1, 0).iter().take(12).enumerate() {
        let (pixels, labels) = batch::tensors(&model.plan.anatomy.entry, &data.train, picked, None, &model.device)?;
        let loss = classify::loss(model.logits(&model.bag, pixels, Some(1)), labels, 0.0);
        println!("step {step:2}  loss {:.3}", loss.clone().inner().into_scalar::<f32>());
        let gradients = model.bag.gradients(loss.backward());
        optimiser.step(&mut model.bag, gradients, 5e-3);
    }
    Ok(())
}
