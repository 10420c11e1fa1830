//! Tables: the lines of a CSV, TSV, JSONL or parquet file, with the columns that settings name. Called by the data sets that read one;
//! knows no samples.

use std::path::Path;

use serde_json::Value as Json;

use super::columns::{self, Cell};
use crate::session::settings::{Field, Settings};

pub const FILE: Field =
    Field::text("file", "", "The table: a file that ends in .csv, .tsv, .jsonl (one object a line) or .parquet.");
pub const HEADER: Field =
    Field::flag("header", true, "The first line names the columns. If not, columns go by their numbers, from 1.");
pub const QUOTES: Field = Field::flag(
    "quotes",
    true,
    "Quotation marks hold a cell together, separators and line ends in it included. Off where they are signs like others, as in \
     many TSV files.",
);

/// Longest piece of a file in a message, in characters.
const QUOTED: usize = 60;

/// A setting that names a column.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    pub setting: &'static str,
    /// It may name none.
    pub optional: bool,
    /// Pictures may stand in it.
    pub pictures: bool,
}

impl Column {
    pub const fn needed(setting: &'static str) -> Column {
        Column { setting, optional: false, pictures: false }
    }

    pub const fn optional(setting: &'static str) -> Column {
        Column { setting, optional: true, pictures: false }
    }

    fn name(self, set: &Settings) -> &str {
        set.text(self.setting).trim()
    }
}

/// What stands in one line, and where that is; none in a column that nobody named.
#[derive(Clone, Debug)]
pub struct Line<const N: usize> {
    pub number: u64,
    pub cells: [Option<Cell>; N],
}

impl<const N: usize> Line<N> {
    /// Column `n` as text; empty where there is none.
    pub fn text(&self, n: usize) -> &str {
        match &self.cells[n] {
            Some(Cell::Text(text)) => text,
            _ => "",
        }
    }
}

/// The lines of the file that the settings name, each with the columns that they name.
///
/// # Errors
/// In words, with file, line and column, when it cannot be read or lacks a column.
pub fn read<const N: usize>(set: &Settings, columns: [Column; N]) -> Result<Vec<Line<N>>, String> {
    let place = set.text(FILE.name);
    let lines = match ending(place).as_str() {
        columns::END => in_columns(set, columns)?,
        "csv" => separated(set, columns, &whole(place)?, b',')?,
        "tsv" => separated(set, columns, &whole(place)?, b'\t')?,
        "jsonl" => objects(set, columns, &whole(place)?)?,
        _ => {
            return Err(format!(
                "{place} ends in none of .csv, .tsv, .jsonl, .parquet. Choose such a file, or save the table as one"
            ));
        }
    };
    match lines.is_empty() {
        true => Err(format!("{place} has no samples in it. Choose another file")),
        false => Ok(lines),
    }
}

/// What the names of such files end in, in small letters.
pub fn ending(place: &str) -> String {
    Path::new(place).extension().map(|ending| ending.to_string_lossy().to_lowercase()).unwrap_or_default()
}

