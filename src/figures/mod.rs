//! Figures for a paper: curves, comparison, Pareto front, each as SVG, PNG and CSV side by side. Called by the workbench and the
//! command line; reads runs from the board. Knows no tensors and no window.

mod draw;

use std::path::{Path, PathBuf};
use std::sync::Once;

use anyhow::{Context, Result, anyhow, bail};
use plotters::backend::{BitMapBackend, SVGBackend};
use plotters::drawing::IntoDrawingArea;
use plotters::style::{FontStyle, register_font};

use crate::board::Run;
use crate::compare::{self, Group};
use crate::session::file::write_whole;

/// What can be drawn: name, title, and what it shows.
pub const KINDS: [(&str, &str, &str); 3] = [
    ("curves", "Curves", "Training loss and test accuracy over the steps of each run."),
    ("comparison", "Comparison", "Accuracy of each stack with the spread over seeds, and its trainable parameters beside."),
    ("pareto", "Pareto", "Accuracy against trainable parameters; the line joins the stacks that no other beats in both."),
];

/// The names of `KINDS`.
pub fn names() -> [&'static str; 3] {
    KINDS.map(|(name, _, _)| name)
}

/// Headings of the numbers beside a figure.
const CURVES: &str = "run,title,seed,step,epoch,train_loss,train_accuracy,test_loss,test_accuracy";
const ENTRIES: &str = "title,stack,run,seed,accuracy,mean,sd,n,trainable,head,on_front,peak_bytes,evaluation_peak_bytes,step_ms";

/// Width and height in points; the PNG has twice as many pixels each way.
const SIZE: (u32, u32) = (900, 480);
const PNG_SCALE: u32 = 2;

/// A stack with its numbers, ready to draw: runs that differ in the seed alone are one.
struct Entry<'a> {
    group: Group<'a>,
    label: String,
    /// Head included, so that a linear probe has its place on a logarithmic axis.
    trainable: usize,
    on_front: bool,
}

/// Draws `kind` of `runs` to `path` (its ending is set for each file): SVG, PNG and CSV. Each file is written whole. An older
/// figure of that name is written over; a table or a picture of somebody else's is not.
///
/// # Errors
/// When there is nothing to draw, for an unknown kind, and when a file cannot be written.
pub fn write(kind: &str, runs: &[&Run], path: &Path) -> Result<Vec<PathBuf>> {
    if !names().contains(&kind) {
        bail!("unknown figure `{kind}`; one of: {}", names().join(", "));
    }
    ours(path)?;
    font()?;
    let entries = entries(runs);
    let with_steps: Vec<&Run> = runs.iter().copied().filter(|r| !r.steps.is_empty() || !r.evaluations.is_empty()).collect();
    if (kind == "curves" && with_steps.is_empty()) || (kind != "curves" && entries.is_empty()) {
        bail!("there is nothing to draw yet: none of the shown runs has numbers. Train one, or show one");
    }
    let height = match kind {
        // A row for each bar, a line for each curve's name.
        "comparison" => (130 + 34 * entries.len() as u32).max(220),
        "curves" => SIZE.1 + 18 * (with_steps.len() as u32).div_ceil(2),
        _ => SIZE.1,
    };
    let size = (SIZE.0, height);

    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        draw_on(kind, &area, &with_steps, &entries, 1)?;
    }
    let (width, height) = (size.0 * PNG_SCALE, size.1 * PNG_SCALE);
    let mut pixels = vec![255; (width * height * 3) as usize];
    {
        let area = BitMapBackend::with_buffer(&mut pixels, (width, height)).into_drawing_area();
        draw_on(kind, &area, &with_steps, &entries, PNG_SCALE)?;
    }
    let mut png = Vec::new();
    let encoder = image::codecs::png::PngEncoder::new(&mut png);
    image::ImageEncoder::write_image(encoder, &pixels, width, height, image::ExtendedColorType::Rgb8)
        .context("cannot encode the figure as PNG")?;
    let csv = if kind == "curves" { curves_csv(&with_steps) } else { entries_csv(&entries) };

    let mut written = Vec::new();
    for (ending, bytes) in [("svg", svg.as_bytes()), ("png", &png), ("csv", csv.as_bytes())] {
        let path = with_ending(path, ending);
        write_whole(&path, bytes)?;
        written.push(path);
    }
    Ok(written)
}

