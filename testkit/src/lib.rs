//! The means to prove that Millstream, or a driver of your own, keeps its promises.
//!
//! | to | use |
//! |---|---|
//! | write down what happened, and have it judged | [`ledger`], [`invariants`] |
//! | test an engine against a broker with leases, partitions and rebalances | [`sim`] |
//! | test a program's own handlers, in process and on paused time | [`TestBus`] |
//! | write to nowhere, or fail on purpose | [`writers`] |
//! | prove that a driver keeps the contract | [`conformance`] |
//! | drop a future at every poll, and see what it leaves | [`cancel`] |
//! | compare a deduplication store with a model | [`store_model`] |
//! | see that the proof can fail | [`planted`] |

pub mod cancel;
pub mod conformance;
pub mod invariants;
pub mod ledger;
pub mod planted;
pub mod sim;
pub mod store_model;
mod test_bus;
pub mod writers;

pub use test_bus::TestBus;
