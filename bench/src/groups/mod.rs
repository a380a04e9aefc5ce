//! What is measured, a file a group.

pub(crate) mod aws;
mod build;
mod consume;
pub(crate) mod kafka;
mod layers;
mod memory;
mod program;
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
    /// `kafka://` on a real broker, beside the raw client and peers. Only if it is named: it needs a broker.
    Kafka,
    /// `sqs://` and reservations in DynamoDB, beside the SDK alone. Only if it is named: it needs servers.
    Aws,
    /// A clean release build.
    Build,
}

/// A part of a group that can be measured alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Sqlite(sqlite::Step),
    Kafka(kafka::Step),
    Aws(aws::Step),
}

impl Step {
    /// Reads it from the command line.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let of_sqlite = || sqlite::Step::from_str(text, false).map(Self::Sqlite);
        let of_kafka = || kafka::Step::from_str(text, false).map(Self::Kafka);
        let of_aws = || aws::Step::from_str(text, false).map(Self::Aws);
        of_sqlite().or_else(|_| of_kafka()).or_else(|_| of_aws()).map_err(|_| {
            fn names<S: ValueEnum>(group: Group) -> String {
                let names = S::value_variants().iter().filter_map(ValueEnum::to_possible_value);
                let names: Vec<_> = names.map(|value| value.get_name().to_owned()).collect();
                format!("{} has {}", group.name(), names.join(", "))
            }
            let all = [
                names::<sqlite::Step>(Group::Sqlite),
                names::<kafka::Step>(Group::Kafka),
                names::<aws::Step>(Group::Aws),
            ];
            format!("there is no such step; {}", all.join("; "))
        })
    }
}

impl Group {
    /// As it is written on the command line.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Those that are measured if none is named.
    pub(crate) fn usual() -> Vec<Self> {
        Self::value_variants()
            .iter()
            .copied()
            .filter(|group| !matches!(group, Self::Kafka | Self::Aws))
            .collect()
    }

    /// Measures.
    pub(crate) fn run(self, scale: sqlite::Scale, steps: &[Step]) -> Result<Vec<Row>> {
        match self {
            Self::Consume => consume::run(),
            Self::Layers => layers::run(),
            Self::Publish => publish::run(),
            Self::Memory => memory::run(),
            Self::Scale => scale::run(),
            Self::Sqlite => {
                let own = |step: &Step| if let Step::Sqlite(step) = step { Some(*step) } else { None };
                sqlite::run(scale, &steps.iter().filter_map(own).collect::<Vec<_>>())
            }
            Self::Kafka => {
                let own = |step: &Step| if let Step::Kafka(step) = step { Some(*step) } else { None };
                kafka::run(scale, &steps.iter().filter_map(own).collect::<Vec<_>>())
            }
            Self::Aws => {
                let own = |step: &Step| if let Step::Aws(step) = step { Some(*step) } else { None };
                aws::run(scale, &steps.iter().filter_map(own).collect::<Vec<_>>())
            }
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
