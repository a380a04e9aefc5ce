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
use crate::layer::{Identity, Layer};
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

impl<X, S, A, K, M, O> Subscribable<S, A, (K, M, O)> for X
where
    X: IntoSubscription<A, K>,
    <X::Function as Shape<A>>::Future: Send,
    <<X::Function as Shape<A>>::Future as Future>::Output: IntoOutcome<O>,
    A: Args<S, M>,
    X::Layers: Layer<FunctionHandler<X::Function, A, S, M, O>>,
{
    fn prepare(self, state: S) -> Prepared {
        let Subscription { function, layers, options, .. } = self.into_subscription();
        Prepared {
            name: options.name.clone().unwrap_or_else(|| function_name(type_name::<X::Function>()).into()),
            options,
            work: work(layers.layer(FunctionHandler::new(function, state))),
            own_topic: A::First::own_topic,
            register: A::First::register,
            takes_batches: A::First::BATCH,
        }
    }
}

/// A function or a subscription of one. `K` marks which.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an async function of 1 to 8 arguments that returns an `Outcome`",
    label = "not a handler",
    note = "write `async fn name(event: YourEvent, …) -> Outcome`; shared state comes in as `State(x): State<X>`"
)]
pub trait IntoSubscription<A, K> {
    /// The function.
    type Function: Shape<A>;
    /// Its layers.
    type Layers;
    /// As a subscription.
    fn into_subscription(self) -> Subscription<Self::Function, A, Self::Layers>;
}

/// Marks a subscription.
#[derive(Debug)]
pub enum Whole {}

/// Marks a bare function.
#[derive(Debug)]
pub enum Bare {}

impl<F: Shape<A>, A, L> IntoSubscription<A, Whole> for Subscription<F, A, L> {
    type Function = F;
    type Layers = L;
    fn into_subscription(self) -> Self {
        self
    }
}

impl<F: Shape<A>, A> IntoSubscription<A, Bare> for F {
    type Function = F;
    type Layers = Identity;
    fn into_subscription(self) -> Subscription<F, A> {
        Subscription::new(self)
    }
}

/// A function's own name out of its type's: the last segment, and for a closure the function it stands in.
fn function_name(path: &str) -> &str {
    if path.starts_with("fn(") {
        return "handler";
    }
    let bare = path.find('<').map_or(path, |generics| &path[..generics]);
    let named = bare.trim_end_matches("::{{closure}}");
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
        assert_eq!(function_name("shop::main::{{closure}}::count"), "count");
        assert_eq!(function_name("bare"), "bare");
    }
}
