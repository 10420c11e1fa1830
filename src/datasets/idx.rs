//! IDX files, the form of MNIST and its kin: grey images and labels as plain bytes behind a header of sizes.
//! Called through the catalogue (`datasets::CATALOG`). Must not know methods, models or tensors.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::{Card, Described, Holds, Loaded, Samples, Wanted, once, path_of, splits};
use crate::session::settings::{Field, Settings};

pub const CARD: Card = Card {
    name: "idx",
    title: "IDX files (MNIST and kin)",
    help: "Square grey images as MNIST, Fashion-MNIST and KMNIST keep them: a folder with train-images..., train-labels..., \
           t10k-images... (or test-images...) and t10k-labels..., unpacked.",
    source: "The folder that you choose",
    licence: "That of your images",
    fields: &[
        Field::text("folder", "", "The folder that holds train-images-idx3-ubyte and the three files beside it, unpacked."),
        splits::PER_CLASS,
        splits::TRAIN,
        splits::TEST,
    ],
    describe,
    load,
};

/// What the files of a split may begin with.
const TRAIN: &[&str] = &["train"];
const TEST: &[&str] = &["t10k", "test"];

fn describe(set: &Settings) -> Result<Described, String> {
    let folder = folder(set)?;
    let files = [find(&folder, TRAIN, "labels")?, find(&folder, TEST, "labels")?];
    once(&files, set, || {
        let mut most = 0;
        for file in &files {
            most = read(file, 1)?.1.into_iter().fold(most, u8::max);
        }
        let classes = (0..=most).map(|label| label.to_string()).collect();
        Described::found(&folder.display().to_string(), classes, Holds::Images)
    })
}

fn load(set: &Settings, seed: u64, wanted: &Wanted) -> Result<Loaded> {
    let folder = folder(set).map_err(anyhow::Error::msg)?;
    let (train, trained) = split(&folder, TRAIN, [set.whole("per_class"), set.whole("train")], seed, wanted)?;
    let (test, tested) = split(&folder, TEST, [0, set.whole("test")], seed, wanted)?;
    Ok(Loaded { of: Some([trained, tested]), ..Loaded::new(train, test) })
}

fn folder(set: &Settings) -> Result<PathBuf, String> {
    path_of(set, "folder", "the folder that holds train-images-idx3-ubyte and the three files beside it")
}

/// The samples of a split that are wanted, and how many there are.
fn split(folder: &Path, names: &[&str], [per_class, most]: [usize; 2], seed: u64, wanted: &Wanted) -> Result<(Samples, usize)> {
    let of = |what, dimensions| find(folder, names, what).and_then(|path| read(&path, dimensions)).map_err(anyhow::Error::msg);
    let ((sizes, bytes), (_, labels)) = (of("images", 3)?, of("labels", 1)?);
    let [count, height, width] = sizes[..] else { anyhow::bail!("{}: no images", folder.display()) };
    anyhow::ensure!(
        count == labels.len() && height == width && width > 0,
        "{}: {count} images of {width} x {height} pixels and {} labels for {}; as many square images as labels are needed",
        folder.display(),
        labels.len(),
        names[0]
    );
    let numbers = splits::limited(&labels.iter().map(|label| u32::from(*label)).collect::<Vec<_>>(), per_class, most, seed);
    let mut samples = Samples { side: width, ..Samples::default() };
    for n in wanted.some(&numbers) {
        let grey = &bytes[n * width * height..(n + 1) * width * height];
        samples.push(&grey.iter().flat_map(|byte| [*byte; 3]).collect::<Vec<_>>(), u32::from(labels[n]), 0);
    }
    Ok((samples, numbers.len()))
}

/// `train-images-idx3-ubyte`, or as some write it `train-images.idx3-ubyte`.
fn find(folder: &Path, names: &[&str], what: &str) -> Result<PathBuf, String> {
    let fault = |fault| format!("cannot read the folder {} ({fault}). Choose another", folder.display());
    let begins = |path: &PathBuf| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        names.iter().any(|begin| name.starts_with(&format!("{begin}-{what}")))
    };
    let all = std::fs::read_dir(folder).map_err(fault)?.map_while(Result::ok).map(|entry| entry.path());
    let mut found: Vec<PathBuf> = all.filter(begins).collect();
    found.sort(); // the unpacked file comes before its archive
    match found.first() {
        Some(path) if path.extension().is_some_and(|ending| ending == "gz") => {
            Err(format!("{} is packed. Unpack it (gunzip)", path.display()))
        }
        Some(path) => Ok(path.clone()),
        None => Err(format!("{} has no file {}-{what}-... in it. Choose the folder that has it", folder.display(), names[0])),
    }
}

/// The sizes that a file of bytes names, as many as `dimensions`, and the bytes.
fn read(path: &Path, dimensions: usize) -> Result<(Vec<usize>, Vec<u8>), String> {
    let place = path.display();
    let mut bytes = std::fs::read(path).map_err(|fault| format!("cannot read {place} ({fault}). Choose another folder"))?;
    let head = 4 + 4 * dimensions;
    if bytes.len() < head || bytes[..4] != [0, 0, 8, dimensions as u8] {
        return Err(format!("{place} is no IDX file of bytes with {dimensions} dimensions. Fetch it again"));
    }
    let sizes: Vec<usize> = bytes[4..head].chunks(4).map(|s| s.iter().fold(0, |n, byte| n << 8 | usize::from(*byte))).collect();
    let count = sizes.iter().try_fold(1_usize, |all, size| all.checked_mul(*size));
    if count != Some(bytes.len() - head) {
        return Err(format!("{place} has {} bytes, which is not what its sizes {sizes:?} say. Fetch it again", bytes.len()));
    }
    Ok((sizes, bytes.split_off(head)))
}
