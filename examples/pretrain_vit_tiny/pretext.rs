//! The pretext task that the small vision backbones are pretrained on: clothes, shapes and glyphs on many grounds.
//! Called by `examples/pretrain_vit_tiny`; paints with `petl_workbench::datasets::paint`.
//! Must not know tensors, models, or any data set the workbench ships: in particular it draws no digits.

use std::f32::consts::TAU;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use petl_workbench::datasets::paint::{
    BLACK, Canvas, Family, Place, Point, Rgb, Shape, Texture, WHITE, bezier, colour_away_from,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Classes of the clothes (Fashion-MNIST).
const CLOTHES: usize = 10;
/// Classes of the procedural glyphs.
const GLYPHS: usize = 26;
/// Classes of "what": clothes, then `Shape::ALL`, then glyphs.
pub const WHAT: usize = CLOTHES + Shape::ALL.len() + GLYPHS;
/// Classes of the ground's texture: `Family::ALL`.
pub const TEXTURES: usize = Family::ALL.len();
/// Side of a sample, pixels.
pub const SIDE: usize = 32;

/// A sample: RGB bytes `[32, 32, 3]`, what it shows, the texture of its ground.
pub type Sample = (Vec<u8>, usize, usize);
/// One stroke: the control points of a quadratic Bezier curve, in -1 to 1.
type Stroke = [Point; 3];

/// Side of a Fashion-MNIST picture.
const CLOTH_SIDE: usize = 28;
/// The glyphs are the same for every run and seed: they are classes, not samples.
const GLYPH_SEED: u64 = 0x676c_7970_6873;

/// One split of Fashion-MNIST.
struct Clothes {
    pixels: Vec<u8>,
    labels: Vec<u8>,
}

/// The source of pretext samples.
pub struct Pretext {
    train: Clothes,
    test: Clothes,
    glyphs: Vec<Vec<Stroke>>,
}

impl Pretext {
    /// Reads Fashion-MNIST from a folder of IDX files, plain or `.gz`.
    pub fn open(fashion_dir: &Path) -> Result<Pretext> {
        Ok(Pretext {
            train: Clothes::open(fashion_dir, "train")?,
            test: Clothes::open(fashion_dir, "t10k")?,
            glyphs: design_glyphs(),
        })
    }

    /// One training sample.
    pub fn sample(&self, rng: &mut ChaCha8Rng) -> Sample {
        self.draw(&self.train, rng)
    }

    /// `n` samples whose clothes come from Fashion-MNIST's test split; the same for the same seed.
    pub fn test_set(&self, n: usize, seed: u64) -> Vec<Sample> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        (0..n).map(|_| self.draw(&self.test, &mut rng)).collect()
    }

    fn draw(&self, clothes: &Clothes, rng: &mut ChaCha8Rng) -> Sample {
        match rng.random_range(0..3) {
            0 => draw_cloth(clothes, rng),
            1 => draw_shape(rng),
            _ => self.draw_glyph(rng),
        }
    }

    fn draw_glyph(&self, rng: &mut ChaCha8Rng) -> Sample {
        let which = rng.random_range(0..GLYPHS);
        let (ground, ink) = surfaces(0.45, rng);
        let mut canvas = Canvas::new(SIDE, &ground);
        let place = Place { scale: rng.random_range(7.5..13.0), ..loose_place(3.0, 0.44, rng) };
        // A shear besides the turn and the scale: handwriting leans.
        let shear: f32 = rng.random_range(-0.25..0.25);
        let squeeze: f32 = rng.random_range(0.8..1.1);
        let lines: Vec<Vec<Point>> = (self.glyphs[which].iter())
            .map(|stroke| {
                let moved = stroke.map(|[x, y]| {
                    let [x, y] = [x + rng.random_range(-0.11..0.11), y + rng.random_range(-0.11..0.11)];
                    place.apply([x * squeeze + y * shear, y])
                });
                bezier(moved, 8)
            })
            .collect();
        canvas.stroke(&lines, rng.random_range(1.5..4.0), &ink);
        (canvas.pixels, CLOTHES + Shape::ALL.len() + which, ground.family as usize)
    }
}

fn draw_cloth(clothes: &Clothes, rng: &mut ChaCha8Rng) -> Sample {
    let n = rng.random_range(0..clothes.labels.len());
    let (ground, ink) = surfaces(0.45, rng);
    let mut canvas = Canvas::new(SIDE, &ground);
    let place =
        Place { scale: rng.random_range(0.7..1.15), flip: rng.random_bool(0.5), ..loose_place(3.0, 25.0_f32.to_radians(), rng) };
    let grey = &clothes.pixels[n * CLOTH_SIDE * CLOTH_SIDE..(n + 1) * CLOTH_SIDE * CLOTH_SIDE];
    canvas.stencil(grey, CLOTH_SIDE, place, &ink);
    (canvas.pixels, usize::from(clothes.labels[n]), ground.family as usize)
}

