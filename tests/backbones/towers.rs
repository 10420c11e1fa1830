//! CLIP's two towers: what each gives, what they give together, and what stands in them.

use std::cell::RefCell;
use std::ops::ControlFlow;

use petl_workbench::engine::run::{self, Surroundings};
use petl_workbench::engine::{Evaluated, Event, Finished};
use petl_workbench::plan::problems::Severity;
use petl_workbench::session::Recipe;
use petl_workbench::tasks::contrast;

use super::*;

const NAMES: [&str; 2] = ["clip", "clip-exact"];

fn pixels(expected: &Tensors, side: usize) -> Input {
    floats::<4>(expected, &format!("pixel_values_{side}")).into()
}

/// Embeddings of images and texts, and the likeness of all of them, read back.
fn together(model: &Model, expected: &Tensors, side: usize, length: usize) -> [Vec<f32>; 3] {
    let bag = model.bag.frozen();
    let images = model.pooled(&bag, pixels(expected, side), None);
    let texts = model.pooled(&bag, Input::Text(text(expected, length)), None);
    let logits = model.judged(&bag, Some(&texts), images.clone());
    [images, texts, logits].map(|values| host(values).expect("values"))
}

fn unit(rows: &[f32], width: usize) -> Vec<f32> {
    let length = |row: &[f32]| row.iter().map(|v| v * v).sum::<f32>().sqrt();
    rows.chunks(width).flat_map(|row| row.iter().map(|v| v / length(row)).collect::<Vec<_>>()).collect()
}

#[test]
fn both_towers_give_what_transformers_gives_and_come_by_every_site() {
    for name in NAMES {
        let expected = Tensors::open(&fixture(name).join("expected.safetensors")).expect("expected values");
        for (side, length) in [(24, 5), (32, 9)] {
            let choice = choice(&fixture(name), side);
            assert_eq!(choice.name, "clip");
            let Opened { network, weights, .. } = backbones::open(&choice).expect("opens");
            let session = Session { backbone: choice, ..common::session(vec![]) };
            let plan = Plan::on(&session, network.anatomy(), 3, &mut vec![]);
            let (device, bag) = (Device::flex(), Bag::default());
            let weights = weights(0, &device).expect("weights");
            let mut visited = vec![];
            for input in [pixels(&expected, side), Input::Text(text(&expected, length))] {
                let mut tuner = Tuner::new(&plan, &weights, &bag, None);
                tuner.look(&input);
                let features = network.forward(&mut tuner, input);
                network.pool(&mut tuner, features);
                visited.extend(tuner.visited);
            }
            let mut tuner = Tuner::new(&plan, &weights, &bag, None);
            network.scale(&mut tuner).expect("a scale");
            visited.extend(tuner.visited);
            assert_eq!(visited, plan.anatomy.sites.iter().map(|site| site.path.clone()).collect::<Vec<_>>(), "{name}");

            let width = plan.anatomy.width;
            let model = Model { plan, backbone: network, weights, bag, device, names: None };
            let [images, texts, logits] = together(&model, &expected, side, length);
            let theirs = |what: &str| expected.floats(what).expect(what).0;
            for (what, ours) in [
                (format!("image_embeds_{side}"), unit(&images, width)),
                (format!("text_embeds_{length}"), unit(&texts, width)),
                (format!("logits_per_image_{side}"), logits),
            ] {
                let apart = apart(&ours, &theirs(&what));
                assert!(apart < 1e-4, "{name}, {what}: {apart:e}");
            }
        }
    }
}

