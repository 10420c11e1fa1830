//! The fused operations on Burn's CPU backend. Plain loops over rows in the widest vector instructions that this machine has
//! (`pulp` compiles each struct's loops once for each kind of processor). Every call runs on the calling thread: the batch is
//! already cut into one shard a thread. Attention stands in `attention`, what a row takes in `lanes`.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Flex, TensorMetadata};
use burn::tensor::{Shape, TensorData};
use pulp::{Arch, NullaryFnOnce};

use super::attention::{self, Hidden};
use super::lanes::{dot, moments, normal, sum};
use super::{Fused, Kernels};

pub(super) type Values = FloatTensor<Flex>;

impl Fused for Flex {
    fn fused_attention(q: Values, k: Values, v: Values, heads: usize, causal: Option<usize>) -> Values {
        attention::forward([q, k, v], Hidden { seen: None, causal }, heads).0
    }

    fn fused_masked_attention(q: Values, k: Values, v: Values, seen: Values, heads: usize, causal: Option<usize>) -> Values {
        attention::forward([q, k, v], Hidden { seen: Some(seen), causal }, heads).0
    }

    fn fused_layer_norm(x: Values, gamma: Values, beta: Values, epsilon: f32) -> Values {
        <Flex as Kernels>::layer_norm(x, gamma, beta, epsilon)
    }

    fn fused_gelu(x: Values) -> Values {
        <Flex as Kernels>::gelu(x)
    }

    fn fused_rms_norm(x: Values, gamma: Values, epsilon: f32) -> Values {
        <Flex as Kernels>::rms_norm(x, gamma, epsilon)
    }

    fn fused_rotate(x: Values, angles: Values) -> Values {
        <Flex as Kernels>::rotate(x, angles, false)
    }
}

impl Kernels for Flex {
    fn attention(inputs: [Values; 3], seen: Option<Values>, causal: Option<usize>, heads: usize) -> (Values, Values) {
        attention::forward(inputs, Hidden { seen, causal }, heads)
    }

    fn attention_backward(
        inputs: [Values; 3],
        seen: Option<Values>,
        causal: Option<usize>,
        sums: Values,
        heads: usize,
        grad: Values,
    ) -> [Values; 3] {
        attention::backward(inputs, Hidden { seen, causal }, sums, heads, grad)
    }

    fn layer_norm(x: Values, gamma: Values, beta: Values, epsilon: f32) -> Values {
        let (x, gamma, beta) = (x.to_contiguous(), gamma.to_contiguous(), beta.to_contiguous());
        let mut y = vec![0.0; x.shape().num_elements()];
        let (values_in, gamma, beta) = (x.storage(), gamma.storage(), beta.storage());
        Arch::new().dispatch(LayerNorm { x: values_in, gamma, beta, epsilon, y: &mut y });
        values(y, x.shape())
    }

    fn layer_norm_backward(x: Values, gamma: Values, epsilon: f32, grad: Values) -> [Values; 3] {
        let (x, gamma, grad) = (x.to_contiguous(), gamma.to_contiguous(), grad.to_contiguous());
        let channels = gamma.shape().num_elements();
        let mut dx = vec![0.0; x.shape().num_elements()];
        let (mut dgamma, mut dbeta) = (vec![0.0; channels], vec![0.0; channels]);
        Arch::new().dispatch(LayerNormBackward {
            x: x.storage(),
            gamma: gamma.storage(),
            epsilon,
            grad: grad.storage(),
            dx: &mut dx,
            dgamma: &mut dgamma,
            dbeta: &mut dbeta,
        });
        [values(dx, x.shape()), values(dgamma, [channels]), values(dbeta, [channels])]
    }

    fn gelu(x: Values) -> Values {
        let x = x.to_contiguous();
        let mut y = vec![0.0; x.shape().num_elements()];
        Arch::new().dispatch(Gelu { x: x.storage(), y: &mut y });
        values(y, x.shape())
    }

    fn gelu_backward(x: Values, grad: Values) -> Values {
        let (x, grad) = (x.to_contiguous(), grad.to_contiguous());
        let mut dx = vec![0.0; x.shape().num_elements()];
        Arch::new().dispatch(GeluBackward { x: x.storage(), grad: grad.storage(), dx: &mut dx });
        values(dx, x.shape())
    }

