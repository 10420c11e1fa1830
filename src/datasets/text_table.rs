//! Texts in tables: CSV, TSV, JSON lines or parquet, with columns for a text or a pair of texts, a label or a score, and a split.
//! Called through the catalogue (`datasets::CATALOG`); lines by `table`, splits by `splits`. Must not know methods, models or tensors.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Result, bail};

use super::columns;
use super::table::{self, Column, Line, quoted};
use super::{Card, Described, Holds, Loaded, Samples, Text, Wanted, once, path_of, splits};
use crate::session::settings::{Field, Settings};

/// More different labels are no classes.
pub const MOST: usize = 1000;
/// The settings that name a column.
const COLUMNS: [Column; 4] =
    [Column::needed("text"), Column::optional("second"), Column::needed("label"), Column::optional("split")];

pub const CARD: Card = Card {
    name: "text-table",
    title: "Text table",
    help: "Your own texts: a CSV, TSV, JSONL or parquet file with a column of texts (or two, for pairs) and a column of labels, or of scores \
           that a threshold makes labels of.",
    source: "The file that you choose",
    licence: "That of your texts",
    fields: &[
        table::FILE,
        table::HEADER,
        table::QUOTES,
        Field::text("text", "text", "The column of the text."),
        Field::text("second", "", "The column of the second text of a pair; empty where there is one text only."),
        Field::text("label", "label", "The column of the label; its different values are the classes."),
        Field::text(
            "threshold",
            "",
            "For labels that are scores: from this number on a sample is of the class `above`, under it of `below`. Empty for labels that \
             are classes.",
        ),
        Field::text(
            "split",
            "",
            "The column that says what a sample is for: train, or test (also dev, val or validation, where none is called test). \
             Empty where there is none: then a part of every class is tested on.",
        ),
        Field::real(
            "test",
            0.01,
            0.99,
            0.2,
            "Which part of every class is kept to test on, where no column says so. The seed chooses which.",
        ),
        splits::PER_CLASS,
        splits::TRAIN,
        Field::whole("test_items", 0, 10_000_000, 0, "At most how many texts to test on, chosen by the seed; 0 for all."),
    ],
    describe,
    load,
};

/// What a line of the table is to us.
struct Row {
    line: u64,
    text: Text,
    label: String,
    split: Option<String>,
}

fn describe(set: &Settings) -> Result<Described, String> {
    let path = path_of(set, "file", "a file that ends in .csv, .tsv, .jsonl or .parquet")?;
    once(&[path], set, || {
        let rows = rows(set)?;
        let (classes, _) = labels(set, &rows)?;
        let place = format!("{}, column `{}`,", set.text("file"), set.text("label"));
        Described::found(&place, classes, Holds::Texts)
    })
}

fn load(set: &Settings, seed: u64, wanted: &Wanted) -> Result<Loaded> {
    let rows = rows(set).map_err(anyhow::Error::msg)?;
    let (classes, labels) = labels(set, &rows).map_err(anyhow::Error::msg)?;
    let [train, test] = match set.text("split") {
        "" => splits::stratified(&labels, set.real("test"), seed).map_err(|label| {
            let one = "has one text only, which cannot be both trained and tested on. Add texts, or take it out";
            anyhow::anyhow!("{}: the class `{}` {one}", set.text("file"), classes[label as usize])
        })?,
        _ => {
            let words = rows.iter().map(|row| (row.line, row.split.as_deref().unwrap_or_default()));
            table::given(set, words).map_err(anyhow::Error::msg)?
        }
    };
    let limit = |numbers: &[usize], per_class, most| {
        let own: Vec<u32> = numbers.iter().map(|n| labels[*n]).collect();
        splits::limited(&own, per_class, most, seed).into_iter().map(|n| numbers[n]).collect::<Vec<_>>()
    };
    let train = limit(&train, set.whole("per_class"), set.whole("train"));
    let test = limit(&test, 0, set.whole("test_items"));
    if train.is_empty() || test.is_empty() {
        bail!("{}: {} texts to train on and {} to test on; both are needed", set.text("file"), train.len(), test.len());
    }
    let counts = [train.len(), test.len()];
    let read = |numbers: &[usize]| {
        let mut samples = Samples::default();
        wanted.some(numbers).into_iter().for_each(|n| samples.push_text(rows[n].text.clone(), labels[n], 0));
        samples
    };
    Ok(Loaded { of: Some(counts), ..Loaded::new(read(&train), read(&test)) })
}

