//! What several test files share: a toy vision transformer, sessions on it, and one training step.

#![cfg_attr(test, allow(dead_code, clippy::allow_attributes, reason = "each test program uses a part of it"))]

use burn::tensor::{Device, Int, Tensor, TensorData};
use petl_workbench::backbones::vit::Vit;
use petl_workbench::backbones::weights;
use petl_workbench::engine::bag::{Bag, trainable};
use petl_workbench::engine::model::{self, Model};
use petl_workbench::engine::optimise::Optimiser;
use petl_workbench::engine::tuner::Tuner;
use petl_workbench::methods::Card;
use petl_workbench::plan::Plan;
use petl_workbench::session::{Choice, Place, Placed, Recipe, Session, Settings, VERSION, Value};
use petl_workbench::tasks::classify;

/// 8 x 8 images, 5 tokens, 2 blocks.
pub static TOY: Vit =
    Vit { image: 8, patch: 4, width: 24, blocks: 2, heads: 3, hidden: 48, ..petl_workbench::backbones::vit::B_16 };
pub const CLASSES: usize = 3;

/// What `card` needs to find files of a person's: written below `folder`, two classes of five samples.
pub fn files(card: &petl_workbench::datasets::Card, folder: &std::path::Path) -> Settings {
    let mut set = Settings::default();
    for field in card.fields {
        let path = folder.join(card.name);
        match field.name {
            "folder" if card.name == "image-parquet" => {
                let there = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/parquet/images");
                set.set(field.name, Value::Text(there.to_owned()));
                set.set("damaged", Value::Text("leave out".to_owned())); // one of them is
            }
            "folder" => {
                for (n, class) in ["cats", "dogs"].into_iter().cycle().take(10).enumerate() {
                    std::fs::create_dir_all(path.join(class)).expect("a folder");
                    let image = image::RgbImage::from_pixel(9, 12, image::Rgb([n as u8 * 20, 0, 0]));
                    image.save(path.join(class).join(format!("{n}.png"))).expect("written");
                    let sound: Vec<i16> = numbers(800, n as f32).iter().map(|v| (v * 9000.0) as i16).collect();
                    std::fs::write(path.join(class).join(format!("{n}.wav")), wav(8000, 1, &sound)).expect("written");
                }
                for (list, part) in [("train800.txt", 0..6), ("val200.txt", 6..10)] {
                    let lines: String = part.map(|n| format!("{}/{n}.png {}\n", ["cats", "dogs"][n % 2], n % 2)).collect();
                    std::fs::write(path.join(list), lines).expect("written");
                }
                for part in ["train", "t10k"] {
                    let images = [vec![0, 0, 8, 3, 0, 0, 0, 10, 0, 0, 0, 4, 0, 0, 0, 4], (0..160).collect()].concat();
                    let labels = [vec![0, 0, 8, 1, 0, 0, 0, 10], (0..10).map(|n| n % 2).collect()].concat();
                    std::fs::write(path.join(format!("{part}-images-idx3-ubyte")), images).expect("written");
                    std::fs::write(path.join(format!("{part}-labels-idx1-ubyte")), labels).expect("written");
                }
                for file in ["data_batch_1.bin", "test_batch.bin"] {
                    let records: Vec<u8> = (0..10).flat_map(|n| [vec![n], vec![n * 20; 3072]].concat()).collect();
                    std::fs::write(path.join(file), records).expect("written");
                }
                set.set(field.name, Value::Text(path.display().to_string()));
            }
            "file" if card.name == "image-captions" => {
                std::fs::create_dir_all(&path).expect("a folder");
                let mut rows = "file_name,text\n".to_owned();
                for n in 0..10 {
                    let image = image::RgbImage::from_pixel(9, 12, image::Rgb([n as u8 * 20, 0, 0]));
                    image.save(path.join(format!("{n}.png"))).expect("written");
                    rows += &format!("{n}.png,picture number {n}\n");
                }
                let path = path.join("metadata.csv");
                std::fs::write(&path, rows).expect("written");
                set.set(field.name, Value::Text(path.display().to_string()));
            }
            "file" => {
                let path = path.with_extension("csv");
                let rows: String = (0..10).map(|n| format!("text {n},{}\n", ["cats", "dogs"][n % 2])).collect();
                std::fs::write(&path, format!("text,label\n{rows}")).expect("written");
                set.set(field.name, Value::Text(path.display().to_string()));
            }
            _ => {}
        }
    }
    set
}

