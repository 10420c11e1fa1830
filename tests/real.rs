//! Real pretrained networks against what other programs say of them. Their folders are looked for in $PETL_DATA (or
//! ~/.cache/petl-data) under the names below; each test that finds none is reported as ignored, with words.

mod common;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use burn::tensor::{Device, Tensor, TensorData};
use libtest_mimic::{Arguments, Failed, Trial};
use petl_workbench::backbones::tensors::Tensors;
use petl_workbench::backbones::{self, Input, Opened};
use petl_workbench::datasets::{Samples, Text};
use petl_workbench::engine::bag::Bag;
use petl_workbench::engine::batch;
use petl_workbench::engine::measure::{self, Counting};
use petl_workbench::engine::model::{self, host};
use petl_workbench::engine::tuner::Tuner;
use petl_workbench::plan::Plan;
use petl_workbench::session::{Choice, Session, Value};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A sound of the English Asterisk sounds (Debian's asterisk-core-sounds-en-wav).
const GOODBYE: &str = "spoken/en_US_f_Allison/vm-goodbye.wav";

/// What a test does with the folder of its network.
type Test = fn(&Path) -> Result<(), Failed>;

fn main() -> ExitCode {
    let tests: [(&str, &str, Test); 4] = [
        ("minilm_gives_its_sentence_embeddings", "minilm", minilm),
        ("dinov2_small_gives_its_features_on_another_grid", "dinov2-small", dinov2),
        ("smollm2_gives_its_features_from_packed_numbers", "smollm2", smollm2),
        ("whisper_tiny_hears_what_it_should", "whisper-tiny-encoder", whisper),
    ];
    let trials = tests.map(|(name, item, run)| {
        let folder = data().join(item);
        let sound = data().join(GOODBYE);
        let lacks = match () {
            () if !["config.json", "model.gguf"].iter().any(|name| folder.join(name).is_file()) => {
                Some(format!("no folder {} with the pretrained network", folder.display()))
            }
            () if item.starts_with("whisper") && !sound.is_file() => Some(format!("no sound {}", sound.display())),
            () => None,
        };
        match lacks {
            None => Trial::test(name, move || run(&folder)),
            Some(why) => Trial::test(format!("{name}, ignored: {why}"), || Ok(())).with_ignored_flag(true),
        }
    });
    libtest_mimic::run(&Arguments { test_threads: Some(1), ..Arguments::from_args() }, trials.into()).exit_code()
}

fn data() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/petl-data");
    std::env::var_os("PETL_DATA").map_or_else(home, PathBuf::from)
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden").join(name)
}

/// Features and what a head would read of them.
fn run(choice: &Choice, input: Input) -> (Vec<f32>, Vec<f32>) {
    let device = Device::flex();
    let Opened { network, weights, .. } = backbones::open(choice).expect("the folder opens");
    let session = Session { backbone: choice.clone(), ..common::session(vec![]) };
    let plan = Plan::on(&session, network.anatomy(), 3, &mut vec![]);
    let bag = Bag::default();

    measure::reset_peak();
    let (before, start) = (measure::in_use(), Instant::now());
    let opened = weights(0, &device).expect("weights");
    let (first, held) = (start.elapsed().as_secs_f64(), measure::in_use() - before);
    let most = measure::peak();
    // Of three, the one that nothing else on the machine held up.
    let seconds = (0..2).fold(first, |least, _| {
        let start = Instant::now();
        weights(0, &device).expect("weights");
        least.min(start.elapsed().as_secs_f64())
    });
    let weights = opened;
    let bytes =
        |block: Option<usize>| plan.anatomy.sites.iter().filter(|s| s.block == block).map(|s| s.count() * 4).sum::<usize>();
    let (own, layer) = (plan.anatomy.count() * 4 - plan.anatomy.saved, bytes(Some(0)));
    let beside = most.saturating_sub(before + own);
    eprintln!("{} MB opened in {seconds:.2} s, with at most {} kB beside them on the way", own / 1_000_000, beside / 1000);
    assert!(held < own + own / 20, "{held} bytes hold {own}");
    assert!(beside < layer && seconds < 1.0, "{beside} bytes beside {own} on the way, where a layer has {layer}; {seconds} s");

    let mut tuner = Tuner::new(&plan, &weights, &bag, None);
    tuner.look(&input);
    let features = network.forward(&mut tuner, input);
    let pooled = network.pool(&mut tuner, features.clone());
    (host(features).expect("features"), host(pooled).expect("pooled"))
}

fn apart(ours: &[f32], theirs: &[f32]) -> f32 {
    let scale = theirs.iter().fold(0.0_f32, |most, v| most.max(v.abs()));
    common::apart(ours, theirs) / scale
}

/// SmolLM2-135M as llama.cpp packs it, against transformers with the same numbers unpacked.
fn smollm2(folder: &Path) -> Result<(), Failed> {
    let choice = backbones::of_folder(folder)?;
    let expected = Tensors::open(&golden("smollm2.safetensors"))?;
    for length in [6, 11] {
        let whole = |name: &str| expected.wholes(&format!("{name}_{length}")).map(|(values, _)| values);
        let ids: Vec<u32> = whole("input_ids")?.iter().map(|id| *id as u32).collect();
        let seen: Vec<bool> = whole("attention_mask")?.iter().map(|seen| *seen == 1).collect();
        let input = backbones::Text { length, kinds: vec![0; ids.len()], ids, seen: seen.clone(), device: Device::flex() };
        let (ours, _) = run(&choice, Input::Text(input));
        let (theirs, shape) = expected.floats(&format!("last_hidden_state_{length}"))?;
        let of = |values: &[f32]| -> Vec<f32> {
            values.chunks(shape[2]).zip(&seen).filter(|(_, seen)| **seen).flat_map(|(row, _)| row.to_vec()).collect()
        };
        let apart = apart(&of(&ours), &of(&theirs));
        assert!(apart < 1e-4, "{length} tokens: {apart:e}");
    }
    Ok(())
}

