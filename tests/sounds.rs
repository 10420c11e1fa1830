//! Networks that hear: their front ends against transformers', what they give, sounds of a person's own files, and every method on
//! them. `tests/fixtures/sound` and `tests/fixtures/backbones` hold what transformers gave (`make.py` there).

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Int, Tensor, TensorData};
use common::{apart, placed, wav};
use petl_workbench::backbones::tensors::Tensors;
use petl_workbench::backbones::{self, Input};
use petl_workbench::datasets::log_mel::LogMel;
use petl_workbench::datasets::{self, Holds, Loaded, Samples, Spectrogram, Wanted};
use petl_workbench::engine::bag::Bag;
use petl_workbench::engine::batch;
use petl_workbench::engine::model::{self, Model, host};
use petl_workbench::engine::optimise::Optimiser;
use petl_workbench::engine::run::{self, Surroundings};
use petl_workbench::engine::tuner::Tuner;
use petl_workbench::exports::{self, transformers};
use petl_workbench::methods;
use petl_workbench::plan::anatomy::{Entry, Front};
use petl_workbench::plan::{Plan, Severity};
use petl_workbench::session::{Choice, Placed, Recipe, Schedule, Session, Settings, Value, edit};
use petl_workbench::tasks::classify;

const FAMILIES: [(&str, [usize; 2]); 4] =
    [("whisper", [100, 14]), ("whisper-classifier", [18, 10]), ("ast", [25, 14]), ("ast-classifier", [18, 9])];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn folder_of(name: &str) -> PathBuf {
    fixture("backbones").join(name)
}

/// The session's choice of a network that hears so many frames.
fn choice(folder: &Path, frames: usize) -> Choice {
    let mut choice = backbones::of_folder(folder).expect("the folder opens");
    choice.settings.set("seconds", Value::Real(frames as f64 / 100.0));
    choice
}

fn floats<const D: usize>(file: &Tensors, name: &str) -> Tensor<D> {
    let (values, shape) = file.floats(name).expect(name);
    Tensor::from_data(TensorData::new(values, shape), &Device::flex())
}

/// The spectrograms of an expected file `[batch, bins, frames]`.
fn heard(file: &Tensors, frames: usize) -> Tensor<3> {
    let name = format!("input_features_{frames}");
    if file.has(&name) { floats(file, &name) } else { floats::<3>(file, &format!("input_values_{frames}")).swap_dims(1, 2) }
}

/// The network of a choice with this stack and a head of three classes.
fn network(choice: &Choice, stack: Vec<Placed>) -> Model {
    let opened = backbones::open(choice).expect("the folder opens");
    let session = Session { backbone: choice.clone(), ..common::session(stack) };
    let mut problems = vec![];
    let plan = Plan::on(&session, opened.network.anatomy(), common::CLASSES, &mut problems);
    assert!(problems.is_empty(), "{problems:?}");
    let device = Device::flex();
    let weights = (opened.weights)(0, &device).expect("weights");
    let bag = Bag::make(&plan, &weights, 3, &device).expect("a bag");
    Model { plan, backbone: opened.network, weights, bag, device, names: None }
}

/// Largest difference over the largest value.
fn off(ours: &[f32], theirs: &[f32]) -> f32 {
    apart(ours, theirs) / theirs.iter().fold(0.0_f32, |most, v| most.max(v.abs()))
}

