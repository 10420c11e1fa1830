//! From sounds to log-mel spectrograms, as Whisper and AST take them: short pieces, their power by frequency, gathered in bands of the
//! mel scale. Called by the backbones that hear, and where sounds are shown. Numbers only: knows no files and no networks.

use std::sync::Arc;

use anyhow::{Result, anyhow};
use rayon::prelude::*;
use realfft::{RealFftPlanner, RealToComplex};

use super::{Samples, Spectrogram};
use crate::plan::anatomy::Front;

const HOP: usize = Front::HOP;
const WINDOW: usize = Front::WINDOW;
/// Half the rate, in hertz.
const HIGHEST: f64 = Front::RATE as f64 / 2.0;
/// Kaldi's lowest band begins here, in hertz.
const LOWEST: f64 = 20.0;
/// What of the number before is taken off each.
const PREEMPHASIS: f64 = 0.97;
/// The least power whose logarithm is taken.
const WHISPERED: f64 = 1e-10;
const FLOOR: f64 = f32::EPSILON as f64;

/// One front end, ready for any number of sounds.
pub struct LogMel {
    front: Front,
    frames: usize,
    window: Vec<f64>,
    fft: Arc<dyn RealToComplex<f64>>,
    /// By band: the first of the transform's frequencies in it, and the weights from there on.
    bands: Vec<(usize, Vec<f64>)>,
}

impl LogMel {
    /// For spectrograms of `bins` by `frames`.
    pub fn new(front: Front, bins: usize, frames: usize) -> LogMel {
        // A Hann window: of Whisper's the last number is the first of the next period, Kaldi's is the same from both ends.
        let period = match front {
            Front::Whisper => WINDOW,
            Front::Kaldi { .. } => WINDOW - 1,
        } as f64;
        let window = (0..WINDOW).map(|n| 0.5 - 0.5 * (std::f64::consts::TAU * n as f64 / period).cos()).collect();
        let length = match front {
            Front::Whisper => WINDOW,
            Front::Kaldi { .. } => WINDOW.next_power_of_two(),
        };
        let fft = RealFftPlanner::<f64>::new().plan_fft_forward(length);
        LogMel { front, frames, window, fft, bands: bands(front, bins, length) }
    }

    /// The spectrogram of a mono sound at 16 kHz, of which as much as the network hears is taken.
    ///
    /// # Errors
    /// When the transform fails.
    pub fn of(&self, sound: &[f32]) -> Result<Spectrogram> {
        let heard = &sound[..sound.len().min(self.front.samples(self.frames))];
        match self.front {
            Front::Whisper => self.whisper(heard),
            Front::Kaldi { mean, deviation } => self.kaldi(heard, f64::from(mean), f64::from(deviation)),
        }
    }

    /// Frames stand around every 160th number; before the first and behind the last the sound is mirrored. Silence fills it up.
    fn whisper(&self, sound: &[f32]) -> Result<Spectrogram> {
        let length = (self.frames * HOP) as i64;
        let at = |n: i64| {
            let mut n = n;
            while n < 0 || n >= length {
                n = if n < 0 { -n } else { 2 * (length - 1) - n };
            }
            sound.get(n as usize).copied().map_or(0.0, f64::from)
        };
        // What begins behind the end of the sound is silence.
        let own = (sound.len() + WINDOW / 2).div_ceil(HOP).min(self.frames);
        let mut bands = self.bands_of(own, |frame| {
            let first = (frame * HOP) as i64 - (WINDOW / 2) as i64;
            (0..WINDOW as i64).map(|n| at(first + n)).collect()
        })?; // [bins, frames]
        bands.iter_mut().for_each(|v| *v = v.max(WHISPERED).log10());
        let loudest = bands.iter().copied().fold(WHISPERED.log10(), f64::max);
        let made = |v: f64| ((v.max(loudest - 8.0) + 4.0) / 4.0) as f32;
        Ok(Spectrogram { bins: self.bands.len(), rest: made(WHISPERED.log10()), values: bands.into_iter().map(made).collect() })
    }

    /// Whole frames only, each without its mean and with its high tones raised. A sound that is shorter than one is filled up to one.
    fn kaldi(&self, sound: &[f32], mean: f64, deviation: f64) -> Result<Spectrogram> {
        let own = (sound.len().saturating_sub(WINDOW) / HOP + 1).min(self.frames);
        let mut bands = self.bands_of(own, |frame| {
            let piece = |n: usize| sound.get(frame * HOP + n).copied().map_or(0.0, f64::from);
            let level = (0..WINDOW).map(piece).sum::<f64>() / WINDOW as f64;
            let before = |n: usize| piece(n.saturating_sub(1)) - level; // the first stands before itself
            (0..WINDOW).map(|n| piece(n) - level - PREEMPHASIS * before(n)).collect()
        })?; // [bins, frames]
        let made = |v: f64| ((v - mean) / (2.0 * deviation)) as f32;
        bands.iter_mut().for_each(|v| *v = v.max(FLOOR).ln());
        Ok(Spectrogram { bins: self.bands.len(), rest: made(0.0), values: bands.into_iter().map(made).collect() })
    }

