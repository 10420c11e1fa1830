//! Images named in lists, as VTAB-1k comes: text files with a path and a number of a class in each line (`train800.txt`, `val200.txt`,
//! `test.txt`). Called through the catalogue (`datasets::CATALOG`); pictures as in `image_folder`. Must not know methods, models or tensors.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::image_folder::{self, File, SHOWN};
use super::pictures::{MEMORY, Memory};
use super::{Card, Described, Holds, Loaded, Wanted, once, path_of, splits, text_table};
use crate::session::settings::{Field, Settings};

/// Where class names may stand, one a line.
const NAMES: &str = "classes.txt";

pub const CARD: Card = Card {
    name: "image-list",
    title: "Image list",
    help: "Images named in text files, as VTAB-1k has them: each line a path and, behind a space, the number of the class. Train on one \
           list and test on another: train800.txt and val200.txt to choose settings, train800val200.txt and test.txt for the last word.",
    source: "The folder that you choose",
    licence: "That of your images",
    fields: &[
        Field::text("folder", "", "The folder that holds the lists; the paths in them begin there."),
        Field::text("train_list", "train800.txt", "The list to train on."),
        Field::text("test_list", "val200.txt", "The list to test on."),
        splits::PER_CLASS,
        Field::whole("test_items", 0, 10_000_000, 0, "At most how many images to test on, chosen by the seed; 0 for all."),
        image_folder::DAMAGED,
        MEMORY,
    ],
    describe,
    load,
};

fn lists(set: &Settings) -> Result<[PathBuf; 2], String> {
    let folder = path_of(set, "folder", "the folder that holds train800.txt and val200.txt")?;
    Ok(["train_list", "test_list"].map(|name| folder.join(set.text(name))))
}

fn describe(set: &Settings) -> Result<Described, String> {
    let lists = lists(set)?;
    once(&lists, set, || {
        let most = lists.iter().map(|list| lines(list)).collect::<Result<Vec<_>, _>>()?.into_iter().flatten();
        let classes = most.map(|file| file.label as usize + 1).max().unwrap_or(0);
        if classes > text_table::MOST {
            return Err(format!(
                "{} has {classes} classes; at most {} can be told apart here",
                lists[0].display(),
                text_table::MOST
            ));
        }
        let noted = std::fs::read_to_string(lists[0].with_file_name(NAMES)).unwrap_or_default();
        let noted: Vec<String> = noted.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect();
        let names = match noted.len() >= classes {
            true => noted,
            false => (0..classes).map(|n| n.to_string()).collect(),
        };
        Described::found(&lists[0].display().to_string(), names, Holds::Images)
    })
}

/// Paths and labels of a list.
fn lines(list: &Path) -> Result<Vec<File>, String> {
    let text = std::fs::read_to_string(list)
        .map_err(|fault| format!("cannot read {} ({fault}). Choose another folder, or another list in it", list.display()))?;
    let root = list.parent().unwrap_or(Path::new(""));
    let mut all = Vec::new();
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let parts =
            line.trim().rsplit_once(char::is_whitespace).and_then(|(path, label)| Some((path.trim(), label.parse().ok()?)));
        let Some((path, label)) = parts else {
            return Err(format!(
                "{}, line {number}: no path with the number of a class behind it. Mend the line",
                list.display()
            ));
        };
        all.push(File { path: root.join(path), label, quality: None });
    }
    match all.is_empty() {
        true => Err(format!("{} names no image", list.display())),
        false => Ok(all),
    }
}

fn load(set: &Settings, seed: u64, wanted: &Wanted) -> Result<Loaded> {
    let [train, test] = lists(set).map_err(anyhow::Error::msg)?;
    let of = |list: &Path, per_class, most| -> Result<Vec<File>> {
        let all = lines(list).map_err(anyhow::Error::msg)?;
        let labels: Vec<u32> = all.iter().map(|file| file.label).collect();
        Ok(splits::limited(&labels, per_class, most, seed).into_iter().map(|n| all[n].clone()).collect())
    };
    let (train, test) = (of(&train, set.whole("per_class"), 0)?, of(&test, 0, set.whole("test_items"))?);
    let (side, counts) = (if wanted.side == 0 { SHOWN } else { wanted.side }, [train.len(), test.len()]);
    let memory = Memory::of(set);
    let (train, mut damaged) = image_folder::read(&wanted.some(&train), side, &memory);
    let (test, others) = image_folder::read(&wanted.some(&test), side, &memory);
    damaged.extend(others);
    let loaded = image_folder::told(set, Loaded { of: Some(counts), ..Loaded::new(train, test) }, &damaged, wanted)?;
    Ok(memory.told(loaded, wanted))
}
