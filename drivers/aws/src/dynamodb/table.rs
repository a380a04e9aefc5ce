//! The table: looked at, and made if it is not there.

use std::time::Duration;

use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::create_table::CreateTableError;
use aws_sdk_dynamodb::operation::describe_table::DescribeTableError;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType, TableDescription,
    TableStatus, TimeToLiveSpecification, TimeToLiveStatus,
};
use millstream_core::{Error, ErrorKind, Result};
use tokio::time::{Instant, sleep};

use super::client::Table;
use super::item::{EXPIRES, GROUP, ID};
use crate::create::Create;

/// How long a table may take to be made. It usually takes ten seconds.
const MADE_WITHIN: Duration = Duration::from_secs(120);

impl Table {
    /// Sees that the table is there and is one of these; says whether it was made now.
    pub(super) async fn ensure(&self, create: Create) -> Result<bool> {
        if create == Create::Assume {
            return Ok(false);
        }
        let found = self.describe().await?;
        if let Some(table) = &found {
            self.check(table)?;
        } else if create == Create::Never {
            return Err(Error::new(ErrorKind::NotFound, format!("the table {:?} is not there", self.name))
                .fix("make it with `ensure_table`, and check region and account"));
        } else {
            self.make().await?;
        }
        self.active().await?;
        self.forgets(create).await?;
        Ok(found.is_none())
    }

    async fn describe(&self) -> Result<Option<TableDescription>> {
        let described = self.ask("the table cannot be looked at", |client| async move {
            match client.describe_table().table_name(&self.name).send().await {
                Ok(answer) => Ok(answer.table),
                Err(SdkError::ServiceError(answer)) => match answer.err() {
                    DescribeTableError::ResourceNotFoundException(_) => Ok(None),
                    _ => Err(SdkError::ServiceError(answer)),
                },
                Err(error) => Err(error),
            }
        });
        described.await
    }

    /// Whether its key is ours and the Go toolkit's.
    fn check(&self, table: &TableDescription) -> Result<()> {
        let wanted = [(GROUP, KeyType::Hash), (ID, KeyType::Range)];
        let key: Vec<_> =
            table.key_schema().iter().map(|part| (part.attribute_name(), part.key_type().clone())).collect();
        if key.len() == wanted.len() && wanted.iter().all(|part| key.contains(part)) {
            return Ok(());
        }
        let names: Vec<_> = key.iter().map(|(name, _)| *name).collect();
        Err(Error::new(
            ErrorKind::InvalidConfig,
            format!("the table {:?} has the key {}", self.name, names.join(", ")),
        )
        .fix(format!(
            "name another, or make it with the partition key {GROUP} and the sort key {ID}, both strings"
        )))
    }

    async fn make(&self) -> Result<()> {
        let attribute = |name: &str| {
            AttributeDefinition::builder().attribute_name(name).attribute_type(ScalarAttributeType::S).build()
        };
        let part = |name: &str, kind: KeyType| {
            KeySchemaElement::builder().attribute_name(name).key_type(kind).build()
        };
        self.ask("the table was not made", |client| async move {
            let failed = SdkError::construction_failure;
            let made = client
                .create_table()
                .table_name(&self.name)
                .billing_mode(BillingMode::PayPerRequest)
                .attribute_definitions(attribute(GROUP).map_err(failed)?)
                .attribute_definitions(attribute(ID).map_err(SdkError::construction_failure)?)
                .key_schema(part(GROUP, KeyType::Hash).map_err(SdkError::construction_failure)?)
                .key_schema(part(ID, KeyType::Range).map_err(SdkError::construction_failure)?)
                .send()
                .await;
            match made {
                Ok(_) => Ok(()),
                Err(SdkError::ServiceError(answer)) => match answer.err() {
                    // Somebody else was quicker.
                    CreateTableError::ResourceInUseException(_) => Ok(()),
                    _ => Err(SdkError::ServiceError(answer)),
                },
                Err(error) => Err(error),
            }
        })
        .await
    }

    async fn active(&self) -> Result<()> {
        let until = Instant::now() + MADE_WITHIN;
        loop {
            let found = self.describe().await?;
            if let Some(table) = &found
                && matches!(table.table_status(), Some(TableStatus::Active | TableStatus::Updating))
            {
                return self.check(table);
            }
            if Instant::now() > until {
                return Err(Error::new(
                    ErrorKind::Timeout,
                    format!("the table {:?} is still being made", self.name),
                )
                .fix("wait, and see the console of DynamoDB"));
            }
            sleep(Duration::from_millis(500)).await;
        }
    }

    /// Sees that DynamoDB deletes what is forgotten. Without it the table grows; what it says is right all the same.
    async fn forgets(&self, create: Create) -> Result<()> {
        let described = self.ask("the table's time to live cannot be looked at", |client| async move {
            client.describe_time_to_live().table_name(&self.name).send().await
        });
        let found = described.await?.time_to_live_description;
        let is_on = found.is_some_and(|ttl| {
            ttl.attribute_name() == Some(EXPIRES)
                && matches!(
                    ttl.time_to_live_status(),
                    Some(TimeToLiveStatus::Enabled | TimeToLiveStatus::Enabling)
                )
        });
        if is_on {
            return Ok(());
        }
        if create == Create::Never {
            tracing::warn!(
                table = self.name,
                "nothing deletes what this table has forgotten: turn its time to live on, by {EXPIRES}"
            );
            return Ok(());
        }
        self.ask("the table's time to live cannot be turned on", |client| async move {
            let by = TimeToLiveSpecification::builder().enabled(true).attribute_name(EXPIRES).build();
            client
                .update_time_to_live()
                .table_name(&self.name)
                .time_to_live_specification(by.map_err(SdkError::construction_failure)?)
                .send()
                .await
        })
        .await
        .map(drop)
    }
}