    fn rms_norm(x: Values, gamma: Values, epsilon: f32) -> Values {
        let (x, gamma) = (x.to_contiguous(), gamma.to_contiguous());
        let mut y = vec![0.0; x.shape().num_elements()];
        Arch::new().dispatch(RmsNorm { x: x.storage(), gamma: gamma.storage(), epsilon, y: &mut y });
        values(y, x.shape())
    }

    fn rms_norm_backward(x: Values, gamma: Values, epsilon: f32, grad: Values) -> [Values; 2] {
        let (x, gamma, grad) = (x.to_contiguous(), gamma.to_contiguous(), grad.to_contiguous());
        let channels = gamma.shape().num_elements();
        let (mut dx, mut dgamma) = (vec![0.0; x.shape().num_elements()], vec![0.0; channels]);
        let (at, along, back) = (x.storage(), gamma.storage(), grad.storage());
        Arch::new().dispatch(RmsNormBackward { x: at, gamma: along, epsilon, grad: back, dx: &mut dx, dgamma: &mut dgamma });
        [values(dx, x.shape()), values(dgamma, [channels])]
    }

    fn rotate(x: Values, angles: Values, back: bool) -> Values {
        let (x, angles) = (x.to_contiguous(), angles.to_contiguous());
        let shape = x.shape();
        let (positions, width, half) = (shape[1], shape[2], angles.shape()[1]);
        let (mut sin, mut cos) = (vec![0.0; positions * half], vec![0.0; positions * half]);
        for (n, angle) in angles.storage::<f32>().iter().enumerate() {
            (sin[n], cos[n]) = (if back { -angle.sin() } else { angle.sin() }, angle.cos());
        }
        let mut y = vec![0.0; shape.num_elements()];
        Arch::new().dispatch(Rotate { x: x.storage(), sin: &sin, cos: &cos, width, half, y: &mut y });
        values(y, shape)
    }
}

// One struct a loop nest: `pulp` inlines `call` into a function compiled for each kind of processor. All that is called from
// there is inlined too (`inline(always)`), or it would be compiled for the oldest.

struct LayerNorm<'a> {
    x: &'a [f32],
    gamma: &'a [f32],
    beta: &'a [f32],
    epsilon: f32,
    y: &'a mut [f32],
}

impl NullaryFnOnce for LayerNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let channels = self.gamma.len();
        let (gamma, beta) = (self.gamma, &self.beta[..channels]);
        for (x, y) in self.x.chunks_exact(channels).zip(self.y.chunks_exact_mut(channels)) {
            let (mean, inverse) = moments(x, self.epsilon);
            for c in 0..channels {
                y[c] = (x[c] - mean) * inverse * gamma[c] + beta[c];
            }
        }
    }
}

struct LayerNormBackward<'a> {
    x: &'a [f32],
    gamma: &'a [f32],
    epsilon: f32,
    grad: &'a [f32],
    dx: &'a mut [f32],
    dgamma: &'a mut [f32],
    dbeta: &'a mut [f32],
}

impl NullaryFnOnce for LayerNormBackward<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let channels = self.gamma.len();
        let (gamma, dgamma, dbeta) = (self.gamma, &mut self.dgamma[..channels], &mut self.dbeta[..channels]);
        let mut normed = vec![0.0; channels];
        let rows = self.x.chunks_exact(channels).zip(self.grad.chunks_exact(channels));
        for ((x, g), dx) in rows.zip(self.dx.chunks_exact_mut(channels)) {
            let (mean, inverse) = moments(x, self.epsilon);
            // Few arrays a loop, so that the compiler can see that they do not overlap.
            for c in 0..channels {
                normed[c] = (x[c] - mean) * inverse;
            }
            for c in 0..channels {
                dx[c] = g[c] * gamma[c];
            }
            for c in 0..channels {
                dgamma[c] += g[c] * normed[c];
            }
            for c in 0..channels {
                dbeta[c] += g[c];
            }
            let along_one = sum(dx) / channels as f32;
            let along_x = dot(dx, &normed) / channels as f32;
            for c in 0..channels {
                dx[c] = inverse * (dx[c] - along_one - normed[c] * along_x);
            }
        }
    }
}