#[test]
fn networks_that_hear_give_what_transformers_gives_at_every_length() {
    for (name, lengths) in FAMILIES {
        let expected = Tensors::open(&folder_of(name).join("expected.safetensors")).expect("expected values");
        for frames in lengths {
            let choice = choice(&folder_of(name), frames);
            let model = network(&choice, vec![]);
            let mut tuner = Tuner::new(&model.plan, &model.weights, &model.bag, None);
            let input = Input::Sound(heard(&expected, frames));
            tuner.look(&input);
            let features = model.backbone.forward(&mut tuner, input);
            let (theirs, shape) = expected.floats(&format!("last_hidden_state_{frames}")).expect("features");
            assert_eq!((features.dims().to_vec(), shape[1]), (shape.clone(), model.plan.anatomy.tokens), "{name}");
            let apart = off(&host(features.clone()).expect("features"), &theirs);
            assert!(apart < 1e-4, "{name} at {frames} frames: {apart:e}");

            let pooled = model.backbone.pool(&mut tuner, features);
            let declared: Vec<_> = model.plan.anatomy.sites.iter().map(|site| site.path.clone()).collect();
            assert_eq!(tuner.visited, declared, "{name}");
            if let Ok((theirs, _)) = expected.floats(&format!("logits_{frames}")) {
                let ours = host(classified(&folder_of(name), &model, pooled)).expect("logits");
                let apart = off(&ours, &theirs);
                assert!(apart < 1e-4, "{name}'s logits at {frames} frames: {apart:e}");
            }
        }
    }
}

/// The logits of the folder's own classifier, made our head, for what our head reads.
fn classified(folder: &Path, model: &Model, pooled: Tensor<2>) -> Tensor<2> {
    let own = backbones::open(&backbones::of_folder(folder).expect("opens")).expect("opens").network.anatomy();
    let (_, head) = transformers::read_base(folder, &own, &model.device).expect("a classifier");
    let [weight, bias] = ["head/weight", "head/bias"].map(|name| Tensor::<2>::from_data(head[name].clone(), &model.device));
    pooled.matmul(weight) + bias
}

#[test]
fn front_ends_give_what_transformers_gives() {
    let wave = decoded("sweep.wav");
    assert_eq!(wave.len(), 17_600);
    let ast = Front::Kaldi { mean: -4.267_739_3, deviation: 4.568_997_4 };
    let expected = Tensors::open(&fixture("sound/spectrograms.safetensors")).expect("expected values");
    for (name, front, bins, frames, wave) in [
        ("whisper_80_cut", Front::Whisper, 80, 100, &wave[..]),
        ("whisper_128_filled", Front::Whisper, 128, 100, &wave[..8000]),
        ("ast_cut", ast, 128, 90, &wave[..]),
        ("ast_filled", ast, 128, 70, &wave[..8000]),
    ] {
        let made = LogMel::new(front, bins, frames).of(wave).expect("a spectrogram");
        let mut ours = vec![];
        made.fill(frames, &mut ours);
        let (theirs, shape) = expected.floats(name).expect("a spectrogram");
        assert_eq!(shape, [bins, frames.div_ceil(3)], "{name}");
        let some: Vec<f32> = ours.chunks(frames).flat_map(|band| band.iter().step_by(3).copied()).collect();
        let most = apart(&some, &theirs);
        assert!(most < 1e-3, "{name}: {most:e}");
        if name.ends_with("filled") {
            assert!(made.values.len() < bins * 55, "{name}: what fills it up is not kept");
        }
    }
    // Shorter than a single frame: still a spectrogram, of nothing but that.
    for front in [Front::Whisper, ast] {
        let made = LogMel::new(front, 80, 100).of(&[0.1; 7]).expect("a spectrogram");
        assert!(made.values.iter().all(|v| v.is_finite()) && made.values.len() <= 160, "{front:?}");
    }
}

/// One file of `tests/fixtures/sound` as the data set reads it.
fn decoded(name: &str) -> Vec<f32> {
    let scratch = tempfile::tempdir().expect("a folder");
    for class in ["a", "b"] {
        std::fs::create_dir(scratch.path().join(class)).expect("a folder");
        for copy in [0, 1] {
            std::fs::copy(fixture("sound").join(name), scratch.path().join(class).join(format!("{copy}{name}"))).expect("copied");
        }
    }
    let loaded = load(scratch.path(), &[], Wanted::all(0)).expect("samples");
    loaded.train.sounds[0].clone()
}

