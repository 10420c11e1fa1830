//! A batch cut into shards, one a CPU thread: Burn's CPU backend runs most element-wise operations on one core, so two
//! halves on two threads train nearly twice as fast. On a GPU there is one shard. Called by the model, the run and the batches.

use std::sync::{Mutex, PoisonError};

use burn::tensor::Device;

/// Shards worth making on `device`.
pub fn count(device: &Device) -> usize {
    match device.memory_pool_usage() {
        Some(_) => 1, // a GPU: one queue
        None => rayon::current_num_threads().min(8),
    }
}

/// `items` in at most `count` even pieces.
pub fn cut<T>(items: &[T], count: usize) -> std::slice::Chunks<'_, T> {
    items.chunks(items.len().div_ceil(count.max(1)).max(1))
}

/// Runs `work` on `count` even pieces of `items`, each on a thread of its own, and gives the answers in order. A panic in one
/// of them goes on in the caller.
pub fn each<T: Sync, R: Send>(items: &[T], count: usize, work: impl Fn(&[T]) -> R + Sync) -> Vec<R> {
    let pieces = cut(items, count);
    if pieces.len() <= 1 {
        return vec![work(items)];
    }
    std::thread::scope(|scope| {
        let work = &work;
        let start = |piece| std::thread::Builder::new().name("petl-shard".into()).spawn_scoped(scope, move || work(piece));
        let threads: Vec<_> = pieces.map(|piece| (piece, start(piece))).collect();
        let finish = |(piece, thread): (_, std::io::Result<std::thread::ScopedJoinHandle<R>>)| match thread {
            Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            Err(_) => work(piece), // the system gives no thread: work here
        };
        threads.into_iter().map(finish).collect()
    })
}

/// Runs `work` on every one of `items`, each on a thread of its own, and gives the answers in order.
pub fn all<T: Send, R: Send>(items: Vec<T>, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    let places: Vec<Mutex<Option<T>>> = items.into_iter().map(|item| Mutex::new(Some(item))).collect();
    let take = |place: &Mutex<Option<T>>| place.lock().unwrap_or_else(PoisonError::into_inner).take();
    let answers = each(&places, places.len(), |one| one.first().and_then(take).map(&work));
    answers.into_iter().flatten().collect()
}
