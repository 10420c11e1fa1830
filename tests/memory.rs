//! Memory, measured by the allocator on the embedded network. A program of its own, and one test at a time: other tests'
//! memory would be counted too.

use std::ops::ControlFlow;
use std::sync::{Mutex, MutexGuard, PoisonError};

use petl_workbench::board::Run;
use petl_workbench::engine::measure::{Counting, in_use};
use petl_workbench::engine::model::{self, Model};
use petl_workbench::engine::run::{self, Surroundings};
use petl_workbench::engine::{batch, optimise};
use petl_workbench::session::file;
use petl_workbench::tasks::classify;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Bytes saved for the backward pass of one step, measured and predicted. The second step, when nothing is set up any more.
fn activations(preset: &str, more: &[&str]) -> (f64, f64) {
    let set: Vec<String> =
        more.iter().chain(&["backbone.settings.weights=random", "device=cpu"]).map(|s| (*s).to_owned()).collect();
    let session = file::set(&file::find(preset).expect("a preset"), &set).expect("set");
    let mut model = Model::make(&session, &burn::tensor::Device::flex()).expect("a model");
    let data = model::data(&session).expect("data");
    let mut optimiser = optimise::Optimiser::new(&session.recipe, Default::default());
    let picked: Vec<usize> = (0..session.recipe.batch_size).collect();
    let mut measured = 0;
    for _ in 0..2 {
        let (pixels, labels) =
            batch::tensors(&model.plan.anatomy.entry, &data.train, &picked, None, &model.device).expect("a batch");
        let before = in_use();
        let loss = classify::loss(model.logits(&model.bag, pixels, Some(1)), labels, 0.0);
        measured = in_use().saturating_sub(before);
        let gradients = model.bag.gradients(loss.backward());
        optimiser.step(&mut model.bag, gradients, 1e-3);
    }
    (measured as f64, model.plan.cost.bytes.activations as f64)
}

#[test]
fn a_ladder_saves_less_than_half_of_what_full_fine_tuning_saves_and_predictions_hold() {
    let _alone = alone();
    let mut rows = vec![];
    for preset in ["digits-full", "digits-lora", "houlsby", "vpt-deep", "unipelt", "p-adapter", "digits-ladder"] {
        let (measured, predicted) = activations(preset, &[]);
        rows.push((preset, measured, predicted, predicted / measured));
    }
    let (measured, predicted) = activations("prefix", &["methods.0.settings.length=64"]);
    rows.push(("prefix", measured, predicted, predicted / measured));
    let of = |name: &str| rows.iter().find(|r| r.0 == name).expect("measured").1;
    assert!(of("digits-ladder") < 0.5 * of("digits-full"), "{rows:#?}");
    assert!(of("digits-lora") < of("digits-full"), "{rows:#?}");
    for (preset, _, _, ratio) in &rows {
        assert!((0.6..1.67).contains(ratio), "{preset}: predicted / measured = {ratio:.2} {rows:#?}");
    }
}

#[test]
fn one_cell_is_predicted_with_the_attention_that_follows_it() {
    let _alone = alone();
    for role in ["q", "k", "o"] {
        let cell = format!("methods.0.place.sites=[\"blocks.5.attn.{role}\"]");
        let (measured, predicted) = activations("digits-lora", &["methods.0.place.roles=[]", &cell]);
        let ratio = predicted / measured;
        assert!((0.6..1.67).contains(&ratio), "{role}: predicted {predicted}, measured {measured}, ratio {ratio:.2}");
    }
}

#[test]
fn the_peak_of_training_is_apart_from_that_of_evaluation() {
    let _alone = alone();
    let peaks = |preset: &str| {
        let set = ["recipe.epochs=1", "device=cpu", "backbone.settings.weights=random", "recipe.batch_size=16"];
        let set =
            set.into_iter().chain(["data.settings.train=48", "data.settings.test=200"]).map(str::to_owned).collect::<Vec<_>>();
        let session = file::set(&file::find(preset).expect("a preset"), &set).expect("set");
        let folder = tempfile::tempdir().expect("a folder");
        let events = std::cell::RefCell::new(vec![]);
        let send = |event| {
            events.borrow_mut().push(event);
            Ok(())
        };
        let around = Surroundings { run: "test", folder: folder.path(), send: &send, ask: &|| Ok(ControlFlow::Continue(())) };
        run::train(&session, &around).expect("trained");
        let mut run = Run::new("test", folder.path(), None);
        events.take().iter().for_each(|event| run.fold(event));
        (run.peak_bytes(), run.evaluation_peak_bytes(), run.steps.last().expect("a step").activation_bytes)
    };
    let (full, full_evaluation, saved) = peaks("digits-full");
    let (ladder, ladder_evaluation, _) = peaks("digits-ladder");
    // 200 pictures at once without a graph, against 16 with one.
    assert!(ladder < full, "the ladder saves memory: {ladder} and {full}");
    assert!(full - ladder > saved / 3, "as much of it as the activations say: {full} - {ladder}, saved {saved}");
    assert!(ladder < ladder_evaluation, "evaluation is not in the peak of training: {ladder} and {ladder_evaluation}");
    assert!(full_evaluation > 0);
}
