//! The memory driver, used by several threads at once.
//!
//! Time stands still: what waits for more than a wake-up waits for ever, and `shuttle` reports it as a deadlock.
#![allow(dead_code, unreachable_pub, reason = "the sources are built for more than these cases")]

#[path = "../../../drivers/memory/src/admin.rs"]
mod admin;
#[path = "../../../drivers/memory/src/broker.rs"]
mod broker;
#[path = "../../../drivers/memory/src/group.rs"]
mod group;
#[path = "../../../drivers/memory/src/lane.rs"]
mod lane;
#[path = "../../../drivers/memory/src/log.rs"]
mod log;
#[path = "../../../drivers/memory/src/positions.rs"]
mod positions;
#[path = "../../../drivers/memory/src/reader.rs"]
mod reader;
#[path = "../../../drivers/memory/src/topic.rs"]
mod topic;
#[path = "../../../drivers/memory/src/writer.rs"]
mod writer;
mod sync {
    pub(crate) use shuttle::sync::atomic::{AtomicBool, Ordering};
    pub(crate) use shuttle::sync::{Mutex, MutexGuard, RwLock};
}

use std::collections::BTreeMap;
use std::sync::Arc;

use admin::MemoryAdmin;
use broker::MemoryBroker;
use millstream_core::{
    Delivery, ErrorKind, Exclusivity, Message, OpenRequest, Opened, Read, ReadLimits, Reader, Settled,
    Settlement, Settler, Source, Verdict, WriteNow, Writer,
};
use millstream_schedules::explore;
use reader::{MemoryReader, MemorySettler, MemorySource};
use shuttle::future::block_on;
use shuttle::thread::{self, JoinHandle};
use writer::MemoryWriter;

const TOPIC: &str = "t";

fn request() -> OpenRequest {
    OpenRequest::new(TOPIC).group("g")
}

async fn open(broker: &MemoryBroker, request: OpenRequest) -> (MemorySource, MemorySettler) {
    match broker.reader().open(request).await {
        Ok(Opened { source, settler, .. }) => (source, settler),
        Err(error) => panic!("{error}"),
    }
}

fn message(writer: usize, number: usize) -> Message {
    Message::new(TOPIC, "x").with_id(format!("{writer}-{number}")).with_key(format!("key {writer}"))
}

/// Writes in batches of two, and wants all of it written.
fn write(broker: &MemoryBroker, writer: usize, count: usize) -> JoinHandle<()> {
    let handle = broker.writer();
    thread::spawn(move || {
        let numbers: Vec<usize> = (0..count).collect();
        for batch in numbers.chunks(2) {
            let batch = batch.iter().map(|number| message(writer, *number)).collect();
            let written = block_on(handle.write(batch)).and_then(millstream_core::WriteReport::into_result);
            assert!(written.is_ok(), "{written:?}");
        }
    })
}

/// What was handled, by its key, in order.
type Handled = Arc<std::sync::Mutex<BTreeMap<String, Vec<String>>>>;

fn note(handled: &Handled, delivery: &Delivery) {
    let key = String::from_utf8_lossy(delivery.message.key.as_deref().unwrap_or_default()).into_owned();
    if let Ok(mut handled) = handled.lock() {
        handled.entry(key).or_default().push(delivery.message.id.to_string());
    }
}

fn count(handled: &Handled) -> usize {
    handled.lock().map_or(0, |handled| handled.values().map(Vec::len).sum())
}

/// Whether a member gives back the first that it gets.
#[derive(PartialEq, Eq)]
enum First {
    Handled,
    GivenBack,
}

/// Handles until so many are handled by all together; then ends the broker, so that the others stop waiting.
fn work(broker: &MemoryBroker, handled: &Handled, all: usize, first: First) -> JoinHandle<()> {
    let (broker, handled) = (broker.clone(), Arc::clone(handled));
    let (mut source, mut settler) = block_on(open(&broker, request()));
    thread::spawn(move || {
        block_on(async {
            let mut gives_back = first == First::GivenBack;
            loop {
                let mut into = Vec::new();
                match source.read(&mut into, ReadLimits::new(2, usize::MAX)).await {
                    Ok(Read::Deliveries) => {}
                    Ok(Read::End) => return,
                    other => panic!("{other:?}"),
                }
                let give = std::mem::take(&mut gives_back);
                let batch = into.into_iter().map(|delivery| {
                    if give {
                        return Settlement::new(delivery.token, Verdict::Release);
                    }
                    note(&handled, &delivery);
                    Settlement::ack(delivery.token)
                });
                let settled = settler.settle(batch.collect()).await;
                assert!(settled.iter().all(Settled::is_done), "{settled:?}");
                if count(&handled) == all {
                    broker.shutdown();
                }
            }
        });
    })
}

fn all_once_and_in_order(handled: &Handled, writers: usize, count: usize) {
    let Ok(handled) = handled.lock() else { panic!("a thread panicked") };
    for writer in 0..writers {
        let expected: Vec<_> = (0..count).map(|number| format!("{writer}-{number}")).collect();
        assert_eq!(handled.get(&format!("key {writer}")), Some(&expected));
    }
}

