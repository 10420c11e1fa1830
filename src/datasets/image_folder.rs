//! Images in folders: one subfolder a class, or `train` and `test` folders of such. Decoded in parallel, the middle square
//! brought to the side that the network wants.
//! Called through the catalogue (`datasets::CATALOG`); splits by `splits`. Must not know methods, models or tensors.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use image::{DynamicImage, ImageDecoder, ImageReader, RgbImage, imageops};
use rayon::prelude::*;

use super::quality::{self, Scores};
use super::{Card, Described, Holds, Loaded, Samples, Wanted, once, path_of, splits};
use crate::session::settings::{Field, Settings};

const ENDINGS: [&str; 4] = ["png", "jpg", "jpeg", "webp"];
/// What a folder of test images may be called, the first that there is.
const TESTS: [&str; 4] = ["test", "val", "validation", "valid"];
/// Side of the samples that are shown while the network wants no images.
pub const SHOWN: usize = 96;
/// Names in a message; more of them are counted.
const NAMED: usize = 8;

pub const DAMAGED: Field = Field::choice(
    "damaged",
    &["stop", "leave out"],
    "What to do when images cannot be read: stop and name them, or leave them out and say how many.",
);

pub const CARD: Card = Card {
    name: "image-folder",
    title: "Image folder",
    help: "Your own images (png, jpeg, webp): a folder with one subfolder for each class, or with the folders train and test (or val) \
           that have the same such subfolders. The middle square of each image is cut out and brought to the side that the \
           backbone wants. A file quality.csv in the folder (lines of path,quality) gives every image a quality score.",
    source: "The folder that you choose",
    licence: "That of your images",
    fields: &[
        Field::text(
            "folder",
            "",
            "The folder that has one subfolder of images for each class, or train and test folders of such.",
        ),
        Field::real(
            "test",
            0.01,
            0.99,
            0.2,
            "Which part of every class is kept to test on, where the folder has no test images of its own. The seed chooses which.",
        ),
        splits::PER_CLASS,
        DAMAGED,
    ],
    describe,
    load,
};

/// An image file.
#[derive(Clone)]
pub struct File {
    pub path: PathBuf,
    pub label: u32,
    /// Of all files, or of none.
    pub quality: Option<f32>,
}

struct Found {
    classes: Vec<String>,
    train: Vec<File>,
    /// Where there are folders of it.
    test: Option<Vec<File>>,
}

fn describe(set: &Settings) -> Result<Described, String> {
    let root = root(set)?;
    let (train, test) = parts(&root)?;
    let watched = [Some(root.clone()), Some(train), test, quality::place(&root)].into_iter().flatten().collect::<Vec<_>>();
    once(&watched, set, || {
        let found = find(set)?;
        let quality = Scores::of(found.train.iter().chain(found.test.iter().flatten()).filter_map(|file| file.quality));
        Ok(Described { quality, ..Described::found(&root.display().to_string(), found.classes, Holds::Images)? })
    })
}

fn load(set: &Settings, seed: u64, wanted: &Wanted) -> Result<Loaded> {
    let found = find(set).map_err(anyhow::Error::msg)?;
    let labels = |files: &[File]| files.iter().map(|file| file.label).collect::<Vec<_>>();
    let pick = |numbers: &[usize]| numbers.iter().map(|n| found.train[*n].clone()).collect::<Vec<_>>();
    let (mut train, test) = match &found.test {
        Some(test) => (found.train.clone(), test.clone()),
        None => match splits::stratified(&labels(&found.train), set.real("test"), seed) {
            Ok([train, test]) => (pick(&train), pick(&test)),
            Err(label) => bail!(
                "the class `{}` has one image only, which cannot be both trained and tested on. Add images, or make train and test folders",
                found.classes[label as usize]
            ),
        },
    };
    train = splits::limited(&labels(&train), set.whole("per_class"), 0, seed).into_iter().map(|n| train[n].clone()).collect();

    let (side, of) = (if wanted.side == 0 { SHOWN } else { wanted.side }, [train.len(), test.len()]);
    let (train, mut damaged) = read(&wanted.some(&train), side);
    let (test, others) = read(&wanted.some(&test), side);
    damaged.extend(others);
    told(set, Loaded { of: Some(of), ..Loaded::new(train, test) }, &damaged, wanted)
}

/// What was read, with a word on the images that could not be; or no more than that word, where the settings say so.
pub fn told(set: &Settings, mut loaded: Loaded, damaged: &[String], wanted: &Wanted) -> Result<Loaded> {
    if damaged.is_empty() {
        return Ok(loaded);
    }
    let of = loaded.counts();
    let names = damaged.iter().take(NAMED).cloned().collect::<Vec<_>>().join("; ");
    let more = if damaged.len() > NAMED { format!("; and {} more", damaged.len() - NAMED) } else { String::new() };
    let words = format!(
        "{} of {} images cannot be read: {names}{more}",
        damaged.len(),
        of[0].min(wanted.at_most) + of[1].min(wanted.at_most)
    );
    if set.text("damaged") == "stop" {
        bail!("{words}. Replace or delete them, or set `damaged` to `leave out`");
    }
    loaded.notes.push(format!("{words}. They are left out"));
    loaded.of = (wanted.at_most != usize::MAX).then_some(of);
    Ok(loaded)
}

fn root(set: &Settings) -> Result<PathBuf, String> {
    path_of(set, "folder", "the folder that has one subfolder of images for each class")
}

