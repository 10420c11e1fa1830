//! Images in folders: one subfolder a class, or `train` and `test` folders of such. Decoded in parallel, the middle square
//! brought to the side that the network wants; what stays in memory says `pictures`.
//! Called through the catalogue (`datasets::CATALOG`); which files there are says `class_folders`. Must not know methods, models or tensors.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use image::{DynamicImage, ImageDecoder, ImageReader, RgbImage, imageops};
use rayon::prelude::*;

pub use super::class_folders::File;
use super::class_folders::{self, Kind};
use super::pictures::{MEMORY, Memory, Picture};
use super::{Card, Holds, Loaded, Samples, Wanted, splits};
use crate::session::settings::{Field, Settings};

/// Side of the samples that are shown while the network wants no images.
pub const SHOWN: usize = 96;

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
        class_folders::TEST,
        splits::PER_CLASS,
        DAMAGED,
        MEMORY,
    ],
    describe: |set| KIND.describe(set),
    load,
};

const KIND: Kind = Kind { word: "image", holds: Holds::Images, endings: &["png", "jpg", "jpeg", "webp"], deep: false };

fn load(set: &Settings, seed: u64, wanted: &Wanted) -> Result<Loaded> {
    let side = if wanted.side == 0 { SHOWN } else { wanted.side };
    let memory = Memory::of(set);
    let loaded = KIND.load(set, seed, wanted, |files| read(files, side, &memory))?;
    Ok(memory.told(loaded, wanted))
}

/// What was read, with a word on the images that could not be; or no more than that word, where the settings say so.
pub fn told(set: &Settings, loaded: Loaded, damaged: &[String], wanted: &Wanted) -> Result<Loaded> {
    class_folders::told(KIND.word, set, loaded, damaged, wanted)
}

/// The images at `side` pixels, each decoded once, and which of them cannot be read, and why.
pub fn read(files: &[File], side: usize, memory: &Arc<Memory>) -> (Samples, Vec<String>) {
    let pictures: Vec<_> = files.par_iter().map(|file| Picture::in_file(&file.path, side, memory)).collect();
    let (mut samples, mut damaged) = (Samples { side, ..Samples::default() }, vec![]);
    for (file, picture) in files.iter().zip(pictures) {
        match picture {
            Ok(picture) => {
                samples.push_picture(picture, file.label, 0);
                samples.quality.extend(file.quality);
            }
            Err(words) => damaged.push(words),
        }
    }
    (samples, damaged)
}

/// An image upright, as the camera noted it, whatever its ending says of its format.
pub fn open(path: &Path) -> Result<RgbImage, image::ImageError> {
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
