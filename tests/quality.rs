//! Quality scores that the data gives: the same sample has the same score in training, evaluation, an export's comparison and a
//! prediction, and every place says which source is used.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Command, Output};

use burn::tensor::{Device, TensorData};
use petl_workbench::backbones::weights;
use petl_workbench::datasets::{Samples, quality::Scores};
use petl_workbench::engine::batch::{self, Rows};
use petl_workbench::engine::measure::Memory;
use petl_workbench::engine::model::{self, Model, host};
use petl_workbench::engine::run::{self, Surroundings, Trainer};
use petl_workbench::engine::{Event, Finished, quality};
use petl_workbench::exports::{self, tensors};
use petl_workbench::plan::{Plan, Severity};
use petl_workbench::session::{Session, Value, file};
use petl_workbench::tasks::classify;

/// Twin LoRA on pictures of which this part is degraded.
fn session(degraded: &str) -> Session {
    let set = [
        "data.name=shapes",
        "data.settings.train=48",
        "data.settings.test=40",
        &format!("data.settings.degraded={degraded}"),
        "device=cpu",
        "recipe.epochs=2",
        "recipe.batch_size=8",
        "recipe.learning_rate=0.01",
        "recipe.report_every=1",
    ];
    file::set(&file::find("twin").unwrap(), &set.map(str::to_owned)).unwrap()
}

fn train(session: &Session, folder: &Path) -> Finished {
    let last = RefCell::new(None);
    let send = |event: Event| {
        if let Event::Finished(finished) = event {
            last.replace(Some(finished));
        }
        Ok(())
    };
    let around = Surroundings { run: "test", folder, send: &send, ask: &|| Ok(ControlFlow::Continue(())) };
    run::train(session, &around).unwrap();
    last.into_inner().unwrap()
}

