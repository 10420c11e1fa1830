//! Memory as it is: the allocator's own figures. On the CPU a counting allocator (installed by `main.rs`, the tests and the
//! examples); on wgpu the pools' figures. Called by the run.

use std::alloc::{GlobalAlloc, Layout};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use burn::tensor::Device;
use mimalloc::MiMalloc;

static IN_USE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// mimalloc, counting. (The system's allocator gives large blocks back at once, and a training step then spends a quarter of
/// its time on page faults.) Install it with `#[global_allocator] static A: Counting = Counting;`.
pub struct Counting;

fn grow(bytes: usize) {
    let now = IN_USE.fetch_add(bytes, Relaxed) + bytes;
    // A plain load first: the peak rarely moves, and a failed exchange is dear in the hottest path of the program.
    if now > PEAK.load(Relaxed) {
        PEAK.fetch_max(now, Relaxed);
    }
}

#[expect(unsafe_code, reason = "GlobalAlloc is an unsafe trait; every call is handed on to mimalloc unchanged")]
// SAFETY: all requests go to mimalloc as they came; the counters are touched only beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        unsafe { MiMalloc.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        unsafe { MiMalloc.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Relaxed);
        unsafe { MiMalloc.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        IN_USE.fetch_sub(layout.size(), Relaxed);
        grow(size);
        unsafe { MiMalloc.realloc(pointer, layout, size) }
    }
}

/// Bytes the program holds now, by the counting allocator; 0 where it is not installed.
pub fn in_use() -> usize {
    IN_USE.load(Relaxed)
}

/// Starts a new peak from here.
pub fn reset_peak() {
    PEAK.store(in_use(), Relaxed);
}

pub fn peak() -> usize {
    PEAK.load(Relaxed)
}

/// What a run is doing; the most that it holds is kept for each of these apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Training,
    Evaluation,
    /// Measuring itself: counts for nothing.
    Aside,
}

/// Memory of a run beyond what the program held before it.
pub struct Memory {
    before: usize,
    device: Device,
    pooled: bool,
    /// The most of the phase that runs now. On a GPU only what `now` happened to see: the pools keep no peak of their own.
    seen: AtomicUsize,
    training: AtomicUsize,
    evaluation: AtomicUsize,
}

impl Memory {
    /// `before`: what the program held when the run began; a GPU's pools are the run's alone.
    pub fn start(before: usize, device: &Device) -> Memory {
        let pooled = device.memory_pool_usage().is_some();
        let none = || AtomicUsize::new(0);
        Memory { before, device: device.clone(), pooled, seen: none(), training: none(), evaluation: none() }
    }

    /// Bytes held now.
    pub fn now(&self) -> usize {
        let now = on_device(&self.device);
        let now = if self.pooled { now } else { now.saturating_sub(self.before) };
        self.seen.fetch_max(now, Relaxed);
        now
    }

    /// Runs `work` and keeps the most that was held meanwhile as this phase's.
    pub fn during<R>(&self, phase: Phase, work: impl FnOnce() -> R) -> R {
        self.seen.store(0, Relaxed);
        reset_peak();
        let answer = work();
        self.now();
        let most = if self.pooled { self.seen.load(Relaxed) } else { peak().saturating_sub(self.before) };
        match phase {
            Phase::Training => self.training.fetch_max(most, Relaxed),
            Phase::Evaluation => self.evaluation.fetch_max(most, Relaxed),
            Phase::Aside => 0,
        };
        answer
    }

    /// The most that a training step held so far.
    pub fn training_peak(&self) -> usize {
        self.training.load(Relaxed)
    }

    /// The most that an evaluation held so far.
    pub fn evaluation_peak(&self) -> usize {
        self.evaluation.load(Relaxed)
    }
}

/// Bytes in use on a device: the pools' on wgpu, the counting allocator's on the CPU.
pub fn on_device(device: &Device) -> usize {
    match device.memory_pool_usage() {
        Some(usage) => usage.bytes_in_use as usize,
        None => in_use(),
    }
}
