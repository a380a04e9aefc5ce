//! What librdkafka and brokers say, as errors that name their meaning and the fix.

use millstream_core::{Error, ErrorKind};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode as Code;

/// What an error code means to a program.
pub(crate) fn kind_of(code: Code) -> ErrorKind {
    match code {
        Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition | Code::UnknownGroup => {
            ErrorKind::NotFound
        }
        Code::MessageSizeTooLarge | Code::InvalidMessageSize => ErrorKind::TooLarge,
        Code::Authentication
        | Code::SaslAuthenticationFailed
        | Code::UnsupportedSASLMechanism
        | Code::IllegalSASLState
        | Code::TopicAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::TransactionalIdAuthorizationFailed => ErrorKind::Denied,
        Code::OperationTimedOut | Code::RequestTimedOut | Code::MessageTimedOut => ErrorKind::Timeout,
        Code::IllegalGeneration
        | Code::UnknownMemberId
        | Code::FencedInstanceId
        | Code::FencedMemberEpoch
        | Code::StaleMemberEpoch
        | Code::AssignmentLost => ErrorKind::LeaseLost,
        Code::TopicAlreadyExists | Code::NonEmptyGroup => ErrorKind::Conflict,
        Code::InvalidTopic
        | Code::InvalidPartitions
        | Code::InvalidReplicationFactor
        | Code::InvalidConfig
        | Code::InvalidArgument
        | Code::PolicyViolation => ErrorKind::InvalidConfig,
        Code::QueueFull => ErrorKind::Full,
        Code::InvalidRecord | Code::InvalidTimestamp => ErrorKind::InvalidMessage,
        Code::Fatal | Code::Fail | Code::InvalidRequest => ErrorKind::Internal,
        // Whatever else a broker or a connection says passes: elections, restarts, coordinators that load.
        _ => ErrorKind::Unavailable,
    }
}

/// What to do about an error of this kind.
fn fix_of(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::NotFound => "make the topic first, or leave `create` at missing in the URL",
        ErrorKind::TooLarge => {
            "send less, or raise max.message.bytes of the topic and max_message in the URL"
        }
        ErrorKind::Denied => "check the rights of this user on the cluster",
        ErrorKind::Timeout | ErrorKind::Unavailable => {
            "check that the brokers run, and that the addresses they advertise can be reached from here"
        }
        ErrorKind::LeaseLost => "nothing: the partition went to another member, which gets the message again",
        ErrorKind::Conflict => "stop the members of the group first, or use another name",
        ErrorKind::Full => "write less at once",
        _ => "see the broker's log for the reason",
    }
}

/// The code of an error. The client library keeps that of a question of administration to itself.
pub(crate) fn code_of(error: &KafkaError) -> Option<Code> {
    match error {
        KafkaError::AdminOp(code) => Some(*code),
        _ => error.rdkafka_error_code(),
    }
}

/// An error of a call, with what was tried.
pub(crate) fn of(error: &KafkaError, what: &str) -> Error {
    let kind = code_of(error).map_or(ErrorKind::Internal, kind_of);
    Error::new(kind, format!("{what}: {error}")).fix(fix_of(kind))
}

/// Settings that a client did not take. What was set is not repeated: it may be a password.
pub(crate) fn settings(error: &KafkaError, what: &str) -> Error {
    let why = match error {
        KafkaError::ClientConfig(_, why, name, _) => format!("{name}: {why}"),
        KafkaError::ClientCreation(why) => why.clone(),
        other => return of(other, what),
    };
    Error::new(ErrorKind::InvalidConfig, format!("{what}: {why}"))
        .fix("check the values, and that the files of ca, cert and key belong together and key_password opens the key")
}

/// An error of a code alone.
pub(crate) fn of_code(code: Code, what: &str) -> Error {
    let kind = kind_of(code);
    Error::new(kind, format!("{what}: {code}")).fix(fix_of(kind))
}

/// A blocking task that did not come back.
pub(crate) fn broken(error: &tokio::task::JoinError) -> Error {
    Error::new(ErrorKind::Internal, format!("a task of the kafka driver broke: {error}"))
        .fix("report it; the subscription reads again")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_that_was_refused_is_named_without_its_value() {
        let error = KafkaError::ClientConfig(
            rdkafka::types::RDKafkaConfRes::RD_KAFKA_CONF_INVALID,
            "no".to_owned(),
            "sasl.password".to_owned(),
            "battery".to_owned(),
        );
        let error = settings(&error, "refused");
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        let error = format!("{error} {error:?}");
        assert!(error.contains("sasl.password: no") && !error.contains("battery"), "{error}");
    }

    #[test]
    fn a_question_of_administration_that_was_not_answered_in_time_can_be_asked_again() {
        let error = of(&KafkaError::AdminOp(Code::OperationTimedOut), "the topic was not made");
        assert!(error.kind() == ErrorKind::Timeout && error.is_retryable(), "{error}");
        assert!(error.to_string().contains("check that the brokers run"), "{error}");
    }

    #[test]
    fn what_passes_can_be_tried_again_and_what_does_not_cannot() {
        for passes in [Code::BrokerTransportFailure, Code::NotCoordinator, Code::RebalanceInProgress] {
            assert!(kind_of(passes).is_retryable(), "{passes}");
        }
        for stays in [Code::TopicAuthorizationFailed, Code::UnknownTopicOrPartition, Code::InvalidTopic] {
            assert!(!kind_of(stays).is_retryable(), "{stays}");
        }
    }
}
