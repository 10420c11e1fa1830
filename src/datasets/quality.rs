//! Quality scores of samples: how a data set says that it has them, and how they are read from a table beside images.
//! Called by data sets of a person's own images. Must not know methods, models or tensors.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use csv::{ReaderBuilder, StringRecord, Trim};

/// What the table is called.
pub const NAME: &str = "quality.csv";
const COLUMNS: [&str; 2] = ["path", "quality"];

/// Lowest and highest score of the samples of a data set. What a score means is the data set's own; higher may be better or worse.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scores {
    pub lowest: f32,
    pub highest: f32,
}

impl Scores {
    /// None where there are no scores.
    pub fn of(scores: impl IntoIterator<Item = f32>) -> Option<Scores> {
        let one = |score| Scores { lowest: score, highest: score };
        scores.into_iter().map(one).reduce(|a, b| Scores { lowest: a.lowest.min(b.lowest), highest: a.highest.max(b.highest) })
    }
}

impl std::fmt::Display for Scores {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} to {}", self.lowest, self.highest)
    }
}

/// The table in `root`, where there is one.
pub fn place(root: &Path) -> Option<PathBuf> {
    Some(root.join(NAME)).filter(|path| path.exists())
}

/// The score of every one of `images`, which lie below `root`, in their order; none where `root` has no table.
///
/// # Errors
/// In words, with the line: when the table is not `path,quality` lines, or does not fit the images.
pub fn read(root: &Path, images: &[&Path]) -> Result<Option<Vec<f32>>, String> {
    let Some(table) = place(root) else { return Ok(None) };
    let lines = lines(&table)?;
    let relative: Vec<String> = images.iter().map(|image| relative(root, image)).collect();
    // What is not used, such as a third split, may have scores; what is not there is a slip.
    let known: BTreeSet<&String> = relative.iter().collect();
    let slip = lines.iter().filter(|(path, _)| !known.contains(path) && !root.join(path).is_file()).min_by_key(|(_, at)| at.0);
    if let Some((path, (line, _))) = slip {
        return Err(format!(
            "{}, line {line}: there is no file `{path}` in {}. Write paths as they are from this folder on, or delete the line",
            table.display(),
            root.display()
        ));
    }
    let lacks: Vec<&String> = relative.iter().filter(|image| !lines.contains_key(*image)).collect();
    if let Some((first, others)) = lacks.split_first() {
        let more = if others.is_empty() { String::new() } else { format!(" and {} more images", others.len()) };
        return Err(format!(
            "{} has no line for `{first}`{more}. Give every image a score, or take the file away",
            table.display()
        ));
    }
    Ok(Some(relative.iter().map(|image| lines[image].1).collect()))
}

/// Line number and score by path.
fn lines(table: &Path) -> Result<BTreeMap<String, (u64, f32)>, String> {
    let fault = |fault: csv::Error| {
        let line = fault.position().map_or(String::new(), |at| format!(", line {}", at.line()));
        format!("cannot read {}{line} ({fault}). Write `path,quality` lines in UTF-8", table.display())
    };
    let mut reader = ReaderBuilder::new().has_headers(false).flexible(true).trim(Trim::All).from_path(table).map_err(fault)?;
    let (mut found, mut row) = (BTreeMap::new(), StringRecord::new());
    while reader.read_record(&mut row).map_err(fault)? {
        let line = row.position().map_or(0, csv::Position::line);
        let place = format!("{}, line {line}", table.display());
        if found.is_empty() && row == COLUMNS[..] {
            continue;
        }
        let (path, score) = match (row.len(), row.get(0), row.get(1)) {
            (2, Some(path), Some(score)) if !path.is_empty() => (path, score),
            _ => {
                let cells = row.iter().collect::<Vec<_>>().join(",");
                return Err(format!("{place}: `{cells}` is not `path,quality`. Write an image's path, a comma and its score"));
            }
        };
        let Some(score) = score.parse::<f32>().ok().filter(|score| score.is_finite()) else {
            return Err(format!("{place}: the quality `{score}` of `{path}` is no number. Write one, such as 0.5"));
        };
        if let Some((before, _)) = found.insert(path.replace('\\', "/").trim_start_matches("./").to_owned(), (line, score)) {
            return Err(format!("{place}: `{path}` has a score already, in line {before}. Delete one of them"));
        }
    }
    Ok(found)
}

/// The path from `root` on, its parts divided by `/` on every system.
fn relative(root: &Path, image: &Path) -> String {
    let below = image.strip_prefix(root).unwrap_or(image);
    below.components().map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
}
