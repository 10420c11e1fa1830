//! Model folders from the Hugging Face hub, on request only: what a repository holds is shown first, then fetched as a whole or not at all,
//! every file compared with the hash that the hub notes. Called by the workbench and the command line; knows no network's insides.

use std::fs::File;
use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use hf_hub::api::sync::{ApiBuilder, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};
use serde_json::{Value as Json, json};
use sha2::{Digest, Sha256};

/// Where a fetched folder says where it came from.
pub const NOTE: &str = "source.json";
/// Small files that belong to a model, where a repository has them.
const SMALL: [&str; 12] = [
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "preprocessor_config.json",
    "1_Pooling/config.json",
    "modules.json",
    "README.md",
    "LICENSE",
];
/// Bytes between two looks at whether somebody cancelled.
const PIECE: usize = 1 << 16;

/// A repository at one commit, and what of it a model folder needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    pub repository: String,
    /// The commit, whatever the revision was called.
    pub commit: String,
    /// As its card says; none where it says nothing.
    pub licence: Option<String>,
    pub files: Vec<Wanted>,
}

/// A file of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub name: String,
    pub bytes: u64,
    /// Noted for large files.
    pub sha256: Option<String>,
}

impl About {
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// The folder that it becomes below `models`.
    pub fn folder(&self, models: &Path) -> PathBuf {
        models.join(format!("{}@{}", self.repository.replace('/', "--"), self.commit.get(..12).unwrap_or(&self.commit)))
    }
}

/// The folder for what is fetched.
pub fn models(home: &Path) -> PathBuf {
    home.join("models")
}

/// Where the hub is.
#[derive(Clone, Debug, Default)]
pub struct Hub {
    /// Its address; none for `HF_ENDPOINT`, or else the public one.
    pub endpoint: Option<String>,
}

impl Hub {
    fn client(&self, repository: &str, revision: &str) -> Result<ApiRepo> {
        let mut api = ApiBuilder::from_env().with_progress(false).with_token(token());
        if let Some(endpoint) = &self.endpoint {
            api = api.with_endpoint(endpoint.clone());
        }
        let api = api.build().map_err(|fault| anyhow!("cannot ask the hub: {fault}"))?;
        Ok(api.repo(Repo::with_revision(repository.to_owned(), RepoType::Model, revision.to_owned())))
    }
}

/// Asks the hub what `repository` (`owner/name`) holds at `revision`; fetches no file.
///
/// # Errors
/// When the hub cannot be reached or has no such repository, and when it holds no model that can be opened here.
pub fn about(hub: &Hub, repository: &str, revision: &str) -> Result<About> {
    let is_name = |part: &str| {
        !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) && !part.contains("..")
    };
    let parts: Vec<&str> = repository.split('/').collect();
    ensure!(
        parts.len() <= 2 && parts.iter().all(|part| is_name(part)),
        "`{repository}` is no name of a repository. Write it as on the hub: owner/name"
    );
    ensure!(revision.split('/').all(is_name), "`{revision}` is no name of a revision. Write a branch, a tag or a commit");
    let repo = hub.client(repository, revision)?;
    let answer = repo.info_request().query("blobs", "true").call();
    let mut answer = answer.map_err(|fault| unreachable(repository, revision, &fault))?;
    let about: Json = answer.body_mut().read_json().map_err(|fault| unreachable(repository, revision, &fault))?;
    let commit = about["sha"].as_str().context("the hub's answer names no commit")?.to_owned();
    let listed: Vec<Wanted> = about["siblings"].as_array().into_iter().flatten().filter_map(listed).collect();
    let files = chosen(listed).with_context(|| format!("{repository} at {revision}"))?;
    Ok(About {
        repository: repository.to_owned(),
        commit,
        licence: about["cardData"]["license"].as_str().map(str::to_owned),
        files,
    })
}

fn listed(file: &Json) -> Option<Wanted> {
    Some(Wanted {
        name: file["rfilename"].as_str()?.to_owned(),
        bytes: file["size"].as_u64().unwrap_or(0),
        sha256: file["lfs"]["sha256"].as_str().map(str::to_owned),
    })
}

/// Of a repository's files those that make a model folder: weights in one form, the safest that there is, and what belongs to them.
fn chosen(all: Vec<Wanted>) -> Result<Vec<Wanted>> {
    let of = |fits: &dyn Fn(&str) -> bool| all.iter().filter(|file| fits(&file.name)).cloned().collect::<Vec<_>>();
    let safe = of(&|name| name == "model.safetensors");
    let parts =
        of(&|name| (name.starts_with("model-") && name.ends_with(".safetensors")) || name == "model.safetensors.index.json");
    let torch = of(&|name| name.starts_with("pytorch_model") && (name.ends_with(".bin") || name.ends_with(".bin.index.json")));
    let gguf = of(&|name| name.ends_with(".gguf") && !name.contains('/'));
    let weights = [safe, parts, torch].into_iter().find(|files| !files.is_empty());
    let weights = match (weights, gguf.len()) {
        (Some(weights), _) => weights,
        (None, 1) => gguf,
        (None, 0) => bail!("it holds no weights that can be read here (safetensors, PyTorch's, GGUF)"),
        (None, n) => bail!("it holds {n} GGUF files. Fetch the one that you want by hand, and open it as a model folder"),
    };
    let small = of(&|name| SMALL.contains(&name));
    let has_config = small.iter().any(|file| file.name == "config.json");
    ensure!(has_config || weights.iter().all(|file| file.name.ends_with(".gguf")), "it holds no config.json");
    Ok([small, weights].concat())
}