fn audio(folder: &Path, settings: &[(&str, &str)]) -> Choice {
    let mut choice = Choice::named("audio-folder");
    choice.settings.set("folder", Value::Text(folder.display().to_string()));
    for (name, text) in settings {
        let whole = text.parse().map(Value::Whole);
        choice.settings.set(name, whole.unwrap_or_else(|_| Value::Text((*text).to_owned())));
    }
    choice
}

fn load(folder: &Path, settings: &[(&str, &str)], wanted: Wanted) -> Result<Loaded, String> {
    let (choice, card) = (audio(folder, settings), datasets::find("audio-folder").expect("the card"));
    assert_eq!(choice.settings.faults(card.fields), [], "a test sets what there is");
    (card.load)(&choice.settings.filled(card.fields), 1, &wanted).map_err(|fault| format!("{fault:#}"))
}

/// A tone of this pitch and loudness at 16 kHz, from 0.05 seconds on, where no edge is heard.
fn tone(hertz: f64, loud: f64) -> impl Fn(usize) -> f64 {
    move |n| loud * (std::f64::consts::TAU * hertz * n as f64 / 16_000.0).sin()
}

#[test]
fn sounds_of_every_format_rate_and_number_of_channels_are_brought_to_one() {
    // 8 and 44.1 kHz and one that has no common measure, two channels of which one is silent.
    let scratch = tempfile::tempdir().expect("a folder");
    for rate in [8_000_u32, 16_000, 44_100, 47_999] {
        let of = |n: usize| (9000.0 * (std::f64::consts::TAU * 440.0 * n as f64 / f64::from(rate)).sin()).round() as i16;
        let sound: Vec<i16> = (0..rate as usize).flat_map(|n| [of(n), 0]).collect();
        for class in ["a", "b"] {
            let path = scratch.path().join(format!("{class}/deep/er"));
            std::fs::create_dir_all(&path).expect("a folder");
            std::fs::write(path.join(format!("{rate}.WAV")), wav(rate, 2, &sound)).expect("written");
        }
    }
    let loaded = load(scratch.path(), &[], Wanted::all(0)).expect("samples");
    assert_eq!((loaded.train.len(), loaded.test.len()), (6, 2));
    for sound in loaded.train.sounds.iter().chain(&loaded.test.sounds) {
        assert_eq!(sound.len(), 16_000);
        let wanted = tone(440.0, 4500.0 / 32768.0);
        let worst = (800..15_200).map(|n| (f64::from(sound[n]) - wanted(n)).abs()).fold(0.0, f64::max);
        assert!(worst < 1e-4, "{worst:e} off a tone of {:.3}", 4500.0 / 32768.0);
    }
    // FLAC loses nothing, OGG little: both hold the same two tones.
    let (flac, ogg) = (decoded("two.flac"), decoded("two.ogg"));
    assert_eq!((flac.len(), ogg.len()), (6400, 6400));
    let power = |sound: &[f32]| sound.iter().map(|v| v * v).sum::<f32>();
    let noise: Vec<f32> = flac.iter().zip(&ogg).map(|(a, b)| a - b).collect();
    assert!(power(&flac) > 30.0 && power(&noise) < power(&flac) / 50.0, "{} of {}", power(&noise), power(&flac));
    // Only what is heard is kept.
    let heard = load(scratch.path(), &[], Wanted { heard: 4000, ..Wanted::all(0) }).expect("samples");
    for (short, long) in heard.train.sounds.iter().zip(&loaded.train.sounds) {
        assert_eq!(short.len(), 4000);
        let worst = apart(short, &long[..4000]);
        assert!(worst < 1e-3, "the cut is heard: {worst:e}");
    }
}