/// The model of `clip` with a method away from its start, in both towers or, where its places share parameters, in one.
fn standing(card: &'static methods::Card, settings: &Settings, blocks: &str) -> Result<Model, Vec<String>> {
    let mut placed = common::placed(card, settings.clone());
    placed.place.blocks = blocks.to_owned();
    let session = Session { backbone: choice(&fixture("clip"), 0), ..common::session(vec![placed]) };
    let opened = backbones::open(&session.backbone).expect("the folder opens");
    let mut problems = vec![];
    let plan = Plan::on(&session, opened.network.anatomy(), 3, &mut problems);
    if plan.members.is_empty() {
        return Err(problems.into_iter().map(|problem| problem.words).collect());
    }
    let device = Device::flex();
    let weights = (opened.weights)(0, &device).expect("weights");
    let Ok(mut bag) = Bag::make(&plan, &weights, 3, &device) else { return Err(vec!["measured".to_owned()]) };
    for (n, param) in bag.params.values_mut().enumerate() {
        let dims = param.dims();
        let noise = TensorData::new(common::numbers(dims.iter().product(), n as f32), dims);
        *param = trainable(param.clone().inner() + Tensor::from_data(noise, &device) * 0.1);
    }
    Ok(Model { plan, backbone: opened.network, weights, bag, device, names: None })
}

#[test]
fn every_method_stands_in_both_towers_or_in_one_and_padding_changes_nothing() {
    let expected = Tensors::open(&fixture("clip").join("expected.safetensors")).expect("expected values");
    let (mut both, mut shared, mut wrong) = (0, vec![], vec![]);
    for card in methods::CATALOG {
        for settings in stands::ways(card.fields) {
            let words = format!("{} {settings:?}", card.name);
            let model = match standing(card, &settings, "all") {
                Ok(model) => model,
                Err(why) if why == ["measured"] => continue,
                Err(why) => {
                    if why.iter().any(|words| words.contains("both towers")) {
                        let alone = ["1-2", "3-4"].map(|blocks| standing(card, &settings, blocks).is_ok());
                        assert!(alone.contains(&true), "{words} stands in neither tower: {why:?}");
                        shared.push(card.name);
                    } else {
                        assert!(why.iter().any(|words| words.len() > 40), "{words}: {why:?}");
                    }
                    continue;
                }
            };
            both += 1;
            let images = model.pooled(&model.bag, pixels(&expected, 24), None);
            let texts = model.pooled(&model.bag, Input::Text(text(&expected, 5)), None);
            let logits = model.judged(&model.bag, Some(&texts), images);
            let ours = host(logits.clone()).expect("logits");
            if ours.iter().any(|v| !v.is_finite()) {
                wrong.push(format!("{words}: no numbers"));
            }
            let moved = model.bag.gradients(contrast::loss(logits, &[0, 1], 0.0).backward());
            // A gradient for each tower in which it stands.
            for tower in &model.plan.anatomy.towers {
                let stands = model.plan.members[0].sites.iter().any(|site| tower.site(site).is_some());
                let in_it = |key: &&String| {
                    let site = key.split('/').nth(1).unwrap_or_default();
                    tower.site(site).is_some() || site == "all"
                };
                if stands && !moved.keys().any(|key| in_it(&key)) {
                    wrong.push(format!("{words}: no gradient in a tower"));
                }
            }
            // The same texts, filled up further.
            let mut longer = text(&expected, 5);
            let fill = |row: &[u32]| [row, &[1, 1, 1]].concat();
            longer.ids = longer.ids.chunks(5).flat_map(fill).collect();
            longer.seen = longer.seen.chunks(5).flat_map(|row| [row, &[false; 3]].concat()).collect();
            (longer.kinds, longer.length) = (vec![0; longer.ids.len()], 8);
            let frozen = model.bag.frozen();
            let short = host(model.pooled(&frozen, Input::Text(text(&expected, 5)), None)).expect("values");
            let long = host(model.pooled(&frozen, Input::Text(longer), None)).expect("values");
            if apart(&long, &short) > 1e-4 {
                wrong.push(format!("{words}: padding changes {:e}", apart(&long, &short)));
            }
            if (merged::CARD.fits)(&model.plan).is_ok() {
                let session = Session { backbone: choice(&fixture("clip"), 0), ..common::session(vec![]) };
                let folded = stands::folded(&model, &session);
                let [_, _, after] = together(&folded, &expected, 24, 5);
                if apart(&after, &ours) > 1e-4 {
                    wrong.push(format!("{words}: folded {:e}", apart(&after, &ours)));
                }
            }
        }
    }
    shared.dedup();
    assert!(both >= 55 && wrong.is_empty(), "{wrong:#?} of {both}");
    assert_eq!(shared, ["vera", "bottleneck", "compacter", "hyperformer", "ltsft"], "share parameters between places");
}