/// The classes, and the label of every row.
fn labels(set: &Settings, rows: &[Row]) -> Result<(Vec<String>, Vec<u32>), String> {
    let place = |row: &Row| format!("{}, line {}, column `{}`", set.text("file"), row.line, set.text("label"));
    let threshold = set.text("threshold").trim();
    if !threshold.is_empty() {
        let threshold: f64 =
            threshold.parse().map_err(|_| format!("`threshold` is a number or empty, not {}", quoted(threshold)))?;
        let above = |row: &Row| match row.label.parse::<f64>() {
            Ok(score) if !score.is_nan() => Ok(u32::from(score >= threshold)),
            _ => Err(format!("{}: {} is no number. Mend it, or leave `threshold` empty", place(row), quoted(&row.label))),
        };
        let labels = rows.iter().map(above).collect::<Result<Vec<_>, _>>()?;
        return match labels.contains(&0) && labels.contains(&1) {
            true => Ok((vec!["below".to_owned(), "above".to_owned()], labels)),
            false => Err(format!(
                "{}: all scores of column `{}` lie on one side of {threshold}. Choose another `threshold`",
                set.text("file"),
                set.text("label")
            )),
        };
    }
    let mut found = BTreeSet::new();
    for row in rows {
        if row.label.is_empty() {
            return Err(format!("{}: there is no label. Fill it or take the line out", place(row)));
        }
        if found.insert(row.label.as_str()) && found.len() > MOST {
            return Err(format!(
                "{}: column `{}` has more than {MOST} different labels. It may hold a score: set a `threshold` that makes two classes of it, or choose another column",
                set.text("file"),
                set.text("label")
            ));
        }
    }
    let mut classes: Vec<String> = found.into_iter().map(str::to_owned).collect();
    classes.sort_by(|a, b| in_order(a, b));
    let number: std::collections::HashMap<&str, u32> = classes.iter().zip(0..).map(|(name, n)| (name.as_str(), n)).collect();
    let labels = rows.iter().map(|row| number[row.label.as_str()]).collect();
    Ok((classes, labels))
}

/// Numbers as numbers, before everything else.
pub fn in_order(a: &str, b: &str) -> Ordering {
    match (a.parse::<i64>(), b.parse::<i64>()) {
        (Ok(a), Ok(b)) => a.cmp(&b), // 10 comes after 9
        (Ok(_), Err(_)) => Ordering::Less,
        (Err(_), Ok(_)) => Ordering::Greater,
        _ => a.cmp(b),
    }
}

/// The lines of the file. Numbers of a label get the names that a parquet file notes for them.
fn rows(set: &Settings) -> Result<Vec<Row>, String> {
    let (place, label) = (set.text("file"), set.text("label").trim());
    let noted = if table::ending(place) == columns::END { columns::names(Path::new(place), label) } else { vec![] };
    let row = |line: Line<4>| {
        let optional = |n: usize| line.cells[n].is_some().then(|| line.text(n).to_owned());
        let label = line.text(2).trim();
        let named = label.parse::<usize>().ok().and_then(|n| noted.get(n));
        Row {
            line: line.number,
            text: Text { first: line.text(0).to_owned(), second: optional(1) },
            label: named.map_or_else(|| label.to_owned(), Clone::clone),
            split: optional(3),
        }
    };
    Ok(table::read(set, COLUMNS)?.into_iter().map(row).collect())
}
