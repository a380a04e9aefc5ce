//! The means to prove that Millstream, or a driver of your own, keeps its promises.
//!
//! | to | use |
//! |---|---|
//! | write down what happened, and have it judged | [`ledger`], [`invariants`] |
//! | test an engine against a broker with leases, partitions and rebalances | [`sim`] |
//! | test a program's own handlers, in process and on paused time | [`TestBus`] |
//! | write to nowhere, or fail on purpose | [`writers`] |
//! | prove that a driver keeps the contract | [`conformance`] |
//! | see that the proof can fail | [`planted`] |

pub mod conformance;
pub mod invariants;
pub mod ledger;
pub mod planted;
pub mod sim;
mod test_bus;
pub mod writers;

pub use test_bus::TestBus;
