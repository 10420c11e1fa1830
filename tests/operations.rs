//! Composition of runs (methods/24 (h) 3): changes add up, in any order; adding and taking back restores the start; what does not fit
//! is refused with words.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use petl_workbench::engine::run::{self, Surroundings};
use petl_workbench::exports::{self, tensors};
use petl_workbench::operations::compose::{self, Composition, Part};
use petl_workbench::session::file;

/// A preset on 40 digits for one epoch, on random weights of one seed.
fn trained(at: &Path, name: &str, preset: &str, more: &[&str]) -> PathBuf {
    let mut set: Vec<String> =
        ["recipe.epochs=1", "device=cpu", "backbone.settings.weights=random", "data.settings.train=40", "data.settings.test=40"]
            .map(str::to_owned)
            .to_vec();
    set.extend(more.iter().map(|s| (*s).to_owned()));
    let session = file::set(&file::find(preset).unwrap(), &set).unwrap();
    let folder = at.join(name);
    let around = Surroundings { run: name, folder: &folder, send: &|_| Ok(()), ask: &|| Ok(ControlFlow::Continue(())) };
    run::train(&session, &around).unwrap();
    folder
}

fn part(folder: &Path, factor: f64) -> Part {
    Part { name: folder.file_name().unwrap().to_string_lossy().into_owned(), folder: folder.to_owned(), factor }
}

fn compose(parts: &[Part], head: usize, into: &Path) -> tensors::Named {
    let done = Composition::of(parts, head, None).unwrap().write(into).unwrap();
    assert_eq!((done.difference, done.samples), (0.0, 40)); // every test sample once
    tensors::read(&into.join("model.safetensors"), "").unwrap()
}

fn apart(a: &tensors::Named, b: &tensors::Named) -> f32 {
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    let far = |(name, a): (&String, &burn::tensor::TensorData)| {
        let (a, b) = (tensors::values(name, a).unwrap(), tensors::values(name, &b[name]).unwrap());
        a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    };
    a.iter().map(far).fold(0.0, f32::max)
}