/// A WAV file of numbers of 16 bits, channel beside channel.
pub fn wav(rate: u32, channels: u16, sound: &[i16]) -> Vec<u8> {
    let size = sound.len() as u32 * 2;
    let mut file = [&b"RIFF"[..], &(size + 36).to_le_bytes(), b"WAVEfmt ", &16_u32.to_le_bytes(), &1_u16.to_le_bytes()].concat();
    file.extend(channels.to_le_bytes());
    file.extend(rate.to_le_bytes());
    file.extend((rate * u32::from(channels) * 2).to_le_bytes());
    file.extend((channels * 2).to_le_bytes());
    file.extend([16, 0]);
    file.extend(b"data");
    file.extend(size.to_le_bytes());
    file.extend(sound.iter().flat_map(|v| v.to_le_bytes()));
    file
}

/// A session with this stack.
pub fn session(methods: Vec<Placed>) -> Session {
    Session {
        petl: VERSION,
        title: "toy".into(),
        seed: 3,
        device: "cpu".into(),
        backbone: Choice::named("vit-tiny-32"),
        data: Choice::named("digits"),
        task: Choice::named("classify"),
        recipe: Recipe::default(),
        methods,
    }
}

/// `card` at its default place with these settings.
pub fn placed(card: &Card, settings: Settings) -> Placed {
    Placed {
        name: card.name.into(),
        place: Place::roles(card.default_roles),
        settings,
        learning_rate_factor: 1.0,
        resolved: vec![],
    }
}

/// The toy network with this stack, random weights that are not symmetric (biases too), on the CPU.
pub fn toy(session: &Session) -> Model {
    toy_on(session, &Device::flex())
}

/// The same on any device.
pub fn toy_on(session: &Session, device: &Device) -> Model {
    let mut problems = vec![];
    let plan = Plan::on(session, TOY.declare(), CLASSES, &mut problems);
    assert!(problems.is_empty(), "{problems:?}");
    let mut weights = weights::random(&plan.anatomy, 11, device);
    for (n, value) in weights.values_mut().enumerate() {
        let noise = TensorData::new(numbers(value.dims().iter().product(), n as f32), value.dims());
        *value = value.clone() + Tensor::from_data(noise, device) * 0.1;
    }
    let bag = Bag::make(&plan, &weights, session.seed, device).expect("the bag");
    Model { plan, backbone: std::sync::Arc::new(TOY), weights, bag, device: device.clone(), names: None }
}

/// Values in -1 to 1 that look random and never change.
pub fn numbers(count: usize, phase: f32) -> Vec<f32> {
    (0..count).map(|n| ((n as f32 + 1.0) * 12.9898 + phase * 78.233).sin() * 43_758.547 % 1.0).collect()
}

pub fn batch(device: &Device) -> (Tensor<4>, Tensor<1, Int>) {
    let pixels = TensorData::new(numbers(6 * 3 * 64, 0.5), [6, 3, 8, 8]);
    let labels = TensorData::new(vec![0_i64, 1, 2, 0, 1, 2], [6]);
    (Tensor::from_data(pixels, device), Tensor::from_data(labels, device))
}

/// Logits of the batch, read back.
pub fn logits(model: &Model) -> Vec<f32> {
    let (pixels, _) = batch(&model.device);
    petl_workbench::engine::model::host(model.logits(&model.bag.frozen(), pixels, None)).expect("logits")
}

/// The same network with every change folded into its weights: what is left of the stack is the head.
pub fn merged(model: &Model) -> Model {
    let bag = model.bag.frozen();
    let tuner = Tuner::new(&model.plan, &model.weights, &bag, None);
    let mut plain = toy(&session(vec![]));
    for site in &model.plan.anatomy.sites {
        for part in &site.parts {
            plain.weights.insert(format!("{}.{}", site.path, part.name), tuner.folded(site, part.name));
        }
    }
    let head = bag.params.iter().filter(|(key, _)| key.starts_with("head/"));
    plain.bag.params = head.map(|(key, value)| (key.clone(), value.clone())).collect();
    plain
}

