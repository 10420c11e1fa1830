//! A small anti-aliased painter of RGB pictures: textures, filled shapes, strokes and stencils.
//! Called by the procedural data set `shapes` and by the pretext task of `examples/pretrain_vit_tiny`.
//! Must not know labels, settings or tensors: the caller's generator decides what is drawn.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// Red, green, blue, each 0 to 1.
pub type Rgb = [f32; 3];
/// A place on the canvas in pixels, x to the right and y down; the middle of the first pixel is (0.5, 0.5).
pub type Point = [f32; 2];

pub const BLACK: Rgb = [0.0; 3];
pub const WHITE: Rgb = [1.0; 3];

/// How a surface is patterned; the index in `ALL` is the label of the texture task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Solid,
    Gradient,
    Stripes,
    Checker,
    Dots,
    Noise,
}

impl Family {
    pub const ALL: [Family; 6] = [Family::Solid, Family::Gradient, Family::Stripes, Family::Checker, Family::Dots, Family::Noise];
}

/// Lattice of the smooth noise; it repeats, so that no picture is too large for it.
const LATTICE: usize = 8;

/// A surface: a family with its two colours, direction and scale.
#[derive(Clone, Debug)]
pub struct Texture {
    pub family: Family,
    pub first: Rgb,
    pub second: Rgb,
    /// Direction of the pattern, radians.
    pub angle: f32,
    /// Length of one repeat, pixels (of the whole ramp, for a gradient).
    pub period: f32,
    pub shift: Point,
    lattice: [f32; LATTICE * LATTICE],
}

impl Texture {
    pub fn solid(colour: Rgb) -> Texture {
        Texture {
            family: Family::Solid,
            first: colour,
            second: colour,
            angle: 0.0,
            period: 1.0,
            shift: [0.0; 2],
            lattice: [0.0; LATTICE * LATTICE],
        }
    }

    /// A texture of `family` between two colours, with random direction, scale and phase.
    pub fn random(family: Family, first: Rgb, second: Rgb, rng: &mut ChaCha8Rng) -> Texture {
        let mut texture = Texture { family, second, ..Texture::solid(first) };
        texture.angle = rng.random_range(0.0..std::f32::consts::TAU);
        texture.period = match family {
            Family::Gradient => rng.random_range(24.0..44.0),
            Family::Dots => rng.random_range(4.5..8.5),
            _ => rng.random_range(4.0..10.0),
        };
        texture.shift = [rng.random_range(0.0..32.0), rng.random_range(0.0..32.0)];
        if family == Family::Noise {
            texture.lattice = std::array::from_fn(|_| rng.random());
        }
        texture
    }

    /// A painter of single points; sine and cosine are worked out once here, not at each pixel.
    fn prepared(&self) -> impl Fn(f32, f32) -> Rgb + '_ {
        let (sin, cos) = self.angle.sin_cos();
        let turn = std::f32::consts::TAU / self.period;
        // How far a unit of the sine is from its zero, in pixels: it turns a wave into a one-pixel-wide edge.
        let edge = 1.0 / turn;
        move |x, y| {
            let (dx, dy) = (x - self.shift[0], y - self.shift[1]);
            let (u, v) = (dx * cos + dy * sin, dy * cos - dx * sin);
            let part = match self.family {
                Family::Solid => return self.first,
                // Measured from the canvas's middle: a shifted ramp would often be one flat colour.
                Family::Gradient => 0.5 + ((x - 16.0) * cos + (y - 16.0) * sin) / self.period,
                Family::Stripes => 0.5 + (u * turn).sin() * edge,
                Family::Checker => 0.5 + (u * turn * 0.7).sin() * (v * turn * 0.7).sin() * edge * 1.4,
                Family::Dots => {
                    let near = |t: f32| t.rem_euclid(self.period) - self.period * 0.5;
                    0.5 + self.period * 0.3 - near(u).hypot(near(v))
                }
                Family::Noise => (self.noise(u, v) - 0.5) * 1.5 + 0.5,
            };
            mix(self.first, self.second, part.clamp(0.0, 1.0))
        }
    }

    fn noise(&self, u: f32, v: f32) -> f32 {
        let (u, v) = (u / self.period * 1.6, v / self.period * 1.6);
        let (cell_u, cell_v) = (u.floor(), v.floor());
        let ease = |t: f32| t * t * (3.0 - 2.0 * t);
        let (s, t) = (ease(u - cell_u), ease(v - cell_v));
        let wrap = |cell: f32, step: i32| (cell as i32 + step).rem_euclid(LATTICE as i32) as usize;
        let at = |du, dv| self.lattice[wrap(cell_v, dv) * LATTICE + wrap(cell_u, du)];
        let row = |dv| at(0, dv) + (at(1, dv) - at(0, dv)) * s;
        row(0) + (row(1) - row(0)) * t
    }
}

