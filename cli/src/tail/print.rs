//! A message as a line: for people with tabs between its parts, for programs as JSON.

use millstream::Result;
use millstream::core::Delivery;
use serde::Serialize;

use crate::failed::Form;
use crate::output::{Out, Printed};
use crate::text;
use crate::wire::Wire;

/// Prints messages.
#[derive(Debug)]
pub(crate) struct Printer {
    form: Form,
    partitions: bool,
}

/// The document of a message.
#[derive(Serialize)]
struct Document<'a> {
    #[serde(flatten)]
    message: Wire<'a>,
    position: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    partition: Option<u32>,
}

impl Printer {
    /// With partitions, a position is one of its partition.
    pub(crate) fn new(form: Form, partitions: bool) -> Self {
        Self { form, partitions }
    }

    pub(crate) fn print(&mut self, delivery: &Delivery, out: &mut Out<'_>) -> Result<Printed> {
        let origin = delivery.origin();
        let partition = self.partitions.then_some(origin.partition.0);
        match self.form {
            Form::Json => out.json(&Document {
                message: Wire::from(&*delivery.message),
                position: origin.position.map(|position| position.0),
                partition,
            }),
            Form::Text => out.line(&line(delivery, partition)),
        }
    }
}

fn line(delivery: &Delivery, partition: Option<u32>) -> String {
    let message = &delivery.message;
    let position = match (delivery.position, partition) {
        (Some(position), Some(partition)) => format!("{partition}/{position}"),
        (Some(position), None) => position.to_string(),
        (None, _) => "-".to_owned(),
    };
    let key = message.key.as_deref().map_or_else(|| "-".to_owned(), text::line);
    let payload = message.data.as_deref().map_or_else(|| "(tombstone)".to_owned(), text::line);
    format!("{position}\t{}\t{key}\t{payload}", text::time(message.time))
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use millstream::Message;
    use millstream::core::{Epoch, PartitionId, Position, Token};

    use super::*;

    fn delivery(message: Message) -> Delivery {
        Delivery::new(message.with_time(UNIX_EPOCH), Token::new(PartitionId(2), Epoch(0), 42))
            .at(Position(42))
    }

    #[test]
    fn a_line_has_four_parts_whatever_the_message_holds() {
        let keyed = delivery(Message::new("t", "{\"a\":\n1}").with_key("a\tb"));
        assert_eq!(line(&keyed, None), "42\t1970-01-01T00:00:00.000Z\ta\\tb\t{\"a\":\\n1}");
        let bare = delivery(Message::tombstone("t"));
        assert_eq!(line(&bare, Some(2)), "2/42\t1970-01-01T00:00:00.000Z\t-\t(tombstone)");
    }

    #[test]
    fn the_document_of_a_message_has_its_position() {
        let mut text = Vec::new();
        let mut out = Out::to(&mut text);
        let mut printer = Printer::new(Form::Json, false);
        printer.print(&delivery(Message::new("t", "hi").with_id("7")), &mut out).unwrap();
        drop(out);
        let document: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!((&document["position"], &document["data"]), (&42.into(), &"aGk=".into()));
        assert_eq!(document.get("partition"), None);
    }
}
