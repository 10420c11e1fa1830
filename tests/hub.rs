//! Model folders from the hub, against a hub of our own on this machine: what is shown before, what is fetched, and what is left of a
//! download that goes wrong.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use petl_workbench::downloads::{Download, State};
use petl_workbench::hub::{self, Hub};
use serde_json::json;
use sha2::{Digest, Sha256};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/backbones/vit")
}

/// A hub with one repository, `tiny/vit`; `spoil` changes the bytes of the weights on their way.
fn serve(spoil: bool) -> Hub {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    std::thread::Builder::new()
        .name("hub".into())
        .spawn(move || listener.incoming().flatten().for_each(|stream| answer(stream, spoil)))
        .unwrap();
    Hub { endpoint: Some(endpoint) }
}

fn answer(mut stream: TcpStream, spoil: bool) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
    let first = lines.next().unwrap_or_default();
    lines.take_while(|line| !line.is_empty()).for_each(drop);
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let weights = std::fs::read(fixture().join("model.safetensors")).unwrap();
    let sha256: String = Sha256::digest(&weights).iter().map(|byte| format!("{byte:02x}")).collect();
    let config = std::fs::read(fixture().join("config.json")).unwrap();
    let about = json!({
        "sha": COMMIT, "cardData": { "license": "mit" },
        "siblings": [
            { "rfilename": "config.json", "size": config.len() },
            { "rfilename": "model.safetensors", "size": weights.len(), "lfs": { "sha256": sha256 } },
            { "rfilename": "pytorch_model.bin", "size": 999 },
            { "rfilename": "training_args.bin", "size": 5 },
        ],
    });
    let (status, mut body) = match path.as_str() {
        "/api/models/tiny/vit/revision/main?blobs=true" => ("200 OK", about.to_string().into_bytes()),
        path if path == format!("/tiny/vit/resolve/{COMMIT}/config.json") => ("200 OK", config),
        path if path == format!("/tiny/vit/resolve/{COMMIT}/model.safetensors") => ("200 OK", weights),
        _ => ("404 Not Found", b"no".to_vec()),
    };
    if spoil && path.ends_with(".safetensors") {
        body[100] ^= 1;
    }
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body)); // a client that cancelled is no fault
}

/// Runs the program against a hub.
fn petl(hub: &Hub, home: &Path, arguments: &[&str]) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_petl"));
    command.args(arguments).env("HF_ENDPOINT", hub.endpoint.as_ref().unwrap()).env("HF_HOME", home).env("PETL_HOME", home);
    let done = command.output().unwrap();
    (done.status.success(), String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned())
}

fn inside(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn size_and_licence_are_shown_first_and_the_folder_opens() {
    let (hub, home) = (serve(false), tempfile::tempdir().unwrap());
    let (fine, said) = petl(&hub, home.path(), &["fetch", "tiny/vit"]);
    assert!(fine && said.contains("licence  mit") && said.contains("model.safetensors") && said.contains("--yes"), "{said}");
    assert!(!said.contains("pytorch_model") && !said.contains("training_args"), "{said}");
    assert!(!home.path().join("models").exists(), "nothing was fetched");

    let (fine, said) = petl(&hub, home.path(), &["fetch", "tiny/vit", "--yes"]);
    let folder = home.path().join("models/tiny--vit@0123456789ab");
    assert!(fine && said.trim_end().ends_with(folder.to_str().unwrap()), "{said}");
    assert_eq!(inside(&folder), ["config.json", "model.safetensors", "source.json"]);
    assert_eq!(inside(&home.path().join("models")), ["tiny--vit@0123456789ab"]);
    let choice = petl_workbench::backbones::of_folder(&folder).unwrap();
    let source = choice.settings.0["source"].to_string();
    assert!(source.starts_with(&format!("tiny/vit at {COMMIT}, ")), "{source}");
}

#[test]
fn what_goes_wrong_leaves_nothing_and_says_what_to_do() {
    let home = tempfile::tempdir().unwrap();
    let (fine, said) = petl(&serve(true), home.path(), &["fetch", "tiny/vit", "--yes"]);
    assert!(!fine && said.contains("model.safetensors is not the file that the hub notes"), "{said}");
    assert!(inside(&home.path().join("models")).is_empty());
    let (fine, said) = petl(&serve(false), home.path(), &["fetch", "tiny/bert", "--yes"]);
    assert!(!fine && said.contains("the hub does not give tiny/bert at main") && said.contains("on another machine"), "{said}");
    let nobody = Hub { endpoint: Some("http://127.0.0.1:9".into()) };
    let (fine, said) = petl(&nobody, home.path(), &["fetch", "tiny/vit"]);
    assert!(!fine && said.contains("Without a network: fetch config.json"), "{said}");
    for name in ["../etc", "a/b/c", "a b", ""] {
        assert!(hub::about(&nobody, name, "main").unwrap_err().to_string().contains("owner/name"), "{name}");
    }
}

#[test]
fn a_download_that_is_ended_leaves_nothing() {
    let (hub, home) = (serve(false), tempfile::tempdir().unwrap());
    let about = hub::about(&hub, "tiny/vit", "main").unwrap();
    let ended = hub::fetch(&hub, &about, home.path(), &mut |done| {
        if done > 2000 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(ended.unwrap_err().to_string().contains("nothing of it is kept"));
    assert!(inside(home.path()).is_empty());
}

#[test]
fn the_window_asks_waits_for_a_yes_and_gets_a_folder() {
    let (hub, home) = (serve(false), tempfile::tempdir().unwrap());
    let mut download = Download::new(hub, Arc::new(|| ()));
    let until = |download: &mut Download, what: &dyn Fn(&State) -> bool| {
        let start = Instant::now();
        loop {
            if let Some(ended) = download.poll() {
                return Some(ended);
            }
            if what(&download.state) {
                return None;
            }
            assert!(start.elapsed() < Duration::from_secs(30), "{:?}", download.state);
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    download.ask("tiny/vit".into(), "main".into()).unwrap();
    assert_eq!(download.state, State::Asking("tiny/vit".into()));
    assert!(until(&mut download, &|state| matches!(state, State::Known(_))).is_none());
    assert!(inside(home.path()).is_empty(), "nothing is fetched before the yes");
    download.fetch(home.path()).unwrap();
    let folder = until(&mut download, &|_| false).unwrap().unwrap();
    assert_eq!(inside(&folder), ["config.json", "model.safetensors", "source.json"]);
    assert_eq!(download.state, State::Idle);
}
