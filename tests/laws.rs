//! Laws over every catalogue entry, and the exact counts that the papers give.

mod common;

use std::collections::{BTreeMap, BTreeSet};

use burn::tensor::{Device, Tensor};
use common::{CLASSES, TOY, apart, batch, folded, logits, placed, session, step, toy};
use petl_workbench::backbones::{self, vit, weights};
use petl_workbench::engine::bag::Bag;
use petl_workbench::engine::batch::Rows;
use petl_workbench::engine::optimise::{Optimiser, learning_rate};
use petl_workbench::engine::tuner::Tuner;
use petl_workbench::methods::{self, Card};
use petl_workbench::plan::Plan;
use petl_workbench::plan::anatomy::Role;
use petl_workbench::session::settings::{Field, Kind, Settings, Value};
use petl_workbench::session::{Optimizer, Place, Placed, Recipe, Schedule};
use petl_workbench::{datasets, exports, tasks};

/// Every card with its default settings, and each of its fields once at every extreme, where the plan allows it.
fn settings_of(card: &Card) -> Vec<Settings> {
    let mut all = vec![Settings::default()];
    for field in card.fields {
        let values: Vec<Value> = match field.kind {
            Kind::Flag(_) => vec![Value::Flag(false), Value::Flag(true)],
            Kind::Whole { min, max, .. } => vec![Value::Whole(min), Value::Whole(max)],
            Kind::Real { min, max, .. } => vec![Value::Real(min), Value::Real(max)],
            Kind::Choice(words) => words.iter().map(|w| Value::Text((*w).into())).collect(),
            Kind::Text(text) => vec![Value::Text(text.into())],
        };
        for value in values {
            let mut settings = Settings::default();
            settings.set(field.name, value);
            all.push(settings);
        }
    }
    all
}

fn optimiser(rate: f64) -> Optimiser {
    let recipe =
        Recipe { learning_rate: rate, weight_decay: 0.0, schedule: Schedule::Constant, warm_up: 0.0, ..Recipe::default() };
    Optimiser::new(&recipe, BTreeMap::new())
}

#[test]
fn counts_are_those_of_the_papers() {
    for card in methods::CATALOG {
        for published in card.published {
            let mut set = Settings::default();
            published.settings.iter().for_each(|(name, text)| set.set(name, read(card.fields, name, text)));
            let mut problems = vec![];
            let stack = vec![Placed { place: Place::roles(published.roles), ..placed(card, set) }];
            let plan = Plan::on(&session(stack), vit::B_16.declare(), 100, &mut problems);
            assert!(problems.is_empty(), "{}, {}: {problems:?}", card.name, published.what);
            assert_eq!(plan.head_count(), 768 * 100 + 100, "head");
            assert_eq!(plan.trainable(), published.trainable, "{}, {}", card.name, published.what);
        }
        assert!(!card.published.is_empty(), "{}: no count to hold it to", card.name);
    }
}

#[test]
fn declared_anatomy_is_the_visited_one_for_every_configuration() {
    let wide = vit::Vit { width: 48, heads: 4, blocks: 3, patch: 2, ..TOY };
    for net in [TOY, wide] {
        let mut problems = vec![];
        let plan = Plan::on(&session(vec![]), net.declare(), CLASSES, &mut problems);
        let device = Device::flex();
        let weights = weights::random(&plan.anatomy, 1, &device);
        let bag = Bag::default();
        let mut tuner = Tuner::new(&plan, &weights, &bag, None);
        use petl_workbench::backbones::Backbone;
        let features = net.forward(&mut tuner, Tensor::<4>::zeros([2, 3, 8, 8], &device).into());
        let declared: Vec<_> = plan.anatomy.sites.iter().map(|s| s.path.clone()).collect();
        assert_eq!(tuner.visited, declared);
        assert_eq!(features.dims(), [2, plan.anatomy.tokens, net.width]);
    }
}

