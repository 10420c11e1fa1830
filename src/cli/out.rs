//! Writing to the terminal: whole lines to standard output, words of failure to standard error, aligned tables, numbers as
//! people read them. Called by the command line only.

use std::io::{ErrorKind, Write};

use serde::Serialize;

use super::{Answer, Fault};

/// One line on standard output. A reader that has left ends the command without noise.
pub fn say(text: &str) -> Answer {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Fault::Unread),
        Err(error) => Err(Fault::Failed(anyhow::anyhow!("cannot write to standard output: {error}. Is the disk full?"))),
    }
}

/// One JSON value on one line.
pub fn json_line(value: &impl Serialize) -> Answer {
    say(&text(value, false)?)
}

/// One JSON value over several lines.
pub fn json(value: &impl Serialize) -> Answer {
    say(&text(value, true)?)
}

fn text(value: &impl Serialize, pretty: bool) -> Answer<String> {
    let text = if pretty { serde_json::to_string_pretty(value) } else { serde_json::to_string(value) };
    text.map_err(|e| Fault::Failed(anyhow::anyhow!("cannot write JSON: {e}")))
}

/// Words on standard error.
pub fn complain(words: &str) {
    note(&format!("petl: {words}"));
}

/// A line on standard error; nobody may be reading, and that is no failure.
pub fn note(words: &str) {
    let _ = writeln!(std::io::stderr(), "{words}");
}

/// Replaces the last line on a terminal.
pub fn progress(words: &str) {
    let mut err = std::io::stderr();
    let _ = write!(err, "\r\x1b[K{words}").and_then(|()| err.flush());
}

/// 18432 as "18,432".
pub fn count(n: usize) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Bytes in the unit that leaves one to four digits.
pub fn bytes(n: usize) -> String {
    match n {
        0..10_240 => format!("{n} B"),
        10_240..1_048_576 => format!("{:.1} KiB", n as f64 / 1024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", n as f64 / 1_048_576.0),
        _ => format!("{:.2} GiB", n as f64 / 1_073_741_824.0),
    }
}

/// 1.9e8 as "190 M".
pub fn large(n: f64) -> String {
    match n {
        n if n >= 1e12 => format!("{:.2} T", n / 1e12),
        n if n >= 1e9 => format!("{:.2} G", n / 1e9),
        n if n >= 1e6 => format!("{:.1} M", n / 1e6),
        n => format!("{n:.0}"),
    }
}

/// Rows under a heading, columns in line; columns named in `right` stand to the right.
pub fn table(heading: &[&str], rows: &[Vec<String>], right: &[usize]) -> String {
    let wide = |n: usize| {
        rows.iter().filter_map(|r| r.get(n)).map(|c| c.chars().count()).chain([heading[n].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heading.len()).map(wide).collect();
    let line = |cells: &[String]| {
        let cell = |(n, text): (usize, &String)| {
            let gap = " ".repeat(widths[n].saturating_sub(text.chars().count()));
            if right.contains(&n) { format!("{gap}{text}") } else { format!("{text}{gap}") }
        };
        cells.iter().enumerate().map(cell).collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let heading: Vec<String> = heading.iter().map(|h| (*h).to_owned()).collect();
    let rule: Vec<String> = widths.iter().map(|w| "-".repeat(*w)).collect();
    let mut lines = vec![line(&heading), line(&rule)];
    lines.extend(rows.iter().map(|row| line(row)));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_people_read_them() {
        assert_eq!(count(7), "7");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(bytes(2_621_440), "2.5 MiB");
        assert_eq!(large(1.94e9), "1.94 G");
    }

    #[test]
    fn columns_stand_in_line() {
        let text = table(&["run", "n"], &[vec!["a".into(), "10".into()], vec!["long".into(), "1".into()]], &[1]);
        assert_eq!(text, "run    n\n----  --\na     10\nlong   1");
    }
}
