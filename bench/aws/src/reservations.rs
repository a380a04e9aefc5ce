//! Reserving and confirming ids in a table of DynamoDB: by the SDK alone, with the store's own conditions, and by the store.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValuesOnConditionCheckFailure as OnFailure};
use bench_harness::{Result, Stopwatch, one_thread};
use bench_load::Ages;
use futures_util::future::try_join_all;
use millstream_aws::DynamoDedupStore;
use millstream_core::{DedupKey, DedupStore as _, Reserve};
use uuid::Uuid;

use crate::Measured;
use crate::driver::aws;
use crate::load::{self, endpoint};

const SERVER: &str = "MILLSTREAM_DYNAMODB";

const WINDOW: Duration = Duration::from_secs(3_600);
const LEASE: Duration = Duration::from_secs(60);

async fn open(table: &str) -> Result<DynamoDedupStore> {
    Ok(DynamoDedupStore::builder(&aws(SERVER).await?, table, WINDOW).open().await?)
}

pub(crate) fn make(table: &str) -> Result {
    one_thread()?.block_on(async { open(table).await.map(drop) })
}

/// Goes through the ids, so many at a time; `both` reserves and confirms one.
async fn run(ids: usize, in_flight: usize, both: impl AsyncFn(String) -> Result) -> Measured {
    // The connection is there before the clock starts.
    both(Uuid::now_v7().to_string()).await?;
    let (next, ages) = (Cell::new(0), RefCell::new(Ages::new()?));
    let watch = Stopwatch::start()?;
    try_join_all((0..in_flight).map(|_| async {
        while next.get() < ids {
            let id = load::id(next.replace(next.get() + 1));
            let begun = Instant::now();
            both(id).await?;
            ages.borrow_mut().add(begun.elapsed());
        }
        Ok::<_, bench_harness::Error>(())
    }))
    .await?;
    let took = watch.stop()?;
    let latency = ages.borrow().latency();
    Ok((took, Some(latency)))
}

pub(crate) fn store(table: &str, ids: usize, in_flight: usize) -> Measured {
    let group = Uuid::now_v7().to_string();
    one_thread()?.block_on(async {
        let store = open(table).await?;
        let both = async |id: String| -> Result {
            let key = DedupKey { group: group.as_str().into(), id: id.into() };
            let Some(Reserve::Reserved(reservation)) = store.reserve(vec![key], LEASE).await?.pop() else {
                return Err("an id was not free".into());
            };
            match store.confirm(&[reservation]).await?.as_slice() {
                [true] => Ok(()),
                _ => Err("a reservation was lost".into()),
            }
        };
        run(ids, in_flight, both).await
    })
}

pub(crate) fn raw(table: &str, ids: usize, in_flight: usize) -> Measured {
    let group = Uuid::now_v7().to_string();
    one_thread()?.block_on(async {
        let client = Client::new(&crate::raw::config(endpoint(SERVER)?).await);
        let both = async |id: String| -> Result {
            let owner = Uuid::now_v7().as_u64_pair().1.to_string();
            reserve(&client, table, &group, &id, &owner).await?;
            confirm(&client, table, &group, &id, &owner).await
        };
        run(ids, in_flight, both).await
    })
}

fn text(value: impl Into<String>) -> AttributeValue {
    AttributeValue::S(value.into())
}

fn number(value: u128) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

fn key(group: &str, id: &str) -> HashMap<String, AttributeValue> {
    HashMap::from([("worker_id".to_owned(), text(group)), ("message_id".to_owned(), text(id))])
}

/// Milliseconds since 1970.
fn now() -> Result<u128> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())
}

async fn reserve(client: &Client, table: &str, group: &str, id: &str, owner: &str) -> Result {
    let now = now()?;
    let until = now + LEASE.as_millis();
    client
        .update_item()
        .table_name(table)
        .set_key(Some(key(group, id)))
        .update_expression(
            "SET lease_owner = :me, lease_until = :until, expiration_time = :forgotten REMOVE handled_by",
        )
        .condition_expression(
            "attribute_not_exists(message_id) OR lease_until <= :now OR expiration_time < :seconds",
        )
        .expression_attribute_values(":me", text(owner))
        .expression_attribute_values(":until", number(until))
        .expression_attribute_values(":forgotten", number((until + WINDOW.as_millis()) / 1_000 + 1))
        .expression_attribute_values(":now", number(now))
        .expression_attribute_values(":seconds", number(now / 1_000))
        .return_values_on_condition_check_failure(OnFailure::AllOld)
        .send()
        .await?;
    Ok(())
}

async fn confirm(client: &Client, table: &str, group: &str, id: &str, owner: &str) -> Result {
    client
        .update_item()
        .table_name(table)
        .set_key(Some(key(group, id)))
        .update_expression(
            "SET handled_by = :me, expiration_time = :forgotten REMOVE lease_owner, lease_until",
        )
        .condition_expression("lease_owner = :me OR handled_by = :me")
        .expression_attribute_values(":me", text(owner))
        .expression_attribute_values(":forgotten", number((now()? + WINDOW.as_millis()) / 1_000 + 1))
        .return_values_on_condition_check_failure(OnFailure::AllOld)
        .send()
        .await?;
    Ok(())
}