#[test]
fn changes_add_up_in_any_order_and_can_be_taken_back() {
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name);
    let sparse = trained(scratch.path(), "sparse", "lt-sft", &["methods.0.settings.steps=5"]);
    let lora = trained(scratch.path(), "lora", "digits-lora-all", &[]);
    let scale = trained(scratch.path(), "scale", "ia3", &["recipe.learning_rate=0.05"]);

    // The order of the runs makes no difference, to the last bit.
    let parts = |order: [(&Path, f64); 3]| order.map(|(folder, factor)| part(folder, factor));
    let one = compose(&parts([(&sparse, 1.0), (&lora, 0.5), (&scale, 1.0)]), 0, &at("one"));
    let other = compose(&parts([(&scale, 1.0), (&sparse, 1.0), (&lora, 0.5)]), 1, &at("other"));
    assert_eq!(one, other);
    for file in ["model.safetensors", "head.safetensors", "config.json"] {
        assert_eq!(std::fs::read(at("one").join(file)).unwrap(), std::fs::read(at("other").join(file)).unwrap(), "{file}");
    }

    // One run with factor 1 is that run merged; with factor 0, the backbone that it started from.
    let merged = at("merged");
    exports::export(&lora, "merged", &merged).unwrap();
    let merged = tensors::read(&merged.join("model.safetensors"), "").unwrap();
    assert_eq!(compose(&[part(&lora, 1.0)], 0, &at("alone")), merged);
    let (_, model) = exports::load_run(&lora).unwrap();
    let start = model.weights.data();
    assert_eq!(compose(&[part(&lora, 0.0), part(&sparse, 0.0)], 0, &at("none")), start);

    // Apply, then revert.
    let (_, model) = exports::load_run(&sparse).unwrap();
    let phi = compose::change(&model, &start).unwrap();
    let changed = phi.values().flatten().filter(|v| **v != 0.0).count();
    assert!(changed > 0 && changed <= model.plan.trainable(), "{changed} of {}", model.plan.trainable());
    let applied = compose::sum(&start, &[(phi.clone(), 1.0)]).unwrap();
    assert!(apart(&applied, &start) > 1e-4);
    let reverted = compose::sum(&applied, &[(phi, -1.0)]).unwrap();
    assert!(apart(&reverted, &start) < 1e-6, "{}", apart(&reverted, &start));

    // The head is that of the run that was named, and the sum is what the formula says.
    let heads = |folder: &Path, prefix: &str, file: &str| {
        let all = tensors::read(&folder.join(file), "").unwrap();
        all.into_iter().filter_map(|(k, v)| Some((k.strip_prefix(prefix)?.to_owned(), v))).collect::<tensors::Named>()
    };
    compose(&[part(&sparse, 1.0), part(&lora, 1.0)], 1, &at("head"));
    assert_eq!(heads(&at("head"), "", "head.safetensors"), heads(&lora, "head/", "adapter.safetensors"));
    assert_ne!(heads(&at("head"), "", "head.safetensors"), heads(&sparse, "head/", "adapter.safetensors"));
    let name = "blocks.3.attn.v.weight";
    let of = |named: &tensors::Named, n: usize| f64::from(tensors::values(name, &named[name]).unwrap()[n]);
    let alone = |folder: &Path, into: &str| compose(&[part(folder, 1.0)], 0, &at(into));
    let (a, b, c) = (alone(&sparse, "a"), alone(&lora, "b"), alone(&scale, "c"));
    for n in [0, 777, 96 * 96 - 1] {
        let zero = of(&start, n);
        let expected = zero + (of(&a, n) - zero) + 0.5 * (of(&b, n) - zero) + (of(&c, n) - zero);
        assert!((of(&one, n) - expected).abs() < 1e-7, "{n}");
    }
    assert!(apart(&a, &start) > 1e-4 && apart(&b, &start) > 1e-4 && apart(&c, &start) > 1e-4);

    // The sum can be the backbone of another run, whose change is then added to the first backbone: methods/24 (b).
    let on = format!("backbone.settings.weights={}", at("a").join("model.safetensors").display());
    let above = trained(scratch.path(), "above", "lt-sft", &["methods.0.settings.steps=5", "seed=9", &on]);
    let parts = [part(&lora, 1.0), part(&above, 1.0)];
    let words = format!("{:#}", Composition::of(&parts, 0, None).err().unwrap());
    assert!(words.contains("started from other weights") && words.contains("--base"), "{words}");
    let based = Composition::of(&parts, 1, Some(0)).unwrap();
    let (_, model) = exports::load_run(&above).unwrap();
    let phi = compose::change(&model, &a).unwrap();
    let expected = compose::sum(&b, &[(phi, 1.0)]).unwrap();
    assert!(apart(&based.model.weights.data(), &expected) < 1e-6);
    assert!((0.0..=1.0).contains(&based.accuracy().unwrap().unwrap()));
}

#[test]
fn what_does_not_fold_or_is_no_run_is_refused_and_nothing_is_left() {
    let scratch = tempfile::tempdir().unwrap();
    let lora = trained(scratch.path(), "lora", "digits-lora", &[]);
    let adapter = trained(scratch.path(), "adapter", "pfeiffer", &[]);
    let words = format!("{:#}", Composition::of(&[part(&lora, 1.0), part(&adapter, 1.0)], 0, None).err().unwrap());
    assert!(words.contains("run `adapter`") && words.contains("cannot be folded"), "{words}");
    let words = format!("{:#}", Composition::of(&[part(scratch.path(), 1.0)], 0, None).err().unwrap());
    assert!(words.contains("holds no adapter.toml"), "{words}");
    let full = Composition::of(&[part(&lora, 1.0)], 0, None).unwrap();
    let words = format!("{:#}", full.write(&lora).unwrap_err());
    assert!(words.contains("is not empty"), "{words}");
}