pub fn mix(a: Rgb, b: Rgb, part: f32) -> Rgb {
    std::array::from_fn(|c| a[c] + (b[c] - a[c]) * part)
}

/// A random colour at least `gap` from all of `others`, or the farthest of 16 draws where none is.
pub fn colour_away_from(others: &[Rgb], gap: f32, rng: &mut ChaCha8Rng) -> Rgb {
    let nearest = |c: Rgb| others.iter().map(|o| distance(c, *o)).fold(f32::MAX, f32::min);
    let mut best: Rgb = std::array::from_fn(|_| rng.random());
    for _ in 0..16 {
        if nearest(best) >= gap {
            break;
        }
        let next: Rgb = std::array::from_fn(|_| rng.random());
        if nearest(next) > nearest(best) {
            best = next;
        }
    }
    best
}

/// Distance of two colours, 0 to 1, with the channels weighted about as the eye does.
fn distance(a: Rgb, b: Rgb) -> f32 {
    [0.3, 0.55, 0.15].iter().enumerate().map(|(c, w)| w * (a[c] - b[c]) * (a[c] - b[c])).sum::<f32>().sqrt()
}

/// Filled outlines; the index in `ALL` is the label of the shape tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Disc,
    Square,
    Triangle,
    Star,
    Ring,
    Cross,
    Ellipse,
    Hexagon,
    HalfDisc,
    Crescent,
    Diamond,
    Bar,
}

impl Shape {
    pub const ALL: [Shape; 12] = [
        Shape::Disc,
        Shape::Square,
        Shape::Triangle,
        Shape::Star,
        Shape::Ring,
        Shape::Cross,
        Shape::Ellipse,
        Shape::Hexagon,
        Shape::HalfDisc,
        Shape::Crescent,
        Shape::Diamond,
        Shape::Bar,
    ];

    /// Signed distance from the outline of a shape of radius about one: negative inside.
    fn distance(self, x: f32, y: f32) -> f32 {
        let round = x.hypot(y);
        match self {
            Shape::Disc => round - 0.9,
            Shape::Square => rectangle(x, y, 0.78, 0.78),
            // Half planes at 120 degrees; the middle is moved down so that the shape sits in its circle.
            Shape::Triangle => y.max(0.866_025_4 * x.abs() - 0.5 * y) - 0.5,
            Shape::Star => {
                let fifth = std::f32::consts::TAU / 5.0;
                let angle = y.atan2(x) + std::f32::consts::FRAC_PI_2;
                let fold = (angle - fifth * (angle / fifth).round()).abs();
                let (px, py) = (round * fold.cos(), round * fold.sin());
                // One edge, from the tip (1, 0) to the inner corner.
                let (ex, ey) = (0.42 * 0.809_017 - 1.0, 0.42 * 0.587_785_25);
                ((px - 1.0) * ey - py * ex) / ex.hypot(ey)
            }
            Shape::Ring => (round - 0.7).abs() - 0.22,
            Shape::Cross => rectangle(x, y, 0.95, 0.3).min(rectangle(x, y, 0.3, 0.95)),
            Shape::Ellipse => {
                let (a, b) = (1.0_f32, 0.55_f32);
                let level = (x / a).hypot(y / b);
                let slope = (x / (a * a)).hypot(y / (b * b)).max(1e-4);
                level * (level - 1.0) / slope
            }
            Shape::Hexagon => {
                let (ax, ay) = (x.abs(), y.abs());
                ay.max(0.866_025_4 * ax + 0.5 * ay) - 0.82
            }
            Shape::HalfDisc => {
                let low = y + 0.4;
                (x.hypot(low) - 0.95).max(-low)
            }
            Shape::Crescent => (round - 0.95).max(0.8 - (x - 0.5).hypot(y)),
            Shape::Diamond => (x.abs() / 0.58 + y.abs() - 1.0) * 0.5,
            Shape::Bar => rectangle(x, y, 1.0, 0.22),
        }
    }
}

fn rectangle(x: f32, y: f32, half_width: f32, half_height: f32) -> f32 {
    let (dx, dy) = (x.abs() - half_width, y.abs() - half_height);
    dx.max(0.0).hypot(dy.max(0.0)) + dx.max(dy).min(0.0)
}

