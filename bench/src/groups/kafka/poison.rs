//! One message in a thousand cannot be decoded and becomes a dead letter: how much slower the others are.

use super::beside_raw::messages;
use super::{GROUP, Topic, bench};
use crate::Result;
use crate::groups::program::{interleaved, told};
use crate::groups::sqlite::Scale;
use crate::row::{Goal, Row};

const EVERY: usize = 1_000;
const SIZE: usize = 100;

pub(super) fn run(scale: Scale) -> Result<Vec<Row>> {
    let messages = messages(scale, SIZE);
    let sound = messages - messages / EVERY;
    let clean = Topic::filled(12, messages, SIZE)?;
    let spoilt = Topic::new(12)?;
    bench(["fill", &spoilt.0]).arg(messages).arg(SIZE).arg("--poison").arg(EVERY).quiet()?;
    let run = |topic: &Topic, wanted: usize| bench(["consume", "toolkit", &topic.0]).arg(wanted).outcome();
    run(&clean, messages)?;
    let [clean, rest] = interleaved([messages, sound], scale.rounds(), || {
        Ok([run(&clean, messages)?, run(&spoilt, sound)?])
    })?;
    Ok(vec![
        Row::new(GROUP, "read beside 1 undecodable message in 1,000", rest.rate(), "messages a second")
            .beside("none of them", clean.rate())
            .goal(Goal::AtLeast(0.9))
            .detail(format!(
                "typed, 100 B, 12 partitions, until all is committed and each of the others is a confirmed dead letter; \
                 {}; {}",
                told("with", &rest),
                told("without", &clean)
            )),
    ])
}
