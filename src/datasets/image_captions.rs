//! Images with captions in a table: a column of paths (or, in parquet, of pictures) and a column of captions. Called through the catalogue
//! (`datasets::CATALOG`); lines by `table`, pictures by `pictures`. Must not know methods, models or tensors.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Result, bail};
use rayon::prelude::*;

use super::columns::{self, Cell};
use super::image_folder::{self, SHOWN};
use super::pictures::{MEMORY, Memory, Picture, Source};
use super::table::{self, Column, Line};
use super::{Card, Described, Holds, Loaded, Samples, Task, Text, Wanted, once, path_of, splits};
use crate::session::settings::{Field, Settings};

pub const CARD: Card = Card {
    name: "image-captions",
    title: "Images with captions",
    help: "Your own pictures, each with a text about it: a CSV, TSV, JSONL or parquet file with a column of paths, which begin at the file's \
           folder (in parquet also of the pictures themselves), and a column of captions. Each line is a pair. Lines that share a caption or \
           a path are never parted between training and testing.",
    source: "The file that you choose",
    licence: "That of your images and texts",
    fields: &[
        table::FILE,
        table::HEADER,
        table::QUOTES,
        Field::text("image", "file_name", "The column of the paths, or in parquet of the pictures."),
        Field::text("caption", "text", "The column of the captions."),
        Field::text(
            "split",
            "",
            "The column that says what a pair is for: train, or test (also dev, val or validation, where none is called test). Empty where \
             there is none: then a part of the captions is tested on.",
        ),
        Field::real(
            "test",
            0.01,
            0.99,
            0.2,
            "Which part of the pairs is kept to test on, where no column says so. The seed chooses which.",
        ),
        splits::TRAIN,
        Field::whole("test_items", 0, 10_000_000, 0, "At most how many pairs to test on, chosen by the seed; 0 for all."),
        image_folder::DAMAGED,
        MEMORY,
    ],
    describe,
    load,
};

const COLUMNS: [Column; 3] =
    [Column { setting: "image", optional: false, pictures: true }, Column::needed("caption"), Column::optional("split")];

fn describe(set: &Settings) -> Result<Described, String> {
    let path = path_of(set, "file", "a file that ends in .csv, .tsv, .jsonl or .parquet")?;
    once(&[path], set, || {
        // Pictures in the file itself are looked at when they are loaded.
        match table::ending(set.text("file")) == columns::END {
            true => table::read(set, [COLUMNS[1], COLUMNS[2]]).map(drop)?,
            false => lines(set).map(drop)?,
        }
        let tasks = vec![Task { name: "captions", first: 0, classes: 0 }];
        Ok(Described { domains: vec!["files".to_owned()], tasks, holds: Holds::Captions, ..Described::default() })
    })
}

/// The lines of the table, every one with an image and a caption.
fn lines(set: &Settings) -> Result<Vec<Line<3>>, String> {
    let lines = table::read(set, COLUMNS)?;
    for line in &lines {
        let place = |setting: &str| format!("{}, line {}, column `{}`", set.text("file"), line.number, set.text(setting));
        if line.text(1).trim().is_empty() {
            return Err(format!("{}: there is no caption. Fill it or take the line out", place("caption")));
        }
        if !matches!(&line.cells[0], Some(Cell::Bytes(_))) && line.text(0).trim().is_empty() {
            return Err(format!("{}: there is no image. Fill it or take the line out", place("image")));
        }
    }
    Ok(lines)
}

/// The number of a group for each line: those that share a caption or a path, directly or through others, are of one.
fn groups(lines: &[Line<3>]) -> Vec<u32> {
    fn first(of: &mut [usize], mut n: usize) -> usize {
        while of[n] != n {
            of[n] = of[of[n]];
            n = of[n];
        }
        n
    }
    let mut of: Vec<usize> = (0..lines.len()).collect();
    let mut seen: BTreeMap<(usize, &str), usize> = BTreeMap::new();
    for (n, line) in lines.iter().enumerate() {
        for (column, text) in [(0, line.text(0)), (1, line.text(1))].into_iter().filter(|(_, text)| !text.is_empty()) {
            let (a, b) = (first(&mut of, *seen.entry((column, text.trim())).or_insert(n)), first(&mut of, n));
            of[a.max(b)] = a.min(b);
        }
    }
    (0..lines.len()).map(|n| first(&mut of, n) as u32).collect()
}

