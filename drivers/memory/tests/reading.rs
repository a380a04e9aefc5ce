//! How a read behaves as a future: its limits, and being cut off at any moment.

mod common;

use common::*;
use millstream_core::{Message, ReadLimits, Source, Verdict};
use millstream_memory::MemoryBroker;

#[tokio::test]
async fn a_read_keeps_to_its_limits_but_one_message_always_fits() {
    let broker = MemoryBroker::new();
    let mut a = member(&broker).await;
    write(&broker, [10, 10, 10, 50, 1].map(|bytes| Message::new(TOPIC, vec![b'x'; bytes]))).await;

    let mut sizes = Vec::new();
    for limits in
        [ReadLimits::new(9, 20), ReadLimits::new(1, 100), ReadLimits::new(9, 5), ReadLimits::new(9, 0)]
    {
        let mut into = Vec::new();
        a.source.read(&mut into, limits).await.unwrap();
        sizes.push(into.iter().map(|d| d.message.size()).collect::<Vec<_>>());
    }

    assert_eq!(sizes, [vec![10, 10], vec![10], vec![50], vec![1]]);
}

#[tokio::test]
async fn limits_hold_for_what_comes_again_too() {
    let broker = MemoryBroker::new();
    let mut a = member(&broker).await;
    write(&broker, ["1", "2", "3"].map(|t| keyed("k", t))).await;
    for delivery in a.read(9).await {
        a.done(delivery, Verdict::Release).await;
    }

    let size = keyed("k", "1").size();
    let mut into = Vec::new();
    a.source.read(&mut into, ReadLimits::new(9, 2 * size)).await.unwrap();

    assert_eq!(texts(&into), ["1", "2"]);
}

#[tokio::test]
async fn a_read_for_nothing_takes_nothing() {
    let broker = MemoryBroker::new();
    let mut a = member(&broker).await;
    write(&broker, [message("1")]).await;

    let mut into = Vec::new();
    assert!(at_once(a.source.read(&mut into, ReadLimits::NOTHING)).await.is_none());

    assert!(into.is_empty());
    assert_eq!(texts(&a.now(1).await), ["1"]);
}

#[tokio::test]
async fn deliveries_are_pushed_behind_what_is_there() {
    let broker = MemoryBroker::new();
    let mut a = member(&broker).await;
    write(&broker, ["1", "2"].map(message)).await;

    let mut into = a.read(1).await;
    a.source.read(&mut into, limits(1)).await.unwrap();

    assert_eq!(texts(&into), ["1", "2"]);
}

#[tokio::test(start_paused = true)]
async fn a_read_that_is_cut_off_at_any_step_loses_nothing() {
    let broker = MemoryBroker::new();
    let (mut a, mut b) = (member(&broker).await, member(&broker).await);
    let mut got = Vec::new();
    let mut polled = 0;

    // Each step changes something that a pending read could have been woken by; the last only drain.
    for step in 0..110 {
        for member in [&mut a, &mut b] {
            let mut into = Vec::new();
            polled += u32::from(at_once(member.source.read(&mut into, limits(2))).await.is_none());
            for delivery in into {
                if delivery.deliveries == 1 && step % 3 == 0 {
                    member.done(delivery, retry(SECOND)).await;
                } else {
                    got.push(text(&delivery.message).to_owned());
                    member.ack(delivery).await;
                }
            }
        }
        if step % 2 == 0 && step < 100 {
            write(&broker, [keyed(&format!("{}", step % 4), &step.to_string())]).await;
        } else {
            tokio::time::advance(SECOND).await;
        }
    }

    assert!(polled > 20, "reads were pending, and cut off");
    got.sort_by_key(|text| text.parse::<u32>().unwrap());
    assert_eq!(got, (0..100).step_by(2).map(|i: u32| i.to_string()).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_wake_up_of_a_read_that_was_cut_off_is_not_lost_on_others() {
    let broker = MemoryBroker::new();
    let (mut a, mut b) = (member(&broker).await, member(&broker).await);
    let reading = tokio::spawn(async move { text(&b.one().await.message).to_owned() });
    tokio::task::yield_now().await;
    assert!(a.now(1).await.is_empty());

    write(&broker, [message("1")]).await;

    assert_eq!(reading.await.unwrap(), "1");
}
