//! CIFAR-10 and CIFAR-100 in their binary form: records of labels and a 32 x 32 image, one colour after the other.
//! Called through the catalogue (`datasets::CATALOG`). Must not know methods, models or tensors.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::{Card, Described, Holds, Loaded, Samples, Wanted, once, path_of, splits};
use crate::session::settings::{Field, Settings};

const SIDE: usize = 32;
const PLANE: usize = SIDE * SIDE;

pub const CARD: Card = Card {
    name: "cifar",
    title: "CIFAR-10 and CIFAR-100",
    help: "Tiny photographs of 10 or 100 kinds of things (Krizhevsky 2009), in the binary version: the folder that holds \
           data_batch_1.bin and test_batch.bin (10), or train.bin and test.bin (100).",
    source: "The folder that you choose; from cs.toronto.edu/~kriz/cifar.html",
    licence: "None is stated by its authors",
    fields: &[
        Field::text("folder", "", "The folder that holds data_batch_1.bin and so on, or train.bin and test.bin."),
        Field::choice("labels", &["fine", "coarse"], "For CIFAR-100: its 100 classes, or the 20 groups that they form."),
        splits::PER_CLASS,
        splits::TRAIN,
        splits::TEST,
    ],
    describe,
    load,
};

/// One of the two.
struct Kind {
    train: Vec<PathBuf>,
    test: PathBuf,
    names: PathBuf,
    classes: usize,
    /// Labels before each image, and which of them counts.
    labels: usize,
    label: usize,
}

fn kind(set: &Settings) -> Result<Kind, String> {
    let folder = path_of(set, "folder", "the folder of CIFAR's binary version")?;
    let at = |name: &str| folder.join(name);
    if at("data_batch_1.bin").is_file() {
        // Whoever took the first batch only has a data set as well.
        let train = (1..=5).map(|n| at(&format!("data_batch_{n}.bin"))).filter(|path| path.is_file()).collect();
        let (test, names) = (at("test_batch.bin"), at("batches.meta.txt"));
        return Ok(Kind { train, test, names, classes: 10, labels: 1, label: 0 });
    }
    if !at("train.bin").is_file() {
        let place = folder.display();
        return Err(format!(
            "{place} has neither data_batch_1.bin nor train.bin in it. Choose the folder of CIFAR's binary version"
        ));
    }
    let fine = set.text("labels") == "fine";
    Ok(Kind {
        train: vec![at("train.bin")],
        test: at("test.bin"),
        names: at(if fine { "fine_label_names.txt" } else { "coarse_label_names.txt" }),
        classes: if fine { 100 } else { 20 },
        labels: 2,
        label: usize::from(fine),
    })
}

fn describe(set: &Settings) -> Result<Described, String> {
    let kind = kind(set)?;
    once(std::slice::from_ref(&kind.names), set, || {
        let text = std::fs::read_to_string(&kind.names).unwrap_or_default();
        let names: Vec<String> = text.lines().map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect();
        let classes = match names.len() {
            0 => (0..kind.classes).map(|n| n.to_string()).collect(), // the images are worth something without it
            n if n == kind.classes => names,
            n => return Err(format!("{} has {n} names, not {}. Fetch it again", kind.names.display(), kind.classes)),
        };
        Described::found(&kind.names.display().to_string(), classes, Holds::Images)
    })
}

fn load(set: &Settings, seed: u64, wanted: &Wanted) -> Result<Loaded> {
    let kind = kind(set).map_err(anyhow::Error::msg)?;
    let (train, trained) = split(&kind, &kind.train, [set.whole("per_class"), set.whole("train")], seed, wanted)?;
    let (test, tested) = split(&kind, std::slice::from_ref(&kind.test), [0, set.whole("test")], seed, wanted)?;
    Ok(Loaded { of: Some([trained, tested]), ..Loaded::new(train, test) })
}

/// The samples of these files that are wanted, and how many there are.
fn split(kind: &Kind, files: &[PathBuf], [per_class, most]: [usize; 2], seed: u64, wanted: &Wanted) -> Result<(Samples, usize)> {
    let record = kind.labels + 3 * PLANE;
    let mut bytes = Vec::new();
    for file in files {
        bytes.extend(read(file, record, kind)?);
    }
    let records: Vec<&[u8]> = bytes.chunks(record).collect();
    let labels: Vec<u32> = records.iter().map(|record| u32::from(record[kind.label])).collect();
    let numbers = splits::limited(&labels, per_class, most, seed);
    let mut samples = Samples { side: SIDE, ..Samples::default() };
    for n in wanted.some(&numbers) {
        let planes = &records[n][kind.labels..];
        let image: Vec<u8> = (0..PLANE).flat_map(|p| [planes[p], planes[PLANE + p], planes[2 * PLANE + p]]).collect();
        samples.push(&image, labels[n], 0);
    }
    Ok((samples, numbers.len()))
}

fn read(file: &Path, record: usize, kind: &Kind) -> Result<Vec<u8>> {
    let place = file.display();
    let bytes = std::fs::read(file).map_err(|fault| anyhow::anyhow!("cannot read {place} ({fault}). Fetch it again"))?;
    anyhow::ensure!(
        !bytes.is_empty() && bytes.len().is_multiple_of(record),
        "{place} has {} bytes, which are no whole records of {record}. Fetch it again",
        bytes.len()
    );
    let wrong = bytes.chunks(record).position(|record| usize::from(record[kind.label]) >= kind.classes);
    if let Some(n) = wrong {
        anyhow::bail!("{place}: record {n} has a label beyond {}. Fetch it again", kind.classes - 1);
    }
    Ok(bytes)
}
