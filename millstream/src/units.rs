//! Times as they are spoken: `100.ms()`, `30.s()`.

use std::time::Duration;

/// Makes a [`Duration`] of a whole number.
///
/// ```
/// use std::time::Duration;
/// use millstream::Units;
/// assert_eq!(100.ms(), Duration::from_millis(100));
/// assert_eq!(30.s(), Duration::from_secs(30));
/// assert_eq!(5.mins(), Duration::from_secs(300));
/// assert_eq!(2.hours(), Duration::from_secs(7_200));
/// ```
pub trait Units {
    /// Milliseconds.
    fn ms(self) -> Duration;
    /// Seconds.
    fn s(self) -> Duration;
    /// Minutes.
    fn mins(self) -> Duration;
    /// Hours.
    fn hours(self) -> Duration;
}

impl Units for u32 {
    fn ms(self) -> Duration {
        Duration::from_millis(self.into())
    }
    fn s(self) -> Duration {
        Duration::from_secs(self.into())
    }
    fn mins(self) -> Duration {
        Duration::from_secs(u64::from(self) * 60)
    }
    fn hours(self) -> Duration {
        Duration::from_secs(u64::from(self) * 3_600)
    }
}
