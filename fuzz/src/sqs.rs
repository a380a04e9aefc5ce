//! Files of the SQS driver, built in as they are, under the names by which they know each other.
#![allow(dead_code, unreachable_pub, clippy::all, reason = "a target uses its own part of them")]

#[path = "../../drivers/aws/src/sqs/names.rs"]
pub(crate) mod names;
#[path = "../../drivers/aws/src/sqs/wire.rs"]
pub(crate) mod wire;