/// What a run sends: its evaluations and its end.
fn trained(session: &Session, folder: &Path) -> (Vec<Evaluated>, Vec<f64>, Finished) {
    let (evaluated, losses, last) = (RefCell::new(vec![]), RefCell::new(vec![]), RefCell::new(None));
    let send = |event: Event| {
        match event {
            Event::Evaluated(one) => evaluated.borrow_mut().push(one),
            Event::Step(step) => losses.borrow_mut().push(step.loss),
            Event::Finished(end) => *last.borrow_mut() = Some(end),
            _ => {}
        }
        Ok(())
    };
    let around = Surroundings { run: "test", folder, send: &send, ask: &|| Ok(ControlFlow::Continue(())) };
    run::train(session, &around).expect("it trains");
    (evaluated.into_inner(), losses.into_inner(), last.into_inner().expect("an end"))
}

fn set(choice: &mut Choice, name: &str, value: Value) {
    choice.settings.set(name, value);
}

/// Ten digits by their names alone, or with something that trains.
fn zero_shot(methods: Vec<Placed>) -> Session {
    let mut session = Session { backbone: choice(&fixture("clip"), 0), ..common::session(methods) };
    session.recipe = Recipe { epochs: 2, batch_size: 20, learning_rate: 3e-3, report_every: 1, ..Recipe::default() };
    set(&mut session.data, "train", Value::Whole(60));
    set(&mut session.data, "test", Value::Whole(40));
    set(&mut session.task, "head", Value::Text("zero-shot".into()));
    set(&mut session.task, "template", Value::Text("a photo of the number {}.".into()));
    session
}

#[test]
fn classes_are_told_apart_by_their_names_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let session = zero_shot(vec![]);
    let plan = Plan::of(&session);
    assert!(plan.blocked().is_none(), "{:?}", plan.problems);
    assert_eq!((plan.trainable(), plan.head_count()), (0, 0));
    let note = plan.problems.iter().find(|p| p.severity == Severity::Note).expect("a note");
    assert!(note.words.contains("nothing trains"), "{}", note.words);
    let (evaluated, losses, end) = trained(&session, &folder.path().join("run"));
    assert_eq!((evaluated.len(), losses.len(), end.steps), (1, 0, 0));

    // By hand: the text about each class, token by token, and the largest cosine.
    let model = Model::make(&session, &Device::flex()).expect("a model");
    let words = |n: usize| vec![2, 4, 5, 6, 7, 8, 10 + n as u32, 9, 3]; // [BOS] a photo of the number n . [EOS]
    let names = model.names.clone().expect("texts");
    assert_eq!(names.ids, (0..10).flat_map(words).collect::<Vec<_>>());
    let data = petl_workbench::engine::model::data(&session).expect("data");
    let all: Vec<usize> = (0..data.test.len()).collect();
    let texts = model.pooled(&model.bag, Input::Text(names), None);
    let width = model.plan.anatomy.width;
    let (input, _) =
        petl_workbench::engine::batch::tensors(&model.plan.anatomy.entry, &data.test, &all, None, &model.device).expect("pixels");
    let (images, texts) = (host(model.pooled(&model.bag, input, None)).expect("i"), host(texts).expect("t"));
    let (images, texts) = (unit(&images, width), unit(&texts, width));
    let best = |image: &[f32]| {
        let cosine = |text: &[f32]| image.iter().zip(text).map(|(a, b)| a * b).sum::<f32>();
        let all: Vec<f32> = texts.chunks(width).map(cosine).collect();
        petl_workbench::tasks::classify::argmax(&all) as u32
    };
    assert_eq!(end.predictions, images.chunks(width).map(best).collect::<Vec<_>>());
}