/// Whoever chose `name.svg` was asked about that file alone. The PNG and the CSV beside it are written over only where all three
/// are an older figure: its numbers begin with one of our headings.
fn ours(path: &Path) -> Result<()> {
    let there = ["png", "csv"].map(|ending| with_ending(path, ending)).into_iter().find(|path| path.exists());
    let Some(there) = there else { return Ok(()) };
    let numbers = std::fs::read(with_ending(path, "csv")).unwrap_or_default();
    let figure =
        with_ending(path, "svg").exists() && [CURVES, ENTRIES].iter().any(|heading| numbers.starts_with(heading.as_bytes()));
    anyhow::ensure!(
        figure,
        "{} is there already, and a figure of this name would write over it. Choose another name, or move the file away",
        there.display()
    );
    Ok(())
}

fn draw_on<B: plotters::backend::DrawingBackend>(
    kind: &str,
    area: &draw::Area<B>,
    runs: &[&Run],
    entries: &[Entry],
    scale: u32,
) -> Result<()> {
    let drawn = match kind {
        "curves" => draw::curves(area, runs, scale),
        "comparison" => draw::comparison(area, entries, scale),
        _ => draw::pareto(area, entries, scale),
    };
    drawn.and_then(|()| area.present()).map_err(|e| anyhow!("the figure could not be drawn: {e}"))
}

/// `fig`, `fig.svg` and `fig.png` all mean the same three files; other dots belong to the name.
fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let known = path
        .extension()
        .is_some_and(|e| e.eq_ignore_ascii_case("svg") || e.eq_ignore_ascii_case("png") || e.eq_ignore_ascii_case("csv"));
    if known {
        return path.with_extension(ending);
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{ending}"));
    PathBuf::from(name)
}

/// The embedded font, so that figures look alike on every machine and need none installed.
fn font() -> Result<()> {
    static ONCE: Once = Once::new();
    static BYTES: &[u8] = include_bytes!("../../assets/fonts/Inter-Regular.otf");
    let mut fault = false;
    ONCE.call_once(|| fault = register_font("sans-serif", FontStyle::Normal, BYTES).is_err());
    match fault {
        true => bail!("the font inside this program cannot be read. Build it again from a whole checkout"),
        false => Ok(()),
    }
}

fn entries<'a>(runs: &[&'a Run]) -> Vec<Entry<'a>> {
    let mut entries: Vec<Entry> = (compare::groups(runs).into_iter())
        .map(|group| {
            let started = group.runs.first().and_then(|run| run.started.as_ref());
            let trainable = started.map_or(0, |s| s.trainable + s.head);
            let mark = if group.finished { String::new() } else { format!(" ({})", group.runs[0].status.words()) };
            Entry { label: group.title() + &mark, trainable, on_front: false, group }
        })
        .collect();
    // On the front: no other that finished has at most as many parameters and at least the accuracy, with one of the two strictly so.
    let beaten = |e: &Entry| {
        let (n, a) = (e.trainable, e.group.mean);
        entries.iter().any(|o| o.group.finished && o.trainable <= n && o.group.mean >= a && (o.trainable < n || o.group.mean > a))
    };
    let front: Vec<bool> = entries.iter().map(|e| e.group.finished && !beaten(e)).collect();
    entries.iter_mut().zip(front).for_each(|(entry, on_front)| entry.on_front = on_front);
    entries
}

/// A cell of a CSV file, quoted where it must be.
fn cell(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}

fn curves_csv(runs: &[&Run]) -> String {
    let mut csv = format!("{CURVES}\n");
    for run in runs {
        let seed = run.session.as_ref().map_or(String::new(), |s| s.seed.to_string());
        let head = format!("{},{},{seed}", cell(&run.id), cell(&run.title()));
        for s in &run.steps {
            csv += &format!("{head},{},{},{},{},,\n", s.step, s.epoch, s.loss, s.accuracy);
        }
        for e in &run.evaluations {
            csv += &format!("{head},{},{},,,{},{}\n", e.step, e.epoch, e.loss, e.accuracy);
        }
    }
    csv
}

