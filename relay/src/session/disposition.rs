//! Two tables: what the relay does about an error of PostgreSQL, and about a record that Kafka refused.

use std::error::Error;

use outbox_postgres_link::tls::error::TlsError;
use rdkafka::types::RDKafkaErrorCode;

use super::{End, end::chain};

/// What an SQLSTATE asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// The server shuts down or is not up yet: let go, come back.
    ServerGoing,
    /// Try again: a network, a restart, a limit that may pass.
    Reconnect,
    /// Somebody else holds what we need: wait for it.
    Wait,
    /// The password is refused: that mends itself only where it is being changed.
    LogIn,
    /// Waiting mends nothing: say it and stop.
    Halt,
}

/// The table, by SQLSTATE; codes in two letters stand for their class. What is in neither list is tried
/// again, visibly: an error nobody thought of must neither stop a relay for good nor be hidden.
const BY_CODE: &[(&str, Disposition)] = &[
    // Operator intervention.
    ("57P01", Disposition::ServerGoing), // admin_shutdown
    ("57P02", Disposition::ServerGoing), // crash_shutdown
    ("57P03", Disposition::ServerGoing), // cannot_connect_now
    ("57P04", Disposition::Halt),        // database_dropped
    ("55006", Disposition::Wait),        // object_in_use: the slot is active for another backend
    ("55000", Disposition::Halt),        // object_not_in_prerequisite_state: slot invalidated, wal_level
    ("53", Disposition::Reconnect),      // insufficient resources, too many connections
    ("08", Disposition::Reconnect),      // connection exceptions
    ("28P01", Disposition::LogIn),       // invalid_password
    ("28", Disposition::Halt),           // authentication: permanent
    ("3D", Disposition::Halt),           // no such database
    ("42", Disposition::Halt),           // rights, missing objects, wrong names
    ("0A", Disposition::Halt),           // not supported
    ("22", Disposition::Halt),           // data exceptions: a value we sent
];

/// The disposition of an SQLSTATE.
pub fn of_sqlstate(code: &str) -> Disposition {
    let exact = BY_CODE.iter().find(|(known, _)| *known == code);
    let class = || BY_CODE.iter().find(|(known, _)| known.len() == 2 && code.starts_with(known));
    exact.or_else(class).map_or(Disposition::Reconnect, |(_, disposition)| *disposition)
}

/// What a delivery report that failed asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The record itself, or its topic as it is set up: sending it again finds the same. Quarantine.
    TheRecord,
    /// The record's time: behind the topic's retention or too far ahead. So has every record beside it: halt.
    ItsTime,
    /// A right that was taken away and may be given back: waited for, visibly.
    TheRight,
    /// The producer or the cluster: a new session sends it again.
    TheProducer,
}

/// The table, by Kafka's and librdkafka's codes. What is not listed is the producer's trouble and is
/// tried again, visibly: broker trouble is never quarantine.
const REFUSALS: &[(RDKafkaErrorCode, Refused)] = &[
    (RDKafkaErrorCode::MessageSizeTooLarge, Refused::TheRecord),
    (RDKafkaErrorCode::MessageBatchTooLarge, Refused::TheRecord),
    (RDKafkaErrorCode::InvalidMessage, Refused::TheRecord),
    (RDKafkaErrorCode::InvalidMessageSize, Refused::TheRecord),
    (RDKafkaErrorCode::InvalidRecord, Refused::TheRecord),
    (RDKafkaErrorCode::InvalidTopic, Refused::TheRecord),
    (RDKafkaErrorCode::PolicyViolation, Refused::TheRecord),
    (RDKafkaErrorCode::UnsupportedForMessageFormat, Refused::TheRecord),
    (RDKafkaErrorCode::InvalidTimestamp, Refused::ItsTime),
    (RDKafkaErrorCode::TopicAuthorizationFailed, Refused::TheRight),
    (RDKafkaErrorCode::ClusterAuthorizationFailed, Refused::TheRight),
    (RDKafkaErrorCode::TransactionalIdAuthorizationFailed, Refused::TheRight),
    // The topic was made anew with fewer partitions: the next session's look at it says so.
    (RDKafkaErrorCode::UnknownPartition, Refused::TheProducer),
];