fn join(threads: Vec<JoinHandle<()>>) {
    threads.into_iter().for_each(|thread| assert!(thread.join().is_ok()));
}

/// Two writers and two members on a topic that holds two messages: all wait for each other all the time.
fn a_small_topic_loses_nothing_and_wakes_all() {
    let broker = MemoryBroker::builder().capacity(2).build();
    let handled = Handled::default();
    let mut threads =
        vec![work(&broker, &handled, 6, First::GivenBack), work(&broker, &handled, 6, First::Handled)];
    threads.extend((0..2).map(|writer| write(&broker, writer, 3)));
    join(threads);
    all_once_and_in_order(&handled, 2, 3);
}

/// A member leaves with messages unsettled while another waits for something to do.
fn what_a_member_leaves_wakes_another() {
    let broker = MemoryBroker::builder().capacity(8).build();
    let handled = Handled::default();
    let (mut source, settler) = block_on(open(&broker, request()));
    join(vec![write(&broker, 0, 2)]);
    let mut held = Vec::new();
    assert!(block_on(source.read(&mut held, ReadLimits::new(2, usize::MAX))).is_ok());
    let waiting = work(&broker, &handled, 2, First::Handled);
    let leaving = thread::spawn(move || drop((source, settler, held)));
    join(vec![waiting, leaving]);
    all_once_and_in_order(&handled, 1, 2);
}

/// One member gets all of an exclusive group, and the next one takes over when it goes.
fn an_exclusive_group_goes_on_with_the_next() {
    let broker = MemoryBroker::builder().capacity(8).build();
    let handled = Handled::default();
    let mut request = request();
    request.exclusivity = Exclusivity::Exclusive;
    let members: Vec<_> = (0..2)
        .map(|_| {
            let (broker, handled, request) = (broker.clone(), Arc::clone(&handled), request.clone());
            thread::spawn(move || {
                block_on(async {
                    let (mut source, mut settler) = open(&broker, request).await;
                    let mut into = Vec::new();
                    // Each handles one message, and goes.
                    match source.read(&mut into, ReadLimits::new(1, usize::MAX)).await {
                        Ok(Read::Deliveries) => {}
                        other => panic!("{other:?}"),
                    }
                    for delivery in into {
                        note(&handled, &delivery);
                        assert!(settler.settle(vec![Settlement::ack(delivery.token)]).await[0].is_done());
                    }
                });
            })
        })
        .collect();
    let writing = write(&broker, 0, 2);
    join(members);
    join(vec![writing]);
    all_once_and_in_order(&handled, 1, 2);
}

/// Closing waits for what is under way; what comes after it is refused; nothing is half.
fn a_writer_is_closed_while_others_write() {
    let broker = MemoryBroker::builder().capacity(8).build();
    let writer = broker.writer();
    // So that one without waiting finds the topic.
    join(vec![write(&broker, 9, 1)]);
    let at_once = thread::spawn({
        let writer: MemoryWriter = writer.clone();
        move || match writer.write_now(Arc::new(message(1, 0))) {
            WriteNow::Done(outcome) => u64::from(outcome.is_written()),
            WriteNow::Later(_) => 0,
        }
    });
    let in_a_batch = thread::spawn({
        let writer: MemoryWriter = writer.clone();
        move || match block_on(writer.write(vec![message(0, 0), message(0, 1)])) {
            Ok(report) => {
                assert!(report.is_all_written());
                2
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::BusIsShutdown);
                0
            }
        }
    });
    assert!(block_on(writer.close()).is_ok());
    let admin: MemoryAdmin = broker.admin();
    let held =
        || block_on(millstream_core::Admin::topics(&admin)).map_or(0, |t| t.iter().map(|t| t.messages).sum());
    let at_close: u64 = held();
    let written = 1 + at_once.join().unwrap_or_default() + in_a_batch.join().unwrap_or_default();
    assert_eq!((at_close, held()), (written, written), "something was written after it was closed");
}

/// A topic that two make at once is one topic.
fn a_topic_is_made_once() {
    let broker = MemoryBroker::builder().capacity(8).build();
    let reader: MemoryReader = broker.reader();
    let opening = thread::spawn(move || drop(block_on(reader.open(request()))));
    join(vec![write(&broker, 0, 1), write(&broker, 1, 1), opening]);
    let topics = block_on(millstream_core::Admin::topics(&broker.admin()));
    assert!(matches!(topics.as_deref(), Ok([one]) if one.messages == 2), "{topics:?}");
}

fn main() {
    explore("memory: a small topic loses nothing and wakes all", a_small_topic_loses_nothing_and_wakes_all);
    explore("memory: what a member leaves wakes another", what_a_member_leaves_wakes_another);
    explore("memory: an exclusive group goes on with the next", an_exclusive_group_goes_on_with_the_next);
    explore("memory: a writer is closed while others write", a_writer_is_closed_while_others_write);
    explore("memory: a topic is made once", a_topic_is_made_once);
}
