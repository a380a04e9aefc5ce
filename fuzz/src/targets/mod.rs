//! The targets: a file each.

mod attribute;
mod cloudevents;
mod codecs;
mod content_type;
mod dead_letter;
mod filter;
mod headers;
mod ids;
mod letters;
mod lines;
mod message;
mod moment;
mod ndjson;
mod object_line;
mod park;
mod protobuf;
mod sqlite;
mod sqlite_file;
mod sqlite_row;
mod sqlite_slot;
mod sqlite_url;
mod sqs_message;
mod subscription;
mod terminal;
mod topic;
mod url;
mod wire_json;

use std::path::PathBuf;

use crate::bounds;

/// Something that takes any bytes.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// As the program in `fuzz_targets/` and the folder in `corpus/` are called.
    pub name: &'static str,
    run: fn(&[u8]),
    seeds: fn() -> Vec<Vec<u8>>,
}

impl Target {
    const fn new(name: &'static str, run: fn(&[u8]), seeds: fn() -> Vec<Vec<u8>>) -> Self {
        Self { name, run, seeds }
    }

    /// Before the first input. What is made once, such as a file that all inputs share, counts for none of them; and
    /// the seeds are written to the folder that `MILLSTREAM_FUZZ_SEEDS` names, for libFuzzer to begin with.
    ///
    /// # Panics
    /// If that folder cannot be written.
    pub fn warm_up(&self) {
        let folder = std::env::var_os("MILLSTREAM_FUZZ_SEEDS").map(PathBuf::from);
        for (number, seed) in self.seeds().iter().enumerate() {
            (self.run)(seed);
            if let Some(folder) = &folder {
                std::fs::write(folder.join(format!("seed-{number:03}")), seed).expect("the seed is written");
            }
        }
    }

    /// Runs it on an input, within the bounds.
    ///
    /// # Panics
    /// If anything does not hold that must.
    pub fn check(&self, data: &[u8]) {
        bounds::within(data.len(), || (self.run)(data));
    }

    /// Inputs to begin with, made of real encodings.
    #[must_use]
    pub fn seeds(&self) -> Vec<Vec<u8>> {
        (self.seeds)()
    }
}

/// All of them, by name.
pub const ALL: &[Target] = &[
    attribute::TARGET,
    cloudevents::TARGET,
    codecs::CBOR,
    codecs::JSON,
    codecs::MSGPACK,
    codecs::RAW,
    content_type::TARGET,
    dead_letter::TARGET,
    filter::TARGET,
    headers::TARGET,
    ids::TARGET,
    lines::TARGET,
    message::TARGET,
    moment::TARGET,
    ndjson::TARGET,
    object_line::TARGET,
    park::TARGET,
    protobuf::TARGET,
    sqlite_file::TARGET,
    sqlite_row::TARGET,
    sqlite_slot::TARGET,
    sqlite_url::TARGET,
    sqs_message::TARGET,
    subscription::TARGET,
    terminal::TARGET,
    topic::TARGET,
    url::TARGET,
    wire_json::TARGET,
];

/// The target of this name.
///
/// # Panics
/// If there is none.
#[must_use]
pub fn target(name: &str) -> &'static Target {
    let found = ALL.iter().find(|target| target.name == name);
    found.unwrap_or_else(|| panic!("there is no target {name}"))
}

/// Runs a future to its end, on paused time: waits take none.
fn wait<F: Future>(future: F) -> F::Output {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
    }
    RUNTIME.with(|runtime| runtime.block_on(future))
}

/// Runs a future to its end, on the system's time.
fn wait_for_real<F: Future>(future: F) -> F::Output {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    }
    RUNTIME.with(|runtime| runtime.block_on(future))
}
