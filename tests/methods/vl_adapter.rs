//! methods/06: what bottleneck adapters and HyperFormer share between tasks, and what each task has of its own.

use burn::tensor::Tensor;
use petl_workbench::backbones::vit::B_16;
use petl_workbench::engine::batch::Rows;
use petl_workbench::engine::model::Model;
use petl_workbench::methods::{Gradients, bottleneck, hyperformer};
use petl_workbench::plan::Plan;
use petl_workbench::plan::anatomy::Role;
use petl_workbench::session::settings::{Settings, Value};
use petl_workbench::session::{Choice, Place, Placed, Session};
use petl_workbench::tasks::classify;

use crate::common::{CLASSES, TOY, apart, batch, logits, session, toy};
use crate::through::{at, gap, list, put, set, shake, text, values};

/// The task of each sample of the toy batch: mixed, and not equally many of each.
const OF: [u16; 6] = [2, 0, 1, 0, 2, 0];

/// What all places have in common, and all tasks.
const SHARE: [&str; 4] = ["nothing", "down", "up", "everything"];
const TASKS: [&str; 4] = ["one for all", "one each", "down shared", "up shared"];

/// A session of three tasks.
fn several(stack: Vec<Placed>) -> Session {
    Session { data: Choice::named("three-tasks"), ..session(stack) }
}

fn houlsby(more: &[(&str, Value)]) -> Placed {
    let usual = [("activation", text("gelu")), ("bottleneck", Value::Whole(4))];
    at(&bottleneck::CARD, set(&[&usual, more].concat()), Place::roles(&[Role::Attn, Role::Mlp]))
}

fn by_task(tasks: &str) -> Placed {
    houlsby(&[("tasks", text(tasks))])
}

fn generated(more: &[(&str, Value)]) -> Placed {
    at(&hyperformer::CARD, set(more), Place::roles(&[Role::Attn, Role::Mlp]))
}

/// Logits of the toy batch, each sample of its task; dropout off.
fn answers(model: &Model) -> Vec<f32> {
    answers_as(model, &OF)
}

fn answers_as(model: &Model, tasks: &[u16]) -> Vec<f32> {
    let rows = Rows { tasks, ..Rows::default() };
    list(model.logits_of(rows, &model.bag.frozen(), batch(&model.device).0, None))
}

/// Gradients of the loss, by key.
fn gradients(model: &Model) -> Gradients {
    let (pixels, labels) = batch(&model.device);
    let rows = Rows { tasks: &OF, ..Rows::default() };
    model.bag.gradients(classify::loss(model.logits_of(rows, &model.bag, pixels, None), labels, 0.0).backward())
}

/// That part of a matrix of all tasks which belongs to `task`.
fn part(all: &Tensor<2>, task: usize) -> Tensor<2> {
    let rows = all.dims()[0] / 3;
    all.clone().narrow(0, task * rows, rows)
}

/// The tasks whose samples are answered differently, to the last bit.
fn changed(before: &[f32], after: &[f32]) -> Vec<u16> {
    let rows = before.chunks(CLASSES).zip(after.chunks(CLASSES)).zip(OF);
    let mut tasks: Vec<u16> = rows.filter(|((a, b), _)| a != b).map(|(_, task)| task).collect();
    assert!((0..3).all(|t| [0, OF.iter().filter(|o| **o == t).count()].contains(&tasks.iter().filter(|o| **o == t).count())));
    tasks.sort_unstable();
    tasks.dedup();
    tasks
}

/// Changes the rows of `task` in the parameter `key`, or all rows.
fn nudge(model: &mut Model, key: &str, task: Option<usize>) {
    let old = model.bag.params[key].clone().inner();
    let [rows, cols] = old.dims();
    let here = |row: usize| task.is_none_or(|task| row / (rows / 3) == task);
    let more: Vec<f32> = (0..rows * cols).map(|n| if here(n / cols) { 0.5 + n as f32 * 0.01 } else { 0.0 }).collect();
    let more = Tensor::from_data(burn::tensor::TensorData::new(more, [rows, cols]), &model.device);
    put(&mut model.bag, key, old + more);
}

