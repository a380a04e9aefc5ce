//! Shared state for handlers.

use crate::{Context, Failure, FromContext};

/// Shared state, cloned for each run: the bus's own state, or a part of it that [`FromRef`] finds.
///
/// Keep what is costly to clone in an [`Arc`](std::sync::Arc).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct State<T>(pub T);

impl<S, T: FromRef<S>> FromContext<S> for State<T> {
    fn from_context(_: &mut Context, state: &S) -> Result<Self, Failure> {
        Ok(Self(T::from_ref(state)))
    }
}

/// A part of the bus's state. Every `Clone` type is a part of itself; for the parts of a struct:
///
/// ```
/// use millstream::FromRef;
///
/// #[derive(Clone)]
/// struct Mailer;
/// #[derive(Clone)]
/// struct App { mailer: Mailer }
///
/// impl FromRef<App> for Mailer {
///     fn from_ref(app: &App) -> Self {
///         app.mailer.clone()
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "the bus has no `{Self}` in its state `{S}`",
    label = "not in the bus's state",
    note = "give it with `.with_state(…)` before `.subscribe(…)`, or implement `FromRef<{S}>` for `{Self}`"
)]
pub trait FromRef<S> {
    /// Clones the part.
    fn from_ref(state: &S) -> Self;
}

impl<T: Clone> FromRef<T> for T {
    fn from_ref(state: &T) -> Self {
        state.clone()
    }
}
