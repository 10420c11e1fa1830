//! Texts in tables: CSV, TSV, JSON lines or parquet, with columns for a text or a pair of texts, a label or a score, and a split.
//! Called through the catalogue (`datasets::CATALOG`); splits by `splits`. Must not know methods, models or tensors.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Result, bail};
use serde_json::Value as Json;

use super::columns::{self, Cell};
use super::{Card, Described, Holds, Loaded, Samples, Text, Wanted, once, path_of, splits};
use crate::session::settings::{Field, Settings};

/// More different labels are no classes.
pub const MOST: usize = 1000;
/// Longest piece of a file in a message, in characters.
const QUOTED: usize = 60;

pub const CARD: Card = Card {
    name: "text-table",
    title: "Text table",
    help: "Your own texts: a CSV, TSV, JSONL or parquet file with a column of texts (or two, for pairs) and a column of labels, or of scores \
           that a threshold makes labels of.",
    source: "The file that you choose",
    licence: "That of your texts",
    fields: &[
        Field::text("file", "", "The table: a file that ends in .csv, .tsv, .jsonl (one object a line) or .parquet."),
        Field::flag("header", true, "The first line names the columns. If not, columns go by their numbers, from 1."),
        Field::flag(
            "quotes",
            true,
            "Quotation marks hold a cell together, separators and line ends in it included. Off where they are signs like others, as in \
             many TSV files.",
        ),
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
        column => given(set, column, &rows).map_err(anyhow::Error::msg)?,
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

/// The split that a column gives. What is called dev or validation is tested on where nothing is called test, and left out
/// where something is.
fn given(set: &Settings, column: &str, rows: &[Row]) -> Result<[Vec<usize>; 2], String> {
    let [mut train, mut test, mut held] = [vec![], vec![], vec![]];
    for (n, row) in rows.iter().enumerate() {
        let word = row.split.as_deref().unwrap_or_default().trim();
        match word.to_lowercase().as_str() {
            "train" | "training" => train.push(n),
            "test" | "testing" => test.push(n),
            "dev" | "val" | "valid" | "validation" => held.push(n),
            _ => {
                let said = quoted(word);
                let place = format!("{}, line {}, column `{column}`", set.text("file"), row.line);
                return Err(format!("{place}: {said} is no split. Write train or test there, or leave `split` empty"));
            }
        }
    }
    Ok([train, if test.is_empty() { held } else { test }])
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

/// The lines of the file, each with the columns that the settings name.
fn rows(set: &Settings) -> Result<Vec<Row>, String> {
    let place = set.text("file");
    let ending = Path::new(place).extension().map(|ending| ending.to_string_lossy().to_lowercase()).unwrap_or_default();
    if ending == columns::END {
        return in_columns(set, Path::new(place));
    }
    let bytes = std::fs::read(place).map_err(|fault| format!("cannot read {place} ({fault}). Choose another file"))?;
    let text = String::from_utf8(bytes).map_err(|fault| {
        let (at, bytes) = (fault.utf8_error().valid_up_to(), fault.as_bytes());
        let line = bytes[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
        format!("{place}, line {line}: this is no UTF-8 text. Save the table as UTF-8")
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text); // some programs begin a file so
    let rows = match ending.as_str() {
        "csv" => separated(set, text, b',')?,
        "tsv" => separated(set, text, b'\t')?,
        "jsonl" => objects(set, text)?,
        _ => {
            return Err(format!(
                "{place} ends in none of .csv, .tsv, .jsonl, .parquet. Choose such a file, or save the table as one"
            ));
        }
    };
    match rows.is_empty() {
        true => Err(format!("{place} has no samples in it. Choose another file")),
        false => Ok(rows),
    }
}

/// The settings that name a column, and whether it may be left out.
const COLUMNS: [(&str, bool); 4] = [("text", false), ("second", true), ("label", false), ("split", true)];

fn row(line: u64, [text, second, label, split]: [Option<String>; 4]) -> Row {
    Row {
        line,
        text: Text { first: text.unwrap_or_default(), second },
        label: label.unwrap_or_default().trim().to_owned(),
        split,
    }
}

fn separated(set: &Settings, text: &str, by: u8) -> Result<Vec<Row>, String> {
    let place = set.text("file");
    let header = set.flag("header");
    let mut reader =
        csv::ReaderBuilder::new().delimiter(by).quoting(set.flag("quotes")).has_headers(header).from_reader(text.as_bytes());
    let fault = |fault: csv::Error| {
        let line = fault.position().map_or_else(String::new, |at| format!(", line {}", at.line()));
        match fault.kind() {
            csv::ErrorKind::UnequalLengths { expected_len, len, .. } => format!(
                "{place}{line}: {len} cells where the lines before have {expected_len}. Put texts that hold a separator into quotes, or mend the line"
            ),
            _ => format!("{place}{line}: {fault}. Mend the line"),
        }
    };
    // Without a header the first line says how many columns there are.
    let names: Vec<String> = reader.headers().map_err(fault)?.iter().map(str::to_owned).collect();
    let names = if header { names } else { (1..=names.len()).map(|n| n.to_string()).collect() };
    let mut columns = [None; 4];
    for (column, (setting, optional)) in columns.iter_mut().zip(COLUMNS) {
        let wanted = set.text(setting).trim();
        if wanted.is_empty() && optional {
            continue;
        }
        *column = match names.iter().position(|name| name.trim() == wanted) {
            Some(at) => Some(at),
            None => return Err(lacks(place, setting, wanted, &names, header)),
        };
    }
    let mut rows = vec![];
    for record in reader.records() {
        let record = record.map_err(fault)?;
        let line = record.position().map_or(0, csv::Position::line);
        // A lone quotation mark at the beginning of a cell takes in everything up to the next one.
        if by == b'\t' && record.iter().any(|cell| cell.contains('\t')) {
            return Err(format!(
                "{place}, line {line}: a cell between quotation marks goes over several cells. Switch `quotes` off where these marks are signs like others, or save the table as CSV"
            ));
        }
        rows.push(row(line, columns.map(|column| Some(record.get(column?).unwrap_or_default().to_owned()))));
    }
    Ok(rows)
}

/// The rows of a parquet file. Numbers of a label get the names that the file notes for them.
fn in_columns(set: &Settings, path: &Path) -> Result<Vec<Row>, String> {
    let named: Vec<&str> = COLUMNS.iter().map(|(setting, _)| set.text(setting).trim()).collect();
    if let Some((setting, _)) =
        COLUMNS.iter().zip(&named).find(|((_, optional), name)| name.is_empty() && !optional).map(|(c, _)| c)
    {
        return Err(format!("{}: `{setting}` must name a column", path.display()));
    }
    let wanted: Vec<&str> = named.iter().copied().filter(|name| !name.is_empty()).collect();
    let names = columns::names(path, set.text("label").trim());
    let mut rows = vec![];
    for (line, cells) in (1..).zip(columns::read(path, &wanted)?) {
        let mut given = [const { None }; 4];
        let mut cells = cells.into_iter();
        for (cell, name) in given.iter_mut().zip(&named).filter(|(_, name)| !name.is_empty()) {
            *cell = match cells.next() {
                Some(Cell::Text(text)) => Some(text),
                Some(Cell::Empty) => Some(String::new()),
                _ => return Err(format!("{}, row {line}, column `{name}`: neither text nor number", path.display())),
            };
        }
        if let Some(name) = given[2].as_ref().and_then(|label| names.get(label.parse::<usize>().ok()?)) {
            given[2] = Some(name.clone());
        }
        rows.push(row(line, given));
    }
    match rows.is_empty() {
        true => Err(format!("{} has no samples in it. Choose another file", path.display())),
        false => Ok(rows),
    }
}

fn objects(set: &Settings, text: &str) -> Result<Vec<Row>, String> {
    let mut rows = vec![];
    for (line, words) in (1..).zip(text.lines()).filter(|(_, words)| !words.trim().is_empty()) {
        let place = format!("{}, line {line}", set.text("file"));
        let object: Json =
            serde_json::from_str(words).map_err(|fault| format!("{place}: this is no JSON ({fault}). Mend the line"))?;
        let Some(object) = object.as_object() else {
            return Err(format!(
                "{place}: this is no JSON object, as in {{\"text\": \"...\", \"label\": \"...\"}}. Mend the line"
            ));
        };
        let mut cells = [const { None }; 4];
        for (cell, (setting, optional)) in cells.iter_mut().zip(COLUMNS) {
            let wanted = set.text(setting).trim();
            if wanted.is_empty() && optional {
                continue;
            }
            *cell = match object.get(wanted) {
                Some(Json::String(text)) => Some(text.clone()),
                Some(Json::Null) => Some(String::new()),
                Some(value @ (Json::Number(_) | Json::Bool(_))) => Some(value.to_string()),
                Some(_) => {
                    return Err(format!(
                        "{place}, column `{wanted}`: neither text nor number. Choose another column for `{setting}`"
                    ));
                }
                None => return Err(lacks(&place, setting, wanted, &object.keys().cloned().collect::<Vec<_>>(), true)),
            };
        }
        rows.push(row(line, cells));
    }
    Ok(rows)
}

fn lacks(place: &str, setting: &str, wanted: &str, names: &[String], header: bool) -> String {
    let has = match (header, wanted) {
        (_, "") => format!("`{setting}` must name a column; there are"),
        (true, _) => format!("there is no column `{wanted}` for `{setting}`; there are"),
        (false, _) => {
            format!("there is no column number `{wanted}` for `{setting}`; without a header columns go by number, here")
        }
    };
    format!("{place}: {has} {}. Choose one of them", names.join(", "))
}

/// A piece of the file, cut where it is long.
fn quoted(words: &str) -> String {
    let cut: String = words.chars().take(QUOTED).collect();
    if cut.len() < words.len() { format!("`{cut}...`") } else { format!("`{cut}`") }
}