#[test]
fn a_zero_shot_head_learns_by_what_stands_in_either_tower_and_leaves_in_every_form() {
    for (blocks, still) in [("1-2", true), ("3-4", false)] {
        let folder = tempfile::tempdir().expect("a folder");
        let mut lora = common::placed(&methods::lora::CARD, Settings::default());
        lora.place.blocks = blocks.to_owned();
        let session = zero_shot(vec![lora]);
        let run = folder.path().join("run");
        let (_, losses, end) = trained(&session, &run);
        assert!(losses[losses.len() - 1] < losses[0] - 0.02 && end.steps == 6, "{losses:?}");
        let (_, model) = exports::load_run(&run).expect("the run");
        assert_eq!(model.classes_are_still(), still);
        for kind in ["petl", "merged", "transformers", "peft"] {
            let done =
                exports::export(&run, kind, &folder.path().join(kind)).unwrap_or_else(|e| panic!("{blocks} {kind}: {e:#}"));
            assert!(done.difference < 1e-4 && done.samples == 40, "{kind}: {}", done.difference);
        }
        // The transformers folder is CLIP again, with the change in it.
        let other = backbones::of_folder(&folder.path().join("transformers")).expect("opens");
        assert_eq!(other.name, "clip");
        assert!(exports::export(&run, "adapterhub", &folder.path().join("hub")).is_err());
    }
}

/// Squares of three colours and two sizes, each with a caption.
fn captions(folder: &Path) -> Choice {
    let mut rows = "file_name,text\n".to_owned();
    for n in 0..48_usize {
        let (colour, big) = (n % 3, n / 3 % 2);
        let mut image = image::RgbImage::from_pixel(24, 24, image::Rgb([(n * 3 % 17) as u8; 3]));
        let side = [8, 18][big];
        for (x, y) in (0..side).flat_map(|x| (0..side).map(move |y| (x, y))) {
            let mut pixel = [0; 3];
            pixel[colour] = 255;
            image.put_pixel(x + 3, y + 3, image::Rgb(pixel));
        }
        image.save(folder.join(format!("{n}.png"))).expect("written");
        // The pictures of a caption are one group: with its own number each is parted freely.
        let words = format!("a {} {} square {} {}", ["small", "large"][big], ["red", "green", "blue"][colour], n / 10, n % 10);
        rows += &format!("{n}.png,{words}\n");
    }
    std::fs::write(folder.join("metadata.csv"), rows).expect("written");
    let mut choice = Choice::named("image-captions");
    set(&mut choice, "file", Value::Text(folder.join("metadata.csv").display().to_string()));
    choice
}

fn matching(folder: &Path, methods: Vec<Placed>) -> Session {
    let mut session = Session { backbone: choice(&fixture("clip"), 0), ..common::session(methods) };
    session.recipe = Recipe { epochs: 6, batch_size: 12, learning_rate: 3e-3, report_every: 1, ..Recipe::default() };
    (session.data, session.task) = (captions(folder), Choice::named("contrast"));
    session
}

#[test]
fn images_and_captions_learn_to_find_each_other() {
    let folder = tempfile::tempdir().expect("a folder");
    let session = matching(folder.path(), vec![common::placed(&methods::lora::CARD, Settings::default())]);
    let plan = Plan::of(&session);
    assert!(plan.blocked().is_none(), "{:?}", plan.problems);
    let run = folder.path().join("run");
    let (evaluated, losses, end) = trained(&session, &run);
    assert!(losses[losses.len() - 1] < losses[0] * 0.8, "{losses:?}");
    let last = &evaluated[evaluated.len() - 1];
    assert_eq!(last.tasks.keys().collect::<Vec<_>>(), ["image to text", "text to image"]);
    assert_eq!(last.accuracy, last.tasks["image to text"]);
    for kind in ["petl", "merged", "transformers", "peft"] {
        let done = exports::export(&run, kind, &folder.path().join(kind)).unwrap_or_else(|e| panic!("{kind}: {e:#}"));
        assert!(done.difference < 1e-4, "{kind}: {}", done.difference);
    }
    assert_eq!(end.predictions.len(), 10);

    // As it stands without training, tested only.
    let still = matching(folder.path(), vec![]);
    let (_, losses, end) = trained(&still, &folder.path().join("still"));
    assert_eq!((losses.len(), end.steps), (0, 0));
}