fn whole(place: &str) -> Result<String, String> {
    let bytes = std::fs::read(place).map_err(|fault| format!("cannot read {place} ({fault}). Choose another file"))?;
    let mut text = String::from_utf8(bytes).map_err(|fault| {
        let (at, bytes) = (fault.utf8_error().valid_up_to(), fault.as_bytes());
        let line = bytes[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
        format!("{place}, line {line}: this is no UTF-8 text. Save the table as UTF-8")
    })?;
    if text.starts_with('\u{feff}') {
        text.remove(0); // some programs begin a file so
    }
    Ok(text)
}

fn separated<const N: usize>(set: &Settings, columns: [Column; N], text: &str, by: u8) -> Result<Vec<Line<N>>, String> {
    let place = set.text(FILE.name);
    let header = set.flag(HEADER.name);
    let mut reader =
        csv::ReaderBuilder::new().delimiter(by).quoting(set.flag(QUOTES.name)).has_headers(header).from_reader(text.as_bytes());
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
    let mut at = [None; N];
    for (at, column) in at.iter_mut().zip(columns) {
        let wanted = column.name(set);
        if wanted.is_empty() && column.optional {
            continue;
        }
        *at = match names.iter().position(|name| name.trim() == wanted) {
            Some(at) => Some(at),
            None => return Err(lacks(place, column.setting, wanted, &names, header)),
        };
    }
    let mut lines = vec![];
    for record in reader.records() {
        let record = record.map_err(fault)?;
        let number = record.position().map_or(0, csv::Position::line);
        // A lone quotation mark at the beginning of a cell takes in everything up to the next one.
        if by == b'\t' && record.iter().any(|cell| cell.contains('\t')) {
            return Err(format!(
                "{place}, line {number}: a cell between quotation marks goes over several cells. Switch `quotes` off where these marks are signs like others, or save the table as CSV"
            ));
        }
        let cells = at.map(|at| Some(Cell::Text(record.get(at?).unwrap_or_default().to_owned())));
        lines.push(Line { number, cells });
    }
    Ok(lines)
}

fn in_columns<const N: usize>(set: &Settings, columns: [Column; N]) -> Result<Vec<Line<N>>, String> {
    let path = Path::new(set.text(FILE.name));
    let named = columns.map(|column| column.name(set));
    if let Some((column, _)) = columns.iter().zip(named).find(|(column, name)| name.is_empty() && !column.optional) {
        return Err(format!("{}: `{}` must name a column", path.display(), column.setting));
    }
    let wanted: Vec<&str> = named.into_iter().filter(|name| !name.is_empty()).collect();
    let mut lines = vec![];
    for (number, found) in (1..).zip(columns::read(path, &wanted)?) {
        let mut cells = [const { None }; N];
        let mut found = found.into_iter();
        for ((cell, name), column) in cells.iter_mut().zip(named).zip(columns).filter(|((_, name), _)| !name.is_empty()) {
            *cell = match found.next() {
                Some(Cell::Empty) => Some(Cell::Text(String::new())),
                Some(found @ Cell::Text(_)) => Some(found),
                Some(found @ Cell::Bytes(_)) if column.pictures => Some(found),
                _ => return Err(format!("{}, row {number}, column `{name}`: neither text nor number", path.display())),
            };
        }
        lines.push(Line { number, cells });
    }
    Ok(lines)
}

fn objects<const N: usize>(set: &Settings, columns: [Column; N], text: &str) -> Result<Vec<Line<N>>, String> {
    let mut lines = vec![];
    for (number, words) in (1..).zip(text.lines()).filter(|(_, words)| !words.trim().is_empty()) {
        let place = format!("{}, line {number}", set.text(FILE.name));
        let object: Json =
            serde_json::from_str(words).map_err(|fault| format!("{place}: this is no JSON ({fault}). Mend the line"))?;
        let Some(object) = object.as_object() else {
            return Err(format!(
                "{place}: this is no JSON object, as in {{\"text\": \"...\", \"label\": \"...\"}}. Mend the line"
            ));
        };
        let mut cells = [const { None }; N];
        for (cell, column) in cells.iter_mut().zip(columns) {
            let wanted = column.name(set);
            if wanted.is_empty() && column.optional {
                continue;
            }
            let text = match object.get(wanted) {
                Some(Json::String(text)) => text.clone(),
                Some(Json::Null) => String::new(),
                Some(value @ (Json::Number(_) | Json::Bool(_))) => value.to_string(),
                Some(_) => {
                    return Err(format!(
                        "{place}, column `{wanted}`: neither text nor number. Choose another column for `{}`",
                        column.setting
                    ));
                }
                None => {
                    let names = object.keys().cloned().collect::<Vec<_>>();
                    return Err(lacks(&place, column.setting, wanted, &names, true));
                }
            };
            *cell = Some(Cell::Text(text));
        }
        lines.push(Line { number, cells });
    }
    Ok(lines)
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

/// What a line is for by the word in its column `split`: numbers of those to train on and to test on. What is called dev or validation is
/// tested on where nothing is called test, and left out where something is.
///
/// # Errors
/// In words, with the line, where the word is none of these.
pub fn given<'a>(set: &Settings, words: impl Iterator<Item = (u64, &'a str)>) -> Result<[Vec<usize>; 2], String> {
    let [mut train, mut test, mut held] = [vec![], vec![], vec![]];
    for (n, (number, word)) in words.enumerate() {
        match word.trim().to_lowercase().as_str() {
            "train" | "training" => train.push(n),
            "test" | "testing" => test.push(n),
            "dev" | "val" | "valid" | "validation" => held.push(n),
            _ => {
                let said = quoted(word.trim());
                let place = format!("{}, line {number}, column `{}`", set.text(FILE.name), set.text("split"));
                return Err(format!("{place}: {said} is no split. Write train or test there, or leave `split` empty"));
            }
        }
    }
    Ok([train, if test.is_empty() { held } else { test }])
}

/// A piece of the file, cut where it is long.
pub fn quoted(words: &str) -> String {
    let cut: String = words.chars().take(QUOTED).collect();
    if cut.len() < words.len() { format!("`{cut}...`") } else { format!("`{cut}`") }
}
