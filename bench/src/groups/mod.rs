//! What is measured, a file a group.

mod build;
mod consume;
mod layers;
mod memory;
mod publish;
mod scale;
pub(crate) mod sqlite;

use clap::ValueEnum;

use crate::Result;
use crate::row::Row;

/// A group of figures that are measured together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Group {
    /// From the broker to the end of the handler, beside `ruststream`.
    Consume,
    /// Layers around a handler.
    Layers,
    /// Publishing one typed event in process, beside `ruststream`.
    Publish,
    /// From published to handled through `memory://`, beside a bare loop.
    Memory,
    /// Many subscriptions, many keys.
    Scale,
    /// Durable messages in a file, beside the least that the disk takes.
    Sqlite,
    /// A clean release build.
    Build,
}

impl Group {
    /// As it is written on the command line.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Measures.
    pub(crate) fn run(self, scale: sqlite::Scale, steps: &[sqlite::Step]) -> Result<Vec<Row>> {
        match self {
            Self::Consume => consume::run(),
            Self::Layers => layers::run(),
            Self::Publish => publish::run(),
            Self::Memory => memory::run(),
            Self::Scale => scale::run(),
            Self::Sqlite => sqlite::run(scale, steps),
            Self::Build => build::run(),
        }
    }
}

/// Whom consuming, layers and publishing are measured against: the programs of `bench/ruststream`.
mod ruststream {
    use crate::subject::Subject;

    /// The version is pinned in its `Cargo.toml`.
    pub(super) const NAME: &str = "ruststream 0.7.7";
    pub(super) const SEQUENTIAL: Subject = Subject::Peer("ruststream-sequential");
    pub(super) const FOUR: Subject = Subject::Peer("ruststream-four");
    pub(super) const FOUR_ACROSS: Subject = Subject::Peer("ruststream-four-across");
    pub(super) const LAYERS: Subject = Subject::Peer("ruststream-layers");
    pub(super) const PUBLISH: Subject = Subject::Peer("ruststream-publish");
}

/// Said where valgrind is missing.
const NO_VALGRIND: &str = "valgrind is not installed";