#[test]
fn a_tasks_embedding_changes_its_own_answers_and_a_generator_all() {
    // (h) 2.
    let fresh = || {
        let mut model = toy(&several(vec![generated(&[])]));
        shake(&mut model, 0.3);
        model
    };
    let before = answers(&fresh());
    assert_eq!(fresh().bag.params["0.hyperformer/all/task"].dims(), [3, 64]);
    let after = |name: &str, task| {
        let mut model = fresh();
        nudge(&mut model, &format!("0.hyperformer/all/{name}"), task);
        changed(&before, &answers(&model))
    };
    for task in 0..3 {
        assert_eq!(after("task", Some(task)), [task as u16]);
    }
    for name in ["G_W_dn", "G_b_dn_bias", "G_W_up", "G_gamma", "M_1", "layer_0", "place_mlp"] {
        assert_eq!(after(name, None), [0, 1, 2], "{name}");
    }
}

#[test]
fn what_a_task_has_of_its_own_changes_its_own_answers_alone() {
    for (tasks, own, common) in [
        ("one each", &["down", "down_bias", "s", "up", "up_bias"][..], &[][..]),
        ("down shared", &["up", "up_bias"], &["down", "down_bias", "s"]),
        ("up shared", &["down", "down_bias"], &["up", "up_bias", "s"]),
        ("one for all", &[], &["down", "down_bias", "s", "up", "up_bias"]),
    ] {
        let fresh = || {
            let mut model = toy(&several(vec![houlsby(&[("tasks", text(tasks)), ("learn_scale", Value::Flag(true))])]));
            shake(&mut model, 0.3);
            model
        };
        let before = answers(&fresh());
        let after = |name: &str, task| {
            let mut model = fresh();
            nudge(&mut model, &format!("0.bottleneck/blocks.0.mlp/{name}"), task);
            changed(&before, &answers(&model))
        };
        for name in own {
            (0..3).for_each(|task| assert_eq!(after(name, Some(task)), [task as u16], "{tasks}, {name}"));
        }
        for name in common {
            assert_eq!(after(name, None), [0, 1, 2], "{tasks}, {name}");
        }
    }
}

/// The network of one task that has what `model` has for `task`.
fn of_one_task(model: &Model, stack: Vec<Placed>, task: usize) -> Model {
    let mut one = toy(&session(stack));
    let keys: Vec<String> = one.bag.params.keys().cloned().collect();
    for key in keys {
        let all = model.bag.params[&key].clone().inner();
        let own = if all.dims() == one.bag.params[&key].dims() { all } else { part(&all, task) };
        put(&mut one.bag, &key, own);
    }
    one
}

#[test]
fn every_sample_goes_through_its_own_tasks_adapter() {
    let mut stacks = vec![generated(&[]), generated(&[("norm", Value::Flag(false))])];
    for share in SHARE {
        for tasks in TASKS {
            let more = [("share", text(share)), ("tasks", text(tasks)), ("learn_scale", Value::Flag(true))];
            stacks.push(houlsby(&more));
        }
    }
    stacks.push(houlsby(&[("tasks", text("one each")), ("form", text("parallel"))]));
    for stack in stacks {
        let mut model = toy(&several(vec![stack.clone()]));
        shake(&mut model, 0.3);
        let found = answers(&model);
        for task in 0..3 {
            let alone = logits(&of_one_task(&model, vec![stack.clone()], task));
            for (n, (a, b)) in found.chunks(CLASSES).zip(alone.chunks(CLASSES)).enumerate() {
                if usize::from(OF[n]) == task {
                    assert!(apart(a, b) < 1e-5, "{:?}, sample {n}: {}", stack.settings, apart(a, b));
                }
            }
            // A batch of one task, too.
            assert!(apart(&answers_as(&model, &[task as u16; 6]), &alone) < 1e-5, "{:?}", stack.settings);
        }
    }
}

/// A model in which all tasks have the same values.
fn alike(tasks: &str) -> Model {
    let mut model = toy(&several(vec![by_task(tasks)]));
    let one = toy(&session(vec![by_task(tasks)]));
    let keys: Vec<_> = one.bag.params.keys().filter(|k| !k.starts_with("head/")).cloned().collect();
    for (n, key) in keys.iter().enumerate() {
        let value = values(one.bag.params[key].dims(), n as f32, &one) * 0.3;
        let [rows, _] = model.bag.params[key].dims();
        let copies = rows / value.dims()[0];
        put(&mut model.bag, key, Tensor::cat(vec![value; copies], 0));
    }
    model
}