/// Where a drawing in its own coordinates lies on the canvas.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub centre: Point,
    /// Pixels for one unit of the drawing.
    pub scale: f32,
    pub angle: f32,
    /// Mirrored left to right before it is turned.
    pub flip: bool,
}

impl Place {
    pub fn apply(&self, [x, y]: Point) -> Point {
        let (sin, cos) = self.angle.sin_cos();
        let x = if self.flip { -x } else { x };
        [self.centre[0] + self.scale * (x * cos - y * sin), self.centre[1] + self.scale * (x * sin + y * cos)]
    }
}

/// Points along the quadratic Bezier curve of three control points, both ends included.
pub fn bezier([a, b, c]: [Point; 3], pieces: usize) -> Vec<Point> {
    let at = |i: usize| {
        let t = i as f32 / pieces.max(1) as f32;
        std::array::from_fn(|k| (1.0 - t) * (1.0 - t) * a[k] + 2.0 * t * (1.0 - t) * b[k] + t * t * c[k])
    };
    (0..=pieces.max(1)).map(at).collect()
}

/// A square picture under the brush.
#[derive(Clone, Debug)]
pub struct Canvas {
    pub side: usize,
    /// `[side, side, 3]`, row by row.
    pub pixels: Vec<u8>,
}

impl Canvas {
    pub fn new(side: usize, ground: &Texture) -> Canvas {
        let mut canvas = Canvas { side, pixels: vec![0; side * side * 3] };
        let colour = ground.prepared();
        for (n, pixel) in canvas.pixels.chunks_exact_mut(3).enumerate() {
            let at = colour((n % side) as f32 + 0.5, (n / side) as f32 + 0.5);
            for (byte, part) in pixel.iter_mut().zip(at) {
                *byte = to_byte(part);
            }
        }
        canvas
    }

    /// A filled shape whose circle has the radius `place.scale`.
    pub fn fill(&mut self, shape: Shape, place: Place, ink: &Texture) {
        let (sin, cos) = place.angle.sin_cos();
        let mirror = if place.flip { -1.0 } else { 1.0 };
        let reach = place.scale * 1.3 + 1.0;
        let [cx, cy] = place.centre;
        self.cover([cx - reach, cy - reach], [cx + reach, cy + reach], ink, |x, y| {
            let (dx, dy) = ((x - cx) / place.scale, (y - cy) / place.scale);
            0.5 - shape.distance(mirror * (dx * cos + dy * sin), dy * cos - dx * sin) * place.scale
        });
    }

    /// Lines of `width` pixels with round ends. Where they cross, they are painted once, not over each other.
    pub fn stroke(&mut self, lines: &[Vec<Point>], width: f32, ink: &Texture) {
        let side = self.side;
        let mut mask = vec![0.0_f32; side * side];
        let reach = width * 0.5 + 1.0;
        for (from, to) in lines.iter().flat_map(|line| line.iter().zip(line.iter().skip(1))) {
            let step = [to[0] - from[0], to[1] - from[1]];
            let length = (step[0] * step[0] + step[1] * step[1]).max(1e-6);
            let low = [from[0].min(to[0]) - reach, from[1].min(to[1]) - reach];
            let high = [from[0].max(to[0]) + reach, from[1].max(to[1]) + reach];
            for (n, x, y) in window(side, low, high) {
                let (dx, dy) = (x - from[0], y - from[1]);
                let along = ((dx * step[0] + dy * step[1]) / length).clamp(0.0, 1.0);
                let away = (dx - along * step[0]).hypot(dy - along * step[1]);
                mask[n] = mask[n].max(0.5 + width * 0.5 - away);
            }
        }
        let all = side as f32;
        self.cover([0.0; 2], [all; 2], ink, |x, y| mask[y as usize * side + x as usize]);
    }

