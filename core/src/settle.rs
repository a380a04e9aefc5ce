//! How a delivery ends: a verdict, what goes with it, and what became of it.

use std::time::Duration;

use crate::{Effect, Effects, Error, Message, ParkNote, Token};

/// What is to become of a delivery.
#[derive(Debug)]
#[non_exhaustive]
pub enum Verdict {
    /// It is done: never deliver it to this group again.
    Ack,
    /// Deliver it again, not before this time has passed. Counts as a delivery.
    /// Only for drivers with [`Capabilities::retry_after`](crate::Capabilities).
    Retry {
        /// How long to wait.
        after: Duration,
    },
    /// Deliver it again at once, to anyone of the group: it was not started. A driver that can leaves its
    /// delivery count as it was.
    Release,
    /// Set it aside with its key, durably. Only for drivers with [`Parking::Native`](crate::Parking).
    Park(Box<Park>),
    /// It is a dead letter: store this message (the original with the `millstream-dl-*` headers) and
    /// acknowledge, as one. Only for drivers with [`DeadLetters::Native`](crate::DeadLetters).
    Dead(Box<Message>),
}

/// How long a message is parked, and what is kept with it.
///
/// A driver that parks natively delivers nothing of this key to the group before the head of the key's park
/// is due, and then delivers the park's messages in their order, each once the one before it was settled
/// with an [`Ack`](Verdict::Ack) or [`Dead`](Verdict::Dead); only then newer messages of the key. Their deliveries
/// are counted anew. One that is given back after it came out of the park comes again with its note.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Park {
    /// Due after this; `None`: behind those of its key that are parked already.
    pub after: Option<Duration>,
    /// Its history.
    pub note: ParkNote,
}

/// One delivery to be settled.
#[derive(Debug)]
#[non_exhaustive]
pub struct Settlement {
    /// Which.
    pub token: Token,
    /// How.
    pub verdict: Verdict,
    // Beside it, since few have any: a settlement without is small and quickly moved.
    along: Option<Box<Along>>,
}

/// What a settlement takes along: it happens in one transaction with it, or not at all.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Along {
    /// Others that were handled together with it, as one batch: they end as it does, in the same transaction. If one
    /// of them is no longer ours, nothing of all this happens and the outcome is [`Lost`](Settled::Lost). Only for
    /// drivers with [`Capabilities::atomic_emit`](crate::Capabilities) or
    /// [`Capabilities::effects`](crate::Capabilities), and only with [`Verdict::Ack`]; empty otherwise.
    pub others: Vec<Token>,
    /// Messages to be written. Only for drivers with [`Capabilities::atomic_emit`](crate::Capabilities); empty for all
    /// others.
    pub emit: Vec<Message>,
    /// Work of the driver's own kind. Only for drivers with [`Capabilities::effects`](crate::Capabilities); empty for
    /// all others.
    pub effects: Effects,
}

impl Settlement {
    /// A settlement that takes nothing along.
    #[inline]
    pub fn new(token: Token, verdict: Verdict) -> Self {
        Self { token, verdict, along: None }
    }

    /// An acknowledgement that takes nothing along.
    #[inline]
    pub fn ack(token: Token) -> Self {
        Self::new(token, Verdict::Ack)
    }

    /// Whether it takes anything along.
    #[inline]
    #[must_use]
    pub fn takes_along(&self) -> bool {
        self.along.as_ref().is_some_and(|along| {
            !along.others.is_empty() || !along.emit.is_empty() || !along.effects.is_empty()
        })
    }

    /// [`Along::others`].
    pub fn others(&self) -> &[Token] {
        self.along.as_ref().map_or(&[], |along| &along.others)
    }

    /// [`Along::emit`].
    #[must_use]
    pub fn emit(&self) -> &[Message] {
        self.along.as_ref().map_or(&[], |along| &along.emit)
    }

    /// [`Along::effects`].
    #[must_use]
    pub fn effects(&self) -> &[Effect] {
        self.along.as_ref().map_or(&[], |along| &along.effects)
    }

    /// What it takes along, to add to it or to take from it.
    pub fn along_mut(&mut self) -> &mut Along {
        self.along.get_or_insert_default()
    }
}

/// What became of a settlement. Only [`Done`](Settled::Done) is success.
#[derive(Debug)]
#[non_exhaustive]
pub enum Settled {
    /// The broker confirmed it.
    Done,
    /// The delivery was no longer ours (lease over, partition revoked, channel closed): it comes again, to
    /// us or to another. Counted, never success.
    Lost,
    /// It failed and nothing of it happened: here it is again, to be sent once more.
    Failed {
        /// Why.
        error: Error,
        /// What was not done.
        settlement: Box<Settlement>,
    },
    /// Its effects failed: just this message's part was undone, and the delivery is still ours. It counts as a
    /// failed attempt of the handler, and will be settled again with tokens of the same ids.
    EffectsFailed(Error),
    /// Whether it happened is not known. Never success and never drop: the message may come again.
    ///
    /// What the settlement took along may then not have happened either. A driver that commits effects or emitted
    /// messages with a settlement and keeps order answers [`Lost`](Self::Lost) to what it has delivered of the key
    /// since, and delivers that again behind this one: or the later effects would stand before the earlier.
    Unknown(Error),
}

impl Settled {
    /// Whether the broker confirmed it.
    #[inline]
    #[must_use]
    pub fn is_done(&self) -> bool {
        matches!(self, Self::Done)
    }
}
