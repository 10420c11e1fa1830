//! The engine without a window: what the worker does when it is told to, when numbers break and when code does; and the parts
//! of a training step by themselves.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use burn::tensor::{Device, Int, Tensor, TensorData};
use petl_workbench::board::{Run, Status};
use petl_workbench::datasets::Samples;
use petl_workbench::engine::measure::Memory;
use petl_workbench::engine::model::{self, Model, host};
use petl_workbench::engine::run::{Gathered, Trainer};
use petl_workbench::engine::{Engine, Event, Finished, Order, Step, batch};
use petl_workbench::exports;
use petl_workbench::session::{Recipe, Session, Value, file};
use petl_workbench::tasks::classify;

/// A preset on random weights and a few digits, with these changes.
fn session(preset: &str, more: &[&str]) -> Session {
    let usual = ["device=cpu", "backbone.settings.weights=random", "data.settings.train=64", "data.settings.test=20"];
    let set: Vec<String> = usual.iter().chain(more).map(|s| (*s).to_owned()).collect();
    file::set(&file::find(preset).expect("a preset"), &set).expect("set")
}

/// A worker and a folder for its runs.
struct Bench {
    engine: Engine,
    home: tempfile::TempDir,
}

impl Bench {
    fn new() -> Bench {
        Bench::woken(Box::new(|| ()))
    }

    fn woken(wake: petl_workbench::engine::Wake) -> Bench {
        Bench { engine: Engine::start(wake).expect("a worker"), home: tempfile::tempdir().expect("a folder") }
    }

    fn folder(&self, run: &str) -> PathBuf {
        self.home.path().join(run)
    }

    fn train(&self, run: &str, session: &Session) {
        let order = Order::Train { run: run.to_owned(), session: Box::new(session.clone()), folder: self.folder(run) };
        assert!(self.engine.send(order));
    }

    /// The next event that `wanted` picks; fails when the run ends in another way or nothing comes.
    #[track_caller]
    fn next<T>(&self, what: &str, wanted: impl Fn(&Event) -> Option<T>) -> T {
        let clock = Instant::now();
        while clock.elapsed() < Duration::from_secs(120) {
            match self.engine.poll() {
                Some(event) => match wanted(&event) {
                    Some(found) => return found,
                    None if matches!(event, Event::Finished(_) | Event::Failed { .. }) => panic!("{what}, but: {event:?}"),
                    None => {}
                },
                None => std::thread::sleep(Duration::from_millis(2)),
            }
        }
        panic!("{what}: nothing came");
    }

    #[track_caller]
    fn step(&self) -> Step {
        self.next("a step", |event| match event {
            Event::Step(step) => Some(step.clone()),
            _ => None,
        })
    }

    #[track_caller]
    fn finished(&self) -> Finished {
        self.next("the end", |event| match event {
            Event::Finished(finished) => Some(finished.clone()),
            _ => None,
        })
    }

    #[track_caller]
    fn failed(&self) -> String {
        self.next("a failure", |event| match event {
            Event::Failed { words, .. } => Some(words.clone()),
            _ => None,
        })
    }

    /// A short run from beginning to end, to see that the worker lives.
    #[track_caller]
    fn lives(&self) {
        self.train("lives", &session("digits-lora", &["recipe.epochs=1"]));
        assert!(!self.finished().stopped);
    }
}

// Orders.