fn apart(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Logits of each of the samples `picked` by itself, with the score that `score` gives it.
fn one_by_one(model: &Model, samples: &Samples, picked: &[usize], score: impl Fn(usize) -> f32) -> Vec<f32> {
    let of = |n: &usize| {
        let (input, _) = batch::tensors(&model.plan.anatomy.entry, samples, &[*n], None, &model.device).expect("a batch");
        let rows = Rows { quality: &[score(*n)], ..Rows::default() };
        host(model.logits_of(rows, &model.bag.frozen(), input, None)).unwrap()
    };
    picked.iter().flat_map(of).collect()
}

/// The sharpness of every sample, which counts where there are no scores.
fn sharpness(model: &Model, samples: &Samples) -> Vec<f32> {
    let all: Vec<usize> = (0..samples.len()).collect();
    let (input, _) = batch::tensors(&model.plan.anatomy.entry, samples, &all, None, &model.device).expect("a batch");
    let petl_workbench::backbones::Input::Pixels(pixels) = input else { panic!("pictures") };
    host(quality::sharpness(pixels)).unwrap()
}

#[test]
fn a_sample_has_its_score_in_training_evaluation_and_export() {
    let scratch = tempfile::tempdir().unwrap();
    let (session, run) = (session("0.5"), scratch.path().join("run"));
    let finished = train(&session, &run);
    let (_, model) = exports::load_run(&run).unwrap();
    let data = model::data(&session).unwrap();
    let all: Vec<usize> = (0..data.test.len()).collect();
    let expected = one_by_one(&model, &data.test, &all, |n| data.test.quality[n]);
    let answers = model.answers(&model.bag, &data.test, &all).unwrap();
    assert!(apart(&answers, &expected) < 1e-4);
    let labels: Vec<u32> = expected.chunks(8).map(|row| classify::argmax(row) as u32).collect();
    assert_eq!(finished.predictions, labels);
    // Without scores it is another network.
    let bare = Samples { quality: vec![], ..data.test.clone() };
    let blind = model.answers(&model.bag, &bare, &all).unwrap();
    let sharp = sharpness(&model, &data.test);
    assert!(apart(&blind, &one_by_one(&model, &data.test, &all, |n| sharp[n])) < 1e-4);
    assert!(apart(&blind, &answers) > 1e-2, "{}", apart(&blind, &answers));

    let done = exports::export(&run, "petl", &scratch.path().join("out")).unwrap();
    assert_eq!((done.difference, done.samples), (0.0, 40));
}

#[test]
fn an_export_is_compared_by_the_scores_of_the_data() {
    let scratch = tempfile::tempdir().unwrap();
    let images = scratch.path().join("images");
    let scores = |sign: i32| {
        let line = |n: i32| format!("{}/{n}.png,{}\n", ["a", "b"][n as usize % 2], sign * if n % 4 < 2 { 20 } else { -20 });
        std::fs::write(images.join("quality.csv"), (0..40).map(line).collect::<String>()).unwrap();
    };
    for n in 0..40_u32 {
        let folder = images.join(["a", "b"][n as usize % 2]);
        std::fs::create_dir_all(&folder).unwrap();
        let dot = |x: u32, y: u32| if (x * 7 + y * 3 + n * 5) % 11 < 3 { 230 } else { 20 };
        image::RgbImage::from_fn(32, 32, |x, y| image::Rgb([dot(x, y), dot(y, x), 90]))
            .save(folder.join(format!("{n}.png")))
            .unwrap();
    }
    scores(1);
    let mut session = file::set(&session("0"), &["data.name=image-folder".to_owned(), "recipe.epochs=4".to_owned()]).unwrap();
    session.data.settings.set("folder", Value::Text(images.display().to_string()));
    session.methods[0].settings.set("rule", Value::Text("raw".into()));
    let run = scratch.path().join("run");
    train(&session, &run);
    let export = |name: &str| exports::export(&run, "petl", &scratch.path().join(name));
    assert_eq!(export("same").unwrap().difference, 0.0);
    scores(-1);
    let words = format!("{:#}", export("other").unwrap_err());
    assert!(words.contains("gives other labels than its own") && words.contains("the data set has changed"), "{words}");
}

#[test]
fn a_batch_in_parts_trains_as_the_whole_one_with_the_scores_of_its_samples() {
    let session = session("0.5");
    let model = Model::make(&session, &Device::flex()).unwrap();
    let mut data = model::data(&session).unwrap();
    let picked: Vec<usize> = (0..13).map(|n| n * 5 % 48).collect();
    let of = |data: &petl_workbench::datasets::Loaded, parts| {
        let trainer = Trainer::new(&session, &model, data).unwrap();
        let parts = trainer.maker(&model, parts).parts(&data.train, &picked, 0).unwrap();
        let all = trainer.gradients(&model, &data.train, parts, &Memory::start(0, &model.device)).unwrap();
        let twin = all.gradients.into_iter().filter(|(key, _)| key.contains("twin"));
        twin.flat_map(|(_, gradient)| host(gradient).unwrap()).collect::<Vec<f32>>()
    };
    let whole = of(&data, 1);
    for parts in [2, 5, 13] {
        assert!(apart(&whole, &of(&data, parts)) < 2e-5, "in {parts} parts: {}", apart(&whole, &of(&data, parts)));
    }
    // Not those of others, nor sharpness.
    data.train.quality.reverse();
    assert!(apart(&whole, &of(&data, 1)) > 1e-4);
    data.train.quality.clear();
    assert!(apart(&whole, &of(&data, 1)) > 1e-4);
}

fn petl(home: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_petl")).args(arguments).env("PETL_HOME", home).output().unwrap()
}

#[test]
fn a_prediction_takes_the_scores_of_its_inputs_or_says_what_it_takes() {
    let home = tempfile::tempdir().unwrap();
    let run = home.path().join("run");
    train(&session("0.5"), &run);
    let (_, model) = exports::load_run(&run).unwrap();
    let data = model::data(&session("0.5")).unwrap();
    let picked: Vec<usize> = (0..data.test.len()).collect();
    let (input, _) = batch::tensors(&model.plan.anatomy.entry, &data.test, &picked, None, &model.device).expect("a batch");
    let petl_workbench::backbones::Input::Pixels(pixels) = input else { panic!("pictures") };
    let (inputs, out) = (home.path().join("in.safetensors"), home.path().join("out.safetensors"));
    let predict = |quality: Option<(Vec<f32>, &[usize])>| {
        let mut all = vec![("pixel_values".to_owned(), pixels.clone().into_data())];
        all.extend(quality.map(|(scores, shape)| ("quality".to_owned(), TensorData::new(scores, shape.to_vec()))));
        weights::write(&inputs, &all.into_iter().collect(), false, Default::default()).unwrap();
        let output = petl(
            home.path(),
            &["predict", run.to_str().unwrap(), "--inputs", inputs.to_str().unwrap(), "--out", out.to_str().unwrap()],
        );
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let logits = || tensors::values("logits", &tensors::read(&out, "").unwrap()["logits"]).unwrap().to_vec();
    let scores = data.test.quality.clone();
    assert_eq!(predict(Some((scores.clone(), &[40]))), (Some(0), String::new()));
    assert!(apart(&logits(), &model.answers(&model.bag, &data.test, &picked).unwrap()) < 1e-4);
    let (code, said) = predict(None);
    assert!(code == Some(0) && said.contains("no tensor `quality`") && said.contains("sharpness"), "{said}");
    let bare = Samples { quality: vec![], ..data.test.clone() };
    assert!(apart(&logits(), &model.answers(&model.bag, &bare, &picked).unwrap()) < 1e-4);

    std::fs::remove_file(&out).unwrap();
    let mut broken = scores.clone();
    broken[3] = f32::INFINITY;
    for (quality, words) in [
        ((scores.clone(), &[40, 1][..]), &["`quality`", "[40, 1]", "it must be [40]", "in.safetensors"][..]),
        ((scores[..39].to_vec(), &[39]), &["[39]", "it must be [40]"]),
        ((broken, &[40]), &["`quality`", "inf", "picture 3"]),
    ] {
        let (code, said) = predict(Some(quality));
        assert!(code == Some(2) && words.iter().all(|word| said.contains(word)) && !said.contains("panicked"), "{said}");
        assert!(!out.exists());
    }
}

#[test]
fn every_place_says_where_quality_comes_from() {
    let note = |session: &Session| {
        let plan = Plan::of(session);
        let of = |p: &&petl_workbench::plan::Problem| p.severity == Severity::Note && p.place == "methods[0]";
        (plan.quality, plan.problems.iter().find(of).map(|p| p.words.clone()).unwrap_or_default())
    };
    let (quality, words) = note(&session("0.5"));
    assert_eq!(quality, Some(Scores { lowest: 0.25, highest: 1.0 }));
    assert!(words.contains("the data gives each sample, 0.25 to 1"), "{words}");
    let (quality, words) = note(&session("0"));
    assert!(quality.is_none() && words.contains("sharpness of each image"), "{words}");
    assert_eq!(note(&file::find("digits-lora").unwrap()).1, "");

    let home = tempfile::tempdir().unwrap();
    let listed = |name: &str| String::from_utf8(petl(home.path(), &["list", "datasets", name]).stdout).unwrap();
    assert!(listed("shapes").contains("quality score: none"), "{}", listed("shapes"));
    assert!(!listed("image-folder").contains("quality score: "), "what a folder holds is not known yet");
    let said = petl(home.path(), &["plan", "twin", "--set", "data.name=shapes", "--set", "data.settings.degraded=1"]);
    assert!(String::from_utf8(said.stdout).unwrap().contains("0.25 to 0.75"));
}

#[test]
fn a_run_without_such_a_method_says_that_scores_are_not_read() {
    let home = tempfile::tempdir().unwrap();
    let run = home.path().join("run");
    let few = ["device=cpu", "recipe.epochs=1", "data.settings.train=20", "data.settings.test=20"].map(str::to_owned);
    train(&file::set(&file::find("digits-probe").unwrap(), &few).unwrap(), &run);
    let at = |name: &str| home.path().join(name).to_str().unwrap().to_owned();
    let all = [("pixel_values", vec![0.0; 2 * 3 * 32 * 32], vec![2, 3, 32, 32]), ("quality", vec![0.5; 2], vec![2])];
    let all = all.map(|(name, values, shape): (&str, Vec<f32>, Vec<usize>)| (name.to_owned(), TensorData::new(values, shape)));
    weights::write(Path::new(&at("in.safetensors")), &all.into(), false, Default::default()).unwrap();
    let output = petl(home.path(), &["predict", run.to_str().unwrap(), "--inputs", &at("in.safetensors"), "--out", &at("out")]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && said.contains("nothing here reads `quality`"), "{said}");
}