fn draw_shape(rng: &mut ChaCha8Rng) -> Sample {
    let which = rng.random_range(0..Shape::ALL.len());
    let (ground, ink) = surfaces(0.15, rng);
    let mut canvas = Canvas::new(SIDE, &ground);
    let scale: f32 = rng.random_range(5.0..13.5);
    let room = (15.5 - scale).max(2.0);
    let place = Place { scale, flip: rng.random_bool(0.5), ..loose_place(room, TAU * 0.5, rng) };
    canvas.fill(Shape::ALL[which], place, &ink);
    (canvas.pixels, CLOTHES + which, ground.family as usize)
}

/// A place near the middle, up to `shift` pixels off it and turned up to `turn` radians.
fn loose_place(shift: f32, turn: f32, rng: &mut ChaCha8Rng) -> Place {
    let middle = SIDE as f32 * 0.5;
    Place {
        centre: std::array::from_fn(|_| middle + rng.random_range(-shift..shift)),
        scale: 1.0,
        angle: rng.random_range(-turn..turn),
        flip: false,
    }
}

/// A ground and an ink that can be told from it. A share `plain` is light on black or dark on white, so that simple
/// high-contrast pictures such as scans belong to what the backbone has seen.
fn surfaces(plain: f64, rng: &mut ChaCha8Rng) -> (Texture, Texture) {
    if rng.random_bool(plain) {
        // Of the plain ones three in four are on black: 35 % of all clothes and glyphs.
        let (ground, far) = if rng.random_bool(0.78) { (BLACK, WHITE) } else { (WHITE, BLACK) };
        let ink = if rng.random_bool(0.6) { far } else { colour_away_from(&[ground], 0.55, rng) };
        return (Texture::solid(ground), Texture::solid(ink));
    }
    let family = Family::ALL[rng.random_range(0..Family::ALL.len())];
    let first = std::array::from_fn(|_| rng.random());
    // The two colours of a ground stay near each other often enough that the texture is not all there is to see.
    let second = colour_away_from(&[first], 0.3, rng);
    let ground = Texture::random(family, first, second, rng);
    let grounds: &[Rgb] = if family == Family::Solid { &[first] } else { &[first, second] };
    let ink = colour_away_from(grounds, 0.5, rng);
    let ink = if rng.random_bool(0.3) {
        let pattern = Family::ALL[rng.random_range(1..Family::ALL.len())];
        let other = colour_away_from(grounds, 0.5, rng);
        Texture::random(pattern, ink, other, rng)
    } else {
        Texture::solid(ink)
    };
    (ground, ink)
}

/// Draws the glyph alphabet: 2 to 4 strokes each, and no glyph that looks like one chosen before.
fn design_glyphs() -> Vec<Vec<Stroke>> {
    let mut rng = ChaCha8Rng::seed_from_u64(GLYPH_SEED);
    let mut chosen: Vec<(Vec<Stroke>, Vec<f32>)> = Vec::new();
    // The limit rises a little with every refusal, so that the search ends.
    let mut limit = 0.6_f32;
    while chosen.len() < GLYPHS {
        let glyph = random_glyph(&mut rng);
        let mask = glyph_mask(&glyph, 0.0);
        if !(140.0..330.0).contains(&mask.iter().sum::<f32>()) {
            continue;
        }
        // Samples are turned by up to 25 degrees, so that two glyphs must differ under a turn, too.
        let turned = [mask, glyph_mask(&glyph, -0.4), glyph_mask(&glyph, 0.4)];
        let pairs = chosen.iter().flat_map(|(_, other)| turned.iter().map(move |mask| likeness(mask, other)));
        if pairs.fold(0.0_f32, f32::max) < limit {
            let [mask, ..] = turned;
            chosen.push((glyph, mask));
        } else {
            limit += 2e-4;
        }
    }
    chosen.into_iter().map(|(glyph, _)| glyph).collect()
}

fn random_glyph(rng: &mut ChaCha8Rng) -> Vec<Stroke> {
    let mut strokes: Vec<Stroke> = Vec::new();
    // Two strokes are a choice only where both are bent: two straight ones make but V, L, T and X.
    let count = rng.random_range(2..=4);
    let straight = if count == 2 { 0.0 } else { 0.45 };
    while strokes.len() < count {
        let mut knot = || std::array::from_fn(|_| [-0.9, -0.3, 0.3, 0.9][rng.random_range(0..4)]);
        let (mut from, to, bend): (Point, Point, Point) = (knot(), knot(), knot());
        // Most strokes begin where an earlier one passes: letters hang together.
        if let Some(last) = strokes.last()
            && rng.random_bool(0.65)
        {
            from = last[rng.random_range(0..2) * 2];
        }
        let middle = [(from[0] + to[0]) * 0.5, (from[1] + to[1]) * 0.5];
        let bend = if rng.random_bool(straight) { middle } else { [bend[0] * 1.4, bend[1] * 1.4] };
        if (from[0] - to[0]).hypot(from[1] - to[1]) > 0.8 {
            strokes.push([from, bend, to]);
        }
    }
    centred(strokes)
}