#[test]
fn files_that_are_no_sounds_stop_by_name_or_are_left_out_when_the_person_says_so() {
    let scratch = tempfile::tempdir().expect("a folder");
    let whole = wav(8000, 1, &[100; 800]);
    for n in 0..20 {
        let class = scratch.path().join(["a", "b"][n / 10]);
        std::fs::create_dir_all(&class).expect("a folder");
        std::fs::write(class.join(format!("{n:02}.wav")), &whole).expect("written");
    }
    let put = |name: &str, bytes: &[u8]| std::fs::write(scratch.path().join(name), bytes).expect("written");
    put("a/03.wav", b"no sound");
    put("b/12.wav", b"");
    put("b/13.wav", &wav(8000, 1, &[])); // whole, and nothing in it
    let flac = std::fs::read(fixture("sound/two.flac")).expect("a sound");
    put("a/10.flac", &flac[..flac.len() / 2]);
    put("a/notes.txt", b"not looked at");
    let words = load(scratch.path(), &[], Wanted::all(0)).expect_err("damaged files");
    for part in ["4 of 21 sounds", "a/03.wav", "b/12.wav", "b/13.wav", "holds no sound", "a/10.flac", "`damaged`", "`leave out`"]
    {
        assert!(words.contains(part), "{words}\nlacks {part}");
    }
    let loaded = load(scratch.path(), &[("damaged", "leave out")], Wanted::all(0)).expect("samples");
    assert_eq!(loaded.train.len() + loaded.test.len(), 17);
    assert!(loaded.notes[0].contains("4 of 21") && loaded.notes[0].contains("left out"), "{:?}", loaded.notes);
    let few = load(scratch.path(), &[("damaged", "leave out"), ("per_class", "3")], Wanted::all(0)).expect("samples");
    assert!(few.train.len() <= 6 && few.test.len() == loaded.test.len());
    let empty = tempfile::tempdir().expect("a folder");
    let said = datasets::describe(&audio(empty.path(), &[])).expect_err("nothing there");
    assert!(said.contains("is empty") && said.contains("subfolder of sounds"), "{said}");
}

#[test]
#[cfg(unix)]
fn a_folder_that_is_linked_into_itself_is_entered_once() {
    let scratch = tempfile::tempdir().expect("a folder");
    for class in ["a", "b"] {
        let inner = scratch.path().join(class).join("inner");
        std::fs::create_dir_all(&inner).expect("a folder");
        std::fs::write(inner.join("x.wav"), wav(8000, 1, &[7; 800])).expect("written");
        std::fs::write(inner.join("y.wav"), wav(8000, 1, &[7; 800])).expect("written");
        std::os::unix::fs::symlink(scratch.path().join(class), inner.join("again")).expect("a link");
    }
    let loaded = load(scratch.path(), &[], Wanted::all(0)).expect("samples");
    assert_eq!(loaded.train.len() + loaded.test.len(), 4);
}

#[test]
fn a_spectrogram_is_filled_up_where_the_sound_ends() {
    let two = Spectrogram { bins: 2, values: vec![1.0, 2.0, 3.0, 4.0], rest: -1.0 };
    let samples = Samples { spectrograms: vec![two.clone(), two], labels: vec![0, 1], ..Samples::default() };
    let of = |frames| {
        let entry = Entry::Sound { bins: 2, frames, front: Front::Whisper };
        let (input, labels) = batch::tensors(&entry, &samples, &[1], None, &Device::flex()).expect("a batch");
        assert_eq!(labels.dims(), [1]);
        host(input.spectrograms()).expect("values")
    };
    assert_eq!(of(3), [1.0, 2.0, -1.0, 3.0, 4.0, -1.0]);
    assert_eq!(of(1), [1.0, 3.0]);
}

