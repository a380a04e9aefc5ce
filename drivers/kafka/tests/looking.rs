//! Looking at one topic and one group costs the same in a cluster of any size, and tells what looking at all does.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use millstream_core::{
    Admin as _, ErrorKind, Message, OpenRequest, Read, ReadLimits, Reader as _, Source as _, Writer as _,
};
use millstream_kafka::{Create, Kafka, PARTITION};
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio::time::timeout;

use self::common::{PATIENCE, broker, topic, unique};

const PARTITIONS: u32 = 12;

/// One of these tests counts the clients of this process: no other may start any meanwhile.
static ALONE: Mutex<()> = Mutex::const_new(());

/// Joins once and leaves, having read nothing: its positions are where it started.
async fn joined_once(kafka: &Kafka, topic: &str, group: &str) {
    let request = OpenRequest::new(topic.to_owned()).group(group.to_owned());
    let mut source = kafka.reader().open(request).await.unwrap().source;
    let mut none = Vec::new();
    let assigned = timeout(PATIENCE, source.read(&mut none, ReadLimits::NOTHING)).await.unwrap().unwrap();
    assert!(matches!(assigned, Read::Assigned(_)), "{assigned:?}");
    source.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_oldest_unread_message_of_all_partitions_is_found_at_once() {
    let _alone = ALONE.lock().await;
    // Given partitions with batches of a MiB each, where the oldest message lies in the seventh.
    let kafka = Kafka::builder(broker()).connect().await.unwrap();
    let topic = topic(&kafka, "ages", PARTITIONS).await;
    let group = unique("ages-group");
    let now = SystemTime::now();
    let age = |partition: u32| Duration::from_secs(if partition == 7 { 3_600 } else { 60 });
    let messages = (0..PARTITIONS).flat_map(|partition| {
        let bytes: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(4_096).collect();
        let message = Message::new(topic.clone(), bytes).with_header(PARTITION, partition.to_string());
        let written = move |_| Message { time: now - age(partition), ..message.clone() };
        (0..300).map(written).collect::<Vec<_>>()
    });
    kafka.writer().write(messages.collect()).await.unwrap().into_result().unwrap();
    joined_once(&kafka, &topic, &group).await;
    // When the group is looked at.
    let info = kafka.admin().group(&topic, &group).await.unwrap().unwrap();
    // Then its age is that of the oldest, to the millisecond that Kafka keeps.
    let oldest = info.oldest.unwrap();
    assert!(now.duration_since(oldest).unwrap().abs_diff(age(7)) < Duration::from_millis(2), "{info:?}");
    assert_eq!(info.lag, u64::from(PARTITIONS) * 300);
    // And so it is the next time, with the client that was kept; and for who looks at all groups.
    assert_eq!(kafka.admin().group(&topic, &group).await.unwrap().as_ref(), Some(&info));
    assert_eq!(kafka.admin().groups(&topic).await.unwrap(), [info]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_there_is_told_from_what_nobody_reads() {
    let _alone = ALONE.lock().await;
    let kafka = Kafka::builder(broker()).create(Create::Never).connect().await.unwrap();
    let (absent, nobody) = (unique("absent"), unique("nobody"));
    assert_eq!(kafka.admin().topic(&absent).await.unwrap(), None);
    let error = kafka.admin().group(&absent, &nobody).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    let topic = topic(&Kafka::builder(broker()).connect().await.unwrap(), "unread", 3).await;
    assert_eq!(kafka.admin().group(&topic, &nobody).await.unwrap(), None);
    assert_eq!(kafka.admin().topic(&topic).await.unwrap().unwrap().partitions, 3);
}

/// Each subscription looks at its own group every few seconds.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_looks_at_one_group_starts_no_client_for_the_others() {
    let _alone = ALONE.lock().await;
    // Given many groups.
    let kafka = Kafka::builder(broker()).connect().await.unwrap();
    let topic = topic(&kafka, "crowd", 2).await;
    kafka.writer().write(vec![Message::new(topic.clone(), "x")]).await.unwrap().into_result().unwrap();
    let groups: Vec<String> = (0..16).map(|_| unique("crowd-group")).collect();
    for group in &groups {
        joined_once(&kafka, &topic, group).await;
    }
    let first = kafka.admin().group(&topic, &groups[0]).await.unwrap().unwrap();
    assert_eq!(first.lag, 1);
    // When one of them is looked at again and again.
    let before = clients();
    let looking = AtomicBool::new(true);
    let most = std::thread::scope(|scope| {
        let watching = scope.spawn(|| {
            let mut most = 0;
            while looking.load(Ordering::Relaxed) {
                most = most.max(clients());
            }
            most
        });
        tokio::task::block_in_place(|| {
            Handle::current().block_on(async {
                for _ in 0..5 {
                    assert_eq!(kafka.admin().group(&topic, &groups[0]).await.unwrap().unwrap(), first);
                }
            });
        });
        looking.store(false, Ordering::Relaxed);
        watching.join().unwrap()
    });
    // Then that is done by clients that were there.
    assert!((1..=before).contains(&most), "{most} clients, and {before} before");
}

/// Clients of this process: each has a thread of this name.
#[cfg(target_os = "linux")]
fn clients() -> usize {
    let threads = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let name =
        |thread: std::fs::DirEntry| std::fs::read_to_string(thread.path().join("comm")).unwrap_or_default();
    threads.map(name).filter(|name| name.starts_with("rdk:main")).count()
}
