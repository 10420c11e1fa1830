//! Where the time of a run goes: training, evaluation and pauses, each by itself, and what is left. Called by the run; plain
//! numbers, knows no tensors.

use std::time::{Duration, Instant};

/// Time, steps and samples of training.
#[derive(Clone, Copy, Default)]
struct Work {
    time: Duration,
    steps: usize,
    samples: usize,
}

impl Work {
    fn add(&mut self, time: Duration, samples: usize) {
        *self = Work { time: self.time + time, steps: self.steps + 1, samples: self.samples + samples };
    }

    fn step_ms(&self) -> f64 {
        self.time.as_secs_f64() * 1e3 / self.steps.max(1) as f64
    }

    fn samples_per_second(&self) -> f64 {
        self.samples as f64 / self.time.as_secs_f64().max(1e-9)
    }
}

pub struct Clock {
    begun: Instant,
    paused: Duration,
    evaluating: Duration,
    evaluations: usize,
    /// All of it, and since the last lap.
    all: Work,
    lap: Work,
}

impl Default for Clock {
    fn default() -> Clock {
        let (paused, evaluating) = (Duration::ZERO, Duration::ZERO);
        Clock { begun: Instant::now(), paused, evaluating, evaluations: 0, all: Work::default(), lap: Work::default() }
    }
}

fn timed<R>(work: impl FnOnce() -> R) -> (R, Duration) {
    let clock = Instant::now();
    (work(), clock.elapsed())
}

impl Clock {
    /// Waits, perhaps for the end of a pause.
    pub fn wait<R>(&mut self, work: impl FnOnce() -> R) -> R {
        let (answer, time) = timed(work);
        self.paused += time;
        answer
    }

    /// One training step on `samples` samples.
    pub fn step<R>(&mut self, samples: usize, work: impl FnOnce() -> R) -> R {
        let (answer, time) = timed(work);
        self.stepped(time, samples);
        answer
    }

    /// One evaluation.
    pub fn evaluate<R>(&mut self, work: impl FnOnce() -> R) -> R {
        let (answer, time) = timed(work);
        self.evaluated(time);
        answer
    }

    fn stepped(&mut self, time: Duration, samples: usize) {
        self.all.add(time, samples);
        self.lap.add(time, samples);
    }

    fn evaluated(&mut self, time: Duration) {
        self.evaluating += time;
        self.evaluations += 1;
    }

    /// Milliseconds a step and samples a second since the last lap; begins a new one.
    pub fn lap(&mut self) -> (f64, f64) {
        let lap = std::mem::take(&mut self.lap);
        (lap.step_ms(), lap.samples_per_second())
    }

    /// Milliseconds a step and samples a second over the whole run.
    pub fn speed(&self) -> (f64, f64) {
        (self.all.step_ms(), self.all.samples_per_second())
    }

    /// Seconds for `steps` more steps and `evaluations` more evaluations of `tested` samples each. As long as nothing was
    /// evaluated, a forward pass counts as a third of a step.
    pub fn left(&self, steps: usize, evaluations: usize, tested: usize) -> f64 {
        let one = match self.evaluations {
            0 => tested as f64 / self.all.samples_per_second().max(1e-9) / 3.0,
            n => self.evaluating.as_secs_f64() / n as f64,
        };
        steps as f64 * self.all.step_ms() / 1e3 + evaluations as f64 * one
    }

    /// Seconds since the beginning, pauses left out.
    pub fn seconds(&self) -> f64 {
        self.begun.elapsed().saturating_sub(self.paused).as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_short_last_batch_counts_for_what_it_is() {
        let mut clock = Clock::default();
        clock.stepped(40 * MS, 32);
        clock.stepped(10 * MS, 8);
        assert_eq!(clock.lap(), (25.0, 800.0));
        clock.stepped(10 * MS, 8);
        assert_eq!(clock.lap(), (10.0, 800.0));
        assert_eq!(clock.speed(), (20.0, 800.0));
    }

    #[test]
    fn the_time_left_knows_of_evaluations() {
        let mut clock = Clock::default();
        clock.stepped(30 * MS, 30); // a thousand samples a second, three thousand forwards
        assert!((clock.left(10, 2, 3000) - (0.3 + 2.0)).abs() < 1e-9, "{}", clock.left(10, 2, 3000));
        clock.evaluated(500 * MS);
        assert!((clock.left(10, 2, 3000) - (0.3 + 1.0)).abs() < 1e-9);
    }

    #[test]
    fn pauses_are_no_part_of_a_run() {
        let mut clock = Clock::default();
        clock.wait(|| std::thread::sleep(200 * MS));
        assert!(clock.seconds() < 0.15, "{}", clock.seconds());
    }
}