#[test]
fn every_setting_at_its_default_and_extremes_builds_and_answers() {
    for card in methods::CATALOG {
        for settings in settings_of(card) {
            let session = session(vec![placed(card, settings.clone())]);
            let mut problems = vec![];
            let plan = Plan::on(&session, TOY.declare(), CLASSES, &mut problems);
            if !problems.is_empty() {
                // Only a size that does not suit the network may be refused, and with words that name what fits.
                assert!(settings != Settings::default() && problems[0].words.contains("fit"), "{}: {problems:?}", card.name);
                continue;
            }
            let model = toy(&session);
            assert_eq!(model.bag.count(), plan.trainable() + plan.head_count(), "{}: declared = real", card.name);
            let answer = logits(&model);
            assert!(answer.iter().all(|v| v.is_finite()), "{} {settings:?}", card.name);
        }
    }
}

#[test]
fn identity_at_the_start_is_as_the_card_says() {
    let frozen = logits(&toy(&session(vec![])));
    for card in methods::CATALOG {
        let model = toy(&session(vec![placed(card, Settings::default())]));
        let difference = apart(&frozen, &logits(&model));
        assert_eq!(difference == 0.0, card.identity_at_start, "{}: largest difference at the start {difference}", card.name);
    }
}

#[test]
fn every_trainable_has_had_a_gradient_by_the_second_step() {
    for card in methods::CATALOG {
        for variant in std::iter::once(None).chain(card.variants.iter().map(Some)) {
            let mut stack = placed(card, Settings::default());
            if let Some(variant) = variant {
                stack.place = Place::roles(variant.roles);
                for (name, value) in variant.settings {
                    stack.settings.set(name, read(card.fields, name, value));
                }
            }
            stack.settings.set("dropout", Value::Real(0.0));
            let mut model = toy(&session(vec![stack]));
            let mut optimiser = optimiser(1e-2);
            let mut touched = BTreeSet::new();
            for _ in 0..2 {
                let (_, squares) = step(&mut model, &mut optimiser, 1e-2);
                touched.extend(squares.into_iter().filter(|(_, v)| *v > 0.0).map(|(k, _)| k));
            }
            // A bias of keys shifts all scores of a query alike, which softmax does not see: its gradient is zero by
            // mathematics, and here only rounding.
            let untouched: Vec<_> = model.bag.params.keys().filter(|k| !touched.contains(*k)).collect();
            let by_mathematics = |k: &str| k.contains("attn.k/bias") || k.contains("/k_") && k.ends_with("_bias");
            assert!(untouched.iter().all(|k| by_mathematics(k)), "{}: no gradient for {untouched:?}", card.name);
        }
    }
}

fn read(fields: &[Field], name: &str, text: &str) -> Value {
    let field = fields.iter().find(|f| f.name == name).expect("a variant names a field of its card");
    match field.kind {
        Kind::Whole { .. } => Value::Whole(text.parse().expect("a whole number")),
        Kind::Real { .. } => Value::Real(text.parse().expect("a number")),
        Kind::Flag(_) => Value::Flag(text == "true"),
        Kind::Choice(_) | Kind::Text(_) => Value::Text(text.into()),
    }
}

#[test]
fn the_loss_falls_and_the_backbones_bits_stay() {
    for card in methods::CATALOG {
        let mut model = toy(&session(vec![placed(card, Settings::default())]));
        let before: BTreeMap<_, _> = model.weights.iter().map(|(k, v)| (k.clone(), v.to_data())).collect();
        let mut optimiser = optimiser(1e-2);
        let (first, _) = step(&mut model, &mut optimiser, 1e-2);
        let last = (0..15).map(|_| step(&mut model, &mut optimiser, 1e-2).0).last().expect("steps");
        assert!(last < first * 0.9, "{}: loss {first} to {last}", card.name);
        for (name, value) in model.weights.iter() {
            assert_eq!(value.to_data(), before[name], "{}: `{name}` moved", card.name);
        }
    }
}