struct RmsNorm<'a> {
    x: &'a [f32],
    gamma: &'a [f32],
    epsilon: f32,
    y: &'a mut [f32],
}

impl NullaryFnOnce for RmsNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let channels = self.gamma.len();
        let gamma = self.gamma;
        for (x, y) in self.x.chunks_exact(channels).zip(self.y.chunks_exact_mut(channels)) {
            let inverse = 1.0 / (dot(x, x) / channels as f32 + self.epsilon).sqrt();
            for c in 0..channels {
                y[c] = x[c] * inverse * gamma[c];
            }
        }
    }
}

struct RmsNormBackward<'a> {
    x: &'a [f32],
    gamma: &'a [f32],
    epsilon: f32,
    grad: &'a [f32],
    dx: &'a mut [f32],
    dgamma: &'a mut [f32],
}

impl NullaryFnOnce for RmsNormBackward<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let channels = self.gamma.len();
        let (gamma, dgamma) = (self.gamma, &mut self.dgamma[..channels]);
        let rows = self.x.chunks_exact(channels).zip(self.grad.chunks_exact(channels));
        for ((x, g), dx) in rows.zip(self.dx.chunks_exact_mut(channels)) {
            let inverse = 1.0 / (dot(x, x) / channels as f32 + self.epsilon).sqrt();
            for c in 0..channels {
                dgamma[c] += g[c] * x[c] * inverse;
            }
            for c in 0..channels {
                dx[c] = g[c] * gamma[c];
            }
            let along_x = dot(dx, x) * inverse * inverse / channels as f32;
            for c in 0..channels {
                dx[c] = inverse * (dx[c] - x[c] * along_x);
            }
        }
    }
}

struct Rotate<'a> {
    x: &'a [f32],
    /// `[positions, half]`.
    sin: &'a [f32],
    cos: &'a [f32],
    width: usize,
    half: usize,
    y: &'a mut [f32],
}

impl NullaryFnOnce for Rotate<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let half = self.half;
        let positions = self.sin.len() / half;
        for (row, (x, y)) in self.x.chunks_exact(self.width).zip(self.y.chunks_exact_mut(self.width)).enumerate() {
            let at = row % positions * half;
            let (sin, cos) = (&self.sin[at..at + half], &self.cos[at..at + half]);
            for (x, y) in x.chunks_exact(2 * half).zip(y.chunks_exact_mut(2 * half)) {
                let ((xa, xb), (ya, yb)) = (x.split_at(half), y.split_at_mut(half));
                for c in 0..half {
                    ya[c] = xa[c] * cos[c] - xb[c] * sin[c];
                }
                for c in 0..half {
                    yb[c] = xb[c] * cos[c] + xa[c] * sin[c];
                }
            }
        }
    }
}

struct Gelu<'a> {
    x: &'a [f32],
    y: &'a mut [f32],
}

impl NullaryFnOnce for Gelu<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let x = &self.x[..self.y.len()];
        for (n, y) in self.y.iter_mut().enumerate() {
            *y = x[n] * normal(x[n]).0;
        }
    }
}

struct GeluBackward<'a> {
    x: &'a [f32],
    grad: &'a [f32],
    dx: &'a mut [f32],
}

impl NullaryFnOnce for GeluBackward<'_> {
    type Output = ();

    /// Φ(x) + x φ(x) times the gradient.
    #[inline(always)]
    fn call(self) {
        let (x, grad) = (&self.x[..self.dx.len()], &self.grad[..self.dx.len()]);
        for (n, d) in self.dx.iter_mut().enumerate() {
            let x = x[n];
            let (cdf, bell) = normal(x);
            *d = grad[n] * (cdf + x * bell * 0.398_942_3);
        }
    }
}

pub(super) fn values(data: Vec<f32>, shape: impl Into<Shape>) -> Values {
    Values::from_data(TensorData::new(data, shape))
}
