//! Whether what a URL or a builder names is made.

/// Whether queues, topics and tables are made, looked for, or taken for granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Create {
    /// What is not there is made.
    #[default]
    Missing,
    /// What is not there is an error.
    Never,
    /// Only what has to be asked is asked, never settings: for users without the right to.
    Assume,
}
