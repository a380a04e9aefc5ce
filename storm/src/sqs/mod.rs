//! A storm on SQS: the workers on two queues are broken on purpose, the server stands still, and the network between each
//! worker and the server is cut, half open or slow.
//!
//! The storm program starts the [`server`] itself, and stands as a [`proxy`](crate::proxy) between it and each worker. The
//! server keeps its messages in memory, so it is not killed: that would prove nothing. [`queues`] is what can be done to
//! all of them. In the end the [`judge`] holds the journals of the [`worker`]s against what is left in the queues, and in
//! that of the dead letters.

pub(crate) mod judge;
pub(crate) mod queues;
pub(crate) mod server;
pub(crate) mod worker;