    /// A grey picture of `side` x `side` bytes as a mask: 255 paints fully. One unit of `place` is one of its pixels.
    pub fn stencil(&mut self, grey: &[u8], side: usize, place: Place, ink: &Texture) {
        let (sin, cos) = place.angle.sin_cos();
        let mirror = if place.flip { -1.0 } else { 1.0 };
        let half = side as f32 * 0.5;
        let reach = half * place.scale * std::f32::consts::SQRT_2 + 1.0;
        let [cx, cy] = place.centre;
        let at = |column: i32, row: i32| {
            let inside = (0..side as i32).contains(&column) && (0..side as i32).contains(&row);
            if inside { f32::from(grey[row as usize * side + column as usize]) } else { 0.0 }
        };
        self.cover([cx - reach, cy - reach], [cx + reach, cy + reach], ink, |x, y| {
            let (dx, dy) = ((x - cx) / place.scale, (y - cy) / place.scale);
            let (u, v) = (mirror * (dx * cos + dy * sin) + half - 0.5, dy * cos - dx * sin + half - 0.5);
            let (left, top) = (u.floor(), v.floor());
            let (s, t) = (u - left, v - top);
            let (left, top) = (left as i32, top as i32);
            let row = |below: i32| at(left, top + below) * (1.0 - s) + at(left + 1, top + below) * s;
            (row(0) * (1.0 - t) + row(1) * t) / 255.0
        });
    }

    /// Blends `ink` over the pixels of a window by the coverage that `part` gives at their middles.
    fn cover(&mut self, low: Point, high: Point, ink: &Texture, part: impl Fn(f32, f32) -> f32) {
        let colour = ink.prepared();
        for (n, x, y) in window(self.side, low, high) {
            let part = part(x, y).min(1.0);
            if part > 0.0 {
                for (byte, new) in self.pixels[n * 3..n * 3 + 3].iter_mut().zip(colour(x, y)) {
                    let old = f32::from(*byte) / 255.0;
                    *byte = to_byte(old + (new - old) * part);
                }
            }
        }
    }
}

fn to_byte(part: f32) -> u8 {
    // `as` saturates, so that a colour out of range is clipped and never wraps.
    (part * 255.0 + 0.5) as u8
}

/// The pixels of a square picture that lie in a rectangle: number, and the place of their middle.
fn window(side: usize, low: Point, high: Point) -> impl Iterator<Item = (usize, f32, f32)> {
    let clip = move |v: f32| (v.max(0.0) as usize).min(side);
    let (left, right) = (clip(low[0]), clip(high[0] + 1.0));
    (clip(low[1])..clip(high[1] + 1.0))
        .flat_map(move |y| (left..right).map(move |x| (y * side + x, x as f32 + 0.5, y as f32 + 0.5)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn every_shape_paints_its_middle_part_and_leaves_the_corners() {
        for shape in Shape::ALL {
            let mut canvas = Canvas::new(32, &Texture::solid(BLACK));
            let place = Place { centre: [16.0, 16.0], scale: 10.0, angle: 0.3, flip: false };
            canvas.fill(shape, place, &Texture::solid(WHITE));
            let lit = canvas.pixels.chunks_exact(3).filter(|p| p[0] > 127).count();
            assert!((50..320).contains(&lit), "{shape:?} lights {lit} pixels");
            assert_eq!(canvas.pixels[..3], [0, 0, 0], "{shape:?} reaches the corner");
        }
    }

    #[test]
    fn a_texture_is_the_same_for_the_same_seed_and_shows_both_colours() {
        for family in Family::ALL {
            let draw = || {
                let mut rng = ChaCha8Rng::seed_from_u64(5);
                Canvas::new(32, &Texture::random(family, BLACK, WHITE, &mut rng)).pixels
            };
            assert_eq!(draw(), draw());
            let (dark, light) = (draw().iter().any(|v| *v < 60), draw().iter().any(|v| *v > 195));
            assert!(dark && (light || family == Family::Solid), "{family:?}");
        }
    }

    #[test]
    fn a_stencil_in_place_is_the_picture_itself() {
        let grey: Vec<u8> = (0..28 * 28).map(|n| (n % 251) as u8).collect();
        let mut canvas = Canvas::new(32, &Texture::solid(BLACK));
        let place = Place { centre: [16.0, 16.0], scale: 1.0, angle: 0.0, flip: false };
        canvas.stencil(&grey, 28, place, &Texture::solid(WHITE));
        for y in 0..28 {
            for x in 0..28 {
                let got = canvas.pixels[((y + 2) * 32 + x + 2) * 3];
                assert!(got.abs_diff(grey[y * 28 + x]) <= 1, "({x}, {y})");
            }
        }
    }

    #[test]
    fn strokes_outside_the_canvas_do_no_harm() {
        let mut canvas = Canvas::new(32, &Texture::solid(BLACK));
        let line = bezier([[-50.0, -9.0], [16.0, 90.0], [70.0, 16.0]], 12);
        canvas.stroke(&[line], 3.0, &Texture::solid(WHITE));
        assert_eq!(canvas.pixels.len(), 32 * 32 * 3);
    }
}
