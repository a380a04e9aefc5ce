//! Time that all processes of a machine agree on, and who of them is still alive.
//!
//! Leases are compared across processes, so they are told by the machine's own clock since boot: it never jumps. A
//! boot has a name; leases of another boot are over. A process may see that clock shifted, in a time namespace of its
//! own: the shift is taken off. Wall-clock time is only for what people read, and for what is due at a time of day.

use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

/// Milliseconds since this machine booted; suspended time counts.
pub(crate) fn since_boot() -> i64 {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let clock = rustix::time::ClockId::Boottime;
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let clock = rustix::time::ClockId::Monotonic;
    let now = rustix::time::clock_gettime(clock);
    now.tv_sec * 1_000 + now.tv_nsec / 1_000_000 - *SHIFT
}

/// Milliseconds by which this process's clock since boot is ahead of the machine's. It never changes.
static SHIFT: LazyLock<i64> = LazyLock::new(|| {
    let offsets = std::fs::read_to_string("/proc/self/timens_offsets");
    offsets.ok().and_then(|text| shift(&text)).unwrap_or_default()
});

/// Milliseconds of a tick, as the kernel tells times of processes.
const TICK: i64 = 10;

/// The line of that clock is `boottime SECONDS NANOSECONDS`.
fn shift(offsets: &str) -> Option<i64> {
    let mut words = offsets
        .lines()
        .map(str::split_whitespace)
        .find_map(|mut words| (words.next()? == "boottime").then_some(words))?;
    let (seconds, nanos): (i64, i64) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    Some(seconds * 1_000 + nanos / 1_000_000)
}

/// Milliseconds since boot after this time.
pub(crate) fn after(time: Duration) -> i64 {
    since_boot().saturating_add(i64::try_from(time.as_millis()).unwrap_or(i64::MAX))
}

/// Lets this thread sleep as long as it says: by default Linux adds up to 50 µs, as much as the short steps in which it
/// waits for a lock.
pub(crate) fn sleep_exactly() {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if let Err(error) = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1)) {
        tracing::debug!(%error, "the writing thread sleeps a little longer than it means to");
    }
}

/// The name of this boot; without one, leases of the boot before may have to run out first.
pub(crate) fn boot() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map_or_else(|_| String::new(), |id| id.trim().to_owned())
}

/// Wall-clock nanoseconds since 1970.
pub(crate) fn wall() -> i64 {
    crate::row::nanos(SystemTime::now())
}

/// Names this process so that others can see whether it lives: its number, when it started, and in which
/// namespace the number counts. Empty where that cannot be told.
pub(crate) fn this_process() -> String {
    let pid = std::process::id();
    match (namespace(), started(pid)) {
        (Some(namespace), Some(started)) => format!("{namespace}/{pid}/{started}"),
        _ => String::new(),
    }
}

/// Whether a process is known to be gone. One that cannot be told of is not: its lease decides.
pub(crate) fn is_gone(process: &str) -> bool {
    let mut parts = process.rsplitn(3, '/');
    let (Some(start), Some(pid), Some(space)) = (parts.next(), parts.next(), parts.next()) else {
        return false;
    };
    let (Ok(pid), Ok(start)) = (pid.parse(), start.parse::<i64>()) else { return false };
    // Taking off a shift may cost a tick.
    namespace().is_some_and(|mine| mine == space) && started(pid).is_none_or(|now| now.abs_diff(start) > 1)
}

fn namespace() -> Option<String> {
    let link = std::fs::read_link("/proc/self/ns/pid").ok()?;
    Some(link.to_string_lossy().into_owned())
}

/// When a process started, in ticks since the machine's boot; none if it is not there, or is dead and only not yet
/// collected.
fn started(pid: u32) -> Option<i64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the name in brackets, and may hold anything.
    let mut rest = stat.rsplit_once(')')?.1.split_whitespace();
    let state = rest.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    let ticks: i64 = rest.nth(18)?.parse().ok()?;
    Some(ticks - *SHIFT / TICK)
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_alive_and_one_that_ended_is_gone() {
        assert!(!is_gone(&this_process()));
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let name = format!("{}/{}/{}", namespace().unwrap(), child.id(), started(child.id()).unwrap());
        assert!(!is_gone(&name));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(is_gone(&name));
    }

    #[test]
    fn a_shifted_clock_is_told_by_the_line_of_the_time_since_boot() {
        let told = "monotonic          50         0\nboottime         -100 500000000\n";
        assert_eq!(shift(told), Some(-99_500));
        assert_eq!(shift("monotonic 50 0\n"), None);
    }

    #[test]
    fn a_process_of_another_namespace_is_not_said_to_be_gone() {
        assert!(!is_gone("pid:[1]/4294967/1"));
        assert!(!is_gone(""));
    }
}
