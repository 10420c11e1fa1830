//! Where the time of a run goes: training, evaluation and pauses, each by itself, and what is left. Called by the run; plain
//! numbers, knows no tensors.

use std::time::{Duration, Instant};

/// Time, steps and samples of training.
#[derive(Clone, Copy, Default)]
struct Work {
    time: Duration,
    /// Part of it: waiting for samples.
    waited: Duration,
    steps: usize,
    samples: usize,
}

/// How fast steps are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Speed {
    /// Milliseconds a step, and how many of them it waits for its samples.
    pub step_ms: f64,
    pub wait_ms: f64,
    pub samples_per_second: f64,
}

impl Work {
    fn add(&mut self, time: Duration, samples: usize) {
        *self = Work { time: self.time + time, steps: self.steps + 1, samples: self.samples + samples, ..*self };
    }

    fn wait(&mut self, time: Duration) {
        *self = Work { time: self.time + time, waited: self.waited + time, ..*self };
    }

    fn speed(&self) -> Speed {
        let a_step = |time: Duration| time.as_secs_f64() * 1e3 / self.steps.max(1) as f64;
        let samples_per_second = self.samples as f64 / self.time.as_secs_f64().max(1e-9);
        Speed { step_ms: a_step(self.time), wait_ms: a_step(self.waited), samples_per_second }
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

    /// Waits for the samples of the step to come; a part of that step.
    pub fn load<R>(&mut self, work: impl FnOnce() -> R) -> R {
        let (answer, time) = timed(work);
        self.loaded(time);
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

    fn loaded(&mut self, time: Duration) {
        self.all.wait(time);
        self.lap.wait(time);
    }

    fn evaluated(&mut self, time: Duration) {
        self.evaluating += time;
        self.evaluations += 1;
    }

    /// The speed since the last lap; begins a new one.
    pub fn lap(&mut self) -> Speed {
        std::mem::take(&mut self.lap).speed()
    }

    /// The speed over the whole run.
    pub fn speed(&self) -> Speed {
        self.all.speed()
    }

    /// Seconds for `steps` more steps and `evaluations` more evaluations of `tested` samples each. As long as nothing was
    /// evaluated, a forward pass counts as a third of a step.
    pub fn left(&self, steps: usize, evaluations: usize, tested: usize) -> f64 {
        let one = match self.evaluations {
            0 => tested as f64 / self.speed().samples_per_second.max(1e-9) / 3.0,
            n => self.evaluating.as_secs_f64() / n as f64,
        };
        steps as f64 * self.speed().step_ms / 1e3 + evaluations as f64 * one
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
        let speed = |step_ms| Speed { step_ms, wait_ms: 0.0, samples_per_second: 800.0 };
        assert_eq!(clock.lap(), speed(25.0));
        clock.stepped(10 * MS, 8);
        assert_eq!(clock.lap(), speed(10.0));
        assert_eq!(clock.speed(), speed(20.0));
    }

    #[test]
    fn waiting_for_samples_is_a_part_of_the_step_and_said_apart() {
        let mut clock = Clock::default();
        clock.loaded(10 * MS);
        clock.stepped(30 * MS, 32);
        clock.stepped(40 * MS, 32);
        assert_eq!(clock.lap(), Speed { step_ms: 40.0, wait_ms: 5.0, samples_per_second: 800.0 });
        clock.stepped(40 * MS, 32);
        assert_eq!(clock.lap().wait_ms, 0.0);
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
