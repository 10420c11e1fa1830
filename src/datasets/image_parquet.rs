//! Images in parquet files, as the hub stores them: a column of encoded pictures, a column of labels, and the split in the name of each file.
//! Called through the catalogue (`datasets::CATALOG`); columns by `columns`, splits by `splits`, pictures as in `image_folder`. Must not
//! know methods, models or tensors.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Result, bail};
use rayon::prelude::*;

use super::columns::{self, Cell};
use super::image_folder::{self, SHOWN};
use super::pictures::{MEMORY, Memory, Picture, Source};
use super::{Card, Described, Holds, Loaded, Samples, Wanted, once, path_of, splits, text_table};
use crate::session::settings::{Field, Settings};

pub const CARD: Card = Card {
    name: "image-parquet",
    title: "Images in parquet",
    help: "Images as the Hugging Face hub stores them: parquet files whose names begin with train, test or validation, with a column of \
           pictures and a column of labels. The middle square of each image is cut out and brought to the side that the backbone wants.",
    source: "The files that you choose",
    licence: "That of your images",
    fields: &[
        Field::text("folder", "", "The folder that holds the parquet files (or whose folder `data` does), or one file."),
        Field::text("image", "image", "The column of the pictures."),
        Field::text(
            "label",
            "label",
            "The column of the label; where the files note names for its numbers, these are the classes.",
        ),
        Field::real(
            "test",
            0.01,
            0.99,
            0.2,
            "Which part of every class is kept to test on, where no file is for testing or validation. The seed chooses which.",
        ),
        splits::PER_CLASS,
        splits::TRAIN,
        Field::whole("test_items", 0, 10_000_000, 0, "At most how many images to test on, chosen by the seed; 0 for all."),
        image_folder::DAMAGED,
        MEMORY,
    ],
    describe,
    load,
};

/// Where a picture is, and what it shows.
#[derive(Clone)]
struct Found {
    file: usize,
    row: usize,
    label: String,
}

fn files(set: &Settings) -> Result<Vec<PathBuf>, String> {
    columns::files(&path_of(set, "folder", "the folder that holds train-*.parquet")?)
}

fn describe(set: &Settings) -> Result<Described, String> {
    let files = files(set)?;
    once(&files, set, || {
        let classes = classes(set, &files, &labels(set, &files)?)?;
        let place = files.first().map(|file| file.display().to_string()).unwrap_or_default();
        Described::found(&place, classes, Holds::Images)
    })
}

/// The label of every row of every file; the pictures stay where they are.
fn labels(set: &Settings, files: &[PathBuf]) -> Result<Vec<Found>, String> {
    let column = set.text("label");
    let mut all = Vec::new();
    for (file, path) in files.iter().enumerate() {
        for (row, cells) in columns::read(path, &[column])?.into_iter().enumerate() {
            match cells.into_iter().next() {
                Some(Cell::Text(label)) => all.push(Found { file, row, label }),
                _ => {
                    return Err(format!(
                        "{}, row {row}, column `{column}`: there is no label. Choose another column",
                        path.display()
                    ));
                }
            }
        }
    }
    Ok(all)
}

/// The names that the files note for numbers, otherwise the labels themselves.
fn classes(set: &Settings, files: &[PathBuf], found: &[Found]) -> Result<Vec<String>, String> {
    let noted = files.first().map(|file| columns::names(file, set.text("label"))).unwrap_or_default();
    if !noted.is_empty() {
        return Ok(noted);
    }
    let different: BTreeSet<&str> = found.iter().map(|f| f.label.as_str()).collect();
    if different.len() > text_table::MOST {
        return Err(format!(
            "column `{}` has more than {} different labels. Choose another column",
            set.text("label"),
            text_table::MOST
        ));
    }
    let mut classes: Vec<String> = different.into_iter().map(str::to_owned).collect();
    classes.sort_by(|a, b| text_table::in_order(a, b));
    Ok(classes)
}