/// Numbers of the lines to train on and to test on.
fn parted(set: &Settings, lines: &[Line<3>], seed: u64) -> Result<[Vec<usize>; 2], String> {
    if !set.text("split").trim().is_empty() {
        return table::given(set, lines.iter().map(|line| (line.number, line.text(2))));
    }
    let of = groups(lines);
    let mut different = of.clone();
    different.sort_unstable();
    different.dedup();
    let tested =
        ((different.len() as f64 * set.real("test")).round() as usize).clamp(1, different.len().saturating_sub(1).max(1));
    let chosen = splits::limited(&vec![0; different.len()], 0, tested, seed);
    let chosen: BTreeSet<u32> = chosen.into_iter().map(|at| different[at]).collect();
    let is_tested = |n: &usize| chosen.contains(&of[*n]);
    let (test, train) = (0..lines.len()).partition(is_tested);
    Ok([train, test])
}

fn load(set: &Settings, seed: u64, wanted: &Wanted) -> Result<Loaded> {
    let lines = lines(set).map_err(anyhow::Error::msg)?;
    let [train, test] = parted(set, &lines, seed).map_err(anyhow::Error::msg)?;
    let limit = |numbers: &[usize], most| {
        splits::limited(&vec![0; numbers.len()], 0, most, seed).into_iter().map(|n| numbers[n]).collect::<Vec<_>>()
    };
    let (train, test) = (limit(&train, set.whole("train")), limit(&test, set.whole("test_items")));
    if train.is_empty() || test.is_empty() {
        bail!("{}: {} pairs to train on and {} to test on; both are needed", set.text("file"), train.len(), test.len());
    }
    let (side, counts) = (if wanted.side == 0 { SHOWN } else { wanted.side }, [train.len(), test.len()]);
    let memory = Memory::of(set);
    let read = |numbers: &[usize]| read(set, &lines, &wanted.some(numbers), side, &memory);
    let ((train, mut damaged), (test, others)) = (read(&train), read(&test));
    damaged.extend(others);
    let loaded = image_folder::told(set, Loaded { of: Some(counts), ..Loaded::new(train, test) }, &damaged, wanted)?;
    Ok(memory.told(loaded, wanted))
}

/// The pairs of these lines, and which of their images cannot be read, and why. A label is the number of a caption in this split.
fn read(set: &Settings, lines: &[Line<3>], picked: &[usize], side: usize, memory: &Arc<Memory>) -> (Samples, Vec<String>) {
    let file: Arc<Path> = Path::new(set.text("file")).into();
    let (folder, column): (PathBuf, Arc<str>) =
        (file.parent().unwrap_or(Path::new("")).to_owned(), set.text("image").trim().into());
    let open = |n: &usize| match &lines[*n].cells[0] {
        Some(Cell::Bytes(bytes)) => {
            let row = lines[*n].number as usize - 1; // rows count from 0
            let source = Source::Cell { file: file.clone(), column: column.clone(), row };
            Picture::seen(source, side, memory, || image_folder::decoded(bytes).map_err(|fault| fault.to_string()))
        }
        _ => Picture::in_file(&folder.join(lines[*n].text(0).trim()), side, memory),
    };
    let pictures: Vec<_> = picked.par_iter().map(open).collect();
    let (mut samples, mut damaged) = (Samples { side, ..Samples::default() }, vec![]);
    let mut numbers: BTreeMap<&str, u32> = BTreeMap::new();
    for (n, picture) in picked.iter().zip(pictures) {
        match picture {
            Ok(picture) => {
                let (caption, next) = (lines[*n].text(1).trim(), numbers.len() as u32);
                samples.push_picture(picture, *numbers.entry(caption).or_insert(next), 0);
                samples.texts.push(Text { first: caption.to_owned(), second: None });
            }
            Err(words) => damaged.push(words),
        }
    }
    (samples, damaged)
}