#[test]
fn a_session_says_what_is_heard_and_what_does_not_fit() {
    let scratch = tempfile::tempdir().expect("a folder");
    for (n, class) in ["a", "b"].into_iter().cycle().take(8).enumerate() {
        std::fs::create_dir_all(scratch.path().join(class)).expect("a folder");
        let sound: Vec<i16> = (0..900).map(|k| ((k * (n + 3)) as f32).sin().mul_add(8000.0, 0.0) as i16).collect();
        std::fs::write(scratch.path().join(class).join(format!("{n}.wav")), wav(16_000, 1, &sound)).expect("written");
    }
    let hears = |name, frames| Session {
        backbone: choice(&folder_of(name), frames),
        data: audio(scratch.path(), &[]),
        ..common::session(vec![])
    };
    for (name, [own, short]) in FAMILIES {
        for frames in [own, short] {
            let session = hears(name, frames);
            let plan = Plan::of(&session);
            assert!(plan.problems.iter().all(|p| p.severity == Severity::Note), "{name}: {:?}", plan.problems);
            assert_eq!((plan.classes.len(), plan.holds), (2, Holds::Sounds));
            let data = model::data(&session).expect("samples");
            assert!(data.train.sounds.is_empty() && data.train.spectrograms.len() == data.train.len());
            let model = Model::make(&session, &Device::flex()).expect("a model");
            let answers = model.answers(&model.bag, &data.test, &[0, 1]).expect("answers");
            assert!(answers.iter().all(|v| v.is_finite()) && answers.len() == 4, "{name}");
            let Entry::Sound { bins, .. } = plan.anatomy.entry else { panic!("{name} hears") };
            assert!(plan.anatomy.takes().starts_with(&format!("[{bins}, {frames}], ")), "{}", plan.anatomy.takes());
        }
    }
    // Sounds for a network that sees, and images for one that hears.
    let sees = Session { data: audio(scratch.path(), &[]), ..common::session(vec![]) };
    let reads = Session { backbone: backbones::of_folder(&folder_of("bert")).expect("opens"), ..sees.clone() };
    let images = Session { backbone: choice(&folder_of("whisper"), 100), ..common::session(vec![]) };
    for (session, words, mended) in [
        (sees, "holds sounds, but ViT tiny 32, pretrained sees images", true),
        (reads, "holds sounds, but Text encoder reads texts", false),
        (images, "holds images, but Whisper's encoder hears sounds", true),
    ] {
        let plan = Plan::of(&session);
        let problem = plan.blocked().expect("nothing fits");
        assert!(problem.words.contains(words), "{}", problem.words);
        assert_eq!(problem.remedy.is_some(), mended, "{}", problem.words);
        if let Some(remedy) = &problem.remedy {
            let mended = edit::apply(&session, &plan.anatomy, &remedy.edit()).expect("an edit");
            assert!(Plan::of(&mended).blocked().is_none(), "{words}");
        }
    }
    let too_long = Session { backbone: choice(&folder_of("whisper"), 102), ..hears("whisper", 100) };
    let said = Plan::of(&too_long).blocked().expect("too long").words.clone();
    assert!(said.contains("has positions for 1 seconds"), "{said}");
}

fn optimiser() -> Optimiser {
    let recipe = Recipe { weight_decay: 0.0, schedule: Schedule::Constant, warm_up: 0.0, ..Recipe::default() };
    Optimiser::new(&recipe, BTreeMap::new())
}