/// `card` at its default place with these settings, as a session file writes them.
pub fn with(card: &Card, set: &[(&str, petl_workbench::session::Value)]) -> Placed {
    let mut settings = Settings::default();
    set.iter().for_each(|(name, value)| settings.set(name, value.clone()));
    placed(card, settings)
}

/// Gives a parameter these values.
pub fn put(model: &mut Model, key: &str, values: Vec<f32>) {
    let dims = model.bag.params[key].dims();
    let tensor = Tensor::<2>::from_data(TensorData::new(values, dims), &model.device);
    model.bag.params.insert(key.to_owned(), tensor.autodiff().require_grad());
}

/// What leaves `site`, a linear layer, when `x` enters it with no dropout.
pub fn through(model: &Model, site: &str, x: Tensor<3>) -> Tensor<3> {
    let bag = model.bag.frozen();
    Tuner::new(&model.plan, &model.weights, &bag, None).linear(site, x)
}

/// Gradients of the loss on the toy batch by key, dropout's seed fixed.
pub fn gradients(model: &Model) -> petl_workbench::methods::Gradients {
    let (pixels, labels) = batch(&model.device);
    model.bag.gradients(classify::loss(model.logits(&model.bag, pixels, Some(1)), labels, 0.0).backward())
}

/// One training step; the loss before it, and each key's squared gradient norm.
pub fn step(model: &mut Model, optimiser: &mut Optimiser, rate: f64) -> (f32, std::collections::BTreeMap<String, f32>) {
    let (pixels, labels) = batch(&model.device);
    let loss = classify::loss(model.logits(&model.bag, pixels, Some(1)), labels, 0.0);
    let value = loss.clone().inner().into_scalar::<f32>();
    let squares = {
        let gradients = model.bag.gradients(loss.backward());
        optimiser.step(&mut model.bag, gradients, rate)
    };
    (value, squares.into_iter().map(|(k, v)| (k, v.into_scalar::<f32>())).collect())
}

/// Largest difference of two lists of the same length.
pub fn apart(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len(), "lists of different lengths");
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// The card's session with every parameter moved far from its start, so that nothing is zero by chance.
pub fn shaken(session: &Session, size: f32) -> Model {
    let mut model = toy(session);
    for (n, (key, value)) in model.bag.params.iter_mut().enumerate() {
        if !key.starts_with("head/") {
            let noise = TensorData::new(numbers(value.dims().iter().product(), n as f32 + 0.7), value.dims());
            *value = trainable(value.clone().inner() + Tensor::from_data(noise, &model.device) * size);
        }
    }
    model
}

/// The backbone with the stack of `model` folded into its weights, and nothing on the stack.
pub fn folded(model: &Model) -> Model {
    let bag = model.bag.frozen();
    let tuner = Tuner::new(&model.plan, &model.weights, &bag, None);
    let mut plain = toy(&session(vec![]));
    for site in &model.plan.anatomy.sites {
        for part in &site.parts {
            plain.weights.insert(format!("{}.{}", site.path, part.name), tuner.folded(site, part.name));
        }
    }
    let head = bag.params.iter().filter(|(k, _)| k.starts_with("head/"));
    plain.bag = Bag { params: head.map(|(k, v)| (k.clone(), v.clone())).collect(), ..Bag::default() };
    plain
}

/// What the stack of `model` changes in the weight of `site`, row by row.
pub fn change(model: &Model, site: &str) -> Vec<f32> {
    let name = format!("{site}.weight");
    model::host(folded(model).weights[&name].clone() - model.weights[&name].clone()).expect("a weight")
}

/// A parameter's values, row by row.
pub fn values(model: &Model, key: &str) -> Vec<f32> {
    model::host(model.bag.params[key].clone()).expect("a parameter")
}

/// Settings from `name = value` pairs.
pub fn set(pairs: &[(&str, Value)]) -> Settings {
    let mut settings = Settings::default();
    pairs.iter().for_each(|(name, value)| settings.set(name, value.clone()));
    settings
}
