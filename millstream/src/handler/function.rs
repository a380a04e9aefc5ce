//! An async function as a [`Handler`].

use std::fmt;
use std::marker::PhantomData;

use super::{Args, Handler, IntoOutcome, Shape};
use crate::{Context, Outcome};

/// Makes of its parts neither a promise to hold them nor a demand on them.
type Kind<A, M, O> = fn() -> (A, M, O);

/// An async function with the state its extractors take from: the innermost [`Handler`] of a subscription.
///
/// `A` are its arguments, `M` and `O` mark the kinds of its first argument and of its outcome.
pub struct FunctionHandler<F, A, S, M, O> {
    function: F,
    state: S,
    kind: PhantomData<Kind<A, M, O>>,
}

impl<F, A, S, M, O> FunctionHandler<F, A, S, M, O> {
    /// The function on this state.
    pub fn new(function: F, state: S) -> Self {
        Self { function, state, kind: PhantomData }
    }
}

impl<F, A, S, M, O> Handler for FunctionHandler<F, A, S, M, O>
where
    F: Shape<A>,
    F::Future: Send,
    <F::Future as Future>::Output: IntoOutcome<O>,
    A: Args<S, M> + 'static,
    S: Send + Sync + 'static,
    M: 'static,
    O: 'static,
{
    async fn call(&self, context: &mut Context) -> Outcome {
        let arguments = A::extract(context, &self.state)?;
        self.function.call(arguments).await.into_outcome()
    }
}

impl<F, A, S, M, O> fmt::Debug for FunctionHandler<F, A, S, M, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FunctionHandler({})", std::any::type_name::<F>())
    }
}