#[test]
fn the_gradient_of_what_tasks_share_is_the_sum_over_tasks() {
    // (h) 3 and 4: what is shared is one buffer, and its gradient the sum of those that each task's own copy would have.
    let apart_ones = alike("one each");
    let own = gradients(&apart_ones);
    for (tasks, common) in [
        ("down shared", &["down", "down_bias"][..]),
        ("up shared", &["up", "up_bias"]),
        ("one for all", &["down", "down_bias", "up", "up_bias"]),
    ] {
        let model = alike(tasks);
        assert!(apart(&answers(&model), &answers(&apart_ones)) < 1e-6, "{tasks}: the same network");
        let found = gradients(&model);
        for site in ["blocks.0.attn", "blocks.0.mlp", "blocks.1.attn", "blocks.1.mlp"] {
            for name in ["down", "down_bias", "up", "up_bias"] {
                let key = format!("0.bottleneck/{site}/{name}");
                let copies = own[&key].dims()[0] / found[&key].dims()[0];
                assert_eq!(copies, if common.contains(&name) { 3 } else { 1 }, "{tasks}, {name}: buffers");
                let sum = match copies {
                    1 => own[&key].clone(),
                    _ => (0..3).map(|task| part(&own[&key], task)).reduce(|a, b| a + b).expect("three tasks"),
                };
                let size = list(sum.clone()).iter().fold(0.0_f32, |most, v| most.max(v.abs()));
                let difference = gap(found[&key].clone(), sum);
                assert!(size > 0.0 && difference < 1e-5 * size.max(1.0), "{tasks}, {key}: {difference} of {size}");
            }
        }
    }
    // No task is without a gradient of its own.
    for task in 0..3 {
        assert!(list(part(&own["0.bottleneck/blocks.0.mlp/up"], task)).iter().any(|v| *v != 0.0), "task {task}");
    }
}

#[test]
fn with_w_up_zero_it_is_the_frozen_network_exactly() {
    // (h) 5.
    let frozen = logits(&toy(&session(vec![])));
    for stack in TASKS.map(by_task).into_iter().chain([generated(&[("norm", Value::Flag(false))])]) {
        let mut model = toy(&several(vec![stack.clone()]));
        shake(&mut model, 0.3);
        assert!(apart(&answers(&model), &frozen) > 1e-3, "{:?}", stack.settings);
        let up = |key: &String| key.contains("/up") || key.contains("_up");
        let keys: Vec<_> = model.bag.params.keys().filter(|key| up(key)).cloned().collect();
        for key in keys {
            let zeros = model.bag.params[&key].clone().inner().zeros_like();
            put(&mut model.bag, &key, zeros);
        }
        assert_eq!(answers(&model), frozen, "{:?}", stack.settings);
    }
}

/// Trainable parameters on ViT-B/16 with three tasks, without the head.
fn count(stack: Placed) -> usize {
    let mut problems = vec![];
    let plan = Plan::on(&several(vec![stack]), B_16.declare(), 25, &mut problems);
    assert!(problems.is_empty(), "{problems:?}");
    plan.trainable()
}

#[test]
fn counts_are_those_of_the_paper() {
    // (d): one adapter is 2 · 768 · 96 + 96 + 768 = 148,320.
    let of = |tasks: &str| count(houlsby(&[("tasks", text(tasks)), ("bottleneck", Value::Whole(96))]));
    let (down, up) = (768 * 96 + 96, 96 * 768 + 768);
    assert_eq!(of("one for all"), 24 * 148_320);
    assert_eq!(of("one each"), 24 * 3 * 148_320);
    assert_eq!(of("down shared"), 24 * (down + 3 * up));
    assert_eq!(of("up shared"), 24 * (3 * down + up));
    // Its own network has 30 places and four tasks; there it trains norms and the visual embedding too. 6,081,600 are 4.18 %.
    let beside = 49_152 + 1_582_848;
    let frozen = 145.45e6 - 6_081_600.0;
    let percent = |tasks: &str| {
        let each_task = (of(tasks) - count_common(tasks)) / 3;
        let trained = (30 * (count_common(tasks) + 4 * each_task) / 24 + beside) as f64;
        100.0 * trained / (frozen + trained)
    };
    for (tasks, derived) in [("one for all", 4.18), ("one each", 12.24), ("up shared", 8.37)] {
        assert!((percent(tasks) - derived).abs() < 0.006, "{tasks}: {} %", percent(tasks));
    }
    // HyperFormer: an embedding more for each task more.
    let one = Plan::on(&session(vec![generated(&[])]), B_16.declare(), 25, &mut vec![]).trainable();
    assert_eq!(count(generated(&[])), one + 2 * 64);
}

