//! What a handler may return.

use crate::Outcome;

/// What a handler may return: an [`Outcome`], `()`, or a `Result<(), E>` with any error. `M` marks which.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not what a handler returns",
    label = "not an outcome",
    note = "return `Outcome`, `()`, or `Result<(), E>` where `E` is an error; `anyhow::Result<()>` needs the feature `anyhow`"
)]
pub trait IntoOutcome<M> {
    /// As an outcome.
    fn into_outcome(self) -> Outcome;
}

/// Marks an [`Outcome`].
#[derive(Debug)]
pub enum ViaOutcome {}

/// Marks `()`.
#[derive(Debug)]
pub enum ViaUnit {}

/// Marks a `Result<(), E>`.
#[derive(Debug)]
pub enum ViaResult {}

/// Marks an `anyhow::Result<()>`.
#[cfg(feature = "anyhow")]
#[derive(Debug)]
pub enum ViaAnyhow {}

impl IntoOutcome<ViaOutcome> for Outcome {
    fn into_outcome(self) -> Outcome {
        self
    }
}

impl IntoOutcome<ViaUnit> for () {
    fn into_outcome(self) -> Outcome {
        Ok(())
    }
}

impl<E: std::error::Error + Send + Sync + 'static> IntoOutcome<ViaResult> for Result<(), E> {
    fn into_outcome(self) -> Outcome {
        Ok(self?)
    }
}

#[cfg(feature = "anyhow")]
impl IntoOutcome<ViaAnyhow> for anyhow::Result<()> {
    fn into_outcome(self) -> Outcome {
        self.map_err(crate::Failure::retry)
    }
}