#[test]
fn every_method_of_the_catalogue_stands_on_both_families_and_learns() {
    let labels = || Tensor::<1, Int>::from_data(TensorData::new(vec![0_i64, 1], [2]), &Device::flex());
    for (name, frames) in [("whisper", 14), ("ast-classifier", 9)] {
        let expected = Tensors::open(&folder_of(name).join("expected.safetensors")).expect("expected values");
        let input = || Input::Sound(heard(&expected, frames));
        let choice = choice(&folder_of(name), frames);
        let plain = {
            let model = network(&choice, vec![]);
            host(model.logits(&model.bag.frozen(), input(), None)).expect("logits")
        };
        let mut stood = vec![];
        for card in methods::CATALOG {
            let words = format!("{} on {name}", card.name);
            let mut one = placed(card, Settings::default());
            if card.fields.iter().any(|field| field.name == "dropout") {
                one.settings.set("dropout", Value::Real(0.0));
            }
            let session = Session { backbone: choice.clone(), ..common::session(vec![one.clone()]) };
            let mut problems = vec![];
            let anatomy = backbones::open(&choice).expect("opens").network.anatomy();
            let plan = Plan::on(&session, anatomy, common::CLASSES, &mut problems);
            if plan.members.is_empty() {
                assert!(card.name == "twin" && problems[0].words.contains("quality of each image"), "{words}: {problems:?}");
                continue;
            }
            let mut model = network(&choice, vec![one]);
            assert_eq!(model.bag.count(), plan.trainable() + plan.head_count(), "{words}: declared = real");
            let logits = |model: &Model| host(model.logits(&model.bag.frozen(), input(), None)).expect("logits");
            let before = logits(&model);
            assert_eq!(apart(&plain, &before) == 0.0, card.identity_at_start, "{words}: at the start");
            let (mut optimiser, mut touched, mut losses) = (optimiser(), BTreeSet::new(), vec![]);
            for _ in 0..12 {
                let loss = classify::loss(model.logits(&model.bag, input(), Some(1)), labels(), 0.0);
                losses.push(loss.clone().inner().into_scalar::<f32>());
                let gradients = model.bag.gradients(loss.backward());
                let squares = optimiser.step(&mut model.bag, gradients, 3e-3);
                touched.extend(squares.into_iter().filter(|(_, v)| v.clone().into_scalar::<f32>() > 0.0).map(|(key, _)| key));
            }
            let (first, last) = (losses[0], losses[losses.len() - 1]);
            assert!(last < first, "{words}: loss {first} to {last}");
            let by_mathematics = |k: &str| k.contains("attn.k/bias") || k.contains("/k_") && k.ends_with("_bias");
            let untouched: Vec<_> = model.bag.params.keys().filter(|k| !touched.contains(*k) && !by_mathematics(k)).collect();
            assert!(untouched.is_empty(), "{words}: no gradient for {untouched:?}");
            stood.push(card.name);
        }
        assert_eq!(stood.len(), methods::CATALOG.len() - 1, "{name}: all but the one that looks at images");
    }
}

