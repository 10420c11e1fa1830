//! Contact sheets: the shape in which pictures are embedded, one PNG of tiles and a CSV that names each tile.
//! Called by the data sets `digits` and `emoji`; written by `examples/pack_data.rs`.
//! Must not know settings or which pictures they are: the data set hands over the bytes and its names.

use anyhow::{Context, Result, anyhow, ensure};

use super::Samples;

/// Side of the pictures that come out, pixels.
pub const SIDE: usize = 32;

/// An embedded sheet and how to read it.
pub struct Sheet<'a> {
    /// Where the sheet is kept, for the error texts.
    pub place: &'a str,
    pub png: &'a [u8],
    /// One line a tile, row by row, under a header; the first two columns are class and domain.
    pub csv: &'a str,
    /// The header the CSV must have.
    pub columns: &'a str,
    /// Side of a tile; smaller ones get a black frame.
    pub side_in: usize,
    pub classes: &'a [&'a str],
    pub domains: &'a [&'a str],
}

const REMEDY: &str = "make the sheets again with `cargo run --release --example pack_data`";

/// Reads the tiles whose CSV cells `keep` accepts.
pub fn open(sheet: &Sheet, keep: impl Fn(&[&str]) -> bool) -> Result<Samples> {
    let Sheet { place, side_in: side, columns, .. } = *sheet;
    ensure!(
        (1..=SIDE).contains(&side) && (SIDE - side).is_multiple_of(2),
        "{place}: tiles of {side} pixels do not fit evenly into {SIDE}; use an even side up to {SIDE}"
    );
    let picture = image::load_from_memory_with_format(sheet.png, image::ImageFormat::Png)
        .with_context(|| format!("{place}: the sheet is no readable PNG; {REMEDY}"))?
        .to_rgb8();
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    ensure!(
        width > 0 && height > 0 && width.is_multiple_of(side) && height.is_multiple_of(side),
        "{place}: {width} x {height} pixels are no grid of {side} x {side} tiles; {REMEDY}"
    );
    let across = width / side;
    let tiles = across * (height / side);

    let mut lines = sheet.csv.lines();
    let header = lines.next().unwrap_or_default();
    ensure!(header == columns, "{place}: the CSV begins with `{header}`, expected `{columns}`; {REMEDY}");
    let rows: Vec<Vec<&str>> = lines.map(|line| line.split(',').collect()).collect();
    ensure!(
        rows.len() <= tiles && tiles - rows.len() < across,
        "{place}: {} lines of labels for {tiles} tiles; {REMEDY}",
        rows.len()
    );

    let mut samples = Samples { side: SIDE, ..Samples::default() };
    let width_out = columns.split(',').count();
    for (n, cells) in rows.iter().enumerate() {
        // The header is line 1.
        let line = n + 2;
        ensure!(
            cells.len() == width_out && width_out >= 2,
            "{place}: CSV line {line} has {} cells, expected {width_out} (`{columns}`); {REMEDY}",
            cells.len()
        );
        let find = |what: &str, names: &[&str], name: &str| {
            names.iter().position(|known| *known == name).ok_or_else(|| {
                anyhow!("{place}: CSV line {line}: unknown {what} `{name}`; one of {}; {REMEDY}", names.join(", "))
            })
        };
        let label = u32::try_from(find("class", sheet.classes, cells[0])?)?;
        let domain = u16::try_from(find("domain", sheet.domains, cells[1])?)?;
        if keep(cells) {
            samples.push(&tile(picture.as_raw(), width, side, n % across, n / across), label, domain);
        }
    }
    Ok(samples)
}

/// One tile as `[32, 32, 3]`, in the middle of a black frame where it is smaller.
fn tile(sheet: &[u8], width: usize, side: usize, column: usize, row: usize) -> Vec<u8> {
    let mut out = vec![0; SIDE * SIDE * 3];
    let frame = (SIDE - side) / 2;
    for y in 0..side {
        let from = ((row * side + y) * width + column * side) * 3;
        let to = ((y + frame) * SIDE + frame) * 3;
        out[to..to + side * 3].copy_from_slice(&sheet[from..from + side * 3]);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three 4 x 4 tiles and an empty one, each of one grey.
    fn png() -> Vec<u8> {
        let picture = image::GrayImage::from_fn(8, 8, |x, y| image::Luma([((x / 4 + 2 * (y / 4)) * 50 + 10) as u8]));
        let mut bytes = std::io::Cursor::new(Vec::new());
        picture.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
        bytes.into_inner()
    }

    fn read(png: &[u8], csv: &str, side_in: usize) -> Result<Samples> {
        let sheet =
            Sheet { place: "here", png, csv, columns: "label,domain", side_in, classes: &["cat", "dog"], domains: &["one"] };
        open(&sheet, |_| true)
    }

    #[test]
    fn tiles_come_out_in_order_inside_a_black_frame() {
        let samples = read(&png(), "label,domain\ndog,one\ncat,one\ndog,one\n", 4).unwrap();
        assert_eq!(samples.labels, [1, 0, 1]);
        assert_eq!(samples.domains, [0, 0, 0]);
        assert_eq!(samples.image(2).unwrap().len(), SIDE * SIDE * 3);
        assert_eq!(samples.image(2).unwrap()[(14 * SIDE + 14) * 3], 110);
        assert_eq!(samples.image(2).unwrap()[(13 * SIDE + 14) * 3], 0);
        assert_eq!(samples.image(2).unwrap()[(17 * SIDE + 18) * 3], 0);
    }

    #[test]
    fn a_wrong_sheet_says_what_is_wrong() {
        let good = "label,domain\ndog,one\ncat,one\ndog,one\n";
        let says = |png: &[u8], csv: &str, side: usize| format!("{:#}", read(png, csv, side).unwrap_err());
        assert!(says(b"no", good, 4).contains("here: the sheet is no readable PNG"));
        // A picture that begins as one and cannot be decoded: cut off, or with a byte changed in the middle.
        let whole = png();
        for length in [8, whole.len() / 2, whole.len() - 20] {
            assert!(says(&whole[..length], good, 4).contains("here: the sheet is no readable PNG; make the sheets again"));
        }
        let mut changed = whole.clone();
        changed[whole.len() / 2] ^= 0xff;
        assert!(says(&changed, good, 4).contains("no readable PNG"));
        assert!(says(&png(), good, 6).contains("8 x 8 pixels are no grid of 6 x 6 tiles"));
        assert!(says(&png(), good, 33).contains("do not fit evenly"));
        assert!(says(&png(), "label\ndog\n", 4).contains("begins with `label`, expected `label,domain`"));
        assert!(says(&png(), "label,domain\ndog,one\n", 4).contains("1 lines of labels for 4 tiles"));
        assert!(
            says(&png(), "label,domain\ndog,one\ncow,one\ndog,one\n", 4).contains("line 3: unknown class `cow`; one of cat, dog")
        );
        assert!(says(&png(), "label,domain\ndog,two\ncat,one\ndog,one\n", 4).contains("unknown domain `two`"));
        assert!(says(&png(), "label,domain\ndog\ncat,one\ndog,one\n", 4).contains("line 2 has 1 cells, expected 2"));
    }
}
