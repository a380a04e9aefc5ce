//! The drivers of Millstream for Amazon's services, on the AWS SDK.

mod aws;
mod connections;
mod errors;
mod io;
mod retry;
mod url;

pub use aws::{Aws, AwsBuilder};
