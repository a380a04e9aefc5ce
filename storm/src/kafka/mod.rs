//! A storm on a Kafka cluster: three brokers and the members of a group are broken on purpose, and the network between
//! them.
//!
//! The storm program starts the [`brokers`] itself, and stands as a [`proxy`](crate::proxy) between them and one member.
//! Members are processes, each a [`worker`], together a [`crew`](crate::crew); [`cluster`] is what can be done to all of
//! them. A worker has no transaction that its effects could share with the acknowledgement: its journal tells them. In the
//! end the [`judge`] holds the journals against the [`logs`] that the brokers keep.

pub(crate) mod brokers;
pub(crate) mod cluster;
pub(crate) mod judge;
pub(crate) mod logs;
pub(crate) mod worker;