#[test]
fn what_is_wrong_with_such_a_folder_is_said_by_name() {
    let spoil = |name: &str, file: &str, from: &str, to: &str| {
        let folder = tempfile::tempdir().expect("a folder");
        for entry in std::fs::read_dir(folder_of(name)).expect("a fixture") {
            let path = entry.expect("an entry").path();
            std::fs::copy(&path, folder.path().join(path.file_name().expect("a name"))).expect("a copy");
        }
        let place = folder.path().join(file);
        let text = std::fs::read_to_string(&place).expect("a configuration");
        assert!(text.contains(from), "{name}: {from}");
        std::fs::write(&place, text.replace(from, to)).expect("written");
        match backbones::of_folder(folder.path()).and_then(|choice| backbones::open(&choice)) {
            Err(words) => words,
            Ok(opened) => (opened.weights)(0, &Device::flex()).err().map_or_else(String::new, |fault| format!("{fault:#}")),
        }
    };
    for (name, from, to, words) in [
        ("whisper", "\"encoder_layers\": 2", "\"encoder_layers\": 2 ", ""),
        ("whisper", "\"encoder_layers\": 2", "\"encoder_layers\": 3", "lacks 15 of its tensors: model.encoder.layers.2."),
        ("whisper", "\"encoder_layers\": 2", "\"encoder_layers\": 1", "15 of its tensors: model.encoder.layers.1."),
        (
            "whisper",
            "\"num_mel_bins\": 16",
            "\"num_mel_bins\": 17",
            "another shape 1 of its tensors: model.encoder.conv1.weight [32, 16, 3]",
        ),
        (
            "whisper",
            "\"max_source_positions\": 50",
            "\"max_source_positions\": 51",
            "model.encoder.embed_positions.weight [50, 32]",
        ),
        ("whisper", "\"encoder_attention_heads\": 4", "\"encoder_attention_heads\": 5", "32 channels for 5 heads"),
        ("whisper", "\"activation_function\": \"gelu\"", "\"activation_function\": \"relu\"", "`relu`; this program knows gelu"),
        ("whisper-classifier", "\"use_weighted_layer_sum\": false", "\"use_weighted_layer_sum\": true", "a sum over all layers"),
        ("ast", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3", "lacks 16 of its tensors: encoder.layer.2."),
        ("ast", "\"max_length\": 25", "\"max_length\": 31", "embeddings.position_embeddings [1, 42, 32]"),
        ("ast", "\"frequency_stride\": 3", "\"frequency_stride\": 0", "`frequency_stride` is 0, but must be"),
        ("ast", "\"patch_size\": 4", "\"patch_size\": 40", "in patches of 40"),
        ("ast-classifier", "\"hidden_size\": 48", "\"hidden_size\": 45", "in another shape 43 of its tensors"),
    ] {
        let said = spoil(name, "config.json", from, to);
        assert!(said.contains(words) && said.is_empty() == words.is_empty(), "{name}, {to}: {said}");
    }
    let rate = spoil("ast", "preprocessor_config.json", "\"sampling_rate\": 16000", "\"sampling_rate\": 8000");
    assert!(rate.contains("`sampling_rate` is 8000"), "{rate}");
}

#[test]
fn a_run_on_sounds_leaves_as_whole_folders_of_transformers_and_comes_back() {
    let scratch = tempfile::tempdir().expect("a folder");
    for n in 0..12 {
        let class = scratch.path().join(["a", "b"][n % 2]);
        std::fs::create_dir_all(&class).expect("a folder");
        let pitch = [0.2, 0.9][n % 2] + n as f32 * 0.01;
        let sound: Vec<i16> = (0..9000).map(|k| ((k as f32 * pitch).sin() * 9000.0) as i16).collect();
        std::fs::write(class.join(format!("{n}.wav")), wav(16_000, 1, &sound)).expect("written");
    }
    for (name, frames, whole) in [("whisper", 100, true), ("ast", 14, true), ("whisper-classifier", 10, false)] {
        let mut session = Session {
            backbone: choice(&folder_of(name), frames),
            data: audio(scratch.path(), &[]),
            ..common::session(vec![placed(&methods::lora::CARD, Settings::default())])
        };
        (session.recipe.epochs, session.recipe.batch_size, session.recipe.learning_rate) = (3, 4, 1e-2);
        let run = tempfile::tempdir().expect("a folder");
        let place = run.path().join("run");
        let around = Surroundings { run: "test", folder: &place, send: &|_| Ok(()), ask: &|| Ok(ControlFlow::Continue(())) };
        run::train(&session, &around).expect("trained");
        for kind in ["petl", "merged", "transformers", "peft"] {
            let done = exports::export(&place, kind, &run.path().join(kind));
            if !whole && matches!(kind, "transformers" | "peft") {
                // A tenth of a second is no length that the front end of transformers knows, and the folder's own is another.
                let said = format!("{:#}", done.expect_err("refused"));
                assert!(said.contains("not written from here"), "{name} as {kind}: {said}");
                continue;
            }
            let done = done.unwrap_or_else(|fault| panic!("{name} as {kind}: {fault:#}"));
            assert!(done.difference < 1e-4, "{name} as {kind}: {}", done.difference);
        }
        if whole {
            // What left is a model folder of its own, of just the length that was trained on.
            let opened = backbones::of_folder(&run.path().join("transformers")).and_then(|choice| backbones::open(&choice));
            let Entry::Sound { frames: own, front, .. } = opened.expect("it opens").network.anatomy().entry else {
                panic!("{name} hears")
            };
            let trained = Plan::of(&session).anatomy.entry;
            assert!(matches!(trained, Entry::Sound { front: then, .. } if then == front) && own == frames, "{name}");
        }
    }
}

#[test]
fn adapters_that_peft_wrote_give_what_peft_gives() {
    let scratch = tempfile::tempdir().expect("a folder");
    for (adapter, base, frames, stack) in
        [("lora_whisper", "whisper-classifier", 18, "LoRA"), ("ia3_ast", "ast-classifier", 18, "IA3")]
    {
        let (folder, into) = (fixture("sound").join(adapter), scratch.path().join(adapter));
        let made = exports::import::import(&folder, &folder_of(base), &into).unwrap_or_else(|fault| panic!("{fault:#}"));
        assert_eq!((made.stack.as_str(), made.classes.len()), (stack, 4));
        let (_, model) = exports::load_run(&into).expect("a run");
        let sound = heard(&Tensors::open(&folder_of(base).join("expected.safetensors")).expect("a sound"), frames);
        let logits = |bag: &Bag| host(model.logits(bag, Input::Sound(sound.clone()), None)).expect("logits");
        let theirs = Tensors::open(&folder.join("expected.safetensors")).expect("logits").floats("logits").expect("logits").0;
        let apart = off(&logits(&model.bag.frozen()), &theirs);
        assert!(apart < 1e-4, "{adapter}: {apart:e}");
        // Without the adapter it is something else.
        let mut bare = model.bag.frozen();
        bare.params.iter_mut().filter(|(key, _)| !key.starts_with("head/")).for_each(|(_, value)| *value = value.clone() * 0.5);
        assert!(off(&logits(&bare), &theirs) > 1e-3, "{adapter} makes no difference");
    }
}

/// What the program says, and whether it went well.
fn petl(arguments: &[&str]) -> (bool, String) {
    let home = tempfile::tempdir().expect("a folder");
    let done = std::process::Command::new(env!("CARGO_BIN_EXE_petl")).args(arguments).env("PETL_HOME", home.path()).output();
    let done = done.expect("the program starts");
    (done.status.success(), String::from_utf8_lossy(&done.stderr).into_owned())
}

#[test]
fn spectrograms_of_a_readers_own_are_predicted_as_transformers_calls_them() {
    let scratch = tempfile::tempdir().expect("a folder");
    let at = |name: &str| scratch.path().join(name).display().to_string();
    let (inputs, out) = (at("in.safetensors"), at("out.safetensors"));
    let put = |name: &str, values: Vec<f32>, shape: Vec<usize>| {
        let all = BTreeMap::from([(name.to_owned(), TensorData::new(values, shape))]);
        exports::tensors::write(Path::new(&inputs), &all).expect("written");
    };
    for (family, lengths) in FAMILIES {
        let model = folder_of(family).display().to_string();
        let expected = Tensors::open(&folder_of(family).join("expected.safetensors")).expect("expected values");
        for frames in lengths {
            let name = if family.starts_with("whisper") { "input_features" } else { "input_values" };
            let (values, shape) = expected.floats(&format!("{name}_{frames}")).expect("a sound");
            put(name, values, shape);
            let (fine, words) = petl(&["predict", &model, "--inputs", &inputs, "--out", &out]);
            assert!(fine, "{family}: {words}");
            let (ours, shape) = Tensors::open(Path::new(&out)).expect("features").floats("last_hidden_state").expect("features");
            let (theirs, wanted) = expected.floats(&format!("last_hidden_state_{frames}")).expect("features");
            assert!(shape == wanted && off(&ours, &theirs) < 1e-4, "{family} at {frames} frames");
        }
    }
    let whisper = folder_of("whisper").display().to_string();
    let refused = || petl(&["predict", &whisper, "--inputs", &inputs, "--out", &out]).1;
    for (name, values, shape, words) in [
        ("pixel_values", vec![0.0; 12], vec![1, 3, 2, 2], "has no tensor `input_features`"),
        ("input_features", vec![0.0; 1500], vec![1, 15, 100], "this network takes [batch, 16, 100]"),
        ("input_features", vec![0.0; 16 * 102], vec![1, 16, 102], "this network takes [batch, 16, 100]"),
        ("input_values", vec![0.0; 1920], vec![1, 120, 16], "this network takes [batch, 100, 16]"),
        ("input_features", vec![f32::NAN; 1600], vec![1, 16, 100], "holds NaN in sound 0"),
    ] {
        put(name, values, shape);
        let said = refused();
        assert!(said.contains(words), "{said}");
    }
}