/// The strokes moved and scaled so that they fill -1 to 1 in their longer direction.
fn centred(strokes: Vec<Stroke>) -> Vec<Stroke> {
    let points: Vec<Point> = strokes.iter().flat_map(|s| bezier(*s, 8)).collect();
    let bound = |k: usize| {
        let low = points.iter().map(|p| p[k]).fold(f32::MAX, f32::min);
        let high = points.iter().map(|p| p[k]).fold(f32::MIN, f32::max);
        (low, high)
    };
    let ((left, right), (top, bottom)) = (bound(0), bound(1));
    let half = ((right - left).max(bottom - top) * 0.5).max(1e-3);
    let middle = [(left + right) * 0.5, (top + bottom) * 0.5];
    strokes.into_iter().map(|s| s.map(|p| [(p[0] - middle[0]) / half, (p[1] - middle[1]) / half])).collect()
}

fn glyph_mask(glyph: &[Stroke], angle: f32) -> Vec<f32> {
    let place = Place { centre: [16.0; 2], scale: 11.0, angle, flip: false };
    let mut canvas = Canvas::new(SIDE, &Texture::solid(BLACK));
    let lines: Vec<Vec<Point>> = glyph.iter().map(|s| bezier(s.map(|p| place.apply(p)), 8)).collect();
    canvas.stroke(&lines, 3.5, &Texture::solid(WHITE));
    canvas.pixels.chunks_exact(3).map(|p| f32::from(p[0]) / 255.0).collect()
}

/// Cosine of two masks, the best over small shifts.
fn likeness(a: &[f32], b: &[f32]) -> f32 {
    let norm = |m: &[f32]| m.iter().map(|v| v * v).sum::<f32>().sqrt();
    let scale = norm(a) * norm(b);
    let mut best = 0.0_f32;
    for (dx, dy) in (-1..=1).flat_map(|dy: i32| (-1..=1).map(move |dx: i32| (dx * 3, dy * 3))) {
        let shift = dy * SIDE as i32 + dx;
        let dot: f32 =
            (a.iter().enumerate()).filter_map(|(n, v)| b.get(usize::try_from(n as i32 + shift).ok()?).map(|w| v * w)).sum();
        best = best.max(dot / scale);
    }
    best
}

impl Clothes {
    fn open(dir: &Path, split: &str) -> Result<Clothes> {
        let pixels = read_idx(dir, &format!("{split}-images-idx3-ubyte"), &[CLOTH_SIDE, CLOTH_SIDE])?;
        let labels = read_idx(dir, &format!("{split}-labels-idx1-ubyte"), &[])?;
        let images = pixels.len() / (CLOTH_SIDE * CLOTH_SIDE);
        let place = dir.display();
        ensure!(images == labels.len(), "{place}: {images} {split} pictures but {} labels; fetch it again", labels.len());
        ensure!(!labels.is_empty(), "{place}: no {split} pictures; fetch it again");
        let worst = labels.iter().max().copied().unwrap_or(0);
        ensure!(usize::from(worst) < CLOTHES, "{place}: {split} label {worst} is not 0 to 9; is this Fashion-MNIST?");
        Ok(Clothes { pixels, labels })
    }
}

/// The bytes of an IDX file of unsigned bytes whose items have the sides `item`.
fn read_idx(dir: &Path, name: &str, item: &[usize]) -> Result<Vec<u8>> {
    let (plain, packed) = (dir.join(name), dir.join(format!("{name}.gz")));
    let bytes = if plain.exists() {
        std::fs::read(&plain).with_context(|| format!("cannot read {}", plain.display()))?
    } else {
        ensure!(
            packed.exists(),
            "neither {} nor its .gz is there; fetch Fashion-MNIST (`shared/tools/get-data fashion-mnist`) or name its folder",
            plain.display()
        );
        // The library has no need of gzip, so an example does not add a dependency for it.
        let unpacked = Command::new("gzip")
            .args(["-d", "-c"])
            .arg(&packed)
            .output()
            .with_context(|| format!("cannot run gzip for {}; install gzip or unpack the file", packed.display()))?;
        ensure!(unpacked.status.success(), "gzip cannot unpack {}; fetch it again", packed.display());
        unpacked.stdout
    };
    let place = dir.join(name);
    let place = place.display();
    let rank = item.len() + 1;
    let head = 4 + 4 * rank;
    ensure!(bytes.len() >= head, "{place}: {} bytes are too few for an IDX file; fetch it again", bytes.len());
    ensure!(bytes[..4] == [0, 0, 8, rank as u8], "{place}: not an IDX file of bytes in {rank} dimensions");
    let sizes: Vec<usize> =
        (bytes[4..head].chunks_exact(4)).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]) as usize).collect();
    ensure!(sizes[1..] == *item, "{place}: items of {:?}, expected {item:?}", &sizes[1..]);
    let total: usize = sizes.iter().product();
    ensure!(bytes.len() == head + total, "{place}: {} bytes, its head says {}; fetch it again", bytes.len(), head + total);
    Ok(bytes[head..].to_vec())
}
