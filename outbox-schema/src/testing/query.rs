//! The statements that read what was emitted, in the order of [`Emitted`](super::Emitted)'s fields.

macro_rules! emitted {
    ($condition:literal) => {
        concat!(
            "SELECT id, aggregatetype, aggregateid, type, schema_version, version, partition_key, ",
            "headers::text, traceparent, payload::text FROM outbox.events WHERE ",
            $condition,
            " ORDER BY seq"
        )
    };
}

/// Rows of the current transaction, those of its savepoints included.
pub(super) const EMITTED: &str = emitted!("writer = pg_current_xact_id_if_assigned()");
pub(super) const EMITTED_SINCE: &str = emitted!("seq > $1");
pub(super) const MARK: &str = "SELECT coalesce(max(seq), 0) FROM outbox.events";
