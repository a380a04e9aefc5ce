//! What a publish and its handling must at least do, by hand: make the id, encode, send through a bounded channel,
//! decode.

use bench_harness::{Latency, Took, measured, two_threads};
use std::hint::black_box;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use uuid::Uuid;
use uuid::fmt::Hyphenated;

use super::event::Tick;
use super::flow::{BATCH, Load, PACE, PACED_AT_ONCE};
use super::sink::Clocked;
use crate::Result;

/// As many messages as a topic of `memory://` holds by default.
const CAPACITY: usize = 100_000;

struct Message {
    id: [u8; Hyphenated::LENGTH],
    data: Vec<u8>,
}

impl Message {
    fn new(tick: &Tick) -> serde_json::Result<Self> {
        let mut id = [0; Hyphenated::LENGTH];
        Uuid::now_v7().hyphenated().encode_lower(&mut id);
        Ok(Self { id, data: serde_json::to_vec(tick)? })
    }
}

pub(super) fn run(messages: usize, load: Load) -> Result<(Took, Option<Latency>)> {
    let runtime = two_threads()?;
    let clock = Clocked::new(messages)?;
    let size = if load == Load::Batches { BATCH } else { 1 };
    let (sender, mut receiver) = mpsc::channel::<Vec<Message>>(CAPACITY / size);
    let handler = clock.clone();
    let handling = runtime.spawn(async move {
        while let Some(batch) = receiver.recv().await {
            for message in batch {
                let tick: Tick = serde_json::from_slice(&message.data)?;
                black_box(message.id);
                handler.arrived(&tick);
            }
        }
        Ok::<_, serde_json::Error>(())
    });
    let mut sent: Result = Ok(());
    let took = measured(Box::new(|| {
        sent = runtime.block_on(async {
            produce(&sender, &clock, messages, size, load).await?;
            clock.drained().await;
            Ok(())
        });
    }))?;
    drop(sender);
    sent.and(runtime.block_on(handling)?.map_err(Into::into))?;
    Ok((took, Some(clock.latency())))
}

async fn produce(
    sender: &mpsc::Sender<Vec<Message>>,
    clock: &Clocked,
    messages: usize,
    size: usize,
    load: Load,
) -> Result {
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for first in (0..messages).step_by(size) {
        if load == Load::Paced && first % PACED_AT_ONCE == 0 {
            pace.tick().await;
        }
        let at = clock.now();
        let last = (first + size).min(messages);
        let batch = (first..last).map(|number| Message::new(&Tick { number: number as u64, at }));
        sender.send(batch.collect::<Result<_, _>>()?).await?;
    }
    Ok(())
}