#[test]
fn folded_weights_give_the_unfolded_output() {
    let one = methods::CATALOG.iter().filter(|c| c.folds).map(|c| vec![placed(c, Settings::default())]);
    // Both stand at `down`: IA3 changes its input, LoRA adds to its output, in either order of the stack.
    let at_down = |card| Placed { place: Place::roles(&[Role::Down]), ..placed(card, Settings::default()) };
    let (ia3, lora) = (at_down(&methods::ia3::CARD), at_down(&methods::lora::CARD));
    // OFT changes the input of `down` too, and does not commute with IA3; RepAdapter changes it for q, k, v and `up` at once.
    let (oft, boft) = (at_down(&methods::oft::CARD), placed(&methods::boft::CARD, Settings::default()));
    let rep = || placed(&methods::repadapter::CARD, Settings::default());
    let stacks = [
        vec![ia3.clone(), lora.clone()],
        vec![lora.clone(), ia3.clone()],
        vec![ia3.clone(), oft.clone()],
        vec![oft, ia3, lora],
        vec![boft.clone(), rep(), placed(&methods::oft::CARD, Settings::default()), rep()],
        vec![rep(), placed(&methods::bitfit::CARD, Settings::default()), boft],
    ];
    for stack in one.chain(stacks) {
        let names: Vec<_> = stack.iter().map(|p| p.name.clone()).collect();
        let mut model = toy(&session(stack));
        let mut optimiser = optimiser(1e-2);
        (0..3).for_each(|_| {
            step(&mut model, &mut optimiser, 1e-2);
        });
        let unfolded = logits(&model);
        let difference = apart(&unfolded, &logits(&folded(&model)));
        assert!(difference < 1e-5, "{names:?}: {difference}");
        let moved = apart(&unfolded, &logits(&toy(&session(vec![]))));
        assert!(moved > 1e-3, "{names:?}: training changed nothing, so the law above shows nothing");
    }
}

#[test]
fn saved_and_loaded_is_the_same_bit_for_bit() {
    for card in methods::CATALOG {
        let session = session(vec![placed(card, Settings::default())]);
        let mut model = toy(&session);
        step(&mut model, &mut optimiser(1e-2), 1e-2);
        let folder = tempfile::tempdir().expect("a folder");
        exports::own::write(&session, &model, folder.path()).expect("written");
        let values = exports::own::values(folder.path()).expect("read");
        let mut back = toy(&session);
        back.bag.load(&values, &back.device).expect("loaded");
        assert_eq!(logits(&model), logits(&back), "{}", card.name);
    }
}

