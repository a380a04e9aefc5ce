//! The arguments of a subscription, and the headers that tell a handler where its message lies: both by the names of the
//! Go toolkit *streams*.

use bytes::Bytes;
use bytestring::ByteString;
use millstream_core::{
    Assignment, Error, ErrorKind, Message, OpenRequest, PartitionId, Position, Result, Start,
};

/// The argument that names the group. It has to be the subscription's own.
pub const GROUP_ID: &str = "kafka-group-id";
/// The argument that names the one partition to read. The group then shares nothing: its progress there is kept, and no
/// other subscription of the group may read the topic.
pub const PARTITION_ID: &str = "kafka-partition-id";
/// The argument that names where a group without progress starts: an offset, `-1` for the newest or `-2` for the oldest.
pub const INIT_OFFSET: &str = "kafka-init-offset";
/// The argument that asks for the headers below: `headers`. They cost some 0.5 µs a message, so they are not there
/// otherwise.
pub const METADATA: &str = "kafka-metadata";

/// The header that names the client.
pub const HEADER_CLIENT_ID: &str = "streams-kafka-client-id";
/// The header that names the group.
pub const HEADER_GROUP_ID: &str = "streams-kafka-group-id";
/// The header that names the partition.
pub const HEADER_PARTITION_ID: &str = "streams-kafka-partition-id";
/// The header of the offset at which this member began to read the partition.
pub const HEADER_INIT_OFFSET: &str = "streams-kafka-init-offset";
/// The header of the message's own offset.
pub const HEADER_CURRENT_OFFSET: &str = "streams-kafka-current-offset";
/// The header of the partition's end, as it was at most a second or so before.
pub const HEADER_HWM_OFFSET: &str = "streams-kafka-hwm-offset";

/// What the headers say of every message of a subscription.
#[derive(Debug)]
pub(crate) struct Metadata {
    client: ByteString,
    group: ByteString,
}

/// Puts the arguments into a request's own fields; says what handlers are to be told, if anything.
///
/// # Errors
/// [`InvalidConfig`](ErrorKind::InvalidConfig) for an argument that is not known, has no sense, or contradicts the
/// subscription.
pub(crate) fn apply(request: &mut OpenRequest, client: &str) -> Result<Option<Metadata>> {
    request.args.only(&[GROUP_ID, PARTITION_ID, INIT_OFFSET, METADATA])?;
    let bad = |what: String, fix: &str| Err(Error::new(ErrorKind::InvalidConfig, what).fix(fix.to_owned()));
    let group = request.group.clone().unwrap_or_default();
    if let Some(named) = request.args.get(GROUP_ID).filter(|named| **named != *group) {
        return bad(
            format!("the argument {GROUP_ID} is {named:?}, and the subscription's group is {group:?}"),
            "name the group once, with `.group(…)`",
        );
    }
    if let Some(partition) = request.args.get(PARTITION_ID) {
        let Ok(partition) = partition.parse::<u32>() else {
            return bad(
                format!("the argument {PARTITION_ID} is {partition:?}"),
                "name a partition, from 0 on",
            );
        };
        // A park is assigned by the scheduler, and holds only what came from this partition.
        if request.assignment == Assignment::Group {
            request.assignment = Assignment::Manual(vec![PartitionId(partition)]);
        }
    }
    if let Some(offset) = request.args.get(INIT_OFFSET) {
        let start = match offset.parse::<i64>() {
            Ok(-2) => Start::Earliest,
            Ok(-1) => Start::Latest,
            Ok(at @ 0..) => Start::Position(Position(at.unsigned_abs())),
            _ => {
                return bad(
                    format!("the argument {INIT_OFFSET} is {offset:?}"),
                    "give an offset, -1 for the newest message or -2 for the oldest",
                );
            }
        };
        if !matches!(request.start, Start::Earliest) && request.start != start {
            return bad(
                format!("the argument {INIT_OFFSET} is {offset:?}, and the subscription starts elsewhere"),
                "say it once, with `.start_from(…)`",
            );
        }
        request.start = start;
    }
    match request.args.get(METADATA) {
        None => Ok(None),
        Some("headers") => Ok(Some(Metadata { client: client.into(), group })),
        Some(other) => bad(format!("the argument {METADATA} is {other:?}"), "say headers, or leave it out"),
    }
}

/// Where a message lies.
pub(crate) struct Lies {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    /// Where this member began.
    pub(crate) start: i64,
    /// One behind the newest, as far as is known.
    pub(crate) end: i64,
}

impl Metadata {
    /// Tells it in the message's headers, instead of what somebody else may have told there.
    pub(crate) fn tell(&self, message: &mut Message, lies: &Lies) {
        let number = |n: i64| Bytes::from(n.to_string());
        let headers = &mut message.headers;
        headers.insert(HEADER_CLIENT_ID, self.client.clone().into_bytes());
        headers.insert(HEADER_GROUP_ID, self.group.clone().into_bytes());
        headers.insert(HEADER_PARTITION_ID, number(lies.partition.into()));
        headers.insert(HEADER_INIT_OFFSET, number(lies.start));
        headers.insert(HEADER_CURRENT_OFFSET, number(lies.offset));
        headers.insert(HEADER_HWM_OFFSET, number(lies.end.max(lies.offset + 1)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(args: &[(&str, &str)]) -> OpenRequest {
        let mut request = OpenRequest::new("orders").group("billing");
        args.iter().for_each(|(name, value)| request.args.set(*name, *value));
        request
    }

    #[test]
    fn the_arguments_of_the_go_toolkit_say_what_the_request_says() {
        let mut wanted = request(&[(GROUP_ID, "billing"), (PARTITION_ID, "3"), (INIT_OFFSET, "42")]);
        assert!(apply(&mut wanted, "c").unwrap().is_none());
        assert_eq!(wanted.assignment, Assignment::Manual(vec![PartitionId(3)]));
        assert_eq!(wanted.start, Start::Position(Position(42)));
        for (told, start) in [("-1", Start::Latest), ("-2", Start::Earliest)] {
            let mut wanted = request(&[(INIT_OFFSET, told)]);
            apply(&mut wanted, "c").unwrap();
            assert_eq!(wanted.start, start);
        }
    }

    #[test]
    fn what_contradicts_or_has_no_sense_is_refused_with_the_fix() {
        for (args, part) in [
            ([(GROUP_ID, "other")], "name the group once"),
            ([(PARTITION_ID, "-1")], "name a partition"),
            ([(INIT_OFFSET, "-3")], "give an offset"),
            ([(METADATA, "yes")], "say headers"),
            ([("kafka-grupo", "x")], "there are: kafka-group-id"),
        ] {
            let error = apply(&mut request(&args), "c").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig);
            assert!(error.to_string().contains(part), "{error}");
        }
    }

    #[test]
    fn a_message_tells_where_it_lies() {
        let told = apply(&mut request(&[(METADATA, "headers")]), "shop").unwrap().unwrap();
        let mut message = Message::new("orders", "{}").with_header(HEADER_CURRENT_OFFSET, "somebody else's");
        told.tell(&mut message, &Lies { partition: 3, offset: 9, start: 7, end: 5 });
        let says: Vec<_> =
            message.headers.iter().map(|(_, v)| v.map(|v| v.to_vec()).unwrap_or_default()).collect();
        let says: Vec<_> = says.iter().map(|v| String::from_utf8_lossy(v)).collect();
        assert_eq!(says, ["shop", "billing", "3", "7", "9", "10"]);
    }
}
