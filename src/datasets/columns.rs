//! Columns of parquet files, as the hub stores data sets: only those that are asked for are read. Called by the data sets that take such
//! files; knows no samples.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::column::reader::ColumnReader;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row};
use parquet::schema::types::Type;
use serde_json::Value as Json;

/// The end of such a file's name.
pub const END: &str = "parquet";
/// What the hub calls the bytes of a picture.
const BYTES: &str = "bytes";

/// What stands in one place of a column.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    Empty,
    Text(String),
    Bytes(Vec<u8>),
    /// A list, or a group without bytes.
    Other,
}

/// The columns `wanted` of a file, row by row.
///
/// # Errors
/// In words, when it is no whole parquet file or lacks a column.
pub fn read(path: &Path, wanted: &[&str]) -> Result<Vec<Vec<Cell>>, String> {
    let file = open(path)?;
    let schema = file.metadata().file_metadata().schema();
    let mut fields = Vec::new();
    for name in wanted {
        match schema.get_fields().iter().find(|field| field.name() == *name) {
            Some(field) if !fields.iter().any(|known: &Arc<Type>| known.name() == field.name()) => fields.push(field.clone()),
            Some(_) => {}
            None => {
                let names: Vec<_> = schema.get_fields().iter().map(|field| field.name()).collect();
                return Err(format!(
                    "{}: there is no column `{name}`; there are {}. Choose one of them",
                    path.display(),
                    names.join(", ")
                ));
            }
        }
    }
    let fault = |fault| broken(path, &fault);
    let only = Type::group_type_builder(schema.name()).with_fields(fields).build().map_err(fault)?;
    let mut rows = Vec::new();
    for row in file.get_row_iter(Some(only)).map_err(fault)? {
        let mut columns = row.map_err(fault)?.into_columns();
        let mut take = |name: &&str| {
            let at = columns.iter().position(|(known, _)| known == *name);
            at.map_or(Cell::Empty, |at| cell(std::mem::replace(&mut columns[at].1, Field::Null)))
        };
        rows.push(wanted.iter().map(&mut take).collect());
    }
    Ok(rows)
}

/// The encoded picture in row `row` of a column. Pages before it are passed over, not unpacked.
///
/// # Errors
/// In words, when it is no whole parquet file, lacks the column, or holds no picture there.
pub fn picture(path: &Path, column: &str, row: usize) -> Result<Vec<u8>, String> {
    let file = open(path)?;
    let fault = |fault| broken(path, &fault);
    let none = || format!("column `{column}` holds no picture there");
    // The bytes themselves, or those of a group as the hub has it.
    let leaf = |parts: &[String]| {
        matches!(parts, [name] if name == column) || matches!(parts, [name, inner] if name == column && inner == BYTES)
    };
    let leaves = file.metadata().file_metadata().schema_descr().columns();
    let Some(leaf) = leaves.iter().position(|known| leaf(known.path().parts())) else { return Err(none()) };
    let mut before = row;
    for group in 0..file.num_row_groups() {
        let rows = usize::try_from(file.metadata().row_group(group).num_rows()).unwrap_or(0);
        if before >= rows {
            before -= rows;
            continue;
        }
        let reader = file.get_row_group(group).map_err(fault)?.get_column_reader(leaf).map_err(fault)?;
        let ColumnReader::ByteArrayColumnReader(mut reader) = reader else { return Err(none()) };
        let (mut values, mut filled, mut repeated) = (vec![], vec![], vec![]);
        reader.skip_records(before).map_err(fault)?;
        reader.read_records(1, Some(&mut filled), Some(&mut repeated), &mut values).map_err(fault)?;
        return values.pop().map(|bytes| bytes.data().to_vec()).ok_or_else(none);
    }
    Err(none())
}

/// The class names that the hub notes for a column of numbers; empty where it notes none.
pub fn names(path: &Path, column: &str) -> Vec<String> {
    let Ok(file) = open(path) else { return vec![] };
    let noted = |about: &ParquetMetaData| {
        let note = about.file_metadata().key_value_metadata()?.iter().find(|note| note.key == "huggingface")?;
        let json: Json = serde_json::from_str(note.value.as_deref()?).ok()?;
        let names = json["info"]["features"][column]["names"].as_array()?;
        names.iter().map(|name| name.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
    };
    noted(file.metadata()).unwrap_or_default()
}

/// The parquet files that `path` means - one, or those in a folder and in its `data` - sorted.
///
/// # Errors
/// In words, when there is none.
pub fn files(path: &Path) -> Result<Vec<PathBuf>, String> {
    if path.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    let is_one = |path: &PathBuf| path.extension().is_some_and(|end| end.eq_ignore_ascii_case(END));
    let inside = |folder: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).into_iter().flatten();
        entries.filter_map(|entry| Some(entry.ok()?.path())).filter(is_one).collect()
    };
    let mut all = [inside(path), inside(&path.join("data"))].concat();
    all.sort();
    match all.is_empty() {
        true => Err(format!(
            "{} holds no parquet file. Choose the folder that holds train-*.parquet, or one such file",
            path.display()
        )),
        false => Ok(all),
    }
}

/// What a file is for by its name: `train-00000-of-00001.parquet`.
pub fn split(path: &Path) -> Option<&'static str> {
    let name = path.file_stem()?.to_string_lossy().to_lowercase();
    ["train", "test", "validation", "valid", "val", "dev"].into_iter().find(|word| {
        name.strip_prefix(word).is_some_and(|rest| rest.is_empty() || !rest.starts_with(|c: char| c.is_alphabetic()))
    })
}

fn open(path: &Path) -> Result<SerializedFileReader<File>, String> {
    let file = File::open(path).map_err(|fault| format!("cannot read {} ({fault}). Choose another file", path.display()))?;
    SerializedFileReader::new(file).map_err(|fault| broken(path, &fault))
}

fn broken(path: &Path, fault: &parquet::errors::ParquetError) -> String {
    format!("{} is no whole parquet file that can be read ({fault}). Fetch it again", path.display())
}

fn cell(field: Field) -> Cell {
    match field {
        Field::Null => Cell::Empty,
        Field::Str(text) => Cell::Text(text),
        Field::Bytes(bytes) => Cell::Bytes(bytes.data().to_vec()),
        Field::Group(group) => bytes(group).map_or(Cell::Other, Cell::Bytes),
        Field::ListInternal(_) | Field::MapInternal(_) => Cell::Other,
        Field::Bool(value) => Cell::Text(value.to_string()),
        Field::Byte(n) => Cell::Text(n.to_string()),
        Field::Short(n) => Cell::Text(n.to_string()),
        Field::Int(n) => Cell::Text(n.to_string()),
        Field::Long(n) => Cell::Text(n.to_string()),
        Field::UByte(n) => Cell::Text(n.to_string()),
        Field::UShort(n) => Cell::Text(n.to_string()),
        Field::UInt(n) => Cell::Text(n.to_string()),
        Field::ULong(n) => Cell::Text(n.to_string()),
        Field::Float(v) => Cell::Text(v.to_string()),
        Field::Double(v) => Cell::Text(v.to_string()),
        other => Cell::Text(other.to_string()),
    }
}

/// A picture as the hub stores it: a group of its bytes and its path.
fn bytes(group: Row) -> Option<Vec<u8>> {
    let bytes = group.into_columns().into_iter().find(|(name, _)| name == BYTES)?;
    match bytes.1 {
        Field::Bytes(bytes) => Some(bytes.data().to_vec()),
        _ => None,
    }
}
