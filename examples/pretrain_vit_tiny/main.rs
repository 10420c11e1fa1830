//! Pretrains the embedded backbone `vit-tiny-32` on clothes, shapes and invented glyphs: what a picture shows and what its
//! ground is like, two linear heads on the class token, both thrown away afterwards. The recipe is this file; its results
//! stand in `assets/backbones/README.md`.
//!
//! ```text
//! ../shared/tools/get-data fashion-mnist
//! cargo run --release --example pretrain_vit_tiny -- ~/.cache/petl-data/fashion-mnist assets/backbones/vit-tiny-32 --steps 24000 --batch 32 --rate 0.0012 --every 1500
//! ```

mod pretext;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use burn::tensor::{Device, Int, Tensor, TensorData};
use clap::Parser;
use petl_workbench::backbones::weights;
use petl_workbench::datasets::Samples;
use petl_workbench::engine::bag::{Bag, trainable};
use petl_workbench::engine::batch;
use petl_workbench::engine::measure::Counting;
use petl_workbench::engine::model::{Model, host};
use petl_workbench::engine::optimise::{Optimiser, learning_rate};
use petl_workbench::engine::shards;
use petl_workbench::session::{Recipe, file};
use petl_workbench::tasks::{Aim, classify};
use pretext::{Pretext, Sample, TEXTURES, WHAT};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[derive(Parser)]
struct Arguments {
    /// Folder with Fashion-MNIST's IDX files.
    fashion: PathBuf,
    /// Folder for `model.safetensors` and the checkpoint.
    out: PathBuf,
    #[arg(long, default_value_t = 6000)]
    steps: usize,
    #[arg(long, default_value_t = 64)]
    batch: usize,
    #[arg(long, default_value_t = 1.5e-3)]
    rate: f64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Steps between two checkpoints and reports of test accuracy.
    #[arg(long, default_value_t = 500)]
    every: usize,
    /// Ends early, for timing.
    #[arg(long)]
    stop_at: Option<usize>,
}

/// One linear head of the pretext task.
struct Head {
    name: &'static str,
    classes: usize,
}

const HEADS: [Head; 2] = [Head { name: "what", classes: WHAT }, Head { name: "ground", classes: TEXTURES }];
/// Share of the ground's loss.
const GROUND: f64 = 0.3;

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let pretext = Pretext::open(&arguments.fashion)?;
    let device = Device::flex();
    let recipe = Recipe {
        learning_rate: arguments.rate,
        weight_decay: 0.05,
        warm_up: 0.05,
        batch_size: arguments.batch,
        ..Recipe::default()
    };
    // Full fine-tuning of random weights is training from scratch.
    let mut session = file::find("digits-full")?;
    session.seed = arguments.seed;
    session.backbone.settings.set("weights", petl_workbench::session::Value::Text("random".into()));
    let mut model = Model::make(&session, &device)?;
    model.bag.params.retain(|key, _| !key.starts_with("head/"));
    for head in &HEADS {
        let spec = classify::head(model.plan.anatomy.width, head.classes, true, &Aim::Linear);
        let specs: Vec<_> = spec.into_iter().map(|s| (format!("{}/{}", head.name, s.name), s)).collect();
        model.bag.params.extend(Bag::of(&specs, &model.weights, &BTreeMap::new(), arguments.seed, &device)?.params);
    }
    let mut optimiser = Optimiser::new(&recipe, BTreeMap::new());
    let mut rng = ChaCha8Rng::seed_from_u64(arguments.seed);
    let test = pretext.test_set(2000, 99);
    let clock = Instant::now();
    let mut seen = (0.0, 0);
    for step in 0..arguments.steps {
        let samples: Vec<Sample> = (0..arguments.batch).map(|_| pretext.sample(&mut rng)).collect();
        let parts = shards::each(&samples, shards::count(&device), |some| {
            let bag = model.bag.leaves();
            let (pixels, targets) = tensors(some, &device)?;
            let pooled = model.pooled(&bag, pixels, None);
            let [what, ground] = HEADS.each_ref().map(|head| logits(&bag, head, pooled.clone()));
            let [what_label, ground_label] = targets;
            let loss = classify::loss(what, what_label, 0.05) + classify::loss(ground, ground_label, 0.05) * GROUND;
            let loss = loss * (some.len() as f64 / samples.len() as f64);
            anyhow::Ok((loss.clone().inner(), bag.gradients(loss.backward())))
        });
        let mut sum: BTreeMap<String, Tensor<2>> = BTreeMap::new();
        let mut total = 0.0;
        for part in parts {
            let (value, gradients) = part?;
            for (key, gradient) in gradients {
                let gradient = match sum.remove(&key) {
                    Some(first) => first + gradient,
                    None => gradient,
                };
                sum.insert(key, gradient);
            }
            total += f64::from(host(value)?[0]);
        }
        optimiser.step(&mut model.bag, sum, learning_rate(&recipe, step, arguments.steps));
        seen = (seen.0 + total, seen.1 + 1);
        if (step + 1) % 100 == 0 {
            let speed = (step + 1) as f64 * arguments.batch as f64 / clock.elapsed().as_secs_f64();
            eprintln!(
                "step {} of {}: loss {:.3}, {speed:.0} samples a second",
                step + 1,
                arguments.steps,
                seen.0 / f64::from(seen.1)
            );
            seen = (0.0, 0);
        }
        if (step + 1) % arguments.every == 0 || step + 1 == arguments.steps {
            let [what, ground] = accuracy(&model, &test, &device)?;
            eprintln!("step {}: test accuracy: what {what:.3} of {WHAT} classes, ground {ground:.3} of {TEXTURES}", step + 1);
            save(&model, &arguments)?;
        }
        if arguments.stop_at == Some(step + 1) {
            break;
        }
    }
    Ok(())
}

