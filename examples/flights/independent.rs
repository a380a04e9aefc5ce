//! The sums straight from the file: no Millstream, no event type, no handler.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::Sums;

/// Flights and their delays in minutes, by distance.
pub(crate) fn sums(json: &[u8]) -> Result<Sums, Box<dyn std::error::Error>> {
    let records: Vec<Value> = serde_json::from_slice(json)?;
    let mut sums: Sums = BTreeMap::new();
    for record in &records {
        let number = |name: &str| record[name].as_i64().ok_or_else(|| format!("no whole {name} in {record}"));
        let sum = sums.entry(number("distance")?).or_default();
        sum.flights += 1;
        sum.delay += number("delay")?;
    }
    Ok(sums)
}
