//! The cases, by what they are about.

mod cancel;
mod delivery;
mod groups;
mod leases;
mod lifecycle;
mod order;
mod partitions;
mod settling;
mod writing;

use millstream_core::{Capabilities, SettleMode, WriterCapabilities};

use super::{Case, Need};

pub(super) fn all() -> Vec<Case> {
    [
        delivery::cases(),
        cancel::cases(),
        lifecycle::cases(),
        groups::cases(),
        order::cases(),
        settling::cases(),
        leases::cases(),
        partitions::cases(),
        writing::cases(),
    ]
    .concat()
}

/// A case from its function: `case!(file::function, needs, "the rule (where it is written)")`.
macro_rules! case {
    ($file:literal, $run:ident, $needs:expr, $contract:literal) => {
        $crate::conformance::Case {
            name: concat!($file, "::", stringify!($run)),
            contract: $contract,
            needs: $needs,
            run: |world| Box::pin($run(world)),
        }
    };
}
use case;

fn always(_: &Capabilities, _: &WriterCapabilities) -> Need {
    Need::Applies
}

fn need(condition: bool, why: &'static str) -> Need {
    if condition { Need::Applies } else { Need::NotApplicable(why) }
}

fn groups(can: &Capabilities, _: &WriterCapabilities) -> Need {
    need(can.groups, "it has no groups")
}

fn individual(can: &Capabilities, _: &WriterCapabilities) -> Need {
    need(can.settle == SettleMode::Individual, "it settles by position")
}

fn partitioned(can: &Capabilities, _: &WriterCapabilities) -> Need {
    need(can.partitions, "it has no partitions")
}

fn leased(can: &Capabilities, _: &WriterCapabilities) -> Need {
    need(can.lease.is_some(), "it has no leases")
}

fn browsing(can: &Capabilities, _: &WriterCapabilities) -> Need {
    need(can.browse, "it cannot be read without a group")
}