fn entries_csv(entries: &[Entry]) -> String {
    let mut csv = format!("{ENTRIES}\n");
    for entry in entries {
        let group = &entry.group;
        let sd = group.deviation.map_or(String::new(), |sd| sd.to_string());
        for run in &group.runs {
            let seed = run.session.as_ref().map_or(String::new(), |s| s.seed.to_string());
            let (trainable, head) = run.started.as_ref().map_or((0, 0), |s| (s.trainable, s.head));
            let accuracy = run.accuracy().map_or(String::new(), |a| a.to_string());
            csv += &format!(
                "{},{},{},{seed},{accuracy},{},{sd},{},{trainable},{head},{},{},{},{}\n",
                cell(&entry.label),
                cell(&run.stack()),
                cell(&run.id),
                group.mean,
                group.n,
                entry.on_front,
                run.peak_bytes(),
                run.evaluation_peak_bytes(),
                run.step_ms()
            );
        }
    }
    csv
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Evaluated, Event, Finished, Started, Step};
    use crate::session::file;

    fn run(preset: &str, seed: u64, trainable: usize, accuracy: f64) -> Run {
        let mut session = file::find(preset).unwrap();
        session.seed = seed;
        let id = format!("{preset}-{seed}");
        let mut run = Run::new(&id, Path::new("/nowhere"), Some(session.clone()));
        let (title, stack, device) = (session.title, preset.to_owned(), "CPU".to_owned());
        let started = Started {
            run: id.clone(),
            title,
            stack,
            device,
            steps: 100,
            trainable,
            head: 970,
            predicted_bytes: 0,
            notes: vec![],
            predicted_activations: 0,
        };
        run.fold(&Event::Started(started));
        for step in (4..=160).step_by(4) {
            let x = step as f64 / 40.0 + seed as f64 / 9.0;
            run.fold(&Event::Step(Step {
                step,
                epoch: 1 + step / 40,
                loss: 2.3 * (-x).exp() + 0.1 + 0.05 * (x * 9.0).sin(),
                accuracy,
                ..Step::default()
            }));
            if step % 40 == 0 {
                run.fold(&Event::Evaluated(Evaluated {
                    step,
                    epoch: step / 40,
                    accuracy: accuracy * (1.0 - (-x).exp() * 0.4),
                    ..Evaluated::default()
                }));
            }
        }
        run.fold(&Event::Finished(Finished { accuracy, steps: 160, ..Finished::default() }));
        run
    }

    #[test]
    fn every_kind_is_written_in_three_forms() {
        let runs = [
            run("digits-lora", 1, 18_432, 0.923),
            run("digits-lora", 2, 18_432, 0.914),
            run("digits-lora", 3, 18_432, 0.931),
            run("digits-probe", 1, 0, 0.712),
            run("digits-full", 1, 690_000, 0.941),
            run("bitfit", 1, 7_000, 0.88),
            run("ia3", 1, 3_500, 0.89),
        ];
        let refs: Vec<&Run> = runs.iter().collect();
        let folder = std::env::var_os("PETL_FIGURES").map_or_else(|| tempfile::tempdir().unwrap().keep(), PathBuf::from);
        for kind in names() {
            let written = write(kind, &refs, &folder.join(format!("{kind}.svg"))).unwrap();
            assert_eq!(written.len(), 3);
            let svg = std::fs::read_to_string(&written[0]).unwrap();
            assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>") && svg.contains("Digits, LoRA"));
            let png = image::open(&written[1]).unwrap();
            assert_eq!(png.width(), 1800);
            let csv = std::fs::read_to_string(&written[2]).unwrap();
            let columns = csv.lines().next().unwrap().split(',').count();
            assert!(csv.lines().count() > 6 && csv.contains("\"Digits, LoRA\""));
            assert!(columns > 8);
        }
        if std::env::var_os("PETL_FIGURES").is_none() {
            std::fs::remove_dir_all(folder).unwrap();
        }
    }

    #[test]
    fn a_figure_is_written_over_an_older_one_and_over_nothing_else() {
        let runs = [run("digits-lora", 1, 18_432, 0.923)];
        let refs: Vec<&Run> = runs.iter().collect();
        let folder = tempfile::tempdir().unwrap();
        for (ending, kind) in [("csv", "curves"), ("png", "comparison")] {
            let mine = folder.path().join(format!("{ending}.{ending}"));
            std::fs::write(&mine, "mine").unwrap();
            let svg = mine.with_extension("svg");
            let words = write(kind, &refs, &svg).unwrap_err().to_string();
            assert!(words.contains(mine.to_str().unwrap()) && words.contains("Choose another name"), "{words}");
            std::fs::write(&svg, "<svg>mine</svg>").unwrap(); // chosen in the dialog, which asked about it; not about the other
            assert!(write(kind, &refs, &svg).is_err());
            assert_eq!(std::fs::read_to_string(&mine).unwrap(), "mine");
        }
        let again = folder.path().join("again.svg");
        for kind in ["curves", "pareto", "curves"] {
            assert_eq!(write(kind, &refs, &again).unwrap().len(), 3);
        }
    }

    #[test]
    fn nothing_to_draw_is_said() {
        let words = write("pareto", &[], Path::new("/tmp/none.svg")).unwrap_err().to_string();
        assert!(words.contains("nothing to draw"), "{words}");
        assert!(write("pie", &[], Path::new("x")).unwrap_err().to_string().contains("one of: curves"));
    }

    #[test]
    fn endings_are_set_and_other_dots_kept() {
        assert_eq!(with_ending(Path::new("a/fig.svg"), "png"), Path::new("a/fig.png"));
        assert_eq!(with_ending(Path::new("fig.v2"), "svg"), Path::new("fig.v2.svg"));
    }
}