/// The folder of training images, and that of test images where there is one.
fn parts(root: &Path) -> Result<(PathBuf, Option<PathBuf>), String> {
    let inside = list(root)?.0;
    let called = |name: &str| inside.iter().find(|path| name_of(path).eq_ignore_ascii_case(name)).cloned();
    let test = TESTS.iter().find_map(|name| called(name));
    match called("train") {
        // A class may be called `train`, too: then it has others beside it, and no test.
        Some(train) if test.is_some() || inside.len() == 1 => Ok((train, test)),
        _ => Ok((root.to_owned(), None)),
    }
}

fn find(set: &Settings) -> Result<Found, String> {
    let root = root(set)?;
    let (train, test) = parts(&root)?;
    let (classes, mut files) = classes(&train)?;
    let mut test = match test {
        None => None,
        Some(test) => {
            let (others, files) = self::classes(&test)?;
            let lacks = |all: &[String], some: &[String]| all.iter().find(|name| !some.contains(name)).cloned();
            if let Some(name) = lacks(&others, &classes) {
                return Err(format!(
                    "{} has a class `{name}` that {} has not. Give both the same subfolders",
                    test.display(),
                    train.display()
                ));
            }
            if let Some(name) = lacks(&classes, &others) {
                return Err(format!(
                    "{} lacks the class `{name}` that {} has. Give both the same subfolders",
                    test.display(),
                    train.display()
                ));
            }
            Some(files)
        }
    };
    let all: Vec<&mut File> = files.iter_mut().chain(test.iter_mut().flatten()).collect();
    if let Some(scores) = quality::read(&root, &all.iter().map(|file| file.path.as_path()).collect::<Vec<_>>())? {
        all.into_iter().zip(scores).for_each(|(file, score)| file.quality = Some(score));
    }
    Ok(Found { classes, train: files, test })
}

/// The classes of a folder, sorted, and their files with labels.
fn classes(folder: &Path) -> Result<(Vec<String>, Vec<File>), String> {
    let (inside, loose) = list(folder)?;
    if inside.is_empty() {
        let has = if loose.is_empty() { "is empty" } else { "has images but no subfolders" };
        return Err(format!("{} {has}. Choose a folder that has one subfolder of images for each class", folder.display()));
    }
    let (mut names, mut files) = (vec![], vec![]);
    for (label, class) in inside.iter().enumerate() {
        let images = list(class)?.1;
        if images.is_empty() {
            return Err(format!("{} has no image in it ({}). Fill it or delete it", class.display(), ENDINGS.join(", ")));
        }
        names.push(name_of(class));
        files.extend(images.into_iter().map(|path| File { path, label: label as u32, quality: None }));
    }
    Ok((names, files))
}

/// The subfolders and the image files of a folder, each sorted by name; what is hidden is not there.
fn list(folder: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>), String> {
    let fault = |fault: std::io::Error| format!("cannot read the folder {} ({fault}). Choose another", folder.display());
    let (mut folders, mut images) = (vec![], vec![]);
    for entry in std::fs::read_dir(folder).map_err(fault)? {
        let path = entry.map_err(fault)?.path();
        let ending = path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
        if name_of(&path).starts_with('.') {
            continue;
        } else if path.is_dir() {
            folders.push(path);
        } else if ENDINGS.contains(&ending.as_str()) {
            images.push(path);
        }
    }
    folders.sort();
    images.sort();
    Ok((folders, images))
}

fn name_of(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The images at `side` pixels, and which of them cannot be read, and why.
pub fn read(files: &[File], side: usize) -> (Samples, Vec<String>) {
    let images: Vec<_> = files.par_iter().map(|file| open(&file.path).map(|image| square(&image, side))).collect();
    let (mut samples, mut damaged) = (Samples { side, ..Samples::default() }, vec![]);
    samples.pixels.reserve(files.len() * side * side * 3);
    for (file, image) in files.iter().zip(images) {
        match image {
            Ok(image) => {
                samples.push(&image, file.label, 0);
                samples.quality.extend(file.quality);
            }
            Err(fault) => damaged.push(format!("{} ({fault})", file.path.display())),
        }
    }
    (samples, damaged)
}

/// An image upright, as the camera noted it, whatever its ending says of its format.
fn open(path: &Path) -> Result<RgbImage, image::ImageError> {
    upright(ImageReader::open(path)?)
}

/// The same of a file's bytes.
pub fn decoded(bytes: &[u8]) -> Result<RgbImage, image::ImageError> {
    upright(ImageReader::new(std::io::Cursor::new(bytes)))
}

fn upright<R: std::io::BufRead + std::io::Seek>(reader: ImageReader<R>) -> Result<RgbImage, image::ImageError> {
    let mut decoder = reader.with_guessed_format()?.into_decoder()?;
    let orientation = decoder.orientation()?;
    let mut image = DynamicImage::from_decoder(decoder)?;
    image.apply_orientation(orientation);
    Ok(image.into_rgb8())
}

/// The middle square of an image, brought to `side`: bicubic, with the average of what a pixel covers where it gets smaller. Cut first:
/// a long thin image would be enormous before it is cut.
pub fn square(image: &RgbImage, side: usize) -> RgbImage {
    let (width, height, side) = (image.width(), image.height(), side as u32);
    let most = width.min(height);
    let middle = imageops::crop_imm(image, (width - most) / 2, (height - most) / 2, most, most).to_image();
    if most == side { middle } else { imageops::resize(&middle, side, side, imageops::FilterType::CatmullRom) }
}
