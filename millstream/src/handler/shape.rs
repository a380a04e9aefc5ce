//! What an async function must look like to be a handler, and how its arguments are had.

use super::FromDelivery;
use crate::{Context, Failure, FromContext};

/// An async function of 1 to 8 arguments, whatever they are. `A` is the tuple of them.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an async function of 1 to 8 arguments that returns an `Outcome`",
    label = "not a handler",
    note = "write `async fn name(event: YourEvent, …) -> Outcome`; shared state comes in as `State(x): State<X>`"
)]
pub trait Shape<A>: Send + Sync + Sized + 'static {
    /// What it returns.
    type Future: Future;
    /// Calls it.
    fn call(&self, arguments: A) -> Self::Future;
}

/// The arguments of a handler, as a tuple: the first one from the message, the others by extractors.
///
/// `S` is the bus's state, `M` marks the kind of the first argument.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the arguments of a handler on a bus whose state is `{S}`",
    note = "the first argument is an event, `Message`, `Bytes` or a `Batch` of these; the others are extractors"
)]
pub trait Args<S, M>: Sized {
    /// The first argument.
    type First: FromDelivery<M>;
    /// Takes them.
    ///
    /// # Errors
    /// The failure of the first one that cannot be had; the handler does not run then.
    fn extract(context: &mut Context, state: &S) -> Result<Self, Failure>;
}

macro_rules! arities {
    ($(($($name:ident)*))*) => {$(
        impl<F, Fut, First, $($name),*> Shape<(First, $($name,)*)> for F
        where
            F: Fn(First, $($name),*) -> Fut + Send + Sync + 'static,
            Fut: Future,
        {
            type Future = Fut;
            #[allow(non_snake_case, reason = "a type's name is its value's, too")]
            fn call(&self, (first, $($name,)*): (First, $($name,)*)) -> Fut {
                self(first, $($name),*)
            }
        }

        impl<S, M, First, $($name),*> Args<S, M> for (First, $($name,)*)
        where
            First: FromDelivery<M>,
            $($name: FromContext<S>,)*
        {
            type First = First;
            #[allow(unused_variables, reason = "without extractors there is nothing to take from the state")]
            fn extract(context: &mut Context, state: &S) -> Result<Self, Failure> {
                Ok((First::from_delivery(context)?, $($name::from_context(context, state)?,)*))
            }
        }
    )*};
}

arities! {
    ()
    (A)
    (A B)
    (A B C)
    (A B C D)
    (A B C D E)
    (A B C D E G)
    (A B C D E G H)
}
