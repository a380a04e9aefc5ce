//! What rides along with an acknowledgement: work of a driver's own kind, erased on its way through the toolkit.

use std::any::Any;
use std::fmt;

/// One piece of work for the driver to do in the transaction that acknowledges, such as an SQL statement.
///
/// A driver's own extractor puts it in, the same driver's [`Settler`](crate::Settler) takes it out by type.
pub struct Effect(Box<dyn Any + Send>);

impl Effect {
    /// Wraps a value of the driver's own type.
    pub fn new<T: Any + Send>(value: T) -> Self {
        Self(Box::new(value))
    }

    /// Takes the value out, if it is of that type.
    ///
    /// # Errors
    /// Gives itself back if it is of another.
    pub fn downcast<T: Any>(self) -> Result<T, Self> {
        self.0.downcast().map(|v| *v).map_err(Self)
    }

    /// Looks at the value, if it is of that type.
    #[must_use]
    pub fn downcast_ref<T: Any>(&self) -> Option<&T> {
        self.0.downcast_ref()
    }
}

impl fmt::Debug for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Effect(..)")
    }
}

/// The effects of one message, in the order they were queued. Empty ones do not allocate.
pub type Effects = Vec<Effect>;
