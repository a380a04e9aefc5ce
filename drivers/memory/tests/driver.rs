//! `memory://` by its URL.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod common;

use common::*;
use millstream_core::erased::DynSource;
use millstream_core::{Connection, Endpoint, ErrorKind, Order, Result};
use millstream_memory::{MemoryBroker, driver};

async fn connect(url: &str) -> Result<Connection> {
    driver().connect(Endpoint::parse(url)?).await
}

async fn reads(connection: &Connection) -> bool {
    let mut opened = connection.reader.open(request()).await.unwrap();
    let mut into = Vec::new();
    at_once(DynSource::read(&mut *opened.source, &mut into, limits(1))).await.is_some()
}

#[tokio::test]
async fn brokers_of_one_name_are_one_and_nameless_ones_are_not() {
    let (a, b) =
        (connect("memory://driver-test").await.unwrap(), connect("memory://driver-test").await.unwrap());
    let (c, d) = (connect("memory://").await.unwrap(), connect("memory://").await.unwrap());

    for connection in [&a, &c] {
        connection.writer.write(vec![message("1")]).await.unwrap().into_result().unwrap();
    }

    assert!(reads(&b).await);
    assert!(reads(&c).await);
    assert!(!reads(&d).await);
    assert_eq!(a.reader.capabilities().order, Order::Total);
    assert!(a.admin.is_some());
}

#[tokio::test]
async fn a_named_broker_outlives_its_connections_and_ends_with_a_shutdown() {
    let first = connect("memory://outlives").await.unwrap();
    first.writer.write(vec![message("1")]).await.unwrap().into_result().unwrap();
    drop(first);
    assert!(reads(&connect("memory://outlives").await.unwrap()).await);

    MemoryBroker::named("outlives").shutdown();

    assert!(!reads(&connect("memory://outlives").await.unwrap()).await, "the name is free again");
}

#[tokio::test]
async fn bounds_come_from_the_url() {
    let connection = connect("memory://?capacity=1&bytes=4").await.unwrap();

    let report = connection.writer.write(vec![message("1"), message("2")]).await.unwrap();

    assert_eq!(outcomes(report), [true, false]);
    assert_eq!(connection.writer.capabilities().max_message, Some(4));
}

#[tokio::test]
async fn a_wrong_url_says_what_is_wrong() {
    for url in [
        "memory://?size=1",
        "memory://?capacity=many",
        "memory://?capacity=0",
        "memory://user@name",
        "memory://name/path",
    ] {
        let error = connect(url).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{url}: {error}");
        assert!(error.context().fix.is_some(), "{url}");
    }
}

#[tokio::test]
async fn bounds_that_contradict_a_named_broker_are_refused() {
    connect("memory://bounded?capacity=10").await.unwrap();

    connect("memory://bounded").await.unwrap();
    connect("memory://bounded?capacity=10").await.unwrap();
    let error = connect("memory://bounded?capacity=11").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
}