fn load(set: &Settings, seed: u64, wanted: &Wanted) -> Result<Loaded> {
    let files = files(set).map_err(anyhow::Error::msg)?;
    let found = labels(set, &files).map_err(anyhow::Error::msg)?;
    let classes = classes(set, &files, &found).map_err(anyhow::Error::msg)?;
    let noted =
        found.iter().all(|f| f.label.parse::<usize>().is_ok_and(|n| n < classes.len())) && !classes.contains(&found[0].label);
    let number = |f: &Found| match noted {
        true => f.label.parse().ok(),
        false => classes.iter().position(|name| *name == f.label).map(|n| n as u32),
    };
    let Some(labels) = found.iter().map(number).collect::<Option<Vec<u32>>>() else {
        bail!("{}: a label is none of the {} classes that the files note", files[0].display(), classes.len())
    };
    let of = |words: &[&str]| -> Vec<usize> {
        (0..found.len()).filter(|n| columns::split(&files[found[*n].file]).is_some_and(|word| words.contains(&word))).collect()
    };
    let (tests, held) = (of(&["test"]), of(&["validation", "valid", "val", "dev"]));
    let test = if tests.is_empty() { held } else { tests };
    let [train, test] = match test.is_empty() {
        false => [of(&["train"]), test],
        true => splits::stratified(&labels, set.real("test"), seed).map_err(|label| {
            anyhow::anyhow!(
                "the class `{}` has one image only, which cannot be both trained and tested on",
                classes[label as usize]
            )
        })?,
    };
    let limit = |numbers: &[usize], per_class, most| {
        let own: Vec<u32> = numbers.iter().map(|n| labels[*n]).collect();
        splits::limited(&own, per_class, most, seed).into_iter().map(|n| numbers[n]).collect::<Vec<_>>()
    };
    let train = limit(&train, set.whole("per_class"), set.whole("train"));
    let test = limit(&test, 0, set.whole("test_items"));
    let (side, of) = (if wanted.side == 0 { SHOWN } else { wanted.side }, [train.len(), test.len()]);
    let (train, test) = (wanted.some(&train), wanted.some(&test));
    let memory = Memory::of(set);
    let read = |picked: &[usize]| read(set.text("image"), &files, &found, &labels, picked, side, &memory);
    let (train, mut damaged) = read(&train)?;
    let (test, others) = read(&test)?;
    damaged.extend(others);
    let loaded = image_folder::told(set, Loaded { of: Some(of), ..Loaded::new(train, test) }, &damaged, wanted)?;
    Ok(memory.told(loaded, wanted))
}

/// The pictures with these numbers, file by file so that no more than one file's are in memory encoded.
fn read(
    column: &str,
    files: &[PathBuf],
    found: &[Found],
    labels: &[u32],
    picked: &[usize],
    side: usize,
    memory: &Arc<Memory>,
) -> Result<(Samples, Vec<String>)> {
    let (mut samples, mut damaged) = (Samples { side, ..Samples::default() }, vec![]);
    let name: Arc<str> = column.into();
    for (file, path) in files.iter().enumerate() {
        let mine: Vec<usize> = picked.iter().copied().filter(|n| found[*n].file == file).collect();
        if mine.is_empty() {
            continue;
        }
        let cells = columns::read(path, &[column]).map_err(anyhow::Error::msg)?;
        let path: Arc<Path> = path.as_path().into();
        let open = |n: &usize| {
            let row = found[*n].row;
            let source = Source::Cell { file: path.clone(), column: name.clone(), row };
            Picture::seen(source, side, memory, || match cells.get(row).and_then(|row| row.first()) {
                Some(Cell::Bytes(bytes)) => image_folder::decoded(bytes).map_err(|fault| fault.to_string()),
                _ => Err(format!("column `{column}` holds no picture there")),
            })
        };
        let pictures: Vec<_> = mine.par_iter().map(open).collect();
        for (n, picture) in mine.into_iter().zip(pictures) {
            match picture {
                Ok(picture) => samples.push_picture(picture, labels[n], 0),
                Err(words) => damaged.push(words),
            }
        }
    }
    Ok((samples, damaged))
}
