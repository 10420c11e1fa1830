//! Numbers in words: counts with thousands, bytes, shares, times.
//! Called by every panel.
//! Must not know sessions, colours or widgets.

/// `24,576`.
pub fn count(n: usize) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (k, digit) in digits.chars().enumerate() {
        if k > 0 && (digits.len() - k).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1.2 M`, `24.6 k`, `96`.
pub fn short(n: usize) -> String {
    match n as f64 {
        v if v >= 1e9 => format!("{:.2} G", v / 1e9),
        v if v >= 1e6 => format!("{:.2} M", v / 1e6),
        v if v >= 1e4 => format!("{:.1} k", v / 1e3),
        _ => count(n),
    }
}

/// Decimal units, as disks and drivers count.
pub fn bytes(n: usize) -> String {
    match n as f64 {
        v if v >= 1e9 => format!("{:.2} GB", v / 1e9),
        v if v >= 1e6 => format!("{:.1} MB", v / 1e6),
        v if v >= 1e3 => format!("{:.1} kB", v / 1e3),
        _ => format!("{n} B"),
    }
}

pub fn flops(v: f64) -> String {
    match v {
        v if v >= 1e12 => format!("{:.2} TFLOP", v / 1e12),
        v if v >= 1e9 => format!("{:.2} GFLOP", v / 1e9),
        v => format!("{:.1} MFLOP", v / 1e6),
    }
}

/// `part` of `whole`, in percent with three digits that count.
pub fn percent(part: usize, whole: usize) -> String {
    let share = 100.0 * part as f64 / whole.max(1) as f64;
    match share {
        s if s >= 100.0 => format!("{s:.0} %"),
        s if s >= 10.0 => format!("{s:.1} %"),
        s if s >= 0.1 || s == 0.0 => format!("{s:.2} %"),
        s => format!("{s:.3} %"),
    }
}

pub fn seconds(s: f64) -> String {
    let whole = s.max(0.0).round() as u64;
    match whole {
        0..=59 => format!("{whole} s"),
        60..=3599 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
    }
}

/// Milliseconds with three digits that count, at most: `4.1 ms`, `306 ms`, `3.17 s`.
pub fn step(ms: f64) -> String {
    match ms {
        ms if ms >= 1000.0 => format!("{:.2} s", ms / 1000.0),
        ms if ms >= 100.0 => format!("{ms:.0} ms"),
        ms => format!("{ms:.1} ms"),
    }
}

/// `label_smoothing` as `Label smoothing`.
pub fn sentence(name: &str) -> String {
    let spaced = name.replace('_', " ").replace("optimizer", "optimiser"); // the file's word, and this page's spelling
    let mut letters = spaced.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().collect::<String>() + letters.as_str())
}

/// `text`, cut to `longest` letters with an ellipsis.
pub fn cut(text: &str, longest: usize) -> String {
    if text.chars().count() <= longest {
        return text.to_owned();
    }
    text.chars().take(longest.saturating_sub(1)).chain(std::iter::once('…')).collect()
}

/// A setting's word as the field writes it; the session file keeps the plain one.
pub fn term(word: &str) -> &str {
    match word {
        "adamw" => "AdamW",
        "sgd" => "SGD",
        "mlp" => "MLP",
        "relu" => "ReLU",
        "gelu" => "GELU",
        "silu" => "SiLU",
        "alpha / r" => "α / r",
        "alpha / sqrt r" => "α / √r",
        other => other,
    }
}

/// The number at the end of a run's name: `digits-lora-003` as `#3`.
pub fn number(id: &str) -> String {
    match id.rsplit_once('-').and_then(|(_, n)| n.parse::<usize>().ok()) {
        Some(n) => format!("#{n}"),
        None => cut(id, 12),
    }
}

/// As few digits as say the number, to four that count.
pub fn shortest(v: f64) -> String {
    if v == 0.0 {
        return "0".into();
    }
    if v.abs() < 1e-3 || v.abs() >= 1e6 {
        let text = format!("{v:.3e}");
        return match text.split_once('e') {
            Some((digits, power)) => format!("{}e{power}", digits.trim_end_matches('0').trim_end_matches('.')),
            None => text,
        };
    }
    let decimals = (3 - v.abs().log10().floor() as i32).clamp(0, 6) as usize;
    let text = format!("{v:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// The end of `text`, which says more of a path than its beginning.
pub fn cut_front(text: &str, longest: usize) -> String {
    let count = text.chars().count();
    if count <= longest {
        return text.to_owned();
    }
    std::iter::once('…').chain(text.chars().skip(count + 1 - longest)).collect()
}