fn minilm(folder: &Path) -> Result<(), Failed> {
    let choice = backbones::of_folder(folder)?;
    let text = std::fs::read_to_string(golden("minilm_l6.json"))?;
    let cases: Vec<serde_json::Value> = serde_json::from_str(&text)?;
    let mut samples = Samples::default();
    for case in &cases {
        samples.push_text(Text { first: case["text"].as_str().unwrap_or_default().to_owned(), second: None }, 0, 0);
    }
    // A longer text fills the others up, so that the mask has work to do.
    samples.push_text(
        Text { first: "one two three four five six seven eight nine ten eleven twelve".to_owned(), second: None },
        0,
        0,
    );
    let opened = backbones::open(&choice)?;
    (opened.prepare)(&mut samples).map_err(|fault| format!("{fault:#}"))?;
    for (case, tokens) in cases.iter().zip(&samples.tokens) {
        let ids: Vec<u32> = case["ids"].as_array().into_iter().flatten().filter_map(|id| Some(id.as_u64()? as u32)).collect();
        assert_eq!(tokens.ids, ids, "{}", case["text"]);
    }
    let all: Vec<usize> = (0..samples.len()).collect();
    let (input, _) = batch::tensors(&opened.network.anatomy().entry, &samples, &all, None, &Device::flex()).expect("a batch");
    let (_, pooled) = run(&choice, input);
    for (case, row) in cases.iter().zip(pooled.chunks(384)) {
        let length = row.iter().map(|v| v * v).sum::<f32>().sqrt();
        let ours: Vec<f32> = row.iter().map(|v| v / length).collect();
        let theirs: Vec<f32> =
            case["embedding"].as_array().into_iter().flatten().filter_map(|v| Some(v.as_f64()? as f32)).collect();
        let apart = apart(&ours, &theirs);
        assert!(apart < 1e-4, "{}: {apart:e}", case["text"]);
    }
    Ok(())
}

fn dinov2(folder: &Path) -> Result<(), Failed> {
    let mut choice = backbones::of_folder(folder)?;
    choice.settings.set("side", Value::Whole(224)); // its own grid is 37 x 37, this one 16 x 16
    let expected = Tensors::open(&golden("dinov2_small.safetensors")).map_err(|fault| format!("{fault:#}"))?;
    let of = |name: &str| expected.floats(name).map_err(|fault| format!("{fault:#}"));
    let (pixels, shape) = of("input")?;
    let (features, _) = run(&choice, Tensor::<4>::from_data(TensorData::new(pixels, shape), &Device::flex()).into());
    let (theirs, shape) = of("last_hidden_state")?;
    let apart = apart(&features[..shape[1] * shape[2]], &theirs);
    assert!(apart < 1e-4, "{apart:e}");
    Ok(())
}

fn whisper(folder: &Path) -> Result<(), Failed> {
    let fault = |fault: anyhow::Error| format!("{fault:#}");
    let choice = backbones::of_folder(folder)?;
    let opened = backbones::open(&choice)?;
    // The sound as the data set reads it: two classes of two copies.
    let scratch = tempfile::tempdir()?;
    for copy in ["a/0.wav", "a/1.wav", "b/0.wav", "b/1.wav"] {
        let place = scratch.path().join(copy);
        std::fs::create_dir_all(place.parent().ok_or("a folder")?)?;
        std::fs::copy(data().join(GOODBYE), place)?;
    }
    let mut sounds = Choice::named("audio-folder");
    sounds.settings.set("folder", Value::Text(scratch.path().display().to_string()));
    let session = Session { backbone: choice.clone(), data: sounds, ..common::session(vec![]) };
    let samples = model::data(&session).map_err(fault)?.test;

    let expected = Tensors::open(&golden("whisper_tiny_en.safetensors")).map_err(fault)?;
    let (mel, shape) = expected.floats("mel").map_err(fault)?;
    let mut ours = vec![];
    samples.spectrograms[0].fill(3000, &mut ours);
    let first: Vec<f32> = ours.chunks(3000).flat_map(|band| band[..shape[1]].to_vec()).collect();
    let apart_mel = common::apart(&first, &mel);
    let least = mel.iter().copied().fold(f32::INFINITY, f32::min);
    let rest = ours.chunks(3000).flat_map(|band| &band[shape[1]..]).map(|v| (v - least).abs()).fold(0.0, f32::max);
    eprintln!("the spectrogram is {apart_mel:e} off, {rest:e} behind the sound");
    assert!(apart_mel < 1e-3 && rest < 1e-3, "{apart_mel:e}, {rest:e}");

    let (input, _) = batch::tensors(&opened.network.anatomy().entry, &samples, &[0], None, &Device::flex()).expect("a batch");
    let (features, _) = run(&choice, input);
    let (theirs, shape) = expected.floats("encoder_out").map_err(fault)?;
    let (positions, _) = expected.wholes("positions").map_err(fault)?;
    let width = shape[1];
    let ours: Vec<f32> =
        positions.iter().flat_map(|n| &features[*n as usize * width..(*n as usize + 1) * width]).copied().collect();
    let apart = apart(&ours, &theirs);
    eprintln!("the encoder is {apart:e} off");
    assert!(apart < 1e-4, "{apart:e}");
    Ok(())
}
