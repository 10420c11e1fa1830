//! Files in folders: one subfolder a class, or `train` and `test` folders of such. Which files there are, which are trained on and which
//! tested on, and what is said of those that cannot be read.
//! Called by the data sets that read a person's own files; knows no format.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::quality::{self, Scores};
use super::{Described, Holds, Loaded, Samples, Wanted, once, path_of, splits};
use crate::session::settings::{Field, Settings};

/// What a folder of test files may be called, the first that there is.
const TESTS: [&str; 4] = ["test", "val", "validation", "valid"];
/// Names in a message; more of them are counted.
const NAMED: usize = 8;

pub const TEST: Field = Field::real(
    "test",
    0.01,
    0.99,
    0.2,
    "Which part of every class is kept to test on, where the folder has no test files of its own. The seed chooses which.",
);

/// What files are looked for.
pub struct Kind {
    /// One of them, in words.
    pub word: &'static str,
    pub holds: Holds,
    /// Endings of their names, in small letters.
    pub endings: &'static [&'static str],
    /// Files in folders within a class's folder belong to the class, too.
    pub deep: bool,
}

/// A file of a class.
#[derive(Clone)]
pub struct File {
    pub path: PathBuf,
    pub label: u32,
    /// Of all files, or of none.
    pub quality: Option<f32>,
}

struct Found {
    classes: Vec<String>,
    train: Vec<File>,
    /// Where there are folders of it.
    test: Option<Vec<File>>,
}

impl Kind {
    /// The classes of the folder that is chosen.
    ///
    /// # Errors
    /// In words, when it is no such folder.
    pub fn describe(&self, set: &Settings) -> Result<Described, String> {
        let root = self.root(set)?;
        let (train, test) = self.parts(&root)?;
        let watched = [Some(root.clone()), Some(train), test, quality::place(&root)].into_iter().flatten().collect::<Vec<_>>();
        once(&watched, set, || {
            let found = self.find(set)?;
            let quality = Scores::of(found.train.iter().chain(found.test.iter().flatten()).filter_map(|file| file.quality));
            Ok(Described { quality, ..Described::found(&root.display().to_string(), found.classes, self.holds)? })
        })
    }

    /// What is wanted of the folder's files, by `read`, which gives samples and the files that cannot be read, with the reason.
    ///
    /// # Errors
    /// In words, when it is no such folder, or when files cannot be read and the settings do not say to leave them out.
    pub fn load(
        &self,
        set: &Settings,
        seed: u64,
        wanted: &Wanted,
        read: impl Fn(&[File]) -> (Samples, Vec<String>),
    ) -> Result<Loaded> {
        let found = self.find(set).map_err(anyhow::Error::msg)?;
        let labels = |files: &[File]| files.iter().map(|file| file.label).collect::<Vec<_>>();
        let pick = |numbers: &[usize]| numbers.iter().map(|n| found.train[*n].clone()).collect::<Vec<_>>();
        let (mut train, test) = match &found.test {
            Some(test) => (found.train.clone(), test.clone()),
            None => match splits::stratified(&labels(&found.train), set.real("test"), seed) {
                Ok([train, test]) => (pick(&train), pick(&test)),
                Err(label) => bail!(
                    "the class `{}` has one {word} only, which cannot be both trained and tested on. Add {word}s, or make train and test folders",
                    found.classes[label as usize],
                    word = self.word
                ),
            },
        };
        train = splits::limited(&labels(&train), set.whole("per_class"), 0, seed).into_iter().map(|n| train[n].clone()).collect();

        let of = [train.len(), test.len()];
        let (train, mut damaged) = read(&wanted.some(&train));
        let (test, others) = read(&wanted.some(&test));
        damaged.extend(others);
        told(self.word, set, Loaded { of: Some(of), ..Loaded::new(train, test) }, &damaged, wanted)
    }

    fn root(&self, set: &Settings) -> Result<PathBuf, String> {
        path_of(set, "folder", &format!("the folder that has one subfolder of {}s for each class", self.word))
    }

    /// The folder of training files, and that of test files where there is one.
    fn parts(&self, root: &Path) -> Result<(PathBuf, Option<PathBuf>), String> {
        let inside = self.list(root)?.0;
        let called = |name: &str| inside.iter().find(|path| name_of(path).eq_ignore_ascii_case(name)).cloned();
        let test = TESTS.iter().find_map(|name| called(name));
        match called("train") {
            // A class may be called `train`, too: then it has others beside it, and no test.
            Some(train) if test.is_some() || inside.len() == 1 => Ok((train, test)),
            _ => Ok((root.to_owned(), None)),
        }
    }