#[test]
fn two_runs_of_one_seed_are_the_same_and_another_seed_is_not() {
    let run = |seed| {
        let mut session = session(vec![placed(&methods::lora::CARD, Settings::default())]);
        session.seed = seed;
        let mut model = toy(&session);
        let mut optimiser = optimiser(1e-2);
        (0..3).map(|_| step(&mut model, &mut optimiser, 1e-2).0).collect::<Vec<_>>()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn dropout_goes_by_the_sample_however_the_batch_is_cut() {
    let samples = [40, 7, 12, 3, 25, 9];
    for card in methods::CATALOG.iter().filter(|card| card.fields.iter().any(|f| f.name == "dropout")) {
        let mut set = Settings::default();
        set.set("dropout", Value::Real(0.5));
        let mut model = toy(&session(vec![placed(card, set)]));
        step(&mut model, &mut optimiser(1e-1), 1e-1); // away from zero, so that what is dropped is heard
        let (bag, (pixels, _)) = (model.bag.frozen(), batch(&model.device));
        let of = |from: usize, to: usize, seed| {
            let pixels = pixels.clone().narrow(0, from, to - from);
            let rows = Rows { samples: &samples[from..to], ..Rows::default() };
            petl_workbench::engine::model::host(model.logits_of(rows, &bag, pixels, Some(seed))).expect("logits")
        };
        let whole = of(0, 6, 1);
        let parts = [of(0, 2, 1), of(2, 3, 1), of(3, 6, 1)].concat();
        assert!(apart(&whole, &parts) < 1e-5, "{}: {}", card.name, apart(&whole, &parts));
        assert!(apart(&whole, &of(0, 6, 2)) > 1e-4, "{}: another step drops the same", card.name);
    }
}

#[test]
fn a_stack_of_everything_trains_together() {
    let stack = ["lora", "bottleneck", "prompt", "prefix", "ia3", "bitfit"];
    let stack = stack.iter().map(|name| placed(methods::find(name).expect("in the catalogue"), Settings::default())).collect();
    let mut model = toy(&session(stack));
    let mut optimiser = optimiser(1e-2);
    let (first, _) = step(&mut model, &mut optimiser, 1e-2);
    let last = (0..15).map(|_| step(&mut model, &mut optimiser, 1e-2).0).last().expect("steps");
    assert!(last < first * 0.8, "{first} to {last}");
}

#[test]
fn both_optimisers_train() {
    for (optimizer, momentum) in [(Optimizer::Sgd, 0.0), (Optimizer::Sgd, 0.9), (Optimizer::AdamW, 0.9)] {
        let recipe = Recipe { optimizer, momentum, clip_norm: 0.0, ..Recipe::default() };
        let mut model = toy(&session(vec![placed(&methods::lora::CARD, Settings::default())]));
        let mut optimiser = Optimiser::new(&recipe, BTreeMap::new());
        let (first, _) = step(&mut model, &mut optimiser, 0.05);
        let last = (0..20).map(|_| step(&mut model, &mut optimiser, 0.05).0).last().expect("steps");
        assert!(last < first, "{optimizer:?}: {first} to {last}");
    }
}

#[test]
fn every_schedule_warms_up_and_then_does_as_it_is_called() {
    let rates = |schedule, warm_up, steps: usize| -> Vec<f64> {
        let recipe = Recipe { schedule, warm_up, learning_rate: 2.0, ..Recipe::default() };
        (0..steps).map(|n| learning_rate(&recipe, n, steps)).collect()
    };
    for schedule in [Schedule::Cosine, Schedule::Constant] {
        // Ten steps up in a straight line, the first one above zero, the tenth at the full rate.
        for (n, rate) in rates(schedule, 0.1, 100)[..10].iter().enumerate() {
            assert!((rate - 0.2 * (n as f64 + 1.0)).abs() < 1e-9, "{schedule:?}, step {n}: {rate}");
        }
        assert_eq!(rates(schedule, 0.0, 100)[0], 2.0, "{schedule:?} without warm-up begins at the full rate");
        assert!(rates(schedule, 1.0, 7).windows(2).all(|w| w[0] < w[1]), "{schedule:?} that only warms up");
        assert_eq!(rates(schedule, 0.0, 1), [2.0], "{schedule:?}, one step");
    }
    assert!(rates(Schedule::Constant, 0.1, 100)[10..].iter().all(|rate| *rate == 2.0));
    let cosine = rates(Schedule::Cosine, 0.1, 100);
    assert!(cosine[10..].windows(2).all(|w| w[0] > w[1]), "it only falls");
    assert!((cosine[55] - 1.0).abs() < 1e-9, "half of it at half of the way: {}", cosine[55]);
    assert!(cosine[99] > 0.0 && cosine[99] < 0.002, "{}", cosine[99]);
}

#[test]
fn clipping_bounds_the_step_of_plain_sgd() {
    let recipe = Recipe { optimizer: Optimizer::Sgd, momentum: 0.0, weight_decay: 0.0, clip_norm: 1e-3, ..Recipe::default() };
    let mut model = toy(&session(vec![placed(&methods::full::CARD, Settings::default())]));
    let before = model.bag.data();
    let mut optimiser = Optimiser::new(&recipe, BTreeMap::new());
    step(&mut model, &mut optimiser, 1.0);
    let after = model.bag.data();
    let moved: f32 = before
        .iter()
        .map(|(key, a)| {
            let (a, b) = (a.try_to_vec::<f32>().expect("f32"), after[key].try_to_vec::<f32>().expect("f32"));
            a.iter().zip(&b).map(|(a, b)| (a - b).powi(2)).sum::<f32>()
        })
        .sum::<f32>()
        .sqrt();
    assert!((moved - 1e-3).abs() < 2e-5, "moved by {moved}");
}

#[test]
fn weight_decay_is_decoupled_takes_matrices_of_one_row_and_leaves_vectors_alone() {
    let mut set = Settings::default();
    set.set("rank", Value::Whole(1));
    let (rate, weight_decay, steps) = (0.1, 0.5, 3);
    for optimizer in [Optimizer::AdamW, Optimizer::Sgd] {
        let mut model = toy(&session(vec![placed(&methods::lora::CARD, set.clone())]));
        let ones = |t: &Tensor<2>| t.ones_like().inner().autodiff().require_grad();
        model.bag.params.values_mut().for_each(|value| *value = ones(value));
        let mut optimiser = Optimiser::new(&Recipe { optimizer, weight_decay, ..Recipe::default() }, BTreeMap::new());
        for _ in 0..steps {
            // No gradient at all: what moves is the decay alone, and no momentum gathers it.
            let none = model.bag.params.iter().map(|(k, v)| (k.clone(), v.clone().inner().zeros_like())).collect();
            optimiser.step(&mut model.bag, none, rate);
        }
        let left = (1.0 - rate * weight_decay).powi(steps) as f32;
        for (key, data) in model.bag.data() {
            let wanted = if key == "head/bias" { 1.0 } else { left }; // B is [1, d] here, and a matrix
            let found = data.try_to_vec::<f32>().expect("f32");
            assert!(apart(&found, &vec![wanted; found.len()]) < 1e-6, "{optimizer:?}, {key}: {} and not {wanted}", found[0]);
        }
    }
}

#[test]
fn what_can_have_one_row_says_whether_it_is_a_vector() {
    let one = |name: &str| (name.to_owned(), Value::Whole(1));
    for (card, setting) in [
        (&methods::lora::CARD, "rank"),
        (&methods::bottleneck::CARD, "bottleneck"),
        (&methods::prompt::CARD, "tokens"),
        (&methods::prefix::CARD, "length"),
    ] {
        let stack = vec![placed(card, Settings([one(setting)].into()))];
        let plan = Plan::on(&session(stack), TOY.declare(), CLASSES, &mut vec![]);
        for (key, spec) in plan.specs().iter().filter(|(_, spec)| spec.rows == 1) {
            assert_eq!(spec.vector, key.ends_with("bias"), "{key}");
        }
    }
}

#[test]
fn cards_speak_for_themselves() {
    let mut names = BTreeSet::new();
    for card in methods::CATALOG {
        assert!(names.insert(card.name), "two methods are called {}", card.name);
        for (what, words) in [
            ("title", card.title),
            ("help", card.help),
            ("formula", card.formula),
            ("paper", card.paper),
            ("caution", card.caution),
            ("licence", card.licence),
            ("count", card.count),
            ("drawing", card.drawing),
            ("released", card.released),
        ] {
            assert!(!words.is_empty(), "{}: no {what}", card.name);
        }
        assert!(card.help.ends_with('.') && card.year > 1990 && card.learning_rate > 0.0, "{}", card.name);
        assert!(!card.default_roles.is_empty() && card.default_roles.iter().all(|r| card.roles.contains(r)), "{}", card.name);
        for field in card.fields {
            assert!(field.help.ends_with('.'), "{}.{}: help is a sentence", card.name, field.name);
            assert_eq!(field.accept(&field.default()), Ok(field.default()), "{}.{}", card.name, field.name);
        }
        for variant in card.variants {
            assert!(variant.roles.iter().all(|r| card.roles.contains(r)), "{}: {}", card.name, variant.title);
            for (name, text) in variant.settings {
                let value = read(card.fields, name, text);
                let field = card.fields.iter().find(|f| f.name == *name).expect("a field");
                assert!(field.accept(&value).is_ok(), "{}: {} = {text}", card.name, name);
            }
        }
    }
    assert!(backbones::CATALOG.iter().all(|c| !c.help.is_empty() && !c.licence.is_empty() && !c.source.is_empty()));
    assert!(datasets::CATALOG.iter().all(|c| !c.help.is_empty()
        && !c.licence.is_empty()
        && !c.source.is_empty()
        && c.fields.iter().all(|f| !f.help.is_empty())));
    assert!(tasks::CATALOG.iter().all(|c| !c.help.is_empty()) && exports::CATALOG.iter().all(|c| !c.help.is_empty()));
}

#[test]
fn the_toy_batch_is_what_the_laws_think() {
    let (pixels, labels) = batch(&Device::flex());
    assert_eq!((pixels.dims(), labels.dims()), ([6, 3, 8, 8], [6]));
}