/// The disposition of a refusal.
pub fn of_kafka(code: RDKafkaErrorCode) -> Refused {
    REFUSALS.iter().find(|(known, _)| *known == code).map_or(Refused::TheProducer, |(_, refused)| *refused)
}

/// What to do besides reading the server's own words.
fn advice(code: &str) -> &'static str {
    match code {
        "28P01" => "; check user and password of source.url, and pg_hba.conf",
        "28000" => {
            "; check user, password and sslmode of source.url against pg_hba.conf, and sslcert and sslkey where it asks for \
             a certificate"
        }
        "42501" => "; run `outbox-relay init` again as an owner of the table to grant what is missing",
        "42704" => "; slot and publication are made by `outbox-relay init`",
        "42P01" | "3F000" => "; the outbox table is made by `outbox-relay init`",
        "3D000" => "; check the database in source.url",
        "53400" | "53300" => "; raise max_replication_slots, max_wal_senders or max_connections if it stays",
        _ => "",
    }
}

/// The end of a session on which the server answered with this SQLSTATE.
pub fn end_of_state(code: Option<&str>, sentence: String) -> End {
    let Some(code) = code else { return End::Reconnect(sentence) };
    let known = if sentence.contains(code) { String::new() } else { format!(" (SQLSTATE {code})") };
    let sentence = format!("{sentence}{known}{}", advice(code));
    match of_sqlstate(code) {
        Disposition::ServerGoing => End::ServerGoing(sentence),
        Disposition::Reconnect => End::Reconnect(sentence),
        Disposition::Wait => End::Standby(sentence),
        Disposition::LogIn => End::LogIn(sentence),
        Disposition::Halt => End::Halt(sentence),
    }
}

/// The end of a session whose SQL connection answered with an error or was lost.
pub fn sql_end(error: &tokio_postgres::Error, doing: &str) -> End {
    let refused = error.source().and_then(|cause| cause.downcast_ref::<TlsError>());
    if refused.is_some_and(TlsError::is_permanent) {
        return End::Distrust(format!("{doing}: {}", chain(error)));
    }
    let code = error.code().map(tokio_postgres::error::SqlState::code);
    end_of_state(code, format!("{doing}: {}", chain(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authentication_is_permanent_and_the_network_is_not() {
        assert_eq!(of_sqlstate("28P01"), Disposition::LogIn);
        assert_eq!(of_sqlstate("28000"), Disposition::Halt);
        assert_eq!(of_sqlstate("08006"), Disposition::Reconnect);
        assert_eq!(end_of_state(None, "connection reset".into()), End::Reconnect("connection reset".into()));
    }

    #[test]
    fn a_shutdown_is_let_go_of_and_a_held_slot_is_waited_for() {
        assert_eq!(of_sqlstate("57P01"), Disposition::ServerGoing);
        assert_eq!(of_sqlstate("57P03"), Disposition::ServerGoing);
        assert_eq!(of_sqlstate("55006"), Disposition::Wait);
        assert_eq!(of_sqlstate("55000"), Disposition::Halt);
    }

    #[test]
    fn a_halt_says_what_to_do() {
        let End::Halt(sentence) = end_of_state(Some("42501"), "reading the table".into()) else {
            panic!("not a halt")
        };
        assert!(sentence.contains("SQLSTATE 42501") && sentence.contains("outbox-relay init"), "{sentence}");
    }

    #[test]
    fn a_record_too_large_is_refused_and_a_lost_sequence_is_the_producers() {
        assert_eq!(of_kafka(RDKafkaErrorCode::MessageSizeTooLarge), Refused::TheRecord);
        assert_eq!(of_kafka(RDKafkaErrorCode::TopicAuthorizationFailed), Refused::TheRight);
        assert_eq!(of_kafka(RDKafkaErrorCode::InvalidTimestamp), Refused::ItsTime);
        assert_eq!(of_kafka(RDKafkaErrorCode::OutOfOrderSequenceNumber), Refused::TheProducer);
        assert_eq!(of_kafka(RDKafkaErrorCode::UnknownTopicOrPartition), Refused::TheProducer);
    }

    #[test]
    fn what_nobody_thought_of_is_tried_again() {
        assert_eq!(of_sqlstate("XX000"), Disposition::Reconnect);
    }
}
