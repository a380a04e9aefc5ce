//! From a handler with its options to what the scheduler runs: here the bus's state meets the function, and the
//! handler is erased.

use std::any::type_name;
use std::fmt;
use std::sync::Arc;

use millstream_core::{ByteString, Error, ErrorKind, Result};

use super::{Options, Subscription};
use crate::EventRegistry;
use crate::engine::{Work, work};
use crate::handler::{Args, FromDelivery, FunctionHandler, IntoOutcome, Shape};
use crate::layer::Layer;
use crate::policy::Batching;

/// What can be subscribed on a bus whose state is `S`: a handler function, or a [`Subscription`] of one.
///
/// Implemented for all of them; there is nothing to implement. `A` are the function's arguments, `M` marks the
/// kinds of its first argument and of its outcome.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an async function of 1 to 8 arguments that returns an `Outcome`",
    label = "not a handler",
    note = "write `async fn name(event: YourEvent, …) -> Outcome`; shared state comes in as `State(x): State<X>`"
)]
pub trait Subscribable<S, A, M>: Sized {
    /// Joins it with the state.
    #[doc(hidden)]
    fn prepare(self, state: S) -> Prepared;
}

/// Marks a bare function: without it the compiler could not tell it from a subscription.
#[derive(Debug)]
pub enum Bare {}

/// A handler without its type, and what its type said.
#[doc(hidden)]
pub struct Prepared {
    pub(crate) options: Options,
    pub(crate) work: Arc<dyn Work>,
    pub(crate) name: ByteString,
    pub(crate) own_topic: fn(&EventRegistry) -> Result<ByteString>,
    pub(crate) register: fn(&EventRegistry, &ByteString) -> Result<()>,
    takes_batches: bool,
}

impl Prepared {
    /// Makes the batch option and the handler's first argument agree.
    pub(crate) fn settle_batch(&mut self) -> Result<()> {
        let policy = &mut self.options.policy;
        match (self.takes_batches, policy.batch) {
            (true, None) => {
                let default = Batching::default();
                policy.batch = Some(Batching::new(default.max.min(policy.max_in_flight), default.within));
                Ok(())
            }
            // Its handler would see the first message of each batch, and the others would vanish.
            (false, Some(_)) => Err(Error::new(
                ErrorKind::InvalidConfig,
                format!("`.batch(…)` is set, but the handler `{}` takes one message at a time", self.name),
            )
            .fix("take `Batch<…>` as its first argument, or leave `.batch(…)` out")),
            _ => Ok(()),
        }
    }
}

impl<F, A, L, S, M, O> Subscribable<S, A, (M, O)> for Subscription<F, A, L>
where
    F: Shape<A>,
    F::Future: Send,
    <F::Future as Future>::Output: IntoOutcome<O>,
    A: Args<S, M>,
    L: Layer<FunctionHandler<F, A, S, M, O>>,
{
    fn prepare(self, state: S) -> Prepared {
        let handler = self.layers.layer(FunctionHandler::new(self.function, state));
        Prepared {
            name: self.options.name.clone().unwrap_or_else(|| function_name(type_name::<F>()).into()),
            options: self.options,
            work: work(handler),
            own_topic: A::First::own_topic,
            register: A::First::register,
            takes_batches: A::First::BATCH,
        }
    }
}

impl<F, A, S, M, O> Subscribable<S, A, (Bare, M, O)> for F
where
    F: Shape<A>,
    F::Future: Send,
    <F::Future as Future>::Output: IntoOutcome<O>,
    A: Args<S, M>,
    crate::layer::Identity: Layer<FunctionHandler<F, A, S, M, O>>,
{
    fn prepare(self, state: S) -> Prepared {
        Subscription::new(self).prepare(state)
    }
}

/// A function's own name out of its type's: the last segment, and for a closure the function it stands in.
fn function_name(path: &str) -> &str {
    if path.starts_with("fn(") {
        return "handler";
    }
    let bare = path.find('<').map_or(path, |generics| &path[..generics]);
    let named = bare.find("::{{closure}}").map_or(bare, |closure| &bare[..closure]);
    let start = named.rfind("::").map_or(0, |colons| colons + 2);
    &bare[start..]
}

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prepared")
            .field("name", &self.name)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handlers_name_is_its_functions() {
        assert_eq!(function_name("shop::mail::send_welcome"), "send_welcome");
        assert_eq!(function_name("shop::mail::relay<shop::Paid>"), "relay");
        assert_eq!(function_name("shop::main::{{closure}}"), "main::{{closure}}");
        assert_eq!(function_name("shop::main::{{closure}}::{{closure}}"), "main::{{closure}}::{{closure}}");
        assert_eq!(function_name("bare"), "bare");
    }
}