/// Fetches what `about` names into a folder of its own below `models`, and gives that folder. `hear` is told how many bytes are there, and
/// ends it by `Break`. What is there already is taken as it is.
///
/// # Errors
/// When it was ended, the hub cannot be reached, the disk is full, or a file is not what the hub says of it. Nothing stays half fetched.
pub fn fetch(hub: &Hub, about: &About, models: &Path, hear: &mut dyn FnMut(u64) -> ControlFlow<()>) -> Result<PathBuf> {
    let folder = about.folder(models);
    if folder.join(NOTE).is_file() {
        return Ok(folder);
    }
    std::fs::create_dir_all(models).with_context(|| format!("cannot make {}. May you write there?", models.display()))?;
    let staging = tempfile::Builder::new().prefix(".fetching-").tempdir_in(models)?;
    let repo = hub.client(&about.repository, &about.commit)?;
    let (mut done, mut noted) = (0, serde_json::Map::new());
    for file in &about.files {
        let sha256 = one(&repo, about, file, staging.path(), &mut done, hear)?;
        noted.insert(file.name.clone(), json!(sha256));
    }
    let note = json!({ "repository": about.repository, "commit": about.commit, "licence": about.licence, "sha256": noted });
    crate::session::file::write_whole(&staging.path().join(NOTE), format!("{note:#}\n").as_bytes())?;
    std::fs::rename(staging.keep(), &folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

/// Where a fetched folder came from, in words for the session: repository, commit and a hash over all hashes. Empty for other folders.
pub fn source(folder: &Path) -> String {
    let read = || -> Option<String> {
        let note: Json = serde_json::from_str(&std::fs::read_to_string(folder.join(NOTE)).ok()?).ok()?;
        let all = Sha256::digest(note["sha256"].to_string());
        let short: String = all.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        Some(format!("{} at {}, {short}", note["repository"].as_str()?, note["commit"].as_str()?))
    };
    read().unwrap_or_default()
}

/// Fetches one file and gives its SHA-256.
fn one(
    repo: &ApiRepo,
    about: &About,
    file: &Wanted,
    into: &Path,
    done: &mut u64,
    hear: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<String> {
    let place = into.join(&file.name);
    if let Some(folder) = place.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut request = ureq::get(repo.url(&file.name));
    if let Some(token) = token() {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let mut answer = request.call().map_err(|fault| unreachable(&about.repository, &about.commit, &fault))?;
    let mut from = answer.body_mut().as_reader();
    let mut to = File::create(&place).with_context(|| format!("cannot write {}", place.display()))?;
    let (mut hash, mut piece, mut bytes) = (Sha256::new(), vec![0; PIECE], 0);
    loop {
        let count =
            from.read(&mut piece).with_context(|| format!("the connection broke in the middle of {}. Try again", file.name))?;
        if count == 0 {
            break;
        }
        to.write_all(&piece[..count]).with_context(|| format!("cannot write {}. Is the disk full?", place.display()))?;
        hash.update(&piece[..count]);
        (bytes, *done) = (bytes + count as u64, *done + count as u64);
        if hear(*done).is_break() {
            bail!("ended before everything was there; nothing of it is kept");
        }
    }
    let sha256: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    let wrong = file.sha256.as_ref().is_some_and(|noted| *noted != sha256) || (file.bytes > 0 && bytes != file.bytes);
    ensure!(
        !wrong,
        "{} is not the file that the hub notes ({bytes} of {} bytes, SHA-256 {sha256}). Try again",
        file.name,
        file.bytes
    );
    Ok(sha256)
}

/// What opens closed repositories: `HF_TOKEN`, or what the hub's own program keeps.
fn token() -> Option<String> {
    std::env::var("HF_TOKEN").ok().filter(|token| !token.is_empty()).or_else(|| Cache::from_env().token())
}

fn unreachable(repository: &str, revision: &str, fault: &dyn std::fmt::Display) -> anyhow::Error {
    anyhow!(
        "the hub does not give {repository} at {revision} ({fault}). Check the name, the network, and for closed repositories HF_TOKEN. Without a network: fetch config.json, the weights and tokenizer.json of {repository} on another machine (`hf download {repository}`), bring the folder here, and open it as a model folder"
    )
}
