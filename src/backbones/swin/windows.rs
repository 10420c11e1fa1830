//! How a square grid of positions is cut into windows, shifted, and merged by fours: lists of which position goes where, worked out
//! on the host. Called by the Swin transformer; knows no network.

use burn::tensor::{Int, Tensor, TensorData, activation};

/// What is added to the score of two positions that lie side by side only because the grid was shifted round: transformers' value.
const APART: f32 = -100.0;

/// The windows of one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// Side of the grid, and of the grid once whole windows fill it.
    pub grid: usize,
    pub side: usize,
    /// Side of a window.
    pub window: usize,
    /// How far the grid is shifted, up and to the left, before it is cut.
    pub shift: usize,
}

impl Windows {
    /// Windows of side `window` on a grid of side `grid`. A grid that is no larger is one window, and is not shifted.
    pub fn of(grid: usize, window: usize, shifted: bool) -> Windows {
        let (window, shift) = match grid <= window {
            true => (grid, 0),
            false => (window, if shifted { window / 2 } else { 0 }),
        };
        Windows { grid, side: grid.next_multiple_of(window), window, shift }
    }

    /// How many windows there are.
    pub fn count(&self) -> usize {
        (self.side / self.window).pow(2)
    }

    /// Positions in one.
    pub fn area(&self) -> usize {
        self.window * self.window
    }

    /// The grid's positions with empty ones at the right and below, so that whole windows fill it; and back without them.
    pub fn filled(&self) -> Vec<Option<usize>> {
        on_grid(self.side).map(|(y, x)| (y < self.grid && x < self.grid).then_some(y * self.grid + x)).collect()
    }

    pub fn cropped(&self) -> Vec<Option<usize>> {
        on_grid(self.grid).map(|(y, x)| Some(y * self.side + x)).collect()
    }

    /// The positions of the filled grid window by window, once it is shifted; and back.
    pub fn cut(&self) -> Vec<Option<usize>> {
        let from = |n: usize| (n + self.shift) % self.side;
        self.places().map(|(y, x)| Some(from(y) * self.side + from(x))).collect()
    }

    pub fn joined(&self) -> Vec<Option<usize>> {
        let mut back = vec![None; self.side * self.side];
        for (n, from) in self.cut().into_iter().flatten().enumerate() {
            back[from] = Some(n);
        }
        back
    }

    /// Row and column on the shifted grid, window by window.
    fn places(&self) -> impl Iterator<Item = (usize, usize)> {
        let (w, windows) = (self.window, self.side / self.window);
        let window = move |(down, right): (usize, usize)| on_grid(w).map(move |(y, x)| (down * w + y, right * w + x));
        on_grid(windows).flat_map(window)
    }

    /// For every two positions of a window the row of the table in which their distance stands, `area · area`. The table is that of
    /// windows of side `most`: a window that shrank to its grid has fewer distances, each at its own row.
    pub fn distances(&self, most: usize) -> Vec<i64> {
        let all = || on_grid(self.window);
        let row = |a: usize, b: usize| (a + most - 1 - b) as i64;
        let of = |(y, x): (usize, usize)| all().map(move |(v, u)| row(y, v) * (2 * most - 1) as i64 + row(x, u));
        all().flat_map(of).collect()
    }

    /// What is added to the scores of each window, `count · area · area`: positions do not see each other where the shift brought them
    /// together from two ends of the grid. None where nothing is shifted.
    pub fn apart(&self) -> Option<Vec<f32>> {
        if self.shift == 0 {
            return None;
        }
        let part = |n: usize| usize::from(n + self.window >= self.side) + usize::from(n + self.shift >= self.side);
        let parts: Vec<(usize, usize)> = self.places().map(|(y, x)| (part(y), part(x))).collect();
        let of = |window: &[(usize, usize)]| -> Vec<f32> {
            let score = |a, b| if a == b { 0.0 } else { APART };
            window.iter().flat_map(|a| window.iter().map(move |b| score(a, b))).collect()
        };
        Some(parts.chunks(self.area()).flat_map(of).collect())
    }

    /// Attention of every position to those of its window: q, k and v `[batch, count · area, width]` window by window, `table`
    /// `[distances, heads]` for windows of side `most`.
    pub fn attention(&self, [q, k, v]: [Tensor<3>; 3], table: Tensor<2>, most: usize) -> Tensor<3> {
        let ([batch, positions, width], [_, heads], device) = (q.dims(), table.dims(), q.device().inner());
        let (count, area, depth) = (self.count(), self.area(), width / heads);
        let split = |x: Tensor<3>| {
            let x = x.reshape([batch, count, area, heads, depth]).swap_dims(2, 3); // [batch, count, heads, area, depth]
            x.reshape([batch, count * heads, area, depth])
        };
        let rows = self.distances(most);
        let rows = Tensor::<1, Int>::from_data(TensorData::new(rows, [area * area]), &device);
        let added = table.select(0, rows).transpose().reshape([1, heads, area, area]).expand([count, heads, area, area]);
        let added = match self.apart() {
            Some(values) => added + Tensor::<4>::from_data(TensorData::new(values, [count, 1, area, area]), &device),
            None => added,
        };
        let scores = split(q).matmul(split(k).swap_dims(2, 3)) / (depth as f64).sqrt();
        let weights = activation::softmax(scores + added.reshape([1, count * heads, area, area]), 3); // [batch, count · heads, area, area]
        let y = weights.matmul(split(v)).reshape([batch, count, heads, area, depth]);
        y.swap_dims(2, 3).reshape([batch, positions, width])
    }
}

/// Rows and columns of a square grid, row by row.
fn on_grid(side: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..side * side).map(move |n| (n / side, n % side))
}

/// The four positions that become one, beside each other: column by column, as the reduction expects them. An odd grid has empty
/// ones at the right and below.
pub fn fours(grid: usize) -> Vec<Option<usize>> {
    let four = |(y, x): (usize, usize)| [(0, 0), (1, 0), (0, 1), (1, 1)].map(|(v, u)| (2 * y + v, 2 * x + u));
    let place = |(y, x): (usize, usize)| (y < grid && x < grid).then_some(y * grid + x);
    on_grid(grid.div_ceil(2)).flat_map(four).map(place).collect()
}

/// The positions `from` of `x` `[batch, positions, channels]`, zeros where there is none: `[batch, from, channels]`.
pub fn gathered(x: Tensor<3>, from: &[Option<usize>]) -> Tensor<3> {
    let device = x.device().inner();
    let rows: Vec<i64> = from.iter().map(|n| n.unwrap_or(0) as i64).collect();
    let picked = x.select(1, Tensor::<1, Int>::from_data(TensorData::new(rows, [from.len()]), &device));
    if from.iter().all(Option::is_some) {
        return picked;
    }
    let there: Vec<f32> = from.iter().map(|n| f32::from(n.is_some())).collect();
    picked * Tensor::<3>::from_data(TensorData::new(there, [1, from.len(), 1]), &device)
}