    fn find(&self, set: &Settings) -> Result<Found, String> {
        let root = self.root(set)?;
        let (train, test) = self.parts(&root)?;
        let (classes, files) = self.classes(&train)?;
        let mut found = Found { classes, train: files, test: None };
        if let Some(test) = test {
            found.test = Some(self.tested(&train, &test, &found.classes)?);
        }
        // Only what is seen has a quality that a method reads.
        if self.holds == Holds::Images {
            let all: Vec<&mut File> = found.train.iter_mut().chain(found.test.iter_mut().flatten()).collect();
            if let Some(scores) = quality::read(&root, &all.iter().map(|file| file.path.as_path()).collect::<Vec<_>>())? {
                all.into_iter().zip(scores).for_each(|(file, score)| file.quality = Some(score));
            }
        }
        Ok(found)
    }

    /// The files of the folder `test`, which has the `classes` of `train`.
    fn tested(&self, train: &Path, test: &Path, classes: &[String]) -> Result<Vec<File>, String> {
        let (others, tested) = self.classes(test)?;
        let lacks = |all: &[String], some: &[String]| all.iter().find(|name| !some.contains(name)).cloned();
        if let Some(name) = lacks(&others, classes) {
            return Err(format!(
                "{} has a class `{name}` that {} has not. Give both the same subfolders",
                test.display(),
                train.display()
            ));
        }
        if let Some(name) = lacks(classes, &others) {
            return Err(format!(
                "{} lacks the class `{name}` that {} has. Give both the same subfolders",
                test.display(),
                train.display()
            ));
        }
        Ok(tested)
    }

    /// The classes of a folder, sorted, and their files with labels.
    fn classes(&self, folder: &Path) -> Result<(Vec<String>, Vec<File>), String> {
        let (inside, loose) = self.list(folder)?;
        if inside.is_empty() {
            let has = if loose.is_empty() { "is empty".to_owned() } else { format!("has {}s but no subfolders", self.word) };
            return Err(format!(
                "{} {has}. Choose a folder that has one subfolder of {}s for each class",
                folder.display(),
                self.word
            ));
        }
        let (mut names, mut files) = (vec![], vec![]);
        for (label, class) in inside.iter().enumerate() {
            let mut of_it = vec![];
            self.below(class, &mut BTreeSet::new(), &mut of_it)?;
            if of_it.is_empty() {
                return Err(format!(
                    "{} has no {} in it ({}). Fill it or delete it",
                    class.display(),
                    self.word,
                    self.endings.join(", ")
                ));
            }
            names.push(name_of(class));
            files.extend(of_it.into_iter().map(|path| File { path, label: label as u32, quality: None }));
        }
        Ok((names, files))
    }

    /// Adds the files of `folder`, and where they belong to it those of all folders within. What is linked into itself is entered
    /// once.
    fn below(&self, folder: &Path, known: &mut BTreeSet<PathBuf>, files: &mut Vec<PathBuf>) -> Result<(), String> {
        let real = folder.canonicalize().map_err(|fault| format!("cannot read the folder {} ({fault})", folder.display()))?;
        if !known.insert(real) {
            return Ok(());
        }
        let (inside, own) = self.list(folder)?;
        files.extend(own);
        for inner in inside.iter().filter(|_| self.deep) {
            self.below(inner, known, files)?;
        }
        Ok(())
    }

    /// The subfolders and the files of a folder, each sorted by name; what is hidden is not there.
    fn list(&self, folder: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>), String> {
        let fault = |fault: std::io::Error| format!("cannot read the folder {} ({fault}). Choose another", folder.display());
        let (mut folders, mut files) = (vec![], vec![]);
        for entry in std::fs::read_dir(folder).map_err(fault)? {
            let path = entry.map_err(fault)?.path();
            let ending = path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
            if name_of(&path).starts_with('.') {
                continue;
            } else if path.is_dir() {
                folders.push(path);
            } else if self.endings.contains(&ending.as_str()) {
                files.push(path);
            }
        }
        folders.sort();
        files.sort();
        Ok((folders, files))
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// What was read, with a word on the files that could not be (one of them is called `word`); or no more than that word, where the
/// settings say so.
///
/// # Errors
/// That word.
pub fn told(word: &str, set: &Settings, mut loaded: Loaded, damaged: &[String], wanted: &Wanted) -> Result<Loaded> {
    if damaged.is_empty() {
        return Ok(loaded);
    }
    let of = loaded.counts();
    let names = damaged.iter().take(NAMED).cloned().collect::<Vec<_>>().join("; ");
    let more = if damaged.len() > NAMED { format!("; and {} more", damaged.len() - NAMED) } else { String::new() };
    let words = format!(
        "{} of {} {word}s cannot be read: {names}{more}",
        damaged.len(),
        of[0].min(wanted.at_most) + of[1].min(wanted.at_most)
    );
    if set.text("damaged") == "stop" {
        bail!("{words}. Replace or delete them, or set `damaged` to `leave out`");
    }
    loaded.notes.push(format!("{words}. They are left out"));
    loaded.of = (wanted.at_most != usize::MAX).then_some(of);
    Ok(loaded)
}
