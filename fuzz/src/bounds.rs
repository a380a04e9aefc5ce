//! What any input may cost: memory by its size, and a second of work.

use std::time::Duration;

use peak_alloc::PeakAlloc;
use rustix::time::{ClockId, clock_gettime};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Bytes that an input of no bytes may take. A length that a decoder was told, and believed, is above it; Serde believes
/// the first MiB of a list, and the events of these targets have lists in lists. The rest is what a program needs anyway.
pub const BASE: usize = (2 << 20) + (64 << 10);

/// How long an input may keep the processor busy. Work is counted, not time: other programs do not make it slow.
pub const WORK: Duration = Duration::from_secs(1);

/// Runs something on an input.
///
/// # Panics
/// If it allocates more than twice the input and [`BASE`] at any moment, or works longer than [`WORK`].
pub fn within(input: usize, run: impl FnOnce()) {
    MEMORY.reset_peak_usage();
    let before = MEMORY.current_usage();
    let begun = work();
    run();
    let took = work().saturating_sub(begun);
    let peak = MEMORY.peak_usage().saturating_sub(before);
    assert!(peak <= 2 * input + BASE, "{input} bytes made it allocate {peak}");
    assert!(took <= WORK, "{input} bytes kept it busy for {took:?}");
}

/// What this process has worked, on all its threads.
fn work() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
}