/// What all tasks have in common, counted by what one task more does not add.
fn count_common(tasks: &str) -> usize {
    let stack = houlsby(&[("tasks", text(tasks)), ("bottleneck", Value::Whole(96))]);
    let one = Plan::on(&session(vec![stack.clone()]), B_16.declare(), 25, &mut vec![]).trainable();
    one - (count(stack) - one) / 2
}

#[test]
fn places_and_tasks_share_each_for_themselves() {
    let of = |share: &str, tasks: &str| count(houlsby(&[("share", text(share)), ("tasks", text(tasks))]));
    let (down, up) = (768 * 4 + 4, 4 * 768 + 768);
    assert_eq!(of("down", "one each"), 3 * (down + 24 * up));
    assert_eq!(of("down", "down shared"), down + 24 * 3 * up);
    assert_eq!(of("up", "down shared"), 24 * down + 3 * up);
    assert_eq!(of("everything", "one each"), 3 * (down + up));
    assert_eq!(of("everything", "one for all"), down + up);
}

#[test]
fn on_one_task_the_setting_changes_nothing() {
    let names = |tasks: &str| {
        let mut model = toy(&session(vec![by_task(tasks)]));
        let fresh = model.bag.data();
        shake(&mut model, 0.3);
        (fresh.into_iter().map(|(k, v)| (k, v.as_bytes().to_vec())).collect::<Vec<_>>(), logits(&model))
    };
    let usual = names("one for all");
    assert!(TASKS.iter().all(|tasks| names(tasks) == usual));
    // And what a data set of several starts with for its first task is what a data set of one starts with.
    let (one, all) = (toy(&session(vec![by_task("one each")])), toy(&several(vec![by_task("one each")])));
    let key = "0.bottleneck/blocks.0.mlp/down";
    assert_eq!(list(part(&all.bag.params[key], 0)), list(one.bag.params[key].clone()));
}

#[test]
fn dropout_goes_by_the_sample_whatever_its_task() {
    let stack = houlsby(&[("tasks", text("one each")), ("dropout", Value::Real(0.5))]);
    let mut model = toy(&several(vec![stack]));
    shake(&mut model, 0.3);
    let (bag, (pixels, _)) = (model.bag.frozen(), batch(&model.device));
    let samples = [40, 7, 12, 3, 25, 9];
    let of = |from: usize, to: usize| {
        let rows = Rows { samples: &samples[from..to], tasks: &OF[from..to], ..Rows::default() };
        list(model.logits_of(rows, &bag, pixels.clone().narrow(0, from, to - from), Some(1)))
    };
    let parts = [of(0, 2), of(2, 3), of(3, 6)].concat();
    assert!(apart(&of(0, 6), &parts) < 1e-5);
    assert!(apart(&of(0, 6), &answers(&model)) > 1e-4, "nothing was dropped");
}

#[test]
fn biases_of_several_tasks_are_no_matrices() {
    let model = toy(&several(vec![houlsby(&[("tasks", text("one each")), ("learn_scale", Value::Flag(true))])]));
    for (name, decays) in [("down", true), ("up", true), ("down_bias", false), ("up_bias", false), ("s", false)] {
        assert_eq!(model.bag.decays(&format!("0.bottleneck/blocks.0.mlp/{name}")), decays, "{name}");
    }
}

#[test]
fn who_does_not_know_the_task_is_told_so() {
    let words = |stack: Placed| {
        let model = toy(&several(vec![stack]));
        let pass = std::panic::AssertUnwindSafe(|| logits(&model));
        std::panic::catch_unwind(pass).err().and_then(|panic| panic.downcast_ref::<String>().cloned())
    };
    for stack in [by_task("one each"), by_task("up shared"), generated(&[])] {
        assert!(words(stack.clone()).is_some_and(|w| w.contains("task of every sample")), "{:?}", stack.settings);
        assert!(Plan::on(&several(vec![stack.clone()]), TOY.declare(), 25, &mut vec![]).tells_tasks_apart().is_some());
        assert!(Plan::on(&session(vec![stack]), TOY.declare(), 25, &mut vec![]).tells_tasks_apart().is_none());
    }
    // Where all tasks share everything, it makes no difference.
    assert_eq!(words(by_task("one for all")), None);
    assert_eq!(words(houlsby(&[])), None);
    assert_eq!(Settings::default().filled(bottleneck::CARD.fields).text("tasks"), "one for all");
}