/// The loss against one worked out number by number, with a caption that two images share.
#[test]
fn the_contrastive_loss_is_the_mean_of_both_ways() {
    let (rows, of) = ([[1.0_f32, -0.5], [0.3, 0.8], [2.0, 0.1]], [0_u32, 1, 0]);
    let tensor = Tensor::<2>::from_data(TensorData::new(rows.concat(), [3, 2]), &Device::flex());
    for smoothing in [0.0, 0.1] {
        let ours = contrast::loss(tensor.clone(), &of, smoothing).into_scalar::<f32>();
        let log_p = |row: &[f32], n: usize| row[n] - row.iter().map(|v| v.exp()).sum::<f32>().ln();
        let cross = |row: &[f32], own: &[usize]| -> f32 {
            let even = smoothing as f32 / row.len() as f32;
            (0..row.len())
                .map(|n| {
                    let share = if own.contains(&n) { (1.0 - smoothing as f32) / own.len() as f32 } else { 0.0 };
                    -log_p(row, n) * (share + even)
                })
                .sum()
        };
        let images: f32 = rows.iter().zip(of).map(|(row, own)| cross(row, &[own as usize])).sum::<f32>() / 3.0;
        let column = |n: usize| rows.map(|row| row[n]);
        let captions = (cross(&column(0), &[0, 2]) + cross(&column(1), &[1])) / 2.0;
        assert!((ours - (images + captions) / 2.0).abs() < 1e-6, "{ours}");
    }
    let likeness: Vec<f32> = rows.concat();
    assert_eq!(contrast::found(&likeness, &of), 2);
    assert_eq!(contrast::found(&likeness, &[1, 0, 1]), 0);
}

#[test]
fn what_does_not_go_together_is_said_with_a_remedy() {
    let folder = tempfile::tempdir().expect("a folder");
    let clip = choice(&fixture("clip"), 0);
    let vit = choice(&fixture("vit"), 0);
    let pairs = captions(folder.path());
    let mut zero = Choice::named("classify");
    set(&mut zero, "head", Value::Text("zero-shot".into()));
    let mut nameless = zero.clone();
    set(&mut nameless, "template", Value::Text("a photo".into()));
    let digits = Choice::named("digits");
    let (contrast, classify) = (Choice::named("contrast"), Choice::named("classify"));
    let cases = [
        (&vit, &digits, &zero, "task.settings.head", "embeds no texts"),
        (&vit, &pairs, &contrast, "task.name", "Open a folder of CLIP, or classify"),
        (&clip, &digits, &contrast, "data", "matches images with captions"),
        (&clip, &pairs, &classify, "data", "holds images with captions"),
        (&clip, &digits, &nameless, "task.settings.template", "all classes would be alike"),
    ];
    for (backbone, data, task, place, words) in cases {
        let session = Session { backbone: backbone.clone(), data: data.clone(), task: task.clone(), ..common::session(vec![]) };
        let plan = Plan::of(&session);
        let found = plan.problems.iter().find(|p| p.place == place && p.words.contains(words));
        let found = found.unwrap_or_else(|| panic!("{place}, {words}: {:#?}", plan.problems));
        assert_eq!(found.severity, Severity::Blocks);
        let remedy = found.remedy.as_ref().expect("a remedy").edit();
        let mended = petl_workbench::session::edit::apply(&session, &plan.anatomy, &remedy).expect("an edit");
        assert!(!Plan::of(&mended).problems.iter().any(|p| p.place == place && p.words == found.words), "{words}");
    }
    // A head that reads images only leaves what stands in the text tower untrained, and says so.
    let session = Session { backbone: clip, ..common::session(vec![common::placed(&methods::lora::CARD, Settings::default())]) };
    assert!(Plan::of(&session).problems.iter().any(|p| p.words.contains("stands in the text tower")));
}