#[test]
fn a_run_pauses_goes_on_stops_and_is_kept() {
    let bench = Bench::new();
    bench.train("run", &session("digits-lora", &["recipe.epochs=2000", "recipe.report_every=1"]));
    bench.step();
    assert!(bench.engine.send(Order::Pause));
    assert!(bench.engine.send(Order::Pause)); // said twice is said once
    let paused = |event: &Event| matches!(event, Event::Paused { .. }).then_some(());
    bench.next("the pause", paused);
    let clock = Instant::now();
    while clock.elapsed() < Duration::from_millis(1200) {
        assert!(bench.engine.poll().is_none(), "a paused run goes on");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(bench.engine.send(Order::Continue));
    bench.next("the end of the pause", |event| matches!(event, Event::Continued { .. }).then_some(()));
    let step = bench.step();
    assert!(step.step_ms < 1200.0, "a pause is not a slow step: {} ms", step.step_ms);
    assert!(bench.engine.send(Order::Stop));
    let finished = bench.finished();
    assert!(finished.stopped && finished.steps >= 2 && finished.steps < 8000);

    // Kept: everything that a finished run has, and it can be read back.
    let run = Run::open(&bench.folder("run")).expect("a run");
    assert_eq!((run.status, run.damage), (Status::Stopped, None));
    let log = std::fs::read_to_string(bench.folder("run").join("events.jsonl")).expect("a log");
    assert!(log.contains("\"event\":\"paused\"") && log.contains("\"event\":\"continued\""));
    assert_eq!(finished.predictions.len(), 20);
    exports::export(&bench.folder("run"), "petl", &bench.folder("out")).expect("what was kept can leave");
    bench.lives();
}

#[test]
fn stopping_while_paused_keeps_and_the_next_run_waits_its_turn() {
    let bench = Bench::new();
    bench.train("first", &session("digits-lora", &["recipe.epochs=2000"]));
    bench.step();
    assert!(bench.engine.send(Order::Pause));
    bench.train("second", &session("digits-probe", &["recipe.epochs=1"]));
    bench.next("the pause", |event| matches!(event, Event::Paused { .. }).then_some(()));
    assert!(bench.engine.send(Order::Stop));
    let first = bench.finished();
    assert!(first.stopped && first.run == "first");
    let second = bench.finished();
    assert!(!second.stopped && second.run == "second");
}

#[test]
fn quitting_while_paused_keeps_what_was_learned_and_ends() {
    let bench = Bench::new();
    bench.train("run", &session("digits-lora", &["recipe.epochs=2000"]));
    bench.step();
    assert!(bench.engine.send(Order::Pause));
    bench.next("the pause", |event| matches!(event, Event::Paused { .. }).then_some(()));
    let Bench { engine, home } = bench;
    let clock = Instant::now();
    drop(engine); // as when the window closes
    assert!(clock.elapsed() < Duration::from_secs(60));
    let run = Run::open(&home.path().join("run")).expect("a run");
    assert_eq!(run.status, Status::Stopped);
    assert!(exports::load_run(&run.folder).is_ok());
}

// Breaks.

#[test]
fn numbers_that_break_end_the_run_with_words_and_the_next_one_works() {
    let bench = Bench::new();
    // Steps of ten times the gradient, nothing held back; the loss is only read every hundredth step.
    let steep =
        ["recipe.optimizer=sgd", "recipe.learning_rate=10", "recipe.clip_norm=0", "recipe.warm_up=0", "recipe.schedule=constant"];
    let wild = session("digits-full", &[&steep[..], &["recipe.epochs=50", "recipe.report_every=100"]].concat());
    bench.train("wild", &wild);
    let words = bench.failed();
    for word in ["at step ", " of ", "learning_rate, which is 10", "clip_norm to 1", "warm_up to 0.1", "(Full fine-tuning)"] {
        assert!(words.contains(word), "`{word}` is not said in: {words}");
    }
    let step: usize =
        words.split("at step ").nth(1).and_then(|rest| rest.split(' ').next()).expect("a step").parse().expect("a number");
    assert!(step < 101, "the step itself is named, not the report: {words}");
    // Nothing of it is kept but the log, and every line of that can be read.
    let run = Run::open(&bench.folder("wild")).expect("a run");
    assert_eq!((&run.status, &run.damage), (&Status::Failed(words), &None));
    assert!(!run.folder.join("adapter.safetensors").exists() && !run.folder.join("summary.json").exists());
    bench.lives();
}

#[test]
fn a_last_step_that_goes_too_far_keeps_nothing() {
    let bench = Bench::new();
    // One step: its loss and its gradients are numbers, but the network that it leaves answers none.
    let once = ["data.settings.train=16", "recipe.epochs=1", "recipe.warm_up=0", "recipe.learning_rate=10"];
    let mut far = session("digits-lora-all", &once);
    far.methods[0].settings.set("alpha", Value::Real(4096.0));
    let mut adapter = session("pfeiffer", &[]).methods[0].clone();
    adapter.settings.set("scale", Value::Real(16.0));
    far.methods.extend(std::iter::repeat_n(adapter, 5)); // one after the other, each a million times as loud
    far.methods.iter_mut().for_each(|method| method.learning_rate_factor = 1e4);
    bench.train("far", &far);
    let words = bench.failed();
    assert!(words.contains("after step 1") && words.contains("methods.0.learning_rate_factor, which is 10000"), "{words}");
    let run = Run::open(&bench.folder("far")).expect("a run");
    assert!(run.evaluations.is_empty() && run.damage.is_none(), "what is no number is not written");
    assert!(!bench.folder("far").join("adapter.safetensors").exists());
    bench.lives();
}

#[test]
fn a_panic_in_the_worker_ends_the_run_with_words_and_the_worker_lives_on() {
    let armed = Arc::new(AtomicBool::new(false));
    let trap = armed.clone();
    // Called by the worker's own thread in the middle of a run.
    let bench = Bench::woken(Box::new(move || assert!(!trap.swap(false, Ordering::SeqCst), "the tensors do not fit")));
    bench.train("run", &session("digits-lora", &["recipe.epochs=2000", "recipe.report_every=1"]));
    bench.step();
    armed.store(true, Ordering::SeqCst);
    let words = bench.failed();
    for word in ["the tensors do not fit", "The session and the other runs are untouched", "`cpu`"] {
        assert!(words.contains(word), "`{word}` is not said in: {words}");
    }
    let run = Run::open(&bench.folder("run")).expect("a run");
    assert_eq!(run.status, Status::Failed(words), "its own log knows too");
    bench.lives();
}

// What a recipe says is what happens.

#[test]
fn the_schedule_and_the_warm_up_of_the_recipe_are_those_of_the_steps() {
    let bench = Bench::new();
    // 64 digits, 4 at a time: 16 steps an epoch.
    let set =
        ["recipe.batch_size=4", "recipe.epochs=1", "recipe.warm_up=0.25", "recipe.report_every=1", "recipe.learning_rate=0.004"];
    for schedule in ["constant", "cosine"] {
        let schedule_is = format!("recipe.schedule={schedule}");
        bench.train(schedule, &session("digits-lora", &[&set[..], &[&schedule_is]].concat()));
        let rates: Vec<f64> = (0..16).map(|_| bench.step().learning_rate).collect();
        assert!(!bench.finished().stopped);
        for (n, rate) in rates[..4].iter().enumerate() {
            assert!((rate - 0.001 * (n as f64 + 1.0)).abs() < 1e-12, "{schedule}: {rates:?}");
        }
        match schedule {
            "constant" => assert!(rates[4..].iter().all(|rate| *rate == 0.004), "{rates:?}"),
            _ => assert!(rates[4..].windows(2).all(|w| w[0] > w[1]) && rates[15] < 1e-4, "{rates:?}"),
        }
    }
}

#[test]
fn label_smoothing_spreads_its_part_over_all_classes() {
    let device = Device::flex();
    let rows = [[2.0_f32, -1.0, 0.5], [0.0, 0.0, 3.0]];
    let labels = [0, 1];
    let logits = Tensor::<2>::from_data(TensorData::new(rows.concat(), [2, 3]), &device);
    let targets = Tensor::<1, Int>::from_data(TensorData::new(labels.map(|l| l as i64).to_vec(), [2]), &device);
    for s in [0.0, 0.1, 0.6] {
        let by_hand: f64 = (rows.iter().zip(labels))
            .map(|(row, label)| {
                let sum: f64 = row.iter().map(|v| f64::from(*v).exp()).sum();
                let target = |n: usize| s / 3.0 + if n == label { 1.0 - s } else { 0.0 };
                row.iter().enumerate().map(|(n, v)| -target(n) * (f64::from(*v) - sum.ln())).sum::<f64>()
            })
            .sum::<f64>()
            / 2.0;
        let found = host(classify::loss(logits.clone(), targets.clone(), s)).expect("a loss")[0];
        assert!((f64::from(found) - by_hand).abs() < 1e-6, "smoothing {s}: {found} and {by_hand}");
    }
    // And the recipe's is the one that trains.
    let loss = |smoothing: &str| parts_of(&session("digits-lora", &[smoothing])).0;
    let (plain, smooth) = (loss("recipe.label_smoothing=0"), loss("recipe.label_smoothing=0.5"));
    assert!((plain - smooth).abs() > 1e-4, "{plain} {smooth}");
}

#[test]
fn flip_mirrors_half_of_the_images_and_crop_shifts_them_at_most_so_far() {
    let (side, count) = (8, 64);
    // Every image is a ramp of its own, so that a mirrored or shifted one cannot be taken for another.
    let mut samples = Samples { side, ..Samples::default() };
    for n in 0..count {
        let image: Vec<u8> = (0..side * side * 3).map(|at| ((at * 7 + n * 3 + at / 24 * 5) % 251) as u8).collect();
        samples.push(&image, 0, 0);
    }
    let picked: Vec<usize> = (0..count).collect();
    let images = |recipe: &Recipe, seed| {
        let (pixels, _) = batch::tensors(
            &petl_workbench::backbones::vit::TINY.declare().entry,
            &samples,
            &picked,
            Some((recipe, seed)),
            &Device::flex(),
        )
        .expect("a batch");
        host(pixels.pixels()).expect("pixels").chunks(3 * side * side).map(<[f32]>::to_vec).collect::<Vec<_>>()
    };
    // Image `n`, mirrored or not, moved by (dx, dy), the border's colour where nothing is left.
    let moved = |n: usize, flip: bool, dx: i64, dy: i64| -> Vec<f32> {
        let mut values = vec![];
        for channel in 0..3 {
            for y in 0..side as i64 {
                for x in 0..side as i64 {
                    let x = if flip { side as i64 - 1 - x } else { x };
                    let inside = |v: i64| v.clamp(0, side as i64 - 1) as usize;
                    let byte = samples.image(n).expect("an image")[(inside(y + dy) * side + inside(x + dx)) * 3 + channel];
                    values.push(f32::from(byte) / 127.5 - 1.0);
                }
            }
        }
        values
    };
    let off = Recipe::default();
    let plain = images(&off, 1);
    assert!((0..count).all(|n| plain[n] == moved(n, false, 0, 0)), "off by default");

    let flip = Recipe { flip: true, ..Recipe::default() };
    let flipped = images(&flip, 1);
    let mirrored: Vec<bool> = (0..count).map(|n| flipped[n] == moved(n, true, 0, 0)).collect();
    assert!((0..count).all(|n| mirrored[n] || flipped[n] == plain[n]), "mirrored left to right, or left alone");
    let share = mirrored.iter().filter(|m| **m).count();
    assert!((count / 4..3 * count / 4).contains(&share), "{share} of {count} are mirrored");
    assert_eq!(flipped, images(&flip, 1), "the same seed gives the same pictures");
    assert_ne!(flipped, images(&flip, 2), "another epoch gives others");
    // An image is changed by its own number, not by its place in the batch.
    let (alone, _) =
        batch::tensors(&petl_workbench::backbones::vit::TINY.declare().entry, &samples, &[5], Some((&flip, 1)), &Device::flex())
            .expect("a batch");
    assert_eq!(host(alone.pixels()).expect("pixels"), flipped[5]);

    let crop = Recipe { crop: 2, ..Recipe::default() };
    let mut shifts = std::collections::BTreeSet::new();
    for (n, image) in images(&crop, 1).iter().enumerate() {
        let all = (-2..=2).flat_map(|dx| (-2..=2).map(move |dy| (dx, dy)));
        let shift = all.into_iter().find(|(dx, dy)| *image == moved(n, false, *dx, *dy));
        shifts.insert(shift.unwrap_or_else(|| panic!("image {n} is no shift by two pixels at most")));
    }
    assert!(shifts.len() > 12, "all directions occur: {shifts:?}");
}

#[test]
fn a_learning_rate_factor_scales_its_own_method_alone() {
    let moved = |factor: f64| {
        let sgd = ["recipe.optimizer=sgd", "recipe.momentum=0", "recipe.weight_decay=0", "recipe.clip_norm=0"];
        let set = [&sgd[..], &["recipe.warm_up=0", "recipe.learning_rate=1"]].concat();
        let mut session = session("digits-lora", &set);
        session.methods.push(self::session("ia3", &[]).methods[0].clone());
        session.methods[1].learning_rate_factor = factor;
        let (mut model, data, mut trainer) = trainer(&session);
        let before = model.bag.data();
        let memory = Memory::start(0, &model.device);
        let picked: Vec<usize> = (0..16).collect();
        let parts = trainer.maker(&model, 1).parts(&data.train, &picked, 0).expect("a batch");
        trainer.step(&mut model, &data.train, parts, &memory).expect("a step");
        let after = model.bag.data();
        let part = |prefix: &str| -> Vec<f32> {
            let of = |key: &String| {
                let values = |data: &TensorData| data.try_to_vec::<f32>().expect("f32");
                values(&after[key]).iter().zip(values(&before[key])).map(|(a, b)| a - b).collect::<Vec<_>>()
            };
            before.keys().filter(|key| key.starts_with(prefix)).flat_map(of).collect()
        };
        (part("0.lora"), part("1.ia3"), part("head"))
    };
    let ((lora, ia3, head), (lora_0, none, head_0), (_, four, _)) = (moved(1.0), moved(0.0), moved(4.0));
    assert!(none.iter().all(|v| *v == 0.0), "a factor of 0 leaves the method as it started");
    assert!(ia3.iter().any(|v| v.abs() > 1e-7) && head.iter().any(|v| v.abs() > 1e-5));
    assert_eq!((lora, head), (lora_0, head_0), "the rest does not notice");
    let largest = ia3.iter().fold(0.0, |most: f32, v| v.abs().max(most));
    let off = ia3.iter().zip(&four).map(|(one, four)| (four - 4.0 * one).abs()).fold(0.0, f32::max);
    assert!(off < 2e-2 * largest + 1e-6, "four times as far: {off} of {largest}");
}

// The parts of a step.

fn trainer(session: &Session) -> (Model, petl_workbench::datasets::Loaded, Trainer) {
    let model = Model::make(session, &Device::flex()).expect("a model");
    let data = model::data(session).expect("data");
    let trainer = Trainer::new(session, &model, &data).expect("a trainer");
    (model, data, trainer)
}

/// Loss, logits and gradients of the samples `picked` in an epoch, in so many parts.
fn of_parts(trainer: &Trainer, model: &Model, train: &Samples, picked: &[usize], epoch: usize, parts: usize) -> Gathered {
    let parts = trainer.maker(model, parts).parts(train, picked, epoch).expect("a batch");
    trainer.gradients(model, train, parts, &Memory::start(0, &model.device)).expect("gradients")
}

/// Loss of the first 16 samples, in one part.
fn parts_of(session: &Session) -> (f32, usize) {
    let (model, data, trainer) = trainer(session);
    let picked: Vec<usize> = (0..16).collect();
    let whole = of_parts(&trainer, &model, &data.train, &picked, 0, 1);
    (host(whole.loss).expect("a loss")[0], whole.gradients.len())
}

#[test]
fn a_batch_in_parts_gives_what_the_whole_batch_gives() {
    // Everything by which samples differ is on: dropout, flip, crop; and a last part that is smaller than the others.
    let set = ["methods.0.settings.dropout=0.5", "recipe.flip=true", "recipe.crop=2", "recipe.label_smoothing=0.1"];
    for preset in ["digits-lora", "adaptformer", "vpt-deep"] {
        let (model, data, trainer) = trainer(&session(preset, &set));
        let picked: Vec<usize> = (0..13).map(|n| n * 5 % 64).collect();
        let of = |parts| {
            let all = of_parts(&trainer, &model, &data.train, &picked, 3, parts);
            let mut values = host(all.loss).expect("a loss");
            values.extend(host(Tensor::cat(all.answers, 0)).expect("logits"));
            for gradient in all.gradients.into_values() {
                values.extend(host(gradient).expect("a gradient"));
            }
            values
        };
        let whole = of(1);
        for parts in [2, 3, 8] {
            let apart = whole.iter().zip(of(parts)).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(apart < 2e-5, "{preset} in {parts} parts: {apart}");
        }
    }
}

#[test]
fn the_probes_shortcut_is_the_full_pass() {
    let probe = session("digits-probe", &["recipe.epochs=2"]);
    let (mut model, data, mut trainer) = trainer(&probe);
    let memory = Memory::start(0, &model.device);
    for (epoch, picked) in batch::epoch(data.train.len(), 16, 1, 0).into_iter().enumerate() {
        let kept = of_parts(&trainer, &model, &data.train, &picked, 0, 1);
        // The same batch by the whole network.
        let bag = model.bag.leaves();
        let (pixels, labels) =
            batch::tensors(&model.plan.anatomy.entry, &data.train, &picked, None, &model.device).expect("a batch");
        let loss = classify::loss(model.logits(&bag, pixels, Some(1)), labels, 0.0);
        assert!((host(kept.loss).expect("a loss")[0] - host(loss.clone()).expect("a loss")[0]).abs() < 1e-5);
        let full = bag.gradients(loss.backward());
        assert_eq!(kept.gradients.keys().collect::<Vec<_>>(), full.keys().collect::<Vec<_>>());
        for (key, gradient) in full {
            let apart = (kept.gradients[&key].clone() - gradient).abs().max();
            assert!(host(apart).expect("a number")[0] < 1e-5, "{key} in batch {epoch}");
        }
        let parts = trainer.maker(&model, 1).parts(&data.train, &picked, 0).expect("a batch");
        trainer.step(&mut model, &data.train, parts, &memory).expect("a step");
    }
    let evaluated = trainer.evaluate(&model, &data, 1).expect("evaluated");
    let all: Vec<usize> = (0..data.test.len()).collect();
    let logits = model.answers(&model.bag, &data.test, &all).expect("logits");
    let labels: Vec<u32> = logits.chunks(10).map(|row| classify::argmax(row) as u32).collect();
    assert_eq!(trainer.predictions, labels);
    assert_eq!(evaluated.accuracy, classify::hits(&logits, &data.test.labels) as f64 / all.len() as f64);
    // Where pictures change from epoch to epoch there is no shortcut.
    let turned = session("digits-probe", &["recipe.flip=true"]);
    let loss = |epoch| {
        let (model, data, trainer) = self::trainer(&turned);
        let picked: Vec<usize> = (0..16).collect();
        host(of_parts(&trainer, &model, &data.train, &picked, epoch, 1).loss).expect("a loss")[0]
    };
    assert_ne!(loss(0), loss(1));
}

// The embedded weights.

#[test]
fn the_embedded_weights_are_pretrained_a_probe_on_them_learns_more() {
    let accuracy = |weights: &str| {
        let weights = format!("backbone.settings.weights={weights}");
        let set = ["data.settings.train=500", "data.settings.test=300", "recipe.epochs=40", &weights];
        let bench = Bench::new();
        bench.train("probe", &session("digits-probe", &set));
        bench.finished().accuracy
    };
    let (pretrained, random) = (accuracy("pretrained"), accuracy("random"));
    // 500 digits for each of 1,000: the table of assets/README.md has 23 points between the two.
    assert!(pretrained > random + 0.1 && pretrained > 0.45, "pretrained {pretrained}, random {random}");
}

/// The embedded weights carry the command that made them; the page beside them and the program's own page give the same one.
#[test]
fn the_weights_name_the_program_and_the_command_that_made_them() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| std::fs::read(root.join(path)).expect("a file of the repository");
    let weights = read("assets/backbones/vit-tiny-32/model.safetensors");
    let (_, header) = safetensors::SafeTensors::read_metadata(&weights).expect("a safetensors file");
    let made_by = header.metadata().as_ref().and_then(|notes| notes.get("made_by")).expect("a note").clone();
    let (program, settings) = made_by.split_once(" --").expect("a program and its settings");
    assert!(root.join(program).join("main.rs").exists(), "there is no program {program}");
    for page in ["assets/backbones/README.md", "examples/pretrain_vit_tiny/main.rs"] {
        let page = String::from_utf8(read(page)).expect("text");
        let command = page.lines().find(|line| line.contains("--example pretrain_vit_tiny")).expect("the command");
        for setting in settings.split(" --").filter(|setting| *setting != "seed 1") {
            assert!(command.contains(&format!("--{setting} ")), "`{command}` does not set {setting}");
        }
    }
}
