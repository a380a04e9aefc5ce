//! The toolkit beside other toolkits: each with the settings that make it safe, and with as many messages as it does in
//! some seconds.

use bench_harness::Outcome;

use super::beside_raw::messages;
use super::{GROUP, Topic, bench};
use crate::Result;
use crate::groups::program::{Program, interleaved, told};
use crate::groups::sqlite::Scale;
use crate::row::{Goal, Row};

/// A variable that names a program, or says why there is none.
struct Peer {
    name: &'static str,
    program: Option<Program>,
}

impl Peer {
    /// One that lies beside this program.
    fn beside(name: &'static str, program: &str) -> Result<Self> {
        Ok(Self { name, program: Some(Program::beside(program)?).filter(Program::exists) })
    }

    /// One that is named by a variable.
    fn named(name: &'static str, variable: &str) -> Self {
        let path = std::env::var_os(variable).map(Into::into);
        Self { name, program: path.map(Program::at).filter(Program::exists) }
    }

    fn left_out(&self, what: &str) -> Row {
        Row::left_out(GROUP, format!("{what} beside {}", self.name), "its program could not be built")
    }
}

const SIZE: usize = 100;
const PARTITIONS: u32 = 12;

pub(super) fn run(scale: Scale) -> Result<Vec<Row>> {
    let ruststream = Peer::beside("ruststream-rdkafka 0.7.1, Commit::Tracked", "bench-ruststream-rdkafka")?;
    let watermill = Peer::named("Watermill 1.5.2 with watermill-kafka 3.1.2", "MILLSTREAM_BENCH_WATERMILL");
    // Go's proxy gave no module of the original: this is the loop of its reader, on its client.
    let kafka_go =
        Peer::named("kafka-go 0.4.39, a commit each, as the original", "MILLSTREAM_BENCH_KAFKA_GO");
    let all = messages(scale, SIZE);
    let topic = Topic::filled(PARTITIONS, all, SIZE)?;
    let mut rows = consume(scale, &topic, all, &ruststream, all, [], 2.0)?;
    rows.extend(consume(scale, &topic, all, &watermill, all / 4, ["consume"], 3.0)?);
    rows.extend(consume(scale, &topic, all, &kafka_go, all / 100, ["consume"], 50.0)?);
    rows.extend(publish(scale, &watermill)?);
    Ok(rows)
}

fn consume<const N: usize>(
    scale: Scale,
    topic: &Topic,
    all: usize,
    peer: &Peer,
    theirs: usize,
    mode: [&str; N],
    goal: f64,
) -> Result<Vec<Row>> {
    let Some(program) = &peer.program else { return Ok(vec![peer.left_out("read and committed")]) };
    let program = mode.into_iter().fold(program.clone(), Program::arg).arg(&topic.0).arg(theirs);
    let ours = || bench(["consume", "toolkit", &topic.0]).arg(all).outcome();
    pair(scale, peer, "read and committed, typed", (all, theirs), goal, || Ok([ours()?, program.outcome()?]))
}

/// Batches of 100, one after the other.
fn publish(scale: Scale, peer: &Peer) -> Result<Vec<Row>> {
    let Some(program) = &peer.program else { return Ok(vec![peer.left_out("published in batches of 100")]) };
    let (all, theirs) = (messages(scale, SIZE) / 4, 10_000);
    let ours = |topic: &Topic| {
        let program = bench(["produce", "toolkit", &topic.0]).arg(all).arg(SIZE);
        program.arg("--batch").arg(100).arg("--outstanding").arg(1).outcome()
    };
    pair(scale, peer, "published in batches of 100, typed", (all, theirs), 10.0, || {
        let topic = Topic::new(PARTITIONS)?;
        Ok([ours(&topic)?, program.clone().arg("publish").arg(&topic.0).arg(theirs).outcome()?])
    })
}

fn pair(
    scale: Scale,
    peer: &Peer,
    what: &str,
    (ours, theirs): (usize, usize),
    goal: f64,
    round: impl FnMut() -> Result<[Outcome; 2]>,
) -> Result<Vec<Row>> {
    let [ours, theirs] = interleaved([ours, theirs], scale.rounds(), round)?;
    Ok(vec![
        Row::new(GROUP, what, ours.rate(), "messages a second")
            .beside(peer.name, theirs.rate())
            .goal(Goal::AtLeast(goal))
            .detail(format!("100 B, 12 partitions; {}; {}", told("toolkit", &ours), told("peer", &theirs))),
    ])
}
