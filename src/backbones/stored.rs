//! How other programs store one of our matrices: turned over, in thirds, as a convolution's kernel. Called by the readers of files and by
//! the exports; knows neither.

/// How one of our matrices is stored under another program's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// `[out, in]`: ours, `[in, out]`, turned over.
    Turned,
    /// `[d]`: our single row.
    Vector,
    /// One number without dimensions.
    Number,
    /// `[1, positions, d]`, in our order.
    Positions,
    /// `[d, channels, patch, patch]`: turned over, then cut into channels, rows and columns.
    Patches,
    /// `[d, channels, 3]`: turned over, then cut into channels and what stands before, at and behind a place.
    Taps,
    /// `[patch, patch, 3, d]`.
    PatchesLast,
    /// In our order, in any number of dimensions.
    Flat,
    /// This third of the rows of `[3 out, in]` turned over, or of `[3 out]`.
    Third(usize),
    /// This third of the columns of `[in, 3 out]`.
    ThirdOfRow(usize),
    /// `[rows, cols]` as ours: a table of embeddings, or a linear layer that is not turned over.
    Table,
}

impl Stored {
    /// Whether a tensor of this shape holds our `[rows, cols]`.
    pub fn fits(self, shape: &[usize], (rows, cols): (usize, usize)) -> bool {
        match self {
            Stored::Turned => shape == [cols, rows],
            Stored::Vector => rows == 1 && shape == [cols],
            Stored::Number => shape.is_empty() && rows * cols == 1,
            Stored::Positions => shape.last() == Some(&cols) && shape.iter().product::<usize>() == rows * cols,
            Stored::Flat => shape.iter().product::<usize>() == rows * cols,
            Stored::PatchesLast => shape.len() == 4 && shape[2] == 3 && shape[3] == cols && shape[0] * shape[1] * 3 == rows,
            Stored::Patches => shape.len() == 4 && shape[0] == cols && shape[1..].iter().product::<usize>() == rows,
            Stored::Taps => shape == [cols, rows / 3, 3],
            Stored::Third(_) if rows == 1 && shape.len() == 1 => shape == [3 * cols],
            Stored::Third(_) => shape == [3 * cols, rows],
            Stored::ThirdOfRow(_) => shape == [rows, 3 * cols],
            Stored::Table => shape == [rows, cols],
        }
    }

    /// The values in our order, `[rows, cols]`.
    pub fn ours(self, values: Vec<f32>, rows: usize, cols: usize) -> Vec<f32> {
        match self {
            Stored::Vector | Stored::Number | Stored::Positions | Stored::Table | Stored::Flat => values,
            Stored::PatchesLast => {
                let places = rows / 3; // of a patch
                let row = |n: usize| &values[(n % places * 3 + n / places) * cols..][..cols];
                (0..rows).flat_map(row).copied().collect()
            }
            Stored::Turned | Stored::Patches | Stored::Taps => turned(&values, rows, cols),
            Stored::Third(n) if values.len() == 3 * cols => values[n * cols..(n + 1) * cols].to_vec(),
            Stored::ThirdOfRow(n) => {
                values.chunks_exact(3 * cols).flat_map(|row| &row[n * cols..(n + 1) * cols]).copied().collect()
            }
            Stored::Third(n) => turned(&values[n * rows * cols..(n + 1) * rows * cols], rows, cols),
        }
    }
}

/// `[cols, rows]` to `[rows, cols]`, in squares that stay in the cache.
fn turned(from: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    const SIDE: usize = 32;
    let mut to = vec![0.0; rows * cols];
    for c0 in (0..cols).step_by(SIDE) {
        for r0 in (0..rows).step_by(SIDE) {
            for c in c0..cols.min(c0 + SIDE) {
                for r in r0..rows.min(r0 + SIDE) {
                    to[r * cols + c] = from[c * rows + r];
                }
            }
        }
    }
    to
}
