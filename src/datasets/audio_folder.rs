//! Sounds in folders: one subfolder a class, or `train` and `test` folders of such. Decoded in parallel, mixed to one channel, brought to
//! 16 kHz.
//! Called through the catalogue (`datasets::CATALOG`); which files there are says `class_folders`. Must not know methods, models or tensors.

use std::collections::BTreeMap;
use std::fs::File as Opened;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use rayon::prelude::*;
use rubato::audioadapter_buffers::owned::InterleavedOwned;
use rubato::{Fft, FixedSync, Resampler, WindowFunction};
use symphonia::core::codecs::audio::AudioDecoderOptions;
use symphonia::core::formats::probe::Hint;
use symphonia::core::formats::{FormatOptions, TrackType};
use symphonia::core::io::{MediaSourceStream, MediaSourceStreamOptions};
use symphonia::core::meta::MetadataOptions;

use super::class_folders::{self, File, Kind};
use super::{Card, Holds, Samples, splits};
use crate::plan::anatomy::Front;
use crate::session::settings::Field;

/// Rates that a file may have, in hertz.
const RATES: std::ops::RangeInclusive<u32> = 1_000..=768_000;
/// Numbers of a file that are resampled at once. The more, the nearer to half the rate everything is kept: within a hertz.
const AT_ONCE: usize = 1 << 15;
/// What is read beyond what is heard, in seconds: resampling looks ahead.
const MARGIN: f64 = 0.1;

pub const CARD: Card = Card {
    name: "audio-folder",
    title: "Audio folder",
    help: "Your own sounds (wav, flac, ogg): a folder with one subfolder for each class, whatever folders there are within it, or with the \
           folders train and test (or val) that have the same such subfolders. Channels are mixed to one and brought to 16 kHz; the \
           backbone makes spectrograms of them.",
    source: "The folder that you choose",
    licence: "That of your sounds",
    fields: &[
        Field::text(
            "folder",
            "",
            "The folder that has one subfolder of sounds for each class, or train and test folders of such.",
        ),
        class_folders::TEST,
        splits::PER_CLASS,
        Field::choice(
            "damaged",
            &["stop", "leave out"],
            "What to do when sound files cannot be read or hold nothing: stop and name them, or leave them out and say how many.",
        ),
    ],
    describe: |set| KIND.describe(set),
    load: |set, seed, wanted| KIND.load(set, seed, wanted, |files| read(files, wanted.heard)),
};

const KIND: Kind = Kind { word: "sound", holds: Holds::Sounds, endings: &["wav", "flac", "ogg"], deep: true };

/// Resamplers by the rate that they come from.
type Resamplers = BTreeMap<u32, Fft<f64>>;

/// The sounds, of each what is heard, and which of them cannot be read, and why.
fn read(files: &[File], heard: usize) -> (Samples, Vec<String>) {
    let open = |known: &mut Resamplers, file: &File| open(&file.path, heard, known);
    let sounds: Vec<_> = files.par_iter().map_init(Resamplers::new, open).collect();
    let (mut samples, mut damaged) = (Samples::default(), vec![]);
    for (file, sound) in files.iter().zip(sounds) {
        match sound {
            Ok(sound) => samples.push_sound(sound, file.label, 0),
            Err(fault) => damaged.push(format!("{} ({fault:#})", file.path.display())),
        }
    }
    (samples, damaged)
}

/// The first `heard` numbers of a file's sound at 16 kHz, of one channel.
fn open(path: &Path, heard: usize, known: &mut Resamplers) -> Result<Vec<f32>> {
    let (sound, rate) = decoded(path, heard)?;
    ensure!(!sound.is_empty(), "it holds no sound");
    ensure!(sound.iter().all(|v| v.is_finite()), "it holds numbers that are no sound");
    let mut sound = at_16_khz(sound, rate, known)?;
    sound.truncate(heard);
    Ok(sound)
}

/// What a file holds, the mean of its channels, at its own rate in hertz.
fn decoded(path: &Path, heard: usize) -> Result<(Vec<f32>, u32)> {
    let source = MediaSourceStream::new(Box::new(Opened::open(path)?), MediaSourceStreamOptions::default());
    let probe = symphonia::default::get_probe();
    let mut format = probe.probe(&Hint::new(), source, FormatOptions::default(), MetadataOptions::default())?;
    let track = format.default_track(TrackType::Audio).context("it has no track of sound")?;
    let params = track.codec_params.as_ref().and_then(|params| params.audio()).context("how it is coded is not known")?;
    let mut decoder = symphonia::default::get_codecs().make_audio_decoder(params, &AudioDecoderOptions::default())?;
    let (track, mut mono, mut found, mut packet_of) = (track.id, Vec::new(), None, Vec::<f32>::new());
    while let Some(packet) = format.next_packet()? {
        if packet.track_id != track {
            continue;
        }
        let part = decoder.decode(&packet)?;
        let (rate, channels) = (part.spec().rate(), part.spec().channels().count().max(1));
        ensure!(RATES.contains(&rate), "its rate is {rate} Hz; from {} to {} can be read", RATES.start(), RATES.end());
        if *found.get_or_insert(rate) != rate {
            bail!("its rate changes on the way");
        }
        part.copy_to_vec_interleaved(&mut packet_of);
        mono.extend(packet_of.chunks_exact(channels).map(|all| all.iter().sum::<f32>() / channels as f32));
        if mono.len() as f64 >= (heard as f64 / Front::RATE as f64 + MARGIN) * f64::from(rate) {
            break;
        }
    }
    Ok((mono, found.unwrap_or(Front::RATE as u32)))
}

/// Band-limited interpolation: what the file holds up to half the lower of the two rates stays as it is, the rest goes.
fn at_16_khz(sound: Vec<f32>, rate: u32, known: &mut Resamplers) -> Result<Vec<f32>> {
    if rate as usize == Front::RATE {
        return Ok(sound);
    }
    let frames = sound.len();
    let sound = InterleavedOwned::new_from(sound.into_iter().map(f64::from).collect(), 1, frames)?;
    let resampler = match known.entry(rate) {
        std::collections::btree_map::Entry::Occupied(there) => there.into_mut(),
        std::collections::btree_map::Entry::Vacant(place) => {
            // An even number of blocks, or the middle of the filter falls between two numbers and all is half a step late.
            let block = rate as usize / gcd(rate as usize, Front::RATE);
            let at_once = AT_ONCE.div_ceil(2 * block) * 2 * block;
            place.insert(Fft::new_custom(rate as usize, Front::RATE, at_once, 1, 1, WindowFunction::Hann, FixedSync::Input)?)
        }
    };
    let sound = resampler.process_all(&sound, frames, None)?;
    let length = (frames * Front::RATE).div_ceil(rate as usize);
    Ok(sound.take_data().into_iter().take(length).map(|v| v as f32).collect())
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}