/// Pixels and the labels of both heads.
fn tensors(samples: &[Sample], device: &Device) -> Result<(Tensor<4>, [Tensor<1, Int>; 2])> {
    let mut images = Samples { side: 32, ..Samples::default() };
    let mut grounds = Vec::new();
    for (image, what, ground) in samples {
        images.push(image, *what as u32, 0);
        grounds.push(*ground as i64);
    }
    let all: Vec<usize> = (0..images.len()).collect();
    let (pixels, what) = batch::tensors(&petl_workbench::backbones::vit::TINY.declare().entry, &images, &all, None, device)?;
    let ground = Tensor::from_data(TensorData::new(grounds, [all.len()]), device);
    Ok((pixels.pixels(), [what, ground]))
}

fn logits(bag: &Bag, head: &Head, pooled: Tensor<2>) -> Tensor<2> {
    let at = |name: &str| bag.params[&format!("{}/{name}", head.name)].clone();
    burn::tensor::module::linear(pooled, at("weight"), Some(at("bias").squeeze_dim::<1>(0)))
}

fn accuracy(model: &Model, test: &[Sample], device: &Device) -> Result<[f64; 2]> {
    let bag = model.bag.frozen();
    let mut hits = [0, 0];
    for some in test.chunks(200) {
        let (pixels, _) = tensors(some, device)?;
        let pooled = model.pooled(&bag, pixels, None);
        for (n, head) in HEADS.iter().enumerate() {
            let labels: Vec<u32> = some.iter().map(|s| [s.1, s.2][n] as u32).collect();
            hits[n] += classify::hits(&host(logits(&bag, head, pooled.clone()))?, &labels);
        }
    }
    Ok(hits.map(|h| h as f64 / test.len() as f64))
}

/// Writes the backbone, heads left out, in f16.
fn save(model: &Model, arguments: &Arguments) -> Result<()> {
    let mut named = BTreeMap::new();
    for (key, value) in model.bag.params.iter().filter(|(key, _)| key.contains(".full/")) {
        let mut pieces = key.split('/').skip(1);
        let (site, part) = (pieces.next().context("a key without a site")?, pieces.next().context("a key without a part")?);
        named.insert(format!("{site}.{part}"), trainable(value.clone()).inner().into_data());
    }
    let notes = BTreeMap::from([(
        "made_by".to_owned(),
        format!(
            "examples/pretrain_vit_tiny --steps {} --batch {} --rate {} --seed {}",
            arguments.steps, arguments.batch, arguments.rate, arguments.seed
        ),
    )]);
    weights::write(&arguments.out.join("model.safetensors"), &named, true, notes)
}
