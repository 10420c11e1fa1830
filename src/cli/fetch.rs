//! `petl fetch`: a model folder from the hub. Shows what would come first; fetches only with `--yes`.

use std::ops::ControlFlow;
use std::path::Path;

use super::{Answer, out};
use crate::hub::{self, Hub};

/// Bytes between two lines of progress.
const LINE: u64 = 25_000_000;

pub fn run(repository: &str, revision: &str, models: &Path, yes: bool) -> Answer {
    let hub = Hub::default();
    let about = super::asked(hub::about(&hub, repository, revision))?;
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    out::say(&format!("{} at {}", about.repository, about.commit))?;
    out::say(&format!("licence  {}", about.licence.as_deref().unwrap_or("none named")))?;
    for file in &about.files {
        out::say(&format!("{:>9.2} MB  {}", megabytes(file.bytes), file.name))?;
    }
    out::say(&format!("{:>9.2} MB  together, into {}", megabytes(about.bytes()), about.folder(models).display()))?;
    if !yes {
        out::note("petl: nothing is fetched yet. Add --yes to fetch it");
        return Ok(());
    }
    let mut said = 0;
    let folder = hub::fetch(&hub, &about, models, &mut |done| {
        if done / LINE != said / LINE {
            said = done;
            out::note(&format!("petl: {:.0} of {:.0} MB", megabytes(done), megabytes(about.bytes())));
        }
        ControlFlow::Continue(())
    })?;
    out::say(&folder.display().to_string())?;
    Ok(())
}