    /// The power of each band in each frame, `[bins, frames]`; `piece` gives the numbers of a frame.
    fn bands_of(&self, frames: usize, piece: impl Fn(usize) -> Vec<f64>) -> Result<Vec<f64>> {
        let (mut input, mut output, mut scratch) =
            (self.fft.make_input_vec(), self.fft.make_output_vec(), self.fft.make_scratch_vec());
        let mut bands = vec![0.0; self.bands.len() * frames];
        for frame in 0..frames {
            input.fill(0.0); // the transform leaves something in it
            input.iter_mut().zip(piece(frame)).zip(&self.window).for_each(|((to, v), w)| *to = v * w);
            self.fft
                .process_with_scratch(&mut input, &mut output, &mut scratch)
                .map_err(|fault| anyhow!("the Fourier transform of a sound failed ({fault})"))?;
            let power: Vec<f64> = output.iter().map(|v| v.norm_sqr()).collect();
            for (band, (first, weights)) in self.bands.iter().enumerate() {
                bands[band * frames + frame] = weights.iter().zip(&power[*first..]).map(|(w, p)| w * p).sum();
            }
        }
        Ok(bands)
    }
}

/// Makes spectrograms of the sounds of `samples`; the sounds go.
///
/// # Errors
/// As `LogMel::of`.
pub fn prepare(samples: &mut Samples, front: Front, bins: usize, frames: usize) -> Result<()> {
    let mel = LogMel::new(front, bins, frames);
    let sounds = std::mem::take(&mut samples.sounds);
    samples.spectrograms.extend(sounds.into_par_iter().map(|sound| mel.of(&sound)).collect::<Result<Vec<_>>>()?);
    Ok(())
}

/// Triangles over the frequencies of a transform of `length`, evenly spaced on the mel scale: each rises from the middle of the one
/// before to its own and falls to that of the next. Slaney's (1998) for Whisper, straight in hertz and of one area each; Kaldi's for
/// AST, straight in mel and of one height.
fn bands(front: Front, bins: usize, length: usize) -> Vec<(usize, Vec<f64>)> {
    let (to_mel, lowest): (fn(f64) -> f64, f64) = match front {
        Front::Whisper => (slaney, 0.0),
        Front::Kaldi { .. } => (kaldi, LOWEST),
    };
    let (low, high) = (to_mel(lowest), to_mel(HIGHEST));
    let edge = |n: usize| low + (high - low) * n as f64 / (bins + 1) as f64;
    let weight = |band: usize, hertz: f64| match front {
        Front::Whisper => {
            let [left, middle, right] = [0, 1, 2].map(|n| of_slaney(edge(band + n)));
            let height = ((hertz - left) / (middle - left)).min((right - hertz) / (right - middle));
            height.max(0.0) * 2.0 / (right - left)
        }
        Front::Kaldi { .. } => {
            let ([left, middle, right], mel) = ([0, 1, 2].map(|n| edge(band + n)), kaldi(hertz));
            ((mel - left) / (middle - left)).min((right - mel) / (right - middle)).max(0.0)
        }
    };
    let of_band = |band: usize| {
        let all = (0..=length / 2).map(|n| weight(band, n as f64 * Front::RATE as f64 / length as f64));
        let mut weights: Vec<f64> = all.collect();
        weights.truncate(weights.iter().rposition(|w| *w > 0.0).map_or(0, |last| last + 1));
        let first = weights.iter().position(|w| *w > 0.0).unwrap_or(0);
        (first, weights.split_off(first))
    };
    (0..bins).map(of_band).collect()
}

/// Slaney's scale: straight up to 1 kHz, logarithmic above, 27 steps for a factor of 6.4.
fn slaney(hertz: f64) -> f64 {
    if hertz < 1000.0 { hertz * 3.0 / 200.0 } else { 15.0 + (hertz / 1000.0).ln() * 27.0 / 6.4_f64.ln() }
}

fn of_slaney(mel: f64) -> f64 {
    if mel < 15.0 { mel * 200.0 / 3.0 } else { 1000.0 * ((mel - 15.0) * 6.4_f64.ln() / 27.0).exp() }
}

fn kaldi(hertz: f64) -> f64 {
    1127.0 * (1.0 + hertz / 700.0).ln()
}
